//! Configures and starts the processes of a cluster.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use super::{ANSWER_TIME, Cluster, ClusterOptions, Node, START_TIME, TOOL_TIME};
use crate::cell::{Cell, Process};
use crate::hosts::Host;
use crate::security::{STORE_PASSWORD, Secured};
use crate::sleep_between_polls;
use crate::versions::Mode;

const LOG4J_1: &str = "log4j.rootLogger=INFO, out
log4j.appender.out=org.apache.log4j.ConsoleAppender
log4j.appender.out.layout=org.apache.log4j.PatternLayout
log4j.appender.out.layout.ConversionPattern=[%d] %p %m (%c)%n
log4j.logger.state.change.logger=WARN
log4j.logger.org.apache.zookeeper=WARN
";
const TOOLS_LOG4J_1: &str = "log4j.rootLogger=ERROR, out
log4j.appender.out=org.apache.log4j.ConsoleAppender
log4j.appender.out.target=System.err
log4j.appender.out.layout=org.apache.log4j.SimpleLayout
";
const LOG4J_2: &str = r#"<Configuration status="WARN"><Appenders><Console name="out"><PatternLayout pattern="[%d] %p %m (%c)%n"/></Console></Appenders><Loggers><Root level="INFO"><AppenderRef ref="out"/></Root></Loggers></Configuration>
"#;
const TOOLS_LOG4J_2: &str = r#"<Configuration status="ERROR"><Appenders><Console name="out" target="SYSTEM_ERR"><PatternLayout pattern="%p %m%n"/></Console></Appenders><Loggers><Root level="ERROR"><AppenderRef ref="out"/></Root></Loggers></Configuration>
"#;

/// Writes the log4j files. Processes log to stdout, which goes to their log file; tools keep stdout for their output.
pub(super) fn write_logging(folder: &Path) -> io::Result<()> {
    fs::write(folder.join("log4j.properties"), LOG4J_1)?;
    fs::write(folder.join("log4j2.xml"), LOG4J_2)?;
    fs::write(folder.join("tools-log4j.properties"), TOOLS_LOG4J_1)?;
    fs::write(folder.join("tools-log4j2.xml"), TOOLS_LOG4J_2)
}

/// The first port of the listeners on hosts, and ZooKeeper's there.
const FIRST_PORT: u16 = 9092;
const ZOOKEEPER_PORT: u16 = 2181;
/// Space that is not used costs nothing.
const DISK_SIZE: &str = "16G";

/// Returns the places of the brokers, and that of ZooKeeper or the controller.
pub(super) fn hosts(options: &ClusterOptions, cell: &Cell, folder: &Path) -> Result<Vec<Host>> {
    let count = options.brokers.len() + 1;
    if !options.hosts {
        return Ok(vec![Host::shared(cell); count]);
    }
    let folder = folder.file_name().context("a folder has a name")?;
    (1..=count)
        .map(|number| Host::create(cell, u8::try_from(number)?, Some(folder)))
        .collect()
}

impl Cluster {
    /// Gives every node its ports, its folder and its `server.properties`.
    pub(super) fn create_nodes(&mut self) -> Result<()> {
        let brokers = self.options.brokers.clone();
        let highest = *brokers
            .iter()
            .max()
            .context("a cluster needs at least one broker")?;
        let combined = self.mode == Mode::KraftCombined;
        let mut roles: Vec<_> = brokers.iter().map(|id| (*id, true, combined)).collect();
        if self.mode == Mode::KraftDedicated {
            roles.push((highest + 1, false, true));
        }
        // For each node: the broker's listeners and the controller's.
        let listeners = self.options.listeners.len();
        let ports = if self.options.hosts {
            let of_one = (FIRST_PORT..).take(listeners + 1);
            roles.iter().flat_map(|_| of_one.clone()).collect()
        } else {
            self.cell.free_ports((listeners + 1) * roles.len())?
        };
        let hosts = self.hosts.clone();
        let nodes: Vec<_> = roles
            .into_iter()
            .zip(ports.chunks_exact(listeners + 1))
            .zip(hosts)
            .collect();
        let voters: Vec<_> = nodes
            .iter()
            .filter(|(((_, _, is_controller), _), _)| *is_controller)
            .map(|(((id, _, _), ports), host)| {
                format!("{id}@{}:{}", host.address, ports[listeners])
            })
            .collect();
        for (((id, is_broker, is_controller), ports), host) in nodes {
            let name = format!("{}-{id}", if is_broker { "broker" } else { "controller" });
            let (folder, outside) = (
                self.folder.join(&name),
                self.cell.host_path(&self.folder).join(&name),
            );
            fs::create_dir(&outside)?;
            set_owner(&outside, self.options.user)?;
            let all_ports = ports;
            let ports = match (is_broker, is_controller) {
                (true, true) => ports.to_vec(),
                (true, false) => ports[..listeners].to_vec(),
                _ => vec![ports[listeners]],
            };
            let log = outside.join("server.log");
            let node = Node {
                id,
                host,
                ports,
                is_broker,
                disks: 1 + self.options.further_disks,
                folder,
                log,
                log_start: 0,
                process: None,
            };
            let properties = self.properties(&node, is_controller, all_ports, &voters.join(","));
            fs::write(outside.join("server.properties"), properties)?;
            if self.options.hosts {
                for disk in node.data_folders() {
                    node.host.mount_disk(&disk, DISK_SIZE)?;
                }
            }
            self.nodes.push(node);
        }
        Ok(())
    }

