//! Hashes of stacks: whether a thread is still where an earlier dump showed it.

use std::hash::Hasher;

use crate::parse::thread_dump::Thread;

/// Equal for the same thread with equal frames.
pub(super) fn place_hash(thread: &Thread<'_>) -> u64 {
    let mut hasher = StackHasher(stack_hash(thread));
    hasher.write(thread.name.as_bytes());
    hasher.write(&thread.header().number.unwrap_or_default().to_le_bytes());
    hasher.finish()
}

/// Equal for equal frames; the addresses of locks, which garbage collection changes, are not in it.
pub(super) fn stack_hash(thread: &Thread<'_>) -> u64 {
    let mut hasher = StackHasher(0);
    thread
        .frame_lines()
        .for_each(|line| hasher.write(line.as_bytes()));
    hasher.finish()
}

/// Hashes eight bytes at a time, as rustc's tables do: a dump has tens of thousands of frames, and a broker that chooses
/// their names gains nothing from a collision.
struct StackHasher(u64);

impl Hasher for StackHasher {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        let mut last = [0; 8];
        last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        for word in words.iter().chain([&last]) {
            self.0 = (self.0.rotate_left(5) ^ u64::from_le_bytes(*word))
                .wrapping_mul(0x517c_c1b7_2722_0a95);
        }
        self.0 = self.0.rotate_left(5) ^ bytes.len() as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
