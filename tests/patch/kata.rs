//! Pods for Kata Containers.

use crate::program::{IMAGE, changed_lines, fixture, mesh_patch, patched};

/// A pod with an init container of Istio's, and these lines in its spec.
fn pod(spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\nspec:\n  initContainers:\n  - args: [istio-iptables]\n    name: istio-init\n{spec}"
    )
}

/// The lines on stderr that are warnings.
fn warnings(text: &str, flags: &[&str]) -> Vec<String> {
    let ran = mesh_patch(flags, text).expect(0);
    ran.stderr.lines().filter_map(|line| line.strip_prefix("mesh-patch: warning: ")).map(str::to_owned).collect()
}

#[test]
fn a_runtime_class_is_set_or_replaced() {
    assert!(patched(&pod(""), &["--runtime-class", "kata-qemu"]).ends_with("\n  runtimeClassName: kata-qemu\n"));
    let lines = changed_lines(&pod("  runtimeClassName: \"gvisor\"  # was\n"), &["--runtime-class", "kata-qemu"]);
    assert!(lines.contains(&"+  runtimeClassName: \"kata-qemu\"  # was".to_owned()), "{lines:#?}");
    assert_eq!(warnings(&pod(""), &["--runtime-class", "kata-qemu"]), [""; 0]);
    let said = warnings(&pod(""), &["--runtime-class", "kata-qemu-coco-dev"]);
    assert!(said.len() == 1 && said[0].contains("spec.runtimeClassName: runtime classes that pull images inside the guest"), "{said:#?}");
}

#[test]
fn the_annotations_of_old_are_set_on_the_template_with_a_warning() {
    let cri_o = patched(&pod(""), &["--untrusted", "cri-o"]);
    assert!(cri_o.contains("metadata:\n  annotations:\n    io.kubernetes.cri-o.TrustedSandbox: \"false\"\n  name: web\n"), "{cri_o}");
    let containerd = patched(&pod(""), &["--untrusted", "containerd"]);
    assert!(containerd.contains("    io.kubernetes.cri.untrusted-workload: \"true\"\n"), "{containerd}");
    let said = warnings(&pod(""), &["--untrusted", "cri-o"]);
    assert_eq!(
        said,
        [
            "stdin: document 1, line 3: Pod web: metadata.annotations[\"io.kubernetes.cri-o.TrustedSandbox\"]: CRI-O ignores this annotation since 1.14: the pod \
          runs without a virtual machine and nothing says so; use --runtime-class"
        ]
    );
    let said = warnings(&pod(""), &["--untrusted", "containerd"]);
    assert!(said[0].contains("a runtime handler named \"untrusted\"") && said[0].ends_with("use --runtime-class"), "{said:#?}");
    let said = mesh_patch(&["--untrusted", "containerd"], pod("  runtimeClassName: kata\n")).expect(1).stderr;
    assert!(said.contains("line 9: Pod web: spec.runtimeClassName: containerd refuses a pod that has both"), "{said}");
    let deployment = std::fs::read_to_string(fixture("emojivoto.yaml")).unwrap();
    assert_eq!(
        patched(&deployment, &["--untrusted", "cri-o"]).matches("\n        io.kubernetes.cri-o.TrustedSandbox: \"false\"\n").count(),
        4
    );
}

