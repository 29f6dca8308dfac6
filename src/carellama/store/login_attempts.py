"""Logins that are tried too often wait: counted in the database, for all workers and machines together.

    attempt = start_attempt(database, [(name_subject("ward3"), NAME_LIMIT)])    # or LoginLocked
    ...
    attempt_succeeded(database, attempt)

An attempt counts as a wrong one before its password is looked at, and is taken back where it was right: however many
come at once, no more than the limit are looked at. The first lock lasts `FIRST_LOCK_SECONDS`; each further one twice as
long, up to `WINDOW_SECONDS`, and after that time without a lock the next is a first one again.

Others can lock a name by wrong passwords. Hence a browser that has logged in to the account before is counted by itself
(OWASP, Slow Down Online Guessing Attacks with Device Cookies): it has a token that nobody makes without the hash of the
password, and that ends with the password.

What is stored is a SHA-256 of the name or the address: people type their password where the name belongs.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from carellama.store.account_errors import LoginLocked
from carellama.store.database import Database
from carellama.store.tables import LOGIN_ATTEMPTS

NAME_LIMIT, ADDRESS_LIMIT = 5, 20  # wrong passwords within the window
WINDOW_SECONDS = 900.0
FIRST_LOCK_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Attempt:
    """A login that was counted: whose, and the locks that it set."""

    subjects: tuple[str, ...]
    locked: frozenset[str]


def name_subject(name_key: str) -> str:
    """What attempts at a name are counted under."""
    return hashlib.sha256(f"name:{name_key}".encode()).hexdigest()


def device_token(account_id: str, stored: str) -> str:
    """Return what a browser keeps after a login, and brings to the next; `stored` is the hash of the password."""
    number = secrets.token_urlsafe(16)
    return f"{number}.{_device_proof(number, account_id, stored)}"


def is_device(token: str, account_id: str, stored: str) -> bool:
    """Whether a browser has logged in to this account since its password was set."""
    number, _, proof = token.partition(".")
    return hmac.compare_digest(proof.encode("utf-8", "replace"), _device_proof(number, account_id, stored).encode())


def device_subject(token: str) -> str:
    """What attempts of a browser that has logged in before are counted under."""
    return hashlib.sha256(f"device:{token}".encode()).hexdigest()


def _device_proof(number: str, account_id: str, stored: str) -> str:
    said = f"device\0{account_id}\0{number}".encode("utf-8", "replace")
    return hmac.new(stored.encode(), said, hashlib.sha256).hexdigest()


def account_subject(id: str) -> str:
    """What attempts of who is logged in already are counted under, as before a change of the password."""
    return hashlib.sha256(f"account:{id}".encode()).hexdigest()


def address_subject(address: str) -> str:
    """What attempts from an address are counted under; of IPv6 the network of 64 bits, which one client has whole."""
    try:
        given = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return hashlib.sha256(f"address:{address}".encode()).hexdigest()
    given = getattr(given, "ipv4_mapped", None) or given
    network = ipaddress.ip_network((given, 64), strict=False) if given.version == 6 else given
    return hashlib.sha256(f"address:{network}".encode()).hexdigest()


def start_attempt(database: Database, limits: Sequence[tuple[str, int]]) -> Attempt:
    """Count a login under each subject, which has the limit given with it. Raises `LoginLocked`."""
    with database.write_transaction() as connection:
        now = database.now(connection)
        table = LOGIN_ATTEMPTS.c
        old = (table.started < now - WINDOW_SECONDS) & (table.locked_until < now - WINDOW_SECONDS)
        old |= table.started > now + WINDOW_SECONDS  # a clock was set back
        free = select(table.subject).where(old).with_for_update(skip_locked=True)  # no waiting for each other
        connection.execute(delete(LOGIN_ATTEMPTS).where(table.subject.in_(free)))
        rows = {subject: _locked_row(database, connection, subject, now) for subject, _ in sorted(limits)}
        wait = max(_left(until, now) for _, _, _, until in rows.values())
        if wait <= 0:
            locked = {subject for subject, limit in limits if _count(connection, subject, limit, rows[subject], now)}
    if wait > 0:
        raise LoginLocked(wait)
    return Attempt(tuple(rows), frozenset(locked))


def attempt_succeeded(database: Database, attempt: Attempt, *, forget: Sequence[str] = ()) -> None:
    """Take an attempt back: its password was right. `forget`: subjects whose earlier attempts are forgotten, too."""
    table = LOGIN_ATTEMPTS.c
    with database.write_transaction() as connection:
        # locked in the order of `start_attempt`, so that no two wait for each other
        mine = select(table.subject).where(table.subject.in_([*attempt.subjects, *forget]))
        connection.execute(mine.order_by(table.subject).with_for_update()).all()
        connection.execute(delete(LOGIN_ATTEMPTS).where(table.subject.in_(forget)))
        for subject in sorted(attempt.subjects):
            values = {"count": table.count - 1}
            if subject in attempt.locked:
                values |= {"locks": table.locks - 1, "locked_until": 0.0}  # type: ignore[dict-item]
            connection.execute(update(LOGIN_ATTEMPTS).where(table.subject == subject, table.count > 0).values(**values))


def _locked_row(database: Database, connection: Connection, subject: str, now: float) -> tuple[int, float, int, float]:
    """(count, started, locks, locked until) of a subject, which others now wait for; made where it is not there."""
    made = {"count": 0, "started": now, "locks": 0, "locked_until": 0.0}
    dialect = sqlite if database.sqlite else postgresql
    there = dialect.insert(LOGIN_ATTEMPTS).values(subject=subject, **made)
    # in one statement: a row that was there may be deleted before the next
    locked = there.on_conflict_do_update(index_elements=["subject"], set_={"subject": subject})
    row = connection.execute(locked.returning(*LOGIN_ATTEMPTS.c)).one()
    return row[1], row[2], row[3], row[4]


def _count(connection: Connection, subject: str, limit: int, row: tuple[int, float, int, float], now: float) -> bool:
    """Count one attempt; whether it is the last before a lock."""
    count, started, locks, until = row
    if not -WINDOW_SECONDS <= now - until < WINDOW_SECONDS:
        locks = 0
    if not locks and not 0 <= now - started < WINDOW_SECONDS:  # also where a clock was set back
        count, started = 0, now
    count += 1
    locks_now = count >= limit
    if locks_now:
        until, locks = now + min(WINDOW_SECONDS, FIRST_LOCK_SECONDS * 2 ** min(locks, 16)), locks + 1
    values = {"count": count, "started": started, "locks": locks, "locked_until": until}
    connection.execute(update(LOGIN_ATTEMPTS).where(LOGIN_ATTEMPTS.c.subject == subject).values(**values))
    return locks_now


def _left(until: float, now: float) -> float:
    """Seconds that a lock still lasts. One that seems longer than any is of a clock that was set back: it is over."""
    return until - now if until - now <= WINDOW_SECONDS else 0.0


def forget_attempts(connection: Connection, *subjects: str) -> None:
    """Forget the attempts of subjects, within a transaction."""
    connection.execute(delete(LOGIN_ATTEMPTS).where(LOGIN_ATTEMPTS.c.subject.in_(subjects)))
