//! Kustomizations: they list what kustomize takes, and every patch is for one object.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::{Value, json};

use crate::program::{Folder, IMAGE, fixture, judge, mesh_patch, mesh_patch_in};

const KUSTOMIZE: [&str; 4] = ["--image", IMAGE, "--output", "kustomize"];

/// An object with this head and the init container of Istio.
fn object(api_version: &str, kind: &str, metadata: &str) -> String {
    let pod = "{initContainers: [{name: istio-init, image: x, args: [istio-iptables]}]}";
    let spec = if kind == "Pod" { pod.to_owned() } else { format!("{{template: {{spec: {pod}}}}}") };
    format!("{{apiVersion: {api_version}, kind: {kind}, metadata: {metadata}, spec: {spec}}}\n")
}

fn pod(metadata: &str) -> String {
    object("v1", "Pod", metadata)
}

/// What mesh-patch says on stderr, without the report.
fn said(stderr: &str) -> Vec<&str> {
    stderr.lines().filter_map(|line| line.strip_prefix("mesh-patch: warning: ")).collect()
}

/// The lines that list resources.
fn resources(kustomization: &str) -> Vec<&str> {
    kustomization.lines().skip_while(|line| *line != "resources:").skip(1).map_while(|line| line.strip_prefix("- ")).collect()
}

/// What kustomize makes of `text` with a kustomization that `flags` bring about, or nothing where the judge is missing.
fn built(folder: &Folder, name: &str) -> Option<Vec<Value>> {
    let out = mesh_patch_in(folder.path(), &[&KUSTOMIZE[..], &[name]].concat(), "").expect(0).stdout;
    folder.file("kustomization.yaml", out);
    judge(&["kustomize", folder.path().to_str()?]).map(|objects| serde_json::from_str(&objects).unwrap())
}

fn image(object: &Value) -> &Value {
    object.pointer("/spec/template/spec/initContainers/0/image").unwrap_or(&object["spec"]["initContainers"][0]["image"])
}

