//! The lines below a thread's header: frames and the locks between them.

use std::sync::LazyLock;

use memchr::{memchr, memchr_iter, memmem, memrchr};

use super::{INDENT, State, Thread, cut_name, hex_at_start_of, trim_indent};
use crate::model::text::beginning;
use crate::parse::leading_number;

/// Longer names of methods and files are cut in text, because frames are kept beyond their dump.
const MAX_PART: usize = 512;

/// A stack frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// `kafka.server.KafkaApis.handle`, without a class loader or module before it.
    pub class_method: &'a str,
    /// The text in the parentheses: `KafkaApis.scala:93`, `java.base@17.0.15/Native Method`; for `jhsdb` the text after
    /// them.
    pub location: &'a str,
}

impl Frame<'_> {
    /// `kafka.server.KafkaApis.handle(KafkaApis.scala:93)`, without the module that stands before the file.
    pub fn text(&self) -> String {
        let location = beginning(self.location, MAX_PART);
        let file = location.split_once('/').map_or(location, |(_, file)| file);
        // A verdict has hundreds of them, and this takes a third of the time of `format!`.
        [beginning(self.class_method, MAX_PART), "(", file, ")"].concat()
    }
}

/// A lock that a thread holds or waits for, by its stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lock<'a> {
    pub kind: LockKind,
    /// The object's address, or its identity hash where the form prints that. None where the JVM printed neither.
    pub address: Option<u64>,
    /// Its class; empty where not printed.
    pub class: &'a str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LockKind {
    /// `- locked`. Not held where the same thread waits on it.
    Locked,
    /// `- waiting to lock`.
    WaitingToLock,
    /// `- waiting on`: the thread is in `Object.wait()` and has released the monitor.
    WaitingOn,
    /// `- parking to wait for`: a `java.util.concurrent` object.
    ParkingToWaitFor,
    /// `- waiting to re-lock in wait()`: released in `Object.wait()`, and wanted again once the thread is BLOCKED.
    WaitingToRelock,
    /// `- eliminated`: the compiler removed the lock; no thread holds it.
    Eliminated,
    /// `- waiting on the Class initialization monitor for`: the class has no address.
    ClassInit,
    /// From the list `Locked ownable synchronizers`, which only a dump with `-l` has.
    OwnedSynchronizer,
}

impl<'a> Thread<'a> {
    /// The frames of the stack, topmost first.
    pub fn frames(&self) -> impl Iterator<Item = Frame<'a>> + use<'a> {
        self.stack().filter_map(frame_line)
    }

    /// The frames as printed, a line each: enough to distinguish stacks, at a third of the cost.
    pub fn frame_lines(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.stack()
            .filter(|line| line.starts_with("at ") || frame_line(line).is_some())
    }

    /// The lines up to the empty one that ends the stack, without their indent.
    fn stack(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let mut rest = self.body;
        std::iter::from_fn(move || {
            // Half the cost of `str::lines`.
            let (line, after) =
                rest.split_at_checked(memchr(b'\n', rest.as_bytes()).unwrap_or(rest.len()))?;
            rest = after.get(1..).unwrap_or_default();
            let line = trim_indent(line.strip_suffix('\r').unwrap_or(line));
            (!line.is_empty()).then_some(line)
        })
    }

    /// Every lock in the text of this thread, also the owned synchronizers, in the order printed.
    pub fn locks(&self) -> impl Iterator<Item = Lock<'a>> + use<'a> {
        self.lock_lines().filter_map(Result::ok)
    }

