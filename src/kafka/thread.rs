//! Work that blocks or computes for long, on a thread of its own and not of the runtime, which panics where it can start none.

use std::io;

use tokio::sync::oneshot;

/// Runs `work` on a new thread with this name. The thread goes on where this is dropped.
///
/// # Errors
/// No thread can be started, or `work` panicked.
pub(crate) async fn on_thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (done, result) = oneshot::channel();
    let thread = std::thread::Builder::new().name(name.into());
    // Without a receiver the result is dropped.
    thread.spawn(move || drop(done.send(work())))?;
    let panicked = |_| io::Error::other("it panicked; see the log");
    result.await.map_err(panicked)
}
