#!/usr/bin/env bash
# Builds the exporter as one file that needs nothing from its host (musl), and its symbols beside:
#   scripts/build-static.sh [amd64|arm64]   ->  dist/ARCH/kafka-vitals, dist/ARCH/kafka-vitals.debug
# Without an argument it is for this machine's processor.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/common.sh

arch=${1:-$(architecture)}
triple=$(triple_of "$arch")
folder=dist/$arch

# Paths of this machine go neither into the program nor into its symbols. The sources have to be there before: the name of
# the folder into which cargo unpacks them is part of the path.
quietly cargo fetch --locked --target "$triple"
paths=("$PWD=/kafka-vitals")
[[ -z ${CARGO_TARGET_DIR:-} ]] || paths+=("$(realpath -ms "$CARGO_TARGET_DIR")=/kafka-vitals/target")
for sources in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/; do paths+=("${sources%/}=/crates"); done
c_flags=
for path in "${paths[@]}"; do c_flags+=" -ffile-prefix-map=$path"; done
# cargo separates these by a byte that no path has. Packed relocations save 0.4 MB, on the disk and in memory: all of
# them are read at the start. Functions that are compiled to the same bytes are kept once: nothing compares their addresses.
CARGO_ENCODED_RUSTFLAGS=$(printf -- '--remap-path-prefix=%s\x1f' "${paths[@]}" | head -c -1)
for option in --pack-dyn-relocs=relr --icf=all; do CARGO_ENCODED_RUSTFLAGS+=$'\x1f'-Clink-arg=$option; done
export CARGO_ENCODED_RUSTFLAGS CARGO_PROFILE_RELEASE_STRIP=none

name=${triple//-/_}
# The toolchain's own linker serves both processors; the compilers are for what ring has in C.
export "CARGO_TARGET_${name^^}_LINKER=rust-lld"
case $arch in
amd64) compiler=musl-gcc tools= ;;
arm64) compiler=aarch64-linux-gnu-gcc tools=aarch64-linux-gnu- ;;
esac
export "CC_$name=$compiler" "CFLAGS_$name=$c_flags"

cargo build --locked --release --target "$triple"

built=$(realpath "${CARGO_TARGET_DIR:-target}/$triple/release/kafka-vitals")
mkdir -p "$folder"
"${tools}objcopy" --only-keep-debug "$built" "$folder/kafka-vitals.debug"
chmod -x "$folder/kafka-vitals.debug"
# The debugger finds the symbols by their name and checksum.
(cd "$folder" && "${tools}objcopy" --strip-all --add-gnu-debuglink=kafka-vitals.debug "$built" kafka-vitals)
say "$folder/kafka-vitals: $(stat -c %s "$folder/kafka-vitals") bytes"
