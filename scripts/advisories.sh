#!/bin/sh
# Checks Cargo.lock against RustSec's advisories. With ADVISORY_DB=FOLDER that folder is the database, an unpacked copy
# of https://github.com/RustSec/advisory-db, and nothing is got by git: for machines that reach only a crates registry.
set -eu
cd "$(dirname "$0")/.."
. scripts/common.sh

if [ -z "${ADVISORY_DB:-}" ]; then
    exec cargo deny --locked check advisories
fi
[ -d "$ADVISORY_DB/crates" ] || die "ADVISORY_DB=$ADVISORY_DB has no folder crates: unpack RustSec's advisory-db there"
database=$(cd "$ADVISORY_DB" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# cargo-deny names the folder by the hash of the address, and takes the age of the database from FETCH_HEAD.
mkdir -p "$work/advisory-db-3157b0e258782691/.git"
ln -s "$database/crates" "$work/advisory-db-3157b0e258782691/crates"
touch -r "$database/crates" "$work/advisory-db-3157b0e258782691/.git/FETCH_HEAD"
sed "s|^\[advisories\]\$|&\ndb-path = \"$work\"|" deny.toml >"$work/deny.toml"
# --offline keeps it from git; it also leaves out whether a version was yanked.
cargo fetch --locked --quiet
cargo deny --locked --offline --config "$work/deny.toml" check advisories
