//! Every test asks the real kernel, in a network namespace of its own; `ip` is the witness.

use nix::errno::Errno;
use proptest::prelude::*;

use super::*;
use crate::host::testing::{in_new_namespace, run};
use crate::kernel::netlink::NetlinkError;
use crate::kernel::netlink::wire::Message;

const POLICY_V4: PolicyRoute = PolicyRoute { family: Family::V4, mark: 1337, table: 133 };
const POLICY_V6: PolicyRoute = PolicyRoute { family: Family::V6, mark: 1337, table: 133 };
/// A table beyond the one byte of the fixed parts.
const POLICY_WIDE: PolicyRoute = PolicyRoute { family: Family::V4, mark: 0, table: 100_133 };

fn dual() -> Routing {
    Routing { passthrough_v6: true, policy: vec![POLICY_V4, POLICY_V6] }
}

/// Everything that equals `routing`, whoever added it.
fn all_of(socket: &mut Socket, routing: &Routing) -> Stale {
    let mut stale = Stale { passthrough_v6: routing.passthrough_v6, rules: Vec::new() };
    for policy in &routing.policy {
        stale.rules.extend(rules(socket, policy.family).unwrap().into_iter().filter(|rule| rule.is(policy)));
    }
    stale
}

/// Takes away everything that equals `routing`.
fn remove_all(socket: &mut Socket, routing: &Routing, journal: &mut Journal) {
    let stale = all_of(socket, routing);
    remove(socket, &stale, journal).unwrap();
}

/// Everything that these functions may change, as `ip` shows it.
fn picture() -> String {
    // An address has its local route only when the kernel has found nobody else to have it.
    run("until [ -z \"$(ip -6 addr show lo tentative)\" ]; do sleep 0.01; done");
    run("ip -d rule; ip -6 -d rule; ip -d route show table all; ip -6 -d route show table all; ip -d addr show lo | grep -v qdisc")
}

#[test]
fn what_is_ensured_is_what_ip_would_have_made() {
    let mut ours = String::new();
    in_new_namespace("ensure", |socket| {
        ensure(socket, &dual(), &mut Journal::new()).unwrap();
        ours = picture();
    });
    in_new_namespace("ip", |_| {
        run("ip addr add ::6/128 dev lo");
        for family in ["-4", "-6"] {
            run(&format!("ip {family} rule add fwmark 1337 lookup 133 protocol 109"));
            run(&format!("ip {family} route add local default dev lo table 133 scope host"));
        }
        assert_eq!(ours, picture());
    });
}

#[test]
fn a_second_run_changes_nothing() {
    in_new_namespace("second run", |socket| {
        let mut routing = dual();
        routing.policy.push(POLICY_WIDE);
        assert_eq!(check(socket, &routing).unwrap().len(), 7);
        let mut journal = Journal::new();
        ensure(socket, &routing, &mut journal).unwrap();
        assert_eq!(journal.len(), 7);
        assert_eq!(check(socket, &routing).unwrap(), []);

        let before = picture();
        let mut second = Journal::new();
        ensure(socket, &routing, &mut second).unwrap();
        assert_eq!(second, []);
        assert_eq!(picture(), before);
    });
}

#[test]
fn what_somebody_else_added_counts() {
    in_new_namespace("somebody else", |socket| {
        run("ip addr add ::6/64 dev lo; ip rule add fwmark 1337/0xffffffff lookup 133 pref 7 protocol 99");
        run("ip route add local default dev lo table 133 scope host proto static metric 50");
        let mut journal = Journal::new();
        ensure(socket, &Routing { passthrough_v6: true, policy: vec![POLICY_V4] }, &mut journal).unwrap();
        assert_eq!(journal, []);
    });
}

