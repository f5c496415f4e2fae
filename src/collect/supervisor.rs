//! Finds the brokers of this host, and keeps the collectors of each one running while its process lives.

use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::adaptive_interval::AdaptiveInterval;
use super::context::{BrokerContext, Signals};
use super::discovery::{self, Scan};
use super::dump_service::DumpService;
use super::ends::{self, End};
use super::groups::debts::Debts;
use super::snapshot_store::{self, Update};
use super::socket_tables::SocketTables;
use super::zookeeper::ensembles::Ensembles;
use crate::config::{BrokerMatch, BrokerSettings, Config, InUse};
use crate::discover::{self, Discovery};
use crate::kafka::conn::OwnConnections;
use crate::model::text::first_of;
use crate::model::{Broker, Clock, CollectorName, Label, ProcessKey, Snapshot};
use crate::sys::blocking_worker::BlockingWorker;
use crate::sys::proc::ProcRoot;
use crate::sys::schedstat::Allowance;

/// Share of one core that discovery may cost.
const DISCOVERY_CEILING: f64 = 0.001;
const DISCOVERY_DEADLINE: Duration = Duration::from_secs(4);
/// Between two runs that the ends of processes cause.
const BETWEEN_ENDS: Duration = Duration::from_secs(1);
/// Ids of which there is a warning.
const MOST_SHOWN: usize = 8;
/// Updates on their way to the store; a full queue slows the collectors down, never a scrape.
const UPDATES: usize = 256;

/// Monitors every broker of this host until it is dropped. `start` starts the collectors of one.
pub(super) async fn run(
    settings: watch::Receiver<InUse>,
    publish: watch::Sender<Arc<Snapshot>>,
    dumps: DumpService,
    clock: Clock,
    start: fn(&BrokerContext) -> JoinSet<()>,
) {
    let (updates, received) = mpsc::channel(UPDATES);
    tokio::join!(
        snapshot_store::keep(received, publish, clock),
        follow(settings, updates, dumps, clock, start)
    );
}

/// Starts discovery, and with it every collector, again with each other config. What they have read remains, except
/// for collectors that are off from then on.
async fn follow(
    mut settings: watch::Receiver<InUse>,
    updates: mpsc::Sender<Update>,
    dumps: DumpService,
    clock: Clock,
    start: fn(&BrokerContext) -> JoinSet<()>,
) {
    // One for all configs: it knows who came first on this host, and which reads hang.
    let proc = ProcRoot::new(&settings.borrow().config.procfs);
    let mut worker = BlockingWorker::reserved(Discovery::new(proc, Vec::new()));
    let mut lasting = Lasting::default();
    loop {
        let config = Arc::clone(&settings.borrow_and_update().config);
        settings.mark_changed();
        tokio::select! {
            () = discover(&mut worker, &mut lasting, Arc::clone(&config), updates.clone(), dumps.clone(), clock, start) => return,
            () = other_config(&mut settings, &config, &updates) => {}
        }
        join_all(lasting.running.drain().map(|(_, running)| running.end())).await;
        // The first scan for the next config must not take the last one for a read that hangs.
        worker.ended(DISCOVERY_DEADLINE).await;
    }
}

/// Publishes the status of the settings, until there is a config other than this one.
async fn other_config(
    settings: &mut watch::Receiver<InUse>,
    config: &Arc<Config>,
    updates: &mpsc::Sender<Update>,
) {
    loop {
        if settings.changed().await.is_err() {
            // A single run takes none again.
            return std::future::pending().await;
        }
        let InUse {
            config: newest,
            status,
        } = settings.borrow_and_update().clone();
        let is_other = !Arc::ptr_eq(config, &newest);
        let update = Update::new(move |snapshot, _| snapshot.settings = Some(status));
        if updates.send(update).await.is_err() || is_other {
            return;
        }
    }
}

/// The collectors of one broker process, ended when dropped.
struct Running {
    broker: Arc<Broker>,
    /// The entry of the config file that is about it.
    entry: Option<usize>,
    /// None where only discovery notices its end, and once the kernel has reported it.
    end: Option<End>,
    tasks: JoinSet<()>,
}

impl Running {
    /// Ends the collectors. Only then may others start for the same process: what these are owed goes over to them.
    async fn end(mut self) {
        self.tasks.shutdown().await;
    }
}

/// What remains when the settings change: connections over which an answer is owed, and the collectors until they have
/// ended.
#[derive(Default)]
struct Lasting {
    own: OwnConnections,
    debts: Debts,
    running: HashMap<ProcessKey, Running>,
}

