//! Code that runs in a process of its own: this program, started again with [`WORD`] and a task.

use std::ffi::OsStr;
use std::fmt::Display;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kafka_vitals::collect::cluster::ClusterClient;
use kafka_vitals::collect::frame::BlockingCollector as _;
use kafka_vitals::collect::jvm_dumper::JvmDumper;
use kafka_vitals::collect::logs::Logs;
use kafka_vitals::collect::process::ProcessReader;
use kafka_vitals::collect::progress::ProgressCollector;
use kafka_vitals::collect::sockets::Sockets;
use kafka_vitals::collect::threads::{self, ThreadHistory};
use kafka_vitals::collect::zookeeper::ensembles::{Ensembles, Way};
use kafka_vitals::collect::{exporter, fds, log_dirs, memory_maps};
use kafka_vitals::discover::Discovery;
use kafka_vitals::kafka::conn::OwnConnections;
use kafka_vitals::model::{Broker, CollectorName, Listener, ProcessKey, SecurityProtocol};
use kafka_vitals::model::{Clock, Moment, StateCounts, TcpState};
use kafka_vitals::sys::proc::ProcRoot;
use kafka_vitals::sys::schedstat::{Allowance, Tasks};
use kafka_vitals::sys::sock_diag::{Ports, States, dump};
use lab::usage;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::contest::{KAFKA_VITALS, median, milliseconds, status_megabytes};
use crate::{load, metadata_log};

pub const WORD: &str = "worker";
const PATIENCE: Duration = Duration::from_secs(10);

/// Returns the command that starts this program as a worker.
pub fn command(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>, more: &[String]) -> Command {
    let mut command =
        Command::new(std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into()));
    command.arg(WORD).args(arguments).args(more);
    command
}

/// Prints the peak of resident memory of `kafka-vitals analyze`, in bytes, and its answer.
fn analyze(path: &str) -> Result<()> {
    let output = Command::new(KAFKA_VITALS)
        .args(["analyze", path])
        .output()?;
    ensure!(output.status.success(), "analyze {path}: {output:?}");
    println!("{}", usage::children_peak()?);
    Ok(std::io::stdout().write_all(&output.stdout)?)
}

pub fn run(arguments: &[String]) -> Result<()> {
    let hard = getrlimit(Resource::Nofile).maximum;
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: hard,
            maximum: hard,
        },
    )?;
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["wait"] => load::wait(),
        ["hold-files", count, folder] => load::hold_files(number(count)?, Path::new(folder)),
        ["serve", address, count] => load::serve(address.parse()?, number(count)?),
        ["connect", address, count, close] => {
            load::connect(address.parse()?, number(count)?, number(close)?)
        }
        ["count-handles", rounds, pids @ ..] => count_fds(number(rounds)?, pids),
        ["count-states", rounds, port] => count_states(number(rounds)?, number(port)?),
        ["pulse", rounds, port] => pulse(number(rounds)?, number(port)?),
        ["owners", rounds, port] => owners(number(rounds)?, number(port)?),
        ["analyze", path] => analyze(path),
        ["dump", rounds, pid] => thread_dumps(number(rounds)?, number(pid)?),
        ["progress", passes, pid] => progress(number(passes)?, number(pid)?),
        ["bare-dump", rounds, pid] => bare_dumps(number(rounds)?, number(pid)?),
        ["metadata", rounds, address] => metadata(number(rounds)?, address.parse()?),
        ["metadata-log", rounds, folder] => metadata_log::work(number(rounds)?, Path::new(folder)),
        ["collectors", rounds] => collectors_of_broker(number(rounds)?),
        _ => bail!("no such worker: {arguments:?}"),
    }
}

fn number<T: FromStr<Err: Display>>(text: &str) -> Result<T> {
    text.parse()
        .map_err(|error| anyhow::anyhow!("{text}: {error}"))
}

