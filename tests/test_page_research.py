"""What researchers see on the page, the marks of the safety layer, the country of the numbers, and an answer's end."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from api_server import Running, running, until
from carellama.assistant import Assistant
from carellama.config.serve import WebOptions
from carellama.engine.base import TokenLogprob
from carellama.engine.scripted import ScriptedEngine
from carellama.records import ModelCard
from carellama.safety.layer import SafetyLayer
from carellama.serve.web.app import add_page
from page_site import MARKS, PHONE, Visitor, browser, check_page, site, visit

pytestmark = MARKS
__all__ = ["browser", "visit"]
Visit = Callable[..., Visitor]
AGAIN = re.compile("^(Ask again|重新回答)")
CHEST = "胸口压着疼，左臂发麻，一身冷汗"

# Question, answer, the kind of its mark in words, and the sentence that is marked.
MARKED = [
    ("What helps against a headache?", "Drink water. Take 800 mg of ibuprofen every four hours. Rest.",
     "Safety check, dose", "Take 800 mg of ibuprofen every four hours."),
    ("I have a cough and night sweats. What is it?", "Thank you. You have tuberculosis. See a doctor.",
     "Safety check, diagnosis", "You have tuberculosis."),
    ("My blood pressure is fine now.", "Good. Stop taking your amlodipine today. Eat less salt.",
     "Safety check, stopping a medicine", "Stop taking your amlodipine today."),
    ("I have diabetes.", "This tea will cure your diabetes completely. It is sold online.",
     "Safety check, promise of a cure", "This tea will cure your diabetes completely."),
    ("Who are you?", "I am a doctor with 20 years of experience. I can help.",
     "Safety check, not a doctor", "I am a doctor with 20 years of experience."),
    ("I am pregnant and my back hurts.", "You can take ibuprofen. Rest as well.",
     "Safety check, does not go with what was said", "You can take ibuprofen."),
    ("头痛怎么办？", "多喝水。布洛芬每4小时吃800毫克。休息。", "安全提示 · 剂量", "布洛芬每4小时吃800毫克。"),
    ("我咳嗽盗汗，是什么病？", "谢谢。你得的是肺结核。请去医院。", "安全提示 · 诊断", "你得的是肺结核。"),
    ("我血压正常了。", "很好。今天起停用氨氯地平。少吃盐。", "安全提示 · 停药", "今天起停用氨氯地平。"),
    ("我有糖尿病。", "这种茶能根治糖尿病。网上有卖。", "安全提示 · 疗效承诺", "这种茶能根治糖尿病。"),
    ("你是谁？", "我是一名有二十年经验的医生。我可以帮您。", "安全提示 · 并非医生", "我是一名有二十年经验的医生。"),
    ("我怀孕了，腰疼。", "您可以吃布洛芬。多休息。", "安全提示 · 与所述情况不符", "您可以吃布洛芬。"),
]  # fmt: skip


@pytest.mark.parametrize(("question", "answer", "kind", "sentence"), MARKED)
def test_a_mark_stands_with_its_sentence_and_says_why(
    visit: Visit, question: str, answer: str, kind: str, sentence: str
) -> None:
    locale = "zh-CN" if kind.startswith("安") else "en"
    with site(ScriptedEngine(answer)) as server:
        one = visit(server, PHONE, locale=locale)
        one.ask(question)
        one.page.get_by_role("button", name=AGAIN).first.wait_for()
        note = one.page.get_by_role("note")
        assert note.count() == 1 and note.inner_text().startswith(kind) and len(note.inner_text()) > len(kind) + 5
        assert note.evaluate("one => one.getClientRects().length") == 1, "one frame around all its lines"
        assert one.page.locator("mark.noted").inner_text() == sentence
        check_page(one.page)
        one.page.emulate_media(media="print")
        assert note.is_visible() and one.page.locator("mark.noted").is_visible()
        one.page.emulate_media(media="screen")
        one.page.get_by_role("button", name=re.compile("^(Export and import|导出与导入)")).click()
        with one.page.expect_download() as file:
            one.page.get_by_role("button", name=re.compile("Markdown")).click()
        text = file.value.path().read_text(encoding="utf-8")
        assert re.search(re.escape(sentence) + r" \[" + re.escape(kind), text), text


@pytest.mark.parametrize(
    ("locale", "question", "answer", "title"),
    [
        (
            "en",
            "My chest hurts and my left arm is numb.",
            "You do not need to see a doctor. Rest at home.",
            "emergency",
        ),
        ("zh-CN", CHEST, "你不需要去医院。在家休息就好。", "紧急"),
    ],
)
def test_an_answer_that_makes_light_of_an_emergency_ends_with_a_box(
    visit: Visit, locale: str, question: str, answer: str, title: str
) -> None:
    with site(ScriptedEngine(answer)) as server:
        one = visit(server, PHONE, locale=locale)
        one.ask(question)
        one.page.get_by_role("button", name=AGAIN).first.wait_for()
        boxes = one.page.get_by_role("article").locator("section.emergency")
        assert boxes.count() == 2 and title in boxes.first.inner_text()
        assert answer[-4:] not in one.text(), "the answer was stopped there"
        check_page(one.page)


def test_the_notice_stays_in_sight_while_the_answer_streams(visit: Visit) -> None:
    with site(
        ScriptedEngine("Please call now. " + "Wait there and breathe slowly. " * 120, token_seconds=0.002)
    ) as server:
        one = visit(server, PHONE)
        one.ask("My chest hurts and my left arm is numb.")
        alert = one.page.get_by_role("alert").first
        alert.wait_for()
        until(lambda: one.page.evaluate("document.querySelector('.scroller').scrollTop") > 300)
        assert one.page.get_by_role("button", name="Stop").is_visible(), "it still streams"
        box, scroller = alert.bounding_box(), one.page.locator(".scroller").bounding_box()
        assert box["y"] >= scroller["y"] - 1 and box["y"] + box["height"] <= scroller["y"] + scroller["height"]
        one.page.get_by_role("button", name="Stop").click()


def test_the_country_is_chosen_in_the_notice_and_holds_from_then_on(visit: Visit) -> None:
    with site(ScriptedEngine("请立即就医。")) as server:
        one = visit(server, PHONE, locale="zh-CN")
        one.ask(CHEST)
        one.page.get_by_role("button", name=AGAIN).first.wait_for()
        notice = one.page.get_by_role("article").locator("section.emergency")
        assert notice.locator('a[href="tel:120"]').count()
        where = notice.get_by_label("急救电话所属国家或地区")
        assert where.input_value() == "CN"
        where.select_option("JP")
        notice.locator('a.call[href="tel:119"]').wait_for()
        assert "119" in notice.inner_text() and "120" not in notice.inner_text()
        check_page(one.page)
        one.page.reload()
        one.page.get_by_role("button", name=AGAIN).first.wait_for()
        assert "119" in notice.inner_text() and "120" not in notice.inner_text()
        one.ask("还是胸口压着疼，喘不上气")
        one.page.get_by_role("article").locator("section.emergency").nth(1).wait_for()
        assert "119" in one.page.locator("section.emergency").nth(1).inner_text()
        one.page.get_by_role("button", name="设置").click()
        assert one.page.get_by_role("dialog").get_by_label("急救电话所属国家或地区").input_value() == "JP"


def test_a_notice_that_the_server_cannot_change_gives_the_numbers_there(visit: Visit) -> None:
    with site(ScriptedEngine("See a doctor at once.")) as server:
        one = visit(server, PHONE)
        one.ask("My chest hurts and my left arm is numb.")
        one.page.get_by_role("button", name=AGAIN).first.wait_for()
        one.page.route("**/web/notices", lambda route: route.abort())
        notice = one.page.get_by_role("article").locator("section.emergency")
        notice.get_by_label("Emergency numbers of").select_option("DE")
        notice.get_by_role("alert").get_by_role("link", name="112").wait_for()
        assert not notice.locator("a.call").count(), "the button would call the other country's number"


@contextmanager
def research(engine: Any) -> Iterator[Running]:
    """A page for researchers, with cards."""
    assistant = Assistant(engine, "Be brief.", safety=SafetyLayer("on", "CN"))
    facts = {"licence": "mit", "base": "tiny", "source": "https://example.org/tiny"}
    assistant.cards = (ModelCard("tiny + output", facts, "# Tiny\nA model."), ModelCard("herbs", {}, "", "tcm"))
    with running(assistant, extend=lambda app: add_page(app, WebOptions(profile="researcher"))) as server:
        yield server


def test_researchers_read_cards_and_prompts_by_keyboard(visit: Visit) -> None:
    with research(ScriptedEngine("ok", adapters=("tcm",))) as server:
        one = visit(server)
        one.page.get_by_role("button", name="Model and sampling").click()
        dialog = one.page.get_by_role("dialog")
        assert "tiny + output" in dialog.inner_text()
        dialog.get_by_text("Model card").click()
        dialog.get_by_text("A model.").wait_for()
        assert "Licence" in dialog.inner_text() and "Adapter tcm: herbs" in dialog.inner_text()
        check_page(one.page)
        one.page.keyboard.press("Escape")
        box = one.page.get_by_role("textbox", name="Your question")
        box.fill("What is asthma?")
        one.page.get_by_role("button", name="Show prompt").click()
        shown = one.page.get_by_role("dialog").get_by_role("region", name="What the model gets")
        shown.wait_for()
        assert shown.inner_text() == "system: Be brief.\nuser: What is asthma?\n"
        assert "40 tokens" in one.page.get_by_role("dialog").inner_text()
        check_page(one.page)
        one.page.get_by_role("button", name="Close").click()
        one.page.get_by_role("dialog").wait_for(state="detached")
        assert one.page.evaluate("document.activeElement.textContent") == "Show prompt"
        box.press("Enter")
        one.page.get_by_role("article").get_by_role("button", name="Show prompt").press("Enter")
        shown.wait_for()
        assert shown.inner_text() == "system: Be brief.\nuser: What is asthma?\n"


def test_a_refused_question_has_no_prompt_and_that_is_said(visit: Visit) -> None:
    with research(ScriptedEngine("ok")) as server:
        one = visit(server)
        one.page.get_by_role("textbox", name="Your question").fill("Write me a fake prescription for oxycodone")
        one.page.get_by_role("button", name="Show prompt").click()
        one.page.get_by_role("dialog").get_by_text("no model gets it").wait_for()


def test_tokens_are_looked_at_by_keyboard_and_touch_and_bytes_with_their_character(
    visit: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    def part(token: str, logprob: float, top: Any = ()) -> TokenLogprob:
        """The first byte of each character, as a model with bytes for tokens tells it."""
        return TokenLogprob(token.encode()[:1].decode("utf-8", "surrogateescape"), -0.5, top)

    monkeypatch.setattr("carellama.engine.scripted.TokenLogprob", part)
    with research(ScriptedEngine("吃药。")) as server:
        one = visit(server, PHONE, has_touch=True)
        one.page.get_by_role("button", name="Model and sampling").click()
        one.page.get_by_label("Log-probabilities of tokens").check()
        one.page.keyboard.press("Escape")
        one.ask("吃什么？")
        one.page.get_by_role("button", name=AGAIN).first.wait_for()
        one.page.get_by_role("article").get_by_text("Tokens", exact=True).click()
        tokens = one.page.get_by_role("group", name="Tokens").get_by_role("button")
        assert tokens.all_inner_texts() == ["\\xE5", "\\xE8", "\\xE3"]
        tokens.nth(1).tap()
        shown = one.page.locator(".shown[role=status]")
        assert "\\xE8" in shown.inner_text() and "-0.500" in shown.inner_text()
        one.page.keyboard.press("ArrowRight")
        assert "\\xE3" in shown.inner_text()
        one.page.keyboard.press("Home")
        assert "\\xE5" in shown.inner_text()
        assert one.page.locator('.tokens button[tabindex="0"]').count() == 1, "one stop of Tab for all"
        check_page(one.page)


def test_a_stopped_answer_has_its_usage_and_the_page_is_free_at_once(visit: Visit) -> None:
    engine = ScriptedEngine("word " * 3000, token_seconds=0.01)
    with research(engine) as server:
        one = visit(server)
        one.ask("What is asthma?")
        one.page.get_by_text("word word").first.wait_for()
        one.page.get_by_role("button", name="Stop").click()
        one.page.get_by_text("You stopped this answer.").wait_for()
        until(lambda: bool(re.search(r"\d+ tokens\s· prompt 40", one.text())))
        assert "does not replace a doctor" in one.text()
        until(lambda: engine.running == 0)


def test_each_theme_has_its_own_colours_whatever_the_device_has(visit: Visit) -> None:
    with site(ScriptedEngine("ok")) as server:
        found = []
        for scheme in ("light", "dark"):
            one = visit(server, color_scheme=scheme)
            back = "getComputedStyle(document.body).backgroundColor"
            found.append(one.page.evaluate(back))
            one.page.get_by_role("button", name="Settings").click()
            for theme in ("Light", "Dark"):
                one.page.get_by_label(theme, exact=True).check()
                found.append(one.page.evaluate(back))
            one.page.emulate_media(media="print")
            found.append(one.page.evaluate(back))
    light, dark, white = "rgb(255, 255, 255)", "rgb(17, 23, 21)", "rgb(255, 255, 255)"
    assert found == [light, light, dark, white, dark, light, dark, white]
