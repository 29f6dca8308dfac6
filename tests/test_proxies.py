"""Reverse proxies: who is believed about the client, the host and the scheme."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.requests import Request

from carellama.config.serve import WebOptions
from carellama.serve.web.proxies import TrustedProxies

FORWARDED = {"x-forwarded-for": "203.0.113.9", "x-forwarded-proto": "https", "x-forwarded-host": "care.example"}


def seen(client: str, headers: dict[str, str], networks: str = "127.0.0.1, 10.0.0.0/8, ::1") -> tuple[Any, str, str]:
    """Client, scheme and host that the application sees."""
    found: list[Request] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        found.append(Request(scope))

    given = [(name.encode(), value.encode()) for name, value in {"host": "10.0.0.5:7860", **headers}.items()]
    scope = {"type": "http", "client": (client, 4000), "scheme": "http", "headers": given, "path": "/"}
    proxies = WebOptions(trusted_proxies=networks).proxies
    asyncio.run(TrustedProxies(application, proxies)(scope, None, None))  # type: ignore[arg-type]
    request = found[0]
    assert request.client is not None
    return request.client.host, request.scope["scheme"], request.headers["host"]


@pytest.mark.parametrize("client", ["127.0.0.1", "10.20.30.40", "::1", "::ffff:10.1.1.1"])
def test_a_trusted_proxy_tells_who_asks(client: str) -> None:
    assert seen(client, FORWARDED) == ("203.0.113.9", "https", "care.example")
    assert seen(client, {}) == (client, "http", "10.0.0.5:7860")


@pytest.mark.parametrize("client", ["127.0.0.2", "192.168.0.1", "::2", "unix", ""])
def test_others_are_not_believed(client: str) -> None:
    assert seen(client, FORWARDED) == (client, "http", "10.0.0.5:7860")


def test_the_operator_hears_once_of_a_proxy_that_is_not_believed(caplog: pytest.LogCaptureFixture) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        pass

    proxies = TrustedProxies(application, [])
    scope = {"type": "http", "client": ("172.17.0.1", 4000), "headers": [(b"x-forwarded-for", b"1.2.3.4")]}
    for _ in range(2):
        asyncio.run(proxies(scope, None, None))  # type: ignore[arg-type]
    assert [("172.17.0.1" in one, "--trusted_proxies" in one) for one in caplog.messages] == [(True, True)]


def test_the_last_address_that_is_no_proxy_is_the_client() -> None:
    chain = {"x-forwarded-for": "1.2.3.4, 203.0.113.9, 10.0.0.7"}
    assert seen("127.0.0.1", chain)[0] == "203.0.113.9", "what the client itself wrote comes first, and is not believed"
    assert seen("127.0.0.1", {"x-forwarded-for": "10.0.0.8, 10.0.0.7"})[0] == "10.0.0.8"
    assert seen("127.0.0.1", {"x-forwarded-proto": "javascript"})[1] == "http"
    assert seen("127.0.0.1", {"x-forwarded-host": "evil.example, care.example"})[2] == "care.example"
