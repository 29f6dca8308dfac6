"""`carellama store backup|restore|prune|encrypt|new-key`: the database, for the person who runs the server.

carellama store backup monday.db
carellama store restore monday.db --database postgresql:///carellama
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from carellama.config import environment
from carellama.config.reader import parse_options
from carellama.config.store import BackupOptions, EncryptOptions, NewKeyOptions, PruneOptions, RestoreOptions
from carellama.errors import UserError, need
from carellama.files import print_status, write_private

if TYPE_CHECKING:
    from carellama.store.database import Database

NO_KEY = "no keys are given: name their file with --encryption_key_file, or set $CARELLAMA_STORE_KEY"


def backup(argv: Sequence[str]) -> None:
    """Write all of the database into one file."""
    (options,) = parse_options((BackupOptions,), argv, "carellama store backup FILE", positional="file")
    with _opened(options.database, make=False) as database:
        from carellama.store.backup import write_backup

        path = Path(options.file).expanduser()
        rows = write_backup(database, path, overwrite=options.overwrite)
        print_status(f"{path}: {describe_rows(rows) or 'nothing'}; sessions and invitations are not in it")


def restore(argv: Sequence[str]) -> None:
    """Put a backup in place of what the database holds."""
    (options,) = parse_options((RestoreOptions,), argv, "carellama store restore FILE", positional="file")
    path = Path(options.file).expanduser()
    if not path.is_file():  # before a database is made
        raise UserError(f"there is no file {path}; give the file that carellama store backup wrote")
    with _opened(options.database) as database:
        from carellama.store.backup import restore_backup

        done = restore_backup(database, path, overwrite=options.overwrite)
        when = f", as of {done.made}" if done.made else ""
        print_status(f"{database.name}: {describe_rows(done.rows) or 'nothing'}{when}")
        if done.erased:
            forgotten = describe_rows({"accounts": done.erased})
            print_status(f"left out: {forgotten} forgotten since, with all that belonged to it")
        print_status("passwords, roles and limits are those of that time; everybody has to log in again")
        if done.encrypted:
            print_status("it is encrypted: the server needs the key of that time")


def prune(argv: Sequence[str]) -> None:
    """Delete what is over: old conversations, sessions, invitations; leave no byte of what was deleted."""
    (options,) = parse_options((PruneOptions,), argv, "carellama store prune")
    with _opened(options.database, make=False) as database:
        from carellama.store.conversations import prune_conversations
        from carellama.store.invitations import prune_invitations
        from carellama.store.sessions import prune_sessions

        rows = {"sessions": prune_sessions(database), "invitations": prune_invitations(database)}
        if options.days is not None:
            rows = {"conversations": prune_conversations(database, options.days)} | rows
        print_status(f"{database.name}: deleted {describe_rows(rows) or 'nothing'}")
        if not database.scrub():
            raise UserError(
                f"{database.name} is in use, or the disk is full: what was deleted may still be in its files; stop the "
                "server, or make room, and try again"
            )


def encrypt(argv: Sequence[str]) -> None:
    """Encrypt all words of persons with the first key."""
    (options,) = parse_options((EncryptOptions,), argv, "carellama store encrypt")
    with _opened(options.database) as database:
        need("cryptography", extra="serve", why="encryption")
        from carellama.store.cipher import encrypt_texts, read_cipher

        cipher = read_cipher(options.encryption_key_file)
        if cipher is None:
            raise UserError(NO_KEY)
        changed = encrypt_texts(database, cipher)
        print_status(f"{database.name}: {changed:,} texts encrypted; all are now encrypted with the first key")
        print_status("backups made before are as they were; keep the key apart from the backups, and keep it: without")
        print_status("it nobody can read the texts")


def new_key(argv: Sequence[str]) -> None:
    """Make an encryption key."""
    (options,) = parse_options((NewKeyOptions,), argv, "carellama store new-key")
    need("cryptography", extra="serve", why="encryption")
    from carellama.store.cipher import new_key as make_key

    key = make_key()
    if options.output is None:
        print(key)
        return
    path = Path(options.output).expanduser()
    write_private(path, f"{key}\n".encode())
    print_status(f"{path}: keep a copy elsewhere, apart from the backups; without it nobody can read the texts")


def describe_rows(rows: Mapping[str, int]) -> str:
    """Return numbers of rows by table as words: "1 account, 2 messages"; "" for none."""
    named = {name.removeprefix("carellama_").replace("_", " "): count for name, count in rows.items()}
    return ", ".join(
        f"{count:,} {name.removesuffix('s') if count == 1 else name}" for name, count in named.items() if count
    )


@contextmanager
def _opened(place: str | None, *, make: bool = True) -> Iterator[Database]:
    need("sqlalchemy", extra="serve", why="the database")
    from carellama.store.database import open_database

    database = open_database(place or environment.database(), make=make, durable=True)
    if database is None:
        raise UserError("there is no database yet, or it has no tables of CareLlama; name it with --database")
    try:
        yield database
    finally:
        database.close()
