//! Runs a Kafka cluster of one version in a cell: ZooKeeper or KRaft controllers, and brokers that a test can stop, kill,
//! pause and start again.

mod launch;
mod wait;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::cell::{Cell, Process};
use crate::client::{Connection, Metadata};
use crate::hosts::Host;
use crate::jars;
use crate::security::{Listener, Secured, Security};
use crate::versions::{self, Mode, Version};

/// The longest start on a busy machine; a usual one takes less than 10 s.
const START_TIME: Duration = Duration::from_secs(90);
const STOP_TIME: Duration = Duration::from_secs(30);
const TOOL_TIME: Duration = Duration::from_secs(60);
const ANSWER_TIME: Duration = Duration::from_secs(5);

/// The options of a cluster: `ClusterOptions { brokers: vec![1], ..ClusterOptions::new("4.3.0") }`
#[derive(Clone)]
pub struct ClusterOptions {
    pub version: String,
    /// The version's default when None.
    pub mode: Option<Mode>,
    /// The ids of the brokers.
    pub brokers: Vec<i32>,
    /// `-Xmx` of a broker.
    pub heap: String,
    /// `offsets.topic.num.partitions`; Kafka's own default is 50.
    pub offsets_partitions: u32,
    /// The listeners of every broker, the first for the brokers among themselves; a PLAINTEXT one by default. The one of
    /// KRaft's controllers comes after them and is PLAINTEXT.
    pub listeners: Vec<Listener>,
    /// The chroot of `zookeeper.connect`; empty for none.
    pub zookeeper_root: String,
    /// Further lines of `server.properties`; they override the lab's.
    pub properties: Vec<(String, String)>,
    /// Further options of the brokers' JVMs; `{folder}` stands for the folder of the broker.
    pub jvm_options: Vec<String>,
    /// The `java` to use; `$JAVA_HOME` or `PATH` decide when None.
    pub java: Option<PathBuf>,
    /// The uid and gid of the processes; the caller's when None.
    pub user: Option<u32>,
    /// The cell to start in; a new one when None.
    pub cell: Option<Cell>,
    /// The folder of the cell in which the cluster creates its own; `/tmp` when None.
    pub folder: Option<PathBuf>,
    /// Gives every broker a host of its own, with its data on a disk, and one more to ZooKeeper or the controller.
    pub hosts: bool,
    /// Further folders of `log.dirs`, on disks of their own where there are hosts.
    pub further_disks: usize,
}

impl ClusterOptions {
    /// Returns options for three brokers, 1 to 3, with 256 MB of heap each.
    pub fn new(version: &str) -> ClusterOptions {
        ClusterOptions {
            version: version.into(),
            mode: None,
            brokers: vec![1, 2, 3],
            heap: "256m".into(),
            offsets_partitions: 50,
            listeners: vec![Listener::new(Security::Plaintext)],
            zookeeper_root: String::new(),
            properties: Vec::new(),
            jvm_options: Vec::new(),
            java: None,
            user: None,
            cell: None,
            folder: None,
            hosts: false,
            further_disks: 0,
        }
    }

    /// Returns options for brokers of the incident's version and ids, 217 to 219.
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
    host: Host,
    /// The ports of all its listeners, in the order of the options.
    ports: Vec<u16>,
    is_broker: bool,
    disks: usize,
    folder: PathBuf,
    log: PathBuf,
    log_start: u64,
    process: Option<Process>,
}

impl Node {
    pub fn id(&self) -> i32 {
        self.id
    }

    /// Whether it is a broker, and not only a KRaft controller.
    pub fn is_broker(&self) -> bool {
        self.is_broker
    }

    /// Returns the port of its first listener, or of the controller listener if it is no broker.
    pub fn port(&self) -> u16 {
        self.ports[0]
    }

    /// Returns the ports of all its listeners.
    pub fn ports(&self) -> &[u16] {
        &self.ports
    }

    /// Returns where it runs.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Returns the address of its first listener.
    pub fn address(&self) -> SocketAddr {
        (self.host.address, self.port()).into()
    }

    /// Returns the folders of its data, each a disk where it has a host of its own.
    pub fn data_folders(&self) -> impl Iterator<Item = PathBuf> {
        let more = (1..self.disks).map(|number| self.folder.join(format!("data{number}")));
        std::iter::once(self.folder.join("data")).chain(more)
    }

    /// Returns the pid as the host sees it.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.process()?.pid())
    }

    /// Returns the pid as the cell sees it.
    pub fn cell_pid(&self) -> Result<u32> {
        Ok(self.process()?.cell_pid()?)
    }

    /// Returns its folder (`server.properties`, `data/`, `server.log`) as the cell sees it; see [`Cell::host_path`].
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns its log since its last start.
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
    secured: Secured,
    /// Of the brokers in their order, and of ZooKeeper or the controller.
    hosts: Vec<Host>,
    /// The cluster's folder as the cell sees it.
    folder: PathBuf,
    _folder: TempDir,
    cell: Cell,
}

