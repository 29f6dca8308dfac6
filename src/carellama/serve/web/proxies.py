"""Reverse proxies that are believed: who asks, by which name and over which protocol.

    app.add_middleware(TrustedProxies, networks=options.proxies)

A request that comes from another address than these keeps its own: anybody can send X-Forwarded-For. The client is the
last address of that header that is no trusted proxy itself.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

log = logging.getLogger(__name__)
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class TrustedProxies:
    """ASGI middleware around everything that looks at the client, the host or the scheme."""

    def __init__(self, app: ASGIApp, networks: Sequence[Network]) -> None:
        self.app, self.networks = app, networks
        self._told = False  # that a proxy is not believed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request on, as it was sent to the proxy."""
        if scope["type"] == "http" and scope["client"] is not None:
            if self._trusts(scope["client"][0]):
                scope = self._forwarded(scope)
            elif not self._told and "x-forwarded-for" in Headers(scope=scope):
                self._told = True
                log.warning(
                    "%s sends X-Forwarded-For and is not believed; if it is your proxy, name it by --trusted_proxies: "
                    "until then all visitors have its address, and wrong passwords of one lock out all",
                    scope["client"][0],
                )
        await self.app(scope, receive, send)

    def _trusts(self, address: str) -> bool:
        try:
            given = ipaddress.ip_address(address)
        except ValueError:
            return False
        given = getattr(given, "ipv4_mapped", None) or given
        return any(given in network for network in self.networks)

    def _forwarded(self, scope: Scope) -> Scope:
        headers = Headers(scope=scope)
        found = dict(scope)
        if (scheme := _last(headers.get("x-forwarded-proto"))) in ("http", "https"):
            found["scheme"] = scheme
        if host := _last(headers.get("x-forwarded-host")):
            others = [(name, value) for name, value in scope["headers"] if name != b"host"]
            found["headers"] = [*others, (b"host", host.encode("latin-1"))]
        addresses = [part.strip() for part in headers.get("x-forwarded-for", "").split(",") if part.strip()]
        if addresses:
            client = next((one for one in reversed(addresses) if not self._trusts(one)), addresses[0])
            found["client"] = (client[:64], 0)
        return found


def _last(value: str | None) -> str:
    """The last part of a header, which the nearest proxy has added."""
    return (value or "").rpartition(",")[2].strip()
