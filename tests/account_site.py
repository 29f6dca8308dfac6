"""A page with accounts over a scripted engine, and persons who use it by HTTP. Not a test module itself."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

from api_server import Running, running
from carellama.config.serve import WebOptions
from carellama.engine.scripted import ScriptedEngine
from carellama.serve.web.access import Access, decide_access
from carellama.serve.web.accounts.service import Accounts, open_accounts
from carellama.serve.web.app import MAX_BODY_BYTES, add_page
from carellama.serve.web.page_files import page_paths
from carellama.store.accounts import Role
from carellama.store.invitations import create_invitation

PASSWORD = "correct horse battery"


class Clock:
    """The clock of the database, which a test moves on."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Site:
    """A page that runs, its accounts and its clock."""

    def __init__(self, server: Running, accounts: Accounts, access: Access, engine: ScriptedEngine) -> None:
        self.server, self.accounts, self.access, self.engine = server, accounts, access, engine
        self.database, self.url = accounts.database, server.url
        self.people: list[Person] = []

    def visitor(self, **settings: Any) -> Person:
        """A browser without a session."""
        self.people.append(Person(self, **settings))
        return self.people[-1]

    def person(self, name: str, role: Role = "patient", **settings: Any) -> Person:
        """A person who has accepted an invitation."""
        person = self.visitor(**settings)
        _, token = create_invitation(self.database, role)
        person.take(person.post("/web/accounts", token=token, name=name, password=PASSWORD), 201)
        return person


class Person:
    """A browser: its cookies, and the headers that it sends for a page of the site."""

    def __init__(self, site: Site, **settings: Any) -> None:
        self.site, self.id, self.name = site, "", ""
        origin = settings.pop("origin", site.url)
        self.client = httpx2.Client(base_url=site.url, timeout=20, headers={"origin": origin}, **settings)

    def take(self, response: httpx2.Response, status: int = 200) -> None:
        """Take the session of a login."""
        assert response.status_code == status, response.text
        account = response.json()["account"]
        self.id, self.name = account["id"], account["name"]
        self.client.headers["x-csrf-token"] = response.json()["csrf"]

    def log_in(self, name: str, password: str = PASSWORD) -> None:
        """Log in."""
        self.take(self.post("/web/session", name=name, password=password))

    def get(self, path: str, **settings: Any) -> httpx2.Response:
        """GET."""
        return self.client.get(path, **settings)

    def post(self, path: str, **body: Any) -> httpx2.Response:
        """POST a JSON object."""
        return self.client.post(path, json=body)

    def put(self, path: str, body: Any) -> httpx2.Response:
        """PUT JSON."""
        return self.client.put(path, json=body)

    def patch(self, path: str, **body: Any) -> httpx2.Response:
        """PATCH with a JSON object."""
        return self.client.patch(path, json=body)

    def delete(self, path: str, **body: Any) -> httpx2.Response:
        """DELETE, with a JSON object where there is any."""
        return self.client.request("DELETE", path, json=body or None)


@contextmanager
def accounts_site(folder: Path, *, engine: ScriptedEngine | None = None, **settings: Any) -> Iterator[Site]:
    """Serve a page with accounts whose files are in `folder`; `settings` are those of `WebOptions`."""
    static = folder / "static"
    (static / "assets").mkdir(parents=True)
    (static / "index.html").write_text("<!doctype html><title>CareLlama</title>", encoding="utf-8")
    (static / "assets" / "app-1a2b.js").write_text("0", encoding="utf-8")
    answering = engine or ScriptedEngine(lambda messages: f"heard {messages[-1].content}")
    options = WebOptions(access="accounts", **{"database": str(folder / "accounts.db"), **settings})
    access = decide_access(options)
    accounts = open_accounts(access, options, page_paths(static))
    accounts.database._clock = Clock()

    def extend(app: Any) -> None:
        add_page(app, options, static, access=access, accounts=accounts)

    with running(answering, auth=accounts.auth, extend=extend, max_body_bytes=MAX_BODY_BYTES) as server:
        site = Site(server, accounts, access, answering)
        try:
            yield site
        finally:
            for person in site.people:
                person.client.close()
    accounts.auth.close()


def conversation(id: str = "", **fields: Any) -> dict[str, Any]:
    """A conversation as the page keeps it."""
    return {"id": id or secrets.token_urlsafe(12), "title": "A cough", "pinned": False, **fields}


def message(id: str, of: str, text: str) -> dict[str, Any]:
    """A message as the page keeps it."""
    return {"id": id, "conversation": of, "role": "user", "segments": [{"text": text, "notices": []}]}
