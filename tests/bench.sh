#!/bin/bash
# Measures mesh-init beside the distribution's iptables-restore: `make bench`, or as root: tests/bench.sh PATH_OF_MESH_INIT
#
# Every run is in a network namespace made a moment before, as a pod's is. Programs are started there by nsenter; what
# nsenter takes to start /bin/true is taken off, so that the program alone is counted. All times are medians.
# The programs take turns in twenty rounds, so that what else the machine does meets them all alike. RUNS (100) says how
# many runs each program has.
set -euo pipefail
PATH=/usr/sbin:/usr/bin:/sbin:/bin

binary=$(realpath "${1:?usage: $0 PATH_OF_MESH_INIT}")
[[ $EUID -eq 0 ]] || { echo "bench: network namespaces need root" >&2; exit 1; }
runs=${RUNS:-100}
rounds=20

pod=mesh-bench-$$
work=$(mktemp -d)
# The restore programs insist on a lock; this one nobody shares.
export XTABLES_LOCKFILE=$work/xtables.lock

clean_up() {
    ip netns del "$pod" 2>/dev/null || true
    rm -rf "$work"
}
trap clean_up EXIT

# A program that makes the namespace anew. Addresses on lo do: only loopback and link-local addresses do not count.
cat >"$work/new-pod" <<SCRIPT
#!/bin/sh
ip netns del $pod 2>/dev/null
ip netns add $pod
ip -n $pod -batch - <<LINES
link set lo up
address add 10.9.0.2/24 dev lo
\${1:+address add 2001:db8:9::2/64 dev lo nodad}
LINES
# The kernel takes the old namespace apart in the background, holding locks.
sleep 0.03
SCRIPT
chmod +x "$work/new-pod"

istio_without_x=(-p 15001 -z 15006 -u 1337 -m REDIRECT -i '*' -b '*' -d '15090,15021,15020')
istio=("${istio_without_x[@]}" -x '')
linkerd=(--incoming-proxy-port 4143 --outgoing-proxy-port 4140 --proxy-uid 2102 --inbound-ports-to-ignore '4190,4191,4567,4568'
    --outbound-ports-to-ignore '4567,4568')

# The rules for the restore programs, a file for each mesh and family.
for family in 4 6; do
    "$binary" dump istio "${istio[@]}" --dual-stack --pod-ip 10.9.0.2,2001:db8:9::2 --family $family >"$work/istio.$family"
    "$binary" dump linkerd "${linkerd[@]}" --pod-ip 10.9.0.2,2001:db8:9::2 --family $family >"$work/linkerd.$family"
done

inside="nsenter --net=/run/netns/$pod --"

# 10,000 different networks that fit into the 128 KiB that one argument or variable may have.
networks() {
    awk -v n="$1" 'BEGIN { for (i = 0; i < n; i++) printf "%s%d.%d.0.0/16", i ? "," : "", 1 + int(i / 100), i % 100 }'
}

names=()
declare -A commands dual

# measured NAME DUAL COMMAND...: a program to measure. DUAL is not empty if the pod has IPv6 too.
measured() {
    names+=("$1")
    dual[$1]=$2
    commands[$1]="$inside $(printf '%q ' "${@:3}")"
}

# measure NAME RUNS FILE: the times go to FILE.
measure() {
    hyperfine -N --style none --warmup 1 --runs "$2" --prepare "$work/new-pod ${dual[$1]}" --export-json "$3" "${commands[$1]}" \
        >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
}

measured launcher '' /bin/true
for backend in nftables legacy; do
    measured "istio4-$backend" '' "$binary" apply istio "${istio[@]}" --backend $backend
    measured "istio46-$backend" dual "$binary" apply istio "${istio[@]}" --dual-stack --backend $backend
    measured "linkerd46-$backend" dual "$binary" apply linkerd "${linkerd[@]}" --backend $backend
done
measured istio4-auto '' "$binary" apply istio "${istio[@]}"
for mesh in istio linkerd; do
    for backend in legacy nft; do
        measured "$mesh-$backend-4" dual "iptables-$backend-restore" "$work/$mesh.4"
        measured "$mesh-$backend-6" dual "ip6tables-$backend-restore" "$work/$mesh.6"
    done
