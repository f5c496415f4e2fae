//! The collector `cluster`: asks the broker and the peers that it listed last, to see who answers, and reads ISR and
//! leaders from Metadata. While the broker does not answer or is suspect, `cluster/confirm.rs` asks others.

pub mod access;
pub(super) mod address;
mod confirm;
pub mod count;
mod led;
mod listeners;
mod path;
mod peers;
pub(super) mod relations;
mod states;
pub mod way;
pub mod whole;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::time::{Duration, Instant};

use self::access::{Access, Place, Process};
use self::address::{Allowed, Target, hint, targets};
use self::count::count_after;
use self::led::{Led, led};
use self::listeners::Listeners;
use self::path::Paths;
use self::peers::Peers;
pub(super) use self::peers::probe_of;
use self::states::States;
use self::way::{Door, Way};
use self::whole::Whole;
use super::adaptive_interval::AdaptiveInterval;
use super::context::{BrokerContext, LOGGED, SILENCE};
use super::frame::{self, Collector, Description, Stamp};
use super::zookeeper::min_isr::with_min_isr;
use crate::kafka::client::{Client, Timing};
use crate::kafka::conn::{Dialer, OwnConnections};
use crate::kafka::wire::Metadata;
use crate::model::{
    Broker, BrokerSnapshot, ClusterCounts, ClusterSource, CollectorName, Failure, ListenerProbe,
    Probe, ProbeError, ProbeReport, Reason,
};
use crate::sys::blocking_worker::BlockingWorker;
use crate::sys::proc_net::{self, ProcNetError};
use crate::threads::missing::Follows;

/// See [`ClusterClient`].
#[derive(Debug)]
pub struct Cluster;

/// A run publishes its probes first, and then its counts.
#[derive(Debug)]
pub enum Update {
    /// Published at once, because asking a peer for the counts may take time.
    Probes(Box<ProbeReport>),
    /// What a peer counts, to check the counts of the broker itself.
    Checked(Box<ClusterCounts>),
    /// The last update of a run.
    Counts(Result<Box<ClusterCounts>, Failure>),
}

impl Collector for Cluster {
    const DESCRIPTION: Description = Description {
        name: CollectorName::Cluster,
        // Metadata takes the broker's time, so a large cluster is asked less often.
        ceiling: 0.2,
        deadline: Duration::from_secs(2),
    };
    type Value = Update;

    fn store(broker: &mut BrokerSnapshot, result: Result<Update, Failure>, stamp: Stamp) {
        match result {
            Ok(Update::Probes(report)) => {
                stamp.put(&mut broker.probes, Ok(*report));
            }
            Ok(Update::Checked(counts)) => {
                stamp.put(&mut broker.peer_view, Ok(*counts));
            }
            Ok(Update::Counts(counts)) => {
                let counts = counts.map(|counts| *counts);
                let no_topic = counts
                    .as_ref()
                    .ok()
                    .and_then(|counts| no_topic(&broker.broker, counts))
                    .map(|failure| Failure {
                        reason: match is_anonymous(broker) {
                            true => Reason::NeedsCredentials,
                            false => failure.reason,
                        },
                        ..failure
                    });
                // The metadata log counts topics that Metadata hides, and knows when there is none.
                let no_topic = no_topic.filter(|_| broker.metadata_log.fresh(stamp.at).is_none());
                let failure = stamp.put(&mut broker.cluster, counts).or(no_topic);
                stamp.finish(broker, CollectorName::Cluster, failure.as_ref());
            }
            Err(failure) => {
                stamp.put(&mut broker.probes, Err(failure.clone()));
                stamp.put(&mut broker.cluster, Err(failure.clone()));
                stamp.finish(broker, CollectorName::Cluster, Some(&failure));
            }
        }
    }
}

/// Whether the broker may hide its topics because nobody configured a certificate or a login for its TLS listener.
fn is_anonymous(broker: &BrokerSnapshot) -> bool {
    let probes = broker.probes.last();
    let first = probes.and_then(|(probes, _)| probes.listeners.first());
    first.is_some_and(|listener| listener.anonymous)
}

