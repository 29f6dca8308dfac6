r"""Markdown of an answer without what a browser would run, load or hide: HTML shows as text, and so do images.

    harmless("Take <script>alert(1)</script> ![x](https://example.org/x.png)")

Code stays as it is, but for diagrams of Mermaid, which are shown as their text. This is the first of three guards:
Gradio sanitises what comes of the Markdown, and the Content Security Policy of `carellama.serve.page.gate` loads
nothing.
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
TAG = re.compile(r"<(?=[A-Za-z/!?])")
MERMAID = re.compile(r"^([ \t>*+\-\d.)]*(?:`{3,}|~{3,})[ \t]*)mermaid\b", re.MULTILINE | re.IGNORECASE)


def harmless(text: str) -> str:
    """Return the Markdown to show."""
    text = MERMAID.sub(r"\1text", text)
    parts, end = [], 0
    for code in CODE.finditer(text):
        parts += [_escaped(text[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*parts, _escaped(text[end:])])


def _escaped(text: str) -> str:
    return TAG.sub("&lt;", text).replace("![", "!&#91;")
