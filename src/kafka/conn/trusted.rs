//! Connections over which a secret may be sent.

use tokio::time::Instant;

use super::{Body, Conn, ConnError};

/// A connection whose other side may get a secret: without TLS, or with a certificate that is verified before anything is
/// sent, or that the user vouches for. Only [`Conn::trusted`] makes one, so a login that takes this type cannot reach
/// anybody else.
#[derive(Debug)]
pub struct Trusted<'a>(pub(super) &'a mut Conn);

impl Trusted<'_> {
    /// See [`Conn::ask`].
    pub async fn ask(
        &mut self,
        request: &'static str,
        frame: impl FnOnce(i32) -> Vec<u8>,
        cap: usize,
        deadline: Instant,
    ) -> Result<Body, ConnError> {
        self.0.ask(request, frame, cap, deadline).await
    }

    /// Sends a token of a login in a frame without a header, and returns that of the broker: before Kafka 1.0.
    pub async fn ask_bare(
        &mut self,
        request: &'static str,
        frame: Vec<u8>,
        cap: usize,
        deadline: Instant,
    ) -> Result<Body, ConnError> {
        self.0.settle(deadline).await?;
        self.0.send(request, frame, None, cap, deadline).await
    }
}