    fn properties(&self, node: &Node, is_controller: bool, ports: &[u16], voters: &str) -> String {
        let (id, is_broker, address) = (node.id, node.is_broker, node.host.address);
        let data: Vec<_> = node
            .data_folders()
            .map(|folder| folder.display().to_string())
            .collect();
        let replicas = self.options.brokers.len().min(3);
        let named = self.secured.names().zip(ports);
        let named: Vec<_> = named
            .map(|(name, port)| format!("{name}://{address}:{port}"))
            .collect();
        let clients = named.join(",");
        let mut lines = format!(
            "log.dirs={}\nnum.partitions=1\noffsets.topic.replication.factor={replicas}\n\
             offsets.topic.num.partitions={}\ndefault.replication.factor={replicas}\nmin.insync.replicas=1\n\
             log.retention.hours=1\nnum.network.threads=3\nnum.io.threads=8\n\
             group.min.session.timeout.ms=1000\noffsets.retention.check.interval.ms=10000\n",
            data.join(","),
            self.options.offsets_partitions,
        );
        if !self.version.name.starts_with("0.10.") {
            // The default takes half of the heap: 4.x on JDK 25 did not always start with it.
            lines += "log.cleaner.dedupe.buffer.size=33554432\n";
            lines += &format!(
                "transaction.state.log.replication.factor={replicas}\ntransaction.state.log.min.isr=1\n\
                 group.initial.rebalance.delay.ms=0\n"
            );
        }
        if let Some((_, port)) = &self.zookeeper {
            lines += &format!(
                "broker.id={id}\nlisteners={clients}\nzookeeper.connect={}:{port}{}\n\
                 zookeeper.connection.timeout.ms=30000\ncontrolled.shutdown.enable=true\n",
                self.coordinating_host().address,
                self.options.zookeeper_root
            );
            if self.secured.has_names() {
                lines += &format!(
                    "listener.security.protocol.map={}\n",
                    self.secured.protocols()
                );
            }
        }
        if self.mode != Mode::ZooKeeper {
            let controller = format!("CONTROLLER://{address}:{}", ports[named.len()]);
            let (roles, listeners) = match (is_broker, is_controller) {
                (true, true) => ("broker,controller", format!("{clients},{controller}")),
                (true, false) => ("broker", clients.clone()),
                _ => ("controller", controller),
            };
            lines += &format!(
                "process.roles={roles}\nnode.id={id}\ncontroller.quorum.voters={voters}\nlisteners={listeners}\n\
                 controller.listener.names=CONTROLLER\n\
                 listener.security.protocol.map={},CONTROLLER:PLAINTEXT\n",
                self.secured.protocols()
            );
            if is_broker {
                lines += &format!("advertised.listeners={clients}\n");
            }
        }
        if is_broker {
            lines += &self.secured.properties();
        }
        for (name, value) in &self.options.properties {
            lines += &format!("{name}={value}\n");
        }
        lines
    }

