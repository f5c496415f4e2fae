#!/usr/bin/env bash
# Runs the tests, and fails when one fails, hangs, or is skipped without being listed in tests/skips.txt.
# With arguments, they are passed on to one cargo test. Without, all tests run: first those that hold bounds of time or
# memory, alone, then the others in two streams, because most of them wait for brokers to do something.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/common.sh

alone=(bad_inputs web_config)
# The longest ones, which take about as long as all others together.
long=(deadlock live_stalls)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
: >"$work/reported"
export KAFKA_VITALS_SKIPS=$work/reported
limit=${KAFKA_VITALS_TEST_LIMIT:-45m}
status=0 streams=() logs=()

# The output goes into a file that is shown as it grows: a process that a test left behind would keep a pipe open.
# Job control is on, because without it a background command ignores SIGINT and SIGQUIT, and so would every JVM below.
start() {
    local log=$work/${#logs[@]}
    : >"$log"
    set -m
    timeout --kill-after=20 "$limit" cargo test --workspace --locked --no-fail-fast "$@" >"$log" 2>&1 &
    set +m
    streams+=($!)
    logs+=("$log")
    tail -n +1 -f --pid=$! "$log" &
}
# timeout passes the signal on to cargo and the tests. No other tests start then.
trap 'kill "${streams[@]}" 2>/dev/null || true; wait; exit 130' INT TERM
finish() {
    local stream ended
    for stream in "${streams[@]}"; do
        ended=0
        wait "$stream" || ended=$?
        [ "$ended" != 124 ] || say "the tests were ended after $limit: one of them hung"
        [ "$ended" = 0 ] || status=$ended
    done
    wait
    streams=()
}
# tests NAME...: the arguments for cargo.
tests() { printf -- '--test\n%s\n' "$@"; }

if [ $# -gt 0 ]; then
    start "$@"
    finish
else
    CARGO_TERM_COLOR=never cargo test --workspace --locked --no-run 2>&1 | tee "$work/built"
    # "Executable tests/groups.rs (target/debug/deps/groups-0f..)": qualify is not among them.
    mapfile -t others < <(sed -n 's/^ *Executable \(lab\/\)\{0,1\}tests\/.*\/\(.*\)-[0-9a-f]*)$/\2/p' "$work/built" |
        grep -vxF -e "$(printf '%s\n' "${alone[@]}" "${long[@]}")")
    [ "${#others[@]}" -gt 0 ] || die "the list of test files that cargo built could not be read"
    mapfile -t first < <(tests "${alone[@]}")
    mapfile -t second < <(tests "${long[@]}")
    mapfile -t third < <(tests "${others[@]}")
    start --lib --bins "${first[@]}"
    finish
    start "${second[@]}"
    start "${third[@]}"
    finish
    start --doc
    finish
fi

cat "${logs[@]}" >"$work/log"
scripts/judge-skips.sh "$work/log" "$work/reported" tests/skips.txt || status=1
exit "$status"
