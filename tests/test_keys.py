"""Keys of the API in their database, and the three commands that handle them."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import sqlite3
import stat
import subprocess
import sys

import pytest
from sqlalchemy import text

from carellama.errors import UserError
from carellama.store import commands, keys, tables, usage
from carellama.store.database import open_database
from conftest import only_read


@pytest.fixture
def place(monkeypatch, tmp_path):
    """Where the user's own database is."""
    path = tmp_path / "data" / "carellama.db"
    monkeypatch.setenv("CARELLAMA_DATABASE", str(path))
    return path


def added(capsys, *words):
    """Add a key by the command; return its id and all of it."""
    commands.add(["--name", "ward3", *words])
    whole = capsys.readouterr().out.strip()
    return keys.KEY_PATTERN.fullmatch(whole)[1], whole


def test_a_key_is_shown_once_and_kept_nowhere(place, capsys, caplog):
    caplog.set_level("DEBUG")  # SQLAlchemy logs its statements
    commands.add(["--name", "ward3"])
    printed = capsys.readouterr()
    _, id, secret = printed.out.strip().split("-")
    assert secret not in printed.err and id in printed.err
    opened = open_database(str(place))
    usage.end_lease(opened, usage.start_lease(opened, id, 10), 5)  # type: ignore[arg-type, arg-type]
    commands.list_keys([])
    commands.list_keys(["--json"])
    commands.revoke([id])
    everything = "".join(capsys.readouterr()) + caplog.text + repr(keys.get_key(opened, id))  # type: ignore[arg-type]
    stored = b"".join(path.read_bytes() for path in place.parent.iterdir())
    hash_secret = hashlib.sha256(secret.encode()).hexdigest()
    assert secret not in everything and hash_secret not in everything
    assert secret.encode() not in stored and hash_secret.encode() in stored


def test_the_secret_of_a_key_is_compared_in_constant_time(place, capsys, monkeypatch):
    id, whole = added(capsys)
    key = keys.get_key(open_database(str(place)), id)  # type: ignore[arg-type]
    compared = []
    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda one, two: compared.append((one, two)) or real(one, two))  # type: ignore[func-returns-value]
    secret = whole.rpartition("-")[2]
    assert (
        keys.verify_secret(key, secret)
        and not keys.verify_secret(key, "0" * 64)
        and not keys.verify_secret(None, secret)
    )
    assert [len(one) for one, _ in compared] == [len(two) for _, two in compared] == [64, 64, 64]


def test_the_files_are_for_their_owner_only(place, capsys):
    before = os.umask(0)
    try:
        added(capsys)
        opened = open_database(str(place))
        with opened.write_transaction() as connection:
            connection.execute(text("SELECT 1"))
        files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in place.parent.iterdir()}
        opened.close()
    finally:
        os.umask(before)
    assert len(files) == 3 and set(files.values()) == {0o600}, files  # with the two of WAL
    assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700


def test_the_list_has_every_key_with_its_limits_use_and_state(place, capsys):
    limited, _ = added(capsys, *"--scopes chat,admin --requests_per_minute 60 --concurrent 4 --days 90".split())
    added(capsys, "--tokens_per_day", "200000")
    revoked, _ = added(capsys)
    commands.revoke([revoked])
    opened = open_database(str(place))
    usage.end_lease(opened, usage.start_lease(opened, limited, 900), 1412)  # type: ignore[arg-type, arg-type]
    with opened.write_transaction() as connection:
        connection.execute(tables.KEYS.update().where(tables.KEYS.c.tokens_per_day > 0).values(expires=1.0))
    capsys.readouterr()

    commands.list_keys(["--json"])
    rows = json.loads(capsys.readouterr().out)
    assert [row["state"] for row in rows] == ["active", "expired", "revoked"]
    assert rows[0]["scopes"] == ["chat", "admin"] and rows[1]["scopes"] == ["chat"]
    assert [rows[0][name] for name in ("requests_per_minute", "concurrent", "tokens_per_day")] == [60, 4, None]
    assert (rows[0]["requests_today"], rows[0]["tokens_today"]) == (1, 1412)
    assert rows[0]["last_used"] and rows[0]["expires"] > rows[0]["created"] and rows[2]["last_used"] is None

    commands.list_keys([])
    table = capsys.readouterr().out
    for words in (limited, "1,412 tokens, 1 requests", "200,000", "expired", "revoked", "chat, admin"):
        assert words in table


