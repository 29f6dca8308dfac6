"""An Ollama Modelfile: the weights, the chat format in Go's text/template, and all that ends an answer.

    write_modelfile(folder / "Modelfile", "model.q4_K_M.gguf", template, system="", num_ctx=4096, adapter=None)

Ollama knows no Jinja. The Go template is made from what our template writes around the contents of conversations
(`go_chat`), and is compared with it for conversations of one to four turns with and without a system message. What a Go
template cannot say (a system message in the last question, an order that depends on the words) is refused.

Ollama (llama.cpp) begins every text with the token that the file's tokenizer puts there, so that the Go template does
not write it. What it does with messages is in Ollama's template/template.go: `.System` is all system messages joined,
`.Messages` has them as well, and neighbours of one role are one message.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from carellama.errors import UserError
from carellama.files import atomic_write
from carellama.records import Message
from carellama.templates.template import Template, adds_bos

TURNS = 4  # of the conversations that are compared
QUESTION, ANSWER, SYSTEM = "question{}xq", "answer{}xa", "systemxs"
NUMBER = "\ue000"  # the place of a turn's number


@dataclass(frozen=True)
class GoChat:
    """What a chat format writes around contents; `NUMBER` stands for the number of a turn."""

    before: str  # the first question, where there is no system message
    around_system: tuple[str, str] | None  # before the system message, and between it and the first question
    to_answer: str  # between a question and an answer that is there
    prompt: str  # after the last question
    between: str  # an answer and the next question
    first_number: int = 1

    def render(self, messages: Sequence[Message]) -> str:
        """What the Go template makes of a conversation that ends with a question."""
        system = "\n\n".join(one.content for one in messages if one.role == "system")
        turns = [one for one in messages if one.role != "system"]
        if system and self.around_system:
            written = [self.around_system[0], system, self.around_system[1]]
        else:
            written = [self.before]
        turn = 0
        for at, one in enumerate(turns):
            if one.role == "user":
                number = str(turn + self.first_number)
                written += [self.between.replace(NUMBER, number)] if turn else []
                following = self.to_answer if at + 1 < len(turns) else self.prompt
                written += [one.content, following.replace(NUMBER, number)]
                turn += 1
            else:
                written.append(one.content)
        return "".join(written)

    def go(self) -> str:
        """The same as Go's text/template."""
        start = _literal(self.before)
        if self.around_system:
            first, second = map(_literal, self.around_system)
            start = f"{{{{ if .System }}}}{first}{{{{ .System }}}}{second}{{{{ else }}}}{start}{{{{ end }}}}"
        # $turn is a string with a character for each question so far: Go's templates cannot add
        next_one, this_one = (self._number(step) for step in (self.first_number, self.first_number - 1))
        between = _literal(self.between, next_one)
        last = _literal(self.prompt, this_one)
        other = _literal(self.to_answer, this_one)
        after = last
        if last != other:
            after = f"{{{{ if eq (len (slice $.Messages $i)) 1 }}}}{last}{{{{ else }}}}{other}{{{{ end }}}}"
        index = "$i, $_ := " if last != other else ""
        return (
            f'{{{{ $turn := "" }}}}{start}{{{{ range {index}.Messages }}}}'
            f'{{{{ if eq .Role "user" }}}}{{{{ if $turn }}}}{between}{{{{ end }}}}{{{{ $turn = print $turn "." }}}}'
            f'{{{{ .Content }}}}{after}{{{{ else if eq .Role "assistant" }}}}{{{{ .Content }}}}'
            "{{ end }}{{ end }}"
        )

    @staticmethod
    def _number(step: int) -> str:
        """The action that writes the length of $turn and `step` more."""
        counted = {-1: "len (slice $turn 1)", 0: "len $turn", 1: 'len (print $turn ".")'}[step]
        return f"{{{{ {counted} }}}}"


def go_chat(template: Template) -> GoChat:
    """Return what Ollama has to write. Raises `UserError` for a format that Go's template cannot write alike."""
    begin = template.tokenizer.bos_token if adds_bos(template.tokenizer) else None
    plain = {turns: _rendered(template, turns, begin, system=False) for turns in range(1, TURNS + 1)}
    try:
        with_system: dict[int, str] | None = {
            turns: _rendered(template, turns, begin, system=True) for turns in range(1, TURNS + 1)
        }
    except UserError as error:
        if isinstance(error, _NoBeginning):
            raise
        with_system = None  # the format has none
    try:
        made = _parts(plain, with_system)
    except ValueError as error:
        raise _refusal(template, str(error)) from error
    for turns, system in ((turns, system) for turns in plain for system in (False, True)):
        expected = with_system if system else plain
        if expected and made.render(_conversation(turns, system=system)) != expected[turns]:
            case = "with a system message" if system else "without a system message"
            raise _refusal(template, f"what it writes around {turns} turns {case} follows no rule that Go can tell")
    return made


