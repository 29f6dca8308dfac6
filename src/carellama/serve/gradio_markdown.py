r"""Text as Markdown that a browser shows as it was written: no dose changes, nothing runs, loads or hides.

    answer_markdown("每次1~2片，5*10mg **饭后**")     # bold stays, the tilde and the star are text
    verbatim("pH<7.35 & *P")                          # a person's own words: nothing is a mark

Signs that must stay text are written as numeric character references (CommonMark 0.31.2, 2.5), which `copy.js`
turns back when something is copied. HTML and images show as text. Code stays as it is, but for diagrams of Mermaid,
which are shown as their text. This is the first of three guards: Gradio sanitises what comes of the Markdown, and the
Content Security Policy of `carellama.serve.page.gate` loads nothing.
"""

from __future__ import annotations

import re

# Fenced blocks and code spans, never wider than CommonMark has them (0.31.2, sections 4.5 and 6.1): a span that goes
# over lines, and a fence within a list, count as text.
CODE = re.compile(
    r"^ {0,3}(?P<fence>`{3,}(?=[^`\n]*$)|~{3,})[^\n]*$.*?(?:^ {0,3}(?P=fence)[`~]*[ \t]*$|\Z)"
    r"|(?<![`\\])(?P<span>`+)(?!`)[^\n]+?(?<!`)(?P=span)(?!`)",
    re.DOTALL | re.MULTILINE,
)
MERMAID = re.compile(r"^([ \t>*+\-\d.)]*(?:`{3,}|~{3,})[ \t]*)mermaid\b", re.MULTILINE | re.IGNORECASE)
# What Markdown or the browser would take for a mark, though a medical text means the sign itself.
NOT_MARKS = re.compile(
    r"(?<!\\)(?:&(?=#)"  # the beginning of what stands for a sign
    r"|<(?=[A-Za-z/!?])"  # HTML
    r"|(?<=!)\["  # an image
    r"|~"  # 1~2片 ... 2~3次 is not struck out
    r"|(?<=[^\W_])[*_](?=[^\W_])"  # 5*10mg, 1_000
    r"|(?<=\d)\*(?=\*\d)|(?<=\d\*)\*(?=\d)"  # 2**3
    r"|^[ \t]{0,3}>(?=[ \t]*[\d.=≥])"  # > 38.5℃ is no quotation
    r"|^[ \t]{0,3}\+(?=[ \t]+\d)"  # + 5 mmol is no item of a list
    r"|^[ \t]{0,3}\[(?=[^\]\n]+\]:))",  # [16]: Li, 2004 is no definition, which would not be shown
    re.MULTILINE,
)
ORDERED = re.compile(r"^([ \t]*)(\d{1,9})([.)])(?=[ \t])")
SIGNS = re.compile(r"""[\\`*_{}\[\]<>#+\-.!|~&=:@/()"'$^]""")
LINE_START = re.compile(r"^[ \t]", re.MULTILINE)


def answer_markdown(text: str) -> str:
    """Return an answer as Markdown to show: its headings, lists, bold and code, and every number as written."""
    text = MERMAID.sub(r"\1text", text)
    parts, end = [], 0
    for code in CODE.finditer(text):
        parts += [_escape(text[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*parts, _escape(text[end:])])


def verbatim(text: str) -> str:
    """Return Markdown that shows a text as it is, line by line."""
    return LINE_START.sub(_reference, SIGNS.sub(_reference, text))


def _escape(text: str) -> str:
    return _keep_item_numbers(NOT_MARKS.sub(_reference, text))


def _reference(sign: re.Match[str]) -> str:
    """A sign as its character reference; what stands before it on the line stays."""
    return f"{sign[0][:-1]}&#{ord(sign[0][-1])};"


def _keep_item_numbers(text: str) -> str:
    """Make text of the numbers of a list that do not count on by one: Markdown would count from the first again."""
    lines = text.split("\n")
    following: dict[str, int] = {}  # indentation -> number of the next item; 0: the list does not count on
    for at, line in enumerate(lines):
        item = ORDERED.match(line)
        if item is None:
            if line[:1].strip() and at and not lines[at - 1].strip():
                following.clear()  # a paragraph behind a blank line ends the lists
            continue
        indentation, number, mark = item[1], int(item[2]), item[3]
        following = {one: expected for one, expected in following.items() if len(one) <= len(indentation)}
        counts_on = following.get(indentation, number) == number
        following[indentation] = number + 1 if counts_on else 0
        if not counts_on:
            lines[at] = f"{indentation}{item[2]}&#{ord(mark)};{line[item.end() :]}"
    return "\n".join(lines)
