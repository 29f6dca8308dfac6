"""Who may use the server, and how much: limits that hold among processes, and what a request is refused with."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from carellama.config.commands import SCOPES
from carellama.errors import UserError
from carellama.serve.api import auth as access
from carellama.serve.api.auth import ApiKeyAuth, Caller, NoAuth, auth_for
from carellama.serve.api.errors import Rejected
from carellama.store import keys, usage
from carellama.store.database import open_database
from carellama.store.keys import Limits
from conftest import only_read
from store_places import NOON, Clock, clock, database, opened, place, postgres_server

__all__ = ["clock", "database", "place", "postgres_server"]


def key_with(database, *limits, days=None):
    return keys.create_key(database, name="ward3", scopes=("chat",), limits=Limits(*limits), days=days)[0].id


def over(database, id, tokens=0):
    """The limit that a request is refused for, and the seconds until it may be tried again."""
    with pytest.raises(usage.OverLimit) as refused:
        usage.start_lease(database, id, tokens)
    return refused.value.limit, refused.value.retry_after


# limits


def test_no_sixty_seconds_have_more_requests_than_the_limit(database, clock):
    id = key_with(database, 3)
    begun = []
    for _ in range(200):  # one try a second, then a burst
        clock.now += 1
        try:
            usage.end_lease(database, usage.start_lease(database, id, 0), 0)
            begun.append(clock.now)
        except usage.OverLimit as refused:
            assert refused.limit == "requests_per_minute"
            assert refused.retry_after == begun[-3] + 60 - clock.now > 0  # and then there is room
    assert all(later - first >= 60 for first, later in zip(begun, begun[3:], strict=False))
    assert len(begun) == 3 * 4


def test_requests_at_once_are_counted_until_they_end(database):
    id = key_with(database, None, 2)
    first, _ = usage.start_lease(database, id, 0), usage.start_lease(database, id, 0)
    assert over(database, id)[0] == "concurrent"
    usage.end_lease(database, first, 0)
    usage.start_lease(database, id, 0)
    assert over(database, id)[0] == "concurrent"


def test_a_lease_runs_out_unless_it_is_renewed(database, clock):
    id = key_with(database, None, 2)
    kept, _dead = usage.start_lease(database, id, 0), usage.start_lease(database, id, 0)
    clock.now += usage.LEASE_SECONDS - 1
    usage.renew_leases(database, [kept])
    assert over(database, id)[0] == "concurrent"
    clock.now += 2
    usage.start_lease(database, id, 0)
    assert over(database, id)[0] == "concurrent"


def test_a_request_that_was_given_up_for_dead_counts_again(database, clock):
    id = key_with(database, None, 1)
    stopped = usage.start_lease(database, id, 0)
    clock.now += 100
    usage.end_lease(database, usage.start_lease(database, id, 0), 0)  # takes its place, and its row away
    usage.renew_leases(database, [stopped])
    assert over(database, id)[0] == "concurrent"
    usage.end_lease(database, stopped, 0)
    usage.start_lease(database, id, 0)


def test_tokens_are_taken_at_the_beginning_and_corrected_at_the_end(database, clock):
    id = key_with(database, None, None, 1000)
    running = usage.start_lease(database, id, 700)
    assert over(database, id, 301) == ("tokens_per_day", 43200)  # to midnight, UTC
    usage.end_lease(database, running, 100)
    usage.start_lease(database, id, 900)
    assert usage.usage_by_key(database)[id] == usage.KeyUsage(2, 1000, NOON)
    clock.now += 43200
    assert usage.usage_by_key(database)[id] == usage.KeyUsage(0, 0, NOON)
    usage.start_lease(database, id, 1000)


def test_what_a_request_used_counts_for_the_day_on_which_it_began(database, clock):
    id = key_with(database, None, None, 1000)
    clock.now += 43199
    late = usage.start_lease(database, id, 600)
    clock.now += 2
    usage.start_lease(database, id, 500)
    usage.end_lease(database, late, 10)
    assert usage.usage_by_key(database)[id].tokens == 500


@pytest.mark.parametrize("hours", [-48, -1, 1, 48])
def test_after_a_clock_was_set_a_key_waits_a_minute_at_most(hours, database, clock):
    id = key_with(database, 2, 2)
    before = [usage.start_lease(database, id, 0) for _ in range(2)]
    clock.now += hours * 3600
    usage.renew_leases(database, before[:1])
    usage.end_lease(database, before[1], 0)
    limits = set()
    for _ in range(100):
        try:
            usage.start_lease(database, id, 0)
            break
        except usage.OverLimit as refused:
            assert 0 < refused.retry_after <= 60
            limits.add(refused.limit)
            clock.now += refused.retry_after
    else:
        pytest.fail(f"still over {limits}")
    assert clock.now <= NOON + hours * 3600 + 60


def test_limits_of_one_key_are_not_those_of_another(database):
    one, two = key_with(database, 1, 1, 10), key_with(database, 1, 1, 10)
    usage.start_lease(database, one, 10)
    usage.start_lease(database, two, 10)
    for key in (one, two):
        with pytest.raises(usage.OverLimit):
            usage.start_lease(database, key, 10)


WORKER = """
import sys
from carellama.store import usage
from carellama.store.database import open_database
place, *ids = sys.argv[1:]
database = open_database(place)
print("ready", flush=True)
sys.stdin.readline()
for id in ids:
    let = 0
    for _ in range(40):
        try:
            usage.start_lease(database, id, 10)
            let += 1
        except usage.OverLimit:
            pass
    print(let, flush=True)
