"""What is used of a key, and its limits, which all workers and machines on the same database share.

    lease = start_lease(database, key.id, tokens=900)  # or OverLimit
    ...
    end_lease(database, lease, tokens=412)

A request begins in one transaction that counts and enters it, so that a limit is kept by however many at once:

- Requests per minute are counted in a window that slides: no 60 seconds have more than the limit. A refused request
  does not count.
- Requests at once are leases. A lease ends by itself after `LEASE_SECONDS` unless it is renewed, so that a worker that
  was killed blocks nobody for longer. A worker that was stopped for longer than that and goes on is over the limit
  until its requests end.
- Tokens of the day are taken when the request begins, all that it may use, and what it did not use is given back when
  it ends. A request whose worker was killed has used them all: what it did use is known to nobody.

Clocks may be set. After one was set back, a key whose limit is reached waits for at most a minute.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import BindParameter, Connection, bindparam, delete, func, insert, select, update

from carellama.store.database import Database
from carellama.store.keys import Key, row_to_key
from carellama.store.tables import KEYS, REQUESTS, USAGE

LEASE_SECONDS = 30.0
WINDOW_SECONDS = 60.0
DAY_SECONDS = 86400
Limit = Literal["requests_per_minute", "concurrent", "tokens_per_day"]

# The statements of every request, made once: SQLAlchemy takes longer to make one than SQLite to do it.
_KEY: BindParameter[str] = bindparam("p_key")
_ID: BindParameter[str] = bindparam("p_id")
_NOW: BindParameter[float] = bindparam("p_now")
_BEFORE: BindParameter[float] = bindparam("p_before")
_DAY: BindParameter[int] = bindparam("p_day")
_TOKENS: BindParameter[int] = bindparam("p_tokens")
_OF_KEY, _ON_DAY = REQUESTS.c.key_id == _KEY, (USAGE.c.key_id == _KEY) & (USAGE.c.day == _DAY)
LOCK_KEY = select(KEYS).where(KEYS.c.id == _KEY).with_for_update()
NTH_LATEST_START = (
    select(REQUESTS.c.started).where(_OF_KEY).order_by(REQUESTS.c.started.desc()).limit(1).offset(bindparam("nth"))
)
RUNNING = select(func.count()).where(_OF_KEY, REQUESTS.c.lease_until > _NOW)
TOKENS = select(USAGE.c.tokens).where(_ON_DAY)
DELETE_OLD = delete(REQUESTS).where(_OF_KEY, REQUESTS.c.started <= _BEFORE, REQUESTS.c.lease_until <= _NOW)
INSERT_REQUEST = insert(REQUESTS)
COUNT_REQUEST = (
    update(USAGE).where(_ON_DAY).values(requests=USAGE.c.requests + 1, tokens=USAGE.c.tokens + _TOKENS, last_used=_NOW)
)
END_LEASE = update(REQUESTS).where(REQUESTS.c.id == _ID).values(lease_until=0)
ADJUST_TOKENS = update(USAGE).where(_ON_DAY).values(tokens=USAGE.c.tokens + _TOKENS)


@dataclass(frozen=True, slots=True)
class Lease:
    """A request that runs."""

    id: str
    key_id: str
    started: float  # seconds since 1970
    day: int  # since 1970, UTC: whose tokens it takes
    tokens: int  # taken


@dataclass(frozen=True, slots=True)
class KeyUsage:
    """What was used of a key."""

    requests: int  # today
    tokens: int  # today
    last: float | None  # seconds since 1970


class OverLimit(Exception):
    """A request has to wait: which limit it is, and the seconds until trying again makes sense."""

    def __init__(self, limit: Limit, allowed: int, retry_after: float, used: int = 0) -> None:
        super().__init__(limit)
        self.limit, self.allowed, self.retry_after, self.used = limit, allowed, retry_after, used


class KeyNotUsable(Exception):
    """The key was revoked, or it ended, since it was looked up: `state` says which."""

    def __init__(self, state: str) -> None:
        super().__init__(state)
        self.state = state


def start_lease(database: Database, key_id: str, tokens: int) -> Lease:
    """Enter a request that may use `tokens`. Raises `OverLimit` and `KeyNotUsable`."""
    if tokens < 0:
        raise ValueError(f"a request of {tokens} tokens")
    with database.write_transaction() as connection:
        # with PostgreSQL this row is what requests of one key wait for; SQLite has one writer
        row = connection.execute(LOCK_KEY, {"p_key": key_id}).one_or_none()
        now = database.now(connection)
        if row is None:
            raise KeyNotUsable("deleted")
        key = row_to_key(row)
        if (state := key.state(now)) != "active":
            raise KeyNotUsable(state)
        over = _exceeded_limit(connection, key, now, tokens)
        if over is None:
            lease = Lease(uuid.uuid4().hex, key_id, now, int(now // DAY_SECONDS), tokens)
            _record_start(connection, lease, now)
        else:
            _clamp_future_times(connection, key_id, now)
    if over is not None:
        raise over  # after the transaction, which it does not undo
    return lease


def _exceeded_limit(connection: Connection, key: Key, now: float, tokens: int) -> OverLimit | None:
    """The limit that stands in the way."""
    a_minute, at_once, a_day = key.limits.requests_per_minute, key.limits.concurrent, key.limits.tokens_per_day
    if a_minute is not None:
        # as many as the limit have begun since this one: until it leaves the window there is no room
        oldest = connection.scalar(NTH_LATEST_START, {"p_key": key.id, "nth": a_minute - 1})
        if oldest is not None and (wait := oldest + WINDOW_SECONDS - now) > 0:
            return OverLimit("requests_per_minute", a_minute, min(wait, WINDOW_SECONDS))
    if at_once is not None:
        running = connection.scalar(RUNNING, {"p_key": key.id, "p_now": now}) or 0
        if running >= at_once:
            return OverLimit("concurrent", at_once, 1.0, running)
    if a_day is not None:
        today = int(now // DAY_SECONDS)
        used = connection.scalar(TOKENS, {"p_key": key.id, "p_day": today}) or 0
        if used + tokens > a_day:
            return OverLimit("tokens_per_day", a_day, (today + 1) * DAY_SECONDS - now, used)
    return None


def _record_start(connection: Connection, lease: Lease, now: float) -> None:
    connection.execute(DELETE_OLD, {"p_key": lease.key_id, "p_before": now - WINDOW_SECONDS, "p_now": now})
    _insert(connection, lease, now)
    counted = connection.execute(
        COUNT_REQUEST, {"p_key": lease.key_id, "p_day": lease.day, "p_tokens": lease.tokens, "p_now": now}
    )
    if not counted.rowcount:  # the first of the day
        first = {"key_id": lease.key_id, "day": lease.day, "requests": 1, "tokens": lease.tokens, "last_used": now}
        connection.execute(insert(USAGE), first)


def _insert(connection: Connection, lease: Lease, now: float) -> None:
    row = {"id": lease.id, "key_id": lease.key_id, "started": lease.started, "lease_until": now + LEASE_SECONDS}
    connection.execute(INSERT_REQUEST, row)


def _clamp_future_times(connection: Connection, key_id: str, now: float) -> None:
    """Bring times that lie ahead, because a clock was set back, to what they can be at most."""
    requests = REQUESTS.c
    connection.execute(update(REQUESTS).where(requests.key_id == key_id, requests.started > now).values(started=now))
    connection.execute(
        update(REQUESTS)
        .where(requests.key_id == key_id, requests.lease_until > now + LEASE_SECONDS)
        .values(lease_until=now + LEASE_SECONDS)
    )


def renew_leases(database: Database, leases: Sequence[Lease]) -> None:
    """Let leases run on; one that was given up for dead in the meantime counts again."""
    if not leases:
        return
    ids = {lease.id: lease for lease in leases}
    with database.write_transaction() as connection:
        now = database.now(connection)
        there = set(connection.scalars(select(REQUESTS.c.id).where(REQUESTS.c.id.in_(ids))))
        connection.execute(
            update(REQUESTS)
            .where(REQUESTS.c.id.in_(there), REQUESTS.c.lease_until != 0)
            .values(lease_until=now + LEASE_SECONDS)
        )
        for id in ids.keys() - there:
            _insert(connection, ids[id], now)


def end_lease(database: Database, lease: Lease, tokens: int) -> None:
    """End a request that has used `tokens`; to be called once."""
    with database.write_transaction() as connection:
        connection.execute(END_LEASE, {"p_id": lease.id})
        if tokens != lease.tokens:
            more = {"p_key": lease.key_id, "p_day": lease.day, "p_tokens": tokens - lease.tokens}
            connection.execute(ADJUST_TOKENS, more)


def usage_by_key(database: Database) -> dict[str, KeyUsage]:
    """What was used of each key; keys that were never used are not in it."""
    usage = USAGE.c
    with database.read_transaction() as connection:
        today = int(database.now(connection) // DAY_SECONDS)
        last = select(usage.key_id, func.max(usage.last_used)).group_by(usage.key_id)
        times = {row[0]: row[1] for row in connection.execute(last)}
        counts = select(usage.key_id, usage.requests, usage.tokens).where(usage.day == today)
        numbers = {row[0]: (row[1], row[2]) for row in connection.execute(counts)}
    return {id: KeyUsage(*numbers.get(id, (0, 0)), time) for id, time in times.items()}
