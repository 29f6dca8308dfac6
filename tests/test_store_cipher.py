"""Words of persons encrypted in the database: keys, wrong keys, turned on later, changed."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path

import pytest
from sqlalchemy import select

from carellama.errors import UserError
from carellama.store import accounts, cipher, tables
from carellama.store.cipher import Cipher, encrypt_texts, read_cipher, seal, unseal
from carellama.store.conversations import ConversationStore
from store_places import clock, database, opened, place, postgres_server

__all__ = ["clock", "database", "place", "postgres_server"]

KEYS = [b64encode(bytes([number]) * 32).decode() for number in range(3)]


def written(database, keys: list[str] | None) -> tuple[ConversationStore, str]:
    """A store with a conversation, and whose it is."""
    id = accounts.create_account(database, "mei", None, "patient").id
    store = ConversationStore(database, Cipher(keys) if keys else None)
    store.put(id, {"id": "c1", "title": "WORDS in a title"})
    store.put_messages(id, "c1", [{"id": f"m{number}", "content": f"WORDS {number}"} for number in range(5)])
    store.put_draft(id, "new", "WORDS in a draft")
    return store, id


def words(store: ConversationStore, id: str) -> list[str]:
    texts = [one["content"] for one in store.messages(id, "c1")]
    return [store.list(id)[0]["title"], *texts, store.draft(id, "new")]


WORDS = ["WORDS in a title", *(f"WORDS {number}" for number in range(5)), "WORDS in a draft"]


def stored(database) -> list[str]:
    with database.read_transaction() as connection:
        return [text for column in cipher.private_columns() for text in connection.scalars(select(column))]


def files(database) -> bytes:
    if not database.sqlite:
        return "".join(stored(database)).encode()
    return b"".join(path.read_bytes() for path in Path(database.name).parent.glob("*"))


def test_every_column_of_words_is_encrypted(database):
    """A new column of text in a table of accounts has to say whether it is one."""
    written(database, KEYS[:1])
    mine = [table for table in tables.METADATA.sorted_tables if "account_id" in table.c and "body" in table.c]
    assert len(mine) >= 3 and {column.table for column in cipher.private_columns()} >= set(mine)
    assert len(stored(database)) == 7 and not [text for text in stored(database) if "WORDS" in text]
    assert b"WORDS" not in files(database)


def test_the_first_key_encrypts_and_all_decrypt(database):
    _, id = written(database, KEYS[:1])
    assert words(ConversationStore(database, Cipher([KEYS[1], KEYS[0]])), id) == WORDS
    sealed = seal(Cipher([KEYS[1], KEYS[0]]), "text")
    assert unseal(Cipher([KEYS[1]]), sealed) == "text" and unseal(Cipher([KEYS[2]]), seal(None, "eplain")) == "eplain"
    with pytest.raises(UserError, match="cannot be decrypted"):
        unseal(Cipher([KEYS[0]]), sealed)


@pytest.mark.parametrize("keys", [None, KEYS[2:]], ids=["none", "wrong"])
def test_a_database_that_is_encrypted_is_refused_without_its_key(database, keys):
    store, id = written(database, KEYS[:1])
    with pytest.raises(UserError, match="encrypted") as error:
        ConversationStore(database, Cipher(keys) if keys else None)
    assert KEYS[0] not in str(error.value) and KEYS[2] not in str(error.value)
    with pytest.raises(UserError, match="encrypted with another key"):
        encrypt_texts(database, Cipher([KEYS[2]]))
    assert words(store, id) == WORDS


def test_a_database_with_plain_words_is_not_half_encrypted(database):
    store, id = written(database, None)
    with pytest.raises(UserError, match="carellama store encrypt"):
        ConversationStore(database, Cipher(KEYS[:1]))
    assert words(store, id) == WORDS and b"WORDS" in files(database)


def test_encryption_is_turned_on_later_and_no_plain_byte_is_left(database):
    store, id = written(database, None)
    assert encrypt_texts(database, Cipher(KEYS[:1])) == 7
    assert b"WORDS" not in files(database)
    assert words(ConversationStore(database, Cipher(KEYS[:1])), id) == WORDS
    assert encrypt_texts(database, Cipher(KEYS[:1])) == 0
    for write in (
        lambda: store.put(id, {"id": "c2", "title": "WORDS"}),
        lambda: store.put_messages(id, "c1", [{"id": "m9", "content": "WORDS"}]),
        lambda: store.put_draft(id, "new", "WORDS"),
    ):
        with pytest.raises(UserError, match="start the server again"):  # one that was started without the key
            write()
    with pytest.raises(UserError, match="is encrypted"):
        store.list(id)
    assert len(stored(database)) == 7


def test_a_key_is_changed(database):
    _, id = written(database, KEYS[:1])
    assert encrypt_texts(database, Cipher([KEYS[1], KEYS[0]])) == 7
    assert words(ConversationStore(database, Cipher([KEYS[1]])), id) == WORDS
    with pytest.raises(UserError, match="another key"):
        ConversationStore(database, Cipher([KEYS[0]]))


def test_a_text_of_a_lost_key_stops_the_change_of_the_key(database):
    store, id = written(database, KEYS[:1])
    with database.write_transaction() as connection:
        lost = seal(Cipher([KEYS[2]]), '{"text": "WORDS"}')
        connection.execute(tables.DRAFTS.update().values(body=lost))
    before = stored(database)
    with pytest.raises(UserError, match="cannot be decrypted"):
        encrypt_texts(database, Cipher([KEYS[1], KEYS[0]]))
    assert stored(database) == before and store.list(id)


def test_a_change_of_all_keys_at_once_is_seen_while_the_server_runs(tmp_path):
    place = str(tmp_path / "carellama.db")
    store, id = written(opened(place), KEYS[:1])
    encrypt_texts(opened(place), Cipher([KEYS[1], KEYS[0]]))
    with pytest.raises(UserError, match="start the server again"):
        store.put(id, {"id": "c2"})


def test_keys_come_from_a_file_or_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("CARELLAMA_STORE_KEY", raising=False)
    assert read_cipher(None) is None
    sealed = seal(Cipher([KEYS[1]]), "text")
    monkeypatch.setenv("CARELLAMA_STORE_KEY", f"{KEYS[0]}\n{KEYS[1]}\n")
    assert unseal(read_cipher(None), sealed) == "text"
    path = tmp_path / "store.key"
    path.write_text(f"{KEYS[1]}\n", encoding="utf-8")
    monkeypatch.setenv("CARELLAMA_STORE_KEY", "not looked at")
    assert unseal(read_cipher(str(path)), sealed) == "text"


@pytest.mark.parametrize("text", ["", "\n", KEYS[0][:-4], f"{KEYS[0]}x", "correct horse battery staple", "é" * 44])
def test_what_is_no_key_is_refused_and_not_repeated(tmp_path, text):
    path = tmp_path / "store.key"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="carellama store new-key") as error:
        read_cipher(str(path))
    assert not text.strip() or text not in str(error.value)
    path.write_bytes(b"\xff\xfe")
    for wrong in (path, tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match="cannot read the encryption keys of"):
            read_cipher(str(wrong))
