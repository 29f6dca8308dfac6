"""Turns of sharegpt and openai rows to messages, with tool calls, their results, and the tools that are offered.

    messages = messages_of(row.place, turns, ("role", "content"))
    tools = tools_of(row.place, row.fields.get("tools"))

Both row formats are read by the same rules:

    content            text, or OpenAI's parts [{"type": "text", "text": "hi"}], joined by line breaks
    reasoning_content  of an assistant: goes before its answer, as <think>...</think>
    weight, loss       of an assistant: 0 or false, and training does not learn this answer
    tool_calls         [{"id", "function": {"name", "arguments"}}], arguments an object or its JSON
    role tool          the result of a call, named by tool_call_id
    function_call      sharegpt: a turn whose value is the JSON of one call, or of a list of calls
    observation        sharegpt: the result

Anything else is refused with the number of the turn; nothing is guessed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from carellama.records import BadRecord, Message, Place, Role, Tool, ToolCall
from carellama.text import join_reasoning

ROLES: dict[str, Role] = {
    "human": "user", "user": "user",
    "gpt": "assistant", "assistant": "assistant", "bot": "assistant", "function_call": "assistant",
    "system": "system", "developer": "system",
    "tool": "tool", "function": "tool", "observation": "tool", "function_response": "tool",
}  # fmt: skip
CALLING = "function_call"  # sharegpt's speaker whose words are a call


def messages_of(place: Place, turns: Sequence[object], keys: tuple[str, str]) -> list[Message]:
    """Return the messages of a row; `keys` name a turn's role and text. Raises `BadRecord` for what is none."""
    messages: list[Message] = []
    for number, turn in enumerate(turns, 1):
        message = _message(place, number, turn, keys)
        if message.role == "tool" and not message.call_id:
            message = Message("tool", message.content, call_id=_answered(messages))
        messages.append(message)
    return messages


def _message(place: Place, number: int, turn: object, keys: tuple[str, str]) -> Message:
    fields = turn if isinstance(turn, dict) else {}
    name = fields.get(keys[0])
    if not isinstance(name, str) or name not in ROLES:
        raise BadRecord(place, "unknown role", f"turn {number} is {name!r}; known: {', '.join(ROLES)}")
    role = ROLES[name]
    text = content_of(place, f"turn {number} ({name})", fields.get(keys[1]))
    calls: tuple[ToolCall, ...] = ()
    if name == CALLING:
        calls, text = _calls(place, number, _parsed(place, number, text)), ""
    elif role == "assistant":
        calls = _calls(place, number, fields.get("tool_calls") or fields.get("function_call"))
    learned = _learned(place, number, fields, role)
    reasoning = content_of(place, f"turn {number} ({name})", fields.get("reasoning_content"))
    if not text.strip() and not calls:
        raise BadRecord(place, "empty turn", f"turn {number} ({name})")
    if reasoning.strip() and role == "assistant":
        text = join_reasoning(reasoning, text)
    return Message(role, text, calls, str(fields.get("tool_call_id") or ""), learned)


def content_of(place: Place, where: str, value: object) -> str:
    """Return the text of a content: text, null, or OpenAI's parts. Raises `BadRecord` for parts that are no text."""
    if value is None or isinstance(value, str):
        return value or ""
    if not isinstance(value, list):
        raise BadRecord(place, "turn is not text", f"{where} is {type(value).__name__}")
    texts = []
    for number, part in enumerate(value, 1):
        text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else part
        if not isinstance(text, str):
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            raise BadRecord(place, "turn is not text", f"{where}: part {number} is of the type {str(kind)[:40]!r}")
        texts.append(text)
    return "\n".join(texts)


def _learned(place: Place, number: int, turn: Mapping[str, object], role: Role) -> bool:
    """Whether training learns a turn. OpenAI's `weight` is 0 or 1; `loss` is true or false."""
    given = [(key, turn[key]) for key in ("weight", "loss") if turn.get(key) is not None]
    for key, value in given:
        if value not in (0, 1):  # true and false are 1 and 0
            raise BadRecord(place, f"{key!r} of a turn is neither 0 nor 1", f"turn {number}")
        if value and role != "assistant":
            raise BadRecord(place, "only answers of the assistant are learned", f"turn {number} ({role}) asks for it")
    if len({bool(value) for _, value in given}) > 1:
        raise BadRecord(place, "'weight' and 'loss' of a turn say different things", f"turn {number}")
    return all(value for _, value in given)


def _calls(place: Place, number: int, given: object) -> tuple[ToolCall, ...]:
    """The calls of a turn: a list, or one alone."""
    if given is None:
        return ()
    found = []
    for index, one in enumerate(given if isinstance(given, list) else [given]):
        function = _function(one)
        name = function.get("name")
        if not isinstance(name, str) or not name:
            raise BadRecord(place, "a tool call without the name of its function", f"turn {number}, call {index + 1}")
        arguments = function.get("arguments", function.get("parameters")) or {}
        if isinstance(arguments, str):
            arguments = _parsed(place, number, arguments)
        if not isinstance(arguments, dict):
            raise BadRecord(place, "the arguments of a tool call are no JSON object", f"turn {number}")
        number_of = f"call_{number}" if index == 0 else f"call_{number}_{index + 1}"
        text = json.dumps(arguments, ensure_ascii=False)
        found.append(ToolCall(str(one.get("id") or number_of), name, text))
    return tuple(found)


def _parsed(place: Place, number: int, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        reason = "a tool call is no JSON"
        raise BadRecord(place, reason, f"turn {number}: {str(error).partition(':')[0]}") from None


def _answered(messages: Sequence[Message]) -> str:
    """The id of the first call without a result, for a result that names none."""
    calls = next((message.calls for message in reversed(messages) if message.calls), ())
    results = {message.call_id for message in messages if message.role == "tool"}
    return next((call.id for call in calls if call.id not in results), "")


def tools_of(place: Place, given: object) -> tuple[Tool, ...]:
    """Return the functions of a `tools` column: a list of them, or its JSON, as OpenAI's API or plain."""
    if given is None or given == "" or given == []:
        return ()
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError:
            raise BadRecord(place, "column 'tools' is no JSON", "expected a list of functions") from None
    found = []
    for number, one in enumerate(given if isinstance(given, list) else [given], 1):
        function = _function(one)
        name = function.get("name")
        if not isinstance(name, str) or not name:
            raise BadRecord(place, "column 'tools' holds a function without a name", f"function {number}")
        description, parameters = function.get("description") or "", function.get("parameters") or {}
        if not isinstance(description, str) or not isinstance(parameters, dict):
            raise BadRecord(place, "column 'tools' holds a function that is not as OpenAI's API writes it", name)
        found.append(Tool(name, description, parameters))
    return tuple(found)


def _function(given: object) -> Mapping[str, object]:
    """The object that holds a name: {"function": {...}} as OpenAI's API has it, or itself."""
    found = given.get("function", given) if isinstance(given, dict) else None
    return found if isinstance(found, dict) else {}


def rows_of(messages: Sequence[Message]) -> list[dict[str, object]]:
    """Return the turns of an openai row: `messages_of` of them are the messages again."""
    rows: list[dict[str, object]] = []
    for message in messages:
        row: dict[str, object] = {"role": message.role, "content": message.content}
        if message.calls:
            row["tool_calls"] = [call.to_openai() for call in message.calls]
        if message.call_id:
            row["tool_call_id"] = message.call_id
        if not message.learned:
            row["weight"] = 0
        rows.append(row)
    return rows