/// Returns why the broker is not asked for its cluster.
pub(super) fn not_asked(context: &BrokerContext) -> Option<&'static str> {
    context.broker.is_dedicated_controller().then_some(
        "a dedicated controller speaks Raft: it has no ISR to report and answers no clients",
    )
}

/// Runs for ever, unless the broker may not be asked.
pub(super) async fn run(context: BrokerContext) {
    if let Some(reason) = not_asked(&context) {
        return frame::publish_not_read::<Cluster>(&context, reason).await;
    }
    let mut interval = frame::interval_of::<Cluster>(&context);
    let mut hurried = AdaptiveInterval::new(EARLIEST, Cluster::DESCRIPTION.ceiling);
    let (bootstrap, listener) = context.settings.clone().map_or((None, None), |settings| {
        (settings.bootstrap, settings.probe_listener)
    });
    let broker = Arc::clone(&context.broker);
    let settings = context.config.access(context.settings.as_ref());
    let process = Process::new(context.proc.clone(), &broker, &context.config);
    let access = Access::new(settings, process);
    let mut client = ClusterClient::new(broker, bootstrap, listener, context.own.clone());
    client.set_access(access);
    let mut worker = BlockingWorker::new(());
    let mut suspects = context.signals.suspects.subscribe();
    let mut paths = Paths::new(&context);
    // Whether a path that is cut has caused this round.
    let mut early = false;
    loop {
        let started = Instant::now();
        let known = suspects.borrow_and_update().clone();
        client.set_of_others(context.jvm.is_outranked());
        if early {
            paths.watch(&context, &client.cut()).await;
        }
        let same = same_network(&context, &mut worker).await;
        let here = same == Ok(true);
        client.set_network(same);
        match client.probe().await {
            Ok((mut probes, counts)) => {
                paths.find(&context, &client.cut(), &mut probes.peers).await;
                if let Some(took) = metadata_took(&probes) {
                    interval.spent(took);
                    hurried.spent(took);
                }
                let publish = |update| {
                    let (every, took) = (interval.interval(), started.elapsed());
                    frame::publish::<Cluster>(&context, Ok(update), every, took)
                };
                report_silence(&context, is_silent(&probes));
                context.signals.late.send_replace(is_late(&probes));
                context.signals.way.send_replace(client.way(&counts));
                publish(Update::Probes(Box::new(probes.clone()))).await;
                let suspect = !context.signals.suspects.borrow().is_empty();
                let states = match suspect || counts.is_err() {
                    true => States::of(&context, here),
                    false => None,
                };
                let peers = &probes.peers;
                let counts = client.confirm(counts, suspect, peers, states).await;
                let counts = match counts {
                    Ok(counts) => Ok(with_min_isr(&context, counts, here).await),
                    Err(failure) => Err(failure),
                };
                let counted = counts.as_ref().ok().filter(|counts| counts.partitions > 0);
                let behind = counted.map(|counts| counts.not_in_isr_by_leader.clone());
                context.signals.behind.send_replace(behind);
                let follows = counted.map(|counts| Follows {
                    by_leader: counts.followed_by_leader.clone(),
                    read: context.clock.now(),
                });
                context.signals.follows.send_replace(follows);
                let is_cut = probes.peers.iter().any(|peer| peer.cut.is_some());
                let doubts = is_cut || !context.signals.doubts.borrow().is_empty();
                let checked = client
                    .check(counts.as_ref().ok(), doubts, &probes.peers)
                    .await;
                publish(Update::Counts(counts.map(Box::new))).await;
                if let Some(checked) = checked {
                    publish(Update::Checked(Box::new(checked))).await;
                }
            }
            Err(failure) => {
                report_silence(&context, false);
                context.signals.late.send_replace(false);
                context.signals.behind.send_replace(None);
                context.signals.follows.send_replace(None);
                context
                    .signals
                    .way
                    .send_replace(Way::closed(failure.clone()));
                let (every, took) = (interval.interval(), started.elapsed());
                frame::publish::<Cluster>(&context, Err(failure), every, took).await;
            }
        }
        let next = Instant::from(interval.next(started.into()));
        let rests = async {
            // Never two such rounds in a row.
            let cut = client.rest(next, !early).await;
            if !cut {
                tokio::time::sleep_until(next).await;
            }
            cut
        };
        let stands = async {
            new_suspects(&mut suspects, &known).await;
            tokio::time::sleep_until(started + hurried.interval()).await;
        };
        // An answer that is owed says the same as another request would. Late answers may be left at any byte.
        tokio::select! {
            cut = rests => early = cut,
            () = stands, if !*context.signals.late.borrow() => early = false,
        }
    }
}

