#!/usr/bin/env bash
# Makes dist/ once more, of the same commit in a fresh clone in a folder of another depth, and compares the checksums.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/common.sh

[[ -e dist/SHA256SUMS ]] || die "nothing to compare with: make dist"
built=$(dist/"$(architecture)"/kafka-vitals --version)
[[ $built == *"$(git rev-parse --short=12 HEAD)"* ]] || die "dist/ is of another commit ($built): make dist"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
clone=$work/another/folder/clone
git clone --quiet . "$clone"
say "dist in $clone"
env -u CARGO_TARGET_DIR "$clone/scripts/dist.sh"
diff dist/SHA256SUMS "$clone/dist/SHA256SUMS" || die "the two builds differ"
say "both builds have the same bytes"
