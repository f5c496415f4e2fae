//! Takes the config file and the web config file again: at SIGHUP, and when a client asks for it.

use std::sync::Arc;

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};

use crate::cli::ServeArgs;
use crate::config::{Config, InUse};
use crate::expose::web_config::Live;
use crate::model::Clock;
use crate::sys::systemd::{self, State};

/// Requests of clients.
pub(super) type Requests = mpsc::Receiver<oneshot::Sender<Result<(), String>>>;

pub(super) struct Reloader {
    hangups: Signal,
    requests: Requests,
    args: ServeArgs,
    web: Option<Arc<Live>>,
    settings: watch::Sender<InUse>,
    clock: Clock,
}

impl Reloader {
    /// From this call on SIGHUP does not end the process.
    pub(super) fn new(
        args: ServeArgs,
        requests: Requests,
        web: Option<Arc<Live>>,
        settings: watch::Sender<InUse>,
        clock: Clock,
    ) -> anyhow::Result<Reloader> {
        let hangups = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
        Ok(Reloader {
            hangups,
            requests,
            args,
            web,
            settings,
            clock,
        })
    }

    pub(super) async fn run(mut self) {
        loop {
            let answer = tokio::select! {
                Some(()) = self.hangups.recv() => None,
                Some(answer) = self.requests.recv() => Some(answer),
                else => return std::future::pending().await,
            };
            systemd::notify(State::Reloading);
            let result = self.take().await;
            systemd::notify(State::Ready);
            if let Some(answer) = answer {
                // The client may have gone.
                let _ = answer.send(result);
            }
        }
    }

    /// Both files; one that cannot be used leaves in use what was before.
    async fn take(&self) -> Result<(), String> {
        let (args, web) = (self.args.clone(), self.web.clone());
        let read = move || {
            let config = Config::load(args).map_err(|error| error.to_string());
            let web = web.map_or(Ok(()), |web| web.reload());
            (config, web.map_err(|error| error.to_string()))
        };
        let read = tokio::task::spawn_blocking(read).await;
        let (config, web) = read.map_err(|error| error.to_string())?;
        let before = Arc::clone(&self.settings.borrow().config);
        let config = config.and_then(|config| {
            if config.evidence == before.evidence {
                Ok(config)
            } else {
                Err("config file: `evidence` is changed by a restart only".to_owned())
            }
        });
        match &config {
            Ok(_) => tracing::info!("the settings were taken again"),
            Err(error) => tracing::error!("{error}; the settings of before remain in use"),
        }
        let now = self.clock.now();
        let result = config.as_ref().map(drop).map_err(Clone::clone).and(web);
        self.settings.send_modify(|settings| {
            settings.status.config_file_ok = config.is_ok();
            if let Ok(config) = config
                && config != *before
            {
                settings.config = Arc::new(config);
            }
            if result.is_ok() {
                settings.status.taken = now;
            }
        });
        result
    }
}
