//! The exporter at rest beside real brokers that are idle, with the defaults that are shipped.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kafka_vitals::model::CollectorName;
use lab::{Cell, Cluster, ClusterOptions, Process};

use crate::contest::{Bench, KAFKA_VITALS, cost_of, median, process_cpu, status_megabytes};
use crate::report::{Bar, Floor, Row};
use crate::worker;

const VERSION: &str = "0.10.1.0";
/// The collectors that are measured, with their default intervals in seconds while nothing is suspected.
const COLLECTORS: [(CollectorName, f64); 11] = [
    (CollectorName::Progress, 0.25),
    (CollectorName::Discovery, 5.0),
    (CollectorName::Process, 1.0),
    (CollectorName::Sockets, 5.0),
    (CollectorName::Connections, 30.0),
    (CollectorName::MemoryMaps, 30.0),
    (CollectorName::LogDirs, 30.0),
    (CollectorName::Logs, 1.0),
    (CollectorName::Cluster, 5.0),
    (CollectorName::ZooKeeper, 5.0),
    (CollectorName::Threads, 15.0),
];

/// What waking up, publishing, evaluating and cold caches may add to the collectors.
const COLLECTORS_ALONE: f64 = 2.5;
/// What twelve brokers may cost, in units of one.
const MANY_BROKERS: f64 = 7.0;

/// The most resident memory, in MB, of the exporter as it is delivered.
const MEMORY: f64 = 12.0;

/// A cluster, and the exporter that watches it.
struct Watched {
    cluster: Cluster,
    brokers: i32,
    exporter: Process,
    port: u16,
    cpu_before: Duration,
    scrapes: Vec<f64>,
}

impl Watched {
    /// Returns when everything was read once, a dump of each broker as well.
    fn start(brokers: i32) -> Result<Watched> {
        let cluster = Cluster::start(ClusterOptions {
            brokers: (1..=brokers).collect(),
            ..ClusterOptions::new(VERSION)
        })?;
        cluster.create_topic("orders", 32, 1)?;
        let (exporter, port) = start(KAFKA_VITALS, cluster.cell())?;
        let mut watched = Watched {
            cluster,
            brokers,
            exporter,
            port,
            cpu_before: Duration::ZERO,
            scrapes: Vec::new(),
        };
        watched.wait_until_all_is_read()?;
        Ok(watched)
    }

    /// The same cluster with another build of the exporter instead.
    fn with(self, program: &str) -> Result<Watched> {
        drop(self.exporter);
        let (exporter, port) = start(program, self.cluster.cell())?;
        let mut watched = Watched {
            exporter,
            port,
            ..self
        };
        watched.wait_until_all_is_read()?;
        Ok(watched)
    }

    fn wait_until_all_is_read(&mut self) -> Result<()> {
        let names = [
            "deadlock_detected",
            "leader_partitions",
            "untracked_sockets",
        ];
        let brokers = self.brokers;
        let read = |page: String| {
            (1..=brokers).all(|id| {
                let series = |name| format!("kafka_vitals_{name}{{broker=\"{id}\"}}");
                names.iter().all(|name| page.contains(&series(name)))
            })
        };
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.scrape().is_ok_and(read) {
            ensure!(
                Instant::now() < deadline,
                "the exporter did not read everything"
            );
            sleep(Duration::from_millis(100));
        }
        self.scrapes.clear();
        self.cpu_before = self.cpu()?;
        Ok(())
    }

    fn scrape(&mut self) -> Result<String> {
        let asked = Instant::now();
        let cell = self.cluster.cell();
        let (_, page) = cell.http_get(self.port, "/metrics", Duration::from_secs(5))?;
        self.scrapes.push(asked.elapsed().as_secs_f64() * 1e3);
        Ok(page)
    }

    fn cpu(&self) -> Result<Duration> {
        process_cpu(self.exporter.pid())
    }

    /// In percent of a core.
    fn share(&self, span: Duration) -> Result<f64> {
        let spent = self.cpu()?.saturating_sub(self.cpu_before);
        Ok(spent.as_secs_f64() / span.as_secs_f64() * 100.0)
    }

    fn megabytes(&self, field: &str) -> Result<f64> {
        status_megabytes(&self.exporter.pid().to_string(), field)
    }

    /// The peak of its resident memory.
    fn memory(&self, build: &str, bar: Bar) -> Result<Row> {
        let of_memory = |field: &str| Ok((field.to_owned(), self.megabytes(field)?));
        let fields = ["VmRSS", "RssAnon", "RssFile"];
        Ok(Row {
            subject: format!("at rest: peak resident memory, {build}"),
            unit: "MB",
            ours: self.megabytes("VmHWM")?,
            floor: None,
            bar,
            beside: fields.into_iter().map(of_memory).collect::<Result<_>>()?,
        })
    }
}

