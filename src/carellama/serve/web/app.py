"""The page as a part of the API's application: its files, its routes, and what a browser may load.

    app = create_app(assistant, settings, auth=NoAuth())
    add_page(app, WebOptions(profile="patient"))
    serve_page(assistant, options, decide_access(options))      # all of it, until it is stopped

The files in `static` are built from `web/` (`make web`). A path below /c/ is a conversation, which the page shows: it
gets the page. Nothing is loaded from elsewhere, whatever an answer says (Content Security Policy,
https://www.w3.org/TR/CSP3/), and no answer of the server is kept by the browser but the files of the page.
"""

from __future__ import annotations

import secrets
from functools import partial
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
from carellama.serve.web import files, research
from carellama.serve.web.access import Access
from carellama.serve.web.accounts import admin_routes, conversation_routes, oidc_routes
from carellama.serve.web.accounts import routes as account_routes
from carellama.serve.web.accounts.service import Accounts, add_retention, open_accounts
from carellama.serve.web.answers import Answers
from carellama.serve.web.feedback import add_feedback, open_feedback
from carellama.serve.web.gate import Gate
from carellama.serve.web.languages import probe_languages
from carellama.serve.web.page_files import STATIC, VIEWS
from carellama.serve.web.proxies import TrustedProxies
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
MAX_BODY_BYTES = 8 << 20  # of a request: the messages of a long conversation, a file
WHO_REACHES = {"open": "the address", "password": "the password", "accounts": "an account"}
FOREVER = "public, max-age=31536000, immutable"  # of files whose names change with their contents


def add_page(
    app: FastAPI,
    options: WebOptions,
    folder: Path = STATIC,
    *,
    access: Access | None = None,
    accounts: Accounts | None = None,
) -> None:
    """Add the page to an application of `create_app`. Raises `UserError` where it was not built.

    `access` is what `decide_access` says, None: open. `accounts` are those of a page with accounts, whose `auth` the
    application has.
    """
    if not (folder / "index.html").is_file():
        raise UserError(f"the page is not built ({folder} has no index.html): run `make web`, which needs Node.js")
    access = access or Access("open", "nothing" if options.keep == "nothing" else "browser")
    app.state.page, app.state.access, app.state.accounts = options, access, accounts
    app.state.answers = Answers(app.state.server)
    app.include_router(router)
    app.include_router(research.router)
    if reads_files(options):
        app.state.files = files.Files(options)
        app.state.server.uploads[files.PATH] = options.file_bytes
        app.include_router(files.router)
    app.include_router(account_routes.public_router)
    if accounts is not None:
        _add_accounts(app, accounts)

    async def view(_: Request) -> Response:
        return FileResponse(folder / "index.html")

    for path in VIEWS:
        app.add_route(path, view, include_in_schema=False)
    app.mount("/", GZipMiddleware(StaticFiles(directory=folder, html=True)))
    app.add_middleware(Gate, password=access.password)
    app.add_middleware(PageHeaders)  # around the gate: its refusals have them as well
    if options.proxies or accounts is not None:
        app.add_middleware(TrustedProxies, networks=options.proxies)


def _add_accounts(app: FastAPI, accounts: Accounts) -> None:
    app.include_router(account_routes.router)
    app.include_router(admin_routes.router)
    if accounts.conversations is not None:
        app.include_router(conversation_routes.router)
    if accounts.provider is not None:
        app.include_router(oidc_routes.router)
    add_retention(app, accounts)


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
    access: Access,
    *,
    consultant: Engine | None = None,
    mode: Mode = "answer",
) -> None:
    """Serve the page, and the API beside it, until SIGTERM or Ctrl-C. Raises `UserError` where it cannot listen."""
    settings = ApiOptions(
        host=options.host, port=options.port, queue=options.queue, queue_timeout=PATIENCE, shutdown_timeout=END_SECONDS,
        drain_seconds=0.0, context_overflow="drop_oldest", max_body_bytes=MAX_BODY_BYTES,
        ssl_certfile=options.ssl_certfile, ssl_keyfile=options.ssl_keyfile,
    )  # fmt: skip
    accounts = open_accounts(access, options) if access.accounts else None
    auth = accounts.auth if accounts is not None else NoAuth(any_host=access.password is not None)
    assistant.languages = assistant.languages or probe_languages(assistant.engine)
    app = create_app(assistant, settings, auth=auth, consultant=consultant, mode=mode)
    app.state.server.defaults = assistant.sampling
    told = add_feedback(app, options, partial(open_feedback, options))
    add_page(app, options, access=access, accounts=accounts)
    if options.feedback and not told:
        print(f"No feedback is taken, since it could not be masked: {install('clean')}.", flush=True)
    if options.file_bytes and not reads_files(options):
        print(f"No files can be attached to questions: {install('documents')}.", flush=True)
    with bind_socket(options.host, options.port) as listening:
        listening.listen()  # who opens the page at once waits for it
        print(f"CareLlama is at {url_of(listening, options.scheme)}; Ctrl-C ends it.", flush=True)
        for line in notes(options, accounts):
            print(line, flush=True)
        if options.share:
            address = open_tunnel(listening.getsockname()[1])
            print(f"Everybody who has {WHO_REACHES[access.kind]} reaches it at {address}", flush=True)
        run(settings, lambda: app, listening)


def notes(options: WebOptions, accounts: Accounts | None) -> list[str]:
    """Return what the operator of a page with accounts has to know at its start."""
    if accounts is None:
        return []
    from carellama.store.accounts import list_accounts
    from carellama.store.invitations import list_invitations

    found = []
    if not any(one.role == "admin" and one.disabled is None for one in list_accounts(accounts.database)):
        place = f" --database {options.database}" if options.database and "://" not in options.database else ""
        invited = any(one.role == "admin" for one in list_invitations(accounts.database))
        state = "; the invitation that there is can be used" if invited else ""
        command = f"carellama accounts invite --role admin{place}"
        found.append(f"There is no administrator who can log in: `{command}` invites one{state}.")
    if options.reached and options.scheme == "http" and not options.proxies and not options.share:
        found.append(
            "Passwords pass the network unencrypted: give --ssl_certfile and --ssl_keyfile, or put a proxy with TLS "
            "before it and name it by --trusted_proxies."
        )
    return found


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