done
for count in 10 100 1000 10000; do
    for backend in nftables legacy; do
        commands[cidrs-$count-$backend]="$inside $(printf '%q ' "$binary" apply istio "${istio_without_x[@]}" --backend $backend)"
        dual[cidrs-$count-$backend]=''
    done
done
for round in $(seq $rounds); do
    [[ ! -t 2 ]] || printf '\rround %d of %d' "$round" $rounds >&2
    for name in "${names[@]}"; do
        measure "$name" $(((runs + rounds - 1) / rounds)) "$work/$name.$round.json"
    done
    for count in 10 100 1000 10000; do
        for backend in nftables legacy; do
            ISTIO_SERVICE_EXCLUDE_CIDR=$(networks $count) measure "cidrs-$count-$backend" 2 "$work/cidrs-$count-$backend.$round.json"
        done
    done
done
[[ ! -t 2 ]] || printf '\rmemory, system calls\n\n' >&2

# The first packet of a connection goes through all rules. UDP to an address that no rule names, each from another port,
# to a neighbour that is not there: the time that sending takes, in microseconds, medians of many, the backends and lists
# in turn.
cat >"$work/first-packet" <<'PYTHON'
import socket
import statistics
import sys
import time

PACKETS = 400


def packet(port):
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.bind(("10.9.0.2", port))
    began = time.perf_counter_ns()
    sender.sendto(b"x", ("198.18.0.1", 9))
    took = time.perf_counter_ns() - began
    sender.close()
    return took / 1000


first = 20000 + int(sys.argv[1]) * PACKETS
print(statistics.median(packet(first + number) for number in range(PACKETS)))
PYTHON
first_packet_rounds=5
first_packets() {
    local case=$1 count=$2 backend=$3
    "$work/new-pod" ''
    ip -n "$pod" -batch - <<LINES
link add eth0 type veth peer name gate0
link set gate0 up
link set eth0 up
route add 198.18.0.0/15 dev eth0
neighbour add 198.18.0.1 lladdr 02:00:00:00:00:01 dev eth0
LINES
    [[ $backend == none ]] ||
        ISTIO_SERVICE_EXCLUDE_CIDR=$(networks "$count") $inside "$binary" apply istio "${istio_without_x[@]}" --backend "$backend" 2>/dev/null
    $inside /usr/bin/python3 "$work/first-packet" 0 >>"$work/first-packet.$case"
}
for _ in $(seq $first_packet_rounds); do
    first_packets none 0 none
    for count in 10 10000; do
        for backend in nftables legacy; do
            first_packets "$count-$backend" $count $backend
        done
    done
done

# The largest resident set, read while the program is held up at its end.
peak_memory() {
    "$work/new-pod" dual
    $inside strace -o /dev/null -e trace=exit_group -e inject=exit_group:delay_enter=500000 "$binary" "$@" 2>/dev/null &
    local tracer=$! child=''
    sleep 0.3
    child=$(pgrep -P "$tracer")
    awk '/^VmHWM/ { print $2 }' "/proc/$child/status"
    wait "$tracer"
}
peak_memory apply istio "${istio[@]}" --dual-stack >"$work/memory"
peak_memory apply istio "${istio[@]}" -x "$(networks 10000)" >"$work/memory-10000"

# Programs executed, processes started, and files opened for writing.
"$work/new-pod" dual
$inside strace -f -qq -o "$work/trace" "$binary" apply istio "${istio[@]}" --dual-stack 2>/dev/null
executed=$(grep -cE ' execve(at)?\(' "$work/trace")
started=$(grep -cE ' (clone|clone3|fork|vfork)\(' "$work/trace" || true)
written=$(grep -cE ' (creat|(open(at|at2)?)\(.*O_(WRONLY|RDWR|CREAT))' "$work/trace" || true)
# Written only where it exists, which is in a container.
termination=$(grep -c 'termination-log' "$work/trace" || true)
/usr/bin/python3 - "$work" "$(stat -c %s "$binary")" "$executed" "$started" "$written" "$termination" "$runs" <<'PYTHON'
import glob
import json
import statistics
import sys

work, size, executed, started, written, termination, runs = sys.argv[1], *map(int, sys.argv[2:])


def times(name):
    """All times of a program, in milliseconds."""
    found = []
    for path in glob.glob(f"{work}/{name}.[0-9]*.json"):
        with open(path) as file:
            found += [1000 * time for time in json.load(file)["results"][0]["times"]]
    return found


