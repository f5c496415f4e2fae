//! Records a host for `tests/golden.rs`: the files of `/proc`, the brokers' answers and the output of other tools at one
//! moment, for three brokers of which one is deadlocked under impatient clients. Paths of the machine become neutral
//! ones.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use lab::client::Connection;
use lab::cluster::Node;
use lab::{Cluster, ClusterOptions, Form, Load, cli_tools, deadlock, jars};

const TOOL_TIME: Duration = Duration::from_secs(20);
/// The longest wait for the symptoms of the deadlock, and for a moment at which nothing changes.
const PATIENCE: Duration = Duration::from_secs(240);
/// The files that the exporter reads below `/proc/PID`, without the links.
const PROCESS_FILES: [&str; 5] = ["stat", "status", "limits", "cmdline", "maps"];

/// Texts of this machine with their replacements in the recording.
type Neutral = Vec<(String, &'static str)>;

/// Records into the new folder `to`, with thread dumps by `exporter`.
pub fn record_host(to: &Path, exporter: &Path) -> Result<()> {
    ensure!(
        exporter.is_file(),
        "{} does not exist: run `cargo build` first",
        exporter.display()
    );
    ensure!(!to.exists(), "{} exists: remove it first", to.display());
    // Few partitions keep the recording small.
    let cluster = Cluster::start(ClusterOptions {
        offsets_partitions: 10,
        ..ClusterOptions::incident()
    })?;
    ensure!(
        cluster.cell().isolated(),
        "the recording needs namespaces: run as root"
    );
    cluster.create_topic(deadlock::TOPIC, 8, 3)?;
    let load = Load::start(&cluster)?;
    let made = deadlock::make(&cluster, Form::Expire)?;
    println!("broker {} is deadlocked", made.broker);
    wait_for_symptoms(&cluster, made.broker)?;
    drop(load);
    abandon_connections(&cluster, made.broker)?;

    let neutral = neutral(&cluster)?;
    for node in cluster.brokers() {
        dumps(&cluster, node, exporter, &to.join("dumps"))?;
    }
    let started = Instant::now();
    // A silent broker is asked only once, because each request leaves a dead socket in it.
    let mut answering: Vec<&Node> = cluster.brokers().collect();
    loop {
        let silent = metadata(&cluster, &answering, &to.join("metadata"))?;
        answering.retain(|node| !silent.contains(&node.id()));
        let before = tool_outputs(&cluster)?;
        let moment = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        processes(&cluster, &to.join("proc"), &neutral)?;
        let after = tool_outputs(&cluster)?;
        let changed: Vec<_> = comparable(&before)
            .into_iter()
            .filter(|output| !comparable(&after).contains(output))
            .collect();
        if changed.is_empty() {
            for (name, text) in &before {
                write(
                    &to.join("tools").join(name),
                    single_spaced(&replaced(text, &neutral)).as_bytes(),
                )?;
            }
            write(
                &to.join("moment"),
                format!("{}\n", moment.as_millis()).as_bytes(),
            )?;
            break;
        }
        ensure!(
            started.elapsed() < PATIENCE,
            "for {PATIENCE:?} something changed during every attempt"
        );
        let names: Vec<_> = changed.iter().map(|(name, _)| *name).collect();
        println!("trying again: {} changed", names.join(", "));
        fs::remove_dir_all(to.join("proc"))?;
        fs::remove_dir_all(to.join("metadata"))?;
    }
    files(&cluster, &to.join("root"), &neutral)?;
    println!("recorded in {}; now run `make docs`", to.display());
    Ok(())
}

/// Waits until an ISR has shrunk and the deadlocked broker holds connections that clients have closed.
fn wait_for_symptoms(cluster: &Cluster, broker: i32) -> Result<()> {
    let sick = cluster.broker(broker)?.port();
    let other = cluster
        .brokers()
        .map(Node::id)
        .find(|id| *id != broker)
        .context("another broker")?;
    let started = Instant::now();
    loop {
        let shrunk = cluster
            .metadata(other)?
            .partitions
            .iter()
            .any(|partition| !partition.is_fully_replicated());
        let waiting = cli_tools::sockets(cluster.cell(), "close-wait", sick)?;
        if shrunk && waiting >= 10 {
            println!(
                "{:.0} s later an ISR has shrunk, {waiting} CLOSE_WAIT",
                started.elapsed().as_secs_f32()
            );
            return Ok(());
        }
        ensure!(
            started.elapsed() < PATIENCE,
            "{PATIENCE:?} after the deadlock: ISR shrunk: {shrunk}, {waiting} CLOSE_WAIT"
        );
        thread::sleep(Duration::from_millis(500));
    }
}

/// Opens connections, sends requests that the broker does not answer, and closes: half of them in order, half by a reset,
/// after which the broker's socket is orphaned: no table shows it.
fn abandon_connections(cluster: &Cluster, broker: i32) -> Result<()> {
    let port = cluster.broker(broker)?.port();
    let open = || -> io::Result<Vec<_>> {
        let connections = (0..6).map(|_| Connection::open(port, TOOL_TIME));
        connections.collect()
    };
    let mut connections = cluster.cell().in_network(open)??;
    for _ in 0..2 {
        for connection in &mut connections {
            connection.send_metadata()?;
        }
        // The broker reads the first request and then no more.
        thread::sleep(Duration::from_secs(1));
    }
    for connection in &connections[..3] {
        rustix::net::sockopt::set_socket_linger(connection, Some(Duration::ZERO))?;
    }
    Ok(())
}

/// Finds this machine's paths and their replacements.
fn neutral(cluster: &Cluster) -> Result<Neutral> {
    let java = fs::canonicalize(jars::java()?)?;
    let home = java
        .ancestors()
        .nth(2)
        .context("java is not in the `bin` of a JDK")?;
    let libraries = jars::cache_folder()?.join(cluster.version().name);
    let node = cluster.brokers().next().context("a broker")?;
    let folder = node
        .folder()
        .parent()
        .context("the broker's folder has no parent")?;
    Ok(vec![
        (home.display().to_string(), "/opt/java"),
        (libraries.display().to_string(), "/opt/kafka/libs"),
        (folder.display().to_string(), "/srv/kafka"),
        (std::env::current_dir()?.display().to_string(), "/opt/kafka"),
    ])
}

fn replaced(text: &str, neutral: &Neutral) -> String {
    neutral
        .iter()
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// Removes the blanks with which `ss` aligns its columns.
fn single_spaced(text: &str) -> String {
    let mut text = text.to_owned();
    while text.contains("  ") {
        text = text.replace("  ", " ");
    }
    text.replace(" \n", "\n")
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::create_dir_all(path.parent().context("a path without a folder")?)?;
    fs::write(path, bytes).with_context(|| format!("write {}", path.display()))
}

fn tool(cluster: &Cluster, line: &str) -> Result<String> {
    let mut words = line.split(' ');
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words).env("LC_ALL", "C");
    let output = cluster
        .cell()
        .run_tool(command, TOOL_TIME)
        .with_context(|| line.to_owned())?;
    ensure!(
        output.status.success(),
        "{line}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// Runs the other tools. Returns their outputs with the names of the files to save them in.
fn tool_outputs(cluster: &Cluster) -> Result<Vec<(String, String)>> {
    let mut outputs = vec![
        ("topics.txt".into(), cluster.topics_describe()?),
        (
            "ss-tcp.txt".into(),
            tool(cluster, "ss --no-header --tcp --all --numeric --processes")?,
        ),
        (
            "ss-all.txt".into(),
            tool(cluster, "ss --no-header --all --numeric --extended")?,
        ),
    ];
    for node in cluster.brokers() {
        let (id, pid) = (node.id(), node.cell_pid()?);
        outputs.push((
            format!("fd-{id}.txt"),
            tool(cluster, &format!("ls -l /proc/{pid}/fd"))?,
        ));
        let limits = format!("prlimit --pid {pid} --nofile --noheadings --raw --output SOFT,HARD");
        outputs.push((format!("prlimit-{id}.txt"), tool(cluster, &limits)?));
        outputs.push((
            format!("ps-{id}.txt"),
            tool(cluster, &format!("ps -o pid=,rss=,etimes= -p {pid}"))?,
        ));
    }
    Ok(outputs)
}

/// Sorts the lines and removes what always changes: memory, age, timers, and sockets in TIME-WAIT, which the tools make.
fn comparable(outputs: &[(String, String)]) -> Vec<(&str, Vec<String>)> {
    let compared = outputs
        .iter()
        .filter(|(name, _)| !name.starts_with("ps-") && name != "ss-all.txt");
    let lines = |text: &'_ str| -> Vec<String> {
        let mut lines: Vec<_> = text
            .lines()
            .filter(|line| !line.contains("TIME-WAIT"))
            .map(str::to_owned)
            .collect();
        lines.sort_unstable();
        lines
    };
    compared
        .map(|(name, text)| (name.as_str(), lines(text)))
        .collect()
}

/// Saves a dump by attach, taken between two by `jstack` with the same thread states.
fn dumps(cluster: &Cluster, node: &Node, exporter: &Path, to: &Path) -> Result<()> {
    for _ in 0..40 {
        let before = cluster.jstack(node.id())?;
        let mut command = Command::new(exporter);
        command.args(["threads", &node.cell_pid()?.to_string()]);
        let dump = cluster.cell().run_tool(command, TOOL_TIME)?;
        ensure!(
            dump.status.success(),
            "{}",
            String::from_utf8_lossy(&dump.stderr)
        );
        let after = cluster.jstack(node.id())?;
        let (before, after) = (states_and_deadlock(&before), states_and_deadlock(&after));
        if before == after {
            write(&to.join(format!("{}.txt", node.id())), &dump.stdout)?;
            return write(
                &to.join(format!("jstack-{}.txt", node.id())),
                before.as_bytes(),
            );
        }
    }
    bail!(
        "broker {} never had the same thread states in two dumps by jstack",
        node.id()
    )
}

/// Returns the thread states and the deadlock report of `jstack`'s output; the rest is in the dump by attach as well.
fn states_and_deadlock(jstack: &str) -> String {
    let states = jstack
        .lines()
        .filter_map(|line| line.trim().strip_prefix("java.lang.Thread.State: "));
    let mut states: Vec<_> = states
        .map(|state| state.split(' ').next().unwrap_or(state))
        .collect();
    states.sort_unstable();
    format!(
        "{}\n\n{}\n",
        states.join("\n"),
        cli_tools::reported_deadlock(jstack).unwrap_or_default()
    )
}

/// Saves the body of each broker's Metadata response. Returns the ids of the brokers that did not answer.
fn metadata(cluster: &Cluster, nodes: &[&Node], to: &Path) -> Result<Vec<i32>> {
    let mut silent = Vec::new();
    for node in nodes {
        let port = node.port();
        let ask = || Connection::open(port, Duration::from_secs(3))?.metadata_body();
        match cluster.cell().in_network(ask)? {
            Ok(body) => write(&to.join(format!("{}.bin", node.id())), &body)?,
            Err(error) => {
                println!("no Metadata from broker {}: {error}", node.id());
                silent.push(node.id());
            }
        }
    }
    Ok(silent)
}

/// Saves what the exporter reads below `/proc`. All processes have the same sockets: their `net` links to one folder.
fn processes(cluster: &Cluster, to: &Path, neutral: &Neutral) -> Result<()> {
    let proc = cluster.cell().host_path(Path::new("/proc"));
    for file in ["uptime", "sys/vm/max_map_count"] {
        write(&to.join(file), &fs::read(proc.join(file))?)?;
    }
    let stat = fs::read_to_string(proc.join("stat"))?;
    let boot = stat
        .lines()
        .find(|line| line.starts_with("btime "))
        .context("btime in /proc/stat")?;
    write(&to.join("stat"), format!("{boot}\n").as_bytes())?;

    let brokers: Vec<u32> = cluster
        .brokers()
        .map(Node::cell_pid)
        .collect::<Result<_>>()?;
    let tables = [
        "tcp", "tcp6", "unix", "packet", "netlink", "udp", "udp6", "udplite", "raw", "icmp",
    ];
    for table in tables {
        if let Ok(bytes) = fs::read(proc.join(format!("{}/net/{table}", brokers[0]))) {
            write(&to.join("net").join(table), &bytes)?;
        }
    }
    for entry in fs::read_dir(&proc)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let Ok(pid) = name.parse::<u32>() else {
            continue;
        };
        let (from, to) = (proc.join(&name), to.join(&name));
        let is_broker = brokers.contains(&pid);
        for file in PROCESS_FILES
            .into_iter()
            .filter(|file| is_broker || *file != "maps")
        {
            let mut text = String::from_utf8(fs::read(from.join(file))?)?;
            if file == "maps" {
                // The exporter only counts the lines: two columns of each keep the recording small.
                let shortened =
                    |line: &str| line.split(' ').take(2).collect::<Vec<_>>().join(" ") + "\n";
                text = text.lines().map(shortened).collect();
            }
            write(&to.join(file), replaced(&text, neutral).as_bytes())?;
        }
        if !is_broker {
            continue;
        }
        let link = |name: &str| -> Result<()> {
            let target = fs::read_link(from.join(name))?;
            Ok(symlink(
                replaced(&target.to_string_lossy(), neutral),
                to.join(name),
            )?)
        };
        link("exe")?;
        link("cwd")?;
        fs::create_dir(to.join("fd"))?;
        for handle in fs::read_dir(from.join("fd"))? {
            link(&format!("fd/{}", handle?.file_name().to_string_lossy()))?;
        }
        symlink("../../root", to.join("root"))?;
        symlink("../net", to.join("net"))?;
    }
    Ok(())
}

/// Saves the files of the brokers and of their JVM that discovery reads, at their neutral paths.
fn files(cluster: &Cluster, to: &Path, neutral: &Neutral) -> Result<()> {
    let mut paths: Vec<PathBuf> = vec![Path::new(&neutral[0].0).join("release")];
    for node in cluster.brokers() {
        paths.push(node.folder().join("server.properties"));
        paths.push(node.folder().join("data/meta.properties"));
    }
    for path in paths {
        let text = fs::read_to_string(cluster.cell().host_path(&path))?;
        let place = replaced(&path.display().to_string(), neutral);
        write(
            &to.join(place.trim_start_matches('/')),
            replaced(&text, neutral).as_bytes(),
        )?;
    }
    Ok(())
}
