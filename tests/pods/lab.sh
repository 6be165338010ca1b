# Where the pods live: podman's folders, the images, and how outcomes are told. Sourced by tests/pods.sh.
# shellcheck shell=bash disable=SC2154

readonly IMAGE=localhost/mesh-init:pods
readonly app=$folder/app

passed=0
ok() {
    passed=$((passed + 1))
    printf 'ok - %s\n' "$*"
}

fail() {
    printf 'FAILED: %s\n0 passed, 1 failed\n' "$*" >&2
    exit 1
}

title() { printf '\n%s\n' "$*"; }

# expect WHAT FOUND WANTED
expect() {
    [[ $2 == "$3" ]] || fail "$1: found \"$2\", not \"$3\""
    ok "$1"
}

# eventually SECONDS COMMAND: tries until it works.
eventually() {
    local until=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < until)) || return 1
        sleep 0.1
    done
}

# run_apart COMMAND…: runs it in namespaces of its own, with a folder in $MESH_PODS_LAB. The kernel ends all processes in there when the first one ends, and
# takes the mounts, the bridge and its rules with the last one. Control groups have no such end.
run_apart() {
    local code=0 child home
    home=$(mktemp -d "$folder/lab.XXXXXX")
    MESH_PODS_LAB=$home unshare --net --mount --pid --fork --kill-child --mount-proc --propagation private "$@" &
    child=$!
    trap 'kill -KILL "$child"' HUP INT TERM
    # A signal ends the waiting, not the child.
    while kill -0 "$child" 2>/dev/null; do
        code=0
        wait "$child" 2>/dev/null || code=$?
    done
    [[ ! -f $home/pods ]] || eventually 10 remove_control_groups "$home/pods" || true
    rm -rf "$home"
    return "$code"
}

# remove_control_groups FILE: those of the pods that the file names, as soon as all their processes are gone.
remove_control_groups() {
    local pod left=0
    while read -r pod; do
        find /sys/fs/cgroup -depth -type d -path "*/libpod_parent/$pod*" -exec rmdir {} \; 2>/dev/null || true
        [[ -z $(find /sys/fs/cgroup -type d -path "*/libpod_parent/$pod*" -print -quit) ]] || left=1
    done <"$1"
    # If there is nobody else's in it.
    find /sys/fs/cgroup -depth -type d \( -name libpod_parent -o -path '*/libpod_parent/conmon' \) -exec rmdir {} \; 2>/dev/null || true
    return "$left"
}

# By whoever has a compiler, which need not be root.
prepare_app() {
    if [[ ! -x $app || $here/pods/app.rs -nt $app ]]; then
        rustc --edition 2024 -O -C target-feature=+crt-static -C panic=abort -C strip=symbols -o "$app" "$here/pods/app.rs"
    fi
}

# Nothing of the machine's own podman is read or written.
prepare_room() {
    mkdir "$lab"
    ip link set lo up
    # State of podman and runc, locks, mounted namespaces; and the images, which so are written to no disk.
    local place
    for place in /run /dev/shm "$lab"; do
        mount -t tmpfs tmpfs "$place"
    done
    mkdir /run/netns
    cat >"$lab/storage.conf" <<EOF
[storage]
driver = "overlay"
graphroot = "$lab/root"
runroot = "$lab/run"
EOF
    # The limits, for a root without CAP_SYS_RESOURCE; runc, since crun does not take every layout of cgroups.
    cat >"$lab/containers.conf" <<EOF
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
log_driver = "k8s-file"
[network]
network_backend = "netavark"
network_config_dir = "$lab/networks"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
tmp_dir = "$lab/tmp"
volume_path = "$lab/volumes"
EOF
    export CONTAINERS_CONF=$lab/containers.conf CONTAINERS_STORAGE_CONF=$lab/storage.conf
    trap 'remove_pods || true' EXIT
}

# image_of NAME INSTRUCTION…: builds a small image from the files in $lab/context.
image_of() {
    local name=$1
    shift
    printf '%s\n' 'FROM scratch' "$@" >"$lab/context/Containerfile"
    podman build --quiet --tag "localhost/mesh-pods/$name" "$lab/context" >/dev/null
}

prepare_images() {
    CONTAINER_TOOL=podman "$here/../image/build.sh" "$mesh_init" "$IMAGE" >/dev/null
    local context=$lab/context library
    mkdir -p "$context/app" "$context/envoy/etc" "$context/envoy/lib64"
    cp "$app" "$context/app/app"
    image_of app 'COPY app /' 'ENTRYPOINT ["/app"]'
    cp "$envoy" "$context/envoy/envoy"
    cp "$here/pods/envoy-istio.yaml" "$context/envoy/etc/istio.yaml"
    cp "$here/pods/envoy-linkerd.yaml" "$context/envoy/etc/linkerd.yaml"
    # The C library, which is all that Envoy is linked with, at the paths where it looks for it.
    ldd "$envoy" | grep -o '/[^ ]*' | while read -r library; do
        mkdir -p "$context/envoy${library%/*}"
        cp -L "$library" "$context/envoy$library"
    done
    image_of envoy 'COPY envoy /' 'ENTRYPOINT ["/envoy"]'
    rm -rf "$context"
}
