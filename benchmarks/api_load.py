"""Many clients at once against `carellama api` over a scripted engine: nothing lost, mixed up or failed; memory flat.

    python benchmarks/api_load.py --clients 200 --seconds 300
    python benchmarks/api_load.py --url http://127.0.0.1:8000      # a server with a real model: only its errors count

Each client asks for its own marker back, again and again: 10% hang up in the middle, 5% read slowly, the others read
to the end. Without --url a child process serves an engine that repeats the question, a token every 5 ms. The server
has fewer places than there are clients, so that some are refused: each refusal has to be a 429 with Retry-After.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

CHAT = "/v1/chat/completions"
HANG_UP, SLOW = 0.10, 0.05  # shares of the requests
KEEPALIVE_SECONDS = 0.25  # seconds between two reads of a slow one
SETTLED = 0.2  # share of the time after which memory is compared with the end's


class Load:
    """The clients and what became of their requests."""

    def __init__(self, url: str, echoes: bool) -> None:
        parts = urlsplit(url)
        self.host, self.port, self.echoes = parts.hostname or "127.0.0.1", parts.port or 80, echoes
        self.outcomes: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.first: list[float] = []  # seconds to the first token
        self.tokens = 0

    async def client(self, number: int, until: float) -> None:
        """Ask until the time is over."""
        sampling_per_choice, count = random.Random(number), 0
        while time.monotonic() < until:
            count += 1
            wait = 0.0
            try:
                async with asyncio.timeout(120):
                    wait = await self.ask(f"marker-{number}-{count} ", sampling_per_choice.random())
            except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError) as error:
                self.outcomes["failed"] += 1
                self.wrong.append(f"{type(error).__name__}: {error}"[:200])
            await asyncio.sleep(wait)

    async def ask(self, marker: str, draw: float) -> float:
        """One request; return the seconds to wait before the next one."""
        text = marker * 10
        body = json.dumps({"messages": [{"role": "user", "content": text}], "stream": True, "max_tokens": 400}).encode()
        reader, writer = await asyncio.open_connection(self.host, self.port, limit=4096)
        try:
            head = f"POST {CHAT} HTTP/1.1\r\nhost: {self.host}\r\ncontent-type: application/json\r\nconnection: close"
            writer.write(f"{head}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
            began = time.monotonic()
            status, headers = await read_head(reader)
            if status != 200:
                answer = json.loads(await reader.read())
                return self.refused(status, headers, answer)
            said, done = "", False
            async for line in lines_of(reader):
                if line == "data: [DONE]":
                    done = True
                elif line.startswith("data: "):
                    event = json.loads(line[6:])
                    if "error" in event:
                        raise ValueError(f"an error in the stream: {event['error']['code']}")
                    said += event["choices"][0]["delta"].get("content") or ""
                    self.first += [time.monotonic() - began] if len(said) == 1 else []
                    self.tokens += 1
                if draw < HANG_UP and len(said) > 20:
                    self.outcomes["hung up"] += 1
                    return 0.0
                if HANG_UP <= draw < HANG_UP + SLOW:
                    await asyncio.sleep(KEEPALIVE_SECONDS / 10)
            if not done or (self.echoes and said != text):
                self.wrong.append(f"asked for {text[:40]!r}, got {said[:40]!r} (ended: {done})")
                self.outcomes["wrong"] += 1
            else:
                self.outcomes["slow" if draw < HANG_UP + SLOW else "read"] += 1
            return 0.0
        finally:
            writer.close()

    def refused(self, status: int, headers: dict[str, str], answer: dict) -> float:
        """Count a refusal; one that is no clean 429 is wrong."""
        clean = status == 429 and headers.get("retry-after", "").isdecimal() and answer["error"]["code"]
        self.outcomes["refused" if clean else "wrong"] += 1
        if not clean:
            self.wrong.append(f"{status}: {json.dumps(answer)[:150]}")
        return random.uniform(0.2, 1.0)  # sooner than asked, to keep the queue full


async def read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """Status and headers of an answer."""
    first, *rest = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
    return int(first.split()[1]), headers


async def lines_of(reader: asyncio.StreamReader) -> AsyncIterator[str]:
    """The lines of a chunked body."""
    held = b""
    while size := int((await reader.readline()).strip() or b"0", 16):
        held += await reader.readexactly(size + 2)
        held = held[:-2]
        *lines, held = held.split(b"\n")
        for line in lines:
            yield line.decode()


def memory(process: int) -> float:
    """Resident memory of a process in MB."""
    status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


async def run(load: Load, clients: int, seconds: float, process: int | None) -> list[float]:
    """Let the clients ask; return the memory of the server, a number a second."""
    until = time.monotonic() + seconds
    tasks = [asyncio.ensure_future(load.client(number, until)) for number in range(clients)]
    measured = []
    while not all(task.done() for task in tasks):
        if process is not None:
            measured.append(memory(process))
        await asyncio.sleep(1)
    await asyncio.gather(*tasks)
    return measured


def serve(parallel: int, queue: int, token_seconds: float) -> None:
    """The child: the API over an engine that repeats the question."""
    import logging

    from carellama.config.serve import ApiOptions
    from carellama.engine.scripted import ScriptedEngine
    from carellama.serve.api.app import create_app
    from carellama.serve.api.auth import NoAuth
    from carellama.serve.api.server import serve as until_signal

    class Forgets(ScriptedEngine):
        def answer(self, prompt, sampling):  # type: ignore[no-untyped-def]
            self.asked.clear()  # its memory of what it was asked is no part of the server
            return super().answer(prompt, sampling)

    logging.basicConfig(level=logging.WARNING)
    engine = Forgets(lambda messages: messages[-1].content, token_seconds=token_seconds, parallel=parallel)
    settings = ApiOptions(port=0, queue=queue)
    until_signal(settings, lambda: create_app(engine, settings, auth=NoAuth()))


def report(load: Load, seconds: float, measured: list[float]) -> bool:
    """Print what became of the requests; return whether all is well."""
    print(f"{sum(load.outcomes.values())} requests: {dict(load.outcomes)}")
    first = sorted(load.first) or [0.0]
    print(
        f"{load.tokens / seconds:,.0f} tokens/s; first token after {statistics.median(first):.3f} s (median), "
        f"{first[int(0.95 * (len(first) - 1))]:.3f} s (95%)"
    )
    flat = True
    if len(measured) >= 10:
        start = int(len(measured) * SETTLED)
        before = statistics.median(measured[start : start + max(3, len(measured) // 10)])
        after = statistics.median(measured[-max(3, len(measured) // 10) :])
        flat = after <= before * 1.05
        print(
            f"memory {before:.1f} MB after {SETTLED:.0%} of the time, {after:.1f} MB at the end ({after / before:.3f})"
        )
    for line in load.wrong[:10]:
        print(f"  {line}")
    return flat and not load.wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--url", help="a server that runs; default: one is started")
    parser.add_argument("--parallel", type=int, default=64)
    parser.add_argument("--queue", type=int, default=64)
    parser.add_argument("--token_seconds", type=float, default=0.005)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.parallel, options.queue, options.token_seconds)
        return
    if options.url:
        load = Load(options.url, echoes=False)
        well = report(load, options.seconds, asyncio.run(run(load, options.clients, options.seconds, None)))
        sys.exit(not well)
    words = [f"--{name}={getattr(options, name)}" for name in ("parallel", "queue", "token_seconds")]
    child = subprocess.Popen([sys.executable, __file__, "--serve", *words], stderr=subprocess.PIPE, text=True)
    try:
        assert child.stderr is not None
        load = Load(child.stderr.readline().split()[2], echoes=True)
        measured = asyncio.run(run(load, options.clients, options.seconds, child.pid))
        well = report(load, options.seconds, measured)
    finally:
        child.terminate()
        said = child.communicate(timeout=60)[1]
    if said or child.returncode:
        print(f"the server ended with status {child.returncode} and said:\n{said[-2000:]}")
    sys.exit(not well or bool(child.returncode))


if __name__ == "__main__":
    main()
