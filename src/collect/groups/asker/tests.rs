#![allow(clippy::unwrap_used, clippy::expect_used)]

mod fake;

use std::sync::atomic::Ordering;

use lab::fake_broker::FakeBroker;

use self::fake::{Fake, HUGE, NEW, OLD};
use super::*;
use crate::collect::cluster::ClusterClient;
use crate::model::{Broker, GroupState, ProcessKey};

/// An asker that has learned its way from the collector of the cluster, which has asked over another connection.
async fn asker(own: &FakeBroker) -> Asker {
    let broker = Arc::new(Broker {
        id: Some(2),
        ..Broker::unknown(ProcessKey {
            pid: 77,
            start_ticks: 1,
        })
    });
    let (context, _) = BrokerContext::of_test(Arc::clone(&broker));
    let address = Some(own.address.clone());
    let mut cluster = ClusterClient::new(broker, address, None, context.own.clone());
    let (_, counts) = cluster.probe().await.unwrap();
    context.signals.way.send_replace(cluster.way(&counts));
    context.signals.behind.send_replace(Some(Arc::default()));
    let mut asker = Asker::new(&context);
    // Nothing waits for so long but a machine that has much else to do.
    asker.timing.deadline = Duration::from_secs(30);
    asker
}

/// One that does not wait for long: a test with an answer that never comes repeats rounds with it.
async fn hasty(own: &FakeBroker) -> Asker {
    let mut asker = asker(own).await;
    asker.timing.deadline = Duration::from_millis(300);
    asker.timing.late = Duration::from_millis(5);
    asker.timing.retry_first = Duration::from_millis(5);
    asker
}

