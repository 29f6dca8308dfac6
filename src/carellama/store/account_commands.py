"""`carellama accounts add|invite|list|reset|disable|enable|forget`: who may log in, for the person who runs the server.

    carellama accounts add mei --role admin          # asks for the password
    carellama accounts invite --role patient         # prints /invite#TOKEN

Passwords are never options: they are asked for, or read from stdin. A link is printed once, alone on stdout.
"""

from __future__ import annotations

import getpass
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

from carellama.config import environment
from carellama.config.reader import parse_options
from carellama.config.store import (
    AddAccountOptions,
    ForgetAccountOptions,
    InviteOptions,
    ListAccountsOptions,
    ResetAccountOptions,
    SwitchAccountOptions,
)
from carellama.errors import UserError, need
from carellama.files import print_status
from carellama.records import JSONObject
from carellama.store.commands import format_minute, format_time, print_table
from carellama.store.store_commands import describe_rows

if TYPE_CHECKING:
    from carellama.store.accounts import Account
    from carellama.store.database import Database

HEADINGS = ("id", "name", "role", "created", "last login", "state")
OPEN = "open this page's address with it, as in https://HOST{path}; it works once, until {expires} UTC"


def add(argv: Sequence[str]) -> None:
    """Make an account, as the first admin's."""
    (options,) = parse_options((AddAccountOptions,), argv, "carellama accounts add NAME", positional="name")
    with _opened(options.database) as database:
        from carellama.store.accounts import create_account

        account = create_account(database, options.name, read_password(), options.role)
        print_status(f"account {account.name} ({account.role}), id {account.id}, in {database.name}")


def invite(argv: Sequence[str]) -> None:
    """Make an invitation and print its path."""
    (options,) = parse_options((InviteOptions,), argv, "carellama accounts invite")
    with _opened(options.database) as database:
        from carellama.store.invitations import create_invitation

        made, token = create_invitation(database, options.role, days=options.days)
        _print_link(f"an invitation with the role {made.role}", token, made.expires)


def reset(argv: Sequence[str]) -> None:
    """Make a link by which a person sets a new password."""
    (options,) = parse_options((ResetAccountOptions,), argv, "carellama accounts reset NAME", positional="name")
    with _opened(options.database, make=False) as database:
        from carellama.store.invitations import create_invitation

        account = _find(database, options.name)
        made, token = create_invitation(database, account.role, days=options.days, account_id=account.id)
        _print_link(f"a new password for {account.name}, whose present one holds until then", token, made.expires)


def list_accounts(argv: Sequence[str]) -> None:
    """Print accounts and open invitations, as a table or as JSON."""
    (options,) = parse_options((ListAccountsOptions,), argv, "carellama accounts list")
    found = describe_accounts(options.database or environment.database())
    if options.json:
        print(json.dumps(found, ensure_ascii=False, indent=2))
        return
    rows = [
        (
            *(row[name] for name in ("id", "name", "role")),
            format_minute(row["created"]),
            format_minute(row["last_login"]),
            f"disabled {format_minute(row['disabled'])}" if row["disabled"] else row["issuer"] or "active",
        )
        for row in found["accounts"]
    ]
    names = {row["id"]: row["name"] for row in found["accounts"]}
    for row in found["invitations"]:
        what = "invitation" if row["account_id"] is None else f"new password of {names.get(row['account_id'])}"
        until = f"open until {format_minute(row['expires'])}"
        rows.append((row["id"], what, row["role"], format_minute(row["created"]), "", until))
    if rows:
        print_table(HEADINGS, rows)
    else:
        print_status("no accounts yet; carellama accounts add NAME makes the first")


def describe_accounts(place: str) -> JSONObject:
    """Accounts and open invitations, for people and programs."""
    need("sqlalchemy", extra="serve", why="the database of the accounts")
    from carellama.store import accounts, invitations
    from carellama.store.database import open_database

    database = open_database(place, make=False)
    if database is None:
        return {"accounts": [], "invitations": []}
    rows: JSONObject = {
        "accounts": [asdict(one) for one in accounts.list_accounts(database)],
        "invitations": [asdict(one) for one in invitations.list_invitations(database)],
    }
    database.close()
    for row in (*rows["accounts"], *rows["invitations"]):
        for name in ("created", "last_login", "disabled", "expires"):
            if name in row:
                row[name] = format_time(row[name])
    return rows


def disable(argv: Sequence[str]) -> None:
    """Disable an account: its sessions end, and nobody logs in to it."""
    _switch(argv, "disable", disabled=True)


def enable(argv: Sequence[str]) -> None:
    """Enable an account again."""
    _switch(argv, "enable", disabled=False)


def _switch(argv: Sequence[str], verb: str, *, disabled: bool) -> None:
    (options,) = parse_options((SwitchAccountOptions,), argv, f"carellama accounts {verb} NAME", positional="name")
    with _opened(options.database, make=False) as database:
        from carellama.store.accounts import set_disabled

        account = _find(database, options.name)
        set_disabled(database, account.id, disabled=disabled)
        print_status(f"account {account.name} is {'disabled; its sessions have ended' if disabled else 'enabled'}")


def forget(argv: Sequence[str]) -> None:
    """Delete an account with all that it has."""
    (options,) = parse_options((ForgetAccountOptions,), argv, "carellama accounts forget NAME", positional="name")
    with _opened(options.database, make=False) as database:
        from carellama.store.accounts import forget_account

        account = _find(database, options.name)
        if not options.yes:
            _ask(account.name)
        counts = forget_account(database, account.id)
        print_status(f"account {account.name} is deleted, with {describe_rows(counts) or 'nothing else'}")
        print_status("older backup files still have its words: delete them, or make new ones in their place")


def _ask(name: str) -> None:
    if not sys.stdin.isatty():
        raise UserError(f"account {name} would be deleted with all that it has; give --yes where nobody can be asked")
    print_status(f"account {name} will be deleted with all its conversations; this cannot be undone")
    if input(f"type {name} to go on: ").strip() != name:
        raise UserError("the name was not typed; nothing was deleted")


def read_password() -> str:
    """A password from the keyboard, twice, or the first line of stdin."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    first = getpass.getpass("password (10 characters or more): ")
    if getpass.getpass("once more: ") != first:
        raise UserError("the two passwords are not the same; nothing was changed")
    return first


def _print_link(what: str, token: str, expires: float) -> None:
    path = f"/invite#{token}"
    print_status(f"{what}; " + OPEN.format(path="/invite#...", expires=format_minute(format_time(expires))))
    print(path)


@contextmanager
def _opened(place: str | None, *, make: bool = True) -> Iterator[Database]:
    need("sqlalchemy", extra="serve", why="the database of the accounts")
    need("argon2", extra="serve", why="passwords")
    from carellama.store.database import open_database

    named = place or environment.database()
    database = open_database(named, make=make, durable=True)
    if database is None:
        raise UserError("there are no accounts yet; carellama accounts add NAME makes the first")
    try:
        yield database
    finally:
        database.close()


def _find(database: Database, name: str) -> Account:
    from carellama.store.account_errors import AccountNotFound
    from carellama.store.accounts import find_account

    account = find_account(database, name)
    if account is None:
        raise AccountNotFound(f"there is no account {name!r}; carellama accounts list shows them")
    return account
