//! A cell: pid, network and mount namespaces for a cluster and its exporter, so that the host's other processes and
//! sockets do not disturb a test, and so that everything in it ends when this process ends, however it ends.
//!
//! The first process of the pid namespace waits on a pipe that only this process holds. When the pipe closes it
//! exits, and the kernel kills the rest. One thread enters the namespaces and starts all processes: they are its
//! direct children, and also die with it (`PR_SET_PDEATHSIG` is bound to the thread that forked).

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::panic::resume_unwind;
use std::path::{Component, Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Once, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

/// Brings up the loopback interface, which is down in a new network. Gives the cell a `/tmp` of its own, as JVMs of two cells have equal pids and meet in `/tmp/.java_pidN` and
/// `/tmp/hsperfdata_*`; the folders named as arguments stay visible. Then waits for the end of stdin.
const FIRST_PROCESS: &str = r#"set -e
ip link set lo up
cd /tmp
mount -t tmpfs -o mode=1777 lab /tmp
for folder in "$@"; do mkdir "/tmp/$folder"; mount --no-canonicalize --bind "$folder" "/tmp/$folder"; done
echo ready
exec cat >/dev/null"#;

static FALLBACK_TOLD: Once = Once::new();

/// A process to start, and who waits for it.
type Job = (Command, mpsc::Sender<io::Result<Child>>);

/// A place to run processes in. Clones share it; it ends when the last clone and the last [`Process`] are dropped.
#[derive(Clone)]
pub struct Cell(Arc<Inner>);

struct Inner {
    jobs: Option<mpsc::Sender<Job>>,
    spawner: Option<JoinHandle<()>>,
    walls: Option<Walls>,
}

/// The namespaces, and the process that keeps them.
struct Walls {
    keeper: Keeper,
    network: File,
}

/// The first process of the namespaces; they end with it.
struct Keeper(Child);

impl Cell {
    /// Namespaces of its own where rights allow; else the host's, said once on stderr.
    pub fn new() -> Result<Cell> {
        match Walls::build(None) {
            Ok(built) => Self::behind(built),
            Err(error) => {
                FALLBACK_TOLD.call_once(|| {
                    eprintln!(
                        "lab: no namespaces of our own ({error:#}): brokers run among the host's processes, on free \
                         ports. As root, or under `unshare --user --map-root-user`, they would be apart."
                    );
                });
                Self::outside()
            }
        }
    }

    /// A container: namespaces of its own whose processes the other cell sees, and whose network and `/tmp` it does not.
    pub fn within(outer: &Cell) -> Result<Cell> {
        Self::behind(Walls::build(Some(outer))?)
    }

    fn behind((walls, mounts, pids): (Walls, File, File)) -> Result<Cell> {
        let network = walls.network.try_clone()?;
        Self::start(Some(walls), move || enter(&network, &mounts, &pids))
    }

    /// No namespaces: processes run among the host's.
    pub fn outside() -> Result<Cell> {
        Self::start(None, || Ok(()))
    }

    fn start(
        walls: Option<Walls>,
        enter: impl FnOnce() -> Result<()> + Send + 'static,
    ) -> Result<Cell> {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let (entered, told) = mpsc::channel();
        let spawner = thread::Builder::new().name("cell".into()).spawn(move || {
            let result = enter();
            let good = result.is_ok();
            let _ = entered.send(result);
            if good {
                for (mut command, told) in inbox {
                    let _ = told.send(command.spawn());
                }
            }
        })?;
        let cell = Cell(Arc::new(Inner {
            jobs: Some(jobs),
            spawner: Some(spawner),
            walls,
        }));
        told.recv()
            .context("the cell's thread ended early")?
            .context("enter the cell's namespaces")?;
        Ok(cell)
    }

    /// Whether the cell has namespaces of its own.
    pub fn isolated(&self) -> bool {
        self.0.walls.is_some()
    }

    /// Starts a process on the cell's thread, inside its namespaces.
    fn start_inside(&self, command: Command) -> io::Result<Child> {
        let gone = || io::Error::other("the cell's thread is gone");
        let (told, started) = mpsc::channel();
        self.0
            .jobs
            .as_ref()
            .ok_or_else(gone)?
            .send((command, told))
            .map_err(|_| gone())?;
        started.recv().map_err(|_| gone())?
    }

    /// Starts a process in the cell, in a process group of its own; it is killed when the handle is dropped.
    pub fn spawn(&self, mut command: Command) -> io::Result<Process> {
        let parent = std::process::id();
        let isolated = self.isolated();
        command.process_group(0);
        // SAFETY: between fork and exec the closure makes only system calls that are async-signal-safe, and allocates nothing.
        unsafe {
            command.pre_exec(move || {
                rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
                // A parent that died before the line above sends no signal any more. (From inside a pid namespace the
                // parent has no pid; there the cell's first process sees to it.)
                if !isolated
                    && rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get() as u32)
                        != Some(parent)
                {
                    return Err(io::Error::other("the lab's process ended"));
                }
                Ok(())
            });
        }
        let name = command.get_program().to_string_lossy().into_owned();
        let child = self.start_inside(command)?;
        Ok(Process {
            name,
            child,
            ended: None,
            _cell: self.clone(),
        })
    }

    /// Runs a program in the cell to its end and returns what it printed; it is killed when `time` is over.
    pub fn run_tool(&self, mut command: Command, time: Duration) -> io::Result<Output> {
        let deadline = Instant::now() + time;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut process = self.spawn(command)?;
        let stdout = read_all(process.child.stdout.take());
        let stderr = read_all(process.child.stderr.take());
        let Some(status) =
            process.wait_timeout(deadline.saturating_duration_since(Instant::now()))?
        else {
            let name = process.name.clone();
            process.kill()?;
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("{name} did not end within {time:?}"),
            ));
        };
        let join = |reader: JoinHandle<Vec<u8>>| {
            reader
                .join()
                .map_err(|_| io::Error::other("a reader panicked"))
        };
        Ok(Output {
            status,
            stdout: join(stdout)?,
            stderr: join(stderr)?,
        })
    }

    /// The cell's network, for threads that outlive the cell or make many connections.
    pub fn network(&self) -> io::Result<Network> {
        Ok(Network(
            self.0
                .walls
                .as_ref()
                .map(|walls| walls.network.try_clone())
                .transpose()?,
        ))
    }

    /// Runs `work` on a thread that is in the cell's network, and waits for it.
    pub fn in_network<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        let network = self.network()?;
        let entered = || network.enter().map(|()| work());
        thread::scope(|scope| {
            scope
                .spawn(entered)
                .join()
                .unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// Connects to a loopback port of the cell, within 5 s.
    pub fn connect(&self, port: u16) -> io::Result<TcpStream> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        self.in_network(|| TcpStream::connect_timeout(&address, Duration::from_secs(5)))?
    }

    /// `GET path` from a loopback port of the cell; the status and the body, all within `time`.
    pub fn http_get(&self, port: u16, path: &str, time: Duration) -> io::Result<(u16, String)> {
        self.in_network(|| crate::http::get(port, path, time))?
    }

    /// `count` ports of the cell's loopback that nobody has; below the ports that the kernel gives to clients.
    pub fn free_ports(&self, count: usize) -> io::Result<Vec<u16>> {
        self.in_network(|| crate::http::free_ports(count))?
    }

    /// Where a path of the cell (its `/tmp` is its own) is found from outside.
    pub fn host_path(&self, inside: &Path) -> PathBuf {
        match (&self.0.walls, inside.strip_prefix("/")) {
            (Some(walls), Ok(relative)) => Path::new("/proc")
                .join(walls.keeper.0.id().to_string())
                .join("root")
                .join(relative),
            _ => inside.to_path_buf(),
        }
    }
}

