//! Manifests of the shapes that the meshes inject, old ones among them.

use std::fs;

use serde_json::Value;

use crate::common::Namespace;
use crate::program::{Folder, IMAGE, changed_lines, fixture, fixtures, judge, mesh_patch, patched, python};
use crate::require_root;

/// Kinds that are none of Kubernetes' own.
const FOREIGN: [&str; 2] = ["istio-deploymentconfig.yaml", "istio-rollout.yaml"];

/// Manifests of versions of the API that are gone.
const OLD: [&str; 2] = ["istio-old.yaml", "linkerd-old.yaml"];

fn text(name: &str) -> String {
    fs::read_to_string(fixture(name)).unwrap()
}

#[test]
fn every_shape_becomes_what_it_shall_and_nothing_else() {
    let folder = Folder::new();
    for name in fixtures() {
        for (flags, options) in [
            (&["--runtime-class", "kata-qemu"][..], &["class=kata-qemu"][..]),
            (&["--non-root", "--keep-privileged", "tuner"], &["non-root", "keep=tuner"]),
        ] {
            let after = folder.file(&name, patched(&text(&name), flags));
            let (before, after) = (fixture(&name).display().to_string(), after.display().to_string());
            if judge(&[&["same", &before, &after], options].concat()).is_none() {
                return;
            }
        }
    }
}

#[test]
fn only_lines_that_are_meant_change() {
    let ends = [
        "NET_RAW",
        "NET_ADMIN",
        "- ALL",
        "drop:",
        "add:",
        "capabilities:",
        "type: RuntimeDefault",
        "seccompProfile:",
        "runtimeClassName: kata",
    ];
    let fields = ["image:", "privileged:", "allowPrivilegeEscalation:", "readOnlyRootFilesystem:", "runAsNonRoot:", "runAsUser:"];
    // The init container's mount and volume for the lock, and the commands of old templates.
    let others = ["volumeMounts:", "- mountPath: /run", "name: linkerd-proxy-init-xtables-lock", "- emptyDir: {}", "emptyDir: {}"];
    let old = ["- istio-iptables", "- /mesh-init", "container.seccomp.security.alpha.kubernetes.io/"];
    for name in fixtures().iter().filter(|name| name.ends_with(".yaml")) {
        let lines = changed_lines(&text(name), &["--runtime-class", "kata"]);
        for line in &lines {
            let line = line[1..].trim().trim_start_matches("- ");
            let bare = format!("- {line}");
            let known = ends.iter().any(|end| line.ends_with(end) || bare.ends_with(end))
                || fields.iter().any(|field| line.starts_with(field))
                || others.iter().chain(&old).any(|start| line.starts_with(start) || bare.starts_with(start));
            assert!(known, "{name}: {line}\n{lines:#?}");
        }
        assert_eq!(lines.is_empty(), name == "without-mesh.yaml", "{name}");
    }
}

#[test]
fn a_second_run_changes_nothing() {
    for name in fixtures() {
        for flags in [
            &["--runtime-class", "kata", "--resources", "cpu=1m,memory=4Mi"][..],
            &["--non-root"],
            &["--untrusted", "cri-o"],
            &["--untrusted", "containerd"],
        ] {
            let once = patched(&text(&name), flags);
            assert_eq!(patched(&once, flags), once, "{name}");
            let check = [&["--check", "--image", IMAGE], flags].concat();
            assert_eq!(mesh_patch(&check, &once).expect(0).stdout, "", "{name}");
        }
    }
}