fn count_fds(rounds: usize, pids: &[&str]) -> Result<()> {
    let pids: Vec<u32> = pids.iter().map(|pid| number(pid)).collect::<Result<_>>()?;
    let proc = ProcRoot::new("/proc");
    let mut sum = 0;
    for _ in 0..rounds {
        sum = 0;
        for pid in &pids {
            sum += proc.open_fd_count(*pid)?;
        }
    }
    println!("{sum}");
    Ok(())
}

/// Prints the states as `floors/sockets.c` does, then the peak of this process's memory in MB.
fn count_states(rounds: usize, port: u16) -> Result<()> {
    let ports = Ports::new([port]);
    let mut buffer = Vec::new();
    let mut counts = StateCounts::default();
    for _ in 0..rounds {
        counts = StateCounts::default();
        dump(
            States::ALL,
            Some(&ports),
            false,
            &mut buffer,
            Instant::now() + PATIENCE,
            |socket| {
                let count = counts.get_mut(socket.state);
                count.connections += 1;
                count.receive_bytes += u64::from(socket.receive_queue);
                count.send_bytes += u64::from(socket.send_queue);
            },
        )?;
    }
    for state in TcpState::ALL {
        let count = counts.get(state);
        if count.connections > 0 {
            println!(
                "{} {} {} {}",
                state.number(),
                count.connections,
                count.receive_bytes,
                count.send_bytes
            );
        }
    }
    println!("{}", status_megabytes("self", "VmHWM")?);
    Ok(())
}

/// Returns a broker that listens on every address. Its process is this one, which shares the network.
fn broker_at(port: u16) -> Result<Broker> {
    let broker = broker_of(std::process::id())?;
    let name = "PLAINTEXT".to_owned();
    let listener = Listener {
        name,
        protocol: Some(SecurityProtocol::Plaintext),
        host: None,
        port,
        controller: false,
        advertised: None,
    };
    Ok(Broker {
        id: Some(1),
        listeners: vec![listener],
        ..broker
    })
}

pub fn broker_of(pid: u32) -> Result<Broker> {
    let start_ticks = ProcRoot::new("/proc").stat(pid)?.start_ticks;
    Ok(Broker::unknown(ProcessKey { pid, start_ticks }))
}

fn pulse(rounds: usize, port: u16) -> Result<()> {
    let broker = broker_at(port)?;
    let mut sockets = Sockets::new("/proc", PATIENCE);
    let mut counts = StateCounts::default();
    for _ in 0..rounds {
        counts = sockets.pulse(&broker, &|_| false)?.sockets.server;
    }
    println!("{}", counts.get(TcpState::CloseWait).connections);
    Ok(())
}

fn owners(rounds: usize, port: u16) -> Result<()> {
    let broker = broker_at(port)?;
    let mut sockets = Sockets::new("/proc", PATIENCE);
    let none = std::collections::HashSet::new();
    let mut established = 0;
    for _ in 0..rounds {
        let (owners, _) = sockets.owners(&broker, &none, &mut || Ok(none.clone()), &|_| false)?;
        established = owners.server_established.connections;
    }
    println!("{established}");
    Ok(())
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}

/// Takes, parses and evaluates dumps as the exporter does.
fn thread_dumps(rounds: usize, pid: u32) -> Result<()> {
    let mut collector = JvmDumper::new(KAFKA_VITALS, "/proc", Arc::new(broker_of(pid)?), PATIENCE);
    let runtime = runtime()?;
    let mut history = ThreadHistory::default();
    for round in 0..rounds {
        let now = Moment(round as u64 * 15_000);
        let (report, _) = threads::report(
            &runtime.block_on(collector.collect())?,
            &mut history,
            None,
            now,
        )?;
        println!("{}", report.by_state.values().sum::<u64>());
    }
    Ok(())
}

