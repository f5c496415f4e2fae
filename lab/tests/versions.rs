//! Every version in every mode starts, keeps topics and serves clients. Minutes, so it runs by hand: `cargo test -p lab -- --ignored`.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use lab::{Cluster, ClusterOptions, Load, LoadOptions, hand, versions};

#[test]
#[ignore = "takes some minutes"]
fn all_versions_start_and_serve() {
    // One alone: LAB_VERSION=3.9.1
    let wanted = std::env::var("LAB_VERSION");
    for version in versions::VERSIONS.iter().filter(|one| wanted.as_ref().map_or(true, |name| name == one.name)) {
        for mode in version.modes {
            let begin = Instant::now();
            let options = ClusterOptions { mode: Some(*mode), ..ClusterOptions::new(version.name) };
            let mut cluster = Cluster::start(options).unwrap();
            println!("{} {mode:?}: started in {:.1?}", version.name, begin.elapsed());
            cluster.create_topic("orders", 6, 3).unwrap();
            let described = hand::described_partitions(&cluster.topics_describe().unwrap());
            assert_eq!(described.iter().filter(|one| one.topic == "orders" && one.whole()).count(), 6, "{described:?}");

            let load = Load::start(&cluster, &LoadOptions::incident("orders")).unwrap();
            let deadline = Instant::now() + Duration::from_secs(60);
            while load.answered() < 100 && load.failed() == 0 && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(50));
            }
            assert!(load.answered() >= 100 && load.failed() == 0, "{} and {}", load.answered(), load.failed());
            drop(load);

            cluster.kill(2).unwrap();
            cluster.start_again(2).unwrap();
            cluster.wait_whole(Duration::from_secs(60)).unwrap();
            println!("{} {mode:?}: all well after {:.1?}", version.name, begin.elapsed());
        }
    }
}
