"""One file at a time from the network: it resumes, shows a bar, and has its name only when it is whole.

    from carellama.download.http import RemoteFile, download
    download(RemoteFile("a.json", "https://host/a.json"), Path("a.json"))

Which files a dataset has is listed in `carellama.download.hosts`. Terms are the business of `pull`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carellama.errors import UserError
from carellama.files import print_status, write_json
from carellama.retry import RETRY_DELAYS, RETRYABLE_STATUSES, retry_after, retry_delay
from carellama.text import counted

if TYPE_CHECKING:
    import httpx2

FREE_SPACE_MARGIN = 64 << 20  # bytes of the disk that a download leaves free
LFS = b"version https://git-lfs"  # how a pointer of Git LFS begins


class DownloadError(Exception):
    """A host does not give a file; says why, in one line."""


class HostUnreachable(DownloadError):
    """A host cannot be reached; the text is its name."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of a host. `size` (bytes) and `sha256` are what the host, or the catalogue, says of it, if anything."""

    name: str  # path in the dataset
    url: str
    size: int | None = None
    sha256: str = ""
    lfs_url: str = ""  # where the file is if `url` gives a pointer of Git LFS
    other_url: str = ""  # where it is if `url` is not there
    page: str = ""  # to open by hand when `url` answers with a page


@dataclass(frozen=True)
class DownloadedFile:
    """A file that has arrived."""

    url: str
    size: int
    sha256: str


@contextmanager
def http_client() -> Iterator[httpx2.Client]:
    """A client that follows redirects and takes bytes as they are."""
    import httpx2

    from carellama import __version__

    headers = {"User-Agent": f"carellama/{__version__}", "Accept-Encoding": "identity"}
    with httpx2.Client(follow_redirects=True, timeout=30.0, headers=headers) as opened:
        yield opened


def check_reachable(url: str, method: str = "HEAD", parameters: dict[str, str] | None = None) -> httpx2.Response:
    """Return what an address answers. Raises `HostUnreachable` where nothing answers, and `DownloadError`."""
    import httpx2

    try:
        with http_client() as http:
            return http.request(method, url, params=parameters)
    except httpx2.TransportError as error:
        raise HostUnreachable(httpx2.URL(url).host) from error
    except httpx2.RequestError as error:
        raise DownloadError(f"{url}: {error}") from error


def get_json(url: str, parameters: dict[str, str]) -> Any:
    """Return the JSON that an address answers with. Raises `DownloadError`."""
    response = check_reachable(url, "GET", parameters)
    if response.status_code != 200:
        raise DownloadError(f"{url} answers {response.status_code} {response.reason_phrase}")
    try:
        return response.json()
    except ValueError as error:
        raise DownloadError(f"{url} does not answer with JSON") from error


def download(remote: RemoteFile, target: Path) -> DownloadedFile:
    """Fetch a file to `target`; what arrives lies in `target`.part until it is whole, and a next call goes on there.

    A connection that breaks is tried again after `RETRY_DELAYS`, each time said. Raises `DownloadError` for an answer
    other than the file, or a file whose size or SHA-256 is not what was announced.
    """
    part = target.with_name(target.name + ".part")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        _download_with_retries(remote, part)
    except _NotFound:
        if not remote.other_url:
            raise
        lfs = remote.lfs_url.replace("/main/", "/master/", 1)
        return download(replace(remote, url=remote.other_url, lfs_url=lfs, other_url=""), target)
    size, sha256 = part.stat().st_size, sha256_of(part)
    pointer = _parse_lfs_pointer(part)
    if remote.lfs_url and pointer is not None:
        _discard_partial(part)
        oid, length = pointer
        return download(RemoteFile(remote.name, remote.lfs_url, length, remote.sha256 or oid, page=remote.page), target)
    if remote.size is not None and size != remote.size:
        _discard_partial(part)
        raise DownloadError(f"{remote.name} has {counted(size, 'byte')} instead of {remote.size:,}")
    if remote.sha256 and sha256 != remote.sha256.lower():
        _discard_partial(part)
        raise DownloadError(f"{remote.name} was changed or damaged: its SHA-256 is {sha256} instead of {remote.sha256}")
    part.replace(target)
    _discard_partial(part)
    return DownloadedFile(remote.url, size, sha256)


class _NotFound(DownloadError):
    """404."""


