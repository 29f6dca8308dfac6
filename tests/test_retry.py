"""`carellama.retry`: how long a server asks to wait, in both forms of the header."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from carellama.retry import MAX_DELAY, RETRY_DELAYS, retry_after, retry_delay


@pytest.mark.parametrize(("value", "seconds"), [("7", 7.0), (" 120 ", 120.0), ("", 0.0), ("soon", 0.0), ("-3", 0.0)])
def test_seconds_of_the_header(value: str, seconds: float) -> None:
    assert retry_after({"retry-after": value}) == seconds
    assert retry_after({}) == 0.0


def test_a_date_is_read_as_the_seconds_until_then() -> None:
    """Only numbers were read: a server that named a time was asked again at once."""
    now = datetime.now(UTC)
    assert 25 <= retry_after({"retry-after": format_datetime(now + timedelta(seconds=30), usegmt=True)}) <= 31
    assert retry_after({"retry-after": format_datetime(now - timedelta(hours=1), usegmt=True)}) == 0.0
    assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 -0000"}) == 0.0


def test_the_delay_is_the_longer_one_up_to_a_bound() -> None:
    assert retry_delay(RETRY_DELAYS[0], 0.0) == RETRY_DELAYS[0]
    assert retry_delay(1.0, 5.0) == 5.0
    assert retry_delay(1.0, 1e9) == MAX_DELAY
