//! How a client comes to a connection over which it may ask: settings, TLS, login.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Client, ClientError, Kept};
use crate::kafka::conn::{Body, Conn, ConnError};
use crate::kafka::login::{LoginError, log_in};
use crate::kafka::question::Question;
use crate::kafka::security::Login;

impl Client {
    /// Reads the settings of security again, and returns whether they are others.
    async fn renew_security(&mut self, deadline: Instant) -> Result<bool, ClientError> {
        let Some(source) = &self.source else {
            return Ok(false);
        };
        let of_others = self.dialer.is_of_others();
        let newest = source
            .newest(of_others, deadline)
            .await
            .map_err(|problem| {
                let address = self.address.clone();
                ClientError::Settings { address, problem }
            })?;
        let changed = !Arc::ptr_eq(&newest, &self.security);
        if changed {
            // What the broker demanded then may be there now.
            self.tls.demanded = None;
            self.security = newest;
        }
        Ok(changed)
    }

    /// Sends the login, if there is one, on a new connection.
    async fn log_in(&mut self, deadline: Instant) -> Result<(), ClientError> {
        let Some(kept) = &mut self.kept else {
            return Ok(());
        };
        if let Login::With(credentials) = &self.security.login {
            let conn = kept.conn.trusted()?;
            let done = log_in(conn, credentials, &self.dialer, deadline).await;
            done.map_err(|source| match source {
                LoginError::Conn(error) => ClientError::Conn(error),
                source => ClientError::Login {
                    address: self.address.clone(),
                    login: credentials.to_string(),
                    source: Box::new(source),
                },
            })?;
        }
        kept.ready = true;
        Ok(())
    }

    async fn connect(&mut self, deadline: Instant) -> Result<(), ClientError> {
        let now = Instant::now();
        let waits = self.failed.as_ref().filter(|failed| now < failed.until);
        let waits = waits.map(|failed| {
            let (last, wait) = (failed.message.clone(), failed.until - now);
            let (reason, of_settings) = (failed.reason, failed.of_settings);
            (ClientError::Waiting { last, reason, wait }, of_settings)
        });
        match waits {
            Some((waiting, false)) => return Err(waiting),
            // A new mistake in the settings is shown when the wait is over.
            Some((waiting, true)) => match self.renew_security(deadline).await {
                Ok(true) => {}
                Ok(false) | Err(_) => return Err(waiting),
            },
            None => drop(self.renew_security(deadline).await?),
        }
        let tls = self.security.tls.as_ref();
        // One that only asks for a certificate, and closed for another reason, looks the same, so the handshake is finished
        // again later.
        let expired = |at: &Instant| at.elapsed() >= self.timing.retry_tls;
        let finishes = self.tls.demanded.as_ref().is_none_or(expired);
        let tls = match finishes {
            true => tls.cloned(),
            false => tls.map(|tls| tls.stopping_when_asked()),
        };
        let now = Instant::now();
        let within = deadline.saturating_duration_since(now);
        let conn = Conn::connect(
            &self.address,
            within,
            &self.dialer,
            self.loopback,
            tls.as_ref(),
        );
        let conn = conn.await.inspect_err(|error| {
            // Its host has answered.
            self.path.is_cut &= !matches!(error, ConnError::Refused { .. });
        })?;
        self.path.is_cut = false;
        self.path.remote = conn.remote();
        if let Some(at) = self.tls.demanded.as_mut().filter(|_| finishes) {
            *at = Instant::now();
        }
        self.kept = Some(Kept {
            conn,
            connected_in: now.elapsed(),
            since: now,
            ready: false,
        });
        Ok(())
    }

    /// Asks over the kept connection or a new one. Sets `started` to the time of the question, if one could be sent.
    pub(super) async fn attempt(
        &mut self,
        question: Question<'_>,
        deadline: Instant,
        started: &mut Instant,
    ) -> Result<Body, ClientError> {
        if let Some(kept) = &mut self.kept {
            // If an answer is still owed, the broker hangs, even if its last answer was only late.
            let late = self.late.take();
            let settled = kept
                .conn
                .settle(deadline.min(Instant::now() + self.timing.late));
            self.late = settled.await?.or(late);
        }
        // A login whose answer came late is not continued.
        drop(self.kept.take_if(|kept| !kept.ready));
        if self.kept.is_none() {
            self.connect(deadline).await?;
            self.log_in(deadline).await?;
        }
        let Some(kept) = &mut self.kept else {
            let (address, request) = (self.address.clone(), question.name);
            return Err(ConnError::Closed { address, request }.into());
        };
        *started = Instant::now();
        kept.conn.pass_over(question.passed);
        let asked = kept
            .conn
            .ask(question.name, question.frame, question.cap, deadline)
            .await;
        asked.map_err(|error| match (error, self.late) {
            (
                ConnError::Timeout {
                    address, request, ..
                },
                Some(late),
            ) if late.request == request => ClientError::Slow {
                address,
                request,
                took: late.took,
                within: self.timing.deadline,
            },
            (error, _) => error.into(),
        })
    }
}
