"""Files for a question: their text, read apart from the server, which keeps nothing of them.

POST /web/files     the bytes of a file, application/octet-stream, its name percent-encoded in the header x-file-name
                    -> {"name", "kind", "text", "chars", "pages", "cut", "warnings"}, see `data.documents.uploaded`

The body goes to a file of a private folder, which is deleted with the request, and is read by a process with limits,
which ends with the request too. Two are read at once. The name is in no log, no URL and no list of processes.
"""

from __future__ import annotations

import asyncio
import importlib.util
import subprocess
import tempfile
from functools import partial
from pathlib import Path
from urllib.parse import unquote

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from carellama.config.serve import WebOptions
from carellama.data.documents.uploaded import Unreadable, read_apart
from carellama.serve.api.errors import InvalidRequest, Rejected
from carellama.serve.api.streaming import run_in_thread

router = APIRouter(prefix="/web")
PATH = "/web/files"
LIBRARIES = ("markitdown", "pdfminer", "pypdfium2", "mammoth", "lxml", "defusedxml")  # of the extra documents
NAME_CHARS = 200
AT_ONCE = 2  # files that are read
WAITING = 6  # files that wait to be read; past them: status 429
WAIT_SECONDS = 10  # after which to try again


class Files:
    """The files of one server. For one event loop."""

    def __init__(self, options: WebOptions) -> None:
        self.options = options
        self._place = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0

    async def read(self, path: Path, name: str) -> Response:
        """Read a file in its turn."""
        if self._waiting >= AT_ONCE + WAITING:
            raise Rejected(429, "file_queue_full", "too many files wait to be read; send it again later", WAIT_SECONDS)
        self._waiting += 1
        try:
            async with self._place:
                answer = await self._read_apart(path, name)
        except Unreadable as error:
            raise InvalidRequest(f"the file was not read: {error}", "body", error.code) from error
        finally:
            self._waiting -= 1
        return JSONResponse({"name": name, **answer})

    async def _read_apart(self, path: Path, name: str) -> dict[str, object]:
        """Read it in a process, which is ended where nobody waits for it any more."""
        children: list[subprocess.Popen[bytes]] = []
        read = partial(read_apart, path, name, max_chars=self.options.file_chars, on_start=children.append)
        begun = run_in_thread(read)
        try:
            return await asyncio.shield(begun)
        except asyncio.CancelledError:
            begun.add_done_callback(lambda done: None if done.cancelled() else done.exception())
            for child in children:
                child.kill()
            raise


def files_are_read() -> bool:
    """Whether the libraries that read documents are installed."""
    return all(importlib.util.find_spec(name) is not None for name in LIBRARIES)


@router.post("/files")
async def read_file(request: Request) -> Response:
    """Return the text of a file.

    Raises `InvalidRequest` (400) with a code for a file that cannot be read, and `Rejected` (429) where too many wait.
    """
    name = name_of(request.headers.get("x-file-name", ""))
    with tempfile.TemporaryDirectory(prefix="carellama-") as folder:  # that its owner alone can read
        path = Path(folder) / "document"
        with path.open("wb") as file:
            async for part in request.stream():
                file.write(part)
        files: Files = request.app.state.files
        return await files.read(path, name)


def name_of(header: str) -> str:
    """The name of a file without its folders and control characters. Raises `InvalidRequest` where there is none."""
    try:
        name = unquote(header, errors="strict")
    except UnicodeDecodeError:
        raise InvalidRequest("the header is not UTF-8, percent-encoded", "x-file-name", "invalid_value") from None
    name = name.replace("\\", "/").rpartition("/")[2]
    name = "".join(sign for sign in name if sign.isprintable()).strip()
    if not name:
        text = "name the file in the header x-file-name, percent-encoded as by encodeURIComponent"
        raise InvalidRequest(text, "x-file-name", "invalid_value")
    if len(name) > NAME_CHARS:  # the end tells the kind
        name = f"{name[: NAME_CHARS - 20]}…{name[-19:]}"
    return name
