r"""Regular expressions of Python as those of JavaScript (flag u), which find the same.

    javascript_pattern(r"\d+\b")        # r"\p{Nd}+(?:(?<=[...])(?![...])|(?<![...])(?=[...]))"

In Python a word, a digit and white space are those of Unicode; in JavaScript `\w`, `\d` and `\b` know ASCII alone.
It reads what the rules of CareLlama use. Raises `ValueError` for the rest: groups with names, flags within the pattern,
what is possessive or atomic.
"""

from __future__ import annotations

import re

WORD, DIGIT = r"\p{L}\p{N}_", r"\p{Nd}"
SPACE = r"\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # str.isspace
_KINDS = {"w": WORD, "d": DIGIT, "s": SPACE}
_ASSERTIONS = {"b": f"(?:(?<=[{WORD}])(?![{WORD}])|(?<![{WORD}])(?=[{WORD}]))"}
_SYNTAX = frozenset("^$\\.*+?()[]{}|/")
_REFUSED = re.compile(r"\(\?(?:P|#|>|[aiLmsux-]+[:)])|[*+?}]\+")
_COUNT = re.compile(r"\{\d*,?\d*\}")
_TOKEN = re.compile(r"\\(.)|(\[\^?\]?(?:\\.|[^\]\\])*\])|(.)", re.DOTALL)


def javascript_pattern(pattern: str) -> str:
    """Return a pattern for `new RegExp(pattern, "u")`. Raises `ValueError` for what it cannot say."""
    if refused := _REFUSED.search(re.sub(r"\\.", "", pattern)):
        raise ValueError(f"{refused[0]!r} of the pattern {pattern!r} is not known here")
    made, at = [], 0
    while at < len(pattern):
        if (count := _COUNT.match(pattern, at)) and pattern[at + 1 : at + 2] not in ("", "}"):
            made.append(count[0])
            at = count.end()
            continue
        token = _TOKEN.match(pattern, at)
        assert token is not None
        escaped, within, plain = token.groups()
        made.append(_escaped(escaped, pattern) if escaped else _class(within) if within else _plain(plain))
        at = token.end()
    return "".join(made)


def _escaped(letter: str, pattern: str) -> str:
    if letter in _KINDS:
        return f"[{_KINDS[letter]}]"
    if letter in _ASSERTIONS:
        return _ASSERTIONS[letter]
    if letter in "ntr":
        return f"\\{letter}"
    if letter.isalnum():
        raise ValueError(f"\\{letter} of the pattern {pattern!r} is not known here")
    return f"\\{letter}" if letter in _SYNTAX else letter


def _plain(letter: str) -> str:
    if letter == ".":
        return r"[^\n]"
    if letter == "$":
        return r"(?=\n?(?![^]))"
    return f"\\{letter}" if letter in "{}]/" else letter


def _class(given: str) -> str:
    begin = 2 if given.startswith("[^") else 1
    made = [given[:begin]]
    for token in re.finditer(r"\\(.)|(.)", given[begin:-1], re.DOTALL):
        escaped, plain = token.groups()
        if escaped in _KINDS:
            made.append(_KINDS[escaped])
        elif escaped:
            made.append(f"\\{escaped}" if escaped in _SYNTAX or escaped in "-ntr" else escaped)
        else:
            made.append(f"\\{plain}" if plain in "[]{}()|/^" else plain)
    return "".join(made) + "]"
