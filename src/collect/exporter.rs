//! The exporter's own use of its host, read from `/proc/self`.

use procfs::process::{LimitValue, Process};

use crate::model::Failure;
use crate::model::{ExporterVitals, Moment, Reason};

/// Blocking, well under a millisecond.
pub fn vitals() -> Result<ExporterVitals, Failure> {
    let failed = |error| Failure::new(Reason::Unreadable, format!("/proc/self: {error}"));
    let own = Process::myself().map_err(failed)?;
    let stat = own.stat().map_err(failed)?;
    let limit = match own.limits().map_err(failed)?.max_open_files.soft_limit {
        LimitValue::Unlimited => None,
        LimitValue::Value(value) => Some(value),
    };
    let ticks = procfs::ticks_per_second();
    let boot = procfs::boot_time_secs().map_err(failed)?;
    // The entries, one by one: `fd_count` of the crate counts two too many on kernels before 6.2, and the folder's
    // own handle is open while it is read.
    let entries = std::fs::read_dir("/proc/self/fd")
        .map_err(|error| failed(error.into()))?
        .count();
    Ok(ExporterVitals {
        cpu_seconds: (stat.utime + stat.stime) as f64 / ticks as f64,
        open_fds: entries.saturating_sub(1) as u64,
        handle_limit: limit,
        resident_bytes: stat.rss * procfs::page_size(),
        virtual_bytes: stat.vsize,
        started: Moment(boot * 1000 + stat.starttime * 1000 / ticks),
        threads: u64::try_from(stat.num_threads).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_handles_grow_by_those_opened() {
        let held: Vec<std::fs::File> = (0..50)
            .map(|_| std::fs::File::open("/dev/null").unwrap())
            .collect();
        let vitals = vitals().unwrap();
        assert!(
            vitals.open_fds >= held.len() as u64 && vitals.resident_bytes > 0 && vitals.threads > 0
        );
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_millis() as u64;
        // A test process is younger than an hour.
        assert!(vitals.started.0 <= now + 1000 && vitals.started.0 + 3_600_000 > now);
    }
}
