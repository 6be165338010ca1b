#!/bin/bash
# The image, and pods made of it: `make pods`, or: tests/pods.sh MESH_INIT MESH_PATCH CACHE
# [PART…], of which there are image, non_root, istio, legacy, linkerd, failing
#
# podman runs injected manifests that mesh-patch has patched, with mesh-init as their init container, real Envoys as their
# sidecars and an application; Envoy's own statistics tell which connections went through it. Everything happens in
# namespaces of its own (network, mounts, processes), with storage of its own; when this program ends, all of it is gone.
# What is downloaded and built stays in CACHE.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin

here=$(cd "$(dirname "$0")" && pwd)
mesh_init=$(realpath "${1:?usage: $0 MESH_INIT MESH_PATCH CACHE}")
mesh_patch=$(realpath "${2:?usage: $0 MESH_INIT MESH_PATCH CACHE}")
cache=$(realpath -m "${3:?usage: $0 MESH_INIT MESH_PATCH CACHE}")
parts=("${@:4}")
[[ ${#parts[@]} -gt 0 ]] || parts=(image non_root istio legacy linkerd failing)

for part in lab image mesh non-root; do
    # shellcheck source=/dev/null
    source "$here/pods/$part.sh"
done

if [[ -z ${MESH_PODS_LAB:-} ]]; then
    mkdir -p "$cache"
    prepare_programs
    # Containers and network namespaces are root's.
    [[ $EUID -eq 0 ]] || exec sudo -E "$here/pods.sh" "$mesh_init" "$mesh_patch" "$cache" "${parts[@]}"
    run_apart "$here/pods.sh" "$mesh_init" "$mesh_patch" "$cache" "${parts[@]}"
    exit
fi

lab=$MESH_PODS_LAB/room
prepare_room
prepare_images
for part in "${parts[@]}"; do
    "check_$part"
done
printf '\n%d passed, 0 failed (%d s)\n' "$passed" "$SECONDS"
