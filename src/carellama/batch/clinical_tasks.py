"""Tasks on texts of a hospital: prompt, schema and checks, from `clinical_tasks.yaml` or a file of one's own.

    task = load_tasks()["structure"]
    messages = task.messages("RUL nodule 8 mm.", "en")
    result = task.parse(reply_text)          # BadReply tells what is wrong with it

A schema is written in the part of JSON Schema that is checked here, so that an answer is checked the same way whether
the engine kept to it or not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache

from carellama.batch.tasks import FENCE, HELD, filled
from carellama.batch.text_checks import CHECKS
from carellama.config.yaml_file import read_yaml
from carellama.errors import UserError, lookup, nearest
from carellama.package_data import package_yaml
from carellama.records import JSONObject, Message
from carellama.text import split_reasoning

TASKS_FILE = "batch/clinical_tasks.yaml"
NORMALIZE = "normalize"  # which a table answers, with or without a model
TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "number": (int, float), "integer": (int,),
    "boolean": (bool,), "null": (type(None),),
}  # fmt: skip
KEYWORDS = ("type", "properties", "required", "additionalProperties", "items", "minItems", "maxItems", "enum")
NOTES = ("title", "description")
KEYS = ("name", "about", "system", "prompt", "schema", "checks")
SLOTS = ("text", "reading_length", "candidates")  # what a prompt may have in braces


class BadReply(Exception):
    """An answer that cannot be used; the text says what is wrong, to the model as to a person."""


@dataclass(frozen=True)
class ClinicalTask:
    """A task by its name; prompts are by language, zh and en."""

    name: str
    about: Mapping[str, str]
    prompt: Mapping[str, str]
    schema: JSONObject
    system: Mapping[str, str] = field(default_factory=dict)
    checks: Mapping[str, list[str]] = field(default_factory=dict)

    def messages(self, text: str, language: str, **values: str) -> tuple[Message, ...]:
        """The prompt for a text; `values` fill its other braces."""
        user = Message("user", filled(self.prompt[language], text=text, **values))
        system = self.system.get(language)
        return (Message("system", system), user) if system else (user,)

    def parse(self, reply: str) -> JSONObject:
        """The JSON of a reply, checked against the schema. Raises `BadReply`."""
        value = read_json_reply(reply)
        if reason := schema_reason(value, self.schema):
            raise BadReply(reason)
        return value

    def with_prompt(self, prompt: str | None, system: str | None) -> ClinicalTask:
        """The task with another prompt, for both languages, or another system message."""
        task = self
        if prompt is not None:
            _check_slots(prompt, "--prompt", self.name)
            task = replace(task, prompt=dict.fromkeys(("en", "zh"), prompt), system={})
        return task if system is None else replace(task, system=dict.fromkeys(("en", "zh"), system))


@cache
def load_tasks() -> dict[str, ClinicalTask]:
    """The tasks that CareLlama has, by name."""
    return {name: _task(name, entry, TASKS_FILE) for name, entry in package_yaml(TASKS_FILE).items()}


def load_task_file(path: str) -> ClinicalTask:
    """A task of one's own. `UserError` for a file that is not one."""
    entry = read_yaml(path)
    if unknown := [str(key) for key in entry if key not in KEYS]:
        raise UserError(f"{path}: unknown key {unknown[0]!r}.{nearest(unknown[0], KEYS)} Known: {', '.join(KEYS)}.")
    if missing := [key for key in ("name", "prompt", "schema") if not entry.get(key)]:
        raise UserError(f"{path}: no {missing[0]!r}; a task has at least name, prompt and schema")
    name = str(entry["name"])
    if name in ("list", "show") or name in load_tasks():
        raise UserError(f"{path}: the name {name!r} is taken; give the task another one")
    return _task(name, entry, path)


def find_task(name: str, task_file: str | None) -> ClinicalTask:
    """The task of this name. Raises `UserError` for an unknown one."""
    own = load_task_file(task_file) if task_file else None
    return lookup(load_tasks() | ({own.name: own} if own else {}), name, "task")


def _task(name: str, entry: JSONObject, path: str) -> ClinicalTask:
    texts = {key: _by_language(entry.get(key), f"{path}: {key}") for key in ("about", "prompt", "system")}
    for prompt in texts["prompt"].values():
        _check_slots(prompt, path, name)
    schema, checks = entry["schema"], entry.get("checks") or {}
    if reason := keyword_reason(schema, "schema"):
        raise UserError(f"{path}: {reason}")
    if not isinstance(checks, dict):
        raise UserError(f"{path}: checks is {type(checks).__name__}; write check: [field, ...]")
    for check, paths in checks.items():
        lookup(CHECKS, str(check), f"check in {path}")
        for one in paths if isinstance(paths, list) else [paths]:
            if not isinstance(paths, list) or not _has_path(schema, str(one).split(".")):
                raise UserError(f"{path}: checks, {check}: {one!r} is no field of the schema in a list [field, ...]")
    return ClinicalTask(name, texts["about"], texts["prompt"], schema, texts["system"], checks)


