//! What logins by SCRAM compute, bounded in CPU: a server decides how long that takes.

use std::num::NonZeroU32;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, sleep_until};

use super::scram::{Hash, Keys};
use crate::model::Credentials;

/// After a derivation the next one waits for so many times what it took, so that all of them together take a twentieth
/// of a core.
const PAUSE: u32 = 19;

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
    /// # Errors
    /// No thread can be started.
    pub(super) async fn get(&self, question: Question) -> Result<Arc<Keys>, String> {
        /// One at a time in the whole process, and when the next one may begin.
        static TURN: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(1)));
        static FREE_AT: Mutex<Option<Instant>> = Mutex::new(None);
        let known = || {
            let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let same = kept.as_ref().filter(|(kept, _)| *kept == question);
            same.map(|(_, keys)| Arc::clone(keys))
        };
        if let Some(keys) = known() {
            return Ok(keys);
        }
        let turn = Arc::clone(&TURN).acquire_owned().await;
        let turn = turn.map_err(|error| error.to_string())?;
        // That of another connection may have been the same.
        if let Some(keys) = known() {
            return Ok(keys);
        }
        let free_at = *FREE_AT.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(free_at) = free_at {
            sleep_until(free_at).await;
        }
        let (done, derived) = oneshot::channel();
        let this = self.clone();
        // Not by the runtime, which panics where it can start no thread. The thread goes on where the login's time ends,
        // and the next login finds what it computed.
        let derive = move || {
            let start = cpu_time();
            let password = question.credentials.password.reveal();
            let keys = Keys::derive(question.hash, password, &question.salt, question.iterations);
            let keys = Arc::new(keys);
            let mut kept = this.0.lock().unwrap_or_else(PoisonError::into_inner);
            *kept = Some((question, Arc::clone(&keys)));
            drop(kept);
            let pause = cpu_time().saturating_sub(start) * PAUSE;
            *FREE_AT.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + pause);
            drop(turn);
            // After the deadline there is no receiver any more.
            let _ = done.send(keys);
        };
        let thread = std::thread::Builder::new().name("login".into());
        thread.spawn(derive).map_err(|error| error.to_string())?;
        derived.await.map_err(|error| error.to_string())
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
            let derived = keys.get(question(salt)).await.unwrap();
            (start.elapsed(), derived)
        };
        let ((_, first), (_, again)) = (get(1).await, get(1).await);
        assert!(Arc::ptr_eq(&first, &again));
        let question = question(3);
        let before = cpu_time();
        Keys::derive(Hash::Sha512, "pencil", &question.salt, question.iterations);
        let cost = cpu_time() - before;
        let (waited, _) = get(2).await;
        assert!(waited > cost * (PAUSE / 2), "{cost:?}, then {waited:?}");
    }
}
