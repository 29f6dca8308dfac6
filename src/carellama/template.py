"""Chat formats: how a conversation becomes text, which part of it is trained, and where an answer ends.

The only module that knows a chat format, and there is one renderer: the Jinja chat template, run by the tokenizer
itself. The named templates of `templates/*.yaml` are turned into Jinja (`carellama.jinja`); export writes that same
Jinja into the tokenizer, so what was trained is what vLLM, llama.cpp, Ollama and transformers render later.

To know which characters are markup and which the model has to learn, a conversation is rendered once with
placeholders for its contents (`Template.groups`); the result is filled in and compared with the real rendering.

    get_template("chatml", tokenizer).render([Message("user", "What is asthma?")], add_generation_prompt=True)

It does not tokenise (`carellama.tokenise`), shorten or label (`carellama.data.encode`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jinja2

from carellama.errors import UserError
from carellama.jinja import CLOSE, DEFAULT, OPEN, copies_contents, format_for, jinja_of
from carellama.records import Message, Role

Render = Callable[[Sequence[Message]], str]
TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<|endofturn|>")  # tokens that end an answer


@dataclass(frozen=True, slots=True)
class Group:
    """A stretch of rendered text that is tokenised on its own: a prompt, or an answer with its end.

    The split falls where generation starts, so that a trained prompt has the very ids of a served one.
    """

    parts: tuple[str, ...]  # markup, words, markup, ..., markup: words are the person's or the model's own
    trained: bool

    @property
    def text(self) -> str:
        """The whole stretch."""
        return "".join(self.parts)


@dataclass(frozen=True, slots=True)
class _Slot:
    """The place of one message's content in a skeleton."""

    index: int
    trimmed: bool  # the template strips white space around the content

    def of(self, messages: Sequence[Message]) -> str:
        """The content that goes here."""
        content = messages[self.index].content
        return content.strip() if self.trimmed else content


@dataclass(frozen=True, slots=True)
class _Skeleton:
    """What a template renders around the contents of a sequence of roles, cut into groups."""

    groups: tuple[tuple[bool, tuple[str | _Slot, ...]], ...]  # (trained, parts: markup, slot, ..., markup)
    tail: str  # markup after the end of the last answer: rendered, but neither read nor learned
    ends: bool  # whether the markup ends the last answer; if not, the eos token is learned after it


