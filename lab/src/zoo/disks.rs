//! Disks that hang, run full or fail.

use std::path::PathBuf;

use anyhow::{Context, Result};

use super::scenario::{About, Scenario, Struck, is_new};
use super::score::Expected;
use super::stage::Stage;
use crate::cluster::ClusterOptions;
use crate::hosts::run;

const SICK: i32 = 2;

pub fn all() -> Vec<Box<dyn Scenario>> {
    vec![
        Box::new(Hung),
        Box::new(Full {
            about: About {
                name: "disk-full",
                kind: 13,
                what: "the only disk of the log dirs is filled",
                expected: Expected {
                    findings: &["log_dir_exhaustion", "ended"],
                    cause: &["data", "full|no space|space left"],
                    gray: true,
                    before_harm: false,
                },
            },
            folder: 0,
            change: None,
        }),
        Box::new(Full {
            about: About {
                name: "log-dir-failed",
                kind: 15,
                what: "the second of two disks is filled; the broker goes on without that log dir",
                expected: Expected {
                    findings: &["log_dir_failed"],
                    cause: &["data1", "offline|failed|full|no space|space left"],
                    gray: false,
                    before_harm: false,
                },
            },
            folder: 1,
            change: Some(|options| options.further_disks = 1),
        }),
    ]
}

/// The folder of a disk of the sick broker, as its host sees it.
fn disk(stage: &Stage, number: usize) -> Result<PathBuf> {
    let mut folders = stage.cluster.broker(SICK)?.data_folders();
    folders.nth(number).context("a disk of that number")
}

struct Hung;

impl Scenario for Hung {
    fn about(&self) -> About {
        About {
            name: "disk-hung",
            kind: 13,
            what: "fsfreeze: every write to the disk of the log dirs waits",
            expected: Expected {
                findings: &["disk_hung", "stalled_pool"],
                cause: &["data", "disk"],
                gray: true,
                before_harm: false,
            },
        }
    }

    fn strike(&mut self, stage: &mut Stage) -> Result<Struck> {
        let folder = disk(stage, 0)?.display().to_string();
        let struck = Struck::now(&[SICK]);
        run(&stage.host(SICK)?.cell, &["fsfreeze", "--freeze", &folder])?;
        Ok(struck)
    }

    fn heal(&mut self, stage: &mut Stage) -> Result<()> {
        let folder = disk(stage, 0)?.display().to_string();
        run(
            &stage.host(SICK)?.cell,
            &["fsfreeze", "--unfreeze", &folder],
        )
        .map(drop)
    }
}

struct Full {
    about: About,
    /// The number of the disk.
    folder: usize,
    change: Option<fn(&mut ClusterOptions)>,
}

impl Scenario for Full {
    fn about(&self) -> About {
        self.about
    }

    fn runs_on(&self, version: &str) -> bool {
        // Before 1.0 a broker ends with any of its log dirs.
        self.folder == 0 && ["0.10.1.0"].contains(&version) || is_new(version)
    }

    fn change(&self) -> Option<fn(&mut ClusterOptions)> {
        self.change
    }

    fn strike(&mut self, stage: &mut Stage) -> Result<Struck> {
        let file = disk(stage, self.folder)?.join("fill").display().to_string();
        // Most is reserved, which writes nothing; cat ends with an error, as the disk is then full.
        let fill = "room=$(df --output=avail -B1M \"${0%/*}\" | tail -n 1)
            fallocate -l $((room - 20))M \"$0\"
            cat /dev/zero >\"$0.rest\" 2>/dev/null || true";
        run(&stage.host(SICK)?.cell, &["sh", "-c", fill, &file])?;
        Ok(Struck::now(&[SICK]))
    }

    fn heal(&mut self, stage: &mut Stage) -> Result<()> {
        let file = disk(stage, self.folder)?.join("fill").display().to_string();
        let rest = format!("{file}.rest");
        run(&stage.host(SICK)?.cell, &["rm", &file, &rest])?;
        stage.replace(SICK)
    }
}
