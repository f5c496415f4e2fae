//! The paths that the exporter serves, besides that of the metrics, which is a setting.

pub const PAGE: &str = "/";
pub const CHECK: &str = "/check";
pub const API_BROKERS: &str = "/api/v1/brokers";
pub const API_FINDINGS: &str = "/api/v1/findings";
pub const RUNBOOKS: &str = "/runbooks";
pub const RUNBOOK: &str = "/runbooks/{name}";
pub const LIVE: &str = "/live";
pub const BROKER_LIVE: &str = "/brokers/{name}/live";
pub const HEALTHY: &str = "/-/healthy";
pub const READY: &str = "/-/ready";
pub const RELOAD: &str = "/-/reload";

pub const ALL: [&str; 11] = [
    PAGE,
    CHECK,
    API_BROKERS,
    API_FINDINGS,
    RUNBOOKS,
    RUNBOOK,
    LIVE,
    BROKER_LIVE,
    HEALTHY,
    READY,
    RELOAD,
];

/// The path for one broker or runbook: `of(RUNBOOK, "jvm_deadlock")`.
pub fn of(route: &str, name: &str) -> String {
    route.replace("{name}", name)
}
