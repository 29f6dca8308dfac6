"""Tools as text: how a model is told of functions that it may call, and how its calls are read from its answer.

    messages = told(messages, sampling.tools)                  # for a chat template that knows no tools
    reader = CallReader(); pieces = reader.add('<tool_call>{"name": ...}</tool_call>')

A template that knows tools (`knows_tools`) writes them itself. Else they are written into the system message in the
form that Hermes and Qwen models were trained with (github.com/NousResearch/Hermes-Function-Calling): a call is a JSON
object in <tool_call>, its result stands in <tool_response>. Calls are read in that form, and as a bare JSON object
{"name", "arguments" or "parameters"} that is the whole answer, which Llama 3 writes and a JSON schema makes sure of.

The example in the system message is no JSON, so that a model that repeats it makes no call. A call that the limit of
tokens cuts is a call with part of its arguments and the finish reason `length`, as OpenAI's API returns it.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace

from carellama.engine.base import FinishReason, Piece, Reply, Sampling, Tool
from carellama.engine.tool_schema import call_schema, fits, takes_arguments, with_answer
from carellama.errors import UserError
from carellama.jinja import arguments_of, as_functions
from carellama.records import Message, ToolCall

OPEN, CLOSE = "<tool_call>", "</tool_call>"
TELLS = """\
You may call functions to help with the question. Their signatures are within <tools></tools>:
<tools>
{tools}
</tools>
To call one, answer with a JSON object of its name and arguments within <tool_call></tool_call>:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""
# A call that was cut: the name, and what there is of the arguments.
CUT_CALL = re.compile(r'\s*\{\s*"name"\s*:\s*"([^"\\]*)"(?:\s*,\s*"(?:arguments|parameters)"\s*:\s*(.*))?', re.DOTALL)
CUT_NAME = re.compile(r'\s*\{\s*"name"\s*:\s*"([^"\\]*)')


def told(messages: Sequence[Message], tools: Sequence[Tool]) -> list[Message]:
    """The same conversation in the roles that every template has, with the tools in the system message."""
    found: list[Message] = []
    for message in messages:
        if message.calls:
            calls = [{"name": call.name, "arguments": arguments_of(call)} for call in message.calls]
            written = [f"{OPEN}\n{json.dumps(call, ensure_ascii=False)}\n{CLOSE}" for call in calls]
            found.append(Message("assistant", "\n".join([message.content, *written] if message.content else written)))
        elif message.role == "tool":
            result = f"<tool_response>\n{message.content}\n</tool_response>"
            if found and found[-1].role == "user":  # several results of one answer
                found[-1] = Message("user", f"{found[-1].content}\n{result}")
            else:
                found.append(Message("user", result))
        else:
            found.append(message)
    if not tools:
        return found
    lines = "\n".join(json.dumps(function, ensure_ascii=False) for function in as_functions(tools))
    system = TELLS.format(tools=lines)
    if found and found[0].role == "system":
        return [Message("system", f"{found[0].content}\n\n{system}"), *found[1:]]
    return [Message("system", system), *found]


def settled(sampling: Sampling) -> Sampling:
    """Return the sampling without tools that may not be called, and with the schema of a call that must be made.

    Where the answer has to be JSON of a schema and a tool may be called, either of them is allowed.
    Raises `UserError` for a tool choice that names no tool, and `Unsupported` for parameters that are no schema.
    """
    if not sampling.tools:
        return sampling
    if sampling.tool_choice == "none":
        return replace(sampling, tools=(), tool_choice="auto")
    if sampling.tool_choice == "auto":
        if sampling.json_schema is None:
            return sampling
        return replace(sampling, json_schema=with_answer(sampling.json_schema, sampling.tools))
    named = required_tools(sampling)
    if not named:
        names = ", ".join(tool.name for tool in sampling.tools)
        raise UserError(f"tool_choice names {sampling.tool_choice!r}; the tools are {names}")
    return replace(sampling, json_schema=call_schema(named))


def required_tools(sampling: Sampling) -> list[Tool]:
    """Return the tools of which one must be called; none where the model may also answer in words."""
    if sampling.tool_choice in ("auto", "none"):
        return []
    return [tool for tool in sampling.tools if sampling.tool_choice in ("required", tool.name)]


