#!/usr/bin/env bash
# Makes dist/ of this commit in two fresh clones, in folders of different depth, and compares the checksums.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/common.sh

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for clone in "$work/a" "$work/another/folder/b"; do
    git clone --quiet . "$clone"
    say "dist in $clone"
    env -u CARGO_TARGET_DIR "$clone/scripts/dist.sh"
    # Nothing of the first build may serve the second.
    rm -rf "$clone/target"
done
diff "$work/a/dist/SHA256SUMS" "$work/another/folder/b/dist/SHA256SUMS" || die "the two builds differ"
say "both builds have the same bytes"
