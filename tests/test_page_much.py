"""Much of everything on the page: thousands of conversations, and a browser that has no more room.

Needs Debian's `chromium`; without it these tests are skipped.
"""

from __future__ import annotations

from collections.abc import Callable

from carellama.engine.scripted import ScriptedEngine
from page_site import MARKS, QUESTION, Visitor, browser, site, visit

pytestmark = MARKS
FILL = """async (count) => {
  const open = indexedDB.open('carellama', 1)
  const database = await new Promise((done) => (open.onsuccess = () => done(open.result)))
  const transaction = database.transaction('conversations', 'readwrite')
  for (let i = 0; i < count; i++) transaction.objectStore('conversations').put({
    id: `c${i}`, title: `number ${i}.`, named: false, created: i, updated: i, pinned: i === 7, deleted: 0, leaf: null,
    running: false })
  await new Promise((done) => (transaction.oncomplete = done))
  database.close()
}"""
NO_ROOM = "() => { IDBObjectStore.prototype.put = () => { throw new DOMException('no room', 'QuotaExceededError') } }"


def test_of_thousands_of_conversations_the_newest_are_listed_and_all_are_found(visit: Callable[..., Visitor]) -> None:
    with site(ScriptedEngine("yes")) as server:
        page = visit(server).page
        page.evaluate(FILL, 1000)
        page.reload()
        items = page.get_by_role("navigation", name="Conversations").get_by_role("listitem")
        page.get_by_role("link", name="number 999.").wait_for()
        assert items.count() == 201 and page.get_by_role("link", name="number 7.").is_visible()
        page.get_by_role("button", name="Show older conversations (799 more)").click()
        page.get_by_role("link", name="number 600.").wait_for()
        assert items.count() == 401
        page.get_by_role("searchbox").fill("number 3.")
        page.get_by_role("link", name="number 3.").click()
        page.get_by_role("searchbox").fill("")
        page.get_by_role("button", name="Show older conversations (598 more)").wait_for()
        assert page.get_by_role("link", name="number 3.").is_visible()


def test_a_browser_without_room_says_so_and_keeps_what_was_typed(visit: Callable[..., Visitor]) -> None:
    with site(ScriptedEngine("yes")) as server:
        visitor = visit(server)
        visitor.page.evaluate(NO_ROOM)
        visitor.ask("a question of some length")
        visitor.page.get_by_text("This browser can keep no more").wait_for()
        assert visitor.page.get_by_role("textbox", name=QUESTION).input_value() == "a question of some length"
