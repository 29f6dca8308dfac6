"""A model's chat format without a tokenizer of transformers: what a .gguf says of it, or `--template NAME`.

    chat = chat_of(read_header(path, arrays=VOCABULARY), template=None)
    chat.render([Message("user", "What is asthma?")])

`carellama.templates.template` does the same, and more, where transformers is loaded. Whoever tokenises takes `pieces`:
marks of the format that stand in a person's words are cut there, as in training, so that they stay text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from carellama.engine.base import Tool
from carellama.engine.parts import reads_calls
from carellama.engine.tools import tools_to_system_prompt
from carellama.errors import UserError
from carellama.model.gguf.facts import KINDS, TOKENS
from carellama.model.gguf.read import Header
from carellama.model.sentencepiece_file import CONTROL, UNKNOWN, USER_DEFINED  # the numbers are llama.cpp's, too
from carellama.records import Message
from carellama.templates.format import DEFAULT, format_for, jinja_of
from carellama.templates.jinja import (
    CLOSE,
    OPEN,
    as_functions,
    as_rows,
    is_markup,
    one_template,
    render_chat,
    with_short_ids,
    without_thoughts,
)
from carellama.text import opens_reasoning

ADDS_BOS = "tokenizer.ggml.add_bos_token"  # whether a text begins with the bos token
VOCABULARY = (TOKENS, KINDS)  # the arrays of a header that are read here


@dataclass(frozen=True)
class Chat:
    """A chat template and the strings that it needs; `stops` end an answer besides the model's own end tokens."""

    jinja: str
    bos: str
    eos: str
    stops: tuple[str, ...]
    marks: tuple[str, ...]  # the strings of control tokens, and of the unknown one, which llama.cpp reads as well
    more: tuple[str, ...] = ()  # markup that is no control token, as <tool_call>: text in a person's words

    @cached_property
    def _special(self) -> re.Pattern[str]:
        return _any_of((*self.marks, OPEN))

    @cached_property
    def _markup(self) -> re.Pattern[str]:
        return _any_of((*self.marks, *self.more, OPEN))

    @cached_property
    def knows_tools(self) -> bool:
        """Whether the template writes tools, and calls in a form that is read here; else they are told as text."""
        return reads_calls(self.jinja, lambda messages, tools: self._render(messages, tools, own=True))

    @cached_property
    def opens_reasoning(self) -> bool:
        """Whether an answer begins within its reasoning, as the generation prompt has opened it."""
        try:
            return opens_reasoning(self.render([Message("user", "x")]))
        except UserError:
            return False

    def cut_marks(self, text: str) -> list[str]:
        """Return a text in parts, cut inside each mark, so that no part has a whole mark in it."""
        parts, begin = [], 0
        for match in self._markup.finditer(text):
            parts.append(text[begin : match.start() + 1])
            begin = match.start() + 1
        return [*parts, text[begin:]]

    def render(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> str:
        """Return the text that an answer starts from. Raises `UserError` where the template refuses."""
        asks = bool(tools) or any(message.calls or message.role == "tool" for message in messages)
        return self._render(messages, tools, own=not asks or self.knows_tools)

    def _render(self, messages: Sequence[Message], tools: Sequence[Tool], *, own: bool) -> str:
        """The text; `own`: tools and calls as the template writes them."""
        if own:
            rows, functions = as_rows(messages), as_functions(tools)
        else:
            rows, functions = as_rows(tools_to_system_prompt(messages, tools)), []
        rows = with_short_ids(without_thoughts(rows, self.jinja), self.jinja)
        return render_chat(self.jinja, rows, tools=functions or None, bos=self.bos, eos=self.eos)

    def pieces(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> list[str]:
        """Return `render` in pieces that are tokenised one by one, with the marks of the format as tokens.

        It is cut behind the first character of each mark in a person's words, so that no tokenizer reads it as one. A
        mark there is rendered as a placeholder, so that it is found again whatever the template does with the words
        around it. In the assistant's words, markup that is no control token is what the model wrote itself, and stays.
        """
        found: list[str] = []

        def hold(match: re.Match[str]) -> str:
            found.append(match.group())
            return f"{OPEN}{len(found) - 1}{CLOSE}"

        def held(value: Any, marks: re.Pattern[str] = self._markup) -> Any:
            if isinstance(value, str):
                return marks.sub(hold, value)
            if isinstance(value, dict):
                return {held(key): held(one) for key, one in value.items()}
            return [held(one) for one in value] if isinstance(value, (list, tuple)) else value

        safe = []
        for message in messages:
            calls = [replace(call, name=held(call.name), arguments=held(call.arguments)) for call in message.calls]
            content = held(message.content, self._special if message.role == "assistant" else self._markup)
            safe.append(replace(message, content=content, calls=tuple(calls)))
        offered = [Tool(held(tool.name), held(tool.description), held(dict(tool.parameters))) for tool in tools]
        text = self.render(safe, offered)
        parts = re.split(f"{OPEN}(\\d+){CLOSE}", text)  # text, number, text, ..., text
        pieces = [parts[0]]
        for number, after in zip(parts[1::2], parts[2::2], strict=True):
            mark = found[int(number)]
            pieces[-1] += mark[:1]
            pieces.append(mark[1:] + after)
        return [piece for piece in pieces if piece]


def _any_of(marks: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(marks, key=len, reverse=True))))


def chat_of(header: Header, template: str | None) -> Chat:
    """Return the chat format of a .gguf (its header with the arrays of `VOCABULARY`), or the named one for it.

    Raises `UserError` for an unknown name, and for a format whose single tokens the model does not have.
    """
    tokens: list[str] = header.facts.get(TOKENS) or []
    kinds: list[int] = header.facts.get(KINDS) or []
    marks = tuple(token for token, kind in zip(tokens, kinds, strict=False) if kind in (CONTROL, UNKNOWN) and token)

    def token(name: str) -> str:
        at = header.facts.get(f"tokenizer.ggml.{name}_token_id")
        return tokens[at] if at is not None and at < len(tokens) else ""

    bos, eos, own = token("bos"), token("eos"), header.facts.get("tokenizer.chat_template")
    added = [token for token, kind in zip(tokens, kinds, strict=False) if kind == USER_DEFINED]
    more = tuple(token for token in added if is_markup(token, str(own or "")))
    if template is None and (own := one_template(own)):
        return Chat(own, bos, eos, (), marks, more)
    form = format_for(template or DEFAULT, tokens.__contains__)
    stops = [stop.replace("{eos}", eos) for stop in form.stop]
    usual = header.facts.get("tokenizer.ggml.model") == "llama"  # as llama.cpp takes it
    adds_bos = bool(header.facts.get(ADDS_BOS, usual))
    return Chat(jinja_of(form, adds_bos=adds_bos), bos, eos, tuple(stop for stop in stops if stop), marks, more)
