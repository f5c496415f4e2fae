//! A file system that hangs: frozen, so that every write waits until it is thawed.

use std::time::Duration;

use lab::Cell;
use lab::hosts::run;

use super::Stop;

const FOLDER: &str = "/tmp/hanging";
const APART: Duration = Duration::from_secs(40);
const HANGS: Duration = Duration::from_secs(12);

pub(super) struct HangingDisk {
    cell: Cell,
}

impl HangingDisk {
    /// Makes it in the cell's own `/tmp`.
    pub(super) fn new(cell: &Cell) -> Result<HangingDisk, String> {
        let disk = HangingDisk { cell: cell.clone() };
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/slow-disk.sh");
        let image = format!(
            "{}/soak-{}.img",
            env!("CARGO_TARGET_TMPDIR"),
            std::process::id()
        );
        disk.run(&[script, "make", &image, FOLDER])?;
        disk.run(&["mkdir", "-m", "700", &disk.path("evidence")])?;
        Ok(disk)
    }

    pub(super) fn path(&self, name: &str) -> String {
        format!("{FOLDER}/{name}")
    }

    /// Freezes and thaws it until the end. Returns how often.
    pub(super) fn hang_now_and_then(&self, stop: &Stop) -> usize {
        let mut hangs = 0;
        stop.sleep(APART);
        while !stop.is_set() {
            self.run(&["fsfreeze", "--freeze", FOLDER]).unwrap();
            stop.sleep(HANGS);
            self.run(&["fsfreeze", "--unfreeze", FOLDER]).unwrap();
            hangs += 1;
            stop.sleep(APART);
        }
        hangs
    }

    fn run(&self, command: &[&str]) -> Result<(), String> {
        let output = run(&self.cell, command);
        output.map(drop).map_err(|error| format!("{error:#}"))
    }
}

impl Drop for HangingDisk {
    fn drop(&mut self) {
        // A frozen file system would outlive the cell; thawing one that is not frozen fails.
        let _ = self.run(&["fsfreeze", "--unfreeze", FOLDER]);
    }
}
