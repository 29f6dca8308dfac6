"""`carellama keys add|list|revoke`: the keys of the server, for the person who runs it.

    carellama keys add --name ward3 --requests_per_minute 60 --days 90

A key is printed once, by `add`, alone on stdout; all else goes to stderr. No other command knows it.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime

from carellama.config import environment
from carellama.config.commands import AddKeyOptions, ListKeysOptions, RevokeKeyOptions
from carellama.config.reader import parse_options
from carellama.errors import UserError, need
from carellama.files import print_status
from carellama.records import JSONObject

HEADINGS = ("id", "name", "scopes", "a minute", "at once", "tokens a day", "used today", "last used", "ends", "state")


def add(argv: Sequence[str]) -> None:
    """Make a key and print it."""
    (options,) = parse_options((AddKeyOptions,), argv, "carellama keys add")
    need("sqlalchemy", extra="serve", why="the database of the keys")
    from carellama.store import keys
    from carellama.store.database import open_database

    database = open_database(options.database or environment.database(), durable=True)
    assert database is not None  # it is made where it is not
    limits = keys.Limits(options.requests_per_minute, options.concurrent, options.tokens_per_day)
    names = options.scope_names
    key, whole = keys.create_key(database, name=options.name, scopes=names, limits=limits, days=options.days)
    database.close()
    print_status(f"a key for {key.name}, id {key.id}, in {database.name}; it is shown only once:")
    print(whole)


def list_keys(argv: Sequence[str]) -> None:
    """Print the keys and what was used of them, as a table or as JSON."""
    (options,) = parse_options((ListKeysOptions,), argv, "carellama keys list")
    place = options.database or environment.database()
    rows = describe_keys(place)
    if options.json:
        print(json.dumps(rows, ensure_ascii=False, indent=2))
    elif rows:
        print_table(HEADINGS, [_cells(row) for row in rows])
    else:
        print_status("no keys yet; carellama keys add --name NAME makes one")


def describe_keys(place: str) -> list[JSONObject]:
    """What is known of each key, for people and programs; the secret is not."""
    need("sqlalchemy", extra="serve", why="the database of the keys")
    from carellama.store import keys, usage
    from carellama.store.database import open_database

    database = open_database(place, make=False)
    if database is None:
        return []
    used, now = usage.usage_by_key(database), time.time()
    rows = []
    for key in keys.list_keys(database):
        mine = used.get(key.id, usage.KeyUsage(0, 0, None))
        rows.append(
            {
                "id": key.id,
                "name": key.name,
                "scopes": list(key.scopes),
                **asdict(key.limits),
                "requests_today": mine.requests,
                "tokens_today": mine.tokens,
                "created": format_time(key.created),
                "last_used": format_time(mine.last),
                "expires": format_time(key.expires),
                "revoked": format_time(key.revoked),
                "state": key.state(now),
            }
        )
    database.close()
    return rows


def revoke(argv: Sequence[str]) -> None:
    """End a key for good."""
    (options,) = parse_options((RevokeKeyOptions,), argv, "carellama keys revoke ID", positional="id")
    # a whole key is taken too, for one that was found where it should not be; what was given is never repeated
    given = re.fullmatch(r"(?:cl-)?([0-9a-f]{8})(?:-[0-9a-f]*)?", options.id.strip())
    if given is None:
        raise UserError("that is no id of a key, which are 8 letters and digits; carellama keys list shows them")
    need("sqlalchemy", extra="serve", why="the database of the keys")
    from carellama.store import keys
    from carellama.store.database import open_database

    database = open_database(options.database or environment.database(), make=False, durable=True)
    if database is None or not keys.revoke_key(database, given[1]):
        raise UserError(f"there is no key of id {given[1]}; carellama keys list shows them")
    database.close()
    print_status(f"key {given[1]} is revoked; a server that runs takes it for a few seconds more at most")


def format_time(seconds: float | None) -> str | None:
    """ISO 8601, UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under their headings."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    # for a file or a pipe as wide as it needs to be: nothing is folded there
    console = Console(width=None if sys.stdout.isatty() else 10_000)
    with console.capture() as printed:  # rich would end the program where a pipe is closed
        console.print(table)
    print(printed.get(), end="")


def _cells(row: JSONObject) -> tuple[str, ...]:
    limits = (row[name] for name in ("requests_per_minute", "concurrent", "tokens_per_day"))
    today = f"{row['tokens_today']:,} tokens, {row['requests_today']:,} requests" if row["last_used"] else ""
    return (
        row["id"],
        row["name"],
        ", ".join(row["scopes"]),
        *("" if limit is None else f"{limit:,}" for limit in limits),
        today,
        format_minute(row["last_used"]),
        format_minute(row["expires"]),
        row["state"],
    )


def format_minute(when: str | None) -> str:
    """The day and the minute."""
    return "" if when is None else when[:16].replace("T", " ")
