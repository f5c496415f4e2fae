#!/bin/sh
# Checks what is installed and not compiled: scripts by shellcheck, the unit by systemd.
set -eu
cd "$(dirname "$0")/.."
. scripts/common.sh

scripts=$(find . \( -name target -o -name dist -o -name .git \) -prune -o -name '*.sh' -print)
# shellcheck disable=SC2086 # names without blanks
shellcheck --external-sources $scripts .ci/run

unit=kafka-vitals.service
# Ten times the exposure, of 100: what is left are the rights to see the brokers and to use the network.
quietly systemd-analyze security --no-pager --offline=true --threshold=16 "packaging/$unit" ||
    die "packaging/$unit is more exposed than 1.6 (systemd-analyze security)"

# verify wants the program and the targets that the unit names.
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root/usr/bin" "$root/usr/lib/systemd/system" "$root/bin"
printf '#!/bin/sh\n' | tee "$root/usr/bin/kafka-vitals" >"$root/bin/kill"
chmod +x "$root/usr/bin/kafka-vitals" "$root/bin/kill"
cp /lib/systemd/system/*.target "packaging/$unit" "$root/usr/lib/systemd/system"
# Without --recursive-errors it only warns of a misspelt key.
systemd-analyze verify --man=no --recursive-errors=one --root="$root" "$unit"
