"""Who may use the server, and how much: API keys and their limits, or nothing of that on a loopback address.

    auth = auth_for("0.0.0.0", database=None)
    caller = auth.authenticate(request.headers.get("authorization"))
    reservation = auth.reserve(caller, "chat", tokens=prompt_tokens + max_tokens)
    try:
        ...
    finally:
        reservation.release(used_tokens)

Each process of a server makes its own with `auth_for`; they share what they count through the database. A call takes
about a millisecond (`authenticate` less: keys are cached for `KEY_CACHE_SECONDS`) and may wait for others' writes, so
an event loop calls it in a thread. Nothing here logs, or says in an error, what was given as a key.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.requests import HTTPConnection

from carellama.config import environment
from carellama.config.commands import SCOPES
from carellama.config.serve import is_loopback
from carellama.errors import UserError, need
from carellama.serve.api.errors import Rejected

if TYPE_CHECKING:
    from carellama.store.database import Database
    from carellama.store.keys import Key
    from carellama.store.usage import Lease, OverLimit

KEY_CACHE_SECONDS = 5.0  # for so long `authenticate` may take a revoked key, which `reserve` rejects at once
log = logging.getLogger("carellama.access")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks."""

    id: str  # of the key; public
    name: str
    scopes: frozenset[str]


class Reservation:
    """The tokens and the lease of a request that runs. `release` is called at its end, whatever happened."""

    def release(self, tokens: int) -> None:
        """Say how many tokens were used, of prompt and answer. Later calls change nothing."""


class Auth(ABC):
    """Lets requests in."""

    def identify(self, request: HTTPConnection) -> Caller:
        """Who sent this request. Raises `Rejected` as `authenticate`, and `InvalidRequest` for one that is refused."""
        return self.authenticate(request.headers.get("authorization"))

    @abstractmethod
    def authenticate(self, authorization: str | None) -> Caller:
        """Who sent this Authorization header. Raises `Rejected`: 401 without a valid key, 503 without a database."""

    @abstractmethod
    def reserve(self, caller: Caller, scope: str, tokens: int) -> Reservation:
        """Let a request in that may use `tokens`, of prompt and answer.

        Raises `Rejected`: 403 for a scope that the key has not, 429 for a limit, 401 for a key that has ended since,
        503 without a database.
        """

    @abstractmethod
    def close(self) -> None:
        """Give back connections and threads."""


class NoAuth(Auth):
    """No keys, every scope, no limits: for a server that only this machine can reach.

    `any_host`: others reach it too, through something that asks for a password.
    """

    def __init__(self, *, any_host: bool = False) -> None:
        self.any_host = any_host

    def authenticate(self, authorization: str | None) -> Caller:
        """Anyone."""
        return Caller("open", "open", frozenset(SCOPES))

    def reserve(self, caller: Caller, scope: str, tokens: int) -> Reservation:
        """Let it in."""
        return Reservation()

    def close(self) -> None:
        """Nothing is held."""


