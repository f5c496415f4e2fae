//! One task per broker and round: when to collect, where, for how long at most, and whom to tell.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::cluster::ClusterCollector;
use super::dump_scheduler::{DumpScheduler, SILENCE};
use super::process::{self, Pulse, PulseReader, Slow};
use super::progress::{Names, ProgressCollector, TELL_EVERY};
use super::socket_tables::{Signs, SocketTables, TableReader, TableRound};
use super::sockets::Sockets;
use super::store::{RoundEnd, Told, Update};
use super::threads::{self, RawDump, ThreadCollector, ThreadHistory};
use super::worker::{AdaptiveInterval, BlockingWorker, shared_moment, thread_cpu};
use crate::config::{BrokerSettings, Config};
use crate::kafka::client::Timing;
use crate::kafka::conn::OwnConnections;
use crate::model::{Broker, Role};
use crate::model::{Clock, Probe, ProbeReport, ProgressReport, ThreadReport};
use crate::model::{Failure, Reason};
use crate::sys::proc::ProcRoot;
use crate::sys::proc_net::{self, ProcNetError};
use crate::sys::schedstat::Allowance;

/// Shares of one core that the rounds may cost; the dump's is a share of the JVM's time that it may stand still.
const PROGRESS_CEILING: f64 = 0.001;
const PULSE_CEILING: f64 = 0.005;
const SLOW_CEILING: f64 = 0.002;
const DUMP_CEILING: f64 = 0.002;
/// A share of the time that the broker may need to tell of its cluster: that of a large one is asked for less often.
const PROBE_CEILING: f64 = 0.2;

/// A broker that works answers within milliseconds.
const LATE: Duration = Duration::from_millis(500);
const PROGRESS_DEADLINE: Duration = Duration::from_secs(2);
/// For so long a broker that starts or ends may be without the threads that are judged.
const STARTS_OR_ENDS: Duration = Duration::from_secs(60);
const PULSE_DEADLINE: Duration = Duration::from_secs(2);
const SLOW_DEADLINE: Duration = Duration::from_secs(20);
const DISK_DEADLINE: Duration = Duration::from_secs(2);
const DUMP_DEADLINE: Duration = Duration::from_secs(5);
const DUMP_SETTLES: Duration = Duration::from_millis(50);
/// A usual dump takes some 10 ms.
const DUMP_PATIENCE: Duration = Duration::from_millis(200);

/// What the rounds of one broker process need.
#[derive(Clone)]
pub struct BrokerContext {
    pub broker: Arc<Broker>,
    /// What the config file says of it.
    pub settings: Option<BrokerSettings>,
    pub config: Arc<Config>,
    pub proc: ProcRoot,
    /// The exporter's own connections to brokers: they count nowhere.
    pub own: OwnConnections,
    pub tables: SocketTables,
    pub tell: mpsc::Sender<Update>,
    /// True while a dump is taken: the JVM then holds a handle for our connection, which no count is to show.
    pub dumping: watch::Sender<bool>,
    /// In how many ISRs of each leader the broker is missing; None while unknown.
    pub behind: watch::Sender<Option<Arc<BTreeMap<i32, u64>>>>,
    pub clock: Clock,
    /// From the process' reading to that of the sockets: its open file descriptors.
    pub fds: watch::Sender<Option<u64>>,
    /// From the probes to the reading of the sockets: the broker answers late, or not at all.
    pub late: watch::Sender<bool>,
    /// How many descriptors the progress rounds of all brokers may keep open.
    pub kept_descriptors: Allowance,
    /// From the dumps to the progress round: whose thread is whose. None until the first dump has ended or failed.
    pub names: watch::Sender<Option<Arc<Names>>>,
    /// From the progress round and the probes to the dumps: threads that do not move, by the kernel's id; [`SILENCE`].
    pub suspects: watch::Sender<BTreeSet<u32>>,
}

impl BrokerContext {
    /// Starts the rounds. They end when the set is dropped.
    pub fn start(self) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        let collectors = self.config.collectors;
        let is_broker = self.broker.roles.is_empty() || self.broker.roles.contains(&Role::Broker);
        tasks.spawn(pulse(self.clone()));
        tasks.spawn(slow(self.clone()));
        let not_asked = if !is_broker {
            Some(
                "a dedicated controller speaks Raft: it has no ISR to tell of and answers no clients",
            )
        } else {
            (!collectors.cluster).then_some("the collector `cluster` is switched off")
        };
        tasks.spawn(probe(self.clone(), not_asked));
        if collectors.threads {
            tasks.spawn(progress(self.clone()));
            tasks.spawn(thread_dump(self));
        }
        tasks
    }

    async fn tell(&self, round: &'static str, pace: &AdaptiveInterval, took: Duration, told: Told) {
        self.send(self.end(round, pace.interval(), took, told))
            .await;
    }

    fn end(&self, round: &'static str, interval: Duration, took: Duration, told: Told) -> RoundEnd {
        RoundEnd {
            process: self.broker.process,
            round,
            interval,
            took,
            told,
        }
    }

    async fn send(&self, end: RoundEnd) {
        // The store ends only with the exporter.
        let _ = self.tell.send(Update::Round(Box::new(end))).await;
    }
}

