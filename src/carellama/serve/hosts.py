"""Where a server listens, and whether a request was sent to this machine by its own name.

    listening = bind_socket("127.0.0.1", 8000)
    url_of(listening, "http")                 # http://127.0.0.1:8000
    names_this_machine("localhost:8000")      # True
    names_this_machine("evil.example:8000")   # False

The name matters to servers that ask for no key and no password: a web page can let its own name point to 127.0.0.1
(DNS rebinding). The browser then takes the server for a part of that page, and only the header `Host` tells the two
apart.
"""

from __future__ import annotations

import re
import socket

from carellama.config.serve import is_loopback
from carellama.errors import UserError


def bind_socket(host: str, port: int) -> socket.socket:
    """Return a socket bound to the address, which does not listen yet. Raises `UserError` for one that is taken."""
    try:
        family = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host.strip("[]"), port))
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"cannot listen at --host {host} --port {port}: {reason}; take another --port, or end what listens there"
        ) from error
    return listening


def url_of(listening: socket.socket, scheme: str) -> str:
    """Return the address of a server by its socket."""
    host, port = listening.getsockname()[:2]
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def names_this_machine(host: str) -> bool:
    """Whether a `Host` header has a loopback address or localhost, with any port."""
    return is_loopback(re.sub(r":\d*$", "", host))
