"""Tools as text: how a model is told of functions that it may call, and how its calls are read from its answer.

    messages = tools_to_system_prompt(messages, sampling.tools)    # for a chat template that knows no tools
    on_event = read_events(on_event, ToolCallParser(sampling))     # its pieces have text or a call

A template that knows tools (`knows_tools`) writes them itself. Else they are written into the system message in the
form that Hermes and Qwen models were trained with (github.com/NousResearch/Hermes-Function-Calling): a call is a JSON
object in <tool_call>, its result stands in <tool_response>. Calls are read in all forms of
`carellama.engine.call_forms`, and as a bare JSON object {"name", "arguments" or "parameters"} that is the whole answer,
which Llama 3 writes and a JSON schema makes sure of.

The example in the system message is no JSON, so that a model that repeats it makes no call. A call that the limit of
tokens cuts is a call with part of its arguments and the finish reason `length`, as OpenAI's API returns it.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import replace

from carellama.engine.base import FinishReason, Piece, Sampling, Tool
from carellama.engine.call_forms import CUT_CALL, FORMS, Written, read_json
from carellama.engine.reading import Reader, held_back
from carellama.engine.tool_schema import call_schema, fits, takes_arguments, with_answer
from carellama.errors import UserError
from carellama.records import Message, ToolCall
from carellama.templates.jinja import arguments_of, as_functions

OPEN, CLOSE = "<tool_call>", "</tool_call>"
TOOL_PROMPT = """\
You may call functions to help with the question. Their signatures are within <tools></tools>:
<tools>
{tools}
</tools>
To call one, answer with a JSON object of its name and arguments within <tool_call></tool_call>:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""
# A call in JSON that was cut within its name.
CUT_NAME = re.compile(r'\s*\{\s*"name"\s*:\s*"([^"\\]*)')


def tools_to_system_prompt(messages: Sequence[Message], tools: Sequence[Tool]) -> list[Message]:
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
    system = TOOL_PROMPT.format(tools=lines)
    if found and found[0].role == "system":
        return [Message("system", f"{found[0].content}\n\n{system}"), *found[1:]]
    return [Message("system", system), *found]


def resolve_tool_choice(sampling: Sampling) -> Sampling:
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