def write_modelfile(
    target: Path,
    gguf_name: str,
    template: Template,
    *,
    system: str = "",
    num_ctx: int | None = None,
    adapter: str | None = None,
    licence: str = "",
    sampling: Mapping[str, float] | None = None,
) -> None:
    """Write the Modelfile `target` for the .gguf of that name beside it.

    system: a system message for conversations that bring none; num_ctx: tokens of prompt and answer; adapter: a LoRA in
    GGUF beside it; licence: its name or text; sampling: Ollama's parameters (temperature, top_p, top_k, ...). Raises
    `UserError` for a chat format, a stop or a text that a Modelfile cannot say.
    """
    chat = go_chat(template)
    if system and chat.around_system is None:
        raise UserError(f"the chat format {template.name!r} has no place for a system message: leave --system out")
    lines = [f"FROM ./{gguf_name}", *([f"ADAPTER ./{adapter}"] if adapter else [])]
    lines.append(f'TEMPLATE """{chat.go()}"""')
    if chat.around_system is None:
        lines.append("# This chat format has no system message: SYSTEM would not reach the model.")
    if " x " not in template.render([Message("user", " x ")], add_generation_prompt=True):
        lines.append("# The model's own format strips white space around messages; Ollama keeps it.")
    lines += [f"SYSTEM {_quoted(system, 'the system message')}"] if system else []
    lines += [f"PARAMETER stop {_quoted(stop, 'a stop')}" for stop in ends_of(template)]
    lines += [f"PARAMETER num_ctx {num_ctx}"] if num_ctx else []
    lines += [f"PARAMETER {name} {value:g}" for name, value in (sampling or {}).items()]
    lines += [f"LICENSE {_quoted(licence, 'the licence')}"] if licence else []
    with atomic_write(target) as file:
        file.write("\n".join(lines) + "\n")


def ends_of(template: Template) -> list[str]:
    """All tokens and strings that end an answer, as text."""
    tokens = template.tokenizer.convert_ids_to_tokens(template.stop_ids)
    known = [template.tokenizer.eos_token, *tokens, *template.stops]
    return list(dict.fromkeys(stop for stop in known if stop))


class _NoBeginning(UserError):
    """The tokenizer begins a text with a token that the chat format does not have."""


def _conversation(turns: int, *, system: bool) -> list[Message]:
    """So many questions, with answers between them."""
    messages = [Message("system", SYSTEM)] if system else []
    for turn in range(1, turns + 1):
        messages += [Message("user", QUESTION.format(turn)), Message("assistant", ANSWER.format(turn))]
    return messages[:-1]


def _rendered(template: Template, turns: int, begin: str | None, *, system: bool) -> str:
    """What our template writes, without the token that Ollama puts before every text."""
    text = template.render(_conversation(turns, system=system), add_generation_prompt=True)
    if begin is None:
        return text
    if not text.startswith(begin):
        raise _NoBeginning(
            f"Ollama begins each text with {begin!r}, as this tokenizer does, and the chat format {template.name!r} "
            "does not: its answers would differ; serve the model with carellama api, or train with another --template"
        )
    return text.removeprefix(begin)


def _parts(plain: Mapping[int, str], with_system: Mapping[int, str] | None) -> GoChat:
    """Cut renderings at their contents. Raises `ValueError` where a content is missing or stands elsewhere."""
    marks = [mark for turn in range(1, TURNS + 1) for mark in (QUESTION.format(turn), ANSWER.format(turn))][:-1]
    pieces = _cut(plain[TURNS], marks)
    around = None
    if with_system:
        before, middle, *_ = _cut(with_system[TURNS], [SYSTEM, *marks])
        around = (before, middle)
    to_answer, between, prompt = pieces[1], pieces[2], pieces[-1]
    first = next((first for first in (0, 1) if _has_number(pieces, first)), None)
    if first is None:
        return GoChat(pieces[0], around, to_answer, prompt, between)
    to_answer, between = _numbered(to_answer, first), _numbered(between, first + 1)
    return GoChat(pieces[0], around, to_answer, _numbered(prompt, first + TURNS - 1), between, first)


def _cut(text: str, marks: Sequence[str]) -> list[str]:
    """The text before, between and after the contents."""
    pieces, at = [], 0
    for mark in marks:
        found = text.find(mark, at)
        if found < 0 or text.count(mark) != 1:
            raise ValueError("it does not write each message once and in order")
        pieces.append(text[at:found])
        at = found + len(mark)
    return [*pieces, text[at:]]


def _has_number(pieces: Sequence[str], first: int) -> bool:
    """Whether turns are numbered from `first` on, by what stands before the questions."""
    found = [_numbered(pieces[2 + 2 * turn], turn + 1 + first) for turn in range(TURNS - 1)]
    return len(set(found)) == 1 and NUMBER in found[0]


def _numbered(text: str, number: int) -> str:
    return re.sub(rf"(?<!\d){number}(?!\d)", NUMBER, text)


def _literal(text: str, number: str = "") -> str:
    """Text of a Go template that writes `text`; `number` is the action in place of `NUMBER`.

    What Go would take for an action, and what a Modelfile cannot hold (three quotes, characters that are not printed),
    is written as a quoted string.
    """
    parts = [part if _is_plain(part) else f"{{{{ {_go_string(part)} }}}}" for part in text.split(NUMBER)]
    return number.join(parts) if number else "".join(parts)


def _is_plain(text: str) -> bool:
    printed = all(letter.isprintable() or letter in "\n\t" for letter in text)
    return printed and "{{" not in text and '"""' not in text and not text.endswith(("{", '"'))


def _go_string(text: str) -> str:
    """An interpreted string of Go (go.dev/ref/spec, string literals)."""
    short = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return '"' + "".join(short.get(one) or (one if one.isprintable() else f"\\U{ord(one):08x}") for one in text) + '"'


def _quoted(text: str, what: str) -> str:
    """A value of a Modelfile, which knows no escapes; quotes at its end stay, as the last three close it."""
    if '"""' in text or not all(one.isprintable() or one in "\n\t" for one in text):
        raise UserError(
            f"{what} {text!r} cannot stand in a Modelfile: it has three quotes in a row or characters that Ollama drops"
        )
    return f'"{text}"' if '"' not in text else f'"""{text}"""'


def _refusal(template: Template, reason: str) -> UserError:
    return UserError(
        f"the chat format {template.name!r} cannot be written for Ollama, as Go's template would give another text: "
        f"{reason}; serve the .gguf with carellama api or llama.cpp's server, which read the Jinja"
    )
