//! When a round runs, and where: its interval under a cost ceiling, and a worker whose hanging read delays no other.

use std::ops::ControlFlow;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::short_work::{self, Outcome, PATIENCE, Work};
use crate::model::{Failure, Reason};

/// A round that costs too much runs less often, by itself, and comes back when it is cheap again.
#[derive(Debug, Clone)]
pub struct AdaptiveInterval {
    configured: Duration,
    /// Share of the time that the round may cost: CPU of one core, or pause of the JVM.
    ceiling: f64,
    /// Cost of a run, smoothed: one odd run must not stretch the interval tenfold.
    cost: Option<Duration>,
}

/// However expensive a round is, it still runs.
pub(super) const LONGEST: Duration = Duration::from_secs(600);

impl AdaptiveInterval {
    pub fn new(configured: Duration, ceiling: f64) -> AdaptiveInterval {
        AdaptiveInterval {
            configured,
            ceiling,
            cost: None,
        }
    }

    /// Takes in what the newest run cost.
    pub fn spent(&mut self, cost: Duration) {
        self.cost = Some(match self.cost {
            None => cost,
            Some(before) => before.mul_f64(0.7) + cost.mul_f64(0.3),
        });
    }

    /// From the begin of one run to the begin of the next.
    pub fn interval(&self) -> Duration {
        let needed = self.cost.unwrap_or_default().div_f64(self.ceiling);
        self.configured.max(needed.min(LONGEST))
    }

    /// When the run after the one that began at `started` begins.
    pub fn next(&self, started: Instant) -> Instant {
        shared_moment(started, self.interval(), Instant::now())
    }
}

/// The first moment that rounds share and that is `interval` after `started`; a missed one is not made up for.
///
/// All rounds begin at the same moments, whole seconds or quarters of one: that wakes the exporter a few times a second,
/// however many brokers there are, and one snapshot shows what all of them read.
pub(super) fn shared_moment(started: Instant, interval: Duration, now: Instant) -> Instant {
    static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    let origin = *ORIGIN;
    let step = if interval >= SECOND && interval.subsec_nanos() == 0 {
        SECOND
    } else {
        QUARTER.min(interval).max(TIMER)
    };
    // A timer may fire a little early.
    let steps =
        |at: Instant| (at + TIMER).saturating_duration_since(origin).as_nanos() / step.as_nanos();
    let from = steps(started) + interval.as_nanos().div_ceil(step.as_nanos());
    let next = if from > steps(now) {
        from
    } else {
        steps(now) + 1
    };
    origin + step.saturating_mul(u32::try_from(next).unwrap_or(u32::MAX))
}

const SECOND: Duration = Duration::from_secs(1);
const QUARTER: Duration = Duration::from_millis(250);
/// As fine as timers are.
const TIMER: Duration = Duration::from_millis(1);

