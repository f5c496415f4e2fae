#!/bin/sh
# Tests judge-skips.sh: which skips must fail a run, and which must not. Tests run-tests.sh with a cargo that records its
# calls: each test file runs, and none starts after a signal.
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

# This one is the first on the PATH.
mkdir -p "$work/cache/bin"
cat >"$work/cache/bin/cargo" <<'SH'
#!/bin/sh
echo "$*" >>"$CALLS"
case $* in
*--no-run*)
    printf '  Executable %s (target/debug/deps/%s-0f)\n' unittests\ src/lib.rs kafka_vitals tests/web_config.rs web_config \
        tests/deadlock.rs deadlock tests/groups.rs groups tests/bad_inputs/main.rs bad_inputs lab/tests/jars.rs jars
    ;;
*)
    echo "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s"
    [ -z "${HANGS:-}" ] || exec sleep 60
    ;;
esac
SH
chmod +x "$work/cache/bin/cargo"
export KAFKA_VITALS_CACHE="$work/cache" CALLS="$work/calls"

fail() {
    printf 'run-tests.sh: %s:\n' "$1"
    cat "$work/calls" "$work/out"
    exit 1
}
: >"$work/calls"
./run-tests.sh >"$work/out" 2>&1 || fail "it fails though every test passes"
[ "$(tail -n 1 "$work/out")" = "4 passed, 0 failed, 0 skipped" ] || fail "it counts other tests"
for file in web_config deadlock groups bad_inputs jars; do
    [ "$(grep -c -e "--test $file\\b" "$work/calls")" = 1 ] || fail "$file does not run once"
done

: >"$work/calls"
HANGS=yes ./run-tests.sh >"$work/out" 2>&1 &
tests=$!
for _ in $(seq 100); do
    ! grep -qe --bins "$work/calls" || break
    sleep 0.1
done
kill "$tests"
! wait "$tests" || fail "it succeeds after a signal"
[ "$(wc -l <"$work/calls")" = 2 ] || fail "it starts other tests after a signal"
