//! Takes thread dumps and heap dumps of one JVM: each by a child process that attaches to the JVM and is ended at its
//! deadline.

mod signals;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use self::signals::Signals;
use crate::model::room::Room;
use crate::model::{Broker, Failure, Reason};
use crate::sys::attach::ask::Ask;
use crate::sys::attach::child::{Header, MAX_HEADER_BYTES, Outcome, Request};

/// A broker's dump has 0.1 to 2 MiB. Child and exporter hold it once each.
const MAX_DUMP_BYTES: usize = 32 << 20;
/// What the child gets beyond its own deadline, to say what it waited for.
const GRACE: Duration = Duration::from_millis(500);
/// For a dump with locks: the JVM walks a heap of some GB a second.
pub(super) const LOCKS_DEADLINE: Duration = Duration::from_secs(20);

/// The text of one dump as the JVM sent it.
#[derive(Debug, Default)]
pub struct RawDump {
    pub bytes: Vec<u8>,
    /// For the bytes and what reading them takes.
    pub room: Room,
    /// From the request to the last byte.
    pub duration: Duration,
    /// How long the JVM was stopped at safepoints meanwhile, without garbage collection; None where it publishes no
    /// performance data.
    pub pause: Option<Duration>,
    /// How long it has been stopped at safepoints since it started.
    pub paused: Option<Duration>,
}

/// This program, for [`JvmDumper::new`].
pub const THIS_PROGRAM: &str = "/proc/self/exe";

/// Takes the dumps of one JVM.
#[derive(Debug)]
pub struct JvmDumper {
    exe: PathBuf,
    proc_root: PathBuf,
    broker: Arc<Broker>,
    deadline: Duration,
    /// A child that was killed and has not ended: the kernel holds it at the sick process.
    stuck: Option<Child>,
    /// The JVM's thread that served the last dump.
    listener: Option<u32>,
    signals: Signals,
    failed_pause: Option<Duration>,
}

impl JvmDumper {
    /// `exe` is this program (`/proc/self/exe`); its `main` must know the hidden subcommand
    /// [`SUBCOMMAND`](crate::sys::attach::child::SUBCOMMAND). `deadline` is for one dump.
    pub fn new(
        exe: impl Into<PathBuf>,
        proc_root: impl Into<PathBuf>,
        broker: Arc<Broker>,
        deadline: Duration,
    ) -> Self {
        let (exe, proc_root) = (exe.into(), proc_root.into());
        let (stuck, listener, failed_pause) = (None, None, None);
        JvmDumper {
            exe,
            proc_root,
            broker,
            deadline,
            stuck,
            listener,
            signals: Signals::default(),
            failed_pause,
        }
    }

    /// Takes one dump. Ends at the latest a second after the deadline; if it is dropped earlier, so is the child.
    ///
    /// # Errors
    /// With one of these reasons: `timeout`, `denied`, `disabled`, `stopped`, `gone`, `refused`, `listener_dead`,
    /// `not_hotspot`, `no_signal_handler`, `no_room`, `protocol`.
    pub async fn collect(&mut self) -> Result<RawDump, Failure> {
        self.take(false, self.deadline).await
    }

    /// As [`JvmDumper::collect`], with the owners of `java.util.concurrent` locks. The JVM walks its heap for it
    /// in a pause of seconds: only for a broker that is stuck anyway.
    ///
    /// # Errors
    /// As those of [`JvmDumper::collect`].
    pub async fn collect_with_locks(&mut self) -> Result<RawDump, Failure> {
        self.take(true, LOCKS_DEADLINE).await
    }

    async fn take(&mut self, with_locks: bool, deadline: Duration) -> Result<RawDump, Failure> {
        let ask = Ask::ThreadDump { with_locks };
        match self
            .ask(ask, deadline)
            .await
            .map_err(|failure| self.of("thread dump", failure))?
        {
            (
                Outcome::Ok {
                    duration,
                    pause,
                    paused,
                    listener,
                    ..
                },
                bytes,
                room,
            ) => {
                self.listener = listener;
                Ok(RawDump {
                    bytes,
                    room,
                    duration,
                    pause,
                    paused,
                })
            }
            _ => Err(self.of(
                "thread dump",
                Failure::new(Reason::Protocol, "the attach child took something else"),
            )),
        }
    }

    /// Has the JVM write its heap into a new file, as it sees that path, where what it may write and `min_free` bytes
    /// are free. Returns how many bytes it wrote, and the time that it took. The JVM is stopped meanwhile; after the
    /// deadline it continues to write.
    ///
    /// # Errors
    /// As those of [`JvmDumper::collect`]; `refused` as well where there is no space, no folder, or a file already.
    pub async fn heap_dump(
        &mut self,
        file: &Path,
        min_free: u64,
        deadline: Duration,
    ) -> Result<(u64, Duration), Failure> {
        let ask = Ask::HeapDump {
            file: file.to_owned(),
            min_free,
        };
        match self
            .ask(ask, deadline)
            .await
            .map_err(|failure| self.of("heap dump", failure))?
        {
            (Outcome::Heap { bytes, duration }, ..) => Ok((bytes, duration)),
            _ => Err(self.of(
                "heap dump",
                Failure::new(Reason::Protocol, "the attach child took something else"),
            )),
        }
    }