#[test]
fn files_and_targets_are_named() {
    let folder = Folder::new();
    folder.file("emojivoto.yaml", fs::read_to_string(fixture("emojivoto.yaml")).unwrap());
    let out = mesh_patch_in(folder.path(), &["--output", "kustomize", "emojivoto.yaml"], "").expect(0).stdout;
    let start = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n- emojivoto.yaml\npatches:\n- target:\n    group: apps\n    version: v1\n    kind: Deployment\n    name: emoji\n    namespace: emojivoto\n  patch: |-\n    [\n      {\n";
    assert!(out.starts_with(start), "{out}");
    assert_eq!(out.matches("- target:\n").count(), 4);
}

#[test]
fn every_patch_finds_its_object_and_no_other() {
    let folder = Folder::new();
    let pods = ["{name: web}", "{name: web, namespace: prod}", "{name: web-2}", "{name: a.b}", "{name: aXb}"].map(pod);
    let deployment = object("apps/v1", "Deployment", "{name: web}");
    let list = format!("apiVersion: v1\nkind: List\nitems:\n- {}- {deployment}", pod("{name: listed, namespace: default}"));
    folder.file("all.yaml", format!("{}---\n{list}", pods.join("---\n")));
    let Some(objects) = built(&folder, "all.yaml") else { return };
    assert_eq!(objects.len(), 7);
    assert!(objects.iter().all(|object| image(object) == IMAGE), "{objects:#?}");
}

#[test]
fn patches_do_what_the_manifests_get() {
    for name in ["emojivoto.yaml", "bookinfo.yaml"] {
        let folder = Folder::new();
        folder.file("app.yaml", fs::read_to_string(fixture(name)).unwrap());
        let Some(objects) = built(&folder, "app.yaml") else { return };
        let after = folder.file("after", objects.iter().map(|object| format!("--- {object}\n")).collect::<String>());
        judge(&["same", &fixture(name).display().to_string(), &after.display().to_string()]);
    }
}

#[test]
fn what_kustomize_would_not_take_is_no_resource() {
    let folder = Folder::new();
    folder.file("app/pod.yaml", pod("{name: web}"));
    folder.file("values.yaml", "image: x\n");
    folder.file("kustomization.yaml", "");
    folder.file("old/kustomization.yml", "resources: [x.yaml]\n");
    folder.file("part.yaml", "apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\n");
    folder.file("service.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: web}\n");
    let ran = mesh_patch_in(folder.path(), &[&KUSTOMIZE[..], &["."]].concat(), "").expect(0);
    assert_eq!(resources(&ran.stdout), ["app/pod.yaml", "service.yaml"]);
    assert_eq!(
        said(&ran.stderr),
        [
            "./old/kustomization.yml: not among the resources: it is kustomize's own",
            "./part.yaml: not among the resources: it is kustomize's own",
            "./values.yaml: not among the resources: no document in it is a Kubernetes object"
        ]
    );
}

#[test]
fn resources_are_named_from_the_current_folder() {
    let folder = Folder::new();
    let path = folder.file("app/pod.yaml", pod("{name: web}"));
    let elsewhere = folder.file("app/sub/none", "");
    let here = elsewhere.parent().unwrap();
    for (here, name) in
        [(folder.path(), path.to_str().unwrap()), (folder.path(), "./app/pod.yaml"), (folder.path(), "app"), (here, "../pod.yaml")]
    {
        let ran = mesh_patch_in(here, &[&KUSTOMIZE[..], &[name]].concat(), "");
        if here == folder.path() {
            assert_eq!(resources(&ran.expect(0).stdout), ["app/pod.yaml"]);
            continue;
        }
        let ran = ran.expect(1);
        let says =
            "mesh-patch: error: ../pod.yaml: --output kustomize: kustomize reads no file outside of the kustomization's folder, here /";
        assert!(ran.stdout.is_empty() && ran.stderr.starts_with(says) && ran.stderr.lines().count() == 1, "{}", ran.stderr);
    }
    // kustomize looks behind links.
    symlink(&path, here.join("link.yaml")).unwrap();
    mesh_patch_in(here, &[&KUSTOMIZE[..], &["link.yaml"]].concat(), "").expect(1);
    let stdin = mesh_patch(&KUSTOMIZE, pod("{name: web}")).expect(0).stdout;
    assert!(stdin.contains("kind: Kustomization\npatches:\n- target:\n"), "{stdin}");
}

#[test]
fn an_object_that_no_target_can_mean_is_an_error() {
    let template = json!({"apiVersion": "template.openshift.io/v1", "kind": "Template", "metadata": {"name": "t"}, "objects": [{"apiVersion": "v1",
        "kind": "Pod", "metadata": {"name": "web"}, "spec": {"initContainers": [{"name": "istio-init", "args": ["istio-iptables"]}]}}]});
    for (text, says) in [
        (pod("{generateName: web-}"), "Pod web-: --output kustomize: kustomize patches objects by metadata.name, and this one has none"),
        (pod("{}"), "Pod without a name: --output kustomize: kustomize patches objects by metadata.name, and this one has none"),
        (
            format!("{}---\n{}", pod("{name: web}"), pod("{name: web, namespace: default}")),
            "Pod default/web: --output kustomize: kustomize takes only one object of this version, kind, name and namespace, and here is a second one",
        ),
        (
            format!("{template}\n"),
            "Pod web: --output kustomize: kustomize patches documents and the items of lists, and this is inside another object",
        ),
    ] {
        let ran = mesh_patch(&KUSTOMIZE, &text).expect(1);
        assert!(ran.stdout.is_empty() && ran.stderr.lines().count() == 1, "{}", ran.stderr);
        assert!(
            ran.stderr.starts_with("mesh-patch: error: stdin: document ") && ran.stderr.ends_with(&format!("{says}\n")),
            "{}",
            ran.stderr
        );
    }
}