async fn discover(
    worker: &mut BlockingWorker<Discovery>,
    lasting: &mut Lasting,
    config: Arc<Config>,
    updates: mpsc::Sender<Update>,
    dumps: DumpService,
    clock: Clock,
    start: fn(&BrokerContext) -> JoinSet<()>,
) {
    let Lasting {
        own,
        debts,
        running,
    } = lasting;
    let proc = ProcRoot::new(&config.procfs);
    let tables = SocketTables::default();
    let ensembles = Ensembles::new(own.clone());
    let kept_descriptors = Allowance::of_own_limit();
    let configured = config.intervals.of(CollectorName::Discovery);
    let mut interval = AdaptiveInterval::new(configured, DISCOVERY_CEILING);
    let watched = Arc::new(AtomicUsize::new(0));
    loop {
        let started = Instant::now();
        let (root, settings) = (proc.clone(), Arc::clone(&config));
        let scan = move |discovery: &mut Discovery| {
            let pid_files = settings.brokers.iter();
            let pid_files = pid_files.filter_map(|broker| broker.matches.pid_file.clone());
            discovery.set(&settings.users, settings.max_brokers, pid_files.collect());
            Scan::take(discovery, &root, &settings.brokers)
        };
        let Scan { mut found, pids } = match worker.run(DISCOVERY_DEADLINE, "discovery", scan).await
        {
            Ok((scan, cpu)) => {
                interval.spent(cpu);
                scan
            }
            Err(failure) => Scan::failed(&failure),
        };
        if let Ok(brokers) = &found.brokers {
            let warnings = &mut found.warnings;
            warnings.extend(unmatched(&config.brokers, &pids, brokers));
            warnings.extend(shared_ids(brokers));
            warnings.extend(lacking_rights(brokers));
        }
        let alive = found.brokers.as_ref().ok().cloned();
        // The store must know a broker before its collectors report.
        let update = discovery::update(found, interval.interval(), started.elapsed());
        if updates.send(update).await.is_err() {
            return;
        }
        if let Some(alive) = alive {
            let runs = |process| alive.iter().any(|(broker, _)| broker.process == process);
            running.retain(|process, _| runs(*process));
            dumps.keep_only(runs);
            watched.store(alive.len(), Ordering::Relaxed);
            debts.keep_only(runs);
            for (broker, label) in alive {
                let jvm = dumps.jvm(&broker);
                jvm.set_outranked(label.outranked);
                let known = running.get(&broker.process);
                let entry = entry_of(
                    &config.brokers,
                    &pids,
                    &broker,
                    known.and_then(|known| known.entry),
                );
                if known.is_some_and(|known| known.entry == entry && suits(&known.broker, &broker))
                {
                    continue;
                }
                let context = BrokerContext {
                    settings: entry.and_then(|entry| config.brokers.get(entry)).cloned(),
                    broker: Arc::clone(&broker),
                    config: Arc::clone(&config),
                    proc: proc.clone(),
                    own: own.clone(),
                    tables: tables.clone(),
                    ensembles: ensembles.clone(),
                    debts: debts.clone(),
                    updates: updates.clone(),
                    clock,
                    kept_descriptors: kept_descriptors.clone(),
                    jvm,
                    brokers: Arc::clone(&watched),
                    signals: Signals::default(),
                };
                let (root, process) = (proc.clone(), broker.process);
                let hold = move |_: &mut Discovery| ends::hold(&root, process);
                let held = worker.run(DISCOVERY_DEADLINE, "discovery", hold).await;
                if let Some(before) = running.remove(&process) {
                    before.end().await;
                }
                let switches = Arc::clone(&config);
                let switched = Update::of_broker(process, move |broker, _| {
                    broker.set_switches(|name| switches.collectors.is_on(name));
                });
                // Before the first report of a collector.
                if updates.send(switched).await.is_err() {
                    return;
                }
                let tasks = start(&context);
                let end = held.ok().and_then(|(held, _)| End::of(held?, context));
                running.insert(
                    process,
                    Running {
                        broker,
                        entry,
                        end,
                        tasks,
                    },
                );
            }
        }
        let next = interval.next(started);
        tokio::select! {
            () = tokio::time::sleep_until(next.into()) => {}
            ended = ended(running) => {
                join_all(ended.iter().map(End::take_last_readings)).await;
                // Processes that end one after the other must not make discovery expensive.
                tokio::time::sleep_until(next.min(started + BETWEEN_ENDS).into()).await;
            }
        }
    }
}

/// Waits until the kernel reports the end of a process, and returns those that have ended.
async fn ended(running: &mut HashMap<ProcessKey, Running>) -> Vec<End> {
    poll_fn(|context| {
        let mut ended = Vec::new();
        for running in running.values_mut() {
            let is_over = |end: &mut End| end.poll(context).is_ready();
            ended.extend(running.end.take_if(is_over));
        }
        match ended.is_empty() {
            true => Poll::Pending,
            false => Poll::Ready(ended),
        }
    })
    .await
}

