"""What the check of chat formats says of itself on stderr: it computes for minutes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from carellama.files import print_status

SECONDS = 20.0  # between two lines
Item = TypeVar("Item")


def with_progress(step: str, items: Sequence[Item]) -> Iterator[Item]:
    """Yield the items of a step; print its name, and now and then how much of it is done. "" prints nothing."""
    if step:
        print_status(step)
    printed = time.monotonic()
    for done, item in enumerate(items):
        if step and time.monotonic() - printed >= SECONDS:
            print_status(f"  {done / len(items):.0%}")
            printed = time.monotonic()
        yield item
