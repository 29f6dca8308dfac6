"""The forms in which models write calls of tools, and what reads each of them.

    form = FORMS[0]; form.read('{"name": "hours", "arguments": {}}', {"hours": Tool("hours")})  # [Written("hours", {})]

Each form is the one that the models' own chat templates write:

    <tool_call>{"name": NAME, "arguments": {...}}</tool_call>            Hermes 2, Qwen 2.5, Qwen 3, Granite
    <tool_call><function=NAME><parameter=KEY>VALUE</parameter>...        Qwen3-Coder, Qwen 3.5, Nemotron 3
    <tool_call>NAME <arg_key>KEY</arg_key><arg_value>VALUE</arg_value>   GLM 4.5 and later
    [TOOL_CALLS][{"name": NAME, "arguments": {...}}, ...]                Mistral 7B v0.3 to Small 3.1
    [TOOL_CALLS]NAME[ARGS]{...}                                          Mistral's tokenizer v11 and later
    <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>...<｜tool▁sep｜>...           DeepSeek V3, R1, V3.1
    <|python_tag|>{"name": NAME, "parameters": {...}}                    Llama 3.1 (also without the mark)

gpt-oss writes its calls as messages of a channel, see `carellama.engine.harmony`. Values between tags have no type of
their own: the schema of the function says whether `5` is a number or a text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, NoReturn, Protocol

from carellama.engine.reading import held_back
from carellama.records import JSONObject, Tool


class Written(NamedTuple):
    """A call as a model wrote it. `arguments` are an object, or the text that there is of them where it was cut."""

    name: str
    arguments: JSONObject | str


Tools = Mapping[str, Tool]


class Read(Protocol):
    """Reads what stands between the marks of a form."""

    def __call__(self, text: str, tools: Tools, /, *, complete: bool = True) -> list[Written] | None:
        """Return the calls, None for what is no call. `complete`: the text is not cut by the limit of tokens."""


@dataclass(frozen=True)
class Form:
    """What calls stand between; without `close` they reach to the end."""

    open: str
    close: str
    read: Read


# A call in JSON that was cut: the name, and what there is of the arguments.
CUT_CALL = re.compile(r'\s*\{\s*"name"\s*:\s*"([^"\\]*)"(?:\s*,\s*"(?:arguments|parameters)"\s*:\s*(.*))?', re.DOTALL)
BEGUN = re.compile(r'\{\s*(?:"(?:n(?:a(?:m(?:e(?:"\s*(?::\s*(?:"[^"]*)?)?)?)?)?)?)?)?$')  # of an object with a name
FUNCTION = re.compile(r"\s*<function=([^>\n]+)>(.*?)(</function>\s*|$)", re.DOTALL)
PARAMETER = re.compile(r"\s*<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>", re.DOTALL)
ARGUMENT = re.compile(r"\s*<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>", re.DOTALL)
MISTRAL_NAME = re.compile(r"\s*(?:\[TOOL_CALLS\]\s*)?([\w.-]+)\s*(?:\[CALL_ID\]\s*\w*\s*)?(?:\[ARGS\])?\s*")
MISTRAL, PYTHON_TAG = "[TOOL_CALLS]", "<|python_tag|>"
BEGIN, SEPARATOR, END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
PYTHON_WORDS = {"True": True, "False": False, "None": None}  # as Qwen3-Coder's template writes them


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _number(text: str) -> float:
    value = float(text)
    return value if abs(value) != float("inf") else _no_number(text)


DECODER = json.JSONDecoder(parse_constant=_no_number, parse_float=_number)


def read_json(text: str, *_: Tools, **__: bool) -> list[Written] | None:
    """Read an object, or an array of objects, with name and arguments (or parameters)."""
    rest = text.lstrip()
    listed = rest.startswith("[")
    rest = rest.removeprefix("[")
    calls: list[Written] = []
    while rest := rest.lstrip(" \t\r\n," if listed else None):
        if listed and rest.strip() == "]":
            break
        try:
            found, end = DECODER.raw_decode(rest)
        except (ValueError, RecursionError):
            cut = CUT_CALL.match(rest)
            if cut is None and not (calls and BEGUN.match(rest)):
                return None
            return [*calls, Written(cut[1], cut[2] or "") if cut else Written("", "")]
        call = _of_object(found)
        if call is None or (calls and not listed):
            return None
        calls.append(call)
        rest = rest[end:]
    return calls or None


def _of_object(found: object) -> Written | None:
    if not isinstance(found, dict) or not isinstance(name := found.get("name"), str):
        return None
    arguments = found["arguments"] if "arguments" in found else found.get("parameters")
    return Written(name, arguments) if isinstance(arguments, dict) else None


def _object(text: str) -> JSONObject | str:
    """An object, or its text where that is cut."""
    try:
        found, end = DECODER.raw_decode(text.lstrip())
    except (ValueError, RecursionError):
        return text.lstrip()
    return found if isinstance(found, dict) and end == len(text.strip()) else text.lstrip()


def read_tagged(text: str, tools: Tools, *, complete: bool = True) -> list[Written] | None:
    """Read what stands in <tool_call>: JSON, <function=NAME>, or NAME and <arg_key>."""
    start = text.lstrip()
    if start.startswith(("{", "[")):
        return read_json(text)
    if start.startswith("<function="):
        return read_functions(text, tools, complete=complete)
    name, mark, rest = text.partition("<arg_key>")
    name = (name if mark else name[: len(name) - held_back(name, ["<arg_key>"])]).strip()
    if name not in tools:
        return None
    arguments, left = _pairs(ARGUMENT, mark + rest, tools[name])
    return [Written(name, _cut(arguments) if left or not complete else arguments)]


def read_functions(text: str, tools: Tools, *, complete: bool = True) -> list[Written] | None:
    """Read <function=NAME> with a <parameter=KEY> for each argument, or with JSON as Llama's prompts have it."""
    calls: list[Written] = []
    at = 0
    while text[at:].strip():
        found = FUNCTION.match(text, at)
        if found is None:
            return None
        name, inner, end = found[1].strip(), found[2], bool(found[3])
        if inner.lstrip().startswith("{"):
            calls.append(Written(name, _object(inner)))
        else:
            arguments, left = _pairs(PARAMETER, inner, tools.get(name))
            if left and (end or complete):
                return None
            calls.append(Written(name, arguments if end or complete else _cut(arguments)))
        at = found.end()
    return calls or None


