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

targets=$(sed -n 's/^name = "\(.*\)"$/\1/p' fuzz/Cargo.toml | grep -v '^kafka-vitals')
# shellcheck disable=SC2048 # names without blanks
for target in ${*:-$targets}; do
    mkdir -p "fuzz/found/$target"
    # libFuzzer reads folders within folders as well.
    seeds=$(sed -n "s/^$target //p" fuzz/seeds)
    # New inputs go into the first folder; the others are only read. No name of a folder has a blank.
    # shellcheck disable=SC2086
    cargo fuzz run --sanitizer none "$target" "fuzz/found/$target" "fuzz/corpus/$target" $seeds -- \
        -max_total_time="$seconds" -timeout=5 -max_len=65536 -rss_limit_mb=2048 -print_final_stats=1
done
