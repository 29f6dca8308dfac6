"""Accounts, logins, sessions and invitations, on SQLite and PostgreSQL."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

import pytest
from argon2 import PasswordHasher
from sqlalchemy import select

from carellama.errors import UserError
from carellama.store import accounts, invitations, login_attempts, passwords, sessions, tables
from carellama.store.accounts import LoginFailed, LoginLocked, NameTaken
from carellama.store.conversations import ConversationStore
from store_places import clock, database, place, postgres_server

__all__ = ["clock", "database", "place", "postgres_server"]

GOOD, WRONG = "correct horse battery", "incorrect horse battery"


def account(database, name="mei", role="patient", password=GOOD):
    return accounts.create_account(database, name, password, role)


def login(database, name="mei", password=GOOD, address="10.0.0.7", device=""):
    return accounts.verify_login(database, name, password, address, device=device)


def refused(database, *words, times=1, **options):
    for _ in range(times):
        with pytest.raises(LoginFailed):
            login(database, *words, **options)


# accounts


def test_an_account_is_stored_and_its_password_is_not(database, clock):
    made = account(database, " Mei  Li ")
    assert made.name == "Mei  Li" and made.created == clock.now and made.last_login is None
    assert accounts.get_account(database, made.id) == made and accounts.list_accounts(database) == [made]
    assert accounts.find_account(database, "MEI  LI") == accounts.find_account(database, made.id) == made
    with database.read_transaction() as connection:
        stored = connection.scalar(select(tables.ACCOUNTS.c.password))
    assert stored.startswith("$argon2id$") and GOOD not in stored


@pytest.mark.parametrize("name", ["MEI", " mei ", "ｍｅｉ", "ℳei"])
def test_a_name_is_taken_whatever_its_case_and_form(database, name):
    account(database)
    with pytest.raises(NameTaken, match="another name"):
        account(database, name)
    assert len(accounts.list_accounts(database)) == 1


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "a\0b", "a\u202eb", "a\u200bb", "x" * 65, "ﷺ" * 4])
def test_a_name_that_cannot_be_is_refused(database, name):
    with pytest.raises(UserError, match="1 to 64 characters"):
        account(database, name)


@pytest.mark.parametrize("password", ["", "ninechars", "x" * 1001])
def test_a_password_that_cannot_be_is_refused_and_not_repeated(database, password):
    with pytest.raises(UserError, match="10 to 1000") as error:
        account(database, password=password)
    assert not password or password not in str(error.value)
    with pytest.raises(UserError, match="unknown role"):
        account(database, role="doctor")
    assert accounts.list_accounts(database) == []


def test_a_password_is_the_same_however_a_keyboard_spells_it(database):
    account(database, password="ｃorrect horse e\u0301tude")
    assert login(database, password="correct horse \u00e9tude").name == "mei"


def test_the_last_admin_stays_one(database):
    first, second = account(database, "a", "admin"), account(database, "b", "admin")
    accounts.set_disabled(database, second.id, disabled=True)
    for change in (
        lambda: accounts.set_role(database, first.id, "patient"),
        lambda: accounts.set_disabled(database, first.id, disabled=True),
        lambda: accounts.forget_account(database, first.id),
    ):
        with pytest.raises(UserError, match="a is the last admin"):
            change()
    accounts.set_disabled(database, second.id, disabled=False)
    accounts.set_role(database, first.id, "patient")
    assert {one.name: one.role for one in accounts.list_accounts(database)} == {"a": "patient", "b": "admin"}
    accounts.forget_account(database, first.id)
    accounts.forget_account(database, second.id)  # nobody is left who would need an admin
    assert accounts.list_accounts(database) == []


def test_two_admins_do_not_remove_each_other(database):
    admins = [account(database, name, "admin").id for name in "ab"]

    def demote(id):
        try:
            accounts.set_role(database, id, "patient")
        except UserError:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(demote, admins)) == [False, True]


def test_an_account_of_a_provider_is_found_again_and_never_another(database, clock):
    own = account(database)
    first = accounts.oidc_account(database, "https://id.example.org", "17", "mei", "clinician")
    other = accounts.oidc_account(database, "https://id.example.org", "18", "mei", "clinician")
    clock.now += 60
    again = accounts.oidc_account(database, "https://id.example.org", "17", "renamed", "patient")
    assert [own.name, first.name, other.name] == ["mei", "mei 2", "mei 3"]
    assert (again.id, again.name, again.role) == (first.id, "mei 2", "clinician")
    assert again.last_login == clock.now and again.issuer == "https://id.example.org"
    refused(database, "mei 2", "")
    with pytest.raises(UserError, match=r"logs in at https://id\.example\.org"):
        accounts.change_password(database, first.id, None, GOOD)
    accounts.set_disabled(database, first.id, disabled=True)
    with pytest.raises(LoginFailed):
        accounts.oidc_account(database, "https://id.example.org", "17", "mei", "clinician")


# logins


def test_a_login_needs_name_and_password_of_an_account_that_is_not_disabled(database, clock):
    made = account(database)
    clock.now += 5
    assert login(database, "MEI").last_login == clock.now
    refused(database, "mei", WRONG)
    refused(database, "li", GOOD)
    accounts.set_disabled(database, made.id, disabled=True)
    refused(database)


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "x" * 100_000, ""])
def test_a_name_or_password_of_strange_signs_is_a_failed_login(database, name):
    refused(database, name, name)


def test_a_name_that_is_not_there_takes_the_same_hash(database, monkeypatch):
    account(database)
    checked = []
    real = PasswordHasher.verify
    monkeypatch.setattr(PasswordHasher, "verify", lambda *words: checked.append(words[1]) or real(*words))  # type: ignore[func-returns-value]
    refused(database, "mei", WRONG)
    refused(database, "nobody", WRONG)
    first, second = (one.rpartition("$")[0].rpartition("$")[0] for one in checked)
    assert first == second == "$argon2id$v=19$m=8,t=1,p=1"


def test_a_name_is_locked_after_five_wrong_passwords_and_for_longer_each_time(database, clock):
    account(database)
    account(database, "li")
    refused(database, "mei", WRONG, times=5)
    waits = []
    for _ in range(7):
        with pytest.raises(LoginLocked) as locked:
            login(database)
        waits.append(locked.value.retry_after)
        clock.now += locked.value.retry_after
        refused(database, "mei", WRONG)
    assert waits == [30, 60, 120, 240, 480, 900, 900]
    assert login(database, "li", address="10.0.0.8").name == "li"
    with pytest.raises(LoginLocked):
        login(database, "mei", address="10.0.0.9")
    clock.now += 900
    assert login(database).name == "mei"
    refused(database, "mei", WRONG, times=4)  # its count began anew
    assert login(database).name == "mei"


def test_an_address_is_locked_after_twenty_wrong_passwords(database, clock):
    account(database)
    for number in range(20):
        login(database)  # a right one does not count
        refused(database, f"name{number}", WRONG)
    with pytest.raises(LoginLocked) as locked:
        login(database)
    assert locked.value.retry_after == 30
    assert login(database, address="10.0.0.8").name == "mei"


def test_addresses_of_one_ipv6_network_count_as_one(database):
    account(database)
    for number in range(20):
        refused(database, f"name{number}", WRONG, address=f"2001:db8::{number}:1")
    with pytest.raises(LoginLocked):
        login(database, address="2001:db8::ffff")
    for other in ("2001:db8:0:1::1", "::ffff:10.0.0.8", "10.0.0.8", "fe80::1%eth0", "a socket"):
        assert login(database, address=other).name == "mei"


def test_who_is_logged_in_is_not_locked_by_others_at_the_own_name(database):
    made = account(database)
    refused(database, "mei", WRONG, times=5)
    accounts.check_own_password(database, made.id, GOOD)
    for _ in range(5):
        with pytest.raises(LoginFailed):
            accounts.check_own_password(database, made.id, WRONG)
    with pytest.raises(LoginLocked):
        accounts.check_own_password(database, made.id, GOOD)


def test_a_browser_that_has_logged_in_before_is_not_locked_by_others(database):
    made, other = account(database), account(database, "li")
    device = str(accounts.new_device(database, made.id))
    refused(database, "mei", WRONG, times=5, device=accounts.new_device(database, other.id))
    for unknown in ("", "x", device[:-1], device + "0", f"{device.partition('.')[0]}.", "\ud800.\0"):
        with pytest.raises(LoginLocked):
            login(database, device=unknown)
    assert login(database, device=device) == accounts.get_account(database, made.id)
    refused(database, "mei", WRONG, times=5, device=device)
    with pytest.raises(LoginLocked):  # it has a count of its own
        login(database, device=device)
    assert login(database, device=accounts.new_device(database, made.id)).id == made.id
    accounts.change_password(database, made.id, None, "another password")
    with pytest.raises(LoginLocked):  # it ends with the password
        login(database, password="another password", device=device)
    person = accounts.oidc_account(database, "https://login.example.org", "1", "Wu", "patient")
    assert accounts.new_device(database, person.id) is None and accounts.new_device(database, "nobody") is None


def test_no_lock_lasts_longer_because_a_clock_was_set_back(database, clock):
    account(database)
    clock.now += 365 * 86400
    refused(database, "mei", WRONG, times=5)
    clock.now -= 365 * 86400
    refused(database, "mei", WRONG, times=4)
    assert login(database).name == "mei"
    refused(database, "mei", WRONG, times=5)
    with pytest.raises(LoginLocked) as locked:
        login(database)
    assert locked.value.retry_after == 30


def test_wrong_passwords_of_more_than_fifteen_minutes_ago_do_not_count(database, clock):
    account(database)
    for _ in range(20):
        refused(database, "mei", WRONG, times=4)
        clock.now += 901
    assert login(database).name == "mei"
    with database.read_transaction() as connection:
        assert len(connection.execute(select(tables.LOGIN_ATTEMPTS)).all()) <= 2  # old rows go


def test_many_at_once_are_not_let_try_more_passwords(database, monkeypatch):
    account(database)

    def attempt(_):
        try:
            login(database, "mei", WRONG)
        except LoginFailed:
            return True
        except LoginLocked:
            return False

    with ThreadPoolExecutor(12) as pool:
        assert sum(pool.map(attempt, range(24))) == login_attempts.NAME_LIMIT


def test_nothing_that_was_typed_is_kept_of_a_failed_login(database):
    refused(database, "my secret by mistake", WRONG)
    with database.read_transaction() as connection:
        rows = connection.execute(select(tables.LOGIN_ATTEMPTS)).all()
    assert len(rows) == 2 and "secret" not in str(rows) and "10.0.0.7" not in str(rows)


def test_a_hash_of_older_parameters_is_replaced_at_the_login(database, monkeypatch):
    made = account(database)
    monkeypatch.setattr(passwords, "TIME_COST", 2)
    refused(database, "mei", WRONG)
    for _ in range(2):
        login(database)
        with database.read_transaction() as connection:
            stored = connection.scalar(select(tables.ACCOUNTS.c.password).where(tables.ACCOUNTS.c.id == made.id))
        assert "t=2" in stored


def test_a_password_is_changed_by_who_knows_it(database):
    made = account(database)
    with pytest.raises(LoginFailed):
        accounts.change_password(database, made.id, WRONG, "another password")
    with pytest.raises(UserError, match="10 to 1000"):
        accounts.change_password(database, made.id, GOOD, "short")
    accounts.change_password(database, made.id, GOOD, "another password")
    refused(database)
    assert login(database, password="another password") == accounts.get_account(database, made.id)
    for _ in range(4):
        with pytest.raises(LoginFailed):
            accounts.check_own_password(database, made.id, WRONG)
    accounts.check_own_password(database, made.id, "another password")
    with pytest.raises(LoginFailed):
        accounts.check_own_password(database, "nobody", WRONG)


# sessions


def test_a_session_ends_after_idle_time_and_after_seven_days(database, clock):
    made = account(database)
    token, begun = sessions.create_session(database, made.id, idle_hours=12), clock.now
    for _ in range(15):
        clock.now += 11 * 3600
        account_of = sessions.read_session(database, token)
        assert account_of and account_of.id == made.id and account_of.last_login == begun
    clock.now += 4 * 3600  # 7 days and an hour
    assert sessions.read_session(database, token) is None
    other = sessions.create_session(database, made.id, idle_hours=12)
    clock.now += 12 * 3600
    assert sessions.read_session(database, other) is None
    assert sessions.prune_sessions(database) == 1  # the first was deleted when the second began
    with pytest.raises(accounts.AccountNotFound):
        sessions.create_session(database, "nobody", idle_hours=12)


def test_a_session_is_written_to_once_a_minute_at_most(database, clock):
    token = sessions.create_session(database, account(database).id, idle_hours=12)
    seen = select(tables.SESSIONS.c.last_seen)
    times = []
    for _ in range(6):
        clock.now += 25
        sessions.read_session(database, token)
        with database.read_transaction() as connection:
            times.append(connection.scalar(seen))
    assert len(set(times)) == 3 and times[-1] == clock.now


def test_a_session_is_read_where_nothing_can_be_written(database, clock, monkeypatch):
    token = sessions.create_session(database, account(database).id, idle_hours=1)
    monkeypatch.setattr(database, "write_transaction", Mock(side_effect=UserError("the disk is full")))
    clock.now += 3599
    assert sessions.read_session(database, token).name == "mei"
    clock.now += 1  # it was not renewed
    assert sessions.read_session(database, token) is None


def test_sessions_end_alone_and_together(database):
    mine, other = account(database), account(database, "li")
    tokens = [sessions.create_session(database, mine.id, idle_hours=12, address="10.0.0.7") for _ in range(4)]
    theirs = sessions.create_session(database, other.id, idle_hours=12)

    def alive():
        return [sessions.read_session(database, token) is not None for token in (*tokens, theirs)]

    sessions.end_session(database, tokens[0])
    sessions.end_session(database, "unknown")
    assert alive() == [False, True, True, True, True]
    sessions.end_sessions(database, mine.id, but=tokens[2])
    assert alive() == [False, False, True, False, True]
    accounts.set_disabled(database, mine.id, disabled=True)
    accounts.set_disabled(database, mine.id, disabled=False)
    assert alive() == [False, False, False, False, True]
    assert tokens[0] not in str(database.engine) and sessions.read_session(database, "\ud800\0") is None


# invitations


def test_an_invitation_makes_one_account(database, clock):
    made, token = invitations.create_invitation(database, "clinician", days=3)
    assert invitations.read_invitation(database, token) == made == invitations.list_invitations(database)[0]
    assert made.expires == clock.now + 3 * 86400 and made.account_id is None
    with pytest.raises(UserError, match="10 to 1000"):
        invitations.accept_invitation(database, token, "mei", "short")
    account(database, "taken")
    with pytest.raises(NameTaken):
        invitations.accept_invitation(database, token, "taken", GOOD)
    assert invitations.accept_invitation(database, token, "mei", GOOD).role == "clinician"
    assert login(database).name == "mei"
    assert invitations.read_invitation(database, token) is None and invitations.list_invitations(database) == []
    with pytest.raises(invitations.InvitationNotFound):
        invitations.accept_invitation(database, token, "li", GOOD)


def test_an_invitation_is_accepted_once_by_however_many(database):
    _, token = invitations.create_invitation(database, "patient")

    def accept(name):
        try:
            return invitations.accept_invitation(database, token, name, GOOD).name
        except invitations.InvitationNotFound:
            return None

    with ThreadPoolExecutor(4) as pool:
        taken = [name for name in pool.map(accept, "abcd") if name]
    assert len(taken) == 1 and [one.name for one in accounts.list_accounts(database)] == taken


def test_an_invitation_ends_by_its_time_or_when_it_is_taken_back(database, clock):
    made, token = invitations.create_invitation(database, "patient", days=1)
    assert invitations.delete_invitation(database, made.id) and not invitations.delete_invitation(database, made.id)
    assert invitations.read_invitation(database, token) is None
    _, late = invitations.create_invitation(database, "patient", days=1)
    clock.now += 86400
    assert invitations.read_invitation(database, late) is None and invitations.list_invitations(database) == []
    with pytest.raises(invitations.InvitationNotFound):
        invitations.accept_invitation(database, late, "mei", GOOD)
    assert invitations.prune_invitations(database) == 1
    for days in (0, -1, 367, float("nan")):
        with pytest.raises(UserError, match="up to 366"):
            invitations.create_invitation(database, "patient", days=days)


def test_an_invitation_of_an_account_sets_its_password(database):
    made = account(database)
    session = sessions.create_session(database, made.id, idle_hours=12)
    refused(database, "mei", WRONG, times=5)
    _, old = invitations.create_invitation(database, "admin", account_id=made.id)
    reset, token = invitations.create_invitation(database, "admin", account_id=made.id)
    assert reset.role == "patient" and invitations.read_invitation(database, old) is None
    assert invitations.accept_invitation(database, token, "whatever", "another password").id == made.id
    assert login(database, password="another password").id == made.id  # it is not locked any more
    assert sessions.read_session(database, session) is None
    with pytest.raises(accounts.AccountNotFound):
        invitations.create_invitation(database, "patient", account_id="nobody")


@pytest.mark.parametrize("end", ["role", "disabled"])
def test_who_is_no_admin_any_more_does_not_come_back_by_a_link_of_his_own(database, end):
    account(database, "root", "admin")
    admin = account(database, "leaving", "admin")
    _, own = invitations.create_invitation(database, "admin", created_by=admin.id)
    _, others = invitations.create_invitation(database, "patient", created_by="somebody else")
    if end == "role":
        accounts.set_role(database, admin.id, "clinician")
    else:
        accounts.set_disabled(database, admin.id, disabled=True)
    assert invitations.read_invitation(database, own) is None
    assert invitations.read_invitation(database, others) is not None


def test_a_link_to_a_new_password_ends_when_the_password_is_changed(database):
    made = account(database)
    _, token = invitations.create_invitation(database, "patient", account_id=made.id)
    accounts.change_password(database, made.id, GOOD, "another password")
    assert invitations.read_invitation(database, token) is None


# forget me


def test_of_a_forgotten_account_its_id_is_left_alone(database, clock):
    store = ConversationStore(database, None)
    mine, other = account(database, role="admin"), account(database, "li", "admin")
    for one in (mine, other):
        store.put(one.id, {"id": f"c-{one.name}", "title": "cough"})
        store.put_messages(one.id, f"c-{one.name}", [{"id": "m1", "content": "fever"}, {"id": "m2", "content": "rest"}])
        store.put_draft(one.id, "new", "since Monday")
        sessions.create_session(database, one.id, idle_hours=12, address="10.0.0.7")
        invitations.create_invitation(database, "patient", created_by=one.id)
    invitations.create_invitation(database, "patient", account_id=mine.id, created_by=other.id)
    refused(database, "mei", WRONG)
    counts = accounts.forget_account(database, mine.id)
    assert counts == {"conversations": 1, "drafts": 1, "feedback": 0, "invitations": 2, "messages": 2, "sessions": 1}
    with database.read_transaction() as connection:
        rows = {table.name: connection.execute(select(table)).all() for table in tables.METADATA.sorted_tables}
    assert rows.pop("carellama_erasures") == [(mine.id, clock.now)]
    assert mine.id not in str(rows) and other.id in str(rows)
    assert len(rows["carellama_login_attempts"]) == 1  # of the address
    assert len(store.messages(other.id, "c-li")) == 2
    with pytest.raises(accounts.AccountNotFound):
        accounts.forget_account(database, mine.id)
    with pytest.raises(accounts.AccountNotFound):
        store.put(mine.id, {"id": "later", "title": "words"})


def test_who_is_forgotten_while_he_writes_leaves_no_words(database):
    store = ConversationStore(database, None)
    ids = [account(database, f"name{number}").id for number in range(6)]

    def write(id):
        try:
            for number in range(30):
                store.put(id, {"id": f"{id[:20]}-{number}"})
                store.put_messages(id, f"{id[:20]}-{number}", [{"id": "m"}])
                store.put_draft(id, "new", "words")
        except UserError:
            return

    with ThreadPoolExecutor(4) as pool:
        for id in ids:
            written = pool.submit(write, id)
            accounts.forget_account(database, id)
            written.result()
    with database.read_transaction() as connection:
        left = {
            table.name: connection.execute(select(table)).all()
            for table in tables.METADATA.sorted_tables
            if "account_id" in table.c
        }
    assert len(left) >= 5 and not any(left.values()), left