    pub(super) fn start_zookeeper(&mut self) -> Result<()> {
        let host = self.coordinating_host().clone();
        let port = if self.options.hosts {
            ZOOKEEPER_PORT
        } else {
            let free = self.cell.free_ports(1)?;
            *free.first().context("a port for ZooKeeper")?
        };
        let (folder, outside) = (
            self.folder.join("zookeeper"),
            self.cell.host_path(&self.folder).join("zookeeper"),
        );
        fs::create_dir(&outside)?;
        set_owner(&outside, self.options.user)?;
        let lines = format!(
            "tickTime=2000\ndataDir={}\nclientPort={port}\nclientPortAddress={}\nmaxClientCnxns=0\n\
             admin.enableServer=false\n4lw.commands.whitelist=*\n",
            folder.join("data").display(),
            host.address
        );
        fs::write(outside.join("zoo.cfg"), lines)?;
        let mut command = self.java_command("128m", "");
        command
            .arg("-cp")
            .arg(&self.classpath)
            .arg("org.apache.zookeeper.server.quorum.QuorumPeerMain");
        command.arg(folder.join("zoo.cfg"));
        let mut process = spawn_logged(&host.cell, command, &outside.join("zookeeper.log"))?;
        let deadline = Instant::now() + START_TIME;
        let address = (host.address, port).into();
        while self.cell.connect_to(address).is_err() {
            if let Some(status) = process.ended()? {
                let log = fs::read_to_string(outside.join("zookeeper.log"))?;
                bail!(
                    "ZooKeeper ended while starting ({status}):\n{}",
                    last_lines(&log)
                );
            }
            ensure!(
                Instant::now() < deadline,
                "ZooKeeper does not listen on port {port} after {START_TIME:?}"
            );
            sleep_between_polls()?;
        }
        self.zookeeper = Some((process, port));
        Ok(())
    }

    /// Writes the cluster's id into each node's folder, without which KRaft nodes do not start.
    pub(super) fn format_storage(&self) -> Result<()> {
        let format = |node: &Node| {
            let mut tool = self.java_command("128m", "tools-");
            tool.arg("-cp")
                .arg(&self.classpath)
                .args(["kafka.tools.StorageTool", "format"]);
            tool.args(["-t", "4L6g3nShT-eMCtK--X86sw", "-c"])
                .arg(node.folder.join("server.properties"));
            if self.secured.has_scram() {
                for (user, credentials) in Secured::scram_users() {
                    for credential in credentials {
                        let named = credential.replacen('[', &format!("[name={user},"), 1);
                        tool.args(["--add-scram", &named]);
                    }
                }
            }
            let cell = &node.host.cell;
            cell.tool_output("kafka-storage format", tool, TOOL_TIME)
                .map(drop)
        };
        thread::scope(|scope| {
            let tools: Vec<_> = self
                .nodes
                .iter()
                .map(|node| scope.spawn(move || format(node)))
                .collect();
            tools.into_iter().try_for_each(|tool| {
                tool.join()
                    .unwrap_or_else(|_| bail!("kafka-storage: panicked"))
            })
        })
    }

    /// Makes keystores of Java from the certificates, where the version needs them.
    pub(super) fn make_keystores(&self) -> Result<()> {
        let stems = self.secured.keystores();
        if stems.is_empty() {
            return Ok(());
        }
        let mut tool = self.java_command("96m", "tools-");
        tool.arg(self.secured.keystore_program())
            .args(["PKCS12", STORE_PASSWORD]);
        for stem in stems {
            tool.arg(stem.with_extension("pem"))
                .arg(stem.with_extension("p12"));
        }
        self.cell
            .tool_output("java Keystore.java", tool, TOOL_TIME)
            .map(drop)
    }

    /// Makes the users of SCRAM in ZooKeeper, before the brokers start.
    pub(super) fn make_scram_users(&self) -> Result<()> {
        let Some((_, port)) = self.zookeeper.as_ref().filter(|_| self.secured.has_scram()) else {
            return Ok(());
        };
        let zookeeper = format!("{}:{port}", self.coordinating_host().address);
        for (user, credentials) in Secured::scram_users() {
            let mut arguments = vec!["--zookeeper", &zookeeper];
            arguments.extend(["--entity-type", "users", "--entity-name", user]);
            let credentials = credentials.join(",");
            arguments.extend(["--alter", "--add-config", &credentials]);
            self.tool("kafka.admin.ConfigCommand", &arguments)?;
        }
        Ok(())
    }

