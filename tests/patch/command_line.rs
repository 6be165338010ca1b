//! What mesh-patch can be told, and what it writes where.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use crate::program::{Folder, IMAGE, fixture, mesh_patch, patched};

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: shop}\nspec:\n  initContainers:\n  - args: [istio-iptables]\n    image: x\n    name: istio-init\n    securityContext: {allowPrivilegeEscalation: false, capabilities: {add: [NET_ADMIN], drop: [ALL]}, privileged: false, readOnlyRootFilesystem: true, runAsNonRoot: false, runAsUser: 0, seccompProfile: {type: RuntimeDefault}}\n";

#[test]
fn usage_errors_name_flag_value_and_what_is_allowed() {
    for (arguments, says) in [
        (&["--image", ""][..], "--image: \"\" is not the name of an image"),
        (&["--image", "a b"], "--image: \"a b\" is not the name of an image"),
        (&["--image"], "--image needs a value"),
        (&["--runtime-class", "Kata"], "--runtime-class: \"Kata\" is not the name of a runtime class"),
        (&["--untrusted", "docker"], "--untrusted: \"docker\" is not cri-o or containerd"),
        (&["--output", "xml"], "--output: \"xml\" is not yaml, json-patch or kustomize"),
        (&["--resources", "cpu=10x"], "--resources: \"cpu=10x\" is not RESOURCE=QUANTITY with cpu, memory or ephemeral-storage"),
        (&["--resources", "requests.cpu=2,limits.cpu=1"], "--resources: requests.cpu=2 is more than limits.cpu=1"),
        (&["--resources", "gpu=1"], "--resources: \"gpu=1\" is not RESOURCE=QUANTITY"),
        (&["--non-root", "--runtime-class", "kata"], "--non-root does not go with --runtime-class kata: "),
        (
            &["--runtime-class", "kata", "--untrusted", "cri-o"],
            "the argument '--runtime-class <NAME>' cannot be used with '--untrusted <RUNTIME>'",
        ),
        (&["--in-place", "--check", "x"], "--in-place does not go with --check"),
        (&["--in-place", "--diff", "x"], "--in-place does not go with --diff"),
        (&["--output", "json-patch", "--diff"], "--output json-patch does not go with --diff"),
        (&["--output", "kustomize", "--check"], "--output kustomize does not go with --check"),
        (&["--in-place"], "--in-place: stdin cannot be changed in place; name the files"),
        (&["-", "-"], "stdin (-) can be read only once"),
        (&["--bogus"], "unknown flag: --bogus; see --help"),
    ] {
        let ran = mesh_patch(arguments, POD).expect(2);
        assert_eq!(ran.stdout, "");
        assert!(
            ran.stderr.starts_with(&format!("mesh-patch: error: {says}")) && ran.stderr.lines().count() == 1,
            "{arguments:?}: {}",
            ran.stderr
        );
    }
}

