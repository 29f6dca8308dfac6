"""Conversations on the page: addresses, tabs, branches and what is kept; adapters, consultations, the queue, speech.

Needs Debian's `chromium`; without it these tests are skipped.
"""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from api_server import until
from carellama.assistant import Assistant, Consultant
from carellama.config.serve import WebOptions
from carellama.consultation.interview import Interview
from carellama.engine.scripted import ScriptedEngine
from carellama.safety.layer import SafetyLayer
from page_site import MARKS, QUESTION, Visitor, browser, site, visit

pytestmark = MARKS
SPEECH = """() => { window.spoken = []
  SpeechSynthesis.prototype.speak = (speech) => window.spoken.push([speech.lang, speech.text]) }"""


def heard() -> ScriptedEngine:
    """An engine that says what it heard."""
    return ScriptedEngine(lambda messages: f"heard {messages[-1].content}")


def said(page: Any, text: str) -> None:
    """Wait until the conversation says so."""
    page.get_by_role("article").get_by_text(text, exact=True).last.wait_for()


def test_addresses_back_reload_and_two_tabs_agree(visit: Callable[..., Visitor]) -> None:
    with site(heard()) as server:
        one = visit(server)
        page = one.page
        one.ask("About asthma")
        said(page, "heard About asthma")
        asthma = page.url
        page.get_by_role("link", name="New conversation").click()
        one.ask("About gout")
        said(page, "heard About gout")
        gout = page.url
        assert asthma != gout and "/c/" in asthma
        page.go_back()
        page.go_back()
        said(page, "heard About asthma")
        assert page.url == asthma
        page.go_forward()
        page.go_forward()
        said(page, "heard About gout")
        page.reload()
        said(page, "heard About gout")
        second = one.open(gout.removeprefix(server.url))
        second.get_by_role("textbox", name=QUESTION).fill("And its causes?")
        second.keyboard.press("Enter")
        said(page, "heard And its causes?")  # asked in the other tab
        page.get_by_role("button", name="More: About gout").click()
        page.get_by_role("button", name="Rename").click()
        page.keyboard.type("Joints")
        page.keyboard.press("Enter")
        second.get_by_role("link", name="Joints").wait_for()
        page.get_by_role("button", name="More: Joints").click()
        page.get_by_role("button", name="Delete", exact=True).click()
        second.get_by_text("not in this browser").wait_for()
        page.get_by_role("button", name="Undo").click()
        said(second, "heard About gout")


def test_after_a_restart_of_the_server_the_question_is_there_and_is_answered(
    visit: Callable[..., Visitor],
) -> None:
    with site(ScriptedEngine("word " * 3000, token_seconds=0.02), shutdown_timeout=1) as server:
        one = visit(server)
        page, port = one.page, server.port
        one.ask("About asthma")
        page.get_by_role("article").get_by_text("word word").wait_for()
    page.get_by_text("The server does not answer.").wait_for()
    with site(heard(), port=port):
        page.reload()
        page.get_by_role("article").get_by_text("word word").wait_for()  # what had arrived
        page.get_by_role("button", name="Ask again").last.click()
        said(page, "heard About asthma")
        page.get_by_role("group", name="Version 2 of 2").wait_for()


@pytest.mark.parametrize(("locale", "words"), [("en-US", "The server was shut down."), ("zh-CN", "服务器已停止运行。")])
def test_an_answer_that_a_stop_of_the_server_ends_says_so(
    visit: Callable[..., Visitor], locale: str, words: str
) -> None:
    with site(ScriptedEngine("word " * 3000, token_seconds=0.02), shutdown_timeout=1) as server:
        one = visit(server, locale=locale)
        one.ask("About asthma")
        one.page.get_by_role("article").get_by_text("word word").wait_for()
        server.server.handle_exit(signal.SIGTERM, None)  # as `carellama web` gets it
        one.page.get_by_role("alert").get_by_text(words).wait_for()
        assert "word word" in one.text()


def test_with_nothing_kept_a_reload_finds_nothing_and_that_is_said(visit: Callable[..., Visitor]) -> None:
    with site(heard(), WebOptions(profile="patient", keep="nothing")) as server:
        one = visit(server)
        assert "Nothing is kept" in one.page.locator("main").inner_text()
        one.ask("About asthma")
        said(one.page, "heard About asthma")
        one.page.reload()
        one.page.get_by_text("not in this browser").wait_for()
        kept = "indexedDB.databases().then((all) => all.length + localStorage.length + sessionStorage.length)"
        assert one.page.evaluate(kept) == 0