#[test]
fn what_a_guest_cannot_do_is_an_error_with_the_fields_path() {
    for (spec, line, path) in [
        ("  hostNetwork: true\n", 9, "spec.hostNetwork"),
        ("  hostPID: true\n", 9, "spec.hostPID"),
        ("  hostIPC: true\n", 9, "spec.hostIPC"),
        ("  hostUsers: false\n", 9, "spec.hostUsers"),
        (
            "  - name: modules\n    securityContext:\n      capabilities:\n        add: [NET_ADMIN, SYS_MODULE]\n",
            12,
            "spec.initContainers[1].securityContext.capabilities.add[1]",
        ),
        (
            "  containers:\n  - name: app\n    securityContext: {capabilities: {add: [CAP_SYS_MODULE]}}\n",
            11,
            "spec.containers[0].securityContext.capabilities.add[0]",
        ),
        (
            "  containers:\n  - name: app\n    securityContext: {capabilities: {add: [NET_RAW, cap_sys_module]}}\n",
            11,
            "spec.containers[0].securityContext.capabilities.add[1]",
        ),
        (
            "  containers:\n  - name: app\n    securityContext: {capabilities: {add: [all]}}\n",
            11,
            "spec.containers[0].securityContext.capabilities.add[0]",
        ),
        (
            "  ephemeralContainers:\n  - name: debugger\n    securityContext: {capabilities: {add: [sys_module]}}\n",
            11,
            "spec.ephemeralContainers[0].securityContext.capabilities.add[0]",
        ),
    ] {
        for flags in [["--runtime-class", "kata-qemu"], ["--untrusted", "cri-o"]] {
            let ran = mesh_patch(&flags, pod(spec)).expect(1);
            assert_eq!(ran.stdout, "");
            let start = format!("mesh-patch: error: stdin: document 1, line {line}: Pod web: {path}: Kata Containers cannot do this: ");
            assert!(ran.stderr.starts_with(&start) && ran.stderr.lines().count() == 1, "{}", ran.stderr);
        }
        // The same on a node; and where the manifest itself asks for Kata.
        mesh_patch::<&str>(&[], pod(spec)).expect(0);
        mesh_patch::<&str>(&[], pod(&format!("{spec}  runtimeClassName: kata-clh\n"))).expect(1);
        for annotation in ["io.kubernetes.cri.untrusted-workload: \"true\"", "io.kubernetes.cri-o.TrustedSandbox: \"false\""] {
            let annotated = pod(spec).replace("  name: web\n", &format!("  name: web\n  annotations: {{{annotation}}}\n"));
            mesh_patch::<&str>(&[], annotated).expect(1);
        }
    }
    mesh_patch(&["--runtime-class", "kata"], pod("  hostNetwork: false\n  hostUsers: true\n")).expect(0);
}

#[test]
fn a_guest_wants_root() {
    let ran = mesh_patch(&["--non-root"], pod("  runtimeClassName: kata\n")).expect(1);
    assert!(
        ran.stderr.contains("line 9: Pod web: spec.runtimeClassName: Kata Containers cannot do this: the image's file capability"),
        "{}",
        ran.stderr
    );
    assert!(patched(&pod(""), &["--non-root"]).contains("    runAsUser: 65534\n"));
    let annotated = patched(&pod(""), &["--untrusted", "containerd"]);
    let said = mesh_patch(&["--non-root"], annotated).expect(1).stderr;
    assert!(said.contains("Pod web: metadata.annotations[\"io.kubernetes.cri.untrusted-workload\"]: Kata Containers cannot"), "{said}");
}

#[test]
fn a_runtime_class_takes_the_place_of_containerds_annotation() {
    let kata = ["--runtime-class", "kata-qemu"];
    let old = patched(&pod(""), &["--untrusted", "containerd"]);
    assert_eq!(patched(&old, &kata), patched(&pod(""), &kata));
    let ran = mesh_patch(&kata, &old).expect(0);
    assert!(
        ran.stderr.contains("metadata.annotations: {\"io.kubernetes.cri.untrusted-workload\":\"true\"} -> nothing (the runtime class"),
        "{}",
        ran.stderr
    );
    let among_others = old.replace("  annotations:\n", "  annotations:\n    a: b\n");
    let after = patched(&among_others, &kata);
    assert!(after.contains("  annotations:\n    a: b\n  name: web\n"), "{after}");
    // What says nothing stays.
    let trusted = old.replace("\"true\"", "\"false\"");
    assert!(patched(&trusted, &kata).contains("untrusted-workload: \"false\"\n"));
}

#[test]
fn pods_without_a_mesh_are_not_asked() {
    let text = "apiVersion: v1\nkind: Pod\nspec:\n  hostNetwork: true\n  containers: []\n";
    assert_eq!(patched(text, &["--runtime-class", "kata"]), text);
}

