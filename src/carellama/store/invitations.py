"""Invitations: a link by which a person makes an account, once, or sets a new password for the one that there is.

    invitation, token = create_invitation(database, "patient", days=7)
    account = accept_invitation(database, token, "mei", "a password of some length")

The token is given once, by `create_invitation`; its SHA-256 alone is stored. An invitation is deleted when it was
accepted.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, delete, insert, select

from carellama.errors import lookup
from carellama.store.account_errors import AccountError, AccountNotFound, InvitationNotFound
from carellama.store.accounts import (
    ROLES,
    Account,
    Role,
    check_name,
    insert_account,
    replace_password,
    row_to_account,
)
from carellama.store.database import Database
from carellama.store.keys import hash_secret
from carellama.store.login_attempts import forget_attempts, name_subject
from carellama.store.passwords import hash_password
from carellama.store.tables import ACCOUNTS, INVITATIONS, SESSIONS

__all__ = ["InvitationNotFound"]

MAX_DAYS = 366


@dataclass(frozen=True, slots=True)
class Invitation:
    """An open invitation, as stored."""

    id: str
    role: Role
    created: float  # seconds since 1970, as the next
    expires: float
    account_id: str | None  # whose password it sets; None: it makes an account


def create_invitation(
    database: Database, role: Role, *, days: float = 7, created_by: str = "", account_id: str | None = None
) -> tuple[Invitation, str]:
    """Make an invitation and its token, which cannot be had again.

    With `account_id` it sets a new password for that account, whose earlier ones end. Raises `UserError`.
    """
    lookup(ROLES, role, "role")
    if not 0 < days <= MAX_DAYS:
        raise AccountError(f"an invitation is open for {days:g} days; it has to be up to {MAX_DAYS}, and more than 0")
    token = secrets.token_urlsafe(32)
    with database.write_transaction() as connection:
        now = database.now(connection)
        if account_id is not None:
            mine = select(ACCOUNTS).where(ACCOUNTS.c.id == account_id).with_for_update()
            account = connection.execute(mine).one_or_none()
            if account is None:
                raise AccountNotFound("there is no such account")
            if account.issuer:
                raise AccountError(f"{account.name} logs in at {account.issuer} and has no password here")
            connection.execute(delete(INVITATIONS).where(INVITATIONS.c.account_id == account_id))
            role = account.role
        over = select(INVITATIONS.c.id).where(INVITATIONS.c.expires <= now).with_for_update(skip_locked=True)
        connection.execute(delete(INVITATIONS).where(INVITATIONS.c.id.in_(over)))  # no waiting for each other
        invitation = Invitation(secrets.token_urlsafe(16), role, now, now + days * 86400, account_id)
        connection.execute(
            insert(INVITATIONS).values(
                id=invitation.id,
                token_hash=hash_secret(token),
                role=role,
                created=now,
                expires=invitation.expires,
                account_id=account_id,
                created_by=created_by,
            )
        )
    return invitation, token


def read_invitation(database: Database, token: str) -> Invitation | None:
    """The invitation of a token; None: it is unknown, used or over."""
    with database.read_transaction() as connection:
        now = database.now(connection)
        mine = (INVITATIONS.c.token_hash == hash_secret(token)) & (INVITATIONS.c.expires > now)
        row = connection.execute(select(INVITATIONS).where(mine)).one_or_none()
    return None if row is None else _row_to_invitation(row)


def accept_invitation(database: Database, token: str, name: str, password: str) -> Account:
    """Make the account of an invitation, or set the password of its account, and end the invitation.

    For a password `name` is not looked at; the account's sessions end. Raises `InvitationNotFound`, `NameTaken`,
    and `UserError` for a name or a password that cannot be: the invitation then stays open.
    """
    invitation = read_invitation(database, token)
    if invitation is None:  # before the slow hash
        raise InvitationNotFound("this invitation is unknown, was used already, or its time is over; ask for a new one")
    stored = hash_password(password)
    with database.write_transaction() as connection:
        if invitation.account_id is not None:  # an account before its invitations, as all others lock them
            account = select(ACCOUNTS.c.id).where(ACCOUNTS.c.id == invitation.account_id)
            connection.execute(account.with_for_update())
        now = database.now(connection)
        mine = (INVITATIONS.c.token_hash == hash_secret(token)) & (INVITATIONS.c.expires > now)
        row = connection.execute(select(INVITATIONS).where(mine).with_for_update()).one_or_none()
        if row is None:
            raise InvitationNotFound("this invitation was used already, or its time is over; ask for a new one")
        connection.execute(delete(INVITATIONS).where(INVITATIONS.c.id == row.id))
        if row.account_id is None:
            return insert_account(database, connection, check_name(name), stored, row.role)
        key = replace_password(connection, row.account_id, stored)
        connection.execute(delete(SESSIONS).where(SESSIONS.c.account_id == row.account_id))
        forget_attempts(connection, name_subject(key))
        return row_to_account(connection.execute(select(ACCOUNTS).where(ACCOUNTS.c.id == row.account_id)).one())


def list_invitations(database: Database) -> list[Invitation]:
    """The open invitations, the oldest first."""
    with database.read_transaction() as connection:
        now, table = database.now(connection), INVITATIONS.c
        rows = connection.execute(select(INVITATIONS).where(table.expires > now).order_by(table.created, table.id))
        return [_row_to_invitation(row) for row in rows]


def delete_invitation(database: Database, id: str) -> bool:
    """Take an invitation back; False: there is none of this id."""
    if "\0" in id:  # which PostgreSQL does not take
        return False
    with database.write_transaction() as connection:
        return bool(connection.execute(delete(INVITATIONS).where(INVITATIONS.c.id == id)).rowcount)


def prune_invitations(database: Database) -> int:
    """Delete the invitations whose time is over; return how many."""
    with database.write_transaction() as connection:
        now = database.now(connection)
        return connection.execute(delete(INVITATIONS).where(INVITATIONS.c.expires <= now)).rowcount


def _row_to_invitation(row: Row[Any]) -> Invitation:
    return Invitation(row.id, row.role, row.created, row.expires, row.account_id)
