#!/bin/bash
# Packs a program that is there already into an image, with no registry: `make image`, or image/build.sh PROGRAM NAME
# [VERSION]. By buildah, podman or docker, whichever is there first, or the one that $CONTAINER_TOOL names.
set -euo pipefail

die() {
    printf 'image: %s\n' "$*" >&2
    exit 1
}

program=${1:?usage: $0 PROGRAM NAME [VERSION]}
name=${2:?usage: $0 PROGRAM NAME [VERSION]}
version=${3:-}
here=$(cd "$(dirname "$0")" && pwd)

# A docker client without its daemon builds nothing.
can_build() {
    case $1 in
    docker) command -v docker >/dev/null && docker info >/dev/null 2>&1 ;;
    *) command -v "$1" >/dev/null ;;
    esac
}

tool=${CONTAINER_TOOL:-}
if [[ -n $tool ]]; then
    can_build "$tool" || die "CONTAINER_TOOL is $tool, which is not there, or has no daemon"
else
    for candidate in buildah podman docker; do
        if can_build "$candidate"; then
            tool=$candidate
            break
        fi
    done
    [[ -n $tool ]] || die 'none of buildah, podman and docker (with its daemon) is there'
fi

[[ -r $program ]] || die "cannot read $program"
# There is nothing in the image to be linked with. (Whoever has no readelf learns it from the first run.)
if readelf -lW "$program" 2>/dev/null | grep -q INTERP; then
    die "$program is linked dynamically; build it with \`make build\`"
fi
# The image is for the processor that the program is for (e_machine, the 19th byte of an ELF file).
case $(od -An -tu2 -j18 -N2 "$program" | tr -d ' ') in
62) platform=linux/amd64 machine=x86_64 ;;
183) platform=linux/arm64 machine=aarch64 ;;
*) die "$program is not a program for Linux on amd64 or arm64" ;;
esac
[[ $machine != "$(uname -m)" ]] || platform=''

context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
python3 "$here/rootfs.py" "$program" "$context/rootfs.tar"
if ! said=$("$tool" build --file "$here/../Dockerfile" --target prebuilt --tag "$name" ${platform:+--platform "$platform"} \
    ${version:+--build-arg "VERSION=$version"} "$context" 2>&1); then
    die "$tool cannot build $name:"$'\n'"$said"
fi
printf 'image: %s is built (%s)\n' "$name" "$tool"
