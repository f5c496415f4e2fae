#!/usr/bin/env bash
# Runs the image of dist/ by podman, with the options of docs/install.md, beside a real broker in a container of another
# user, with a network of its own: everything has to be known. Root; half a minute.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/common.sh

[[ $(id -u) == 0 ]] || die "containers with networks of their own need root"
# All networks are made in one that nobody else has.
[[ -n ${KAFKA_VITALS_INSIDE:-} ]] || KAFKA_VITALS_INSIDE=yes exec unshare --net --mount "$0"

image=$(realpath dist/*-image.oci.tar) || die "no image in dist/: make dist"
base=$cache/debian-12
[[ -e $base/complete ]] || die "no Debian in $base: make package-test"
jars=$(broker_jars)
jdk=$(dirname "$(dirname "$(readlink -f "$(command -v java)")")")

work=$(mktemp -d)
# runc: crun refuses hosts with cgroups of both kinds.
podman=(podman --root "$work/storage" --runroot "$work/run" --tmpdir "$work/tmp" --storage-driver vfs --runtime runc
    --cgroup-manager cgroupfs --events-backend file)
cleanup() {
    "${podman[@]}" rm --force --time 0 --all >"$work/removed" 2>&1 || cat "$work/removed" >&2
    umount "$work/root" 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT

# The broker's network, and the host's, which the exporter has.
ip link set lo up
mkdir -p /run/netns
mount -t tmpfs none /run/netns
ip netns add broker
ip link add host type veth peer name eth0 netns broker
ip address add 10.99.0.1/24 dev host
ip link set host up
ip -n broker link set lo up
ip -n broker address add 10.99.0.2/24 dev eth0
ip -n broker link set eth0 up

mkdir "$work/root" "$work/upper" "$work/layers"
mount -t overlay -o "lowerdir=$base,upperdir=$work/upper,workdir=$work/layers" none "$work/root"
mkdir -p "$work/root/opt/kafka" "$work/root/etc/kafka" "$work/root/data" "$work/root$jdk"
chown 1000:1000 "$work/root/data"
echo 'kafka:x:1000:1000::/data:/bin/sh' >>"$work/root/etc/passwd"
server_properties 10.99.0.2 /data/log >"$work/root/etc/kafka/server.properties"
log4j_properties /data/server.log >"$work/root/etc/kafka/log4j.properties"
cat >"$work/root/start" <<SH
set -e
java() { $jdk/bin/java -cp '/opt/kafka/*' -Dlog4j.configuration=file:/etc/kafka/log4j.properties "\$@"; }
java kafka.tools.StorageTool format -t vpuWoNYLTDuEPUXVxMdHpg -c /etc/kafka/server.properties
java -Xmx256m kafka.Kafka /etc/kafka/server.properties
SH
mounts=("--volume=$jdk:$jdk:ro" "--volume=$jars:/opt/kafka:ro")
for folder in /etc/java-*-openjdk; do mounts+=("--volume=$folder:$folder:ro"); done

# Limits above this machine's own, as podman sets them, need CAP_SYS_RESOURCE.
run() { "${podman[@]}" run --detach --ulimit nofile=4096:4096 --ulimit nproc=4096:4096 "$@" >"$work/said"; }
# Waits until the command succeeds: wait_for SECONDS WHAT COMMAND...
wait_for() {
    local end=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >"$work/said" 2>&1; do
        if ((SECONDS >= end)); then
            cat "$work/said" >&2
            "${podman[@]}" logs vitals >&2 || true
            die "$what: not within the time"
        fi
        sleep 0.2
    done
}
listens() { ip netns exec broker ss -Hltn sport = :9092 | grep -q .; }
all_known() {
    "${podman[@]}" exec vitals /usr/bin/kafka-vitals check >"$work/check" || { cat "$work/check"; return 1; }
    curl --silent --fail http://127.0.0.1:10052/metrics >"$work/metrics" || return 1
    says_all_known "$work/check" "$work/metrics"
}

say "a broker in a container"
run --name broker --network ns:/run/netns/broker --user 1000:1000 "${mounts[@]}" --rootfs "$work/root" /bin/sh /start
wait_for 120 "the broker listens" listens

say "the image"
"${podman[@]}" load --quiet --input "$image"
name=$("${podman[@]}" images --format '{{.Repository}}:{{.Tag}}')
options=$(sed -n '/^podman run /,/discovery.users/p' docs/install.md | tr -d '\\\n' | sed 's#^podman run ##; s#localhost/.*##')
read -ra options <<<"$options"
run --name vitals "${options[@]}" "$name" --discovery.users=1000
wait_for 60 "everything is known" all_known
cat "$work/check"
grep '^kafka_vitals_broker_info' "$work/metrics"
say "the image reads all of a broker in a container"