fn start(program: &str, cell: &Cell) -> Result<(Process, u16)> {
    let port = cell.free_ports(1)?[0];
    let mut command = Command::new(program);
    command
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    Ok((cell.spawn(command)?, port))
}

/// Lets time pass, with a scrape of each every 15 s as Prometheus does it. Returns how long it took.
fn rest(all: &mut [Watched], span: Duration) -> Result<Duration> {
    let started = Instant::now();
    while started.elapsed() < span {
        for watched in &mut *all {
            watched.scrape()?;
        }
        sleep(Duration::from_secs(15).min(span.saturating_sub(started.elapsed())));
    }
    Ok(started.elapsed())
}

/// What packages and the image have, built by `make static`, if it is of the same revision as the build that is measured.
fn delivered() -> Option<String> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        _ => return None,
    };
    let folder = env!("CARGO_MANIFEST_DIR");
    let program = format!("{folder}/dist/{architecture}/kafka-vitals");
    let version = |program: &str| {
        let output = Command::new(program).arg("--version").output().ok()?;
        output.status.success().then_some(output.stdout)
    };
    (version(&program)? == version(KAFKA_VITALS)?).then_some(program)
}

pub fn run(bench: &Bench) -> Result<Vec<Row>> {
    let many = bench.count(12, 3);
    let mut all = [Watched::start(1)?, Watched::start(i32::try_from(many)?)?];
    for watched in &mut all {
        watched.cpu_before = watched.cpu()?;
    }
    let span = Duration::from_secs(bench.count(60, 5) as u64);
    let took = rest(&mut all, span)?;
    let [one, twelve] = &all;
    let (share, share_of_many) = (one.share(took)?, twelve.share(took)?);
    let seconds = span.as_secs();
    let row = |subject: String, unit, ours, bar, beside| Row {
        subject,
        unit,
        ours,
        floor: None,
        bar,
        beside,
    };
    let mut rows = vec![row(
        "at rest: a scrape over HTTP, wall time".into(),
        "ms",
        median(one.scrapes.clone()),
        Bar::None,
        vec![],
    )];
    let [mut one, twelve] = all;
    drop(twelve);
    // The bar is for what is delivered. Without that, it is for this build, which takes more: no figure goes without a bar.
    let program = delivered();
    let bar = match &program {
        Some(_) => Bar::None,
        None => Bar::Most(MEMORY),
    };
    rows.push(one.memory("`cargo build --release`", bar)?);
    match program {
        Some(program) => {
            one = one.with(&program)?;
            rest(std::slice::from_mut(&mut one), span)?;
            rows.push(one.memory("`make static`, as delivered", Bar::Most(MEMORY))?);
        }
        None => bench.skip(
            "the memory of the exporter as delivered",
            "dist/ has no build of this revision: run `make static` before",
        ),
    }
    drop(one.exporter);
    let cell = one.cluster.cell();

    let rounds = bench.count(50, 5).to_string();
    let (_, printed) = cost_of(cell, worker::command(["collectors", &rounds], &[]))?;
    let costs: BTreeMap<&str, f64> = printed
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(collector, cost)| Ok((collector, cost.parse()?)))
        .collect::<Result<_>>()?;
    let mut of_collectors = 0.0;
    for (collector, interval) in COLLECTORS {
        let name = collector.name();
        let cost = *costs
            .get(name)
            .with_context(|| format!("no cost of {name} in {printed}"))?;
        let share = cost / 1e3 / interval * 100.0;
        of_collectors += share;
        let subject = format!(
            "one run of {name} for that broker: CPU ({share:.3} % of a core, every {interval} s)"
        );
        rows.push(row(subject, "ms", cost, Bar::None, vec![]));
    }
    let floor = |name, value, ours: f64| {
        Some(Floor {
            name,
            value,
            ratio: ours / value,
        })
    };
    let at_rest = [
        Row {
            subject: format!("at rest beside one broker {VERSION}: CPU over {seconds} s"),
            unit: "% of a core",
            ours: share,
            floor: floor("its collectors alone, back to back", of_collectors, share),
            bar: Bar::Ratio(COLLECTORS_ALONE),
            beside: vec![],
        },
        Row {
            subject: format!("at rest beside {many} brokers, in the same {seconds} s"),
            unit: "% of a core",
            ours: share_of_many,
            floor: floor("beside one", share, share_of_many),
            bar: Bar::Ratio(MANY_BROKERS),
            beside: vec![],
        },
    ];
    rows.splice(0..0, at_rest);
    Ok(rows)
}
