r"""Markdown for a terminal, styled while it streams: nothing is printed twice, and the terminal wraps the lines.

    styled = Styled()
    print(styled.add("Drink **wa"), styled.add("ter**.\n"), styled.end(), sep="")

Known are headings, bold, bullets, inline code and code blocks; all else is printed as it is. Bold ends with its line
at the latest. What may yet become a mark is held back, a few characters at most. It writes ANSI sequences (ECMA-48),
so the text must have lost its own control characters before.
"""

from __future__ import annotations

import re

BOLD, CODE, DIM, PLAIN = "\x1b[1m", "\x1b[36m", "\x1b[2m", "\x1b[0m"
MAY_BEGIN = re.compile(r" {0,8}(#{1,6} *|[-*+] *|`{1,2}|)")  # the beginning of a line that is not clear yet
HEADING = re.compile(r"#{1,6} +")
BULLET = re.compile(r"( *)[-*+] +(?=\S)")
FENCE = re.compile(r" *```")
INLINE = re.compile(r"\*\*|`")


class Styled:
    """Takes an answer in pieces and gives it out with its marks turned into style."""

    def __init__(self) -> None:
        self._held = ""
        self._line_begins = True
        self._block = False  # within a code block
        self._fence = False  # on the line that opens or closes one
        self._bold = self._code = self._heading = False

    def add(self, text: str) -> str:
        """Take a piece; return what can be printed."""
        self._held += text
        out = ""
        while self._held:
            line, ends, rest = self._held.partition("\n")
            if self._line_begins:
                if not ends and MAY_BEGIN.fullmatch(line):
                    return out
                self._line_begins = False
                out += self._begin(line)
                continue
            if not ends:
                keep = 1 if line.endswith("*") and not line.endswith("**") else 0
                self._held = line[len(line) - keep :]
                return out + self._inline(line[: len(line) - keep])
            self._held = rest
            out += self._inline(line) + self._end_line() + "\n"
        return out

    def end(self) -> str:
        """Return what was held back, and end all styles."""
        begun = ""
        if self._held and self._line_begins:
            self._line_begins = False
            begun = self._begin(self._held)
        held, self._held = self._held, ""
        return begun + self._inline(held) + self._end_line()

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

    def _inline(self, text: str) -> str:
        if self._block or self._fence:
            return text
        return INLINE.sub(self._mark, text)

    def _mark(self, mark: re.Match[str]) -> str:
        if mark[0] == "`":
            self._code = not self._code
        elif self._code:
            return mark[0]
        else:
            self._bold = not self._bold
        bold = BOLD if self._bold or self._heading else ""
        return PLAIN + bold + (CODE if self._code else "")

    def _end_line(self) -> str:
        styled = self._bold or self._code or self._heading or self._block or self._fence
        self._line_begins = True
        self._bold = self._code = self._heading = self._fence = False
        return PLAIN if styled else ""
