//! CPU time and memory of processes for the benchmarks, the time to the microsecond: `/proc/PID/stat` counts hundredths of a second.

use std::io;
use std::time::Duration;

/// Returns the CPU time of this process so far, user and system.
pub fn own_cpu() -> io::Result<Duration> {
    cpu(libc::RUSAGE_SELF)
}

/// Returns the CPU time of this process's children that were waited for so far, and of the children that those waited
/// for.
pub fn children_cpu() -> io::Result<Duration> {
    cpu(libc::RUSAGE_CHILDREN)
}

/// Returns the peak of resident memory of the biggest of these children, in bytes.
pub fn children_peak() -> io::Result<u64> {
    // Linux counts KiB, and never a negative number of them.
    Ok(usage(libc::RUSAGE_CHILDREN)?.ru_maxrss.unsigned_abs() * 1024)
}

fn cpu(whose: libc::c_int) -> io::Result<Duration> {
    let usage = usage(whose)?;
    let span = |time: libc::timeval| {
        // Neither is negative.
        Duration::from_secs(time.tv_sec.unsigned_abs())
            + Duration::from_micros(time.tv_usec.unsigned_abs())
    };
    Ok(span(usage.ru_utime) + span(usage.ru_stime))
}

fn usage(whose: libc::c_int) -> io::Result<libc::rusage> {
    // SAFETY: rusage is plain data, for which all zeros is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is a complete rusage that outlives the call.
    if unsafe { libc::getrusage(whose, &mut usage) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(usage)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::process::Command;

    use super::*;

    #[test]
    fn a_child_that_works_is_charged_to_its_parent() {
        let (own, children) = (own_cpu().unwrap(), children_cpu().unwrap());
        let loops = "n=0; while [ $n -lt 300000 ]; do n=$((n + 1)); done";
        assert!(
            Command::new("sh")
                .args(["-c", loops])
                .status()
                .unwrap()
                .success()
        );
        let spent = children_cpu().unwrap() - children;
        assert!(spent >= Duration::from_millis(5), "{spent:?}");
        assert!(own_cpu().unwrap() - own < spent);
    }
}
