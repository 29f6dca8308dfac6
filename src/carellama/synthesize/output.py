"""The file that a run of `data synthesize` appends to, and what it already holds.

    with Output.opened(Path("x.jsonl"), resume=True) as output:
        output.write(record)

A line is written in one go and handed to the system at once, and to the disk every few lines. A half line at the end,
of a run that was killed, is cut off. One run at a time writes to a file.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from carellama.data.write import row_of
from carellama.disk import say
from carellama.errors import DataError, UserError
from carellama.records import Chat, Pair, Place
from carellama.text import folded

TO_DISK = 16  # lines


class Output:
    """The open file, the keys that are done, the questions that are taken, and those of each passage."""

    def __init__(self, file: BinaryIO) -> None:
        self.done: set[str] = set()
        self.taken: set[str] = set()
        self.asked: dict[str, list[str]] = {}  # by the SHA-1 of the passage
        self.before = 0  # records that were there
        self._file, self._since = file, 0

    @classmethod
    @contextmanager
    def opened(cls, path: Path, *, resume: bool) -> Iterator[Output]:
        """Open the file and read what it holds. `UserError` for one that is there, unless it is to be resumed."""
        if path.exists() and not resume:
            raise UserError(f"{path} is there already: give --resume to go on with it, or another --output")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(f"{path} is being written by another run: wait, or give another --output") from None
            output = cls(file)
            output._read(path)
            try:
                yield output
            except BaseException:
                if not path.stat().st_size:  # there is nothing to go on with
                    path.unlink()
                raise
            finally:
                output.to_disk()

    def write(self, record: Chat | Pair) -> None:
        """Append a record, whose `meta` has its `key` and `passage_sha1`."""
        self._file.write((json.dumps(row_of(record), ensure_ascii=False) + "\n").encode("utf-8", "replace"))
        self._file.flush()
        self._since += 1
        if self._since >= TO_DISK:
            self.to_disk()
        self._know(asked_in(record), record.meta["key"], record.meta["passage_sha1"])

    def to_disk(self) -> None:
        """Bring the lines to the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._since = 0

    def _read(self, path: Path) -> None:
        self._file.seek(0)
        end = 0
        for number, line in enumerate(self._file, 1):
            if not line.endswith(b"\n"):
                say(f"{path}:{number}: a half line, of a run that was stopped, is cut off")
                break
            try:
                row = json.loads(line)
                history = [str(turn[0]) for turn in row["history"]]
                meta = row["meta"]
                self._know([*history, str(row["instruction"])], str(meta["key"]), str(meta["passage_sha1"]))
            except (ValueError, KeyError, TypeError, IndexError) as error:
                raise DataError(
                    Place(str(path), number), "not a record of data synthesize; give another --output"
                ) from error
            end += len(line)
            self.before += 1
        self._file.truncate(end)
        self._file.seek(0, os.SEEK_END)

    def _know(self, questions: list[str], key: str, sha1: str) -> None:
        self.done.add(key)
        self.taken.add(folded("\n".join(questions)))
        self.asked.setdefault(sha1, []).append(questions[0])


def asked_in(record: Chat | Pair) -> list[str]:
    """What the user says in a record, in order: folded and joined, records are compared by it."""
    return [one.content for one in record.prompt if one.role == "user"]