#[test]
fn a_pod_whose_proxy_intercepts_nothing_is_sent_too() {
    let text = |status: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  annotations: {{{status}}}\nspec:\n  containers:\n  - name: istio-proxy\n    securityContext: {{privileged: true}}\n"
        )
    };
    let after = patched(&text("sidecar.istio.io/status: '{}'"), &["--runtime-class", "kata"]);
    assert!(after.ends_with("    securityContext: {privileged: false}\n  runtimeClassName: kata\n"), "{after}");
    // A gateway.
    assert_eq!(patched(&text(""), &["--runtime-class", "kata"]), text(""));
}

#[test]
fn a_container_that_sets_kernel_parameters_is_reported() {
    let text = std::fs::read_to_string(fixture("istio-core-dump.yaml")).unwrap();
    let said = warnings(&text, &[]);
    assert!(
        said.len() == 1 && said[0].contains("initContainers[1]: enable-core-dump sets a kernel parameter and cannot do so unprivileged"),
        "{said:#?}"
    );
    assert_eq!(warnings(&text, &["--keep-privileged", "enable-core-dump"]), [""; 0]);
    let kept = patched(&text, &["--keep-privileged", "enable-core-dump"]);
    assert_eq!(kept.matches("privileged: true").count(), 1);
    assert!(kept.contains(IMAGE));
}

#[test]
fn a_pod_in_the_nodes_network_gets_a_warning() {
    let said = warnings(&pod("  hostNetwork: true\n"), &[]);
    assert!(
        said.len() == 1 && said[0].contains("spec.hostNetwork: the mesh's rules would be put into the node's own network"),
        "{said:#?}"
    );
}

#[test]
fn a_pod_without_a_mesh_stays_where_it_runs_and_that_is_said() {
    let plain = |rest: &str| format!("apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\n{rest}spec:\n  containers: [{{name: app}}]\n");
    assert_eq!(
        warnings(&plain(""), &["--runtime-class", "kata-qemu"]),
        ["stdin: document 1, line 5: Pod web: spec: this pod has no mesh, so --runtime-class kata-qemu does not change it"]
    );
    // It runs there already.
    let there = plain("") + "  runtimeClassName: kata-qemu\n";
    assert_eq!(warnings(&there, &["--runtime-class", "kata-qemu"]), [""; 0]);
    assert_eq!(warnings(&there, &["--untrusted", "cri-o"]).len(), 1);
    assert_eq!(warnings(&plain("  annotations: {io.kubernetes.cri-o.TrustedSandbox: \"false\"}\n"), &["--untrusted", "cri-o"]), [""; 0]);
}

#[test]
fn a_pod_that_is_only_marked_is_told_that_kata_was_not_applied() {
    let marked = |rest: &str, annotations: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\n  annotations: {{linkerd.io/inject: enabled{annotations}}}\nspec:\n  containers: [{{name: app}}]\n{rest}"
        )
    };
    for (flag, value, by_hand) in [
        ("--runtime-class", "kata-qemu", "runtimeClassName"),
        ("--untrusted", "cri-o", "the annotation io.kubernetes.cri-o.TrustedSandbox"),
        ("--untrusted", "containerd", "the annotation io.kubernetes.cri.untrusted-workload"),
    ] {
        let text = marked("", "");
        assert_eq!(patched(&text, &[flag, value]), text);
        let said = warnings(&text, &[flag, value]);
        assert!(said.iter().any(|line| line.contains("the mesh's webhook injects this pod")), "{said:#?}");
        let wanted = format!(
            "stdin: document 1, line 6: Pod web: spec: {flag} {value} is not applied to this pod, which has yet to be injected, and neither \
             the webhook nor the policy in image/ sets a runtime class; inject it first, or set {by_hand} by hand"
        );
        assert!(said.len() == 2 && said.contains(&wanted), "{said:#?}");
    }
    // It is there already, or nobody asked.
    assert_eq!(warnings(&marked("  runtimeClassName: kata-qemu\n", ""), &["--runtime-class", "kata-qemu"]).len(), 1);
    let there = marked("", ", io.kubernetes.cri-o.TrustedSandbox: \"false\"");
    assert_eq!(warnings(&there, &["--untrusted", "cri-o"]).len(), 1);
    assert_eq!(warnings(&marked("", ""), &[]).len(), 1);
}
