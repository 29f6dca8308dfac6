"""Ten tasks by keyboard alone: each step shows where the focus is, nothing holds it, and dialogs give it back."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from api_server import until
from carellama.config.serve import WebOptions
from carellama.engine.scripted import ScriptedEngine
from page_site import MARKS, PHONE, QUESTION, Visitor, browser, site, visit

pytestmark = MARKS
# Where the focus is, and whether one sees it there: an outline, within the window, not under something else.
FOCUS = """(() => {
  const one = document.activeElement
  if (one === null || one === document.body) return null
  const ring = (style) => style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2
  const around = one.closest('.box')
  const box = one.getBoundingClientRect()
  const [left, right] = [Math.max(box.left, 0), Math.min(box.right, innerWidth)]
  const [top, bottom] = [Math.max(box.top, 0), Math.min(box.bottom, innerHeight)]
  const found = right > left && bottom > top ? document.elementFromPoint((left + right) / 2, (top + bottom) / 2) : null
  const label = one.getAttribute('aria-label') || one.labels?.[0]?.innerText || one.innerText || one.placeholder || ''
  return {
    name: label.trim().replace(/\\s+/g, ' '),
    ring: ring(getComputedStyle(one)) || (around !== null && ring(getComputedStyle(around))),
    seen: found !== null && (one.contains(found) || found.contains(one)),
  }
})()"""


class Keyboard:
    """Somebody without a mouse."""

    def __init__(self, page: Any) -> None:
        self.page, self.press, self.type = page, page.keyboard.press, page.keyboard.type
        self.steps = 0

    @property
    def focus(self) -> str:
        """The name of what has the focus."""
        found = self.page.evaluate(FOCUS)
        return "" if found is None else found["name"]

    def to(self, name: str, key: str = "Tab", most: int = 60) -> None:
        """Go on until something of that name has the focus."""
        passed = []
        for _ in range(most):
            self.press(key)
            found = self.page.evaluate(FOCUS)
            if found is None:
                continue  # the end of the page: the browser's own parts
            self.steps += 1
            assert found["ring"], f"nothing shows that {found['name']!r} has the focus"
            assert found["seen"], f"{found['name']!r} has the focus and cannot be seen"
            passed.append(found["name"][:40])
            if re.match(name, found["name"]):
                return
        raise AssertionError(f"{name} was not reached: {passed}")

    def ask(self, question: str) -> None:
        """Type a question and send it; the focus is in the box."""
        until(lambda: bool(QUESTION.match(self.focus)))
        self.type(question)
        self.press("Enter")


def test_ask_read_stop_ask_again_compare_and_edit(visit: Callable[..., Visitor]) -> None:
    answers = [f"Answer {number}. " + "A line to read.\n\n" * 40 for number in range(1, 4)]
    engine = ScriptedEngine([*answers, "word " * 3000])
    with site(engine) as server:
        page = visit(server).page
        keys = Keyboard(page)
        keys.to("Your question")
        keys.ask("How do I treat a cold?")
        page.get_by_role("button", name=re.compile("^Ask again")).wait_for()
        until(lambda: bool(QUESTION.match(keys.focus)))  # the focus stays in the box
        # read: the conversation scrolls by keys
        region = page.get_by_role("region", name=re.compile("^How do I treat"))
        keys.to("How do I treat a cold|You", "Shift+Tab")
        page.keyboard.press("Home")
        until(lambda: region.evaluate("one => one.scrollTop") == 0)
        # ask again, the version before, side by side
        keys.to("Ask again")
        page.keyboard.press("Enter")
        page.get_by_text("Answer 2.").wait_for()
        page.get_by_role("group", name="Version 2 of 2").wait_for()
        keys.to("Previous version", "Shift+Tab")
        page.keyboard.press("Enter")
        page.get_by_text("Answer 1.").wait_for()
        keys.to("Side by side")
        page.keyboard.press("Enter")
        page.get_by_text("Answer 2.").wait_for()
        assert page.get_by_text("Answer 1.").is_visible()
        keys.to("Go on with this one|Chosen")
        page.keyboard.press("Enter")
        # edit the question: a branch; Esc gives the focus back
        keys.to("Edit your question", "Shift+Tab", 40)
        page.keyboard.press("Enter")
        until(lambda: keys.focus == "Edit your question" and page.locator("article textarea").count() == 1)
        page.keyboard.press("Escape")
        until(lambda: page.locator("article textarea").count() == 0)
        until(lambda: keys.focus == "Edit your question")  # the focus goes back
        page.keyboard.press("Enter")
        page.locator("article textarea").wait_for()
        page.keyboard.press("ControlOrMeta+A")
        keys.type("And the flu?")
        keys.to("Send")
        page.keyboard.press("Enter")
        page.get_by_text("Answer 3.").wait_for()
        page.get_by_role("button", name=re.compile("^Ask again")).wait_for()
        # stop
        engine.token_seconds = 0.01
        keys.to("Your question")
        keys.ask("One more")
        page.get_by_text("word word").wait_for()
        keys.to("Stop")
        page.keyboard.press("Enter")
        page.get_by_text("You stopped this answer.").wait_for()
        until(lambda: bool(QUESTION.match(keys.focus)))
        assert keys.steps > 10


def test_rename_pin_delete_undo_and_search(visit: Callable[..., Visitor]) -> None:
    with site(ScriptedEngine("Rest and drink.")) as server:
        one = visit(server)
        page = one.page
        for question in ("About a cold", "About the flu"):
            one.ask(question)
            page.get_by_role("button", name=re.compile("^Ask again")).wait_for()
            page.get_by_role("link", name="New conversation").click()
        keys = Keyboard(page)
        page.evaluate("document.activeElement.blur()")
        keys.to("More: About the flu")
        page.keyboard.press("Enter")
        keys.to("Rename")
        page.keyboard.press("Enter")
        until(lambda: keys.focus == "Title of the conversation")
        keys.type("Winter")
        page.keyboard.press("Enter")
        until(lambda: keys.focus == "More: Winter")
        page.keyboard.press("Enter")
        keys.to("Pin")
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="Pinned").wait_for()
        keys.to("More: Winter", most=80)
        page.keyboard.press("Enter")
        keys.to("Delete")
        page.keyboard.press("Enter")
        page.get_by_text("Deleted: Winter").wait_for()
        assert page.get_by_role("link", name="Winter").count() == 0
        keys.to("Undo", most=80)
        page.keyboard.press("Enter")
        page.get_by_role("link", name="Winter").wait_for()
        until(lambda: keys.focus.startswith("Winter"))  # the focus is not lost with the button
        keys.to("Search conversations", most=80)
        keys.type("cold")
        until(lambda: page.get_by_role("link", name="Winter").count() == 0)
        keys.type(" about drink")  # words in whatever order: of the title, and of the answer
        keys.to("About a cold")
        page.keyboard.press("Enter")
        page.get_by_role("article").get_by_text("Rest and drink.").wait_for()


def test_export_import_language_and_appearance(visit: Callable[..., Visitor], tmp_path: Path) -> None:
    file = tmp_path / "kept.json"
    said = [{"role": "user", "content": "An earlier question"}, {"role": "assistant", "content": "An earlier answer"}]
    file.write_text(json.dumps({"messages": said}), encoding="utf-8")
    with site(ScriptedEngine("Rest and drink.")) as server:
        one = visit(server)
        page, keys = one.page, Keyboard(one.page)
        one.ask("About a cold")
        page.get_by_role("button", name=re.compile("^Ask again")).wait_for()
        keys.to("Export and import", most=80)
        page.keyboard.press("Enter")
        keys.to("Save as Markdown")
        with page.expect_download() as download:
            page.keyboard.press("Enter")
        text = Path(download.value.path()).read_text(encoding="utf-8")
        assert "About a cold" in text and "Rest and drink." in text
        with page.expect_file_chooser() as chooser:
            keys.to("Import JSON")
            page.keyboard.press("Enter")
        chooser.value.set_files(str(file))
        page.get_by_text("Imported: 1").wait_for()
        page.keyboard.press("Escape")
        until(lambda: keys.focus == "Export and import")
        page.get_by_role("article").get_by_text("An earlier answer").wait_for()
        keys.to("Settings")
        page.keyboard.press("Enter")
        page.get_by_role("dialog").wait_for()
        for _ in range(3 * page.get_by_role("dialog").locator("button, input").count()):
            page.keyboard.press("Tab")
            inside = page.evaluate(
                "document.activeElement === document.body || !!document.activeElement.closest('dialog')"
            )
            assert inside, "the dialog keeps the focus"
        keys.to("English")
        page.keyboard.press("ArrowRight")
        page.get_by_role("heading", name="设置").wait_for()
        keys.to("跟随系统")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"
        page.keyboard.press("Escape")
        until(lambda: keys.focus == "设置")
        assert page.evaluate("document.documentElement.lang") == "zh-CN"
        assert page.get_by_role("article").get_by_text("An earlier answer").is_visible(), "what was said stays"


def test_a_dialog_stays_open_though_another_reports_late_that_it_closed(visit: Callable[..., Visitor]) -> None:
    late = "document.querySelectorAll('dialog').forEach((one) => one.dispatchEvent(new Event('close')))"
    with site(ScriptedEngine("Rest and drink."), WebOptions(profile="researcher")) as server:
        page = visit(server).page
        for opener in ("Settings", "Export and import", "Model and sampling"):
            page.get_by_role("button", name=opener).click()
            page.get_by_role("dialog").wait_for()
            page.evaluate(late)
            page.evaluate("new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)))")
            assert page.get_by_role("dialog").is_visible(), opener
            page.keyboard.press("Escape")
            page.get_by_role("dialog").wait_for(state="hidden")


def test_the_number_in_a_notice_is_reached_and_the_drawer_gives_the_focus_back(visit: Callable[..., Visitor]) -> None:
    with site(ScriptedEngine("Please call. " + "Wait. " * 200)) as server:
        one = visit(server, PHONE)
        page, keys = one.page, Keyboard(one.page)
        one.ask("My chest hurts and my left arm is numb.")
        page.get_by_role("button", name=re.compile("^Ask again")).wait_for()
        keys.to("Call 120", "Shift+Tab")
        assert page.evaluate("document.activeElement.getAttribute('href')") == "tel:120"
        keys.to("Show conversations", "Shift+Tab")
        page.keyboard.press("Enter")
        until(lambda: keys.focus == "New conversation")
        keys.to("More: My chest")
        page.keyboard.press("Enter")
        keys.to("Delete")
        page.keyboard.press("Escape")
        until(lambda: keys.focus.startswith("More: My chest"))
        page.keyboard.press("Escape")
        until(lambda: keys.focus == "Show conversations")


def test_the_tab_key_goes_round_the_whole_page(visit: Callable[..., Visitor]) -> None:
    table = "| a | b |\n| - | - |\n| 1 | 2 |\n\n```python\ncode\n```"
    with site(ScriptedEngine(table)) as server:
        one = visit(server)
        one.ask("About a cold")
        one.page.get_by_role("button", name=re.compile("^Ask again")).wait_for()
        keys = Keyboard(one.page)
        keys.to("Skip to the conversation")
        keys.to("Your question")
        keys.to("Skip to the conversation")
        keys.to("Your question", "Shift+Tab")
        one.page.evaluate("document.activeElement.blur()")
        keys.to("Skip to the conversation")
        one.page.keyboard.press("Enter")
        until(lambda: one.page.evaluate("document.activeElement.id") == "thread")
