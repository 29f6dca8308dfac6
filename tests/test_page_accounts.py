"""Accounts on the page in a real browser: one's own words and nobody else's, and nothing lost by a login.

Needs Debian's `chromium`; without it these tests are skipped.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from api_server import until
from carellama.engine.scripted import ScriptedEngine
from carellama.store.accounts import list_accounts
from carellama.store.sessions import end_sessions
from page_people import PASSWORD, QUESTION, Device, accounts_page, device, invite
from page_site import MARKS, PHONE, browser, check_page
from store_places import fast_passwords

pytestmark = MARKS
Take = Callable[..., Device]


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    fast_passwords(monkeypatch)


def test_an_invitation_becomes_an_account_whose_conversations_are_on_every_device(device: Take, tmp_path: Path) -> None:
    with accounts_page(tmp_path) as (server, database):
        ana = device(server)
        link = invite(database)
        page = ana.create(link, "Ana 李")
        assert page.url == f"{server.url}/"
        assert link.partition("#")[2] not in page.evaluate(
            "JSON.stringify([location.href, history.state, document.referrer])"
        )
        ana.ask("my own question")
        page.get_by_role("article").get_by_text("heard my own question").wait_for()
        address = page.url.removeprefix(server.url)
        page.reload()
        page.get_by_role("article").get_by_text("heard my own question").wait_for()
        ana.dialog().get_by_role("button", name="Log out").click()
        page.get_by_role("heading", name="Log in").wait_for()
        assert "question" not in ana.body()
        kept = "JSON.stringify([localStorage, sessionStorage]) + document.cookie"
        assert not re.search("question|Ana|account", page.evaluate(kept))
        phone = device(server, PHONE, locale="zh-CN")
        phone.log_in("ana 李", address)
        phone.page.get_by_role("article").get_by_text("heard my own question").wait_for()
        assert phone.page.url.endswith(address), "after the login the page goes where the address pointed"


def test_two_persons_never_see_each_others_words(device: Take, tmp_path: Path) -> None:
    with accounts_page(tmp_path) as (server, database):
        ana, ben = device(server), device(server)
        ana.create(invite(database), "Ana")
        ana.ask("a secret of Ana")
        ana.page.get_by_role("article").get_by_text("heard a secret of Ana").wait_for()
        ana.page.get_by_role("textbox", name=QUESTION).fill("a secret draft")
        ben.create(invite(database), "Ben")
        ben.page.goto(ana.page.url)
        ben.page.get_by_text("no such conversation in your account").wait_for()
        ben.page.get_by_role("searchbox").fill("secret")
        ben.page.get_by_text("No conversation has these words.").wait_for()
        assert "Ana" not in ben.body()
        # one browser, one after the other: the page of the first is left when the second logs in
        other = ana.context.new_page()
        other.goto(f"{server.url}{invite(database)}")
        first, ana.page = ana.page, other
        ana.fill("Cem")
        other.get_by_role("button", name="Create account").click()
        ana.arrive()
        first.get_by_role("button", name="Account: Cem").wait_for()
        for page in (first, other):
            assert "secret" not in page.content() and "Ana" not in page.content()


def test_a_session_that_ends_while_an_answer_streams_loses_nothing(device: Take, tmp_path: Path) -> None:
    engine = ScriptedEngine(" ".join(f"word{number}" for number in range(150)), token_seconds=0.01)
    with accounts_page(tmp_path, engine) as (server, database):
        ana = device(server)
        page = ana.create(invite(database), "Ana")
        ana.ask("What is asthma?")
        page.get_by_text("word5 ").first.wait_for()
        end_sessions(database, list_accounts(database)[0].id)
        page.get_by_role("heading", name="Please log in again").wait_for()
        assert page.get_by_role("textbox", name="Name").input_value() == "Ana"
        page.keyboard.press("Escape")
        page.keyboard.press("Escape")
        assert page.get_by_role("heading", name="Please log in again").is_visible(), "the page behind stays hidden"
        page.get_by_label("Password", exact=True).fill("a wrong password")
        page.keyboard.press("Enter")
        page.get_by_text("Name or password is wrong.").wait_for()
        page.get_by_label("Password", exact=True).fill(PASSWORD)
        page.keyboard.press("Enter")
        page.get_by_text("word149").first.wait_for(timeout=60_000)
        page.get_by_role("button", name=re.compile("^Ask again")).first.wait_for()
        page.get_by_text("Not saved yet").wait_for(state="detached")
        page.reload()
        page.get_by_text("word149").first.wait_for(timeout=60_000)
        assert re.findall(r"word\d+", page.get_by_role("article").last.inner_text()) == [f"word{n}" for n in range(150)]


def test_after_the_login_the_focus_is_at_the_conversation(device: Take, tmp_path: Path) -> None:
    with accounts_page(tmp_path) as (server, database):
        ana = device(server)
        ana.create(invite(database), "Ana").wait_for_function("document.activeElement.id === 'thread'")
        desk = device(server)
        desk.log_in("Ana").wait_for_function("document.activeElement.id === 'thread'")


def test_a_question_that_is_sent_after_the_end_of_the_session_is_answered_after_the_login(
    device: Take, tmp_path: Path
) -> None:
    with accounts_page(tmp_path) as (server, database):
        ana = device(server)
        page = ana.create(invite(database), "Ana")
        end_sessions(database, list_accounts(database)[0].id)
        ana.ask("1~2片?")
        page.get_by_role("heading", name="Please log in again").wait_for()
        page.get_by_label("Password", exact=True).fill(PASSWORD)
        page.keyboard.press("Enter")
        page.get_by_role("article").get_by_text("heard 1~2片?").wait_for()


def test_what_the_server_does_not_take_is_said_and_written_later(device: Take, tmp_path: Path) -> None:
    with accounts_page(tmp_path) as (server, database):
        ana = device(server)
        page = ana.create(invite(database), "Ana")
        refused: list[str] = []

        def refuse(route: Any) -> None:
            if route.request.method != "PUT":
                route.continue_()
                return
            refused.append(route.request.url)
            route.fulfill(status=503, json={"error": {"message": "the disk is full"}})

        page.route("**/web/conversations/**", refuse)
        ana.ask("kept in memory")
        page.get_by_text("heard kept in memory").last.wait_for()
        page.get_by_text(re.compile(r"Not saved yet: \d")).wait_for()
        ana.dialog().get_by_role("button", name="Log out").click()
        page.get_by_text("If you log out now, it is lost.").wait_for()
        page.keyboard.press("Escape")
        page.unroute("**/web/conversations/**")
        page.get_by_text(re.compile("Not saved yet")).wait_for(state="detached", timeout=40_000)
        page.reload()
        page.get_by_role("article").get_by_text("heard kept in memory").wait_for()
        assert refused


def test_two_devices_agree_when_one_is_looked_at_again(device: Take, tmp_path: Path) -> None:
    with accounts_page(tmp_path) as (server, database):
        desk, phone = device(server), device(server, PHONE)
        desk.create(invite(database), "Ana")
        desk.ask("first question")
        desk.page.get_by_role("article").get_by_text("heard first question").wait_for()
        phone.log_in("Ana", desk.page.url.removeprefix(server.url))
        phone.page.get_by_role("article").get_by_text("heard first question").wait_for()
        phone.ask("second question")
        phone.page.get_by_role("article").get_by_text("heard second question").wait_for()
        until(lambda: desk.page.evaluate(
            "fetch(location.pathname.replace('/c/', '/web/conversations/') + '/messages').then((it) => it.json())"
            ".then((all) => all.filter((one) => one.finish).length)"
        ) == 2)  # fmt: skip
        desk.page.evaluate("dispatchEvent(new Event('focus'))")
        desk.page.get_by_role("article").get_by_text("heard second question").wait_for()


def test_conversations_that_stay_in_the_browser_are_apart_by_account_and_can_be_deleted(
    device: Take, tmp_path: Path
) -> None:
    with accounts_page(tmp_path, keep="browser") as (server, database):
        one = device(server)
        page = one.create(invite(database), "Ana")
        one.ask("a secret of Ana")
        page.get_by_role("article").get_by_text("heard a secret of Ana").wait_for()
        one.dialog().get_by_role("button", name="Log out").click()
        page.get_by_role("heading", name="Log in").wait_for()
        one.create(invite(database), "Ben")
        assert "secret" not in one.body()
        one.dialog().get_by_role("button", name="Log out").click()
        one.page.get_by_role("heading", name="Log in").wait_for()
        page = one.log_in("Ana")
        page.get_by_role("link", name=re.compile("a secret of Ana")).wait_for()
        dialog = one.dialog()
        dialog.get_by_label("Also delete my conversations from this browser").check()
        dialog.get_by_role("button", name="Log out").click()
        page.get_by_role("heading", name="Log in").wait_for()
        page = one.log_in("Ana")
        page.get_by_text("Your conversations will be listed here.").wait_for()


def test_login_by_keyboard_alone_and_its_faults(device: Take, tmp_path: Path) -> None:
    with accounts_page(tmp_path) as (server, database):
        ana = device(server)
        ana.create(invite(database), "Ana")
        other = device(server)
        page = other.open()
        page.get_by_role("heading", name="Log in").wait_for()
        keyboard = page.keyboard
        keyboard.press("Enter")
        page.get_by_text("Enter your name.").wait_for()
        assert page.evaluate("document.activeElement.getAttribute('aria-invalid')") == "true"
        keyboard.type("ana")
        keyboard.press("Tab")
        keyboard.type("wrong words here")
        keyboard.press("Enter")
        page.get_by_role("alert").get_by_text("Name or password is wrong.").wait_for()
        keyboard.type(PASSWORD)  # it replaces the wrong one, which is selected
        keyboard.press("Tab")
        keyboard.press("Enter")  # shows what was typed
        assert page.get_by_role("textbox", name="Password").input_value() == PASSWORD
        keyboard.press("Tab")
        keyboard.press("Enter")
        other.arrive()


def test_too_many_wrong_passwords_are_told_with_the_time(device: Take, tmp_path: Path) -> None:
    with accounts_page(tmp_path) as (server, _):
        one = device(server)
        page = one.open()
        for _ in range(6):
            one.fill("nobody", "not the password")
            with page.expect_response("**/web/session"):
                page.get_by_role("button", name="Log in", exact=True).click()
            page.get_by_role("alert").get_by_text(re.compile("wrong")).wait_for()
        page.get_by_text(re.compile(r"Too many wrong passwords. Try again in \d+ s")).wait_for()


def test_a_link_that_was_used_says_so_and_a_weak_password_is_refused_before_it_is_sent(
    device: Take, tmp_path: Path
) -> None:
    with accounts_page(tmp_path) as (server, database):
        link = invite(database)
        one = device(server)
        page = one.open(link)
        one.fill("Ana", "short")
        page.get_by_role("button", name="Create account").click()
        page.get_by_text("The password has 5 characters").wait_for()
        one.fill("Ana")
        page.get_by_role("button", name="Create account").click()
        one.arrive()
        again = device(server)
        again.open(link).get_by_role("heading", name="This link is not valid").wait_for()


def test_an_account_is_deleted_with_all_that_was_written(device: Take, tmp_path: Path) -> None:
    with accounts_page(tmp_path) as (server, database):
        ana = device(server)
        page = ana.create(invite(database), "Ana")
        ana.ask("words to be forgotten")
        page.get_by_role("article").get_by_text("heard words").wait_for()
        dialog = ana.dialog()
        dialog.get_by_text("Delete my account and everything I wrote").click()
        dialog.get_by_text("your conversations (1)").wait_for()
        dialog.get_by_label("Your password", exact=True).fill("not my password")
        dialog.get_by_role("button", name="Delete everything").click()
        dialog.get_by_text("The password is wrong.").wait_for()
        dialog.get_by_label("Your password", exact=True).fill(PASSWORD)
        dialog.get_by_role("button", name="Delete everything").click()
        page.get_by_text(re.compile("Deleted: conversations: 1, messages: 2")).wait_for()
        assert list_accounts(database) == []
        page.get_by_role("button", name="To the login").click()
        page.get_by_role("heading", name="Log in").wait_for()
        assert "forgotten" not in page.content()
        page.go_back()
        assert "forgotten" not in page.content()


def test_a_password_is_changed_and_the_other_device_is_logged_out(device: Take, tmp_path: Path) -> None:
    with accounts_page(tmp_path) as (server, database):
        ana, phone = device(server), device(server, PHONE)
        ana.create(invite(database), "Ana")
        phone.log_in("Ana")
        dialog = ana.dialog()
        dialog.get_by_text("Change password").click()
        dialog.get_by_label("Present password", exact=True).fill(PASSWORD)
        dialog.get_by_label("New password", exact=True).fill("another long password")
        dialog.get_by_role("button", name="Set password").click()
        dialog.get_by_text("The password was changed.").wait_for()
        phone.page.evaluate("dispatchEvent(new Event('focus'))")
        phone.page.get_by_role("heading", name="Please log in again").wait_for()
        phone.page.get_by_label("Password", exact=True).fill("another long password")
        phone.page.keyboard.press("Enter")
        phone.page.get_by_role("heading", name="Please log in again").wait_for(state="detached")


NAME = "<img src=x onerror=alert(1)><script>alert(2)</script>"


def test_an_administrator_invites_disables_and_enables_and_a_name_runs_nothing(device: Take, tmp_path: Path) -> None:
    with accounts_page(tmp_path) as (server, database):
        admin, guest = device(server), device(server)
        page = admin.create(invite(database, "admin"), "Root")
        dialog = admin.dialog(admin=True)
        dialog.get_by_label("Role", exact=True).select_option("clinician")
        dialog.get_by_role("button", name="Make a link").click()
        link = dialog.get_by_label(re.compile("Link of the invitation")).input_value()
        guest.create(link.removeprefix(server.url), NAME)
        guest.dialog().get_by_text("Clinician").wait_for()
        page.keyboard.press("Escape")
        dialog = admin.dialog(admin=True)
        dialog.get_by_role("row", name=NAME).wait_for()
        dialog.get_by_role("button", name=f"Disable {NAME}").click()
        dialog.get_by_role("button", name="Disable", exact=True).click()
        dialog.get_by_role("button", name=f"Enable {NAME}").wait_for()
        guest.page.evaluate("dispatchEvent(new Event('focus'))")
        guest.page.get_by_role("heading", name="Please log in again").wait_for()
        dialog.get_by_role("button", name=f"Enable {NAME}").click()
        dialog.get_by_label(f"Role of {NAME}").select_option("patient")
        until(lambda: "patient" in {one.role for one in list_accounts(database)})
        dialog.get_by_role("button", name=f"New password link for {NAME}").click()
        reset = dialog.get_by_label(re.compile("Link for a new password")).input_value()
        dialog.get_by_role("button", name=re.compile("^Withdraw")).first.wait_for()
        other = device(server)
        other.open(reset.removeprefix(server.url))
        other.page.get_by_label("New password", exact=True).fill("another long password")
        other.page.get_by_role("button", name="Set password").click()
        other.arrive()
        for one in (page, guest.page, other.page):
            assert not one.locator("img[src=x], body script").count()


STATES: dict[str, dict[str, Any]] = {
    "desktop": {}, "dark": {"color_scheme": "dark"}, "zh": {"locale": "zh-CN"}, "phone": {"size": PHONE},
    "small": {"size": {"width": 320, "height": 568}, "locale": "zh-CN", "color_scheme": "dark"},
}  # fmt: skip


@pytest.mark.parametrize("state", STATES)
def test_nothing_serious_is_found_by_axe_in_any_part_of_accounts(device: Take, tmp_path: Path, state: str) -> None:
    with accounts_page(tmp_path) as (server, database):
        one = device(server, **STATES[state])
        page = one.open()
        page.get_by_role("heading", name=re.compile("^(Log in|登录)$")).wait_for()
        page.keyboard.press("Enter")
        check_page(page)
        page.close()
        page = one.open(invite(database, "admin"))
        page.get_by_role("textbox", name=re.compile("^(Name|用户名)")).wait_for()
        check_page(page)
        one.fill("Root")
        page.get_by_role("button", name=re.compile("Create account|创建账户")).click()
        one.arrive()
        drawer = page.get_by_role("button", name=re.compile("^(Show conversations|打开对话列表)$"))
        if drawer.is_visible():
            drawer.click()
        dialog = one.dialog()
        for summary in dialog.locator("summary").all():
            summary.click()
        check_page(page)
        dialog.get_by_role("button", name=re.compile("Accounts and invitations|账户与邀请")).click()
        dialog.get_by_role("button", name=re.compile("Make a link|生成链接")).click()
        dialog.get_by_label(re.compile("Link of the invitation|邀请链接")).wait_for()
        check_page(page)
        end_sessions(database, list_accounts(database)[0].id)
        page.evaluate("dispatchEvent(new Event('focus'))")
        page.get_by_role("heading", name=re.compile("Please log in again|请重新登录")).wait_for()
        check_page(page)
