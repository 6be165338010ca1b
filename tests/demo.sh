#!/bin/bash
# mesh-init at work in a throw-away pod: `make demo`, or as root: tests/demo.sh PATH_OF_MESH_INIT
#
# Two network namespaces joined by a cable stand for a pod and the rest of the world. Istio's default rules are put
# into the pod by a process that has CAP_NET_ADMIN and nothing else; real connections show what they do. Whatever is
# not as expected ends the demo with an error.
set -euo pipefail
# The system's own programs: those of a user's home are not for other users.
PATH=/usr/sbin:/usr/bin:/sbin:/bin

binary=$(realpath "${1:?usage: $0 PATH_OF_MESH_INIT}")
[[ $EUID -eq 0 ]] || { echo "demo: network namespaces need root" >&2; exit 1; }

pod=mesh-demo-pod-$$
world=mesh-demo-world-$$
work=$(mktemp -d)
servers=()

clean_up() {
    local code=$?
    if [[ ${#servers[@]} -gt 0 ]]; then
        kill "${servers[@]}" 2>/dev/null || true
        wait "${servers[@]}" 2>/dev/null || true
    fi
    ip netns del "$pod" 2>/dev/null || true
    ip netns del "$world" 2>/dev/null || true
    rm -rf "$work"
    [[ $code -eq 0 ]] || echo "demo: FAILED" >&2
}
trap clean_up EXIT

title() { if [[ -t 1 ]]; then printf '\n\033[1m%s\033[0m\n' "$*"; else printf '\n%s\n' "$*"; fi; }
say() { printf '  %s\n' "$*"; }
die() {
    echo "demo: $*" >&2
    exit 1
}

# What istio's injector passes to istio-init in every pod.
istio_arguments=(-p 15001 -z 15006 -u 1337 -m REDIRECT -i '*' -x '' -b '*' -d '15090,15021,15020')

# Runs a command in the pod as user 0 with CAP_NET_ADMIN alone; nothing can be gained by executing a file.
as_init() {
    nsenter --net="/run/netns/$pod" setpriv --inh-caps=-all --bounding-set=-all,+net_admin --no-new-privs "$@"
}

# What starts a command in a namespace as a user without any capability: `"${launcher[@]}" COMMAND` after `as_user NAMESPACE USER`.
as_user() {
    launcher=(nsenter --net="/run/netns/$1" setpriv --reuid="$2" --regid="$2" --clear-groups --inh-caps=-all --bounding-set=-all
        --no-new-privs)
}

# Shows mesh-init's command line and runs it, with its output indented. The exit code has to be the one expected.
mesh_init() {
    local expected=$1 code=0 word line=''
    shift
    for word in "$@"; do
        [[ $word =~ ^[A-Za-z0-9./,=_-]+$ ]] || word="'$word'"
        line+=" $word"
    done
    printf '  $ mesh-init%s\n' "$line"
    as_init "$binary" "$@" >"$work/output" 2>&1 || code=$?
    sed 's/^/    /' "$work/output"
    [[ $code -eq $expected ]] || die "exit code $code, expected $expected"
}

# Answers every connection with its own name and the address that the client had asked for.
cat >"$work/server.py" <<'PYTHON'
import socket, struct, sys

SO_ORIGINAL_DST = 80
name, port = sys.argv[1], int(sys.argv[2])
with socket.create_server(("0.0.0.0", port)) as server:
    while True:
        client, _ = server.accept()
        with client:
            try:
                found = client.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16)
                wanted_port, address = struct.unpack_from("!H4s", found, 2)
                wanted = f"{socket.inet_ntoa(address)}:{wanted_port}"
            except OSError:
                wanted = "%s:%d" % client.getsockname()
            client.sendall(f"{name}, asked for {wanted}".encode())
PYTHON
cat >"$work/client.py" <<'PYTHON'
import socket, sys

with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5) as server:
    print(server.makefile().read())
PYTHON
chmod -R a+rX "$work"

serve() {
    local namespace=$1 user=$2 name=$3 port=$4
    as_user "$namespace" "$user"
    "${launcher[@]}" python3 "$work/server.py" "$name" "$port" &
    servers+=($!)
    for _ in $(seq 100); do
        [[ -z $(ip netns exec "$namespace" ss -Hltn "sport = :$port") ]] || return 0
        sleep 0.05
    done
    die "the server on port $port did not start"
}

# connect NAMESPACE USER WHO ADDRESS PORT EXPECTED: who answers there?
connect() {
    local answer
    as_user "$1" "$2"
    answer=$("${launcher[@]}" python3 "$work/client.py" "$4" "$5") || die "$3 cannot connect to $4:$5"
    say "$3 connects to $4:$5 and meets: $answer"
    [[ $answer == "$6" ]] || die "expected: $6"
}

title '1. A pod and the rest of the world'
ip netns add "$pod"
ip netns add "$world"
ip -n "$pod" link add eth0 type veth peer name pod0 netns "$world"
ip -n "$pod" link set lo up
ip -n "$world" link set lo up
ip -n "$pod" address add 10.9.0.2/24 dev eth0
ip -n "$world" address add 10.9.0.1/24 dev pod0
ip -n "$world" address add 192.0.2.80/32 dev lo
ip -n "$pod" link set eth0 up
ip -n "$world" link set pod0 up
ip -n "$pod" route add default via 10.9.0.1
serve "$world" 1000 'the server in the world' 8080
serve "$pod" 1000 'the application' 8080
serve "$pod" 1337 'the proxy (outgoing, port 15001)' 15001
serve "$pod" 1337 'the proxy (incoming, port 15006)' 15006
say 'Without rules nothing goes through the proxy:'
connect "$pod" 1000 'the application' 192.0.2.80 8080 'the server in the world, asked for 192.0.2.80:8080'
connect "$world" 1000 'the world' 10.9.0.2 8080 'the application, asked for 10.9.0.2:8080'

title "2. Istio's default arguments, as user 0 with CAP_NET_ADMIN alone and no_new_privs"
as_init grep -E '^(Cap(Prm|Eff|Bnd)|NoNewPrivs)' /proc/self/status | sed 's/^/    /'
mesh_init 0 apply istio "${istio_arguments[@]}"
grep -q 'installed and verified: 18 rules' "$work/output" || die 'not what was expected'

title '3. What the kernel holds now, compared with the plan and as the real nft sees it'
mesh_init 0 verify istio "${istio_arguments[@]}"
say '$ nft list table ip mesh-init'
ip netns exec "$pod" nft list table ip mesh-init | expand -t 4 | sed 's/^/    /'

title '4. The same connections once more'
connect "$pod" 1000 'the application' 192.0.2.80 8080 'the proxy (outgoing, port 15001), asked for 192.0.2.80:8080'
connect "$world" 1000 'the world' 10.9.0.2 8080 'the proxy (incoming, port 15006), asked for 10.9.0.2:8080'
connect "$pod" 1337 'the proxy itself' 192.0.2.80 8080 'the server in the world, asked for 192.0.2.80:8080'

title '5. A second run changes nothing; a rule that somebody deletes is noticed and put back'
mesh_init 0 apply istio "${istio_arguments[@]}"
grep -q 'already in place' "$work/output" || die 'not what was expected'
say '$ nft flush chain ip mesh-init OUTPUT'
ip netns exec "$pod" nft flush chain ip mesh-init OUTPUT
mesh_init 3 verify istio "${istio_arguments[@]}"
mesh_init 0 apply istio "${istio_arguments[@]}"
connect "$pod" 1000 'the application' 192.0.2.80 8080 'the proxy (outgoing, port 15001), asked for 192.0.2.80:8080'

title '6. The same in the legacy packet filter, for a kernel that has no other; what was in nf_tables goes in the same run'
mesh_init 0 apply istio "${istio_arguments[@]}" --backend legacy
say '$ iptables-legacy-save -t nat'
ip netns exec "$pod" iptables-legacy-save -t nat | grep -v '^#' | sed 's/^/    /'
connect "$pod" 1000 'the application' 192.0.2.80 8080 'the proxy (outgoing, port 15001), asked for 192.0.2.80:8080'

title '7. Out again'
mesh_init 0 remove istio
mesh_init 0 dump live --family 4
! grep -q 'ISTIO' "$work/output" || die 'rules are left'
connect "$pod" 1000 'the application' 192.0.2.80 8080 'the server in the world, asked for 192.0.2.80:8080'

title 'All as expected.'
