#!/usr/bin/env python3
"""Records what this machine's kernel answers, as seeds for the fuzz targets. Each case has a network namespace of its own.

Usage, as root: tests/fuzz/record.py PROGRAM FOLDER
PROGRAM is mesh-init; the seeds are written to FOLDER/TARGET/CASE. Afterwards `cargo fuzz cmin` leaves those that reach
code that others do not.
"""
import ctypes
import json
import os
import socket
import struct
import subprocess
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000
NETLINK_ROUTE, NETLINK_NETFILTER = 0, 12
REQUEST_DUMP = 0x301
NLMSG_ERROR, NLMSG_DONE = 2, 3
NFTABLES = 10 << 8
GETTABLE, GETCHAIN, GETRULE, GETSET, GETSETELEM, GETOBJ = 1, 4, 7, 10, 13, 19
RTM_GETADDR, RTM_GETROUTE, RTM_GETRULE = 22, 26, 34
GET_INFO, GET_ENTRIES = 64, 65
NATIVE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../fixtures/istio-native/native.json")

ISTIO = """
    iptables-nft-restore --noflush <<END
*nat
:ISTIO_INBOUND - [0:0]
:ISTIO_OUTPUT - [0:0]
:ISTIO_REDIRECT - [0:0]
-A PREROUTING -p tcp -j ISTIO_INBOUND
-A OUTPUT -p tcp -j ISTIO_OUTPUT
-A ISTIO_INBOUND -p tcp --dport 15008 -j RETURN
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001
-A ISTIO_OUTPUT -s 127.0.0.6/32 -o lo -j RETURN
-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -p tcp -m tcp ! --dport 15008 -m owner --uid-owner 1337 -j ISTIO_REDIRECT
-A ISTIO_OUTPUT -o lo -m owner ! --gid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -j ISTIO_REDIRECT
COMMIT
*mangle
:ISTIO_DIVERT - [0:0]
-A PREROUTING -p tcp -m mark --mark 0x539 -j CONNMARK --save-mark
-A PREROUTING -m conntrack --ctstate RELATED,ESTABLISHED -j ISTIO_DIVERT
-A PREROUTING ! -d 127.0.0.1/32 -i net+ -p tcp -j TPROXY --on-port 15006 --tproxy-mark 0x539/0xffffffff
-A OUTPUT -o lo -p tcp -m connmark --mark 0x539/0xff -j CONNMARK --restore-mark
-A ISTIO_DIVERT -j MARK --set-xmark 0x539/0xffffffff
-A ISTIO_DIVERT -m conntrack --ctstate INVALID -m comment --comment "a comment" -j DROP
COMMIT
*raw
-A PREROUTING -p udp -m udp --sport 53 -j CT --zone 1
-A OUTPUT -p udp -m udp --dport 53 -m owner --uid-owner 1337-1339 -j CT --zone 2
-A OUTPUT -p tcp -m multiport --dports 1,2:5,7 -m multiport ! --sports 9 -j NOTRACK
COMMIT
END
"""

FOREIGN = """
    iptables-nft-restore --noflush <<END
*nat
-A POSTROUTING -s 10.0.0.0/8 ! -o eth0 -j MASQUERADE
-A PREROUTING -d 10.1.2.3/32 -p tcp --dport 80 -j DNAT --to-destination 10.4.5.6:8080
COMMIT
*filter
:INPUT DROP [7:900]
:MINE - [0:0]
-A INPUT -p icmp --icmp-type echo-request -m limit --limit 5/sec -j ACCEPT
-A INPUT -f -j DROP
-A INPUT -p tcp --syn -g MINE
-A FORWARD -m physdev --physdev-in eth0 -j ACCEPT
-A MINE -p tcp --tcp-flags ALL NONE -j LOG --log-prefix "odd "
-A MINE -m addrtype --dst-type LOCAL -m statistic --mode random --probability 0.5 -j REJECT
-A MINE
COMMIT
END
"""


def nft(script):
    return "nft -f - <<'END'\n%s\nEND" % script


