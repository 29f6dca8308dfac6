"""The words of persons, encrypted in the database: titles, messages, drafts, feedback.

    cipher = read_cipher("/etc/carellama/store.key")     # None: neither the file nor $CARELLAMA_STORE_KEY
    check_cipher(database, cipher)                       # or UserError: the wrong key, or none
    stored = seal(cipher, "what a person wrote")

A key file has one key of Fernet a line (`carellama store new-key`). The first encrypts, all decrypt, so that a new key
can be put before the old one. What is stored begins with a sign: `p` plain, `e` encrypted.

It protects the words where the files of the database, or backups, come into other hands. Whoever has the key, or the
running server, reads them. Names, times and sizes are not encrypted.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from sqlalchemy import Column, Connection, and_, exists, insert, literal, select, update

from carellama.config import environment
from carellama.errors import UserError, read_failure
from carellama.files import print_status
from carellama.store.database import Database
from carellama.store.tables import METADATA, STORE_INFO

PLAIN, ENCRYPTED = "p", "e"
KEY = re.compile(r"[A-Za-z0-9_-]{43}=")
CHECK_NAME, CHECK_VALUE = "cipher", "carellama"


class Cipher:
    """Encrypts with the first key and decrypts with all. Raises `UserError` for what is no key."""

    def __init__(self, keys: Sequence[str]) -> None:
        if not keys:
            raise UserError("there is no key to encrypt with; carellama store new-key makes one")
        if not all(map(KEY.fullmatch, keys)):  # what was given must not be repeated
            raise UserError(
                "an encryption key has to be 32 bytes in base64, 44 characters, one a line; carellama store new-key "
                "makes one"
            )
        self._fernets = [Fernet(key) for key in keys]
        self._all = MultiFernet(self._fernets)

    def encrypt(self, text: str) -> str:
        """A text, encrypted with the first key."""
        return self._all.encrypt(text.encode()).decode()

    def decrypt(self, token: str) -> str:
        """The text of what was encrypted with one of the keys. Raises `UserError`."""
        try:
            return self._all.decrypt(token).decode()
        except InvalidToken:
            raise UserError(
                "a text of the database cannot be decrypted with the keys given; give the key that it was encrypted "
                "with as well, on a line of its own"
            ) from None

    def is_current(self, token: str) -> bool:
        """Whether it was encrypted with the first key."""
        try:
            self._fernets[0].decrypt(token)
        except InvalidToken:
            return False
        return True


def new_key() -> str:
    """A new key."""
    return Fernet.generate_key().decode()


def read_cipher(key_file: str | None) -> Cipher | None:
    """The cipher of the keys of a file, or of `$CARELLAMA_STORE_KEY`; None: neither is given. Raises `UserError`."""
    if key_file is not None:
        try:
            text = Path(key_file).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read the encryption keys of {key_file}: {read_failure(error)}") from error
        if not (keys := text.split()):
            raise UserError(f"{key_file} has no key; carellama store new-key makes one")
        return Cipher(keys)
    keys = environment.store_keys()
    return Cipher(keys) if keys else None


def seal(cipher: Cipher | None, text: str) -> str:
    """A text as it is stored."""
    return PLAIN + text if cipher is None else ENCRYPTED + cipher.encrypt(text)


def unseal(cipher: Cipher | None, stored: str) -> str:
    """The text of what is stored. Raises `UserError` where it is encrypted and no key given is its."""
    if stored[:1] == PLAIN:
        return stored[1:]
    if cipher is None:
        raise UserError(_no_key("the database"))
    return cipher.decrypt(stored[1:])


def check_cipher(database: Database, cipher: Cipher | None) -> str | None:
    """Whether the database can be used with these keys; an empty one takes them as its own.

    Returns its check value, for `check_unchanged`. Raises `UserError` where the key is wrong or missing, or where there
    are texts that are not encrypted yet.
    """
    with database.read_transaction() as connection:
        check = read_check(connection)
    if check is None and cipher is not None:
        with database.write_transaction() as connection:
            check = read_check(connection)
            if check is None:
                if _has_texts(connection):
                    raise UserError(
                        f"{database.name} has texts that are not encrypted; stop the server and encrypt them with "
                        "carellama store encrypt, or leave the key out"
                    )
                check = write_check(connection, cipher)
    if check is not None:
        _try_check(database.name, cipher, check)
    return check


def check_unchanged(connection: Connection, name: str, check: str | None) -> None:
    """Raise `UserError` where the keys of the database are others than when it was opened."""
    if read_check(connection) != check:
        raise UserError(f"the encryption of {name} was changed; start the server again, with the present key")


def read_check(connection: Connection) -> str | None:
    """The value that tells which keys the database has; None: it is not encrypted."""
    value: str | None = connection.scalar(select(STORE_INFO.c.value).where(STORE_INFO.c.name == CHECK_NAME))
    return value


def write_check(connection: Connection, cipher: Cipher) -> str:
    """Make the first key that of the database."""
    check = cipher.encrypt(f"{CHECK_VALUE} {secrets.token_hex(8)}")
    connection.execute(STORE_INFO.delete().where(STORE_INFO.c.name == CHECK_NAME))
    connection.execute(insert(STORE_INFO).values(name=CHECK_NAME, value=check))
    return check


def _try_check(name: str, cipher: Cipher | None, check: str) -> None:
    if cipher is None:
        raise UserError(_no_key(name))
    try:
        cipher.decrypt(check)
    except UserError:
        raise UserError(
            f"{name} was encrypted with another key than those given; give its key, or bring back the backup of it"
        ) from None


def _no_key(name: str) -> str:
    return f"{name} is encrypted; give its key with --encryption_key_file or $CARELLAMA_STORE_KEY"


def _has_texts(connection: Connection) -> bool:
    tables = {column.table for column in private_columns()}
    return any(connection.scalar(select(exists(select(literal(1)).select_from(table)))) for table in tables)


def private_columns() -> Sequence[Column[str]]:
    """The columns that hold words of persons."""
    return [column for table in METADATA.sorted_tables for column in table.c if column.info.get("private")]


def encrypt_texts(database: Database, cipher: Cipher) -> int:
    """Encrypt all texts with the first key: the plain ones and those of the other keys. Returns how many changed.

    In one transaction; no server should run, which has the earlier key. Raises `UserError`, and changes nothing,
    where a text is encrypted with a key that is not given.
    """
    changed = 0
    with database.write_transaction() as connection:
        if not database.sqlite:  # servers look at it before they write, and wait
            connection.exec_driver_sql(f"LOCK TABLE {STORE_INFO.name} IN ACCESS EXCLUSIVE MODE")
        if (check := read_check(connection)) is not None:
            _try_check(database.name, cipher, check)
        for column in private_columns():
            changed += _encrypt_column(connection, column, cipher)
        write_check(connection, cipher)
    names = {column.table.name for column in private_columns()}
    if not database.scrub(sorted(names)):
        print_status(
            f"{database.name} is in use, or the disk is full: the texts as they were may still be in its files, where "
            "only programs for damaged files see them; carellama store prune removes them"
        )
    return changed


def _encrypt_column(connection: Connection, column: Column[str], cipher: Cipher) -> int:
    table, changed = column.table, 0
    keys = list(table.primary_key.columns)
    for key in connection.execute(select(*keys)).all():  # ids alone: the texts may be more than memory
        mine = and_(*(one == value for one, value in zip(keys, key, strict=True)))
        stored = str(connection.scalar(select(column).where(mine)))
        if stored[:1] == PLAIN or not cipher.is_current(stored[1:]):
            text = seal(cipher, unseal(cipher, stored))
            connection.execute(update(table).where(mine).values({column: text}))
            changed += 1
    return changed
