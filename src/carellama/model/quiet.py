"""Keeps transformers' load report and progress bars off the screen: the commands say themselves what takes long.

with quiet_bars():
    model.save_pretrained(folder)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

QUICK_BYTES = 4 << 30  # smaller models load without a progress bar


@contextmanager
def quiet_bars() -> Iterator[None]:
    """Keep transformers' bars off the screen: the commands have a progress of their own."""
    from transformers.utils import logging as chatter

    bars = chatter.is_progress_bar_enabled()
    chatter.disable_progress_bar()
    try:
        yield
    finally:
        if bars:
            chatter.enable_progress_bar()


@contextmanager
def quiet_loading(place: Path | str) -> Iterator[None]:
    """Keep transformers' load report off the screen (it is checked), and its bars where loading is quick."""
    from transformers.utils import logging as chatter

    size = sum(file.stat().st_size for file in place.glob("*.safetensors")) if isinstance(place, Path) else None
    level = chatter.get_verbosity()
    chatter.set_verbosity_error()
    try:
        with quiet_bars() if size is not None and size < QUICK_BYTES else nullcontext():
            yield
    finally:
        chatter.set_verbosity(level)
