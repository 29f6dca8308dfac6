"""A page with accounts in a real browser, for tests: the site, and people with devices of their own.

    with accounts_page(tmp_path) as (server, database):
        ana = people.device(server)
        ana.create(invite(database), "Ana")

Not a test module itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from api_server import Running, running
from carellama.assistant import Assistant
from carellama.config.serve import WebOptions
from carellama.engine.scripted import ScriptedEngine
from carellama.safety.layer import SafetyLayer
from carellama.serve.web.access import decide_access
from carellama.serve.web.accounts.service import open_accounts
from carellama.serve.web.app import MAX_BODY_BYTES, add_page
from carellama.store.accounts import Role
from carellama.store.database import Database
from carellama.store.invitations import create_invitation
from page_site import DESKTOP

PASSWORD = "correct horse battery"
QUESTION = re.compile("Your question|您的问题")


@contextmanager
def accounts_page(folder: Path, engine: Any = None, **settings: Any) -> Iterator[tuple[Running, Database]]:
    """Serve the built page with accounts over a scripted engine, which says what it heard."""
    options = WebOptions(access="accounts", database=str(folder / "accounts.db"), **settings)
    access = decide_access(options)
    accounts = open_accounts(access, options)
    answering = engine or ScriptedEngine(lambda messages: f"heard {messages[-1].content}")
    assistant = Assistant(answering, safety=SafetyLayer("on", "CN"))

    def extend(app: Any) -> None:
        add_page(app, options, access=access, accounts=accounts)

    limits: dict[str, Any] = {"max_new_tokens": 10_000, "max_body_bytes": MAX_BODY_BYTES}
    with running(assistant, auth=accounts.auth, extend=extend, **limits) as server:
        yield server, accounts.database
    accounts.auth.close()


def invite(database: Database, role: Role = "patient", account_id: str | None = None) -> str:
    """The path of a new invitation, with its token."""
    return f"/invite#{create_invitation(database, role, account_id=account_id)[1]}"


class Device:
    """One browser with its own storage; what goes wrong in its pages is kept in `faults`."""

    def __init__(self, browser: Any, server: Running, size: dict[str, int] | None = None, **settings: Any) -> None:
        self.context = browser.new_context(viewport=size or DESKTOP, **settings)
        self.server, self.faults = server, list[str]()
        self.page: Any = None

    def open(self, path: str = "/") -> Any:
        """A new tab."""
        self.page = self.context.new_page()
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("dialog", self._refuse)
        self.page.goto(self.server.url + path)
        return self.page

    def _refuse(self, dialog: Any) -> None:
        self.faults.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def fill(self, name: str, password: str = PASSWORD) -> None:
        """Fill in name and password."""
        self.page.get_by_role("textbox", name=re.compile("^(Name|用户名)")).fill(name)
        self.page.get_by_label(re.compile("^(Password|New password|密码|新密码)$")).fill(password)

    def create(self, path: str, name: str, password: str = PASSWORD) -> Any:
        """Accept an invitation."""
        self.open(path)
        self.fill(name, password)
        self.page.get_by_role("button", name=re.compile("Create account|创建账户")).click()
        return self.arrive()

    def log_in(self, name: str, path: str = "/", password: str = PASSWORD) -> Any:
        """Log in at an address."""
        self.open(path)
        self.fill(name, password)
        self.page.get_by_role("button", name=re.compile("^(Log in|登录)$")).click()
        return self.arrive()

    def arrive(self) -> Any:
        """Wait for the page itself."""
        self.page.get_by_role("textbox", name=QUESTION).wait_for()
        return self.page

    def ask(self, question: str) -> None:
        """Type a question and send it."""
        self.page.get_by_role("textbox", name=QUESTION).fill(question)
        self.page.keyboard.press("Enter")

    def dialog(self, admin: bool = False) -> Any:
        """Open the dialog of the account, or that of administrators."""
        self.page.get_by_role("button", name=re.compile("^(Account|账户)[:：]")).click()
        if admin:
            self.page.get_by_role("button", name=re.compile("Accounts and invitations|账户与邀请")).click()
            self.page.get_by_role("heading", name=re.compile("Open invitations|有效的邀请")).wait_for()
        return self.page.get_by_role("dialog")

    def body(self) -> str:
        """All words that the page shows."""
        return str(self.page.locator("body").inner_text())


@pytest.fixture
def device(browser: Any) -> Iterator[Callable[..., Device]]:
    """Makes devices; their pages must have had no error at the end."""
    made: list[Device] = []

    def take(server: Running, size: dict[str, int] | None = None, **settings: Any) -> Device:
        made.append(Device(browser, server, size, **settings))
        return made[-1]

    yield take
    for one in made:
        one.context.close()
    assert [one.faults for one in made] == [[] for _ in made] and made
