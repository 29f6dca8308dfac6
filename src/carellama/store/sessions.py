"""Sessions: who is logged in. The token goes into the browser's cookie; its SHA-256 alone is stored.

token = create_session(database, account.id, idle_hours=12)
account = read_session(database, token)     # None: unknown, over, or the account is disabled
"""

from __future__ import annotations

import logging
import secrets

from sqlalchemy import ColumnElement, delete, insert, select, update

from carellama.errors import UserError
from carellama.store.account_errors import AccountNotFound
from carellama.store.accounts import Account, row_to_account
from carellama.store.database import Database
from carellama.store.keys import hash_secret
from carellama.store.tables import ACCOUNTS, SESSIONS

LIFE_SECONDS = 7 * 86400.0  # whatever is done in it
RENEW_SECONDS = 60.0
log = logging.getLogger(__name__)


def create_session(database: Database, account_id: str, *, idle_hours: float, address: str = "") -> str:
    """Start a session that ends after `idle_hours` without use; return its token. Raises `AccountNotFound`."""
    token = secrets.token_urlsafe(32)
    with database.write_transaction() as connection:
        now = database.now(connection)
        mine = (ACCOUNTS.c.id == account_id) & ACCOUNTS.c.disabled.is_(None)
        if connection.execute(select(ACCOUNTS.c.id).where(mine).with_for_update()).one_or_none() is None:
            raise AccountNotFound("the account is disabled, or there is none any more")
        connection.execute(update(ACCOUNTS).where(mine).values(last_login=now))
        over = select(SESSIONS.c.token_hash).where(_is_over(now)).with_for_update(skip_locked=True)
        connection.execute(delete(SESSIONS).where(SESSIONS.c.token_hash.in_(over)))  # no waiting for each other
        connection.execute(
            insert(SESSIONS).values(
                token_hash=hash_secret(token),
                account_id=account_id,
                created=now,
                last_seen=now,
                idle_seconds=idle_hours * 3600,
                address=address[:64],
            )
        )
    return token


def read_session(database: Database, token: str) -> Account | None:
    """Whose session it is; its idle time starts again. None: it is unknown or over, or the account is disabled."""
    mine = SESSIONS.c.token_hash == hash_secret(token)
    with database.read_transaction() as connection:
        now = database.now(connection)
        row = connection.execute(
            select(ACCOUNTS, SESSIONS.c.last_seen)
            .join(SESSIONS, SESSIONS.c.account_id == ACCOUNTS.c.id)
            .where(mine, ~_is_over(now), ACCOUNTS.c.disabled.is_(None))
        ).one_or_none()
    if row is None:
        return None
    if now - row.last_seen >= RENEW_SECONDS:  # a write for each request would be one too many
        try:
            with database.write_transaction() as connection:
                connection.execute(update(SESSIONS).where(mine, SESSIONS.c.last_seen < now).values(last_seen=now))
        except UserError as error:  # the disk is full, or a backup holds the database: what is there can be read
            log.warning("a session was not renewed: %s", error)
    return row_to_account(row)


def end_session(database: Database, token: str) -> None:
    """End a session; one that is not there is no error."""
    with database.write_transaction() as connection:
        connection.execute(delete(SESSIONS).where(SESSIONS.c.token_hash == hash_secret(token)))


def end_sessions(database: Database, account_id: str, *, but: str = "") -> None:
    """End all sessions of an account, but for the one of this token."""
    with database.write_transaction() as connection:
        mine = SESSIONS.c.account_id == account_id
        connection.execute(delete(SESSIONS).where(mine, SESSIONS.c.token_hash != hash_secret(but)))


def prune_sessions(database: Database) -> int:
    """Delete the sessions that are over; return how many."""
    with database.write_transaction() as connection:
        return connection.execute(delete(SESSIONS).where(_is_over(database.now(connection)))).rowcount


def _is_over(now: float) -> ColumnElement[bool]:
    table = SESSIONS.c
    return (table.created <= now - LIFE_SECONDS) | (table.last_seen + table.idle_seconds <= now)