def test_what_is_exported_comes_back_with_its_versions(visit: Callable[..., Visitor], tmp_path: Path) -> None:
    with site(heard()) as server:
        one, two = visit(server), visit(server)
        page = one.page
        one.ask("About 1~2 tablets")
        said(page, "heard About 1~2 tablets")
        page.get_by_role("button", name="Edit your question").click()
        page.locator("article textarea").fill("About 2~3 tablets")
        page.get_by_role("article").get_by_role("button", name="Send").click()
        said(page, "heard About 2~3 tablets")
        page.get_by_role("button", name="Export and import").click()
        with page.expect_download() as download:
            page.get_by_role("button", name="Save as JSON").click()
        file, lines = tmp_path / "one.json", tmp_path / "two.jsonl"
        download.value.save_as(file)
        turns = [[{"role": "user", "content": f"line {at}"}, {"role": "assistant", "content": "yes"}] for at in (1, 2)]
        lines.write_text("\n".join(json.dumps({"messages": one}) for one in turns) + "\n", encoding="utf-8")
        page = two.page
        page.get_by_role("button", name="Export and import").click()
        for path, count in ((lines, 2), (file, 1)):
            with page.expect_file_chooser() as chooser:
                page.get_by_role("button", name="Import JSON").click()
            chooser.value.set_files(str(path))
            page.get_by_text(f"Imported: {count}").wait_for()
        page.keyboard.press("Escape")
        said(page, "heard About 2~3 tablets")
        page.get_by_role("button", name="Previous version").first.click()
        said(page, "heard About 1~2 tablets")
        assert page.get_by_role("link", name=re.compile("^line ")).count() == 2


def test_two_adapters_stand_side_by_side_without_names_until_one_is_chosen(visit: Callable[..., Visitor]) -> None:
    engine = ScriptedEngine("yes", adapters=["heart", "skin"])
    with site(engine, WebOptions(profile="researcher")) as server:
        one = visit(server)
        page = one.page
        page.get_by_role("button", name="Model and sampling").click()
        page.get_by_role("combobox", name=re.compile("^Adapter")).select_option("heart")
        page.get_by_role("combobox", name=re.compile("^Compare with")).select_option("+skin")
        page.get_by_label("Blind: hide which is which").check()
        page.keyboard.press("Escape")
        one.ask("About eczema")
        choose = page.get_by_role("button", name="Go on with this one")
        choose.nth(1).wait_for()
        names = page.get_by_role("article").get_by_role("heading").all_inner_texts()
        assert names == ["You", "Answer A", "Answer B"]
        assert "carellama:" not in one.text()
        choose.first.click()
        page.get_by_role("button", name="Chosen").wait_for()
        names = sorted(
            name.split(": ")[1] for name in page.get_by_role("article").get_by_role("heading").all_inner_texts()[1:]
        )
        assert names == ["carellama:heart", "carellama:skin"]
        assert len(engine.asked) == 2


def test_a_consultation_shows_what_was_told_and_its_report(visit: Callable[..., Visitor]) -> None:
    engine, layer = heard(), SafetyLayer("on", "CN")
    consultant = Consultant(Assistant(engine, safety=layer), Interview(layer, max_questions=2))
    with site(engine, consultant=consultant, mode="consult") as server:
        one = visit(server)
        page = one.page
        assert page.get_by_label("How to answer").input_value() == "consult"
        for number, words in enumerate(("I have had a toothache.", "For two days.", "I am 34, a man.")):
            one.ask(words)
            page.get_by_role("article").nth(2 * number + 1).get_by_role("button", name="Copy").wait_for()
        page.get_by_text("What was told so far").first.click()
        assert "toothache" in page.locator("details[open]").inner_text()
        page.get_by_text("Summary of the consultation").click()
        page.locator("details[open]").get_by_text("How urgent").wait_for()
        assert engine.asked == []


def test_the_place_in_the_queue_is_told(visit: Callable[..., Visitor]) -> None:
    engine = ScriptedEngine("word " * 3000, token_seconds=0.02, parallel=1)
    with site(engine, queue=4) as server:
        one, two, three = visit(server), visit(server), visit(server)
        one.ask("first")
        until(lambda: engine.running == 1)
        two.ask("second")
        two.page.get_by_text(re.compile(r"Yours is next\. About \d+ s\.")).wait_for()
        three.ask("third")
        three.page.get_by_text(re.compile(r"Answers before yours: 1\. About \d+ s\.")).wait_for()
        for visitor in (three, two, one):
            visitor.page.get_by_role("button", name="Stop").click()
        until(lambda: engine.running == 0)


def test_an_answer_is_read_aloud_in_its_language_without_marks(visit: Callable[..., Visitor]) -> None:
    with site(ScriptedEngine("每次 **1~2 片**。")) as server:
        one = visit(server)
        one.page.evaluate(SPEECH)
        one.ask("How many?")
        one.page.get_by_role("button", name="Read aloud").click()
        (language, text), (of_disclaimer, disclaimer) = one.page.evaluate("window.spoken")
        assert language.startswith("zh") and "1~2" in text and "*" not in text
        assert of_disclaimer == "en" and "does not replace a doctor" in disclaimer
        one.page.get_by_role("button", name="Stop reading").wait_for()
