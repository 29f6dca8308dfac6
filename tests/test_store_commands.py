"""`carellama accounts` and `carellama store`, as a person or a script runs them."""

from __future__ import annotations

import io
import json
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from carellama.cli import GROUPS
from carellama.errors import UserError, import_object
from carellama.store import account_commands, accounts, invitations, sessions
from carellama.store.cipher import Cipher
from carellama.store.conversations import ConversationStore
from store_places import fast_passwords, opened

GOOD = "correct horse battery"


@pytest.fixture
def place(monkeypatch, tmp_path):
    """Where the user's own database is; who asks for a password reads it from stdin."""
    path = tmp_path / "data" / "carellama.db"
    monkeypatch.setenv("CARELLAMA_DATABASE", str(path))
    monkeypatch.delenv("CARELLAMA_STORE_KEY", raising=False)
    fast_passwords(monkeypatch)
    return str(path)


@pytest.fixture
def typed(monkeypatch):
    """Let stdin have these words."""
    return lambda words: monkeypatch.setattr(sys, "stdin", io.StringIO(words))


def call(verb, words):
    """Run a command, whose `UserError` is raised here."""
    group, _, name = verb.partition(" ")
    import_object(GROUPS[group][name][0])(words)


def add(typed, *words):
    typed(f"{GOOD}\n")
    call("accounts add", [*words])


def test_the_first_admin_is_made_and_logs_in(place, typed, capsys):
    add(typed, "mei")
    add(typed, "li", "--role", "patient")
    printed = "".join(capsys.readouterr())
    assert "account mei (admin)" in printed and GOOD not in printed
    assert accounts.verify_login(opened(place), "mei", GOOD, "10.0.0.7").role == "admin"
    with pytest.raises(UserError, match="choose another name"):
        add(typed, "MEI")
    for wrong in ("", "short\n"):
        typed(wrong)
        with pytest.raises(UserError, match="10 to 1000"):
            call("accounts add", ["wu"])


def test_a_password_is_no_option_and_is_typed_twice(place, monkeypatch, capsys):
    with pytest.raises(UserError, match="unknown option"):
        call("accounts add", ["mei", "--password", GOOD])
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    answers = [GOOD, "another"]
    monkeypatch.setattr(account_commands.getpass, "getpass", lambda _: answers.pop(0))  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="not the same"):
        call("accounts add", ["mei"])
    assert accounts.list_accounts(opened(place)) == []
    answers += [GOOD, GOOD]
    call("accounts add", ["mei"])
    assert [one.name for one in accounts.list_accounts(opened(place))] == ["mei"]


def test_an_invitation_is_a_path_alone_on_stdout(place, capsys):
    call("accounts invite", ["--role", "clinician", "--days", "2"])
    printed = capsys.readouterr()
    path, hash_sign, token = printed.out.strip().partition("#")
    assert (path, hash_sign) == ("/invite", "#") and token not in printed.err and "https://HOST/invite#" in printed.err
    assert invitations.accept_invitation(opened(place), token, "mei", GOOD).role == "clinician"
    with pytest.raises(UserError, match="above 0"):
        call("accounts invite", ["--days", "0"])


def test_a_link_sets_a_new_password(place, typed, capsys):
    add(typed, "mei")
    capsys.readouterr()
    call("accounts reset", ["Mei"])
    token = capsys.readouterr().out.strip().partition("#")[2]
    assert accounts.verify_login(opened(place), "mei", GOOD, "") and invitations.accept_invitation(
        opened(place), token, "", "another password"
    )
    assert accounts.verify_login(opened(place), "mei", "another password", "").name == "mei"


def test_the_list_has_accounts_and_invitations_and_no_secret(place, typed, capsys):
    call("accounts list", ["--json"])
    assert json.loads(capsys.readouterr().out) == {"accounts": [], "invitations": []}
    assert not Path(place).exists()
    call("accounts list", [])
    assert "carellama accounts add NAME" in capsys.readouterr().err
    add(typed, "mei")
    add(typed, "li", "--role", "patient")
    call("accounts invite", [])
    call("accounts reset", ["li"])
    call("accounts disable", ["li"])
    capsys.readouterr()
    call("accounts list", ["--json"])
    found = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in found["accounts"]] == ["mei", "li"]
    assert set(found["accounts"][0]) == {"id", "name", "role", "created", "last_login", "disabled", "issuer"}
    assert [one["role"] for one in found["invitations"]] == ["patient", "patient"]
    call("accounts list", [])
    table = capsys.readouterr().out
    for words in ("mei", "admin", "active", "disabled 2", "invitation", "new password of li", "open until"):
        assert words in table
    assert "argon2" not in table + str(found)


