# shellcheck shell=sh
# Sourced by the other scripts: the folders of tools, and common functions.

# A service or CI may run without HOME.
HOME=${HOME:-$(getent passwd "$(id -u)" | cut -d: -f6)}
export HOME

# Keeps what is fetched once: Prometheus' tools, cargo-deny. `make clean-cache` removes it.
cache=${KAFKA_VITALS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kafka-vitals}

# The lab's cache (lab/src/jars.rs): the brokers' jars, and as java-MAJOR the JDKs that a machine lacks.
lab_cache=${KAFKA_VITALS_LAB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kafka-vitals-lab}

# A JDK chosen by JAVA_HOME goes before Debian's.
[ -z "${JAVA_HOME:-}" ] || PATH=$JAVA_HOME/bin:$PATH

# rustup's folder may not be on the PATH of a shell that is older than the installation.
PATH=$cache/bin:$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
export PATH

say() { printf '==> %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# Prints the minimum Rust that Cargo.toml states.
minimum_rust() { sed -n 's/^rust-version = "\([0-9.]*\)"$/\1/p' Cargo.toml | head -n 1; }

# at_least WANTED FOUND: succeeds if version FOUND is not older than WANTED.
at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; }

# Prints the output of a command only if it fails.
quietly() {
    output=$("$@" 2>&1) || {
        printf '%s\n' "$output" >&2
        return 1
    }
}

# Prints the version of the workspace.
version() { sed -n 's/^version = "\([0-9.]*\)"$/\1/p' Cargo.toml | head -n 1; }

# Prints this machine's processor, in the words of Debian's packages and of images.
architecture() {
    case $(uname -m) in
    x86_64) echo amd64 ;;
    aarch64) echo arm64 ;;
    *) die "packages are made for x86_64 and aarch64, this is $(uname -m)" ;;
    esac
}

# triple_of ARCHITECTURE: prints Rust's name of the target.
triple_of() {
    case $1 in
    amd64) echo x86_64-unknown-linux-musl ;;
    arm64) echo aarch64-unknown-linux-musl ;;
    *) die "unknown architecture '$1': amd64 or arm64" ;;
    esac
}

# Prints the mirror of this machine's own Debian packages.
debian_mirror() {
    # shellcheck disable=SC2016 # apt's own variables
    apt-get indextargets --format '$(ORIGIN) $(REPO_URI)' | sed -n '/security/d; s/^Debian //p' | head -n 1
}

# plain_tar FOLDER NAME: prints an archive of NAME in FOLDER, with nothing of this machine and moment in it.
plain_tar() {
    tar --create --sort=name --format=gnu --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner \
        --mode=go=rX,u+rw --directory="$1" "$2"
}

# Prints the folder with the jars of the broker beside which packages, image and pod are tested.
broker_jars() {
    [ -d "$lab_cache/3.9.1" ] || die "the jars of Kafka 3.9.1 are missing: cargo run -p lab -- up --kafka 3.9.1"
    printf '%s\n' "$lab_cache/3.9.1"
}

# server_properties ADDRESS LOG-DIR: prints the settings of that broker, which is its own controller.
server_properties() {
    cat <<PROPERTIES
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@$1:9093
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://$1:9092,CONTROLLER://$1:9093
log.dirs=$2
offsets.topic.replication.factor=1
PROPERTIES
}

# log4j_properties FILE: prints the settings with which that broker logs to a file.
log4j_properties() {
    cat <<PROPERTIES
log4j.rootLogger=INFO, file
log4j.appender.file=org.apache.log4j.FileAppender
log4j.appender.file.File=$1
log4j.appender.file.layout=org.apache.log4j.PatternLayout
log4j.appender.file.layout.ConversionPattern=[%d] %p %m (%c)%n
PROPERTIES
}

# says_all_known CHECK METRICS: succeeds if that broker is healthy by check, nothing of it is unknown, and each collector
# reads. Both are files.
says_all_known() {
    grep -q '^OK: ' "$1" && grep -q '^Broker 1: healthy' "$1" && ! grep -iE 'unknown|not read' "$1" || return 1
    grep -q '^kafka_vitals_collector_success{.*} 1$' "$2" && ! grep '^kafka_vitals_collector_success{.*} 0$' "$2"
}
