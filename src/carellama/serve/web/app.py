"""The page as a part of the API's application: its files, its routes, and what a browser may load.

    app = create_app(assistant, settings, auth=NoAuth())
    add_page(app, WebOptions(profile="patient"))
    serve_page(assistant, WebOptions(), password=None)      # all of it, until it is stopped

The files in `static` are built from `web/` (`make web`). A path below /c/ is a conversation, which the browser keeps:
it gets the page. Nothing is loaded from elsewhere, whatever an answer says (Content Security Policy,
https://www.w3.org/TR/CSP3/), and no answer of the server is kept by the browser but the files of the page.
"""

from __future__ import annotations

import secrets
from importlib import resources
from pathlib import Path

from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from carellama.assistant import Assistant
from carellama.config.serve import ApiOptions, WebOptions
from carellama.engine.base import Engine
from carellama.errors import UserError, install, need
from carellama.serve.api.app import create_app
from carellama.serve.api.auth import NoAuth
from carellama.serve.api.schemas import Mode
from carellama.serve.api.server import run
from carellama.serve.hosts import bind_socket, url_of
from carellama.serve.web import files
from carellama.serve.web.answers import Answers
from carellama.serve.web.gate import Gate
from carellama.serve.web.languages import probe_languages
from carellama.serve.web.routes import router

POLICY = "; ".join(
    (
        "default-src 'self'",
        "img-src 'self' data: blob:",  # none from elsewhere: to load one would tell others what was answered
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "content-security-policy": POLICY,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), payment=(), usb=(), microphone=(self)",
}
PATIENCE = 600.0  # seconds that a question may wait in the queue, whose place the page shows
END_SECONDS = 3.0  # that running answers have when the page is ended
STATIC = Path(str(resources.files("carellama"))) / "serve/web/static"
FOREVER = "public, max-age=31536000, immutable"  # of files whose names change with their contents


def add_page(app: FastAPI, options: WebOptions, folder: Path = STATIC) -> None:
    """Add the page to an application of `create_app`. Raises `UserError` where it was not built."""
    if not (folder / "index.html").is_file():
        raise UserError(f"the page is not built ({folder} has no index.html): run `make web`, which needs Node.js")
    app.state.page = options
    app.state.answers = Answers(app.state.server)
    app.include_router(router)
    if reads_files(options):
        app.state.files = files.Files(options)
        app.state.server.uploads[files.PATH] = options.file_bytes
        app.include_router(files.router)

    async def conversation(_: Request) -> Response:
        return FileResponse(folder / "index.html")

    app.add_route("/c/{id}", conversation, include_in_schema=False)
    app.mount("/", GZipMiddleware(StaticFiles(directory=folder, html=True)))
    app.add_middleware(PageHeaders)


def reads_files(options: WebOptions) -> bool:
    """Whether files may be attached to questions."""
    return options.file_bytes > 0 and files.files_are_read()


class PageHeaders:
    """ASGI middleware: what a browser may load and keep."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Add the headers to a response."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers["cache-control"] = _cache_control(scope["path"], message["status"], headers)
            await send(message)

        await self.app(scope, receive, with_headers if scope["type"] == "http" else send)


def _cache_control(path: str, status: int, headers: MutableHeaders) -> str:
    """How long a browser keeps a response: files of the page only, of which it asks again for all but the assets."""
    if "etag" not in headers or status >= 400:
        return "no-store"
    return FOREVER if path.startswith("/assets/") else "no-cache"


def serve_page(
    assistant: Assistant,
    options: WebOptions,
    password: str | None,
    *,
    consultant: Engine | None = None,
    mode: Mode = "answer",
) -> None:
    """Serve the page, and the API beside it, until SIGTERM or Ctrl-C. Raises `UserError` where it cannot listen."""
    settings = ApiOptions(
        host=options.host, port=options.port, queue=options.queue, queue_timeout=PATIENCE, shutdown_timeout=END_SECONDS,
        drain_seconds=0.0, context_overflow="drop_oldest", ssl_certfile=options.ssl_certfile,
        ssl_keyfile=options.ssl_keyfile,
    )  # fmt: skip
    assistant.languages = assistant.languages or probe_languages(assistant.engine)
    auth = NoAuth(any_host=password is not None)
    app = create_app(assistant, settings, auth=auth, consultant=consultant, mode=mode)
    app.state.server.defaults = assistant.sampling
    add_page(app, options)
    app.add_middleware(Gate, password=password)
    if options.file_bytes and not reads_files(options):
        print(f"No files can be attached to questions: {install('documents')}.", flush=True)
    with bind_socket(options.host, options.port) as listening:
        listening.listen()  # who opens the page at once waits for it
        print(f"CareLlama is at {url_of(listening, options.scheme)}; Ctrl-C ends it.", flush=True)
        if options.share:
            address = open_tunnel(listening.getsockname()[1])
            print(f"Everybody who has the password reaches it at {address}", flush=True)
        run(settings, lambda: app, listening)


def open_tunnel(port: int) -> str:
    """Open Gradio's tunnel to the port; return its address. Raises `UserError` where there is none."""
    need("gradio", extra="web", why="--share")
    from gradio.networking import setup_tunnel

    try:
        return str(setup_tunnel("127.0.0.1", port, secrets.token_urlsafe(32), None, None))
    except Exception as error:
        raise UserError(
            f"--share: no tunnel ({error}); it needs the Internet, and a program that Gradio fetches"
        ) from error
