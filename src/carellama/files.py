"""Files and folders that appear under their name only when they are whole; a failure leaves nothing behind.

    with atomic_write(Path("records.jsonl")) as file:
        file.write(line)

    with create_once(folder) as making:  # making is None where another process, or an earlier run, has made it
        if making:
            fill(making)

Processes that want the same folder at the same time wait for the first.
"""

from __future__ import annotations

import errno
import glob
import io
import json
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TextIO

from carellama.errors import UserError


def print_status(line: str) -> None:
    """Print one line to stderr."""
    sys.stderr.write(f"{line}\n")  # in one piece: workers of a server write beside each other
    sys.stderr.flush()


DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NUMPY_DISK_FULL = re.compile(r"\d+ requested and \d+ written$")  # also what another process ended with
TORCH_DISK_FULL = ("PytorchStreamWriter", "unexpected pos", "iostream error")  # of any file that it could not finish


def is_disk_full(error: BaseException) -> bool:
    """Whether something could not be written for want of room: disk, quota or the size that a file may have."""
    return _disk_full_reason(error) is not None


def _disk_full_reason(error: BaseException) -> str | None:
    """The reason in the system's words, of an error or what it came from; None for all other errors.

    safetensors and tokenizers give the system's number in the text of their own errors; torch and numpy only say that
    they could not write.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in DISK_FULL_ERRNOS:
            return os.strerror(seen.errno)
        if type(seen).__name__ in ("SafetensorError", "Exception"):
            for number in DISK_FULL_ERRNOS:
                if f"os error {number})" in str(seen):
                    return os.strerror(number)
        torch_says = isinstance(seen, RuntimeError) and any(word in str(seen) for word in TORCH_DISK_FULL)
        if torch_says or (isinstance(seen, (OSError, UserError)) and NUMPY_DISK_FULL.search(str(seen))):
            return "A file could not be finished, as on a full disk"
        seen = seen.__cause__ or seen.__context__
    return None


def disk_full_message(error: BaseException, folder: Path | None = None) -> str:
    """What is full, where, and what to do, in one line; `folder` is where it was written, if the error does not say."""
    place = getattr(error, "filename", None) or folder
    free = ""
    with suppress(OSError):
        free = f" ({shutil.disk_usage(folder).free / 1e6:,.0f} MB free)" if folder else ""
    return f"{_disk_full_reason(error)}: {place or 'while writing'}{free}; make room there, or write to another disk"


@contextmanager
def with_file_name(path: Path) -> Iterator[None]:
    """Let the error of a full disk say which file it was, as that of a file that is open does not."""
    try:
        yield
    except OSError as error:
        if error.filename is None and is_disk_full(error):
            error.filename = str(path)
        raise


@contextmanager
def atomic_write(path: Path) -> Iterator[TextIO]:
    """Open a UTF-8 text file for writing; it gets its name, and replaces an older one, when the block ends well.

    Raises `UserError` where there can be no such file: a folder of that name, or a place that cannot be written.
    """
    with atomic_binary(path) as binary:
        file = io.TextIOWrapper(binary, encoding="utf-8", newline="\n")
        yield file
        file.detach()


@contextmanager
def atomic_binary(path: Path) -> Iterator[BinaryIO]:
    """Do what `atomic_write` does, for bytes."""
    temporary = path.with_name(f".{path.name}.{platform.node()}-{os.getpid()}.tmp")
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the name of a file to write")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale_temporaries(path)
        opened = temporary.open("wb")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    try:
        with with_file_name(path), opened as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_private_file(path: Path) -> Iterator[Path]:
    """Make an empty file that only its owner may read, for another library to fill; it gets its name as above."""
    temporary = path.with_name(f".{path.name}.{platform.node()}-{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale_temporaries(path)
        temporary.unlink(missing_ok=True)  # of an earlier process of this number
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    try:
        yield temporary
        with with_file_name(path):
            descriptor = os.open(temporary, os.O_RDWR)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _remove_stale_temporaries(path: Path) -> None:
    """Remove what processes of this machine that were killed have left of a file: it may hold what patients said."""
    start = f".{path.name}.{platform.node()}-"
    for old in path.parent.glob(f"{glob.escape(start)}*.tmp"):
        process = old.name[len(start) : -len(".tmp")]
        if os.name == "posix" and process.isdecimal() and _process_is_gone(int(process)):
            old.unlink(missing_ok=True)


def _process_is_gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # another user's, or no process number at all
        return False
    return False


def refuse_sources(output: Path, sources: Iterable[Path]) -> None:
    """Raise `UserError` if `output` is one of the files that a command reads, which --overwrite would replace."""
    if output.exists() and any(source.exists() and output.samefile(source) for source in sources):
        raise UserError(f"{output} is a file that this command reads: give another name, so that the original stays")


def refuse_existing(output: Path, sources: Iterable[Path], *, overwrite: bool, option: str = "output") -> None:
    """Raise `UserError` for an output that is read (`refuse_sources`), or that is there and may not be replaced."""
    refuse_sources(output, sources)
    if output.is_dir():
        raise UserError(f"--{option} {output} is a folder; give the name of a file to write")
    if output.exists() and not overwrite:
        raise UserError(f"{output} is there already: give --overwrite to replace it, or another --{option}")


def write_json(path: Path, value: object) -> None:
    """Write a JSON file whole."""
    with atomic_write(path) as file:
        file.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def write_private(path: Path, data: bytes, *, replace: bool = False) -> None:
    """Write a new file that only its owner may read; with `replace`, also in place of an older one.

    Raises `UserError` where there is one already, and where there can be none.
    """
    if replace and path.is_file():
        temporary = path.with_name(f".{path.name}.{platform.node()}-{os.getpid()}.tmp")
        write_private(temporary, data)
        temporary.replace(path)
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as opened:
                opened.write(data)
        except OSError:
            path.unlink(missing_ok=True)
            raise
    except FileExistsError:
        raise UserError(f"{path} is there already and was left as it is; give another name") from None
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


@contextmanager
def create_once(target: Path) -> Iterator[Path | None]:
    """Give the process that has to make the folder `target` an empty one to fill, all others None.

    When the block ends the filled folder gets the name `target`. Raises `UserError` for a full disk or a
    folder that cannot be written.
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
        raise UserError(f"cannot write into {target.parent}: {error}") from error
