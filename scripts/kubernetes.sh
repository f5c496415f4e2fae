#!/usr/bin/env bash
# Runs the pod of the DaemonSet, as docs/kubernetes.md makes it, on a real node: kubelet and containerd, beside a real broker
# in a pod of another namespace, and has a real Prometheus scrape it. There is no API server: kubelet takes the pods from
# files. Root, and cgroups of version 1; a minute, and ten more to build kubelet once.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/common.sh

[[ $(id -u) == 0 ]] || die "a node needs root"
node=kafka-vitals-node
if [[ -z ${KAFKA_VITALS_INSIDE:-} ]]; then
    # Whatever happens, all processes end with the first one of their namespace.
    status=0
    KAFKA_VITALS_INSIDE=yes unshare --net --mount --pid --fork --kill-child --mount-proc "$0" || status=$?
    find /sys/fs/cgroup/*/$node -depth -type d -exec rmdir {} + 2>/dev/null || true
    exit "$status"
fi

image=$(realpath dist/*-image.oci.tar) || die "no image in dist/: make dist"
jars=$(broker_jars)
java=$(readlink -f "$(command -v java)")
# The broker's container has the folder /usr of this machine, and the settings to which the JDK there has links.
[[ $java == /usr/* ]] || die "java is not below /usr"
settings=$(echo /etc/java-*-openjdk)

work=$(mktemp -d)
cleanup() {
    # What is mounted here goes with the namespace.
    { umount --recursive --lazy "$work"/*; rm -rf --one-file-system "$work"; } 2>/dev/null || true
}
trap cleanup EXIT

# wait_for SECONDS WHAT COMMAND...: waits until the command succeeds.
wait_for() {
    local end=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >"$work/said" 2>&1; do
        if ((SECONDS >= end)); then
            cat "$work/said" >&2
            tail -n 5 "$work"/*.log >&2
            die "$what: not within the time"
        fi
        sleep 0.2
    done
}
# start NAME COMMAND...: runs it to the end, with a log.
start() {
    local name=$1
    shift
    "$@" >"$work/$name.log" 2>&1 &
}

# A node wants a default route, cgroups, and settings of the kernel that are not this machine's to change.
ip link set lo up
ip link add eth0 type veth peer name outside
ip address add 10.77.0.1/24 dev eth0
ip link set eth0 up
ip link set outside up
ip route add default via 10.77.0.254
while read -r name value; do
    mkdir -p "$work/sys/$(dirname "$name")"
    echo "$value" >"$work/sys/$name"
    mount --bind "$work/sys/$name" "/proc/sys/$name"
done <<'SETTINGS'
vm/overcommit_memory 1
vm/panic_on_oom 0
kernel/panic 10
kernel/panic_on_oops 1
kernel/keys/root_maxkeys 1000000
kernel/keys/root_maxbytes 25000000
SETTINGS
for hierarchy in /sys/fs/cgroup/*; do
    [[ -e $hierarchy/tasks ]] || continue
    mkdir -p "$hierarchy/$node"
    for file in cpuset.cpus cpuset.mems; do
        [[ ! -e $hierarchy/$file ]] || cat "$hierarchy/$file" >"$hierarchy/$node/$file"
    done
done

say "node"
cat >"$work/containerd.toml" <<TOML
version = 2
root = "$work/containerd"
state = "$work/run"
[grpc]
address = "$work/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
# This machine may lack CAP_SYS_RESOURCE.
restrict_oom_score_adj = true
disable_apparmor = true
sandbox_image = "localhost/node:1"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "$work/cni"
TOML
mkdir "$work/cni"
cat >"$work/cni/pods.conflist" <<JSON
{"cniVersion": "0.4.0", "name": "pods", "plugins": [{"type": "bridge", "bridge": "cni0", "isGateway": true,
 "ipam": {"type": "host-local", "dataDir": "$work/addresses", "ranges": [[{"subnet": "10.88.0.0/24"}]]}}]}
JSON
start containerd containerd --config "$work/containerd.toml"
containerd() { ctr --address "$work/containerd.sock" --namespace k8s.io "$@"; }
wait_for 30 "containerd answers" containerd version

# One image for the sandboxes, which wait, and for the broker.
mkdir -p "$work/node/etc" "$work/node/usr" "$work/node/opt/kafka" "$work/node/tmp"
printf 'int pause(void);\nint main(void) { for (;;) pause(); }\n' >"$work/pause.c"
musl-gcc -static -o "$work/node/pause" "$work/pause.c"
ln -s usr/bin usr/lib usr/lib64 "$work/node"
chmod 1777 "$work/node/tmp"
echo 'kafka:x:1000:1000::/tmp:/bin/sh' >"$work/node/etc/passwd"
printf 'FROM scratch\nCOPY . /\nENTRYPOINT ["/pause"]\n' >"$work/Containerfile"
export BUILDAH_ISOLATION=chroot
buildah=(buildah --root "$work/storage" --runroot "$work/storage-run" --storage-driver vfs)
quietly "${buildah[@]}" bud --format oci --tag localhost/node:1 --file "$work/Containerfile" "$work/node"
quietly "${buildah[@]}" push localhost/node:1 "oci-archive:$work/node.tar:localhost/node:1"
quietly containerd images import "$work/node.tar"
# The name in the archive is short: containerd would look for it at a registry of its choice.
quietly skopeo copy --all "oci-archive:$image" "oci-archive:$work/image.tar:localhost/kafka-vitals:$(version)"
quietly containerd images import "$work/image.tar"

say "pods"
mkdir "$work/pods" "$work/own"
ln -s "$PWD" "$work/sources"
sed -n '/^# kustomization.yaml; PATH/,/^```/p' docs/kubernetes.md |
    sed '/^```/d; s#PATH#../sources#; s#YOUR-REGISTRY#localhost#' >"$work/own/kustomization.yaml"
kustomize build "$work/own" >"$work/objects.yaml"
# What the controller makes of a DaemonSet: a pod of its template.
{
    printf 'apiVersion: v1\nkind: Pod\n'
    sed -n '/^kind: DaemonSet/,/^---/p' "$work/objects.yaml" | sed -n '/^  template:/,/^  [a-z]*[^te]:/{s/^    //p}' |
        sed 's/^metadata:/&\n  name: kafka-vitals\n  namespace: kafka-vitals/'
} >"$work/pods/exporter.yaml"
cat >"$work/pods/broker.yaml" <<YAML
apiVersion: v1
kind: Pod
metadata: {name: kafka-0, namespace: orders}
spec:
  securityContext: {runAsUser: 1000, runAsGroup: 1000, fsGroup: 1000}
  containers:
    - name: kafka
      image: localhost/node:1
      env: [{name: ADDRESS, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]
      command: [/bin/sh, -ec]
      args:
        - |
          cat >/data/server.properties <<PROPERTIES
$(server_properties "\$ADDRESS" /data/log | sed 's/^/          /')
          PROPERTIES
          cat >/data/log4j.properties <<PROPERTIES
$(log4j_properties /data/server.log | sed 's/^/          /')
          PROPERTIES
          run() { $java -Xmx256m -cp '/opt/kafka/*' -Dlog4j.configuration=file:/data/log4j.properties "\$@"; }
          run kafka.tools.StorageTool format -t vpuWoNYLTDuEPUXVxMdHpg -c /data/server.properties
          run kafka.Kafka /data/server.properties
      volumeMounts:
        - {name: data, mountPath: /data}
        - {name: usr, mountPath: /usr, readOnly: true}
        - {name: jars, mountPath: /opt/kafka, readOnly: true}
        - {name: settings, mountPath: $settings, readOnly: true}
  volumes:
    - {name: data, emptyDir: {}}
    - {name: usr, hostPath: {path: /usr}}
    - {name: jars, hostPath: {path: $jars}}
    - {name: settings, hostPath: {path: $settings}}
YAML
cat >"$work/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
address: 127.0.0.1
staticPodPath: $work/pods
failCgroupV1: false
failSwapOn: false
cgroupDriver: cgroupfs
cgroupRoot: /$node
enforceNodeAllocatable: []
containerRuntimeEndpoint: unix://$work/containerd.sock
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
evictionHard: {memory.available: 1Mi, nodefs.available: 1%, imagefs.available: 1%, nodefs.inodesFree: 1%}
YAML
start kubelet "$cache/kubernetes/kubelet" --config="$work/kubelet.yaml" --root-dir="$work/kubelet" \
    --cert-dir="$work/certificates" --hostname-override=node --node-ip=10.77.0.1

# The exporter's pod, by kubelet.
exporter() {
    curl --silent --fail --insecure --max-time 3 https://127.0.0.1:10250/pods |
        jq --exit-status --raw-output ".items[] | select(.metadata.namespace == \"kafka-vitals\") | $1"
}
is_ready() { exporter '.status.conditions[] | select(.type == "Ready") | .status == "True"'; }
wait_for 120 "the pod of the DaemonSet is ready" is_ready
address=$(exporter .status.podIP)
get() { curl --silent --fail --max-time 3 "http://$address:10052$1"; }
all_known() {
    get /check >"$work/check" && get /metrics >"$work/metrics" && cat "$work/check" || return 1
    says_all_known "$work/check" "$work/metrics"
}
wait_for 120 "everything is known" all_known
cat "$work/check"
grep '^kafka_vitals_broker_info' "$work/metrics"
# kubelet adds the node to the name of a pod from a file.
grep -q 'pod="kafka-0-node",namespace="orders"' "$work/metrics" || die "the broker's pod is not named"

say "Prometheus"
cat >"$work/prometheus.yml" <<YAML
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: ["$PWD/alerts/kafka-vitals.rules.yml"]
scrape_configs: [{job_name: kafka-vitals, static_configs: [{targets: ["$address:10052"]}]}]
YAML
start prometheus prometheus --config.file="$work/prometheus.yml" --storage.tsdb.path="$work/tsdb" --web.listen-address=127.0.0.1:9090
is_1() {
    curl --silent --fail --max-time 3 --get http://127.0.0.1:9090/api/v1/query --data-urlencode "query=$1" |
        jq --exit-status '.data.result | length == 1 and .[0].value[1] == "1"'
}
wait_for 60 "Prometheus scrapes it" is_1 'up{job="kafka-vitals"}'
wait_for 60 "Prometheus knows that the broker is healthy" is_1 'kafka_vitals_broker_state{state="healthy"}'
say "the DaemonSet's pod is ready, sees all of a broker in another pod, and is scraped"