fn is_meant(settings: &BrokerSettings, pid: Option<u32>, broker: &Broker) -> bool {
    discover::matches(broker, settings.matches.id, settings.matches.port, pid)
}

/// Which entry of the config file is about this broker. `pids` are those of the entries' pid files: while that of the
/// entry `before` is missing or half written, nothing says that this is about another broker.
fn entry_of(
    settings: &[BrokerSettings],
    pids: &[Option<u32>],
    broker: &Broker,
    before: Option<usize>,
) -> Option<usize> {
    let meant =
        std::iter::zip(settings, pids).position(|(settings, pid)| is_meant(settings, *pid, broker));
    let no_pid = |entry: &usize| {
        settings
            .get(*entry)
            .is_some_and(|settings| settings.matches.pid_file.is_some())
            && pids.get(*entry) == Some(&None)
    };
    meant.or(before.filter(no_pid))
}

/// Entries of the config file that are about no broker of this host.
fn unmatched(
    settings: &[BrokerSettings],
    pids: &[Option<u32>],
    brokers: &[(Arc<Broker>, Label)],
) -> Vec<String> {
    let mut texts = Vec::new();
    for (index, (settings, pid)) in std::iter::zip(settings, pids).enumerate() {
        // That a pid file cannot be read is a warning of its own.
        let unreadable = settings.matches.pid_file.is_some() && pid.is_none();
        if unreadable
            || brokers
                .iter()
                .any(|(broker, _)| is_meant(settings, *pid, broker))
        {
            continue;
        }
        let wanted = match &settings.matches {
            BrokerMatch { id: Some(id), .. } => format!("id {id}"),
            BrokerMatch {
                port: Some(port), ..
            } => format!("port {port}"),
            BrokerMatch { pid_file, .. } => {
                format!(
                    "pid_file {}",
                    pid_file.as_deref().unwrap_or(Path::new("")).display()
                )
            }
        };
        texts.push(format!(
            "brokers[{index}] of the config file matches no broker that runs on this host: {wanted}; start that \
             broker, or mend or remove the entry"
        ));
    }
    texts
}

/// Brokers of one host that have the same id, as those of two clusters may.
fn shared_ids(found: &[(Arc<Broker>, Label)]) -> Vec<String> {
    let mut by_id: BTreeMap<i32, Vec<String>> = BTreeMap::new();
    for (broker, label) in found {
        let named = format!("{} (pid {})", label.text, broker.process.pid);
        broker
            .id
            .into_iter()
            .for_each(|id| by_id.entry(id).or_default().push(named.clone()));
    }
    by_id.retain(|_, named| named.len() > 1);
    let text = |(id, named): (i32, Vec<String>)| {
        format!(
            "{} brokers of this host have the id {id}; their label `broker` is: {}",
            named.len(),
            first_of(&named, named.len())
        )
    };
    by_id.into_iter().take(MOST_SHOWN).map(text).collect()
}

/// What the exporter may not read of the brokers of this host, once for all of the same user.
fn lacking_rights(found: &[(Arc<Broker>, Label)]) -> Vec<String> {
    type Ids = (Option<u32>, Option<u32>);
    let own: Ids = (
        Some(rustix::process::geteuid().as_raw()),
        Some(rustix::process::getegid().as_raw()),
    );
    let mut alike: BTreeMap<_, Vec<&str>> = BTreeMap::new();
    for (broker, label) in found {
        if !broker.lacking.is_empty() {
            let user = (broker.uid, broker.gid);
            let labels = alike.entry((user, &broker.lacking)).or_default();
            labels.push(&label.text);
        }
    }
    let id = |id: Option<u32>| id.map_or_else(|| "unknown".to_owned(), |id| id.to_string());
    let text = |((user, lacking), labels): ((Ids, &Vec<String>), Vec<&str>)| {
        let remedy = match user == own {
            true => "give it that capability",
            false => {
                "run it as their user and group (User= and Group= of its systemd unit), or give it these capabilities"
            }
        };
        format!(
            "kafka-vitals runs as uid {} gid {} and lacks {} for the brokers of uid {} gid {} ({}), of which much is \
             unknown for that reason: {remedy} (docs/rights.md)",
            id(own.0),
            id(own.1),
            lacking.join(", "),
            id(user.0),
            id(user.1),
            first_of(&labels, labels.len())
        )
    };
    alike.into_iter().take(MOST_SHOWN).map(text).collect()
}