/// Runs the exporter's passes over the threads of one process. Prints the number of threads and, in milliseconds, the CPU
/// time of one sampling when repeated without a pause, of the bare `pread`s, and of one full pass at four per second, as
/// in production.
fn progress(passes: u32, pid: u32) -> Result<()> {
    let proc = ProcRoot::new("/proc");
    let broker = Arc::new(broker_of(pid)?);
    let mut collector = JvmDumper::new(KAFKA_VITALS, "/proc", Arc::clone(&broker), PATIENCE);
    let dump = runtime()?.block_on(collector.collect())?;
    let (_, names) = threads::report(&dump, &mut ThreadHistory::default(), None, Moment(0))?;
    let names = Arc::new(names);
    let key = broker.process;
    let mut tasks = Tasks::open(&proc, key.pid, key.start_ticks, Allowance::of_own_limit())?;
    tasks.scan()?;
    let named = tasks
        .iter()
        .filter(|(_, task)| names.contains_key(&task.inner_id))
        .map(|(thread, _)| thread);
    let threads: Vec<u32> = named.collect();
    let mut sample = || -> Result<f64> {
        let before = usage::own_cpu()?;
        let mut counted = 0;
        tasks.counts(threads.iter().map(|thread| (*thread, ())), |_, (), _| {
            counted += 1
        })?;
        ensure!(
            counted == threads.len(),
            "{} threads have ended",
            threads.len() - counted
        );
        Ok(milliseconds(usage::own_cpu()? - before))
    };
    // The first pass opens the files.
    sample()?;
    // The median, because a timer of the threads that fires during a pass adds to its cost.
    let sampled = median((0..passes * 20).map(|_| sample()).collect::<Result<_>>()?);
    let open = |thread: &u32| File::open(format!("/proc/{pid}/task/{thread}/schedstat"));
    let files: Vec<File> = threads.iter().map(open).collect::<Result<_, _>>()?;
    let bare = || -> Result<f64> {
        let before = usage::own_cpu()?;
        for file in &files {
            std::hint::black_box(file.read_at(&mut [0; 80], 0)?);
        }
        Ok(milliseconds(usage::own_cpu()? - before))
    };
    let floor = median((0..passes * 20).map(|_| bare()).collect::<Result<_>>()?);
    drop(files);
    drop(tasks);
    let mut progress = ProgressCollector::new(proc, broker, Allowance::of_own_limit(), true);
    // The first pass opens the files.
    progress.pass(&names).progress?;
    let before = usage::own_cpu()?;
    for _ in 0..passes {
        std::thread::sleep(Duration::from_millis(250));
        progress.pass(&names).progress?;
    }
    let pass = milliseconds((usage::own_cpu()? - before) / passes);
    println!("{} {sampled} {floor} {pass}", threads.len());
    Ok(())
}

/// Sends only the request, to a JVM whose attach socket is open.
fn bare_dumps(rounds: usize, pid: u32) -> Result<()> {
    let mut reply = Vec::with_capacity(16 << 20);
    for _ in 0..rounds {
        reply.clear();
        let mut stream = UnixStream::connect(format!("/tmp/.java_pid{pid}"))?;
        stream.write_all(b"1\0threaddump\0\0\0\0")?;
        stream.read_to_end(&mut reply)?;
        println!(
            "{}",
            String::from_utf8_lossy(&reply)
                .matches("java.lang.Thread.State:")
                .count()
        );
    }
    Ok(())
}

/// Prints the number of partitions in the last answer.
fn metadata(rounds: usize, address: SocketAddr) -> Result<()> {
    let broker = Arc::new(broker_at(address.port())?);
    let mut collector = ClusterClient::new(
        broker,
        Some(address.to_string()),
        None,
        OwnConnections::default(),
    );
    let runtime = runtime()?;
    let mut partitions = 0;
    for _ in 0..rounds {
        partitions = runtime.block_on(collector.probe())?.1?.partitions;
    }
    println!("{partitions}");
    Ok(())
}

