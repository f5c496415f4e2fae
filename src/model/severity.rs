//! How much a finding or a line of a log matters.

use serde::{Deserialize, Serialize};

use super::named::named;

named! {
    /// Fixed for each finding and each signature of the log.
    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    pub enum Severity {
        /// Nothing is wrong now.
        Info = "info",
        /// Look today.
        Warning = "warning",
        /// Act now.
        Critical = "critical",
    }
}
