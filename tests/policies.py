#!/usr/bin/env python3
"""The admission policies in image/: `make policies`, or tests/policies.py MESH_PATCH with the Python packages that setup.sh names.

There is no cluster here. The policies' expressions are evaluated by Google's CEL with Kubernetes' own types, and their
patches applied, to pods as the webhooks of Istio and Linkerd leave them; what comes out has to be what mesh-patch makes
of the same pods. All manifests have to be valid for the versions of Kubernetes that they are for.
"""

import copy
import pathlib
import re
import subprocess
import sys
import tomllib

import kubernetes_validate
import yaml

HERE = pathlib.Path(__file__).resolve().parent
IMAGE = HERE.parent / "image"
sys.path.insert(0, str(HERE / "policies"))

import cluster  # noqa: E402

# Not those of Istio before 1.4, whose init container's arguments have to be completed: it ran on no Kubernetes with such policies.
INJECTED = [
    *(HERE / name for name in ("pods/istio.yaml", "pods/linkerd.yaml", "policies/istio-webhook.yaml", "policies/linkerd-webhook.yaml")),
    *(path for path in sorted((HERE / "fixtures/manifests").glob("*.*")) if path.name != "istio-old.yaml"),
]
# The first version of Kubernetes that has the kind as it is written here, and for which it so has to be valid.
SINCE = {"MutatingAdmissionPolicy": 36, "MutatingAdmissionPolicyBinding": 36, "ValidatingAdmissionPolicy": 30, "ValidatingAdmissionPolicyBinding": 30}
VERSIONS = list(dict.fromkeys(version.removesuffix(".0") for version in kubernetes_validate.utils.all_versions()))

passed = 0


def ok(what):
    global passed
    passed += 1
    print(f"ok - {what}")


def expect(what, found, wanted):
    if found != wanted:
        sys.exit(f"FAILED: {what}\n--- found\n{yaml.safe_dump(found)}--- wanted\n{yaml.safe_dump(wanted)}0 passed, 1 failed")
    ok(what)