/// Measures each collector of the one broker here. Prints a line `COLLECTOR CPU-MILLISECONDS` for each.
fn collectors_of_broker(rounds: usize) -> Result<()> {
    let proc = ProcRoot::new("/proc");
    let mut discovery = Discovery::new(proc.clone(), Vec::new());
    let broker = discovery
        .scan()?
        .into_iter()
        .next()
        .context("no broker here")?;
    ensure!(
        broker.id.is_some(),
        "the broker's id is unknown: {:?}",
        broker.problems
    );
    let mut sockets = Sockets::new("/proc", PATIENCE);
    let mut cluster =
        ClusterClient::new(Arc::clone(&broker), None, None, OwnConnections::default());
    let mut dumps = JvmDumper::new(KAFKA_VITALS, "/proc", Arc::clone(&broker), PATIENCE);
    let runtime = runtime()?;
    let measure = |collector: CollectorName, run: &mut dyn FnMut() -> Result<()>| -> Result<()> {
        run()?;
        let before = usage::own_cpu()? + usage::children_cpu()?;
        for _ in 0..rounds {
            run()?;
        }
        let spent = usage::own_cpu()? + usage::children_cpu()? - before;
        println!(
            "{} {}",
            collector.name(),
            milliseconds(spent) / rounds as f64
        );
        Ok(())
    };
    use CollectorName as C;
    measure(C::Discovery, &mut || {
        discovery.scan()?;
        memory_maps::limit(&proc)?;
        exporter::vitals()?;
        Ok(())
    })?;
    let mut process = ProcessReader::default();
    measure(C::Process, &mut || {
        process.read(&proc, &broker).open_fds?;
        Ok(())
    })?;
    measure(C::Sockets, &mut || {
        sockets.pulse(&broker, &|_| false)?;
        Ok(())
    })?;
    // With the walk over the fds, in whose pass they are counted.
    measure(C::Connections, &mut || {
        let inodes = || fds::read(&proc, &broker, PATIENCE).map(|walked| walked.inodes);
        let read = inodes()?;
        sockets.owners(&broker, &read, &mut || inodes(), &|_| false)?;
        Ok(())
    })?;
    measure(C::MemoryMaps, &mut || {
        memory_maps::read(&proc, &broker, PATIENCE)?;
        Ok(())
    })?;
    measure(C::LogDirs, &mut || {
        let (_, unknown) = log_dirs::read(&proc, &broker)?;
        unknown.map_or(Ok(()), |failure| Err(failure.into()))
    })?;
    let mut logs = Logs::of(&proc, &broker, Clock::start());
    measure(C::Logs, &mut || {
        logs.collect()?;
        Ok(())
    })?;
    measure(C::Cluster, &mut || {
        runtime.block_on(cluster.probe())?.1?;
        Ok(())
    })?;
    let way = Way {
        servers: broker.zookeeper.clone(),
        loopback: true,
        of_others: false,
    };
    let ensemble = Ensembles::default().of(way, 0);
    measure(C::ZooKeeper, &mut || {
        // Rounds at one moment share a part of what is read.
        std::thread::sleep(Duration::from_millis(250));
        let id = broker.id.unwrap_or_default();
        runtime.block_on(ensemble.read(&broker.zookeeper_root, id, PATIENCE))?;
        Ok(())
    })?;
    let mut names = Arc::default();
    measure(C::Threads, &mut || {
        let dump = runtime.block_on(dumps.collect())?;
        names = Arc::new(threads::report(&dump, &mut ThreadHistory::default(), None, Moment(0))?.1);
        Ok(())
    })?;
    let mut progress = ProgressCollector::new(
        proc.clone(),
        Arc::clone(&broker),
        Allowance::of_own_limit(),
        true,
    );
    measure(C::Progress, &mut || {
        // By the clock, every eighth pass searches for new threads.
        std::thread::sleep(Duration::from_millis(250));
        progress.pass(&names).progress?;
        Ok(())
    })
}
