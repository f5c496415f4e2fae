#![allow(clippy::unwrap_used, clippy::expect_used)]
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::mpsc;

use tokio::time::timeout;

use super::*;
use crate::evidence::manifest::Manifest;
use crate::model::{Broker, BrokerSnapshot, Snapshot};
use crate::verdict::finding::{Diagnosis, Finding};

fn gray(
    process: ProcessKey,
    label: &str,
    since: Moment,
    findings: &[FindingId],
) -> BrokerDiagnosis {
    BrokerDiagnosis {
        label: label.into(),
        process,
        state: BrokerState::Gray,
        since,
        sentence: format!("Broker {label} is alive but not working."),
        remedy: "Restart it.".into(),
        findings: findings
            .iter()
            .map(|id| Finding {
                id: *id,
                last_seen: None,
                since,
                facts: vec!["a fact".into()],
            })
            .collect(),
        ..BrokerDiagnosis::default()
    }
}

fn view_of(brokers: Vec<BrokerDiagnosis>, proc: &ProcRoot) -> View {
    let readings = brokers.iter().map(|broker| {
        let started = proc
            .started(broker.process.start_ticks)
            .ok()
            .map(|since_1970| Moment(0).plus(since_1970));
        let known = Broker {
            started,
            ..Broker::unknown(broker.process)
        };
        Arc::new(BrokerSnapshot::new(
            Arc::new(known),
            broker.label.clone().into(),
        ))
    });
    let snapshot = Snapshot {
        brokers: readings.collect(),
        ..Snapshot::default()
    };
    let diagnosis = Diagnosis {
        brokers,
        ..Diagnosis::default()
    };
    View {
        snapshot: Arc::new(snapshot),
        diagnosis: Arc::new(diagnosis),
        ..View::default()
    }
}

#[test]
fn a_verdict_is_saved_once_and_again_when_new_critical_findings_join_or_it_returns() {
    use FindingId::{ApiUnresponsive, CloseWaitPileup, JvmDeadlock};
    let [one, two] = [1, 2].map(|pid| ProcessKey {
        pid,
        start_ticks: 1,
    });
    let at = |seconds: u64| Moment(seconds * 1000);
    let tried = |bundles, failed| Tried {
        findings: BTreeSet::from([JvmDeadlock]),
        bundles,
        at: at(100),
        failed,
    };
    let saved = |failed| HashMap::from([(one, tried(1, failed))]);
    let table: [(&str, &[FindingId], _, _, bool); 7] = [
        ("new", &[JvmDeadlock], HashMap::new(), 100, true),
        ("saved", &[JvmDeadlock], saved(false), 5000, false),
        (
            "joined too early",
            &[JvmDeadlock, ApiUnresponsive],
            saved(false),
            699,
            false,
        ),
        (
            "joined",
            &[JvmDeadlock, ApiUnresponsive],
            saved(false),
            700,
            true,
        ),
        (
            "joined by a warning",
            &[JvmDeadlock, CloseWaitPileup],
            saved(false),
            5000,
            false,
        ),
        (
            "failed a moment ago",
            &[JvmDeadlock],
            saved(true),
            159,
            false,
        ),
        ("failed", &[JvmDeadlock], saved(true), 160, true),
    ];
    for (name, findings, tried, now, wanted) in table {
        let view = view_of(
            vec![gray(one, "1", at(90), findings)],
            &ProcRoot::new("/proc"),
        );
        assert_eq!(
            due(&view, &tried, &Turns::default(), at(now)).is_some(),
            wanted,
            "{name}"
        );
    }
    // Bundles until now, when it became gray, now.
    let later = [
        ("the same episode", 1, 100, 9_000_000, false),
        ("again too early", 1, 101, 699, false),
        ("again", 1, 101, 700, true),
        ("a third time too early", 2, 101, 1299, false),
        ("a third time", 2, 101, 1300, true),
        ("gray on and off for long", 1000, 101, 76_899, false),
        (
            "gray on and off until the next day",
            1000,
            101,
            76_900,
            true,
        ),
    ];
    for (name, bundles, since, now, wanted) in later {
        let view = view_of(
            vec![gray(one, "1", at(since), &[JvmDeadlock])],
            &ProcRoot::new("/proc"),
        );
        assert_eq!(
            due(
                &view,
                &HashMap::from([(one, tried(bundles, false))]),
                &Turns::default(),
                at(now)
            )
            .is_some(),
            wanted,
            "{name}"
        );
    }
    let suspect = BrokerDiagnosis {
        state: BrokerState::Suspect,
        ..gray(one, "1", at(1), &[])
    };
    let brokers = vec![
        suspect,
        gray(one, "1", at(9), &[]),
        gray(two, "2", at(8), &[]),
    ];
    let view = view_of(brokers, &ProcRoot::new("/proc"));
    assert_eq!(
        due(&view, &HashMap::new(), &Turns::default(), at(10))
            .unwrap()
            .label,
        "2",
        "the one that is gray for longest"
    );
}

