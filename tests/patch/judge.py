"""A second opinion on what mesh-patch has made of a manifest, with another YAML reader and rules of its own.

judge.py same BEFORE AFTER [OPTION...]   fails unless AFTER is what BEFORE shall become; options: class=NAME, non-root, keep=NAME
judge.py words FILE                      the commands of the meshes' init containers as JSON: [[name, [word...], {variable: value}]...]
judge.py apply FILE PATCHES              applies the patches that --output json-patch has made of FILE, and writes the outcome as JSON
judge.py kustomize FOLDER                does what kustomize does with the kustomization.yaml in FOLDER, and writes the objects as JSON
"""

import copy
import json
import os
import re
import sys

import jsonpatch
import yaml

IMAGE = "registry.example/mesh-init:9"
INSTALLERS = ("istio-init", "linkerd-init")
VALIDATORS = ("istio-validation", "linkerd-network-validator")
OLD = ("extensions/v1beta1", "apps/v1beta1", "apps/v1beta2")


def documents(path):
    with open(path, encoding="utf-8") as file:
        return list(yaml.safe_load_all(file))


def objects(document):
    """Objects that have a pod in them."""
    if isinstance(document, dict) and document.get("kind") == "List":
        return [inner for item in document["items"] for inner in objects(item)]
    return [document] if document and any(True for _ in pods(document)) else []


def pods(thing):
    """Every mapping with a list of containers, and the mapping that has it as its spec."""
    if isinstance(thing, dict):
        if isinstance(thing.get("spec"), dict) and isinstance(thing["spec"].get("containers"), list):
            yield thing
        for value in thing.values():
            yield from pods(value)
    elif isinstance(thing, list):
        for value in thing:
            yield from pods(value)


def become(pod, api, options):
    spec = pod["spec"]
    inits = spec.get("initContainers", [])
    ours = [c for c in inits if c["name"] in INSTALLERS + VALIDATORS]
    if not ours:
        return
    keep = [option[5:] for option in options if option.startswith("keep=")]
    for container in ours:
        first = container.get("args", [""])[0]
        if container["name"].startswith("istio") and "command" not in container and first.startswith("-"):
            container["args"].insert(0, "istio-iptables")
        if container.get("command", [""])[0] == "istio-iptables":
            container["command"].insert(0, "/mesh-init")
        container["image"] = IMAGE
        context = container.setdefault("securityContext", {})
        context.update(privileged=False, allowPrivilegeEscalation=False, readOnlyRootFilesystem=True)
        context["capabilities"] = {"drop": ["ALL"]}
        if container["name"] in INSTALLERS:
            context["capabilities"]["add"] = ["NET_ADMIN"]
            context.update({"runAsUser": 0, "runAsNonRoot": False})
            if "non-root" in options:
                context.update(runAsNonRoot=True, runAsUser=65534, runAsGroup=65534)
        if api in OLD:
            annotation = "container.seccomp.security.alpha.kubernetes.io/" + container["name"]
            pod["metadata"].setdefault("annotations", {})[annotation] = "runtime/default"
        else:
            context["seccompProfile"] = {"type": "RuntimeDefault"}
        container["volumeMounts"] = [m for m in container.get("volumeMounts", []) if not m["name"].endswith("xtables-lock")]
        if not container["volumeMounts"]:
            del container["volumeMounts"]
    spec["volumes"] = [v for v in spec.get("volumes", []) if not v["name"].endswith("xtables-lock")]
    if not spec["volumes"]:
        del spec["volumes"]
    for container in inits + spec["containers"]:
        if container.get("securityContext", {}).get("privileged") and container["name"] not in keep:
            container["securityContext"]["privileged"] = False
    for option in options:
        if option.startswith("class="):
            spec["runtimeClassName"] = option[6:]


def same(before, after, options):
    wanted = copy.deepcopy(documents(before))
    for document in wanted:
        for item in objects(document):
            for pod in pods(item):
                become(pod, item["apiVersion"], options)
    found = documents(after)
    if wanted != found:
        sys.exit("wanted:\n" + yaml.safe_dump_all(wanted) + "\nfound:\n" + yaml.safe_dump_all(found))


def words(path):
    found = []
    for document in documents(path):
        for item in objects(document):
            for pod in pods(item):
                for container in pod["spec"].get("initContainers", []):
                    if container["name"] in INSTALLERS + VALIDATORS:
                        env = {e["name"]: e["value"] for e in container.get("env", []) if "value" in e}
                        found.append([container["name"], container.get("command", []) + container.get("args", []), env])
    print(json.dumps(found))


def target(item):
    metadata = item["metadata"]
    named = {key: metadata[key] for key in ("namespace", "name") if key in metadata}
    return {"apiVersion": item["apiVersion"], "kind": item["kind"], **named}


def apply(path, patches):
    before = documents(path)
    found = [item for document in before for item in objects(document)]
    with open(patches, encoding="utf-8") as file:
        parts = json.load(file)
    # Of several patches each says whose it is; one alone is for the one object that has a mesh.
    if parts and "op" in parts[0]:
        parts = [{"target": target(found[0]), "patch": parts}]
    for part in parts:
        (item,) = (item for item in found if target(item) == part["target"])
        changed = jsonpatch.apply_patch(item, part["patch"])
        item.clear()
        item.update(changed)
    print(json.dumps(before))


def listed(document):
    """What kustomize makes of a document: the items of a list, else itself."""
    if document["kind"].endswith("List") and isinstance(document.get("items"), list):
        return [inner for item in document["items"] for inner in listed(item)]
    return [document]


def selects(target, item):
    group, _, version = item["apiVersion"].rpartition("/")
    metadata = item["metadata"]
    has = {"group": group, "version": version, "kind": item["kind"], "name": metadata["name"]}
    has["namespace"] = metadata.get("namespace") or "default"
    return all(re.fullmatch(pattern, has[key]) for key, pattern in target.items())


def kustomize(folder):
    (kustomization,) = documents(os.path.join(folder, "kustomization.yaml"))
    assert set(kustomization) <= {"apiVersion", "kind", "resources", "patches"}, kustomization
    found = []
    for name in kustomization["resources"]:
        path = os.path.realpath(os.path.join(folder, name))
        assert not os.path.isabs(name) and path.startswith(os.path.realpath(folder) + "/"), name
        found += [item for document in documents(path) if document is not None for item in listed(document)]
    for entry in kustomization.get("patches", []):
        # One that matches nothing would be passed over in silence.
        (item,) = (item for item in found if selects(entry["target"], item))
        changed = jsonpatch.apply_patch(item, json.loads(entry["patch"]))
        item.clear()
        item.update(changed)
    print(json.dumps(found))


if __name__ == "__main__":
    {
        "same": lambda a: same(a[0], a[1], a[2:]),
        "words": lambda a: words(a[0]),
        "apply": lambda a: apply(a[0], a[1]),
        "kustomize": lambda a: kustomize(a[0]),
    }[sys.argv[1]](sys.argv[2:])
