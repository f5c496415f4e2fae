//! Lines of Docker's `json-file` driver: `{"log":"...\n","stream":"stdout","time":"..."}`.

use std::borrow::Cow;

use serde::Deserialize;

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    log: Cow<'a, str>,
}

/// What the container wrote; it ends with a line break unless Docker cut a long line. None for another line.
pub fn written(line: &str) -> Option<Cow<'_, str>> {
    let line: Line<'_> = serde_json::from_str(line).ok()?;
    Some(line.log)
}
