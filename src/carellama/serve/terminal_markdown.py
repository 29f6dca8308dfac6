r"""Markdown for a terminal, styled while it streams: nothing is printed twice, and the terminal wraps the lines.

    styled = MarkdownStyler()
    print(styled.add("Drink **wa"), styled.add("ter**.\n"), styled.end(), sep="")

Known are headings, bold, bullets, inline code and code blocks; all else is printed as it is: a mark without its
partner in the same line is text, and so are the stars of 2**3. A passage that may yet become bold or code is held back
until its end, `HELD_CHARS` at most. It writes ANSI sequences (ECMA-48), so the text must have lost its own control
characters before.
"""

from __future__ import annotations

import re

BOLD, CODE, DIM, PLAIN = "\x1b[1m", "\x1b[36m", "\x1b[2m", "\x1b[0m"
PARTIAL_MARKUP = re.compile(r" {0,8}(#{1,6} *|[-*+] *|`{1,2}|)")  # the beginning of a line that is not clear yet
HEADING = re.compile(r"#{1,6} +")
BULLET = re.compile(r"( *)(?:[-*] +|\+ +(?!\d))(?=\S)")  # + 5 mmol/L is no item
FENCE = re.compile(r" *```")
HELD_CHARS = 200
BOLD_MARK = r"(?:(?<!\d)\*\*|\*\*(?!\d))"  # not that of 2**3
SPAN = re.compile(
    rf"`(?P<code>[^`]{{1,{HELD_CHARS}}})`"
    rf"|{BOLD_MARK}(?=[^\s*])(?P<bold>.{{1,{HELD_CHARS}}}?)(?<=[^\s*]){BOLD_MARK}"
)
MAY_OPEN = re.compile(rf"`|{BOLD_MARK}(?!\s)|\*$")


class MarkdownStyler:
    """Takes an answer in pieces and gives it out with its marks turned into style."""

    def __init__(self) -> None:
        self._held = ""
        self._line_begins = True
        self._block = False  # within a code block
        self._fence = False  # on the line that opens or closes one
        self._heading = False
        self._before = ""  # the last sign of the line that was given out

    def add(self, text: str) -> str:
        """Take a piece; return what can be printed."""
        self._held += text
        out = ""
        while self._held:
            line, ends, rest = self._held.partition("\n")
            if self._line_begins:
                if not ends and PARTIAL_MARKUP.fullmatch(line):
                    return out
                self._line_begins = False
                out += self._begin(line)
                continue
            if not ends:
                styled, self._held = self._inline(line, complete=False)
                return out + styled
            self._held = rest
            out += self._inline(line, complete=True)[0] + self._end_line() + "\n"
        return out

    def end(self) -> str:
        """Return what was held back, and end all styles."""
        begun = ""
        if self._held and self._line_begins:
            self._line_begins = False
            begun = self._begin(self._held)
        held, self._held = self._held, ""
        return begun + self._inline(held, complete=True)[0] + self._end_line()

    def _begin(self, line: str) -> str:
        """Style the beginning of a line, and take its mark off what is held."""
        if FENCE.match(line):
            self._block, self._fence = not self._block, True
            return DIM
        if self._block:
            return CODE
        if heading := HEADING.match(line):
            self._held = self._held[heading.end() :]
            self._heading = True
            return BOLD
        if bullet := BULLET.match(line):
            self._held = self._held[bullet.end() :]
            return f"{bullet[1]}• "
        return ""

    def _inline(self, text: str, *, complete: bool) -> tuple[str, str]:
        """Style bold and code of a line; return also what is held back, as its end may yet come.

        The sign before a mark and the one behind it decide whether it is one: 2**3.
        """
        if self._block or self._fence:
            return text, ""
        line, at = self._before + text, len(self._before)
        spans = [span for span in SPAN.finditer(line, at) if complete or span.end() < len(line)]
        end = spans[-1].end() if spans else at
        openings = () if complete else (mark.start() for mark in MAY_OPEN.finditer(line, end))
        cut = next((mark for mark in openings if len(line) - mark <= HELD_CHARS + 4), len(line))  # 4: the marks
        out = ""
        for span in spans:
            out += line[at : span.start()] + self._styled(span, BOLD if self._heading else "")
            at = span.end()
        self._before = line[cut - 1 : cut]
        return out + line[at:cut], line[cut:]

    def _styled(self, span: re.Match[str], style: str) -> str:
        """A complete span, within a surrounding style."""
        if span["code"]:
            return f"{PLAIN}{style}{CODE}{span['code']}{PLAIN}{style}"
        inside = SPAN.sub(lambda inner: self._styled(inner, BOLD), span["bold"])
        return f"{PLAIN}{BOLD}{inside}{PLAIN}{style}"

    def _end_line(self) -> str:
        styled = self._heading or self._block or self._fence
        self._line_begins = True
        self._fence = self._heading = False
        self._before = ""
        return PLAIN if styled else ""
