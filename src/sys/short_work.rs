//! One thread for all work that is short: the reads of /proc and of the socket tables that run every second.
//!
//! Rounds of many brokers are due at the same moments. On a thread of its own each costs two context switches, which is
//! more than what it reads; here one thread wakes once, does all that is due, and delivers the answers together. It
//! sleeps until the next work is due by itself, so that the runtime is not woken to start it.
//!
//! Work that hangs in the kernel delays the others only for [`PATIENCE`]: another thread then takes the place, and the
//! one that hangs ends when its work does.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Work that takes longer is taken to hang.
pub(super) const PATIENCE: Duration = Duration::from_millis(50);

pub(super) type Work = Box<dyn FnOnce() -> Outcome + Send>;

/// What became of a piece of work.
pub(super) enum Outcome {
    /// This hands its answer over.
    Done(Box<dyn FnOnce() + Send>),
    /// It has nothing to say yet, and goes on at this time.
    Again(Instant, Work),
}

/// The thread and what is due.
#[derive(Default)]
pub(super) struct ShortWork {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    due: BinaryHeap<Due>,
    submitted: u64,
    answers: Vec<Box<dyn FnOnce() + Send>>,
    thread: Thread,
    /// Which thread serves; others end.
    turn: u64,
}

#[derive(Default, Clone, Copy)]
enum Thread {
    #[default]
    None,
    /// Until work is submitted, or until this time.
    Sleeps(Option<Instant>),
    /// In one piece of work, since this time.
    Works(Instant),
    /// Between two.
    Awake,
}

struct Due {
    at: Instant,
    number: u64,
    work: Work,
}

/// The one of this process.
pub(super) fn shared() -> &'static ShortWork {
    static SHARED: LazyLock<ShortWork> = LazyLock::new(ShortWork::default);
    &SHARED
}

impl ShortWork {
    /// Has `work` done at `at`.
    ///
    /// # Errors
    /// No thread can be started.
    pub(super) fn submit(&'static self, at: Instant, work: Work) -> std::io::Result<()> {
        let mut state = self.lock();
        state.push(at, work);
        match state.thread {
            // The work is not kept where no thread can be started: its caller would take it for work that hangs, and
            // would submit nothing that starts a thread later.
            Thread::None => self.start(&mut state).inspect_err(|_| state.due.clear()),
            Thread::Sleeps(until) if until.is_none_or(|until| at < until) => {
                self.wake.notify_all();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Replaces the thread if it hangs. For a caller that has waited longer than expected.
    pub(super) fn check(&'static self) {
        let mut state = self.lock();
        if let Thread::Works(since) = state.thread
            && since.elapsed() >= PATIENCE
        {
            // Without another thread the next check tries again.
            let _ = self.start(&mut state);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that panics runs while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&'static self, state: &mut State) -> std::io::Result<()> {
        let turn = state.turn + 1;
        let thread = std::thread::Builder::new().name("short-work".into());
        thread.spawn(move || self.serve(turn))?;
        (state.turn, state.thread) = (turn, Thread::Awake);
        Ok(())
    }

    /// Until another thread has taken the place.
    fn serve(&self, turn: u64) {
        let mut state = self.lock();
        while state.turn == turn {
            let now = Instant::now();
            let next = state.due.peek().map(|due| due.at);
            if next.is_some_and(|at| at <= now)
                && let Some(Due { work, .. }) = state.due.pop()
            {
                state.thread = Thread::Works(now);
                drop(state);
                // The caller that waits for the answer sees that its sender is gone.
                let outcome = catch_unwind(AssertUnwindSafe(work));
                state = self.lock();
                match outcome {
                    Ok(Outcome::Again(at, work)) => {
                        state.push(at, work);
                        if state.turn != turn {
                            // The thread that serves now may sleep beyond that time.
                            self.wake.notify_all();
                        }
                    }
                    Ok(Outcome::Done(answer)) => state.answers.push(answer),
                    Err(_) => {}
                }
                if state.turn == turn {
                    state.thread = Thread::Awake;
                }
            } else if !state.answers.is_empty() {
                state = self.deliver(state);
            } else {
                state.thread = Thread::Sleeps(next);
                let wait = next.map_or(Duration::MAX, |at| at - now);
                let woken = self.wake.wait_timeout(state, wait);
                (state, _) = woken.unwrap_or_else(PoisonError::into_inner);
                if state.turn == turn {
                    state.thread = Thread::Awake;
                }
            }
        }
        // Its work ended after all.
        drop(self.deliver(state));
    }

    fn deliver<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let answers = std::mem::take(&mut state.answers);
        drop(state);
        answers.into_iter().for_each(|answer| answer());
        self.lock()
    }
}

impl State {
    fn push(&mut self, at: Instant, work: Work) {
        self.submitted += 1;
        let number = self.submitted;
        self.due.push(Due { at, number, work });
    }
}

/// The earliest is the greatest, of several the one that was submitted first.
impl Ord for Due {
    fn cmp(&self, other: &Due) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Due) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Due {}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    fn fresh() -> &'static ShortWork {
        Box::leak(Box::default())
    }

    fn says(number: u32, answers: &mpsc::Sender<(u32, std::thread::ThreadId)>) -> Work {
        let answers = answers.clone();
        Box::new(move || {
            let thread = std::thread::current().id();
            Outcome::Done(Box::new(move || {
                let _ = answers.send((number, thread));
            }))
        })
    }

    #[test]
    fn one_thread_does_in_order_what_is_due() {
        let work = fresh();
        let (send, answers) = mpsc::channel();
        let start = Instant::now() + Duration::from_millis(50);
        for (number, after) in [(3, 20), (1, 0), (4, 40), (2, 0)] {
            let at = start + Duration::from_millis(after);
            work.submit(at, says(number, &send)).unwrap();
        }
        let done: Vec<_> = (0..4)
            .map(|_| answers.recv_timeout(LIMIT).unwrap())
            .collect();
        assert!(start.elapsed() >= Duration::from_millis(40));
        let numbers: Vec<u32> = done.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, [1, 2, 3, 4]);
        assert!(done.iter().all(|(_, thread)| *thread == done[0].1));
        // What comes while it sleeps for long wakes it.
        work.submit(Instant::now() + LIMIT * 6, says(9, &send))
            .unwrap();
        work.submit(Instant::now(), says(5, &send)).unwrap();
        assert_eq!(answers.recv_timeout(LIMIT).unwrap().0, 5);
    }

