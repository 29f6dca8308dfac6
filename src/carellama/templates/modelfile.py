"""An Ollama Modelfile, read as Ollama reads it (ollama/parser/parser.go).

    read_modelfile(Path("Modelfile")).last("template")      # the TEMPLATE that counts, None where it has none

An instruction is a word, white space and a value: the rest of its line, or text in one or three double quotes that
may go on over lines. There are no escapes, what stands in a value is no instruction, and characters that are not
printed are dropped.
`carellama.export.modelfile` writes one.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from pathlib import Path

from carellama.errors import UserError, read_failure

WORDS = ("from", "license", "template", "system", "adapter", "draft", "renderer", "parser", "requires")
ROLES = ("system", "user", "assistant")
_INSTRUCTION = re.compile(r"([A-Za-z]+)[ \t](.*)")
_NAMED = re.compile(r"([A-Za-z0-9_]*)[ \t](.*)")  # PARAMETER stop ..., MESSAGE user ...


@dataclass(frozen=True)
class Modelfile:
    """The instructions in order: (word in small letters, name of a parameter or role of a message or "", value)."""

    instructions: tuple[tuple[str, str, str], ...]

    def last(self, word: str) -> str | None:
        """The value that counts of an instruction that may stand there twice; None: it is not there."""
        return next((value for one, _, value in reversed(self.instructions) if one == word), None)

    @property
    def stops(self) -> list[str]:
        """All texts that end an answer."""
        return [value for word, name, value in self.instructions if (word, name) == ("parameter", "stop")]

    @property
    def messages(self) -> list[tuple[str, str]]:
        """Role and content of the messages that it puts before each conversation."""
        return [(name, value) for word, name, value in self.instructions if word == "message"]


def read_modelfile(path: Path) -> Modelfile:
    """Read a Modelfile. Raises `UserError` for one that is no text, or that Ollama refuses."""
    try:
        raw = path.read_bytes()
        utf16 = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = raw.decode("utf-16" if utf16 else "utf-8-sig")
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {read_failure(error)}") from error
    lines = re.split(r"(?<=[\r\n])", text)  # a break belongs to the line before it
    found, at = list[tuple[str, str, str]](), 0
    while at < len(lines):
        line, place = lines[at].lstrip(" \t"), f"{path}, line {''.join(lines[:at]).count(chr(10)) + 1}"
        at += 1
        if not line.strip("\r\n") or line.startswith("#"):
            continue
        word, name, value = _opened(line, place)
        while _unquoted(value) is None:
            if at >= len(lines):
                raise UserError(f"{place}: the quotes of this {word.upper()} are not closed")
            value += _printed(lines[at])
            at += 1
        found.append((word, name, _unquoted(value) or ""))
    if not any(word == "from" for word, _, _ in found):
        raise UserError(f"{path} has no FROM: Ollama takes no such Modelfile")
    return Modelfile(tuple(found))


def _opened(line: str, place: str) -> tuple[str, str, str]:
    """Word, name and the beginning of the value of an instruction."""
    match = _INSTRUCTION.match(line)
    word = match[1].lower() if match else ""
    if match and word in WORDS:
        return word, "", _printed(line[match.start(2) :])
    if match and word in ("parameter", "message"):
        named = _NAMED.match(line, match.start(2))
        if named and (word == "parameter" or named[1] in ROLES):
            return word, named[1], _printed(line[named.start(2) :])
    known = ", ".join(one.upper() for one in (*WORDS, "parameter NAME", f"message {'|'.join(ROLES)}"))
    raise UserError(f"{place}: {line.strip()!r} is no instruction of a Modelfile ({known}, each with a value)")


def _printed(text: str) -> str:
    return "".join(one for one in text if one.isprintable() or one in "\t\r\n")


def _unquoted(text: str) -> str | None:
    """A value without its quotes; None: they are not closed yet."""
    text = text.strip()
    mark = '"""' if text.startswith('"""') else '"' if text.startswith('"') else ""
    if not mark:
        return text
    return text[len(mark) : -len(mark)] if len(text) >= 2 * len(mark) and text.endswith(mark) else None
