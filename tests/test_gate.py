"""The page without a password answers this machine by its own name only; a page of elsewhere is refused (A17)."""

from __future__ import annotations

import asyncio

import pytest

from carellama.serve.hosts import names_this_machine
from carellama.serve.page.gate import Gate


def status(password: str | None, **headers: str) -> int:
    """The status that the gate answers a request with; 200: it let it pass."""
    found = []

    async def passed(scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message) -> None:
        found.append(message.get("status"))

    given = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "GET", "path": "/", "headers": given}
    asyncio.run(Gate(passed, password)(scope, None, send))  # type: ignore[arg-type]
    return found[0]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:7860", "127.0.0.1:7860", "127.0.0.2", "[::1]", "[::1]:7860"])
def test_names_of_this_machine(host) -> None:
    assert names_this_machine(host) and status(None, host=host) == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7860", "", "localhost.evil.example", "10.0.0.1", "::1"])
def test_other_names_are_refused(host) -> None:
    assert not names_this_machine(host)
    assert status(None, host=host) == 403
    assert status(None, host=host, origin=f"http://{host}") == 403
    assert status(None, host=host, origin=f"http://{host}", x_forwarded_host="localhost") == 403


def test_a_password_takes_the_place_of_the_name() -> None:
    assert status("clinic:long-password", host="evil.example", origin="http://evil.example") == 401