# What is recorded, and the shell commands that make it.
CASES = {
    "istio": ("nftables route", "MESH_INIT_BACKEND=nftables $MESH_INIT apply istio -b '*' -d 15090"),
    "istio-legacy": ("legacy", "MESH_INIT_BACKEND=legacy $MESH_INIT apply istio -b '80,8000:9000' -x 10.1.0.0/16 -k net1 -c net9"),
    "tproxy": ("nftables route", "MESH_INIT_BACKEND=nftables $MESH_INIT apply istio -m TPROXY -b 80,81 --drop-invalid"),
    "tproxy-legacy": ("legacy", "MESH_INIT_BACKEND=legacy $MESH_INIT apply istio -m TPROXY -b '*' --drop-invalid"),
    "lists": (
        "nftables",
        "MESH_INIT_BACKEND=nftables $MESH_INIT apply istio -b '*' -d 1,3,5,7,9,11,13,20:29 -i '*' "
        "-x 10.0.0.0/8,11.1.0.0/16,12.1.1.0/24,13.1.1.1/32,14.0.0.0/7,17.0.0.0/8,19.0.0.0/8,21.0.0.0/8",
    ),
    "linkerd": (
        "nftables",
        "MESH_INIT_BACKEND=nftables $MESH_INIT apply linkerd -p 4143 -o 4140 -u 2102 --inbound-ports-to-ignore 4190,4191",
    ),
    "linkerd-legacy": (
        "legacy",
        "MESH_INIT_BACKEND=legacy $MESH_INIT apply linkerd -p 4143 -o 4140 -u 2102 --subnets-to-ignore 10.0.0.0/8",
    ),
    "both-and-more": (
        "nftables",
        "export MESH_INIT_BACKEND=nftables; $MESH_INIT apply istio -b 80; $MESH_INIT apply linkerd -p 4143 -o 4140 --ipv6=false\n"
        + nft(
            """
add counter ip mesh-init total
add set ip mesh-init named { type inet_service; elements = { 80 }; }
add rule ip mesh-init ISTIO_OUTPUT th dport @named meta skuid != 5 drop
add table ip mesh-init { flags dormant; }"""
        ),
    ),
    "iptables-nft": ("nftables", ISTIO),
    "iptables-legacy": ("legacy", ISTIO.replace("iptables-nft", "iptables-legacy")),
    "foreign-nft": ("nftables", FOREIGN),
    "foreign-legacy": ("legacy", FOREIGN.replace("iptables-nft", "iptables-legacy")),
    "ip6-legacy": ("legacy", "ip6tables-legacy -A INPUT -s fe80::/10 -p ipv6-icmp -m hl --hl-eq 255 -j ACCEPT; ip6tables-legacy -P FORWARD DROP"),
    "empty-legacy": ("legacy", "for table in raw mangle nat filter security; do iptables-legacy -t $table -S; ip6tables-legacy -t $table -S; done"),
    "firewalld": (
        "nftables",
        nft(
            """
table inet firewalld {
    ct helper ftp { type "ftp" protocol tcp; }
    chain mangle_PREROUTING { type filter hook prerouting priority -140; policy accept; jump mangle_zones; }
    chain mangle_zones { iifname "eth0" goto public
        goto public
    }
    chain public { return; }
    chain filter_INPUT { type filter hook input priority 10; policy accept;
        ct state { established, related } accept
        ct status dnat accept
        iifname "lo" accept
        ct state invalid drop
        ip6 saddr fe80::/10 icmpv6 type { nd-neighbor-advert, nd-neighbor-solicit } accept
        ip6 daddr { ::/96, ::ffff:0.0.0.0/96, 2002::/24 } reject with icmpv6 type addr-unreachable
        tcp dport 22 ct state { new, untracked } accept
        reject with icmpx type admin-prohibited
    }
    chain nat_POSTROUTING { type nat hook postrouting priority 110; policy accept; meta nfproto ipv4 oifname != "lo" masquerade; }
}"""
        ),
    ),
    "sets": (
        "nftables",
        nft(
            """
table inet own {
    set banned { type ipv4_addr; flags interval, timeout; elements = { 10.0.0.0/8 timeout 1h, 192.0.2.1 } }
    set seen { type ipv4_addr; size 100; flags dynamic; }
    set pairs { type ipv4_addr . inet_service; flags interval; elements = { 10.0.0.0/8 . 80-90, 1.2.3.4 . 22 } }
    set everything { type inet_service; elements = { 1, * } }
    map marks { type inet_service : mark; elements = { 80 : 1, 443 : 2 } }
    map verdicts { type ifname : verdict; elements = { "eth0" : jump inner, "lo" : accept } }
    counter total { }
    chain inner { }
    chain input { type filter hook input priority filter; policy drop;
        ip saddr @banned drop
        ip saddr . tcp dport @pairs accept
        tcp dport @everything counter
        meta mark set tcp dport map @marks
        iifname vmap @verdicts
        tcp dport { 1-5, 6-9, 22, 60000-65535 } accept
        udp sport != { 53, 67 } ip daddr { 10.0.0.0/24, 10.0.1.0/24 } return
        ip6 saddr { fd00::/8, fe80::1-fe80::9 } counter name total
        add @seen { ip saddr limit rate 5/second }
        tcp dport vmap { 80 : accept, 81 : goto inner }
    }
}"""
        ),
    ),
    "statements": (
        "nftables",
        nft(
            """
table ip own {
    chain output { type route hook output priority mangle; policy accept;
        meta mark set 1 ct mark set meta mark accept
        meta mark and 0xff00 == 0x1200 meta mark set meta mark and 0xff or 0x10
        meta skuid 1000-2000 meta skgid >= 5 tcp sport <= 1023 tcp dport != 80-90 drop
        ip daddr 10.1.0.0-10.2.255.255 ip saddr & 255.0.0.255 == 10.0.0.1 accept
        ip saddr != 10.0.0.0/9 ip protocol tcp oifname "eth*" tcp flags syn / syn,ack log prefix "x" limit rate 5/minute drop
        ct state established,related ct direction original ct zone set 7 comment "a comment"
        fib daddr type local quota over 5 mbytes notrack
        ip ttl set 5 ip dscp set cs1 meta priority set 1:2 reject with tcp reset
    }
    chain prerouting { type filter hook prerouting priority -150; policy accept;
        meta l4proto tcp tproxy to :15006 meta mark set 0x539 accept
        ct state ! invalid,new meta mark 1-5 jump deep
    }
    chain deep { numgen random mod 2 vmap { 0 : return, 1 : continue }
        ip daddr set 1.2.3.4
    }
    chain nat { type nat hook prerouting priority dstnat;
        tcp dport 80 redirect to :80-90
        tcp dport 81 dnat to 10.1.1.1:80
    }
}
table ip6 dormant {
    flags dormant
    chain input {
        type filter hook input priority 0
        ip6 nexthdr tcp ip6 saddr ::1 ip6 daddr & ffff:: == fd00:: accept
    }
}
table bridge b {
    chain c {
        type filter hook forward priority 0
        ether saddr 02:00:00:00:00:01 ip saddr 10.0.0.1 drop
    }
}
table arp a {
    chain c {
        type filter hook input priority 0
        arp operation request counter accept
    }
}
table netdev n {
    chain c {
        type filter hook ingress device lo priority 0
        ip saddr 10.0.0.1 dup to lo
    }
}"""
        ),
    ),
    "routes": (
        "route",
        """
        ip link add mesh0 type veth peer name mesh1; ip link set mesh0 up; ip link set mesh1 up
        ip addr add fd00::2/64 dev mesh0 nodad; ip addr add 10.2.2.2 peer 10.2.2.3/32 dev mesh0; ip addr add ::6/128 dev lo
        ip rule add fwmark 0x539 lookup 133 protocol 109; ip rule add fwmark 1/0xff lookup 7; ip -6 rule add not from fd00::/8 lookup 9
        ip rule add iif lo uidrange 1-5 ipproto tcp dport 80 lookup 12 priority 5; ip rule add to 10.0.0.0/8 prohibit
        ip rule add lookup main suppress_prefixlength 0; ip route add local default dev lo table 133
        ip -6 route add local default dev lo table 133; ip route add 10.9.0.0/16 via 10.2.2.3 dev mesh0 onlink table 100000
        ip route add blackhole default table 9; ip route add 10.8.0.0/16 nexthop via 10.2.2.3 dev mesh0 nexthop via 10.2.2.3 dev mesh0""",
    ),
}
CASES.update({"istio-native-" + case["name"]: ("nftables", nft("\n".join(case["script"]))) for case in json.load(open(NATIVE))})