def _download_with_retries(remote: RemoteFile, part: Path) -> None:
    import httpx2

    for delay in (*RETRY_DELAYS, None):
        try:
            return _download_once(remote, part)
        except httpx2.TransportError as error:
            refused = isinstance(error, (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError))
            if refused and (delay is None or not part.exists()):
                raise HostUnreachable(httpx2.URL(remote.url).host) from error
            problem, asked = str(error) or type(error).__name__, 0.0
            if delay is None:
                raise DownloadError(
                    f"{remote.name}: the connection broke {len(RETRY_DELAYS) + 1} times ({problem})"
                ) from error
        except httpx2.RequestError as error:
            raise DownloadError(f"{remote.name}: {error}") from error
        except _Retryable as error:
            problem, asked = str(error), error.wait
            if delay is None:
                raise DownloadError(f"{remote.name}: {problem}") from error
        assert delay is not None
        delay = retry_delay(delay, asked)
        print_status(f"{remote.name}: {problem}; trying again in {delay:g} s")
        time.sleep(delay)
    raise AssertionError("the last try returns or raises")


class _Retryable(Exception):
    """An answer that may be another one later; `wait`: seconds that the host asks for."""

    def __init__(self, problem: str, wait: float = 0.0) -> None:
        super().__init__(problem)
        self.wait = wait


def _download_once(remote: RemoteFile, part: Path) -> None:
    """Bring `part` to its end, from where it is if the host still has the same file."""
    memory = part.with_name(part.name + ".json")
    validator = _etag_file(memory, remote.url) if part.exists() else ""
    have = part.stat().st_size if validator else 0
    headers = {"Range": f"bytes={have}-", "If-Range": validator} if have else {}
    with http_client() as http, http.stream("GET", remote.url, headers=headers) as response:
        if response.status_code == 416:
            _discard_partial(part)
            raise _Retryable("the host has less than what had arrived; starting again")
        if response.status_code == 404:
            raise _NotFound(f"{remote.url} is not there (404)")
        if response.status_code in RETRYABLE_STATUSES:
            problem = f"the host answers {response.status_code} {response.reason_phrase}"
            raise _Retryable(problem, retry_after(response.headers))
        if response.status_code not in (200, 206):
            raise DownloadError(f"{remote.url} answers {response.status_code} {response.reason_phrase}")
        _reject_html(remote, response.headers.get("content-type", ""))
        if response.status_code == 200:
            have = 0
        elif not response.headers.get("content-range", "").startswith(f"bytes {have}-"):
            _discard_partial(part)
            raise _Retryable("the host sends another range than was asked for; starting again")
        length = response.headers.get("content-length")
        total = have + int(length) if length else remote.size
        if remote.size is not None and total != remote.size:
            raise DownloadError(f"{remote.url} has {total:,} bytes instead of {remote.size:,}")
        check_free_space((total or 0) - have, part.parent)
        strong = response.headers.get("etag", "")
        known = strong if strong and not strong.startswith("W/") else response.headers.get("last-modified", "")
        write_json(memory, {"url": remote.url, "validator": known})
        with part.open("ab" if have else "wb") as file, progress_bar(remote.name, have, total) as advance:
            for chunk in response.iter_raw():  # a chunk that waited to be full would be lost when the connection breaks
                file.write(chunk)
                advance(len(chunk))


def _reject_html(remote: RemoteFile, kind: str) -> None:
    if kind.startswith("text/html") and not remote.name.endswith((".html", ".htm")):
        page = remote.page or remote.url
        raise DownloadError(
            f"{page} answers with a page instead of {remote.name} (quota exceeded, or no permission): "
            "open it in a browser"
        )


def _etag_file(memory: Path, url: str) -> str:
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
        return str(known["validator"]) if known["url"] == url else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _discard_partial(part: Path) -> None:
    part.unlink(missing_ok=True)
    part.with_name(part.name + ".json").unlink(missing_ok=True)


def _parse_lfs_pointer(path: Path) -> tuple[str, int] | None:
    """(SHA-256, bytes) of the file that a Git LFS pointer stands for; None for other files."""
    if path.stat().st_size > 1024:
        return None
    content = path.read_bytes()
    if not content.startswith(LFS):
        return None
    fields = dict(line.split(" ", 1) for line in content.decode("utf-8", "replace").splitlines() if " " in line)
    return fields.get("oid", "").removeprefix("sha256:"), int(fields.get("size", "0"))


def check_free_space(size: int, folder: Path) -> None:
    """`UserError` where the disk has no room for so many bytes more."""
    free = shutil.disk_usage(folder).free
    if size > 0 and size + FREE_SPACE_MARGIN > free:
        raise UserError(f"{folder}: {size / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free; set CARELLAMA_CACHE")


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def progress_bar(name: str, have: int, total: int | None) -> Iterator[Callable[[int], None]]:
    """Size, rate and time left, on a terminal; elsewhere nothing. Yields what takes the bytes that have come."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=total, completed=have)
        yield lambda count: progress.advance(task, count)