/// Waits until a round that began at `begun` begins again.
async fn rest(begun: Instant, pace: &AdaptiveInterval) {
    tokio::time::sleep_until(pace.next(begun).into()).await;
}

/// When to look again whether a dump has ended.
const DUMP_POLL: Duration = Duration::from_millis(20);

/// Lets a dump under way end first, but does not wait for one that hangs.
async fn no_dump(watched: &BrokerContext) {
    let mut dumping = watched.dumping.subscribe();
    // Either way the reading is taken.
    let _ = tokio::time::timeout(DUMP_PATIENCE, dumping.wait_for(|dumping| !dumping)).await;
}

/// The answer of a read, with the CPU time that it took.
fn measured<R>(read: impl FnOnce() -> R) -> (R, Duration) {
    let before = thread_cpu();
    let answer = read();
    (answer, thread_cpu().saturating_sub(before))
}

async fn pulse(watched: BrokerContext) {
    let mut pace = AdaptiveInterval::new(watched.config.rounds.pulse, PULSE_CEILING);
    let mut process_lane = BlockingWorker::new(PulseReader::default());
    let mut sockets_lane = BlockingWorker::new(TableReader::new(
        watched.tables.clone(),
        watched.proc.path(),
        watched.config.rounds.pulse,
        PULSE_DEADLINE,
    ));
    let name = watched.broker.name();
    let mut begun = Instant::now();
    loop {
        let (proc, broker) = (watched.proc.clone(), Arc::clone(&watched.broker));
        let (dumping, fds) = (watched.dumping.subscribe(), watched.fds.clone());
        let read = process_lane.repeat(
            begun,
            Duration::ZERO,
            PULSE_DEADLINE,
            &name,
            move |reader: &mut PulseReader, now| {
                // As `no_dump` does it.
                if *dumping.borrow() && now < begun + DUMP_PATIENCE {
                    return ControlFlow::Continue(now + DUMP_POLL);
                }
                let (pulse, cost) = measured(|| reader.read(&proc, &broker));
                fds.send_replace(pulse.handles.as_ref().ok().copied());
                ControlFlow::Break((pulse, cost))
            },
        );
        let table = async {
            if !watched.config.collectors.sockets {
                return None;
            }
            let (broker, own) = (Arc::clone(&watched.broker), watched.own.clone());
            let fds = watched.fds.subscribe();
            let (suspects, late) = (watched.suspects.subscribe(), watched.late.subscribe());
            let work = move |reader: &mut TableReader, _| {
                let signs = Signs {
                    fds: *fds.borrow(),
                    stuck: *late.borrow() || !suspects.borrow().is_empty(),
                };
                let own = |address| own.contains(address);
                ControlFlow::Break(reader.round(&broker, signs, &own))
            };
            let read = sockets_lane.repeat(begun, Duration::ZERO, PULSE_DEADLINE, &name, work);
            Some(read.await)
        };
        let (read, table) = tokio::join!(read, table);
        let took = begun.elapsed();
        let (pulse, cost) =
            read.unwrap_or_else(|failure| (Pulse::unknown(failure), Duration::ZERO));
        pace.spent(cost);
        let told = Told::Process {
            handles: pulse.handles,
            vitals: pulse.vitals,
        };
        watched.tell("pulse", &pace, took, told).await;
        let table = table.map(|table| {
            table.unwrap_or_else(|failure| TableRound::failed(failure, pace.interval()))
        });
        if let Some(table) = table {
            let queues = table
                .accept_queues
                .map(|(queues, at)| (queues, at.elapsed()));
            let queues = Told::AcceptQueues(queues);
            watched.tell("pulse", &pace, took, queues).await;
            if let Some(sockets) = table.sockets {
                let told = Told::Sockets(sockets.map(|(pulse, at)| (pulse, at.elapsed())));
                let end = watched.end("sockets", table.interval, took, told);
                watched.send(end).await;
            }
        }
        begun = pace.next(begun);
    }
}

