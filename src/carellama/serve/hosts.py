"""Whether a request was sent to this machine by its own name, for servers that ask for no key and no password.

    names_this_machine("localhost:8000")      # True
    names_this_machine("evil.example:8000")   # False

A web page can let its own name point to 127.0.0.1 (DNS rebinding). The browser then takes the server for a part of that
page, and only the header `Host` tells the two apart.
"""

from __future__ import annotations

import re

from carellama.config.serve import is_loopback


def names_this_machine(host: str) -> bool:
    """Whether a `Host` header has a loopback address or localhost, with any port."""
    return is_loopback(re.sub(r":\d*$", "", host))