/// Whether collectors that were started for `known` may go on. To start them again costs a hanging broker a connection
/// and a request, and loses all that was seen over time: only a change of what they use is a reason.
fn suits(known: &Broker, found: &Broker) -> bool {
    fn used(broker: &Broker) -> impl PartialEq + '_ {
        let Broker {
            id,
            roles,
            listeners,
            mode,
            log_dirs,
            metadata_log_dir,
            min_insync_replicas,
            zookeeper,
            zookeeper_root,
            zookeeper_tls,
            uid,
            gid,
            ..
        } = broker;
        let files = (log_dirs, metadata_log_dir, min_insync_replicas);
        let zookeeper = (zookeeper, zookeeper_root, zookeeper_tls);
        (id, roles, listeners, mode, files, zookeeper, uid, gid)
    }
    used(known) == used(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Mutex;

    use super::*;

    /// The tests of discovery describe this host, which has two brokers.
    const HOST: &str = "tests/fixtures/proc/host";
    static RUNNING: AtomicUsize = AtomicUsize::new(0);
    static FOUND_RUNNING: Mutex<Vec<usize>> = Mutex::new(Vec::new());

    /// A collector that takes its time to end.
    struct Slow;

    impl Drop for Slow {
        fn drop(&mut self) {
            std::thread::sleep(Duration::from_millis(200));
            RUNNING.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn start_slow(_: &BrokerContext) -> JoinSet<()> {
        let found = RUNNING.fetch_add(1, Ordering::SeqCst);
        FOUND_RUNNING.lock().unwrap().push(found);
        let (mut tasks, collector) = (JoinSet::new(), Slow);
        tasks.spawn(async move {
            let _collector = collector;
            std::future::pending().await
        });
        tasks
    }

    /// The first ones may owe an answer to a request that takes a lock: the next ones must know.
    #[tokio::test(flavor = "multi_thread")]
    async fn no_collector_starts_before_the_last_one_has_ended() {
        let config = || {
            let mut config = Config::load(Default::default()).unwrap();
            config.procfs = HOST.into();
            let status = crate::model::SettingsStatus::default();
            InUse {
                config: Arc::new(config),
                status,
            }
        };
        let started = async |count| {
            while FOUND_RUNNING.lock().unwrap().len() < count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let (settings, in_use) = watch::channel(config());
        let (publish, _) = watch::channel(Arc::default());
        let dumps = DumpService::new(HOST);
        let running = tokio::spawn(run(in_use, publish, dumps, Clock::start(), start_slow));
        started(2).await;
        settings.send_replace(config());
        started(4).await;
        assert_eq!(*FOUND_RUNNING.lock().unwrap(), [0, 1, 0, 1]);
        running.abort();
    }

    #[test]
    fn collectors_go_on_until_something_they_need_changes() {
        let known = Broker::unknown(ProcessKey {
            pid: 1,
            start_ticks: 1,
        });
        let described = Broker {
            problems: vec!["server.properties was changed".into()],
            started: Some(crate::model::Moment(1)),
            kafka_version: Some("3.9.1".into()),
            java_version: Some("17.0.15".into()),
            ..known.clone()
        };
        assert!(suits(&known, &described));
        let needed = [
            Broker {
                id: Some(1),
                ..known.clone()
            },
            Broker {
                roles: [crate::model::Role::Controller].into(),
                ..known.clone()
            },
            Broker {
                log_dirs: vec!["/data".into()],
                ..known.clone()
            },
            Broker {
                zookeeper: vec!["z:2181".into()],
                ..known.clone()
            },
            Broker {
                uid: Some(1),
                ..known.clone()
            },
            Broker {
                gid: Some(1),
                ..known.clone()
            },
        ];
        assert!(needed.iter().all(|found| !suits(&known, found)));
    }

    #[test]
    fn a_pid_file_may_come_late_and_be_missing_for_a_moment() {
        let entry = |matches| BrokerSettings {
            matches,
            probe_listener: None,
            bootstrap: None,
            tls: None,
            sasl: None,
            credentials: None,
        };
        let by_file = entry(BrokerMatch {
            pid_file: Some("/run/kafka.pid".into()),
            ..BrokerMatch::default()
        });
        let by_id = entry(BrokerMatch {
            id: Some(3),
            ..BrokerMatch::default()
        });
        let settings = [by_file, by_id];
        let broker = Broker::unknown(ProcessKey {
            pid: 7,
            start_ticks: 1,
        });
        let entry_of = |pid, id, before| {
            entry_of(
                &settings,
                &[pid, None],
                &Broker {
                    id,
                    ..broker.clone()
                },
                before,
            )
        };
        assert_eq!(entry_of(None, None, None), None);
        assert_eq!(entry_of(Some(7), None, None), Some(0));
        assert_eq!(
            entry_of(None, None, Some(0)),
            Some(0),
            "the file is being rewritten"
        );
        assert_eq!(
            entry_of(Some(8), None, Some(0)),
            None,
            "it names another process"
        );
        assert_eq!(entry_of(None, Some(3), Some(1)), Some(1));
        assert_eq!(entry_of(None, None, Some(1)), None);
    }
}
