#!/usr/bin/env bash
# Runs the tests, and fails when one fails, hangs, or is skipped without being listed in tests/skips.txt.
# Arguments are passed on to cargo test.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/common.sh

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
: >"$work/reported"
export KAFKA_VITALS_SKIPS=$work/reported

# The output goes into a file that is shown as it grows: a process that a test left behind would keep a pipe open.
# Job control is on, because without it a background command ignores SIGINT and SIGQUIT, and so would every JVM below.
limit=${KAFKA_VITALS_TEST_LIMIT:-45m}
: >"$work/log"
set -m
timeout --kill-after=20 "$limit" cargo test --workspace --locked --no-fail-fast "$@" >"$work/log" 2>&1 &
tests=$!
# timeout passes the signal on to cargo and the tests.
trap 'kill "$tests"' INT TERM
tail -n +1 -f --pid="$tests" "$work/log" &
set +m
status=0
wait "$tests" || status=$?
wait
[ "$status" != 124 ] || say "the tests were ended after $limit: one of them hung"

scripts/judge-skips.sh "$work/log" "$work/reported" tests/skips.txt || status=1
exit "$status"
