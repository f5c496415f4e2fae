use super::*;
use crate::model::Listener;

const KAFKA: Option<u32> = Some(1001);
const MALLORY: Option<u32> = Some(2001);

/// A process number is its age as well: a higher one started later.
fn broker(pid: u32, owner: Option<u32>, id: Option<i32>, ports: &[u16]) -> Arc<Broker> {
    let listener = |port: &u16| Listener {
        name: "P".into(),
        protocol: None,
        host: None,
        port: *port,
        controller: *port == 1,
        advertised: None,
    };
    Arc::new(Broker {
        id,
        owner,
        listeners: ports.iter().map(listener).collect(),
        ..Broker::unknown(ProcessKey {
            pid,
            start_ticks: u64::from(pid),
        })
    })
}

fn user(uid: u32) -> String {
    match uid {
        1001 => "kafka".to_owned(),
        2001 => "mallory".to_owned(),
        uid => format!("uid-{uid}"),
    }
}

/// The labels, with `!` after those of brokers that another user's come before.
fn labels(standing: &mut Standing, brokers: &[Arc<Broker>], now: Instant) -> Vec<String> {
    standing.update(brokers, now);
    let labels = standing.labels(brokers, user).into_iter();
    labels
        .map(|label| format!("{}{}", label.text, if label.outranked { "!" } else { "" }))
        .collect()
}

fn labels_of(brokers: &[Arc<Broker>]) -> Vec<String> {
    labels(&mut Standing::default(), brokers, Instant::now())
}

#[test]
fn labels_are_ids_where_those_are_unique() {
    let brokers = [
        broker(10, KAFKA, Some(1), &[1, 9092]),
        broker(11, KAFKA, Some(1), &[9093]),
        broker(12, KAFKA, Some(2), &[9092]),
        broker(13, KAFKA, None, &[9095]),
        broker(14, KAFKA, Some(3), &[9092]),
        broker(15, KAFKA, Some(3), &[9092]),
        broker(16, KAFKA, Some(4), &[]),
        broker(17, KAFKA, Some(4), &[9099]),
    ];
    assert_eq!(
        labels_of(&brokers),
        [
            "1@9092", "1@9093", "2", "pid-13", "pid-14", "pid-15", "pid-16", "4@9099"
        ]
    );
}

#[test]
fn a_stranger_renames_no_broker() {
    let real = broker(10, KAFKA, Some(1), &[9092]);
    assert_eq!(
        labels_of(&[
            real.clone(),
            broker(11, MALLORY, Some(1), &[9001]),
            broker(12, None, Some(1), &[9002])
        ]),
        ["1", "1@mallory!", "pid-12@unknown!"]
    );
    // Even with the same port, and several of them.
    assert_eq!(
        labels_of(&[
            real.clone(),
            broker(11, MALLORY, Some(1), &[9092]),
            broker(12, MALLORY, Some(1), &[9092]),
            broker(13, MALLORY, Some(1), &[9001]),
            broker(14, MALLORY, Some(7), &[9092]),
        ]),
        [
            "1",
            "pid-11@mallory!",
            "pid-12@mallory!",
            "1@mallory@9001!",
            "7@mallory!"
        ]
    );
    // Nor one that starts under an id that a stranger had before.
    let mut standing = Standing::default();
    let brokers = [
        real,
        broker(11, MALLORY, Some(2), &[9001]),
        broker(12, MALLORY, None, &[9003]),
        broker(13, KAFKA, Some(2), &[9093]),
    ];
    let now = Instant::now();
    assert_eq!(
        labels(&mut standing, &brokers[..3], now),
        ["1", "2@mallory!", "pid-12@mallory!"]
    );
    assert_eq!(
        labels(&mut standing, &brokers, now),
        ["1", "2@mallory!", "pid-12@mallory!", "2"]
    );
}

#[test]
fn a_broker_that_restarts_finds_its_label_again() {
    let start = Instant::now();
    let mut standing = Standing::default();
    let fake = broker(11, MALLORY, Some(1), &[9001]);
    let before = [broker(10, KAFKA, Some(1), &[9092]), fake.clone()];
    assert_eq!(labels(&mut standing, &before, start), ["1", "1@mallory!"]);
    let later = |seconds| start + Duration::from_secs(seconds);
    let while_down = labels(&mut standing, std::slice::from_ref(&fake), later(5));
    assert_eq!(while_down, ["1@mallory!"]);
    let after = [fake.clone(), broker(12, KAFKA, Some(1), &[9092])];
    assert_eq!(
        labels(&mut standing, &after, later(3000)),
        ["1@mallory!", "1"]
    );
    // Who is gone for an hour is forgotten.
    assert_eq!(
        labels(&mut standing, &[fake], later(6601)),
        ["1"],
        "its only broker"
    );
}

#[test]
fn the_exporter_s_own_user_comes_first_and_named_users_trust_each_other() {
    let brokers = [
        broker(10, MALLORY, Some(1), &[9001]),
        broker(11, KAFKA, Some(1), &[9092]),
        broker(12, KAFKA, Some(2), &[9093]),
    ];
    let now = Instant::now();
    assert_eq!(
        labels(&mut Standing::new(None, false), &brokers, now),
        ["1", "1@kafka!", "2@kafka!"],
        "the older one, because nothing else is known"
    );
    assert_eq!(
        labels(&mut Standing::new(KAFKA, false), &brokers, now),
        ["1@mallory!", "1", "2"]
    );
    let mut named = Standing::new(None, true);
    assert_eq!(
        labels(&mut named, &brokers, now),
        ["1", "1@kafka", "2"],
        "each answers for itself"
    );
    // A broker may be moved to another of those users.
    let moved = [broker(13, KAFKA, Some(1), &[9092])];
    let next = now + Duration::from_secs(5);
    assert_eq!(labels(&mut named, &moved, next), ["1"]);
}

#[test]
fn no_number_of_processes_displaces_the_first_of_another_user() {
    let process = |pid: u32, owner| {
        let start_ticks = u64::from(pid);
        (owner, ProcessKey { pid, start_ticks })
    };
    let mut processes: Vec<_> = (1000..6000).map(|pid| process(pid, MALLORY)).collect();
    processes.push(process(7000, None));
    processes.push(process(7001, KAFKA));
    processes.push(process(7002, KAFKA));
    let order = |standing: &Standing| {
        let all = (0..processes.len()).collect();
        standing.in_turn(all, |at: &usize| processes[*at])[..5].to_vec()
    };
    // None was seen before: the older ones of a turn come first.
    assert_eq!(order(&Standing::default()), [0, 5001, 5000, 1, 5002]);
    let mut standing = Standing::default();
    standing.update(&[broker(7001, KAFKA, Some(1), &[9092])], Instant::now());
    assert_eq!(order(&standing), [5001, 0, 5000, 5002, 1]);
}

#[test]
fn what_is_remembered_is_bounded_and_what_runs_is_not_forgotten() {
    let mut standing = Standing::default();
    let start = Instant::now();
    let real = broker(10, KAFKA, Some(1), &[9092]);
    standing.update(std::slice::from_ref(&real), start);
    for n in 0..1000_i32 {
        let now = start + Duration::from_millis(n as u64);
        let fake = broker(11 + n as u32, MALLORY, Some(n), &[9001]);
        assert_eq!(
            labels(&mut standing, &[real.clone(), fake], now)[0],
            "1",
            "{n}"
        );
    }
    assert_eq!(standing.seen.len(), MOST_REMEMBERED);
}
