"""Accounts: persons who log in to the page, with a name and a password or through OpenID Connect.

    account = create_account(database, "ward3", "a password of some length", "clinician")
    account = verify_login(database, "Ward3", password, address="10.0.0.7")     # or LoginFailed, LoginLocked
    counts = forget_account(database, account.id)

Names are unique whatever their case and form (NFKC). Passwords are kept as argon2id. Of an account of OpenID Connect
the hash of issuer and subject is kept, and no password.
"""

from __future__ import annotations

import hashlib
import secrets
import unicodedata
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sqlalchemy import Connection, Row, delete, exc, func, insert, or_, select, update

from carellama.errors import UserError, lookup
from carellama.files import print_status
from carellama.store.account_errors import AccountError, AccountNotFound, LastAdmin, LoginFailed, LoginLocked, NameTaken
from carellama.store.database import Database
from carellama.store.login_attempts import (
    ADDRESS_LIMIT,
    NAME_LIMIT,
    account_subject,
    address_subject,
    attempt_succeeded,
    device_subject,
    device_token,
    forget_attempts,
    is_device,
    name_subject,
    start_attempt,
)
from carellama.store.passwords import hash_password, needs_rehash, verify_password
from carellama.store.tables import ACCOUNTS, ERASURES, INVITATIONS, METADATA, SESSIONS

__all__ = ["AccountError", "AccountNotFound", "LastAdmin", "LoginFailed", "LoginLocked", "NameTaken"]

Role = Literal["patient", "clinician", "admin"]
ROLES = dict.fromkeys(get_args(Role))
MAX_NAME_CHARS, MAX_KEY_CHARS = 64, 255


@dataclass(frozen=True, slots=True)
class Account:
    """A person, as stored."""

    id: str
    name: str
    role: Role
    created: float  # seconds since 1970, as the next two
    last_login: float | None
    disabled: float | None
    issuer: str  # of OpenID Connect; "": logs in with a password


def create_account(
    database: Database, name: str, password: str | None, role: Role, *, issuer: str = "", subject: str = ""
) -> Account:
    """Make an account. Raises `NameTaken`, and `AccountError` for a name or a password that cannot be."""
    check_name(name)
    stored = None if password is None else hash_password(password)
    with database.write_transaction() as connection:
        return insert_account(database, connection, name, stored, role, issuer=issuer, subject=subject)


def insert_account(
    database: Database,
    connection: Connection,
    name: str,
    stored: str | None,
    role: Role,
    *,
    issuer: str = "",
    subject: str = "",
) -> Account:
    """Make an account within a transaction; `stored` is the hash of its password."""
    lookup(ROLES, role, "role")
    account = Account(secrets.token_urlsafe(16), check_name(name), role, database.now(connection), None, None, issuer)
    values = {"id": account.id, "name": account.name, "role": role, "created": account.created, "issuer": issuer}
    values |= {"name_key": name_key(name), "password": stored}
    values["identity"] = _identity(issuer, subject) if issuer else None
    try:
        connection.execute(insert(ACCOUNTS).values(values))
    except exc.IntegrityError as error:
        raise NameTaken(f"there is an account named {account.name} already; choose another name") from error
    return account


def check_name(name: str) -> str:
    """The name as it is stored. Raises `AccountError`."""
    stored = unicodedata.normalize("NFKC", name).strip()
    if not 0 < len(stored) <= MAX_NAME_CHARS or not stored.isprintable() or len(name_key(name)) > MAX_KEY_CHARS:
        raise AccountError(
            f"a name has 1 to {MAX_NAME_CHARS} characters in one line, without control characters; this one has "
            f"{len(stored)}"
        )
    return stored


def name_key(name: str) -> str:
    """What names are compared by."""
    key = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).strip().casefold())
    return key.replace("\0", " ").encode("utf-8", "replace").decode()  # of what no database takes


def get_account(database: Database, id: str) -> Account | None:
    """The account of an id."""
    if "\0" in id:  # which PostgreSQL does not take
        return None
    with database.read_transaction() as connection:
        row = connection.execute(select(ACCOUNTS).where(ACCOUNTS.c.id == id)).one_or_none()
    return None if row is None else row_to_account(row)


def find_account(database: Database, name: str) -> Account | None:
    """The account of a name, or of an id where no account has that name."""
    with database.read_transaction() as connection:
        rows = connection.execute(
            select(ACCOUNTS).where(or_(ACCOUNTS.c.name_key == name_key(name), ACCOUNTS.c.id == name))
        ).all()
    rows = sorted(rows, key=lambda row: row.id == name)
    return row_to_account(rows[0]) if rows else None


