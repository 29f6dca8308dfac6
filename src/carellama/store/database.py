"""The database: where it is, and transactions that are safe among threads, processes and machines.

    database = open_database("carellama.db")
    with database.write_transaction() as connection:
        connection.execute(insert(KEYS).values(...))

A place is the path of a SQLite file, or a URL: postgresql://user:password@host/name. The SQLite file is in WAL mode:
many read while one writes, on one machine (WAL does not work over a network file system; machines share PostgreSQL).
Every fault of the database is a `UserError` of one line, without the password of the URL.

Open it in the process that uses it, after a fork.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event, exc, func, select
from sqlalchemy.engine import URL, make_url

from carellama.errors import UserError, install
from carellama.store.schema import HEAD, REVISIONS, create_tables, read_revision, upgrade_tables

BUSY_SECONDS = 5.0  # how long one waits for another's transaction
POSTGRES_LOCK = 0x0CA2E11A  # of those that make or change the tables at the same time
SQLITE_ERROR_HINTS = {  # what it says, and what to do
    "is locked": "another program has held it for {busy:g} s; end that program, or try again",
    "readonly": "it cannot be written; check the permissions of the file and of its folder",
    "unable to open": "it cannot be opened; check the permissions of the file and of its folder",
    "not a database": "it is damaged, or no SQLite file; bring back a copy, or name another file",
    "malformed": "it is damaged; bring back a copy, or name another file",
    "is full": "the disk is full; make room there",
    "disk I/O": "the disk cannot be read or written",
}


class Database:
    """An open database. Safe to be used by several threads; made by `open_database`."""

    def __init__(self, place: str, *, durable: bool, busy_seconds: float, clock: Callable[[], float]) -> None:
        self._url = _url(place)
        self.sqlite = self._url.get_backend_name() == "sqlite"
        place_only = URL.create("postgresql", host=self._url.host, port=self._url.port, database=self._url.database)
        self.name = str(self._url.database) if self.sqlite else str(place_only)  # for messages: no user, no password
        self._busy_seconds, self._clock = busy_seconds, clock
        self._file: tuple[int, int] | None = None  # which file of SQLite the connections have open
        self._writer = threading.Lock()  # SQLite has one writer; threads that wait here need not poll for it
        self.engine = self._sqlite_engine(durable=durable) if self.sqlite else self._postgres_engine()

    def now(self, connection: Connection) -> float:
        """Seconds since 1970; by the clock of the database, where several machines use it."""
        if self.sqlite:
            return self._clock()
        return float(connection.scalar(select(func.extract("epoch", func.clock_timestamp()))) or 0.0)

    @contextmanager
    def read_transaction(self) -> Iterator[Connection]:
        """A transaction that only reads."""
        with self._as_user_errors(), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """A transaction that only reads, and all of it at one moment: what others write meanwhile is not seen."""
        with self._as_user_errors(), self.engine.connect() as connection:
            if not self.sqlite:  # which reads so anyway
                connection.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                yield connection

    @contextmanager
    def write_transaction(self) -> Iterator[Connection]:
        """A transaction that writes; with SQLite it is the only one from its first statement on."""
        with self._as_user_errors(), self._writer_lock(), self.engine.connect() as connection:
            connection.execution_options(writes=True)
            with connection.begin():
                yield connection

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()
        self._file = None

    def revision(self) -> str | None:
        """The revision of its tables, of `schema.REVISIONS`, or one of a later CareLlama; None: it has none of ours."""
        with self.read_transaction() as connection:
            return read_revision(connection)

    def prepare(self) -> None:
        """Make the tables, or bring them to the present version. Raises `UserError` for those of a later CareLlama."""
        revision = self.revision()
        if revision is not None and revision not in REVISIONS:
            raise UserError(
                f"{self.name} was made by a later CareLlama (revision {revision} of its tables, this one knows "
                f"{HEAD}); install the later one, or name another database"
            )
        if revision != HEAD:
            self._migrate()
        if self.sqlite:
            self._use_wal()

    def _migrate(self) -> None:
        with self.write_transaction() as connection:
            if not self.sqlite:
                connection.execute(select(func.pg_advisory_xact_lock(POSTGRES_LOCK)))
            revision = read_revision(connection)  # another process may have been here
            if revision is None:
                create_tables(connection)
            elif revision != HEAD:
                upgrade_tables(connection)

    def empty_journal(self) -> bool:
        """Move what SQLite's journal holds into the file, and empty it, where nobody reads or writes just now.

        Returns whether it is empty. PostgreSQL's journal is its own business: True.
        """
        if not self.sqlite:
            return True
        with self._as_user_errors(), self._writer_lock(), self.engine.connect() as connection:
            return self._checkpoint(connection)

    def scrub(self, tables: Sequence[str] = ()) -> bool:
        """Rewrite a SQLite file so that no byte of what was deleted is left in it or in its journal.

        SQLite zeroes what is deleted, but not the copies that it made when it moved rows between pages: only a new
        file has none. Takes as long as copying the file; others wait to write. Returns whether it could be done: False
        where another program reads all the time, or there is no room. Of PostgreSQL only `tables` are rewritten.
        """
        if not self.sqlite:
            with self._as_user_errors(), self.engine.connect() as connection:
                connection.execution_options(isolation_level="AUTOCOMMIT")
                for table in tables:
                    connection.exec_driver_sql(f"VACUUM FULL {table}")
            return True
        deadline = time.monotonic() + self._busy_seconds
        with self._as_user_errors(), self._writer_lock(), self.engine.connect() as connection:
            try:
                connection.connection.cursor().execute("VACUUM")  # outside of a transaction
                while not (done := self._checkpoint(connection)) and time.monotonic() < deadline:
                    time.sleep(0.02)
            except sqlite3.OperationalError:
                return False
        return done

    def _checkpoint(self, connection: Connection) -> bool:
        cursor = connection.connection.cursor()
        cursor.execute("PRAGMA busy_timeout = 0")
        try:
            (busy, *_) = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        finally:
            cursor.execute(f"PRAGMA busy_timeout = {round(self._busy_seconds * 1000)}")
        return not busy

    def _use_wal(self) -> None:
        """Switch to WAL, which the file remembers. SQLite does not wait for others in this, so we do."""
        deadline = time.monotonic() + self._busy_seconds
        with self._as_user_errors(), self.engine.connect() as connection:
            cursor = connection.connection.cursor()  # outside of a transaction
            while True:
                try:
                    if cursor.execute("PRAGMA journal_mode").fetchone() != ("wal",):
                        cursor.execute("PRAGMA journal_mode = WAL")
                    return
                except sqlite3.OperationalError as error:
                    if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                        raise
                    time.sleep(0.02)

    def _sqlite_engine(self, *, durable: bool) -> Engine:
        # check_same_thread: a connection goes from thread to thread through the pool, never to two at once
        connect = {"timeout": self._busy_seconds, "check_same_thread": False}
        engine = create_engine(self._url, hide_parameters=True, connect_args=connect)

        @event.listens_for(engine, "connect")
        def connected(connection: object, _: object) -> None:
            self._file = self._file or self._file_now()
            connection.isolation_level = None  # type: ignore[attr-defined]  # transactions begin below, not in sqlite3
            # NORMAL: a power cut may take the last transactions, and never damages the file
            connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")  # type: ignore[attr-defined]
            connection.execute("PRAGMA secure_delete = ON")  # type: ignore[attr-defined]  # zeros where something was

        @event.listens_for(engine, "begin")
        def begun(connection: Connection) -> None:
            writes = connection.get_execution_options().get("writes", False)
            connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

        return engine

    def _postgres_engine(self) -> Engine:
        try:
            engine = create_engine(
                self._url,
                hide_parameters=True,
                pool_pre_ping=True,  # the server may have been restarted
                connect_args={"connect_timeout": max(2, round(self._busy_seconds))},
            )
        except ModuleNotFoundError as error:
            raise UserError(f"PostgreSQL needs {error.name}: {install('postgres')}") from error

        @event.listens_for(engine, "begin")
        def begun(connection: Connection) -> None:
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = {round(self._busy_seconds * 1000)}")

        return engine

    @contextmanager
    def _writer_lock(self) -> Iterator[None]:
        if not self.sqlite:
            yield
            return
        if not self._writer.acquire(timeout=self._busy_seconds):
            raise UserError(f"{self.name}: {SQLITE_ERROR_HINTS['is locked'].format(busy=self._busy_seconds)}")
        try:
            yield
        finally:
            self._writer.release()

    def _file_now(self) -> tuple[int, int] | None:
        """Which file has the name of the database; None: none has."""
        try:
            found = Path(str(self._url.database)).stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _check_file(self) -> None:
        """Raise `UserError` where another file is in the place: what is written to the open one would be lost."""
        if self._file is not None and self._file_now() != self._file:
            raise UserError(
                f"{self.name} was deleted, moved or replaced while it is used, and nothing is written any more; bring "
                "the file back, or start the server again"
            )

    @contextmanager
    def _as_user_errors(self) -> Iterator[None]:
        """Turn a fault of the database into one line; a fault of our statements stays what it is."""
        self._check_file()
        try:
            yield
        except (exc.DBAPIError, exc.TimeoutError, sqlite3.Error) as error:
            cause = getattr(error, "orig", None) or error
            refused = getattr(cause, "sqlstate", None) == "42501"  # PostgreSQL: no right to do so
            if isinstance(error, (exc.IntegrityError, exc.ProgrammingError)) and not refused:
                raise
            raise UserError(f"{self.name}: {self._error_reason(str(cause))}") from error

    def _error_reason(self, cause: str) -> str:
        if self.sqlite:
            for words, advice in SQLITE_ERROR_HINTS.items():
                if words in cause:
                    return advice.format(busy=self._busy_seconds)
        if self._url.password:
            cause = cause.replace(self._url.password, "***")
        return " ".join(cause.split())[:300] or "the database does not answer"


def open_database(
    place: str,
    *,
    make: bool = True,
    durable: bool = False,
    busy_seconds: float = BUSY_SECONDS,
    clock: Callable[[], float] = time.time,
) -> Database | None:
    """Open a database and bring its tables to the present version.

    `make` makes it where it is not; otherwise None is returned for one that is not there. `durable` waits with every
    transaction until it is on the disk (SQLite; PostgreSQL always does). `clock` is SQLite's, for tests.
    """
    database = Database(place, durable=durable, busy_seconds=busy_seconds, clock=clock)
    try:
        if database.sqlite and not _ensure_file(Path(database.name), make=make):
            return None
        if not make and database.revision() is None:
            database.close()
            return None
        database.prepare()
    except BaseException:
        database.close()
        raise
    return database


def _ensure_file(path: Path, *, make: bool) -> bool:
    """Whether the file is there; `make` makes an empty one that only its owner can read."""
    if path.is_dir():
        raise UserError(f"{path} is a folder; name a file for the database")
    if path.exists():
        return True
    if not make:
        return False
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # the files that SQLite puts beside it get its mode
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    return True


def _url(place: str) -> URL:
    """The URL of a place. An error never repeats what was given: it may hold a password."""
    if "://" not in place:
        return URL.create("sqlite", database=str(Path(place).expanduser()))
    try:
        url = make_url(place)
    except (exc.ArgumentError, ValueError) as error:
        raise UserError("the URL of the database is none; write postgresql://USER:PASSWORD@HOST:PORT/NAME") from error
    if url.drivername == "sqlite" and url.database not in (None, "", ":memory:"):
        return URL.create("sqlite", database=url.database)
    if url.drivername in ("postgresql", "postgres", "postgresql+psycopg"):
        return url.set(drivername="postgresql+psycopg")
    raise UserError(
        f"a database of {url.drivername}:// cannot be used; give the path of a SQLite file, or "
        "postgresql://USER:PASSWORD@HOST:PORT/NAME"
    )
