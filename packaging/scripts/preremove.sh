#!/bin/sh
# Before the files go. dpkg: `remove`, or `upgrade NEW-VERSION`; rpm: the number of versions that are left.
set -e

case ${1:-} in
remove | 0) ;;
*) exit 0 ;;
esac

now=
[ ! -d /run/systemd/system ] || now=--now
# shellcheck disable=SC2086 # none or one
! command -v systemctl >/dev/null || systemctl --no-reload disable $now kafka-vitals.service
