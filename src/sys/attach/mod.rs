//! HotSpot's dynamic attach, spoken from outside: one `threaddump` or `dumpheap` of one JVM.
//!
//! The order is what keeps it harmless. A [`PinnedProcess`](super::process::PinnedProcess) holds a descriptor of the
//! process's `/proc` folder, so a pid that is given out again is never read, signalled or asked. A SIGQUIT, which opens
//! the JVM's attach socket, is sent only where it cannot kill: the process maps libjvm and catches the signal.
//! Everything has one deadline.
//!
//! A sick process can block a reader of its `/proc` files, and attaching may need another user's rights: so all this
//! runs in a child process of one request each ([`child`]), never in the exporter itself.

pub mod ask;
pub mod child;
pub mod error;
mod heap_dump;
mod jvm;
mod protocol;
mod thread_dump;
mod trigger;

#[cfg(test)]
mod tests;