/// Between two rounds, the newer of them because threads stand, if they are cheap.
const EARLIEST: Duration = Duration::from_secs(1);

/// Waits until threads make no progress that are not `known` for it: whether the broker still answers is then to be seen at
/// once.
async fn new_suspects(suspects: &mut watch::Receiver<BTreeSet<u32>>, known: &BTreeSet<u32>) {
    let is_thread = |id: &u32| ![SILENCE, LOGGED].contains(id);
    let is_new = |id: &u32| is_thread(id) && !known.contains(id);
    // Its sender is a part of the context.
    let _ = suspects.wait_for(|all| all.iter().any(is_new)).await;
}

/// Whether the exporter and the broker share a loopback.
pub(super) async fn same_network(
    context: &BrokerContext,
    worker: &mut BlockingWorker<()>,
) -> Result<bool, Failure> {
    let name = context.broker.name();
    let (proc, pid) = (context.proc.clone(), context.broker.process.pid);
    let read = move |(): &mut (), _| {
        ControlFlow::Break(proc_net::same_network_namespace(proc.path(), pid))
    };
    let (now, deadline) = (Instant::now().into(), Cluster::DESCRIPTION.deadline);
    let same = worker
        .repeat(now, Duration::ZERO, deadline, &name, read)
        .await?;
    same.map_err(|error| {
        let reason = match error {
            ProcNetError::Gone(_) => Reason::Gone,
            _ => Reason::Io,
        };
        let message = format!("{name}: its network namespace is unknown: {error}");
        Failure::new(reason, message)
    })
}

/// Makes the frame take a thread dump soon while the broker is silent.
fn report_silence(context: &BrokerContext, silent: bool) {
    context.signals.suspects.send_if_modified(|suspects| {
        if silent {
            suspects.insert(SILENCE)
        } else {
            suspects.remove(&SILENCE)
        }
    });
}

/// Whether the broker answers more slowly than a working one, or not at all.
fn is_late(probes: &ProbeReport) -> bool {
    probes
        .own()
        .any(|probe| probe.error.is_some() || probe.duration >= LATE)
}

/// A working broker answers within milliseconds.
const LATE: Duration = Duration::from_millis(500);

/// Returns how long Metadata took if the broker answered, even late. A broker that hangs gets no new request.
fn metadata_took(probes: &ProbeReport) -> Option<Duration> {
    let answered = |probe: &&Probe| {
        probe
            .error
            .as_ref()
            .is_none_or(|error| error.reason == Reason::Slow)
    };
    let took = probes.metadata.as_ref().filter(answered)?.duration;
    Some(took.min(Timing::default().deadline))
}

/// Whether the broker accepted the connection and does not answer, which a thread dump may explain.
fn is_silent(probes: &ProbeReport) -> bool {
    let mut errors = probes.own().filter_map(|probe| probe.error.as_ref());
    errors.any(ProbeError::owes_answer)
}

/// Asks one broker process; a restarted broker needs a new one.
#[derive(Debug)]
pub struct ClusterClient {
    broker: Arc<Broker>,
    bootstrap: Option<String>,
    listener: Option<String>,
    dialer: Dialer,
    timing: Timing,
    /// Whether the exporter and the broker share a loopback, or why that is unknown.
    same_network: Result<bool, Failure>,
    access: Access,
    listeners: Listeners,
    peers: Peers,
    /// Rounds until a peer is asked for its view.
    unchecked: u32,
    door: Option<Door>,
    led: Led,
    /// Also used where an answer is read.
    whole: Arc<Mutex<Whole>>,
}

