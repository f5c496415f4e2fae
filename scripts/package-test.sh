#!/usr/bin/env bash
# Installs the packages of dist/ for this processor as a user would: in a Debian 12 with a booted systemd, beside a real
# broker, then upgrades and purges; the .rpm in a folder. Root; a minute, and two more for the first Debian.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/common.sh

[[ $(id -u) == 0 ]] || die "booting a Debian in a container needs root"
arch=$(architecture)
deb=$(ls dist/*_"$arch".deb 2>/dev/null) || die "no .deb for $arch in dist/: make dist"
rpm=$(ls dist/*."$(uname -m)".rpm)
jars=$(broker_jars)
jdk=$(dirname "$(dirname "$(readlink -f "$(command -v java)")")")

work=$(mktemp -d)
nspawn=
cleanup() {
    if [[ -n $nspawn ]]; then
        kill -KILL "$nspawn" 2>/dev/null || true
        wait "$nspawn" 2>/dev/null || true
    fi
    rm -rf "$work"
}
trap cleanup EXIT

say "lintian"
lintian --fail-on error,warning dist/*.deb

base=$cache/debian-12
if [[ ! -e $base/complete ]]; then
    say "getting a Debian 12 into $base"
    rm -rf "$base"
    mirror=$(debian_mirror)
    quietly debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,iproute2 bookworm "$base" "$mirror"
    touch "$base/complete"
fi
root=$work/root
cp -a "$base" "$root"
rm "$root/complete"

# The broker: a service as people have it, of a user of its own and with a /tmp of its own.
chroot "$root" useradd --system --home-dir /var/lib/kafka --create-home kafka
mkdir -p "$root/opt/kafka" "$root/opt/jdk" "$root/etc/kafka" "$root/$jdk"
server_properties 127.0.0.1 /var/lib/kafka/data >"$root/etc/kafka/server.properties"
cat >"$root/etc/systemd/system/kafka.service" <<UNIT
[Service]
User=kafka
PrivateTmp=yes
ExecStartPre=$jdk/bin/java -cp /opt/kafka/* kafka.tools.StorageTool format --ignore-formatted -t vpuWoNYLTDuEPUXVxMdHpg -c /etc/kafka/server.properties
ExecStart=$jdk/bin/java -Xmx256m -cp /opt/kafka/* kafka.Kafka /etc/kafka/server.properties
UNIT
cp "$deb" "$root/root/old.deb"

# The next version: the same package with another number.
dpkg-deb --raw-extract "$deb" "$work/next"
sed -i 's/^Version: .*/Version: 999.0-1/' "$work/next/DEBIAN/control"
quietly dpkg-deb --root-owner-group --build "$work/next" "$root/root/new.deb"

binds=("--bind-ro=$jdk" "--bind-ro=$jars:/opt/kafka")
for folder in /etc/java-*-openjdk; do binds+=("--bind-ro=$folder"); done
systemd-nspawn --quiet --directory "$root" --register=no --keep-unit --boot --private-network "${binds[@]}" \
    >"$work/console" 2>&1 </dev/null &
nspawn=$!

# Waits until the command succeeds: wait_for SECONDS WHAT COMMAND...
wait_for() {
    local end=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >"$work/said" 2>&1; do
        if ((SECONDS >= end)) || ! kill -0 "$nspawn" 2>/dev/null; then
            cat "$work/console" "$work/said" >&2
            die "$what: not within the time"
        fi
        sleep 0.2
    done
}
booted() {
    read -r init _ <"/proc/$nspawn/task/$nspawn/children"
    [[ -n $init ]] && nsenter --target "$init" --all -- systemctl is-system-running --wait
}
inside() { nsenter --target "$init" --all -- "$@"; }
# The state of the service: active, inactive, enabled ...
is() { [[ $(inside systemctl "is-$1" kafka-vitals 2>/dev/null) == "$2" ]] || die "the service is not $2: $3"; }
main_pid() { inside systemctl show --property=MainPID --value kafka-vitals; }
# What is on the disk besides what each system writes by itself.
files() { inside find / -xdev \( -path /var/lib/dpkg -o -path /var/log -o -path /var/cache -o -path /tmp -o -path /var/tmp -o -path /root -o -path /var/lib/kafka -o -path /var/lib/systemd \) -prune -o -print | LC_ALL=C sort; }

listens() { inside ss -Hltn sport = :9092 | grep -q .; }
# The broker is healthy by check, and nothing of it is unknown.
all_known() {
    inside kafka-vitals check >"$work/check" || return 1
    grep -q '^OK: ' "$work/check" && grep -q '^Broker 1: healthy' "$work/check" && ! grep -i unknown "$work/check"
}

wait_for 60 "Debian has booted" booted
inside systemctl start kafka
wait_for 120 "the broker listens" listens
files >"$work/before"

say "install"
inside dpkg -i /root/old.deb
is enabled disabled "an installation enables nothing"
is active inactive "an installation starts nothing"

say "run"
started=$(date +%s%N)
inside systemctl enable --now kafka-vitals
wait_for 10 "check says that the broker is healthy" inside kafka-vitals check
say "check says so $((($(date +%s%N) - started) / 1000000)) ms after the start was asked for:"
wait_for 60 "everything is known" all_known
cat "$work/check"

say "upgrade"
before=$(main_pid)
inside dpkg -i /root/new.deb
is active active "an upgrade restarts it"
[[ $(main_pid) != "$before" ]] || die "the old program still runs"
wait_for 10 "check says that the broker is healthy" inside kafka-vitals check
inside systemctl stop kafka-vitals
inside dpkg -i /root/new.deb
is active inactive "an upgrade starts nothing"
is enabled enabled "an upgrade keeps what is enabled"

say "as root, by the drop-in of docs/install.md"
inside mkdir -p /etc/systemd/system/kafka-vitals.service.d
# shellcheck disable=SC2016 # no expansion is meant
sed -n '/^## Brokers of several users/,/^## Upgrade/p' docs/install.md | sed -n '/^```ini/,/^```/p' | sed '/^```/d; s/kafka,confluent/kafka/' \
    >"$root/etc/systemd/system/kafka-vitals.service.d/override.conf"
inside systemctl daemon-reload
inside systemctl start kafka-vitals
wait_for 60 "as root everything is known" all_known
[[ $(inside stat -c %u "/proc/$(main_pid)") == 0 ]] || die "it does not run as root"

say "remove and purge"
inside dpkg -r kafka-vitals
! inside sh -c 'grep -qsx kafka-vitals /proc/[0-9]*/comm' || die "it still runs"
[[ -e $root/var/lib/kafka-vitals ]] || die "a removal takes the evidence"
inside dpkg -P kafka-vitals
files >"$work/after"
diff "$work/before" "$work/after" || die "purge leaves something behind, or takes too much"

say "rpm"
rpm=$(realpath "$rpm")
quietly rpm -K --nosignature "$rpm"
cp -a "$base" "$work/rpm-root"
rpm --root "$work/rpm-root" --install --nodeps "$rpm"
rpm --root "$work/rpm-root" --verify --nodeps kafka-vitals
chroot "$work/rpm-root" kafka-vitals --version
rpm --root "$work/rpm-root" --erase kafka-vitals
[[ ! -e $work/rpm-root/usr/bin/kafka-vitals ]] || die "rpm leaves the program"
say "the packages install, run, upgrade and go"
