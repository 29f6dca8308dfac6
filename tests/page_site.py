"""The page in a real browser, for tests: a site over a scripted engine, visitors, what axe finds.

    from page_site import MARKS, browser, site, visit
    pytestmark = MARKS

Needs Debian's `chromium`; without it these tests are skipped. Not a test module itself.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from api_server import Running, running
from carellama.assistant import Assistant
from carellama.config.serve import WebOptions
from carellama.safety.layer import SafetyLayer
from carellama.serve.web.app import add_page

playwright = pytest.importorskip("playwright.sync_api", reason="the page is tested with playwright")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="accessibility is tested with axe")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MARKS = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="the page is tested in chromium, which is not installed"),
]
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 800}
QUESTION = re.compile("Your question|您的问题")


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser while the block runs."""
    with playwright.sync_playwright() as driver:
        one = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield one
        one.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as one:
        yield one


@contextmanager
def site(engine: Any, options: WebOptions | None = None, *, country: str = "CN", **settings: Any) -> Iterator[Running]:
    """Serve the built page over an engine."""
    given = options or WebOptions(profile="patient")
    assistant = Assistant(engine, safety=SafetyLayer("on", country))
    settings = {"max_new_tokens": 10_000, **settings}
    with running(assistant, extend=lambda app: add_page(app, given), **settings) as one:
        yield one


class Visitor:
    """One browser with its own storage; what goes wrong in its pages is kept in `faults`."""

    def __init__(self, browser: Any, server: Running, size: dict[str, int] | None = None, **settings: Any) -> None:
        self.context = browser.new_context(viewport=size or DESKTOP, **settings)
        self.server, self.faults = server, list[str]()
        self.page = self.open("/")

    def open(self, path: str) -> Any:
        """A new tab."""
        page = self.context.new_page()
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("dialog", self._refuse)
        page.goto(self.server.url + path)
        page.get_by_role("textbox", name=QUESTION).wait_for()
        return page

    def _refuse(self, dialog: Any) -> None:
        self.faults.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def ask(self, question: str) -> None:
        """Type a question and send it."""
        self.page.get_by_role("textbox", name=QUESTION).fill(question)
        self.page.keyboard.press("Enter")

    def text(self, page: Any = None) -> str:
        """What the conversation shows."""
        return "\n".join((page or self.page).get_by_role("article").all_inner_texts())


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Visitor]]:
    """Makes visitors; their pages must have had no error at the end."""
    made: list[Visitor] = []

    def enter(server: Running, size: dict[str, int] | None = None, **settings: Any) -> Visitor:
        made.append(Visitor(browser, server, size, **settings))
        return made[-1]

    yield enter
    for one in made:
        one.context.close()
    assert [one.faults for one in made] == [[] for _ in made] and made


def check_page(page: Any) -> None:
    """No serious finding, and no sideways scrolling of the page."""
    found = axe.Axe().run(page).response["violations"]
    serious = [
        (one["id"], [node["target"] for node in one["nodes"]])
        for one in found
        if one["impact"] in ("serious", "critical")
    ]
    assert not serious, serious
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth + 1")
