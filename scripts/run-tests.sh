#!/usr/bin/env bash
# Runs the tests, and fails when one fails, hangs, or is skipped without being listed in tests/skips.txt.
# Arguments are passed on to cargo test.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/common.sh

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
: >"$work/told"
export KAFKA_VITALS_SKIPS=$work/told

# Into a file that is shown as it grows: a pipe would stay open as long as a process that a test left behind.
# Under job control, because without it a background command ignores SIGINT and SIGQUIT, and so would every JVM below.
limit=${KAFKA_VITALS_TEST_LIMIT:-45m}
: >"$work/log"
set -m
timeout --kill-after=20 "$limit" cargo test --workspace --locked --no-fail-fast "$@" >"$work/log" 2>&1 &
tests=$!
# timeout passes it on to cargo and the tests.
trap 'kill "$tests"' INT TERM
tail -n +1 -f --pid="$tests" "$work/log" &
set +m
status=0
wait "$tests" || status=$?
wait
[ "$status" != 124 ] || say "the tests were ended after $limit: something hung"

scripts/judge-skips.sh "$work/log" "$work/told" tests/skips.txt || status=1
exit "$status"