/// The network of a cell.
pub struct Network(Option<File>);

impl Network {
    /// Moves the calling thread into the network, for good: the sockets that it opens are then the cell's.
    pub fn enter(&self) -> io::Result<()> {
        match &self.0 {
            Some(network) => Ok(move_into_link_name_space(
                network.as_fd(),
                Some(LinkNameSpaceType::Network),
            )?),
            None => Ok(()),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(spawner) = self.spawner.take()
            && spawner.thread().id() != thread::current().id()
        {
            let _ = spawner.join();
        }
    }
}

impl Walls {
    /// The namespaces, and the descriptors to enter them by: mounts, then pids.
    fn build(outer: Option<&Cell>) -> Result<(Walls, File, File)> {
        let mut command = Command::new("unshare");
        command
            .args([
                "--pid",
                "--net",
                "--mount",
                "--fork",
                "--kill-child=SIGKILL",
                "--mount-proc",
                "--",
            ])
            .args(["sh", "-c", FIRST_PROCESS, "sh"])
            .args(folders_to_keep())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C at the terminal is for the lab, which then ends the cell in order.
            .process_group(0);
        let keeper = match outer {
            Some(outer) => outer.start_inside(command),
            None => command.spawn(),
        };
        let mut keeper = Keeper(keeper.context("start `unshare` (package util-linux)")?);
        let mut line = String::new();
        if let Some(stdout) = keeper.0.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        if line.trim() != "ready" {
            let mut reason = String::new();
            keeper.0.stdin = None;
            if let Some(mut stderr) = keeper.0.stderr.take() {
                stderr.read_to_string(&mut reason)?;
            }
            bail!("{}", reason.trim());
        }
        let namespace = |name: &str| File::open(format!("/proc/{}/ns/{name}", keeper.0.id()));
        let (mounts, pids) = (namespace("mnt")?, namespace("pid_for_children")?);
        let network = namespace("net")?;
        Ok((Walls { keeper, network }, mounts, pids))
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.stdin = None;
        // The first process ends when all others were reaped, which the handles did before; a child that somebody
        // else started and left would hold it.
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if !matches!(self.0.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(2));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The folders right under `/tmp` that the cell must go on seeing: the build's, the working and the cache folder.
fn folders_to_keep() -> Vec<OsString> {
    let executable = env::current_exe().ok();
    let mut keep: Vec<OsString> = [
        env::current_dir().ok(),
        executable,
        crate::jars::cache_folder().ok(),
    ]
    .into_iter()
    .flatten()
    .filter_map(
        |path| match path.strip_prefix("/tmp").ok()?.components().next()? {
            Component::Normal(first) if Path::new("/tmp").join(first).is_dir() => {
                Some(first.to_owned())
            }
            _ => None,
        },
    )
    .collect();
    keep.sort();
    keep.dedup();
    keep
}

fn enter(network: &File, mounts: &File, pids: &File) -> Result<()> {
    let folder = env::current_dir();
    // SAFETY: only this thread's root, working folder and umask stop being shared; nothing here relies on sharing them.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }
        .context("a file system context of its own")?;
    for (namespace, kind) in [
        (network, LinkNameSpaceType::Network),
        (mounts, LinkNameSpaceType::Mount),
        (pids, LinkNameSpaceType::ProcessID),
    ] {
        move_into_link_name_space(namespace.as_fd(), Some(kind))
            .with_context(|| format!("setns {kind:?}"))?;
    }
    if let Ok(folder) = folder {
        let _ = env::set_current_dir(folder);
    }
    Ok(())
}

fn read_all(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What was read before an error is still worth showing.
            let _ = pipe.read_to_end(&mut bytes);
        }
        bytes
    })
}

