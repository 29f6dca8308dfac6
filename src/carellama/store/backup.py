"""Backups: the whole database as one SQLite file, of SQLite and of PostgreSQL, for either.

    counts = write_backup(database, Path("monday.db"))
    restored = restore_backup(database, Path("monday.db"))

A backup is of one moment, while servers go on writing. It is a database like any other: what is encrypted stays so,
and nothing needs a key. It leaves out what must not come back: sessions, invitations, running requests and counts of
wrong passwords.

Whoever was forgotten does not come back with an older backup: accounts that the database or the backup knows as erased
are left out, with all that they had. Keys that were revoked and accounts that were disabled since stay so. The words of
an erased account are in older backup files until these are deleted.
"""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Connection, Table, bindparam, delete, event, exists, func, insert, literal, select, update

from carellama.errors import UserError
from carellama.files import atomic_private_file, refuse_existing
from carellama.store.database import BUSY_SECONDS, Database, open_database
from carellama.store.schema import HEAD, REVISIONS, create_tables
from carellama.store.tables import (
    ACCOUNTS,
    ERASURES,
    INVITATIONS,
    KEYS,
    LOGIN_ATTEMPTS,
    METADATA,
    REQUESTS,
    SCHEMA,
    SESSIONS,
    STORE_INFO,
)

