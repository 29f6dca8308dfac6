"""Conversations of accounts, on SQLite and PostgreSQL, plain and encrypted: each sees his own."""

from __future__ import annotations

import inspect
import random
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import select

from carellama.errors import UserError
from carellama.store import accounts, invitations, tables
from carellama.store.cipher import Cipher, new_key
from carellama.store.conversations import ConversationConflict, ConversationNotFound, ConversationStore
from carellama.store.database import open_database
from carellama.store.feedback import FeedbackStore
from store_places import clock, database, fast_passwords, opened, place, postgres_server

__all__ = ["clock", "database", "place", "postgres_server"]


@pytest.fixture(params=["plain", "encrypted"])
def store(request, database):
    return ConversationStore(database, Cipher([new_key()]) if request.param == "encrypted" else None)


@pytest.fixture
def people(database):
    return [accounts.create_account(database, name, None, "patient").id for name in ("mei", "li")]


def test_a_conversation_comes_back_as_it_was_written(store, people, clock):
    mei, _ = people
    words = "咳嗽三天 37.5°C 🤒 \0 \ud83d \u202e <b> ' \" \\ ;--"
    conversation = {
        "id": "c1",
        "title": words,
        "pinned": True,
        "leaf": None,
        "created": 1.5e12,
        "more": [1, {"a": "b"}],
    }
    messages = [{"id": f"m{number}", "segments": [{"text": f"{words} {number}"}]} for number in range(12)]
    store.put(mei, conversation)
    store.put_messages(mei, "c1", messages[:7])
    store.put_messages(mei, "c1", messages[5:])
    store.put_draft(mei, "c1", words)
    assert store.get(mei, "c1") == conversation and store.list(mei) == [conversation]
    assert store.messages(mei, "c1") == messages  # in the order in which they came
    assert store.draft(mei, "c1") == words and store.draft(mei, "new") == ""
    later = {"id": "m3", "content": "changed"}
    store.put_messages(mei, "c1", [later])
    store.put_messages(mei, "c1", [])
    assert store.messages(mei, "c1") == [*messages[:3], later, *messages[4:]]
    store.put_draft(mei, "c1", "")
    assert store.draft(mei, "c1") == ""


def test_the_last_changed_comes_first(store, people, clock):
    for id in ("c1", "c2", "c3"):
        clock.now += 1
        store.put(people[0], {"id": id, "title": "cough"})
    clock.now += 1
    store.put_messages(people[0], "c1", [{"id": "m"}])
    clock.now += 1
    store.put(people[0], {"id": "c2", "title": "a cough"})
    assert [one["id"] for one in store.list(people[0])] == store.search(people[0], "cough") == ["c2", "c1", "c3"]


def test_search_finds_titles_and_texts_whatever_their_case_and_width(store, people):
    mei, li = people
    store.put(mei, {"id": "title", "title": "Straßenlärm ＡＢＣ"})
    store.put(mei, {"id": "text", "title": ""})
    store.put_messages(mei, "text", [{"id": "m1", "segments": [{"text": "first"}, {"text": "发烧三天"}]}])
    store.put_messages(mei, "text", [{"id": "m2", "content": "100% of 50_mg", "reasoning": "hidden"}])
    store.put(mei, {"id": "odd", "title": None, "segments": 7})
    store.put_messages(mei, "odd", [{"id": "m1", "segments": [None, {"text": 3}, "x"], "content": {}}])
    store.put(li, {"id": "other", "title": "发烧 abc strassenlärm"})
    for text, found in (
        ("STRASSENLÄRM", ["title"]), ("abc", ["title"]), ("发烧", ["text"]), ("FIRST", ["text"]), ("100%", ["text"]),
        ("50_", ["text"]), ("%", ["text"]), ("hidden", []), ("id", []), ("segments", []), ("stfirst", []),
        ("abc  strassenlärm", ["title"]), ("50_mg 发烧 first", ["text"]), ("first abc", []), (" \t", []),
    ):  # fmt: skip
        assert store.search(mei, text) == found, text


