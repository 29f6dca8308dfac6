"""What persons thought of answers, stored with their consent; `carellama data from-feedback` makes training data of it.

    store = FeedbackStore(database, cipher)
    id = store.add({"rating": "down", "messages": [...], "answer": "...", "model": "carellama"}, account_id=None)
    store.delete(id, account_id=None)          # withdrawn

The bodies are JSON objects, whose identifiers were masked before (`serve.web.feedback`). A row is known by its random
id, which only who sent it has; one with an account is deleted by that account alone, and with it.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator

from sqlalchemy import delete, insert, select

from carellama.records import JSONObject
from carellama.store.cipher import Cipher, check_cipher, check_unchanged, seal, unseal
from carellama.store.database import Database
from carellama.store.tables import FEEDBACK


class FeedbackStore:
    """The feedback of a database. Safe to be used by several threads.

    Raises `UserError` where the database is encrypted with another key, or has texts that are not encrypted yet.
    """

    def __init__(self, database: Database, cipher: Cipher | None) -> None:
        self._database, self._cipher = database, cipher
        self._check = check_cipher(database, cipher)

    def add(self, body: JSONObject, *, account_id: str | None) -> str:
        """Store feedback; return its id."""
        id = secrets.token_urlsafe(16)
        text = seal(self._cipher, json.dumps(body, ensure_ascii=False))
        with self._database.write_transaction() as connection:
            check_unchanged(connection, self._database.name, self._check)
            created = self._database.now(connection)
            connection.execute(insert(FEEDBACK).values(id=id, account_id=account_id, created=created, body=text))
        return id

    def delete(self, id: str, *, account_id: str | None) -> bool:
        """Delete feedback of this account, or of nobody known (None). Returns whether there was such a row."""
        if "\0" in id:  # which PostgreSQL does not take
            return False
        mine = FEEDBACK.c.account_id.is_(None) if account_id is None else FEEDBACK.c.account_id == account_id
        with self._database.write_transaction() as connection:
            return connection.execute(delete(FEEDBACK).where(FEEDBACK.c.id == id, mine)).rowcount > 0

    def read(self) -> Iterator[JSONObject]:
        """Yield the bodies, the oldest first."""
        with self._database.read_transaction() as connection:
            rows = connection.execute(select(FEEDBACK.c.body).order_by(FEEDBACK.c.created, FEEDBACK.c.id))
            for row in rows:
                found: JSONObject = json.loads(unseal(self._cipher, row.body))
                yield found
