"""Chat formats: how a conversation becomes text, which part of it is trained, and where an answer ends.

There is one renderer: the Jinja chat template, run by the tokenizer itself. The named templates of `formats/*.yaml`
are turned into Jinja (`carellama.templates.format`); export writes that same Jinja into the tokenizer, so what was
trained is what vLLM, llama.cpp, Ollama and transformers render later.

To know which characters are markup and which the model has to learn, a conversation is rendered once with placeholders
for its contents (`carellama.templates.skeleton`); the result is filled in and compared with the real rendering.

    get_template("chatml", tokenizer).render([Message("user", "What is asthma?")], add_generation_prompt=True)

Two rules make training show a model what it will see when it answers:

1. Markup between the generation prompt and an answer (the empty <think> block of Qwen3) belongs to the prompt. Only
   reasoning that a record has is learned, with its marks.
2. Reasoning is never part of a later turn's prompt, and a template may write earlier answers in another way than the
   last one. `Template.conversations` then gives one conversation for each answer.

It does not tokenise (`carellama.templates.tokenize`), shorten or label (`carellama.data.encoding.encode`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, cast

from carellama.errors import UserError
from carellama.records import JSONObject, Message, Tool
from carellama.templates.format import DEFAULT, OWN, format_for, jinja_of
from carellama.templates.jinja import (
    as_functions,
    as_refusal,
    as_rows,
    copies_contents,
    is_markup,
    knows_tools,
    one_template,
    reasoning_allowed,
    turn_ends,
    with_short_ids,
    without_reasoning,
    without_thoughts,
)
from carellama.templates.skeleton import Parts, Rows, Skeleton, SkeletonMaker, Slot, places_of
from carellama.text import THOUGHT, opens_reasoning, split_reasoning

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ASKED = (Message("user", "x"),)
LEARNED = (*ASKED, Message("assistant", "x"))
Key = tuple[object, ...]  # what a skeleton depends on


@dataclass(frozen=True, slots=True)
class Group:
    """A segment of rendered text that is tokenised on its own: a prompt, or an answer with its end.

    The split falls where generation starts, so that a trained prompt has the very ids of a served one.
    """

    parts: tuple[str, ...]  # markup, words, markup, ..., markup: words are the person's or the model's own
    trained: bool
    own: frozenset[int] = frozenset()  # which of the parts are the model's own words

    @property
    def text(self) -> str:
        """The whole segment."""
        return "".join(self.parts)


class Template:
    """One chat format bound to one tokenizer.

    `jinja` is the chat template; `stop_ids` are the tokens and `stops` the strings that end an answer.
    """

    def __init__(self, name: str, jinja: str, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str]) -> None:
        self.name = name
        self.jinja = jinja
        self.tokenizer = tokenizer
        self.stop_ids = [
            cast("int", tokenizer.convert_tokens_to_ids(stop)) for stop in stops if is_token(tokenizer, stop)
        ]
        self.stops = [stop for stop in stops if not is_token(tokenizer, stop)]
        self.knows_tools = knows_tools(jinja)
        self._reasons = "reasoning_content" in jinja  # it takes the reasoning of an answer by itself
        self._cuts = self._reasons or THOUGHT in jinja  # it may cut reasoning, and line breaks after it, out of answers
        self._skeletons: dict[Key, Skeleton] = {}
        self._prompts: dict[Key, Parts] = {}
        self._steady: dict[Key, bool] = {}
        self._copies = copies_contents(jinja)

    def render(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = False, tools: Sequence[Tool] = ()
    ) -> str:
        """Return the text of a conversation; with `add_generation_prompt` up to where the answer starts.

        Reasoning is kept in an answer that ends the conversation, and left out of earlier ones.
        """
        return self._render(tools, self._rows(messages), start=add_generation_prompt)

    def conversations(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> list[tuple[Message, ...]]:
        """Return what teaches the answers of a conversation that are learned, each as the model is asked for it.

        As a rule this is the conversation, up to the last answer that is learned. Where the template writes an answer
        in another way once a turn follows (or drops its reasoning), it is one conversation an answer, in which the
        earlier answers are not learned.
        """
        self._check_tools(messages, tools)
        learned = [at for at, message in enumerate(messages) if message.role == "assistant" and message.learned]
        whole = tuple(messages[: learned[-1] + 1])
        if all(self._is_steady(whole, at, tools) for at in learned[:-1]):
            return [whole]
        context = [replace(message, learned=False) for message in messages]
        return [(*context[:at], messages[at]) for at in learned]

    def groups(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> list[Group]:
        """Split the rendered conversation into prompts (not trained) and answers with their end.

        The texts joined are `render(messages)` up to the end of the last answer, to the byte; of a template whose
        generation prompt is no part of its conversations (DeepSeek R1 opens a <think> that it never writes again)
        that prompt stands before the last answer. Raises `UserError` when the template does not render this
        conversation from its parts (it rewrites contents, say), and for tools where it knows none.
        """
        self._check_tools(messages, tools)
        skeleton = self._skeleton(messages, tools)
        texts = self._texts(messages)
        learned = [message.learned for message in messages if message.role == "assistant"]
        groups = [
            _fill(parts, texts, trained=at % 2 == 1 and learned[at // 2]) for at, parts in enumerate(skeleton.groups)
        ]
        blank = any(message.content.isspace() or not message.content for message in messages)
        made = "".join(group.text for group in groups) + skeleton.tail
        if skeleton.exact and (blank or not self._copies) and made != self.render(messages, tools=tools):
            raise UserError(
                f"the chat template {self.name!r} does not render these contents as they are "
                "(it may cut reasoning or answer markers out of them)"
            )
        if len(groups) % 2 == 0 and not skeleton.ends:
            parts = groups[-1].parts
            groups[-1] = replace(groups[-1], parts=(*parts[:-1], parts[-1] + (self.tokenizer.eos_token or "")))
        return groups

    def prompt_group(self, messages: Sequence[Message], tools: Sequence[Tool] = (), *, direct: bool = False) -> Group:
        """Return `render(messages, add_generation_prompt=True)` as one group, its words marked.

        `direct`: up to where an answer without reasoning starts, behind the markup that the template puts there.
        """
        if direct:
            groups = self.groups([*messages, Message("assistant", "x")], tools)[:-1]
            lead = groups[0]
            for group in groups[1:]:
                at = len(lead.parts) - 1
                parts = (*lead.parts[:-1], lead.parts[-1] + group.parts[0], *group.parts[1:])
                lead = Group(parts, trained=False, own=lead.own | {at + number for number in group.own})
            return lead
        places = self.prompt_parts(messages, tools)
        text = self.render(messages, add_generation_prompt=True, tools=tools)
        texts = self._texts(messages)
        group = _fill(places, texts, trained=False)
        return group if group.text == text else _search(text, messages, texts)

    def prompt_parts(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> Parts:
        """Return the markup of `render(messages, add_generation_prompt=True)` and where which content stands in it.

        () where a content has no place of its own, as the template rewrites it.
        """
        key = self._key(messages, tools)
        places = self._prompts.get(key)
        if places is None:
            places = places_of(self._rows(messages), partial(self._render, tools, start=True))
            if not _calls(messages):
                self._prompts[key] = places
        return places

    def answering_directly(self) -> Template:
        """Return the template whose generation prompt ends where an answer without reasoning starts.

        Records without reasoning are learned behind that prompt, so a model that learned them is asked with it. The
        template itself where nothing stands between the two.
        """
        lead = self.lead
        asked = self.render(ASKED, add_generation_prompt=True) + lead
        made = [self._like(jinja) for jinja in without_reasoning(self.jinja, lead)]
        fitting = (one for one in made if one.render(ASKED, add_generation_prompt=True) == asked)
        return next(fitting, self) if lead else self

    @cached_property
    def opens_reasoning(self) -> bool:
        """Whether an answer begins within its reasoning, as the generation prompt has opened it."""
        return opens_reasoning(self.render(ASKED, add_generation_prompt=True))

    @cached_property
    def lead(self) -> str:
        """The markup between the generation prompt and an answer without reasoning, "" where there is none."""
        try:
            prompt = self.groups(LEARNED)[0].text
        except UserError:
            return ""
        return prompt.removeprefix(self.render(ASKED, add_generation_prompt=True))

    def reasoning_first(self) -> Template:
        """Return the template as `answering_directly` was given it."""
        return self._like(reasoning_allowed(self.jinja))

    def _like(self, jinja: str) -> Template:
        if jinja == self.jinja:
            return self
        return Template(self.name, jinja, self.tokenizer, [*self._stop_tokens, *self.stops])

    @property
    def _stop_tokens(self) -> list[str]:
        return cast("list[str]", self.tokenizer.convert_ids_to_tokens(self.stop_ids))

    def _check_tools(self, messages: Sequence[Message], tools: Sequence[Tool]) -> None:
        """Raise `UserError` for tools that the template cannot write."""
        if not tools and not any(message.calls or message.role == "tool" for message in messages):
            return
        if not self.knows_tools:
            raise UserError(
                f"the chat template {self.name!r} knows no tools; train a model whose own template does "
                "(Qwen, Llama 3.1, ...), or leave these records out"
            )
        written = repr([*(message.calls for message in messages), as_functions(tools)])
        if found := next((mark for mark in special_tokens(self.tokenizer) if mark in written), None):
            raise UserError(f"a tool or a call holds {found!r}, which the tokenizer reads as a special token")

    def _is_steady(self, messages: Sequence[Message], at: int, tools: Sequence[Tool]) -> bool:
        """Whether the answer at this place is rendered, with all before it, as if it were the last one."""
        if split_reasoning(messages[at].content)[0]:
            return False
        key = (at, self._key(messages, tools))
        steady = self._steady.get(key)
        if steady is None:
            alone = self._skeleton(messages[: at + 1], tools)
            within = self._skeleton(messages, tools).groups[: len(alone.groups)]
            steady = within == alone.groups and alone.ends  # else only a last answer gets an end
            if not _calls(messages):
                self._steady[key] = steady
        return steady

    def _rows(self, messages: Sequence[Message]) -> list[JSONObject]:
        """Messages as chat templates take them, with the reasoning of an answer that ends the conversation."""
        rows = with_short_ids(without_thoughts(as_rows(messages), self.jinja), self.jinja)
        if self._marks(messages):
            if self._reasons:
                rows[-1]["reasoning_content"] = split_reasoning(messages[-1].content)[1].strip()
            elif not self._cuts:
                rows[-1]["content"] = messages[-1].content
        return rows

    def _texts(self, messages: Sequence[Message]) -> list[str]:
        """What goes into the slots of a skeleton: the contents without reasoning, and the last answer's reasoning."""
        texts = [row["content"] for row in without_thoughts(as_rows(messages), self.jinja)]
        reasoning = split_reasoning(messages[-1].content)[1] if self._marks(messages) else ""
        return [*texts, reasoning.strip() if self._cuts else reasoning]

    def _render(self, tools: Sequence[Tool], rows: Rows, *, start: bool = False, thinking: bool | None = None) -> str:
        switch: dict[str, Any] = {} if thinking is None else {"enable_thinking": thinking}
        with as_refusal(f"the chat template {self.name!r}"):
            text = self.tokenizer.apply_chat_template(
                list(rows),
                chat_template=self.jinja,
                tools=[*as_functions(tools)] or None,
                tokenize=False,
                add_generation_prompt=start,
                **switch,
            )
            assert isinstance(text, str)
            text.encode()  # half a character (a lone surrogate) is no text
        return text

    def _marks(self, messages: Sequence[Message]) -> tuple[str, str] | None:
        """What stands before and after the reasoning of an answer that ends the conversation."""
        if not messages or messages[-1].role != "assistant":
            return None
        opening, _, closing, _ = split_reasoning(messages[-1].content)
        if not opening:
            return None
        return ("<think>\n", "\n</think>\n\n") if self._cuts else (opening, closing)

    def _key(self, messages: Sequence[Message], tools: Sequence[Tool]) -> Key:
        turns = tuple((one.role, one.calls, bool(one.content.strip()) or not one.calls) for one in messages)
        return turns, repr(tools) if tools else "", self._marks(messages)

    def _skeleton(self, messages: Sequence[Message], tools: Sequence[Tool]) -> Skeleton:
        key = self._key(messages, tools)
        skeleton = self._skeletons.get(key)
        if skeleton is None:
            inline = not self._cuts
            rows, render = self._rows(messages), partial(self._render, tools)
            lead = None if messages == LEARNED else self.lead
            maker = SkeletonMaker(rows, self._marks(messages), render, self._end, inline=inline, lead=lead)
            skeleton = maker.skeleton()
            if not _calls(messages):  # of which each has its own
                self._skeletons[key] = skeleton
        return skeleton

    def _end(self, markup: str, *, calls: bool) -> tuple[str, str]:
        """Split the markup after an answer into what ends it (white space and one stop) and the rest.

        Behind calls of tools, which are markup too, the first stop ends it.
        """
        stops = {*self.stops, *self._stop_tokens, *(() if calls else special_tokens(self.tokenizer))}
        found = [(markup.find(stop), -len(stop), stop) for stop in stops if stop in markup]
        for at, _, stop in sorted(found):
            if calls or not markup[:at].strip():
                rest = markup[at + len(stop) :]
                if self._takes_space(stop):  # the white space after it is no token of the next prompt
                    rest = rest.lstrip()
                return markup[: len(markup) - len(rest)], rest
        return "", markup

    def _takes_space(self, token: str) -> bool:
        """Whether the tokenizer drops the white space after this token, as Phi's does after <|end|>."""
        added = self.tokenizer.added_tokens_decoder.values()
        return any(known.content == token and known.rstrip for known in added)


