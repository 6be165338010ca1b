#!/bin/bash
# The image, and pods made of it: `make pods`, or: tests/pods.sh MESH_INIT MESH_PATCH ENVOY FOLDER
# [PART…], of which there are image, non_root, istio, legacy, linkerd, failing. ENVOY is a Python environment that has it.
#
# podman runs injected manifests that mesh-patch has patched, with mesh-init as their init container, real Envoys as their
# sidecars and an application; Envoy's own statistics tell which connections went through it. Everything happens in
# namespaces of its own (network, mounts, processes), with storage of its own; when this program ends, all of it is gone.
# The application that is built stays in FOLDER.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin

here=$(cd "$(dirname "$0")" && pwd)
usage="usage: $0 MESH_INIT MESH_PATCH ENVOY FOLDER [PART…]"
mesh_init=$(realpath "${1:?$usage}")
mesh_patch=$(realpath "${2:?$usage}")
envoy=$(find "${3:?$usage}" -path '*/_bin/envoy' -type f)
folder=$(realpath -m "${4:?$usage}")
parts=("${@:5}")
[[ ${#parts[@]} -gt 0 ]] || parts=(image non_root istio legacy linkerd failing)

for part in lab image mesh non-root; do
    # shellcheck source=/dev/null
    source "$here/pods/$part.sh"
done

if [[ -z ${MESH_PODS_LAB:-} ]]; then
    mkdir -p "$folder"
    prepare_app
    # Containers and network namespaces are root's.
    [[ $EUID -eq 0 ]] || exec sudo -E "$here/pods.sh" "$mesh_init" "$mesh_patch" "$3" "$folder" "${parts[@]}"
    run_apart "$here/pods.sh" "$mesh_init" "$mesh_patch" "$3" "$folder" "${parts[@]}"
    exit
fi

lab=$MESH_PODS_LAB/room
prepare_room
prepare_images
for part in "${parts[@]}"; do
    "check_$part"
done
printf '\n%d passed, 0 failed (%d s)\n' "$passed" "$SECONDS"
