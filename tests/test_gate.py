"""The page answers this machine by its own name only, or asks for a password; a page of elsewhere is refused (A17)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx2
import pytest

from api_server import running
from carellama.config.serve import WebOptions
from carellama.engine.scripted import ScriptedEngine
from carellama.serve.hosts import names_this_machine
from carellama.serve.web.app import add_page
from carellama.serve.web.gate import Gate


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


OTHERS = ["evil.example", "evil.example:7860", "localhost.evil.example", "10.0.0.1", "::1"]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory):
    """A page without a password."""
    folder = tmp_path_factory.mktemp("static")
    (folder / "index.html").write_text("CareLlama", encoding="utf-8")
    with running(ScriptedEngine("x"), extend=lambda app: add_page(app, WebOptions(), Path(folder))) as server:
        yield server.url


@pytest.mark.parametrize("host", OTHERS)
def test_other_names_are_refused(host, address) -> None:
    assert not names_this_machine(host) and not names_this_machine("")
    for more in ({}, {"origin": f"http://{host}"}, {"origin": f"http://{host}", "x-forwarded-host": "localhost"}):
        assert httpx2.get(address, headers={"host": host, **more}).status_code == 403


def test_a_password_takes_the_place_of_the_name() -> None:
    assert status("clinic:long-password", host="evil.example", origin="http://evil.example") == 401


def test_requests_of_another_site_are_refused_whether_they_bring_the_password_or_not() -> None:
    given = {"host": "clinic.example", "authorization": "Basic Y2xpbmljOmxvbmctcGFzc3dvcmQ="}
    assert status("clinic:long-password", **given) == 200
    assert status("clinic:long-password", **given, origin="http://clinic.example") == 200
    assert status("clinic:long-password", **given, origin="http://evil.example") == 403
    assert status(None, host="localhost:7860", origin="http://evil.example") == 403
