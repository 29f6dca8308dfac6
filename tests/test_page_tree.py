"""What a screen reader is given: names, roles, headings in order; answers by whole sentences, once, in their language.

The tree is that of Chromium (Accessibility.getFullAXTree).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from api_server import until
from carellama.config.serve import WebOptions
from carellama.engine.scripted import ScriptedEngine
from page_site import MARKS, PHONE, Visitor, browser, site, visit
from page_tour import LOCALES, scripted, tour

pytestmark = MARKS
INTERACTIVE = {
    "button", "link", "textbox", "searchbox", "checkbox", "radio", "combobox", "spinbutton", "DisclosureTriangle",
    "dialog", "region", "form", "navigation", "article",
}  # fmt: skip
SAID = """() => {
  window.said = []
  new MutationObserver((changes) => {
    for (const { addedNodes } of changes) for (const one of addedNodes) {
      if (one.nodeType === 1) window.said.push([one.lang, one.innerText.trim()])
    }
  }).observe(document.querySelector('[role=log]'), { childList: true })
}"""


def tree(session: Any) -> list[dict[str, Any]]:
    """Nodes of the accessibility tree, in the order of the page: role, name, level."""
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    return [
        {
            "role": node["role"]["value"],
            "name": node.get("name", {}).get("value", "").strip(),
            "level": next((one["value"]["value"] for one in node.get("properties", ()) if one["name"] == "level"), 0),
        }
        for node in nodes
        if not node.get("ignored")
    ]


@pytest.mark.parametrize("language", LOCALES)
def test_everything_has_a_name_and_headings_are_in_order(visit: Callable[..., Visitor], language: str) -> None:
    engine = scripted()
    with site(engine, WebOptions(profile="researcher")) as server:
        one = visit(server, PHONE, locale=LOCALES[language])
        session = one.context.new_cdp_session(one.page)
        nameless, orders, roles = [], {}, set[str]()
        for state in tour(one, engine, language):
            nodes = tree(session)
            roles |= {node["role"] for node in nodes}
            nameless += [(state, node["role"]) for node in nodes if node["role"] in INTERACTIVE and not node["name"]]
            orders[state] = [node["level"] for node in nodes if node["role"] == "heading"]
        assert {"banner", "main", "navigation", "article", "alert", "log", "button", "textbox", "heading"} <= roles
        assert not nameless
        assert len(orders) >= 11
        for state, levels in orders.items():
            assert levels, state
            jumps = [pair for pair in pairwise(levels) if pair[1] > pair[0] + 1]
            assert not jumps, (state, levels)


ANSWERS = {
    "en": "Take 1.5 to 2 litres a day. **Rest** helps, e.g. in bed.\n\n1. Salt water\n2. Honey\n\nSee a doctor? Yes.",
    "zh": "每天喝水1.5到2升。**多休息**，注意保暖。\n\n1. 淡盐水漱口\n2. 蜂蜜\n\n要看医生吗？体温超过38.5℃时要看。",
}
SPOKEN = {
    "en": [
        "Take 1.5 to 2 litres a day.", "Rest helps, e.g. in bed.", "1. Salt water", "2. Honey", "See a doctor?", "Yes.",
    ],
    "zh": [
        "每天喝水1.5到2升。", "多休息，注意保暖。", "1. 淡盐水漱口", "2. 蜂蜜", "要看医生吗？", "体温超过38.5℃时要看。",
    ],
}  # fmt: skip


@pytest.mark.parametrize("language", LOCALES)
def test_an_answer_is_read_once_by_sentences_in_its_language(visit: Callable[..., Visitor], language: str) -> None:
    other = "zh" if language == "en" else "en"
    engine = ScriptedEngine(ANSWERS[language], token_seconds=0.02)
    with site(engine) as server:
        one = visit(server, locale=LOCALES[other])  # the page speaks the other one: the answer keeps its own
        one.page.evaluate(SAID)
        one.ask("What helps against a cold?" if language == "en" else "感冒了怎么办？")
        ends = {"en": "The answer is complete.", "zh": "回答完毕。"}[other]
        until(lambda: any(text == ends for _, text in one.page.evaluate("said")), seconds=20)
        said = one.page.evaluate("said")
        sentences = [text for lang, text in said if lang.startswith(language)]
        assert sentences[: len(SPOKEN[language])] == SPOKEN[language]
        disclaimer = one.page.request.get(f"{server.url}/web/config").json()["disclaimer"][language]
        assert all(text in disclaimer for text in sentences[len(SPOKEN[language]) :]), "it is said behind the answer"
        assert said[-1][0].startswith(other)


def test_a_notice_of_an_emergency_is_an_alert_of_its_own(visit: Callable[..., Visitor]) -> None:
    with site(ScriptedEngine("Please call. " * 5)) as server:
        one = visit(server, locale="zh-CN")
        one.page.evaluate(SAID)
        one.ask("My chest hurts and my left arm is numb.")
        alert = one.page.get_by_role("alert")
        alert.wait_for()
        assert alert.count() == 1 and "120" in alert.inner_text()
        assert alert.locator("[lang=en]").count(), "in the language of the question"
        until(lambda: len(one.page.evaluate("said")) > 2)
        assert not [text for _, text in one.page.evaluate("said") if "ambulance" in text], "the log does not repeat it"
        live = one.page.locator("[aria-live], [role=alert], [role=status], [role=log]")
        nested = live.locator("[aria-live], [role=alert], [role=status], [role=log]")
        assert live.count() >= 3 and nested.count() == 0, "no live region within another: it would be read twice"
