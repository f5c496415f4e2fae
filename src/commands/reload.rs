//! Takes the config file and the web config file again: at SIGHUP, and when a client asks for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};

use crate::cli::ServeArgs;
use crate::config::{Config, InUse};
use crate::expose::web_config::Live;
use crate::model::{Clock, Reason};
use crate::sys::blocking_worker::BlockingWorker;
use crate::sys::systemd::{self, State};

/// A file system that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// Requests of clients.
pub(super) type Requests = mpsc::Receiver<oneshot::Sender<Result<(), String>>>;

pub(super) struct Reloader {
    pub hangups: Signal,
    pub requests: Requests,
    pub args: ServeArgs,
    pub web: Option<Arc<Live>>,
    pub settings: watch::Sender<InUse>,
    /// Whether systemd knows that the service is ready.
    pub ready: Arc<AtomicBool>,
    pub clock: Clock,
}

/// SIGHUP, which does not end the process from this call on.
pub(super) fn hangups() -> anyhow::Result<Signal> {
    signal(SignalKind::hangup()).context("cannot listen for SIGHUP")
}

impl Reloader {
    pub(super) async fn run(mut self) {
        let mut reader = BlockingWorker::reserved(());
        loop {
            let answer = tokio::select! {
                Some(()) = self.hangups.recv() => None,
                Some(answer) = self.requests.recv() => Some(answer),
                else => return std::future::pending().await,
            };
            // A service that is still starting is ready with its first round of discovery and not before.
            let is_ready = self.ready.load(Ordering::Acquire);
            if is_ready {
                systemd::notify(State::Reloading);
            }
            let result = self.take(&mut reader).await;
            if is_ready {
                systemd::notify(State::Ready);
            }
            if let Some(answer) = answer {
                // The client may have gone.
                let _ = answer.send(result);
            }
        }
    }

    /// Both files; one that cannot be used leaves in use what was before.
    async fn take(&self, reader: &mut BlockingWorker<()>) -> Result<(), String> {
        let (args, web) = (self.args.clone(), self.web.clone());
        let read = move || {
            let config = Config::load(args).map_err(|error| error.to_string());
            let web = web.map_or(Ok(()), |web| web.reload());
            (config, web.map_err(|error| error.to_string()))
        };
        let read = read_within(reader, PATIENCE, read).await;
        let (config, web) = read.unwrap_or_else(|error| (Err(error), Ok(())));
        let before = Arc::clone(&self.settings.borrow().config);
        let config = config.and_then(|config| {
            if config.evidence == before.evidence {
                Ok(config)
            } else {
                Err("config file: `evidence` is changed by a restart only".to_owned())
            }
        });
        match &config {
            Ok(_) => tracing::info!("the settings were taken again"),
            Err(error) => tracing::error!("{error}; the settings of before remain in use"),
        }
        let now = self.clock.now();
        let result = config.as_ref().map(drop).map_err(Clone::clone).and(web);
        self.settings.send_modify(|settings| {
            settings.status.config_file_ok = config.is_ok();
            if let Ok(config) = config
                && config != *before
            {
                settings.config = Arc::new(config);
            }
            if result.is_ok() {
                settings.status.taken = now;
            }
        });
        result
    }
}

/// Reads the files. On a file system that hangs, the next read is refused and costs no thread.
async fn read_within<T: Send + 'static>(
    reader: &mut BlockingWorker<()>,
    patience: Duration,
    read: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    let text = "its file system hangs; once it answers, send SIGHUP again";
    if reader.is_running() {
        return Err(format!("config file: is still being read: {text}"));
    }
    let read = reader.run(patience, "config file", |()| read()).await;
    match read {
        Ok((read, _)) => Ok(read),
        Err(failure) if failure.reason == Reason::Timeout => {
            Err(format!("config file: not read within {patience:?}: {text}"))
        }
        Err(failure) => Err(failure.message),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_read_that_hangs_costs_one_thread_and_a_later_one_works() {
        let mut reader = BlockingWorker::reserved(());
        // Stands for a file system that hangs until the sender is dropped.
        let (recover, hang) = mpsc::channel::<()>();
        let patience = Duration::from_millis(20);
        let first = read_within(&mut reader, patience, move || hang.recv()).await;
        assert!(first.is_err_and(|error| error.contains("not read within 20ms: ")));
        let second = read_within(&mut reader, patience, || ()).await;
        assert!(second.is_err_and(|error| error.contains("is still being read: ")));
        drop(recover);
        while reader.is_running() {
            tokio::task::yield_now().await;
        }
        assert_eq!(read_within(&mut reader, PATIENCE, || 7).await, Ok(7));
    }
}