#[test]
fn help_and_version() {
    let help = mesh_patch(&["--help"], "").expect(0).stdout;
    for flag in [
        "--image",
        "--non-root",
        "--resources",
        "--keep-privileged",
        "--runtime-class",
        "--untrusted",
        "--check",
        "--diff",
        "--output",
        "--in-place",
    ] {
        assert!(help.contains(flag), "{help}");
    }
    assert!(help.contains(&format!("ghcr.io/mesh-init/mesh-init:{}", env!("CARGO_PKG_VERSION"))), "{help}");
    assert_eq!(mesh_patch(&["--version"], "").expect(0).stdout, format!("mesh-patch {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn the_report_says_what_was_changed_where_and_why() {
    let ran = mesh_patch(&["--image", IMAGE], POD).expect(0);
    assert_eq!(
        ran.stderr,
        format!(
            "mesh-patch: stdin: document 1, line 7: Pod shop/web: spec.initContainers[0].image: \"x\" -> \"{IMAGE}\" (mesh-init in the place of the original)\n\
             mesh-patch: 1 object changed\n"
        )
    );
    let default = mesh_patch::<&str>(&[], POD).expect(0).stdout;
    assert!(default.contains(concat!("    image: ghcr.io/mesh-init/mesh-init:", env!("CARGO_PKG_VERSION"), "\n")), "{default}");
}

#[test]
fn objects_in_a_list_are_reported_for_themselves() {
    let list = |word: &str| {
        let item = |name: &str| {
            format!(
                "- apiVersion: extensions/v1beta1\n  kind: Deployment\n  metadata: {{name: {name}, namespace: shop}}\n  spec: {{template: {{spec: {{initContainers: [{{name: istio-init, args: [{word}]}}]}}}}}}\n"
            )
        };
        let namespace = "- apiVersion: v1\n  kind: Namespace\n  metadata: {name: default, labels: {istio-injection: enabled}}\n";
        let plain = item("c").replace("initContainers: [{name: istio-init", "containers: [{name: app");
        format!("apiVersion: v1\nkind: List\nitems:\n{namespace}{}{}{plain}", item("a"), item("b"))
    };
    let ran = mesh_patch::<&str>(&[], list("istio-iptables")).expect(0);
    assert_eq!(ran.stdout.matches("container.seccomp.security.alpha.kubernetes.io/istio-init: runtime/default").count(), 2);
    assert!(!ran.stdout.contains("seccompProfile"), "{}", ran.stdout);
    let said: Vec<&str> = ran.stderr.lines().collect();
    let (last, changes) = said.split_last().unwrap();
    assert_eq!(*last, "mesh-patch: 2 objects changed");
    for name in ["a", "b"] {
        assert!(changes.iter().any(|line| line.contains(&format!(": Deployment shop/{name}: spec.template.spec."))), "{}", ran.stderr);
    }
    assert!(changes.iter().all(|line| line.contains(": Deployment shop/") && !line.contains("warning")), "{}", ran.stderr);
    let wrong = mesh_patch::<&str>(&[], list("bad")).expect(1).stderr;
    assert_eq!(wrong.lines().count(), 2, "{wrong}");
}

#[test]
fn check_lists_what_would_change_and_writes_nothing() {
    let folder = Folder::new();
    let path = folder.file("pod.yaml", POD);
    let path = path.to_str().unwrap();
    let ran = mesh_patch(&["--check", "--image", IMAGE, path], "").expect(3);
    assert_eq!(
        ran.stdout,
        format!(
            "{path}: document 1, line 7: Pod shop/web: spec.initContainers[0].image: \"x\" -> \"{IMAGE}\" (mesh-init in the place of the original)\n"
        )
    );
    assert_eq!(ran.stderr, "");
    assert_eq!(fs::read_to_string(path).unwrap(), POD);
    assert_eq!(mesh_patch(&["--check", "--image", "x", path], "").expect(0).stdout, "");
    let diff = mesh_patch(&["--check", "--diff", "--image", IMAGE, path], "").expect(3).stdout;
    assert!(diff.starts_with(&format!("--- {path}\n+++ {path}\n@@ -4,6 +4,6 @@\n")), "{diff}");
}

#[test]
fn a_diff_can_be_applied() {
    let folder = Folder::new();
    let path = folder.file("pod.yaml", POD);
    let diff = mesh_patch(&["--diff", "--runtime-class", "kata", path.to_str().unwrap()], "").expect(0).stdout;
    assert!(diff.contains("\n-    image: x\n+    image: ghcr.io/"), "{diff}");
    assert!(diff.contains("\n+  runtimeClassName: kata\n"), "{diff}");
    assert_eq!(mesh_patch(&["--diff", "--image", "x", path.to_str().unwrap()], "").expect(0).stdout, "");
}

#[test]
fn in_place_keeps_mode_and_link_and_leaves_nothing_behind() {
    let folder = Folder::new();
    let path = folder.file("sub/pod.yaml", POD);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let link = folder.path().join("link.yaml");
    symlink("sub/pod.yaml", &link).unwrap();
    let untouched = folder.file("other.yaml", "a: 1");
    let inode = fs::metadata(&untouched).unwrap().ino();
    let ran = mesh_patch(&["--in-place", "--image", IMAGE, link.to_str().unwrap(), untouched.to_str().unwrap()], "").expect(0);
    assert_eq!(ran.stdout, "");
    assert_eq!(fs::read_to_string(&path).unwrap(), patched(POD, &[]));
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o640);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::metadata(&untouched).unwrap().ino(), inode);
    assert_eq!(fs::read_dir(folder.path().join("sub")).unwrap().count(), 1);
    fs::write(&path, POD).unwrap();
    let twice = mesh_patch(&["--in-place", "--image", IMAGE, link.to_str().unwrap(), path.to_str().unwrap()], "").expect(0);
    assert!(twice.stderr.ends_with("\nmesh-patch: 1 object changed\n"), "{}", twice.stderr);
    assert_eq!(fs::read_to_string(&path).unwrap(), patched(POD, &[]));
    let again = mesh_patch(&["--in-place", "--image", IMAGE, link.to_str().unwrap()], "").expect(0);
    assert_eq!(again.stderr, "mesh-patch: nothing to change\n");
}

