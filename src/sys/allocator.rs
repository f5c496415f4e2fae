//! What the allocator keeps of freed memory.

/// Makes large blocks go back to the kernel as soon as they are freed. By default glibc raises that bound with each large
/// block, up to 32 MiB, and keeps up to eight pools for each core: after one large answer they stay as large as it was.
/// To be called once, before any thread is started.
pub fn give_back_large_blocks() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in [
        (libc::M_MMAP_THRESHOLD, 256 << 10),
        (libc::M_TRIM_THRESHOLD, 512 << 10),
        (libc::M_ARENA_MAX, 1),
    ] {
        // SAFETY: no other thread exists, and glibc accepts these values for these parameters.
        let _ = unsafe { libc::mallopt(parameter, value) };
    }
}
