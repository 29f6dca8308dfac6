"""`carellama api` against another OpenAI-compatible server, in turn in one run: tokens/s, first token, time to ready.

    python benchmarks/serve_speed.py --ours "--model_name_or_path smollm2-135m" [--clients 8] [--rounds 3]
    ... --ours "--model_name_or_path smollm2-135m --engine openvino" --peer "llamafactory-cli api ..." --peer_port 8100

Each command starts its server on the loopback; it is ready when /v1/models answers. Each client then asks `--answers`
questions one after the other, streamed, at most `--tokens` tokens each, greedy. Tokens are those that the server counts
in `usage`, or the pieces that carried text where it counts none. The machine may be shared: only the ratios of
neighbouring runs count.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

QUESTIONS = (
    "What are the symptoms of diabetes?", "How is high blood pressure treated?", "What is asthma?", "Explain anaemia.",
    "What causes migraine?", "How is a fever in children treated?", "What does aspirin do?", "What is pneumonia?",
)  # fmt: skip
OWN_PORT = 8099


def request(url: str, body: dict[str, Any] | None = None) -> urllib.request.Request:
    """A request as a client would send it."""
    data = None if body is None else json.dumps(body).encode()
    return urllib.request.Request(url, data, {"content-type": "application/json"})


def ready(process: subprocess.Popen[bytes], base: str, patience: float) -> tuple[str, float]:
    """Wait until the server lists a model; return its name and the seconds since the start."""
    began = time.monotonic()
    while time.monotonic() - began < patience:
        if process.poll() is not None:
            sys.exit(f"the server ended with {process.returncode} before it was ready")
        try:
            with urllib.request.urlopen(request(f"{base}/v1/models"), timeout=5) as answer:
                return str(json.load(answer)["data"][0]["id"]), time.monotonic() - began
        except (OSError, ValueError, LookupError):
            time.sleep(0.02)
    sys.exit(f"the server was not ready after {patience:.0f} s")


def ask(base: str, model: str, question: str, tokens: int) -> dict[str, float]:
    """Stream one answer; its tokens, seconds to the first text, and seconds in all."""
    body = {
        "model": model, "messages": [{"role": "user", "content": question}], "max_tokens": tokens, "temperature": 0,
        "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    began, first, pieces, counted = time.monotonic(), 0.0, 0, 0
    with urllib.request.urlopen(request(f"{base}/v1/chat/completions", body), timeout=600) as answer:
        for line in answer:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            counted = (event.get("usage") or {}).get("completion_tokens") or counted
            if any((choice.get("delta") or {}).get("content") for choice in event.get("choices") or ()):
                first = first or time.monotonic() - began
                pieces += 1
    return {"tokens": counted or pieces, "first": first, "whole": time.monotonic() - began}


def load(base: str, model: str, options: argparse.Namespace) -> dict[str, float]:
    """All clients at once, each with its questions in turn."""

    def client(number: int) -> list[dict[str, float]]:
        order = [QUESTIONS[(number + turn) % len(QUESTIONS)] for turn in range(options.answers)]
        return [ask(base, model, question, options.tokens) for question in order]

    ask(base, model, QUESTIONS[0], 8)
    began = time.monotonic()
    with ThreadPoolExecutor(options.clients) as pool:
        answers = [answer for found in pool.map(client, range(options.clients)) for answer in found]
    seconds = time.monotonic() - began
    return {
        "tokens/s": sum(answer["tokens"] for answer in answers) / seconds,
        "first token ms": 1000 * statistics.median(answer["first"] for answer in answers),
        "slowest s": max(answer["whole"] for answer in answers),
    }


def served(command: list[str], port: int, options: argparse.Namespace) -> dict[str, float]:
    """Start a server, load it, and end it."""
    base = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile() as log:
        hidden = {"CUDA_VISIBLE_DEVICES": ""} if options.device == "cpu" else {}
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", **hidden}
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        try:
            model, seconds = ready(process, base, options.patience)
            return {"ready s": seconds, **load(base, model, options)}
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", required=True, help="options of `carellama api`")
    parser.add_argument("--peer", help="the command of the other server; without it only ours is measured")
    parser.add_argument("--peer_port", type=int, default=8100)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--answers", type=int, default=1, help="questions of a client, one after the other")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="cpu hides any GPU from both servers")
    parser.add_argument("--patience", type=float, default=300.0, help="seconds that a server may take to be ready")
    options = parser.parse_args()
    ours = [sys.executable, "-m", "carellama", "api", "--port", str(OWN_PORT), *shlex.split(options.ours)]
    servers = {"peer": (shlex.split(options.peer), options.peer_port)} if options.peer else {}
    servers["CareLlama"] = (ours, OWN_PORT)
    kept: list[dict[str, dict[str, float]]] = []
    for number in range(options.rounds):
        kept.append({})
        for name, (command, port) in servers.items():
            found = kept[-1][name] = served(command, port, options)
            print(f"round {number + 1} {name:10}", *(f"{key} {value:.4g}" for key, value in found.items()), flush=True)
    if options.peer:
        ratio = statistics.median(found["CareLlama"]["tokens/s"] / found["peer"]["tokens/s"] for found in kept)
        print(f"median ratio of tokens/s: {ratio:.2f}")


if __name__ == "__main__":
    main()