    /// Returns what the child reports, and the text of a thread dump.
    async fn ask(
        &mut self,
        ask: Ask,
        deadline: Duration,
    ) -> Result<(Outcome, Vec<u8>, Room), Failure> {
        // The pause of an earlier dump is no cost of this one.
        self.failed_pause = None;
        if let Some(child) = &mut self.stuck {
            if matches!(child.try_wait(), Ok(None)) {
                return Err(Failure::new(
                    Reason::Timeout,
                    "the previous attach was killed and still hangs in the kernel",
                ));
            }
            self.stuck = None;
        }
        let request = Request {
            proc_root: self.proc_root.clone(),
            pid: self.broker.process.pid,
            start_ticks: self.broker.process.start_ticks,
            deadline,
            max_bytes: MAX_DUMP_BYTES,
            may_signal: self.signals.are_allowed(Instant::now()),
            listener: self.listener,
            ask,
        };
        // Not by a blocking thread, though this waits for exec: the child is killed when the thread that started it ends,
        // and those end when they are idle.
        let mut child = Command::new(&self.exe)
            .args(request.arguments())
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| {
                Failure::new(
                    Reason::Protocol,
                    format!("cannot start {}: {error}", self.exe.display()),
                )
            })?;
        let mut waits_for_room = false;
        let output = match child.stdout.take() {
            Some(stdout) => {
                timeout(deadline + GRACE, read_output(stdout, &mut waits_for_room)).await
            }
            None => Ok(Err("it has no standard output".into())),
        };
        self.end(child).await;
        if !matches!(output, Ok(Ok(_))) && request.may_signal {
            // It may have signalled.
            self.signals.perhaps_failed(Instant::now());
        }
        let (header, bytes, room) = output
            .map_err(|_| match waits_for_room {
                true => Failure::new(
                    Reason::NoRoom,
                    "no room for the dump: the exporter has as many answers in flight as it keeps at a time; if this \
                     lasts, a broker, or a process that looks like one, sends far more than usual",
                ),
                false => Failure::new(
                    Reason::Timeout,
                    "the attach child did not end at its deadline; it was killed",
                ),
            })?
            .map_err(|cause| {
                Failure::new(
                    Reason::Protocol,
                    format!("the attach child failed: {cause}"),
                )
            })?;
        match header.outcome {
            Outcome::Error {
                reason,
                message,
                pause,
            } => {
                self.failed_pause = pause;
                let now = Instant::now();
                if header.signalled {
                    self.signals.failed(reason, now);
                }
                let next = self.signals.text(now);
                Err(Failure::new(reason, format!("{message}{next}")))
            }
            outcome => {
                self.signals.succeeded();
                Ok((outcome, bytes, room))
            }
        }
    }

    /// Returns how long the JVM was stopped at safepoints during the last dump, which failed; None where that is unknown.
    pub fn failed_pause(&mut self) -> Option<Duration> {
        self.failed_pause.take()
    }

    /// Kills the child if it has not ended, and reaps it.
    async fn end(&mut self, mut child: Child) {
        // Fails only if it has ended already.
        let _ = child.start_kill();
        if timeout(GRACE, child.wait()).await.is_err() {
            self.stuck = Some(child);
        }
    }

    /// Adds what was wanted, and from which process.
    fn of(&self, what: &str, Failure { reason, message }: Failure) -> Failure {
        let pid = self.broker.process.pid;
        match self.broker.id {
            Some(id) => Failure::new(
                reason,
                format!("{what} of broker {id} (pid {pid}): {message}"),
            ),
            None => Failure::new(reason, format!("{what} of pid {pid}: {message}")),
        }
    }
}

/// What a dump of so many bytes takes while it is read: its text, and its threads, of which small ones take more than their
/// text.
fn room_for(bytes: usize) -> usize {
    bytes + bytes.saturating_mul(16).min(40 << 20)
}

/// The header line and as many bytes as it announces, for which it waits until there is room.
async fn read_output(
    stdout: ChildStdout,
    waits_for_room: &mut bool,
) -> Result<(Header, Vec<u8>, Room), String> {
    // Fewer turns between child and reader; where it is refused, it takes some more.
    let _ = rustix::pipe::fcntl_setpipe_size(&stdout, 1 << 20);
    let mut reader = BufReader::with_capacity(64 << 10, stdout);
    let mut line = Vec::new();
    let read = (&mut reader)
        .take(MAX_HEADER_BYTES as u64)
        .read_until(b'\n', &mut line)
        .await;
    read.map_err(|error| error.to_string())?;
    let header: Header =
        serde_json::from_slice(&line).map_err(|error| format!("no header: {error}"))?;
    if header.bytes > MAX_DUMP_BYTES {
        return Err(format!("it announces {} bytes", header.bytes));
    }
    let mut room = Room::default();
    *waits_for_room = true;
    room.grow_to(room_for(header.bytes)).await;
    *waits_for_room = false;
    let mut bytes = Vec::with_capacity(header.bytes);
    let read = reader
        .take(header.bytes as u64 + 1)
        .read_to_end(&mut bytes)
        .await;
    read.map_err(|error| error.to_string())?;
    if bytes.len() == header.bytes {
        Ok((header, bytes, room))
    } else {
        Err(format!(
            "it announced {} bytes and sent {}",
            header.bytes,
            bytes.len()
        ))
    }
}