async fn slow(watched: BrokerContext) {
    let mut pace = AdaptiveInterval::new(watched.config.rounds.slow, SLOW_CEILING);
    let mut lane = BlockingWorker::new(Sockets::new(watched.proc.path(), SLOW_DEADLINE));
    // A sick disk hurts nothing else.
    let mut disks = BlockingWorker::new(());
    let name = watched.broker.name();
    loop {
        let begun = Instant::now();
        no_dump(&watched).await;
        let (proc, broker, own) = (
            watched.proc.clone(),
            Arc::clone(&watched.broker),
            watched.own.clone(),
        );
        let with_sockets = watched.config.collectors.sockets;
        let work = move |sockets: &mut Sockets| {
            let read = process::slow(&proc, &broker, SLOW_DEADLINE / 2);
            let owners = with_sockets.then(|| {
                let inodes = read.socket_inodes.clone()?;
                let mut again = || process::slow(&proc, &broker, SLOW_DEADLINE / 2).socket_inodes;
                sockets.owners(&broker, &inodes, &mut again, &|address| {
                    own.contains(address)
                })
            });
            (read, owners)
        };
        let (proc, broker) = (watched.proc.clone(), Arc::clone(&watched.broker));
        let space = disks.run(DISK_DEADLINE, &name, move |(): &mut ()| {
            process::log_dirs(&proc, &broker)
        });
        let (read, space) = tokio::join!(lane.run(SLOW_DEADLINE, &name, work), space);
        let ((spaces, unknown), disk_cost) =
            space.unwrap_or_else(|failure| ((Vec::new(), Some(failure)), Duration::ZERO));
        let ((read, owners), cost) = read.unwrap_or_else(|failure| {
            let owners = with_sockets.then(|| Err(failure.clone()));
            ((Slow::unknown(failure), owners), Duration::ZERO)
        });
        pace.spent(cost + disk_cost);
        let took = begun.elapsed();
        let handles = Told::Handles {
            kinds: read.kinds,
            memory_maps: read.memory_maps,
        };
        watched.tell("slow", &pace, took, handles).await;
        watched
            .tell("slow", &pace, took, Told::LogDirs(spaces, unknown))
            .await;
        if let Some(owners) = owners {
            watched
                .tell("slow", &pace, took, Told::Connections(owners))
                .await;
        }
        rest(begun, &pace).await;
    }
}

async fn probe(watched: BrokerContext, not_asked: Option<&'static str>) {
    let mut pace = AdaptiveInterval::new(watched.config.rounds.probe, PROBE_CEILING);
    if let Some(reason) = not_asked {
        return watched
            .tell("probe", &pace, Duration::ZERO, Told::NotAsked(reason))
            .await;
    }
    let (bootstrap, listener) = watched.settings.clone().map_or((None, None), |settings| {
        (settings.bootstrap, settings.probe_listener)
    });
    let mut collector = ClusterCollector::new(
        Arc::clone(&watched.broker),
        bootstrap,
        listener,
        watched.own.clone(),
    );
    let mut lane = BlockingWorker::new(());
    let name = watched.broker.name();
    loop {
        let begun = Instant::now();
        let (proc, pid) = (watched.proc.clone(), watched.broker.process.pid);
        let work = move |(): &mut (), _| {
            ControlFlow::Break(proc_net::same_network_namespace(proc.path(), pid))
        };
        let same = lane
            .repeat(begun, Duration::ZERO, PULSE_DEADLINE, &name, work)
            .await
            .and_then(|same| {
                same.map_err(|error| {
                    let reason = if matches!(error, ProcNetError::Gone(_)) {
                        Reason::Gone
                    } else {
                        Reason::Io
                    };
                    Failure::new(
                        reason,
                        format!("{name}: its network namespace is unknown: {error}"),
                    )
                })
            });
        collector.set_network(same);
        let (probes, counts) = match collector.probe().await {
            Ok((probes, counts)) => (Ok(probes), counts),
            Err(failure) => (Err(failure.clone()), Err(failure)),
        };
        if let Some(took) = probes.as_ref().ok().and_then(metadata_took) {
            pace.spent(took);
        }
        // At once: to ask a peer may take its time.
        let silent = probes.as_ref().is_ok_and(silent);
        watched
            .late
            .send_replace(probes.as_ref().is_ok_and(is_late));
        watched.suspects.send_if_modified(|known| {
            if silent {
                known.insert(SILENCE)
            } else {
                known.remove(&SILENCE)
            }
        });
        watched
            .tell(
                "probe",
                &pace,
                begun.elapsed(),
                Told::Probes(probes.clone()),
            )
            .await;
        let counts = match (counts, &probes) {
            (Err(silence), Ok(probes)) => collector.ask_peer(silence, &probes.peers).await,
            (counts, _) => counts,
        };
        let counted = counts.as_ref().ok().filter(|counts| counts.partitions > 0);
        watched
            .behind
            .send_replace(counted.map(|counts| counts.not_in_isr_by_leader.clone()));
        watched
            .tell("probe", &pace, begun.elapsed(), Told::Cluster(counts))
            .await;
        tokio::join!(
            rest(begun, &pace),
            collector.read_late(pace.next(begun).into())
        );
    }
}

