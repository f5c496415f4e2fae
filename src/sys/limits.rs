//! Limits of this process with which it cannot work.

use rustix::process::{Resource, getrlimit};

/// Below this much address space, an allocation fails sooner or later, which ends a process without a message: 128 MiB for
/// data at most, and what the allocator and the stacks of threads reserve.
const ADDRESS_SPACE: u64 = 384 << 20;

#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    #[error(
        "the limit of address space is {} MiB, but {} MiB are needed: raise it (ulimit -v, LimitAS=), and limit memory with MemoryMax= instead",
        limit >> 20,
        ADDRESS_SPACE >> 20
    )]
    AddressSpace { limit: u64 },
    #[error(
        "no thread can be started: {0}; raise the limit of processes (ulimit -u, TasksMax=): at most some 50 threads and 4 child processes run at a time"
    )]
    Threads(std::io::Error),
}

/// Whether the first threads can be started. What starts them later may panic where they cannot.
///
/// # Errors
/// With the limit and how to raise it.
pub fn check() -> Result<(), LimitError> {
    if let Some(limit) = getrlimit(Resource::As)
        .current
        .filter(|limit| *limit < ADDRESS_SPACE)
    {
        return Err(LimitError::AddressSpace { limit });
    }
    let first = std::thread::Builder::new().spawn(|| ());
    let started = first.map_err(LimitError::Threads)?;
    // It has nothing that could panic.
    let _ = started.join();
    Ok(())
}
