//! Blocking work with a deadline: the one guard against reads that hang in the kernel.

use std::ops::ControlFlow;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::oneshot;

use super::short_work::{self, Outcome, PATIENCE, Work};
use crate::model::shares::{Share, Shares};
use crate::model::{Failure, Reason};

/// Threads at a time, of all workers: reads that hang must not become more and more.
const THREADS: usize = 32;
/// Of these, at processes of other users than the first: those may all hang on purpose.
const THREADS_OF_OTHERS: usize = 8;
static PLACES: Shares = Shares::new(THREADS, THREADS_OF_OTHERS);

/// Runs blocking work, one piece at a time, away from the threads that must not wait. While a piece hangs (a read of
/// `/proc` of a sick process can), the next is refused, so that a worker never holds more than one thread.
#[derive(Debug)]
pub struct BlockingWorker<S> {
    state: Arc<Mutex<S>>,
    /// Lives as long as the piece of work under way.
    running: Weak<()>,
    /// Whether it counts among [`THREADS`].
    counted: bool,
    /// Whether it then counts among [`THREADS_OF_OTHERS`] as well.
    of_others: bool,
}

impl<S: Send + 'static> BlockingWorker<S> {
    /// `state` is handed to each piece of work: buffers that are worth keeping.
    pub fn new(state: S) -> BlockingWorker<S> {
        BlockingWorker {
            state: Arc::new(Mutex::new(state)),
            running: Weak::new(),
            counted: true,
            of_others: false,
        }
    }

    /// A worker that always has its thread, for what exists once in the exporter and must go on while others hang.
    pub fn reserved(state: S) -> BlockingWorker<S> {
        BlockingWorker {
            counted: false,
            ..BlockingWorker::new(state)
        }
    }

    /// Whether it reads at a process of another user than the first, see `discover/standing.rs`.
    pub fn set_of_others(&mut self, of_others: bool) {
        self.of_others = of_others;
    }

    /// Waits for the place that a thread needs. It counts for as long as that lives.
    async fn place(&self) -> Option<Share> {
        match self.counted {
            true => Some(PLACES.one(self.of_others).await),
            false => None,
        }
    }

    /// Runs `work` on a thread of its own, and returns its answer and the CPU time that it took; a [`Failure`] at the
    /// deadline. While as many threads as there may be are at work, it waits for one of them.
    pub async fn run<R: Send + 'static>(
        &mut self,
        deadline: Duration,
        what: &str,
        work: impl FnOnce(&mut S) -> R + Send + 'static,
    ) -> Result<(R, Duration), Failure> {
        self.refuse_second(what)?;
        let end = tokio::time::Instant::now() + deadline;
        let Ok(place) = tokio::time::timeout_at(end, self.place()).await else {
            return Err(no_place(what));
        };
        let (done, answer) = oneshot::channel();
        // After the deadline there is no receiver any more.
        self.start(what, place, work, |result| drop(done.send(result)))?;
        match tokio::time::timeout_at(end, answer).await {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(_)) => Err(panicked(what)),
            Err(_) => Err(timed_out(what, deadline)),
        }
    }

    /// As [`BlockingWorker::run`], for a caller that may wait itself and needs no place.
    pub fn run_and_wait<R: Send + 'static>(
        &mut self,
        deadline: Duration,
        what: &str,
        work: impl FnOnce(&mut S) -> R + Send + 'static,
    ) -> Result<R, Failure> {
        let (done, answer) = mpsc::sync_channel(1);
        self.start(what, None, work, move |result| drop(done.send(result)))?;
        match answer.recv_timeout(deadline) {
            Ok((result, _)) => Ok(result),
            Err(RecvTimeoutError::Disconnected) => Err(panicked(what)),
            Err(RecvTimeoutError::Timeout) => Err(timed_out(what, deadline)),
        }
    }

    fn start<R: 'static>(
        &mut self,
        what: &str,
        place: Option<Share>,
        work: impl FnOnce(&mut S) -> R + Send + 'static,
        deliver: impl FnOnce((R, Duration)) + Send + 'static,
    ) -> Result<(), Failure> {
        self.refuse_second(what)?;
        let state = Arc::clone(&self.state);
        let running = Arc::new(());
        self.running = Arc::downgrade(&running);
        let piece = move || {
            // Dropped in reverse order, also by a panic: when the caller sees an end, the next piece may follow.
            let deliver = deliver;
            let running = running;
            let place = place;
            // A panic in an earlier piece leaves buffers that the next one overwrites anyway.
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            let result = measured(|| work(&mut state));
            drop(state);
            drop(place);
            drop(running);
            deliver(result);
        };
        let thread = std::thread::Builder::new().name("blocking".into());
        match thread.spawn(piece) {
            Ok(_) => Ok(()),
            Err(error) => Err(no_thread(what, &error)),
        }
    }

    /// Runs short work at `at`, and again at each time that it names, until it breaks with an answer. It shares its
    /// thread with the short work of others, see `short_work.rs`. The answer is expected `usual` after `at`; a
    /// [`Failure`] where there is none after `deadline`.
    pub async fn repeat<R: Send + 'static>(
        &mut self,
        at: Instant,
        usual: Duration,
        deadline: Duration,
        what: &str,
        work: impl FnMut(&mut S, Instant) -> ControlFlow<R, Instant> + Send + 'static,
    ) -> Result<R, Failure> {
        if self.is_running() {
            // Else a caller that goes on at once would spin.
            tokio::time::sleep_until(at.into()).await;
        }
        self.refuse_second(what)?;
        let (done, mut answer) = oneshot::channel();
        let running = Arc::new(());
        self.running = Arc::downgrade(&running);
        let run = Repeated {
            state: Arc::clone(&self.state),
            work,
            done,
            running,
        };
        if let Err(error) = short_work::shared().submit(at, run.at(at)) {
            // Else a caller that goes on at once would spin.
            tokio::time::sleep_until(at.into()).await;
            return Err(no_thread(what, &error));
        }
        let end = at + deadline;
        loop {
            let patient = end.min((at + usual).max(Instant::now()) + PATIENCE * 2);
            match tokio::time::timeout_at(patient.into(), &mut answer).await {
                Ok(Ok(result)) => return Ok(result),
                Ok(Err(_)) => return Err(panicked(what)),
                Err(_) if patient == end => return Err(timed_out(what, deadline)),
                Err(_) => short_work::shared().check(),
            }
        }
    }

    /// Whether a piece is under way, which may hang.
    pub fn is_running(&self) -> bool {
        self.running.strong_count() > 0
    }

    /// Waits until the piece under way has ended, so long at most. Its caller was dropped, and nobody else would know.
    pub async fn ended(&self, deadline: Duration) {
        let end = Instant::now() + deadline;
        while self.is_running() && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn refuse_second(&self, what: &str) -> Result<(), Failure> {
        if self.is_running() {
            let message = format!(
                "{what}: an earlier read still hangs in the kernel; look for state D in /proc/PID/stat"
            );
            return Err(Failure::new(Reason::Timeout, message));
        }
        Ok(())
    }
}