class ApiKeyAuth(Auth):
    """Keys and limits of a database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._key_cache: dict[str, tuple[float, Key]] = {}  # id -> (when, by the monotonic clock; the key)
        self._reservations: weakref.WeakSet[LeasedReservation] = weakref.WeakSet()
        self._lock = threading.Lock()  # of the two above, and of the thread
        self._closed = threading.Event()
        self._refresher: threading.Thread | None = None

    def authenticate(self, authorization: str | None) -> Caller:
        """Who has this key."""
        from carellama.store.keys import KEY_PATTERN, verify_secret

        scheme, _, given = (authorization or "").strip().partition(" ")
        if not given:
            raise _invalid_key("no API key was given; send it as 'Authorization: Bearer cl-...'")
        parts = KEY_PATTERN.fullmatch(given.strip())
        if scheme.lower() != "bearer" or parts is None:
            raise _invalid_key("that is no API key of this server; send it as 'Authorization: Bearer cl-...'")
        key = self._look_up(parts[1])
        if not verify_secret(key, parts[2]) or key is None:
            raise _invalid_key("that is no API key of this server")
        if (state := key.state(time.time())) != "active":
            raise _ended(key.id, state)
        return Caller(key.id, key.name, frozenset(key.scopes))

    def _look_up(self, id: str) -> Key | None:
        from carellama.store.keys import get_key

        now = time.monotonic()
        with self._lock:
            when, key = self._key_cache.get(id, (0.0, None))
        if key is not None and now - when < KEY_CACHE_SECONDS:
            return key
        try:
            key = get_key(self._database, id)
        except UserError as error:
            raise database_unavailable(error) from error
        with self._lock:
            self._key_cache.pop(id, None)
            if key is not None:  # what is not known is not kept: it could fill the memory
                self._key_cache[id] = (now, key)
        return key

    def reserve(self, caller: Caller, scope: str, tokens: int) -> Reservation:
        """Enter a request in the database."""
        from carellama.store import usage

        if scope not in caller.scopes:
            has = ", ".join(sorted(caller.scopes))
            raise Rejected(403, "missing_scope", f"the API key has no scope {scope!r}; it has: {has}")
        try:
            lease = usage.start_lease(self._database, caller.id, tokens)
        except usage.OverLimit as over:
            raise _limit_exceeded(over, tokens) from over
        except usage.KeyNotUsable as ended:
            with self._lock:
                self._key_cache.pop(caller.id, None)
            raise _ended(caller.id, ended.state) from None
        except UserError as error:
            raise database_unavailable(error) from error
        reservation = LeasedReservation(self._database, lease)
        with self._lock:
            self._reservations.add(reservation)
            if self._refresher is None:
                self._refresher = threading.Thread(target=self._refresh, name="leases", daemon=True)
                self._refresher.start()
        return reservation

    def _refresh(self) -> None:
        """Renew the leases of all reservations that somebody holds, three times in the life of one."""
        from carellama.store import usage

        while not self._closed.wait(usage.LEASE_SECONDS / 3):
            with self._lock:
                leases = [one.lease for one in self._reservations if not one.released]
            try:
                usage.renew_leases(self._database, leases)
            except UserError as error:
                log.warning("the leases of %d requests could not be renewed: %s", len(leases), error)

    def close(self) -> None:
        """End the thread and close the database."""
        self._closed.set()
        if self._refresher is not None:
            self._refresher.join()
        self._database.close()


class LeasedReservation(Reservation):
    """A request with a lease in the database."""

    def __init__(self, database: Database, lease: Lease) -> None:
        self.lease, self.released = lease, False
        self._database, self._lock = database, threading.Lock()

    def release(self, tokens: int) -> None:
        """Give the lease back, and the tokens that were not used. A database that is away is logged, not raised."""
        from carellama.store import usage

        with self._lock:
            if self.released:
                return
            self.released = True
        try:
            usage.end_lease(self._database, self.lease, tokens)
        except UserError as error:
            log.warning(
                "a request of key %s has used %d tokens, but counts as %d, and as running until its lease ends: %s",
                *(self.lease.key_id, tokens, self.lease.tokens, error),
            )


def _invalid_key(message: str) -> Rejected:
    return Rejected(401, "invalid_api_key", message)


def _ended(id: str, state: str) -> Rejected:
    return _invalid_key(f"the API key with id {id} is {state}")


def database_unavailable(error: UserError, what: str = "API keys") -> Rejected:
    """Return the error of a database that is away; what is wrong with it is for the log, not for the caller."""
    log.error("%s cannot be checked: %s", what, error)
    return Rejected(503, "service_unavailable", f"{what} cannot be checked at the moment; try again later", 5.0)


def _limit_exceeded(over: OverLimit, tokens: int) -> Rejected:
    if over.limit == "requests_per_minute":
        message = f"the API key may begin {over.allowed:,} requests in a minute; try again in {over.retry_after:.0f} s"
        return Rejected(429, "rate_limit_exceeded", message, over.retry_after)
    if over.limit == "concurrent":
        message = f"the API key may run {over.allowed:,} requests at once; try again when one of them has ended"
        return Rejected(429, "rate_limit_exceeded", message, over.retry_after)
    wait = over.retry_after if tokens <= over.allowed else None  # no day has room for it
    message = (
        f"the API key may use {over.allowed:,} tokens a day; {over.used:,} are used or reserved by running requests, "
        f"and this request may use {tokens:,} (its prompt and max_tokens for each answer); "
        "lower max_tokens, shorten the prompt, or wait for the next day (UTC)"
    )
    return Rejected(429, "insufficient_quota", message, wait)


def auth_for(host: str, database: str | None) -> Auth:
    """What a server on this address needs; `database` is the place of one, None the user's own.

    Keys are asked for wherever the database has any, also ended ones: revoking the last key does not open a server.
    Without any, a loopback address is open, and every other one is a `UserError`. A database that cannot be read is a
    `UserError` too. It is looked at once: a first key that is added later is asked for from the next start on.
    """
    if (keyed := _keyed(database or environment.database())) is not None:
        return keyed
    if is_loopback(host):
        return NoAuth()
    raise UserError(
        f"an API on {host} needs keys, since others can reach it: make one with carellama keys add --name NAME, "
        "or serve on 127.0.0.1"
    )


def _keyed(place: str) -> ApiKeyAuth | None:
    """The access by the keys of a database, where it has any."""
    if "://" not in place and not Path(place).expanduser().exists():
        return None  # known without loading what reads it
    need("sqlalchemy", extra="serve", why="the database of the keys")
    from carellama.store import keys
    from carellama.store.database import open_database

    opened = open_database(place, make=False)
    if opened is None:
        return None
    if keys.list_keys(opened):
        return ApiKeyAuth(opened)
    opened.close()
    return None