class Template:
    """One chat format bound to one tokenizer.

    `jinja` is the chat template; `stop_ids` are the tokens and `stops` the strings that end an answer.
    """

    def __init__(self, name: str, jinja: str, tokenizer: Any, stops: Sequence[str]) -> None:
        self.name = name
        self.jinja = jinja
        self.tokenizer = tokenizer
        self.stop_ids = [tokenizer.convert_tokens_to_ids(stop) for stop in stops if is_token(tokenizer, stop)]
        self.stops = [stop for stop in stops if not is_token(tokenizer, stop)]
        self._skeletons: dict[tuple[Role, ...], _Skeleton] = {}
        self._prompts: dict[tuple[Role, ...], list[str | _Slot]] = {}
        self._copies = copies_contents(jinja)

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> str:
        """Return the text of a conversation; with `add_generation_prompt` up to where the answer starts."""
        rows = [{"role": message.role, "content": message.content} for message in messages]
        return self.render_rows(rows, add_generation_prompt=add_generation_prompt)

    def render_rows(
        self,
        rows: list[dict[str, Any]],
        *,
        add_generation_prompt: bool = False,
        tools: list[dict[str, Any]] | None = None,
    ) -> str:
        """Return the text of messages as chat templates take them, with the calls of tools and the tools."""
        try:
            text = self.tokenizer.apply_chat_template(
                rows,
                chat_template=self.jinja,
                tools=tools or None,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
            )
        except jinja2.TemplateError as error:
            raise UserError(f"the chat template {self.name!r} refuses this conversation: {error}") from error
        assert isinstance(text, str)
        return text

    def groups(self, messages: Sequence[Message]) -> list[Group]:
        """Split the rendered conversation into prompts (not trained) and answers with their end (trained).

        The texts joined are `render(messages)` up to the end of the last answer, to the byte. Raises `UserError`
        when the template does not render this conversation from its parts (it rewrites contents, say).
        """
        roles = tuple(message.role for message in messages)
        skeleton = self._skeletons.get(roles)
        if skeleton is None:
            skeleton = self._skeletons.setdefault(roles, self._skeleton(roles))
        groups = [_fill(parts, trained, messages) for trained, parts in skeleton.groups]
        known = self._copies and not any(message.content.isspace() or not message.content for message in messages)
        if not known and "".join(group.text for group in groups) + skeleton.tail != self.render(messages):
            raise UserError(
                f"the chat template {self.name!r} does not render these contents as they are "
                "(it may cut reasoning or answer markers out of them)"
            )
        if groups[-1].trained and not skeleton.ends:
            last = groups[-1]
            groups[-1] = Group((*last.parts[:-1], last.parts[-1] + (self.tokenizer.eos_token or "")), True)
        return groups

    def prompt_group(self, messages: Sequence[Message], render: Render | None = None) -> Group:
        """Return `render(messages, add_generation_prompt=True)` as one group, its words marked.

        `render`: what renders these messages, with whatever contents, where more than that is written of them.
        """
        roles = tuple(message.role for message in messages)
        if render is None:
            render = self._render_prompt
            if roles not in self._prompts:
                self._prompts[roles] = _places(messages, render)
            places = self._prompts[roles]
        else:
            places = _places(messages, render)
        text = render(messages)
        parts = [part if isinstance(part, str) else part.of(messages) for part in places]
        return Group(tuple(parts if "".join(parts) == text else _found(text, messages)), False)

    def _render_prompt(self, messages: Sequence[Message]) -> str:
        return self.render(messages, add_generation_prompt=True)

    def _skeleton(self, roles: tuple[Role, ...]) -> _Skeleton:
        """Render placeholders in these roles, and cut the markup where answers start and end."""
        held = [Message(role, f"{OPEN}{index}{CLOSE}") for index, role in enumerate(roles)]
        spaced = self.render([Message(message.role, f" {message.content} ") for message in held])
        rendered = self.render(held)
        pieces = re.split(f"{OPEN}(\\d+){CLOSE}", rendered)  # markup, slot, markup, slot, ..., markup
        if [int(slot) for slot in pieces[1::2]] != list(range(len(roles))):
            raise UserError(
                f"the chat template {self.name!r} can not carry the roles {', '.join(roles)}: it drops or moves one; "
                "leave out the system message or choose another --template"
            )
        groups: list[tuple[bool, tuple[str | _Slot, ...]]] = []
        pending, parts, ends = pieces[0], list[str | _Slot](), True
        for index, role in enumerate(roles):
            slot = _Slot(index, trimmed=f" {OPEN}{index}{CLOSE} " not in spaced)
            if role != "assistant":
                parts += [pending, slot]
                pending = pieces[2 * index + 2]
                continue
            lead = self._lead(rendered[: rendered.index(held[index].content)], held[:index])
            groups.append((False, (*parts, pending[: len(pending) - len(lead)])))
            end, pending = self._end(pieces[2 * index + 2])
            ends = bool(end)
            groups.append((True, (lead, slot, end)))
            parts = []
        if parts:
            groups.append((False, (*parts, pending)))
            pending = ""
        return _Skeleton(tuple(groups), pending, ends)

    def _lead(self, before: str, prompt: list[Message]) -> str:
        """Markup between the point where generation starts and the answer's content: it is learned too."""
        start = self.render(prompt, add_generation_prompt=True)
        return before[len(start) :] if before.startswith(start) else ""

    def _end(self, markup: str) -> tuple[str, str]:
        """Split the markup after an answer into what ends it (white space and one stop) and the rest."""
        stops = {
            *self.stops,
            *self.tokenizer.convert_ids_to_tokens(self.stop_ids),
            *special_tokens(self.tokenizer),
        }
        for stop in sorted(stops, key=len, reverse=True):
            at = markup.find(stop)
            if at >= 0 and not markup[:at].strip():
                rest = markup[at + len(stop) :]
                if self._takes_space(stop):  # the white space after it is no token of the next prompt
                    rest = rest.lstrip()
                return markup[: len(markup) - len(rest)], rest
        return "", markup

    def _takes_space(self, token: str) -> bool:
        """Whether the tokenizer drops the white space after this token, as Phi's does after <|end|>."""
        added = self.tokenizer.added_tokens_decoder.values()
        return any(known.content == token and known.rstrip for known in added)


