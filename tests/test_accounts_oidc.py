"""Log in by OpenID Connect: a provider on loopback, genuine and forged ID tokens, states that come back twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from account_site import PASSWORD, Person, Site, accounts_site
from carellama.config.serve import WebOptions
from carellama.errors import UserError
from carellama.store.accounts import list_accounts, set_disabled
from oidc_provider import CLIENT, SECRET, Provider, provider
from store_places import fast_passwords

jwk = pytest.importorskip("joserfc.jwk", reason="OpenID Connect needs authlib")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Site, Provider]]:
    fast_passwords(monkeypatch)
    monkeypatch.setenv("CARELLAMA_OIDC_SECRET", SECRET)
    with provider() as one:
        settings: dict[str, Any] = {"oidc_issuer": one.issuer, "oidc_client_id": CLIENT, "oidc_name": "Hospital login"}
        with accounts_site(tmp_path, **settings) as site:
            yield site, one


def leave(person: Person, one: Provider) -> str:
    """Go to the provider and log in there; return the address that leads back."""
    away = person.get("/web/oidc/login", follow_redirects=False)
    assert away.status_code == 303 and away.headers["location"].startswith(f"{one.issuer}/authorize?")
    return httpx2.get(away.headers["location"]).headers["location"]


def come_back(person: Person, address: str) -> httpx2.Response:
    """Follow the address as a browser does, which sends no Origin."""
    with httpx2.Client(cookies=person.client.cookies, timeout=20) as client:
        return client.get(address)


def log_in(person: Person, one: Provider) -> httpx2.Response:
    back = come_back(person, leave(person, one))
    person.client.cookies.update(back.cookies)
    return back


def test_a_person_comes_from_the_provider_and_comes_again(world: tuple[Site, Provider]) -> None:
    site, one = world
    person = site.visitor()
    assert person.get("/web/session").json()["oidc"] == {"name": "Hospital login"}
    back = log_in(person, one)
    assert back.status_code == 303 and back.headers["location"] == "/"
    account = person.get("/web/config").json()["account"]
    assert (account["name"], account["role"], account["issuer"]) == ("Mei Lin", "patient", one.issuer)
    again = site.visitor()
    log_in(again, one)
    assert again.get("/web/config").json()["account"]["id"] == account["id"] and len(list_accounts(site.database)) == 1
    one.claims = {"sub": "person-2", "name": "Mei Lin"}
    other = site.visitor()
    log_in(other, one)
    assert other.get("/web/config").json()["account"]["id"] != account["id"], "the subject counts, not the name"
    assert site.visitor().post("/web/session", name="Mei Lin", password=PASSWORD).status_code == 401


def test_an_account_of_the_provider_is_forgotten_by_its_name(world: tuple[Site, Provider]) -> None:
    site, one = world
    person = site.visitor()
    log_in(person, one)
    person.client.headers["x-csrf-token"] = person.get("/web/config").json()["csrf"]
    assert person.delete("/web/account", name="somebody").status_code == 401
    assert person.delete("/web/account", name="mei lin").status_code == 200
    assert list_accounts(site.database) == [] and person.get("/web/config").status_code == 401


def test_a_disabled_account_stays_out(world: tuple[Site, Provider]) -> None:
    site, one = world
    log_in(site.visitor(), one)
    (account,) = list_accounts(site.database)
    set_disabled(site.database, account.id, disabled=True)
    refused = log_in(site.visitor(), one)
    assert refused.status_code == 403 and "locked" in refused.text and "carellama_session" not in refused.cookies


def expect_refused(site: Site, one: Provider, status: int) -> None:
    """A login fails with a page of fixed words, and makes nothing."""
    person = site.visitor()
    refused = log_in(person, one)
    assert refused.status_code == status and "text/html" in refused.headers["content-type"]
    assert "carellama_session" not in refused.cookies and person.get("/web/config").status_code == 401
    assert list_accounts(site.database) == [] and "<script" not in refused.text


FORGED: dict[str, dict[str, Any]] = {
    "another nonce": {"nonce": "another"},
    "no nonce": {"nonce": None},
    "another audience": {"aud": "another-client"},
    "no audience": {"aud": None},
    "several audiences, ours not among them": {"aud": ["a", "b"]},
    "ours among them, authorized for another": {"aud": [CLIENT, "b"], "azp": "b"},
    "another audience, authorized for ours": {"aud": "another-client", "azp": CLIENT},
    "another issuer": {"iss": "https://evil.example"},
    "expired": {"exp": int(time.time()) - 3600},
    "without an end": {"exp": None},
    "from the future": {"nbf": int(time.time()) + 3600},
    "no subject": {"sub": None},
    "empty subject": {"sub": ""},
    "subject is a number": {"sub": 7},
    "subject without end": {"sub": "x" * 300},
}


@pytest.mark.parametrize("name", FORGED)
def test_an_id_token_that_is_not_for_this_login_is_refused(world: tuple[Site, Provider], name: str) -> None:
    site, one = world
    one.claims |= FORGED[name]
    expect_refused(site, one, 502)


def by_none(one: Provider) -> None:
    one.header = {"alg": "none"}


def by_another_key(one: Provider) -> None:
    one.signing = jwk.RSAKey.generate_key(2048, {"kid": "k1", "use": "sig"})


def by_the_secret(one: Provider) -> None:
    """Signed with what both know: whoever knows the secret could make it."""
    one.header, one.signing = {"alg": "HS256"}, SECRET.encode()


def by_the_public_key(one: Provider) -> None:
    """Signed with HMAC, the public key taken for a secret."""
    one.header, one.signing = {"alg": "HS256", "kid": "k1"}, one.key.as_pem(private=False)


@pytest.mark.parametrize("forge", [by_none, by_another_key, by_the_secret, by_the_public_key])
def test_a_signature_that_is_not_the_providers_is_refused(
    world: tuple[Site, Provider], forge: Callable[[Provider], None]
) -> None:
    site, one = world
    forge(one)
    expect_refused(site, one, 502)


def test_new_keys_of_the_provider_are_looked_up(world: tuple[Site, Provider], monkeypatch: pytest.MonkeyPatch) -> None:
    site, one = world
    assert log_in(site.visitor(), one).status_code == 303
    monkeypatch.setattr("carellama.serve.web.accounts.oidc.KEYS_SECONDS", 0.0)
    one.key = one.signing = jwk.RSAKey.generate_key(2048, {"kid": "k2", "use": "sig"})
    one.header = {"alg": "RS256", "kid": "k2"}
    assert log_in(site.visitor(), one).status_code == 303
    assert one.asked.count("/keys") == 2


def test_a_state_comes_back_once_and_to_its_browser(world: tuple[Site, Provider]) -> None:
    site, one = world
    person = site.visitor()
    address = leave(person, one)
    cookies = dict(person.client.cookies)
    stranger = site.visitor()
    assert come_back(stranger, address).status_code == 400, "another browser"
    leave(stranger, one)
    assert come_back(stranger, address).status_code == 400, "another browser with a login of its own"
    assert come_back(person, address.replace("state=", "state=x")).status_code == 400
    assert come_back(person, address).status_code == 303
    with httpx2.Client(cookies=cookies) as client:
        assert client.get(address).status_code == 400, "used before"
    assert one.asked.count("/token") == 1


def test_a_login_takes_at_most_ten_minutes(world: tuple[Site, Provider], monkeypatch: pytest.MonkeyPatch) -> None:
    site, one = world
    person = site.visitor()
    address = leave(person, one)
    monkeypatch.setattr("carellama.serve.web.accounts.oidc.LOGIN_SECONDS", -1)
    assert come_back(person, address).status_code == 400


def test_what_the_provider_does_not_allow_is_told(world: tuple[Site, Provider]) -> None:
    site, one = world
    for change in ("error=access_denied", "error=<script>alert(1)</script>", "iss=https://evil.example"):
        person = site.visitor()
        address = leave(person, one)
        refused = come_back(person, f"{address}&{change}")
        assert refused.status_code in (403, 502) and "<script" not in refused.text
    assert one.asked.count("/token") == 0


def test_a_provider_that_does_not_answer_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fast_passwords(monkeypatch)
    monkeypatch.setenv("CARELLAMA_OIDC_SECRET", SECRET)
    with provider() as one:
        settings: dict[str, Any] = {"oidc_issuer": one.issuer, "oidc_client_id": CLIENT}
        with accounts_site(tmp_path, **settings) as site:
            for wrong in ({"issuer": "https://evil.example"}, {"token_endpoint": None}, {"jwks_uri": 7}):
                one.discovery = wrong
                assert site.visitor().get("/web/oidc/login").status_code == 503, wrong
            one.discovery = {}
            one.token_status = 500
            expect_refused(site, one, 503)
            one.token_status = 200
            person = site.visitor()
            address = leave(person, one)
    # neither provider nor page run any more: what was begun is tried at another start of both
    with accounts_site(tmp_path / "again", **settings) as site:
        down = site.visitor().get("/web/oidc/login")
        assert down.status_code == 503 and "does not answer" in down.text and "登录服务" in down.text
        later = come_back(person, address.replace(address.split("/web/")[0], site.url))
        assert later.status_code == 400, "the key of the cookie was that of the process before"


def test_the_way_back_leads_to_the_page_alone(world: tuple[Site, Provider]) -> None:
    site, one = world
    person = site.visitor()
    address = leave(person, one)
    back = come_back(person, f"{address}&next=https://evil.example&redirect=//evil.example")
    assert back.headers["location"] == "/"
    forged = person.get("/web/oidc/login?redirect_uri=https://evil.example", follow_redirects=False)
    assert "evil" not in forged.headers["location"]


def test_an_issuer_has_to_be_safe_and_whole() -> None:
    for wrong in ("http://login.example.org", "login.example.org", "https://a.example/?x=1", "ftp://a.example"):
        with pytest.raises(UserError, match="--oidc_issuer"):
            WebOptions(oidc_issuer=wrong, oidc_client_id="x")
    halves: list[dict[str, Any]] = [{"oidc_issuer": "https://a.example"}, {"oidc_client_id": "x"}, {"oidc_name": "x"}]
    for given in halves:
        with pytest.raises(UserError, match="oidc"):
            WebOptions(**given)
    assert WebOptions(oidc_issuer="https://a.example/realms/x", oidc_client_id="x").oidc_role == "patient"
