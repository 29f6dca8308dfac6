"""Folders of the user's cache that are made once, and appear under their name only when they are whole.

    with made_once(folder) as making:  # making is None where another process, or an earlier run, has made it
        if making:
            fill(making)

Processes that want the same folder at the same time wait for the first. A failure leaves nothing behind.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from carellama.config import cache_home
from carellama.errors import UserError


def models() -> Path:
    """Where models are kept."""
    return cache_home() / "models"


def say(line: str) -> None:
    """Tell the person that something long begins."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def made_once(target: Path) -> Iterator[Path | None]:
    """Give the process that has to make the folder `target` an empty one to fill, all others None.

    When the block ends the filled folder gets the name `target`. Raises `UserError` for a full disk or a
    folder that can not be written.
    """
    from filelock import FileLock

    if target.is_dir():
        yield None
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.parent / f".{target.name}.lock"):
            if target.is_dir():
                yield None
                return
            for old in target.parent.glob(f".{target.name}.tmp-*"):  # of a process that was killed
                shutil.rmtree(old, ignore_errors=True)
            with tempfile.TemporaryDirectory(prefix=f".{target.name}.tmp-", dir=target.parent) as temporary:
                filled = Path(temporary) / "filled"
                filled.mkdir()
                yield filled
                filled.rename(target)
    except OSError as error:
        raise UserError(f"can not keep a model in {target.parent}: {error}") from error
