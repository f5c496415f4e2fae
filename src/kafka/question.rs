//! The questions that a client asks a broker, and what the answer to the first one says about the others.

use super::client_error::ClientError;
use super::wire::{self, ApiVersions};

#[derive(Clone, Copy)]
pub(super) struct Question<'a> {
    pub name: &'static str,
    pub frame: &'a (dyn Fn(i32) -> Vec<u8> + Sync),
    /// A longer answer is an error.
    pub cap: usize,
    /// One that is no longer than this leaves the connection as it is.
    pub passed: usize,
    /// It is asked after a pause, in which the broker may have closed the idle connection.
    pub after_pause: bool,
}

pub(super) const API_VERSIONS: Question<'static> = Question {
    name: "ApiVersions",
    frame: &wire::api_versions_request,
    // The longest known answer has less than 1 KiB.
    cap: 1024 * 1024,
    passed: 0,
    after_pause: true,
};
pub(super) const METADATA: Question<'static> = Question {
    name: "Metadata",
    frame: &wire::metadata_request,
    // More than a million partitions of three replicas. What is made of such an answer fits into 64 MB together with it.
    cap: 48 * 1024 * 1024,
    passed: 0,
    after_pause: false,
};
pub(super) const METADATA_WITH_LISTENERS: Question<'static> = Question {
    frame: &wire::metadata_with_listeners_request,
    ..METADATA
};

/// Checks that a broker with this ApiVersions answer can be asked for Metadata, and returns what it offers.
pub(super) fn offered(address: &str, answer: &[u8]) -> Result<ApiVersions, ClientError> {
    let address = address.to_owned();
    let versions = match wire::api_versions(answer) {
        Ok(versions) => versions,
        Err(source) => {
            return Err(ClientError::Wire {
                address,
                request: API_VERSIONS.name,
                source,
            });
        }
    };
    if versions.error != 0 {
        return Err(ClientError::Refusal {
            address,
            code: versions.error,
        });
    }
    match versions.metadata {
        Some((oldest, newest)) if (oldest..=newest).contains(&wire::METADATA_VERSION) => {
            Ok(versions)
        }
        Some((oldest, newest)) => Err(ClientError::Version {
            address,
            offered: format!("{oldest} to {newest}"),
        }),
        None => Err(ClientError::Version {
            address,
            offered: "none: a dedicated controller, or no broker".into(),
        }),
    }
}
