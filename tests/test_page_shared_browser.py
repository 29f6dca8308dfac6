"""Several persons at one browser: who leaves takes nothing of the others, and leaves nothing to be read.

Needs Debian's `chromium`; without it these tests are skipped.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from page_people import PASSWORD, Device, accounts_page, device, invite
from page_site import MARKS, browser
from store_places import fast_passwords

pytestmark = MARKS
Take = Callable[..., Device]


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    fast_passwords(monkeypatch)


def test_who_is_forgotten_leaves_the_conversations_of_others_in_the_browser(device: Take, tmp_path: Path) -> None:
    with accounts_page(tmp_path, keep="browser") as (server, database):
        one = device(server)
        page = one.create(invite(database, "admin"), "Ana")
        one.ask("a secret of Ana")
        page.get_by_role("article").get_by_text("heard a secret of Ana").wait_for()
        one.dialog().get_by_role("button", name="Log out").click()
        page.get_by_role("heading", name="Log in").wait_for()
        page = one.create(invite(database), "Ben")
        one.ask("words of Ben")
        page.get_by_role("article").get_by_text("heard words of Ben").wait_for()
        dialog = one.dialog()
        dialog.get_by_text("Delete my account and everything I wrote").click()
        dialog.get_by_label("Your password").fill(PASSWORD)
        dialog.get_by_role("button", name="Delete everything").click()
        page.get_by_role("button", name="To the login").click()
        page.get_by_role("heading", name="Log in").wait_for()
        kept = page.evaluate("indexedDB.databases().then((all) => all.length)")
        assert kept == 1, "that of Ana alone"
        page = one.log_in("Ana")
        page.get_by_role("link", name=re.compile("a secret of Ana")).wait_for()
        assert "Ben" not in one.body()


def test_after_a_logout_no_other_tab_shows_or_prints_what_it_had(device: Take, tmp_path: Path) -> None:
    with accounts_page(tmp_path) as (server, database):
        one = device(server)
        first = one.create(invite(database), "Ana")
        one.ask("a secret of Ana")
        first.get_by_role("article").get_by_text("heard a secret of Ana").wait_for()
        other = one.open(first.url.removeprefix(server.url))
        answer = other.get_by_role("article").get_by_text("heard a secret of Ana")
        answer.wait_for()
        other.emulate_media(media="print")
        assert answer.is_visible()
        one.page = first
        one.dialog().get_by_role("button", name="Log out").click()
        other.emulate_media(media="screen")
        other.get_by_role("dialog", name="Please log in again").wait_for()
        other.emulate_media(media="print")
        assert not answer.is_visible() and not other.get_by_text("Ana").first.is_visible()
