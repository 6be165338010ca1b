//! Pods with a user namespace of their own: the program works where the network belongs to that namespace, and says
//! what is the matter where it does not.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod common;

use common::nft::assert_in_place;
use common::{Family, Namespace, Outcome, UserNamespace};

const ADDRESSES: [&str; 2] = ["10.9.0.2/24", "2001:db8:9::2/64"];
const ISTIO: [&str; 10] = ["istio", "--dual-stack", "-m", "TPROXY", "-b", "*", "-i", "*", "-u", "1337"];
const LINKERD: [&str; 7] = ["linkerd", "-p", "4143", "-o", "4140", "-u", "2102"];

fn run(users: &UserNamespace, pod: &Namespace, verb: &str, words: &[&str]) -> Outcome {
    pod.mesh_init(&[&[verb], words].concat()).in_user_namespace(users).run()
}

#[test]
fn nf_tables_of_the_user_namespaces_own_is_worked_on_as_any() {
    require_root!();
    for words in [&ISTIO[..], &LINKERD] {
        let users = UserNamespace::new();
        let (pod, usual) = (Namespace::pod_of(&users, &ADDRESSES), Namespace::pod(&ADDRESSES));
        let inside = |verb: &str, words: &[&str]| {
            pod.mesh_init(&[&[verb], words].concat()).backend("nftables").in_user_namespace(&users).run().expect(0)
        };
        usual.mesh_init(&[&["apply"], words].concat()).backend("nftables").run().expect(0);
        inside("apply", words);
        assert_eq!(pod.nft_ruleset(), usual.nft_ruleset());
        inside("verify", words);
        assert_in_place(inside("apply", words));
        inside("remove", &words[..1]);
        assert_eq!(pod.nft_ruleset(), "");
    }
}

#[test]
fn a_network_of_the_user_namespaces_own_is_worked_on_as_any() {
    require_root!();
    for words in [&ISTIO[..], &LINKERD] {
        let users = UserNamespace::new();
        let pod = Namespace::pod_of(&users, &ADDRESSES);
        // What the same command line leaves in a pod without a user namespace.
        let usual = Namespace::pod(&ADDRESSES);
        usual.mesh_init(&[&["apply"], words].concat()).run().expect(0);
        let before = pod.state();

        run(&users, &pod, "apply", words).expect(0);
        assert_eq!(usual.state().differences(&pod.state()), Vec::<String>::new());
        assert!(pod.legacy_save(Family::V6).lines().iter().any(|line| line.contains("--uid-owner")));
        run(&users, &pod, "verify", words).expect(0);
        let again = run(&users, &pod, "apply", words).expect(0);
        assert!(again.text().contains("already in place"), "{again}");
        let live = run(&users, &pod, "dump", &["live"]).expect(0);
        assert!(live.stdout.contains(&format!("--uid-owner {}", words.last().unwrap())), "{live}");

        run(&users, &pod, "remove", &words[..1]).expect(0);
        assert_eq!(before.differences(&pod.state()), Vec::<String>::new());
    }
}

#[test]
fn an_owner_whom_the_user_namespace_does_not_know_is_an_error() {
    require_root!();
    let users = UserNamespace::new();
    let pod = Namespace::pod_of(&users, &ADDRESSES);
    let before = pod.state();
    for words in
        [&["istio", "--dual-stack", "-b", "*", "-i", "*", "-u", "70000"][..], &["linkerd", "-p", "4143", "-o", "4140", "-g", "70000"]]
    {
        let outcome = run(&users, &pod, "apply", words).expect(11);
        let lines = outcome.lines();
        let line = lines.last().unwrap();
        assert!(line.contains("nat rules") && line.contains("not mapped in the pod's user namespace"), "{outcome}");
        assert_eq!(before.differences(&pod.state()), Vec::<String>::new());
    }
    // What was in force stays so.
    run(&users, &pod, "apply", &LINKERD).expect(0);
    let before = pod.state();
    run(&users, &pod, "apply", &["linkerd", "-p", "4143", "-o", "4140", "-u", "70000"]).expect(11);
    assert_eq!(before.differences(&pod.state()), Vec::<String>::new());
    run(&users, &pod, "verify", &LINKERD).expect(0);
}

#[test]
fn a_network_of_another_user_namespace_is_told() {
    require_root!();
    let users = UserNamespace::new();
    let pod = Namespace::pod(&ADDRESSES);
    for verb in ["apply", "verify"] {
        for words in [&ISTIO[..], &LINKERD] {
            let outcome = run(&users, &pod, verb, words).expect(11);
            let lines = outcome.lines();
            assert_eq!(lines.len(), 1, "{outcome}");
            let sentence = "the network namespace belongs to another user namespace than the program's";
            assert!(lines[0].contains(sentence) && lines[0].contains("hostUsers: true"), "{outcome}");
        }
    }
    pod.mesh_init(&["istio-iptables", "-b", "*"]).in_user_namespace(&users).run().expect(1);
    // Planning asks the kernel for nothing that it would refuse.
    pod.mesh_init(&["dump", "istio", "-b", "*"]).in_user_namespace(&users).run().expect(0);
    assert_eq!(pod.legacy_tables(), Vec::<String>::new());
    // Where there are rules they can neither be shown nor taken out.
    pod.mesh_init(&[&["apply"], &LINKERD[..]].concat()).run().expect(0);
    let before = pod.state();
    for words in [&["remove"][..], &["dump", "live"]] {
        let outcome = pod.mesh_init(words).in_user_namespace(&users).run().expect(11);
        assert_eq!(outcome.lines().len(), 1, "{outcome}");
    }
    assert_eq!(before.differences(&pod.state()), Vec::<String>::new());
}
