"""Who may use the page: decided from options, password and accounts before the page starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from carellama.config.serve import WebOptions
from carellama.errors import UserError
from carellama.serve.web.access import Access, decide_access
from carellama.serve.web.accounts.service import open_accounts
from carellama.serve.web.app import notes
from carellama.serve.web.page_files import PagePaths
from carellama.store.accounts import create_account
from carellama.store.database import open_database
from carellama.store.invitations import create_invitation
from store_places import fast_passwords

PASSWORD = "clinic:correct horse"
REACHED: dict[str, Any] = {"host": "0.0.0.0"}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The place of a database that is not there yet; no password is set."""
    monkeypatch.delenv("CARELLAMA_WEB_PASSWORD", raising=False)
    monkeypatch.setenv("CARELLAMA_DATABASE", str(tmp_path / "carellama.db"))
    return str(tmp_path / "carellama.db")


def invite(place: str) -> None:
    """Put an invitation into the database."""
    database = open_database(place)
    assert database is not None
    create_invitation(database, "admin")
    database.close()


def test_this_machine_is_open_and_asks_where_a_password_is_given(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert decide_access(WebOptions()) == decide_access(WebOptions(access="open")) == Access("open")
    assert decide_access(WebOptions(keep="nothing")).keep == "nothing"
    invite(place)
    assert decide_access(WebOptions()) == Access("open"), "accounts are asked for where others reach the page"
    monkeypatch.setenv("CARELLAMA_WEB_PASSWORD", PASSWORD)
    for options in (WebOptions(), WebOptions(access="password"), WebOptions(**REACHED)):
        assert decide_access(options) == Access("password", password=PASSWORD)
    assert decide_access(WebOptions(access="open")) == Access("open")


def test_others_are_let_in_by_accounts_once_there_is_an_invitation(place: str) -> None:
    for options in (WebOptions(**REACHED), WebOptions(share=True)):
        with pytest.raises(UserError, match=r"CARELLAMA_WEB_PASSWORD.*carellama accounts invite --role admin"):
            decide_access(options)
    assert not Path(place).exists(), "a look makes no database"
    invite(place)
    found = decide_access(WebOptions(**REACHED))
    assert found == Access("accounts", "server", place=place)
    assert decide_access(WebOptions(**REACHED, keep="browser")).keep == "browser"


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("--access open", {"access": "open", **REACHED}),
    ("--access open", {"access": "open", "share": True}),
    ("--access open", {"access": "open", "password_file": "x"}),
    ("--access password", {"access": "password"}),
    ("--password_file", {"access": "accounts", "password_file": "x"}),
    ("--profile", {"access": "accounts", "profile": "patient"}),
    ("--keep server", {"keep": "server"}),
    ("--retention_days", {"retention_days": 3}),
    ("--retention_days", {"access": "accounts", "retention_days": 3, "keep": "browser"}),
    ("--encryption_key_file", {"encryption_key_file": "x"}),
    ("--encryption_key_file", {"access": "accounts", "encryption_key_file": "x", "keep": "nothing"}),
    ("--oidc_issuer", {"oidc_issuer": "https://a.example", "oidc_client_id": "x"}),
]


@pytest.mark.parametrize(("name", "given"), REFUSED)
def test_what_has_no_meaning_is_refused(place: str, name: str, given: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=name):
        decide_access(WebOptions(**given))


def test_a_password_is_in_no_text_of_the_decision(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARELLAMA_WEB_PASSWORD", PASSWORD)
    assert "horse" not in repr(decide_access(WebOptions()))
    with pytest.raises(UserError) as refused:
        decide_access(WebOptions(access="open", **REACHED))
    assert "horse" not in str(refused.value)


def test_the_operator_is_told_what_to_do_first(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fast_passwords(monkeypatch)
    options = WebOptions(access="accounts", database=place, **REACHED)
    accounts = open_accounts(decide_access(options), options, PagePaths(frozenset()))
    first, tls = notes(options, accounts)
    assert f"carellama accounts invite --role admin --database {place}" in first and "--ssl_certfile" in tls
    create_account(accounts.database, "boss", "a long password", "admin")
    assert notes(options, accounts) == [tls]
    behind_proxy = WebOptions(access="accounts", database=place, trusted_proxies="10.0.0.1", **REACHED)
    assert notes(behind_proxy, accounts) == [] and notes(options, None) == []
    accounts.auth.close()


@pytest.mark.parametrize("given", ["localhost", "10.0.0.0/99", "10.0.0.1, nowhere"])
def test_a_proxy_is_an_address(given: str) -> None:
    with pytest.raises(UserError, match="--trusted_proxies"):
        WebOptions(trusted_proxies=given)


def test_without_oidc_its_library_is_not_loaded() -> None:
    program = "import sys; from carellama.serve.web import app; print({'authlib', 'joserfc'} & set(sys.modules))"
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "set()"
