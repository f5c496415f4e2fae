//! Records a host for `tests/golden.rs`: three brokers, one of them deadlocked under impatient clients, as `/proc`, the
//! brokers and other tools tell of them at one moment. Paths of the machine become neutral ones.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use lab::client::Connection;
use lab::cluster::Node;
use lab::{Cluster, ClusterOptions, Form, Load, deadlock, hand, jars};

const TOOL_TIME: Duration = Duration::from_secs(20);
/// For the deadlock to show in the ISR and in sockets, and for a moment at which nothing moves.
const PATIENCE: Duration = Duration::from_secs(240);
/// Metadata version 1 about all topics, of a client named `lab`.
const METADATA_REQUEST: &[u8] = b"\0\0\0\x11\0\x03\0\x01\0\0\0\x01\0\x03lab\xff\xff\xff\xff";
/// What the exporter reads below `/proc/PID`, links apart.
const PROCESS_FILES: [&str; 5] = ["stat", "status", "limits", "cmdline", "maps"];

/// Text of this machine, and what stands for it in the recording.
type Neutral = Vec<(String, &'static str)>;

pub fn record_host(to: &Path, exporter: &Path) -> Result<()> {
    ensure!(
        exporter.is_file(),
        "there is no {}: run `cargo build` first",
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
        "a host of its own needs namespaces: run as root"
    );
    cluster.create_topic(deadlock::TOPIC, 8, 3)?;
    let load = Load::start(&cluster)?;
    let made = deadlock::make(&cluster, Form::Expire)?;
    println!("broker {} is deadlocked", made.broker);
    wait_for_harm(&cluster, made.broker)?;
    drop(load);
    impatient(&cluster, made.broker)?;

    let neutral = neutral(&cluster)?;
    for node in cluster.brokers() {
        dumps(&cluster, node, exporter, &to.join("dumps"))?;
    }
    let begun = Instant::now();
    // A silent broker is asked once: each question leaves it a dead socket.
    let mut asked: Vec<&Node> = cluster.brokers().collect();
    loop {
        let silent = metadata(&cluster, &asked, &to.join("metadata"))?;
        asked.retain(|node| !silent.contains(&node.id()));
        let before = tools(&cluster)?;
        let moment = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        processes(&cluster, &to.join("proc"), &neutral)?;
        let after = tools(&cluster)?;
        let moved: Vec<_> = still(&before)
            .into_iter()
            .filter(|told| !still(&after).contains(told))
            .collect();
        if moved.is_empty() {
            for (name, text) in &before {
                write(
                    &to.join("tools").join(name),
                    squeezed(&replaced(text, &neutral)).as_bytes(),
                )?;
            }
            write(
                &to.join("moment"),
                format!("{}\n", moment.as_millis()).as_bytes(),
            )?;
            break;
        }
        ensure!(
            begun.elapsed() < PATIENCE,
            "for {PATIENCE:?} something moved at every attempt"
        );
        let names: Vec<_> = moved.iter().map(|(name, _)| *name).collect();
        println!("once more, as something moved in {}", names.join(", "));
        fs::remove_dir_all(to.join("proc"))?;
        fs::remove_dir_all(to.join("metadata"))?;
    }
    files(&cluster, &to.join("root"), &neutral)?;
    println!("recorded in {}; now: make docs", to.display());
    Ok(())
}

/// Until the ISR has shrunk and the deadlocked broker holds connections that clients have given up.
fn wait_for_harm(cluster: &Cluster, broker: i32) -> Result<()> {
    let sick = cluster.broker(broker)?.port();
    let other = cluster
        .brokers()
        .map(Node::id)
        .find(|id| *id != broker)
        .context("another broker")?;
    let begun = Instant::now();
    loop {
        let shrunk = cluster
            .metadata(other)?
            .partitions
            .iter()
            .any(|partition| !partition.whole());
        let waiting = hand::sockets(cluster.cell(), "close-wait", sick)?;
        if shrunk && waiting >= 10 {
            println!(
                "{:.0} s later the ISR has shrunk, {waiting} CLOSE_WAIT",
                begun.elapsed().as_secs_f32()
            );
            return Ok(());
        }
        ensure!(
            begun.elapsed() < PATIENCE,
            "{PATIENCE:?} after the deadlock: shrunk {shrunk}, {waiting} CLOSE_WAIT"
        );
        thread::sleep(Duration::from_millis(500));
    }
}

/// Clients that send once more while the broker is silent, and close: half of them in order, half by a reset, after
/// which no table shows the socket that the broker holds.
fn impatient(cluster: &Cluster, broker: i32) -> Result<()> {
    let port = cluster.broker(broker)?.port();
    let mut streams = (0..6)
        .map(|_| cluster.cell().connect(port))
        .collect::<io::Result<Vec<_>>>()?;
    for _ in 0..2 {
        for stream in &mut streams {
            stream.write_all(METADATA_REQUEST)?;
        }
        // The broker takes the first and then reads no further.
        thread::sleep(Duration::from_secs(1));
    }
    for stream in &streams[..3] {
        rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO))?;
    }
    Ok(())
}

