//! What an entry of the config file names: a pid file, a broker.

use std::path::Path;

use super::properties;
use crate::model::{Broker, Failure, Reason};
use crate::sys::plain::FileError;
use crate::sys::rooted::Rooted;

/// Reads the process id from a pid file that the config file names.
///
/// # Errors
/// If the file cannot be read or holds no process id.
pub fn read_pid_file(path: &Path) -> Result<u32, Failure> {
    let fail = |reason, cause: String| {
        Failure::new(reason, format!("pid file {}: {cause}", path.display()))
    };
    // `Rooted` also refuses a FIFO and a huge file.
    let file = Rooted::open(Path::new("/")).and_then(|root| root.read(path, properties::FILE_CAP));
    let file = file.map_err(|error| match error {
        FileError::Missing { .. } => fail(
            Reason::Gone,
            "does not exist; is the broker down?".to_owned(),
        ),
        other => fail(Reason::Io, other.to_string()),
    })?;
    let text = String::from_utf8_lossy(&file.bytes);
    text.trim()
        .parse()
        .map_err(|_| fail(Reason::Protocol, "holds no process id".to_owned()))
}

/// Whether a broker is the one that the config file names: everything that is given must match.
pub fn matches(broker: &Broker, id: Option<i32>, port: Option<u16>, pid: Option<u32>) -> bool {
    (id.is_some() || port.is_some() || pid.is_some())
        && id.is_none_or(|id| broker.id == Some(id))
        && port.is_none_or(|port| {
            broker
                .listeners
                .iter()
                .any(|listener| listener.port == port)
        })
        && pid.is_none_or(|pid| broker.process.pid == pid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Listener, ProcessKey};

    #[test]
    fn everything_that_the_config_file_gives_must_match() {
        let one = Broker {
            id: Some(1),
            listeners: vec![Listener {
                name: "P".into(),
                protocol: None,
                host: None,
                port: 9092,
                controller: false,
                advertised: None,
            }],
            ..Broker::unknown(ProcessKey {
                pid: 10,
                start_ticks: 1,
            })
        };
        let table = [
            ((Some(1), None, None), true),
            ((None, Some(9092), None), true),
            ((None, None, Some(10)), true),
            ((Some(1), Some(9092), Some(10)), true),
            ((Some(2), Some(9092), None), false),
            ((None, Some(9093), None), false),
            ((None, None, None), false),
        ];
        for ((id, port, pid), expected) in table {
            assert_eq!(
                matches(&one, id, port, pid),
                expected,
                "{id:?} {port:?} {pid:?}"
            );
        }
    }
}
