//! Templates that a webhook has yet to inject.

use crate::program::{Folder, mesh_patch};

/// A deployment whose template has this metadata.
fn deployment(namespace: &str, metadata: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: web\n  namespace: {namespace}\nspec:\n  template:\n    metadata:\n      {metadata}\n    spec:\n      \
         containers:\n      - name: app\n"
    )
}

fn namespace(name: &str, metadata: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n  {metadata}\n")
}

#[test]
fn a_template_that_is_only_marked_gets_a_warning() {
    for (text, mark) in [
        (deployment("a", "annotations: {linkerd.io/inject: enabled}"), "the annotation linkerd.io/inject: enabled"),
        (deployment("a", "annotations: {linkerd.io/inject: ingress}"), "the annotation linkerd.io/inject: ingress"),
        (deployment("a", "annotations: {sidecar.istio.io/inject: \"true\"}"), "the annotation sidecar.istio.io/inject: true"),
        (deployment("a", "labels: {sidecar.istio.io/inject: true}"), "the label sidecar.istio.io/inject: true"),
        (deployment("a", "labels: {istio.io/rev: canary}"), "the label istio.io/rev: canary"),
        (
            deployment("a", "labels: {}") + "---\n" + &namespace("a", "labels: {istio-injection: enabled}"),
            "the label istio-injection=enabled of namespace a",
        ),
        (
            namespace("a", "labels: {istio.io/rev: default}") + "---\n" + &deployment("a", "{}"),
            "the label istio.io/rev=default of namespace a",
        ),
        (
            namespace("a", "labels: {istio-injection: disabled}\n  annotations: {linkerd.io/inject: enabled}")
                + "---\n"
                + &deployment("a", "{}"),
            "the annotation linkerd.io/inject: enabled of namespace a",
        ),
        (
            namespace("a", "annotations: {linkerd.io/inject: enabled}")
                + "---\n"
                + &deployment("a", "annotations: {sidecar.istio.io/inject: \"false\"}"),
            "the annotation linkerd.io/inject: enabled of namespace a",
        ),
    ] {
        let ran = mesh_patch(&["--runtime-class", "kata"], &text).expect(0);
        assert_eq!(ran.stdout, text);
        let says = format!(
            "{mark} says that the mesh's webhook injects this pod when it is created, which is after this; inject it now (linkerd inject --manual, istioctl \
             kube-inject) or have the cluster patch it (the admission policy in image/)"
        );
        let warnings: Vec<&str> = ran.stderr.lines().filter(|line| line.starts_with("mesh-patch: warning: stdin: ")).collect();
        let [kata, marked] = warnings[..] else { panic!("{}", ran.stderr) };
        assert!(kata.contains("Deployment a/web: spec.template.spec: --runtime-class kata is not applied to this pod"), "{kata}");
        assert!(marked.contains("Deployment a/web: spec.template.metadata") && marked.ends_with(&says), "{marked}");
        // In CI that is a reason to stop.
        let ran = mesh_patch(&["--check"], &text).expect(3);
        assert!(ran.stdout.is_empty() && ran.stderr.contains(&says));
    }
}

#[test]
fn what_no_webhook_touches_gets_none() {
    let marked = namespace("a", "labels: {istio-injection: enabled}") + "---\n";
    for text in [
        marked.clone() + &deployment("b", "{}"),
        marked.clone() + &deployment("a", "labels: {sidecar.istio.io/inject: \"false\"}"),
        marked.clone() + &deployment("a", "annotations: {sidecar.istio.io/inject: \"false\"}"),
        namespace("a", "labels: {istio-injection: disabled}") + "---\n" + &deployment("a", "{}"),
        // This label keeps every webhook of Istio's away.
        namespace("a", "labels: {istio-injection: disabled, istio.io/rev: stable}") + "---\n" + &deployment("a", "{}"),
        namespace("a", "labels: {istio-injection: disabled}") + "---\n" + &deployment("a", "labels: {sidecar.istio.io/inject: \"true\"}"),
        namespace("a", "labels: {istio-injection: disabled}") + "---\n" + &deployment("a", "labels: {istio.io/rev: stable}"),
        deployment("a", "annotations: {linkerd.io/inject: disabled}"),
        deployment("a", "annotations: {linkerd.io/inject: enabled}") + "      hostNetwork: true\n",
        // Injected already.
        deployment("a", "annotations: {linkerd.io/inject: enabled}")
            + "      initContainers: [{name: linkerd-init, args: [-p, '4143', -o, '4140']}]\n",
    ] {
        let ran = mesh_patch::<&str>(&[], &text).expect(0);
        assert!(!ran.stderr.contains("warning"), "{text}{}", ran.stderr);
    }
}

#[test]
fn a_namespace_in_another_file_counts() {
    let folder = Folder::new();
    folder.file("a/web.yaml", deployment("shop", "{}"));
    folder.file("namespace.yml", namespace("shop", "annotations: {linkerd.io/inject: enabled}"));
    let ran = mesh_patch(&["--check", folder.path().to_str().unwrap()], "").expect(3);
    assert!(
        ran.stderr
            .contains("a/web.yaml: document 1, line 8: Deployment shop/web: spec.template.metadata: the annotation linkerd.io/inject: enabled of namespace shop says"),
        "{}",
        ran.stderr
    );
}
