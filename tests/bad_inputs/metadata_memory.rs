//! What the Metadata of a hostile broker costs a running exporter in memory.

use lab::fake_broker::{Answer, FakeBroker, framed, metadata};

use crate::host::Host;
use crate::running::{Exporter, wait_for};

const MEGABYTE: u64 = 1_000_000;
/// What any answer may cost beside an ordinary one.
const MOST: u64 = 64 * MEGABYTE;
/// The longest frame that the exporter reads.
const FRAME_CAP: usize = 48 << 20;

/// Runs an exporter beside a broker that answers Metadata so, until `known` holds for its metrics; then scrapes it 100
/// times while its rounds go on. Returns the most memory that the exporter used.
async fn peak(answer: impl Fn(i32) -> Answer + Send + Sync + 'static, known: &str) -> u64 {
    let broker = FakeBroker::with_metadata(move |asked| answer(asked.correlation)).await;
    let host = Host::new();
    let text = format!(
        "intervals: {{process: 100ms, cluster: 100ms}}\nbrokers:\n  - match: {{id: 7}}\n    bootstrap: {}\n",
        broker.address
    );
    let command = host.exporter_with(&text);
    let known = known.to_owned();
    let measure = move || {
        let exporter = Exporter::start(command);
        let mut last = String::new();
        wait_for(&known, || {
            last = exporter.get("/metrics");
            last.contains(&known)
        });
        for _ in 0..100 {
            exporter.get("/metrics");
        }
        exporter.peak_memory()
    };
    tokio::task::spawn_blocking(measure).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_metadata_costs_less_than_64_mb() {
    let ordinary = metadata(3, 9, 32);
    let ordinary = peak(
        move |_| Answer::Body(ordinary.clone()),
        "offline_partitions 32\n",
    )
    .await;

    // 327 MB are announced, and as much is sent as the exporter could have read.
    let mut announced = framed(2, &metadata(1500, 32_767, 0));
    announced[..4].copy_from_slice(&327_790_033_i32.to_be_bytes());
    // As many long names as a frame can hold that is read.
    let long_names = metadata(1530, 32_767, 0);
    assert!((FRAME_CAP * 99 / 100..FRAME_CAP).contains(&long_names.len()));
    // Everything is right, and as big as it can be.
    let most = metadata(10_000, 255, 2_640_000);
    assert!(
        (FRAME_CAP * 99 / 100..FRAME_CAP).contains(&most.len()),
        "{}",
        most.len()
    );

    let failed = "collector_success{broker=\"7\",collector=\"cluster\"} 0\n";
    let peaks = [
        (
            "10,000 names of 32 KiB",
            peak(move |_| Answer::RawThenClose(announced.clone()), failed).await,
        ),
        (
            "1,530 names of 32 KiB",
            peak(move |_| Answer::Body(long_names.clone()), failed).await,
        ),
        (
            "10,000 names of 255 bytes and 2,640,000 partitions",
            peak(
                move |_| Answer::Body(most.clone()),
                "offline_partitions 2640000\n",
            )
            .await,
        ),
    ];
    for (what, peak) in peaks {
        let cost = peak.saturating_sub(ordinary) / MEGABYTE;
        println!("{what}: {cost} MB beside {} MB", ordinary / MEGABYTE);
        assert!(cost < MOST / MEGABYTE, "{what} cost {cost} MB");
    }
}
