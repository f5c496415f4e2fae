//! The collector `groups`: the consumer groups that the broker coordinates, their lag, and a Fetch of a partition that it
//! leads. These requests take locks in the broker, so they have a connection of their own, with at most one request
//! unanswered in the life of the process, and a broker that is suspect or silent is not asked. Its groups are remembered.

mod asker;
pub mod debts;
mod lag;
mod listing;

use tokio::time::{Duration, Instant};

use self::asker::Asker;
pub use self::asker::Round;
use super::cluster;
use super::context::BrokerContext;
use super::frame::{self, Collector, Description, Stamp};
use crate::model::{BrokerSnapshot, CollectorName, Failure};

/// Consumer groups and the answer to a Fetch; `groups/asker.rs` asks.
#[derive(Debug)]
pub struct Groups;

impl Collector for Groups {
    const DESCRIPTION: Description = Description {
        name: CollectorName::Groups,
        // Of the time in which the broker works for the exporter.
        ceiling: 0.02,
        deadline: Duration::from_secs(2),
    };
    type Value = Round;

    fn store(broker: &mut BrokerSnapshot, result: Result<Round, Failure>, stamp: Stamp) {
        let round = result.unwrap_or_else(|failure| Round {
            fetch: Err(failure.clone()),
            groups: Err(failure),
            silence: None,
        });
        let Round {
            fetch,
            groups,
            silence,
        } = round;
        stamp.put(&mut broker.fetch, fetch);
        let failure = stamp.put(&mut broker.groups, groups).or(silence);
        stamp.finish(broker, CollectorName::Groups, failure.as_ref());
    }
}

/// While an answer is owed, it is awaited so often. Nothing is sent before it comes.
const OWED_EVERY: Duration = Duration::from_secs(5);
/// A broker that is suspect for less is asked a little later, and nothing is said of it.
const SUSPECT_FOR: Duration = Duration::from_secs(5);

/// Runs for ever, unless the broker may not be asked.
pub(super) async fn run(context: BrokerContext) {
    if let Some(reason) = cluster::not_asked(&context) {
        return frame::publish_not_read::<Groups>(&context, reason).await;
    }
    let mut interval = frame::interval_of::<Groups>(&context);
    let mut way = context.signals.way.subscribe();
    if way.wait_for(|way| way.door.is_some()).await.is_err() {
        return;
    }
    let mut asker = Asker::new(&context);
    let mut due = Instant::now();
    loop {
        let started = Instant::now();
        let round = asker.round().await;
        if asker.asked() {
            interval.spent(started.elapsed());
        }
        let said = asker.suspected();
        let (every, took) = (interval.interval(), started.elapsed());
        match asker.closed() {
            Some(why) => frame::publish_not_read::<Groups>(&context, &*why.message).await,
            None => frame::publish::<Groups>(&context, Ok(round), every, took).await,
        }
        let next = Instant::from(interval.next(started.into()));
        if asker.owes() {
            due = started + OWED_EVERY;
        } else if !said {
            due = next;
        }
        rest(&context, due, next, said).await;
    }
}

/// Waits until the broker may be asked again, which is `due`; while it is suspect, until that has lasted or, if it is
/// `said` already, until it is said again.
async fn rest(context: &BrokerContext, due: Instant, again: Instant, said: bool) {
    let mut suspects = context.signals.suspects.subscribe();
    let mut since = None;
    loop {
        let until = match suspects.borrow_and_update().is_empty() {
            true => {
                since = None;
                due
            }
            false if said => again,
            false => *since.get_or_insert_with(Instant::now) + SUSPECT_FOR,
        };
        tokio::select! {
            () = tokio::time::sleep_until(until) => return,
            changed = suspects.changed() => if changed.is_err() { return },
        }
    }
}