/// Before, the real broker waited until the bundles of six fakes were written: 33 s.
#[test]
fn fakes_of_another_user_take_one_of_the_two_writers_and_those_of_a_label_take_turns() {
    let process = |pid| ProcessKey {
        pid,
        start_ticks: 1,
    };
    let real = gray(process(7), "1", Moment(900), &[FindingId::JvmDeadlock]);
    let fakes = (1..7).map(|pid| gray(process(pid), &format!("f{pid}"), Moment(pid.into()), &[]));
    let view = |brokers: Vec<BrokerDiagnosis>, user: fn(u32) -> u32| {
        let mut view = view_of(brokers, &ProcRoot::new("/proc"));
        let snapshot = Arc::make_mut(&mut view.snapshot);
        for readings in &mut snapshot.brokers {
            let readings = Arc::make_mut(readings);
            let uid = Some(user(readings.broker.process.pid));
            Arc::make_mut(&mut readings.broker).uid = uid;
        }
        view
    };
    let all: Vec<BrokerDiagnosis> = fakes.clone().chain([real.clone()]).collect();
    let other_user = view(all.clone(), |pid| if pid == 7 { 1000 } else { 65534 });
    let label = |view: &View, turns: &Turns| {
        let next = due(view, &HashMap::new(), turns, Moment(1000));
        next.map(|broker| broker.label.clone())
    };
    let mut turns = Turns::default();
    assert_eq!(label(&other_user, &turns).as_deref(), Some("f1"));
    turns.writing.push((process(1), Some(65534)));
    assert_eq!(label(&other_user, &turns).as_deref(), Some("1"));
    turns.writing.push((process(7), Some(1000)));
    assert_eq!(label(&other_user, &turns), None);
    // Without the real one the other writer stays free for it: it may be gray in a moment.
    turns.writing.pop();
    let fine = BrokerDiagnosis {
        state: BrokerState::Healthy,
        ..real.clone()
    };
    let others = fakes.clone().chain([fine]).collect();
    let others = view(others, |pid| if pid == 7 { 1000 } else { 65534 });
    assert_eq!(label(&others, &turns), None);
    // Brokers of one user have both.
    let same_user = view(all, |_| 1000);
    turns.writing = vec![(process(1), Some(1000))];
    assert_eq!(label(&same_user, &turns).as_deref(), Some("f2"));
    // A label that was saved often comes after those that were not.
    for pid in 1..7 {
        turns.by_label.insert(format!("f{pid}"), 1);
    }
    assert_eq!(label(&same_user, &turns).as_deref(), Some("1"));
}

struct Sleeper(Child);

