"""A JSON schema as a grammar for OpenVINO GenAI, whose own reading of schemas is not safe to hand a client's to.

    grammar = to_ebnf({"type": "object", "properties": {"urgent": {"type": "boolean"}}})

The library reads a schema in the middle of a step: one that it refuses ends all answers under way, a long `maxLength`
halts them for minutes, white space may go on forever, and words that it does not know it leaves out. So the grammar is
made here, in the EBNF of xgrammar, of the part of JSON Schema that structured answers are written in; all else is
refused.
The JSON is on one line, as `json.dumps` writes it, with the properties in the order of the schema and no others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from carellama.engine.base import Unsupported

# Words that forbid nothing.
IGNORED_KEYWORDS = {
    *("title", "description", "default", "examples", "$schema", "$id", "$comment", "deprecated"),
    *("$defs", "definitions"),
}
SUPPORTED_KEYWORDS = {
    *("type", "properties", "required", "additionalProperties", "items", "enum", "const", "anyOf", "$ref"),
    *("minItems", "maxItems", "minLength", "maxLength", "minimum", "maximum"),
}
MAX_STRING_LENGTH = 64  # of a string with a bound: the compiler takes seconds for twice as many
MAX_ITEMS = 1000  # of an array with a bound, and integers between two bounds
DEFINITIONS = ("$defs", "definitions")
# The right sides of the rules of JSON; only those that a schema needs are handed over: each takes its time to compile.
BASE_RULES = {
    "char": r'[^"\\\x00-\x1f\x7f] | "\\" escape',
    "escape": r'["\\/bfnrt] | "u" [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F]',
    # A class of characters with a star compiles ten times as fast as the rule `char` with one.
    "string": r'"\"" [^"\\\x00-\x1f\x7f]* ("\\" escape [^"\\\x00-\x1f\x7f]*)* "\""',
    "integer": '"-"? ("0" | [1-9] [0-9]*)',
    "number": '"-"? ("0" | [1-9] [0-9]*) ("." [0-9]+)? ([eE] [-+]? [0-9]+)?',
    "boolean": '"true" | "false"',
    "null": '"null"',
    "object": '"{" (string ": " value (", " string ": " value)*)? "}"',
    "array": '"[" (value (", " value)*)? "]"',
    "value": "string | number | boolean | null | object | array",
}
WORD = re.compile(r'"(?:[^"\\]|\\.)*"|\[(?:[^\]\\]|\\.)*\]|([a-z]+)')  # a literal, a class of characters, or a name
TYPES = ("object", "array", "string", "integer", "number", "boolean", "null")


def to_ebnf(schema: Mapping[str, object]) -> str:
    """Return the grammar of the JSON that a schema allows; {}: any object.

    Raises `Unsupported` for a schema that is wrong, and for one that asks for what is not known here.
    """
    definitions = {
        f"#/{place}/{name}": one for place in DEFINITIONS for name, one in _get_typed(schema, place, dict).items()
    }
    rules = {place: f"defined{index}" for index, place in enumerate(definitions)}
    lines = [f"root ::= {_rule_for(schema or {'type': 'object'}, rules | {'#': 'root'}, 'the schema')}"]
    for place, one in definitions.items():
        if isinstance(one, Mapping) and "$ref" in one:
            raise _unsupported(place, "is only a $ref")
        lines.append(f"{rules[place]} ::= {_rule_for(one, rules | {'#': 'root'}, place)}")
    needed: list[str] = []
    for line in lines:  # which grows
        for name in WORD.findall(line):
            if name in BASE_RULES and name not in needed:
                needed.append(name)
                lines.append(f"{name} ::= {BASE_RULES[name]}")
    return "\n".join(lines)


def choice_grammar(choice: Sequence[str]) -> str:
    """Return the grammar of an answer that is one of these texts."""
    return "root ::= " + " | ".join(_text(one) for one in choice)


def _rule_for(schema: object, rules: Mapping[str, str], where: str) -> str:
    """The right side of the rule for a schema."""
    if schema is True:
        return "value"
    if not isinstance(schema, Mapping):
        raise _unsupported(where, "is no schema that something fits")
    words = set(schema) - IGNORED_KEYWORDS
    if not words:
        return "value"
    if unknown := words - SUPPORTED_KEYWORDS:
        raise _unsupported(where, f"has {min(map(str, unknown))!r}")
    alone = words & {"$ref", "anyOf", "enum", "const"}
    if alone and words - alone - {"type"}:
        raise _unsupported(where, f"has {min(alone)!r} beside {min(words - alone - {'type'})!r}")
    if len(alone) > 1:
        raise _unsupported(where, f"has {' and '.join(sorted(alone))} at once")
    if "$ref" in words:
        if schema["$ref"] not in rules or (schema["$ref"] == "#" and where == "the schema"):
            raise _unsupported(where, "has a $ref to what is not in $defs")
        return rules[schema["$ref"]]
    if "anyOf" in words:
        return _alternatives(
            [
                _rule_for(one, rules, f"{where}.anyOf[{index}]")
                for index, one in enumerate(_get_typed(schema, "anyOf", list))
            ],
            where,
        )
    if alone:
        return _alternatives(
            [_literal(one) for one in ([schema["const"]] if "const" in words else _get_typed(schema, "enum", list))],
            where,
        )
    types = schema.get("type", "object" if "properties" in words else None)
    names = [types] if isinstance(types, str) else types
    if not isinstance(names, list) or not set(map(str, names)) <= set(TYPES):
        raise _unsupported(where, f"has the type {types!r}")
    return _alternatives([_rule_for_type(name, schema, rules, where) for name in names], where)


def _rule_for_type(name: str, schema: Mapping[str, object], rules: Mapping[str, str], where: str) -> str:
    """What one type of a schema allows."""
    if name == "object" and ("properties" in schema or schema.get("additionalProperties") is False):
        return _object(schema, rules, where)
    if name == "object" and isinstance(schema.get("additionalProperties"), Mapping):
        one = f'string ": " ({_rule_for(schema["additionalProperties"], rules, f"{where}.additionalProperties")})'
        return f'"{{" ({one} (", " {one})*)? "}}"'
    if name == "array":
        item = f"({_rule_for(schema.get('items', True), rules, f'{where}.items')})"
        least, most = _bounds(schema, "minItems", "maxItems", MAX_ITEMS, where)
        if most == 0:
            return '"[]"'
        rest = f'(", " {item}){{{max(least - 1, 0)},{"" if most is None else most - 1}}}'
        return f'"[" {item} {rest} "]"' if least else f'"[" ({item} {rest})? "]"'
    if name == "string" and {"minLength", "maxLength"} & set(schema):
        least, most = _bounds(schema, "minLength", "maxLength", MAX_STRING_LENGTH, where)
        if most is not None:
            return f'"\\"" char{{{least},{most}}} "\\""'
        return BASE_RULES["string"].replace('"\\"" ', f'"\\"" char{{{least}}} ', 1)
    if name in ("integer", "number") and {"minimum", "maximum"} & set(schema):
        first, last = schema.get("minimum"), schema.get("maximum")
        if name == "number" or not (type(first) is type(last) is int and 0 <= last - first <= MAX_ITEMS):
            raise _unsupported(where, f"bounds a number otherwise than integers of at most {MAX_ITEMS:,} values")
        return _alternatives([f'"{number}"' for number in range(first, last + 1)], where)
    return name


def _object(schema: Mapping[str, object], rules: Mapping[str, str], where: str) -> str:
    """An object of properties in their order; one that is not required may be left out."""
    properties = _get_typed(schema, "properties", dict)
    required = _get_typed(schema, "required", list)
    if missing := [name for name in required if name not in properties]:
        raise _unsupported(where, f"requires {missing[0]!r}, which is not among its properties")
    members = [
        (name in required, f'{_literal(name)} ": " ({_rule_for(one, rules, f"{where}.{name}")})')
        for name, one in properties.items()
    ]

    def after(index: int) -> str:
        """What may follow when something stands before."""
        if index == len(members):
            return ""
        needed, member = members[index]
        return f'(", " {member}){"" if needed else "?"} {after(index + 1)}'

    starts = []  # whichever property stands first: what is before it is left out
    for index, (needed, member) in enumerate(members):
        starts.append(f"{member} {after(index + 1)}")
        if needed:
            break
    else:
        starts.append('""')
    return f'"{{" ({" | ".join(starts)}) "}}"'


def _literal(value: object) -> str:
    """A JSON value as a string of the grammar."""
    return _text(json.dumps(value, ensure_ascii=False))


def _text(written: str) -> str:
    """A text as a string of the grammar."""
    written = written.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{written}"'.replace("\n", "\\n").replace("\r", "\\r")


def _alternatives(forms: Sequence[str], where: str) -> str:
    if not forms:
        raise _unsupported(where, "has nothing to choose from")
    return forms[0] if len(forms) == 1 else " | ".join(f"({form})" for form in forms)


def _bounds(schema: Mapping[str, Any], low: str, high: str, limit: int, where: str) -> tuple[int, int | None]:
    least, most = schema.get(low, 0), schema.get(high)
    right = type(least) is int and type(most) in (int, type(None)) and 0 <= least <= (limit if most is None else most)
    if not right or (most or 0) > limit:
        raise _unsupported(where, f"has {low} {least!r} and {high} {most!r}; they may go up to {limit:,}")
    return least, most


def _get_typed(schema: Mapping[str, object], word: str, kind: type) -> Any:
    found = schema.get(word, kind())
    if not isinstance(found, kind):
        raise _unsupported("the schema", f"has a {word!r} that is no {'object' if kind is dict else 'list'}")
    return found


def _unsupported(where: str, what: str) -> Unsupported:
    return Unsupported(f"json_schema: {where} {what}; the openvino engine does not know how to keep answers to that")