#[test]
fn rules_that_look_alike_do_not_count() {
    in_new_namespace("look alike", |socket| {
        run("ip rule add fwmark 1337/0xfff lookup 133
             ip rule add fwmark 1337 lookup 134
             ip rule add not fwmark 1337 lookup 133
             ip rule add fwmark 1337 iif lo lookup 133
             ip rule add fwmark 1337 from 10.0.0.0/8 lookup 133
             ip rule add fwmark 1337 tos 0x10 lookup 133
             ip rule add fwmark 1337 uidrange 0-5 lookup 133
             ip rule add fwmark 1337 ipproto tcp lookup 133
             ip rule add fwmark 1337 lookup 133 suppress_prefixlength 0
             ip rule add fwmark 1337 blackhole
             ip -6 rule add fwmark 1337 lookup 133");
        let before = picture();
        assert_eq!(count_rules(socket, &POLICY_V4).unwrap(), 0);
        let mut journal = Journal::new();
        assert!(ensure_rule(socket, &POLICY_V4, &mut journal).unwrap());
        assert_eq!(count_rules(socket, &POLICY_V4).unwrap(), 1);
        remove_all(socket, &Routing { passthrough_v6: false, policy: vec![POLICY_V4] }, &mut journal);
        assert_eq!(journal.len(), 2);
        assert_eq!(picture(), before);
    });
}

#[test]
fn duplicates_go_and_come_back_in_their_places() {
    for (policy, ip) in [(POLICY_V4, "ip"), (POLICY_V6, "ip -6")] {
        in_new_namespace("duplicates", |socket| {
            for _ in 0..3 {
                run(&format!("{ip} rule add fwmark 1337 lookup 133"));
            }
            run(&format!("{ip} rule add fwmark 1337 lookup 133 pref 100 protocol 5; {ip} rule add fwmark 8 lookup 133"));
            let before = picture();
            let drift = check(socket, &Routing { passthrough_v6: false, policy: vec![policy] }).unwrap();
            assert_eq!(drift, [RoutingDrift::RuleRepeated { policy, times: 4 }, RoutingDrift::RouteMissing(policy)]);

            let mut journal = Journal::new();
            assert!(ensure_rule(socket, &policy, &mut journal).unwrap());
            assert_eq!(journal.len(), 3);
            assert!(!ensure_rule(socket, &policy, &mut journal).unwrap());
            // The one that was asked first stays.
            let left: Vec<u32> =
                rules(socket, policy.family).unwrap().iter().filter(|rule| rule.is(&policy)).map(|rule| rule.priority).collect();
            assert_eq!(left, [100]);

            assert_eq!(roll_back(socket, journal), []);
            assert_eq!(picture(), before);
        });
    }
}

#[test]
fn rules_of_one_priority_keep_their_order_over_a_roll_back() {
    in_new_namespace("one priority", |socket| {
        run("ip rule add fwmark 1 lookup 50 pref 100; ip rule add fwmark 1337 lookup 133 pref 100
             ip rule add fwmark 2 lookup 50 pref 100; ip rule add fwmark 3 lookup 50 pref 100; ip rule add fwmark 4 lookup 50 pref 101");
        let before = picture();
        let mut journal = Journal::new();
        remove_all(socket, &Routing { passthrough_v6: false, policy: vec![POLICY_V4] }, &mut journal);
        assert_eq!(journal.len(), 1);
        assert_ne!(picture(), before);
        assert_eq!(roll_back(socket, journal), []);
        assert_eq!(picture(), before);
    });
}

#[test]
fn a_roll_back_after_ensure_leaves_no_trace() {
    in_new_namespace("roll back ensure", |socket| {
        run("ip rule add fwmark 9 lookup 133; ip route add 10.9.0.0/16 dev lo table 133");
        let before = picture();
        let mut routing = dual();
        routing.policy.push(POLICY_WIDE);
        let mut journal = Journal::new();
        ensure(socket, &routing, &mut journal).unwrap();
        assert_eq!(journal.len(), 7);
        assert_eq!(roll_back(socket, journal.clone()), []);
        assert_eq!(picture(), before);
        // What is undone already is no error.
        assert_eq!(roll_back(socket, journal), []);
        assert_eq!(picture(), before);
    });
}

#[test]
fn a_roll_back_after_remove_brings_everything_back() {
    in_new_namespace("roll back remove", |socket| {
        run("ip addr add ::6/128 dev lo; ip rule add fwmark 1337 lookup 133 pref 12; ip rule add fwmark 1337 lookup 133
             ip -6 rule add fwmark 1337 lookup 133; ip route add local default dev lo table 133 scope host metric 9
             ip -6 route add local default dev lo table 133 metric 5");
        let before = picture();
        let mut journal = Journal::new();
        let stale = all_of(socket, &dual());
        remove(socket, &stale, &mut journal).unwrap();
        assert_eq!(check(socket, &dual()).unwrap().len(), 5);
        let mut again = Journal::new();
        remove(socket, &stale, &mut again).unwrap();
        assert_eq!(again, []);
        assert_eq!(roll_back(socket, journal), []);
        assert_eq!(picture(), before);
    });
}

#[test]
fn a_table_that_others_use_keeps_its_route() {
    for foreign in ["ip rule add fwmark 5 lookup 133", "ip route add 10.9.0.0/16 dev lo table 133"] {
        in_new_namespace("shared table", |socket| {
            run(foreign);
            let before = picture();
            let mut journal = Journal::new();
            ensure(socket, &Routing { passthrough_v6: false, policy: vec![POLICY_V4] }, &mut journal).unwrap();
            remove_all(socket, &Routing { passthrough_v6: false, policy: vec![POLICY_V4] }, &mut journal);
            assert_eq!(count_rules(socket, &POLICY_V4).unwrap(), 0);
            assert!(has_route(socket, &POLICY_V4).unwrap());
            assert_eq!(roll_back(socket, journal), []);
            assert_eq!(picture(), before);
        });
    }
}

#[test]
fn the_kernels_own_tables_keep_their_routes() {
    in_new_namespace("main table", |socket| {
        let main = PolicyRoute { table: 254, ..POLICY_V4 };
        run("ip route add local default dev lo scope host table main; ip rule add fwmark 1337 lookup main");
        let mut journal = Journal::new();
        remove_all(socket, &Routing { passthrough_v6: false, policy: vec![main] }, &mut journal);
        assert_eq!(journal.len(), 1);
        assert!(has_route(socket, &main).unwrap());
    });
}

/// The tables of the stale rules for these marks.
fn stale_tables(socket: &mut Socket, wanted: &[PolicyRoute], marks: &[u32]) -> Vec<u32> {
    stale_rules(socket, Family::V4, wanted, marks).unwrap().iter().map(|rule| rule.table).collect()
}

#[test]
fn rules_of_ours_are_stale_whatever_their_mark() {
    in_new_namespace("ours", |socket| {
        let other = PolicyRoute { mark: 98, table: 99, ..POLICY_V4 };
        for policy in [POLICY_V4, other] {
            ensure_rule(socket, &policy, &mut Journal::new()).unwrap();
        }
        run("ip rule add fwmark 1337 lookup 500; ip rule add fwmark 7 lookup 501 protocol 110");
        assert_eq!(stale_tables(socket, &[other], &[]), [133]);
        // Beside ours, other rules for the mark are somebody else's.
        assert_eq!(stale_tables(socket, &[other], &[1337]), [133]);
        // A rule that names another program is never taken.
        assert_eq!(stale_tables(socket, &[other], &[1337, 7]), [133]);
        run("ip rule add fwmark 7 lookup 502");
        assert_eq!(stale_tables(socket, &[other], &[1337, 7]), [502, 133]);
    });
}

#[test]
fn rules_of_nobody_known_are_stale_if_made_for_the_mark() {
    in_new_namespace("nobody known", |socket| {
        run("ip rule add fwmark 1337 lookup 133; ip route add local default dev lo table 133
             ip rule add fwmark 1337 lookup 134; ip route add 10.0.0.0/8 dev lo table 134
             ip rule add fwmark 1337 lookup main; ip rule add fwmark 1337 lookup 135; ip rule add fwmark 8 lookup 133");
        assert_eq!(stale_tables(socket, &[], &[]), [0; 0]);
        assert_eq!(stale_tables(socket, &[], &[1337]), [135, 133]);
        // A rule that is wanted for the mark, there or not, is the mesh's one.
        assert_eq!(stale_tables(socket, &[POLICY_V4], &[1337]), [0; 0]);
        assert_eq!(stale_tables(socket, &[PolicyRoute { table: 136, ..POLICY_V4 }], &[1337]), [0; 0]);
    });
}

#[test]
fn the_address_says_whose_it_is() {
    in_new_namespace("whose address", |socket| {
        assert_eq!(passthrough_v6_protocol(socket).unwrap(), None);
        run("ip addr add ::6/128 dev lo");
        assert_eq!(passthrough_v6_protocol(socket).unwrap(), Some(0));
        let mut journal = Journal::new();
        assert!(remove_passthrough_v6(socket, &mut journal).unwrap());
        assert!(add_passthrough_v6(socket, &mut journal).unwrap());
        assert_eq!(passthrough_v6_protocol(socket).unwrap(), Some(OUR_PROTOCOL));
        assert_eq!(roll_back(socket, journal), []);
        assert_eq!(passthrough_v6_protocol(socket).unwrap(), Some(0));
    });
}

#[test]
fn what_may_have_been_changed_is_undone_if_it_was() {
    let lost = || Err(NetlinkError::Receive(Errno::ENOMEM));
    // Every change of adding and of removing, as the journal has it when the kernel's answer is lost.
    let (mut added, mut removed) = (Journal::new(), Journal::new());
    let setup = "ip rule add fwmark 9 lookup 133 pref 32000; ip route add blackhole 10.9.0.0/16 table 133
                 ip -6 route add blackhole default metric 5 table 133";
    in_new_namespace("doubt", |socket| {
        run(setup);
        let before = picture();
        ensure(socket, &dual(), &mut added).unwrap();
        let full = picture();
        // All of it took place, then none of it.
        for _ in 0..2 {
            let mut journal = Journal::new();
            for change in &added {
                assert_eq!(journal::record(&mut journal, change.clone(), lost()), lost());
            }
            assert_eq!(journal, added);
            assert_eq!(roll_back(socket, journal), []);
            assert_eq!(picture(), before);
        }
        ensure(socket, &dual(), &mut Journal::new()).unwrap();
        assert_eq!(picture(), full);
    });
    in_new_namespace("doubt about removal", |socket| {
        ensure(socket, &dual(), &mut Journal::new()).unwrap();
        let full = picture();
        remove_all(socket, &dual(), &mut removed);
        assert_eq!(removed.len(), 5);
        for _ in 0..2 {
            let mut journal = Journal::new();
            for change in &removed {
                assert_eq!(journal::record(&mut journal, change.clone(), lost()), lost());
            }
            assert_eq!(roll_back(socket, journal), []);
            assert_eq!(picture(), full);
        }
    });
}

#[test]
fn only_a_change_that_the_kernel_did_not_make_is_not_written_down() {
    let change = || Change::RuleAdded(POLICY_V4);
    let malformed = crate::kernel::netlink::wire::Malformed("short");
    for (outcome, written) in [
        (Ok(()), true),
        (Err(NetlinkError::Receive(Errno::ENOBUFS)), true),
        (Err(NetlinkError::Timeout), true),
        (Err(NetlinkError::Malformed(malformed)), true),
        (Err(NetlinkError::Send(Errno::ENOMEM)), false),
        (Err(NetlinkError::Refused { errno: Errno::EEXIST, text: None, offset: None }), false),
    ] {
        let mut journal = Journal::new();
        assert_eq!(journal::record(&mut journal, change(), outcome.clone()), outcome);
        assert_eq!(!journal.is_empty(), written, "{outcome:?}");
    }
}

#[test]
fn another_default_route_in_the_table_is_an_error_of_its_own() {
    in_new_namespace("taken", |socket| {
        run("ip route add blackhole default table 133");
        let error = ensure_route(socket, &POLICY_V4, &mut Journal::new()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot add IPv4 route local default dev lo table 133: the table has another default route; choose another table or delete that route"
        );
    });
}

#[test]
fn a_loopback_device_without_ipv6_is_an_error_that_names_the_setting() {
    in_new_namespace("disable_ipv6", |socket| {
        std::fs::write("/proc/sys/net/ipv6/conf/lo/disable_ipv6", "1").unwrap();
        let mut journal = Journal::new();
        let error = add_passthrough_v6(socket, &mut journal).unwrap_err();
        assert_eq!(error.to_string(), "cannot add ::6/128 to lo: lo has IPv6 disabled; set net.ipv6.conf.lo.disable_ipv6=0");
        assert_eq!(journal, []);
        // What was done before the failure is in the journal all the same.
        let error = ensure(socket, &Routing { passthrough_v6: false, policy: vec![POLICY_V6] }, &mut journal).unwrap_err();
        assert!(matches!(error, RouteError::Ipv6DisabledOnLoopback { .. }), "{error}");
        assert_eq!(journal, [Change::RuleAdded(POLICY_V6)]);
        assert_eq!(roll_back(socket, journal), []);
        assert_eq!(count_rules(socket, &POLICY_V6).unwrap(), 0);
    });
}

#[test]
fn a_loopback_device_that_is_down_is_an_error_of_its_own() {
    in_new_namespace("down", |socket| {
        run("ip link set lo down");
        let error = ensure_route(socket, &POLICY_V6, &mut Journal::new()).unwrap_err();
        assert!(matches!(error, RouteError::LoopbackDown { .. }), "{error}");
    });
}

#[test]
fn without_the_capability_the_kernel_says_so() {
    in_new_namespace("no capability", |socket| {
        caps::clear(None, caps::CapSet::Effective).unwrap();
        let mut journal = Journal::new();
        for error in [
            add_passthrough_v6(socket, &mut journal).unwrap_err(),
            ensure_rule(socket, &POLICY_V4, &mut journal).unwrap_err(),
            ensure_route(socket, &POLICY_V4, &mut journal).unwrap_err(),
        ] {
            assert_eq!(error.errno(), Some(Errno::EPERM), "{error}");
        }
        assert_eq!(journal, []);
        // Reading needs none.
        assert_eq!(check(socket, &dual()).unwrap().len(), 5);
    });
}

#[test]
fn addresses_come_in_the_kernels_order_with_the_near_end_of_a_link() {
    in_new_namespace("addresses", |socket| {
        run("ip link add mesh0 type veth peer name mesh1; ip link set mesh0 up
             ip addr add fd00::2/64 dev mesh0 nodad; ip addr add 10.1.1.2/24 dev mesh0; ip addr add 10.2.2.2 peer 10.2.2.3/32 dev mesh0
             ip addr add 169.254.3.3/16 dev mesh1 scope link");
        let found = addresses(socket).unwrap();
        let texts: Vec<String> = found
            .iter()
            .filter(|found| found.family() == Family::V4)
            .map(|found| format!("{}/{} {}", found.address, found.prefix_len, found.scope))
            .collect();
        assert_eq!(texts, ["127.0.0.1/8 254", "169.254.3.3/16 253", "10.1.1.2/24 0", "10.2.2.2/32 0"]);
        let families: Vec<Family> = found.iter().map(Address::family).collect();
        assert!(families.is_sorted());
        assert!(found.iter().any(|found| found.address == "::1".parse::<std::net::IpAddr>().unwrap()));
        assert_eq!(ipv6_state(socket).unwrap(), Ipv6State::Global(vec!["fd00::2".parse().unwrap()]));
        run("ip addr del fd00::2/64 dev mesh0; ip addr add ::6/128 dev lo");
        assert_eq!(ipv6_state(socket).unwrap(), Ipv6State::LocalOnly);
    });
}

#[test]
fn many_rules_are_listed_over_several_datagrams() {
    in_new_namespace("many", |socket| {
        run("seq 2000 | sed 's/.*/rule add fwmark & lookup 7/' | ip -batch -");
        assert_eq!(rules(socket, Family::V4).unwrap().len(), 2003);
    });
}

proptest! {
    #[test]
    fn no_answer_makes_us_panic(
        kind in prop::sample::select(vec![libc::RTM_NEWADDR, libc::RTM_NEWRULE, libc::RTM_NEWROUTE]),
        family in prop::sample::select(vec![0u8, 2, 10]),
        rest in prop::collection::vec(any::<u8>(), 0..16),
        attributes in prop::collection::vec((0u16..26, prop::collection::vec(any::<u8>(), 0..20)), 0..8),
    ) {
        let mut payload = [&[family][..], &rest].concat();
        payload.resize(payload.len().next_multiple_of(4), 0);
        for (number, value) in attributes {
            payload.extend_from_slice(&(value.len() as u16 + 4).to_ne_bytes());
            payload.extend_from_slice(&number.to_ne_bytes());
            payload.extend_from_slice(&value);
            payload.resize(payload.len().next_multiple_of(4), 0);
        }
        let message = Message { kind, flags: 0, sequence: 1, payload: &payload };
        let _ = (Address::parse(&message), Rule::parse(&message), local::parse(&message, &POLICY_V4, 1));
    }
}