/// What Metadata cost a broker that answers, were it late: one that hangs is asked nothing new.
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

/// Whether the broker took the connection and answers nothing: what a thread dump may explain.
fn silent(probes: &ProbeReport) -> bool {
    let own = [Some(&probes.api), probes.metadata.as_ref()];
    let mut errors = own
        .into_iter()
        .flatten()
        .filter_map(|probe| probe.error.as_ref());
    errors.any(|error| error.accepted && error.reason == Reason::Timeout)
}

/// What the passes of one broker keep.
struct Passes {
    collector: ProgressCollector,
    interval: AdaptiveInterval,
    suspects: BTreeSet<u32>,
    /// When a report without news is due.
    report_due: Option<Instant>,
    pauses: Option<Result<Duration, Failure>>,
}

/// A pass that has something to say.
struct Report {
    begun: Instant,
    /// Before any dump has named the threads.
    before_names: bool,
    progress: Result<ProgressReport, Failure>,
    suspects: BTreeSet<u32>,
    pauses: Option<Result<Duration, Failure>>,
    interval: AdaptiveInterval,
}

impl Passes {
    /// Passes once, and breaks where the suspects are others than before or a report is due.
    fn pass(&mut self, begun: Instant, names: Option<Arc<Names>>) -> ControlFlow<Report, Instant> {
        let before_names = names.is_none();
        let (pass, cost) = measured(|| self.collector.pass(&names.unwrap_or_default()));
        self.interval.spent(cost);
        self.pauses = pass.pauses.or(self.pauses.take());
        let reported = pass.progress.iter().flat_map(|report| &report.suspects);
        let suspects = reported.map(|suspect| suspect.thread_id).collect();
        let next = self.interval.next(begun);
        if suspects == self.suspects && self.report_due.is_some_and(|due| next <= due) {
            return ControlFlow::Continue(next);
        }
        self.suspects.clone_from(&suspects);
        self.report_due = Some(shared_moment(begun, TELL_EVERY, begun));
        ControlFlow::Break(Report {
            begun,
            before_names,
            progress: pass.progress,
            suspects,
            pauses: self.pauses.take(),
            interval: self.interval.clone(),
        })
    }
}

/// Whether the broker answers worse than one that works.
fn is_late(probes: &ProbeReport) -> bool {
    let own = [Some(&probes.api), probes.metadata.as_ref()];
    let mut own = own.into_iter().flatten();
    own.any(|probe| probe.error.is_some() || probe.duration >= LATE)
}

async fn progress(watched: BrokerContext) {
    let mut pace = AdaptiveInterval::new(watched.config.rounds.progress, PROGRESS_CEILING);
    let collector = ProgressCollector::new(
        watched.proc.clone(),
        Arc::clone(&watched.broker),
        watched.kept_descriptors.clone(),
    );
    let mut lane = BlockingWorker::new(Passes {
        collector,
        interval: pace.clone(),
        suspects: BTreeSet::new(),
        report_due: None,
        pauses: None,
    });
    let name = watched.broker.name();
    let mut judged: Option<Instant> = None;
    let mut next = Instant::now();
    loop {
        let names = watched.names.subscribe();
        let work = move |passes: &mut Passes, begun| passes.pass(begun, names.borrow().clone());
        let usual = TELL_EVERY.max(pace.interval());
        let report = lane.repeat(next, usual, usual + PROGRESS_DEADLINE, &name, work);
        let report = report.await;
        let report = report.unwrap_or_else(|failure| Report {
            begun: next,
            before_names: false,
            progress: Err(failure),
            suspects: BTreeSet::new(),
            pauses: None,
            interval: pace.clone(),
        });
        let (begun, mut suspects) = (report.begun, report.suspects);
        let took = begun.elapsed();
        pace = report.interval;
        let news = watched.suspects.send_if_modified(|known| {
            // Not ours to take back.
            suspects.extend(known.get(&SILENCE));
            std::mem::replace(known, suspects.clone()) != suspects
        });
        if news {
            let names: Vec<&str> = report
                .progress
                .iter()
                .flat_map(|report| &report.suspects)
                .map(|suspect| suspect.thread.as_str())
                .collect();
            tracing::debug!(broker = %name, suspects = ?names, "threads that hardly move");
        }
        // Most versions need the names of the first dump, which is under way. A broker that starts has no such threads
        // yet, and one that ends none any more. Nothing has failed.
        let unnamed = report
            .progress
            .as_ref()
            .is_err_and(|failure| failure.reason == Reason::Unnamed);
        if report.progress.is_ok() {
            judged = Some(begun);
        }
        let starts = watched
            .broker
            .started
            .is_some_and(|started| watched.clock.now().since(started) < STARTS_OR_ENDS);
        let ends = judged.is_some_and(|judged| judged.elapsed() < STARTS_OR_ENDS);
        let too_early = unnamed && (report.before_names || starts || ends);
        if !too_early {
            watched
                .tell("progress", &pace, took, Told::Progress(report.progress))
                .await;
        }
        if let Some(pauses) = report.pauses {
            watched
                .tell("progress", &pace, took, Told::Pauses(pauses))
                .await;
        }
        next = pace.next(begun);
    }
}

