"""What keys and limits cost a request: milliseconds of `caller`, `begin` and `end`, in one process and in several.

    python benchmarks/key_cost.py --processes 2

All limits are set and none is reached. The key is looked up for each request, as if nothing were remembered. Processor
time is what the process itself has computed: on a machine with other work the clock says little. Several processes
wait for each other's writes as well.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from carellama.serve.api.auth import ApiKeyAuth
from carellama.store import keys
from carellama.store.database import open_database

STEPS = ("caller", "begin", "end")


def measure(place: str, whole: str, requests: int) -> tuple[dict[str, list[float]], float]:
    """Milliseconds of each step of each request, and of the processor for a request."""
    database = open_database(place)
    assert database is not None
    access = ApiKeyAuth(database)
    took: dict[str, list[float]] = {name: [] for name in STEPS}

    def timed(name: str, function: Callable, *words: object) -> object:
        started = time.perf_counter()
        value = function(*words)
        took[name].append((time.perf_counter() - started) * 1000)
        return value

    access.reserve(access.authenticate(f"Bearer {whole}"), "chat", 1).end(1)  # the first one compiles the statements
    computing = time.process_time()
    for _ in range(requests):
        access._key_cache.clear()
        caller = timed("caller", access.caller, f"Bearer {whole}")
        ticket = timed("begin", access.reserve, caller, "chat", 900)
        timed("end", ticket.end, 400)
    run_queued = (time.process_time() - computing) * 1000 / requests
    access.close()
    return took, run_queued


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1000, help="of each process")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--database", help="a PostgreSQL URL; default: a SQLite file of its own")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = options.database or str(Path(folder) / "keys.db")
        database = open_database(place)
        assert database is not None
        limits = keys.Limits(1_000_000, 1_000, 10**12)
        _, whole = keys.create_key(database, name="benchmark", scopes=("chat",), limits=limits)
        database.close()
        with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
            work = [(place, whole, options.requests)] * options.processes
            started = time.perf_counter()
            found = pool.starmap(measure, work)
            seconds = time.perf_counter() - started
    total = [0.0] * (options.requests * options.processes)
    for name in STEPS:
        times = [one for took, _ in found for one in took[name]]
        total = [sum(pair) for pair in zip(total, times, strict=True)]
        print(line(name, times))
    print(line("in all", total))
    print(f"processor {statistics.mean(computed for _, computed in found):.2f} ms a request")
    print(f"{len(total) / seconds:.0f} requests/s, {options.processes} processes and their start included")


def line(name: str, times: list[float]) -> str:
    """Median and tail."""
    tail = statistics.quantiles(times, n=100)
    return f"{name:7} median {tail[49]:.2f} ms, 95% below {tail[94]:.2f}, 99% below {tail[98]:.2f}"


if __name__ == "__main__":
    main()