    /// As [`Thread::locks`], with the lines that begin as that of a lock and name none.
    pub fn lock_lines(&self) -> impl Iterator<Item = Result<Lock<'a>, &'a str>> + use<'a> {
        let body = self.body;
        // A hyphen is rare in a stack, so a search for it skips the frames without touching their lines.
        let below = memchr_iter(b'-', body.as_bytes()).filter_map(move |hyphen| {
            let (before, after) = body.split_at_checked(hyphen)?;
            let rest = after.strip_prefix("- ")?;
            let blank = |byte: &&u8| matches!(byte, b' ' | b'\t');
            let last_before = before.as_bytes().iter().rev().find(|byte| !blank(byte));
            if last_before
                .is_some_and(|&byte| byte != b'\n' && (byte.is_ascii() || !begins_line(before)))
            {
                return None;
            }
            let line = rest.get(..memchr(b'\n', rest.as_bytes()).unwrap_or(rest.len()))?;
            // JMX prints two blanks after the hyphen.
            let line = line.trim_matches([' ', '\r']);
            match lock(line) {
                Some(lock) => Some(Ok(lock)),
                None => names_no_lock(line).then_some(Err(line)),
            }
        });
        self.lock_beside_state().into_iter().map(Ok).chain(below)
    }

    /// The classes whose static initialiser runs on this stack.
    pub fn initialising_classes(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let body = self.body;
        memmem::find_iter(body.as_bytes(), ".<clinit>(").filter_map(move |dot| {
            let before = body.get(..dot)?;
            let line = before.get(memrchr(b'\n', before.as_bytes()).map_or(0, |end| end + 1)..)?;
            let line = trim_indent(line);
            let class = line
                .strip_prefix("at ")
                .or_else(|| line.strip_prefix("- "))
                .unwrap_or(line);
            Some(without_module(class))
        })
    }

    /// The lock that stands beside the state:
    ///
    /// - `"a" Id=56 BLOCKED on x.C@39 owned by "b" Id=59`, as JMX prints it;
    /// - `java.lang.Thread.State: WAITING on java.util.LinkedList@3e6ea3fe`, as VisualVM does;
    /// - ` on x.C@39 owned by "b" Id=59` on the line below the state, as IntelliJ does;
    /// - `waiting for b@2 to release lock on <0x11> (a x.C)` above the frames, as IntelliJ's debugger does.
    fn lock_beside_state(&self) -> Option<Lock<'a>> {
        let (object, _) = self.beside_state()?;
        let (address, class) = object_of(object)?;
        let kind = match self.state() {
            Some(State::Blocked) => LockKind::WaitingToLock,
            _ if class.starts_with("java.util.concurrent.") => LockKind::ParkingToWaitFor,
            _ => LockKind::WaitingOn,
        };
        Some(Lock {
            kind,
            address,
            class,
        })
    }

    /// The text from the object on that stands beside the state, and the name of its holder where that comes first.
    fn beside_state(&self) -> Option<(&'a str, Option<&'a str>)> {
        if self.is_of_hotspot() {
            return None;
        }
        if self.is_of_jmx() {
            let (_, object) = self.attributes.split_once(" on ")?;
            return Some((object.strip_prefix("lock=").unwrap_or(object), None));
        }
        for line in self.body.lines().take(LINES_OF_STATE) {
            let line = trim_indent(line);
            if line.starts_with("at ") || line.starts_with("- ") {
                return None;
            }
            if let Some((holder, lock)) = line
                .strip_prefix("waiting for ")
                .and_then(|rest| rest.split_once(" to release lock on "))
            {
                return Some((lock, Some(holder)));
            }
            let state = line.strip_prefix("java.lang.Thread.State: ");
            if let Some((_, object)) = state.and_then(|state| state.split_once(" on ")) {
                return Some((object, None));
            }
            if let Some(object) = line.strip_prefix("on ") {
                return Some((object, None));
            }
        }
        None
    }

    /// The thread that holds what this one waits for, where the text names it beside the lock: its name, and its number in
    /// Java where that is printed.
    pub fn holder(&self) -> Option<(&'a str, Option<u64>)> {
        if self.is_of_hotspot() {
            return None;
        }
        let beside = || match self.beside_state()? {
            (_, Some(name)) => Some((name, None)),
            (object, None) => owner(object),
        };
        let below = || {
            let at = memmem::find(self.body.as_bytes(), b" owned by ")?;
            let line = self.body.get(at..)?;
            owner(line.get(..memchr(b'\n', line.as_bytes()).unwrap_or(line.len()))?)
        };
        let (name, number) = beside().or_else(below)?;
        Some((cut_name(name), number))
    }

    /// Whether HotSpot itself printed the thread: with 16 digits, no lock beside the state, and no holder beside a lock.
    fn is_of_hotspot(&self) -> bool {
        static ADDRESS: LazyLock<memmem::Finder<'static>> =
            LazyLock::new(|| memmem::Finder::new(" tid=0x0000"));
        ADDRESS.find(self.attributes.as_bytes()).is_some()
    }
}

/// The lines of a thread above its frames.
const LINES_OF_STATE: usize = 5;

/// `x.C@39 owned by "b" Id=59`, `<39> (a x.C) owned by "b" t@59`, `x.C@39 owned by: b`, `owned by b id=59`.
fn owner(text: &str) -> Option<(&str, Option<u64>)> {
    let (_, owner) = text.split_once(" owned by")?;
    let owner = owner.trim_start_matches([':', ' ']).trim_end();
    if let Some((name, after)) = owner
        .strip_prefix('"')
        .and_then(|name| name.rsplit_once('"'))
    {
        let number = after
            .trim_start()
            .trim_start_matches(|c: char| !c.is_ascii_digit());
        return Some((name, leading_number(number)));
    }
    let number = owner
        .rsplit_once(" id=")
        .or_else(|| owner.rsplit_once(" Id="));
    match number {
        Some((name, number)) => Some((name, leading_number(number))),
        None => (!owner.is_empty()).then_some((owner, None)),
    }
}

/// Whether only an indent, which may have bullets, is between the last line break and the end. It reads no further back
/// than the indent: a line may be as long as the text.
fn begins_line(text: &str) -> bool {
    let before = text.trim_end_matches(INDENT);
    before.is_empty() || before.ends_with('\n')
}

