#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::os::unix::fs::symlink;

use super::*;

/// As kubelet 1.34 and containerd write it in a pod of a StatefulSet.
const HOSTS: &str = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n\
    10.88.0.7\tkafka-0.kafka.orders.svc.cluster.local\tkafka-0\n";
const HOST_NETWORK_HOSTS: &str =
    "# Kubernetes-managed hosts file (host network).\n127.0.0.1 localhost\n10.0.0.4 node-4\n";
const RESOLVER: &str =
    "search orders.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\n";

/// Files of a container, by path.
type Texts<'a> = &'a [(&'a str, &'a str)];
/// The name and the namespace of a pod.
type Named<'a> = Option<(&'a str, &'a str)>;

/// What a /proc with one process, whose root has these files, says of its pod: its name and its namespace.
fn found(environment: &str, files: Texts<'_>) -> Option<(String, String)> {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path();
    fs::create_dir_all(base.join("77/tree")).unwrap();
    fs::write(base.join("77/environ"), environment).unwrap();
    let ids = "Uid:\t1000\t1000\t1000\t1000\nGid:\t1000\t1000\t1000\t1000\n";
    fs::write(base.join("77/status"), ids).unwrap();
    symlink("tree", base.join("77/root")).unwrap();
    for (path, text) in files {
        let path = base.join("77/tree").join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let proc = ProcRoot::with_kernel(base, (6, 1));
    let files = Files::open(&proc, 77, None).unwrap();
    let pod = pod_of(&proc, 77, &files)?;
    Some((
        pod.name.unwrap_or_default(),
        pod.namespace.unwrap_or_default(),
    ))
}

#[test]
fn a_pod_is_named_by_its_environment_or_by_the_files_of_the_kubelet() {
    let hosts = ("/etc/hosts", HOSTS);
    let host_name = ("/etc/hostname", "kafka-0\n");
    let shared = ("/etc/hosts", HOST_NETWORK_HOSTS);
    let node = ("/etc/hostname", "node-4\n");
    let resolver = ("/etc/resolv.conf", RESOLVER);
    let account = (NAMESPACE_FILE, "orders");
    let named = "A=b\0POD_NAME=kafka-3\0POD_NAMESPACE=billing\0";
    let table: [(&str, Texts<'_>, Named<'_>); 10] = [
        // Outside of Kubernetes, whatever the environment says.
        (named, &[], None),
        (
            named,
            &[("/etc/hosts", "127.0.0.1 localhost\n"), host_name],
            None,
        ),
        (
            "",
            &[hosts, host_name, account],
            Some(("kafka-0", "orders")),
        ),
        (
            "",
            &[hosts, host_name, resolver],
            Some(("kafka-0", "orders")),
        ),
        (
            named,
            &[hosts, host_name, resolver, account],
            Some(("kafka-3", "billing")),
        ),
        // In the host's network the name is the node's, and the resolver may be as well.
        ("", &[shared, node, account], Some(("", "orders"))),
        (named, &[shared, node], Some(("kafka-3", "billing"))),
        (
            "",
            &[
                shared,
                node,
                ("/etc/resolv.conf", "search corp.example.com\n"),
            ],
            Some(("", "")),
        ),
        // What no pod can be called.
        (
            "POD_NAME=a\"} 1\nx\0POD_NAMESPACE=Orders\0",
            &[hosts],
            Some(("", "")),
        ),
        (
            "",
            &[hosts, ("/etc/hostname", &"a".repeat(254))],
            Some(("", "")),
        ),
    ];
    for (environment, files, expected) in table {
        let expected = expected.map(|(pod, namespace)| (pod.to_owned(), namespace.to_owned()));
        assert_eq!(
            found(environment, files),
            expected,
            "{environment:?}, {files:?}"
        );
    }
}
