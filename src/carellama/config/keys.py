"""The options of `carellama keys VERB`, one dataclass a verb. Light: nothing of a model is imported."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional

from carellama.config.option import about, at_least
from carellama.errors import UserError, lookup

# HfArgumentParser reads the types at run time, and takes Optional[...] in all Python versions.
# ruff: noqa: UP045

SCOPES = {"chat": "the model", "knowledge": "the knowledge base", "admin": "measurements and settings"}
WHERE = (
    "SQLite file, or postgresql://USER:PASSWORD@HOST/NAME; default: $CARELLAMA_DATABASE, else carellama.db in the "
    "user's data folder."
)
OLD = ["--keys"]  # what `carellama api` called the database
# what the database can hold, and a calendar
MOST = {"requests_per_minute": 2**31 - 1, "concurrent": 2**31 - 1, "tokens_per_day": 10**15, "days": 36500}


@dataclass(frozen=True)
class AddArguments:
    """Whose key is made, and what it may do."""

    name: str = field(metadata=about("Whose key it is, as in ward3."))
    scopes: str = field(default="chat", metadata=about("What it may do, comma separated: chat, knowledge, admin."))
    requests_per_minute: Optional[int] = field(
        default=None, metadata=about("Most requests begun within any 60 seconds; default: no limit.")
    )
    concurrent: Optional[int] = field(default=None, metadata=about("Most requests at once; default: no limit."))
    tokens_per_day: Optional[int] = field(
        default=None, metadata=about("Most tokens of prompts and answers in a day (UTC); default: no limit.")
    )
    days: Optional[int] = field(default=None, metadata=about("Days until it ends; default: it does not."))
    database: Optional[str] = field(default=None, metadata=about(WHERE, aliases=OLD))

    @property
    def scope_names(self) -> tuple[str, ...]:
        """The scopes in the order given, each once."""
        return tuple(dict.fromkeys(part.strip() for part in self.scopes.split(",") if part.strip()))

    def __post_init__(self) -> None:
        at_least(self, requests_per_minute=1, concurrent=1, tokens_per_day=1, days=1)
        for name, most in MOST.items():
            if (value := getattr(self, name)) is not None and value > most:
                raise UserError(f"--{name} is {value}; it must be at most {most}, or left out for no limit")
        if not 0 < len(self.name) <= 200 or not self.name.isprintable():
            raise UserError("--name has to be 1 to 200 characters in one line")
        if not self.scope_names:
            raise UserError(f"--scopes is empty; name some of {', '.join(SCOPES)}")
        for scope in self.scope_names:
            lookup(SCOPES, scope, "scope")


@dataclass(frozen=True)
class ListArguments:
    """How the keys are listed."""

    json: bool = field(default=False, metadata=about("Print JSON instead of a table."))
    database: Optional[str] = field(default=None, metadata=about(WHERE, aliases=OLD))


@dataclass(frozen=True)
class RevokeArguments:
    """Which key is ended."""

    id: str = field(metadata=about("The key's id, as `keys list` shows it (first word)."))
    database: Optional[str] = field(default=None, metadata=about(WHERE, aliases=OLD))
