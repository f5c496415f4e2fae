#!/bin/sh
# page-pictures.sh FOLDER NAME=FILE...: draws saved pages of the exporter in a real Chromium, light, dark and on a phone,
# and checks them with axe. Ends with 1 if axe finds something serious, if a screen would scroll sideways, or if a page
# requests anything. Pictures: FOLDER/NAME-light.png, -dark, -phone, -phone-dark.
set -eu
cd "$(dirname "$0")/.."
. scripts/common.sh

tools=$cache/page-pictures
mkdir -p "$tools"
have npm || die "npm is missing: apt-get install nodejs npm"
[ -d "$tools/node_modules/axe-core" ] ||
    npm install --silent --ignore-scripts --no-audit --prefix "$tools" playwright-core@1.65.1 axe-core@4.14.1

# Debian's Chromium is unpacked beside its libraries and not installed.
if have chromium; then
    browser=$(command -v chromium)
else
    root=$tools/chromium
    browser=$root/usr/lib/chromium/chromium
    if [ ! -x "$browser" ]; then
        have apt-get || die "no chromium on the PATH: install it"
        say "getting Debian's chromium into $root"
        debs=$(mktemp -d)
        trap 'rm -rf "$debs"' EXIT
        names=$(apt-get install -y --print-uris --no-install-recommends chromium |
            sed -n "s/^'[^']*' \([^_]*\)_.*/\1/p" | sort -u)
        [ -n "$names" ] || die "apt-get knows no chromium: apt-get update"
        # shellcheck disable=SC2086 # a list of names
        (cd "$debs" && apt-get download -q -q $names && for deb in *.deb; do dpkg -x "$deb" "$root"; done)
    fi
    # Lets Chromium find the unpacked libraries.
    LD_LIBRARY_PATH=$(find "$root/usr/lib" -maxdepth 2 -type d | paste -s -d :)
    export LD_LIBRARY_PATH
fi
[ $# -ge 2 ] || die "usage: page-pictures.sh FOLDER NAME=FILE..."
mkdir -p "$1"
NODE_PATH=$tools/node_modules BROWSER=$browser node scripts/page-pictures.cjs "$@"