def documents(path):
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def pods(value):
    """Everything in there that is a pod or the template of one, as the pod that comes of it."""
    if isinstance(value, list):
        return [pod for one in value for pod in pods(one)]
    if not isinstance(value, dict):
        return []
    spec = value.get("spec")
    if isinstance(spec, dict) and "containers" in spec:
        return [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod", **value.get("metadata", {})}, "spec": spec}]
    return [pod for one in value.values() for pod in pods(one)]


def policies(name):
    return {document["metadata"]["name"]: document for document in documents(IMAGE / "policies" / name) if document["kind"].endswith("Policy")}


def is_valid(document, version):
    try:
        kubernetes_validate.validate(document, version, strict=True)
    except kubernetes_validate.ValidationError:
        return False
    return True


def check_schemas():
    for path in sorted(IMAGE.glob("p*/*.yaml")):
        for document in documents(path):
            if document["apiVersion"].startswith("policies.kyverno.io/"):
                continue
            wanted = [version for version in VERSIONS if int(version.split(".")[1]) >= SINCE.get(document["kind"], 25)]
            what = f"image/{path.parent.name}/{path.name}: {document['kind']} {document['metadata']['name']}"
            if document["kind"].startswith("Mutating"):
                older = {**document, "apiVersion": "admissionregistration.k8s.io/v1beta1"}
                expect(f"{what} is valid as v1beta1 for Kubernetes 1.34 and 1.35", [is_valid(older, "1.34"), is_valid(older, "1.35")], [True, True])
            expect(f"{what} is valid for Kubernetes {wanted[0]} to {wanted[-1]}", [version for version in wanted if is_valid(document, version)], wanted)


def patched(mesh_patch, image, pod):
    """What mesh-patch makes of the pod."""
    done = subprocess.run([mesh_patch, "--image", image, "-"], input=yaml.safe_dump(pod), text=True, capture_output=True)
    if done.returncode != 0:
        sys.exit(f"FAILED: mesh-patch: {done.stderr}")
    return yaml.safe_load(done.stdout)


def without_empty_lists(pod):
    """To Kubernetes a list without elements is none."""
    pod = copy.deepcopy(pod)
    for place in [pod["spec"], *pod["spec"].get("containers", []), *pod["spec"].get("initContainers", [])]:
        for key in [key for key, value in place.items() if value == []]:
            del place[key]
    return pod


def check_mutations(expressions, mesh_patch):
    mutating = [*policies("mutating.yaml").values(), *policies("unprivileged.yaml").values()]
    image = expressions.value(mutating[0]["spec"]["variables"][0]["expression"], {}).plain_value()

    def mutate(pod):
        for policy in mutating:
            pod = expressions.mutate(policy, pod)
        return pod

    for path in INJECTED:
        for pod in pods(documents(path)):
            what = f"{path.parent.name}/{path.name}: {pod['metadata']['name']}"
            found = mutate(pod)
            expect(f"{what}: the policies do what mesh-patch does", without_empty_lists(found), without_empty_lists(patched(mesh_patch, image, pod)))
            expect(f"{what}: a second time changes nothing", mutate(found), found)
            # Every fourth version, as each takes its time.
            before = [version for version in VERSIONS[::4] if is_valid(pod, version)]
            expect(f"{what}: valid for the same versions of Kubernetes", [version for version in VERSIONS[::4] if is_valid(found, version)], before)
    for pod in documents(HERE / "policies/others.yaml"):
        expect(f"policies/others.yaml: {pod['metadata']['name']} stays as it is", mutate(pod), pod)


def check_version():
    """Everything names the image of this version."""
    with open(HERE.parent / "Cargo.toml", "rb") as file:
        version = tomllib.load(file)["package"]["version"]
    for path in sorted([*IMAGE.rglob("*.yaml"), IMAGE / "README.md"]):
        named = set(re.findall(r"ghcr\.io/mesh-init/mesh-init:([\w.-]+)", path.read_text()))
        if named:
            expect(f"image/{path.relative_to(IMAGE)} names this version's image", sorted(named), [version])


def check_reinvocation():
    """A policy whose conditions a pod does not meet before the webhook is not called again behind it."""
    for name in ("mutating.yaml", "unprivileged.yaml", "kyverno.yaml"):
        for policy in policies(name).values():
            spec = policy["spec"]
            expect(f"{name}: {policy['metadata']['name']} is called again behind the webhook", [spec["reinvocationPolicy"], spec.get("matchConditions")], ["IfNeeded", None])


def check_kyverno():
    ours = {**policies("mutating.yaml"), **policies("unprivileged.yaml")}
    bindings = {
        document["spec"]["policyName"]: document["spec"]["matchResources"]
        for name in ("mutating.yaml", "unprivileged.yaml")
        for document in documents(IMAGE / "policies" / name)
        if document["kind"] == "MutatingAdmissionPolicyBinding"
    }
    for name, policy in policies("kyverno.yaml").items():
        wanted = copy.deepcopy(ours.pop(name)["spec"])
        wanted["matchConstraints"].update(bindings[name])
        expect(f"Kyverno's {name} says what Kubernetes' does", policy["spec"], wanted)
    expect("Kyverno has all policies", list(ours), [])


def check_validation(expressions):
    """Nobody but mesh-init gets NET_ADMIN."""
    validating = policies("validating.yaml")["net-admin-for-mesh-init"]
    mutating = policies("mutating.yaml")["mesh-init"]
    expect(
        "both policies name the same image",
        expressions.value(validating["spec"]["variables"][0]["expression"], {}).plain_value(),
        [expressions.value(mutating["spec"]["variables"][0]["expression"], {}).plain_value()],
    )
    for path in INJECTED[:2]:
        for pod in documents(path):
            what = f"{path.parent.name}/{path.name}: {pod['metadata']['name']}"
            refused = f"NET_ADMIN is for mesh-init alone; it is also asked for by: {pod['spec']['initContainers'][0]['name']}"
            expect(f"{what} is refused as it is injected", expressions.objections(validating, pod), [refused])
            expect(f"{what} is admitted as the policy leaves it", expressions.objections(validating, expressions.mutate(mutating, pod)), [])

    image = "ghcr.io/mesh-init/mesh-init:0.1.0"
    granted = {"capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]}}

    def objections(old=None, kind="containers", spec=(), **container):
        pod = {"spec": {"containers": [{"name": "app", "image": "registry.example.com/app:1"}], **dict(spec)}}
        pod["spec"][kind] = [{"name": "x", "image": "registry.example.com/x:1", **container}]
        return len(expressions.objections(validating, pod, old))

    for capability in ("NET_ADMIN", "CAP_NET_ADMIN", "ALL", "net_admin", "all"):
        for kind in ("containers", "initContainers", "ephemeralContainers"):
            context = {"capabilities": {"drop": ["ALL"], "add": [capability]}}
            expect(f"{capability} is refused to one of the {kind}", objections(kind=kind, securityContext=context), 1)
            refusals = 1 if capability.upper() == "ALL" else 0
            expect(f"{capability} to mesh-init among the {kind}: {refusals} objections", objections(kind=kind, securityContext=context, image=image), refusals)
    expect("a privileged container is refused", objections(securityContext={"privileged": True}), 1)
    for what, context in {
        "with another capability": {"capabilities": {"add": ["NET_BIND_SERVICE"]}},
        "that drops all": {"capabilities": {"drop": ["ALL"]}},
        "that is said not to be privileged": {"privileged": False},
        "with nothing in its context": {},
    }.items():
        expect(f"a container {what} is admitted", objections(securityContext=context), 0)
    expect("a container without a context is admitted", objections(), 0)
    expect("another program in mesh-init's image is refused", objections(image=image, securityContext=granted, command=["/data/tool"]), 1)
    for path in ("/", "/usr", "/mesh-init", "/usr/local/bin", "/var/run/secrets/../../../usr"):
        mounts = [{"name": "data", "mountPath": path}]
        expect(f"something mounted at {path} of mesh-init's image is refused", objections(image=image, securityContext=granted, volumeMounts=mounts), 1)
    mounts = [{"name": "token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}]
    expect("mesh-init may have a token", objections(image=image, securityContext=granted, volumeMounts=mounts, command=["/mesh-init"]), 0)
    debug = {"capabilities": {"add": ["NET_ADMIN", "NET_RAW"]}}
    expect("mesh-init is admitted as kubectl debug --profile netadmin starts it", objections(kind="ephemeralContainers", image=image, securityContext=debug), 0)
    expect("mesh-init is refused privileged", objections(image=image, securityContext={"privileged": True}), 1)
    expect("mesh-init is refused in the node's network", objections(image=image, securityContext=granted, spec={"hostNetwork": True}), 1)
    expect("others may be in the node's network", objections(spec={"hostNetwork": True}), 0)
    running = {"spec": {"containers": [{"name": "x", "image": "registry.example.com/x:1", "securityContext": granted}]}}
    expect("a pod that ran before may get a label", objections(old=running, securityContext=granted), 0)
    running["spec"]["containers"][0]["image"] = image
    expect("the image of a pod that runs cannot become another one", objections(old=running, securityContext=granted), 1)
    for document in documents(IMAGE / "pods/by-hand.yaml"):
        expect(f"the example {document['metadata']['name']} is admitted", expressions.objections(validating, document), [])


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    expressions = cluster.Expressions(VERSIONS[-1])
    check_schemas()
    check_version()
    check_mutations(expressions, sys.argv[1])
    check_reinvocation()
    check_kyverno()
    check_validation(expressions)
    print(f"\n{passed} passed, 0 failed")


main()
