//! Makes the incident's deadlock (KAFKA-3994) on unmodified brokers of 0.10.1.0, by requests and a short pause of the
//! followers.
//!
//! The request handler that serves a follower's Fetch locks the list of watched operations and then, to complete an
//! offset commit, that group. Another thread locks a group that becomes empty, appends to the log while it holds that
//! lock, and needs the list of watched operations. So members of many groups commit while the followers are paused, one
//! commit is so large that its completion takes tens of ms, and after the followers resume, one group after the other
//! becomes empty.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::cli_tools;
use crate::client::{Connection, Member};
use crate::cluster::Cluster;
use crate::sleep_between_polls;

/// The topic whose offsets are committed; [`make`] creates it if it does not exist.
pub const TOPIC: &str = "t32";

const GROUPS: usize = 50;
const LARGE_COMMIT: i32 = 9_000;
/// The time between two members that leave.
const LEAVE_GAP: Duration = Duration::from_millis(3);
/// The time between two sessions that end. The large commit completes 0.1 to 0.2 s after the followers resume, later on a
/// busy machine, and that takes tens of ms: sessions must end over half a second, several within any tens of ms.
const EXPIRE_GAP: Duration = Duration::from_millis(10);
const SESSION: Duration = Duration::from_secs(2);
const ANSWER_TIME: Duration = Duration::from_secs(10);
const GIVE_UP: Duration = Duration::from_secs(60);

/// The thread by which a group becomes empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    /// A request handler, as a member leaves
    Leave,
    /// `executor-Heartbeat`, as a member's session expires
    Expire,
}

/// A deadlocked broker. Dropping it closes the connections whose requests it does not answer.
pub struct Deadlock {
    /// The deadlocked broker: the coordinator of the groups.
    pub broker: i32,
    /// The time of the last follower's SIGCONT; the deadlock forms 0.1 to 0.2 s later.
    pub followers_continued: Instant,
    /// The time at which `jstack` confirmed the deadlock.
    pub confirmed: Instant,
    /// The number of rounds until it formed.
    pub rounds: u32,
    /// The report of `jstack`.
    pub report: String,
    _unanswered: Vec<Connection>,
}

/// Makes the deadlock. Rounds repeat until `jstack` reports it; an error after 60 s.
pub fn make(cluster: &Cluster, form: Form) -> Result<Deadlock> {
    if !cluster
        .metadata(first_broker(cluster)?)?
        .partitions
        .iter()
        .any(|partition| partition.topic == TOPIC)
    {
        cluster.create_topic(TOPIC, 32, cluster.brokers().count().min(3))?;
    }
    let coordinator = coordinator(cluster, "mm")?;
    // Commits wait only for followers that are in sync.
    cluster.wait_fully_replicated(Duration::from_secs(30))?;
    let deadline = Instant::now() + GIVE_UP;
    let mut rounds = 0;
    while Instant::now() < deadline {
        sleep_between_polls()?;
        let names = group_names(rounds, cluster.offsets_partitions());
        rounds += 1;
        let Some((followers_continued, mut waiting)) = cluster
            .cell()
            .in_network(|| round(cluster, coordinator, form, &names))??
        else {
            continue;
        };
        // A commit without an answer 2 s after the followers resumed is suspect; a slow one gets 8 s more.
        let patience = [2, 10].map(|seconds| followers_continued + Duration::from_secs(seconds));
        for until in patience {
            waiting = unanswered(waiting, until)?;
            if waiting.is_empty() {
                break;
            }
            let dump = cluster.jstack(coordinator)?;
            if let Some(report) = cli_tools::reported_deadlock(&dump) {
                return Ok(Deadlock {
                    broker: coordinator,
                    followers_continued,
                    confirmed: Instant::now(),
                    rounds,
                    report: report.into(),
                    _unanswered: waiting,
                });
            }
        }
        ensure!(
            waiting.is_empty(),
            "broker {coordinator} does not answer commits, but jstack reports no deadlock"
        );
    }
    bail!(
        "no deadlock in {rounds} rounds ({GIVE_UP:?}); does Kafka {} have the bug?",
        cluster.version().name
    )
}

fn first_broker(cluster: &Cluster) -> Result<i32> {
    Ok(cluster
        .brokers()
        .next()
        .context("a cluster without brokers")?
        .id())
}

/// Waits until a group's coordinator accepts members and returns its id.
pub fn coordinator(cluster: &Cluster, group: &str) -> Result<i32> {
    let bootstrap = cluster.broker(first_broker(cluster)?)?.address();
    let deadline = Instant::now() + Duration::from_secs(30);
    let find = || -> Result<i32> {
        let id = Connection::open_at(bootstrap, ANSWER_TIME)?.coordinator(group)?;
        let mut connection = Connection::open_at(cluster.broker(id)?.address(), ANSWER_TIME)?;
        let member = join(
            std::slice::from_mut(&mut connection),
            &[group.into()],
            Duration::from_secs(30),
        )?
        .remove(0);
        connection.send_leave(&member)?;
        connection.receive(Instant::now() + ANSWER_TIME)?;
        Ok(id)
    };
    loop {
        match cluster.cell().in_network(find)? {
            Err(error) if Instant::now() > deadline => {
                return Err(error.context(format!("coordinator of {group}")));
            }
            Err(_) => sleep_between_polls()?,
            Ok(id) => return Ok(id),
        }
    }
}

