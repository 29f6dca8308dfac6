"""What limits an answer to a form: the fields of OpenAI, vLLM, llama.cpp, Ollama and SGLang for it, read as one.

constraint_of(ChatRequest(messages=[...], guided_choice=["yes", "no"]))
# Constraint("guided_choice", {"choice": ("yes", "no")})
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from carellama.records import JSONObject
from carellama.serve.api.errors import InvalidRequest
from carellama.serve.api.schemas import SamplingFields, StructuredOutputs

Value = JSONObject | str | list[str]
CONSTRAINTS = ("json_schema", "regex", "choice", "grammar")  # fields of `Sampling`
MOST_CHOICES = 1000  # texts of a choice


@dataclass(frozen=True, slots=True)
class Constraint:
    """A limit of an answer: the field of the request that gives it, and the fields of `Sampling` that it sets."""

    param: str
    sampling: JSONObject


def constraint_of(body: SamplingFields) -> Constraint | None:
    """Return what limits the answer, or None. Raises `InvalidRequest` (400) for two, and for an empty one."""
    given: list[tuple[str, str, Value | None]] = [
        ("response_format", "json", _of_response_format(body)),
        ("json_schema", "json", body.json_schema),
        ("format", "json", {} if body.format == "json" else body.format or None),
        ("guided_json", "json", body.guided_json),
        ("guided_regex", "regex", body.guided_regex),
        ("guided_choice", "choice", body.guided_choice),
        ("guided_grammar", "grammar", body.guided_grammar),
        ("regex", "regex", body.regex or None),
        ("grammar", "grammar", body.grammar or None),
        ("ebnf", "grammar", body.ebnf or None),
        *_of_structured_outputs(body.structured_outputs),
    ]
    found = [Constraint(param, _read(param, kind, value)) for param, kind, value in given if value is not None]
    if len(found) > 1:
        names = " and ".join(one.param for one in found[:2])
        raise InvalidRequest(f"{names} both limit the answer; send one of them", found[1].param)
    return found[0] if found else None


def _of_response_format(body: SamplingFields) -> JSONObject | None:
    form = body.response_format
    if form is None or form.type == "text":
        return None
    schema = form.json_schema.schema_ if form.json_schema is not None else form.schema_
    if form.type == "json_object":
        return schema or {}
    if schema is None:
        raise InvalidRequest(
            "response_format of the type json_schema needs json_schema.schema", "response_format.json_schema"
        )
    return schema


def _of_structured_outputs(given: StructuredOutputs | None) -> list[tuple[str, str, Value | None]]:
    if given is None:
        return []
    values: list[tuple[str, str, Value | None]] = [
        ("json", "json", given.json_),
        ("json", "json", {} if given.json_object else None),
        ("regex", "regex", given.regex),
        ("choice", "choice", given.choice),
        ("grammar", "grammar", given.grammar),
    ]
    if unknown := [name for name, value in (given.model_extra or {}).items() if value]:
        raise InvalidRequest(f"structured_outputs.{unknown[0]} is not supported", f"structured_outputs.{unknown[0]}")
    if all(value is None for _, _, value in values):
        raise InvalidRequest(
            "structured_outputs limits nothing; send json, regex, choice or grammar", "structured_outputs"
        )
    return [(f"structured_outputs.{name}", kind, value) for name, kind, value in values]


def _read(param: str, kind: str, value: Value) -> JSONObject:
    """The fields of `Sampling` for a limit."""
    if kind == "json":
        return {"json_schema": _schema(param, value)}
    if not value:
        raise InvalidRequest(f"{param} is empty: no answer fits it", param)
    if kind != "choice":
        return {kind: value}
    if len(value) > MOST_CHOICES or not all(value):
        raise InvalidRequest(f"{param} has an empty text, or more than {MOST_CHOICES:,}", param)
    return {"choice": tuple(value)}


def _schema(param: str, value: Value) -> JSONObject:
    """A JSON schema, which vLLM also takes as text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise InvalidRequest(f"{param} is a text that is not JSON", param) from None
    if not isinstance(value, dict):
        raise InvalidRequest(f"{param} is not a JSON schema: send an object", param)
    return value
