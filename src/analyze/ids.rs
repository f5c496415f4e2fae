//! Broker ids in settings and in names of threads.

use crate::discover::properties::Properties;
use crate::threads::pools::without_plane;

/// The broker's id in the name of one of its threads: `kafka-network-thread-2-PLAINTEXT-0`, `ExpirationReaper-2-Fetch`.
pub(super) fn id_of_thread(thread: &str) -> Option<i32> {
    let name = without_plane(thread);
    let (id, rest) = match name.strip_prefix("kafka-network-thread-") {
        Some(rest) => rest.split_once('-')?,
        None => {
            let rest = name.strip_prefix("ExpirationReaper-")?;
            rest.split_once('-').unwrap_or((rest, ""))
        }
    };
    // 0.8 has the port in this place, and no listener after it: `kafka-network-thread-9092-2`.
    let is_number = !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit());
    id.parse().ok().filter(|_| !is_number)
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