def dump(protocol, kind, payload):
    """The messages of a list, without the one that ends it."""
    messages = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as netlink:
        netlink.send(struct.pack("=IHHII", 16 + len(payload), kind, REQUEST_DUMP, 1, 0) + payload)
        while True:
            data = netlink.recv(1 << 20)
            while data:
                length, answer = struct.unpack_from("=IH", data)
                if answer in (NLMSG_ERROR, NLMSG_DONE):
                    return b"".join(messages)
                messages.append(data[: (length + 3) & ~3])
                data = data[(length + 3) & ~3 :]


def messages_of(data):
    while data:
        length = (struct.unpack_from("=I", data)[0] + 3) & ~3
        yield data[:length]
        data = data[length:]


def attributes_of(data):
    found = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        found[kind & 0x3FFF] = data[:length]
        data = data[(length + 3) & ~3 :]
    return found


def text(message, kind):
    return attributes_of(message[20:]).get(kind, b"")[4:]


def nftables():
    """All of it, and each rule alone with its table and chain and the sets that it names: small seeds are quick."""

    def of(kind, family=0, names=b""):
        return list(messages_of(dump(NETLINK_NETFILTER, NFTABLES | kind, bytes([family, 0, 0, 0]) + names)))

    tables, chains, rules, sets = of(GETTABLE), of(GETCHAIN), of(GETRULE), []
    for message in of(GETSET):
        names = attributes_of(message[20:])
        padded = [names[kind] + bytes(-len(names[kind]) % 4) for kind in (1, 2)]
        sets.append((message, b"".join(of(GETSETELEM, message[16], b"".join(padded)))))
    whole = tables + chains + rules + [message + elements for message, elements in sets] + of(GETOBJ)
    seeds = [("nftables", "", b"".join(whole))]
    for number, rule in enumerate(rules):

        def is_of(message, kind):
            return message[16] == rule[16] and text(message, kind) == text(rule, 1)

        seed = [table for table in tables if is_of(table, 1)]
        seed += [chain for chain in chains if is_of(chain, 1) and text(chain, 3) == text(rule, 2)] + [rule]
        seed += [message + elements for message, elements in sets if is_of(message, 1) and text(message, 2) in rule]
        seeds.append(("nftables", "-%d" % number, b"".join(seed)))
    return seeds