impl Cluster {
    /// Starts a cluster and returns when every broker knows all of them.
    pub fn start(options: ClusterOptions) -> Result<Cluster> {
        Cluster::start_with(options, |_| Ok(()))
    }

    /// As [`Cluster::start`]; `prepare` gets the cluster's folder, as this process reaches it, before any process starts.
    pub fn start_with(
        options: ClusterOptions,
        prepare: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Cluster> {
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
        let hosts = launch::hosts(&options, &cell, &folder)?;
        launch::write_logging(holder.path())?;
        prepare(holder.path())?;
        let secured = Secured::create(&options.listeners, version.name, holder.path(), &folder)?;
        if options.user.is_some() {
            // Another user may lack the right to read the cache.
            launch::set_owner(holder.path(), options.user)?;
            std::fs::set_permissions(holder.path(), std::fs::Permissions::from_mode(0o755))?;
            jars = launch::copy_jars(&jars, holder.path(), &folder)?;
        }
        // Name every jar, as kafka-run-class.sh does on the command line.
        let jars: Vec<_> = jars.iter().map(|jar| jar.display().to_string()).collect();
        let mut cluster = Cluster {
            version,
            mode,
            java,
            classpath: jars.join(":"),
            nodes: Vec::new(),
            zookeeper: None,
            secured,
            hosts,
            folder,
            _folder: holder,
            cell,
            options,
        };
        if mode == Mode::ZooKeeper {
            cluster.start_zookeeper()?;
        }
        cluster.make_keystores()?;
        cluster.create_nodes()?;
        match mode {
            Mode::ZooKeeper => cluster.make_scram_users()?,
            _ => cluster.format_storage()?,
        }
        for index in 0..cluster.nodes.len() {
            cluster.launch(index)?;
        }
        for index in 0..cluster.nodes.len() {
            cluster.wait_started(index)?;
        }
        let all = cluster.nodes.iter().filter(|node| node.is_broker).count();
        cluster.wait_for("every broker knows all others", START_TIME, |metadata| {
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

    /// Returns the number of partitions of `__consumer_offsets`.
    pub fn offsets_partitions(&self) -> u32 {
        self.options.offsets_partitions
    }

    /// Returns the folder of the certificates and the tools' `admin.properties` as the cell sees it, for secured
    /// listeners: `ca.pem`, `other-ca.pem`, `client.crt`, `client.key`.
    pub fn tls_folder(&self) -> PathBuf {
        self.folder.join("tls")
    }

    /// Iterates over the brokers, without dedicated controllers.
    pub fn brokers(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.is_broker)
    }

    /// Returns all Kafka nodes, dedicated controllers included.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Returns the broker or controller with that id.
    pub fn broker(&self, id: i32) -> Result<&Node> {
        self.nodes
            .get(self.index(id)?)
            .context("a node that is there")
    }

    /// Returns ZooKeeper's process and port, if the cluster has one.
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

    /// Ends a broker with SIGTERM; an error if it does not end within 30 s, after which only [`Cluster::kill`] helps.
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

    /// Sends SIGSTOP and returns when every thread is stopped. A thread stops when it next runs and can answer until then.
    pub fn pause(&self, id: i32) -> Result<()> {
        let process = self.broker(id)?.process()?;
        process.signal(Signal::STOP)?;
        let deadline = Instant::now() + ANSWER_TIME;
        while !process.is_stopped()? {
            ensure!(
                Instant::now() < deadline,
                "broker {id} (pid {}) still runs after SIGSTOP",
                process.pid()
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Sends SIGCONT.
    pub fn resume(&self, id: i32) -> Result<()> {
        Ok(self.broker(id)?.process()?.signal(Signal::CONT)?)
    }

    /// Starts a stopped or killed broker on its old port and folder, and returns when all brokers know it again.
    pub fn start_again(&mut self, id: i32) -> Result<()> {
        let index = self.index(id)?;
        ensure!(self.broker(id)?.process.is_none(), "broker {id} is running");
        self.wait_unregistered(id)?;
        self.launch(index)?;
        self.wait_started(index)?;
        if !self.broker(id)?.is_broker {
            return Ok(());
        }
        self.wait_for(&format!("all brokers know {id}"), START_TIME, |metadata| {
            metadata.brokers.iter().any(|(known, _)| *known == id)
        })
    }

    /// Does [`Cluster::stop`] and [`Cluster::start_again`].
    pub fn restart(&mut self, id: i32) -> Result<()> {
        self.stop(id)?;
        self.start_again(id)
    }

    /// Asks a broker for the topics and brokers that it knows; an error after 5 s without an answer.
    pub fn metadata(&self, id: i32) -> Result<Metadata> {
        let address = self.broker(id)?.address();
        let answer = self.cell.in_network(|| {
            Connection::open_with(address, ANSWER_TIME, &self.secured.access)?.metadata()
        })?;
        answer.with_context(|| format!("Metadata from broker {id} at {address}"))
    }

    /// Creates a topic with that version's `kafka-topics` and returns when every running broker reports it as fully
    /// replicated.
    pub fn create_topic(&self, name: &str, partitions: usize, replicas: usize) -> Result<()> {
        self.create_topic_with(name, partitions, replicas, &[])
    }

    /// As [`Cluster::create_topic`], with settings of the topic: `min.insync.replicas=2`.
    pub fn create_topic_with(
        &self,
        name: &str,
        partitions: usize,
        replicas: usize,
        settings: &[&str],
    ) -> Result<()> {
        let (count, factor) = (partitions.to_string(), replicas.to_string());
        let mut arguments = vec!["--create", "--topic", name, "--partitions", &count];
        arguments.extend(["--replication-factor", &factor]);
        arguments.extend(settings.iter().flat_map(|setting| ["--config", *setting]));
        self.topics(&arguments)?;
        self.wait_for(
            &format!("topic {name} fully replicated"),
            START_TIME,
            |metadata| {
                let mut of_topic = metadata
                    .partitions
                    .iter()
                    .filter(|partition| partition.topic == name)
                    .peekable();
                of_topic.peek().is_some()
                    && of_topic
                        .filter(|partition| partition.is_fully_replicated())
                        .count()
                        == partitions
            },
        )
    }

    /// Returns the output of that version's `kafka-topics --describe`.
    pub fn topics_describe(&self) -> Result<String> {
        self.topics(&["--describe"])
    }

    /// Runs that version's `kafka-topics` and returns its output.
    pub fn topics(&self, arguments: &[&str]) -> Result<String> {
        let mut asked = match &self.zookeeper {
            Some((_, port)) if !self.version.topics_asks_brokers => {
                let root = &self.options.zookeeper_root;
                let address = self.coordinating_host().address;
                vec!["--zookeeper".to_owned(), format!("{address}:{port}{root}")]
            }
            _ => {
                let is_running =
                    |process: &Process| process.is_stopped().is_ok_and(|stopped| !stopped);
                let answering = self
                    .brokers()
                    .filter(|node| node.process.as_ref().is_some_and(is_running));
                let addresses: Vec<_> = answering.map(|node| node.address().to_string()).collect();
                let mut asked = vec!["--bootstrap-server".to_owned(), addresses.join(",")];
                if let Some(file) = self.secured.command_config() {
                    asked.extend(["--command-config".to_owned(), file.display().to_string()]);
                }
                asked
            }
        };
        asked.extend(arguments.iter().copied().map(str::to_owned));
        self.tool(self.version.topics_tool, &asked)
    }

    /// The file with which tools log in, as the cell sees it; None on a PLAINTEXT listener.
    pub fn command_config(&self) -> Option<PathBuf> {
        self.secured.command_config()
    }

    /// Runs another tool of that version by its main class, and returns its output. Paths are those of the cell.
    pub fn tool(&self, class: &str, arguments: &[impl AsRef<OsStr>]) -> Result<String> {
        let mut tool = self.java_command("96m", "tools-");
        tool.arg("-cp").arg(&self.classpath).arg(class);
        tool.args(arguments);
        self.cell.tool_output(class, tool, TOOL_TIME)
    }

    /// Runs a command in ZooKeeper's own shell and returns its output: `["ls", "/brokers/ids"]`.
    pub fn zookeeper_shell(&self, command: &[&str]) -> Result<String> {
        let (_, port) = self.zookeeper().context("the cluster has no ZooKeeper")?;
        let server = format!("{}:{port}", self.coordinating_host().address);
        let arguments = [&["-server", &*server], command].concat();
        self.tool("org.apache.zookeeper.ZooKeeperMain", &arguments)
    }

    /// Returns a thread dump of a broker by the JDK's `jstack`; an error after 20 s without one.
    pub fn jstack(&self, id: i32) -> Result<String> {
        let beside = Some(self.java.with_file_name("jstack")).filter(|path| path.is_file());
        let jstack = beside
            .or_else(|| jars::on_path("jstack"))
            .with_context(|| format!("no `jstack`: {}", jars::INSTALL))?;
        let mut tool = Command::new(jstack);
        let node = self.broker(id)?;
        tool.arg(node.cell_pid()?.to_string());
        let cell = &node.host.cell;
        cell.tool_output("jstack", tool, Duration::from_secs(20))
    }

    /// Returns the host of ZooKeeper or of the controller.
    pub fn coordinating_host(&self) -> &Host {
        // There is one more than brokers.
        &self.hosts[self.hosts.len() - 1]
    }

    /// Returns a command for the JVM. `logging` is the prefix of the log4j files' names.
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

/// Creates the cluster's folder and returns it as the host and as the cell see it. In the cell's own `/tmp` it goes with
/// the cell, however this process ends.
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
