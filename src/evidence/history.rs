//! The snapshots of the last hour, kept for a bundle.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use crate::model::Snapshot;
use crate::verdict::View;

/// How often a snapshot is kept, how many, and how many bytes of them.
const KEEP_EVERY: Duration = Duration::from_secs(10);
const KEPT: usize = 360;
const KEPT_BYTES: usize = 16 << 20;

/// Shared by the task that adds snapshots and the one that writes bundles.
#[derive(Debug, Default)]
pub struct History(Mutex<Ring>);

impl History {
    /// Adds the newest snapshot every ten seconds, until the sender of the views ends.
    pub async fn follow(&self, mut views: watch::Receiver<Arc<View>>) {
        while views.changed().await.is_ok() {
            let view = Arc::clone(&views.borrow_and_update());
            self.push(&view.snapshot);
            sleep(KEEP_EVERY).await;
        }
    }

    pub fn push(&self, snapshot: &Snapshot) {
        self.ring().push(snapshot);
    }

    /// All lines, the oldest first.
    pub fn lines(&self) -> Vec<u8> {
        self.ring().lines.make_contiguous().concat()
    }

    fn ring(&self) -> std::sync::MutexGuard<'_, Ring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Snapshots of the last hour, a line of JSON each.
#[derive(Debug, Default)]
struct Ring {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
}

impl Ring {
    fn push(&mut self, snapshot: &Snapshot) {
        // Serialising plain data cannot fail.
        let Ok(mut line) = serde_json::to_vec(snapshot) else {
            return;
        };
        line.push(b'\n');
        self.bytes += line.len();
        self.lines.push_back(line);
        while self.lines.len() > KEPT || self.bytes > KEPT_BYTES {
            let Some(oldest) = self.lines.pop_front() else {
                return;
            };
            self.bytes -= oldest.len();
        }
    }
}
