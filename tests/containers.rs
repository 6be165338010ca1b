//! The program in containers that a real container runtime makes: what `preflight` finds is what `apply` meets.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod common;

use common::Namespace;
use common::container::{Container, Grant};
use common::preflight::{Checks, assert_blocked};

const PREFLIGHT: [&str; 8] = ["preflight", "istio", "-b", "*", "-i", "*", "--format", "json"];
const APPLY: [&str; 6] = ["apply", "istio", "-b", "*", "-i", "*"];

/// What preflight finds in the container, which apply has to agree with.
fn found(container: &Container<'_>, code: i32) -> Checks {
    let ended = container.run(&PREFLIGHT);
    assert_eq!(ended.code, code, "{container:?} {ended:?}");
    let applied = container.run(&APPLY);
    assert_eq!(applied.code == 0, code == 0, "{container:?} {applied:?}");
    let report: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    Checks(report["checks"].as_array().unwrap().clone())
}

#[test]
fn root_with_net_admin_is_fit() {
    require_root!();
    let pod = Namespace::pod(&["10.9.0.2/24"]);
    for grant in [Grant::Kubernetes, Grant::Podman] {
        let found = found(&Container::new(&pod, 0, grant), 0);
        assert_blocked(&found, &[]);
        found.expect("capability", "ok");
    }
    let found = found(&Container::new(&Namespace::pod(&["10.9.0.2/24"]), 0, Grant::None), 4);
    assert_blocked(&found, &["capability"]);
    assert!(found.remedy("capability").contains("NET_ADMIN"), "{found:?}");
}

#[test]
fn another_user_has_it_from_podman_and_not_from_kubernetes() {
    require_root!();
    let pod = || Namespace::pod(&["10.9.0.2/24"]);
    let in_kubernetes = found(&Container::new(&pod(), 65534, Grant::Kubernetes), 4);
    assert_blocked(&in_kubernetes, &["capability"]);
    assert!(in_kubernetes.evidence("capability").contains("user 65534 is not root"), "{in_kubernetes:?}");
    assert!(in_kubernetes.remedy("capability").contains("setcap cap_net_admin+p"), "{in_kubernetes:?}");
    // As Linkerd's image has it.
    found(&Container::new(&pod(), 65534, Grant::Kubernetes).with_file_capability(), 0).expect("capability", "ok");
    let in_podman = found(&Container::new(&pod(), 65534, Grant::Podman), 0);
    in_podman.expect("capability", "ok");
    // Which legacy tables there are is root's to know.
    in_podman.expect("rules", "warning");
}

#[test]
fn a_setting_is_out_of_reach_in_any_container() {
    require_root!();
    let pod = Namespace::pod(&["10.9.0.2/24"]);
    let words = ["linkerd", "-p", "4143", "-o", "4140", "--timeout-close-wait-secs", "77"];
    let container = Container::new(&pod, 0, Grant::Kubernetes);
    let ended = container.run(&[&["preflight"], &words[..]].concat());
    let line = ended.stdout.lines().find(|line| line.starts_with("blocker ")).unwrap_or_default();
    assert!(line.contains("proc-sys") && line.contains("/proc/sys is read-only"), "{ended:?}");
    assert_eq!((ended.code, container.run(&[&["apply"], &words[..]].concat()).code), (4, 1));
}