def test_deleting_takes_messages_and_draft(store, people, database):
    mei, li = people
    for who, id in ((mei, "c1"), (mei, "c2"), (li, "c3")):
        store.put(who, {"id": id})
        store.put_messages(who, id, [{"id": "m"}])
        store.put_draft(who, id, "words")
    assert store.delete(mei, "c1") and not store.delete(mei, "c1") and not store.delete(mei, "c3")
    with database.read_transaction() as connection:
        assert sorted(connection.scalars(select(tables.MESSAGES.c.conversation_id))) == ["c2", "c3"]
        assert sorted(connection.scalars(select(tables.DRAFTS.c.place))) == ["c2", "c3"]
    with pytest.raises(ConversationNotFound):
        store.put_messages(mei, "c1", [{"id": "m"}])


def test_what_was_not_changed_for_so_long_goes(store, people, clock):
    mei, li = people
    for day, (who, id) in enumerate(((mei, "c0"), (li, "c1"), (mei, "c2"))):
        store.put(who, {"id": id})
        store.put_messages(who, id, [{"id": "m"}])
        store.put_draft(who, f"place{day}", "words")
        clock.now += 86400
    store.put_messages(mei, "c0", [{"id": "m"}])
    assert store.prune(1.5) == 1  # c1: c0 was changed again
    assert [one["id"] for who in people for one in store.list(who)] == ["c0", "c2"]
    assert [store.draft(who, f"place{day}") for day, who in enumerate((mei, li, mei))] == ["", "", "words"]
    assert store.prune(1.5) == 0 and store.messages(mei, "c0")


@pytest.mark.parametrize("id", ["", "a b", "a/b", "a\0", "x" * 65, "\ud800", "发", "a\n", None, 7])
def test_an_id_that_cannot_be_is_refused_and_never_there(store, people, id):
    store.put(people[0], {"id": "c1"})
    for call in (
        lambda: store.put(people[0], {"id": id}),
        lambda: store.put_messages(people[0], "c1", [{"id": "m1"}, {"id": id}]),
        lambda: store.put_draft(people[0], id, "words"),
    ):
        with pytest.raises(UserError, match="1 to 64 letters"):
            call()
    assert store.messages(people[0], "c1") == []
    if isinstance(id, str):
        assert store.get(people[0], id) is None and not store.delete(people[0], id)
        assert store.messages(people[0], id) == [] and store.draft(people[0], id) == ""


def test_an_id_that_postgresql_does_not_take_is_that_of_nothing(database):
    assert accounts.get_account(database, "a\0") is None
    assert not invitations.delete_invitation(database, "a\0")
    assert not FeedbackStore(database, None).delete("a\0", account_id=None)


def test_an_id_of_another_account_is_refused_and_nothing_changes(store, people):
    mei, li = people
    store.put(mei, {"id": "c1", "title": "mine"})
    with pytest.raises(ConversationConflict):
        store.put(li, {"id": "c1", "title": "theirs"})
    with pytest.raises(ConversationNotFound):
        store.put_messages(li, "c1", [{"id": "m"}])
    assert store.get(mei, "c1") == {"id": "c1", "title": "mine"} and store.messages(mei, "c1") == []
    assert store.list(li) == []


class Model:
    """What a store for one person alone would answer: dictionaries."""

    def __init__(self):
        self.conversations, self.texts, self.drafts = {}, {}, {}

    def list(self):
        return sorted(self.conversations.values(), key=lambda one: one["id"])

    def get(self, id):
        return self.conversations.get(id)

    def put(self, conversation):
        self.conversations[conversation["id"]] = conversation
        self.texts.setdefault(conversation["id"], {})

    def messages(self, id):
        return [*self.texts.get(id, {}).values()]

    def put_messages(self, id, messages):
        self.texts[id] |= {message["id"]: message for message in messages}

    def delete(self, id):
        self.texts.pop(id, None), self.drafts.pop(id, None) if id in self.conversations else None
        return self.conversations.pop(id, None) is not None

    def search(self, text):
        words = {
            id: [one["title"], *(m["content"] for m in self.messages(id))] for id, one in self.conversations.items()
        }
        return sorted(id for id, some in words.items() if any(text in word for word in some))

    def draft(self, place):
        return self.drafts.get(place, "")

    def put_draft(self, place, text):
        self.drafts[place] = text


