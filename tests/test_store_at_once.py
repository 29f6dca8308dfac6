"""Many use the store at once, on SQLite and PostgreSQL: nobody waits for each other for ever, nothing is half done."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select

from carellama.store import accounts, invitations, sessions, tables
from carellama.store.account_errors import AccountError
from carellama.store.conversations import ConversationError, ConversationStore
from store_places import clock, database, place, postgres_server

__all__ = ["clock", "database", "place", "postgres_server"]

GOOD = "correct horse battery"
PERSONS, CONVERSATIONS = 6, 9


def one_action(database, store, admin: str, chance: random.Random) -> None:
    name, id = f"n{chance.randrange(PERSONS)}", f"c{chance.randrange(CONVERSATIONS)}"
    account = accounts.find_account(database, name)
    if account is None:
        _, token = invitations.create_invitation(database, chance.choice(["patient", "admin"]), created_by=admin)
        invitations.accept_invitation(database, token, name, GOOD)
        return
    match chance.randrange(10):
        case 0:
            accounts.forget_account(database, account.id)
        case 1:
            accounts.set_role(database, account.id, chance.choice(["patient", "admin"]))
        case 2:
            accounts.set_disabled(database, account.id, disabled=chance.random() < 0.5)
        case 3 | 4:
            password = chance.choice([GOOD, "a wrong password"])
            accounts.verify_login(database, name, password, f"10.0.0.{chance.randrange(9)}")
        case 5:
            token = sessions.create_session(database, account.id, idle_hours=chance.choice([-1.0, 1.0]))
            sessions.read_session(database, token)
        case 6:
            invitations.create_invitation(database, "patient", account_id=account.id)
        case 7:
            store.delete(account.id, id)
        case _:
            store.put(account.id, {"id": id})
            store.put_messages(account.id, id, [{"id": "m"}])


@pytest.mark.slow
def test_many_do_all_kinds_of_things_at_once(database):
    admin = accounts.create_account(database, "root", GOOD, "admin").id
    store = ConversationStore(database, None)

    def act(number: int) -> int:
        chance, done = random.Random(number), 0
        for _ in range(60):
            try:
                one_action(database, store, admin, chance)
                done += 1
            except (AccountError, ConversationError):  # no other: none of the database
                pass
        return done

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(act, range(8))) > 100
    with database.read_transaction() as connection:
        there = set(connection.scalars(select(tables.ACCOUNTS.c.id)))
        for table in (tables.SESSIONS, tables.CONVERSATIONS, tables.MESSAGES, tables.DRAFTS):
            assert set(connection.scalars(select(table.c.account_id))) <= there
        kept = select(tables.CONVERSATIONS.c.id)
        alone = select(func.count()).where(tables.MESSAGES.c.conversation_id.not_in(kept))
        assert connection.scalar(alone) == 0