/// Makes each connection the only member of its group.
fn join(
    connections: &mut [Connection],
    groups: &[String],
    session: Duration,
) -> io::Result<Vec<Member>> {
    for (connection, group) in connections.iter_mut().zip(groups) {
        connection.send_join(0, group, TOPIC, session)?;
    }
    let joined = connections
        .iter_mut()
        .zip(groups)
        .map(|(connection, group)| connection.receive_join(0, group));
    let members = joined.collect::<io::Result<Vec<_>>>()?;
    for (connection, member) in connections.iter_mut().zip(&members) {
        connection.send_sync(member, TOPIC)?;
    }
    for (connection, member) in connections.iter_mut().zip(&members) {
        connection.receive_sync(member)?;
    }
    Ok(members)
}

/// Returns names of groups in the same partition of `__consumer_offsets` as `mm`: all have the same coordinator and
/// followers.
fn group_names(round: u32, offsets_partitions: u32) -> Vec<String> {
    let wanted = offsets_partition("mm", offsets_partitions);
    let names = (0u32..).map(|number| format!("r{round}-{number}"));
    names
        .filter(|name| offsets_partition(name, offsets_partitions) == wanted)
        .take(GROUPS + 1)
        .collect()
}

/// Computes a group's partition as the broker does: the absolute value of Java's `String.hashCode`, modulo `partitions`.
pub fn offsets_partition(group: &str, partitions: u32) -> u32 {
    let hash = group.bytes().fold(0i32, |hash, byte| {
        hash.wrapping_mul(31).wrapping_add(i32::from(byte))
    });
    hash.checked_abs().unwrap_or(0) as u32 % partitions
}

/// Makes one attempt. Returns the time of the last follower's SIGCONT and all connections that wait for an answer; nothing
/// if the machine was so busy that a session ended before all members had joined.
fn round(
    cluster: &Cluster,
    coordinator: i32,
    form: Form,
    names: &[String],
) -> Result<Option<(Instant, Vec<Connection>)>> {
    let address = cluster.broker(coordinator)?.address();
    let open = || Connection::open_at(address, ANSWER_TIME);
    let (first, groups) = names.split_first().context("no group names")?;
    let session = if form == Form::Expire {
        SESSION
    } else {
        Duration::from_secs(30)
    };
    let (mut first_commit, mut large_commit) = (open()?, open()?);
    // All join at once, because the sessions of the first already run.
    let mut joining = groups
        .iter()
        .map(|_| open())
        .collect::<io::Result<Vec<_>>>()?;
    let mut leaving = groups
        .iter()
        .map(|_| open())
        .collect::<io::Result<Vec<_>>>()?;
    let members = match join(&mut joining, groups, session) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        members => members?,
    };
    let mut committing: Vec<_> = joining.into_iter().zip(members).collect();
    let followers = Paused::new(cluster, coordinator)?;
    thread::sleep(Duration::from_millis(50));
    first_commit.send_commit(&Member::simple(first), TOPIC, 1)?;
    thread::sleep(Duration::from_millis(150));
    large_commit.send_commit(&Member::simple("mm"), TOPIC, LARGE_COMMIT)?;
    thread::sleep(Duration::from_millis(600));
    let commits = Instant::now();
    for (connection, member) in &mut committing {
        connection.send_commit(member, TOPIC, 1)?;
        if form == Form::Expire {
            thread::sleep(EXPIRE_GAP);
        }
    }
    match form {
        Form::Leave => thread::sleep(Duration::from_millis(300)),
        // A commit counts as a heartbeat, so the first session ends 2 s after the first commit: 30 ms after this sleep.
        Form::Expire => {
            let sessions_end = commits + SESSION - Duration::from_millis(30);
            thread::sleep(sessions_end.saturating_duration_since(Instant::now()));
        }
    }
    let continued = followers.resume()?;
    let (mut waiting, members): (Vec<_>, Vec<_>) = committing.into_iter().unzip();
    if form == Form::Leave {
        for (connection, member) in leaving.iter_mut().zip(&members) {
            connection.send_leave(member)?;
            thread::sleep(LEAVE_GAP);
        }
        waiting.append(&mut leaving);
    }
    waiting.extend([first_commit, large_commit]);
    Ok(Some((continued, waiting)))
}

/// Returns the connections without an answer at `until`.
fn unanswered(waiting: Vec<Connection>, until: Instant) -> Result<Vec<Connection>> {
    let mut left = Vec::new();
    for mut connection in waiting {
        match connection.receive(until) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::TimedOut => left.push(connection),
            Err(error) => return Err(error).context("the coordinator closed a connection"),
        }
    }
    Ok(left)
}

/// The other brokers, stopped by SIGSTOP; dropping it resumes them.
struct Paused<'a> {
    cluster: &'a Cluster,
    followers: Vec<i32>,
}

impl<'a> Paused<'a> {
    fn new(cluster: &'a Cluster, coordinator: i32) -> Result<Paused<'a>> {
        let followers: Vec<_> = cluster
            .brokers()
            .map(|node| node.id())
            .filter(|id| *id != coordinator)
            .collect();
        let paused = Paused { cluster, followers };
        for id in &paused.followers {
            cluster.pause(*id)?;
        }
        Ok(paused)
    }

    fn resume(mut self) -> Result<Instant> {
        for id in std::mem::take(&mut self.followers) {
            self.cluster.resume(id)?;
        }
        Ok(Instant::now())
    }
}

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        for id in &self.followers {
            let _ = self.cluster.resume(*id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_fall_on_the_partitions_that_java_computes() {
        // Expected by String.hashCode and Utils.abs of the broker's jar: hashes 3488, 1109249087, -1793216381 and
        // Integer.MIN_VALUE.
        for (group, partition) in [
            ("mm", 38),
            ("console-consumer-42", 37),
            ("test-consumer-group", 31),
            ("polygenelubricants", 0),
        ] {
            assert_eq!(offsets_partition(group, 50), partition, "{group}");
        }
        assert!(
            group_names(3, 50)
                .iter()
                .all(|name| offsets_partition(name, 50) == 38)
        );
    }
}