/// A process that the lab started. Dropping it kills it.
pub struct Process {
    name: String,
    child: Child,
    ended: Option<ExitStatus>,
    _cell: Cell,
}

impl Process {
    /// The pid as the host sees it.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The pid as the cell sees it.
    pub fn cell_pid(&self) -> io::Result<u32> {
        let path = format!("/proc/{}/status", self.pid());
        let status = fs::read_to_string(&path)?;
        let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        pids.and_then(|pids| pids.split_whitespace().last()?.parse().ok())
            .ok_or_else(|| io::Error::other(format!("{path} has no NSpid")))
    }

    /// The pipes of the process, where the command asked for them.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Sends a signal, if the process was not seen to end.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        if let Some(status) = self.ended {
            return Err(io::Error::other(format!(
                "{} (pid {}) has ended: {status}",
                self.name,
                self.pid()
            )));
        }
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        Ok(kill_process(
            pid.ok_or_else(|| io::Error::other("not a pid"))?,
            signal,
        )?)
    }

    /// Whether all of its threads are stopped (state T).
    pub fn is_stopped(&self) -> io::Result<bool> {
        for task in fs::read_dir(format!("/proc/{}/task", self.pid()))? {
            // One that has just ended is looked at no more the next time.
            let stat = fs::read_to_string(task?.path().join("stat")).unwrap_or_default();
            if !stat
                .rsplit_once(") ")
                .is_some_and(|(_, rest)| rest.starts_with('T'))
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// How it ended, or nothing while it runs.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait()?;
        }
        Ok(self.ended)
    }

    /// Waits for its end, `time` at most.
    pub fn wait_timeout(&mut self, time: Duration) -> io::Result<Option<ExitStatus>> {
        let deadline = Instant::now() + time;
        loop {
            let ended = self.ended()?;
            if ended.is_some() || Instant::now() >= deadline {
                return Ok(ended);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.ended {
            return Ok(status);
        }
        self.child.kill()?;
        let status = self.child.wait()?;
        self.ended = Some(status);
        Ok(status)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}
