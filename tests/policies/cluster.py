"""As much of an API server as admission policies need: Kubernetes' types, CEL with its extensions, JSON patches.

CEL is Google's own, with its type checker. What it does not have of Kubernetes' is added here: lists' indexOf and join, upperAscii, the type
JSONPatch, and types by the names of fields (Object.spec.initContainers), with the fields that Kubernetes' schema gives
them, so that a field that does not exist, or a value of another type, is an error as it is in a cluster.
"""

import copy
import functools
import json
import re

import importlib_resources
import jsonpatch
from cel_expr_python import cel
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, json_format, message_factory, struct_pb2, wrappers_pb2

FIELD = descriptor_pb2.FieldDescriptorProto
SCALARS = {"string": FIELD.TYPE_STRING, "boolean": FIELD.TYPE_BOOL, "integer": FIELD.TYPE_INT64}
# An initializer of a type of Kubernetes': `Object.spec.initContainers{`. CEL has no type within a type of its field's name,
# so that here the names have no dots.
INITIALIZER = re.compile(r"\bObject((?:\.\w+)*)\s*\{")


class Types:
    """The types that the expressions of a policy name, for pods of a version of Kubernetes."""

    def __init__(self, version):
        folder = importlib_resources.files("kubernetes_validate") / "kubernetes-json-schema" / f"v{version}.0-local"
        self.definitions = json.loads((folder / "_definitions.json").read_text())["$defs"]
        self.file = descriptor_pb2.FileDescriptorProto(name="kubernetes.proto", syntax="proto2", dependency=["google/protobuf/any.proto"])
        patch = self.file.message_type.add(name="JSONPatch")
        for name in ("op", "path", "from"):
            self.add_field(patch, name, FIELD.TYPE_STRING)
        self.add_field(patch, "value", FIELD.TYPE_MESSAGE, ".google.protobuf.Any")
        self.add_type("Object", self.definitions["io.k8s.api.core.v1.Pod"])
        self.pool = descriptor_pool.DescriptorPool()
        for module in (any_pb2, struct_pb2, wrappers_pb2):
            self.pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
        self.pool.AddSerializedFile(self.file.SerializeToString())

    @staticmethod
    def add_field(message, name, kind, type_name=None, repeated=False):
        label = FIELD.LABEL_REPEATED if repeated else FIELD.LABEL_OPTIONAL
        message.field.add(name=name, number=len(message.field) + 1, type=kind, type_name=type_name, label=label)

    def add_type(self, name, schema):
        """Adds a type and those of its fields. Fields that are maps, or of no certain type, are left out."""
        message = descriptor_pb2.DescriptorProto(name=name)
        for field, what in schema.get("properties", {}).items():
            what = self.resolve(what)
            repeated = self.kind(what) == "array"
            if repeated:
                what = self.resolve(what["items"])
            kind = self.kind(what)
            if kind in SCALARS:
                self.add_field(message, field, SCALARS[kind], repeated=repeated)
            elif "properties" in what and name.count("_") < 4:
                self.add_field(message, field, FIELD.TYPE_MESSAGE, f".{name}_{field}", repeated)
                self.add_type(f"{name}_{field}", what)
        self.file.message_type.append(message)

    def resolve(self, schema):
        while "$ref" in schema:
            schema = self.definitions[schema["$ref"].rsplit("/", 1)[1]]
        return schema

    @staticmethod
    def kind(schema):
        kind = schema.get("type")
        return next((one for one in kind if one != "null"), None) if isinstance(kind, list) else kind

    def plain(self, value):
        """The JSON that the value of a patch stands for."""
        name = value.type_url.rsplit("/", 1)[1]
        message = message_factory.GetMessageClass(self.pool.FindMessageTypeByName(name))()
        value.Unpack(message)
        return self.without_fractions(json.loads(json_format.MessageToJson(message, preserving_proto_field_name=True)), message)

    def without_fractions(self, found, message=None):
        """As a JSON encoder writes what protobuf has as floating point, and protobuf's 64-bit integers, which are strings there."""
        if isinstance(message, wrappers_pb2.Int64Value) or (message is not None and message.DESCRIPTOR.name == "Int64Value"):
            return int(found)
        if isinstance(found, dict):
            return {key: self.without_fractions(one) for key, one in found.items()}
        if isinstance(found, list):
            return [self.without_fractions(one) for one in found]
        if isinstance(found, float) and found.is_integer():
            return int(found)
        return found


def index_of(items, wanted):
    return items.index(wanted) if wanted in items else -1


class Expressions:
    """Compiles and evaluates expressions of policies."""

    def __init__(self, version):
        self.types = Types(version)
        dynamic = {name: cel.Type.DYN for name in ("object", "oldObject", "variables")}
        a_list_and_text = [cel.Type.LIST, cel.Type.STRING]
        functions = [
            cel.FunctionDecl("indexOf", [cel.Overload("list_index_of", cel.Type.INT, a_list_and_text, True, index_of)]),
            cel.FunctionDecl("join", [cel.Overload("list_join", cel.Type.STRING, a_list_and_text, True, lambda items, by: by.join(items))]),
        ]
        upper = cel.Overload("upper_ascii", cel.Type.STRING, [cel.Type.STRING], True, str.upper)
        functions.append(cel.FunctionDecl("upperAscii", [upper]))
        self.env = cel.NewEnv(descriptor_pool=self.types.pool, variables=dynamic, functions=functions)

    @functools.cache
    def compiled(self, expression):
        return self.env.compile(INITIALIZER.sub(lambda found: "Object" + found[1].replace(".", "_") + "{", expression))

    def value(self, expression, data):
        found = self.compiled(expression).eval(data=data)
        if found.type() == cel.Type.ERROR:
            raise ValueError(f"{expression}: {found.value()}")
        return found

    def data(self, policy, pod, old):
        """What expressions can name: the pod, the one before, and the policy's variables, each of which sees those before it."""
        data = {"object": pod, "oldObject": old, "variables": {}}
        for variable in policy["spec"].get("variables", []):
            data["variables"][variable["name"]] = self.value(variable["expression"], data).plain_value()
        return data

    def mutate(self, policy, pod):
        """What the policy makes of the pod."""
        for mutation in policy["spec"]["mutations"]:
            patch = []
            for found in self.value(mutation["jsonPatch"]["expression"], self.data(policy, pod, None)).plain_value():
                operation = {"op": found.op, "path": found.path}
                if found.HasField("value"):
                    operation["value"] = self.types.plain(found.value)
                patch.append(operation)
            pod = jsonpatch.apply_patch(pod, patch)
        return pod

    def objections(self, policy, pod, old=None):
        """What the policy has against the pod."""
        data = self.data(policy, copy.deepcopy(pod), old)
        return [
            validation["message"] if "message" in validation else self.value(validation["messageExpression"], data).plain_value()
            for validation in policy["spec"]["validations"]
            if not self.value(validation["expression"], data).plain_value()
        ]
