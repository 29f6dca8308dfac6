"""Files that a run appends to and that a later run continues, and the one of `data synthesize`.

    with Output.opened(Path("x.jsonl"), resume=True) as output:
        output.write(record)

A line is written in one go and handed to the system at once, and to the disk every few lines. A half line at the end,
of a run that was killed or a disk that was full, is cut off. One run at a time writes to a file.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from carellama.data.write import row_of
from carellama.errors import DataError, UserError
from carellama.files import print_status, with_file_name
from carellama.records import Chat, Pair, Place
from carellama.text import folded

TO_DISK = 16  # lines
OnLine = Callable[[int, object], None]  # the number of a line and its value; None for a line that is not JSON


class AppendOnlyFile:
    """A JSON Lines file, open and locked; it holds whole lines, whatever ends the run."""

    def __init__(self, file: io.FileIO, path: Path) -> None:
        self._file, self._path, self._since = file, path, 0

    @classmethod
    @contextmanager
    def opened(cls, path: Path, on_line: OnLine, *, fresh: bool = False) -> Iterator[AppendOnlyFile]:
        """Open the file, and give `on_line` the number and the value of each line that it holds; `fresh`: empty it.

        Raises `UserError` where another run has it open. A file that stays empty when the block fails is removed.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        with io.FileIO(path, "a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(f"{path} is being written by another run: wait, or give another --output") from None
            output = cls(file, path)
            if fresh:
                file.truncate(0)
            output._read(on_line)
            try:
                yield output
            except BaseException:
                if not path.stat().st_size:  # there is nothing to go on with
                    path.unlink()
                raise
            finally:
                output.to_disk()

    def append(self, row: Mapping[str, object]) -> None:
        """Append one line. Where there is no room for all of it, none of it stays, and `OSError` names the file."""
        line = (json.dumps(row, ensure_ascii=False, default=str) + "\n").encode("utf-8", "replace")
        end, written = self._file.seek(0, os.SEEK_END), 0
        try:
            with with_file_name(self._path):
                while written < len(line):
                    written += self._file.write(line[written:]) or 0
        except OSError:
            self._file.truncate(end)
            raise
        self._since += 1
        if self._since >= TO_DISK:
            self.to_disk()

    def to_disk(self) -> None:
        """Bring the lines to the disk."""
        with with_file_name(self._path):
            os.fsync(self._file.fileno())
        self._since = 0

    def _read(self, on_line: OnLine) -> None:
        end = 0
        with self._path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    print_status(f"{self._path}:{number}: a half line, of a run that was stopped, is cut off")
                    break
                try:
                    value = json.loads(line)
                except ValueError:
                    value = None
                on_line(number, value)
                end += len(line)
        self._file.truncate(end)


class Output:
    """The file of a synthesis, the keys that are done, the questions that are taken, and those of each passage."""

    def __init__(self) -> None:
        self.done: set[str] = set()
        self.taken: set[str] = set()
        self.asked: dict[str, list[str]] = {}  # by the SHA-1 of the passage
        self.before = 0  # records that were there
        self._path: Path
        self._file: AppendOnlyFile

    @classmethod
    @contextmanager
    def opened(cls, path: Path, *, resume: bool) -> Iterator[Output]:
        """Open the file and read what it holds. `UserError` for one that is there, unless it is to be resumed."""
        if path.exists() and not resume:
            raise UserError(f"{path} is there already: give --resume to go on with it, or another --output")
        output = cls()
        output._path = path
        with AppendOnlyFile.opened(path, output._remember) as output._file:
            yield output

    def write(self, record: Chat | Pair) -> None:
        """Append a record, whose `meta` has its `key` and `passage_sha1`."""
        self._file.append(row_of(record))
        self._know(asked_in(record), record.meta["key"], record.meta["passage_sha1"])

    def _remember(self, number: int, row: Any) -> None:
        try:
            history = [str(turn[0]) for turn in row["history"]]
            meta = row["meta"]
            self._know([*history, str(row["instruction"])], str(meta["key"]), str(meta["passage_sha1"]))
        except (KeyError, TypeError, IndexError) as error:
            raise DataError(
                Place(str(self._path), number), "not a record of data synthesize; give another --output"
            ) from error
        self.before += 1

    def _know(self, questions: list[str], key: str, sha1: str) -> None:
        self.done.add(key)
        self.taken.add(folded("\n".join(questions)))
        self.asked.setdefault(sha1, []).append(questions[0])


def asked_in(record: Chat | Pair) -> list[str]:
    """What the user says in a record, in order: folded and joined, records are compared by it."""
    return [one.content for one in record.prompt if one.role == "user"]
