"""Lines as they were printed to paragraphs: wrapped lines joined, page headers and numbers left out and counted.

    paragraphs(text, Counter())     # "...makes breath-", "ing harder." is one paragraph: "...makes breathing harder."

What is not sure stays: a number by itself may be a dose, and a short line that comes back may be a heading. Columns
and boxes were put in order before, by what read the document.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from statistics import median

from carellama.text import HAN, folded, sentences

Page = list[str]

REPEATS = 3  # so often at the least a page header stands in a document
HEADER_CHARS = 40
EDGE_LINES = 2  # at the top and the bottom of a page
PAGE_CHARS = 300  # at the least between two headers or numbers of pages, where the pages are not marked
PAGES_MISSING = 4  # from one number to the next at the most
NARROWEST = 40  # columns of a full line, a Chinese character taking two: no book has narrower ones
CUT, CUT_HEADING = 50, 120  # columns of a paragraph, and of one with a number, that may be the first half of one
WIDEST = 180  # columns; lines that are longer were not wrapped: each is a paragraph

PICTURE = re.compile(r"!\[[^\]]*\]\([^)]*\)")
NO_CODE = re.compile(r"\(cid:\d+\)")  # pdfminer's word for a character whose font does not say what it is
ONE_CELL = re.compile(r"^\|([^|\n]*[^|\s-][^|\n]*)\|[ \t]*$", re.MULTILINE)  # a box drawn as a table of one column
BOX_RULE = re.compile(r"^\|[\s-]*\|[ \t]*$", re.MULTILINE)
BARE_NUMBER = re.compile(r"(\d{1,4})(?:\s*/\s*\d{1,4})?")  # a page or a dose, "3/10" a page or a finding
PAGE_NUMBER = re.compile(
    r"[-–—·]\s*\d{1,4}\s*[-–—·]|第\s*\d+\s*页(?:[\s/，共]*\d+\s*页)?|page\s+\d+(?:\s+of\s+\d+)?", re.IGNORECASE
)
BLOCK = re.compile(
    r"#|\||[-*+•●○■□◆]\s|>|\d{1,3}[.、)）]|[(（\[][\da-z一二三四五六七八九十]{1,3}[)）\]]|[一二三四五六七八九十]{1,3}、"
    r"|第.{1,4}[章节篇条]|(?:[a-z]|[ivx]{1,4})[.)）]\s|[①-⑳㉑-㉟㊱-㊿⑴-⒇⒈-⒛]"
)
LETTER = re.compile(r"[^\W\d_]")
NUMBER_OF_PAGE = "page number"
# a header with the number of its page before or behind its words
HEADER_NUMBER = re.compile(r"(?P<first>\d{1,4})[\s·|/-]+(?P<after>\D.*)|(?P<before>.*\D)[\s·|/-]+(?P<last>\d{1,4})")
STRUCTURE = re.compile(
    r"(?:chapter|section|part|table|fig(?:ure)?|step|case|day|week|表|图|第|病例|步骤)\b|第|表|图", re.I
)
LIST_ITEM = re.compile(r"[-*+•●○◆]\s")
SITE = re.compile(
    r"(?:https?://)?\.?(?:[\w@-]+\.)+[a-z]{2,}/?"
)  # a watermark, which OCR reads a little otherwise each time
ENDED = re.compile(r"[。！？；：.!?;:|”\"」』）)]$")
CHINESE = rf"{HAN}，。；：、！？（）“”《》"
SPACE_IN_CHINESE = re.compile(rf"(?<=[{CHINESE}])[ \t\u3000]+(?=[{CHINESE}])")
CHINESE_END = re.compile(rf"[{HAN}，。；：、！？）”》]$")
CHINESE_BEGIN = re.compile(rf"[{HAN}，。；：、！？（“《]")
WORD_DIVIDED = re.compile(r"(?<=[a-z])-$")
LABEL = re.compile(r"(?:表|图|附|注|关键词|Table|Fig|Key ?words)")
GOES_ON = re.compile(rf"(?!{BLOCK.pattern}|{LABEL.pattern})[{HAN}a-z，。；、）”》(（<≤≥]")
WIDE = re.compile(
    r"[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\U00020000-\U0003ffff]"
)
BLANK = " \t\u3000\xa0"
# Forms of print, not of writing: joined letters become letters, marks without width go.
PRINT = str.maketrans(
    {"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "st", "ﬆ": "st"}
    | dict.fromkeys("\u00ad\u200b\u2060\ufeff", "")
)


def paragraphs(text: str, dropped: Counter[str], *, printed: bool = True) -> list[str]:
    """The paragraphs of a text; what is left out is counted in `dropped` by reason.

    `printed`: the text may have page headers and numbers. A form feed ends a page; without any, headers and numbers
    are known by coming back after stretches as long as a page.
    """
    for reason, pattern in (("picture", PICTURE), ("character without a code", NO_CODE)):
        text, found = pattern.subn("", text)
        if found:
            dropped[reason] += found
    # paragraphs of a cell stand two spaces apart
    text = BOX_RULE.sub("", ONE_CELL.sub(lambda found: re.sub(r" {2,}", "\n", found[1].strip()), text))
    pages = [[_cleaned(line) for line in page.split("\n")] for page in text.split("\f")]
    if not printed:
        return _joined([line for page in pages for line in page])
    reasons = _edges(pages) if len(pages) > 1 else _returning(pages[0])
    return _made_whole(_joined(_without(pages, reasons, dropped)))


def _cleaned(line: str) -> str:
    line = line.translate(PRINT).strip(BLANK)
    if not line.startswith("|"):
        return SPACE_IN_CHINESE.sub("", line)
    cells = [" ".join(SPACE_IN_CHINESE.sub("", part) for part in re.split(" {2,}", cell)) for cell in line.split("|")]
    return "|".join(cells)  # two spaces in a cell part its paragraphs


def _without(pages: Sequence[Page], reasons: dict[tuple[int, int], str], dropped: Counter[str]) -> list[str]:
    """The lines of all pages but those with a reason; a sentence that a page cut in two goes on without a gap."""
    kept: list[str] = []
    cut = False
    for page, lines in enumerate(pages):
        for at, line in enumerate(lines):
            if cut and not line:
                continue
            reason = reasons.get((page, at))
            if reason:
                dropped[reason] += 1
            else:
                kept.append(line)
                cut = False
            if reason:
                cut = _open_end(kept)
        cut = _open_end(kept)
        if not cut:
            kept.append("")
    return kept


def _open_end(kept: list[str]) -> bool:
    """Whether the last line ends within a sentence; then the blank lines behind it are taken away."""
    said = next((line for line in reversed(kept) if line), "")
    cut = bool(said) and not ENDED.search(said) and not said.startswith("#")
    while cut and not kept[-1]:
        kept.pop()
    return cut


def _edges(pages: Sequence[Page]) -> dict[tuple[int, int], str]:
    """Numbers, and lines that come back on other pages, among the first and last lines of marked pages.

    A line that also stands within pages is text, and so are lines that differ in a number, unless it is the page's.
    """
    edges: list[tuple[int, int]] = []
    for page, lines in enumerate(pages):
        said = [at for at, line in enumerate(lines) if line]
        width = min(EDGE_LINES, len(said) // 4) or 1  # most of a short page is no edge
        edges += [(page, at) for at in dict.fromkeys(said[:width] + said[-width:])]
    at_edges = set(edges)
    within = {
        folded(line) for page, lines in enumerate(pages) for at, line in enumerate(lines) if (page, at) not in at_edges
    }
    # a number is that of its page if it is as far from the page's place as others are from theirs
    numbers = {(page, at): of for page, at in edges if (of := BARE_NUMBER.fullmatch(pages[page][at]))}
    pages_at = Counter(distance for _, distance in {(page, int(of[1]) - page) for (page, _), of in numbers.items()})
    keys = {(page, at): _key(pages[page][at], page) for page, at in edges}
    times = Counter(keys.values())
    found = {}
    for page, at in edges:
        line = pages[page][at]
        bare = numbers.get((page, at))
        if PAGE_NUMBER.fullmatch(line) or (bare and pages_at[int(bare[1]) - page] > 1):
            found[page, at] = NUMBER_OF_PAGE
        elif (
            not bare and len(line) <= 2 * HEADER_CHARS and times[keys[page, at]] >= REPEATS
            and LETTER.search(line) and folded(line) not in within
        ):  # fmt: skip
            found[page, at] = _header(keys[page, at][0])
    return found


def _key(line: str, page: int) -> tuple[str, int | None]:
    """What the same header has on another page: its words, and how far its number is from the page's place."""
    numbered = None if STRUCTURE.match(line) else HEADER_NUMBER.fullmatch(line)
    if numbered is None:
        return folded(line), None
    return folded(numbered["before"] or numbered["after"]), int(numbered["first"] or numbered["last"]) - page


