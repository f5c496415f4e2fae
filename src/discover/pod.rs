//! The pod of Kubernetes in which a broker runs. Its cgroup has no more than the pod's uid, which is in no other metric, so
//! the names come from the environment and from the files that the kubelet and the runtime put into each container.

use std::path::Path;

use super::files::Files;
use crate::model::Pod;
use crate::sys::proc::ProcRoot;

const SMALL_FILE_CAP: usize = 64 << 10;
/// The first line of `/etc/hosts` in the containers of a pod. The file of a pod in the host's network goes on with
/// ` (host network).`
const MANAGED: &str = "# Kubernetes-managed hosts file";
const HOST_NETWORK: &str = "# Kubernetes-managed hosts file (host network)";
const NAMESPACE_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";
/// The longest name of a pod, and of a namespace.
const LONGEST: usize = 253;

/// None if the process runs in no pod. The broker's user may have written all of it: a name that no pod can have is left out.
pub(super) fn pod_of(proc: &ProcRoot, pid: u32, files: &Files) -> Option<Pod> {
    named(
        |name| proc.environment_variable(pid, name).ok().flatten(),
        |path| {
            let file = files.root.read(Path::new(path), SMALL_FILE_CAP).ok()?;
            Some(String::from_utf8_lossy(&file.bytes).into_owned())
        },
    )
}

fn named(
    variable: impl Fn(&str) -> Option<String>,
    file: impl Fn(&str) -> Option<String>,
) -> Option<Pod> {
    let hosts = file("/etc/hosts").filter(|hosts| hosts.starts_with(MANAGED))?;
    // In the host's network it is the name of the node.
    let host_name = || {
        let shared = hosts.starts_with(HOST_NETWORK);
        file("/etc/hostname").filter(|_| !shared)
    };
    let searched = || {
        let resolver = file("/etc/resolv.conf")?;
        resolver
            .lines()
            .find_map(|line| namespace_searched(line.strip_prefix("search ")?))
    };
    Some(Pod {
        name: variable("POD_NAME").or_else(host_name).and_then(valid),
        namespace: variable("POD_NAMESPACE")
            .or_else(|| file(NAMESPACE_FILE))
            .or_else(searched)
            .and_then(valid),
    })
}

/// `kafka` in `kafka.svc.cluster.local svc.cluster.local cluster.local`.
fn namespace_searched(domains: &str) -> Option<String> {
    let (namespace, rest) = domains.split_whitespace().next()?.split_once('.')?;
    rest.starts_with("svc.").then(|| namespace.to_owned())
}

/// Names of pods and namespaces are DNS names in small letters.
fn valid(name: String) -> Option<String> {
    let name = name.trim_end();
    let fits =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
    let is_valid = (1..=LONGEST).contains(&name.len()) && name.bytes().all(fits);
    is_valid.then(|| name.to_owned())
}

#[cfg(test)]
mod tests;
