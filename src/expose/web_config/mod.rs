//! `--web.config.file`: TLS, passwords, headers and a rate limit, in the format of Prometheus' exporter-toolkit.
//!
//! [`parse`] checks the text, `tls` and `client_auth` turn it into a server of rustls, [`auth`] checks passwords.
//! This file reads again what has changed, as connections and requests come in: at rest nothing is read.

pub mod auth;
mod client_auth;
pub mod parse;
mod rate;
mod tls;

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use axum::http::{HeaderName, HeaderValue};
use tokio_rustls::rustls::ServerConfig;

use crate::sys::blocking_worker::BlockingWorker;
use crate::sys::settings_file;
use auth::{Logins, Users};
use parse::{ClientAuth, RateLimit, Settings};
use rate::Bucket;

pub(super) use tls::H2;

/// A web config file, or a certificate that it names, that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("web config file {}: {message}", path.display())]
pub struct WebConfigError {
    path: PathBuf,
    message: String,
}

impl WebConfigError {
    fn new(path: &Path, message: String) -> WebConfigError {
        WebConfigError {
            path: path.to_owned(),
            message,
        }
    }
}

/// A web config file with its certificates, as read at one moment.
#[derive(Debug)]
pub struct WebConfig {
    /// None: connections are not encrypted.
    pub tls: Option<Arc<ServerConfig>>,
    /// Whether a client has no connection without a certificate that was verified.
    verifies_clients: bool,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub users: Users,
    rate_limit: Option<RateLimit>,
    warnings: Vec<String>,
}

impl WebConfig {
    /// Reads the file and the certificates. Blocking.
    ///
    /// # Errors
    /// One of them cannot be read or used.
    pub fn load(path: &Path) -> Result<WebConfig, WebConfigError> {
        WebConfig::read(path, &mut Vec::new())
    }

    /// Reads them, and adds each file to `seen`, also where one cannot be used.
    fn read(path: &Path, seen: &mut Seen) -> Result<WebConfig, WebConfigError> {
        WebConfig::read_files(path, seen).map_err(|message| WebConfigError::new(path, message))
    }

    fn read_files(path: &Path, seen: &mut Seen) -> Result<WebConfig, String> {
        // The stamps are taken first: what changes while it is read is read again.
        seen.push((path.to_owned(), Stamp::of(path)));
        let text = settings_file::read(path, "web config file")?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let settings = Settings::parse(&text, folder)?;
        let tls = match &settings.tls {
            None => None,
            Some(tls) => {
                seen.extend(tls.files().map(|file| {
                    let stamp = Stamp::of(&file);
                    (file, stamp)
                }));
                Some(Arc::new(tls.load()?))
            }
        };
        let verifies_clients = settings
            .tls
            .is_some_and(|tls| tls.client_auth == ClientAuth::RequireAndVerify);
        Ok(WebConfig {
            tls,
            verifies_clients,
            headers: settings.headers,
            users: settings.users,
            rate_limit: settings.rate_limit,
            warnings: settings.warnings,
        })
    }

    /// Whether a browser gets no answer without a certificate that it trusts, or a password.
    pub fn is_guarded(&self) -> bool {
        self.tls.is_some() || !self.users.is_empty()
    }

    /// What these settings no longer ask for: an emptied file must not open what was closed.
    fn opened_since(&self, before: &WebConfig) -> Option<&'static str> {
        if before.tls.is_some() && self.tls.is_none() {
            Some("tls_server_config: TLS is")
        } else if before.verifies_clients && !self.verifies_clients {
            Some("tls_server_config.client_auth_type: RequireAndVerifyClientCert is")
        } else if !before.users.is_empty() && self.users.is_empty() {
            Some("basic_auth_users: passwords are")
        } else {
            None
        }
    }

    fn warn(&self, path: &Path) {
        for warning in &self.warnings {
            tracing::warn!("web config file {}: {warning}", path.display());
        }
    }
}

/// What shows that a file has changed; None while it cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp(Option<(u64, u64, u64, i64, i64)>);

impl Stamp {
    fn of(path: &Path) -> Stamp {
        Stamp(std::fs::metadata(path).ok().map(|file| {
            let changed = (file.ctime(), file.ctime_nsec());
            (file.dev(), file.ino(), file.size(), changed.0, changed.1)
        }))
    }

    /// Whether the last change is so long ago that nobody writes any more. A time ahead of the clock counts as long ago.
    fn is_settled(self, now: SystemTime) -> bool {
        let Some((.., seconds, nanos)) = self.0 else {
            return true;
        };
        let since = |at| now.duration_since(at).unwrap_or(Duration::MAX);
        let at = u64::try_from(seconds).ok().zip(u32::try_from(nanos).ok());
        at.is_none_or(|(seconds, nanos)| {
            since(SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos)) >= SETTLED
        })
    }
}

/// Files, each as it was before it was read.
type Seen = Vec<(PathBuf, Stamp)>;

/// Files are compared with what was read at most this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A file that changed less than so long ago may be half written.
const SETTLED: Duration = Duration::from_millis(500);
/// A request waits no longer for a file system that hangs.
const LOOK_PATIENCE: Duration = Duration::from_secs(1);

