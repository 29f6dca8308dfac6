"""Mutated requests to every route of `carellama api`: none may get a status of 500 or more, or hang.

    python benchmarks/api_fuzz.py --bodies 10000
    python benchmarks/api_fuzz.py --schemathesis           # and its run over the OpenAPI document
    python benchmarks/api_fuzz.py --url http://127.0.0.1:8000      # a server with a real model

Without --url the server runs in a child process over a scripted engine. A body is a valid one of its route in which
values were exchanged, left out, nested or repeated, or bytes were changed. Every refusal has to have OpenAI's form.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from collections import Counter
from copy import deepcopy
from typing import Any

import httpx2

USER = [{"role": "user", "content": "What is asthma?"}]
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "model": "carellama", "messages": [
            {"role": "system", "content": "s"}, *USER, {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "t"}]},
        ],
        "stream": True, "stream_options": {"include_usage": True}, "n": 1, "max_tokens": 9, "temperature": 0.5,
        "top_p": 1, "top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1, "presence_penalty": 0, "frequency_penalty": 0,
        "seed": 1, "stop": ["x"], "logit_bias": {"5": 1}, "logprobs": True, "top_logprobs": 2, "tools": [TOOL],
        "tool_choice": "auto", "response_format": {"type": "text"}, "user": "u", "max_completion_tokens": 4,
    },
    "/v1/completions": {
        "model": "carellama", "prompt": ["a", "b"], "echo": True, "n": 2, "best_of": 2, "max_tokens": 3, "stop": "x",
        "stream": False, "temperature": 0, "seed": 3,
    },
    "/v1/embeddings": {"model": "carellama", "input": ["a", "b"], "encoding_format": "base64", "dimensions": 8},
    "/v1/rerank": {"query": "q", "documents": ["a", {"text": "b"}], "top_n": 1, "return_documents": True},
    "/v1/score": {"messages": [[*USER, {"role": "assistant", "content": "a"}]]},
    "/tokenize": {"prompt": "a", "messages": None, "tools": None},
}  # fmt: skip
ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**64), 10**40, 0.5, -0.0, 1e308, float("nan"), float("inf"), "", " ",
    "x" * 5000, "\ud800", "\x00", "发烧", "\U0001f912", "null", "[]", [], {}, [[]], [{}], {"": ""}, [None], ["a", 1],
    {"type": "text"}, {"role": "user"}, {"type": "image_url"}, "carellama:", "system", [[1, 2]], [1, 2],
]  # fmt: skip


def mutated(draws: random.Random, path: str) -> bytes:
    """A body that may be anything."""
    body = json.loads(json.dumps(BODIES[path]))
    for _ in range(draws.randint(1, 3)):
        _mutate(draws, body)
    text = json.dumps(body).encode("utf-8", "surrogatepass")
    if draws.random() < 0.15:
        text = text[: draws.randrange(len(text) + 1)]
    if draws.random() < 0.15 and text:
        changed = bytearray(text)
        for _ in range(draws.randint(1, 4)):
            changed[draws.randrange(len(changed))] = draws.randrange(256)
        text = bytes(changed)
    if draws.random() < 0.02:
        deep = draws.choice([50, 500, 5000])
        text = b'{"messages":' + b"[" * deep + b"]" * deep + b"}"
    return text


def _mutate(draws: random.Random, value: Any) -> None:
    """Change something somewhere within a list or an object."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    if not keys:
        return
    key = draws.choice(keys)
    if isinstance(value[key], (dict, list)) and draws.random() < 0.6:
        _mutate(draws, value[key])
        return
    what = draws.random()
    if what < 0.6:
        value[key] = deepcopy(draws.choice(ODD))
    elif what < 0.75:
        del value[key]
    elif what < 0.85 and isinstance(value, list):
        value += [value[key]] * draws.choice([1, 3, 2000])
    elif isinstance(value, dict):
        value[draws.choice([*keys, "functions", "modalities", "suffix", "n"])] = deepcopy(draws.choice(ODD))


def serve() -> None:
    """The child: the API over a scripted engine."""
    import logging

    from carellama.config.serve import ApiOptions
    from carellama.engine.scripted import ScriptedEngine
    from carellama.serve.api.app import create_app
    from carellama.serve.api.auth import NoAuth
    from carellama.serve.api.server import serve as until_signal

    logging.basicConfig(level=logging.WARNING)
    engine = ScriptedEngine("Please see a doctor.", context_tokens=4000, adapters=["tcm"])
    settings = ApiOptions(port=0, max_body_bytes=1 << 20)

    def score(prompts: Any, answers: Any) -> list[float]:
        return [0.5] * len(answers)

    until_signal(settings, lambda: create_app(engine, settings, auth=NoAuth(), score=score))


def fuzz(url: str, bodies: int, seed: int, timeout: float) -> list[str]:
    """Send them; return what was wrong."""
    draws, statuses, wrong = random.Random(seed), Counter[int](), list[str]()
    slowest = 0.0
    with httpx2.Client(base_url=url, timeout=timeout) as http:
        for _ in range(bodies):
            path = draws.choice(list(BODIES))
            content = mutated(draws, path)
            began = time.monotonic()
            try:
                answer = http.post(path, content=content, headers={"content-type": "application/json"})
            except httpx2.HTTPError as error:
                wrong.append(f"{path}: {type(error).__name__} for {content[:300]!r}")
                continue
            slowest = max(slowest, time.monotonic() - began)
            statuses[answer.status_code] += 1
            refused = answer.status_code >= 400
            if answer.status_code >= 500 or (refused and not answer.json()["error"]["message"]):
                wrong.append(f"{path}: {answer.status_code} for {content[:300]!r}")
    print(f"{bodies} bodies: {dict(sorted(statuses.items()))}; the slowest took {slowest:.2f} s")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bodies", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=20, help="seconds; a model may write thousands of tokens")
    parser.add_argument("--url", help="of a server that runs already")
    parser.add_argument("--schemathesis", action="store_true", help="run `schemathesis`, which has to be installed")
    parser.add_argument("--examples", type=int, default=100, help="of schemathesis, for each route")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve()
        return
    if options.url:
        sys.exit(bool(examined(options.url, options)))
    child = subprocess.Popen([sys.executable, __file__, "--serve"], stderr=subprocess.PIPE, text=True)
    try:
        assert child.stderr is not None
        wrong = examined(child.stderr.readline().split()[2].removesuffix("/v1"), options)
    finally:
        child.terminate()
        said = child.communicate(timeout=60)[1]
    if said or child.returncode:
        print(f"the server ended with status {child.returncode} and said:\n{said[-3000:]}")
    sys.exit(bool(wrong or said or child.returncode))


def examined(url: str, options: argparse.Namespace) -> list[str]:
    """Say and return what is wrong with the server there."""
    wrong = fuzz(url, options.bodies, options.seed, options.timeout)
    if options.schemathesis:
        checks = "--checks=not_a_server_error,status_code_conformance,content_type_conformance"
        words = ["schemathesis", "run", f"{url}/openapi.json", checks, f"--max-examples={options.examples}"]
        if subprocess.run(words, check=False).returncode:
            wrong.append("schemathesis found something")
    for line in wrong[:20]:
        print(line)
    return wrong


if __name__ == "__main__":
    main()
