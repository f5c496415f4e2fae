#![allow(clippy::unwrap_used)]

use std::sync::mpsc;

use super::*;
use crate::model::ProcessKey;

/// Threads of this process stand for a broker's.
#[test]
fn a_thread_of_a_pool_that_has_ended_is_named() {
    let (send_id, id) = mpsc::channel();
    let (end, ended) = mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        send_id.send(rustix::thread::gettid()).unwrap();
        ended.recv().unwrap_err();
    });
    let id = id.recv().unwrap().as_raw_nonzero().get().unsigned_abs();
    let name = "kafka-log-cleaner-thread-0";
    let names: Arc<Names> = Arc::new([(id, Arc::from(name))].into());
    let proc = ProcRoot::new("/proc");
    let pid = std::process::id();
    let start_ticks = proc.stat(pid).unwrap().start_ticks;
    let broker = Arc::new(Broker::unknown(ProcessKey { pid, start_ticks }));
    let mut collector = ProgressCollector::new(proc, broker, Allowance::new(100), true);
    assert_eq!(collector.pass(&names).ended, []);
    assert_eq!(collector.pass(&names).ended, []);
    drop(end);
    thread.join().unwrap();
    // The kernel removes it a moment later.
    let start = Instant::now();
    let ended = loop {
        let ended = collector.pass(&names).ended;
        if !ended.is_empty() {
            break ended;
        }
        assert!(start.elapsed() < Duration::from_secs(10));
    };
    assert_eq!(ended, [(id, Arc::from(name))]);
    assert_eq!(collector.pass(&names).ended, []);
}

#[test]
fn an_ended_thread_is_a_reason_for_a_dump_until_one_came_after_it() {
    let start = Instant::now();
    let at = |millis| start + Duration::from_millis(millis);
    let mut ended = Ended::default();
    let dump = |_: u32| Some(Arc::new(Names::default()));
    let first = dump(1);
    ended.add([7].into_iter(), first.as_ref(), at(0));
    ended.add([].into_iter(), first.as_ref(), at(250));
    assert!(ended.threads.contains_key(&7));
    // One that was under way.
    let second = dump(2);
    ended.add([8].into_iter(), second.as_ref(), at(400));
    assert_eq!(ended.threads.len(), 2);
    let third = dump(3);
    ended.add([].into_iter(), third.as_ref(), at(700));
    assert_eq!(ended.threads.keys().collect::<Vec<_>>(), [&8]);
    // Where no dump can be taken it is over some time.
    ended.add([].into_iter(), third.as_ref(), at(10_000));
    assert_eq!(ended.threads.len(), 1);
    ended.add([].into_iter(), third.as_ref(), at(10_400));
    assert_eq!(ended.threads.len(), 0);
}

#[test]
fn the_passes_of_many_brokers_share_a_ceiling_unless_a_thread_is_suspected() {
    let of_all = |brokers: usize| brokers as f64 * ceiling(brokers, false);
    for (brokers, all) in [(1, 0.001), (3, 0.003), (12, 0.003), (64, 0.003)] {
        assert!((of_all(brokers) - all).abs() < 1e-9, "{brokers}");
    }
    // Before the first scan has ended.
    assert_eq!(ceiling(0, false), 0.001);
    assert_eq!(ceiling(12, true), 0.001);
}