/// The web config in use, read again when a file has changed.
pub struct Live {
    path: PathBuf,
    state: Mutex<State>,
    /// Held by the request that waits for a look.
    looker: tokio::sync::Mutex<BlockingWorker<()>>,
    pub logins: Arc<Logins>,
    /// Called with what the newest files say, or None where they cannot be used, when that was found out.
    report: Box<dyn Fn(Option<&WebConfig>) + Send + Sync>,
}

struct State {
    used: Arc<WebConfig>,
    /// What was seen of the files at the last attempt, which may have failed.
    seen: Seen,
    bucket: Option<Bucket>,
    next_look: Instant,
}

impl Live {
    /// Reads the file and the certificates. Blocking.
    ///
    /// # Errors
    /// One of them cannot be read or used.
    pub fn load(
        path: PathBuf,
        report: impl Fn(Option<&WebConfig>) + Send + Sync + 'static,
    ) -> Result<Arc<Live>, WebConfigError> {
        let mut seen = Vec::new();
        let used = WebConfig::read(&path, &mut seen)?;
        used.warn(&path);
        Ok(Arc::new(Live {
            state: Mutex::new(State {
                seen,
                bucket: used
                    .rate_limit
                    .map(|limit| Bucket::full(limit, Instant::now())),
                used: Arc::new(used),
                next_look: Instant::now() + LOOK_EVERY,
            }),
            looker: tokio::sync::Mutex::new(BlockingWorker::reserved(())),
            path,
            logins: Arc::default(),
            report: Box::new(report),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The settings of now, after a look at the files where the last one is a second ago.
    pub async fn current(self: &Arc<Self>) -> Arc<WebConfig> {
        let is_due = Instant::now() >= self.lock().next_look;
        // While one request waits for a look, the others take what is in use.
        if is_due && let Ok(mut looker) = self.looker.try_lock() {
            let this = Arc::clone(self);
            let look = move |(): &mut ()| this.look();
            // Where it hangs or no thread can be started, a later request tries again.
            let _ = looker.run(LOOK_PATIENCE, "web config file", look).await;
        }
        Arc::clone(&self.lock().used)
    }

    /// Reads the files again if one has changed, and is complete.
    fn look(&self) {
        let seen = self.lock().seen.clone();
        let newest = |(file, _): &(PathBuf, Stamp)| (file.clone(), Stamp::of(file));
        let newest: Seen = seen.iter().map(newest).collect();
        let now = SystemTime::now();
        if newest != seen && newest.iter().all(|(_, stamp)| stamp.is_settled(now)) {
            let _ = self.reload();
        }
        self.lock().next_look = Instant::now() + LOOK_EVERY;
    }

    /// Reads the files again. Blocking.
    ///
    /// # Errors
    /// They cannot be used, and the settings of before remain. The log has it too.
    pub fn reload(&self) -> Result<(), WebConfigError> {
        let mut seen = Vec::new();
        let before = Arc::clone(&self.lock().used);
        let read = WebConfig::read(&self.path, &mut seen).and_then(|read| {
            match read.opened_since(&before) {
                Some(what) => {
                    let message = format!("{what} switched off only by a restart");
                    Err(WebConfigError::new(&self.path, message))
                }
                None => Ok(read),
            }
        });
        let mut state = self.lock();
        state.seen = seen;
        let mut taken = None;
        let result = match read {
            Ok(read) => {
                let read = Arc::new(read);
                if read.rate_limit != before.rate_limit {
                    let full = |limit| Bucket::full(limit, Instant::now());
                    state.bucket = read.rate_limit.map(full);
                }
                read.warn(&self.path);
                tracing::info!("web config file {}: read again", self.path.display());
                taken = Some(Arc::clone(&read));
                state.used = read;
                Ok(())
            }
            Err(error) => {
                tracing::error!("{error}; the settings of before remain in use");
                Err(error)
            }
        };
        drop(state);
        (self.report)(taken.as_deref());
        result
    }

    /// Whether the rate limit lets one more request pass.
    pub fn take_token(&self) -> bool {
        let mut state = self.lock();
        let bucket = state.bucket.as_mut();
        bucket.is_none_or(|bucket| bucket.take(Instant::now()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_look_that_hangs_costs_one_thread() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("web.yml");
        std::fs::write(&file, "").unwrap();
        // Stands for a file system: a look at a file that has changed ends when the sender is dropped.
        let (recover, hang) = mpsc::channel::<()>();
        let (hang, looks) = (Mutex::new(hang), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&looks);
        let live = Live::load(file.clone(), move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            let _ = hang.lock().unwrap().recv();
        })
        .unwrap();
        // The files differ from what was seen, so that each look reports once they are settled.
        let due = || {
            let mut state = live.lock();
            state.next_look = Instant::now();
            state.seen = vec![(file.clone(), Stamp(None))];
        };
        while looks.load(Ordering::SeqCst) == 0 {
            due();
            live.current().await;
        }
        for _ in 0..5 {
            due();
            live.current().await;
        }
        assert_eq!(looks.load(Ordering::SeqCst), 1);
        drop(recover);
        while live.looker.try_lock().unwrap().is_running() {
            tokio::task::yield_now().await;
        }
        due();
        live.current().await;
        assert_eq!(looks.load(Ordering::SeqCst), 2);
    }
}
