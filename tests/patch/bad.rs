//! Manifests that cannot be patched: one clear line with the place for each, and nothing is written.

use crate::program::{Folder, mesh_patch};

/// What is said of `text`. Nothing may come out.
#[track_caller]
fn refused(text: impl AsRef<[u8]>) -> String {
    let ran = mesh_patch(&["--runtime-class", "kata"], text).expect(1);
    assert_eq!(ran.stdout, "");
    let line = ran.stderr.strip_suffix('\n').unwrap();
    assert!(!line.contains('\n'), "{line}");
    line.strip_prefix("mesh-patch: error: stdin: ").unwrap_or_else(|| panic!("{line}")).to_owned()
}

/// A deployment with these lines in the pod's spec.
fn deployment(spec: &str) -> String {
    let spec = spec.replace('\n', "\n      ");
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: web\n  namespace: shop\nspec:\n  template:\n    spec:\n      {spec}\n"
    )
}

#[test]
fn broken_yaml() {
    for (text, place) in [
        ("a: [1\n", "document 1, line 1: not YAML: "),
        ("a: 1\n---\nb:\n  - c\n d: 2\n", "document 2, line 5: not YAML: "),
        ("a: 1\n b: 2\n", "document 1, line 2: not YAML: "),
        ("a: \"x\n", "document 1, line 1: not YAML: "),
        ("a: *gone\n", "document 1, line 1: not YAML: "),
        ("{\"a\": 1,, \"b\": 2}\n", "document 1, line 1: not YAML: "),
        ("---\na: &a [*a]\n", "document 1, line 2: an alias stands inside the very node that it refers to"),
        ("<<: 1\n", "document 1, line 1: the merge key << takes a mapping or a list of mappings"),
        ("error: no such command\n---\nfailed\n", "document 2, line 3: a text where an object has to be"),
        ("- a\n", "document 1, line 1: a list where an object has to be"),
    ] {
        let said = refused(text);
        assert!(said.starts_with(place), "{text:?}: {said}");
    }
    let said = refused(b"a: 1\nb: \xff\n");
    assert_eq!(said, "line 2: not UTF-8");
}

#[test]
fn wrong_types() {
    for (spec, says) in [
        ("containers: x", "document 1, line 9: Deployment shop/web: spec.template.spec.containers: a text where a list has to be"),
        (
            "containers:\n- name: app\ninitContainers: {}",
            "document 1, line 11: Deployment shop/web: spec.template.spec.initContainers: an object where a list has to be",
        ),
        (
            "initContainers:\n- istio-init",
            "document 1, line 10: Deployment shop/web: spec.template.spec.initContainers[0]: a text where an object has to be",
        ),
        (
            "initContainers:\n- name: 1",
            "document 1, line 10: Deployment shop/web: spec.template.spec.initContainers[0].name: a number where a text has to be",
        ),
        (
            "initContainers:\n- name: istio-init\n  args:\n  - istio-iptables\n  - 15001",
            "document 1, line 13: Deployment shop/web: spec.template.spec.initContainers[0].args[1]: a number where a text has to be",
        ),
        (
            "initContainers:\n- name: istio-init\n  args: [istio-iptables]\n  securityContext: []",
            "document 1, line 12: Deployment shop/web: spec.template.spec.initContainers[0].securityContext: a list where an object has to be",
        ),
        (
            "initContainers:\n- name: istio-init\n  args: [istio-iptables]\n  securityContext: {capabilities: {add: NET_ADMIN}}",
            "document 1, line 12: Deployment shop/web: spec.template.spec.initContainers[0].securityContext.capabilities.add: a text where a list has to be",
        ),
        (
            "containers:\n- name: app\n  securityContext: {privileged: \"true\"}\ninitContainers:\n- name: istio-init\n  args: [istio-iptables]",
            "document 1, line 11: Deployment shop/web: spec.template.spec.containers[0].securityContext.privileged: a text where true or false has to be",
        ),
    ] {
        assert_eq!(refused(deployment(spec)), says);
    }
    assert_eq!(
        refused("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: 3\n"),
        "document 1, line 4: Pod a: spec: a number where an object has to be"
    );
}

#[test]
fn a_key_that_stands_twice() {
    let text = deployment("initContainers:\n- name: istio-init\n  args: [istio-iptables]\n  image: a\n  image: b");
    assert_eq!(
        refused(text),
        "document 1, line 13: the key \"image\" stands here a second time (the first is on line 12); which one counts depends on who reads it"
    );
    // Where nothing is to be changed it is nobody's business.
    let text = "apiVersion: v1\nkind: ConfigMap\ndata: {a: b, a: c}\n";
    assert_eq!(mesh_patch::<&str>(&[], text).expect(0).stdout, text);
}

