#!/bin/sh
# Tests judge-skips.sh: which skips must fail a run, and which must not.
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# expect STATUS TOTALS WHAT: runs judge-skips.sh on $work/{log,reported,list}.
expect() {
    status=0
    ./judge-skips.sh "$work/log" "$work/reported" "$work/list" >"$work/out" || status=$?
    if [ "$status" != "$1" ] || [ "$(tail -n 1 "$work/out")" != "$2" ]; then
        printf 'judge-skips.sh: %s: expected status %s and "%s", got %s and:\n' "$3" "$1" "$2" "$status"
        cat "$work/out"
        exit 1
    fi
}
reset() {
    : >"$work/reported"
    printf '# a comment\n\na::listed: needs a right\nb::ignored: too long\n' >"$work/list"
    cat >"$work/log" <<'LOG'
running 2 tests
test a::one ... ok
test a::listed ... ok
test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
running 1 test
test b::two ... ok
test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
LOG
}

reset
expect 0 "3 passed, 0 failed, 0 skipped" "nothing skipped"
echo "a::listed: needs a right" >"$work/reported"
expect 0 "2 passed, 0 failed, 1 skipped" "a listed skip"
echo "a::listed: another reason" >"$work/reported"
expect 1 "2 passed, 0 failed, 1 skipped" "a listed test with another reason"
echo "a::one: needs a right" >"$work/reported"
expect 1 "2 passed, 0 failed, 1 skipped" "a skip that is not listed"

reset
sed -i 's/^test b::two.*/test b::ignored ... ignored, too long/; s/1 passed; 0 failed; 0 ignored/0 passed; 0 failed; 1 ignored/' "$work/log"
expect 0 "2 passed, 0 failed, 1 skipped" "a listed ignore"
sed -i 's/ignored, too long/ignored/' "$work/log"
expect 1 "2 passed, 0 failed, 1 skipped" "an ignore without a reason"
sed -i '/b::ignored/d' "$work/log"
expect 1 "2 passed, 0 failed, 1 skipped" "an ignore whose name was not seen"

reset
: >"$work/log"
expect 1 "0 passed, 0 failed, 0 skipped" "no test ran"