def list_accounts(database: Database) -> list[Account]:
    """All accounts, the oldest first; also those that are disabled."""
    with database.read_transaction() as connection:
        rows = connection.execute(select(ACCOUNTS).order_by(ACCOUNTS.c.created, ACCOUNTS.c.id))
        return [row_to_account(row) for row in rows]


def verify_login(database: Database, name: str, password: str, address: str, *, device: str = "") -> Account:
    """The account that a name and a password log in to. Raises `LoginFailed` and `LoginLocked`.

    An unknown name, a wrong password and a disabled account take the same time and say the same. `device` is what
    `new_device` gave to the browser: where it is of this account, what others do at its name locks nothing.
    """
    with database.read_transaction() as connection:
        row = connection.execute(select(ACCOUNTS).where(ACCOUNTS.c.name_key == name_key(name))).one_or_none()
    if row is not None and row.password and is_device(device, row.id, row.password):
        subject = device_subject(device)
        limits = [(subject, NAME_LIMIT)]
    else:
        subject = name_subject(name_key(name))
        limits = [(subject, NAME_LIMIT), (address_subject(address), ADDRESS_LIMIT)]
    attempt = start_attempt(database, limits)
    right = verify_password(None if row is None else row.password, password)
    if row is None or not right or row.disabled is not None:
        raise LoginFailed
    attempt_succeeded(database, attempt, forget=[subject])
    values: dict[str, Any] = {"password": hash_password(password)} if needs_rehash(row.password) else {}
    with database.write_transaction() as connection:
        values["last_login"] = database.now(connection)
        # not where the password was changed meanwhile
        mine = (ACCOUNTS.c.id == row.id) & (ACCOUNTS.c.password == row.password) & ACCOUNTS.c.disabled.is_(None)
        if not connection.execute(update(ACCOUNTS).where(mine).values(**values)).rowcount:
            raise LoginFailed
        return row_to_account(connection.execute(select(ACCOUNTS).where(ACCOUNTS.c.id == row.id)).one())


def new_device(database: Database, id: str) -> str | None:
    """What a browser that has just logged in keeps for `verify_login`; None: the account has no password."""
    with database.read_transaction() as connection:
        stored = connection.scalar(select(ACCOUNTS.c.password).where(ACCOUNTS.c.id == id))
    return device_token(id, stored) if stored else None


def check_own_password(database: Database, id: str, password: str) -> None:
    """Return where this is the account's password. Raises `LoginFailed`, `LoginLocked`."""
    with database.read_transaction() as connection:
        row = connection.execute(select(ACCOUNTS).where(ACCOUNTS.c.id == id)).one_or_none()
    subject = account_subject(id)  # not that of the name, which others can lock
    attempt = start_attempt(database, [(subject, NAME_LIMIT)])
    if not verify_password(None if row is None else row.password, password):
        raise LoginFailed
    attempt_succeeded(database, attempt, forget=[subject])


def change_password(database: Database, id: str, old: str | None, new: str) -> None:
    """Give an account a new password; `old` None: the old one is not asked for.

    Raises `LoginFailed` and `LoginLocked` for a wrong old one, `AccountError` for a new one that cannot be. The
    account's sessions go on: `sessions.end_sessions` ends them.
    """
    if old is not None:
        check_own_password(database, id, old)
    stored = hash_password(new)
    with database.write_transaction() as connection:
        replace_password(connection, id, stored)


def replace_password(connection: Connection, id: str, stored: str) -> str:
    """Write the hash of a password within a transaction; return the name's key. Raises `AccountError`."""
    row = connection.execute(select(ACCOUNTS).where(ACCOUNTS.c.id == id).with_for_update()).one_or_none()
    if row is None:
        raise AccountNotFound("there is no such account any more")
    if row.issuer:
        raise AccountError(f"{row.name} logs in at {row.issuer} and has no password here; change it there")
    connection.execute(update(ACCOUNTS).where(ACCOUNTS.c.id == id).values(password=stored))
    connection.execute(delete(INVITATIONS).where(INVITATIONS.c.account_id == id))  # links to yet another password
    return str(row.name_key)


def set_role(database: Database, id: str, role: Role) -> None:
    """Give an account a role. Who was admin loses the open invitations. Raises `LastAdmin` for the last admin."""
    lookup(ROLES, role, "role")
    with database.write_transaction() as connection:
        account = _locked_account(connection, id)
        if role != "admin":
            _keep_an_admin(connection, account)
            _withdraw_invitations(connection, id)
        connection.execute(update(ACCOUNTS).where(ACCOUNTS.c.id == id).values(role=role))


