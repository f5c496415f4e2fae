#![allow(clippy::unwrap_used)]

use super::*;

#[test]
fn kinds_of_fds() {
    let table = [
        ("socket:[12]", "socket"),
        ("pipe:[12]", "pipe"),
        ("anon_inode:[eventpoll]", "anon"),
        ("anon_inode:[eventfd]", "anon"),
        ("/opt/kafka/libs/kafka_2.11-0.10.1.0.jar", "jar"),
        ("/opt/kafka/libs/old.jar (deleted)", "jar"),
        ("/data/t-0/00000000000000000042.log", "log_segment"),
        (
            "/data/t-0.5e-delete/00000000000000000042.log.deleted (deleted)",
            "log_segment",
        ),
        ("/data/t-0/00000000000000000042.log.cleaned", "log_segment"),
        ("/data/t-0/00000000000000000042.index", "index"),
        ("/data/t-0/00000000000000000042.timeindex", "index"),
        ("/data/t-0/00000000000000000042.txnindex.deleted", "index"),
        ("/data/t-0/00000000000000000042.snapshot", "other"),
        ("/var/log/kafka/server.log", "other"),
        ("/var/log/kafka/42.log", "other"),
        ("/data/.lock", "other"),
        ("/dev/null", "other"),
        ("/", "other"),
        ("", "other"),
    ];
    for (link, expected) in table {
        let mut kinds = FdKinds::default();
        *count_of(&mut kinds, link.as_bytes()) += 1;
        let json = serde_json::to_value(kinds).unwrap();
        let counted: Vec<_> = json
            .as_object()
            .unwrap()
            .iter()
            .filter(|(_, n)| *n == 1)
            .map(|(k, _)| k.clone())
            .collect();
        assert_eq!(counted, [expected], "{link}");
    }
}

#[test]
fn a_log_dir_without_its_lock_has_been_given_up() {
    let paths = |names: &[&str]| -> Vec<PathBuf> { names.iter().map(PathBuf::from).collect() };
    let mut broker = Broker {
        log_dirs: paths(&["/a", "/b"]),
        metadata_log_dir: Some("/m".into()),
        ..Broker::default()
    };
    for (locks, given_up) in [
        (&["/a", "/b", "/m"][..], Some(&[][..])),
        (&["/a", "/m"], Some(&["/b"])),
        // It is starting.
        (&["/m"], Some(&[])),
        (&[], Some(&[])),
        // `/b` may be a link to it.
        (&["/a", "/disk/b", "/m"], None),
    ] {
        let found = without_lock(&paths(locks), &broker);
        assert_eq!(found, given_up.map(paths), "{locks:?}");
    }
    broker.roles = [crate::model::Role::Controller].into();
    assert_eq!(without_lock(&paths(&["/a"]), &broker), Some(Vec::new()));
}

#[test]
fn a_lock_counts_though_its_file_was_deleted() {
    for (link, expected) in [
        ("/data/.lock", Some("/data")),
        ("/data/.lock (deleted)", Some("/data")),
        ("/data/t-0/a.lock", None),
        ("/data/.lock.bak", None),
    ] {
        let dir = locked_dir(link.as_bytes());
        assert_eq!(dir, expected.map(PathBuf::from), "{link}");
    }
}

/// Another log dir in the file waits for the next restart: the broker has not given it up.
#[test]
fn without_the_settings_of_its_start_no_log_dir_is_offline() {
    let walked = Walked {
        locks: vec!["/a".into()],
        ..Walked::default()
    };
    let mut broker = Broker {
        log_dirs: vec!["/a".into(), "/new".into()],
        ..Broker::default()
    };
    assert_eq!(walked.offline_log_dirs(&broker), Ok(vec!["/new".into()]));
    broker.log_dirs_uncertain = true;
    let failure = walked.offline_log_dirs(&broker).unwrap_err();
    assert!(failure.message.contains("was changed since"), "{failure:?}");
}
