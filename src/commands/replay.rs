//! `kafka-vitals replay`: evaluates recorded snapshots again, at their own time, and serves or prints the result.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{block_on, log, print, serve, termination};
use crate::cli::{Format, LogLevel, ReplayArgs, ServeArgs};
use crate::expose::connections::Server;
use crate::expose::listen::{BindError, bind};
use crate::expose::places::{Limits, Places};
use crate::expose::server::{self, Access, Served};
use crate::model::{Clock, Moment, clock_text};
use crate::recording::Recording;
use crate::verdict::View;
use crate::verdict::evaluate::Evaluator;
use crate::verdict::finding::Diagnosis;

/// Where a browser of this host finds an exporter.
const USUAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 10052);
/// Lines come at least this often; a longer gap means that nothing was recorded.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

pub fn run(args: &ReplayArgs) -> anyhow::Result<ExitCode> {
    let source = args.file.display().to_string();
    let recording = Recording::open(&args.file).with_context(|| source.clone())?;
    let checked = |replayed: Replayed| {
        let why =
            "no line of it is a snapshot; give a file that `kafka-vitals --record FILE` wrote";
        anyhow::ensure!(
            replayed.snapshots > 0,
            "{source}: {}",
            replayed.broken.as_deref().unwrap_or(why)
        );
        Ok(replayed)
    };
    if let Some(output) = args.output {
        let replayed = checked(play(recording, f64::INFINITY, drop))?;
        print(&replayed, output, text)?;
        return Ok(ExitCode::SUCCESS);
    }
    log::to_stderr(LogLevel::Info, Format::Text);
    block_on(async {
        let termination = termination()?;
        let clock = Clock::replayed();
        let (publish, view) = watch::channel(Arc::default());
        // No evidence is saved for recorded readings.
        let (_, saved) = watch::channel(Arc::default());
        let defaults = ServeArgs::default();
        let served = Served {
            view,
            saved,
            clock,
            telemetry_path: defaults.telemetry_path.as_str().into(),
            port: None,
            answers: Arc::default(),
        };
        let access = Access {
            max_requests: defaults.max_requests,
            ..Access::default()
        };
        let server = Server {
            router: server::router(served, access),
            places: Places::new(Limits::usual(defaults.max_connections_per_address)),
            web: None,
        };
        let mut tasks = JoinSet::new();
        if args.listen.is_empty() {
            serve::spawn(&mut tasks, bind_or_any_port(USUAL).await?, &server)?;
        }
        serve::listen(&mut tasks, &args.listen, &server).await?;
        let speed = args.speed;
        let show = move |view: View| {
            clock.set(view.diagnosis.at);
            publish.send_replace(Arc::new(view));
        };
        let play = async {
            let played = tokio::task::spawn_blocking(move || play(recording, speed, show)).await;
            let Replayed {
                snapshots,
                skipped,
                broken,
                ..
            } = checked(played.context("the replay panicked")?)?;
            tracing::info!(
                snapshots,
                skipped,
                broken,
                "the recording has ended; its last view stays"
            );
            std::future::pending().await
        };
        tokio::select! {
            () = termination => Ok(ExitCode::SUCCESS),
            ended = play => ended,
            _ = tasks.join_next() => {
                anyhow::bail!("serving ended by itself; the log above says why")
            }
        }
    })?
}

/// Listens on the address, or on any port where another process uses that one.
async fn bind_or_any_port(usual: SocketAddr) -> Result<TcpListener, BindError> {
    match bind(usual).await {
        Err(error) if error.is_in_use() => {
            tracing::info!("{usual} is used by another process: the replay takes another port");
            bind(SocketAddr::new(usual.ip(), 0)).await
        }
        bound => bound,
    }
}

/// The result of a replayed recording.
#[derive(Debug, Default, Serialize)]
pub struct Replayed {
    pub snapshots: u64,
    pub skipped: u64,
    /// Why the file could not be read to its end.
    pub broken: Option<String>,
    pub from: Option<Moment>,
    #[serde(flatten)]
    pub diagnosis: Arc<Diagnosis>,
}

/// Evaluates one snapshot after the other, `speed` times as fast as they were taken, and shows each view. It blocks.
pub fn play(mut recording: Recording, speed: f64, mut show: impl FnMut(View)) -> Replayed {
    let mut evaluator = Evaluator::default();
    let mut played = Replayed::default();
    let mut before = None;
    for snapshot in recording.by_ref() {
        let now = snapshot.at;
        if let Some(before) = before.replace(now) {
            let gap: Duration = now.since(before).min(LONGEST_WAIT);
            std::thread::sleep(gap.div_f64(speed));
        }
        played.from.get_or_insert(now);
        played.snapshots += 1;
        // It has no answers to liveness probes: an old recording must not restart a broker of today.
        let view = View {
            replayed: true,
            ..View::of(&mut evaluator, Arc::new(snapshot), now)
        };
        played.diagnosis = Arc::clone(&view.diagnosis);
        show(view);
    }
    Replayed {
        skipped: recording.skipped,
        broken: recording.broken,
        ..played
    }
}

/// The timeline and the last verdicts.
pub fn text(played: &Replayed) -> String {
    let mut text = String::new();
    let diagnosis = &played.diagnosis;
    let from = played.from.unwrap_or_default();
    let (begin, end) = (clock_text(from), clock_text(diagnosis.at));
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "{} snapshots from {begin} to {end}, {} lines skipped\n",
        played.snapshots, played.skipped
    );
    if let Some(broken) = &played.broken {
        let _ = writeln!(text, "not read to its end: {broken}\n");
    }
    for event in &diagnosis.timeline {
        let _ = writeln!(
            text,
            "{}  broker {}: {}",
            clock_text(event.at),
            event.broker,
            event.change
        );
    }
    for broker in &diagnosis.brokers {
        let _ = writeln!(
            text,
            "\n{}: {} {}",
            broker.state.text(),
            broker.sentence,
            broker.remedy
        );
        for finding in &broker.findings {
            let _ = writeln!(
                text,
                "  {} since {}",
                finding.id.kind().title,
                clock_text(finding.since)
            );
            for fact in &finding.facts {
                let _ = writeln!(text, "    {fact}");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn a_replay_beside_an_exporter_takes_another_port() {
        let any = SocketAddr::new(USUAL.ip(), 0);
        let exporter = bind(any).await.unwrap();
        let taken = exporter.local_addr().unwrap();
        let other = bind_or_any_port(taken).await.unwrap().local_addr().unwrap();
        assert!(other.ip() == taken.ip() && other.port() != taken.port());
        drop(exporter);
        let free = bind_or_any_port(taken).await.unwrap().local_addr().unwrap();
        assert_eq!(free, taken);
    }
}
