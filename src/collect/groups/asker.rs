//! Asks one broker process about its groups and for a Fetch, one request after the other over one connection. Nothing is
//! sent to a broker that is suspect, nor while an answer is owed.

mod questions;

use std::sync::Arc;

use tokio::time::{Duration, Instant};

use super::debts::Debt;
use crate::collect::cluster::probe_of;
use crate::collect::cluster::way::Door;
use crate::collect::context::BrokerContext;
use crate::kafka::client::{Client, ClientError, Timing};
use crate::kafka::conn::ConnError;
use crate::kafka::wire::WireError;
use crate::kafka::wire::groups::{self as kafka, Request, TopicPartition};
use crate::model::{Failure, GroupsReport, Probe, Reason, Rebalance};

/// A connection that ended while it owed an answer may have left a request handler behind, which waits for a lock for ever.
/// Another request would take a second one.
const REST: Duration = Duration::from_secs(3600);

/// What one run reads.
#[derive(Debug)]
pub struct Round {
    /// Why no Fetch was sent, or what came of it.
    pub fetch: Result<Probe, Failure>,
    pub groups: Result<GroupsReport, Failure>,
    /// Why `groups` is only what is remembered.
    pub silence: Option<Failure>,
}

/// See the module.
pub(super) struct Asker {
    context: BrokerContext,
    name: String,
    timing: Timing,
    open: Option<(Door, Client)>,
    /// The groups of its last answer.
    known: Option<GroupsReport>,
    rebalances: Arc<[Rebalance]>,
    /// A Fetch that is not answered.
    fetch: Option<Probe>,
    owes: bool,
    rests_until: Option<Instant>,
    /// An answer that was owed for so long when its connection ended may never come.
    hung: Duration,
    /// Whether the newest round sent something.
    asked: bool,
    /// Whether it did not, because the broker is suspect.
    suspect: bool,
    /// Why nobody may ask it more than the collector of the cluster does.
    closed: Option<Failure>,
}

impl Asker {
    /// Goes on with what the process owes from before a change of the settings.
    pub(super) fn new(context: &BrokerContext) -> Asker {
        let debt = context.debts.take(context.broker.process);
        let Debt {
            open,
            known,
            fetch,
            rests_until,
        } = debt.unwrap_or_default();
        Asker {
            context: context.clone(),
            name: context.broker.name(),
            timing: Timing {
                // A request that waits for a lock is not repeated on another connection.
                silence: REST,
                ..Timing::default()
            },
            owes: open.as_ref().is_some_and(|(_, client)| client.is_owed()),
            open,
            known,
            rebalances: Arc::default(),
            fetch,
            rests_until,
            hung: Duration::from_secs(10),
            asked: false,
            suspect: false,
            closed: None,
        }
    }

    /// Whether the newest round was answered, so that its time is a cost.
    pub(super) fn asked(&self) -> bool {
        self.asked && !self.owes
    }

    /// Whether the newest round sent nothing, because the broker is suspect.
    pub(super) fn suspected(&self) -> bool {
        self.suspect
    }

    pub(super) fn owes(&self) -> bool {
        self.owes
    }

    /// Why the newest round could not ask, if the collector of the cluster could not either and no group is known. That one
    /// says it.
    pub(super) fn closed(&self) -> Option<&Failure> {
        self.closed.as_ref().filter(|_| self.known.is_none())
    }

