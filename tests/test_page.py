"""The page in a real browser: nothing is lost, nothing runs that should not, and everybody can use it.

Needs Debian's `chromium`; without it these tests are skipped.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from api_server import until
from carellama.config.serve import WebOptions
from carellama.engine.scripted import ScriptedEngine
from carellama.serve.web.page_files import STATIC
from page_site import MARKS, PHONE, Visitor, browser, check_page, site, visit

pytestmark = MARKS
DOSES = "成人每次1~2片，每日2~3次；5*10mg，2**3，H_2O，pH<7.35，> 38.5℃，10%~20%。"


def test_a_reload_in_the_middle_of_an_answer_loses_nothing(visit: Callable[..., Visitor]) -> None:
    answer = " ".join(f"word{number}" for number in range(120))
    engine = ScriptedEngine(answer, token_seconds=0.004)
    with site(engine) as server:
        one = visit(server)
        one.ask("What is asthma?")
        one.page.get_by_text("word5 ").first.wait_for()
        assert "/c/" in one.page.url
        one.page.reload()
        one.page.get_by_text("word119").first.wait_for(timeout=20_000)
        second = one.open(one.page.url.removeprefix(server.url))  # another tab
        second.get_by_text("word119").first.wait_for()
        for page in (one.page, second):
            shown = re.findall(r"word\d+", one.text(page))
            assert shown == answer.split(), "each word once and in order"
        assert len(engine.asked) == 1


def test_a_gap_in_the_network_loses_nothing(visit: Callable[..., Visitor]) -> None:
    answer = " ".join(f"word{number}" for number in range(150))
    with site(ScriptedEngine(answer, token_seconds=0.004)) as server:
        one = visit(server)
        one.ask("What is asthma?")
        one.page.get_by_text("word5 ").first.wait_for()
        one.context.set_offline(True)
        one.page.get_by_text(re.compile("offline|connection was lost", re.IGNORECASE)).first.wait_for()
        assert "word5" in one.text(), "what had arrived stays"
        one.context.set_offline(False)
        one.page.get_by_text("word149").first.wait_for(timeout=30_000)
        assert re.findall(r"word\d+", one.text()) == answer.split()


def test_an_answer_that_the_server_has_lost_keeps_what_had_arrived(visit: Callable[..., Visitor]) -> None:
    with site(ScriptedEngine("word " * 2000, token_seconds=0.01)) as server:
        one = visit(server)
        one.ask("What is asthma?")
        one.page.get_by_text("word word").first.wait_for()
        one.page.wait_for_timeout(1500)  # what has arrived is saved twice a second
        address = one.page.url
        one.page.goto("about:blank")
        answers = server.server.app.state.answers
        for id in list(answers._answers):
            answers._answers.pop(id).stop()
        one.page.goto(address)
        one.page.get_by_text(re.compile("no longer has this answer")).first.wait_for(timeout=30_000)
        assert "word word" in one.text() and one.page.get_by_role("button", name="Ask again").first.is_visible()


def test_an_answer_that_was_cut_goes_on_where_it_stopped(visit: Callable[..., Visitor]) -> None:
    engine = ScriptedEngine(["Drink water and take long walks.", "exercise daily."])
    with site(engine, WebOptions(profile="researcher")) as server:
        one = visit(server)
        one.page.get_by_role("button", name="Model and sampling").click()
        one.page.get_by_label("Most tokens of an answer").fill("15")
        one.page.keyboard.press("Escape")
        one.ask("What helps against high blood pressure?")
        one.page.get_by_text("The answer reached its longest length.").wait_for()
        one.page.get_by_role("button", name="Continue", exact=True).click()
        # neither refused nor behind the disclaimer
        one.page.get_by_role("article").get_by_text("Drink water and exercise daily.").wait_for()
        assert one.text().index("exercise") < one.text().index("does not replace a doctor")


@pytest.mark.parametrize("doses", [DOSES, "Take 1~2 tablets, 5*10mg or 3*20mg (P<0.05*), 1_000 units, 2.5–5 mg q8h."])
def test_doses_are_shown_as_written_both_ways(visit: Callable[..., Visitor], doses: str) -> None:
    with site(ScriptedEngine(lambda messages: messages[-1].content)) as server:
        one = visit(server)
        one.ask(doses)
        one.page.get_by_role("button", name=re.compile("^Ask again")).first.wait_for()
        shown = one.text().replace(" ", "")
        assert shown.count(doses.replace(" ", "")) == 2
        assert not one.page.locator("main del, main em, main strong, main blockquote").count()


def test_a_notice_of_an_emergency_stands_before_the_answer_and_can_be_dialled(visit: Callable[..., Visitor]) -> None:
    with site(ScriptedEngine("请立即就医。")) as server:
        one = visit(server, PHONE, locale="zh-CN")
        one.ask("胸口压着疼，一身冷汗")
        alert = one.page.get_by_role("alert").first
        alert.wait_for()
        one.page.get_by_role("article").get_by_text("请立即就医。").wait_for()
        assert one.page.locator('a[href="tel:120"]').count()
        assert one.page.evaluate("document.documentElement.lang").startswith("zh")
        answer = one.page.get_by_role("article").get_by_text("请立即就医。").bounding_box()
        assert alert.bounding_box()["y"] < answer["y"]


ATTACKS = [
    "<script>alert(1)</script>", "<img src=x onerror=alert(2)>", "[x](javascript:alert(3))", "<svg onload=alert(4)>",
    "![x](https://example.org/p.png)", "<a href='javascript:alert(5)'>x</a>", "<style>body{display:none}</style>",
    "<iframe srcdoc='<script>parent.alert(6)</script>'></iframe>", "<b onmouseover=alert(7)>x</b>",
    "<base href=//e.example>",
]  # fmt: skip


def test_nothing_in_a_question_or_an_answer_runs_or_loads(visit: Callable[..., Visitor]) -> None:
    with site(ScriptedEngine(lambda messages: messages[-1].content)) as server:
        one = visit(server)
        loaded: list[str] = []
        one.page.on("request", lambda request: loaded.append(request.url))
        for number, attack in enumerate(ATTACKS):
            one.ask(attack)
            one.page.get_by_role("button", name=re.compile("^Ask again")).nth(number).wait_for()
            alive = "main script, main img, main iframe, main style, main [onerror], main base"
            assert not one.page.locator(alive).count(), attack
            links = one.page.locator("main a").evaluate_all("all => all.map(one => one.getAttribute('href') || '')")
            assert all(href.startswith(("http://", "https://", "mailto:", "tel:", "/")) for href in links), links
        assert loaded and not [url for url in loaded if not url.startswith(server.url)]


def test_two_persons_never_see_each_others_words(visit: Callable[..., Visitor]) -> None:
    with site(ScriptedEngine(lambda messages: f"heard {messages[-1].content}")) as server:
        one, two = visit(server), visit(server)
        one.ask("my own secret")
        one.page.get_by_text("heard my own secret").first.wait_for()
        two.ask("another question")
        two.page.get_by_text("heard another question").first.wait_for()
        other = two.context.new_page()
        other.goto(one.page.url)
        other.get_by_text("not in this browser").wait_for()
        for page in (other, two.page):
            assert "secret" not in page.locator("body").inner_text()


def test_patients_see_no_sampling_and_researchers_do(visit: Callable[..., Visitor]) -> None:
    with site(ScriptedEngine("ok")) as server:
        assert "emperature" not in visit(server).page.content()
    with site(ScriptedEngine("ok"), WebOptions(profile="researcher")) as server:
        one = visit(server)
        one.page.get_by_role("button", name="Model and sampling").click()
        assert one.page.get_by_label("Temperature").first.is_visible()


def test_a_full_queue_keeps_the_question(visit: Callable[..., Visitor]) -> None:
    engine = ScriptedEngine("word " * 3000, token_seconds=0.02, parallel=1)
    with site(engine, queue=0) as server:
        one, two = visit(server), visit(server)
        one.ask("first")
        until(lambda: engine.running == 1)
        two.ask("second question")
        two.page.get_by_text(re.compile("still in the box")).wait_for()
        assert two.page.get_by_role("textbox", name="Your question").input_value() == "second question"
        one.page.get_by_role("button", name="Stop").click()
        until(lambda: engine.running == 0)


def test_a_conversation_is_asked_stopped_and_found_again_by_keyboard_alone(visit: Callable[..., Visitor]) -> None:
    engine = ScriptedEngine("word " * 3000, token_seconds=0.02)
    with site(engine) as server:
        one = visit(server)
        keyboard = one.page.keyboard
        for _ in range(40):
            if one.page.evaluate("document.activeElement.tagName") == "TEXTAREA":
                break
            keyboard.press("Tab")
        keyboard.type("How do I treat a cold?")
        keyboard.press("Enter")
        one.page.get_by_text("word word").first.wait_for()
        for _ in range(60):
            if (
                one.page.evaluate("document.activeElement.matches('button') && document.activeElement.innerText")
                == "Stop"
            ):
                break
            keyboard.press("Tab")
        keyboard.press("Enter")
        until(lambda: engine.running == 0)
        one.page.get_by_text("You stopped this answer.").wait_for()
        assert one.page.get_by_role("link", name=re.compile("How do I treat a cold")).count() == 1


# Both languages, light and dark, phone and desktop: tests/test_page_states.py.
STATES: dict[str, dict[str, Any]] = {
    "small": {"size": {"width": 320, "height": 568}}, "contrast": {"forced_colors": "active"},
}  # fmt: skip


@pytest.mark.parametrize("state", STATES)
def test_nothing_serious_is_found_by_axe_and_nothing_is_cut(visit: Callable[..., Visitor], state: str) -> None:
    text = "Rest and drink.\n\n| a | b |\n| - | - |\n| 1 | 2 |\n\n```\ncode\n```\n\n1. one\n2. two"
    with site(ScriptedEngine(text), WebOptions(profile="researcher")) as server:
        one = visit(server, **STATES[state])
        check_page(one.page)
        one.ask("My chest hurts and my left arm is numb.")
        one.page.get_by_role("alert").first.wait_for()
        one.page.get_by_role("button", name=re.compile("^(Ask again|重新回答)")).first.wait_for()
        check_page(one.page)
        one.page.get_by_role("button", name=re.compile("^(Settings|设置)$")).click()
        check_page(one.page)


def test_what_loads_before_the_first_question_is_small(visit: Callable[..., Visitor]) -> None:
    with site(ScriptedEngine("ok")) as server:
        one = visit(server)
        one.page.wait_for_timeout(500)
        paths = one.page.evaluate("performance.getEntriesByType('resource').map(one => new URL(one.name).pathname)")
        files = [file for path in {"/index.html", *paths} if (file := STATIC / path.lstrip("/")).is_file()]
        assert len(files) >= 3
        assert sum(len(gzip.compress(file.read_bytes())) for file in files) <= 120_000
        sent = sum(one.page.evaluate("performance.getEntriesByType('resource').map(one => one.encodedBodySize)"))
        assert 0 < sent <= 120_000, "they are sent compressed"


def test_files_of_other_programs_are_imported_as_text(visit: Callable[..., Visitor], tmp_path: Path) -> None:
    file = tmp_path / "<img src=x onerror=alert(1)>.json"
    said = [
        {"from": "human", "value": "<b>Is 1~2 right?</b>"},
        {"from": "gpt", "value": "Yes <script>alert(2)</script>"},
    ]
    file.write_text(json.dumps([{"conversations": said}]), encoding="utf-8")
    with site(ScriptedEngine("ok")) as server:
        one = visit(server)
        one.page.get_by_role("button", name="Export and import").click()
        with one.page.expect_file_chooser() as chooser:
            one.page.get_by_text("Import JSON").click()
        chooser.value.set_files(str(file))
        one.page.get_by_text(re.compile("Imported: 1")).wait_for()
        one.page.keyboard.press("Escape")
        one.page.get_by_role("link", name=re.compile("Is 1~2 right")).first.click()
        one.page.get_by_text("<b>Is 1~2 right?</b>").last.wait_for()
        assert not one.page.locator("main script, main b").count()
