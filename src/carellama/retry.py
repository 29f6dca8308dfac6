"""When a request to a server is sent again: after which delays, for which answers, and how long a server asks to wait.

for delay in (*RETRY_DELAYS, None):
    response = send()
    if response.status_code not in RETRYABLE_STATUSES or delay is None:
        break
    time.sleep(retry_delay(delay, retry_after(response.headers)))
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

RETRY_DELAYS = (1.0, 3.0, 10.0, 30.0)  # seconds before each further request
RETRYABLE_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
MAX_DELAY = 120.0  # seconds, whatever a server asks for


def retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds that `Retry-After` asks to wait (RFC 9110, section 10.2.3: a number or a date), else 0."""
    value = headers.get("retry-after", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        until = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    if until.tzinfo is None:  # as in "-0000"
        until = until.replace(tzinfo=UTC)
    return max(0.0, math.ceil((until - datetime.now(UTC)).total_seconds()))


def retry_delay(delay: float, asked: float) -> float:
    """Return the seconds to wait before the next request: ours, or those that the server asks for, up to a bound."""
    return min(max(delay, asked), MAX_DELAY)
