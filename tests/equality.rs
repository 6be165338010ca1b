//! The rules are the originals': for every fixture the kernel holds exactly what the real iptables makes of the
//! expected text, whichever way the program was started, and the text that `dump` prints is worth the same.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod common;

use common::fixture::{Vector, all_vectors, recorded, rules_by_table};
use common::{Family, Namespace, Privilege, Saved, check_all};

/// Counters only ever grow; one that is smaller was lost.
fn lost_counters(before: &Saved, after: &Saved) -> Vec<String> {
    let mut lost = Vec::new();
    for (table, chains) in &before.tables {
        for (name, chain) in chains {
            let found = after.tables.get(table).and_then(|chains| chains.get(name));
            let mut pairs = vec![(format!("{table} {name}"), chain.counters, found.and_then(|chain| chain.counters))];
            for (index, rule) in chain.rules.iter().enumerate() {
                let other = found.and_then(|chain| chain.rules.get(index));
                pairs.push((format!("{table} {rule}"), counters(rule), other.and_then(|rule| counters(rule))));
            }
            lost.extend(
                pairs.into_iter().filter(|(_, before, after)| after < before).map(|(what, _, after)| format!("{what}: now {after:?}")),
            );
        }
    }
    lost
}

fn counters(rule: &str) -> Option<(u64, u64)> {
    let (packets, bytes) = rule.strip_prefix('[')?.split_once(']')?.0.split_once(':')?;
    Some((packets.parse().ok()?, bytes.parse().ok()?))
}

/// Something for the counters to count.
fn make_traffic(pod: &Namespace) {
    pod.inside(|| {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let socket = std::net::UdpSocket::bind(any).unwrap();
            let to = std::net::SocketAddr::new(socket.local_addr().unwrap().ip(), 9);
            for _ in 0..3 {
                // Nobody listens there, which the second packet may be told.
                let _ = socket.send_to(b"x", to);
            }
        }
    });
}

/// The `iptables` crate has to read the same as `iptables-save`.
fn wrong_listings(pod: &Namespace, judge: &Namespace, expected: &[Saved; 2]) -> Vec<String> {
    let mut problems = Vec::new();
    for (family, saved) in Family::BOTH.into_iter().zip(expected) {
        for table in saved.tables.keys() {
            let (found, wanted) = (pod.listed(family, table), judge.listed(family, table));
            if found != wanted {
                problems.push(format!("{} -t {table} -S differs: {found:#?}, expected {wanted:#?}", family.iptables()));
            }
        }
    }
    problems
}

#[test]
fn drop_ins_leave_the_originals_rules() {
    require_root!();
    check_all(&all_vectors(), Vector::title, |vector| {
        let pod = vector.pod();
        let outcome = vector.drop_in(&pod);
        let mut problems = Vec::new();
        if outcome.code != vector.exit {
            problems.push(format!("exit {}, expected {}", outcome.code, vector.exit));
        }
        if vector.installs() {
            let (judge, expected) = vector.expected();
            problems.extend(vector.wrong_in(&pod, &expected));
            problems.extend(wrong_listings(&pod, &judge, &expected));
            if !outcome.stdout.contains("COMMIT") && vector.mesh == "istio" {
                problems.push("the rules now in the kernel are not in the log".to_owned());
            }
        } else {
            problems.extend(pod.legacy_tables());
            problems.extend(vector.wrong_in(&pod, &Default::default()));
            if ["dry-run", "dry-run-env", "simulate"].contains(&vector.name.as_str()) && !outcome.stdout.contains("-A O") {
                problems.push("the plan is not printed".to_owned());
            }
        }
        if !problems.is_empty() {
            problems.push(outcome.to_string());
        }
        problems
    });
}