fn frame_line(line: &str) -> Option<Frame<'_>> {
    if let Some(rest) = line.strip_prefix("at ") {
        return frame(rest);
    }
    if let Some(rest) = line.strip_prefix("- ") {
        // `- kafka.Kafka.main(java.lang.String[]) @bci=42, line=7 (Interpreted frame)`: jhsdb.
        return if rest.contains("@bci=") {
            frame(rest)
        } else {
            None
        };
    }
    // Thread.dump_to_file of JDK 21 prints frames without `at`.
    let method = line.split('(').next()?;
    let is_frame = line.trim_end().ends_with(')') && method.contains('.') && !method.contains(' ');
    if is_frame { frame(line) } else { None }
}

fn frame(text: &str) -> Option<Frame<'_>> {
    let text = text.trim_end();
    // A dump has tens of thousands of frames: these searches are most of what reading them costs.
    let open = memchr(b'(', text.as_bytes())?;
    let (method, rest) = (text.get(..open)?, text.get(open + 1..)?);
    let location = match rest.strip_suffix(')') {
        Some(inside)
            if memchr(b')', inside.as_bytes()).is_none() || !inside.contains(") @bci=") =>
        {
            inside
        }
        _ => rest
            .split_once(')')
            .map_or(rest, |(_, after)| after.trim_start()),
    };
    Some(Frame {
        class_method: without_module(method),
        location,
    })
}

/// Removes `java.base/` or `app//`, but not the address in `Load$$Lambda/0x00007f53c002a28.run`.
fn without_module(method: &str) -> &str {
    match memchr(b'/', method.as_bytes()).and_then(|slash| method.get(slash + 1..)) {
        Some(rest) => {
            let rest = rest.trim_start_matches('/');
            if rest.starts_with(|c: char| c.is_ascii_digit()) {
                method
            } else {
                rest
            }
        }
        None => method,
    }
}

/// Whether the text after `- ` begins as that of a lock, where [`lock`] reads none.
fn names_no_lock(text: &str) -> bool {
    ["waiting", "locked", "parking", "blocked", "<"]
        .iter()
        .any(|start| text.starts_with(start))
}

/// The text after `- ` of a lock line.
fn lock(text: &str) -> Option<Lock<'_>> {
    use LockKind::*;
    let (kind, object) = match text.as_bytes().first()? {
        b'<' => (OwnedSynchronizer, text),
        b'l' => (Locked, text.strip_prefix("locked ")?),
        b'b' => (WaitingToLock, text.strip_prefix("blocked on ")?),
        b'p' => (ParkingToWaitFor, text.strip_prefix("parking to wait for ")?),
        b'e' => (Eliminated, text.strip_prefix("eliminated ")?),
        b'w' => {
            let rest = text.strip_prefix("waiting ")?;
            if let Some(object) = rest.strip_prefix("to lock ") {
                (WaitingToLock, object)
            } else if let Some(object) = rest.strip_prefix("to re-lock in wait() ") {
                (WaitingToRelock, object)
            } else {
                let object = rest.strip_prefix("on ")?;
                if let Some(class) = object.strip_prefix("the Class initialization monitor for ") {
                    return Some(Lock {
                        kind: ClassInit,
                        address: None,
                        class,
                    });
                }
                (WaitingOn, object)
            }
        }
        // `- java.util.concurrent.locks.ReentrantLock$NonfairSync@166fba`: JMX's list of owned synchronizers.
        _ if text.contains('@') && !text.contains([' ', '(']) => (OwnedSynchronizer, text),
        _ => return None,
    };
    let object = object.trim_start();
    // `- locked on x.D@1948`
    let (address, class) = object_of(object.strip_prefix("on ").unwrap_or(object))?;
    Some(Lock {
        kind,
        address,
        class,
    })
}

/// `<0x00000000ffd1e738> (a java.lang.Object)`, `<java.lang.Object@4f0e445f>`, `java.lang.Object@4f0e445f`,
/// `<no object reference available>`, `<owner is scalar replaced> (a java.lang.Object)`.
fn object_of(text: &str) -> Option<(Option<u64>, &str)> {
    let Some(rest) = text.strip_prefix('<') else {
        return object_with_hash(text.split(' ').next()?);
    };
    if let Some((address, end)) = hex_at_start_of(rest)
        && let Some(after) = rest.get(end..).and_then(|after| after.strip_prefix('>'))
    {
        return Some((Some(address), class_of(after)));
    }
    let (inside, after) = rest.split_once('>')?;
    Some(object_with_hash(inside).unwrap_or((None, class_of(after))))
}

fn object_with_hash(text: &str) -> Option<(Option<u64>, &str)> {
    let (class, hash) = text.rsplit_once('@')?;
    let (hash, end) = hex_at_start_of(hash)?;
    (end == text.len() - class.len() - 1).then_some((Some(hash), class))
}

/// `C` from `... (a C)` and `... (a C) owned by "t1" t@59`; empty where a paste has cut it.
fn class_of(text: &str) -> &str {
    let text = match text.strip_prefix(" (a ") {
        Some(class) => class,
        None => text.split_once("(a ").map_or("", |(_, class)| class),
    };
    match text.strip_suffix(')') {
        Some(class) => class,
        None => text.split(')').next().unwrap_or(text),
    }
}
