#!/usr/bin/env bash
# Makes all that is released, into dist/: for each processor a .tar.gz, a .deb, an .rpm and the symbols; the image for
# both; the bill of materials; checksums. Everything has the time of the commit; scripts/reproducible.sh compares two builds.
# KAFKA_VITALS_ARCHITECTURES=amd64 leaves the other one out.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/common.sh

read -ra architectures <<<"${KAFKA_VITALS_ARCHITECTURES:-amd64 arm64}"
VERSION=$(version)
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
# A package wants one: those who release it name themselves.
MAINTAINER=${MAINTAINER:-kafka-vitals maintainers <maintainers@kafka-vitals.example>}
# All programs name the commit of the start, whatever is committed meanwhile.
KAFKA_VITALS_REVISION=${KAFKA_VITALS_REVISION:-$(git rev-parse --short=12 HEAD)}
export VERSION SOURCE_DATE_EPOCH MAINTAINER KAFKA_VITALS_REVISION
umask 022

name=kafka-vitals-$VERSION
rm -rf dist
work=dist/parts
mkdir -p "$work/manual"

for arch in "${architectures[@]}"; do scripts/build-static.sh "$arch"; done

say "man pages and completions"
# With the features of the tests' build, so that it serves both.
quietly cargo build --quiet --workspace --locked --example manual
quietly "${CARGO_TARGET_DIR:-target}/debug/examples/manual" "$work/manual"
gzip -9n "$work"/manual/man/*

# archive FOLDER: FOLDER of the work folder as a .tar.gz.
archive() { plain_tar "$work" "$1" | gzip -9n >"dist/$1.tar.gz"; }

# pack_deb FILE ARCH: compresses a .deb that is not. The compressor of nfpm would make it a fifth larger.
pack_deb() {
    local parts=$work/deb-$2 filter=()
    # What dpkg has decompressed for ever. The filter for arm64 is newer than the xz of Ubuntu 22.04.
    [[ $2 != amd64 ]] || filter=(--x86)
    mkdir "$parts"
    (cd "$parts" && ar x -- "$OLDPWD/$1" && xz --threads=1 --format=xz "${filter[@]}" --lzma2=preset=9e data.tar &&
        rm "$OLDPWD/$1" && ar rcD "$OLDPWD/$1" debian-binary control.tar.gz data.tar.xz)
}

for arch in "${architectures[@]}"; do
    say "packages for $arch"
    for format in deb rpm; do
        ARCH=$arch quietly nfpm package --config packaging/nfpm.yaml --packager "$format" --target dist/
    done
    pack_deb dist/*_"$arch".deb "$arch"
    folder=$name-linux-$arch
    mkdir "$work/$folder"
    cp -r "dist/$arch/kafka-vitals" packaging/kafka-vitals.service README.md CHANGELOG.md LICENSE alerts dashboards docs \
        kubernetes "$work/manual" "$work/$folder"
    archive "$folder"
    mkdir "$work/$folder-symbols"
    cp "dist/$arch/kafka-vitals.debug" "$work/$folder-symbols"
    archive "$folder-symbols"
done

say "image"
scripts/build-image.sh "dist/$name-image.oci.tar" "${architectures[@]}"

say "bill of materials"
quietly cargo cyclonedx --format json --spec-version 1.5 --target "$(triple_of "${architectures[0]}")" \
    --override-filename "$name.cdx" --manifest-path Cargo.toml
# It names this folder.
sed "s#path+file://$PWD#path+file:///kafka-vitals#g" "$name.cdx.json" >"dist/$name.cdx.json"
rm "$name.cdx.json" "lab/$name.cdx.json"

rm -r "$work"
for arch in "${architectures[@]}"; do rm "dist/$arch/kafka-vitals.debug"; done
sums=$(cd dist && find . -type f -printf '%P\n' | LC_ALL=C sort | xargs sha256sum)
printf '%s\n' "$sums" >dist/SHA256SUMS
# at_most BYTES FILE...: hosts load these.
at_most() {
    local bound=$1 file size
    shift
    for file in "$@"; do
        size=$(stat -c %s "$file")
        ((size <= bound)) || die "$file has $size bytes, more than $bound"
    done
}
at_most 11000000 dist/*/kafka-vitals
at_most 4000000 dist/*.deb
# A host loads the image of its own processor.
at_most $((${#architectures[@]} * 9000000)) "dist/$name-image.oci.tar"
say "dist/:"
(cd dist && find . -type f -printf '%s %P\n' | LC_ALL=C sort -k 2)
