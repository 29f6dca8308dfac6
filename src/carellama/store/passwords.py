"""Passwords: argon2id hashes of them, and which are taken.

    stored = hash_password("a password of some length")
    verify_password(stored, given)      # True, False

A hash has its parameters in it. `needs_rehash` tells one of older parameters, to be replaced at the next login.
"""

from __future__ import annotations

import secrets
import unicodedata
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from carellama.store.account_errors import AccountError

MIN_CHARS, MAX_CHARS = 10, 1000
# RFC 9106, section 4, the second recommended option: 3 passes over 64 MiB by 4 lanes
TIME_COST, MEMORY_KIB, LANES = 3, 65536, 4


def check_password(password: str) -> None:
    """Raise `AccountError` for a password that is too short or too long; it does not repeat it."""
    if not MIN_CHARS <= len(password) <= MAX_CHARS:
        raise AccountError(
            f"the password has {len(password)} characters; it has to have {MIN_CHARS} to {MAX_CHARS}. Several words "
            "in a row are easy to keep in mind"
        )


def hash_password(password: str) -> str:
    """The argon2id hash of a password that `check_password` takes."""
    check_password(password)
    return _hasher().hash(_normal(password))


def verify_password(stored: str | None, password: str) -> bool:
    """Whether this is the password of a hash. Without a hash (None) it takes as long and is False."""
    dummy = _dummy(TIME_COST, MEMORY_KIB, LANES)
    try:
        return _hasher().verify(stored or dummy, _normal(password[: MAX_CHARS + 1])) and stored is not None
    except (VerificationError, InvalidHashError):
        return False


def needs_rehash(stored: str) -> bool:
    """Whether a hash was made with other parameters than those of today."""
    return _hasher().check_needs_rehash(stored)


def _hasher() -> PasswordHasher:
    return PasswordHasher(time_cost=TIME_COST, memory_cost=MEMORY_KIB, parallelism=LANES)


@cache
def _dummy(time_cost: int, memory_kib: int, lanes: int) -> str:
    """A hash that no password has."""
    return PasswordHasher(time_cost=time_cost, memory_cost=memory_kib, parallelism=lanes).hash(secrets.token_hex(16))


def _normal(password: str) -> bytes:
    """One spelling for what keyboards write in several (NIST SP 800-63B, 5.1.1.2)."""
    return unicodedata.normalize("NFKC", password).encode("utf-8", "surrogatepass")
