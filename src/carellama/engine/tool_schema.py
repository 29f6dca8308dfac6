"""The JSON schema of a tool call: the name of a function, and arguments that the function declares.

    schema = call_schema([Tool("department", parameters={"properties": {"of": {"type": "string"}}})])

A function takes the arguments that it declares and no others, so a model cannot invent any. Where a client leaves
`type` out, `object` is meant; a function without parameters gets `{}`. References within the parameters (`$defs`)
keep working: their definitions move to the root of the schema.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from carellama.engine.base import Tool, Unsupported
from carellama.records import JSONObject

NO_ARGUMENTS: JSONObject = {"type": "object", "properties": {}, "additionalProperties": False}
DEFINITIONS = ("$defs", "definitions")
MEMBERS = ("properties", "patternProperties", "dependentSchemas", *DEFINITIONS)  # their values map names to schemas
DATA = ("enum", "const", "default", "examples", "required")  # their values are no schemas
# Beside one of these, `properties` is not the whole list of what an object may have.
OPENING = {"additionalProperties", "patternProperties", "unevaluatedProperties", "allOf", "anyOf", "oneOf", "$ref"}
COMPOSED = {"$ref", "anyOf", "oneOf", "allOf", "enum", "const"}
NOTES = {"title", "description", "$schema", "$id", "$comment", "default", "examples", "type", "strict"}
MOST_DEPTH = 100  # levels of a schema


def takes_arguments(tool: Tool) -> bool:
    """Return whether a function declares any parameter, or says that it takes arguments of any name."""
    said = {key for key, value in tool.parameters.items() if value not in ({}, [], False, None)}
    return bool(said - NOTES - set(DEFINITIONS))


def call_schema(tools: Sequence[Tool]) -> JSONObject:
    """Return the schema of a call of one of the functions: an object of `name` and `arguments`.

    Raises `Unsupported` for parameters that are no schema of an object.
    """
    definitions: JSONObject = {}
    calls = []
    for index, tool in enumerate(tools):
        fields = {"name": {"const": tool.name}, "arguments": _arguments(tool, f"tool{index}", definitions)}
        calls.append({"type": "object", "properties": fields, "required": [*fields], "additionalProperties": False})
    schema: JSONObject = dict(calls[0]) if len(calls) == 1 else {"anyOf": calls}
    return schema | ({"$defs": definitions} if definitions else {})


def with_answer(schema: Mapping[str, object], tools: Sequence[Tool]) -> JSONObject:
    """Return the schema of an answer that is either JSON of `schema` or a call of one of the functions."""
    calls = call_schema(tools)
    definitions = calls.pop("$defs", {})
    answer = _moved(schema or {"type": "object"}, "answer", definitions)
    return {"anyOf": [answer, *calls.get("anyOf", [calls])]} | ({"$defs": definitions} if definitions else {})


def _arguments(tool: Tool, prefix: str, definitions: JSONObject) -> JSONObject:
    """The schema of a tool's arguments; what it refers to is added to `definitions`."""
    kind = tool.parameters.get("type", "object")
    if kind not in ("object", ["object"]):
        raise Unsupported(
            f"the parameters of the function {tool.name!r} have the type {kind!r}; arguments are an object: "
            'give a schema of the type "object"'
        )
    if not takes_arguments(tool):
        return NO_ARGUMENTS
    used: JSONObject = {}
    schema = _moved(tool.parameters, prefix, used)
    if not COMPOSED & set(schema):
        schema = {"type": "object"} | schema
    definitions |= {name: _without_others(one) for name, one in used.items()}
    closed: JSONObject = _without_others(schema)
    return closed


def _moved(schema: Mapping[str, Any], prefix: str, definitions: JSONObject) -> JSONObject:
    """The schema without its definitions, which are added to `definitions` under names with a prefix."""
    own = {f"#/{place}/{name}": f"{prefix}.{name}" for place in DEFINITIONS for name in schema.get(place) or {}}
    names = own | {"#": f"{prefix}.root"}
    body = {key: value for key, value in schema.items() if key not in (*DEFINITIONS, "$schema", "$id")}
    moved: JSONObject = _renamed(body, names, 0)
    for place in DEFINITIONS:
        for name, one in (schema.get(place) or {}).items():
            definitions[f"{prefix}.{name}"] = _renamed(one, names, 0)
    if _refers_to_root(schema, 0):
        definitions[f"{prefix}.root"] = moved
    return moved


def _renamed(schema: Any, names: Mapping[str, str], depth: int) -> Any:
    """The schema with its references to the new names of definitions."""
    if depth > MOST_DEPTH:
        raise Unsupported(f"a JSON schema is nested deeper than {MOST_DEPTH} levels; give a flatter one")
    if isinstance(schema, Mapping):
        renamed = {key: _renamed(value, names, depth + 1) for key, value in schema.items()}
        target = renamed.get("$ref")
        if isinstance(target, str) and target in names:
            renamed["$ref"] = f"#/$defs/{names[target]}"
        return renamed
    return [_renamed(one, names, depth + 1) for one in schema] if isinstance(schema, list) else schema


def _refers_to_root(schema: object, depth: int) -> bool:
    if isinstance(schema, Mapping):
        return schema.get("$ref") == "#" or any(_refers_to_root(one, depth + 1) for one in schema.values())
    return isinstance(schema, list) and any(_refers_to_root(one, depth + 1) for one in schema)


def _without_others(schema: Any) -> Any:
    """The schema in which an object with properties has no others, unless it says so."""
    if isinstance(schema, list):
        return [_without_others(one) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    found: JSONObject = {}
    for key, value in schema.items():
        if key in MEMBERS and isinstance(value, Mapping):
            found[key] = {name: _without_others(one) for name, one in value.items()}
        else:
            found[key] = value if key in DATA else _without_others(value)
    if isinstance(found.get("properties"), Mapping) and not OPENING & set(found):
        found["additionalProperties"] = False
    return found


def fits(value: Any, schema: Any, root: Any = None) -> bool:
    """Return whether a JSON value keeps to a schema in the words that strict functions are written in.

    These are type, enum, const, anyOf, $ref to definitions, properties, required, additionalProperties and items.
    """
    root = schema if root is None else root
    if not isinstance(schema, Mapping):
        return schema is not False
    if "$ref" in schema:
        path = str(schema["$ref"]).removeprefix("#").strip("/").split("/")
        target = root
        for part in filter(None, path):
            target = target.get(part) if isinstance(target, Mapping) else None
        return target is not None and target is not schema and fits(value, target, root)
    types = schema.get("type")
    if types is not None and not any(_is(value, name) for name in ([types] if isinstance(types, str) else types)):
        return False
    if ("enum" in schema and value not in schema["enum"]) or ("const" in schema and value != schema["const"]):
        return False
    if "anyOf" in schema and not any(fits(value, one, root) for one in schema["anyOf"]):
        return False
    if isinstance(value, Mapping):
        properties = schema.get("properties") or {}
        others = schema.get("additionalProperties", not properties)
        return all(name in value for name in schema.get("required") or ()) and all(
            fits(one, properties.get(name, others), root) for name, one in value.items()
        )
    return not isinstance(value, list) or all(fits(one, schema.get("items", True), root) for one in value)


def _is(value: object, name: str) -> bool:
    if name in ("integer", "number"):
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        return not isinstance(value, bool) and (whole or (name == "number" and isinstance(value, float)))
    kinds = {"object": Mapping, "array": list, "string": str, "boolean": bool, "null": type(None)}
    return name in kinds and isinstance(value, kinds[name])