    pub(super) fn launch(&mut self, index: usize) -> Result<()> {
        let mut command = self.java_command(&self.options.heap, "");
        let folder = self
            .nodes
            .get(index)
            .context("a node that is there")?
            .folder
            .display()
            .to_string();
        let options = self.options.jvm_options.iter();
        command
            .arg("-Xms64m")
            .args(self.secured.jvm_option())
            .args(options.map(|option| option.replace("{folder}", &folder)))
            .arg("-cp")
            .arg(&self.classpath)
            .arg("kafka.Kafka");
        let node = self.nodes.get_mut(index).context("a node that is there")?;
        command.arg(node.folder.join("server.properties"));
        node.log_start = fs::metadata(&node.log).map_or(0, |log| log.len());
        node.process = Some(spawn_logged(&node.host.cell, command, &node.log)?);
        Ok(())
    }

    pub(super) fn wait_started(&mut self, index: usize) -> Result<()> {
        let deadline = Instant::now() + START_TIME;
        let node = self.nodes.get_mut(index).context("a node that is there")?;
        loop {
            let log = node.log()?;
            let listens = || self.cell.connect_to(node.address()).is_ok();
            if log.contains("started (kafka.server.Kafka") && listens() {
                return Ok(());
            }
            if let Some(status) = node
                .process
                .as_mut()
                .and_then(|process| process.ended().transpose())
                .transpose()?
            {
                node.process = None;
                bail!(
                    "broker {} ended while starting ({status}):\n{}",
                    node.id,
                    last_lines(&log)
                );
            }
            if Instant::now() > deadline {
                bail!(
                    "broker {} has not started after {START_TIME:?}:\n{}",
                    node.id,
                    last_lines(&log)
                );
            }
            sleep_between_polls()?;
        }
    }

    /// Waits until ZooKeeper has ended the session of the killed broker: until then a new one refuses to start.
    pub(super) fn wait_unregistered(&self, id: i32) -> Result<()> {
        let Some((_, port)) = self.zookeeper else {
            return Ok(());
        };
        let deadline = Instant::now() + START_TIME;
        let path = format!("{}/brokers/ids/{id}", self.options.zookeeper_root);
        while self
            .zookeeper_dump(port)?
            .lines()
            .any(|line| line.trim() == path)
        {
            ensure!(
                Instant::now() < deadline,
                "broker {id} is still registered in ZooKeeper after {START_TIME:?}"
            );
            sleep_between_polls()?;
        }
        Ok(())
    }

    /// Returns ZooKeeper's sessions and their ephemeral nodes.
    fn zookeeper_dump(&self, port: u16) -> io::Result<String> {
        let address = (self.coordinating_host().address, port).into();
        let mut stream = self.cell.connect_to(address)?;
        stream.set_read_timeout(Some(ANSWER_TIME))?;
        stream.write_all(b"dump")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }
}

/// Makes the brokers' user the owner of a folder.
pub(super) fn set_owner(folder: &Path, user: Option<u32>) -> Result<()> {
    std::os::unix::fs::chown(folder, user, user)
        .with_context(|| format!("chown {} to uid {user:?}", folder.display()))
}

/// Copies the jars into the cluster's folder and returns their paths as the cell sees them.
pub(super) fn copy_jars(jars: &[PathBuf], outside: &Path, inside: &Path) -> Result<Vec<PathBuf>> {
    fs::create_dir(outside.join("jars"))?;
    let copy = |jar: &PathBuf| {
        let name = Path::new("jars").join(jar.file_name().context("a jar has a name")?);
        fs::copy(jar, outside.join(&name)).with_context(|| format!("copy {}", jar.display()))?;
        Ok(inside.join(name))
    };
    jars.iter().map(copy).collect()
}

fn spawn_logged(cell: &Cell, mut command: Command, log: &Path) -> Result<Process> {
    let file = File::options().create(true).append(true).open(log)?;
    command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file);
    let program = command.get_program().to_string_lossy().into_owned();
    cell.spawn(command)
        .with_context(|| format!("start {program}"))
}

fn last_lines(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(25)..].join("\n")
}
