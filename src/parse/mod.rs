//! Text that others wrote, turned into data: pure, bounded, never a panic.

pub mod thread_dump;