def legacy():
    seeds = []
    for family, level, files, suffix in [(socket.AF_INET, 0, "ip", ""), (socket.AF_INET6, 41, "ip6", "6")]:
        with socket.socket(family, socket.SOCK_DGRAM) as door:

            def ask(option, argument):
                buffer = ctypes.create_string_buffer(argument, len(argument))
                length = ctypes.c_uint32(len(argument))
                if LIBC.getsockopt(door.fileno(), level, option, buffer, ctypes.byref(length)) != 0:
                    raise OSError(ctypes.get_errno(), "getsockopt")
                return buffer.raw

            for table in open("/proc/thread-self/net/%s_tables_names" % files).read().split():
                info = ask(GET_INFO, table.encode().ljust(84, b"\0"))
                size = struct.unpack_from("=I", info, 80)[0]
                entries = ask(GET_ENTRIES, table.encode().ljust(32, b"\0") + struct.pack("=II", size, 0) + bytes(size))
                seeds.append(("xtables", "-%s%s" % (table, suffix), info + entries))
    return seeds


def route():
    lists = [(RTM_GETADDR, bytes(8)), (RTM_GETRULE, bytes([2]) + bytes(11)), (RTM_GETRULE, bytes([10]) + bytes(11)), (RTM_GETROUTE, bytes(12))]
    return [("route", "", b"".join(dump(NETLINK_ROUTE, kind, fixed) for kind, fixed in lists))]


def record(name, recorders, script, program, folder):
    if LIBC.unshare(CLONE_NEWNET) != 0:
        sys.exit("cannot make a network namespace")
    command = ["sh", "-ec", "ip link set lo up; ip addr add 10.9.0.2/24 dev lo\n" + script]
    subprocess.run(command, env=dict(os.environ, MESH_INIT=program), stdout=subprocess.DEVNULL, check=True)
    for recorder in recorders.split():
        for target, suffix, answers in {"nftables": nftables, "legacy": legacy, "route": route}[recorder]():
            os.makedirs(os.path.join(folder, target), exist_ok=True)
            with open(os.path.join(folder, target, name + suffix), "wb") as seed:
                seed.write(answers)


def main():
    program, folder = map(os.path.abspath, sys.argv[1:])
    failed = []
    for name, (recorders, script) in CASES.items():
        child = os.fork()
        if child == 0:
            record(name, recorders, script, program, folder)
            os._exit(0)
        if os.waitpid(child, 0)[1] != 0:
            failed.append(name)
    if failed:
        sys.exit("not recorded: " + ", ".join(failed))


main()
