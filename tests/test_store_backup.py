"""Backups of the store: from and into SQLite and PostgreSQL, whole or not at all, without those who were forgotten."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from sqlalchemy import select, text

from carellama.errors import UserError
from carellama.store import accounts, backup, invitations, keys, sessions, tables, usage
from carellama.store.backup import restore_backup, write_backup
from carellama.store.cipher import Cipher, new_key
from carellama.store.conversations import ConversationStore
from carellama.store.feedback import FeedbackStore
from store_places import (
    clock,
    database,
    made_before_alembic,
    new_place,
    opened,
    place,
    postgres_server,
)

__all__ = ["clock", "database", "place", "postgres_server"]


@pytest.fixture(params=["sqlite", "postgres"])
def target(request, tmp_path, database):
    """Another database, of either kind."""
    made = opened(new_place(request, tmp_path / "target" / "carellama.db"))
    yield made
    made.close()


def filled(database):
    """Write a row into every table; return the ids of two accounts."""
    ids = [accounts.create_account(database, name, "a good password", "admin").id for name in ("mei", "li")]
    store = ConversationStore(database, None)
    for number, id in enumerate(ids):
        store.put(id, {"id": f"c{number}", "title": f"咳嗽 {number}"})
        store.put_messages(id, f"c{number}", [{"id": "m1", "content": "0.1 + 0.2"}, {"id": "m2", "content": "\0"}])
        store.put_draft(id, "new", "since Monday")
        sessions.create_session(database, id, idle_hours=12)
        FeedbackStore(database, None).add({"rating": "down", "comment": "咳嗽"}, account_id=id)
    invitations.create_invitation(database, "patient")
    key, _ = keys.create_key(database, name="ward3", scopes=("chat",), limits=keys.Limits(60, None, 2**40))
    usage.end_lease(database, usage.start_lease(database, key.id, 2**33), 2**33)
    accounts.forget_account(database, accounts.create_account(database, "gone", None, "patient").id)
    with pytest.raises(accounts.LoginFailed):
        accounts.verify_login(database, "nobody", "", "10.0.0.7")
    return ids


def rows(database) -> dict[str, list]:
    with database.read_transaction() as connection:
        return {
            table.name.removeprefix("carellama_"): sorted(map(tuple, connection.execute(select(table))), key=str)
            for table in tables.METADATA.sorted_tables
            if table is not tables.STORE_INFO
        }


def test_a_restored_database_has_what_the_backup_was_made_of(database, target, tmp_path):
    filled(database)
    before, path = rows(database), tmp_path / "backup.db"
    assert all(before.values()), {name for name, some in before.items() if not some}
    counts = write_backup(database, path)
    assert counts["carellama_messages"] == 4 and stat.S_IMODE(path.stat().st_mode) == 0o600
    done = restore_backup(target, path)
    passing = {"sessions": [], "invitations": [], "requests": [], "login_attempts": []}
    assert rows(target) == before | passing
    assert {name.removeprefix("carellama_"): count for name, count in done.rows.items()} == {
        name: len(some) for name, some in before.items() if name not in {*passing, "schema", "erasures"}
    }
    assert rows(database) == before and done.made and not done.encrypted and done.erased == 0
    assert not [one for one in tmp_path.iterdir() if one.suffix == ".tmp"]


def test_a_backup_of_a_backup_and_a_backup_that_is_used(database, tmp_path):
    filled(database)
    paths = [tmp_path / f"{number}.db" for number in range(3)]
    write_backup(database, paths[0])
    used = opened(str(paths[0]))  # a backup is a database
    write_backup(used, paths[1])
    restored = opened(str(paths[2]))
    restore_backup(restored, paths[1])
    assert rows(restored) == rows(used)


def test_a_database_that_has_anything_is_left(database, target, tmp_path):
    filled(database)
    write_backup(database, tmp_path / "backup.db")
    keys.create_key(target, name="ward4", scopes=("chat",), limits=keys.Limits())
    before = rows(target)
    with pytest.raises(UserError, match=r"is not empty \(keys\): give --overwrite"):
        restore_backup(target, tmp_path / "backup.db")
    assert rows(target) == before
    restore_backup(target, tmp_path / "backup.db", overwrite=True)
    assert [row[3] for row in rows(target)["keys"]] == ["chat"] and len(rows(target)["accounts"]) == 2


def test_a_backup_is_never_replaced_unasked(database, tmp_path):
    path = tmp_path / "backup.db"
    path.write_bytes(b"older")
    with pytest.raises(UserError, match="is there already: give --overwrite"):
        write_backup(database, path)
    assert path.read_bytes() == b"older"
    write_backup(database, path, overwrite=True)
    assert path.read_bytes()[:6] == b"SQLite"
    with pytest.raises(UserError, match="is a folder"):
        write_backup(database, tmp_path, overwrite=True)
    if database.sqlite:
        with pytest.raises(UserError, match="that this command reads"):
            write_backup(database, Path(database.name), overwrite=True)
        with pytest.raises(UserError, match="the database itself"):
            restore_backup(database, Path(database.name), overwrite=True)


def test_a_backup_is_of_one_moment_while_others_write(database, tmp_path, monkeypatch):
    """Each writes its number into a conversation and its message, one after the other: the message is never ahead."""
    id = accounts.create_account(database, "mei", None, "patient").id
    store = ConversationStore(database, None)
    store.put(id, {"id": "c", "title": "0"})
    store.put_messages(id, "c", [{"id": "m", "content": "0"}])
    written, stop = threading.Event(), threading.Event()
    real = backup._copy

    def copy_slowly(table, *connections):
        count = real(table, *connections)
        written.clear()
        assert written.wait(30)  # something was written between any two tables
        return count

    def write():
        number = 0
        while not stop.is_set():
            number += 1
            store.put(id, {"id": "c", "title": f"{number}"})
            store.put_messages(id, "c", [{"id": "m", "content": f"{number}"}])
            written.set()

    monkeypatch.setattr(backup, "_copy", copy_slowly)
    writer = threading.Thread(target=write)
    writer.start()
    try:
        write_backup(database, tmp_path / "backup.db")
    finally:
        stop.set()
        writer.join()
    copy = ConversationStore(opened(str(tmp_path / "backup.db")), None)
    title, content = int(copy.list(id)[0]["title"]), int(copy.messages(id, "c")[0]["content"])
    assert title - 1 <= content <= title < int(store.list(id)[0]["title"])


def run(code: str, *words: object) -> subprocess.CompletedProcess:
    start = (
        "import os, resource, signal, sys; from pathlib import Path; from carellama.errors import UserError;"
        "from carellama.store import backup; from carellama.store.database import open_database;"
        "database = open_database(sys.argv[1]);"
    )
    command = [sys.executable, "-c", f"{start}\n{code}", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_a_backup_that_is_killed_leaves_the_older_one(tmp_path):
    database = opened(str(tmp_path / "carellama.db"))
    filled_plain(database)
    folder = tmp_path / "backups"
    write_backup(database, folder / "backup.db")
    before = (folder / "backup.db").read_bytes()
    code = (
        "backup._check = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "backup.write_backup(database, Path(sys.argv[2]), overwrite=True)"
    )
    assert run(code, database.name, folder / "backup.db").returncode == -9
    assert (folder / "backup.db").read_bytes() == before and len([*folder.iterdir()]) == 2
    write_backup(database, folder / "backup.db", overwrite=True)
    assert [one.name for one in folder.iterdir()] == ["backup.db"]  # what the killed one left is gone


def test_a_full_disk_leaves_the_older_backup(tmp_path):
    database = opened(str(tmp_path / "carellama.db"))
    filled_plain(database)
    folder = tmp_path / "backups"
    write_backup(database, folder / "backup.db")
    before = (folder / "backup.db").read_bytes()
    code = (
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))\n"
        "try: backup.write_backup(database, Path(sys.argv[2]), overwrite=True)\n"
        "except UserError as error: print(error)"
    )
    done = run(code, database.name, folder / "backup.db")
    assert "backup.db: the disk" in done.stdout and ".tmp" not in done.stdout, done.stdout + done.stderr
    assert [one.name for one in folder.iterdir()] == ["backup.db"]
    assert (folder / "backup.db").read_bytes() == before


def filled_plain(database) -> None:
    id = accounts.create_account(database, "mei", None, "patient").id
    store = ConversationStore(database, None)
    store.put(id, {"id": "c", "title": "words " * 5000})


def test_a_restore_that_is_killed_leaves_the_database(tmp_path):
    database = opened(str(tmp_path / "carellama.db"))
    filled_plain(database)
    write_backup(database, tmp_path / "backup.db")
    keys.create_key(database, name="ward4", scopes=("chat",), limits=keys.Limits())
    before = rows(database)
    code = (
        "backup._leave_out_erased = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "backup.restore_backup(database, Path(sys.argv[2]), overwrite=True)"
    )
    assert run(code, database.name, tmp_path / "backup.db").returncode == -9
    assert rows(database) == before and before["keys"]


# who was forgotten, what was revoked


def test_who_was_forgotten_does_not_come_back_with_an_older_backup(database, tmp_path):
    mei, li = filled(database)
    write_backup(database, tmp_path / "backup.db")
    accounts.forget_account(database, mei)
    assert restore_backup(database, tmp_path / "backup.db", overwrite=True).erased == 1
    left = rows(database)
    assert [row[0] for row in left["accounts"]] == [li] and mei in str(left.pop("erasures"))
    assert mei not in str(left) and len(left["messages"]) == 2


def test_a_backup_that_knows_of_an_erasure_applies_it(database, target, tmp_path):
    """On another machine, which was restored before the person asked to be forgotten."""
    mei, li = filled(database)
    write_backup(database, tmp_path / "old.db")
    restore_backup(target, tmp_path / "old.db")
    accounts.forget_account(database, mei)
    write_backup(database, tmp_path / "new.db")
    restore_backup(target, tmp_path / "new.db", overwrite=True)
    restore_backup(target, tmp_path / "old.db", overwrite=True)
    assert [row[0] for row in rows(target)["accounts"]] == [li]


def test_what_was_revoked_or_disabled_stays_so(database, clock, tmp_path):
    mei, li = filled(database)
    key = keys.list_keys(database)[0]
    write_backup(database, tmp_path / "backup.db")
    keys.revoke_key(database, key.id)
    accounts.set_disabled(database, mei, disabled=True)
    restore_backup(database, tmp_path / "backup.db", overwrite=True)
    assert keys.list_keys(database)[0].revoked == clock.now
    assert {one.id: one.disabled for one in accounts.list_accounts(database)} == {mei: clock.now, li: None}


# bad input


def damage(kind: str, path: Path) -> None:
    data = path.read_bytes()
    if kind == "cut off":
        path.write_bytes(data[: len(data) // 2 // 4096 * 4096])
    elif kind == "cut off within a page":
        path.write_bytes(data[:-100])
    elif kind == "overwritten":
        path.write_bytes(data[:8192] + b"\xff" * 8192 + data[16384:])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("this is no database " * 1000, encoding="utf-8")
    elif kind == "none of ours":
        path.unlink()
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE notes (note TEXT)")
    elif kind == "later":
        with sqlite3.connect(path) as connection:
            connection.execute("UPDATE carellama_revision SET version_num = '9999'")
    else:
        path.unlink()


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("cut off", "damaged"),
        ("cut off within a page", "damaged"),
        ("overwritten", "damaged"),
        ("text", "damaged, or no SQLite file"),
        ("empty", "no tables of CareLlama"),
        ("none of ours", "no tables of CareLlama"),
        ("later", "made by a later CareLlama"),
        ("missing", "there is no file"),
    ],
)
def test_a_file_that_is_no_good_backup_is_refused_and_nothing_changes(tmp_path, kind, says):
    database = opened(str(tmp_path / "carellama.db"))
    filled_plain(database)
    path = tmp_path / "backup.db"
    write_backup(database, path)
    damage(kind, path)
    before = rows(database)
    with pytest.raises(UserError, match=says) as error:
        restore_backup(database, path, overwrite=True)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert rows(database) == before


def test_a_backup_of_an_older_carellama_is_restored(database, tmp_path):
    path = tmp_path / "old.db"
    id = made_before_alembic(str(path))
    before = path.read_bytes()
    done = restore_backup(database, path)
    assert [key.id for key in keys.list_keys(database)] == [id] and done.made == ""
    assert usage.usage_by_key(database)[id].last
    assert path.read_bytes() == before


def test_an_encrypted_backup_needs_no_key_and_stays_encrypted(database, target, tmp_path):
    id = accounts.create_account(database, "mei", None, "patient").id
    cipher = Cipher([new_key()])
    ConversationStore(database, cipher).put(id, {"id": "c", "title": "WORDS"})
    path = tmp_path / "backup.db"
    write_backup(database, path)
    assert b"WORDS" not in path.read_bytes()
    assert restore_backup(target, path).encrypted
    assert ConversationStore(target, cipher).list(id) == [{"id": "c", "title": "WORDS"}]
    for wrong in (None, Cipher([new_key()])):
        with pytest.raises(UserError, match="encrypted"):
            ConversationStore(target, wrong)


def test_what_was_deleted_before_is_in_no_backup(tmp_path):
    database = opened(str(tmp_path / "carellama.db"))
    filled_plain(database)
    with database.write_transaction() as connection:
        connection.execute(text("DELETE FROM carellama_conversations"))
    write_backup(database, tmp_path / "backup.db")
    assert b"words words" not in (tmp_path / "backup.db").read_bytes()
