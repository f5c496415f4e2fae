//! Three hosts with a broker and an exporter each, a fourth for ZooKeeper or the controller, and clients.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::clients::{Clients, PARTITIONS, TOPIC};
use super::scenario::is_new;
use super::watch::{PORT, Watch};
use crate::cell::{Cell, Process};
use crate::client::Partition;
use crate::cluster::{Cluster, ClusterOptions, Node};
use crate::hosts::{self, Host};
use crate::versions::{self, Mode};
use crate::{jars, sleep_between_polls};

pub const BROKERS: [i32; 3] = [1, 2, 3];
/// Rules that make a thread of a broker wait or fail once a file is in the broker's folder `harm`.
const RULES: &str = include_str!("rules.btm");
const KNOWN_RULES: &str = include_str!("known.btm");
/// Until exporters that have just started know the brokers and have compared two dumps, on a busy machine.
const KNOWN: Duration = Duration::from_secs(180);

pub struct Stage {
    pub watch: Watch,
    pub clients: Clients,
    exporters: Vec<(i32, Process)>,
    pub cluster: Cluster,
}

impl Stage {
    /// Starts everything. `change` adds what a scenario needs, `furnish` what must be there before the first topic.
    pub fn start(
        version: &str,
        exporter: &Path,
        logs: &Path,
        change: impl FnOnce(&mut ClusterOptions),
        furnish: impl FnOnce(&Cluster) -> Result<()>,
    ) -> Result<Stage> {
        let cell = Cell::new()?;
        ensure!(cell.isolated(), "the zoo needs root: hosts are namespaces");
        let modes = versions::find(version)?.modes;
        let mode = modes.iter().find(|mode| **mode == Mode::KraftDedicated);
        let mut options = ClusterOptions {
            mode: Some(*mode.unwrap_or(&modes[0])),
            brokers: BROKERS.to_vec(),
            hosts: true,
            cell: Some(cell),
            jvm_options: vec![
                jars::byteman("{folder}/../rules.btm")?,
                "-Dlab.harm={folder}/harm".into(),
            ],
            properties: [
                ("min.insync.replicas", "2"),
                // A cleaner that has nothing to do sleeps for this time, and takes notice of nothing meanwhile.
                ("log.cleaner.backoff.ms", "1000"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec(),
            ..ClusterOptions::new(version)
        };
        change(&mut options);
        let cluster = Cluster::start_with(options, |folder| {
            fs::write(folder.join("known.btm"), KNOWN_RULES)?;
            Ok(fs::write(folder.join("rules.btm"), RULES)?)
        })?;
        furnish(&cluster)?;
        for node in cluster.nodes() {
            fs::create_dir(outside(&cluster, &node.folder().join("harm")))?;
        }
        cluster.create_topic(TOPIC, PARTITIONS as usize, 3)?;
        let mut exporters = Vec::new();
        let mut watched = Vec::new();
        for node in cluster.nodes() {
            exporters.push((node.id(), start_exporter(exporter, logs, node)?));
            watched.push((node.id(), node.host().cell.clone()));
        }
        let stage = Stage {
            clients: Clients::start(&cluster)?,
            watch: Watch::start(&watched)?,
            exporters,
            cluster,
        };
        stage.wait_known()?;
        Ok(stage)
    }

    /// Waits until every exporter has compared dumps of its broker, and finds it healthy.
    pub fn wait_known(&self) -> Result<()> {
        let deadline = Instant::now() + KNOWN;
        loop {
            let unknown: Vec<i32> = self
                .cluster
                .nodes()
                .iter()
                .filter(|node| !self.is_known(node))
                .map(Node::id)
                .collect();
            if unknown.is_empty() && self.all_healthy() {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "not known after {KNOWN:?}: {unknown:?}; said last: {:#?}",
                self.watch.now()
            );
            sleep_between_polls()?;
        }
    }

    fn is_known(&self, node: &Node) -> bool {
        if !node.is_broker() {
            return true;
        }
        let pool = format!("{{broker=\"{}\",pool=\"request_handler\"}}", node.id());
        let series = ["stalled_threads", "missing_threads"]
            .map(|name| format!("kafka_vitals_{name}{pool} 0\n"));
        let time = Duration::from_secs(2);
        let scrape = node.host().cell.http_get(PORT, "/metrics", time);
        scrape.is_ok_and(|(_, text)| series.iter().all(|series| text.contains(series)))
    }

    pub fn all_healthy(&self) -> bool {
        let now = self.watch.now();
        let healthy = now.iter().filter(|said| said.state == "healthy");
        healthy.count() == self.cluster.nodes().len()
    }

    pub fn host(&self, id: i32) -> Result<&Host> {
        Ok(self.cluster.broker(id)?.host())
    }

    /// Drops everything between two hosts, in both directions or in one.
    pub fn cut(&self, from: &Host, to: &Host) -> Result<()> {
        hosts::cut(self.cluster.cell(), from, to)
    }

    pub fn join(&self, from: &Host, to: &Host) -> Result<()> {
        hosts::join(self.cluster.cell(), from, to)
    }

    /// Returns a partition of the clients' topic that the broker leads.
    pub fn led(&self, id: i32) -> Result<Option<i32>> {
        let partitions = self.cluster.metadata(id)?.partitions;
        let led = |one: &&Partition| one.topic == TOPIC && one.leader == Some(id);
        Ok(partitions.iter().find(led).map(|one| one.partition))
    }

    /// Gives every partition its preferred leader: the broker that was struck before leads nothing.
    pub fn elect(&self) -> Result<()> {
        let led = |id: &i32| self.led(*id).is_ok_and(|led| led.is_some());
        if BROKERS.iter().all(led) {
            return Ok(());
        }
        elect_preferred(&self.cluster)?;
        let deadline = Instant::now() + KNOWN;
        while !BROKERS.iter().all(led) {
            ensure!(Instant::now() < deadline, "a broker leads no partition");
            sleep_between_polls()?;
        }
        Ok(())
    }

    /// Lets a rule of `rules.btm` strike at a broker, and waits until it has taken its file, if it takes it.
    pub fn harm(&self, id: i32, rule: &str, taken: bool) -> Result<Instant> {
        let file = self.harm_file(id, rule)?;
        let start = Instant::now();
        fs::write(&file, "")?;
        while taken && file.exists() {
            ensure!(
                start.elapsed() < Duration::from_secs(30),
                "broker {id} did not come to the rule {rule}"
            );
            sleep_between_polls()?;
        }
        Ok(if taken { Instant::now() } else { start })
    }

    /// Ends what [`Stage::harm`] began, where its rule does not take the file.
    pub fn unharm(&self, id: i32, rule: &str) -> Result<()> {
        Ok(fs::remove_file(self.harm_file(id, rule)?)?)
    }

    /// Whether a rule has not taken its file yet.
    pub fn harm_stands(&self, id: i32, rule: &str) -> Result<bool> {
        Ok(self.harm_file(id, rule)?.exists())
    }

    fn harm_file(&self, id: i32, rule: &str) -> Result<PathBuf> {
        let folder = self.cluster.broker(id)?.folder().join("harm");
        Ok(outside(&self.cluster, &folder.join(rule)))
    }

    /// Kills a broker, which may hang, and starts it again.
    pub fn replace(&mut self, id: i32) -> Result<()> {
        self.cluster.kill(id)?;
        self.cluster.start_again(id)
    }

    /// Whether all exporters still run.
    pub fn exporters_run(&mut self) -> Result<bool> {
        let mut all = true;
        for (_, exporter) in &mut self.exporters {
            all &= exporter.ended()?.is_none();
        }
        Ok(all)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // A frozen disk would keep its broker from ending; thawing one that is not frozen fails.
        for node in self.cluster.nodes() {
            for folder in node.data_folders() {
                let folder = folder.display().to_string();
                let _ = hosts::run(&node.host().cell, &["fsfreeze", "--unfreeze", &folder]);
            }
        }
    }
}

/// Has the controller elect the preferred leaders.
pub fn elect_preferred(cluster: &Cluster) -> Result<()> {
    if is_new(cluster.version().name) {
        let address = cluster.broker(1)?.address().to_string();
        let class = "org.apache.kafka.tools.LeaderElectionCommand";
        let arguments = [
            "--bootstrap-server",
            &address,
            "--election-type",
            "preferred",
        ];
        let arguments = [&arguments[..], &["--all-topic-partitions"]].concat();
        // It fails where some partition has its preferred leader already.
        let _ = cluster.tool(class, &arguments);
        return Ok(());
    }
    let address = format!("{}:2181", cluster.coordinating_host().address);
    let class = "kafka.admin.PreferredReplicaLeaderElectionCommand";
    cluster.tool(class, &["--zookeeper", &address]).map(drop)
}

fn outside(cluster: &Cluster, path: &Path) -> PathBuf {
    cluster.cell().host_path(path)
}

/// Starts an exporter as its unit does: without a setting.
fn start_exporter(program: &Path, logs: &Path, node: &Node) -> Result<Process> {
    let log = logs.join(format!("exporter-{}.log", node.id()));
    let mut command = Command::new(program);
    command
        .env_remove("STATE_DIRECTORY")
        .env("XDG_STATE_HOME", "/tmp")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&log)?);
    let process = node.host().cell.spawn(command);
    process.with_context(|| format!("start {}", program.display()))
}
