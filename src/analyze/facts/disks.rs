//! What `kafka-log-dirs --describe` shows: directories that are offline, and replicas that lag.

use super::gathering::{Gathering, count, fact};
use crate::analyze::artifact::File;
use crate::analyze::explanation::{FactKind, Source};
use crate::analyze::formats::log_dirs::BrokerDirs;
use crate::analyze::names::Name;

impl Gathering<'_> {
    pub(super) fn log_dirs(&mut self, file: &File<'_>) {
        let brokers = file.log_dirs.iter().flat_map(|found| &found.brokers);
        for BrokerDirs { broker, log_dirs } in brokers {
            let name = Name::Id(*broker);
            let offline = log_dirs
                .iter()
                .filter_map(|dir| dir.error.as_ref().map(|error| (dir, error)));
            for (dir, error) in offline {
                let text = format!("its log directory {} is offline: {error}", dir.log_dir);
                let fact = fact(FactKind::LogDirOffline, file, text, &[]);
                self.add(Some(&name), fact.against(Some(Source::Own)));
            }
            let replicas = || log_dirs.iter().flat_map(|dir| &dir.partitions);
            let number = replicas().count() as u64;
            let bytes = replicas().fold(0_u64, |sum, replica| sum.saturating_add(replica.size));
            let lagging = replicas().filter(|replica| replica.offset_lag > 0);
            let most = lagging.clone().max_by_key(|replica| replica.offset_lag);
            let lagging = lagging.count() as u64;
            let moving = replicas().filter(|replica| replica.is_future).count() as u64;
            let mut text = format!(
                "{} with {}, {bytes} bytes",
                match log_dirs.len() {
                    1 => "1 log directory".to_owned(),
                    number => format!("{number} log directories"),
                },
                count(number, "replica"),
            );
            if let Some(most) = most {
                text += &format!(
                    "; {lagging} behind ({} by {})",
                    most.partition,
                    count(most.offset_lag.unsigned_abs(), "record")
                );
            }
            if moving > 0 {
                text += &format!("; {moving} moving to another directory");
            }
            let figures = [
                ("replicas", number),
                ("bytes", bytes),
                ("lagging", lagging),
                ("moving", moving),
            ];
            let fact = fact(FactKind::LogDirs, file, text, &figures);
            self.add(Some(&name), fact.alone());
        }
    }
}