#[test]
fn commands_that_the_image_does_not_have() {
    for (container, says) in [
        (
            "- name: istio-init\n  command: [/bin/sh, -c]\n  args: [iptables -L]",
            "line 11: Deployment shop/web: spec.template.spec.initContainers[0].command: \"/bin/sh -c iptables -L\" is not what the mesh's template runs here, and the image has no other program",
        ),
        (
            "- name: istio-init\n  args: [istio-iptables, -p, '99999']",
            "line 11: Deployment shop/web: spec.template.spec.initContainers[0].args: mesh-init would not take these arguments: ",
        ),
        (
            "- name: linkerd-init\n  args: [--incoming-proxy-port, '4143', --outgoing-proxy-port, '4140', --bogus]",
            "line 11: Deployment shop/web: spec.template.spec.initContainers[0].args: mesh-init would not take these arguments: unknown flag: --bogus",
        ),
        (
            "- name: linkerd-network-validator\n  args: [--listen-addr, '4140']",
            "line 11: Deployment shop/web: spec.template.spec.initContainers[0].args: mesh-init would not take these arguments: --listen-addr: \"4140\" is not an address and a port",
        ),
        (
            "- name: linkerd-network-validator\n  command: [/usr/lib/linkerd/linkerd2-network-validator, --bogus]",
            "line 11: Deployment shop/web: spec.template.spec.initContainers[0].command: mesh-init would not take these arguments: unknown flag: --bogus",
        ),
        (
            "- name: linkerd-init\n  args: [-p, '4143', -o, '4140', --timeout-close-wait-secs, '60']\n  securityContext: {privileged: true}",
            "line 11: Deployment shop/web: spec.template.spec.initContainers[0].args[4]: writing this kernel setting takes a privileged container; leave it out, or except the container with --keep-privileged linkerd-init",
        ),
    ] {
        let said = refused(deployment(&format!("initContainers:\n{container}")));
        assert!(said.starts_with(&format!("document 1, {says}")), "{said}");
    }
}

#[test]
fn all_errors_are_said_and_no_file_is_written() {
    let folder = Folder::new();
    let good = deployment("initContainers:\n- name: istio-init\n  args: [istio-iptables]");
    let bad = deployment("hostNetwork: true\nhostPID: true\ninitContainers:\n- name: istio-init\n  args: [istio-iptables]");
    let (one, two) = (folder.file("a.yaml", &good), folder.file("b.yaml", &bad));
    folder.file("c.yaml", "a: [");
    let arguments = ["--in-place", "--runtime-class", "kata", folder.path().to_str().unwrap()];
    let ran = mesh_patch(&arguments, "").expect(1);
    let lines: Vec<&str> = ran.stderr.lines().map(|line| line.rsplit_once(".yaml: ").unwrap().1).collect();
    assert_eq!(
        lines,
        [
            "document 1, line 1: not YAML: unclosed bracket '['",
            "document 1, line 9: Deployment shop/web: spec.template.spec.hostNetwork: Kata Containers cannot do this: the guest has a network of its own, not the node's",
            "document 1, line 10: Deployment shop/web: spec.template.spec.hostPID: Kata Containers cannot do this: the guest sees none of the node's processes",
        ]
    );
    assert_eq!(std::fs::read_to_string(one).unwrap(), good);
    assert_eq!(std::fs::read_to_string(two).unwrap(), bad);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
}

#[test]
fn every_line_break_counts() {
    for newline in ["\n", "\r\n", "\r"] {
        assert!(refused("a: 1\n# x\n---\nb: [\n".replace('\n', newline)).starts_with("document 2, line 4: not YAML: "));
        let pod = deployment("hostUsers: false\nruntimeClassName: kata\ninitContainers: [{name: istio-init, args: [istio-iptables]}]");
        assert!(refused(pod.replace('\n', newline)).starts_with("document 1, line 9: Deployment shop/web: "), "{newline:?}");
    }
}

#[test]
fn deep_nesting_and_bombs_end_in_a_line() {
    assert_eq!(refused("[".repeat(3_000_000)), "document 1, line 1: nested more than 200 levels deep");
    assert_eq!(refused(format!("a: {}", "{a: ".repeat(1_000_000))), "document 1, line 1: nested more than 200 levels deep");
    assert!(refused("- ".repeat(1_000_000)).ends_with("nested more than 200 levels deep"));
    let steps: String = (0..3000).map(|level| format!("{}a:\n", " ".repeat(level))).collect();
    assert!(refused(steps).ends_with("nested more than 200 levels deep"));
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..30 {
        bomb.push_str(&format!("a{level}: &a{level} [{}]\n", vec![format!("*a{}", level - 1); 10].join(", ")));
    }
    assert!(refused(bomb).contains("aliases make more than "));
    let mut tower = String::new();
    for level in 0..50 {
        let inner = if level == 0 { "x".to_owned() } else { format!("*a{}", level - 1) };
        tower.push_str(&format!("a{level}: &a{level} {}{inner}{}\n", "[".repeat(150), "]".repeat(150)));
    }
    assert!(refused(tower).ends_with("levels deep"));
}

#[test]
fn ten_megabytes_pass() {
    let config = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: c  # comment\ndata:\n  x: |\n    some text\n  y: [1, 2]\n---\n";
    let many = config.repeat(10_000_000 / config.len());
    let long = format!("apiVersion: v1\nkind: ConfigMap\ndata:\n  x: \"{}\"\n", "é".repeat(5_000_000));
    assert!(mesh_patch::<&str>(&[], &long).expect(0).stdout == long);
    // With something to do at the end of it.
    let pod = deployment("initContainers:\n- name: istio-init\n  args: [istio-iptables]");
    let after = mesh_patch::<&str>(&[], many.clone() + &pod).expect(0).stdout;
    assert!(after.starts_with(&many) && after.ends_with("            type: RuntimeDefault\n"), "{}", &after[many.len()..]);
    assert!(refused(many + "a: [").contains("line "));
}

#[test]
fn files_that_cannot_be_read() {
    let folder = Folder::new();
    let path = folder.path().join("gone.yaml");
    let ran = mesh_patch(&[&path], "").expect(1);
    assert_eq!(ran.stderr, format!("mesh-patch: error: {}: cannot be read: No such file or directory (os error 2)\n", path.display()));
    let ran = mesh_patch(&[folder.path()], "").expect(1);
    assert!(ran.stderr.ends_with(": no *.yaml, *.yml or *.json is in this folder\n"), "{}", ran.stderr);
}
