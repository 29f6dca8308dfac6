"""Feedback on the page, in a real browser: nothing is sent before consent, and what was sent can be withdrawn."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from api_server import Running, running, until
from carellama.config.serve import WebOptions
from carellama.engine.scripted import ScriptedEngine
from carellama.serve.web.app import add_page
from carellama.serve.web.feedback import add_feedback, open_feedback
from page_site import DESKTOP, MARKS, PHONE, Visitor, browser, check_page, visit

pytestmark = MARKS
__all__ = ["browser", "visit"]


@contextmanager
def judged_site(folder: Path, engine: ScriptedEngine | None = None) -> Iterator[tuple[Running, WebOptions]]:
    """A page that takes feedback into a database of the folder."""
    options = WebOptions(profile="patient", database=str(folder / "f.db"))

    def extend(app: Any) -> None:
        add_feedback(app, options, lambda: open_feedback(options))
        add_page(app, options)

    with running(engine or ScriptedEngine("Take 1~2 tablets."), extend=extend) as server:
        yield server, options


def stored(options: WebOptions) -> list[Any]:
    return list(open_feedback(options).read())


def test_an_answer_without_words_is_not_copied_judged_or_read(visit: Callable[..., Visitor], tmp_path: Path) -> None:
    engine = ScriptedEngine("Take 1~2 tablets.", token_seconds=5.0)
    with judged_site(tmp_path, engine) as (server, _):
        one = visit(server)
        one.ask("How many?")
        one.page.get_by_role("button", name="Stop", exact=True).click()
        one.page.get_by_text("You stopped this answer.").wait_for()
        again = one.page.get_by_role("button", name="Ask again")
        again.wait_for()
        tools = one.page.get_by_role("article").last.get_by_role("button")
        assert tools.all_inner_texts() == ["Ask again"]
        engine.token_seconds = 0.0
        again.click()
        one.page.get_by_role("button", name="Good answer").wait_for()
        assert {"Copy", "Read aloud"} <= set(tools.all_inner_texts())


def test_feedback_is_sent_with_consent_alone_and_withdrawn(visit: Callable[..., Visitor], tmp_path: Path) -> None:
    with judged_site(tmp_path) as (server, options):
        one = visit(server)
        sent: list[str] = []
        one.page.on("request", lambda request: sent.append(f"{request.method} {request.url}"))
        one.ask("My name is John Smith. How many tablets?")
        down = one.page.get_by_role("button", name="Bad answer")
        down.wait_for()
        down.focus()
        one.page.keyboard.press("Enter")  # by keyboard
        dialog = one.page.get_by_role("dialog")
        dialog.get_by_text("I agree that this is stored").wait_for()
        consent = dialog.get_by_role("checkbox", name=re.compile("^I agree"))
        send = dialog.get_by_role("button", name="Send feedback")
        assert not consent.is_checked() and send.is_disabled()
        check_page(one.page)
        dialog.get_by_role("checkbox", name=re.compile("^Unsafe")).check()
        dialog.get_by_label("How should the answer have been?").fill("Ask your pharmacist.")
        assert not [url for url in sent if "feedback" in url] and not Path(str(options.database)).exists()
        consent.check()
        send.click()
        one.page.get_by_role("button", name="Withdraw").wait_for(timeout=60_000)
        assert down.get_attribute("aria-pressed") == "true"
        (found,) = stored(options)
        assert found["rating"] == "down" and found["reasons"] == ["unsafe"] and found["answer"] == "Take 1~2 tablets."
        assert found["correction"] == "Ask your pharmacist." and "John Smith" not in str(found)
        one.page.reload()  # the right to withdraw stays
        one.page.get_by_role("button", name="Withdraw").click()
        one.page.get_by_role("button", name="Withdraw").wait_for(state="detached")
        until(lambda: stored(options) == [])
        assert one.page.get_by_role("button", name="Bad answer").get_attribute("aria-pressed") == "false"


def test_a_thumb_without_a_form_is_said_not_to_be_sent(visit: Callable[..., Visitor], tmp_path: Path) -> None:
    with judged_site(tmp_path) as (server, options):
        one = visit(server)
        one.ask("How many tablets?")
        one.page.get_by_role("button", name="Bad answer").click()
        one.page.get_by_role("dialog").wait_for()
        one.page.keyboard.press("Escape")
        one.page.get_by_text("Not sent.").wait_for()
        assert not Path(str(options.database)).exists()
        one.page.get_by_role("button", name="Send with a reason").click()
        one.page.get_by_role("dialog").get_by_text("I agree that this is stored").wait_for()


STATES: dict[str, dict[str, Any]] = {
    "phone": {"size": PHONE, "locale": "zh-CN", "color_scheme": "dark"},
    "small": {"size": {"width": 320, "height": 568}},
    "desktop": {"size": DESKTOP, "forced_colors": "active"},
}


@pytest.mark.parametrize("state", STATES)
def test_the_form_is_whole_and_accessible(visit: Callable[..., Visitor], tmp_path: Path, state: str) -> None:
    with judged_site(tmp_path) as (server, _):
        one = visit(server, **STATES[state])
        one.ask("How many tablets?")
        one.page.get_by_role("button", name=re.compile("^(Bad answer|回答得不好)$")).click()
        one.page.get_by_role("dialog").get_by_role("checkbox").last.wait_for()
        check_page(one.page)
        one.page.keyboard.press("Escape")
        check_page(one.page)


def test_no_thumbs_where_no_feedback_is_taken(visit: Callable[..., Visitor], tmp_path: Path) -> None:
    options = WebOptions(profile="patient", feedback=False)
    with running(ScriptedEngine("ok"), extend=lambda app: add_page(app, options)) as server:
        one = visit(server)
        one.ask("How many tablets?")
        one.page.get_by_role("button", name="Ask again").wait_for()
        assert not one.page.get_by_role("button", name="Bad answer").count()
