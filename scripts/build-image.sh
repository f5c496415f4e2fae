#!/usr/bin/env bash
# Makes an OCI archive of the programs in dist/, one image for all processors: scripts/build-image.sh FILE ARCHITECTURE...
# It needs no daemon and no root; the digest depends on nothing but the programs and SOURCE_DATE_EPOCH.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/common.sh

file=$PWD/$1
shift
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# The image has no RUN: nothing is isolated or mounted.
export BUILDAH_ISOLATION=chroot
buildah=(buildah --root "$work/storage" --runroot "$work/run" --storage-driver vfs)
[[ $(id -u) == 0 ]] || buildah=(buildah unshare "${buildah[@]}")

for arch in "$@"; do
    quietly "${buildah[@]}" bud --format oci --timestamp "$SOURCE_DATE_EPOCH" --platform "linux/$arch" \
        --manifest kafka-vitals --label org.opencontainers.image.title=kafka-vitals \
        --label "org.opencontainers.image.version=$VERSION" --label org.opencontainers.image.licenses=Apache-2.0 \
        --file packaging/Containerfile .
done
quietly "${buildah[@]}" manifest push --all kafka-vitals "oci:$work/image:kafka-vitals:$VERSION"
plain_tar "$work/image" . >"$file"