def _header(words: str) -> str:
    return f'page header or footer "{words}"'


def _returning(lines: Page) -> dict[tuple[int, int], str]:
    """The same where pages are not marked: lines that come back, but not within what could be one page."""
    begins, size = [], 0  # characters before each line
    for line in lines:
        begins.append(size)
        size += len(line)
    found = {(0, at): NUMBER_OF_PAGE for at, line in enumerate(lines) if PAGE_NUMBER.fullmatch(line)}
    found |= {(0, at): NUMBER_OF_PAGE for at in _counting(lines, begins)}
    places: dict[str, list[int]] = {}
    cuts = Counter[str]()
    before = ""
    for at, line in enumerate(lines):
        if not line or (0, at) in found:
            continue
        if len(line) <= HEADER_CHARS and not line.startswith(("|", "#")) and (key := _said(line)):
            places.setdefault(key, []).append(at)
            within = len(before) > HEADER_CHARS // 2 and not ENDED.search(before) and not LIST_ITEM.match(before)
            cuts[key] += within or bool(SITE.fullmatch(line))
        before = line
    for key, ats in places.items():
        gaps = [begins[after] - begins[at] for at, after in pairwise(ats)]
        # a heading of every chapter comes back as well, but behind the end of a sentence
        if len(ats) >= REPEATS and cuts[key] >= 2 and median(gaps) >= PAGE_CHARS:
            found |= {(0, at): _header(key) for at in ats}
    return found


