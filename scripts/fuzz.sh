#!/bin/sh
# Fuzzes each target for a while: scripts/fuzz.sh [SECONDS-EACH] [TARGET...]. It begins with the corpus and the recorded
# files. Its findings stay in fuzz/artifacts; minimised, they belong into fuzz/corpus, which `make test` replays.
set -eu
cd "$(dirname "$0")/.."
. scripts/common.sh
seconds=${1:-300}
[ $# -eq 0 ] || shift

have c++ || die "c++ is needed for libFuzzer (Debian: g++)"
if ! have cargo-fuzz; then
    say "building cargo-fuzz once into $cache"
    cargo install --quiet --locked --debug --root "$cache" cargo-fuzz
fi
# Lets the installed stable compiler accept the sanitizers' flags.
export RUSTC_BOOTSTRAP=1
# Targets that need files write them here; a folder in memory is fast and spares the disk.
scratch=$(mktemp -d -p /dev/shm 2>/dev/null || mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export TMPDIR="$scratch"

# Names the recorded files that are seeds of a target besides its corpus.
recorded() {
    case $1 in
    thread_dump) find tests/fixtures/thread_dumps -type f -size -64k -name '*.txt' ;;
    perf_data) find tests/fixtures/perf_data -name '*.hsperfdata' ;;
    wire) find tests/fixtures/kafka -name '*.bin' ;;
    properties) find tests/fixtures/properties -name '*.properties' ;;
    config) find tests/bad_inputs/config -type f ;;
    saved_text) find tests/fixtures/saved -type f -size -64k ;;
    esac
}
targets=$(sed -n 's/^name = "\(.*\)"$/\1/p' fuzz/Cargo.toml | grep -v '^kafka-vitals')
for target in ${*:-$targets}; do
    seeds=$scratch/seeds/$target
    mkdir -p "fuzz/found/$target" "$seeds"
    recorded "$target" | while read -r file; do
        cp "$file" "$seeds/$(printf '%s' "$file" | tr / _)"
    done
    # New inputs go into the first folder; the others are only read.
    cargo fuzz run --sanitizer none "$target" "fuzz/found/$target" "fuzz/corpus/$target" "$seeds" -- \
        -max_total_time="$seconds" -timeout=5 -max_len=65536 -rss_limit_mb=2048 -print_final_stats=1
done
