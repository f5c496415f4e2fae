//! Stacks: the frames that a person is shown, and hashes, which show whether a thread is still where an earlier dump had it.

use std::hash::Hasher;

use crate::parse::thread_dump::Thread;

/// The frames that a person is shown, topmost first: those outside the JDK, because a lock is taken in the same way
/// everywhere, below what the thread does in the kernel, if it does not only wait. All of them, where the JDK has every one.
pub fn shown(frames: &[String]) -> impl Iterator<Item = &str> {
    let all = frames.iter().all(|frame| is_of_jdk(frame));
    let is_shown = move |(depth, frame): &(usize, &String)| {
        all || !is_of_jdk(frame) || (*depth == 0 && is_native_work(frame))
    };
    let shown = frames.iter().enumerate().filter(is_shown);
    shown.map(|(_, frame)| frame.as_str())
}

/// Frames kept of a thread: enough to recognise the bug.
const KEPT: usize = 64;

/// The topmost frames as text.
pub(super) fn top_frames(thread: &Thread<'_>) -> Vec<String> {
    let kept = thread.frames().take(KEPT);
    kept.map(|frame| frame.text()).collect()
}

/// As `sun.nio.ch.FileDispatcherImpl.force0(Native Method)`.
fn is_native_work(frame: &str) -> bool {
    let waits = [".park(", ".wait(", ".wait0(", ".sleep(", ".sleep0("];
    frame.ends_with("(Native Method)") && !waits.iter().any(|wait| frame.contains(wait))
}

/// Whether the frame is of the JDK's own classes.
pub(super) fn is_of_jdk(frame: &str) -> bool {
    let packages = ["java.", "javax.", "jdk.", "sun.", "com.sun."];
    packages.iter().any(|package| frame.starts_with(package))
}

/// Whether the frame is of Kafka's own classes.
pub(super) fn is_of_kafka(frame: &str) -> bool {
    let packages = ["kafka.", "org.apache.kafka."];
    packages.iter().any(|package| frame.starts_with(package))
}

/// The topmost frames of a thread that are searched for what it waits in.
pub(super) const TOP: usize = 16;

/// Of the topmost methods those that are the JDK's, down to the first one that is not.
pub(super) fn top_of_jdk<'a>(thread: &Thread<'a>) -> impl Iterator<Item = &'a str> {
    let top = thread.frames().take(TOP).map(|frame| frame.class_method);
    top.take_while(|method| is_of_jdk(method))
}

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

#[cfg(test)]
mod tests {
    #[test]
    fn frames_of_the_jdk_are_not_shown() {
        let stack = |frames: &[&str]| -> Vec<String> {
            frames.iter().map(|frame| (*frame).to_owned()).collect()
        };
        let parked = stack(&[
            "jdk.internal.misc.Unsafe.park(Native Method)",
            "java.util.concurrent.locks.ReentrantLock.lock(ReentrantLock.java:322)",
            "kafka.log.UnifiedLog.append(UnifiedLog.scala:766)",
            "java.util.HashMap.forEach(HashMap.java:1)",
            "javassist.Own.run(Own.java:2)",
        ]);
        let shown = |frames: &[String]| -> Vec<String> {
            super::shown(frames).map(str::to_owned).collect()
        };
        assert_eq!(shown(&parked), [parked[2].as_str(), parked[4].as_str()]);
        let syncs = stack(&[
            "sun.nio.ch.FileDispatcherImpl.force0(Native Method)",
            "sun.nio.ch.FileChannelImpl.force(FileChannelImpl.java:466)",
            "kafka.log.UnifiedLog.roll(UnifiedLog.scala:1521)",
        ]);
        assert_eq!(shown(&syncs), [syncs[0].as_str(), syncs[2].as_str()]);
        // A thread that is in nothing else.
        let idle = stack(&[
            "sun.nio.ch.EPoll.wait(Native Method)",
            "java.lang.Thread.run(Thread.java:1)",
        ]);
        assert_eq!(shown(&idle), idle);
        assert_eq!(shown(&[]), [""; 0]);
    }
}
