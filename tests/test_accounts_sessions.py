"""Log in and out of a page with accounts: sessions, cookies, requests of other sites, wrong passwords."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from account_site import PASSWORD, Clock, Site, accounts_site
from carellama.serve.api.middleware import PUBLIC_ROUTES
from carellama.serve.web.accounts import service as accounts_module
from carellama.serve.web.accounts.session_auth import FOR_VISITORS
from carellama.serve.web.app import HEADERS
from carellama.store.accounts import set_disabled
from carellama.store.keys import Limits, create_key
from store_places import fast_passwords

WITH_SESSION = ["/web/config", "/web/conversations", "/v1/models", "/web/accounts", "/metrics", "/nothing/here"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with pytest.MonkeyPatch.context() as patch, accounts_site(tmp_path_factory.mktemp("site")) as one:
        fast_passwords(patch)
        yield one


def clock_of(site: Site) -> Clock:
    clock = site.database._clock
    assert isinstance(clock, Clock)
    return clock


def test_without_a_session_there_is_the_page_and_nothing_else(site: Site) -> None:
    visitor = site.visitor()
    for path in ("/", "/login", "/invite", "/c/abc", "/index.html", "/assets/app-1a2b.js"):
        found = visitor.get(path)
        assert found.status_code == 200 and "set-cookie" not in found.headers, path
    for path in WITH_SESSION:
        refused = visitor.get(path)
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "login_required"), path
    for path in ("/web/answers", "/v1/chat/completions", "/web/invitations"):
        assert visitor.post(path, messages=[]).status_code == 401
    known = visitor.get("/web/session").json()
    assert known["access"] == "accounts" and known["oidc"] is None and known["disclaimer"]["zh"]


def test_no_route_answers_without_a_session_but_those_for_visitors(site: Site) -> None:
    described = site.server.server.app.openapi()["paths"]
    routes = {(method.upper(), path) for path, methods in described.items() for method in methods}
    closed = routes - FOR_VISITORS - {("GET", path) for path in PUBLIC_ROUTES}
    assert len(closed) > 25 and ("DELETE", "/web/conversations/{id}") in closed
    visitor = site.visitor()
    for method, path in closed:
        body = None if method in ("GET", "DELETE") else {}
        refused = visitor.client.request(method, path.replace("{", "").replace("}", ""), json=body)
        assert refused.status_code in (401, 415), (method, path)


def test_every_response_has_the_headers_of_the_page(site: Site) -> None:
    visitor, person = site.visitor(), site.person("headers")
    answers = [
        (200, visitor.get("/")),
        (401, visitor.get("/web/config")),
        (401, visitor.post("/web/session", name="nobody", password="wrong wrong wrong")),
        (403, visitor.get("/", headers={"origin": "https://evil.example"})),
        (404, person.get("/nothing")),
        (400, person.client.post("/web/session", content=b"{", headers={"content-type": "application/json"})),
    ]
    for status, answer in answers:
        assert answer.status_code == status
        assert all(answer.headers[name] == value for name, value in HEADERS.items()), status
        assert answer.headers["cache-control"] == ("no-cache" if status == 200 else "no-store")


def test_a_login_and_its_cookie(site: Site) -> None:
    site.person("Mei")
    visitor = site.visitor()
    answer = visitor.post("/web/session", name="ＭＥＩ", password=PASSWORD)
    visitor.take(answer)
    assert answer.json()["account"] == {"id": visitor.id, "name": "Mei", "role": "patient", "issuer": ""}
    cookie = answer.headers.get_list("set-cookie")[0]
    assert cookie.startswith("carellama_session=") and "__Host-" not in cookie
    assert {part.strip().lower() for part in cookie.split(";")[1:]} == {"httponly", "path=/", "samesite=lax"}
    config = visitor.get("/web/config").json()
    assert (config["access"], config["keep"], config["profile"]) == ("accounts", "server", "patient")
    assert config["account"]["name"] == "Mei" and config["csrf"] == answer.json()["csrf"]
    assert "system_prompt" not in config and "sampling" not in config


def test_over_tls_no_other_host_can_set_the_cookie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fast_passwords(monkeypatch)
    with accounts_site(tmp_path, trusted_proxies="127.0.0.1") as one:
        https = {"x-forwarded-proto": "https", "x-forwarded-host": "care.example", "x-forwarded-for": "10.1.2.3"}
        one.person("Mei")
        person = one.visitor(origin="https://care.example")
        person.client.headers.update(https)
        answer = person.post("/web/session", name="Mei", password=PASSWORD)
        cookie = answer.headers.get_list("set-cookie")[0]
        assert cookie.startswith("__Host-carellama_session=")
        assert {part.strip().lower() for part in cookie.split(";")[1:]} == {
            "httponly", "path=/", "samesite=lax", "secure",
        }  # fmt: skip
        token = cookie.split("=", 1)[1].split(";")[0]
        given = {"cookie": f"__Host-carellama_session={token}", **https}
        assert httpx2.get(f"{one.url}/web/config", headers=given).status_code == 200
        plain = {"cookie": f"carellama_session={token}", **https}
        assert httpx2.get(f"{one.url}/web/config", headers=plain).status_code == 401


def test_who_is_no_trusted_proxy_is_not_believed(site: Site) -> None:
    site.person("Proxy")
    forged = {"x-forwarded-proto": "https", "x-forwarded-host": "evil.example"}
    visitor = site.visitor()
    answer = visitor.client.post("/web/session", json={"name": "Proxy", "password": PASSWORD}, headers=forged)
    assert answer.status_code == 200 and "Secure" not in answer.headers.get_list("set-cookie")[0]
    refused = visitor.get("/web/config", headers={**forged, "origin": "http://evil.example"})
    assert refused.status_code == 403 and refused.json()["error"]["code"] == "other_site"


REFUSED: list[tuple[str, dict[str, str | None]]] = [
    ("other_site", {"origin": "https://evil.example"}),
    ("other_site", {"origin": "null"}),
    ("other_site", {"origin": None}),
    ("other_site", {"origin": None, "sec-fetch-site": "same-site"}),
    ("other_site", {"sec-fetch-site": "cross-site"}),
    ("csrf", {"x-csrf-token": None}),
    ("csrf", {"x-csrf-token": "0" * 64}),
    ("csrf", {"x-csrf-token": "ÿ"}),
]


@pytest.mark.parametrize(("code", "change"), REFUSED)
def test_a_request_of_another_site_changes_nothing(site: Site, code: str, change: dict[str, str | None]) -> None:
    name = f"p{REFUSED.index((code, change))}"
    person = site.person(name)
    headers: dict[str, Any] = {**person.client.headers, **change}
    given = {name: value.encode("latin-1") for name, value in headers.items() if value is not None}
    kept = person.put("/web/conversations/mine", {"id": "mine"})
    assert kept.status_code in (204, 409)
    for method, path, body in (
        ("PUT", "/web/conversations/other", {"id": "other"}),
        ("POST", "/web/answers", {"messages": [{"role": "user", "content": "x"}]}),
        ("POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
        ("DELETE", "/web/session", None),
    ):
        with httpx2.Client(base_url=site.url, cookies=person.client.cookies, timeout=20) as client:
            answer = client.request(method, path, json=body, headers=given)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, code), path
    assert person.get("/web/config").status_code == 200, "nothing ended the session"


def test_the_token_of_one_session_is_not_that_of_another(site: Site) -> None:
    first, second = site.person("first"), site.person("second")
    theirs = second.client.headers["x-csrf-token"]
    answer = first.client.put("/web/conversations/x1", json={"id": "x1"}, headers={"x-csrf-token": theirs})
    assert answer.status_code == 403
    same = first.client.put("/web/conversations/x1", json={"id": "x1"}, headers={"sec-fetch-site": "same-origin"})
    assert same.status_code == 204


def test_a_logout_ends_the_session_on_the_server(site: Site) -> None:
    person = site.person("leaver")
    cookies = dict(person.client.cookies)
    left = person.delete("/web/session")
    assert left.status_code == 204 and 'carellama_session=""' in left.headers["set-cookie"]
    assert httpx2.get(f"{site.url}/web/config", cookies=cookies).status_code == 401


def test_a_login_takes_the_place_of_the_session_before(site: Site) -> None:
    person = site.person("twice")
    before = dict(person.client.cookies)
    person.log_in("twice")
    assert httpx2.get(f"{site.url}/web/config", cookies=before).status_code == 401
    assert person.get("/web/config").status_code == 200


def test_a_session_ends_when_it_is_not_used_and_after_seven_days(site: Site) -> None:
    clock = clock_of(site)
    idle, busy = site.person("idle"), site.person("busy")
    hours = 0
    while hours < 7 * 24 - 11:
        assert busy.get("/web/config").status_code == 200, hours
        hours += 11
        clock.now += 11 * 3600
    assert idle.get("/web/config").status_code == 401
    assert busy.get("/web/config").status_code == 200
    clock.now += 11 * 3600
    assert busy.get("/web/config").status_code == 401, "a session has a longest life"


def test_wrong_passwords_lock_and_the_right_one_is_refused_meanwhile(site: Site) -> None:
    clock = clock_of(site)
    site.person("locked")
    visitor = site.visitor()
    tries = [visitor.post("/web/session", name="locked", password=f"wrong password {n}") for n in range(5)]
    assert [one.status_code for one in tries] == [401] * 5
    assert {one.json()["error"]["code"] for one in tries} == {"login_failed"}
    refused = visitor.post("/web/session", name="locked", password=PASSWORD)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "login_locked")
    clock.now += int(refused.headers["retry-after"])
    visitor.log_in("locked")


def test_wrong_passwords_of_others_do_not_lock_the_own_browser(site: Site) -> None:
    person, attacker = site.person("victim"), site.visitor()
    assert person.delete("/web/session").status_code == 204
    for _ in range(5):
        attacker.post("/web/session", name="victim", password="not the password")
    assert site.visitor().post("/web/session", name="victim", password=PASSWORD).status_code == 429
    person.log_in("victim")
    kept = person.client.cookies["carellama_device"]
    assert person.delete("/web/account", password=PASSWORD).status_code == 200
    assert kept and "carellama_device" not in person.client.cookies


def test_an_unknown_name_is_answered_as_a_wrong_password(site: Site) -> None:
    site.person("there")
    visitor = site.visitor()
    answers = [visitor.post("/web/session", name=name, password="wrong wrong") for name in ("there", "not there")]
    assert answers[0].status_code == answers[1].status_code == 401
    assert answers[0].json() == answers[1].json()


def test_too_many_logins_at_once_are_told_to_come_back(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts_module, "WAITING_PASSWORDS", 0)
    busy = site.visitor().post("/web/session", name="there", password=PASSWORD)
    assert (busy.status_code, busy.json()["error"]["code"]) == (503, "busy") and busy.headers["retry-after"]


def test_a_disabled_account_is_out_at_once(site: Site) -> None:
    person = site.person("disabled")
    set_disabled(site.database, person.id, disabled=True)
    assert person.get("/web/config").status_code == 401
    assert person.post("/web/session", name="disabled", password=PASSWORD).status_code == 401


def test_a_new_password_ends_the_other_sessions(site: Site) -> None:
    person, phone = site.person("changer"), site.visitor()
    phone.log_in("changer")
    new = "another long password"
    wrong = person.post("/web/account/password", old="not the password", new=new)
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (401, "login_failed")
    assert person.post("/web/account/password", old=PASSWORD, new="short").status_code == 400
    assert phone.get("/web/config").status_code == 200
    assert person.post("/web/account/password", old=PASSWORD, new=new).status_code == 204
    assert (person.get("/web/config").status_code, phone.get("/web/config").status_code) == (200, 401)
    assert phone.post("/web/session", name="changer", password=PASSWORD).status_code == 401
    phone.log_in("changer", new)


def test_the_api_takes_keys_and_sessions(site: Site) -> None:
    _, key = create_key(site.database, name="ward", scopes=("chat",), limits=Limits(None, None, None))
    bearer = {"authorization": f"Bearer {key}"}
    body = {"messages": [{"role": "user", "content": "fever"}]}
    address = f"{site.url}/v1/chat/completions"
    by_key = httpx2.post(address, json=body, headers=bearer)
    assert by_key.json()["choices"][0]["message"]["content"] == "heard fever"
    by_session = site.person("caller").post("/v1/chat/completions", **body)
    assert by_session.json()["choices"][0]["message"]["content"] == "heard fever"
    behind_proxy = site.person("behind a proxy")
    behind_proxy.client.headers["authorization"] = "Basic cHJveHk6cGFzc3dvcmQ="
    assert behind_proxy.get("/v1/models").status_code == 200, "the password of a proxy is none of ours"
    wrong = httpx2.post(address, json=body, headers={"authorization": "Bearer cl-00000000-00"})
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (401, "invalid_api_key")
    for path in ("/web/config", "/web/accounts", "/web/conversations"):
        assert httpx2.get(site.url + path, headers=bearer).status_code == 401, "keys are for the API"
    assert httpx2.get(f"{site.url}/metrics", headers=bearer).status_code == 403


def test_bodies_that_are_wrong_are_refused_in_the_form_of_the_api(site: Site) -> None:
    visitor = site.visitor()
    for body in ("{", "[]", '{"name": 1, "password": "x"}', '{"name": "a"}', '{"name": "a", "password": "b", "c": 1}'):
        answer = visitor.client.post("/web/session", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 400 and answer.json()["error"]["code"] in ("invalid_json", "invalid_value"), body
    form = visitor.client.post("/web/session", data={"name": "a", "password": "b"})
    assert form.status_code == 415
    long = visitor.post("/web/session", name="a", password="x" * 70_000)
    assert (long.status_code, long.json()["error"]["code"]) == (413, "body_too_large")
    chunked = visitor.client.post("/web/session", content=iter([b"{}"]), headers={"content-type": "application/json"})
    assert chunked.status_code == 413
    nul = visitor.post("/web/session", name="a\0b", password="x" * 12)
    assert nul.status_code in (400, 401)


def test_the_log_has_no_password_and_no_token(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    person = site.person("logged")
    token = person.client.cookies["carellama_session"]
    site.visitor().post("/web/session", name="logged", password="WRONG-SECRET-PASSWORD")
    person.put("/web/conversations/logged1", {"id": "logged1", "title": "SECRET ILLNESS"})
    person.post("/web/conversations/search", text="SECRET ILLNESS")
    ours = [one for one in caplog.records if not one.name.startswith("http")]  # not of the client of this test
    lines = [record.getMessage() for record in ours]
    assert any("/web/session 401" in line for line in lines)
    csrf = person.client.headers["x-csrf-token"]
    for secret in (PASSWORD, "SECRET", token, csrf):
        assert not [line for line in lines if secret in line], secret
