# Pods of both meshes, and what their proxies say about the connections. Sourced by tests/pods.sh.
# shellcheck shell=bash disable=SC2154

# patch MANIFEST: what mesh-patch makes of it, in $patched.
patch() {
    patched=$lab/patched-${1##*/}
    "$mesh_patch" --image "$IMAGE" "$1" >"$patched" 2>"$lab/report" || fail "mesh-patch $1: $(cat "$lab/report")"
}

# play MANIFEST: starts its pods.
play() {
    local code=0
    podman network exists pods || podman network create --disable-dns --ipv6 pods >/dev/null
    podman kube play --network pods "$1" >"$lab/output" 2>&1 || code=$?
    podman pod ls -q --no-trunc >>"$MESH_PODS_LAB/pods"
    return "$code"
}

# in_network_of POD COMMAND…: in the pod's network namespace, with the machine's own files.
in_network_of() {
    local infra
    infra=$(podman pod inspect -f '{{.InfraContainerID}}' "$1")
    nsenter --net="/proc/$(podman inspect -f '{{.State.Pid}}' "$infra")/ns/net" "${@:2}"
}

# field_of_network POD FIELD
field_of_network() {
    podman inspect -f "{{range .NetworkSettings.Networks}}{{.$2}}{{end}}" "$(podman pod inspect -f '{{.InfraContainerID}}' "$1")"
}
ipv4_of() { field_of_network "$1" IPAddress; }
ipv6_of() { field_of_network "$1" GlobalIPv6Address; }

# What podman says of volumes that two pods share is of no interest.
remove_pods() { podman pod rm -af -t 0 >/dev/null 2>&1; }

# connections POD DIRECTION: how many connections of it the pod's Envoy has handled.
connections() {
    in_network_of "$1" "$app" get "127.0.0.1:$admin_port" "/stats?filter=^tcp.$2.downstream_cx_total$" | awk '{ print $2 }'
}

# check_connection WHAT CLIENT SERVER ADDRESS:PORT OUTBOUND INBOUND PEER: the client's application asks the server's, and
# the connection is one more for the client's Envoy, for the server's, for both or none; whom does the server see?
check_connection() {
    local what=$1 client=$2 server=$3 outbound inbound answer
    outbound=$(connections "$client" outbound)
    inbound=$(connections "$server" inbound)
    answer=$(podman exec "$client-$client" /app get "$4") || fail "$what: no answer"
    outbound=$(($(connections "$client" outbound) - outbound))
    inbound=$(($(connections "$server" inbound) - inbound))
    expect "$what" "$outbound $inbound $answer" "$5 $6 $server:${4##*:} sees $7"
}

# check_init_container NAME: it ran with what the patched manifest gives it, and nothing else.
check_init_container() {
    expect "$1 has ended well" "$(podman inspect -f '{{.State.ExitCode}}' "$1")" 0
    local found
    found=$(podman inspect -f '{{.EffectiveCaps}} {{.BoundingCaps}} {{.HostConfig.Privileged}} {{.HostConfig.ReadonlyRootfs}} {{.HostConfig.SecurityOpt}} {{.Config.User}}' "$1")
    expect "$1 had NET_ADMIN alone, as root, a read-only file system and no way to more" "${found%:*}" \
        '[CAP_NET_ADMIN] [CAP_NET_ADMIN] false true [no-new-privileges] 0'
}

# mesh_init_in POD ARGUMENT…: as `kubectl debug --profile netadmin` starts it beside the pod's containers.
mesh_init_in() {
    podman run --rm --pull never --pod "$1" --read-only --cap-drop ALL --cap-add NET_ADMIN --security-opt no-new-privileges "$IMAGE" "${@:2}"
}

# wait_for POD PORT: until its Envoy and its application take connections.
wait_for() {
    eventually 20 in_network_of "$1" "$app" get "127.0.0.1:$admin_port" /ready ||
        fail "the Envoy of $1 is not ready: $(podman logs "$1-$proxy" 2>&1 | tail -n 3)"
    eventually 20 in_network_of "$1" "$app" get "127.0.0.1:$2" || fail "the application of $1 is not ready: $(podman logs "$1-$1" 2>&1)"
}

# check_family CLIENT SERVER PORT FAMILY OF TO FROM: the server's port 9090 is not captured on its side, 9091 not on the
# client's. FROM is whom an application sees behind its proxy.
check_family() {
    local client=$1 server=$2 of=$5 to=$6 from=$7
    [[ $4 == IPv4 ]] || to="[$to]"
    check_connection "$4 goes out through the client's Envoy and in through the server's" "$client" "$server" "$to:$3" 1 1 "$from"
    check_connection "$4 to an incoming port that is excluded goes out through Envoy and in past it" "$client" "$server" "$to:9090" 1 0 "$of"
    check_connection "$4 to an outgoing port that is excluded goes out past Envoy and in through it" "$client" "$server" "$to:9091" 0 1 "$from"
}

check_istio() {
    title 'Istio: two pods, dual stack'
    patch "$here/pods/istio.yaml"
    check_istio_pods nftables
}

# As on a kernel that has no other packet filter.
check_legacy() {
    title 'Istio: two pods, dual stack, in the legacy packet filter'
    patch "$here/pods/istio.yaml"
    sed -i 's/^\( *\)- name: ISTIO_DUAL_STACK$/\1- {name: MESH_INIT_BACKEND, value: legacy}\n&/' "$patched"
    check_istio_pods legacy
}

# check_istio_pods BACKEND: those of $patched, whose rules are to be there.
check_istio_pods() {
    local admin_port=15000 proxy=istio-proxy inbound answer
    play "$patched" || fail "the pods do not start: $(cat "$lab/output")"
    check_init_container productpage-istio-init
    wait_for productpage 9080
    wait_for reviews 9080
    check_family productpage reviews 9080 IPv4 "$(ipv4_of productpage)" "$(ipv4_of reviews)" 127.0.0.6
    check_family productpage reviews 9080 IPv6 "$(ipv6_of productpage)" "$(ipv6_of reviews)" ::6
    inbound=$(connections reviews inbound)
    answer=$(in_network_of productpage "$app" get "$(ipv4_of reviews):15021" /healthz/ready)
    expect 'the health port is not captured' "$answer $(($(connections reviews inbound) - inbound))" 'ready 0'
    local arguments=(-p 15001 -z 15006 -u 1337 -m REDIRECT -i '*' -x '' -b '*' -d '15090,15021,9090,15020' --dual-stack)
    mesh_init_in reviews verify istio "${arguments[@]}" --backend "$1" >"$lab/output" 2>&1 || fail "verify: $(cat "$lab/output")"
    ok 'a debug container finds the rules of the running pod as planned'
    mesh_init_in reviews dump live >"$lab/output" 2>&1 || fail "dump live: $(cat "$lab/output")"
    grep -q -- '-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006' "$lab/output" || fail "dump live shows: $(cat "$lab/output")"
    ok 'a debug container shows the rules of the running pod'
    remove_pods
}

check_linkerd() {
    title 'Linkerd: two pods, dual stack'
    local admin_port=4191 proxy=linkerd-proxy
    patch "$here/pods/linkerd.yaml"
    play "$patched" || fail "the pods do not start: $(cat "$lab/output")"
    check_init_container web-linkerd-init
    wait_for web 8080
    wait_for voting 8080
    # linkerd-proxy, and Envoy in its place, speaks to the application as the pod itself.
    check_family web voting 8080 IPv4 "$(ipv4_of web)" "$(ipv4_of voting)" "$(ipv4_of voting)"
    check_family web voting 8080 IPv6 "$(ipv6_of web)" "$(ipv6_of voting)" "$(ipv6_of voting)"
    remove_pods
}

# The file that the kubelet mounts for the termination message is mounted by the manifest: podman has none.
check_failing() {
    title 'A pod whose init container fails: somebody has taken NET_ADMIN from it again'
    : >"$lab/termination-log"
    sed "s|TERMINATION_LOG|$lab/termination-log|" "$here/pods/failing.yaml" >"$lab/failing.yaml"
    patch "$lab/failing.yaml"
    sed -i '/^ *- NET_ADMIN$/d' "$patched"
    ! play "$patched" || fail 'the pod starts'
    grep -q 'init container .* exited with code' "$lab/output" || fail "podman says: $(cat "$lab/output")"
    expect 'its application has never run' "$(podman inspect -f '{{.State.Status}}' ratings-ratings)" created
    local reason
    reason=$(cat "$lab/termination-log")
    [[ $reason == *'CAP_NET_ADMIN is missing: it was not granted to this container'* && $(wc -l <"$lab/termination-log") -le 1 ]] ||
        fail "the termination message is: $reason"
    ok "its termination message is: $reason"
    [[ $(podman logs ratings-istio-init 2>&1 | tail -n 1) == *"$reason" ]] || fail "its log: $(podman logs ratings-istio-init 2>&1)"
    ok 'the last line of its log says the same'
    remove_pods
}
