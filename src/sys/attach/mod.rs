//! HotSpot's dynamic attach protocol: asks one JVM for one `threaddump` or `dumpheap`.
//!
//! The order of the steps keeps it harmless. A [`PinnedProcess`](super::process::PinnedProcess) holds an fd of the
//! process's `/proc` folder, so another process with the same pid is never read, signalled or asked. SIGQUIT, which makes
//! the JVM open its attach socket, is sent only where it cannot kill: to a process that maps HotSpot's libjvm, catches
//! the signal, and does not have attaching disabled (`check_signal_is_safe`). Everything has one deadline.
//!
//! A sick process can block a reader of its `/proc` files, and attaching may need another user's rights. So each request
//! runs in a child process of its own ([`child`]), never in the exporter itself. `src/collect/jvm_dumper.rs` starts it.

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
