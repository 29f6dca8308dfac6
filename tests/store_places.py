"""The databases that tests of the store run on: SQLite, and Debian's PostgreSQL, started here.

    from store_places import place, postgres_server      # fixtures; `place` is the path or URL of a new database

PostgreSQL runs in a folder of its own, at a socket there, as a user without rights (it refuses root). Tests of it are
skipped where it is not installed.
"""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from sqlalchemy import insert

from carellama.store import keys, passwords, tables, usage
from carellama.store.database import Database, open_database

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
NUMBERS = itertools.count()
NOON = 20_000 * 86400.0 + 43200


def owner() -> dict[str, object]:
    """As whom PostgreSQL runs, for `subprocess`."""
    if os.geteuid() != 0:
        return {}
    users = {user.pw_name: user for user in pwd.getpwall()}
    user = users.get("postgres") or users.get("nobody")
    assert user
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


@pytest.fixture(scope="session")
def postgres_server():
    """The folder of the socket of a PostgreSQL server that ends with the tests."""
    psycopg = pytest.importorskip("psycopg")
    found = shutil.which("initdb") or (BINARIES and str(BINARIES[-1] / "initdb"))
    if not found:
        pytest.skip("PostgreSQL is not installed: apt install postgresql")
    binaries, who = Path(found).resolve().parent, owner()
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # the path of a socket has 107 characters at most
    if who:
        os.chown(folder, who["user"], who["group"])  # type: ignore[arg-type]
    options = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, **who}
    data = folder / "data"
    made = [binaries / "initdb", "-D", data, "-U", "carellama", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
    subprocess.run(made, check=True, timeout=120, **options)  # type: ignore[call-overload]
    run = [
        binaries / "postgres",
        "-D",
        data,
        "-F",
        "-k",
        folder,
        "-c",
        "listen_addresses=",
        "-c",
        "log_min_messages=fatal",
    ]
    server = subprocess.Popen(run, **options | {"stderr": subprocess.DEVNULL})  # type: ignore[call-overload]
    try:
        wait_until_ready(psycopg, folder, server)
        yield folder
    finally:
        server.send_signal(signal.SIGQUIT)
        server.wait(timeout=30)
        shutil.rmtree(folder, ignore_errors=True)


def wait_until_ready(psycopg, folder: Path, server: subprocess.Popen) -> None:
    for _ in range(600):
        try:
            psycopg.connect(f"host={folder} user=carellama dbname=postgres").close()
            return
        except psycopg.OperationalError:
            assert server.poll() is None, "PostgreSQL ended"
            time.sleep(0.05)
    raise AssertionError("PostgreSQL did not start in 30 s")


def new_postgres(folder: Path) -> str:
    """The URL of a new database."""
    import psycopg

    name = f"t{next(NUMBERS)}"
    with psycopg.connect(f"host={folder} user=carellama dbname=postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"postgresql://carellama@/{name}?host={folder}"


@pytest.fixture(params=["sqlite", "postgres"])
def place(request, tmp_path):
    """The path or URL of a database that is not there yet (SQLite), or has no tables (PostgreSQL)."""
    return new_place(request, tmp_path / "carellama.db")


def new_place(request, path: Path) -> str:
    """What `place` is, for the parameter of a fixture."""
    return str(path) if request.param == "sqlite" else new_postgres(request.getfixturevalue("postgres_server"))


def opened(place: str, **options) -> Database:
    """A database, made where it is not."""
    database = open_database(place, **options)
    assert database
    return database


class Clock:
    """A clock that is set by hand, for both databases."""

    def __init__(self, now: float = NOON) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    """The clock of `database`."""
    made = Clock()
    monkeypatch.setattr(Database, "now", lambda self, connection: made.now)
    return made


@pytest.fixture
def database(place, clock, monkeypatch):
    """A new database, of SQLite and of PostgreSQL, with passwords that are hashed fast."""
    fast_passwords(monkeypatch)
    made = opened(place)
    yield made
    made.close()


def fast_passwords(monkeypatch) -> None:
    """Let argon2 take as little as it can."""
    for name, value in (("TIME_COST", 1), ("MEMORY_KIB", 8), ("LANES", 1)):
        monkeypatch.setattr(passwords, name, value)


def unprepared(place: str) -> Database:
    return Database(place, durable=False, busy_seconds=5, clock=time.time)


def made_before_alembic(place: str) -> str:
    """Make a database as the CareLlama before alembic did, with a key that was used; return the key's id."""
    old = ("carellama_schema", "carellama_keys", "carellama_requests", "carellama_usage")
    database = unprepared(place)
    with database.write_transaction() as connection:
        tables.METADATA.create_all(connection, tables=[tables.METADATA.tables[name] for name in old])
        connection.execute(insert(tables.SCHEMA).values(version=1))
    key, _ = keys.create_key(database, name="ward3", scopes=("chat",), limits=keys.Limits(60, 4, 1000))
    usage.end_lease(database, usage.start_lease(database, key.id, 900), 412)
    database.close()
    return key.id