async fn thread_dump(watched: BrokerContext) {
    let mut demand = DumpScheduler::new(watched.config.rounds.thread_dump, DUMP_CEILING);
    let mut collector = ThreadCollector::new(
        threads::THIS_PROGRAM,
        watched.proc.path(),
        Arc::clone(&watched.broker),
        DUMP_DEADLINE,
    );
    let mut lane = BlockingWorker::new(ThreadHistory::default());
    let name = watched.broker.name();
    let mut suspected = watched.suspects.subscribe();
    // Once for each process: its pause of seconds is charged to no budget, as the broker is stuck anyway.
    let mut asked_for_owners = false;
    loop {
        let begun = Instant::now();
        let suspects = suspected.borrow_and_update().clone();
        watched.dumping.send_replace(true);
        let dump = collector.collect().await;
        let took = begun.elapsed();
        // Where the JVM does not publish its pauses, all of the time counts as pause.
        let pause = match &dump {
            Ok(dump) => Some(dump.pause.unwrap_or(dump.duration)),
            Err(_) => collector.failed_pause(),
        };
        let mut report = judged(&watched, &mut lane, &name, dump).await;
        if !asked_for_owners
            && report
                .as_ref()
                .is_ok_and(|(report, _)| threads::lacks_owners(report))
        {
            asked_for_owners = true;
            tracing::info!(broker = %name, "threads stand still at a lock: one dump that tells its owner");
            let dump = collector.collect_with_locks().await;
            report = judged(&watched, &mut lane, &name, dump).await.or(report);
        }
        let report = report.map(|(report, names)| {
            watched.names.send_replace(Some(Arc::new(names)));
            report
        });
        // A failed dump takes no names back.
        watched
            .names
            .send_modify(|names| *names = Some(names.take().unwrap_or_default()));
        let deadlocked = report
            .as_ref()
            .ok()
            .map(|report| !report.deadlocks.is_empty());
        match &report {
            Err(failure) if failure.reason == Reason::Stopped => demand.stopped(begun),
            _ => demand.taken(begun, pause, &suspects, deadlocked),
        }
        tracing::debug!(broker = %name, ?took, ?pause, suspects = suspects.len(), ?deadlocked, "thread dump");
        watched
            .tell("thread_dump", demand.pace(), took, Told::Threads(report))
            .await;
        // The JVM ends the answer before it closes its handle.
        tokio::time::sleep(DUMP_SETTLES).await;
        watched.dumping.send_replace(false);
        // What is suspected may change while this waits, and with it when the next dump is due.
        loop {
            let due = demand.due(&suspected.borrow_and_update()).unwrap_or(begun);
            tokio::select! {
                () = tokio::time::sleep_until(due.into()) => break,
                // Its sender is a part of `watched`.
                _ = suspected.changed() => {}
            }
        }
    }
}

/// What a dump says.
async fn judged(
    watched: &BrokerContext,
    lane: &mut BlockingWorker<ThreadHistory>,
    name: &str,
    dump: Result<RawDump, Failure>,
) -> Result<(ThreadReport, Names), Failure> {
    let dump = dump?;
    let (behind, now) = (watched.behind.borrow().clone(), watched.clock.now());
    let work =
        move |history: &mut ThreadHistory| threads::report(&dump, history, behind.as_deref(), now);
    let (report, _) = lane.run(DUMP_DEADLINE, name, work).await?;
    report.map_err(|failure| Failure::new(failure.reason, format!("{name}: {}", failure.message)))
}