/// Runs blocking work, one piece at a time, on a thread of its own: while a piece hangs (a read of `/proc` on a sick
/// process can), the next is refused, so that a worker never holds more than one thread.
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

    /// What `work` answered, with the CPU time that it took; a [`Failure`] at the deadline.
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
            let before = thread_cpu();
            // A panic in an earlier piece leaves buffers that the next one overwrites anyway.
            let result = work(&mut state.lock().unwrap_or_else(PoisonError::into_inner));
            // After the deadline the receiver is gone.
            let _ = done.send((result, thread_cpu().saturating_sub(before)));
        }));
        match tokio::time::timeout(deadline, answer).await {
            Ok(Ok(result)) => {
                // It has let go of the state, and a piece that follows at once must not take its last steps for a hang.
                self.running = None;
                Ok(result)
            }
            Ok(Err(_)) => Err(panicked(what)),
            Err(_) => Err(timed_out(what, deadline)),
        }
    }

    /// Runs short work at `at`, and again at each time that it names, until it breaks with an answer. It shares its
    /// thread with the short work of others, see [`short_work`]. The answer is expected `usual` after `at`; a
    /// [`Failure`] where there is none after `deadline`.
    pub async fn repeat<R: Send + 'static>(
        &mut self,
        at: Instant,
        usual: Duration,
        deadline: Duration,
        what: &str,
        work: impl FnMut(&mut S, Instant) -> ControlFlow<R, Instant> + Send + 'static,
    ) -> Result<R, Failure> {
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
        short_work::shared()
            .submit(at, run.at(at))
            .map_err(|error| {
                Failure::new(
                    Reason::Internal,
                    format!("{what}: no thread can be started: {error}"),
                )
            })?;
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

    fn refuse_second(&self, what: &str) -> Result<(), Failure> {
        let running = self.running.as_ref();
        if self.submitted.strong_count() > 0
            || running.is_some_and(|running| !running.is_finished())
        {
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
                    // After the deadline the receiver is gone.
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

/// CPU time of the calling thread.
pub(super) fn thread_cpu() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_cheap_round_keeps_its_interval_and_a_dear_one_stretches() {
        let mut pace = AdaptiveInterval::new(Duration::from_secs(1), 0.005);
        assert_eq!(pace.interval(), Duration::from_secs(1));
        pace.spent(Duration::from_millis(2));
        assert_eq!(pace.interval(), Duration::from_secs(1));
        for _ in 0..40 {
            pace.spent(Duration::from_millis(22));
        }
        // 22 ms at 0.5 % of a core: once in 4.4 s.
        assert!(
            (pace.interval().as_secs_f64() - 4.4).abs() < 0.05,
            "{:?}",
            pace.interval()
        );
        for _ in 0..40 {
            pace.spent(Duration::from_millis(1));
        }
        assert_eq!(pace.interval(), Duration::from_secs(1));
        pace.spent(Duration::from_secs(3600));
        assert_eq!(pace.interval(), LONGEST);
    }

    #[test]
    fn rounds_begin_at_shared_moments_and_make_up_for_none() {
        let second = |seconds: f64| Duration::from_secs_f64(seconds);
        // A moment that the rounds share, some time after the first.
        let start = shared_moment(Instant::now() + second(100.0), SECOND, Instant::now());
        for (started, interval, now, next) in [
            (0.0, 1.0, 0.1, 1.0),
            (0.0, 30.0, 0.1, 30.0),
            (0.0, 0.25, 0.01, 0.25),
            // The first run began when its broker was found.
            (0.7, 1.0, 0.8, 1.0),
            (0.7, 0.25, 0.71, 0.75),
            // A little early, and a little late.
            (0.9995, 1.0, 1.01, 2.0),
            (1.01, 1.0, 1.02, 2.0),
            // Above its ceiling, so not earlier than that allows.
            (0.0, 4.4, 0.1, 4.5),
            (0.0, 0.437, 0.1, 0.5),
            // Shorter than the shared step.
            (0.0, 0.1, 0.05, 0.1),
            // The machine slept.
            (0.0, 1.0, 60.3, 61.0),
            (0.0, 0.25, 60.3, 60.5),
        ] {
            let found = shared_moment(
                start + second(started),
                second(interval),
                start + second(now),
            );
            let expected = start + second(next);
            assert_eq!(found, expected, "{started} {interval} {now}");
        }
    }

    #[tokio::test]
    async fn a_hanging_read_is_told_and_not_joined_by_a_second() {
        let mut lane = BlockingWorker::new(0);
        let (release, hang) = mpsc::channel::<()>();
        let failure = lane
            .run(Duration::from_millis(20), "broker 1", move |_| {
                hang.recv().is_ok()
            })
            .await
            .unwrap_err();
        assert_eq!(failure.reason, Reason::Timeout);
        let second = lane
            .run(Duration::from_secs(5), "broker 1", |_| ())
            .await
            .unwrap_err();
        assert!(
            second.message.contains("earlier read still hangs"),
            "{second}"
        );
        release.send(()).unwrap();
        lane.running.take().unwrap().await.unwrap();
        let (answer, _) = lane
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
        let mut lane = BlockingWorker::new(());
        let (release, hang) = mpsc::channel::<()>();
        let now = Instant::now();
        let stuck = move |(): &mut (), _| ControlFlow::Break(hang.recv().is_ok());
        let failure = lane
            .repeat(now, Duration::ZERO, PATIENCE, "broker 1", stuck)
            .await;
        assert_eq!(failure.unwrap_err().reason, Reason::Timeout);
        let second = lane.repeat(now, Duration::ZERO, SECOND, "broker 1", |_, _| {
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
        while lane.submitted.strong_count() > 0 {
            tokio::task::yield_now().await;
        }
        let after = lane.repeat(now, Duration::ZERO, SECOND * 10, "broker 1", |_, _| {
            ControlFlow::Break(())
        });
        after.await.unwrap();
    }

    #[tokio::test]
    async fn a_panic_in_short_work_is_a_failure_of_one_run() {
        let mut lane = BlockingWorker::new(());
        let panics = |_: &mut (), _| -> ControlFlow<(), Instant> { panic!("made by the test") };
        let failure = lane
            .repeat(
                Instant::now(),
                Duration::ZERO,
                SECOND * 10,
                "broker 1",
                panics,
            )
            .await;
        assert_eq!(failure.unwrap_err().reason, Reason::Internal);
        let after = lane.repeat(
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
        let mut lane = BlockingWorker::new(());
        for _ in 0..2000 {
            lane.run(Duration::from_secs(5), "broker 1", |()| ())
                .await
                .unwrap();
        }
    }

    #[tokio::test]
    async fn a_panic_is_a_failure_of_one_run() {
        let mut lane = BlockingWorker::new(());
        let failure = lane
            .run(Duration::from_secs(5), "broker 1", |_| {
                panic!("made by the test")
            })
            .await
            .unwrap_err();
        assert_eq!(failure.reason, Reason::Internal);
        lane.running.take().unwrap().await.unwrap_err();
        assert!(
            lane.run(Duration::from_secs(5), "broker 1", |_| ())
                .await
                .is_ok()
        );
    }
}
