#!/bin/sh
# Fuzzes each target for a while: scripts/fuzz.sh [SECONDS-EACH]. It begins with the recorded dumps and counters. Its
# findings stay in fuzz/artifacts; minimised, they belong into fuzz/corpus, which `make test` replays.
set -eu
cd "$(dirname "$0")/.."
. scripts/common.sh
seconds=${1:-600}

have c++ || die "c++ is needed for libFuzzer (Debian: g++)"
if ! have cargo-fuzz; then
    say "building cargo-fuzz once into $cache"
    cargo install --quiet --locked --debug --root "$cache" cargo-fuzz
fi
# Lets the installed stable compiler accept the sanitizers' flags.
export RUSTC_BOOTSTRAP=1
fuzz() {
    target=$1 && shift
    mkdir -p "fuzz/found/$target" "fuzz/corpus/$target"
    # New inputs go into the first folder; the others are only read.
    cargo fuzz run --sanitizer none "$target" "fuzz/found/$target" "fuzz/corpus/$target" "$@" -- \
        -max_total_time="$seconds" -timeout=5 -max_len=65536 -rss_limit_mb=2048
}
seeds=fuzz/found/seeds
mkdir -p "$seeds"
find tests/fixtures/thread_dumps -type f -size -64k -name '*.txt' | while read -r file; do
    cp "$file" "$seeds/$(printf '%s' "$file" | tr / _)"
done
fuzz thread_dump "$seeds"
fuzz perf_data tests/fixtures/perf_data
