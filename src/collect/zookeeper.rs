//! The collector `zookeeper`: whether the broker is registered in ZooKeeper, which others are, and which one is the
//! controller. ZooKeeper has a say only in clusters that keep their metadata there.

pub mod ensembles;
pub(super) mod min_isr;
pub(super) mod plan;

use tokio::time::{Duration, Instant};

use self::ensembles::{Ensemble, Members, Registration};
use self::plan::{NotAsked, Plan};
use super::cluster;
use super::context::BrokerContext;
use super::frame::{self, Collector, Description, Stamp};
use crate::model::{
    BrokerSnapshot, CollectorName, Failure, Moment, OwnRegistration, Reason, ZooKeeperReport,
};
use crate::sys::blocking_worker::BlockingWorker;

/// A broker writes the time of its host's clock, which may have been set since.
const CLOCK_SET: Duration = Duration::from_secs(60);

/// One session for all brokers of an ensemble on this host.
#[derive(Debug)]
pub struct ZooKeeper;

impl Collector for ZooKeeper {
    const DESCRIPTION: Description = Description {
        name: CollectorName::ZooKeeper,
        // Of the time in which ZooKeeper works for the exporter.
        ceiling: 0.2,
        deadline: Duration::from_secs(2),
    };
    type Value = ZooKeeperReport;

    fn store(broker: &mut BrokerSnapshot, result: Result<ZooKeeperReport, Failure>, stamp: Stamp) {
        let failure = stamp.put(&mut broker.zookeeper, result);
        stamp.finish(broker, CollectorName::ZooKeeper, failure.as_ref());
    }
}

/// Runs for ever, unless ZooKeeper may not be asked.
pub(super) async fn run(context: BrokerContext) {
    let mut interval = frame::interval_of::<ZooKeeper>(&context);
    let (broker, deadline) = (&*context.broker, ZooKeeper::DESCRIPTION.deadline);
    let plan = match Plan::of(&context) {
        Ok(plan) => plan,
        Err(NotAsked { reason, logged }) => {
            if logged {
                log(&reason);
            }
            return frame::publish_not_read::<ZooKeeper>(&context, reason).await;
        }
    };
    let mut worker = BlockingWorker::new(());
    let mut logged = None;
    let mut known = None;
    let mut kept = None;
    loop {
        let started = Instant::now();
        if known.is_none() {
            known = cluster::same_network(&context, &mut worker).await.ok();
        }
        // What may be another host's loopback is not asked.
        let here = known == Some(true);
        // The one of before is dropped afterwards, so that the session goes on.
        let ensemble = &*kept.insert(plan.ensemble(&context, here));
        let read = ensemble
            .read(&broker.zookeeper_root, plan.id, deadline)
            .await;
        let named = |failure: Failure| {
            let message = format!("{}: {}", broker.name(), failure.message);
            Failure::new(failure.reason, message)
        };
        let read = read.map_err(named);
        if read.is_ok() {
            interval.spent(started.elapsed());
            logged = None;
        }
        let failure = read.as_ref().err();
        let expected = failure.and_then(|failure| Some((failure.reason, expected(failure, here)?)));
        let doubts = match &read {
            Ok((_, registration)) => registration.is_none(),
            // A broker whose ZooKeeper is out of reach may have lost its session.
            Err(_) => expected.is_none(),
        };
        context.signals.set_doubt(CollectorName::ZooKeeper, doubts);
        match expected {
            Some((reason, why)) => {
                if logged.replace(reason) != Some(reason) {
                    log(&why);
                }
                frame::publish_not_read::<ZooKeeper>(&context, why).await;
            }
            None => {
                let of_broker = |(members, own)| report(members, own, broker.started);
                let (every, took) = (interval.interval(), started.elapsed());
                frame::publish::<ZooKeeper>(&context, read.map(of_broker), every, took).await;
            }
        }
        let next = Instant::from(interval.next(started.into()));
        rest(ensemble, &broker.zookeeper_root, next).await;
    }
}

/// Waits until then, and keeps the session for as long as rounds are rare.
async fn rest(ensemble: &Ensemble, root: &str, next: Instant) {
    let deadline = ZooKeeper::DESCRIPTION.deadline;
    while ensemble.keep(root, deadline, next).await.is_some() {}
    tokio::time::sleep_until(next).await;
}

fn log(reason: &str) {
    tracing::info!(
        collector = CollectorName::ZooKeeper.name(),
        "{}",
        frame::one_line(reason)
    );
}

/// Returns why a failure is none, because nobody has set up that the exporter may read there.
fn expected(failure: &Failure, here: bool) -> Option<String> {
    let message = &failure.message;
    match failure.reason {
        Reason::Denied | Reason::Unsupported => {
            Some(format!("{message}, so whether it is registered is unknown"))
        }
        Reason::OtherNetwork | Reason::Refused | Reason::Timeout | Reason::Unreachable if !here => {
            Some(format!(
                "{message}; the broker runs in another network namespace (a container), so its ZooKeeper may be out of reach"
            ))
        }
        _ => None,
    }
}

/// `started` is when the process started.
fn report(
    members: Members,
    registration: Option<Registration>,
    started: Option<Moment>,
) -> ZooKeeperReport {
    let registration = match registration {
        None => OwnRegistration::Missing,
        Some(Registration { since, endpoint }) => {
            match started.is_some_and(|started| since.plus(CLOCK_SET) < started) {
                true => OwnRegistration::Earlier { since, endpoint },
                false => OwnRegistration::Registered { since, endpoint },
            }
        }
    };
    let Members {
        server,
        brokers,
        controller,
    } = members;
    ZooKeeperReport {
        server,
        brokers,
        controller,
        registration,
    }
}

#[cfg(test)]
pub(super) mod tests;