    #[test]
    fn work_goes_on_until_it_has_something_to_say() {
        fn counts(number: u32, answers: mpsc::Sender<u32>) -> Work {
            Box::new(move || match number {
                3 => Outcome::Done(Box::new(move || {
                    let _ = answers.send(number);
                })),
                _ => Outcome::Again(Instant::now(), counts(number + 1, answers)),
            })
        }
        let (send, answers) = mpsc::channel();
        fresh().submit(Instant::now(), counts(0, send)).unwrap();
        assert_eq!(answers.recv_timeout(LIMIT), Ok(3));
    }

    #[test]
    fn what_hangs_delays_the_others_for_a_moment() {
        let work = fresh();
        let (send, answers) = mpsc::channel();
        let (release, hang) = mpsc::channel::<()>();
        let (entered, hangs) = mpsc::channel();
        // Its answer is there, and would be delivered after what hangs.
        work.submit(Instant::now(), says(1, &send)).unwrap();
        let after = says(3, &send);
        let stuck = move || {
            entered.send(()).unwrap();
            let _ = hang.recv();
            after()
        };
        work.submit(Instant::now(), Box::new(stuck)).unwrap();
        work.submit(Instant::now(), says(2, &send)).unwrap();
        hangs.recv_timeout(LIMIT).unwrap();
        let others: Vec<u32> = (0..2)
            .map(|_| {
                loop {
                    work.check();
                    if let Ok((number, _)) = answers.recv_timeout(Duration::from_millis(10)) {
                        return number;
                    }
                }
            })
            .collect();
        assert_eq!(others, [1, 2]);
        release.send(()).unwrap();
        assert_eq!(answers.recv_timeout(LIMIT).unwrap().0, 3);
    }

    #[test]
    fn a_panic_ends_only_the_work_that_panics() {
        let work = fresh();
        let (send, answers) = mpsc::channel();
        let panics = || -> Outcome { panic!("made by the test") };
        work.submit(Instant::now(), Box::new(panics)).unwrap();
        work.submit(Instant::now(), says(1, &send)).unwrap();
        assert_eq!(answers.recv_timeout(LIMIT).unwrap().0, 1);
    }
}
