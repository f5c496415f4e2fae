//! A Kafka cluster of one version in a cell: ZooKeeper or KRaft controllers, and brokers that can be stopped, killed,
//! paused and started again.

mod launch;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::cell::{Cell, Process};
use crate::client::{Connection, Metadata};
use crate::jars;
use crate::nap;
use crate::versions::{self, Mode, Version};

/// As long as a start may take on a busy machine; a usual one takes under 10 s.
const START_TIME: Duration = Duration::from_secs(90);
const STOP_TIME: Duration = Duration::from_secs(30);
const TOOL_TIME: Duration = Duration::from_secs(60);
const ANSWER_TIME: Duration = Duration::from_secs(5);

/// What to start. `ClusterOptions { brokers: vec![1], ..ClusterOptions::new("4.3.0") }`
#[derive(Clone)]
pub struct ClusterOptions {
    pub version: String,
    /// The version's usual one when not given.
    pub mode: Option<Mode>,
    /// The brokers' ids.
    pub brokers: Vec<i32>,
    /// `-Xmx` of a broker.
    pub heap: String,
    /// `offsets.topic.num.partitions`; Kafka's own default is 50.
    pub offsets_partitions: u32,
    /// Further lines of `server.properties`; they win over the lab's.
    pub properties: Vec<(String, String)>,
    /// Further options of the brokers' JVMs.
    pub jvm_options: Vec<String>,
    /// The `java` to use; else `$JAVA_HOME` or `PATH`.
    pub java: Option<PathBuf>,
    /// Whose processes they are (uid and gid); else the caller's.
    pub user: Option<u32>,
    /// The cell to start in; else a new one.
    pub cell: Option<Cell>,
    /// A folder of the cell in which the cluster's own is made; else `/tmp`.
    pub folder: Option<PathBuf>,
}

impl ClusterOptions {
    /// Three brokers, 1 to 3, with 256 MB of heap each.
    pub fn new(version: &str) -> ClusterOptions {
        ClusterOptions {
            version: version.into(),
            mode: None,
            brokers: vec![1, 2, 3],
            heap: "256m".into(),
            offsets_partitions: 50,
            properties: Vec::new(),
            jvm_options: Vec::new(),
            java: None,
            user: None,
            cell: None,
            folder: None,
        }
    }

    /// Brokers of the incident's version with its ids, 217 to 219.
    pub fn incident() -> ClusterOptions {
        ClusterOptions {
            brokers: vec![217, 218, 219],
            ..ClusterOptions::new("0.10.1.0")
        }
    }
}

/// One Kafka process of a cluster: a broker, a KRaft controller, or both.
pub struct Node {
    id: i32,
    /// Of all its listeners, PLAINTEXT first.
    ports: Vec<u16>,
    is_broker: bool,
    folder: PathBuf,
    log: PathBuf,
    log_start: u64,
    process: Option<Process>,
}

impl Node {
    pub fn id(&self) -> i32 {
        self.id
    }

    /// Whether it is more than a KRaft controller.
    pub fn is_broker(&self) -> bool {
        self.is_broker
    }

    /// The port of its PLAINTEXT listener; of the controller listener where it is a controller only.
    pub fn port(&self) -> u16 {
        self.ports[0]
    }

    /// The ports of all its listeners.
    pub fn ports(&self) -> &[u16] {
        &self.ports
    }

    /// The pid as the host sees it.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.process()?.pid())
    }

    /// The pid as the cell sees it.
    pub fn cell_pid(&self) -> Result<u32> {
        Ok(self.process()?.cell_pid()?)
    }

    /// Its folder (`server.properties`, `data/`, `server.log`) as the cell sees it; see [`Cell::host_path`].
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What it has written to its log since its last start.
    pub fn log(&self) -> io::Result<String> {
        let mut file = File::open(&self.log)?;
        file.seek(SeekFrom::Start(self.log_start))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn process(&self) -> Result<&Process> {
        self.process
            .as_ref()
            .with_context(|| format!("broker {} is not running", self.id))
    }
}

