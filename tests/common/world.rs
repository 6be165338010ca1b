//! A pod with the world two hops away, and a gate at the first hop that counts what comes out of the pod.

use serde_json::Value;

use super::Family;
use super::namespace::{Namespace, run};
use super::program::Program;

/// A pod, the router that it is joined to, and a host behind the router that is at home at every address.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) pod: Namespace,
    pub(crate) router: Namespace,
    pub(crate) beyond: Namespace,
}

/// What came out of the pod over TCP and UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Out {
    /// Packets that go no further than the router.
    pub(crate) first_hop: u64,
    /// Others.
    pub(crate) further: u64,
}

impl Out {
    pub(crate) const NOTHING: Out = Out { first_hop: 0, further: 0 };
}

impl World {
    /// The pod's addresses.
    pub(crate) const POD: [&'static str; 2] = ["10.9.0.2", "2001:db8:9::2"];
    /// The router's.
    pub(crate) const ROUTER: [&'static str; 2] = ["10.9.0.1", "2001:db8:9::1"];

    /// With both families.
    pub(crate) fn new() -> World {
        World::with(&Family::BOTH)
    }

    /// The pod has addresses and default routes of these families.
    pub(crate) fn with(families: &[Family]) -> World {
        let (pod, router, beyond) = (Namespace::new(), Namespace::new(), Namespace::new());
        pod.ip(&[&format!("link add eth0 type veth peer name pod0 netns {}", router.name())]);
        router.ip(&[&format!("link add out0 type veth peer name in0 netns {}", beyond.name())]);
        for (own, device, addresses) in [
            (&router, "pod0", ["10.9.0.1/24", "2001:db8:9::1/64"]),
            (&router, "out0", ["10.8.0.1/24", "2001:db8:8::1/64"]),
            (&beyond, "in0", ["10.8.0.2/24", "2001:db8:8::2/64"]),
        ] {
            own.addresses(device, &addresses);
            own.await_local_routes(&addresses);
        }
        pod.ip(&["link set eth0 up"]);
        for (family, address, gateway) in
            [(Family::V4, "10.9.0.2/24", "default via 10.9.0.1"), (Family::V6, "2001:db8:9::2/64", "::/0 via 2001:db8:9::1")]
        {
            if families.contains(&family) {
                pod.addresses("eth0", &[address]);
                pod.await_local_routes(&[address]);
                pod.ip(&[&format!("route add {gateway}")]);
            }
        }
        router.ip(&["route add default via 10.8.0.2", "route add ::/0 via 2001:db8:8::2"]);
        run(router.command("sh").args(["-c", "for f in ipv4/ip_forward ipv6/conf/all/forwarding; do echo 1 > /proc/sys/net/$f; done"]));
        beyond.ip(&["route add local 0.0.0.0/0 dev lo table main", "route add local ::/0 dev lo table main"]);
        beyond.ip(&["route add 10.9.0.0/24 via 10.8.0.1", "route add 2001:db8:9::/64 via 2001:db8:8::1"]);
        router.nft_load(
            "table inet gate {
                counter near { }
                counter far { }
                chain gate {
                    type filter hook prerouting priority raw;
                    iifname != \"pod0\" accept
                    meta l4proto != { tcp, udp } accept
                    ip ttl 1 counter name near
                    ip ttl != 1 counter name far
                    ip6 hoplimit 1 counter name near
                    ip6 hoplimit != 1 counter name far
                }
            }",
        );
        World { pod, router, beyond }
    }

    /// What came out of the pod so far.
    pub(crate) fn out(&self) -> Out {
        let listed: Value = serde_json::from_str(&self.router.nft("-j list counters table inet gate")).unwrap();
        let packets = |name: &str| {
            let counters = listed["nftables"].as_array().unwrap().iter().filter_map(|item| item.get("counter"));
            counters.filter(|counter| counter["name"] == name).map(|counter| counter["packets"].as_u64().unwrap()).sum()
        };
        Out { first_hop: packets("near"), further: packets("far") }
    }

    /// The program in the pod, for the packet filter that is called so.
    pub(crate) fn mesh_init<S: AsRef<str>>(&self, backend: &str, args: &[S]) -> Program<'_> {
        self.pod.mesh_init(args).env("MESH_INIT_BACKEND", backend)
    }
}