#[test]
fn apply_installs_verify_agrees_and_a_second_run_changes_nothing() {
    require_root!();
    let vectors: Vec<Vector> = all_vectors().into_iter().filter(Vector::suits_verbs).collect();
    check_all(&vectors, Vector::title, |vector| {
        let pod = vector.pod();
        let (_judge, expected) = vector.expected();
        let first = vector.verb(&pod, "apply");
        if first.code != 0 {
            return vec![first.to_string()];
        }
        let mut problems = vector.wrong_in(&pod, &expected);
        let verified = vector.verb(&pod, "verify");
        if verified.code != 0 {
            problems.push(verified.to_string());
        }
        make_traffic(&pod);
        let before = Family::BOTH.map(|family| pod.legacy_save_counted(family));
        let second = vector.verb(&pod, "apply");
        if second.code != 0 || !second.text().contains("already in place") {
            problems.push(format!("not already in place: {second}"));
        }
        for (family, before) in Family::BOTH.into_iter().zip(&before) {
            problems.extend(lost_counters(before, &pod.legacy_save_counted(family)));
        }
        problems.extend(vector.wrong_in(&pod, &expected));
        problems
    });
}

#[test]
fn what_dump_prints_is_what_the_real_iptables_loads() {
    require_root!();
    let vectors: Vec<Vector> = all_vectors().into_iter().filter(Vector::suits_verbs).collect();
    check_all(&vectors, Vector::title, |vector| {
        // Planned where there is no pod, by a user who may do nothing, and loaded by the real iptables elsewhere.
        let (nowhere, elsewhere) = (Namespace::new(), Namespace::new());
        let (_judge, expected) = vector.expected();
        let mut problems = Vec::new();
        for (family, expected) in Family::BOTH.into_iter().zip(&expected) {
            let outcome = dump(vector, &nowhere, family);
            if outcome.code != 0 {
                problems.push(outcome.to_string());
                continue;
            }
            if let Err(error) = elsewhere.try_legacy_restore(family, &outcome.stdout) {
                problems.push(format!("the real iptables does not take the dump: {error}\n{}", outcome.stdout));
            }
            let differences = expected.differences(&elsewhere.legacy_save(family));
            if !differences.is_empty() {
                problems.push(format!("{}: the dump differs (- missing, + too much)\n{}", family.iptables(), differences.join("\n")));
            }
        }
        problems.extend(nowhere.legacy_tables());
        problems
    });
}

/// `dump` with what the pod would know said on the command line.
fn dump(vector: &Vector, nowhere: &Namespace, family: Family) -> common::Outcome {
    let mut args = vec!["dump".to_owned(), vector.mesh.to_owned(), "--format=iptables".to_owned(), format!("--family={}", family.digit())];
    for address in &vector.addresses {
        args.push(format!("--pod-ip={}", address.split('/').next().unwrap()));
    }
    let servers = vector.resolv_conf.iter().flat_map(|text| text.lines()).filter_map(|line| {
        let mut words = line.split_whitespace();
        let server = (words.next() == Some("nameserver")).then(|| words.next()).flatten()?;
        server.parse::<std::net::IpAddr>().ok()
    });
    args.extend(servers.map(|server| format!("--dns-server={server}")));
    if let Some(groups) = &vector.groups {
        args.push(format!("--group-file={}", nowhere.file("groups", groups).display()));
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    // /etc/group is the pod's too, but the path that was given counts.
    vector.program(nowhere, &args).with(Privilege::None(65534)).run()
}

#[test]
fn recorded_command_lines_leave_what_the_originals_left() {
    require_root!();
    for mesh in ["istio", "linkerd"] {
        check_all(
            &recorded(mesh),
            |example| format!("{mesh} {}", example.name),
            |example| {
                let vector = example.as_vector(mesh);
                let pod = vector.pod();
                let outcome = vector.drop_in(&pod);
                let mut problems = Vec::new();
                if outcome.code != vector.exit {
                    problems.push(outcome.to_string());
                }
                for family in Family::BOTH {
                    let (found, expected) = (rules_by_table(&pod.legacy_save(family)), example.rules(family));
                    if found != expected {
                        problems.push(format!("{}: {found:#?}, expected {expected:#?}", family.iptables()));
                    }
                }
                if pod.lo_has_6() != vector.lo_has_6 {
                    problems.push(format!("::6 on lo: {}", pod.lo_has_6()));
                }
                problems
            },
        );
    }
}