fn neutral(cluster: &Cluster) -> Result<Neutral> {
    let java = fs::canonicalize(jars::java()?)?;
    let home = java
        .ancestors()
        .nth(2)
        .context("java lies in the `bin` of its home")?;
    let libraries = jars::cache_folder()?.join(cluster.version().name);
    let node = cluster.brokers().next().context("a broker")?;
    let folder = node
        .folder()
        .parent()
        .context("a broker's folder is the cluster's")?;
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

/// Without the blanks that `ss` fills its columns with.
fn squeezed(text: &str) -> String {
    let mut text = text.to_owned();
    while text.contains("  ") {
        text = text.replace("  ", " ");
    }
    text.replace(" \n", "\n")
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::create_dir_all(path.parent().context("a folder above")?)?;
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

/// What other tools tell of what the exporter reads, by the name of the file that it becomes.
fn tools(cluster: &Cluster) -> Result<Vec<(String, String)>> {
    let mut told = vec![
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
        told.push((
            format!("fd-{id}.txt"),
            tool(cluster, &format!("ls -l /proc/{pid}/fd"))?,
        ));
        let limits = format!("prlimit --pid {pid} --nofile --noheadings --raw --output SOFT,HARD");
        told.push((format!("prlimit-{id}.txt"), tool(cluster, &limits)?));
        told.push((
            format!("ps-{id}.txt"),
            tool(cluster, &format!("ps -o pid=,rss=,etimes= -p {pid}"))?,
        ));
    }
    Ok(told)
}

/// Without what moves at any time: memory, age, timers, and sockets in TIME-WAIT, of which the tools make some.
fn still(told: &[(String, String)]) -> Vec<(&str, Vec<String>)> {
    let compared = told
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

/// The dump as attach gives it, between two of `jstack` that count the same threads by state.
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
        let (before, after) = (essence(&before), essence(&after));
        if before == after {
            write(&to.join(format!("{}.txt", node.id())), &dump.stdout)?;
            return write(
                &to.join(format!("jstack-{}.txt", node.id())),
                before.as_bytes(),
            );
        }
    }
    bail!(
        "broker {} never had the same threads by state three times in a row",
        node.id()
    )
}

/// Of `jstack`'s output the states, and its report of deadlocks: the rest is in the dump as well.
fn essence(jstack: &str) -> String {
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
        hand::reported_deadlock(jstack).unwrap_or_default()
    )
}

/// The body of each broker's Metadata response. Returns the ids of those that are silent.
fn metadata(cluster: &Cluster, asked: &[&Node], to: &Path) -> Result<Vec<i32>> {
    let mut silent = Vec::new();
    for node in asked {
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

/// What the exporter reads below `/proc`. Sockets are the same for all: one folder `net`, to which theirs are links.
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
                // Only its lines are counted: the first two columns of each keep the recording small.
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

/// The files of the brokers and of their JVM that discovery reads, at their neutral places.
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