def _said(line: str) -> str:
    return "site" if SITE.fullmatch(line) else folded(line)


def _counting(lines: Page, begins: Sequence[int]) -> set[int]:
    """Lines of one number each that count on, as far apart as so many pages; the numbers of a few may be missing."""
    numbers = [(at, int(found[1])) for at, line in enumerate(lines) if (found := BARE_NUMBER.fullmatch(line))]
    counting = set()
    for (at, number), (after, following) in pairwise(numbers):
        pages = following - number
        if 1 <= pages <= PAGES_MISSING and begins[after] - begins[at] >= pages * PAGE_CHARS:
            counting |= {at, after}
    return counting


def _columns(line: str) -> int:
    return len(line) + (0 if line.isascii() else len(WIDE.findall(line)))


def _joined(lines: Sequence[str]) -> list[str]:
    """Lines to paragraphs: they end at blank lines, before list items, headings and tables, and at short lines.

    A line was wrapped when it is more than half as wide as the wide lines of the document and does not end a
    sentence, or is as wide as they are. Where the wide lines are wider than any page, a line is a paragraph.
    """
    widths = sorted(_columns(line) for line in lines if line and not line.startswith(("|", "#")))
    full = max(NARROWEST, widths[int(len(widths) * 0.9)] if widths else 0)
    found: list[list[str]] = []  # the lines of each paragraph
    last = 0  # columns of the line before, 0 where nothing can go on
    for line in lines:
        if not line:
            last = 0
            continue
        before = found[-1][-1] if found else ""
        wrapped = last > 0.5 * full and (not ENDED.search(before[-1:]) or 0.9 * full <= last <= WIDEST)
        if wrapped and not BLOCK.match(line) and not before.startswith("|") and not _heading(found[-1][0], line, full):
            found[-1].append(line)
        else:
            found.append([line])
        last = 0 if line.startswith("#") else _columns(line)
    return [_whole(paragraph) for paragraph in found]


def _made_whole(found: Sequence[str]) -> list[str]:
    """Paragraphs that the end of a page, a column or a picture cut in two, as one.

    The first is long and ends within a sentence (a long heading has a number); the second has no number and, in
    English, begins without a capital.
    """
    whole: list[list[str]] = []  # the parts of each paragraph
    columns = 0
    for line in found:
        first, before = (whole[-1][0], whole[-1][-1]) if whole else ("", "")
        numbered = bool(BLOCK.match(first) or LABEL.match(first))
        long = columns >= (CUT_HEADING if numbered else CUT)
        if long and not ENDED.search(before[-1:]) and first[:1] not in "|#" and GOES_ON.match(line):
            whole[-1].append(line)
        else:
            whole.append([line])
            columns = 0
        columns += _columns(line)
    return [_whole(paragraph) for paragraph in whole]


def _heading(before: str, line: str, full: int) -> bool:
    """Whether a short line with a capital behind an item of a list begins something new."""
    return bool(LIST_ITEM.match(before)) and line[:1].isupper() and _columns(line) < 0.5 * full


def _whole(parts: Sequence[str]) -> str:
    """Chinese goes on without a space, English with one, and a divided word is whole again."""
    pieces = [parts[0]]
    for before, line in pairwise(parts):
        if WORD_DIVIDED.search(before[-2:]) and line[:1].islower():
            pieces[-1] = before[:-1]
        elif not CHINESE_END.search(before[-1:]) and not CHINESE_BEGIN.match(line):
            pieces.append(" ")
        pieces.append(line)
    return "".join(pieces)


def chunks(kept: Sequence[str], most_chars: int | None) -> Iterator[tuple[int, list[str]]]:
    """Runs of paragraphs of at most so many characters, each with the number of its first paragraph, from 1.

    A run ends before a heading where it is half full. A paragraph that is too long is divided at the ends of its
    sentences; a sentence or a row of a table never, so that one which is longer by itself makes a longer run.
    """
    run: list[str] = []
    first, size = 1, 0
    for number, paragraph in enumerate(kept, 1):
        section = most_chars is not None and paragraph.startswith("#") and size > most_chars // 2
        for piece in _pieces(paragraph, most_chars):
            if run and (section or (most_chars is not None and size + len(piece) > most_chars)):
                yield first, run
                run, size = [], 0
            if not run:
                first = number
            run.append(piece)
            size += len(piece) + 1
            section = False
    if run:
        yield first, run


def _pieces(paragraph: str, most_chars: int | None) -> Iterator[str]:
    if most_chars is None or len(paragraph) <= most_chars or paragraph.startswith("|"):
        yield paragraph
        return
    piece = ""
    for sentence in sentences(paragraph):
        if piece and len(piece) + len(sentence) > most_chars:
            yield piece
            piece = ""
        piece += sentence
    yield piece
