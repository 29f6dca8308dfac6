"""Chat formats: how a conversation becomes text, which part of it is trained, and where an answer ends.

The only module that knows a chat format, and there is one renderer: the Jinja chat template, run by the tokenizer
itself. The named templates of `templates/*.yaml` are turned into Jinja (`jinja_of`); export writes that same Jinja
into the tokenizer, so what was trained is what vLLM, llama.cpp, Ollama and transformers render later.

To know which characters are markup and which the model has to learn, a conversation is rendered once with
placeholders for its contents (`Template.groups`); the result is filled in and compared with the real rendering.

    python -c "from carellama.template import names; print(names())"

It does not tokenise, shorten or label: `carellama.data.encode` does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from typing import Any

import jinja2
import yaml
from jinja2 import nodes

from carellama.errors import UserError, lookup
from carellama.records import Message, Role

OPEN, CLOSE = "\ue000", "\ue001"  # private-use characters around the number of a placeholder
DEFAULT = "default"  # for a tokenizer that carries no chat template


@dataclass(frozen=True)
class Format:
    """A chat format as data. `{bos}`, `{eos}` and `{i}` (the turn's number) are filled in.

    bos + start + [system block] + for each turn: user_prefix + question + user_suffix, then assistant_prefix + answer
    + assistant_suffix, with turn_sep before every turn but the first. The system block is left out when there is no
    system message; with `system_in_user` it stands inside the first question.
    """

    bos: bool = True
    start: str = ""
    system: str = ""  # the default system message
    system_prefix: str = ""
    system_suffix: str = ""
    system_in_user: bool = False
    user_prefix: str = ""
    first_user_prefix: str | None = None  # None: as user_prefix
    user_suffix: str = ""
    assistant_prefix: str = ""
    assistant_suffix: str = "{eos}"
    turn_sep: str = ""
    first_turn: int = 1  # what {i} counts from
    stop: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)  # single tokens that the tokenizer must have
    about: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """A stretch of rendered text that is tokenised on its own: a prompt, or an answer with its end.

    The split falls where generation starts, so that a trained prompt has the very ids of a served one.
    """

    text: str
    trained: bool
    contents: tuple[tuple[int, int], ...]  # (start, end) of the person's or the model's own words in `text`


@lru_cache(maxsize=1)
def formats() -> dict[str, Format]:
    """All named formats of `templates/`, by name."""
    found = {}
    for entry in resources.files("carellama").joinpath("templates").iterdir():
        if entry.name.endswith(".yaml"):
            found[entry.name.removesuffix(".yaml")] = Format(**yaml.safe_load(entry.read_text(encoding="utf-8")))
    return dict(sorted(found.items()))


def names() -> list[str]:
    """The names that `--template` takes."""
    return list(formats())


def jinja_of(form: Format) -> str:
    """Return the Jinja chat template that renders `form`, as Hugging Face tokenizers keep it."""

    def say(text: str, *, number: str = "") -> str:
        """`"a{eos}"` -> `{{- "a" + eos_token -}}`."""
        parts = [part for part in re.split(r"(\{bos\}|\{eos\}|\{i\})", text) if part]
        named = {"{bos}": "bos_token", "{eos}": "eos_token", "{i}": number}
        joined = " ~ ".join(named.get(part) or json.dumps(part, ensure_ascii=False) for part in parts)
        return "{{- " + joined + " -}}" if joined else ""

    number = f"(loop.index0 // 2 + {form.first_turn})"
    system = (
        "{%- if system -%}" + say(form.system_prefix) + "{{- system -}}" + say(form.system_suffix) + "{%- endif -%}"
    )
    first = form.user_prefix if form.first_user_prefix is None else form.first_user_prefix
    lines = [
        "{%- if messages[0]['role'] == 'system' -%}",
        "{%- set system = messages[0]['content'] -%}{%- set turns = messages[1:] -%}",
        "{%- else -%}",
        "{%- set system = " + json.dumps(form.system, ensure_ascii=False) + " -%}{%- set turns = messages -%}",
        "{%- endif -%}",
        say("{bos}") if form.bos else "",
        say(form.start),
        "" if form.system_in_user else system,
        "{%- for message in turns -%}",
        "{%- if message['role'] == 'user' -%}",
        "{%- if loop.first -%}" + say(first, number=number) + (system if form.system_in_user else ""),
        "{%- else -%}" + say(form.turn_sep + form.user_prefix, number=number) + "{%- endif -%}",
        "{{- message['content'] -}}" + say(form.user_suffix, number=number),
        "{%- elif message['role'] == 'assistant' -%}",
        say(form.assistant_prefix, number=number) + "{{- message['content'] -}}" + say(form.assistant_suffix),
        "{%- else -%}{{- raise_exception('unknown role ' ~ message['role']) -}}{%- endif -%}",
        "{%- endfor -%}",
        "{%- if add_generation_prompt -%}"
        + say(form.assistant_prefix, number="(turns|length // 2 + 1)")
        + "{%- endif -%}",
    ]
    return "\n".join(line for line in lines if line)


@dataclass(frozen=True, slots=True)
class _Slot:
    """The place of one message's content in a skeleton."""

    index: int
    trimmed: bool  # the template strips white space around the content


@dataclass(frozen=True, slots=True)
class _Skeleton:
    """What a template renders around the contents of a sequence of roles, cut into groups."""

    groups: tuple[tuple[bool, tuple[str | _Slot, ...]], ...]  # (trained, parts)
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
        self._copies = copies_contents(jinja)

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> str:
        """Return the text of a conversation; with `add_generation_prompt` up to where the answer starts."""
        rows = [{"role": message.role, "content": message.content} for message in messages]
        try:
            text = self.tokenizer.apply_chat_template(
                rows, chat_template=self.jinja, tokenize=False, add_generation_prompt=add_generation_prompt
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
            groups[-1] = Group(last.text + (self.tokenizer.eos_token or ""), True, last.contents)
        return groups

    def prompt_group(self, messages: Sequence[Message]) -> Group:
        """Return `render(messages, add_generation_prompt=True)` as one group, its contents marked."""
        text = self.render(messages, add_generation_prompt=True)
        spans, at = [], 0
        for message in messages:
            content = message.content.strip()
            start = text.find(content, at)
            if content and start >= 0:
                at = start + len(content)
                spans.append((start, at))
        return Group(text, False, tuple(spans))

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
                return markup[: at + len(stop)], markup[at + len(stop) :]
        return "", markup


class _Unsure(Exception):
    """A construct of which it is not known what it does with contents."""


_LOOP = {"first", "last", "index", "index0", "length"}
_PARTS = (nodes.Add, nodes.Sub, nodes.Mul, nodes.Mod, nodes.FloorDiv, nodes.Neg, nodes.Compare, nodes.Operand)


def copies_contents(jinja: str) -> bool:
    """Whether a chat template, by its syntax, does nothing with contents but write them, whole or trimmed.

    What it writes around contents that are not blank is then the same for all of them, and a conversation need not
    be rendered to be known. False when unsure: such a template is rendered for each conversation.
    """
    try:
        tree = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).parse(jinja)
        names = {"messages": "holder"}
        before: dict[str, str] = {}
        while before != names:  # until what is set late is known everywhere
            before = dict(names)
            for node in tree.body:
                _follow(node, names)
        return True
    except (_Unsure, jinja2.TemplateSyntaxError):
        return False


def _follow(node: nodes.Node, names: dict[str, str]) -> None:
    """Follow contents through one statement; `names` says what each variable may hold."""

    def bind(target: nodes.Node, kind: str) -> None:
        if not isinstance(target, nodes.Name):
            raise _Unsure
        kinds = {kind, names.get(target.name, kind)}
        if len(kinds) > 1 and "holder" in kinds:
            raise _Unsure
        names[target.name] = "text" if "text" in kinds else kind

    match node:
        case nodes.Output():
            if any(_kind(part, names) == "holder" for part in node.nodes if not isinstance(part, nodes.TemplateData)):
                raise _Unsure
        case nodes.If():
            _kind(node.test, names)
            for inner in [*node.body, *node.elif_, *node.else_]:
                _follow(inner, names)
        case nodes.For(test=None, recursive=False):
            if _kind(node.iter, names) != "holder":
                raise _Unsure
            bind(node.target, "holder")
            for inner in [*node.body, *node.else_]:
                _follow(inner, names)
        case nodes.Assign():
            bind(node.target, _kind(node.node, names))
        case _:
            raise _Unsure


def _kind(node: nodes.Node | None, names: dict[str, str]) -> str:
    """What an expression may hold: a content ("text"), messages ("holder"), or nothing of them ("other")."""
    match node:
        case nodes.Const():
            return "other"
        case nodes.Name():
            return names.get(node.name, "other")
        case nodes.Getattr(node=nodes.Name(name="loop"), attr=attribute) if attribute in _LOOP:
            return "other"
        case nodes.Getattr(attr=key) | nodes.Getitem(arg=nodes.Const(value=key)):
            if _kind(node.node, names) != "holder":
                raise _Unsure
            return "text" if key == "content" else "holder" if isinstance(key, int) else "other"
        case nodes.Getitem(arg=nodes.Slice()) if _kind(node.node, names) == "holder":
            return "holder"
        case nodes.Filter(name="trim", node=nodes.Getattr() | nodes.Getitem(), args=[]):
            return _kind(node.node, names)
        case nodes.Filter(name="length", args=[]) if _kind(node.node, names) == "holder":
            return "other"
        case nodes.Call(node=nodes.Name(name="raise_exception")):
            return "other"
        case nodes.Not():  # a content that is not blank is true
            _kind(node.node, names)
            return "other"
        case nodes.And() | nodes.Or() | nodes.Add() | nodes.Concat():
            kinds = {_kind(part, names) for part in node.iter_child_nodes()}
            if "holder" in kinds:
                raise _Unsure
            return "text" if "text" in kinds else "other"
        case _ if isinstance(node, _PARTS) and {_kind(part, names) for part in node.iter_child_nodes()} <= {"other"}:
            return "other"
    raise _Unsure


def _fill(parts: tuple[str | _Slot, ...], trained: bool, messages: Sequence[Message]) -> Group:
    """Put the contents into one group of a skeleton."""
    text, contents = "", []
    for part in parts:
        if isinstance(part, str):
            text += part
        else:
            content = messages[part.index].content
            content = content.strip() if part.trimmed else content
            contents.append((len(text), len(text) + len(content)))
            text += content
    return Group(text, trained, tuple(contents))


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
    form = lookup(formats(), name, "template")
    missing = [token for token in form.tokens if not is_token(tokenizer, token)]
    if missing:
        raise UserError(
            f"--template {name} needs the tokens {', '.join(missing)}, which this model's tokenizer does not have; "
            "leave --template out to use the model's own format, or take one of plain text: alpaca, default, vicuna"
        )
    stops = [stop.replace("{eos}", tokenizer.eos_token or "") for stop in ["{eos}", *form.stop]]
    return Template(name, jinja_of(form), tokenizer, list(dict.fromkeys(stop for stop in stops if stop)))


def _own_stops(tokenizer: Any) -> list[str]:
    """The eos token and the usual end-of-turn tokens that this tokenizer's own template writes."""
    turn_ends = ["<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<|endofturn|>"]
    written = [stop for stop in turn_ends if stop in tokenizer.chat_template and is_token(tokenizer, stop)]
    return list(dict.fromkeys([*([tokenizer.eos_token] if tokenizer.eos_token else []), *written]))
