"""What the API costs over its engine: tokens/s of several streams, and seconds to the first token, bare and served.

    python benchmarks/api_front.py --model smollm2-135m --streams 8 --rounds 5

Bare: threads of this process read `engine.stream`. Served: `curl` reads the same answers from the API, which runs in
this process as it does in `carellama api`. The rounds alternate, so that a shared machine slows both; the ratio is
taken round by round. Each prompt is new, so that no cache of prompts helps.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count

from carellama.config.reader import parse_options
from carellama.config.serve import API_OPTIONS
from carellama.engine.base import Engine, Sampling, drain
from carellama.engine.generate import stream as stream_of
from carellama.engine.load import choose
from carellama.records import Message
from carellama.serve.api import server
from carellama.serve.api.app import create_app
from carellama.serve.api.auth import NoAuth
from carellama.serve.hosts import bind_socket

NUMBERS = count(1)


def question() -> str:
    """A prompt that was not asked before."""
    return f"Patient {next(NUMBERS)} asks: what helps against a sore throat, and when should I see a doctor?"


def bare(engine: Engine, streams: int, tokens: int) -> tuple[float, float]:
    """Seconds until all streams have ended, and until the first token of the first one."""
    first: list[float] = []

    def one(text: str) -> None:
        stream = stream_of(engine, (Message("user", text),), Sampling(tokens, temperature=0))
        for piece in stream:
            if piece.text:
                first.append(time.perf_counter() - began)
                break
        drain(stream)

    with ThreadPoolExecutor(streams) as pool:
        began = time.perf_counter()
        list(pool.map(one, [question() for _ in range(streams)]))
        return time.perf_counter() - began, first[0]


def served(url: str, streams: int, tokens: int) -> tuple[float, float]:
    """The same by the API. `curl` says when its first byte came, which is that of the first token."""
    bodies = [
        {"messages": [{"role": "user", "content": question()}], "stream": True, "max_tokens": tokens, "temperature": 0}
        for _ in range(streams)
    ]
    words = ["curl", "-sN", "-o", "/dev/null", "-w", "%{time_starttransfer}", f"{url}/v1/chat/completions"]
    words += ["-H", "Content-Type: application/json", "-d"]
    began = time.perf_counter()
    running = [subprocess.Popen([*words, json.dumps(body)], stdout=subprocess.PIPE, text=True) for body in bodies]
    first = [float(one.communicate()[0]) for one in running]
    return time.perf_counter() - began, min(first)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    words = ["--model_name_or_path", options.model, "--parallel", str(options.streams), "--port", "0"]
    model, prompt, options_, *_, settings = parse_options(API_OPTIONS, words, "carellama api")
    engine = choose(model, prompt, options_)
    with bind_socket(settings.host, settings.port) as listening:
        app = create_app(engine, settings, auth=NoAuth())
        running = server.Server(server._config(app, settings), app)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
        thread.start()
        while not running.started:
            time.sleep(0.01)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        bare(engine, options.streams, 8)
        served(url, options.streams, 8)
        ratios, later = [], []
        for _ in range(options.rounds):
            alone, front = bare(engine, options.streams, options.tokens), served(url, options.streams, options.tokens)
            ratios.append(alone[0] / front[0])
            rate = options.streams * options.tokens
            print(f"{rate / alone[0]:.0f} tokens/s bare, {rate / front[0]:.0f} served: {ratios[-1]:.3f}")
            for _ in range(4):
                later.append(served(url, 1, 2)[1] - bare(engine, 1, 2)[1])
        running.should_exit = True
        thread.join()
    engine.close()
    print(f"median of the ratios {statistics.median(ratios):.3f}; the first token comes", end=" ")
    print(f"{1000 * statistics.median(later):.1f} ms later (median of {len(later)})")


if __name__ == "__main__":
    main()