/// Work that is run until it breaks.
struct Repeated<S, R, F> {
    state: Arc<Mutex<S>>,
    work: F,
    /// Dropped before the sender: when a panic shows to who waits, the next work may follow.
    running: Arc<()>,
    done: oneshot::Sender<R>,
}

impl<S, R, F> Repeated<S, R, F>
where
    S: Send + 'static,
    R: Send + 'static,
    F: FnMut(&mut S, Instant) -> ControlFlow<R, Instant> + Send + 'static,
{
    fn at(mut self, at: Instant) -> Work {
        Box::new(move || {
            if self.done.is_closed() {
                return Outcome::Done(Box::new(|| ()));
            }
            let state = Arc::clone(&self.state);
            // A panic in an earlier run leaves buffers that the next one overwrites anyway.
            let step = (self.work)(
                &mut state.lock().unwrap_or_else(PoisonError::into_inner),
                at,
            );
            match step {
                ControlFlow::Continue(next) => Outcome::Again(next, self.at(next)),
                ControlFlow::Break(result) => {
                    let Repeated { done, running, .. } = self;
                    // Before the answer: work that follows at once must not take this for a hang.
                    drop(running);
                    // After the deadline there is no receiver any more.
                    Outcome::Done(Box::new(move || {
                        let _ = done.send(result);
                    }))
                }
            }
        })
    }
}

