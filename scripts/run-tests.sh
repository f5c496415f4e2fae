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

limit=${KAFKA_VITALS_TEST_LIMIT:-45m}
status=0
timeout --kill-after=20 "$limit" cargo test --workspace --locked --no-fail-fast "$@" 2>&1 | tee "$work/log" || status=$?
[ "$status" != 124 ] || say "the tests were ended after $limit: something hung"

scripts/judge-skips.sh "$work/log" "$work/told" tests/skips.txt || status=1
exit "$status"