    pub(super) async fn round(&mut self) -> Round {
        let (door, led) = {
            let way = self.context.signals.way.borrow();
            (way.door.clone(), way.led.clone())
        };
        self.asked = false;
        self.suspect = self.is_suspect();
        self.closed = door.as_ref().and_then(|door| door.as_ref().err()).cloned();
        let door = match (self.hindrance(), door) {
            (_, Some(Err(why))) | (Some(why), _) => return self.unasked(why).await,
            (None, None) => {
                let why = format!("{}: not asked before its first answer", self.name);
                return self.unasked(Failure::new(Reason::Starting, why)).await;
            }
            (None, Some(Ok(door))) => door,
        };
        self.asked = true;
        let is_other = |(open, _): &(Door, Client)| !open.is(&door);
        // One that owes an answer is kept until it comes.
        if self.open.as_ref().is_none_or(is_other) && !self.owes {
            let client = door.client(self.timing);
            self.open = Some((door, client));
        }
        match self.api().await {
            Err(why) => self.unasked(why).await,
            Ok(()) => {
                self.fetch = None;
                let fetch = self.fetch(led).await;
                let hangs = fetch.as_ref().ok().and_then(|probe| probe.error.as_ref());
                let groups = match hangs {
                    Some(error) => Err(Failure::new(error.reason, error.message.clone())),
                    None => self.groups().await,
                };
                // A server that only speaks Kafka's protocol may have no groups.
                let unsupported = |why: &&Failure| why.reason == Reason::Unsupported;
                self.closed = groups.as_ref().err().filter(unsupported).cloned();
                match groups {
                    Err(why) => self.remembered(fetch, why),
                    groups => Round {
                        fetch,
                        groups,
                        silence: None,
                    },
                }
            }
        }
    }

    /// What is known of a broker that is not asked, or does not answer.
    async fn unasked(&mut self, why: Failure) -> Round {
        if let Some((_, client)) = &mut self.open
            && self.owes
        {
            self.owes = client.owes_answer().await;
        }
        // Where the broker has closed the connection, its request handler still waits.
        if !self.owes && !self.rests() {
            self.fetch = None;
        }
        let fetch = self.fetch.clone().ok_or_else(|| why.clone());
        self.remembered(fetch, why)
    }

    fn remembered(&mut self, fetch: Result<Probe, Failure>, why: Failure) -> Round {
        // Nobody knows what the groups do meanwhile.
        self.rebalances = Arc::default();
        let known = self.known.as_ref();
        match known.filter(|_| !why.reason.is_of_access()) {
            Some(known) => Round {
                fetch,
                groups: Ok(known.silent(&*why.message)),
                silence: Some(why),
            },
            None => Round {
                fetch,
                groups: Err(why),
                silence: None,
            },
        }
    }

    fn rests(&self) -> bool {
        self.rests_until.is_some_and(|until| Instant::now() < until)
    }

    fn is_suspect(&self) -> bool {
        !self.context.signals.suspects.borrow().is_empty()
    }

    /// Why nothing may be sent now.
    fn hindrance(&self) -> Option<Failure> {
        let name = &self.name;
        if self.is_suspect() {
            let why = format!(
                "{name}: threads make no progress or an answer is owed, so it is asked for nothing that takes a lock"
            );
            return Some(Failure::new(Reason::Slow, why));
        }
        let until = self.rests_until.filter(|until| Instant::now() < *until)?;
        let minutes = (until - Instant::now()).as_secs().div_ceil(60);
        let why = format!(
            "{name}: it closed the connection while a request that takes a lock was unanswered for long, so it is asked for no more of them for {minutes} min"
        );
        Some(Failure::new(Reason::Timeout, why))
    }

    async fn api(&mut self) -> Result<(), Failure> {
        let Some((_, client)) = &mut self.open else {
            return Ok(());
        };
        let asked = client.api().await;
        self.notice_abandoned();
        if let Some(why) = self.hindrance() {
            return Err(why);
        }
        let Err(error) = asked.answer else {
            self.owes = false;
            return Ok(());
        };
        let failure = self.failure(&error);
        if let (Some(fetch), true) = (&mut self.fetch, self.owes) {
            *fetch = probe_of(&self.name, asked.connected_in, asked.duration, Some(&error));
        }
        Err(failure)
    }

    /// Rests for long where a connection has ended with an answer owed.
    fn notice_abandoned(&mut self) {
        let owed = self.open.as_mut().and_then(|(_, open)| open.abandoned());
        if owed.is_some_and(|owed| owed >= self.hung) {
            self.rests_until = Some(Instant::now() + REST);
        }
    }