sys.stdin.readline()
"""


def worker(*words):
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, *map(str, words)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_two_processes_at_once_keep_the_limits_exactly(place):
    database = opened(place)
    ids = [key_with(database, 30), key_with(database, None, 30), key_with(database, None, None, 305)]
    workers = [worker(place, *ids) for _ in range(2)]
    for one in workers:
        assert one.stdout.readline() == "ready\n"
    for one in workers:
        print(file=one.stdin, flush=True)
    let = [[int(one.stdout.readline()) for _ in ids] for one in workers]
    assert [sum(counts) for counts in zip(*let, strict=True)] == [30, 30, 30], let
    for one in workers:
        one.communicate("\n", timeout=30)
    database.close()


def test_threads_at_once_keep_the_limit_exactly(database):
    id = key_with(database, 50)

    def tries(_):
        try:
            return usage.start_lease(database, id, 0)
        except usage.OverLimit:
            return None

    with ThreadPoolExecutor(16) as pool:
        assert sum(lease is not None for lease in pool.map(tries, range(100))) == 50


def test_several_processes_may_be_the_first(place):
    workers = [worker(place) for _ in range(3)]
    for one in workers:
        out, _ = one.communicate("\n\n", timeout=30)
        assert (out, one.returncode) == ("ready\n", 0)


def test_the_leases_of_a_killed_worker_run_out(tmp_path):
    clock = Clock(time.time())
    database = open_database(str(tmp_path / "keys.db"), clock=clock)
    assert database
    id = key_with(database, None, 3, 1000)
    killed = worker(tmp_path / "keys.db", id)
    killed.stdout.readline()
    print(file=killed.stdin, flush=True)
    assert killed.stdout.readline() == "3\n"
    killed.kill()
    killed.communicate()
    clock.now = time.time()
    assert over(database, id)[0] == "concurrent"
    clock.now += usage.LEASE_SECONDS
    usage.start_lease(database, id, 10)
    assert usage.usage_by_key(database)[id].tokens == 40  # what it took stays taken


# access


@pytest.fixture
def server(tmp_path):
    """Access by a database with one key: the access, the database, the Authorization header."""
    opened = open_database(str(tmp_path / "keys.db"))
    _, whole = keys.create_key(opened, name="ward3", scopes=("chat",), limits=Limits(2, 1, 1000))  # type: ignore[arg-type]
    made = ApiKeyAuth(opened)  # type: ignore[arg-type]
    yield made, opened, f"Bearer {whole}"
    made.close()


def refusal(function, *words):
    with pytest.raises(Rejected) as refused:
        function(*words)
    return refused.value


def test_a_key_gives_its_caller(server):
    made, _, header = server
    caller = made.authenticate(header)
    assert caller == Caller(header.split("-")[1], "ward3", frozenset({"chat"}))
    assert made.authenticate(header.replace("Bearer", "bearer")) == caller


@pytest.mark.parametrize(
    "change",
    [
        lambda header: None,
        lambda header: "",
        lambda header: "Bearer",
        lambda header: header.removeprefix("Bearer "),
        lambda header: header.replace("Bearer", "Basic"),
        lambda header: header[:-1],
        lambda header: header + "0",
        lambda header: header[:-1] + ("0" if header[-1] != "0" else "1"),
        lambda header: header[:10] + "00000000" + header[18:],
        lambda header: "Bearer sk-" + "\u00e9" * 40,
        lambda header: "Bearer " + "9" * 100_000,
    ],
)
def test_all_but_the_whole_key_is_refused_and_not_repeated(server, change, caplog):
    made, _, header = server
    caplog.set_level("DEBUG")
    refused = refusal(made.authenticate, change(header))
    assert (refused.status, refused.code, refused.retry_after) == (401, "invalid_api_key", None)
    for part in (header[-64:-8], "\u00e9", "99999"):
        assert part not in refused.message + str(refused) + caplog.text


def test_a_revoked_key_ends_at_once_for_requests_and_within_seconds_for_all_else(server, monkeypatch):
    made, database, header = server
    caller = made.authenticate(header)
    keys.revoke_key(database, caller.id)
    assert made.authenticate(header) == caller  # for CACHE_SECONDS
    later = time.monotonic() + access.KEY_CACHE_SECONDS
    monkeypatch.setattr(access.time, "monotonic", lambda: later)  # type: ignore[attr-defined]
    refused = refusal(made.authenticate, header)
    assert refused.status == 401 and "revoked" in refused.message
    assert refusal(made.reserve, caller, "chat", 1).status == 401


def test_a_revoked_key_is_no_longer_remembered_once_begin_refused_it(server):
    made, database, header = server
    caller = made.authenticate(header)
    keys.revoke_key(database, caller.id)
    begun = refusal(made.reserve, caller, "chat", 1)
    assert begun.status == 401
    again = refusal(made.authenticate, header)
    assert again.status == 401 and again.message == begun.message  # A25: there were two wordings
    assert begun.message == f"the API key with id {caller.id} is revoked"


def test_an_expired_key_is_refused(server, monkeypatch):
    made, database, _ = server
    _, whole = keys.create_key(database, name="x", scopes=("chat",), limits=Limits(), days=1)
    caller = made.authenticate(f"Bearer {whole}")
    later = time.time() + 86401
    monkeypatch.setattr(access.time, "time", lambda: later)  # type: ignore[attr-defined]
    refused = refusal(made.authenticate, f"Bearer {whole}")
    assert refused.status == 401 and "expired" in refused.message
    database._clock = lambda: later
    assert refusal(made.reserve, caller, "chat", 1).status == 401


def test_scopes_and_limits_are_answered_as_openai_does(server):
    made, _, header = server
    caller = made.authenticate(header)
    refused = refusal(made.reserve, caller, "admin", 1)
    assert (refused.status, refused.code) == (403, "missing_scope")
    refused = refusal(made.reserve, caller, "chat", 1001)
    assert (refused.status, refused.code, refused.retry_after) == (429, "insufficient_quota", None)  # on no day
    assert "1,000" in refused.message and "1,001" in refused.message
    ticket = made.reserve(caller, "chat", 1)
    refused = refusal(made.reserve, caller, "chat", 1)
    assert (refused.status, refused.code) == (429, "rate_limit_exceeded") and "at once" in refused.message
    ticket.release(1)
    refused = refusal(made.reserve, caller, "chat", 1000)
    assert (refused.status, refused.code) == (429, "insufficient_quota") and 0 < refused.retry_after <= 86400
    made.reserve(caller, "chat", 1).release(1)
    refused = refusal(made.reserve, caller, "chat", 1)
    assert (refused.status, refused.code) == (429, "rate_limit_exceeded") and 0 < refused.retry_after <= 60


def test_a_ticket_ends_once(server):
    made, database, header = server
    caller = made.authenticate(header)
    ticket = made.reserve(caller, "chat", 500)
    ticket.release(100)
    ticket.release(900)
    assert usage.usage_by_key(database)[caller.id].tokens == 100
    made.reserve(caller, "chat", 1)  # one that was not released would run


def test_tickets_are_renewed_while_somebody_holds_them(server, monkeypatch):
    made, opened, header = server
    renewed: list[Any] = []
    arrived = threading.Event()

    def renew(database, leases):
        if database is opened:  # not of a server that another test has left running in this process
            renewed[:] = leases
            arrived.set()

    monkeypatch.setattr(usage, "renew_leases", renew)
    monkeypatch.setattr(usage, "LEASE_SECONDS", 0.03)

    def leases_of_next_round():
        for _ in range(2):  # one round may be under way
            arrived.clear()
            assert arrived.wait(30)
        return list(renewed)

    ticket = made.reserve(made.authenticate(header), "chat", 1)
    assert leases_of_next_round() == [ticket.lease]
    del ticket
    gc.collect()
    assert leases_of_next_round() == []


def test_a_database_that_is_away_is_a_503_that_says_nothing_of_it(server, caplog, tmp_path):
    made, database, header = server
    caller = made.authenticate(header)
    ticket = made.reserve(caller, "chat", 500)
    only_read(database)
    ticket.release(100)  # the answer was given: logged, not raised
    assert caller.id in caplog.text and "100" in caplog.text and "500" in caplog.text
    refused = refusal(made.reserve, caller, "chat", 1)
    assert (refused.status, refused.code) == (503, "service_unavailable") and refused.retry_after
    assert str(tmp_path) not in refused.message and str(tmp_path) in caplog.text


def test_open_lets_everything_in():
    made = NoAuth()
    caller = made.authenticate(None)
    assert caller.scopes == set(SCOPES) == made.authenticate("Bearer sk-anything").scopes
    for scope in SCOPES:
        ticket = made.reserve(caller, scope, 10**9)
        ticket.release(5)
    made.close()


# which of them


LOOPBACKS = ("127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost")
OTHERS = ("0.0.0.0", "::", "192.168.1.5", "", "example.org")


def test_without_keys_only_a_loopback_address_is_open(tmp_path):
    place = tmp_path / "keys.db"
    for host in LOOPBACKS:
        assert isinstance(auth_for(host, str(place)), NoAuth), host
    for host in OTHERS:
        with pytest.raises(UserError, match="carellama keys add"):
            auth_for(host, str(place))
    assert not place.exists()
    open_database(str(place)).close()
    assert isinstance(auth_for("localhost", str(place)), NoAuth)


def test_with_keys_they_are_asked_for_everywhere(tmp_path, monkeypatch):
    place = str(tmp_path / "keys.db")
    monkeypatch.setenv("CARELLAMA_DATABASE", place)
    database = open_database(place)
    keys.revoke_key(database, key_with(database))  # type: ignore[arg-type]  # revoking the last key does not open the server
    for host in (*LOOPBACKS, *OTHERS):
        made = auth_for(host, None)
        assert refusal(made.authenticate, None).status == 401
        made.close()


def test_a_database_that_can_not_be_read_does_not_open_the_server(tmp_path):
    place = tmp_path / "keys.db"
    place.write_bytes(b"no database" * 1000)
    with pytest.raises(UserError, match="damaged"):
        auth_for("127.0.0.1", str(place))


def test_an_open_server_does_not_load_the_database_library(tmp_path):
    code = (
        "import sys; from carellama.serve.api.auth import auth_for\n"
        f"auth_for('127.0.0.1', {str(tmp_path / 'none.db')!r}); print('sqlalchemy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n", done.stderr
