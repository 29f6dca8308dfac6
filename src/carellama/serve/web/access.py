"""Who may use the page, decided once, before the model is loaded.

access = decide_access(WebOptions(host="0.0.0.0"))      # Access("accounts", place="~/.../carellama.db", ...)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from carellama.config import environment
from carellama.config.serve import WebOptions, credentials, read_password
from carellama.errors import UserError, need

Keep = Literal["browser", "server", "nothing"]


@dataclass(frozen=True)
class Access:
    """How visitors are let in, and where their conversations are kept."""

    kind: Literal["open", "password", "accounts"]
    keep: Keep = "browser"
    password: str | None = field(default=None, repr=False)  # user:password
    place: str = field(default="", repr=False)  # of the database with the accounts; a URL may hold a password

    @property
    def accounts(self) -> bool:
        """Whether each person logs in."""
        return self.kind == "accounts"


def decide_access(options: WebOptions) -> Access:
    """Return how visitors are let in. Raises `UserError` where others would reach a page that is open."""
    place = options.database or environment.database()
    if options.access == "accounts" or (_may_have_accounts(options) and _has_accounts(place)):
        _refuse_without_meaning(options)
        return Access("accounts", "server" if options.keep == "auto" else options.keep, place=place)
    password = credentials(options)
    keep: Keep = "browser"
    if options.keep == "server":
        raise UserError("--keep server keeps conversations by account: give --access accounts too")
    if options.keep != "auto":
        keep = options.keep
    for name in ("retention_days", "encryption_key_file", "oidc_issuer"):
        if getattr(options, name) is not None:
            raise UserError(f"--{name} is for a page with accounts: give --access accounts too, or leave it out")
    return Access("open" if password is None else "password", keep, password)


def _may_have_accounts(options: WebOptions) -> bool:
    return options.access == "auto" and options.reached and read_password(options) is None


def _has_accounts(place: str) -> bool:
    """Whether the database has an account, or an invitation that can make one."""
    if "://" not in place and not Path(place).expanduser().exists():
        return False  # known without loading what reads it
    need("sqlalchemy", extra="serve", why="the database of the accounts")
    from carellama.store.accounts import list_accounts
    from carellama.store.database import open_database
    from carellama.store.invitations import list_invitations

    database = open_database(place, make=False)
    if database is None:
        return False
    try:
        return bool(list_accounts(database) or list_invitations(database))
    finally:
        database.close()


def _refuse_without_meaning(options: WebOptions) -> None:
    """Raise `UserError` for options that a page with accounts does not read, or that contradict each other."""
    if options.password_file:
        raise UserError("--access accounts asks each person: leave --password_file out, or give --access password")
    if options.profile != "auto":
        raise UserError("--profile: with accounts it goes by the role of each; leave the option out")
    for name in ("retention_days", "encryption_key_file"):
        if getattr(options, name) is not None and options.keep in ("browser", "nothing"):
            raise UserError(f"--{name} is for conversations on the server, and --keep is {options.keep}")