def test_an_account_is_disabled_and_enabled(place, typed):
    add(typed, "mei")
    add(typed, "li")
    database = opened(place)
    li = accounts.find_account(database, "li")
    assert li
    token = sessions.create_session(database, li.id, idle_hours=1)
    call("accounts disable", ["li"])
    assert sessions.read_session(database, token) is None
    with pytest.raises(UserError, match="last admin"):
        call("accounts disable", ["mei"])
    call("accounts enable", [li.id])
    enabled = accounts.get_account(database, li.id)
    assert enabled and enabled.disabled is None
    for verb in ("disable", "enable", "reset", "forget"):
        with pytest.raises(UserError, match="accounts list shows them"):
            call(f"accounts {verb}", ["nobody"])


def test_an_account_is_forgotten_by_who_types_its_name(place, typed, capsys, monkeypatch):
    add(typed, "mei")
    database = opened(place)
    id = accounts.list_accounts(database)[0].id
    ConversationStore(database, None).put(id, {"id": "c", "title": "WORDS"})
    with pytest.raises(UserError, match="give --yes"):
        call("accounts forget", ["mei"])
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda _: "li")
    with pytest.raises(UserError, match="nothing was deleted"):
        call("accounts forget", ["mei"])
    monkeypatch.setattr("builtins.input", lambda _: "mei")
    call("accounts forget", ["mei"])
    said = capsys.readouterr().err
    assert "with 1 conversation\n" in said and "older backup files" in said
    assert accounts.list_accounts(database) == []


def test_commands_of_a_database_that_is_not_there_make_none(place, tmp_path):
    for words in ("backup x.db", "prune", "restore none.db"):
        verb, *rest = words.split()
        with pytest.raises(UserError, match="there is no"):
            call(f"store {verb}", rest)
    with pytest.raises(UserError, match="no accounts yet"):
        call("accounts forget", ["mei", "--yes"])
    assert not Path(place).exists()


def test_a_backup_is_written_and_restored(place, typed, tmp_path, capsys, monkeypatch):
    add(typed, "mei")
    path = str(tmp_path / "backup.db")
    call("store backup", [path])
    assert "1 account; sessions and invitations are not in it" in capsys.readouterr().err
    with pytest.raises(UserError, match="--overwrite"):
        call("store backup", [path])
    with pytest.raises(UserError, match="--overwrite"):
        call("store restore", [path])
    call("accounts forget", ["mei", "--yes"])
    capsys.readouterr()
    call("store restore", [path])
    assert "left out: 1 account forgotten since" in capsys.readouterr().err
    call("store restore", [path, "--database", str(tmp_path / "other.db")])
    said = capsys.readouterr().err
    assert "1 account," in said and "as of 20" in said and "log in again" in said


def test_old_conversations_are_pruned(place, typed, capsys):
    add(typed, "mei")
    database = opened(place, clock=lambda: time.time() - 40 * 86400)
    id = accounts.list_accounts(database)[0].id
    ConversationStore(database, None).put(id, {"id": "c", "title": "WORDS"})
    sessions.create_session(database, id, idle_hours=1)
    capsys.readouterr()
    call("store prune", ["--days", "50"])
    assert capsys.readouterr().err.endswith("deleted 1 session\n")
    call("store prune", [])
    assert "deleted nothing" in capsys.readouterr().err
    call("store prune", ["--days", "30"])
    assert capsys.readouterr().err.endswith("deleted 1 conversation\n")
    assert b"WORDS" not in Path(place).read_bytes()


def test_a_key_is_made_and_used_and_changed(place, typed, tmp_path, capsys):
    add(typed, "mei")
    id = accounts.list_accounts(opened(place))[0].id
    ConversationStore(opened(place), None).put(id, {"id": "c", "title": "WORDS"})
    path = tmp_path / "store.key"
    with pytest.raises(UserError, match="no keys are given"):
        call("store encrypt", [])
    call("store new-key", ["--output", str(path)])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(UserError, match="was left as it is"):
        call("store new-key", ["--output", str(path)])
    capsys.readouterr()
    call("store encrypt", ["--encryption_key_file", str(path)])
    printed = capsys.readouterr()
    assert "1 texts encrypted" in printed.err and path.read_text().strip() not in printed.err + printed.out
    assert b"WORDS" not in Path(place).read_bytes()
    call("store new-key", [])
    new = capsys.readouterr().out.strip()
    path.write_text(f"{new}\n{path.read_text()}")
    call("store encrypt", ["--encryption_key_file", str(path)])
    assert ConversationStore(opened(place), Cipher([new])).list(id) == [{"id": "c", "title": "WORDS"}]


def test_commands_load_no_model_library(place):
    code = (
        "import sys; from carellama.cli import call; call('accounts list', []); call('store new-key', []);"
        "print('torch' in sys.modules, 'alembic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith("\nFalse False\n"), done.stderr
