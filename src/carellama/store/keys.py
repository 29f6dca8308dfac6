"""API keys: made, looked up, revoked. A key is `cl-ID-SECRET`: the id is public, the secret is kept nowhere.

    key, whole = create_key(database, name="ward3", scopes=("chat",), limits=Limits(requests_per_minute=60))

Only SHA-256 of the secret is stored. The slow hashes that passwords need (argon2, scrypt) are there because people's
passwords can be guessed; this secret is 256 random bits, which nobody guesses at any speed, and a slow hash would
cost every request what it costs an attacker.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from sqlalchemy import Row, insert, select, update

from carellama.store.database import Database
from carellama.store.tables import KEYS

KEY_PATTERN = re.compile(r"cl-([0-9a-f]{8})-([0-9a-f]{64})")
DUMMY_HASH = "0" * 64  # compared with where there is no such key: both cases take the same steps
State = Literal["active", "expired", "revoked"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What may be done with a key; None: as much as one likes."""

    requests_per_minute: int | None = None  # begun within any 60 seconds
    concurrent: int | None = None  # running at once
    tokens_per_day: int | None = None  # of prompts and answers, from 0:00 to 24:00 UTC


@dataclass(frozen=True, slots=True)
class Key:
    """A key as it is stored."""

    id: str
    name: str
    scopes: tuple[str, ...]
    limits: Limits
    created: float  # seconds since 1970, as the next two
    expires: float | None
    revoked: float | None
    hash: str = field(repr=False)

    def state(self, now: float) -> State:
        """Whether it can be used at a time."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= now else "active"


def create_key(
    database: Database, *, name: str, scopes: Sequence[str], limits: Limits, days: int | None = None
) -> tuple[Key, str]:
    """Make a key that ends after `days`; return it, and the whole key, which cannot be had again."""
    secret = secrets.token_hex(32)
    with database.write_transaction() as connection:
        now = database.now(connection)
        id = secrets.token_hex(4)
        while connection.scalar(select(KEYS.c.id).where(KEYS.c.id == id)) is not None:
            id = secrets.token_hex(4)
        expires = None if days is None else now + days * 86400
        key = Key(id, name, tuple(scopes), limits, now, expires, None, hash_secret(secret))
        connection.execute(
            insert(KEYS).values(
                id=id,
                hash=key.hash,
                name=name,
                scopes=",".join(scopes),
                created=key.created,
                expires=key.expires,
                **asdict(limits),
            )
        )
    return key, f"cl-{id}-{secret}"


def hash_secret(secret: str) -> str:
    """SHA-256 of a secret, in hex."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def verify_secret(key: Key | None, secret: str) -> bool:
    """Whether the secret is the key's; the time that this takes says nothing of either."""
    return hmac.compare_digest(DUMMY_HASH if key is None else key.hash, hash_secret(secret))


def get_key(database: Database, id: str) -> Key | None:
    """The key of this id."""
    with database.read_transaction() as connection:
        row = connection.execute(select(KEYS).where(KEYS.c.id == id)).one_or_none()
    return None if row is None else row_to_key(row)


def list_keys(database: Database) -> list[Key]:
    """All keys, the oldest first; also those that cannot be used any more."""
    with database.read_transaction() as connection:
        return [row_to_key(row) for row in connection.execute(select(KEYS).order_by(KEYS.c.created, KEYS.c.id))]


def revoke_key(database: Database, id: str) -> bool:
    """End a key for good; False: there is none of this id. One that is revoked stays as it is."""
    with database.write_transaction() as connection:
        if connection.scalar(select(KEYS.c.id).where(KEYS.c.id == id)) is None:
            return False
        now = database.now(connection)
        connection.execute(update(KEYS).where(KEYS.c.id == id, KEYS.c.revoked.is_(None)).values(revoked=now))
    return True


def row_to_key(row: Row[Any]) -> Key:
    """A key from a row of its table."""
    return Key(
        id=row.id,
        name=row.name,
        scopes=tuple(row.scopes.split(",")),
        limits=Limits(row.requests_per_minute, row.concurrent, row.tokens_per_day),
        created=row.created,
        expires=row.expires,
        revoked=row.revoked,
        hash=row.hash,
    )
