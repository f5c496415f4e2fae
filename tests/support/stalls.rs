//! Brokers whose threads are checked repeatedly.
#![allow(dead_code)] // each test binary uses a part
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use lab::versions::Mode;
use lab::{Cluster, ClusterOptions, Load};

use super::{Exporter, wait_for};

/// More dumps than by default, so that more is compared.
pub const CONFIG: &str = "intervals: {threads: 2s}\n";
const AT_REST: Duration = Duration::from_secs(15);

/// Starts three brokers and an exporter that takes dumps often. The mode is the version's default when None.
pub fn start(version: &str, mode: Option<Mode>) -> (Cluster, Exporter) {
    let cluster = Cluster::start(ClusterOptions {
        mode,
        ..ClusterOptions::new(version)
    })
    .unwrap();
    cluster.create_topic("t32", 32, 3).unwrap();
    let exporter = Exporter::start_with(cluster.cell(), CONFIG, |_| {});
    (cluster, exporter)
}

/// Waits until these pools of every broker can be evaluated.
pub fn evaluated(cluster: &Cluster, exporter: &Exporter, pools: &[&str]) {
    // It takes two dumps 10 s apart; on a busy machine the budget of pauses increases the time between them.
    wait_for(
        "every pool to be evaluated",
        Duration::from_secs(120),
        || {
            let metrics = exporter.metrics();
            cluster.brokers().all(|broker| {
                let of = |name: &str, pool: &str| {
                    format!("{name}{{broker=\"{}\",pool=\"{pool}\"}}", broker.id())
                };
                let known = |series: String| metrics.get(&series).is_some();
                pools.iter().all(|pool| {
                    known(of("stalled_threads", pool)) && known(of("missing_threads", pool))
                })
            })
        },
    );
}

/// Checks every broker until `over`: none may even be suspect. A broker that restarts is down.
pub fn all_well(exporter: &Exporter, over: impl Fn() -> bool) -> usize {
    check_threads(exporter, over, |name, value| {
        let accused = name.starts_with("broker_state")
            && ["suspect", "gray"].iter().any(|state| name.contains(state));
        // Nor does its log have a line of the severest kinds.
        let logged = name.starts_with("log_signatures_total") && name.contains("\"critical\"");
        let is_well = !(accused || logged) || value == 0.0;
        assert!(is_well, "{name}: {}", exporter.page());
    })
}

/// Checks the threads of every broker until `over`. Returns the number of readings.
pub fn nothing_found(exporter: &Exporter, over: impl Fn() -> bool) -> usize {
    check_threads(exporter, over, |_, _| {})
}

fn check_threads(exporter: &Exporter, over: impl Fn() -> bool, check: impl Fn(&str, f64)) -> usize {
    let mut series = 0;
    loop {
        let last = over();
        for (name, value) in exporter.metrics().0 {
            if ["stalled_threads", "missing_threads", "deadlock_detected"]
                .iter()
                .any(|start| name.starts_with(start))
            {
                assert_eq!(value, 0.0, "{name}: {}", exporter.page());
                series += 1;
            }
            check(&name, value);
        }
        if last {
            return series;
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Finds no stall, missing thread or deadlock at rest, under load for the given time, during a restart, and after it.
pub fn healthy(version: &str, mode: Option<Mode>, pools: &[&str], under_load: Duration) {
    let (mut cluster, exporter) = start(version, mode);
    evaluated(&cluster, &exporter, pools);
    let start = Instant::now();
    let at_rest = all_well(&exporter, || start.elapsed() > AT_REST);
    let clients = Load::start(&cluster).unwrap();
    let start = Instant::now();
    let loaded = all_well(&exporter, || start.elapsed() > under_load);
    println!(
        "{version}: {at_rest} readings at rest, {loaded} under load, {} rounds answered",
        clients.answered()
    );
    assert!(clients.answered() > 100);
    drop(clients);
    // Its peers' fetchers end, and its own threads one by one.
    let id = cluster.brokers().next().unwrap().id();
    std::thread::scope(|scope| {
        let restart = scope.spawn(|| cluster.restart(id).unwrap());
        all_well(&exporter, || restart.is_finished());
    });
    evaluated(&cluster, &exporter, pools);
    let start = Instant::now();
    all_well(&exporter, || start.elapsed() > AT_REST);
}

/// The pools of every version.
pub const POOLS: [&str; 5] = [
    "request_handler",
    "network",
    "acceptor",
    "expiration_reaper",
    "log_cleaner",
];

/// The jar of the Java agent that damages a broker from inside.
static AGENT: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("agent");
    let run = |mut command: Command| {
        let Output { status, stderr, .. } = command.output().unwrap();
        assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    };
    let mut javac = Command::new("javac");
    javac.arg("-d").arg(&folder).arg(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fixtures/agent/Harm.java"
    ));
    run(javac);
    std::fs::write(folder.join("manifest"), "Agent-Class: Harm\n").unwrap();
    let jar = folder.join("agent.jar");
    let mut pack = Command::new("jar");
    pack.arg("cfm")
        .arg(&jar)
        .arg(folder.join("manifest"))
        .arg("-C")
        .arg(&folder)
        .arg("Harm.class");
    run(pack);
    jar
});

/// Runs the agent in a broker's JVM with a command such as `hold` or `end:THREADS`.
pub fn harm(cluster: &Cluster, id: i32, what: &str) {
    let mut java = Command::new("java");
    let pid = cluster.broker(id).unwrap().cell_pid().unwrap();
    java.arg("-cp")
        .arg(&*AGENT)
        .arg("Harm")
        .arg(pid.to_string())
        .arg(&*AGENT)
        .arg(what);
    let output = cluster
        .cell()
        .run_tool(java, Duration::from_secs(20))
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