/// A running cluster. Dropping it kills its processes and removes its folder.
pub struct Cluster {
    version: &'static Version,
    mode: Mode,
    options: ClusterOptions,
    java: PathBuf,
    classpath: String,
    nodes: Vec<Node>,
    zookeeper: Option<(Process, u16)>,
    /// Its folder as the cell sees it.
    folder: PathBuf,
    _folder: TempDir,
    cell: Cell,
}

impl Cluster {
    /// Starts a cluster; returns when every broker knows all of them.
    pub fn start(options: ClusterOptions) -> Result<Cluster> {
        let version = versions::find(&options.version)?;
        let mode = options.mode.unwrap_or(version.modes[0]);
        ensure!(
            version.modes.contains(&mode),
            "Kafka {} does not run in mode {mode:?} in the lab",
            version.name
        );
        let java = options.java.clone().map_or_else(jars::java, Ok)?;
        let mut jars = jars::jars(version)?;
        let cell = options.cell.clone().map_or_else(Cell::new, Ok)?;
        let (holder, folder) = temporary_folder(&cell, options.folder.as_deref())?;
        launch::write_logging(holder.path())?;
        if options.user.is_some() {
            // Another user may not read the cache.
            launch::give(holder.path(), options.user)?;
            std::fs::set_permissions(holder.path(), std::fs::Permissions::from_mode(0o755))?;
            jars = launch::copy_jars(&jars, holder.path(), &folder)?;
        }
        // Every jar by its name, as kafka-run-class.sh has them on the command line.
        let jars: Vec<_> = jars.iter().map(|jar| jar.display().to_string()).collect();
        let mut cluster = Cluster {
            version,
            mode,
            java,
            classpath: jars.join(":"),
            nodes: Vec::new(),
            zookeeper: None,
            folder,
            _folder: holder,
            cell,
            options,
        };
        if mode == Mode::ZooKeeper {
            cluster.start_zookeeper()?;
        }
        cluster.lay_out()?;
        if mode != Mode::ZooKeeper {
            cluster.format_storage()?;
        }
        for index in 0..cluster.nodes.len() {
            cluster.launch(index)?;
        }
        for index in 0..cluster.nodes.len() {
            cluster.wait_started(index)?;
        }
        let all = cluster.nodes.iter().filter(|node| node.is_broker).count();
        cluster.wait_for("every broker to know all others", START_TIME, |metadata| {
            metadata.brokers.len() == all
        })?;
        Ok(cluster)
    }

