# shellcheck shell=sh
# Sourced by the other scripts: where tools are kept, and how they speak.

# A service or a CI may run without it.
HOME=${HOME:-$(getent passwd "$(id -u)" | cut -d: -f6)}
export HOME

# What is fetched once and kept: Prometheus' tools, cargo-deny. `make clean-cache` removes it.
cache=${KAFKA_VITALS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kafka-vitals}

# The lab's own (lab/src/jars.rs): the brokers' jars, and JDKs that a machine lacks as java-MAJOR.
lab_cache=${KAFKA_VITALS_LAB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kafka-vitals-lab}

# The JDK that somebody chose goes before Debian's.
[ -z "${JAVA_HOME:-}" ] || PATH=$JAVA_HOME/bin:$PATH

# rustup's folder may not be on the PATH of a shell that is older than the installation.
PATH=$cache/bin:$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
export PATH

say() { printf '==> %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# The minimum Rust, as Cargo.toml states it.
minimum_rust() { sed -n 's/^rust-version = "\([0-9.]*\)"$/\1/p' Cargo.toml | head -n 1; }

# at_least WANTED FOUND: whether version FOUND is not older than WANTED.
at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; }
