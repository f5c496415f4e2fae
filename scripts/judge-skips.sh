#!/bin/sh
# Fails if a test was skipped that may not be skipped, and prints the totals of a run of `cargo test`.
#   scripts/judge-skips.sh LOG REPORTED LIST
# LOG       the output of cargo test
# REPORTED  lines `NAME: REASON`, written by tests that could not run
# LIST      the allowed lines (tests/skips.txt)
# A test that is #[ignore]d counts as skipped, with the attribute's text as its reason.
set -eu
log=$1 reported=$2 list=$3

ignored=$(sed -n -e 's/^test \(.*\) \.\.\. ignored, \(.*\)$/\1: \2/p' -e 's/^test \(.*\) \.\.\. ignored$/\1: no reason given/p' "$log")
skipped=$(printf '%s\n' "$ignored" | sort -u - "$reported" | grep . || true)
bad=0

if [ -n "$skipped" ]; then
    printf 'skipped:\n'
    printf '%s\n' "$skipped" | sed 's/^/  /'
    # Comments and empty lines of the list match no test.
    unlisted=$(printf '%s\n' "$skipped" | grep -vxFf "$list" || true)
    if [ -n "$unlisted" ]; then
        printf 'error: skipped, but not listed with this reason in %s:\n' "$list"
        printf '%s\n' "$unlisted" | sed 's/^/  /'
        bad=1
    fi
fi

grep '^test result: ' "$log" || true
total() { sed -n "s/^test result: .* \([0-9][0-9]*\) $1.*/\1/p" "$log" | awk '{ sum += $1 } END { print sum + 0 }'; }
passed=$(total passed) failed=$(total failed) ignored_count=$(total ignored)
reported_count=$(sort -u "$reported" | grep -c . || true)

if [ "$ignored_count" != "$(printf '%s\n' "$ignored" | grep -c . || true)" ]; then
    printf 'error: %s tests were ignored, but not all of their names could be read\n' "$ignored_count"
    bad=1
fi
if [ "$passed" = 0 ]; then
    printf 'error: no test passed\n'
    bad=1
fi
# A test that reported its skip returned early, and cargo counted it as passed.
printf '%s passed, %s failed, %s skipped\n' "$((passed - reported_count))" "$failed" "$((ignored_count + reported_count))"
exit $bad