impl Sleeper {
    fn start(proc: &ProcRoot) -> (Sleeper, ProcessKey) {
        let sleeper = Sleeper(Command::new("sleep").arg("600").spawn().unwrap());
        let pid = sleeper.0.id();
        (
            sleeper,
            ProcessKey {
                pid,
                start_ticks: proc.stat(pid).unwrap().start_ticks,
            },
        )
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn settings(dir: &Path) -> EvidenceSettings {
    EvidenceSettings {
        dir: Some(dir.join("state/evidence")),
        min_free: 0,
        ..EvidenceSettings::default()
    }
}

fn names(settings: &EvidenceSettings) -> Vec<String> {
    let entries = fs::read_dir(settings.dir.as_ref().unwrap()).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn two_verdicts_at_once_are_both_saved_and_not_again_after_the_exporter_s_restart() {
    let (proc, folder) = (ProcRoot::new("/proc"), tempfile::tempdir().unwrap());
    let settings = settings(folder.path());
    let ((_one, first), (_two, second)) = (Sleeper::start(&proc), Sleeper::start(&proc));
    let brokers = [(first, "217"), (second, "219@9092")];
    let brokers = brokers
        .map(|(process, label)| gray(process, label, Moment(1), &[FindingId::ApiUnresponsive]));
    let save_all = |views, publish| {
        let dumps = DumpService::new(proc.path());
        let (settings, proc) = (settings.clone(), proc.clone());
        tokio::spawn(run(views, publish, settings, proc, dumps, Clock::start()))
    };
    let (publish_view, views) = watch::channel(Arc::new(View::default()));
    let (publish, mut saved) = watch::channel(Arc::new(EvidenceStatus::default()));
    let task = save_all(views, publish);
    publish_view.send_replace(Arc::new(view_of(brokers.to_vec(), &proc)));
    let both = |saved: &Arc<EvidenceStatus>| {
        brokers
            .iter()
            .all(|b| saved.of(b.process).is_some_and(|s| s.newest.is_some()))
    };
    let status = timeout(Duration::from_secs(30), saved.wait_for(both))
        .await
        .unwrap()
        .unwrap()
        .clone();
    for broker in &brokers {
        let of = status.of(broker.process).unwrap();
        assert_eq!((of.total, &of.failure), (1, &None));
        let path = &of.newest.as_ref().unwrap().path;
        assert!(
            path.is_dir()
                && path
                    .to_str()
                    .unwrap()
                    .ends_with(&format!("Z-broker-{}", broker.label)),
            "{path:?}"
        );
        assert!(
            fs::read_to_string(path.join("findings.txt"))
                .unwrap()
                .starts_with(&broker.sentence)
        );
    }
    assert_eq!(names(&settings).len(), 2);
    publish_view.send_replace(Arc::new(view_of(brokers.to_vec(), &proc)));
    drop(publish_view);
    timeout(Duration::from_secs(5), task)
        .await
        .unwrap()
        .unwrap();

    // Another exporter finds what this one saved; a third broker shows that it evaluated the verdicts.
    let (_three, third) = Sleeper::start(&proc);
    let more = [brokers.to_vec(), vec![gray(third, "220", Moment(2), &[])]].concat();
    let (_publish_view, views) = watch::channel(Arc::new(view_of(more, &proc)));
    let (publish, mut saved) = watch::channel(Arc::new(EvidenceStatus::default()));
    let task = save_all(views, publish);
    let has_third = |saved: &Arc<EvidenceStatus>| saved.of(third).is_some();
    let status = timeout(Duration::from_secs(30), saved.wait_for(has_third))
        .await
        .unwrap()
        .unwrap()
        .clone();
    task.abort();
    let of = status.of(first).unwrap();
    assert_eq!((of.total, of.newest.is_some()), (0, true));
    assert_eq!(names(&settings).len(), 3);
}

fn saver(settings: EvidenceSettings, proc: &ProcRoot) -> Saver {
    let dumps = DumpService::new(proc.path());
    Saver::new(settings, proc.clone(), dumps, Clock::start(), true)
}

#[tokio::test]
async fn a_hung_disk_delays_nothing() {
    let (proc, folder) = (ProcRoot::new("/proc"), tempfile::tempdir().unwrap());
    let mut saver = saver(settings(folder.path()), &proc);
    let (_release, hang) = mpsc::channel::<()>();
    timeout(
        Duration::from_millis(20),
        saver.in_folder(move |_| hang.recv().is_ok()),
    )
    .await
    .unwrap_err();
    let process = ProcessKey {
        pid: std::process::id(),
        start_ticks: 1,
    };
    let view = view_of(vec![gray(process, "1", Moment(1), &[])], &proc);
    let history = History::default();
    let save = saver.save(&view, &view.diagnosis.brokers[0], &history, || true);
    let why = timeout(Duration::from_secs(1), save)
        .await
        .unwrap()
        .unwrap_err()
        .to_string();
    assert!(
        why.contains("state/evidence: an earlier") && why.contains("still hangs"),
        "{why}"
    );
}

#[tokio::test]
async fn a_wanted_heap_dump_that_fails_is_listed_as_missing() {
    let (proc, folder) = (ProcRoot::new("/proc"), tempfile::tempdir().unwrap());
    let (_sleeper, process) = Sleeper::start(&proc);
    let view = view_of(
        vec![gray(process, "1", Moment(1), &[FindingId::JvmDeadlock])],
        &proc,
    );
    let history = History::default();
    history.push(&Snapshot {
        discovery_warnings: vec!["n".repeat(2 << 20)],
        ..Snapshot::default()
    });
    // Whether the broker is still stuck, and the reason listed for the heap dump.
    let table = [
        (None, true, None),
        (Some("/"), false, Some("is not stopped")),
        (Some("/"), true, Some("not tried")),
    ];
    for (heap_dump, stuck, reason) in table {
        let settings = EvidenceSettings {
            heap_dump: heap_dump.map(PathBuf::from),
            ..settings(folder.path())
        };
        let mut saver = saver(settings, &proc);
        let path = saver
            .save(&view, &view.diagnosis.brokers[0], &history, || stuck)
            .await
            .unwrap();
        let manifest: Manifest =
            serde_json::from_slice(&fs::read(path.join("manifest.json")).unwrap()).unwrap();
        let why = manifest
            .missing
            .iter()
            .find(|missing| missing.name == "heap dump")
            .map(|missing| &missing.why);
        let of_lines = manifest
            .missing
            .iter()
            .find(|m| m.name == "some of snapshots.jsonl");
        assert!(of_lines.is_some_and(|m| m.why.ends_with("1 MiB: 1")));
        assert_eq!(
            (manifest.heap_dump, why.is_some()),
            (None, reason.is_some())
        );
        assert!(
            why.is_none_or(|why| why.contains(reason.unwrap())),
            "{why:?}"
        );
    }
    let healthy = BrokerDiagnosis {
        state: BrokerState::Healthy,
        ..gray(process, "1", Moment(1), &[])
    };
    let silent = gray(
        process,
        "1",
        Moment(1),
        &[FindingId::ApiUnresponsive, FindingId::ProcessStopped],
    );
    assert!(!is_stuck(&healthy) && !is_stuck(&silent) && is_stuck(&view.diagnosis.brokers[0]));
}
