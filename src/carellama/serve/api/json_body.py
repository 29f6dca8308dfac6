"""Bodies of requests as strict JSON: nothing that one reader takes in another way than the next.

    router = APIRouter(route_class=JsonRoute)

Python's parser takes the last of two equal names, NaN and Infinity as numbers, and 1e999 as Infinity; FastAPI answers
what it cannot read with one sentence. Here each of these is an error that names it (RFC 8259, sections 4, 6 and 8.1).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Coroutine
from typing import NoReturn

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from carellama.serve.api.errors import InvalidRequest

MAX_DEPTH = 100  # levels; OpenAI takes schemas of 10
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKET = re.compile(rb"[\[\]{}]")
# An escape of a JSON text, with a group where it is half of a surrogate pair (RFC 8259, section 8.2).
_ESCAPE = re.compile(r"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|(u[dD][89a-fA-F]..)|.)")


def read_json(body: bytes) -> object:
    """Return the value of a JSON text. Raises `InvalidRequest` (400) for what is not strict JSON in UTF-8."""
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the body is not UTF-8 (byte {error.start + 1:,})", "body", "invalid_json") from None
    check_depth(body, "body")
    try:
        value: object = json.loads(text, object_pairs_hook=_each_once, parse_constant=_no_number, parse_float=_finite)
    except json.JSONDecodeError as error:
        where = f"{error.msg} at line {error.lineno}, column {error.colno}"
        raise InvalidRequest(f"the body is not JSON: {where}", "body", "invalid_json") from None
    except ValueError:  # Python's limit of digits
        raise InvalidRequest("the body has a number of too many digits", "body", "invalid_json") from None
    if "\\u" in text and any(escape[1] for escape in _ESCAPE.finditer(text)):
        raise InvalidRequest("the body has half a surrogate pair, which is not a character", "body", "invalid_json")
    return value


def check_depth(text: bytes, param: str) -> None:
    """Raise `InvalidRequest` (400) for JSON with more than `MAX_DEPTH` levels. Text that is not JSON passes."""
    if text.count(b"{") + text.count(b"[") <= MAX_DEPTH:
        return
    depth = 0
    for bracket in _BRACKET.findall(_STRING.sub(b"", text)):
        depth += 1 if bracket in b"[{" else -1
        if depth > MAX_DEPTH:
            raise InvalidRequest(f"{param} is nested deeper than {MAX_DEPTH} levels", param, "invalid_value")


def _each_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)[:64]
        raise InvalidRequest(f"an object has {twice!r} twice; send it once", twice, "invalid_json")
    return found


def _finite(digits: str) -> float:
    if not math.isfinite(number := float(digits)):
        text = f"the body has the number {digits[:32]}, which is larger than any that can be kept"
        raise InvalidRequest(text, "body", "invalid_json")
    return number


def _no_number(name: str) -> NoReturn:
    raise InvalidRequest(f"the body is not JSON: {name} is not a number", "body", "invalid_json")


class _JsonRequest(Request):
    """A request whose body was read."""

    value: object = None

    async def json(self) -> object:
        """Return the value of the body."""
        return self.value


class JsonRoute(APIRoute):
    """A route that reads the body of a request by `read_json`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[object, object, Response]]:
        """Return what answers a request."""
        handle = super().get_route_handler()

        async def read_and_handle(request: Request) -> Response:
            given = _JsonRequest(request.scope, request.receive)
            if body := await given.body():
                given.value = read_json(body)
            return await handle(given)

        return read_and_handle