def _calls(messages: Sequence[Message]) -> bool:
    return any(message.calls for message in messages)


def _search(text: str, messages: Sequence[Message], texts: Sequence[str]) -> Group:
    """The parts of a text by where the words are found first, for a template that rewrites what it is given."""
    parts, at, own = list[str](), 0, set[int]()
    for message, content in zip(messages, texts, strict=False):
        words = content.strip()
        start = text.find(words, at)
        if words and start >= 0:
            parts += [text[at:start], words]
            own |= {len(parts) - 1} if message.role == "assistant" else set()
            at = start + len(words)
    return Group((*parts, text[at:]), trained=False, own=frozenset(own))


def _fill(parts: Parts, texts: Sequence[str], *, trained: bool) -> Group:
    """Put the contents into one group of a skeleton."""
    own = frozenset(at for at, part in enumerate(parts) if isinstance(part, Slot) and part.own)
    return Group(tuple([part if isinstance(part, str) else part.of(texts) for part in parts]), trained, own)


def is_token(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    """Whether `text` is one token of the tokenizer (a special token, as a rule)."""
    return text in tokenizer.get_added_vocab() or text in (tokenizer.eos_token, tokenizer.bos_token)


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The strings that the tokenizer turns into special tokens, longest first."""
    added = tokenizer.added_tokens_decoder.values()
    found = {token.content for token in added if token.special} | set(tokenizer.all_special_tokens)
    return sorted(found, key=len, reverse=True)


def markup_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The strings that a person's words must not turn into single tokens, longest first.

    Besides special tokens these are added ones that stand for markup and are not flagged as special, as <tool_call>
    and <think> of Qwen3. Words and runs of spaces that were added to a vocabulary are none of them.
    """
    written = str(tokenizer.chat_template or "")  # several by name: what any of them writes
    added = (token.content for token in tokenizer.added_tokens_decoder.values())
    return sorted(
        {*special_tokens(tokenizer), *(one for one in added if is_markup(one, written))}, key=len, reverse=True
    )


def adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer itself begins a text with its bos token."""
    return tokenizer.bos_token_id is not None and tokenizer("a").input_ids[0] == tokenizer.bos_token_id


def get_template(name: str | None, tokenizer: PreTrainedTokenizerBase) -> Template:
    """Return the named template for this tokenizer; None: the tokenizer's own, else `default`.

    Raises `UserError` for an unknown name, and for a format whose single tokens the tokenizer does not have.
    """
    if name is None and (own := one_template(tokenizer.chat_template)):
        return Template(OWN, own, tokenizer, _own_stops(own, tokenizer))
    name = name or DEFAULT
    form = format_for(name, lambda token: is_token(tokenizer, token))
    stops = [stop.replace("{eos}", tokenizer.eos_token or "") for stop in ["{eos}", *form.stop]]
    jinja = jinja_of(form, adds_bos=adds_bos(tokenizer))
    return Template(name, jinja, tokenizer, list(dict.fromkeys(stop for stop in stops if stop)))


def _own_stops(jinja: str, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The eos token and the usual end-of-turn tokens that this tokenizer's own template writes."""
    written = [stop for stop in turn_ends(jinja) if is_token(tokenizer, stop)]
    return list(dict.fromkeys([*([tokenizer.eos_token] if tokenizer.eos_token else []), *written]))