    fn failure(&mut self, error: &ClientError) -> Failure {
        self.notice_abandoned();
        // Where no connection was made, nothing is owed.
        self.owes = matches!(&self.open, Some((_, open)) if open.is_owed());
        Failure::new(error.reason(), format!("{}: {error}", self.name))
    }

    /// None where the answer is longer than is read.
    async fn request<T: Send + 'static>(
        &mut self,
        request: &Request,
        read: impl FnOnce(&[u8]) -> Result<T, WireError> + Send + 'static,
    ) -> Result<Option<T>, Failure> {
        // It may have become suspect since the last request.
        if let Some(why) = self.hindrance() {
            return Err(why);
        }
        let Some((_, client)) = &mut self.open else {
            let why = format!("{}: not connected", self.name);
            return Err(Failure::new(Reason::Closed, why));
        };
        let asked = client.request(request, read).await;
        match asked.answer {
            Ok(read) => Ok(Some(read)),
            Err(ClientError::Conn(ConnError::TooLong { .. })) => Ok(None),
            Err(error) => Err(self.failure(&error)),
        }
    }

    /// Sends a Fetch for a partition, which takes its lock.
    async fn fetch(&mut self, led: Option<TopicPartition>) -> Result<Probe, Failure> {
        let name = self.name.clone();
        let failure = |reason, why: String| Err(Failure::new(reason, format!("{name}: {why}")));
        let Some((topic, index)) = led else {
            let why = "it leads no partition for which a Fetch could be sent".to_owned();
            return failure(Reason::Absent, why);
        };
        let Some((_, client)) = &mut self.open else {
            return failure(Reason::Closed, "not connected".to_owned());
        };
        let offered = client.group_versions().fetch;
        let versions = [kafka::FETCH_VERSION, kafka::FETCH_OF_0_10];
        let Some(version) = versions.into_iter().find(|one| offers(offered, *one)) else {
            let why = "it offers no version of Fetch that is known here".to_owned();
            return failure(Reason::Unsupported, why);
        };
        let request = Request::fetch(version, (Arc::clone(&topic), index));
        let asked = client.request(&request, kafka::fetch).await;
        let error = match asked.answer {
            // The offset is out of range of every partition, and only who has the lock knows that.
            Ok(Some(0 | kafka::OFFSET_OUT_OF_RANGE)) => None,
            Ok(Some(kafka::TOPIC_AUTHORIZATION)) => {
                let why = format!(
                    "the exporter's user (ANONYMOUS without a login) may not read {topic}: the ACLs should allow Read on topics"
                );
                return failure(Reason::NeedsCredentials, why);
            }
            Ok(code) => {
                let code = code.map_or("nothing".to_owned(), |code| format!("error {code}"));
                let why =
                    format!("it answered a Fetch for partition {index} of {topic} with {code}");
                return failure(Reason::Absent, why);
            }
            Err(error) => Some(error),
        };
        let (connected_in, duration) = (asked.connected_in, asked.duration);
        let probe = probe_of(&name, connected_in, duration, error.as_ref());
        if let Some(error) = error {
            self.failure(&error);
            self.fetch = Some(probe.clone()).filter(|_| self.owes);
        }
        Ok(probe)
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        let is_owed = |(_, client): &(Door, Client)| client.is_owed();
        if self.open.as_ref().is_some_and(is_owed) || self.rests() {
            let debt = Debt {
                open: self.open.take(),
                known: self.known.take(),
                fetch: self.fetch.take(),
                rests_until: self.rests_until,
            };
            let process = self.context.broker.process;
            self.context.debts.keep(process, debt);
        }
    }
}

fn offers(range: Option<(i16, i16)>, version: i16) -> bool {
    range.is_some_and(|(oldest, newest)| (oldest..=newest).contains(&version))
}

#[cfg(test)]
mod tests;