class ToolCallParser(Reader):
    """Takes the text of an answer as it comes, and gives it out with the calls told apart.

    Where a tool must be called, the whole answer is a call.
    """

    def __init__(self, sampling: Sampling) -> None:
        self.tools = {tool.name: tool for tool in sampling.tools}
        self.required = required_tools(sampling)
        self.cut = False  # whether the last call is only part of one
        self._several = sampling.parallel_calls
        self._called = False
        self._held = ""
        self._begun = False  # whether anything but white space was given out
        self._behind = False  # behind a call, whose white space is none of the text

    def add(self, piece: Piece) -> Iterator[Piece]:
        """Take a piece of the answer; yield what is certain."""
        first, *others = [*self._add(piece.text)] or [Piece()]
        reasoning, call = piece.reasoning + first.reasoning, first.call or piece.call
        yield replace(first, logprobs=piece.logprobs, reasoning=reasoning, call=call)
        yield from others

    def end(self, finish_reason: FinishReason) -> Iterator[Piece]:
        """Yield what was held back. A call that the limit of tokens cut is a call with part of its arguments."""
        text, self._held = self._held, ""
        if not text.strip() and not self.required:
            yield from self._emit_text("" if self._behind else text)
            return
        form = next((form for form in FORMS if text.lstrip().startswith(form.open)), None)
        inner = text.lstrip().removeprefix(form.open) if form else text
        complete = finish_reason != "length"
        may_be_cut = bool(self.required) or not complete
        found: Sequence[Written] | None = None
        if form is not None:
            found = form.read(inner[: len(inner) - held_back(inner, [form.close])], self.tools, complete=complete)
        elif self.required or inner.lstrip().startswith("{"):
            found = read_json(inner)
        calls = self._calls(found, may_be_cut=may_be_cut)
        if calls is None and self.required and inner[:1] in ("", "{"):
            calls = self._begun_call(inner)  # half a call is not the answer's text
        if calls is None and form is not None and self._called and not complete:
            calls, self.cut = list[ToolCall](), True  # another call, cut before its name
        yield from self._given(text, calls)

    def finish_reason(self, given: FinishReason) -> FinishReason:
        """Return `tool_calls` where there is a whole call."""
        return "tool_calls" if self._called and not self.cut else given

    def _add(self, text: str) -> Iterator[Piece]:
        self._held += text
        if self.required or (not self._begun and self._held.lstrip()[:1] in ("", "{")):
            return  # a bare call, or what may become one: known at the end
        while True:
            if self._behind:
                self._held = self._held.lstrip()
                self._behind = not self._held
            places = [(at, form) for form in FORMS if (at := self._held.find(form.open)) >= 0]
            if not places:
                keep = held_back(self._held, (form.open for form in FORMS))
                certain = self._held[: len(self._held) - keep].rstrip()  # white space before a call is none of the text
                yield from self._emit_text(certain)
                self._held = self._held[len(certain) :]
                return
            at, form = min(places, key=lambda place: place[0])
            certain = self._held[:at].rstrip()
            yield from self._emit_text(certain)
            self._held, at = self._held[len(certain) :], at - len(certain)
            end = self._held.find(form.close, at) if form.close else -1
            if end < 0:
                return
            whole = self._held[: end + len(form.close)]
            self._held = self._held[len(whole) :]
            found = form.read(whole[at + len(form.open) : end], self.tools)
            yield from self._given(whole, self._calls(found, may_be_cut=False))

    def _emit_text(self, text: str) -> Iterator[Piece]:
        if text and not (self._called and not self._several):
            self._begun = True
            yield Piece(text)

    def _given(self, text: str, calls: Sequence[ToolCall] | None) -> Iterator[Piece]:
        """Give calls out, or the text where it is none; behind an only call nothing more."""
        if calls is None:
            yield from self._emit_text(text)
            return
        self._begun = self._behind = True
        for call in calls:
            if self._several or not self._called:
                self._called = True
                yield Piece(call=call)

    def _calls(self, found: Sequence[Written] | None, *, may_be_cut: bool) -> list[ToolCall] | None:
        """The calls of tools that were given; None where any is of another, or breaks the schema of a strict one."""
        calls: list[ToolCall] = []
        for number, one in enumerate(found or ()):
            tool = self.tools.get(one.name)
            if tool is None:
                self.cut = bool(calls) and may_be_cut and isinstance(one.arguments, str)  # within the name
                return calls if self.cut else None
            if isinstance(one.arguments, str):
                if not may_be_cut or number < len(found or ()) - 1:
                    return None
                self.cut = True
                calls.append(self._part_of_call(one.name, one.arguments))
                continue
            arguments = one.arguments if takes_arguments(tool) else {}
            if not isinstance(arguments, dict) or (tool.strict and not fits(arguments, tool.parameters)):
                return None
            calls.append(_call(one.name, json.dumps(arguments, ensure_ascii=False)))
        return calls or None

    def _begun_call(self, text: str) -> list[ToolCall]:
        """The call that must be made, where it was cut but its function is certain; else none."""
        begun = CUT_NAME.match(text)
        begin = begun[1] if begun else ""
        fitting = [tool.name for tool in self.required if tool.name.startswith(begin)]
        if len(fitting) != 1 or CUT_CALL.match(text):
            return []
        self.cut = True
        return [self._part_of_call(fitting[0], "")]

    def _part_of_call(self, name: str, arguments: str) -> ToolCall:
        """A call with what there is of its arguments: no JSON, so that no client takes it for one without arguments."""
        return _call(name, (arguments or "{") if takes_arguments(self.tools[name]) else "{}")


def _call(name: str, arguments: str) -> ToolCall:
    return ToolCall(f"call_{secrets.token_hex(12)}", name, arguments)
