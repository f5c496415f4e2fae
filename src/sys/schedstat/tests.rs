#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::mpsc;
use std::thread;

use super::*;

fn own(allowance: usize) -> Tasks {
    let proc = ProcRoot::new("/proc");
    let pid = std::process::id();
    let start = proc.stat(pid).unwrap().start_ticks;
    let mut tasks = Tasks::open(&proc, pid, start, Allowance::new(allowance)).unwrap();
    tasks.scan().unwrap();
    tasks
}

/// A thread that answers each question and sleeps otherwise.
struct Sleeper {
    id: u32,
    ask: Option<mpsc::Sender<()>>,
    answer: mpsc::Receiver<()>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Sleeper {
    fn start(name: &str) -> Sleeper {
        let (ask, asked) = mpsc::channel();
        let (reply, answer) = mpsc::channel();
        let (report, id) = mpsc::channel();
        let thread = thread::Builder::new().name(name.into()).spawn(move || {
            report
                .send(rustix::thread::gettid().as_raw_nonzero().get() as u32)
                .unwrap();
            while asked.recv().is_ok() {
                reply.send(()).unwrap();
            }
        });
        Sleeper {
            id: id.recv().unwrap(),
            ask: Some(ask),
            answer,
            thread: Some(thread.unwrap()),
        }
    }

    fn wake(&self) {
        self.ask.as_ref().unwrap().send(()).unwrap();
        self.answer.recv().unwrap();
        self.asleep();
    }

    fn asleep(&self) {
        while !self.status("State:").starts_with('S') {
            thread::yield_now();
        }
    }

    fn status(&self, field: &str) -> String {
        let status =
            std::fs::read_to_string(format!("/proc/self/task/{}/status", self.id)).unwrap();
        status
            .lines()
            .find_map(|line| line.strip_prefix(field))
            .unwrap()
            .trim()
            .to_owned()
    }

    /// The kernel's other count: how often the thread left a CPU.
    fn switches_by_status(&self) -> u64 {
        ["voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"]
            .map(|f| self.status(f).parse::<u64>().unwrap())
            .iter()
            .sum()
    }

    fn end(&mut self) {
        self.ask = None;
        self.thread.take().unwrap().join().unwrap();
        // The kernel may show the thread a moment longer.
        while std::path::Path::new(&format!("/proc/self/task/{}", self.id)).exists() {
            thread::yield_now();
        }
    }
}

fn counts_of(tasks: &mut Tasks, id: u32) -> Option<Counts> {
    let mut counts = None;
    tasks
        .counts([(id, ())], |_, (), found| counts = Some(found))
        .unwrap();
    counts
}

#[test]
fn counts_agree_with_status_with_and_without_kept_fds() {
    for allowance in [0, 1000] {
        let mut sleeper = Sleeper::start("a thread of ours");
        sleeper.asleep();
        let mut tasks = own(allowance);
        let (_, task) = tasks.iter().find(|(id, _)| *id == sleeper.id).unwrap();
        assert_eq!(task.name, "a thread of our", "cut at 15 bytes");
        assert_eq!(task.inner_id, sleeper.id);
        let before = (
            counts_of(&mut tasks, sleeper.id).unwrap(),
            sleeper.switches_by_status(),
        );
        for _ in 0..20 {
            sleeper.wake();
        }
        let after = (
            counts_of(&mut tasks, sleeper.id).unwrap(),
            sleeper.switches_by_status(),
        );
        assert_eq!(after.0.switches - before.0.switches, after.1 - before.1);
        assert!(
            after.1 - before.1 >= 20 && after.0.cpu > before.0.cpu,
            "{before:?} {after:?}"
        );
        assert_eq!(tasks.state(sleeper.id).unwrap(), Some('S'));
        sleeper.end();
        assert_eq!(counts_of(&mut tasks, sleeper.id), None);
        assert_eq!(tasks.state(sleeper.id).unwrap(), None);
        assert!(tasks.iter().all(|(id, _)| id != sleeper.id));
    }
}

#[test]
fn kept_fds_stay_within_the_allowance() {
    let mut sleepers: Vec<_> = (0..4).map(|_| Sleeper::start("sleeper")).collect();
    let mut tasks = own(3);
    for sleeper in &sleepers {
        assert!(counts_of(&mut tasks, sleeper.id).is_some());
    }
    let kept = |tasks: &Tasks| tasks.iter().filter(|(_, task)| task.kept.is_some()).count();
    assert_eq!(kept(&tasks), 3);
    let first = sleepers[0].id;
    tasks.keep_only(|id| id == first);
    assert_eq!(kept(&tasks), 1);
    assert!(counts_of(&mut tasks, sleepers[3].id).is_some());
    assert_eq!(kept(&tasks), 2);
    sleepers.iter_mut().for_each(Sleeper::end);
    tasks.scan().unwrap();
    assert_eq!(kept(&tasks), 0);
}

#[test]
fn another_process_and_a_kernel_that_does_not_count_are_errors() {
    let pid = std::process::id();
    let error = Tasks::open(&ProcRoot::new("/proc"), pid, 1, Allowance::new(1)).unwrap_err();
    assert!(matches!(error, ProcError::Gone { .. }), "{error}");
    let folder = tempfile::tempdir().unwrap();
    let task = folder.path().join("7/task/7");
    std::fs::create_dir_all(&task).unwrap();
    let start = ProcRoot::new("/proc").stat(pid).unwrap().start_ticks;
    std::fs::copy(format!("/proc/{pid}/stat"), folder.path().join("7/stat")).unwrap();
    // The kernel writes zeros, or there is no file.
    for zeros in [true, false] {
        if zeros {
            std::fs::write(task.join("schedstat"), "0 0 0\n").unwrap();
        } else {
            std::fs::remove_file(task.join("schedstat")).unwrap();
        }
        let error =
            Tasks::open(&ProcRoot::new(folder.path()), 7, start, Allowance::new(1)).unwrap_err();
        assert!(error.to_string().contains("CONFIG_SCHED_INFO"), "{error}");
    }
}

#[test]
fn counts_are_three_numbers() {
    let counts = |cpu, run_queue, switches| {
        Some(Counts {
            cpu,
            run_queue,
            switches,
        })
    };
    for (text, expected) in [
        ("31415926 271828 42\n", counts(31_415_926, 271_828, 42)),
        (
            "9999999999999999999 0 1",
            counts(9_999_999_999_999_999_999, 0, 1),
        ),
        ("18446744073709551616 0 1", None),
        ("1 2\n", None),
        ("", None),
        ("a b c", None),
    ] {
        assert_eq!(parse_counts(text.as_bytes()), expected, "{text:?}");
    }
}

#[test]
fn a_new_thread_is_found_by_the_number_of_threads_or_after_a_few_scans() {
    let mut tasks = own(100);
    assert!(tasks.scan_changed().unwrap(), "nothing is listed yet");
    let sleeper = Sleeper::start("new-thread");
    // Other tests of this process may end a thread at the same time.
    let scans = (0..=TRUSTED_SCANS).map(|_| tasks.scan_changed().unwrap());
    assert!(scans.filter(|scanned| *scanned).count() >= 1);
    assert!(tasks.get(sleeper.id).is_some());
}
