"""The pool of threads: so many jobs at once, in turn; one that is cancelled frees its place, one that fails its own."""

from __future__ import annotations

import threading
from contextlib import suppress

import pytest

from carellama.engine.base import Piece, Reply
from carellama.engine.worker_pool import Job, WorkerPool, read_pieces

SECONDS = 20


def test_jobs_begin_in_turn_and_a_cancelled_one_does_not() -> None:
    pool, began, may_end = WorkerPool(1, "pool"), [], threading.Event()

    def work(number: int):
        def run(job: Job) -> int:
            began.append(number)
            assert may_end.wait(SECONDS)
            return number

        return run

    ended: list[object] = []
    jobs = [pool.submit(work(number), ended.append) for number in range(4)]
    jobs[2].cancel()
    jobs[2].join()  # it had not begun
    may_end.set()
    for job in jobs:
        job.join()
    assert began == ended == [0, 1, 3]


def test_no_more_run_at_once_than_there_are_places() -> None:
    pool, lock, running, most = WorkerPool(3, "pool"), threading.Lock(), 0, 0
    all_there = threading.Barrier(3)

    def run(job: Job) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        with suppress(threading.BrokenBarrierError):
            all_there.wait(SECONDS)
        with lock:
            running -= 1

    for job in [pool.submit(run, lambda event: None) for _ in range(9)]:
        job.join()
    assert most == 3


def test_an_error_is_the_last_event_and_the_next_job_runs() -> None:
    pool = WorkerPool(1, "pool")
    events: list[object] = []

    def fail(job: Job) -> None:
        raise ValueError("broken")

    pool.submit(fail, events.append)
    pool.submit(lambda job: "done", events.append).join()
    assert isinstance(events[0], ValueError) and events[1] == "done"


def test_a_generator_is_closed_where_its_job_is_cancelled() -> None:
    pool, closed, first = WorkerPool(1, "pool"), threading.Event(), threading.Event()

    def pieces():
        try:
            while True:
                yield Piece("x")
        finally:
            closed.set()

    job = pool.submit(read_pieces(pieces), lambda event: first.set())
    assert first.wait(SECONDS)
    job.cancel()
    job.join()
    assert closed.is_set()


def test_the_value_of_a_generator_is_the_last_event() -> None:
    events: list[object] = []

    def pieces():
        yield Piece("x")
        return Reply("x", "stop", 1, 1)

    WorkerPool(1, "pool").submit(read_pieces(pieces), events.append).join()
    assert events == [Piece("x"), Reply("x", "stop", 1, 1)]


@pytest.mark.parametrize("times", [1, 3])
def test_a_pool_has_no_thread_without_work(times: int) -> None:
    pool = WorkerPool(2, "idle-pool")
    for _ in range(times):
        pool.submit(lambda job: None, lambda event: None).join()
    for thread in [one for one in threading.enumerate() if one.name == "idle-pool"]:
        thread.join(SECONDS)
    assert not [one for one in threading.enumerate() if one.name == "idle-pool"]