PASSING = (SESSIONS, INVITATIONS, REQUESTS, LOGIN_ATTEMPTS)  # not in a backup
SAVED = tuple(table for table in METADATA.sorted_tables if table not in (*PASSING, SCHEMA))
MADE = "backup"  # the time of a backup, in its STORE_INFO
ROWS_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore brought back."""

    made: str  # when the backup was made, ISO 8601; "": it is no backup but a database
    rows: dict[str, int]  # by table
    erased: int  # accounts left out because they were forgotten
    encrypted: bool


def write_backup(database: Database, path: Path, *, overwrite: bool = False) -> dict[str, int]:
    """Write a backup, readable for its owner only; return the rows by table. Raises `UserError`.

    The file gets its name when it is whole and was read again; until then an older one stays.
    """
    refuse_existing(path, [Path(database.name)] if database.sqlite else [], overwrite=overwrite, option="file")
    with atomic_private_file(path) as temporary:
        copy = _unprepared(temporary, path)
        event.listen(copy.engine, "connect", _without_journal)
        try:
            with database.snapshot() as source, copy.write_transaction() as target:
                create_tables(target)
                rows = {table.name: _copy(table, source, target) for table in SAVED}
                when = datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="seconds")
                target.execute(delete(STORE_INFO).where(STORE_INFO.c.name == MADE))  # it may be a backup that is used
                target.execute(insert(STORE_INFO).values(name=MADE, value=when))
            del rows[STORE_INFO.name]
            _check(copy, rows)
        finally:
            copy.close()
    return rows


def restore_backup(database: Database, path: Path, *, overwrite: bool = False) -> Restored:
    """Put what a backup holds in place of what the database holds, in one transaction. Raises `UserError`.

    A database that has anything is refused unless `overwrite`.
    """
    if database.sqlite and path.exists() and path.samefile(database.name):
        raise UserError(f"{path} is the database itself; give the file of a backup, or another --database")
    with _open_backup(path) as copy, copy.snapshot() as source, database.write_transaction() as target:
        if not database.sqlite:
            names = ", ".join(sorted(table.name for table in METADATA.sorted_tables))
            target.exec_driver_sql(f"LOCK TABLE {names} IN ACCESS EXCLUSIVE MODE")
        full = [_kind(table) for table in SAVED if table not in (ERASURES, STORE_INFO) and _has_rows(target, table)]
        if full and not overwrite:
            raise UserError(
                f"{database.name} is not empty ({', '.join(full)}): give --overwrite to put the backup in its place, "
                "after a backup of it, or name another database"
            )
        revoked = target.execute(select(KEYS.c.id, KEYS.c.revoked).where(KEYS.c.revoked.is_not(None))).all()
        disabled = target.execute(select(ACCOUNTS.c.id, ACCOUNTS.c.disabled).where(ACCOUNTS.c.disabled.is_not(None)))
        barred = disabled.all()
        for table in (*PASSING, *SAVED):
            if table is not ERASURES:
                target.execute(delete(table))
        rows = {table.name: _copy(table, source, target) for table in SAVED if table is not ERASURES}
        _add_erasures(source, target)
        erased = _leave_out_erased(target)
        _set_ended(target, KEYS, "revoked", [(row[0], row[1]) for row in revoked])
        _set_ended(target, ACCOUNTS, "disabled", [(row[0], row[1]) for row in barred])
        del rows[STORE_INFO.name]
        info = {row.name: row.value for row in target.execute(select(STORE_INFO))}
        target.execute(delete(STORE_INFO).where(STORE_INFO.c.name == MADE))
    database.scrub()
    return Restored(str(info.get(MADE, "")), rows, erased, "cipher" in info)


def _unprepared(path: Path, name: Path) -> Database:
    """A SQLite file as it is; messages call it `name`."""
    database = Database(str(path), durable=True, busy_seconds=BUSY_SECONDS, clock=time.time)
    database.name = str(name)
    return database


def _without_journal(connection: sqlite3.Connection, _: object) -> None:
    """Where anything fails the file is deleted anyway."""
    connection.execute("PRAGMA journal_mode = OFF")


def _copy(table: Table, source: Connection, target: Connection) -> int:
    count = 0
    found = source.execute(select(table).execution_options(yield_per=ROWS_AT_ONCE))
    for rows in found.mappings().partitions():
        target.execute(insert(table), [dict(row) for row in rows])
        count += len(rows)
    return count


def _check(copy: Database, rows: dict[str, int]) -> None:
    """Read a backup as it is on the disk. Raises `UserError` where it is not what was written."""
    copy.close()
    _check_integrity(copy)
    with copy.read_transaction() as connection:
        tables = [table for table in SAVED if table is not STORE_INFO]
        found = {table.name: connection.scalar(select(func.count()).select_from(table)) for table in tables}
    if found != rows:
        raise UserError(f"{copy.name}: the backup was written but cannot be read again; check the disk")


def _check_integrity(copy: Database) -> None:
    with copy.read_transaction() as connection:
        said = connection.exec_driver_sql("PRAGMA integrity_check(1)").scalar()
    if said != "ok":
        raise UserError(f"{copy.name} is damaged or cut off, and nothing was read from it; take another backup")


@contextmanager
def _open_backup(path: Path) -> Iterator[Database]:
    """A backup with the present tables; one of an older CareLlama is brought to them in a copy."""
    if not path.is_file():
        raise UserError(f"there is no file {path}; give the file that carellama store backup wrote")
    copy = _unprepared(path, path)
    try:
        _check_integrity(copy)
        revision = copy.revision()
        if revision is None:
            raise UserError(f"{path} is no backup: it has no tables of CareLlama")
        if revision not in REVISIONS:
            raise UserError(f"{path} was made by a later CareLlama (revision {revision}); install the later one")
        if revision == HEAD:
            yield copy
            return
        with tempfile.TemporaryDirectory(prefix="carellama-") as folder:  # its owner's alone
            older = Path(folder) / "backup.db"
            with sqlite3.connect(path) as original, sqlite3.connect(older) as newer:
                original.backup(newer)
            original.close()
            newer.close()
            upgraded = open_database(str(older))
            assert upgraded is not None
            try:
                yield upgraded
            finally:
                upgraded.close()
    finally:
        copy.close()


def _kind(table: Table) -> str:
    return table.name.removeprefix("carellama_")


def _has_rows(connection: Connection, table: Table) -> bool:
    return bool(connection.scalar(select(exists(select(literal(1)).select_from(table)))))


def _add_erasures(source: Connection, target: Connection) -> None:
    """Let the database know the erasures of the backup as well."""
    known = set(target.scalars(select(ERASURES.c.id)))
    new = [dict(row) for row in source.execute(select(ERASURES)).mappings() if row["id"] not in known]
    if new:
        target.execute(insert(ERASURES), new)


def _leave_out_erased(target: Connection) -> int:
    """Delete the accounts that are known as erased, with all that they have; return how many there were."""
    erased = select(ERASURES.c.id)
    for table in METADATA.sorted_tables:
        if "account_id" in table.c:
            target.execute(delete(table).where(table.c.account_id.in_(erased)))
    return target.execute(delete(ACCOUNTS).where(ACCOUNTS.c.id.in_(erased))).rowcount


def _set_ended(target: Connection, table: Table, column: str, ended: list[tuple[str, float]]) -> None:
    """Let keys or accounts that the database knew as ended stay so."""
    if ended:
        mine = (table.c.id == bindparam("ended_id")) & table.c[column].is_(None)
        statement = update(table).where(mine).values({column: bindparam("ended_at")})
        target.execute(statement, [{"ended_id": id, "ended_at": when} for id, when in ended])
