"""The version of the tables: which there is, and how the tables are made or brought to the present one by alembic.

    revision = read_revision(connection)      # None: no tables of ours
    create_tables(connection) if revision is None else upgrade_tables(connection)

A new database gets the tables of `tables.py` at once; only an older one needs alembic, which is slow to load. alembic
keeps the revision in a table of its own, `carellama_revision`. The database of a CareLlama from before alembic has the
number 1 in `carellama_schema`, and is of the first revision.

Both functions that write belong into one transaction with the reading.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Column, Connection, MetaData, String, Table, insert, inspect, select

from carellama.errors import need
from carellama.store.tables import METADATA, SCHEMA

REVISIONS = ("0001", "0002", "0003")  # as in migrations/versions, the oldest first
HEAD = REVISIONS[-1]
REVISION_TABLE = "carellama_revision"
BEFORE_ALEMBIC = 1  # what carellama_schema says in a database of revision 0001 without a revision table
BARRED = 2  # what it says since: the older CareLlama refuses that
MIGRATIONS = Path(__file__).parent / "migrations"

# alembic's own table, in the form in which alembic makes it
_REVISION = Table(REVISION_TABLE, MetaData(), Column("version_num", String(32), primary_key=True))


def read_revision(connection: Connection) -> str | None:
    """The revision of the tables; None: there are none. It may be one that this CareLlama does not know."""
    tables = inspect(connection)
    if tables.has_table(REVISION_TABLE):
        revision: str | None = connection.scalar(select(_REVISION.c.version_num))
        return revision
    if not tables.has_table(SCHEMA.name):
        return None
    version = connection.scalar(select(SCHEMA.c.version))
    return REVISIONS[0] if version == BEFORE_ALEMBIC else f"version {version}"


def create_tables(connection: Connection) -> None:
    """Make all tables in a database that has none."""
    METADATA.create_all(connection)
    _REVISION.create(connection)
    connection.execute(insert(_REVISION).values(version_num=HEAD))
    connection.execute(insert(SCHEMA).values(version=BARRED))


def upgrade_tables(connection: Connection, *, from_nothing: bool = False) -> None:
    """Bring the tables of an older revision to the present one, within the transaction of the connection.

    `from_nothing`: there are none, and the migrations make them from the first on, as a test does.
    """
    need("alembic", extra="serve", why="bringing an older database to the present version")
    from alembic import command
    from alembic.config import Config

    if not from_nothing and not inspect(connection).has_table(REVISION_TABLE):  # made before alembic
        _REVISION.create(connection)
        connection.execute(insert(_REVISION).values(version_num=REVISIONS[0]))
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