#[test]
fn kubernetes_takes_what_comes_out() {
    let (old, new): (Vec<String>, Vec<String>) =
        fixtures().into_iter().filter(|name| !FOREIGN.contains(&name.as_str())).partition(|name| OLD.contains(&name.as_str()));
    for flags in
        [&["--runtime-class", "kata", "--resources", "requests.cpu=1m,memory=4Mi"][..], &["--non-root"], &["--untrusted", "containerd"]]
    {
        for (names, environment, versions) in
            [(&old, "kubernetes-validate-old", ["1.14", "1.15"]), (&new, "kubernetes-validate", ["1.29", "1.37"])]
        {
            let folder = Folder::new();
            let files: Vec<_> = names.iter().map(|name| folder.file(name, patched(&text(name), flags))).collect();
            for version in versions {
                let Some(mut program) = python(environment, "kubernetes-validate") else { return };
                let output = program.args(["--strict", "-k", version]).args(&files).output().unwrap();
                let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
                assert!(output.status.success() && !said.contains("ERROR"), "{version}: {said}");
                assert!(said.matches("passed for resource").count() > names.len(), "{version}: {said}");
            }
        }
    }
}

#[test]
fn mesh_init_takes_the_arguments() {
    require_root!();
    let folder = Folder::new();
    let pod = Namespace::pod(&["10.9.0.2/24", "2001:db8:9::2/64"]);
    let mut tried = 0;
    for name in fixtures() {
        let after = folder.file(&name, patched(&text(&name), &[])).display().to_string();
        let Some(words) = judge(&["words", &after]) else { return };
        let containers: Vec<(String, Vec<String>, std::collections::BTreeMap<String, String>)> = serde_json::from_str(&words).unwrap();
        for (container, mut words, env) in containers {
            // The validator of a CNI plugin's rules speaks to the network; there is none here.
            if container == "linkerd-network-validator" {
                continue;
            }
            let program = words.first().filter(|word| word.starts_with('/')).cloned();
            if let Some(program) = &program {
                words.remove(0);
                assert!(["/mesh-init", "/usr/lib/linkerd/linkerd2-proxy-init"].contains(&program.as_str()), "{name}: {program}");
            }
            words.retain(|word| word != "--run-validation");
            words.push(if container.starts_with("istio") { "--dry-run" } else { "--simulate" }.to_owned());
            let called = program.as_deref().map_or("mesh-init", |program| program.rsplit('/').next().unwrap());
            let mut run = pod.mesh_init(&words).called(called);
            for (variable, value) in &env {
                run = run.env(variable, value);
            }
            run.run().expect(0);
            tried += 1;
        }
    }
    assert!(tried > 20, "{tried}");
}

#[test]
fn patches_bring_about_the_same() {
    let folder = Folder::new();
    for name in fixtures() {
        let flags = ["--runtime-class", "kata", "--image", IMAGE];
        let patches = mesh_patch(&[&flags[..], &["--output", "json-patch"]].concat(), text(&name)).expect(0).stdout;
        let patches = folder.file("patches", patches).display().to_string();
        let Some(applied) = judge(&["apply", &fixture(&name).display().to_string(), &patches]) else { return };
        let after = folder.file("applied", applied.clone()).display().to_string();
        let documents: Vec<Value> = serde_json::from_str(&applied).unwrap();
        // JSON documents in one file, for the other judge.
        let stream: String = documents.iter().map(|document| format!("--- {document}\n")).collect();
        fs::write(&after, stream).unwrap();
        judge(&["same", &fixture(&name).display().to_string(), &after, "class=kata"]);
    }
}

#[test]
fn only_a_template_of_a_mesh_is_touched() {
    let plain = text("without-mesh.yaml");
    let ran = mesh_patch(&["--runtime-class", "kata"], &plain).expect(0);
    assert_eq!(ran.stdout, plain);
    // That it does not get what was asked for is said.
    let said: Vec<&str> = ran.stderr.lines().collect();
    let (last, pods) = said.split_last().unwrap();
    let left = "this pod has no mesh, so --runtime-class kata does not change it";
    assert!(!pods.is_empty() && pods.iter().all(|line| line.contains(left)), "{}", ran.stderr);
    assert_eq!(*last, "mesh-patch: nothing to change");
    assert_eq!(mesh_patch::<&str>(&[], &plain).expect(0).stderr, "mesh-patch: nothing to change\n");
}
