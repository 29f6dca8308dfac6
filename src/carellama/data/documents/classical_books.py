"""Classical medical books in their tagged layout to sections: GB18030 text files with `<篇名>` and `<目录>` lines.

    <篇名>某书 / 书名：… / 作者：… / 朝代：… / 年份：… / <目录>卷一 / <篇名>某节 / 内容：… (or 属性：…)

    for section in sections(text, Counter()): section.paragraphs

The tags go; the name of a section stays in front of its text, and what is said of the book is in `meta`. Lines are
wrapped at about forty characters, also within words. A space, □ or ■ within a line stands for a character that the
file has lost (or parts the items of a list): it is kept as it is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

TITLE, PART = "<篇名>", "<目录>"
FIELDS = {"书名": "title", "作者": "author", "朝代": "dynasty", "年份": "year"}
FIELD = re.compile(rf"({'|'.join(FIELDS)})\s*[：:](.*)")
BODY = re.compile(r"^(?:内容|属性)[：:]")
MARK = "\\x"  # stands on both sides of a note
BLANK = " \t\u3000"
ENDED = re.compile(r"[。！？；：∶!?〕）)」』”]$")
GOES_ON = re.compile(r"[，。、；：！？∶）〕」』”》]")  # no paragraph begins with these
FULL = 0.85  # of the usual length: a line as long was wrapped, whatever it ends with
SHORT = 0.6  # a line below it that ends no sentence stands by itself: a heading, or the label of a list
REMNANT = 2  # characters: what is left of a line where some were lost; the sentence goes on
LIST_SPACES = 4  # in a line: it is a list of names, and the next line begins with another


@dataclass(frozen=True, slots=True)
class Section:
    """A section of a book; `line` is that of its `<篇名>`, from 1."""

    title: str
    paragraphs: tuple[str, ...]
    meta: Mapping[str, str]
    line: int


def is_classical(text: str) -> bool:
    """Whether a text has the tagged layout."""
    return text.lstrip(f"\ufeff\n{BLANK}").startswith((TITLE, PART))


def sections(text: str, dropped: Counter[str]) -> Iterator[Section]:
    """Yield the sections of a book that have text. A line ends with a line feed; `dropped` counts what is left out."""
    lines = [line.rstrip(BLANK) for line in text.lstrip("\ufeff").split("\n")]
    usual = _usual_length(lines)
    starts = [at for at, line in enumerate(lines) if line.startswith(TITLE)]
    dropped["tag of the layout"] += sum(line.startswith((TITLE, PART)) for line in lines)
    book: dict[str, str] = {}
    part = ""
    if starts and starts[0]:  # what stands before the first title
        starts.insert(0, -1)
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        title = lines[start].removeprefix(TITLE).strip() if start >= 0 else ""
        body = lines[start + 1 : end]
        if not book:
            book, body = _book(body)
            dropped["tag of the layout"] += len(book)
        paragraphs = _joined([line for line in body if not line.startswith(PART)], usual, dropped)
        if paragraphs:
            yield Section(title, paragraphs, book | ({"section": part} if part else {}), start + 1)
        elif title and title != book.get("title"):
            dropped["section without text"] += 1
        for line in body:
            if line.startswith(PART):
                part = line.removeprefix(PART).replace("\\", " ").strip(BLANK)


def _book(lines: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """What the first lines say of the book, and the other lines."""
    book: dict[str, str] = {}
    others: list[str] = []
    for line in lines:
        found = FIELD.fullmatch(line.strip(BLANK))
        if found and FIELDS[found[1]] not in book and not any(others):
            book[FIELDS[found[1]]] = found[2].strip()
        else:
            others.append(line)
    return {name: value for name, value in book.items() if value}, others


def _usual_length(lines: Sequence[str]) -> int:
    """How long the wrapped lines of the book are: nine of ten lines of more than 20 characters are not longer."""
    lengths = sorted(len(line) for line in lines if len(line) > 20)
    return lengths[int(len(lengths) * 0.9)] if lengths else 40


def _joined(lines: Sequence[str], usual: int, dropped: Counter[str]) -> tuple[str, ...]:
    found: list[list[str]] = []
    last = ""
    for raw in lines:
        line = BODY.sub("", raw.strip(BLANK))
        dropped["tag of the layout"] += line != raw.strip(BLANK)
        dropped["mark of a note"] += line.count(MARK)
        note, noted = line.startswith(MARK), line.endswith(MARK)  # each stands by itself
        line = line.replace(MARK, "").strip(BLANK)
        if not line:
            continue
        if last and not note and _goes_on(last, line, usual):
            between = " " if last.count(" ") >= LIST_SPACES and line.count(" ") else ""
            found[-1] += [between, line]
        else:
            found.append([line])
        last = "" if noted else line
    return tuple("".join(pieces) for pieces in found)


def _goes_on(last: str, line: str, usual: int) -> bool:
    """Whether `line` belongs to the paragraph of the line before it."""
    if GOES_ON.match(line) or len(last) >= FULL * usual:
        return True
    return not ENDED.search(last) and (len(last) > SHORT * usual or len(last) <= REMNANT)
