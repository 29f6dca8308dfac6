"""The tables of the database: made at once, by migrations, or out of those of an older CareLlama."""

from __future__ import annotations

import subprocess
import sys

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, select, text, update

from carellama.errors import UserError
from carellama.store import keys, schema, tables, usage
from carellama.store.database import Database
from store_places import made_before_alembic, opened, place, postgres_server, unprepared

__all__ = ["place", "postgres_server"]


def described(database: Database) -> dict[str, object]:
    """All that there is of each table."""
    with database.read_transaction() as connection:
        there = inspect(connection)
        return {
            name: (
                sorted((one["name"], str(one["type"]), one["nullable"]) for one in there.get_columns(name)),
                there.get_pk_constraint(name)["constrained_columns"],
                sorted((str(one["name"]), one["column_names"], one["unique"]) for one in there.get_indexes(name)),
                sorted(one["column_names"] for one in there.get_unique_constraints(name)),
            )
            for name in there.get_table_names()
        }


def test_the_revisions_are_those_of_the_migrations():
    scripts = ScriptDirectory(str(schema.MIGRATIONS))
    assert tuple(one.revision for one in scripts.walk_revisions())[::-1] == schema.REVISIONS
    assert scripts.get_heads() == [schema.HEAD]


def test_migrations_make_the_tables_of_the_code(place):
    database = unprepared(place)
    with database.write_transaction() as connection:
        schema.upgrade_tables(connection, from_nothing=True)
    with database.read_transaction() as connection:
        options = {"compare_type": True, "version_table": schema.REVISION_TABLE}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), tables.METADATA) == []
        connection.execute(text("DROP INDEX carellama_requests_started"))
        assert compare_metadata(MigrationContext.configure(connection, opts=options), tables.METADATA) != []


def test_a_new_database_has_what_migrations_make(place, tmp_path):
    opened(place).close()
    migrated = str(tmp_path / "migrated.db")
    if "://" in place:
        migrated = place.replace("/t", "/m", 1)
        with unprepared(place).engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(f"CREATE DATABASE {migrated.partition('@/')[2].partition('?')[0]}"))
    database = unprepared(migrated)
    with database.write_transaction() as connection:
        schema.upgrade_tables(connection, from_nothing=True)
    assert described(database) == described(unprepared(place))
    for one in (database, unprepared(place)):
        with one.read_transaction() as connection:
            assert schema.read_revision(connection) == schema.HEAD
            assert connection.scalars(select(tables.SCHEMA.c.version)).all() == [schema.BARRED]


def test_an_older_database_keeps_its_keys_and_their_use(place):
    id = made_before_alembic(place)
    for _ in range(2):
        database = opened(place)
        assert database.revision() == schema.HEAD
        assert [key.id for key in keys.list_keys(database)] == [id]
        assert usage.usage_by_key(database)[id].tokens == 412
        with database.read_transaction() as connection:
            assert connection.scalars(select(tables.SCHEMA.c.version)).all() == [schema.BARRED]
            assert connection.execute(select(tables.ACCOUNTS)).all() == []
        database.close()


@pytest.mark.parametrize("later", ["revision", "version"])
def test_a_database_of_a_later_carellama_is_refused_and_left(place, later):
    if later == "revision":
        with opened(place).write_transaction() as connection:
            connection.execute(text("UPDATE carellama_revision SET version_num = '9999'"))
    else:
        made_before_alembic(place)
        with unprepared(place).write_transaction() as connection:
            connection.execute(update(tables.SCHEMA).values(version=7))
    before = described(unprepared(place))
    with pytest.raises(UserError, match="made by a later CareLlama"):
        opened(place)
    assert described(unprepared(place)) == before


def test_a_step_that_fails_leaves_the_database_as_it_was(place, monkeypatch):
    id = made_before_alembic(place)
    before = described(unprepared(place))
    real = schema.upgrade_tables

    def broken(connection):
        real(connection)
        raise RuntimeError

    monkeypatch.setattr("carellama.store.database.upgrade_tables", broken)
    with pytest.raises(RuntimeError):
        opened(place)
    monkeypatch.undo()
    assert described(unprepared(place)) == before
    assert [key.id for key in keys.list_keys(opened(place))] == [id]


def test_a_present_database_opens_without_alembic(tmp_path):
    code = (
        "import sys; from carellama.store.database import open_database; open_database(sys.argv[1]).close();"
        "print('alembic' in sys.modules)"
    )
    there = [sys.executable, "-c", code, str(tmp_path / "new.db")]
    for _ in range(2):
        assert subprocess.run(there, capture_output=True, text=True, timeout=60).stdout == "False\n"


@pytest.mark.slow
def test_several_processes_may_bring_an_older_database_up(place):
    id = made_before_alembic(place)
    code = (
        "import sys; from carellama.store.database import open_database; sys.stdin.readline();"
        "print(open_database(sys.argv[1]).revision())"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code, place], stdin=-1, stdout=-1, stderr=-1, text=True)
        for _ in range(3)
    ]
    for one in started:
        print(file=one.stdin, flush=True)
    ended = [(*one.communicate(timeout=60), one.returncode) for one in started]
    assert ended == [(f"{schema.HEAD}\n", "", 0)] * 3
    assert [key.id for key in keys.list_keys(opened(place))] == [id]
