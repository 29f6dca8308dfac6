"""The options of `carellama accounts COMMAND` and `carellama store COMMAND`, one dataclass a command."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from carellama.config.commands import WHERE
from carellama.config.options import Options, option

KEY_FILE = "File with the encryption keys, one a line, the present one first; default: $CARELLAMA_STORE_KEY."
ACCOUNT = "Name of the account, or its id (first word)."


@dataclass(frozen=True)
class AddAccountOptions(Options):
    """Whose account is made. The password is asked for, or read from stdin."""

    name: str = option("Name to log in with (first word).")
    role: Literal["patient", "clinician", "admin"] = option("What the account may do.", "admin")
    database: str | None = option(WHERE, None)


@dataclass(frozen=True)
class InviteOptions(Options):
    """Who is invited. The person chooses name and password."""

    role: Literal["patient", "clinician", "admin"] = option("What the account may do.", "patient")
    days: float = option("Days that the invitation is open.", 7.0, above=0, at_most=366)
    database: str | None = option(WHERE, None)


@dataclass(frozen=True)
class ListAccountsOptions(Options):
    """How the accounts and the open invitations are listed."""

    json: bool = option("Print JSON instead of a table.", default=False)
    database: str | None = option(WHERE, None)


@dataclass(frozen=True)
class ResetAccountOptions(Options):
    """Whose password is set anew, by a link."""

    name: str = option(ACCOUNT)
    days: float = option("Days that the link is open.", 1.0, above=0, at_most=366)
    database: str | None = option(WHERE, None)


@dataclass(frozen=True)
class SwitchAccountOptions(Options):
    """Which account is disabled or enabled."""

    name: str = option(ACCOUNT)
    database: str | None = option(WHERE, None)


@dataclass(frozen=True)
class ForgetAccountOptions(Options):
    """Which account is deleted, with all that it has."""

    name: str = option(ACCOUNT)
    yes: bool = option("Do not ask.", default=False)
    database: str | None = option(WHERE, None)


@dataclass(frozen=True)
class BackupOptions(Options):
    """Where the backup goes."""

    file: str = option("File to write (first word).")
    overwrite: bool = option("Replace a file that exists.", default=False)
    database: str | None = option(WHERE, None)


@dataclass(frozen=True)
class RestoreOptions(Options):
    """Which backup is restored, and into what."""

    file: str = option("Backup to read (first word).")
    overwrite: bool = option("Put it in place of what the database holds.", default=False)
    database: str | None = option(WHERE, None)


@dataclass(frozen=True)
class PruneOptions(Options):
    """What is deleted."""

    days: float | None = option(
        "Delete conversations and drafts that were not changed for so many days; default: none of them.",
        None,
        at_least=0,
    )
    database: str | None = option(WHERE, None)


@dataclass(frozen=True)
class EncryptOptions(Options):
    """With which keys."""

    encryption_key_file: str | None = option(KEY_FILE, None)
    database: str | None = option(WHERE, None)


@dataclass(frozen=True)
class NewKeyOptions(Options):
    """Where the key goes."""

    output: str | None = option("New file for the key, readable for you alone; default: print it.", None)
