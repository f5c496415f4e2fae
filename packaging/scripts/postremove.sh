#!/bin/sh
# After the files are gone. dpkg: `remove`, `purge`, `upgrade` ...; rpm: the number of versions that are left.
set -e

case ${1:-} in
purge)
    # The evidence, and the settings of `systemctl edit`.
    rm -rf /var/lib/kafka-vitals /etc/systemd/system/kafka-vitals.service.d
    ;;
remove | 0) ;;
*) exit 0 ;;
esac

[ ! -d /run/systemd/system ] || systemctl daemon-reload
