#!/bin/sh
# After the files are unpacked. dpkg: `configure [OLD-VERSION]`; rpm: the number of versions that are installed now.
set -e

upgraded=
case ${1:-} in
configure) [ -z "${2:-}" ] || upgraded=yes ;;
1) ;;
[0-9]*) upgraded=yes ;;
*) exit 0 ;;
esac

if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    # What was not running stays so. A service that does not start again is no reason to leave the package half installed.
    [ -z "$upgraded" ] || systemctl try-restart kafka-vitals.service || true
fi

[ -n "$upgraded" ] || cat <<'TEXT'
kafka-vitals is installed and not started. It runs as the brokers' user, which is kafka unless you name another:
    systemctl edit kafka-vitals             # [Service], then User= and Group=
    systemctl enable --now kafka-vitals
    kafka-vitals check
TEXT
