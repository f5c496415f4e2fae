//! A cell is a set of pid, network and mount namespaces for one cluster and its exporter. The host's other processes
//! and sockets cannot disturb a test in it, and everything in it ends with this process, however this process ends.
//!
//! The first process of the pid namespace waits on a pipe that only this process holds. When the pipe closes, it
//! exits, and the kernel kills the rest. One thread enters the namespaces and starts all processes: they are its
//! direct children and also die with it (`PR_SET_PDEATHSIG` is bound to the thread that forked).

use std::env;
use std::ffi::{OsStr, OsString};
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

/// The first process brings up the loopback interface, which is down in a new network namespace, and mounts a `/tmp` of
/// its own: JVMs of two cells have equal pids and would collide in `/tmp/.java_pidN` and `/tmp/hsperfdata_*`. The
/// folders named as arguments stay visible. Then it waits for the end of stdin.
const FIRST_PROCESS_SCRIPT: &str = r#"set -e
ip link set lo up
cd /tmp
mount -t tmpfs -o mode=1777 lab /tmp
for folder in "$@"; do mkdir "/tmp/$folder"; mount --no-canonicalize --bind "$folder" "/tmp/$folder"; done
echo ready
exec cat >/dev/null"#;

static FALLBACK_REPORTED: Once = Once::new();

/// A process to start, and the sender for the result.
type Job = (Command, mpsc::Sender<io::Result<Child>>);

/// An environment to run processes in. Clones share it; it ends when the last clone and the last [`Process`] are dropped.
#[derive(Clone)]
pub struct Cell(Arc<Inner>);

struct Inner {
    jobs: Option<mpsc::Sender<Job>>,
    spawner: Option<JoinHandle<()>>,
    namespaces: Option<Namespaces>,
}

/// The namespaces, and the process that keeps them alive.
struct Namespaces {
    first_process: FirstProcess,
    network: File,
}

/// The first process of the namespaces: they end with it.
struct FirstProcess(Child);

impl Cell {
    /// Returns a cell with its own namespaces where rights allow; otherwise one without, and says so once on stderr.
    pub fn new() -> Result<Cell> {
        match Namespaces::build(None, None) {
            Ok(built) => Self::in_namespaces(built),
            Err(error) => {
                FALLBACK_REPORTED.call_once(|| {
                    eprintln!(
                        "lab: cannot create namespaces ({error:#}): brokers run among the host's processes, on free \
                         ports. Run the lab as root or under `unshare --user --map-root-user` to isolate them."
                    );
                });
                Self::outside()
            }
        }
    }

    /// Returns a cell that behaves like a container: `outer` sees its processes, but not its network and its `/tmp`.
    pub fn within(outer: &Cell) -> Result<Cell> {
        Self::within_seeing(outer, None)
    }

    /// As [`Cell::within`], but it sees this folder of the outer cell's `/tmp` too.
    pub(crate) fn within_seeing(outer: &Cell, folder: Option<&OsStr>) -> Result<Cell> {
        Self::in_namespaces(Namespaces::build(Some(outer), folder)?)
    }

    /// Returns the pid, as the outer cell sees it, of a process in this cell's network.
    pub(crate) fn outer_pid(&self) -> Result<u32> {
        let namespaces = self
            .0
            .namespaces
            .as_ref()
            .context("a cell without namespaces")?;
        Ok(innermost_pid(namespaces.first_process.0.id())?)
    }

    fn in_namespaces((namespaces, mounts, pids): (Namespaces, File, File)) -> Result<Cell> {
        let network = namespaces.network.try_clone()?;
        Self::start(Some(namespaces), move || enter(&network, &mounts, &pids))
    }

    /// Returns a cell without namespaces: its processes run among the host's.
    pub fn outside() -> Result<Cell> {
        Self::start(None, || Ok(()))
    }

    fn start(
        namespaces: Option<Namespaces>,
        enter: impl FnOnce() -> Result<()> + Send + 'static,
    ) -> Result<Cell> {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let (entered, entry_result) = mpsc::channel();
        let spawner = thread::Builder::new().name("cell".into()).spawn(move || {
            let result = enter();
            let good = result.is_ok();
            let _ = entered.send(result);
            if good {
                for (mut command, reply) in inbox {
                    let _ = reply.send(command.spawn());
                }
            }
        })?;
        let cell = Cell(Arc::new(Inner {
            jobs: Some(jobs),
            spawner: Some(spawner),
            namespaces,
        }));
        entry_result
            .recv()
            .context("the cell's thread ended early")?
            .context("enter the cell's namespaces")?;
        Ok(cell)
    }

    /// Whether the cell has its own namespaces.
    pub fn isolated(&self) -> bool {
        self.0.namespaces.is_some()
    }

    /// Starts a process on the cell's thread, inside its namespaces.
    fn start_inside(&self, command: Command) -> io::Result<Child> {
        let gone = || io::Error::other("the cell's thread is gone");
        let (reply, started) = mpsc::channel();
        self.0
            .jobs
            .as_ref()
            .ok_or_else(gone)?
            .send((command, reply))
            .map_err(|_| gone())?;
        started.recv().map_err(|_| gone())?
    }

