//! What logins by SCRAM compute, bounded in CPU: a server decides how long that takes.

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::Mutex as Turn;
use tokio::time::{Instant, sleep_until};

use super::scram::{Hash, Keys};
use super::thread::on_thread;
use crate::model::Credentials;

/// After a derivation the next one waits for so many times what it took, so that all of a turn together take a twentieth
/// of a core.
const PAUSE: u32 = 19;

/// When the next derivation may begin, held by the running one. Those for other users' brokers have a turn of their own, so
/// that they do not keep the first user's from logging in.
static TURNS: [Turn<Option<Instant>>; 2] = [const { Turn::const_new(None) }; 2];

/// The keys of the newest login by SCRAM. All brokers of a cluster keep the same salt for a user, so that one derivation
/// serves for all of them.
#[derive(Clone, Default)]
pub(super) struct KnownKeys(Arc<Mutex<Option<Newest>>>);

type Newest = (Question, Arc<Keys>);

impl std::fmt::Debug for KnownKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KnownKeys")
    }
}

#[derive(Clone, PartialEq, Eq)]
pub(super) struct Question {
    pub hash: Hash,
    pub credentials: Arc<Credentials>,
    pub salt: Vec<u8>,
    pub iterations: NonZeroU32,
}

impl KnownKeys {
    /// `of_others` is whether another user's brokers come before the one that this is for.
    ///
    /// # Errors
    /// No thread can be started.
    pub(super) async fn get(
        &self,
        question: Question,
        of_others: bool,
    ) -> Result<Arc<Keys>, String> {
        let turn = &TURNS[usize::from(of_others)];
        let known = || {
            let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let same = kept.as_ref().filter(|(kept, _)| *kept == question);
            same.map(|(_, keys)| Arc::clone(keys))
        };
        if let Some(keys) = known() {
            return Ok(keys);
        }
        let mut free_at = turn.lock().await;
        // That of another connection may have been the same.
        if let Some(keys) = known() {
            return Ok(keys);
        }
        if let Some(free_at) = *free_at {
            sleep_until(free_at).await;
        }
        let this = self.clone();
        // The thread goes on where the login's time ends, and the next login finds what it computed.
        let derive = move || {
            let start = cpu_time();
            let password = question.credentials.password.reveal();
            let keys = Keys::derive(question.hash, password, &question.salt, question.iterations);
            let keys = Arc::new(keys);
            let mut kept = this.0.lock().unwrap_or_else(PoisonError::into_inner);
            *kept = Some((question, Arc::clone(&keys)));
            drop(kept);
            let pause = cpu_time().saturating_sub(start) * PAUSE;
            *free_at = Some(Instant::now() + pause);
            drop(free_at);
            keys
        };
        let derived = on_thread("login", derive).await;
        derived.map_err(|error| error.to_string())
    }
}

/// Of this thread: on a busy machine the clock on the wall says nothing about the cost.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Mechanism, Secret};

    #[tokio::test]
    async fn a_salt_costs_once_and_another_one_waits() {
        let credentials = Arc::new(Credentials {
            mechanism: Mechanism::ScramSha512,
            username: "user".into(),
            password: Secret::new("pencil".into()),
            from: "a test".into(),
        });
        let question = |salt: u8| Question {
            hash: Hash::Sha512,
            credentials: Arc::clone(&credentials),
            salt: vec![salt],
            iterations: NonZeroU32::new(4096).unwrap(),
        };
        let keys = KnownKeys::default();
        let get = async |salt| {
            let start = Instant::now();
            let derived = keys.get(question(salt), false).await.unwrap();
            (start.elapsed(), derived)
        };
        let ((_, first), (_, again)) = (get(1).await, get(1).await);
        assert!(Arc::ptr_eq(&first, &again));
        let question = question(3);
        let before = cpu_time();
        Keys::derive(Hash::Sha512, "pencil", &question.salt, question.iterations);
        let cost = cpu_time() - before;
        // That of another user's broker does not wait for one that runs.
        let runs = TURNS[0].lock().await;
        KnownKeys::default().get(question, true).await.unwrap();
        drop(runs);
        let (waited, _) = get(2).await;
        assert!(waited > cost * (PAUSE / 2), "{cost:?}, then {waited:?}");
    }
}