class CallReader:
    """Takes the text of an answer as it comes, and gives it out with the calls told apart.

    `required` are the tools of which one must be called: then the whole answer is a call.
    """

    def __init__(self, tools: Sequence[Tool], required: Sequence[Tool] = ()) -> None:
        self.tools = {tool.name: tool for tool in tools}
        self.required = list(required)
        self.cut = False  # whether the last call is only part of one
        self._held = ""
        self._begun = False  # whether anything but white space was given out

    def add(self, text: str) -> Iterator[Piece]:
        """Take a piece of the answer; yield what is certain."""
        self._held += text
        if self.required or (not self._begun and self._held.lstrip()[:1] in ("", "{")):
            return  # a bare call, or what may become one: known at the end
        while True:
            at = self._held.find(OPEN)
            if at < 0:
                keep = next((n for n in range(len(OPEN) - 1, 0, -1) if self._held.endswith(OPEN[:n])), 0)
                yield from self._say(self._held[: len(self._held) - keep])
                self._held = self._held[len(self._held) - keep :]
                return
            yield from self._say(self._held[:at].rstrip())
            self._held = self._held[at:]
            end = self._held.find(CLOSE)
            if end < 0:
                return
            yield self._read(self._held[len(OPEN) : end], self._held[: end + len(CLOSE)])
            self._held = self._held[end + len(CLOSE) :].lstrip()

    def end(self, finish_reason: FinishReason) -> Iterator[Piece]:
        """Yield what was held back. A call that the limit of tokens cut is a call with part of its arguments."""
        text, self._held = self._held, ""
        inner = text.lstrip().removeprefix(OPEN)
        if not text.strip() and not self.required:
            return
        piece = self._read(inner, text)
        if piece.call is None and (self.required or finish_reason == "length"):
            call = self._cut_call(inner)
            self.cut = call is not None
            if call is not None or (self.required and inner[:1] in ("", "{")):
                yield Piece(call=call)  # half a call is not the answer's text
                return
        yield piece

    def _say(self, text: str) -> Iterator[Piece]:
        if text:
            self._begun = True
            yield Piece(text)

    def _read(self, inner: str, whole: str) -> Piece:
        """The call that a JSON object stands for; what is none, or of a tool that was not given, is text."""
        self._begun = True
        try:
            found = json.loads(inner)
            name = found["name"]
            arguments = found["arguments"] if "arguments" in found else found["parameters"]
        except (ValueError, TypeError, KeyError, RecursionError):
            return Piece(whole)
        tool = self.tools.get(name) if isinstance(name, str) else None
        if tool is None or not isinstance(arguments, dict):
            return Piece(whole)
        if not takes_arguments(tool):
            arguments = {}
        if tool.strict and not fits(arguments, tool.parameters):
            return Piece(whole)
        return Piece(call=_call(name, json.dumps(arguments, ensure_ascii=False)))

    def _cut_call(self, text: str) -> ToolCall | None:
        """The call that a cut JSON object would have become, where its function is certain."""
        found = CUT_CALL.match(text)
        if found and found[1] in self.tools:
            return self._part_of_call(found[1], found[2] or "")
        begun = CUT_NAME.match(text)
        begin = begun[1] if begun else ""
        fitting = [tool.name for tool in self.required if tool.name.startswith(begin)]
        return self._part_of_call(fitting[0], "") if len(fitting) == 1 and not found else None

    def _part_of_call(self, name: str, arguments: str) -> ToolCall:
        """A call with what there is of its arguments: no JSON, so that no client takes it for one without arguments."""
        return _call(name, (arguments or "{") if takes_arguments(self.tools[name]) else "{}")


def with_calls(stream: Generator[Piece, None, Reply], sampling: Sampling) -> Generator[Piece, None, Reply]:
    """A stream of text with its calls told apart; without tools as it was."""
    if not sampling.tools:
        return (yield from stream)
    reader = CallReader(sampling.tools, required_tools(sampling))
    text, calls = "", list[ToolCall]()
    try:
        while True:
            try:
                piece = next(stream)
            except StopIteration as end:
                reply: Reply = end.value
                break
            first, *others = [*reader.add(piece.text)] or [Piece()]
            for one in (replace(first, logprobs=piece.logprobs, reasoning=piece.reasoning), *others):
                if calls and not sampling.parallel_calls:
                    one = replace(one, text="", call=None)
                text += one.text
                calls += [one.call] if one.call else []
                yield one
        for one in reader.end(reply.finish_reason):
            if calls and not sampling.parallel_calls:
                continue
            text += one.text
            calls += [one.call] if one.call else []
            yield one
    finally:
        stream.close()
    finish: FinishReason = "tool_calls" if calls and not reader.cut else reply.finish_reason
    return replace(reply, text=text, calls=tuple(calls), finish_reason=finish)


def _call(name: str, arguments: str) -> ToolCall:
    return ToolCall(f"call_{secrets.token_hex(12)}", name, arguments)