    /// Starts a process in the cell, in its own process group. Dropping the returned [`Process`] kills it.
    pub fn spawn(&self, mut command: Command) -> io::Result<Process> {
        let parent = std::process::id();
        let isolated = self.isolated();
        command.process_group(0);
        // SAFETY: between fork and exec the closure makes only system calls that are async-signal-safe, and allocates nothing.
        unsafe {
            command.pre_exec(move || {
                rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
                // A parent that died before the line above sends no signal any more. (Inside a pid namespace the parent
                // has no pid; there the end of the first process kills this one.)
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

    /// Runs a program in the cell to its end and returns its output. After `time` it is killed.
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

    /// As [`Cell::run_tool`], but it has to succeed: returns what it printed. `name` is for the error.
    pub fn tool_output(&self, name: &str, tool: Command, time: Duration) -> Result<String> {
        let output = self.run_tool(tool, time).with_context(|| name.to_owned())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if !output.status.success() {
            bail!(
                "{name} ({}): {}{}",
                output.status,
                text(&output.stdout),
                text(&output.stderr).trim_end()
            );
        }
        Ok(text(&output.stdout))
    }

    /// Returns the cell's network, for threads that outlive the cell or make many connections.
    pub fn network(&self) -> io::Result<Network> {
        Ok(Network(
            self.0
                .namespaces
                .as_ref()
                .map(|namespaces| namespaces.network.try_clone())
                .transpose()?,
        ))
    }

    /// Runs `work` on a thread in the cell's network and waits for it.
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
        self.connect_to(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    }

    /// Connects from the cell to an address, within 5 s.
    pub fn connect_to(&self, address: SocketAddr) -> io::Result<TcpStream> {
        self.in_network(|| TcpStream::connect_timeout(&address, Duration::from_secs(5)))?
    }

    /// Requests `GET path` from a loopback port of the cell and returns status and body, all within `time`.
    pub fn http_get(&self, port: u16, path: &str, time: Duration) -> io::Result<(u16, String)> {
        self.in_network(|| crate::http::get(port, path, time))?
    }

    /// Returns `count` unused ports of the cell's loopback, below those that the kernel gives to clients.
    pub fn free_ports(&self, count: usize) -> io::Result<Vec<u16>> {
        self.in_network(|| crate::http::free_ports(count))?
    }

    /// Translates a path in the cell, which has its own `/tmp`, to the path by which the host reaches it.
    pub fn host_path(&self, inside: &Path) -> PathBuf {
        match (&self.0.namespaces, inside.strip_prefix("/")) {
            (Some(namespaces), Ok(relative)) => Path::new("/proc")
                .join(namespaces.first_process.0.id().to_string())
                .join("root")
                .join(relative),
            _ => inside.to_path_buf(),
        }
    }
}

/// The network of a cell.
pub struct Network(Option<File>);

impl Network {
    /// Moves the calling thread into the network for good: sockets that it opens later belong to the cell.
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

impl Namespaces {
    /// Creates the namespaces. The two files are the mount and the pid namespace, to enter them by.
    fn build(outer: Option<&Cell>, seen: Option<&OsStr>) -> Result<(Namespaces, File, File)> {
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
            .args(["sh", "-c", FIRST_PROCESS_SCRIPT, "sh"])
            .args(folders_to_keep())
            .args(seen)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C at the terminal must reach only the lab, which then ends the cell in order.
            .process_group(0);
        let first_process = match outer {
            Some(outer) => outer.start_inside(command),
            None => command.spawn(),
        };
        let mut first_process =
            FirstProcess(first_process.context("start `unshare` (package util-linux)")?);
        let mut line = String::new();
        if let Some(stdout) = first_process.0.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        if line.trim() != "ready" {
            let mut reason = String::new();
            first_process.0.stdin = None;
            if let Some(mut stderr) = first_process.0.stderr.take() {
                stderr.read_to_string(&mut reason)?;
            }
            bail!("{}", reason.trim());
        }
        let namespace =
            |name: &str| File::open(format!("/proc/{}/ns/{name}", first_process.0.id()));
        let (mounts, pids) = (namespace("mnt")?, namespace("pid_for_children")?);
        let network = namespace("net")?;
        Ok((
            Namespaces {
                first_process,
                network,
            },
            mounts,
            pids,
        ))
    }
}

impl Drop for FirstProcess {
    fn drop(&mut self) {
        self.0.stdin = None;
        // The first process ends once all others are reaped. Each `Process` has done so for its own; a child that one
        // of them started and left could delay the end.
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

/// Returns the folders directly below `/tmp` that must stay visible: those of the build, the work and the cache.
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
        .context("unshare the file system context")?;
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

/// Returns the pid of a process in its own pid namespace, by the pid that the host sees.
fn innermost_pid(pid: u32) -> io::Result<u32> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path)?;
    let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    pids.and_then(|pids| pids.split_whitespace().last()?.parse().ok())
        .ok_or_else(|| io::Error::other(format!("{path} has no NSpid")))
}

fn read_all(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // Output before an error is still worth showing.
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
    /// Returns the pid as the host sees it.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns the pid as the cell sees it.
    pub fn cell_pid(&self) -> io::Result<u32> {
        innermost_pid(self.pid())
    }

    /// Gives access to the pipes that the command asked for.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Sends a signal; an error if the process is known to have ended.
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

    /// Whether all its threads are stopped (state T).
    pub fn is_stopped(&self) -> io::Result<bool> {
        for task in fs::read_dir(format!("/proc/{}/task", self.pid()))? {
            // A thread that has just ended has no stat file; the next call does not list it.
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

    /// Returns the exit status, or None while the process runs.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait()?;
        }
        Ok(self.ended)
    }

    /// Waits at most `time` for the end of the process.
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

    /// Sends SIGKILL and waits for the end.
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