    pub fn version(&self) -> &'static Version {
        self.version
    }

    pub fn cell(&self) -> &Cell {
        &self.cell
    }

    /// How many partitions `__consumer_offsets` has.
    pub fn offsets_partitions(&self) -> u32 {
        self.options.offsets_partitions
    }

    /// The brokers, without dedicated controllers.
    pub fn brokers(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.is_broker)
    }

    /// All Kafka processes, with dedicated controllers.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The broker or controller of that id.
    pub fn broker(&self, id: i32) -> Result<&Node> {
        self.nodes
            .get(self.index(id)?)
            .context("a node that is there")
    }

    /// ZooKeeper's process and port, where there is one.
    pub fn zookeeper(&self) -> Option<(&Process, u16)> {
        self.zookeeper
            .as_ref()
            .map(|(process, port)| (process, *port))
    }

    fn index(&self, id: i32) -> Result<usize> {
        self.nodes
            .iter()
            .position(|node| node.id == id)
            .with_context(|| format!("there is no broker {id}"))
    }

    fn node_mut(&mut self, id: i32) -> Result<&mut Node> {
        let index = self.index(id)?;
        self.nodes.get_mut(index).context("a node that is there")
    }

    /// Ends a broker with SIGTERM. An error says that it did not end within 30 s: then [`Cluster::kill`] it.
    pub fn stop(&mut self, id: i32) -> Result<()> {
        let node = self.node_mut(id)?;
        let process = node
            .process
            .as_mut()
            .with_context(|| format!("broker {id} is not running"))?;
        process.signal(Signal::TERM)?;
        process.signal(Signal::CONT)?;
        if process.wait_timeout(STOP_TIME)?.is_none() {
            bail!(
                "broker {id} (pid {}) did not end within {STOP_TIME:?} of SIGTERM",
                process.pid()
            );
        }
        node.process = None;
        Ok(())
    }

    /// Ends a broker with SIGKILL.
    pub fn kill(&mut self, id: i32) -> Result<()> {
        let node = self.node_mut(id)?;
        node.process
            .take()
            .with_context(|| format!("broker {id} is not running"))?
            .kill()?;
        Ok(())
    }

    /// SIGSTOP; returns when every thread stands. Each stops when it next runs, and could answer until then.
    pub fn pause(&self, id: i32) -> Result<()> {
        let process = self.broker(id)?.process()?;
        process.signal(Signal::STOP)?;
        let deadline = Instant::now() + ANSWER_TIME;
        while !process.is_stopped()? {
            ensure!(
                Instant::now() < deadline,
                "broker {id} (pid {}) goes on after SIGSTOP",
                process.pid()
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// SIGCONT.
    pub fn resume(&self, id: i32) -> Result<()> {
        Ok(self.broker(id)?.process()?.signal(Signal::CONT)?)
    }

    /// Starts a broker that was stopped or killed, on its old port and folder; returns when all know it again.
    pub fn start_again(&mut self, id: i32) -> Result<()> {
        let index = self.index(id)?;
        ensure!(self.broker(id)?.process.is_none(), "broker {id} is running");
        self.wait_unregistered(id)?;
        self.launch(index)?;
        self.wait_started(index)?;
        self.wait_for(
            &format!("all brokers to know {id}"),
            START_TIME,
            |metadata| metadata.brokers.iter().any(|(known, _)| *known == id),
        )
    }

    /// [`Cluster::stop`] and [`Cluster::start_again`].
    pub fn restart(&mut self, id: i32) -> Result<()> {
        self.stop(id)?;
        self.start_again(id)
    }

    /// The topics and brokers that a broker knows; an error after 5 s of silence.
    pub fn metadata(&self, id: i32) -> Result<Metadata> {
        let port = self.broker(id)?.port();
        let asked = self
            .cell
            .in_network(|| Connection::open(port, ANSWER_TIME)?.metadata())?;
        asked.with_context(|| format!("Metadata from broker {id} at 127.0.0.1:{port}"))
    }

    /// Waits until every running broker answers Metadata in a way that satisfies `enough`.
    pub fn wait_for(
        &self,
        what: &str,
        time: Duration,
        enough: impl Fn(&Metadata) -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + time;
        for node in self.brokers().filter(|node| node.process.is_some()) {
            loop {
                let answer = self.metadata(node.id);
                if answer.as_ref().is_ok_and(&enough) {
                    break;
                }
                if Instant::now() > deadline {
                    let said = answer.map_or_else(
                        |error| format!("{error:#}"),
                        |metadata| format!("{metadata:?}"),
                    );
                    bail!(
                        "waited {time:?} in vain for {what}; broker {} last said: {said}",
                        node.id
                    );
                }
                nap()?;
            }
        }
        Ok(())
    }

    /// Waits until every partition has a leader and all of its replicas are in sync, as every running broker sees it.
    pub fn wait_whole(&self, time: Duration) -> Result<()> {
        self.wait_for("all partitions to be whole", time, |metadata| {
            metadata.partitions.iter().all(|one| one.whole())
        })
    }

    /// Creates a topic with that version's `kafka-topics`; returns when every running broker sees it whole.
    pub fn create_topic(&self, name: &str, partitions: usize, replicas: usize) -> Result<()> {
        let (count, factor) = (partitions.to_string(), replicas.to_string());
        self.topics(&[
            "--create",
            "--topic",
            name,
            "--partitions",
            &count,
            "--replication-factor",
            &factor,
        ])?;
        self.wait_for(
            &format!("topic {name} to be whole"),
            START_TIME,
            |metadata| {
                let mut of_topic = metadata
                    .partitions
                    .iter()
                    .filter(|partition| partition.topic == name)
                    .peekable();
                of_topic.peek().is_some()
                    && of_topic.filter(|partition| partition.whole()).count() == partitions
            },
        )
    }

    /// What that version's `kafka-topics --describe` prints.
    pub fn topics_describe(&self) -> Result<String> {
        self.topics(&["--describe"])
    }

    /// Runs that version's `kafka-topics`.
    pub fn topics(&self, arguments: &[&str]) -> Result<String> {
        let mut tool = self.java_command("96m", "tools-");
        tool.arg("-cp")
            .arg(&self.classpath)
            .arg(self.version.topics_tool);
        match &self.zookeeper {
            Some((_, port)) if !self.version.topics_asks_brokers => {
                tool.arg("--zookeeper").arg(format!("127.0.0.1:{port}"));
            }
            _ => {
                let goes_on =
                    |process: &Process| process.is_stopped().is_ok_and(|stopped| !stopped);
                let answering = self
                    .brokers()
                    .filter(|node| node.process.as_ref().is_some_and(goes_on));
                let addresses: Vec<_> = answering
                    .map(|node| format!("127.0.0.1:{}", node.port()))
                    .collect();
                tool.arg("--bootstrap-server").arg(addresses.join(","));
            }
        }
        tool.args(arguments);
        self.run_tool("kafka-topics", tool, TOOL_TIME)
    }

    /// A thread dump of a broker by the JDK's `jstack`; an error after 20 s without one.
    pub fn jstack(&self, id: i32) -> Result<String> {
        let beside = Some(self.java.with_file_name("jstack")).filter(|path| path.is_file());
        let jstack = beside
            .or_else(|| jars::on_path("jstack"))
            .with_context(|| format!("no `jstack`: {}", jars::INSTALL))?;
        let mut tool = Command::new(jstack);
        tool.arg(self.broker(id)?.cell_pid()?.to_string());
        self.run_tool("jstack", tool, Duration::from_secs(20))
    }

    fn run_tool(&self, name: &str, tool: Command, time: Duration) -> Result<String> {
        let output = self
            .cell
            .run_tool(tool, time)
            .with_context(|| name.to_string())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if !output.status.success() {
            bail!(
                "{name} ({}): {}{}",
                output.status,
                text(&output.stdout),
                text(&output.stderr)
            );
        }
        Ok(text(&output.stdout))
    }

    /// `logging` is the prefix of the log4j files' names.
    fn java_command(&self, heap: &str, logging: &str) -> Command {
        let mut java = match self.options.user.map(|uid| uid.to_string()) {
            Some(uid) => {
                let mut setpriv = Command::new("setpriv");
                setpriv
                    .args(["--reuid", &uid, "--regid", &uid, "--clear-groups", "--"])
                    .arg(&self.java);
                setpriv
            }
            None => Command::new(&self.java),
        };
        let folder = self.folder.display();
        java.arg(format!("-Xmx{heap}"))
            .args([
                "-XX:+UseSerialGC",
                "-XX:TieredStopAtLevel=1",
                "-XX:CICompilerCount=1",
                "-Djava.awt.headless=true",
            ])
            .arg(format!(
                "-Dlog4j.configuration=file:{folder}/{logging}log4j.properties"
            ))
            .arg(format!(
                "-Dlog4j2.configurationFile=file:{folder}/{logging}log4j2.xml"
            ))
            .env_remove("JAVA_TOOL_OPTIONS")
            .env_remove("JDK_JAVA_OPTIONS");
        java
    }
}

/// In the cell's own `/tmp` where it has one: then it goes with the cell, however this process ends. As seen from outside, and from the cell.
fn temporary_folder(cell: &Cell, folder: Option<&Path>) -> Result<(TempDir, PathBuf)> {
    let usual = if cell.isolated() {
        PathBuf::from("/tmp")
    } else {
        std::env::temp_dir()
    };
    let base = folder.map_or(usual, Path::to_path_buf);
    let holder = tempfile::Builder::new()
        .prefix("kafka-vitals-lab-")
        .tempdir_in(cell.host_path(&base))?;
    let folder = base.join(
        holder
            .path()
            .file_name()
            .context("a temporary folder has a name")?,
    );
    Ok((holder, folder))
}
