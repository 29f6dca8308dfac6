"""Conversations of accounts: each person reads and writes his own, and no other's.

    store = ConversationStore(database, cipher)
    store.put(account.id, {"id": "c1", "title": "Cough"})
    store.put_messages(account.id, "c1", [{"id": "m1", "segments": [{"text": "I have a cough"}]}])

Conversations and messages are JSON objects as the page makes them (web/src/lib/types.ts); the store looks at `id`
alone, and at titles and texts where it searches. Every statement names the account. An id of another account is as
one that is not there, but for `put`, which must not take it: `ConversationConflict`.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import ClassVar, TypeAlias

from sqlalchemy import ColumnElement, Connection, Row, Table, delete, exc, func, insert, select, update

from carellama.errors import UserError
from carellama.records import JSONObject
from carellama.store.account_errors import AccountNotFound
from carellama.store.cipher import Cipher, check_cipher, check_unchanged, seal, unseal
from carellama.store.database import Database
from carellama.store.tables import ACCOUNTS, CONVERSATIONS, DRAFTS, MESSAGES

ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
Objects: TypeAlias = list[JSONObject]
Ids: TypeAlias = list[str]


class ConversationError(UserError):
    """A conversation, a message or a draft that cannot be; the message is for the person."""

    code: ClassVar[str] = "invalid_conversation"


class ConversationConflict(ConversationError):
    """Another account has a conversation of this id."""

    code = "conversation_conflict"


class ConversationNotFound(ConversationError):
    """The account has no such conversation."""

    code = "conversation_not_found"


class ConversationStore:
    """The conversations, messages and drafts of all accounts. Safe to be used by several threads.

    Raises `UserError` where the database is encrypted with another key, or has texts that are not encrypted yet.
    """

    def __init__(self, database: Database, cipher: Cipher | None) -> None:
        self._database, self._cipher = database, cipher
        self._check = check_cipher(database, cipher)

    def list(self, account_id: str) -> Objects:
        """The conversations of an account, that changed last first."""
        table = CONVERSATIONS.c
        with self._database.read_transaction() as connection:
            mine = select(table.body).where(table.account_id == account_id).order_by(table.changed.desc(), table.id)
            return [self._read(row.body) for row in connection.execute(mine)]

    def get(self, account_id: str, id: str) -> JSONObject | None:
        """A conversation; None: the account has none of this id."""
        if not ID.fullmatch(id):
            return None
        with self._database.read_transaction() as connection:
            body = connection.scalar(select(CONVERSATIONS.c.body).where(_conversation(account_id, id)))
        return None if body is None else self._read(body)

    def put(self, account_id: str, conversation: JSONObject) -> None:
        """Write a conversation down, a new one or in place of the one of this id. Raises `ConversationConflict`."""
        id, body = _id(conversation, "conversation"), self._write(conversation)
        try:
            with self._database.write_transaction() as connection:
                now = self._begin(connection, account_id)
                owner = connection.scalar(select(CONVERSATIONS.c.account_id).where(CONVERSATIONS.c.id == id))
                if owner is None:
                    row = {"id": id, "account_id": account_id, "body": body, "created": now, "changed": now}
                    connection.execute(insert(CONVERSATIONS).values(row))
                elif owner == account_id:
                    mine = _conversation(account_id, id)
                    connection.execute(update(CONVERSATIONS).where(mine).values(body=body, changed=now))
                else:
                    raise ConversationConflict("this id of a conversation is taken; give the conversation a new one")
        except exc.IntegrityError as error:  # another account was faster
            raise ConversationConflict("this id of a conversation is taken; give the conversation a new one") from error

    def messages(self, account_id: str, conversation_id: str) -> Objects:
        """The messages of a conversation in the order in which they came; none where the account has no such one."""
        if not ID.fullmatch(conversation_id):
            return []
        table = MESSAGES.c
        mine = (table.account_id == account_id) & (table.conversation_id == conversation_id)
        with self._database.read_transaction() as connection:
            rows = connection.execute(select(table.body).where(mine).order_by(table.position, table.id))
            return [self._read(row.body) for row in rows]

    def put_messages(self, account_id: str, conversation_id: str, messages: Sequence[JSONObject]) -> None:
        """Write messages down, new ones or in place of those of their ids. Raises `ConversationNotFound`."""
        _check_id(conversation_id, "conversation")
        bodies = {_id(message, "message"): self._write(message) for message in messages}
        table = MESSAGES.c
        mine = (table.account_id == account_id) & (table.conversation_id == conversation_id)
        with self._database.write_transaction() as connection:
            now = self._begin(connection, account_id)
            changed = update(CONVERSATIONS).where(_conversation(account_id, conversation_id)).values(changed=now)
            if not connection.execute(changed).rowcount:
                raise ConversationNotFound("there is no such conversation")
            there = set(connection.scalars(select(table.id).where(mine)))
            position = connection.scalar(select(func.max(table.position)).where(mine)) or 0
            new = [id for id in bodies if id not in there]
            for id in bodies.keys() & there:
                connection.execute(update(MESSAGES).where(mine, table.id == id).values(body=bodies[id]))
            key = {"conversation_id": conversation_id, "account_id": account_id}
            rows = [
                key | {"id": id, "position": position + number, "body": bodies[id]} for number, id in enumerate(new, 1)
            ]
            if rows:
                connection.execute(insert(MESSAGES), rows)

    def delete(self, account_id: str, id: str) -> bool:
        """Delete a conversation with its messages and its draft; False: the account has none of this id."""
        if not ID.fullmatch(id):
            return False
        with self._database.write_transaction() as connection:
            self._begin(connection, account_id)
            deleted = _delete(connection, [(account_id, id)])
        self._database.empty_journal()
        return bool(deleted)

    def search(self, account_id: str, text: str) -> Ids:
        """The ids of conversations that have all words of a text, in whatever order, case and width.

        Each word is in the title or in a message. Those that changed last first. All that an account has is read for
        it: the database cannot look into what is encrypted.
        """
        words = set(_folded(text).split())
        if not words:
            return []
        with self._database.read_transaction() as connection:
            table = CONVERSATIONS.c
            conversations = connection.execute(
                select(table.id, table.body)
                .where(table.account_id == account_id)
                .order_by(table.changed.desc(), table.id)
            ).all()
            missing = {row.id: _without(words, str(self._read(row.body).get("title") or "")) for row in conversations}
            for row in _rows(connection, MESSAGES, MESSAGES.c.account_id == account_id):
                if left := missing.get(row.conversation_id):
                    missing[row.conversation_id] = _without(left, "\n".join(_texts(self._read(row.body))))
        return [row.id for row in conversations if not missing[row.id]]

    def draft(self, account_id: str, place: str) -> str:
        """What an account began to write at a place; "" for nothing."""
        if not ID.fullmatch(place):
            return ""
        with self._database.read_transaction() as connection:
            body = connection.scalar(select(DRAFTS.c.body).where(_draft(account_id, place)))
        return "" if body is None else str(self._read(body)["text"])

    def put_draft(self, account_id: str, place: str, text: str) -> None:
        """Keep what an account began to write; "" deletes it."""
        _check_id(place, "place of a draft")
        with self._database.write_transaction() as connection:
            now = self._begin(connection, account_id)
            connection.execute(delete(DRAFTS).where(_draft(account_id, place)))
            if text:
                row = {"account_id": account_id, "place": place, "body": self._write({"text": text}), "changed": now}
                connection.execute(insert(DRAFTS).values(row))

    def prune(self, older_than_days: float) -> int:
        """Delete conversations and drafts that were not changed for so many days; return how many conversations."""
        return prune_conversations(self._database, older_than_days)

    def _begin(self, connection: Connection, account_id: str) -> float:
        """Let other writers of the account wait; the time. Raises `AccountNotFound`: it was forgotten meanwhile."""
        account = select(ACCOUNTS.c.id).where(ACCOUNTS.c.id == account_id).with_for_update()
        if connection.scalar(account) is None:
            raise AccountNotFound("there is no such account any more")
        check_unchanged(connection, self._database.name, self._check)
        return self._database.now(connection)

    def _write(self, value: JSONObject) -> str:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        try:
            text.encode()
        except UnicodeEncodeError:  # half a pair of UTF-16, as a page may cut it
            text = json.dumps(value, separators=(",", ":"))
        return seal(self._cipher, text)

    def _read(self, body: str) -> JSONObject:
        value: JSONObject = json.loads(unseal(self._cipher, body))
        return value


def prune_conversations(database: Database, older_than_days: float) -> int:
    """`ConversationStore.prune`, which needs no key."""
    with database.write_transaction() as connection:
        before = database.now(connection) - older_than_days * 86400
        table = CONVERSATIONS.c
        old = select(table.account_id, table.id).where(table.changed < before).with_for_update()
        deleted = _delete(connection, [(row[0], row[1]) for row in connection.execute(old)])
        connection.execute(delete(DRAFTS).where(DRAFTS.c.changed < before))
    database.empty_journal()
    return deleted


def _conversation(account_id: str, id: str) -> ColumnElement[bool]:
    return (CONVERSATIONS.c.account_id == account_id) & (CONVERSATIONS.c.id == id)


def _draft(account_id: str, place: str) -> ColumnElement[bool]:
    return (DRAFTS.c.account_id == account_id) & (DRAFTS.c.place == place)


def _rows(connection: Connection, table: Table, mine: ColumnElement[bool]) -> Iterator[Row]:
    return iter(connection.execute(select(table).where(mine).execution_options(yield_per=200)))


def _delete(connection: Connection, conversations: Sequence[tuple[str, str]]) -> int:
    """Delete conversations (account, id) with what belongs to them; return how many there were."""
    deleted = 0
    for account_id, id in conversations:
        mine = (MESSAGES.c.account_id == account_id) & (MESSAGES.c.conversation_id == id)
        connection.execute(delete(MESSAGES).where(mine))
        connection.execute(delete(DRAFTS).where(_draft(account_id, id)))
        deleted += connection.execute(delete(CONVERSATIONS).where(_conversation(account_id, id))).rowcount
    return deleted


def _id(value: JSONObject, what: str) -> str:
    return _check_id(value.get("id"), what)


def _check_id(id: object, what: str) -> str:
    if not isinstance(id, str) or not ID.fullmatch(id):
        raise ConversationError(f"the id of a {what} has to be 1 to 64 letters, digits, - and _")
    return id


def _texts(message: JSONObject) -> Iterator[str]:
    """The texts of a message: its content, or those of its segments."""
    if isinstance(content := message.get("content"), str):
        yield content
    segments = message.get("segments")
    for segment in segments if isinstance(segments, (list, tuple)) else ():
        if isinstance(segment, dict) and isinstance(segment.get("text"), str):
            yield segment["text"]


def _without(words: set[str], text: str) -> set[str]:
    """The words that a text does not have."""
    where = _folded(text)
    return {word for word in words if word not in where}


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()