/// The first round that is as it is wanted.
async fn round(asker: &mut Asker, is_it: impl Fn(&Round) -> bool) -> Round {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let round = asker.round().await;
        if is_it(&round) {
            return round;
        }
        assert!(Instant::now() < until, "{round:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn is_complete(round: &Round) -> bool {
    round.groups.is_ok() && round.silence.is_none()
}

/// What hangs in this round.
fn hangs(round: &Round) -> Option<&str> {
    let silence = round.silence.as_ref()?;
    let (_, request) = silence.message.split_once("has not answered ")?;
    assert_eq!(silence.reason, Reason::Timeout);
    request.split(' ').next()
}

/// A broker whose groups are known and that answers no Fetch from then on; how many requests it got before.
async fn with_hanging_fetch() -> (Arc<Fake>, FakeBroker, Asker, usize) {
    let (fake, own) = Fake::default().start().await;
    let mut asker = hasty(&own).await;
    round(&mut asker, is_complete).await;
    fake.fetches.store(false, Ordering::SeqCst);
    let before = asked(&own).len();
    round(&mut asker, |round| hangs(round) == Some("Fetch")).await;
    (fake, own, asker, before)
}

/// That one Fetch was sent, and no other request that takes a lock.
fn only_a_fetch(own: &FakeBroker, before: usize) {
    let mut asked = asked(own)[before..].to_vec();
    asked.retain(|api| *api != 18);
    assert_eq!(asked, [1]);
}

/// The requests after those of the collector of the cluster.
fn asked(own: &FakeBroker) -> Vec<i16> {
    let asked = own.asked().into_iter();
    let own = asked.filter(|asked| asked.connection > 0);
    own.map(|asked| asked.api).collect()
}

fn lags(report: &GroupsReport) -> Vec<String> {
    let lags = report.lags.iter();
    lags.map(|lag| format!("{} {} {}", lag.group, lag.topic, lag.records))
        .collect()
}

fn count(report: &GroupsReport, state: GroupState) -> u64 {
    report.states[&state]
}

#[tokio::test]
async fn groups_their_states_and_their_lag_are_read_over_one_connection() {
    let (fake, own) = Fake::default().start().await;
    let mut asker = asker(&own).await;
    let round = asker.round().await;
    assert!(round.fetch.unwrap().success());
    let report = round.groups.unwrap();
    assert_eq!(report.named().as_deref(), Some("billing, orders"));
    assert_eq!(
        (
            count(&report, GroupState::Stable),
            count(&report, GroupState::Empty),
            count(&report, GroupState::Dead)
        ),
        (1, 1, 0)
    );
    // 100 - 90 of what it leads, and 50 - 45 of what it follows.
    assert_eq!(lags(&report), ["billing t 0", "orders t 15"]);
    assert_eq!((report.unknown_lags, report.lags_left_out), (0, 0));
    assert_eq!(asked(&own), [18, 1, 16, 9, 9, 2, 2]);
    let asked_for = std::mem::take(&mut *fake.ends_asked.lock().unwrap());
    assert_eq!(asked_for, [(-1, 0), (-1, 1), (-2, 1)]);
    // A replica that may be behind knows no end.
    asker.context.signals.behind.send_replace(None);
    let report = asker.round().await.groups.unwrap();
    assert_eq!(lags(&report), ["billing t 0"]);
    assert_eq!(report.unknown_lags, 1);
    assert!(report.why_unknown.unwrap().contains("another broker leads"));
    assert!(own.asked().iter().all(|asked| asked.connection < 2));
}

#[tokio::test]
async fn an_old_broker_describes_its_groups_and_says_what_their_members_have_committed() {
    let fake = Fake {
        versions: OLD,
        ..Fake::default()
    };
    let (_, own) = fake.start().await;
    let report = asker(&own).await.round().await.groups.unwrap();
    assert_eq!(count(&report, GroupState::Stable), 1);
    assert_eq!(count(&report, GroupState::Empty), 1);
    assert_eq!(lags(&report), ["orders t 15"]);
    assert_eq!(report.unknown_lags, 1);
    assert!(report.why_unknown.unwrap().contains("before 0.10.2"));
    assert_eq!(asked(&own), [18, 1, 16, 15, 9, 2, 2]);
}

#[tokio::test]
async fn groups_that_are_not_wanted_are_counted_and_not_asked_for() {
    let (_, own) = Fake::default().start().await;
    let mut asker = asker(&own).await;
    let mut config = (*asker.context.config).clone();
    config.groups.exclude = Some("bill.*".to_owned().try_into().unwrap());
    asker.context.config = Arc::new(config);
    let report = asker.round().await.groups.unwrap();
    assert_eq!(
        (report.total, lags(&report)),
        (2, vec!["orders t 15".to_owned()])
    );
}

#[tokio::test]
async fn what_the_acls_hide_is_no_failure() {
    let fake = Fake {
        list_error: kafka::CLUSTER_AUTHORIZATION,
        fetch_error: kafka::TOPIC_AUTHORIZATION,
        ..Fake::default()
    };
    let (_, own) = fake.start().await;
    let round = asker(&own).await.round().await;
    for failure in [round.fetch.unwrap_err(), round.groups.unwrap_err()] {
        assert_eq!(failure.reason, Reason::NeedsCredentials);
        assert!(failure.message.contains("ACLs should allow"), "{failure}");
    }
}

#[tokio::test]
async fn a_suspect_broker_is_asked_for_nothing_and_its_groups_are_named() {
    let (_, own) = Fake::default().start().await;
    let mut asker = asker(&own).await;
    asker.context.signals.suspects.send_replace([4711].into());
    let unknown = asker.round().await;
    assert_eq!(unknown.groups.unwrap_err().reason, Reason::Slow);
    assert_eq!(asked(&own), Vec::<i16>::new());
    asker
        .context
        .signals
        .suspects
        .send_replace(Default::default());
    assert!(asker.round().await.groups.unwrap().silence.is_none());
    let before = asked(&own);
    asker.context.signals.suspects.send_replace([4711].into());
    for _ in 0..3 {
        let round = asker.round().await;
        assert!(asker.suspected() && round.fetch.is_err());
        assert_eq!(round.silence.unwrap().reason, Reason::Slow);
        let report = round.groups.unwrap();
        assert!(report.silence.as_ref().unwrap().contains("no progress"));
        assert_eq!(report.named().as_deref(), Some("billing, orders"));
        assert!(report.states.is_empty() && report.lags.is_empty());
    }
    assert_eq!(asked(&own), before);
}

#[tokio::test]
async fn a_fetch_that_hangs_is_sent_once_and_stops_all_other_requests() {
    let (_fake, own, mut asker, before) = with_hanging_fetch().await;
    let is_silent = |round: &Round| {
        let error = round.fetch.as_ref().unwrap().error.as_ref().unwrap();
        assert!(error.is_silent(), "{error:?}");
        let message = &error.message;
        assert!(message.contains("has not answered Fetch"), "{message}");
    };
    for _ in 0..3 {
        let round = asker.round().await;
        is_silent(&round);
        assert_eq!(hangs(&round), Some("Fetch"));
        let report = round.groups.unwrap();
        assert_eq!(report.named().as_deref(), Some("billing, orders"));
        assert!(asker.owes());
    }
    // Suspect or not, the Fetch is owed.
    asker.context.signals.suspects.send_replace([1].into());
    let round = asker.round().await;
    is_silent(&round);
    assert_eq!(round.silence.unwrap().reason, Reason::Slow);
    only_a_fetch(&own, before);
}

/// A broker closes a connection that was idle for ten minutes, and its request handler waits on.
#[tokio::test]
async fn a_fetch_that_hangs_is_reported_though_the_broker_closes_the_connection() {
    let (fake, own, mut asker, before) = with_hanging_fetch().await;
    asker.hung = Duration::ZERO;
    fake.ends.notify_one();
    let is_silent = |round: &Round| {
        let error = round.fetch.as_ref().unwrap().error.as_ref().unwrap();
        assert!(error.is_silent(), "{error:?}");
    };
    let rests = |round: &Round| {
        is_silent(round);
        let why = &round.silence.as_ref().unwrap().message;
        why.contains("no more of them for 60 min")
    };
    round(&mut asker, rests).await;
    for _ in 0..3 {
        assert!(rests(&asker.round().await));
    }
    assert!(!asker.owes());
    only_a_fetch(&own, before);
}

#[tokio::test]
async fn what_is_owed_is_awaited_when_the_settings_have_changed() {
    let (fake, own, asker, before) = with_hanging_fetch().await;
    let context = asker.context.clone();
    let connections = || {
        let asked = own.asked().into_iter();
        asked.map(|asked| asked.connection).max()
    };
    let connected = connections();
    drop(asker);
    let mut asker = Asker::new(&context);
    assert!(asker.owes());
    for _ in 0..3 {
        let round = asker.round().await;
        assert_eq!(hangs(&round), Some("Fetch"));
        assert!(round.fetch.unwrap().error.unwrap().is_silent());
        let report = round.groups.unwrap();
        assert_eq!(report.named().as_deref(), Some("billing, orders"));
    }
    only_a_fetch(&own, before);
    assert_eq!(connections(), connected);
    // So is the rest after the end of its connection.
    asker.hung = Duration::ZERO;
    fake.ends.notify_one();
    while asker.owes() {
        asker.round().await;
    }
    drop(asker);
    let round = Asker::new(&context).round().await;
    let why = round.silence.unwrap().message;
    assert!(why.contains("no more of them for 60 min"), "{why}");
    only_a_fetch(&own, before);
}

/// Whether the broker lists a group's members or its offsets, one group is too big to be read.
#[tokio::test]
async fn an_answer_that_is_too_long_leaves_one_group_unknown() {
    let groups = || {
        vec![
            ("billing", "", "Empty"),
            (HUGE, "consumer", "Stable"),
            ("orders", "consumer", "Stable"),
        ]
    };
    for (versions, lagging, unknown, undescribed) in [
        (NEW, vec!["billing t 0", "orders t 15"], 1, 0),
        // It says nothing of the offsets of a group without members.
        (OLD, vec!["orders t 15"], 2, 1),
    ] {
        let fake = Fake {
            versions,
            groups: groups(),
            ..Fake::default()
        };
        let (_, own) = fake.start().await;
        let mut asker = asker(&own).await;
        let round = asker.round().await;
        assert!(round.silence.is_none(), "{:?}", round.silence);
        let report = round.groups.unwrap();
        assert_eq!(
            (lags(&report), report.unknown_lags),
            (lagging.into_iter().map(str::to_owned).collect(), unknown)
        );
        assert_eq!(count(&report, GroupState::Unknown), undescribed);
        assert_eq!(report.total, 3);
        // Over the same connection, before and after.
        assert!(asker.round().await.silence.is_none() && !asker.owes());
        assert!(own.asked().iter().all(|asked| asked.connection < 2));
    }
}

#[tokio::test]
async fn a_connection_that_ends_with_an_answer_owed_is_followed_by_a_long_rest() {
    let (fake, own) = Fake::default().start().await;
    let mut asker = asker(&own).await;
    assert!(asker.round().await.groups.unwrap().silence.is_none());
    asker.hung = Duration::ZERO;
    fake.closes.store(true, Ordering::SeqCst);
    let closed = asker.round().await.fetch.unwrap().error.unwrap();
    assert_eq!(closed.reason, Reason::Closed);
    let before = asked(&own).len();
    for _ in 0..3 {
        let report = asker.round().await.groups.unwrap();
        let why = report.silence.unwrap();
        assert!(why.contains("no more of them for 60 min"), "{why}");
    }
    // Only ApiVersions, by which the end is noticed.
    assert!(asked(&own)[before..].iter().all(|api| *api == 18));
}

#[tokio::test]
async fn what_members_have_is_bounded_over_all_answers() {
    let names = (0..120).map(|n| &*format!("many-{n:03}").leak());
    let fake = Fake {
        versions: OLD,
        groups: names.map(|name| (name, "consumer", "Stable")).collect(),
        assigned: 1000,
        ..Fake::default()
    };
    let (_, own) = fake.start().await;
    let report = asker(&own).await.round().await.groups.unwrap();
    assert_eq!(count(&report, GroupState::Stable), 120);
    // Those of 50 groups are as many as are kept.
    assert_eq!(report.unknown_lags, 70);
}

#[tokio::test]
async fn groups_are_named_though_a_request_for_one_of_them_has_hung_from_the_start() {
    let fake = Fake {
        says_offsets: false,
        ..Fake::default()
    };
    let (_, own) = fake.start().await;
    let mut asker = hasty(&own).await;
    let is_it = |round: &Round| hangs(round) == Some("OffsetFetch");
    let first = round(&mut asker, is_it).await;
    for round in [first, asker.round().await] {
        assert!(is_it(&round) && asker.owes());
        let report = round.groups.unwrap();
        assert_eq!(report.named().as_deref(), Some("billing, orders"));
        assert!(report.states.is_empty());
    }
    let mut asked = asked(&own);
    asked.retain(|api| *api == 9);
    assert_eq!(asked.len(), 1);
}

#[tokio::test]
async fn nothing_is_owed_where_no_connection_was_made() {
    let (_, own) = Fake::default().start().await;
    let mut asker = hasty(&own).await;
    round(&mut asker, is_complete).await;
    // The kernel drops what does not fit into the accept queue.
    let full = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    rustix::net::listen(&full, 0).unwrap();
    let address = full.local_addr().unwrap();
    let _first = std::net::TcpStream::connect(address).unwrap();
    let client = Client::new(address.to_string(), asker.context.own.clone(), asker.timing);
    let (door, _) = asker.open.take().unwrap();
    asker.open = Some((door, client));
    let report = asker.round().await.groups.unwrap();
    let why = report.silence.unwrap();
    assert!(why.contains("accepted no connection"), "{why}");
    assert!(!asker.owes());
}
