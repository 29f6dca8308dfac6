"""Persons on a page with accounts: nobody sees another's words; conversations are kept; who leaves is forgotten."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from account_site import PASSWORD, Person, Site, accounts_site, conversation, message
from api_server import until
from carellama.engine.scripted import ScriptedEngine
from carellama.errors import UserError
from carellama.serve.web import routes
from carellama.serve.web.accounts import conversation_routes
from carellama.serve.web.accounts.service import Accounts
from carellama.store.accounts import set_disabled
from carellama.store.sessions import end_sessions
from store_places import fast_passwords, place, postgres_server

__all__ = ["place", "postgres_server"]
SECRET = "MY SECRET ILLNESS"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with pytest.MonkeyPatch.context() as patch, accounts_site(tmp_path_factory.mktemp("site")) as one:
        fast_passwords(patch)
        yield one


def keep(person: Person, text: str = SECRET) -> str:
    """Keep a conversation with one message and a draft; return its id."""
    kept = conversation(title=text)
    assert person.put(f"/web/conversations/{kept['id']}", kept).status_code == 204
    messages = [message("m1", kept["id"], text)]
    assert person.put(f"/web/conversations/{kept['id']}/messages", messages).status_code == 204
    assert person.put(f"/web/drafts/{kept['id']}", {"text": text}).status_code == 204
    return str(kept["id"])


def ask(person: Person, text: str) -> str:
    answer = person.post("/web/answers", messages=[{"role": "user", "content": text}])
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def test_what_is_kept_comes_back_as_it_was(site: Site) -> None:
    person = site.person("keeper")
    kept = conversation(title="咳嗽", pinned=True, leaf="m2", extra={"x": [1.5, None]})
    id = kept["id"]
    assert person.put(f"/web/conversations/{id}", kept).status_code == 204
    assert person.get(f"/web/conversations/{id}").json() == kept
    assert person.get("/web/conversations").json() == [kept]
    messages = [message("m1", id, "I cough"), message("m2", id, "Since when?")]
    assert person.put(f"/web/conversations/{id}/messages", messages).status_code == 204
    changed = message("m2", id, "Since when do you cough?")
    assert person.put(f"/web/conversations/{id}/messages", [changed]).status_code == 204
    assert person.get(f"/web/conversations/{id}/messages").json() == [messages[0], changed]
    assert person.post("/web/conversations/search", text="SINCE WHEN DO").json() == {"ids": [id]}
    assert person.post("/web/conversations/search", text="fever").json() == {"ids": []}
    assert person.get("/web/drafts/new").json() == {"text": ""}
    assert person.put("/web/drafts/new", {"text": "and so"}).status_code == 204
    assert person.get("/web/drafts/new").json() == {"text": "and so"}
    assert person.delete(f"/web/conversations/{id}").status_code == 204
    assert person.get(f"/web/conversations/{id}").status_code == 404
    assert person.get(f"/web/conversations/{id}/messages").status_code == 404
    assert person.delete(f"/web/conversations/{id}").json()["error"]["code"] == "conversation_not_found"


def test_nobody_sees_or_changes_what_another_has(site: Site) -> None:
    mine, other = site.person("owner"), site.person("stranger", "admin")
    id, answer = keep(mine), ask(mine, SECRET)
    seen = [
        other.get("/web/conversations"),
        other.get(f"/web/conversations/{id}"),
        other.get(f"/web/conversations/{id}/messages"),
        other.post("/web/conversations/search", text=SECRET),
        other.get(f"/web/drafts/{id}"),
        other.get(f"/web/answers/{answer}"),
        other.get("/web/config"),
        other.get("/web/accounts"),
        other.get("/metrics"),
    ]
    assert [one.status_code for one in seen] == [200, 404, 404, 200, 200, 404, 200, 200, 200]
    assert not [one.url for one in seen if "SECRET" in one.text]
    tried = [
        other.delete(f"/web/conversations/{id}"),
        other.put(f"/web/conversations/{id}", conversation(id, title="taken")),
        other.put(f"/web/conversations/{id}/messages", [message("m1", id, "taken")]),
        other.put(f"/web/drafts/{id}", {"text": "taken"}),
        other.delete(f"/web/answers/{answer}"),
    ]
    assert [one.status_code for one in tried] == [404, 409, 404, 204, 404]
    assert tried[1].json()["error"]["code"] == "conversation_conflict"
    assert mine.get(f"/web/conversations/{id}").json()["title"] == SECRET
    assert mine.get(f"/web/conversations/{id}/messages").json()[0]["segments"][0]["text"] == SECRET
    assert mine.get(f"/web/drafts/{id}").json()["text"] == SECRET
    assert f"heard {SECRET}" in _text(mine.get(f"/web/answers/{answer}").text)


def _text(events: str) -> str:
    lines = [json.loads(line[6:]) for line in events.splitlines() if line.startswith("data: {")]
    return "".join(one["delta"].get("content", "") for line in lines for one in line.get("choices", ()))


def test_two_persons_who_write_at_once_keep_their_own(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast_passwords(monkeypatch)
    kept: dict[str, list[str]] = {}

    def write(person: Person) -> None:
        kept[person.name] = [keep(person, f"{person.name} says {number}") for number in range(10)]

    with accounts_site(tmp_path, database=place) as site:
        persons = [site.person(f"writer{number}") for number in range(2)]
        threads = [threading.Thread(target=write, args=(person,)) for person in persons]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(persons) == 2
        for person in persons:
            found = person.get("/web/conversations").json()
            assert {one["id"] for one in found} == set(kept[person.name]) and len(found) == 10
            assert all(one["title"].startswith(person.name) for one in found)
            assert person.delete("/web/account", password=PASSWORD).json()["deleted"]["messages"] == 10


def test_what_is_for_researchers_is_for_administrators_alone(site: Site) -> None:
    admin, patient = site.person("researcher", "admin"), site.person("reader")
    assert admin.get("/web/cards").status_code == 200
    refused = patient.get("/web/cards")
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")


LONG = "x" * (conversation_routes.MAX_PART_BYTES + 1)


def test_what_is_too_long_or_has_no_id_is_refused(site: Site) -> None:
    person = site.person("writer")
    id = keep(person)
    too_long = [
        person.put(f"/web/conversations/{id}", conversation(id, title=LONG)),
        person.put(f"/web/conversations/{id}/messages", [message("m1", id, LONG)]),
        person.put("/web/drafts/new", {"text": LONG}),
    ]
    assert [(one.status_code, one.json()["error"]["code"]) for one in too_long] == [(413, "too_large")] * 3
    half = "x" * (conversation_routes.MAX_PART_BYTES // 2)
    body = [message(f"m{number}", id, half) for number in range(17)]
    assert person.put(f"/web/conversations/{id}/messages", body).status_code == 413
    wrong: list[tuple[str, Any]] = [
        (f"/web/conversations/{id}", conversation("other")),
        (f"/web/conversations/{id}", [1]),
        ("/web/conversations/a%20b", conversation("a b")),
        (f"/web/conversations/{id}/messages", [{"conversation": id}]),
        (f"/web/conversations/{id}/messages", [message("m1", "other", "x")]),
        (f"/web/conversations/{id}/messages", {"id": "m1"}),
        ("/web/drafts/" + "x" * 65, {"text": "x"}),
        ("/web/drafts/new", {"text": 1}),
    ]
    for path, body in wrong:
        refused = person.put(path, body)
        assert refused.status_code == 400 and refused.json()["error"]["code"] == "invalid_value", path
    assert person.get(f"/web/conversations/{id}").json()["title"] == SECRET


def test_only_administrators_see_and_change_accounts(site: Site) -> None:
    admin, patient = site.person("boss", "admin"), site.person("one of many")
    for refused in (
        patient.get("/web/accounts"),
        patient.patch(f"/web/accounts/{patient.id}", role="admin"),
        patient.post("/web/invitations", role="admin"),
        patient.delete("/web/invitations/x"),
    ):
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")
    listed = admin.get("/web/accounts").json()["accounts"]
    mine = next(one for one in listed if one["id"] == patient.id)
    assert {*mine} == {"id", "name", "role", "created", "last_login", "disabled", "issuer"}
    assert admin.get("/web/config").json()["profile"] == "researcher"
    assert admin.patch(f"/web/accounts/{patient.id}", role="clinician").json()["role"] == "clinician"
    assert patient.get("/web/config").json()["profile"] == "clinician"
    assert admin.patch("/web/accounts/nobody", role="admin").json()["error"]["code"] == "account_not_found"
    assert admin.patch(f"/web/accounts/{patient.id}", role="king").status_code == 400
    assert admin.patch(f"/web/accounts/{patient.id}", disabled=True).json()["disabled"] is not None
    assert patient.get("/web/config").status_code == 401
    assert admin.patch(f"/web/accounts/{patient.id}", disabled=False).json()["disabled"] is None
    assert patient.get("/web/config").status_code == 401, "its sessions had ended"
    patient.log_in("one of many")


def test_the_last_administrator_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fast_passwords(monkeypatch)
    with accounts_site(tmp_path) as one:
        admin, other = one.person("boss", "admin"), one.person("other")
        for refused in (
            admin.patch(f"/web/accounts/{admin.id}", role="patient"),
            admin.patch(f"/web/accounts/{admin.id}", disabled=True),
            admin.delete("/web/account", password=PASSWORD),
        ):
            assert (refused.status_code, refused.json()["error"]["code"]) == (409, "last_admin")
        assert admin.patch(f"/web/accounts/{other.id}", role="admin").status_code == 200
        assert admin.patch(f"/web/accounts/{admin.id}", role="patient").status_code == 200
        assert admin.get("/web/accounts").status_code == 403


def test_an_invitation_is_used_once(site: Site) -> None:
    admin = site.person("inviter", "admin")
    made = admin.post("/web/invitations", role="clinician", days=3)
    token = made.json()["token"]
    assert made.status_code == 201 and made.json()["path"] == f"/invite#{token}"
    open_ones = admin.get("/web/accounts").json()["invitations"]
    assert made.json()["id"] in [one["id"] for one in open_ones] and token not in str(open_ones)
    visitor = site.visitor()
    read = visitor.post("/web/invitations/read", token=token).json()
    assert (read["role"], read["name"]) == ("clinician", None)
    taken = visitor.post("/web/accounts", token=token, name="INVITER", password=PASSWORD)
    assert (taken.status_code, taken.json()["error"]["code"]) == (409, "name_taken")
    for name, password in (("ok", "short"), ("", PASSWORD), ("a\nb", PASSWORD)):
        refused = visitor.post("/web/accounts", token=token, name=name, password=password)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_account")
    visitor.take(visitor.post("/web/accounts", token=token, name="invited", password=PASSWORD), 201)
    again = site.visitor().post("/web/accounts", token=token, name="second", password=PASSWORD)
    assert (again.status_code, again.json()["error"]["code"]) == (404, "invitation_not_found")
    assert site.visitor().post("/web/invitations/read", token=token).status_code == 404
    withdrawn = admin.post("/web/invitations", role="patient").json()
    assert admin.delete(f"/web/invitations/{withdrawn['id']}").status_code == 204
    assert admin.delete(f"/web/invitations/{withdrawn['id']}").status_code == 404
    assert visitor.post("/web/invitations/read", token=withdrawn["token"]).status_code == 404


def test_a_forgotten_password_is_replaced_by_an_invitation(site: Site) -> None:
    admin, person = site.person("helper", "admin"), site.person("forgetful")
    made = admin.post("/web/invitations", account_id=person.id).json()
    read = site.visitor().post("/web/invitations/read", token=made["token"]).json()
    assert read["name"] == "forgetful"
    new = "a new and long password"
    fresh = site.visitor()
    fresh.take(fresh.post("/web/accounts", token=made["token"], name="forgetful", password=new), 201)
    assert fresh.id == person.id
    assert person.get("/web/config").status_code == 401, "the sessions from before have ended"
    for body in ({}, {"role": "patient", "account_id": person.id}, {"role": "patient", "days": 0}):
        assert admin.post("/web/invitations", **body).status_code == 400
    assert admin.post("/web/invitations", account_id="nobody").status_code == 404


def test_who_asks_to_be_forgotten_is_gone_with_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fast_passwords(monkeypatch)
    with accounts_site(tmp_path) as one:
        person, phone, other = one.person("leaver"), one.visitor(), one.person("stays")
        phone.log_in("leaver")
        keep(person)
        theirs, answer = keep(other, "the words of another"), ask(person, SECRET)
        assert person.delete("/web/account", password="wrong password").status_code == 401
        assert person.delete("/web/account", name="leaver").status_code == 401
        gone = person.delete("/web/account", password=PASSWORD)
        assert gone.status_code == 200
        deleted = gone.json()["deleted"]
        assert (deleted["conversations"], deleted["messages"], deleted["drafts"], deleted["sessions"]) == (1, 1, 1, 2)
        assert person.get("/web/config").status_code == phone.get("/web/config").status_code == 401
        assert answer not in one.server.server.app.state.answers._answers, "nor in the memory of the server"
        assert one.visitor().post("/web/session", name="leaver", password=PASSWORD).status_code == 401
        assert other.get(f"/web/conversations/{theirs}").status_code == 200
    files = list(tmp_path.glob("accounts.db*"))
    assert files and not [file for file in files if b"SECRET" in file.read_bytes()]


def test_a_disabled_account_hears_no_more_of_its_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fast_passwords(monkeypatch)
    engine = ScriptedEngine("word " * 3000, token_seconds=0.01)
    with accounts_site(tmp_path, engine=engine) as one:
        admin, person = one.person("boss", "admin"), one.person("loud")
        ask(person, "tell me everything")
        until(lambda: engine.running == 1)
        assert admin.patch(f"/web/accounts/{person.id}", disabled=True).status_code == 200
        until(lambda: engine.running == 0)


@pytest.mark.parametrize("end", ["disabled", "logged out"])
def test_an_answer_is_read_no_longer_than_the_session_lasts(
    tmp_path: Path, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast_passwords(monkeypatch)
    monkeypatch.setattr(routes, "CHECK_SECONDS", 0.0)
    engine = ScriptedEngine("word " * 3000, token_seconds=0.01)
    with accounts_site(tmp_path, engine=engine) as one:
        person = one.person("loud")
        answer = ask(person, "tell me everything")
        with person.client.stream("GET", f"/web/answers/{answer}") as response:
            lines = response.iter_lines()
            assert next(lines)
            if end == "disabled":  # as by the command, which knows nothing of the server
                set_disabled(one.database, person.id, disabled=True)
            else:
                end_sessions(one.database, person.id)
            rest = list(lines)
        assert "data: [DONE]" not in rest and len(rest) < 3000
        assert person.get(f"/web/answers/{answer}").status_code == 401


def test_old_conversations_are_deleted_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fast_passwords(monkeypatch)
    with accounts_site(tmp_path, retention_days=30) as one:
        person, clock = one.person("old"), one.database._clock
        old = keep(person)
        clock.now += 29 * 86400  # type: ignore[attr-defined]
        person.log_in("old")
        young = keep(person, "young")
        clock.now += 2 * 86400  # type: ignore[attr-defined]
        one.accounts.prune()  # as every hour
        person.log_in("old")
        assert [kept["id"] for kept in person.get("/web/conversations").json()] == [young] and old != young


def test_the_hourly_task_begins_with_the_server_and_ends_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast_passwords(monkeypatch)
    asked: list[int] = []

    def prune(_: Accounts) -> int:
        asked.append(1)
        return 0

    monkeypatch.setattr(Accounts, "prune", prune)
    monkeypatch.setattr("carellama.serve.web.accounts.service.PRUNE_SECONDS", 0.02)
    with accounts_site(tmp_path):
        until(lambda: len(asked) > 2)
    ended = len(asked)
    time.sleep(0.2)
    assert len(asked) == ended


def test_a_database_that_is_away_is_told_without_its_place(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    person = site.person("unlucky")

    def away(*_: Any) -> None:
        raise UserError("/srv/secret/place.db: the disk is full; make room there")

    monkeypatch.setattr(type(site.accounts.conversations), "list", away)
    refused = person.get("/web/conversations")
    assert refused.status_code == 503 and "secret" not in refused.text


@pytest.mark.parametrize("keep", ["browser", "nothing"])
def test_where_the_server_keeps_nothing_it_has_no_routes_for_it(
    tmp_path: Path, keep: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast_passwords(monkeypatch)
    with accounts_site(tmp_path, keep=keep) as one:
        person = one.person("private")
        assert person.get("/web/config").json()["keep"] == keep
        assert person.get("/web/conversations").status_code == 404
        assert person.put("/web/conversations/a", {"id": "a"}).status_code in (404, 405)
        assert httpx2.get(f"{one.url}/web/oidc/login").status_code == 404