def _places(messages: Sequence[Message], render: Render) -> list[str | _Slot]:
    """Markup, slot, markup, ..., markup of a prompt, by placeholders; nothing where one has no place."""
    held = [replace(message, content=f"{OPEN}{index}{CLOSE}") for index, message in enumerate(messages)]
    pieces = re.split(f"{OPEN}(\\d+){CLOSE}", render(held))  # markup, slot, markup, slot, ..., markup
    if sorted(pieces[1::2], key=int) != [str(index) for index in range(len(messages))]:
        return []
    spaced = render([replace(message, content=f" {message.content} ") for message in held])
    found: list[str | _Slot] = list(pieces)
    for at, index in enumerate(map(int, pieces[1::2])):
        found[2 * at + 1] = _Slot(index, trimmed=f" {OPEN}{index}{CLOSE} " not in spaced)
    return found


def _found(text: str, messages: Sequence[Message]) -> list[str]:
    """The parts of a text by where the words are found first, for a template that rewrites what it is given."""
    parts, at = list[str](), 0
    for message in messages:
        words = message.content.strip()
        start = text.find(words, at)
        if words and start >= 0:
            parts += [text[at:start], words]
            at = start + len(words)
    return [*parts, text[at:]]


def _fill(parts: tuple[str | _Slot, ...], trained: bool, messages: Sequence[Message]) -> Group:
    """Put the contents into one group of a skeleton."""
    return Group(tuple([part if isinstance(part, str) else part.of(messages) for part in parts]), trained)


def is_token(tokenizer: Any, text: str) -> bool:
    """Whether `text` is one token of the tokenizer (a special token, as a rule)."""
    return text in tokenizer.get_added_vocab() or text in (tokenizer.eos_token, tokenizer.bos_token)


def special_tokens(tokenizer: Any) -> list[str]:
    """The strings that the tokenizer turns into special tokens, longest first."""
    added = tokenizer.added_tokens_decoder.values()
    found = {token.content for token in added if token.special} | set(tokenizer.all_special_tokens)
    return sorted(found, key=len, reverse=True)


def get_template(name: str | None, tokenizer: Any) -> Template:
    """Return the named template for this tokenizer; None: the tokenizer's own, else `default`.

    Raises `UserError` for an unknown name, and for a format whose single tokens the tokenizer does not have.
    """
    if name is None and tokenizer.chat_template:
        return Template("the tokenizer's own", tokenizer.chat_template, tokenizer, _own_stops(tokenizer))
    name = name or DEFAULT
    form = format_for(name, lambda token: is_token(tokenizer, token))
    stops = [stop.replace("{eos}", tokenizer.eos_token or "") for stop in ["{eos}", *form.stop]]
    return Template(name, jinja_of(form), tokenizer, list(dict.fromkeys(stop for stop in stops if stop)))


def _own_stops(tokenizer: Any) -> list[str]:
    """The eos token and the usual end-of-turn tokens that this tokenizer's own template writes."""
    written = [stop for stop in TURN_ENDS if stop in tokenizer.chat_template and is_token(tokenizer, stop)]
    return list(dict.fromkeys([*([tokenizer.eos_token] if tokenizer.eos_token else []), *written]))