#[test]
fn a_folder_is_read_in_order_and_files_are_kept_apart() {
    let folder = Folder::new();
    folder.file("b.yaml", "kind: B");
    folder.file("a.yml", "# first\n---\nkind: A\n");
    folder.file("c/c.json", "{\"kind\": \"C\"}\n");
    folder.file("notes.txt", "not: [yaml");
    folder.file(".hidden.yaml", "not: [yaml");
    let out = mesh_patch(&[folder.path()], "").expect(0).stdout;
    assert_eq!(out, "# first\n---\nkind: A\n---\nkind: B\n---\n{\"kind\": \"C\"}\n");
    let both = mesh_patch(&[folder.path().join("b.yaml").to_str().unwrap(), "-"], "---\nkind: S\n").expect(0).stdout;
    assert_eq!(both, "kind: B\n---\nkind: S\n");
}

#[test]
fn a_file_is_taken_once_however_often_it_is_named() {
    let folder = Folder::new();
    let sub = folder.path().join("sub");
    let path = folder.file("sub/pod.yaml", POD);
    symlink("pod.yaml", sub.join("link.yaml")).unwrap();
    for names in [[&sub, &path], [&path, &sub], [&sub, &sub]] {
        assert_eq!(mesh_patch(&names, "").expect(0).stdout, mesh_patch::<&str>(&[], POD).expect(0).stdout);
    }
    let ran = mesh_patch(&["--in-place", "--image", IMAGE, sub.to_str().unwrap(), path.to_str().unwrap()], "").expect(0);
    assert!(ran.stderr.ends_with("\nmesh-patch: 1 object changed\n"), "{}", ran.stderr);
    assert!(fs::symlink_metadata(sub.join("link.yaml")).unwrap().is_symlink());
}

#[test]
fn files_that_begin_with_directives_are_kept_apart() {
    let folder = Folder::new();
    let file = |name: &str, text: &str| folder.file(name, text).display().to_string();
    let (comment, plain) = (file("comment", "# nothing\n"), file("plain", "a: 1"));
    let (directive, marked) = (file("directive", "  # only\n%YAML 1.2\n---\nb: 2\n"), file("marked", "\u{feff}  # c\n---\nc: 3\n"));
    for (files, wanted) in [
        ([&plain, &directive], "a: 1\n...\n  # only\n%YAML 1.2\n---\nb: 2\n"),
        ([&directive, &marked], "  # only\n%YAML 1.2\n---\nb: 2\n  # c\n---\nc: 3\n"),
        ([&comment, &directive], "# nothing\n  # only\n%YAML 1.2\n---\nb: 2\n"),
    ] {
        let out = mesh_patch(&files, "").expect(0).stdout;
        assert_eq!(out, wanted);
        assert_eq!(mesh_patch::<&str>(&[], &out).expect(0).stdout, out);
    }
}

#[test]
fn json_stays_a_stream_and_gets_a_mark_before_yaml() {
    let folder = Folder::new();
    let file = |name: &str, text: &str| folder.file(name, text).display().to_string();
    let (one, two) = (file("one.json", "\n{\"kind\": \"A\"}"), file("two.json", "{\"kind\": \"B\"}\n{\"kind\": \"C\"}\n"));
    let (yaml, flow) = (file("plain.yaml", "kind: D\n"), file("flow.yaml", "{kind: E}\n"));
    for (files, wanted) in [
        (&[&one, &two][..], "\n{\"kind\": \"A\"}\n{\"kind\": \"B\"}\n{\"kind\": \"C\"}\n"),
        (&[&one, &yaml], "---\n\n{\"kind\": \"A\"}\n---\nkind: D\n"),
        (&[&flow, &one], "---\n{kind: E}\n---\n\n{\"kind\": \"A\"}"),
        (&[&yaml, &one], "kind: D\n---\n\n{\"kind\": \"A\"}"),
        (&[&flow], "{kind: E}\n"),
    ] {
        let out = mesh_patch(files, "").expect(0).stdout;
        assert_eq!(out, wanted);
        assert_eq!(mesh_patch::<&str>(&[], &out).expect(0).stdout, out);
    }
    // What was patched is read again, too.
    let pod = |name: &str| {
        let text = format!(
            "{{\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"metadata\": {{\"name\": \"{name}\"}}, \"spec\": {{\"initContainers\": [{{\"name\": \"istio-init\", \"args\": [\"istio-iptables\"]}}]}}}}\n"
        );
        file(name, &text)
    };
    let out = mesh_patch(&[&pod("a.json"), &pod("b.json")], "").expect(0).stdout;
    assert!(out.matches("ghcr.io/").count() == 2 && !out.contains("---"), "{out}");
    let again = mesh_patch::<&str>(&[], &out).expect(0);
    assert_eq!((again.stdout, again.stderr.as_str()), (out, "mesh-patch: nothing to change\n"));
}