def spread(name):
    """The span of the middle half."""
    first, _, third = statistics.quantiles(times(name), n=4)
    return f"{first - launcher:5.2f}-{third - launcher:<5.2f}"


launcher = statistics.median(times("launcher"))


def net(name):
    """Milliseconds beyond the launcher."""
    return statistics.median(times(name)) - launcher


def number(path):
    with open(f"{work}/{path}") as file:
        return int(file.read())


over = []


def bound(what, value, limit, unit=""):
    """The value beside its bound."""
    ok = value <= limit
    if not ok:
        over.append(what)
    return f"at most {limit:,}{unit}: {'holds' if ok else 'EXCEEDED'}"


first, _, third = statistics.quantiles(times("launcher"), n=4)
print(f"Milliseconds, medians of {runs} runs, each in a new network namespace, less the {launcher:.2f} ms that nsenter takes to start")
print(f"/bin/true there (half of its runs: {first:.2f}-{third:.2f}). \"half of runs\" is where the middle half lies: how noisy the machine is.")
print()
print(f"{'apply':30}{'time':>6}  {'half of runs':13}{'bare restore of the same rules':39}{'time':>6}{'ratio':>8}   bound")
for title, own, mesh, families, limit in [
    ("istio, IPv4", "istio4", "istio", "4", 0.6),
    ("istio, dual stack", "istio46", "istio", "46", 0.5),
    ("linkerd, dual stack", "linkerd46", "linkerd", "46", 0.5),
]:
    for backend, program in [("nftables", "nft"), ("legacy", "legacy")]:
        run = f"{own}-{backend}"
        restore = sum(net(f"{mesh}-{program}-{family}") for family in families)
        names = f"iptables-{program}-restore" + (" + ip6tables-…" if len(families) == 2 else "")
        ratio = net(run) / restore
        verdict = bound(f"{title}, {backend}", round(ratio, 2), limit)
        print(f"{f'{title}, {backend}':30}{net(run):6.2f}  {spread(run):13}{names:39}{restore:6.2f}{ratio:8.2f}   {verdict}")
print(f"{'istio, IPv4, auto':30}{net('istio4-auto'):6.2f}  {spread('istio4-auto'):13}")
print()
print(f"{'':30}{'nftables':22}  legacy")
print(f"{'apply, excluded CIDRs':30}{'time':>6}  half of runs{'time':>10}  half of runs")
for count in [10, 100, 1000, 10000]:
    names = [f"cidrs-{count}-{backend}" for backend in ["nftables", "legacy"]]
    note = bound("10,000 CIDRs", round(max(map(net, names))), 200, " ms") if count == 10000 else ""
    columns = "".join(f"{net(name):6.2f}  {spread(name):16}" for name in names)
    print(f"{count:<30,}{columns}{note}")


def first_packet(case):
    """Microseconds that sending a connection's first packet takes."""
    with open(f"{work}/first-packet.{case}") as file:
        return statistics.median(map(float, file))


bare = first_packet("none")
print()
print(f"Microseconds that the rules add to sending a connection's first packet ({bare:.1f} without any):")
print(f"{'excluded CIDRs':30}{'nftables':>8}{'legacy':>10}")
for count in [10, 10000]:
    columns = [first_packet(f"{count}-{backend}") - bare for backend in ["nftables", "legacy"]]
    print(f"{count:<30,}{columns[0]:8.1f}{columns[1]:10.1f}")
print()
print(f"{'peak memory, dual stack':36}{number('memory'):9,} KiB   {bound('peak memory', number('memory'), 2048, ' KiB')}")
print(f"{'peak memory, 10,000 CIDRs':36}{number('memory-10000'):9,} KiB")
print(f"{'size of the program':36}{size:9,} bytes {bound('size', size, int(1.7 * 2**20), ' bytes (static glibc)')}")
print(f"{'programs executed, itself included':36}{executed:9,}       {bound('programs', executed, 1)}")
print(f"{'processes started':36}{started:9,}       {bound('processes', started, 0)}")
print(f"{'files opened for writing':36}{written:9,}       {bound('files', written - termination, 0, ' but the termination log')}")
if over:
    print(f"\nexceeded: {', '.join(over)}")
    sys.exit(1)
PYTHON