def set_disabled(database: Database, id: str, *, disabled: bool) -> None:
    """Disable an account, which ends its sessions and its invitations, or enable it. Raises `LastAdmin`."""
    with database.write_transaction() as connection:
        account = _locked_account(connection, id)
        if not disabled:
            connection.execute(update(ACCOUNTS).where(ACCOUNTS.c.id == id).values(disabled=None))
            return
        _keep_an_admin(connection, account)
        now = database.now(connection)
        connection.execute(
            update(ACCOUNTS).where(ACCOUNTS.c.id == id, ACCOUNTS.c.disabled.is_(None)).values(disabled=now)
        )
        connection.execute(delete(SESSIONS).where(SESSIONS.c.account_id == id))
        _withdraw_invitations(connection, id)


def oidc_account(database: Database, issuer: str, subject: str, name: str, role: Role) -> Account:
    """The account of a person at a provider of OpenID Connect, made at the first login with this name and role.

    A name that another account has gets a number: it is never that account. Raises `LoginFailed` where it is disabled.
    """
    lookup(ROLES, role, "role")
    base = check_name((name.strip() or "account")[:MAX_NAME_CHARS])
    for number in range(1, 10_000):
        with database.write_transaction() as connection:
            mine = ACCOUNTS.c.identity == _identity(issuer, subject)
            now = database.now(connection)
            enabled = mine & ACCOUNTS.c.disabled.is_(None)
            connection.execute(update(ACCOUNTS).where(enabled).values(last_login=now))
            if (row := connection.execute(select(ACCOUNTS).where(mine)).one_or_none()) is not None:
                if row.disabled is not None:
                    raise LoginFailed
                return row_to_account(row)
        suffix = "" if number == 1 else f" {number}"
        try:
            create_account(
                database, base[: MAX_NAME_CHARS - len(suffix)] + suffix, None, role, issuer=issuer, subject=subject
            )
        except NameTaken:
            continue
    raise UserError(f"there are too many accounts named {base}")


def forget_account(database: Database, id: str) -> dict[str, int]:
    """Delete an account and all that it has; return the rows deleted by kind. Of it stays its id, in `erasures`.

    Raises `AccountNotFound`, and `LastAdmin` for the last admin while there are other accounts. With SQLite no byte of
    its words is in the files afterwards.
    """
    counts: dict[str, int] = {}
    with database.write_transaction() as connection:
        account = _locked_account(connection, id)
        others = connection.scalar(select(func.count()).where(ACCOUNTS.c.id != id))
        if others:
            _keep_an_admin(connection, account)
        for table in METADATA.sorted_tables:
            if "account_id" in table.c:
                mine = table.c.account_id == id
                if table is INVITATIONS:
                    mine |= table.c.created_by == id
                deleted = connection.execute(delete(table).where(mine)).rowcount
                counts[table.name.removeprefix("carellama_")] = deleted
        forget_attempts(connection, name_subject(account.name_key), account_subject(id))
        connection.execute(delete(ACCOUNTS).where(ACCOUNTS.c.id == id))
        connection.execute(insert(ERASURES).values(id=id, erased=database.now(connection)))
    if not database.scrub():
        print_status(
            f"{database.name} is in use, or the disk is full: what was deleted may still be in its files, where only "
            "programs for damaged files see it; carellama store prune removes it"
        )
    return counts


def _locked_account(connection: Connection, id: str) -> Row[Any]:
    """An account's row, which others now wait for; with it those of all admins, of whom one has to stay."""
    table = ACCOUNTS.c
    wanted = select(ACCOUNTS).where(or_(table.id == id, table.role == "admin")).order_by(table.id).with_for_update()
    rows = {row.id: row for row in connection.execute(wanted)}
    if id not in rows:
        raise AccountNotFound("there is no such account any more")
    return rows[id]


def _keep_an_admin(connection: Connection, account: Row[Any]) -> None:
    """Raise `UserError` where this is the last admin who can log in."""
    table = ACCOUNTS.c
    others = select(func.count()).where(table.id != account.id, table.role == "admin", table.disabled.is_(None))
    if account.role == "admin" and account.disabled is None and not connection.scalar(others):
        raise LastAdmin(f"{account.name} is the last admin; make another account an admin first")


def _withdraw_invitations(connection: Connection, id: str) -> None:
    """Delete the links that an account has made: by one of his own an admin would come back."""
    connection.execute(delete(INVITATIONS).where(INVITATIONS.c.created_by == id))


def _identity(issuer: str, subject: str) -> str:
    return hashlib.sha256(f"{issuer}\0{subject}".encode()).hexdigest()


def row_to_account(row: Row[Any]) -> Account:
    """An account from a row of its table."""
    return Account(row.id, row.name, row.role, row.created, row.last_login, row.disabled, row.issuer)
