#![allow(clippy::unwrap_used)]
//! The fixtures are files of real JVMs, with their counters as `jstat -snap file://...` of the same JDK printed them.

use proptest::prelude::*;

use super::*;

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(format!(
        "{}/tests/fixtures/perf_data/{name}",
        env!("CARGO_MANIFEST_DIR")
    ))
    .unwrap()
}

fn compare_with_jstat(jdk: &str) {
    let data = PerfData::parse(fixture(&format!("{jdk}.hsperfdata"))).unwrap();
    let expected = String::from_utf8(fixture(&format!("{jdk}.counters"))).unwrap();
    let mut compared = 0;
    // jstat adds those counters from the prologue.
    for line in expected
        .lines()
        .filter(|line| !line.starts_with("sun.perfdata."))
    {
        let (name, value) = line.split_once('=').unwrap();
        match value
            .strip_prefix('"')
            .and_then(|value| value.strip_suffix('"'))
        {
            Some(text) => assert_eq!(
                data.text(name).map(String::from_utf8_lossy).as_deref(),
                Some(text),
                "{name}"
            ),
            None => assert_eq!(data.long(name), Some(value.parse().unwrap()), "{name}"),
        }
        compared += 1;
    }
    assert!(compared > 150, "only {compared} counters in the list");
    assert_eq!(data.iter().count(), compared);
}

#[test]
fn reads_every_counter_of_jdk_17() {
    compare_with_jstat("jdk17");
}

#[test]
fn reads_every_counter_of_jdk_25() {
    compare_with_jstat("jdk25");
}

#[test]
fn safepoint_time_is_in_the_unit_of_the_counter() {
    let data = PerfData::parse(fixture("jdk17.hsperfdata")).unwrap();
    assert_eq!(
        data.safepoint_time(),
        Some(Duration::from_nanos(137_180_345))
    );
    // The sum of both collectors, as jstat prints them.
    assert_eq!(
        data.collection_time(),
        Some(Duration::from_nanos(136_470_428))
    );
    assert_eq!(data.long("no.such.counter"), None);
    assert_eq!(data.long("sun.gc.cause"), None, "text is no number");
}

#[test]
fn only_one_counter_is_read_once_its_position_is_known() {
    let bytes = fixture("jdk17.hsperfdata");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("1");
    std::fs::write(&path, &bytes).unwrap();
    let file = File::open(&path).unwrap();
    let mut file = PerfFile {
        file,
        safepoints: None,
    };
    let expected = Some(Duration::from_nanos(137_180_345));
    for _ in 0..2 {
        assert_eq!(file.safepoint_time().unwrap(), expected);
    }
    // All later calls read only that position: the rest of the file is overwritten.
    let (at, frequency) = file.safepoints.unwrap();
    assert_eq!(frequency, 1_000_000_000);
    let mut later = vec![0; bytes.len()];
    let at = at as usize;
    later[at..at + 8].copy_from_slice(&7_i64.to_le_bytes());
    std::fs::write(&path, &later).unwrap();
    let later = Some(Duration::from_nanos(7));
    assert_eq!(file.safepoint_time().unwrap(), later);
    std::fs::write(&path, &bytes[..at]).unwrap();
    file.safepoint_time().unwrap_err();
}

#[test]
fn other_data_is_refused() {
    let whole = fixture("jdk25.hsperfdata");
    let with = |at: usize, byte: u8| {
        let mut bytes = whole.clone();
        bytes[at] = byte;
        PerfData::parse(bytes).map(drop).unwrap_err().to_string()
    };
    assert!(PerfData::parse(Vec::new()).is_err());
    assert!(PerfData::parse(whole[..30].to_vec()).is_err());
    assert!(with(0, 0).contains("magic"));
    assert!(with(4, 0).contains("byte order"), "big endian");
    assert!(with(5, 3).contains("version"));
    assert!(with(7, 0).contains("not finished"));
}

#[test]
fn a_cut_file_gives_the_entries_before_the_cut() {
    let mut bytes = fixture("jdk17.hsperfdata");
    let all = PerfData::parse(bytes.clone()).unwrap().iter().count();
    bytes.truncate(6000);
    let data = PerfData::parse(bytes).unwrap();
    let some = data.iter().count();
    assert!(some > 0 && some < all);
}

proptest! {
    #[test]
    fn never_panics_and_always_ends(
        changes in prop::collection::vec((0usize..12_400, any::<u8>()), 0..40),
        length in 0usize..=32_768,
    ) {
        let mut bytes = fixture("jdk25.hsperfdata");
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        bytes.truncate(length);
        if let Ok(data) = PerfData::parse(bytes) {
            prop_assert!(data.iter().count() <= length / 20);
            let _ = data.safepoint_time();
        }
    }
}
