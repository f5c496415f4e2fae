//! How parts of the page look: lengths and classes.

use crate::expose::overview::Level;

pub(super) const TEXT: usize = 400;

pub(super) fn class(level: Level) -> &'static str {
    match level {
        Level::Ok => "ok",
        Level::Unknown => "unknown",
        Level::Warning => "warning",
        Level::Critical => "critical",
    }
}
