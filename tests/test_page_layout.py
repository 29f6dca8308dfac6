"""Nothing of the page is covered, cut or too small to be tapped: small screens, 200%, with the keyboard of a phone."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from carellama.config.serve import WebOptions
from carellama.engine.scripted import ScriptedEngine
from carellama.records import ModelCard
from page_site import ARGUMENTS, CHROMIUM, MARKS, Visitor, browser, site, visit
from page_tour import LOCALES, WORDS, ask, scripted, tour

pytestmark = MARKS
SIZES = {
    "200% of 1280x800": (640, 400),
    "small": (320, 568),
    "phone": (390, 844),
    "phone on its side": (844, 390),
    "phone with its keyboard open": (390, 340),
}
HERE = Path(__file__).parent
FAULTS = (HERE / "page_faults.js").read_text(encoding="utf-8")
IN_SIGHT = (HERE / "page_in_sight.js").read_text(encoding="utf-8")


def last_look(page: Any, *, box: bool, streams: bool) -> dict[str, bool]:
    """What is in sight, looked at until the page has scrolled after a change of its size, 3 seconds at most."""
    end = time.monotonic() + 3
    while True:
        found: dict[str, bool] = page.evaluate(IN_SIGHT)
        whole = (found["box"] or not box) and (not streams or (found["heading"] and found["number"]))
        if whole or time.monotonic() > end:
            return found
        time.sleep(0.05)


def faults_at(page: Any, state: str, sizes: dict[str, tuple[int, int]]) -> list[str]:
    """What is wrong with the state in each size of the window."""
    found: list[str] = []
    for name, (width, height) in sizes.items():
        page.set_viewport_size({"width": width, "height": height})
        page.evaluate("document.querySelector('.to-end')?.click()")  # what was looked at before has scrolled up
        page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        box, streams = not state.startswith(("dialog", "menu")), "streams" in state
        in_sight = last_look(page, box=box, streams=streams)
        if box and not in_sight["box"]:
            found.append(f"{state}, {name}: the box for a question is not in sight")
        if streams and not (in_sight["heading"] and in_sight["number"]):
            found.append(f"{state}, {name}: the notice is not in sight: {in_sight}")
        looked_at = page.evaluate(FAULTS)
        assert looked_at["targets"] >= 2
        found += [f"{state}, {name}: {fault}" for fault in looked_at["faults"]]
    return found


@pytest.mark.parametrize("language", LOCALES)
def test_nothing_is_covered_or_cut_on_small_screens(visit: Callable[..., Visitor], language: str) -> None:
    engine = scripted()
    with site(engine, WebOptions(profile="researcher")) as server:
        one = visit(server, {"width": 640, "height": 400}, locale=LOCALES[language])
        found, states = [], 0
        for state in tour(one, engine, language):
            states += 1
            found += faults_at(one.page, state, SIZES)
            one.page.set_viewport_size({"width": 640, "height": 400})
        assert states >= 11
        assert not found, "\n".join(found)


def test_nothing_is_covered_or_cut_with_text_of_twice_its_size(browser: Any) -> None:
    """The browser's own setting of its font: 32 px in place of 16."""
    engine = scripted()
    arguments = [*ARGUMENTS, "--blink-settings=defaultFontSize=32"]
    with browser.browser_type.launch(executable_path=CHROMIUM, args=arguments) as large, site(engine) as server:
        one = Visitor(large, server, {"width": 1280, "height": 800})
        assert one.page.evaluate("getComputedStyle(document.documentElement).fontSize") == "32px"
        found = []
        for state in tour(one, engine, "en", dialogs=("settings", "transfer")):
            found += faults_at(one.page, state, {"desktop": (1280, 800), "phone": (390, 844)})
            one.page.set_viewport_size({"width": 1280, "height": 800})
        one.context.close()
        assert one.faults == []
        assert not found, "\n".join(found)


def test_a_long_name_of_a_model_takes_one_line_of_the_header(visit: Callable[..., Visitor]) -> None:
    with site(scripted(), WebOptions(profile="researcher")) as server:
        assistant: Any = server.state.engine
        assistant.cards = (ModelCard("a-model-with-a-long-name-of-7b", {}, ""),)
        one = visit(server, {"width": 390, "height": 844})
        name = one.page.get_by_role("banner").locator("p")
        name.filter(has_text="a-model").wait_for()
        assert name.bounding_box()["height"] < 32


@pytest.mark.parametrize("language", LOCALES)
def test_the_button_to_the_end_lies_over_nothing(visit: Callable[..., Visitor], language: str) -> None:
    """It lay over the label of the country in a notice, where that stood at the lower edge."""
    engine, words = scripted(), WORDS[language]
    with site(engine) as server:
        one = visit(server, {"width": 320, "height": 568}, locale=LOCALES[language])
        ask(one, engine, language, words.emergency)
        ask(one, engine, language, words.cold)
        one.page.locator(".where label").first.evaluate("one => one.scrollIntoView({block: 'end'})")
        button = one.page.locator(".to-end")
        button.wait_for()
        shown, over = one.page.locator(".scroller").bounding_box(), button.bounding_box()
        assert shown["y"] + shown["height"] <= over["y"] + 0.5 and over["height"] >= 24
        button.click()
        button.wait_for(state="detached")


def test_nothing_is_cut_on_paper(visit: Callable[..., Visitor]) -> None:
    """A box that scrolls cuts the outer half of a table's right border, and what is too wide for the page."""
    wide = "| a | b |\n| - | - |\n| amlodipine | `" + "abcdefgh" * 20 + "` |\n\n```text\n" + "word " * 60 + "\n```\n"
    with site(ScriptedEngine(wide)) as server:
        one = visit(server, {"width": 680, "height": 960})  # A4 without its margins
        one.ask("About a cold")
        one.page.get_by_role("button", name="Ask again").first.wait_for()
        one.page.emulate_media(media="print")
        lines = "(one) => { const all = new Range(); all.selectNodeContents(one); return all.getClientRects().length }"
        assert one.page.get_by_role("cell", name="amlodipine").evaluate(lines) == 1, "a word of a table stays whole"
        for part in (".scroll", "pre"):
            box = one.page.locator(f".markdown {part}")
            assert box.evaluate("one => getComputedStyle(one).overflowX") == "visible", part
            assert box.evaluate("one => one.scrollWidth <= one.clientWidth + 1"), part


def test_the_keyboard_of_a_phone_makes_the_page_smaller(visit: Callable[..., Visitor]) -> None:
    """The sizes above stand for that: without this word the keyboard would cover the box."""
    with site(scripted()) as server:
        one = visit(server)
        assert "interactive-widget=resizes-content" in one.page.locator("meta[name=viewport]").get_attribute("content")
