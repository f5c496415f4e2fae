//! Reports to systemd, which may have started the exporter as a service.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use crate::sys::systemd::{self, State};
use crate::verdict::View;

/// The service is ready with the first round of discovery. From then on each further round feeds the watchdog, once it
/// has passed through collector, store and verdict: no timer does that for rounds that no longer move. `ready` is set once
/// that was reported.
pub(super) async fn report(mut view: watch::Receiver<Arc<View>>, ready: Arc<AtomicBool>) {
    let configured = systemd::watchdog();
    let mut patience = configured;
    let mut reported = None;
    loop {
        let (round, interval) = {
            let view = view.borrow_and_update();
            let discovery = &view.snapshot.discovery;
            (discovery.success.map(|_| discovery.at), discovery.interval)
        };
        if round.is_some() && round != reported {
            if reported.is_none() {
                systemd::notify(State::Ready);
                ready.store(true, Ordering::Release);
            }
            if let Some(configured) = configured {
                systemd::notify(State::Works);
                let needed = patience_for(configured, interval);
                if patience != Some(needed) {
                    systemd::set_watchdog(needed);
                    patience = Some(needed);
                }
            } else {
                // Nobody waits for further rounds.
                return std::future::pending().await;
            }
            reported = round;
        }
        if view.changed().await.is_err() {
            return;
        }
    }
}

/// Rounds may be configured, or be stretched, to take longer than the watchdog waits: three of them always have time.
fn patience_for(configured: Duration, interval: Duration) -> Duration {
    configured.max(interval * 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_waits_for_three_rounds() {
        let table = [(60, 5, 60), (60, 20, 60), (60, 21, 63), (60, 3600, 10_800)];
        for (configured, interval, expected) in table.map(|(a, b, c)| {
            (
                Duration::from_secs(a),
                Duration::from_secs(b),
                Duration::from_secs(c),
            )
        }) {
            assert_eq!(patience_for(configured, interval), expected);
        }
    }
}
