# The file capability, as a user who is not root. Sourced by tests/pods.sh.
# shellcheck shell=bash disable=SC2154

# By runc itself: podman would make an added capability ambient for such a user, which Kubernetes' runtimes do not, so
# that there the file capability is what counts.
check_non_root() {
    title 'As user 65534, by runc as a kubelet has it called'
    make_pod_network non-root
    local root name=mesh-pods-$$ code=0
    # A container's root, in which runc can make the folders that it mounts on.
    root=$(podman mount "$(podman create --pull never --name non-root "$IMAGE")")
    run_bundle "$name" "$root" CAP_NET_ADMIN >"$lab/output" || fail "linkerd2-proxy-init: $(cat "$lab/output")"
    ok 'linkerd2-proxy-init installs the rules'
    expect 'the namespace holds them' "$(nsenter --net=/run/netns/non-root "$mesh_init" dump live --family 4 | grep -c 'REDIRECT --to-ports')" 2
    run_bundle "$name" "$root" >"$lab/output" || code=$?
    expect 'without the capability in the pod it fails' "$code" 1
    grep -q 'CAP_NET_ADMIN is missing: it was not granted' "$lab/output" || fail "it says: $(cat "$lab/output")"
    ok 'and says that the capability was not granted'
    setcap -r "$root/mesh-init"
    code=0
    run_bundle "$name" "$root" CAP_NET_ADMIN >"$lab/output" || code=$?
    expect 'without the file capability it fails' "$code" 1
    grep -q 'CAP_NET_ADMIN is missing: .* user 65534 is not root and the program has no file capability' "$lab/output" || fail "it says: $(cat "$lab/output")"
    ok 'and says that the file has none'
    podman rm -f non-root >/dev/null
}

# run_bundle NAME ROOT [CAPABILITY]: runs the container to its end, with its output here.
run_bundle() {
    local bundle=$lab/bundle
    rm -rf "$bundle"
    mkdir "$bundle"
    runc spec --bundle "$bundle"
    # What containerd and CRI-O write for runAsUser: 65534, allowPrivilegeEscalation: false, readOnlyRootFilesystem: true and
    # capabilities with `drop: [ALL]`: none of them inheritable or ambient. No limits, for a root without CAP_SYS_RESOURCE.
    python3 - "$bundle/config.json" "$2" "${3-}" "${LINKERD_ARGUMENTS[@]}" <<'EOF'
import json, sys

path, root, capability, *arguments = sys.argv[1:]
granted = [capability] if capability else []
with open(path) as file:
    config = json.load(file)
config["process"].update(
    terminal=False,
    user={"uid": 65534, "gid": 65534},
    args=["/usr/lib/linkerd/linkerd2-proxy-init", *arguments],
    noNewPrivileges=True,
    rlimits=[],
    capabilities={"bounding": granted, "effective": granted, "permitted": granted, "inheritable": [], "ambient": []},
)
config["root"] = {"path": root, "readonly": True}
for namespace in config["linux"]["namespaces"]:
    if namespace["type"] == "network":
        namespace["path"] = "/run/netns/non-root"
with open(path, "w") as file:
    json.dump(config, file)
EOF
    runc --root "$lab/runc" run --bundle "$bundle" "$1" 2>&1
}
