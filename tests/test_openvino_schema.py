"""The grammars made of JSON schemas, and what is refused. That the compiler takes them is for the slow tests."""

from __future__ import annotations

from typing import Any

import pytest

from carellama.engine.base import Unsupported
from carellama.engine.openvino.grammar import to_ebnf

ROOT = "root ::= "


def root_of(schema: dict[str, Any]) -> str:
    return to_ebnf(schema).splitlines()[0].removeprefix(ROOT)


def test_nothing_asked_for_is_any_object() -> None:
    assert root_of({}) == "object" == root_of({"type": "object"})
    assert to_ebnf({}).count("::=") == 9  # all of JSON, each rule once


def test_properties_come_in_order_and_may_be_left_out_unless_required() -> None:
    both = {"a": {"type": "null"}, "b": {"type": "null"}}
    a, b = r'"\"a\"" ": " (null)', r'"\"b\"" ": " (null)'
    assert root_of({"properties": both, "required": ["a", "b"]}) == f'"{{" ({a} (", " {b}) ) "}}"'
    assert root_of({"properties": both, "required": ["b"]}) == f'"{{" ({a} (", " {b})  | {b} ) "}}"'
    assert root_of({"properties": both}) == f'"{{" ({a} (", " {b})?  | {b}  | "") "}}"'
    assert root_of({"type": "object", "additionalProperties": False}) == '"{" ("") "}"'


def test_values_are_written_as_json_has_them() -> None:
    assert root_of({"enum": ["是", 'a"\n', 1, None]}) == r'("\"是\"") | ("\"a\\\"\\n\"") | ("1") | ("null")'
    assert root_of({"const": {"a": [True]}}) == r'"{\"a\": [true]}"'
    assert root_of({"type": "integer", "minimum": -1, "maximum": 1}) == '("-1") | ("0") | ("1")'
    assert root_of({"type": ["string", "null"]}) == "(string) | (null)"


def test_a_schema_may_refer_to_itself() -> None:
    node = {"properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}, "required": ["next"]}
    found = to_ebnf({"$ref": "#/$defs/node", "$defs": {"node": node}})
    assert found.splitlines()[0] == ROOT + "defined0" and '": " ((defined0) | (null))' in found
    assert r"(root)" in to_ebnf({"properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}})


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nonsense"}, {"type": []}, {"type": "string", "pattern": "a+"}, {"type": "string", "format": "date"},
        {"not": {"type": "null"}}, {"enum": []}, {"anyOf": []}, {"anyOf": {"type": "null"}}, {"$ref": "#"},
        {"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
        {"properties": {"a": {}}, "required": ["b"]}, {"properties": {"a": False}}, {"properties": []},
        {"type": "string", "maxLength": 10_000}, {"type": "string", "minLength": 3, "maxLength": 2},
        {"type": "array", "items": {}, "maxItems": 10**9}, {"type": "number", "minimum": 0},
        {"type": "integer", "minimum": 0, "maximum": 10**9}, {"type": "integer", "minimum": 0.5, "maximum": 2},
        {"enum": [1], "type": "integer", "minimum": 0}, {"enum": [1], "const": 1},
    ],
    ids=str,
)  # fmt: skip
def test_what_can_not_be_kept_to_is_refused_in_one_line(schema: dict[str, Any]) -> None:
    with pytest.raises(Unsupported, match="json_schema") as refused:
        to_ebnf(schema)
    assert "\n" not in str(refused.value)
