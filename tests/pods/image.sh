# The image itself, and its entry points. Sourced by tests/pods.sh.
# shellcheck shell=bash disable=SC2154

readonly ISTIO_ARGUMENTS=(-p 15001 -z 15006 -u 1337 -m REDIRECT -i '*' -x '' -b '*' -d '15090,15021,15020')
readonly LINKERD_ARGUMENTS=(--firewall-bin-path iptables-nft --firewall-save-bin-path iptables-nft-save --ipv6=false --incoming-proxy-port 4143
    --outgoing-proxy-port 4140 --proxy-uid 2102 --inbound-ports-to-ignore 4190,4191,4567,4568 --outbound-ports-to-ignore 4567,4568)

check_image() {
    title 'The image'
    local root
    root=$(podman image mount "$IMAGE")
    expect 'it holds one file' "$(cd "$root" && find . -type f)" ./mesh-init
    cmp -s "$root/mesh-init" "$mesh_init" || fail 'the file is another program'
    ok 'the file is the program that was built'
    expect 'the file has its capability' "$(getcap "$root/mesh-init")" "$root/mesh-init cap_net_admin=p"
    expect 'the rest are the names by which the meshes call it' "$(cd "$root" && find . -type l -printf '%P %l\n' | sort)" \
        "usr/lib/linkerd/linkerd2-network-validator /mesh-init
usr/lib/linkerd/linkerd2-proxy-init /mesh-init
usr/local/bin/pilot-agent /mesh-init
usr/local/bin/proxy-init /mesh-init"
    podman image unmount "$IMAGE" >/dev/null
    local size
    size=$(podman image inspect -f '{{.Size}}' "$IMAGE")
    ((size < $(stat -c %s "$mesh_init") + 65536)) || fail "the image has $size bytes"
    ok "it is no larger than the program ($size bytes with what describes it)"
    expect 'it starts mesh-init, as whom the pod says' "$(podman image inspect -f '{{.Config.Entrypoint}} {{.Config.User}}' "$IMAGE")" '[/mesh-init] '
    expect 'its label names the version' "$(podman image inspect -f '{{index .Config.Labels "org.opencontainers.image.version"}}' "$IMAGE")" \
        "$("$mesh_init" --version | awk '{ print $2 }')"

    title 'Its entry points, read-only, with NET_ADMIN alone (validators: nothing) and no way to more'
    make_pod_network istio
    make_pod_network linkerd
    local network=istio privileges=(--cap-add NET_ADMIN)
    check_entry installed /usr/local/bin/pilot-agent istio-iptables "${ISTIO_ARGUMENTS[@]}"
    check_entry 'already in place' /mesh-init istio-iptables "${ISTIO_ARGUMENTS[@]}"
    check_entry 'already in place' /mesh-init apply istio "${ISTIO_ARGUMENTS[@]}"
    privileges=(--user 1337:1337)
    check_entry 'Validation passed' /usr/local/bin/pilot-agent istio-iptables "${ISTIO_ARGUMENTS[@]}" --run-validation --skip-rule-apply
    network=linkerd privileges=(--cap-add NET_ADMIN)
    check_entry installed /usr/lib/linkerd/linkerd2-proxy-init "${LINKERD_ARGUMENTS[@]}"
    check_entry 'already in place' /usr/local/bin/proxy-init "${LINKERD_ARGUMENTS[@]}"
    check_entry 'already in place' /mesh-init "${LINKERD_ARGUMENTS[@]}"
    privileges=(--user 65534:65534)
    check_entry Validated /usr/lib/linkerd/linkerd2-network-validator --log-format plain --log-level debug --connect-addr 1.1.1.1:20001 \
        --listen-addr 0.0.0.0:4140 --timeout 10s
}

# make_pod_network NAME: a network namespace with an address and a default route, as a pod's.
make_pod_network() {
    ip netns add "$1"
    ip -n "$1" link set lo up
    ip -n "$1" link add eth0 type veth peer name peer0
    ip -n "$1" address add 10.9.0.2/24 dev eth0
    ip -n "$1" link set eth0 up
    ip -n "$1" link set peer0 up
    ip -n "$1" route add default via 10.9.0.1
}

# check_entry SAID PROGRAM ARGUMENT…: the program of that name in the image does its work, with $privileges in $network.
check_entry() {
    podman run --rm --pull never --network "ns:/run/netns/$network" --read-only --read-only-tmpfs=false --cap-drop ALL \
        --security-opt no-new-privileges "${privileges[@]}" --entrypoint "$2" "$IMAGE" "${@:3}" >"$lab/output" 2>&1 || fail "$2 ${*:3}: $(cat "$lab/output")"
    grep -q "$1" "$lab/output" || fail "$2 ${*:3} does not say \"$1\": $(cat "$lab/output")"
    ok "$2 ${3-} …: $1"
}
