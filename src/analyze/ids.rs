//! Broker ids in settings and in names of threads.

use crate::discover::properties::Properties;
use crate::threads::pools::without_plane;

/// The broker's id in the name of one of its threads: `kafka-network-thread-2-PLAINTEXT-0`, `ExpirationReaper-2-Fetch`.
pub(super) fn id_of_thread(thread: &str) -> Option<i32> {
    let name = without_plane(thread);
    let rest = ["kafka-network-thread-", "ExpirationReaper-"]
        .iter()
        .find_map(|start| name.strip_prefix(start))?;
    rest.split('-').next()?.parse().ok()
}

/// The id that settings give their broker.
pub(super) fn own_id(settings: &Properties) -> Option<i32> {
    settings
        .get("node.id")
        .or(settings.get("broker.id"))?
        .parse()
        .ok()
        .filter(|id| *id >= 0)
}