#[test]
fn a_name_to_keep_that_nobody_has_gets_a_warning() {
    let said = |flags: &[&str]| mesh_patch(flags, POD).expect(0).stderr;
    let all = said(&["--keep-privileged", "nosuch", "--keep-privileged", "istio-init"]);
    let warnings: Vec<&str> = all.lines().filter(|line| line.contains("warning")).collect();
    assert_eq!(warnings, ["mesh-patch: warning: --keep-privileged: no container has the name \"nosuch\""]);
    assert!(!said(&[]).contains("warning"));
}

#[test]
fn resources_replace_what_was_there() {
    let after = patched(POD, &["--resources", "cpu=1m,memory=4Mi"]);
    assert!(
        after.contains(
            "    resources:\n      limits:\n        cpu: 1m\n        memory: 4Mi\n      requests:\n        cpu: 1m\n        memory: 4Mi\n"
        ),
        "{after}"
    );
    let classic = fs::read_to_string(fixture("istio-classic.yaml")).unwrap();
    let after = patched(&classic, &["--resources", "requests.cpu=5m"]);
    assert!(
        after
            .contains("        name: istio-init\n        resources:\n          requests:\n            cpu: 5m\n        securityContext:\n"),
        "{after}"
    );
}

#[test]
fn a_patch_of_one_object_is_json() {
    let out = mesh_patch(&["--output", "json-patch", "--image", IMAGE], POD).expect(0).stdout;
    let patch: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        patch,
        serde_json::json!([
            {"op": "test", "path": "/spec/initContainers/0/name", "value": "istio-init"},
            {"op": "replace", "path": "/spec/initContainers/0/image", "value": IMAGE},
        ])
    );
    assert_eq!(mesh_patch(&["--output", "json-patch", "--image", "x"], POD).expect(0).stdout, "[]\n");
}

#[test]
fn patches_of_several_objects_say_whose_they_are() {
    let other = POD.replace("name: web, namespace: shop", "generateName: web-");
    let out = mesh_patch(&["--output", "json-patch", "--image", IMAGE], format!("{POD}---\n{other}")).expect(0).stdout;
    let patches: serde_json::Value = serde_json::from_str(&out).unwrap();
    let one = mesh_patch(&["--output", "json-patch", "--image", IMAGE], POD).expect(0).stdout;
    let one: serde_json::Value = serde_json::from_str(&one).unwrap();
    assert_eq!(
        patches,
        serde_json::json!([
            {"target": {"apiVersion": "v1", "kind": "Pod", "namespace": "shop", "name": "web"}, "patch": one},
            {"target": {"apiVersion": "v1", "kind": "Pod", "generateName": "web-"}, "patch": one},
        ])
    );
}

#[test]
fn a_patch_tests_every_item_that_it_takes_out_or_replaces() {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  initContainers:\n  - name: linkerd-init\n    args: [-p, '4143', -o, '4140']\n    securityContext: {capabilities: {add: [NET_ADMIN, NET_RAW], drop: [KILL]}}\n    volumeMounts: [{name: xtables-lock, mountPath: /run}, {mountPath: /run/xtables.lock}, {name: data, mountPath: /data}]\n";
    let out = mesh_patch(&["--output", "json-patch", "--image", IMAGE], pod).expect(0).stdout;
    let patch: Vec<serde_json::Value> = serde_json::from_str(&out).unwrap();
    let in_list = |operation: &serde_json::Value| operation["path"].as_str().unwrap().ends_with(|last: char| last.is_ascii_digit());
    let mut seen = Vec::new();
    for pair in patch.windows(2).filter(|pair| ["remove", "replace"].contains(&pair[1]["op"].as_str().unwrap()) && in_list(&pair[1])) {
        let (path, tested) = (pair[1]["path"].as_str().unwrap(), pair[0]["path"].as_str().unwrap());
        assert!(pair[0]["op"] == "test" && (tested == path || tested == format!("{path}/name")), "{pair:?}");
        seen.push(pair[0]["value"].to_string());
    }
    assert_eq!(seen, ["\"NET_RAW\"", "\"KILL\"", "\"xtables-lock\"", "{\"mountPath\":\"/run/xtables.lock\"}"]);
}

#[test]
fn a_closed_stdout_is_an_error_and_no_panic() {
    use std::process::{Command, Stdio};
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_mesh-patch")).arg(fixture("bookinfo.yaml")).stdout(Stdio::from(full)).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said, "mesh-patch: error: cannot write to stdout: No space left on device (os error 28)\n");
}
