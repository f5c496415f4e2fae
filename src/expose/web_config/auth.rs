//! Basic authentication with bcrypt: one hash at a time, few that wait, answers kept.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use axum::http::{HeaderMap, header};
use base64::Engine as _;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use crate::expose::places::Client;

/// A hash of this cost takes some 20 s; each step more doubles that.
const MAX_COST: u32 = 18;
/// The most logins that wait for their hash; the others are refused at once.
const MAX_WAITING: usize = 16;
/// The most logins of one client, besides one whose hash is computed or which was wrong a moment ago.
const MAX_WAITING_EACH: usize = 2;
/// After a wrong login, the next hash of that client waits for so many times what this one took.
const PAUSE_AFTER_WRONG: u32 = 4;
/// The most wrong logins that are remembered.
const MAX_WRONG: usize = 100;
/// The most right ones. A user has one password, so that only changes of the file add to them.
const MAX_RIGHT: usize = 1000;

/// Names with the bcrypt hashes of their passwords.
#[derive(Default, Clone, PartialEq, Eq)]
pub struct Users(Arc<BTreeMap<String, String>>);

impl std::fmt::Debug for Users {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Users {
    pub(super) fn checked(users: BTreeMap<String, String>) -> Result<Users, String> {
        for (name, hash) in &users {
            // The value is not shown: it may be a password.
            let key = format!("basic_auth_users.{name}");
            if name.contains(':') {
                return Err(format!("{key}: no name with a colon can be sent"));
            }
            let Ok(parts) = hash.parse::<bcrypt::HashParts>() else {
                return Err(format!(
                    "{key}: is no bcrypt hash; `htpasswd -nBC 10 {name}` makes one, which begins with $2y$"
                ));
            };
            if parts.get_cost() > MAX_COST {
                return Err(format!(
                    "{key}: a bcrypt cost of {} takes too long, {MAX_COST} at most; 10 is usual",
                    parts.get_cost()
                ));
            }
        }
        Ok(Users(Arc::new(users)))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The answer to a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Login {
    Right,
    Wrong,
    /// Too many others wait.
    Busy,
}

type Key = [u8; 32];

/// Answers of before, and the turn for the next hash.
pub struct Logins {
    /// Kept apart from the wrong ones, so that no flood of those makes a right one wait for a hash again.
    right: Mutex<HashSet<Key>>,
    wrong: Mutex<VecDeque<Key>>,
    turn: Arc<Semaphore>,
    /// A permit for each login that may wait.
    waiting: Semaphore,
    /// Of clients with a login that waits, has its hash computed, or makes the next one wait.
    queues: Mutex<HashMap<Client, Queue>>,
}

#[derive(Debug)]
struct Queue {
    turn: Arc<Semaphore>,
    logins: usize,
}

impl Default for Logins {
    fn default() -> Logins {
        Logins {
            right: Mutex::default(),
            wrong: Mutex::default(),
            turn: Arc::new(Semaphore::new(1)),
            waiting: Semaphore::new(MAX_WAITING),
            queues: Mutex::default(),
        }
    }
}

/// A login in the queue of its client.
struct Queued {
    logins: Arc<Logins>,
    client: Client,
}

impl Drop for Queued {
    fn drop(&mut self) {
        let mut queues = lock(&self.logins.queues);
        if let Some(queue) = queues.get_mut(&self.client) {
            queue.logins = queue.logins.saturating_sub(1);
            if queue.logins == 0 {
                queues.remove(&self.client);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Logins {
    /// Whether these headers name one of the users with its password.
    pub async fn check(
        self: &Arc<Self>,
        users: &Users,
        headers: &HeaderMap,
        client: Client,
    ) -> Login {
        let Some((name, password)) = basic(headers) else {
            return Login::Wrong;
        };
        // An unknown name costs a hash as well: the time of the answer does not show which names exist.
        let (known, hash) = match users.0.get_key_value(&name) {
            Some((_, hash)) => (true, hash.clone()),
            None => match users.0.first_key_value() {
                Some((_, hash)) => (false, hash.clone()),
                None => return Login::Wrong,
            },
        };
        let key = key(&name, &hash, &password);
        if let Some(login) = self.kept(&key) {
            return login;
        }
        let Some((queued, own_turn)) = self.queue(client) else {
            return Login::Busy;
        };
        let Ok(waiting) = self.waiting.try_acquire() else {
            return Login::Busy;
        };
        // No semaphore is ever closed.
        let Ok(own_turn) = own_turn.acquire_owned().await else {
            return Login::Busy;
        };
        let Ok(turn) = Arc::clone(&self.turn).acquire_owned().await else {
            return Login::Busy;
        };
        drop(waiting);
        // The same login may have waited before this one.
        if let Some(login) = self.kept(&key) {
            return login;
        }
        let this = Arc::clone(self);
        let runtime = tokio::runtime::Handle::current();
        let hashed = tokio::task::spawn_blocking(move || {
            let start = Instant::now();
            let right = bcrypt::verify(password, &hash).unwrap_or(false) && known;
            this.keep(key, right);
            // The turn ends here, and not with the request: a client that hangs up does not let the next hash run
            // beside this one. Who guesses passwords gets a fifth of a core, and delays nobody else.
            drop(turn);
            if !right {
                let pause = start.elapsed() * PAUSE_AFTER_WRONG;
                runtime.spawn(async move {
                    tokio::time::sleep(pause).await;
                    drop((own_turn, queued));
                });
            }
            right
        });
        match hashed.await {
            Ok(true) => Login::Right,
            Ok(false) => Login::Wrong,
            Err(_) => Login::Busy,
        }
    }

    /// A place in the client's queue, if it has one, and what to wait for.
    fn queue(self: &Arc<Self>, client: Client) -> Option<(Queued, Arc<Semaphore>)> {
        let mut queues = lock(&self.queues);
        let queue = queues.entry(client).or_insert_with(|| Queue {
            turn: Arc::new(Semaphore::new(1)),
            logins: 0,
        });
        if queue.logins > MAX_WAITING_EACH {
            return None;
        }
        queue.logins += 1;
        let queued = Queued {
            logins: Arc::clone(self),
            client,
        };
        Some((queued, Arc::clone(&queue.turn)))
    }

    fn kept(&self, key: &Key) -> Option<Login> {
        if lock(&self.right).contains(key) {
            return Some(Login::Right);
        }
        lock(&self.wrong).contains(key).then_some(Login::Wrong)
    }

    fn keep(&self, key: Key, right: bool) {
        if right {
            let mut keys = lock(&self.right);
            if keys.len() >= MAX_RIGHT {
                keys.clear();
            }
            keys.insert(key);
        } else {
            let mut keys = lock(&self.wrong);
            if keys.len() >= MAX_WRONG {
                keys.pop_front();
            }
            keys.push_back(key);
        }
    }
}

/// No password is kept, only this.
fn key(name: &str, hash: &str, password: &[u8]) -> Key {
    let mut digest = Sha256::new();
    for part in [name.as_bytes(), hash.as_bytes(), password] {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}

/// Name and password of `Authorization: Basic`.
fn basic(headers: &HeaderMap) -> Option<(String, Vec<u8>)> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = base64::engine::general_purpose::STANDARD
        .decode(encoded.trim())
        .ok()?;
    let colon = memchr::memchr(b':', &decoded)?;
    let (name, password) = decoded.split_at(colon);
    Some((
        String::from_utf8(name.to_vec()).ok()?,
        password.get(1..)?.to_vec(),
    ))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// `alice` has the password `right`.
    fn users(cost: u32) -> Users {
        let hash = bcrypt::hash("right", cost).unwrap();
        Users::checked([("alice".to_owned(), hash)].into()).unwrap()
    }

    fn headers(name: &str, password: &str) -> HeaderMap {
        let engine = base64::engine::general_purpose::STANDARD;
        let encoded = engine.encode(format!("{name}:{password}"));
        let value = format!("Basic {encoded}").parse().unwrap();
        HeaderMap::from_iter([(header::AUTHORIZATION, value)])
    }

    const CLIENT: Client = Client::LOOPBACK;

    #[tokio::test]
    async fn an_unknown_name_costs_a_hash_and_the_second_answer_none() {
        let (users, logins) = (users(10), Arc::new(Logins::default()));
        let table = [
            ("alice", "right", Login::Right),
            ("alice", "wrong", Login::Wrong),
            ("nobody", "right", Login::Wrong),
        ];
        for (name, password, expected) in table {
            let headers = headers(name, password);
            let mut took = [Duration::ZERO; 2];
            for took in &mut took {
                let start = Instant::now();
                assert_eq!(
                    logins.check(&users, &headers, CLIENT).await,
                    expected,
                    "{name}"
                );
                *took = start.elapsed();
            }
            // Some 60 ms against some 10 µs.
            assert!(took[1] * 5 < took[0], "{name}: {took:?}");
        }
        assert_eq!(
            logins.check(&users, &HeaderMap::new(), CLIENT).await,
            Login::Wrong,
            "without a login"
        );
    }

    #[tokio::test]
    async fn guesses_take_a_fifth_of_a_core() {
        let (users, logins) = (users(8), Arc::new(Logins::default()));
        let guess = async |password: &str| {
            let start = Instant::now();
            let login = logins
                .check(&users, &headers("alice", password), CLIENT)
                .await;
            assert_eq!(login, Login::Wrong);
            start.elapsed()
        };
        let alone = guess("a").await;
        let next = guess("b").await;
        // The hash itself, and the pause after the one before.
        assert!(next > alone * 3, "{alone:?}, then {next:?}");
    }

    #[tokio::test]
    async fn a_flood_of_wrong_logins_is_refused_and_delays_no_known_one() {
        let (users, logins) = (users(6), Arc::new(Logins::default()));
        let right = headers("alice", "right");
        assert_eq!(logins.check(&users, &right, CLIENT).await, Login::Right);
        let flood: Vec<_> = (0..1000)
            .map(|number| {
                let (users, logins) = (users.clone(), Arc::clone(&logins));
                tokio::spawn(async move {
                    let headers = headers("alice", &number.to_string());
                    logins.check(&users, &headers, CLIENT).await
                })
            })
            .collect();
        tokio::task::yield_now().await;
        let start = Instant::now();
        assert_eq!(logins.check(&users, &right, CLIENT).await, Login::Right);
        assert!(
            start.elapsed() < Duration::from_millis(20),
            "{:?}",
            start.elapsed()
        );
        let mut wrong = 0;
        for login in flood {
            wrong += usize::from(login.await.unwrap() == Login::Wrong);
        }
        // The first has its turn at once, and so many wait.
        assert_eq!(wrong, MAX_WAITING_EACH + 1);
        wait_for_empty(&logins).await;
    }

    /// Clients that are gone leave nothing behind.
    async fn wait_for_empty(logins: &Logins) {
        while !lock(&logins.queues).is_empty() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn guesses_keep_no_login_of_another_address_out() {
        let (users, logins) = (users(6), Arc::new(Logins::default()));
        let guesses = |host: u8| {
            let (users, logins) = (users.clone(), Arc::clone(&logins));
            async move {
                for number in 0.. {
                    let headers = headers("alice", &format!("{host} {number}"));
                    let client = Client::of([10, 0, 0, host].into());
                    let login = logins.check(&users, &headers, client).await;
                    assert_ne!(login, Login::Right);
                    tokio::task::yield_now().await;
                }
            }
        };
        let flood: Vec<_> = (0..200).map(|n| tokio::spawn(guesses(n % 4))).collect();
        while MAX_WAITING - logins.waiting.available_permits() < 4 * MAX_WAITING_EACH {
            tokio::task::yield_now().await;
        }
        for number in 0..15 {
            // It was never right before: the answers of before are not kept.
            lock(&logins.right).clear();
            let right = headers("alice", "right");
            let client = Client::of([10, 0, 1, number].into());
            assert_eq!(logins.check(&users, &right, client).await, Login::Right);
        }
        for task in flood {
            task.abort();
        }
    }
}