def test_each_sees_what_he_would_see_alone(store, people, database):
    """Two persons do the same random things with the same ids; each is answered as if the other was not there."""
    functions = {name for name, _ in inspect.getmembers(ConversationStore, inspect.isfunction) if name[0] != "_"}
    assert functions - {"prune"} == {name for name in vars(Model) if name[0] != "_"}
    models, chance = {who: Model() for who in people}, random.Random(11)
    conflicts = compared = 0

    def ask(who, name, *words):
        nonlocal compared
        answer, wanted = getattr(store, name)(who, *words), getattr(models[who], name)(*words)
        if name in ("list", "search"):
            answer = sorted(answer, key=lambda one: one["id"] if name == "list" else one)
        assert answer == wanted, (name, words)
        compared += 1

    for step in range(150):
        who, other = chance.sample(people, 2)
        id, place = f"c{chance.randrange(5)}", chance.choice(["new", "c1", "c2"])
        words = f"words of {people.index(who)} in {step}"
        taken = id in models[other].conversations
        kind = chance.randrange(6)
        if kind == 0 and taken:
            with pytest.raises(ConversationConflict):
                store.put(who, {"id": id, "title": words})
            conflicts += 1
        elif kind == 0:
            ask(who, "put", {"id": id, "title": words})
        elif kind in (1, 2) and id in models[who].conversations:
            ask(who, "put_messages", id, [{"id": f"m{chance.randrange(4)}", "content": words}])
        elif kind in (1, 2):
            with pytest.raises(ConversationNotFound):
                store.put_messages(who, id, [{"id": "m", "content": words}])
            conflicts += taken
        elif kind == 3:
            ask(who, "put_draft", place, words)
        elif kind == 4 and chance.random() < 0.4:
            ask(who, "delete", id)
        for reader in people:
            ask(
                reader,
                *chance.choice([("list",), ("search", "words"), ("draft", place), ("get", id), ("messages", id)]),
            )
    assert conflicts > 10 and compared > 300
    accounts.forget_account(database, people[0])
    models[people[0]] = Model()
    for who in people:
        ask(who, "list")
        ask(who, "search", "words")
        for number in range(5):
            ask(who, "messages", f"c{number}")


def test_many_write_at_once_and_nothing_is_lost(store, people):
    def write(number):
        who = people[number % 2]
        store.put(who, {"id": f"c{number % 2}", "title": "cough"})
        store.put_messages(who, f"c{number % 2}", [{"id": f"m{number}"}])

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write, range(24)))
    found = [{one["id"] for one in store.messages(who, f"c{number}")} for number, who in enumerate(people)]
    assert found == [{f"m{one}" for one in range(first, 24, 2)} for first in (0, 1)]


# what is left in the files


def files(place: str) -> bytes:
    return b"".join(path.read_bytes() for path in Path(place).parent.iterdir())


def test_nothing_is_written_to_a_file_that_is_not_there_any_more(tmp_path):
    place = tmp_path / "carellama.db"
    database = opened(str(place))
    store = ConversationStore(database, None)
    account = accounts.create_account(database, "mei", None, "patient")
    store.put(account.id, {"id": "c1"})
    gone = place.rename(tmp_path / "gone.db")
    for other in (None, b"", gone.read_bytes()):
        if other is not None:
            place.write_bytes(other)
        with pytest.raises(UserError, match="deleted, moved or replaced"):
            store.put(account.id, {"id": "c2"})
        with pytest.raises(UserError, match="deleted, moved or replaced"):
            store.list(account.id)
        assert place.exists() == (other is not None)
    gone.replace(place)
    store.put(account.id, {"id": "c3"})
    assert {one["id"] for one in store.list(account.id)} == {"c1", "c3"}
    database.close()


