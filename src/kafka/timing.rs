//! How long a client of a broker or of ZooKeeper waits, and for what.

use std::time::Duration;

/// How long each step may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Time for one question with connecting.
    pub deadline: Duration,
    /// Time to read the late answer to an earlier question, which is in the kernel's buffer already if it came.
    pub late: Duration,
    /// A connection without an answer for so long is given up.
    pub silence: Duration,
    /// Time from the first failed connection to the next one. It doubles with each further failure.
    pub retry_first: Duration,
    pub retry_last: Duration,
    /// Time until the next attempt after TLS failed: each leaves a line in the broker's log.
    pub retry_tls: Duration,
    /// Time until the next attempt after a broker refused a login: a service behind it may lock the user out.
    pub retry_login: Duration,
    /// How long a connection with TLS is kept: a new one shows a renewed certificate.
    pub renew_tls: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            deadline: Duration::from_secs(2),
            late: Duration::from_millis(100),
            silence: Duration::from_secs(600),
            // A little less than the round of 5 s, so that the next round may connect.
            retry_first: Duration::from_secs(4),
            retry_last: Duration::from_secs(60),
            retry_tls: Duration::from_secs(600),
            retry_login: Duration::from_secs(300),
            renew_tls: Duration::from_secs(3600),
        }
    }
}

impl Timing {
    /// Returns how long no connection is made after so many failures in a row.
    pub(super) fn retry_after(&self, failures: u32) -> Duration {
        let doubled = 2_u32.saturating_pow(failures.saturating_sub(1));
        self.retry_first
            .saturating_mul(doubled)
            .min(self.retry_last)
    }
}
