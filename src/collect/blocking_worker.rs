//! Blocking work with a deadline: the one guard against reads that hang in the kernel.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::short_work::{self, Outcome, PATIENCE, Work};
use crate::model::{Failure, Reason};

/// Runs blocking work, one piece at a time, away from the runtime's threads. While a piece hangs (a read of `/proc` of a
/// sick process can), the next is refused instead of started, so that a worker never holds more than one thread.
#[derive(Debug)]
pub struct BlockingWorker<S> {
    state: Arc<Mutex<S>>,
    running: Option<JoinHandle<()>>,
    /// Lives as long as short work that was submitted.
    submitted: Weak<()>,
}

impl<S: Send + 'static> BlockingWorker<S> {
    /// `state` is handed to each piece of work: buffers that are worth keeping.
    pub fn new(state: S) -> BlockingWorker<S> {
        BlockingWorker {
            state: Arc::new(Mutex::new(state)),
            running: None,
            submitted: Weak::new(),
        }
    }

    /// Runs `work` on a thread of its own, and returns its answer and the CPU time that it took; a [`Failure`] at the
    /// deadline.
    pub async fn run<R: Send + 'static>(
        &mut self,
        deadline: Duration,
        what: &str,
        work: impl FnOnce(&mut S) -> R + Send + 'static,
    ) -> Result<(R, Duration), Failure> {
        self.refuse_second(what)?;
        let (done, answer) = oneshot::channel();
        let state = Arc::clone(&self.state);
        self.running = Some(tokio::task::spawn_blocking(move || {
            // A panic in an earlier piece leaves buffers that the next one overwrites anyway.
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            let result = measured(|| work(&mut state));
            drop(state);
            // After the deadline there is no receiver any more.
            let _ = done.send(result);
        }));
        match tokio::time::timeout(deadline, answer).await {
            Ok(Ok(result)) => {
                // The state is released; a piece that follows at once must not take the thread's last steps for a hang.
                self.running = None;
                Ok(result)
            }
            Ok(Err(_)) => Err(panicked(what)),
            Err(_) => Err(timed_out(what, deadline)),
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
        let submitted = Arc::new(());
        self.submitted = Arc::downgrade(&submitted);
        let run = Repeated {
            state: Arc::clone(&self.state),
            work,
            done,
            submitted,
        };
        if let Err(error) = short_work::shared().submit(at, run.at(at)) {
            // Else a caller that goes on at once would spin.
            tokio::time::sleep_until(at.into()).await;
            let message = format!("{what}: no thread can be started: {error}");
            return Err(Failure::new(Reason::Internal, message));
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

    fn is_running(&self) -> bool {
        let running = self.running.as_ref();
        self.submitted.strong_count() > 0 || running.is_some_and(|running| !running.is_finished())
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
    submitted: Arc<()>,
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
                    let Repeated {
                        done, submitted, ..
                    } = self;
                    // Before the answer: work that follows at once must not take this for a hang.
                    drop(submitted);
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

fn timed_out(what: &str, deadline: Duration) -> Failure {
    let seconds = deadline.as_secs_f32();
    let message = format!("{what}: no answer from the kernel within {seconds} s");
    Failure::new(Reason::Timeout, message)
}

/// Returns the answer of `read` and the CPU time that it took.
pub(super) fn measured<R>(read: impl FnOnce() -> R) -> (R, Duration) {
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
    use std::sync::mpsc;

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
        worker.running.take().unwrap().await.unwrap();
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
        while worker.submitted.strong_count() > 0 {
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
        worker.running.take().unwrap().await.unwrap_err();
        assert!(
            worker
                .run(Duration::from_secs(5), "broker 1", |_| ())
                .await
                .is_ok()
        );
    }
}
