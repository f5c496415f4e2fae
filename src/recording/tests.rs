#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::Cursor;
use std::path::Path;

use super::*;
use crate::model::Reason;
use crate::model::{Broker, ProcessKey};
use crate::model::{BrokerSnapshot, ExporterVitals, Moment, ProcessVitals, Reading};

fn recorder(file: &Path, max_bytes: u64) -> Recorder {
    Recorder {
        settings: Settings {
            file: file.to_owned(),
            max_bytes,
        },
        open: None,
        failed: false,
    }
}

/// One broker whose readings lie at the edges of their types.
fn snapshot(at: u64) -> Snapshot {
    let mut broker = BrokerSnapshot::new(
        Arc::new(Broker::unknown(ProcessKey {
            pid: u32::MAX,
            start_ticks: u64::MAX,
        })),
        "3@9092 \"\\\n\u{85}".into(),
    );
    let valid_for = Duration::new(u64::MAX, 999_999_999);
    broker.open_fds = Reading::Known {
        value: u64::MAX,
        at: Moment(u64::MAX),
        valid_for,
    };
    let vitals = ProcessVitals {
        state: '\u{1f980}',
        resident_bytes: 0,
        fd_limit_soft: None,
        fd_limit_hard: Some(0),
    };
    broker.process = Reading::Known {
        value: vitals,
        at: Moment(0),
        valid_for: Duration::ZERO,
    };
    broker.dump_failures.insert(Reason::Timeout, 1 << 53 | 1);
    let vitals = ExporterVitals {
        cpu_seconds: 0.1 + 0.2,
        ..Default::default()
    };
    let exporter = Reading::Known {
        value: vitals,
        at: Moment(at),
        valid_for,
    };
    Snapshot {
        at: Moment(at),
        brokers: vec![Arc::new(broker)],
        exporter,
        ..Default::default()
    }
}

fn read(file: &Path) -> Vec<Snapshot> {
    Recording::open(file).unwrap().collect()
}

#[test]
fn what_was_written_is_read_across_rotations_and_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("r.jsonl");
    let written: Vec<Snapshot> = (0..10)
        .map(|i| snapshot(1_700_000_000_000 + i * 1000))
        .collect();
    let line = serde_json::to_vec(&written[0]).unwrap().len() as u64 + 1;
    let mut first = recorder(&file, line * 4);
    written[..4]
        .iter()
        .for_each(|snapshot| first.take(snapshot));
    assert_eq!(read(&file), written[..4]);
    written[4..6]
        .iter()
        .for_each(|snapshot| first.take(snapshot));
    assert_eq!(read(&folder.path().join("r.jsonl.1")), written[..4]);
    assert_eq!(read(&file), written[4..6]);
    // Killed while writing a line.
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() - 9]).unwrap();
    recorder(&file, line * 9).take(&written[6]);
    let mut recording = Recording::open(&file).unwrap();
    assert_eq!(
        recording.by_ref().collect::<Vec<_>>(),
        [written[4].clone(), written[6].clone()]
    );
    assert_eq!((recording.skipped, recording.broken), (1, None));
}

#[test]
fn a_failure_is_logged_once_and_recording_continues_afterwards() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("later").join("r.jsonl");
    let mut to_no_folder = recorder(&file, 1 << 20);
    to_no_folder.take(&snapshot(1));
    assert!(to_no_folder.failed);
    std::fs::create_dir(file.parent().unwrap()).unwrap();
    to_no_folder.take(&snapshot(2));
    assert!(!to_no_folder.failed);
    assert_eq!(read(&file), [snapshot(2)]);
    let mut to_full_disk = recorder(Path::new("/dev/full"), 1 << 20);
    to_full_disk.take(&snapshot(1));
    assert!(to_full_disk.failed && to_full_disk.open.is_none());
}

/// Like a file that is mounted alone: nothing can take its place.
#[test]
fn a_full_file_that_cannot_be_renamed_does_not_grow() {
    let folder = tempfile::tempdir().unwrap();
    let (file, in_the_way) = (
        folder.path().join("r.jsonl"),
        folder.path().join("r.jsonl.1/x"),
    );
    std::fs::create_dir_all(&in_the_way).unwrap();
    let line = serde_json::to_vec(&snapshot(1)).unwrap().len() as u64 + 1;
    let mut recorder = recorder(&file, line * 2);
    for second in 1..10 {
        recorder.take(&snapshot(second));
        assert_eq!(recorder.failed, second > 2, "it fails once and stays so");
    }
    assert_eq!(std::fs::metadata(&file).unwrap().len(), line * 2);
    std::fs::remove_dir_all(in_the_way.parent().unwrap()).unwrap();
    recorder.take(&snapshot(11));
    assert!(!recorder.failed);
    assert_eq!(read(&file), [snapshot(11)]);
    assert_eq!(
        read(&folder.path().join("r.jsonl.1")),
        [snapshot(1), snapshot(2)]
    );
}

#[test]
fn bad_lines_are_skipped_and_counted() {
    let good = |at| serde_json::to_string(&snapshot(at)).unwrap();
    let long = format!("{{\"x\":\"{}\"}}", "x".repeat(40 << 20));
    let deep = "[".repeat(100_000);
    let table: [(&str, Vec<u8>, usize, u64); 6] = [
        ("empty", Vec::new(), 0, 0),
        ("blank lines", format!("\n\n{}\n \n", good(5)).into(), 1, 0),
        (
            "no newline at the end",
            format!("{}\n{}", good(5), good(6)).into(),
            2,
            0,
        ),
        ("cut off", good(5)[..40].to_owned().into(), 0, 1),
        (
            "back in time",
            format!("{}\n{}\n{}\n", good(9), good(5), good(9)).into(),
            2,
            1,
        ),
        (
            "too long, too deep, no text",
            [
                long.as_bytes(),
                b"\n",
                deep.as_bytes(),
                b"\n\xff\0\n",
                good(5).as_bytes(),
            ]
            .concat(),
            1,
            3,
        ),
    ];
    for (name, bytes, snapshots, skipped) in table {
        let mut recording = Recording::new(Cursor::new(bytes)).unwrap();
        assert_eq!(
            (recording.by_ref().count(), recording.skipped),
            (snapshots, skipped),
            "{name}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_hangs_delays_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("fifo");
    // No process reads it, so opening it for writing never ends.
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    let (publish, snapshots) = watch::channel(Arc::new(snapshot(1)));
    let settings = Settings {
        file: fifo,
        max_bytes: 1 << 20,
    };
    let running = tokio::spawn(run(settings, snapshots, Clock::start()));
    for i in 0..1000 {
        publish.send_replace(Arc::new(snapshot(i)));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(!running.is_finished());
    drop(publish);
    running.await.unwrap();
}
