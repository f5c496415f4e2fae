#!/bin/sh
# Checks the stated minimum Rust (rust-version in Cargo.toml).
#   scripts/check-minimum-rust.sh [--install]
# It always checks that no dependency states a later one; clippy's incompatible_msrv (part of `make lint`) checks the
# standard library functions that the code calls. If that toolchain is there, or --install gets it by rustup, it compiles.
set -eu
cd "$(dirname "$0")/.."
. scripts/common.sh

wanted=$(minimum_rust)
[ -n "$wanted" ] || die "Cargo.toml states no rust-version"
minor() { sed 's/^\([0-9]*\.[0-9]*\).*/\1/'; }
highest=$(cargo metadata --locked --format-version 1 | grep -o '"rust_version":"[^"]*"' | cut -d'"' -f4 | minor | sort -Vu | tail -n 1)
[ -n "$highest" ] || die "no dependency's rust-version could be read"
at_least "$highest" "$wanted" || die "a dependency needs Rust $highest, Cargo.toml states $wanted: cargo update, or state $highest"

if [ "${1:-}" = --install ]; then
    have rustup || die "rustup is needed to get Rust $wanted"
    rustup toolchain install "$wanted" --profile minimal --no-self-update
fi
if have rustup && rustup run "$wanted" cargo --version >/dev/null 2>&1; then
    # A folder of its own: another compiler would evict what the current one built.
    rustup run "$wanted" cargo check --quiet --workspace --locked --target-dir target/minimum-rust
    say "minimum Rust $wanted: compiles with it; dependencies need at most $highest"
else
    say "minimum Rust $wanted: dependencies need at most $highest; not compiled with it (make minimum-rust gets it by rustup)"
fi