impl ClusterClient {
    /// `bootstrap` (`host:port`) and `listener` (its name) come from the config and override what discovery found.
    pub fn new(
        broker: Arc<Broker>,
        bootstrap: Option<String>,
        listener: Option<String>,
        own: OwnConnections,
    ) -> Self {
        ClusterClient {
            broker,
            bootstrap,
            listener,
            dialer: own.into(),
            timing: Timing::default(),
            same_network: Ok(true),
            access: Access::default(),
            listeners: Listeners::default(),
            peers: Peers::default(),
            unchecked: 0,
            door: None,
            led: Led::default(),
            whole: Arc::default(),
        }
    }

    /// Sets how listeners are spoken to that demand more than a connection.
    pub fn set_access(&mut self, access: Access) {
        self.access = access;
    }

    /// Sets whether another user's brokers come first.
    pub fn set_of_others(&self, of_others: bool) {
        self.dialer.set_of_others(of_others);
    }

    /// Sets whether the broker runs in the exporter's network namespace. If not, nothing on loopback is asked, because
    /// another broker may listen there.
    pub fn set_network(&mut self, same: Result<bool, Failure>) {
        self.same_network = same;
    }

    /// Sends ApiVersions and then Metadata to the broker, and at the same time ApiVersions to each peer on the ring, with
    /// 2 s for each. Returns how that went and the counts from the broker's Metadata. It may be dropped at any time; a
    /// request that is then unanswered is not sent again.
    ///
    /// # Errors
    /// If neither the broker nor its peers could be asked.
    pub async fn probe(
        &mut self,
    ) -> Result<(ProbeReport, Result<ClusterCounts, Failure>), Failure> {
        let name = self.broker.name();
        let Some(id) = self.broker.id else {
            let message = format!(
                "{name}: its id is unknown, so its partitions cannot be counted: {}",
                hint(&self.broker)
            );
            let reason = self.broker.reason_or_denied(Reason::NoId);
            return Err(Failure::new(reason, message));
        };
        let inter_broker = self.broker.inter_broker_listener.as_deref();
        let allowed = Allowed {
            bootstrap: self.bootstrap.as_deref(),
            listener: self.listener.as_deref(),
            same_network: &self.same_network,
            own: rustix::process::geteuid().as_raw(),
            demanding: &self.listeners.demanding,
            preferred: inter_broker.filter(|_| self.access.is_of_inter_broker()),
        };
        let targets = targets(&self.broker, &allowed)?;
        let elsewhere = self.same_network != Ok(true);
        self.peers.elsewhere = elsewhere;
        let (dialer, timing, access) = (&self.dialer, self.timing, &self.access);
        let new = |address, place| {
            let client = Client::new(address, dialer.clone(), timing);
            access.prepare(client, place)
        };
        let place = |target: &Target| Place {
            protocol: target.protocol,
            of_inter_broker: inter_broker == Some(&*target.listener),
            is_peer: false,
            name: None,
        };
        // Metadata names for each peer the listener that has the name of the first one here.
        let of_peers = Place {
            is_peer: true,
            ..place(&targets.first)
        };
        let (broker, at_listener) = (&self.broker, self.bootstrap.is_none());
        let place_of = |target: &Target| {
            let mut listeners = broker.listeners.iter();
            let listener = listeners.find(|listener| listener.name == target.listener);
            // The author of the config file knows the name at that address.
            let listener = listener.filter(|_| at_listener);
            let name = listener.and_then(|one| one.advertised.clone());
            Place {
                name,
                ..place(target)
            }
        };
        // The author of the config file knows where its address leads.
        let loopback = !elsewhere || self.bootstrap.is_some();
        self.door = Some({
            let (address, place) = (targets.first.address.clone(), place_of(&targets.first));
            let (access, dialer) = (access.clone(), dialer.clone());
            let leads_to = format!("{address} {place:?} {loopback}");
            Door::new(leads_to, move |timing| {
                let client = Client::new(address.clone(), dialer.clone(), timing);
                let mut client = access.prepare(client, place.clone());
                client.allow_loopback(loopback);
                client
            })
        });
        let new_own = |target: &Target| new(target.address.clone(), place_of(target));
        let (first, others) = self.listeners.set(targets, new_own);
        first.client.allow_loopback(loopback);
        for other in &mut *others {
            other.client.allow_loopback(!elsewhere);
        }
        let nth = self.led.turn();
        let whole = Arc::clone(&self.whole);
        let own = async {
            let (probe, api) = first.probe(&name).await;
            if let Err(error) = api {
                return (probe, None, Err(error));
            }
            let read = move |metadata: Metadata<'_>| {
                let led = nth.map(|nth| led(metadata.clone(), id, nth));
                let mut whole = whole.lock().unwrap_or_else(PoisonError::into_inner);
                let counts = count_after(metadata, id, ClusterSource::Own, None, &mut whole);
                counts.map(|counts| (counts, led))
            };
            let asked = first.client.metadata(read).await;
            let error = asked.answer.as_ref().err();
            let is_asked = error.is_none_or(|error| error.reason() != Reason::NeedsCredentials);
            let metadata =
                is_asked.then(|| probe_of(&name, asked.connected_in, asked.duration, error));
            (probe, metadata, asked.answer)
        };
        let others = join_all(others.iter_mut().map(|other| other.probe(&name)));
        let new_peer = |address| new(address, of_peers.clone());
        let peers = self.peers.probe(new_peer);
        let ((first, metadata, counts), others, peers) = tokio::join!(own, others, peers);
        let counts = counts.map(|(counts, led)| {
            self.led.remember(counts.leader, led);
            counts
        });
        if let Ok(counts) = &counts {
            self.peers
                .remember(id, self.listeners.address(), &counts.live_brokers);
        }
        let probe = Some(first.probe.clone());
        let (api, network) = match first.by_handler {
            true => (probe, None),
            false => (None, probe),
        };
        let others = others.into_iter().map(|(probe, _)| probe);
        let mut listeners: Vec<ListenerProbe> = [first].into_iter().chain(others).collect();
        self.listeners.remember(&listeners);
        if listeners.len() == 1 && listeners.iter().all(|one| one.verified.is_none()) {
            listeners.clear();
        }
        let counts =
            counts.map_err(|error| Failure::new(error.reason(), format!("{name}: {error}")));
        // A broker that just started answers before it knows any broker. Then the empty response means nothing.
        let counts = counts.and_then(|counts| match counts.live_brokers.is_empty() {
            true => Err(Failure::new(
                Reason::Starting,
                format!(
                    "{name}: it has not learned about its cluster yet, so its Metadata is empty"
                ),
            )),
            false => Ok(counts),
        });
        Ok((
            ProbeReport {
                api,
                network,
                metadata,
                listeners,
                peers,
            },
            counts,
        ))
    }

    /// How others reach the listener that has just been asked, and what they may ask for.
    pub(super) fn way(&self, counts: &Result<ClusterCounts, Failure>) -> Way {
        let door = counts.as_ref().map_err(Failure::clone).map(drop);
        Way {
            door: self.door.clone().map(|open| door.map(|()| open)),
            led: self.led.partition.clone(),
        }
    }

    /// Waits for owed answers until then, because a broker that answers late is slow and not silent. Where it `ends_cut`, it
    /// returns true as soon as the path to a peer is cut.
    pub async fn rest(&mut self, until: Instant, ends_cut: bool) -> bool {
        /// Ends the wait for the others.
        struct Cut;
        let own = async {
            self.listeners.read_late(until).await;
            Ok(())
        };
        let peers = async {
            match self.peers.rest(until, ends_cut).await {
                true => Err(Cut),
                false => Ok(()),
            }
        };
        tokio::try_join!(own, peers).is_err()
    }

    /// Where the peers are to which the path is cut.
    fn cut(&self) -> BTreeMap<i32, IpAddr> {
        self.peers.cut()
    }
}

/// Returns a failure if no partition was counted, because zeros would then look like a healthy cluster.
pub fn no_topic(broker: &Broker, counts: &ClusterCounts) -> Option<Failure> {
    let message = || {
        format!(
            "{}: no topic is visible to the exporter: none exists, or the user of its login (ANONYMOUS without one) lacks Describe on topics, \
             which the ACLs should allow",
            broker.name()
        )
    };
    (counts.partitions == 0).then(|| Failure::new(Reason::NoTopic, message()))
}

#[cfg(test)]
mod tests;