def _by_language(value: object, where: str) -> dict[str, str]:
    """A text, or one a language, by language; where one is missing the other stands in."""
    if value is None:
        return {}
    if isinstance(value, str):
        return dict.fromkeys(("en", "zh"), value)
    if not isinstance(value, dict) or not value or not set(value) <= {"en", "zh"}:
        raise UserError(f"{where} must be a text, or texts under en and zh")
    texts: dict[str, str] = {code: text for code, text in value.items() if isinstance(text, str) and text.strip()}
    if len(texts) < len(value):
        raise UserError(f"{where} has something else than a text")
    return dict.fromkeys(("en", "zh"), next(iter(texts.values()))) | texts


def _check_slots(prompt: str, where: str, name: str) -> None:
    slots = set(HELD.findall(prompt))
    if "text" not in slots:
        raise UserError(f"{where}: the prompt has no {{text}}, which stands for the text of a row; write it in")
    if name == NORMALIZE and "candidates" not in slots:
        raise UserError(f"{where}: a prompt of normalize needs {{candidates}}, the entries to pick from")
    if unknown := sorted(slots - set(SLOTS)):
        raise UserError(f"{where}: unknown {{{unknown[0]}}} in the prompt; known: {', '.join(SLOTS)}")


def _number(text: str) -> float:
    """A number of a reply. Raises `BadReply` for one that JSON cannot hold: NaN, Infinity, 1e999."""
    if not math.isfinite(value := float(text)):
        raise BadReply(f"{text} is no number of JSON")
    return value


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object of JSON. Raises `ValueError` for two equal keys, of which one would be lost."""
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("two equal keys")
    return made


# not strict: line breaks within texts are common
_DECODER = json.JSONDecoder(strict=False, parse_float=_number, parse_constant=_number, object_pairs_hook=_object)


def read_json_reply(reply: str) -> JSONObject:
    """The JSON object of a reply, alone, in a code fence or between other words. Raises `BadReply`."""
    text = split_reasoning(reply)[3].strip()
    if not text:
        raise BadReply("the reply is empty")
    fenced = FENCE.search(text)
    text = fenced[1] if fenced else text
    begin = text.find("{")
    if begin < 0:
        raise BadReply("the reply has no JSON object")
    try:
        value: JSONObject = _DECODER.raw_decode(text[begin:])[0]
    except (ValueError, RecursionError) as error:
        raise BadReply(f"the JSON is broken ({str(error).partition(':')[0]})") from None
    return value


def schema_reason(value: object, schema: JSONObject, where: str = "the object") -> str:
    """Why a value does not keep to a schema, "" where it does."""
    kind = schema.get("type")
    kinds = kind if isinstance(kind, list) else [kind] if kind else []
    if kinds and not any(_is_a(value, one) for one in kinds):
        return f"{where} must be {' or '.join(kinds)}"
    if "enum" in schema and value not in schema["enum"]:
        return f"{where} must be one of {', '.join(map(str, schema['enum']))}"
    if isinstance(value, dict):
        return _members_reason(value, schema, where)
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            return f"{where} has {len(value)} items"
        reasons = (schema_reason(one, schema.get("items", {}), f"{where}[{at}]") for at, one in enumerate(value))
        return next(filter(None, reasons), "")
    return ""


def _members_reason(value: JSONObject, schema: JSONObject, where: str) -> str:
    properties = schema.get("properties", {})
    if missing := [name for name in schema.get("required", ()) if name not in value]:
        return f"{where} has no {missing[0]!r}"
    if schema.get("additionalProperties") is False and (more := [name for name in value if name not in properties]):
        return f"{where} has {str(more[0])[:40]!r}, which was not asked for"
    prefix = "" if where == "the object" else f"{where}."
    reasons = (schema_reason(value[name], properties[name], prefix + name) for name in properties if name in value)
    return next(filter(None, reasons), "")


def _is_a(value: object, kind: str) -> bool:
    return isinstance(value, TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))


def keyword_reason(schema: object, where: str) -> str:
    """Why a schema cannot be used here, "" where it can: a keyword that is not checked, or a wrong value of one."""
    if not isinstance(schema, dict):
        return f"{where} must be a JSON schema, keyword: value"
    if unknown := [str(key) for key in schema if key not in (*KEYWORDS, *NOTES)]:
        return f"{where}: the keyword {unknown[0]!r} is not known here; known: {', '.join(KEYWORDS)}"
    kind = schema.get("type")
    if where == "schema" and kind != "object":
        return "schema: its type must be object"
    if bad := [one for one in (kind if isinstance(kind, list) else [kind]) if one is not None and one not in TYPES]:
        return f"{where}: unknown type {bad[0]!r}; known: {', '.join(TYPES)}"
    properties = schema.get("properties", {})
    if not isinstance(properties, dict):
        return f"{where}.properties must be name: schema"
    if missing := [name for name in schema.get("required", []) if name not in properties]:
        return f"{where}: {missing[0]!r} is required and no property"
    inner = [(properties[name], f"{where}.{name}") for name in properties]
    inner += [(schema["items"], f"{where}[]")] if "items" in schema else []
    return next(filter(None, (keyword_reason(one, at) for one, at in inner)), "")


def _has_path(schema: JSONObject, path: list[str]) -> bool:
    while "items" in schema:
        schema = schema["items"]
    return not path or (path[0] in schema.get("properties", {}) and _has_path(schema["properties"][path[0]], path[1:]))