def test_no_byte_of_a_forgotten_person_is_left_in_the_files(tmp_path, monkeypatch):
    """Rows of all sizes, written over and deleted."""
    fast_passwords(monkeypatch)
    place, chance = str(tmp_path / "carellama.db"), random.Random(3)
    database = opened(place)
    people = {name: accounts.create_account(database, name, None, "patient").id for name in ("mei", "li")}
    store = ConversationStore(database, None)
    other = open_database(place)  # as a server has it
    for _ in range(120):
        name, id = chance.choice([*people]), f"c{chance.randrange(8)}"
        words = f"WORDS-OF-{name}-" * chance.choice([1, 5, 40, 400])
        if store.get(people[name], f"{name}{id}") is None:
            store.put(people[name], {"id": f"{name}{id}", "title": words})
        elif chance.random() < 0.1:
            store.delete(people[name], f"{name}{id}")
        else:
            store.put_messages(people[name], f"{name}{id}", [{"id": f"m{chance.randrange(9)}", "content": words}])
        store.put_draft(people[name], "new", words)
    assert files(place).count(b"WORDS-OF-mei") > 100
    accounts.forget_account(database, people["mei"])
    assert files(place).count(b"WORDS-OF-mei") == 0
    assert files(place).count(people["mei"].encode()) == 2  # in the table of erasures and in its index
    assert files(place).count(b"WORDS-OF-li") > 100 and store.list(people["li"])
    assert other and other.revision()


def test_copies_that_sqlite_left_in_the_file_go_too(tmp_path):
    """As it does now and then where it moves rows between pages; here made by a connection that does not zero."""
    place = str(tmp_path / "carellama.db")
    database = opened(place)
    id = accounts.create_account(database, "mei", None, "patient").id
    with closing(sqlite3.connect(place)) as careless:
        careless.execute("PRAGMA secure_delete = OFF")
        careless.execute("CREATE TABLE notes (note TEXT)")
        careless.execute("INSERT INTO notes VALUES (?)", ["WORDS-OF-mei" * 400])
        careless.execute("DELETE FROM notes")
        careless.commit()
        careless.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert b"WORDS-OF-mei" in files(place)
    accounts.forget_account(database, id)
    assert b"WORDS-OF-mei" not in files(place)


def test_a_file_that_someone_reads_is_cleaned_by_the_next_prune(tmp_path, monkeypatch, capsys):
    place = str(tmp_path / "carellama.db")
    database = opened(place, busy_seconds=0.05)
    id = accounts.create_account(database, "mei", None, "patient").id
    ConversationStore(database, None).put(id, {"id": "c1", "title": "WORDS-OF-mei"})
    reader = opened(place)
    with reader.read_transaction() as connection:
        assert len(connection.execute(select(tables.ACCOUNTS)).all()) == 1
        accounts.forget_account(database, id)
    assert "carellama store prune removes it" in capsys.readouterr().err and b"WORDS-OF-mei" in files(place)
    assert database.scrub() and b"WORDS-OF-mei" not in files(place)


def test_encrypted_words_are_in_no_file(tmp_path):
    place = str(tmp_path / "carellama.db")
    database = opened(place)
    id = accounts.create_account(database, "mei", None, "patient").id
    store = ConversationStore(database, Cipher([new_key()]))
    store.put(id, {"id": "c1", "title": "WORDS in a title"})
    store.put_messages(id, "c1", [{"id": "m1", "content": "WORDS in a message"}])
    store.put_draft(id, "new", "WORDS in a draft")
    assert b"WORDS" not in files(place) and store.search(id, "words") == ["c1"]
