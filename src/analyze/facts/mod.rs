//! What each file says about each broker: one file here for each kind of artifact.

mod bundles;
mod disks;
mod dumps;
mod gathering;
mod groups;
mod logs;
mod nothing;
mod process;
mod registrations;
mod signatures;
mod sockets;
mod topics;

use std::collections::BTreeMap;

use self::gathering::Gathering;
use super::artifact::File;
use super::bundle::Bundle;
use super::dumps::Analysis;
use super::explanation::Fact;
use super::names::{Name, Names, Owner};
use super::signals::Signals;
use super::stalls;

/// The signals of each broker, and the facts that are not about one broker.
pub(super) fn gather(
    files: &[File<'_>],
    owners: &[Owner],
    names: &Names,
    analysis: &Analysis,
    bundles: &[Bundle<'_>],
) -> (BTreeMap<Name, Signals>, Vec<Fact>) {
    let signals = names.all().into_iter();
    let mut all = Gathering {
        signals: signals.map(|name| (name, Signals::default())).collect(),
        elsewhere: Vec::new(),
        names,
    };
    for bundle in bundles {
        all.bundle(bundle);
    }
    let sizes = groups::topic_sizes(files);
    let limits = process::handle_limits(files, owners);
    let places = process::places_of_busy(files, owners);
    for (file, owner) in files.iter().zip(owners) {
        let name = owner.as_ref().map(|(name, _)| name);
        all.found(file, name);
        all.dumps(file, owner, analysis);
        all.topics(file);
        all.sockets(file, name);
        all.fds(file, name, limits.get(&name).copied());
        all.limits(file, name);
        all.busy_threads(file, name, &places);
        all.log_dirs(file);
        all.zookeeper(file);
        all.quorum(file);
        all.metadata_log(file);
        all.groups(file, &sizes);
        if let Some(log) = &file.log {
            all.broker_log(file, log, name.filter(|_| log.broker));
            all.client_log(file, log);
            if log.broker {
                all.signatures(file, name);
            }
        }
    }
    let (stalled, loops) = stalls::find(files, owners);
    for stall in stalled {
        all.stall(stall, files, owners);
    }
    for found in loops {
        all.endless(found, files, owners);
    }
    all.ends_of_logs(files, owners);
    all.nothing_found(files, owners, analysis);
    (all.signals, all.elsewhere)
}