def test_without_keys_the_list_is_empty_and_makes_no_database(place, capsys):
    commands.list_keys(["--json"])
    assert json.loads(capsys.readouterr().out) == [] and not place.exists()
    commands.list_keys([])
    assert "carellama keys add" in capsys.readouterr().err


def test_a_key_is_revoked_by_its_id_or_all_of_it(place, capsys):
    first, _ = added(capsys)
    second, whole = added(capsys)
    commands.revoke([first])
    commands.revoke([whole])
    secret = whole.rpartition("-")[2]
    assert secret not in "".join(capsys.readouterr())
    opened = open_database(str(place))
    when = keys.get_key(opened, second).revoked  # type: ignore[arg-type]
    commands.revoke([second])  # it keeps the time of the first
    assert keys.get_key(opened, second).revoked == when and keys.get_key(opened, first).revoked  # type: ignore[arg-type]
    for wrong in ("00000000", f"cl-{second}x-{secret}", secret):
        with pytest.raises(UserError, match="keys list") as error:
            commands.revoke([wrong])
        assert secret not in str(error.value)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--scopes chat,prescribe", "unknown scope 'prescribe'"),
        ("--scopes ,", "--scopes is ','"),
        ("--requests_per_minute 0", "at least 1"),
        ("--concurrent 3000000000", "at most"),
        ("--tokens_per_day -5", "at least 1"),
        ("--days 1000000", "at most 36500"),
        ("--name", "--name takes one value, not none"),
        ("--names x", "'--name'"),
    ],
)
def test_wrong_options_are_answered_in_one_line(words, says, place):
    with pytest.raises(UserError, match=says):
        commands.add(["--name", "ward3", *words.split()])
    with pytest.raises(UserError, match="one line"):
        commands.add(["--name", "a\nb"])
    assert not place.exists()


def test_a_command_loads_no_model_library(place):
    code = "import sys; from carellama.cli import call; call('keys list', []); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n", done.stderr


# the database


def test_what_is_wrong_with_a_file_is_one_line(tmp_path):
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes(b"this is no database" * 100)
    with pytest.raises(UserError, match=r"damaged\.db: it is damaged, or no SQLite file"):
        open_database(str(damaged))
    with pytest.raises(UserError, match="is a folder"):
        open_database(str(tmp_path))
    with pytest.raises(UserError, match="cannot write"):
        open_database(str(damaged / "below.db"))


def test_a_file_that_was_damaged_later_is_one_line(place, capsys):
    added(capsys)
    size = place.stat().st_size
    with place.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (size - 4096))
    with pytest.raises(UserError, match="it is damaged") as error:
        commands.list_keys([])
    assert "\n" not in str(error.value)


def test_a_locked_file_is_one_line(place, capsys):
    added(capsys)
    opened = open_database(str(place), busy_seconds=0.05)
    assert opened
    other = sqlite3.connect(place, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(UserError, match=r"another program has held it for 0\.05 s"), opened.write_transaction():
        pass
    assert len(keys.list_keys(opened)) == 1  # reading goes on
    other.execute("ROLLBACK")
    with opened.write_transaction():
        pass


def test_a_file_that_can_not_be_written_is_one_line(place, capsys):
    added(capsys)
    opened = open_database(str(place))
    assert opened
    only_read(opened)
    with pytest.raises(UserError, match="cannot be written; check the permissions"):
        keys.create_key(opened, name="x", scopes=("chat",), limits=keys.Limits())


def test_postgresql_without_its_driver_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[postgres\]' in the folder"):
        open_database("postgresql://user:geheim@127.0.0.1/name")


@pytest.mark.parametrize("url", ["mysql://u:geheim@h/x", "postgresql://u:geheim@h:port/x", "sqlite://", "://geheim"])
def test_a_url_that_can_not_be_used_is_one_line_without_what_was_given(url):
    with pytest.raises(UserError, match="postgresql://USER") as error:
        open_database(url)
    assert "geheim" not in str(error.value) and "\n" not in str(error.value)


def test_a_server_that_is_not_there_is_one_line_without_the_password():
    pytest.importorskip("psycopg")
    with pytest.raises(UserError, match="127") as error:
        open_database("postgresql://user:geheim@127.0.0.1:9/name")
    assert "geheim" not in str(error.value) and "\n" not in str(error.value)
