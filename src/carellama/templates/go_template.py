"""Ollama's chat templates, which are Go's text/template, rendered without Go: the part of the language that they use.

    render_ollama(template, [{"role": "user", "content": "Hi"}])    # the text that Ollama gives the model

Text, `{{- ... -}}`, comments, if / else if / else / with / range / break / continue / end, variables, fields, and the
functions in `FUNCTIONS` (pkg.go.dev/text/template). Raises `UserError` for anything else: a template that is nearly
understood would be compared in vain. Pipelines with `|` are read as Go does, the left value last.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from carellama.errors import UserError

_ACTION = re.compile(r"\{\{(-\s)?(/\*.*?\*/|(?:\"(?:\\.|[^\"\\])*\"|`[^`]*`|[^\"`}]|\}(?!\}))*?)(\s-)?\}\}", re.DOTALL)
_ESCAPE = re.compile(r"""\\(?:U[0-9A-Fa-f]{8}|u[0-9A-Fa-f]{4}|x[0-9A-Fa-f]{2}|[0-7]{3}|[abfnrtv\\'"]|(.))""", re.DOTALL)
_TOKEN = re.compile(r"""\s*("(?:\\.|[^"\\])*"|`[^`]*`|:=|=|\||\(|\)|,|-?\d+|\$?\.?[\w.]+|\$|\.)""")
Scope = dict[str, Any]


def _equal(first: Any, *others: Any) -> bool:
    return any(first == other for other in others)


def _and(*values: Any) -> Any:
    return next((value for value in values if not value), values[-1])


def _or(*values: Any) -> Any:
    return next((value for value in values if value), values[-1])


def _slice(value: Any, start: int = 0, end: int | None = None) -> Any:
    return value[start:end]


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "eq": _equal, "ne": lambda a, b: a != b, "lt": lambda a, b: a < b, "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b, "ge": lambda a, b: a >= b, "and": _and, "or": _or, "not": lambda value: not value,
    "len": len, "slice": _slice, "index": lambda value, *keys: _indexed(value, keys),
    "print": lambda *values: "".join(map(str, values)), "json": lambda value: json.dumps(value, ensure_ascii=False),
}  # fmt: skip


class _Break(Exception):
    """`{{ break }}`."""


class _Continue(Exception):
    """`{{ continue }}`."""


@dataclass
class _Block:
    """An action with the parts that it rules: (condition, parts) in turn; the text of a plain action has none."""

    kind: str
    text: str
    arms: list[tuple[str, list[_Block]]] = field(default_factory=list)


@contextmanager
def _as_refusal() -> Iterator[None]:
    """Turn what a template of a stranger makes of this program into a `UserError`."""
    try:
        yield
    except (_Break, _Continue) as error:
        raise UserError("the Ollama template breaks outside of a range") from error
    except (TypeError, ValueError, LookupError, AttributeError, RecursionError, MemoryError) as error:
        raise UserError(f"the Ollama template cannot be rendered: {error or type(error).__name__}") from error


def render_go(template: str, data: Mapping[str, Any]) -> str:
    """Return what Go's text/template makes of a template and its data. Raises `UserError` for what is not known."""
    with _as_refusal():
        return _written(_blocks(template), data)


def _blocks(template: str) -> list[_Block]:
    pieces = _pieces(template)
    blocks, rest = _parse(pieces, 0)
    if rest < len(pieces):
        raise UserError(f"the Ollama template has {{{{ {pieces[rest].text} }}}} without its beginning")
    return blocks


def _written(blocks: list[_Block], data: Mapping[str, Any]) -> str:
    written: list[str] = []
    _run(blocks, [{"$": data}], data, written)
    return "".join(written)


def render_ollama(template: str, rows: Sequence[Mapping[str, Any]], *, system: str = "") -> str:
    """Return the prompt that Ollama makes of messages (ollama/template/template.go, Execute).

    A template that knows `.Messages` gets them all; an older one is rendered turn by turn with `.System`, `.Prompt` and
    `.Response`, and ends where the last response would stand. `system`: the Modelfile's, where the rows have none.
    """
    rows = list(rows) if not system or (rows and rows[0]["role"] == "system") else [
        {"role": "system", "content": system}, *rows
    ]  # fmt: skip
    if ".Messages" in template:
        messages = [{"Role": row["role"], "Content": row["content"]} for row in rows]
        told = "\n\n".join(row["content"] for row in rows if row["role"] == "system")
        return render_go(template, {"Messages": messages, "System": told, "Response": ""})
    with _as_refusal():
        blocks = _blocks(template)
        if ".Response" not in template:  # Ollama puts one at its end
            blocks.append(_Block("", ".Response"))
        text, turn = "", {"System": "", "Prompt": "", "Response": ""}
        for row in rows:
            name = {"system": "System", "user": "Prompt", "assistant": "Response"}[row["role"]]
            if turn[name] or (name != "Response" and turn["Response"]):
                text, turn = text + _written(blocks, turn), {"System": "", "Prompt": "", "Response": ""}
            turn[name] = row["content"]
        return text + _written(blocks if turn["Response"] else _before_response(blocks)[0], turn)


def _before_response(blocks: list[_Block]) -> tuple[list[_Block], bool]:
    """The parts before the response in the order of the text, and whether it was found (template.go, deleteNode)."""
    kept, found = list[_Block](), False
    for block in blocks:
        arms = list[tuple[str, list[_Block]]]()
        for condition, body in block.arms:
            left, within = ([], False) if found else _before_response(body)
            arms.append((condition, left))
            found = found or within
        found = found or (not block.arms and block.kind != "text" and bool(_RESPONSE.search(block.text)))
        if block.arms or not found:
            kept.append(replace(block, arms=arms))
        if found:
            break
    return kept, found


_RESPONSE = re.compile(r"\.Response\b")


def _pieces(template: str) -> list[_Block]:
    """Text and actions in turn, white space taken away where the action says so."""
    found, at, trim = list[_Block](), 0, False
    for match in _ACTION.finditer(template):
        text = template[at : match.start()]
        text = text.lstrip() if trim else text
        found.append(_text(text.rstrip() if match[1] else text))
        words = match[2].strip()
        if not words.startswith("/*"):
            found.append(_Block(re.match(r"\w*", words)[0], words))  # type: ignore[index]
        at, trim = match.end(), bool(match[3])
    tail = template[at:]
    return [*found, _text(tail.lstrip() if trim else tail)]


def _text(text: str) -> _Block:
    if "{{" in text:
        raise UserError("the Ollama template has {{ without an end")
    return _Block("text", text)


def _parse(pieces: list[_Block], at: int) -> tuple[list[_Block], int]:
    """The parts up to an `else` or `end` of their own, and where that is."""
    found: list[_Block] = []
    while at < len(pieces) and pieces[at].kind not in ("else", "end"):
        piece = pieces[at]
        at += 1
        if piece.kind in ("if", "range", "with"):
            condition = piece.text.removeprefix(piece.kind).strip()
            while True:
                body, at = _parse(pieces, at)
                piece.arms.append((condition, body))
                if at >= len(pieces):
                    raise UserError(f"the Ollama template has {{{{ {piece.text} }}}} without an end")
                closing = pieces[at]
                at += 1
                if closing.kind == "end":
                    break
                condition = closing.text.removeprefix("else").strip().removeprefix("if").strip()
        elif piece.kind in ("define", "template", "block"):
            raise UserError(f"the Ollama template has {{{{ {piece.text} }}}}, which is not read here")
        found.append(piece)
    return found, at


def _run(blocks: list[_Block], scopes: list[Scope], dot: Any, written: list[str]) -> None:
    for block in blocks:
        if block.kind == "text":
            written.append(block.text)
        elif block.kind == "range":
            _range(block, scopes, dot, written)
        elif block.kind in ("if", "with"):
            inner = [*scopes, {}]
            for condition, body in block.arms:
                value = _value(condition, inner, dot) if condition else True
                if value:
                    _run(body, inner, value if block.kind == "with" and condition else dot, written)
                    break
        elif block.kind == "break":
            raise _Break
        elif block.kind == "continue":
            raise _Continue
        else:
            value = _value(block.text, scopes, dot)
            written.append("" if value is None or _ASSIGNED.match(block.text) else _printed(value))


_ASSIGNED = re.compile(r"\$\w+\s*:?=")


def _printed(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _range(block: _Block, scopes: list[Scope], dot: Any, written: list[str]) -> None:
    condition, body = block.arms[0]
    named = re.match(r"\$(\w+)(?:\s*,\s*\$(\w+))?\s*:=", condition)
    values = _value(condition[named.end() :] if named else condition, scopes, dot) or []
    for at, value in enumerate(values):
        inner: Scope = {}
        if named and named[2]:
            inner = {named[1]: at, named[2]: value}
        elif named:
            inner = {named[1]: value}
        try:
            _run(body, [*scopes, inner], value, written)
        except _Continue:
            continue
        except _Break:
            break
    if not values and len(block.arms) > 1:
        _run(block.arms[1][1], scopes, dot, written)


def _value(text: str, scopes: list[Scope], dot: Any) -> Any:
    """The value of a pipeline, after its assignment."""
    tokens, at = list[str](), 0
    while text[at:].strip():
        match = _TOKEN.match(text, at)
        if match is None:
            raise UserError(f"the Ollama template has {{{{ {text} }}}}, which is not read here")
        tokens.append(match[1])
        at = match.end()
    target, new = "", False
    if len(tokens) > 1 and tokens[1] in (":=", "="):
        target, new, tokens = tokens[0].removeprefix("$"), tokens[1] == ":=", tokens[2:]
    value, rest = _pipeline(tokens, scopes, dot)
    if rest:
        raise UserError(f"the Ollama template has {{{{ {text} }}}}, which is not read here")
    if target:
        scope = scopes[-1] if new else next((one for one in reversed(scopes) if target in one), scopes[-1])
        scope[target] = value
    return value


def _pipeline(tokens: list[str], scopes: list[Scope], dot: Any) -> tuple[Any, list[str]]:
    value: Any = None
    piped = False
    while True:
        words: list[Any] = []
        while tokens and tokens[0] not in ("|", ")"):
            token, tokens = tokens[0], tokens[1:]
            if token == "(":
                inner, tokens = _pipeline(tokens, scopes, dot)
                if not tokens:
                    raise UserError("the Ollama template has a bracket that is not closed")
                words.append(inner)
                tokens = tokens[1:]
                if tokens and tokens[0].startswith("."):  # (index .Messages 0).Role
                    words[-1], tokens = _fields(words[-1], tokens[0]), tokens[1:]
            else:
                words.append(_operand(token, scopes, dot))
        words += [value] if piped else []
        first, *others = words or [None]
        if callable(first):
            value = first(*others)
        elif others:
            raise UserError("the Ollama template calls what is no function")
        else:
            value = first
        if not tokens or tokens[0] == ")":
            return value, tokens
        piped, tokens = True, tokens[1:]


def _operand(token: str, scopes: list[Scope], dot: Any) -> Any:
    if token[0] == '"':
        return _ESCAPE.sub(_unescaped, token[1:-1])
    if token[0] == "`":
        return token[1:-1]
    if re.fullmatch(r"-?\d+", token):
        return int(token)
    if token in ("true", "false", "nil"):
        return {"true": True, "false": False, "nil": None}[token]
    if token.startswith("."):
        return _fields(dot, token)
    if token.startswith("$"):
        name, _, path = token[1:].partition(".")
        scope = next((one for one in reversed(scopes) if (name or "$") in one), None)
        if scope is None:
            raise UserError(f"the Ollama template uses ${name}, which nothing sets")
        return _fields(scope[name or "$"], f".{path}" if path else ".")
    if token not in FUNCTIONS:
        raise UserError(f"the Ollama template calls {token}, which is not known here")
    return FUNCTIONS[token]


def _unescaped(escape: re.Match[str]) -> str:
    """What an escape of Go's strings stands for (go.dev/ref/spec, string literals)."""
    if escape[1]:
        raise UserError(f"the Ollama template has a string with {escape[0]}, which Go does not know")
    return codecs.decode(escape[0], "unicode_escape")


def _fields(value: Any, path: str) -> Any:
    for name in filter(None, path.split(".")):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _indexed(value: Any, keys: Sequence[Any]) -> Any:
    for key in keys:
        value = value[key]
    return value