def read_mistral(text: str, *_: Tools, **__: bool) -> list[Written] | None:
    """Read an array of objects, or names each with [ARGS] and an object."""
    if text.lstrip().startswith(("[{", "[ {", "{")) or text.strip() == "[":
        return read_json(text)
    calls: list[Written] = []
    rest = text
    while rest.strip() and not (calls and MISTRAL.startswith(rest.strip())):
        name = MISTRAL_NAME.match(rest)
        if name is None:
            return None
        rest = rest[name.end() :]
        if not rest.startswith("{"):
            begun = any(mark.startswith(rest) for mark in ("[CALL_ID]", "[ARGS]"))
            return [*calls, Written(name[1], "")] if begun else None
        try:
            arguments, end = DECODER.raw_decode(rest)
        except (ValueError, RecursionError):
            return [*calls, Written(name[1], rest)]
        calls.append(Written(name[1], arguments))
        rest = rest[end:]
    return calls or None


def read_deepseek(text: str, tools: Tools, *, complete: bool = True) -> list[Written] | None:
    """Read calls of DeepSeek: V3 and R1 write a type before the name and JSON in a code block, V3.1 the JSON alone."""
    before, *parts = text.split(BEGIN)
    if before.strip():
        return None
    calls = []
    for part in parts:
        body, end, after = part.partition(END)
        body = body if end else body[: len(body) - held_back(body, [END])]
        first, mark, rest = body.partition(SEPARATOR)
        first = (first if mark else first[: len(first) - held_back(first, [SEPARATOR])]).strip()
        if first in tools:
            calls.append(Written(first, _object(rest)))
        else:
            name, _, code = rest.partition("\n")
            code = code.removeprefix("```json\n")
            arguments = "" if "```json".startswith(code) else code.rstrip().rstrip("`")
            calls.append(Written(name.strip(), _object(arguments)))
        if after.strip() and (complete or not BEGIN.startswith(after.strip())):
            return None
    return calls or None


def _read_function(text: str, tools: Tools, *, complete: bool = True) -> list[Written] | None:
    """Read what stands behind <function= where no <tool_call> is around it."""
    end = "</function>" if complete else ""
    return read_functions(f"<function={text}{end}", tools, complete=complete)


FORMS = (
    Form("<tool_call>", "</tool_call>", read_tagged),
    Form("<function=", "</function>", _read_function),
    Form(MISTRAL, "", read_mistral),
    Form("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", read_deepseek),
    Form(PYTHON_TAG, "", read_json),
)
# Marks that may be special tokens, which decoders leave out of a text: engines keep these where tools are offered.
MARKS = (
    *(mark for form in FORMS for mark in (form.open, form.close) if mark),
    *("[ARGS]", "[CALL_ID]", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>", BEGIN, SEPARATOR, END),
)


def _pairs(pattern: re.Pattern[str], text: str, tool: Tool | None) -> tuple[JSONObject, str]:
    """The arguments that a pattern finds one after the other, and what is left of the text."""
    found: JSONObject = {}
    at = 0
    while match := pattern.match(text, at):
        key, value = match[1].strip(), match[2]
        found[key] = value_of(value, _schema_of(key, tool))
        at = match.end()
    return found, text[at:].strip()


def _schema_of(key: str, tool: Tool | None) -> object:
    properties = tool.parameters.get("properties") if tool is not None else None
    return properties.get(key) if isinstance(properties, Mapping) else None


def value_of(text: str, schema: object) -> object:
    """Return the value that a text between tags stands for, by the schema of its parameter.

    Where that has no type, a number is one only if JSON would write it so: `0.50` stays a text.
    """
    types = set(_types(schema))
    word = text.strip()
    if "string" in types and not (word == "null" and "null" in types):
        return text
    if word in PYTHON_WORDS and (types & {"boolean", "null"}):
        return PYTHON_WORDS[word]
    try:
        value, end = DECODER.raw_decode(word)
    except (ValueError, RecursionError):
        return text
    if end < len(word) or (not types and isinstance(value, (int, float)) and json.dumps(value) != word):
        return text
    return value


def _types(schema: object) -> Iterator[str]:
    """The types that a schema names, also in its alternatives and its values."""
    if not isinstance(schema, Mapping):
        return
    given = schema.get("type")
    yield from [given] if isinstance(given, str) else given or ()
    for one in (*(schema.get("anyOf") or ()), *(schema.get("oneOf") or ())):
        yield from _types(one)
    values = [*(schema.get("enum") or ()), *([schema["const"]] if "const" in schema else [])]
    if any(isinstance(value, str) for value in values):
        yield "string"


def _cut(arguments: Mapping[str, object]) -> str:
    """The arguments that came of a call that was cut: no JSON, so that no client takes them for all."""
    return json.dumps(arguments, ensure_ascii=False).removesuffix("}") if arguments else ""
