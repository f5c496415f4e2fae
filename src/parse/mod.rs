//! Text that others wrote, turned into data: pure, bounded, never a panic.

pub mod groups;
pub mod handles_text;
pub mod server_log;
pub mod sockets_text;
pub mod thread_dump;
pub mod topics;
pub mod zookeeper;

/// The number with which a text begins.
fn leading_number<T: std::str::FromStr>(text: &str) -> Option<T> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    text.get(..end)?.parse().ok()
}