fn panicked(what: &str) -> Failure {
    let message = format!("{what}: the collector panicked; see the log");
    Failure::new(Reason::Internal, message)
}

fn no_thread(what: &str, error: &std::io::Error) -> Failure {
    let message = format!(
        "{what}: no thread can be started: {error}; raise the limit of processes (ulimit -u, TasksMax=) or of memory"
    );
    Failure::new(Reason::NoRoom, message)
}

fn no_place(what: &str) -> Failure {
    let message = format!(
        "{what}: {THREADS} reads are under way, which is the most at a time, or {THREADS_OF_OTHERS} at processes of other users \
         than the first; look for state D in /proc/PID/stat"
    );
    Failure::new(Reason::NoRoom, message)
}

fn timed_out(what: &str, deadline: Duration) -> Failure {
    let seconds = deadline.as_secs_f32();
    let message = format!("{what}: no answer from the kernel within {seconds} s");
    Failure::new(Reason::Timeout, message)
}

/// Returns the answer of `read` and the CPU time that it took.
pub fn measured<R>(read: impl FnOnce() -> R) -> (R, Duration) {
    let before = thread_cpu();
    let answer = read();
    (answer, thread_cpu().saturating_sub(before))
}

/// CPU time of the calling thread.
fn thread_cpu() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn a_hanging_read_is_reported_and_not_joined_by_a_second() {
        let mut worker = BlockingWorker::new(0);
        let (release, hang) = mpsc::channel::<()>();
        let failure = worker
            .run(Duration::from_millis(20), "broker 1", move |_| {
                hang.recv().is_ok()
            })
            .await
            .unwrap_err();
        assert_eq!(failure.reason, Reason::Timeout);
        let second = worker
            .run(Duration::from_secs(5), "broker 1", |_| ())
            .await
            .unwrap_err();
        assert!(
            second.message.contains("earlier read still hangs"),
            "{second}"
        );
        release.send(()).unwrap();
        while worker.is_running() {
            tokio::task::yield_now().await;
        }
        let (answer, _) = worker
            .run(Duration::from_secs(5), "broker 1", |n| {
                *n += 1;
                *n
            })
            .await
            .unwrap();
        assert_eq!(answer, 1);
    }

    #[tokio::test]
    async fn short_work_that_hangs_times_out_and_others_go_on() {
        let mut worker = BlockingWorker::new(());
        let (release, hang) = mpsc::channel::<()>();
        let now = Instant::now();
        let stuck = move |(): &mut (), _| ControlFlow::Break(hang.recv().is_ok());
        let failure = worker
            .repeat(now, Duration::ZERO, PATIENCE, "broker 1", stuck)
            .await;
        assert_eq!(failure.unwrap_err().reason, Reason::Timeout);
        let second = worker.repeat(now, Duration::ZERO, SECOND, "broker 1", |_, _| {
            ControlFlow::Break(())
        });
        let second = second.await.unwrap_err();
        assert!(
            second.message.contains("earlier read still hangs"),
            "{second}"
        );
        // Another thread takes the place.
        let mut other = BlockingWorker::new(0);
        let counts = |count: &mut u32, _| {
            *count += 1;
            match *count {
                3 => ControlFlow::Break(*count),
                _ => ControlFlow::Continue(Instant::now()),
            }
        };
        let answer = other
            .repeat(now, Duration::ZERO, SECOND * 10, "broker 2", counts)
            .await;
        assert_eq!(answer.unwrap(), 3);
        release.send(()).unwrap();
        while worker.is_running() {
            tokio::task::yield_now().await;
        }
        let after = worker.repeat(now, Duration::ZERO, SECOND * 10, "broker 1", |_, _| {
            ControlFlow::Break(())
        });
        after.await.unwrap();
    }

    #[tokio::test]
    async fn a_panic_in_short_work_is_a_failure_of_one_run() {
        let mut worker = BlockingWorker::new(());
        let panics = |_: &mut (), _| -> ControlFlow<(), Instant> { panic!("made by the test") };
        let failure = worker
            .repeat(
                Instant::now(),
                Duration::ZERO,
                SECOND * 10,
                "broker 1",
                panics,
            )
            .await;
        assert_eq!(failure.unwrap_err().reason, Reason::Internal);
        let after = worker.repeat(
            Instant::now(),
            Duration::ZERO,
            SECOND * 10,
            "broker 1",
            |_, _| ControlFlow::Break(()),
        );
        after.await.unwrap();
    }

    #[test]
    fn a_caller_that_waits_itself_gets_the_same_answers() {
        let mut worker = BlockingWorker::new(0);
        let mut count = || {
            worker.run_and_wait(SECOND * 10, "broker 1", |count| {
                *count += 1;
                assert!(*count != 2, "made by the test");
                *count
            })
        };
        assert_eq!(count().unwrap(), 1);
        assert_eq!(count().unwrap_err().reason, Reason::Internal);
        assert_eq!(count().unwrap(), 3);
        let (release, hang) = mpsc::channel::<()>();
        let short = Duration::from_millis(20);
        let hangs = worker.run_and_wait(short, "broker 1", move |_| hang.recv().is_ok());
        assert_eq!(hangs.unwrap_err().reason, Reason::Timeout);
        let second = worker.run_and_wait(SECOND * 10, "broker 1", |_| ());
        assert!(second.unwrap_err().message.contains("still hangs"));
        release.send(()).unwrap();
    }

    #[tokio::test]
    async fn pieces_may_follow_each_other_at_once() {
        let mut worker = BlockingWorker::new(());
        for _ in 0..2000 {
            worker
                .run(Duration::from_secs(5), "broker 1", |()| ())
                .await
                .unwrap();
        }
    }

    #[tokio::test]
    async fn a_panic_is_a_failure_of_one_run() {
        let mut worker = BlockingWorker::new(());
        let failure = worker
            .run(Duration::from_secs(5), "broker 1", |_| {
                panic!("made by the test")
            })
            .await
            .unwrap_err();
        assert_eq!(failure.reason, Reason::Internal);
        assert!(
            worker
                .run(Duration::from_secs(5), "broker 1", |_| ())
                .await
                .is_ok()
        );
    }

    #[tokio::test]
    async fn reads_that_hang_at_other_users_processes_leave_threads_to_the_first_user() {
        let mut hanging = Vec::new();
        for n in 0..=THREADS {
            let mut worker = BlockingWorker::new(());
            worker.set_of_others(true);
            let (release, hang) = mpsc::channel::<()>();
            let hangs = worker.run(Duration::from_millis(20), "a stranger", move |()| {
                hang.recv().is_ok()
            });
            let reason = hangs.await.unwrap_err().reason;
            let started = n < THREADS_OF_OTHERS;
            assert_eq!(
                reason,
                if started {
                    Reason::Timeout
                } else {
                    Reason::NoRoom
                },
                "{n}"
            );
            hanging.push((worker, release));
        }
        let mut real = BlockingWorker::new(());
        real.run(SECOND * 5, "broker 1", |()| ()).await.unwrap();
    }
}
