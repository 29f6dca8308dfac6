"""The page without a network, on paper, with colours of the system and without motion."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from api_server import running, until
from carellama.assistant import Assistant
from carellama.config.serve import WebOptions
from carellama.engine.scripted import ScriptedEngine
from carellama.serve.web.app import add_page
from carellama.serve.web.page_files import STATIC
from page_site import DESKTOP, MARKS, Visitor, browser, site, visit

pytestmark = MARKS
AGAIN = re.compile("^Ask again")
CONTROLLED = "navigator.serviceWorker.ready.then(() => true)"


def test_the_manifest_makes_it_installable(visit: Callable[..., Visitor]) -> None:
    with site(ScriptedEngine("ok")) as server:
        one = visit(server)
        assert one.page.evaluate(CONTROLLED)
        session = one.context.new_cdp_session(one.page)
        found = session.send("Page.getAppManifest")
        assert found["errors"] == []
        manifest = json.loads(found["data"])
        assert manifest["start_url"] == "/" and manifest["display"] == "standalone"
        sizes = {(icon["sizes"], icon.get("purpose", "any")) for icon in manifest["icons"]}
        assert {("192x192", "any"), ("512x512", "any"), ("512x512", "maskable")} <= sizes
        for icon in manifest["icons"]:
            assert one.page.request.get(server.url + icon["src"]).ok, icon
        errors = session.send("Page.getInstallabilityErrors")["installabilityErrors"]
        assert [error["errorId"] for error in errors if error["errorId"] != "in-incognito"] == []


def test_offline_what_was_said_can_be_read_and_a_question_is_kept(visit: Callable[..., Visitor]) -> None:
    with site(ScriptedEngine("Rest and drink.")) as server:
        one = visit(server)
        page = one.page
        assert page.evaluate(CONTROLLED)
        one.ask("About a cold")
        page.get_by_role("button", name=AGAIN).wait_for()
        page.reload()  # now the worker is in charge
        page.get_by_role("article").get_by_text("Rest and drink.").wait_for()
        kept = page.evaluate("caches.keys().then((names) => caches.open(names[0])).then((one) => one.keys())"
                             ".then((all) => all.map((one) => new URL(one.url).pathname))")  # fmt: skip
        assert "/" in kept and not [path for path in kept if path.startswith(("/web", "/v1", "/c/"))]
        one.context.set_offline(True)
        page.reload()
        page.get_by_role("article").get_by_text("Rest and drink.").wait_for()
        page.get_by_text(re.compile("You are offline")).wait_for()
        one.ask("A question without a network")
        page.get_by_role("alert").get_by_text(re.compile("could not be reached")).wait_for()
        assert page.get_by_role("textbox", name="Your question").input_value() == "A question without a network"
        page.wait_for_timeout(500)  # drafts are written 0.3 s after the last sign
        page.reload()
        page.get_by_role("article").get_by_text("Rest and drink.").wait_for()
        box = page.get_by_role("textbox", name="Your question")
        playwright_value = box.evaluate("(one) => new Promise((done) => setTimeout(() => done(one.value), 300))")
        assert playwright_value == "A question without a network", "the draft outlives the page"
        one.context.set_offline(False)


def test_a_new_version_is_taken_up_at_the_next_load(visit: Callable[..., Visitor], tmp_path: Path) -> None:
    """The page asks the network first: whoever reloads has the new one, and the old files are forgotten."""
    folder = tmp_path / "static"
    shutil.copytree(STATIC, folder)
    page_of = lambda app: add_page(app, WebOptions(profile="patient"), folder)  # noqa: E731
    with running(Assistant(ScriptedEngine("ok")), extend=page_of) as server:
        one = visit(server)
        page = one.page
        assert page.evaluate(CONTROLLED)
        page.reload()
        page.get_by_role("textbox").first.wait_for()
        before = page.evaluate("caches.keys()")
        assert len(before) == 1
        for name, old, new in (
            ("index.html", "<title>CareLlama", "<title>New CareLlama"),
            ("sw.js", before[0], "carellama-new"),
        ):
            text = (folder / name).read_text(encoding="utf-8")
            assert old in text
            (folder / name).write_text(text.replace(old, new), encoding="utf-8")
        response = page.reload()
        assert response is not None and "New CareLlama" in response.text()
        until(lambda: page.evaluate("caches.keys()") == ["carellama-new"])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_on_paper(visit: Callable[..., Visitor], scheme: str, tmp_path: Path) -> None:
    """All of the conversation with notices and numbers, black on white; nothing to click."""
    answer = "Please call.\n\n" + "A line of the answer.\n\n" * 120 + "The last line."
    with site(ScriptedEngine(answer)) as server:
        one = visit(server, color_scheme=scheme)
        page = one.page
        one.ask("My chest hurts and my left arm is numb.")
        page.get_by_role("button", name=AGAIN).wait_for()
        page.emulate_media(media="print", color_scheme=scheme)
        assert page.get_by_role("button").count() == 0 and not page.get_by_role("navigation").is_visible()
        assert not page.get_by_role("textbox").is_visible()
        notice = page.locator("article section.emergency")
        assert notice.is_visible() and "120" in notice.inner_text()
        colours = page.evaluate(
            "[...document.querySelectorAll('main *')].filter((one) => one.checkVisibility())"
            ".map((one) => getComputedStyle(one).color)"
        )
        assert len(colours) > 100 and set(colours) <= {"rgb(0, 0, 0)", "rgb(51, 51, 51)"}
        file = tmp_path / "page.pdf"
        page.pdf(path=str(file), prefer_css_page_size=True)
        text = read_pdf(file)
        assert text.count("A line of the answer.") == 120 and "The last line." in text
        assert "My chest hurts" in text and "120" in text and "not replace a doctor" in text.replace("\n", " ")
        for word in ("Ask again", "Copy", "Send", "New conversation"):
            assert word not in text


def read_pdf(file: Path) -> str:
    """The text of a PDF."""
    pdfium = pytest.importorskip("pypdfium2")
    document = pdfium.PdfDocument(file)
    try:
        return "\n".join(page.get_textpage().get_text_range() for page in document)
    finally:
        document.close()


def test_colours_of_the_system_and_no_motion(visit: Callable[..., Visitor]) -> None:
    with site(ScriptedEngine("word " * 400, token_seconds=0.02)) as server:
        one = visit(server, DESKTOP, forced_colors="active", reduced_motion="reduce")
        page = one.page
        one.ask("My chest hurts and my left arm is numb.")
        page.get_by_role("alert").wait_for()
        page.get_by_text("word word").first.wait_for()
        moving = "document.getAnimations().length"
        assert page.locator("svg.turning").count() and page.evaluate(moving) == 0
        notice = page.locator("article section.emergency")
        border = notice.evaluate("(one) => getComputedStyle(one).borderTopWidth")
        assert border == "2px", "where colours are gone, a border tells it"
        call = page.get_by_role("link", name="Call 120", exact=True)
        assert call.is_visible() and call.evaluate("(one) => getComputedStyle(one).borderTopStyle") == "solid"
        bordered = page.get_by_role("button", name="Stop").evaluate("(one) => getComputedStyle(one).borderTopColor")
        assert bordered not in ("rgba(0, 0, 0, 0)", "transparent")
        page.get_by_role("button", name="Stop").click()
        moved = visit(server)
        moved.ask("Hello")
        moved.page.locator("svg.turning").first.wait_for()
        assert moved.page.evaluate(moving) > 0, "with motion it turns"
        moved.page.get_by_role("button", name="Stop").click()
