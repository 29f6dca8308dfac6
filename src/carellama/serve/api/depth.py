"""How deep JSON is nested, by its brackets, before anything that calls itself for each level reads it.

check_depth(b'{"a": [[1]]}', "body")
"""

from __future__ import annotations

import re

from carellama.serve.api.errors import InvalidRequest

MOST_DEPTH = 100  # levels; OpenAI takes schemas of 10
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKET = re.compile(rb"[\[\]{}]")


def check_depth(text: bytes, param: str) -> None:
    """Raise `InvalidRequest` (400) for JSON with more than `MOST_DEPTH` levels. Text that is not JSON passes."""
    if text.count(b"{") + text.count(b"[") <= MOST_DEPTH:
        return
    depth = 0
    for bracket in _BRACKET.findall(_STRING.sub(b"", text)):
        depth += 1 if bracket in b"[{" else -1
        if depth > MOST_DEPTH:
            raise InvalidRequest(f"{param} is nested deeper than {MOST_DEPTH} levels", param, "invalid_value")
