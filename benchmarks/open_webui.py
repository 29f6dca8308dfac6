"""Open WebUI as a client of `carellama api`: a document, a chat beside it, background tasks, a stopped answer.

    python -m venv /tmp/owui && /tmp/owui/bin/pip install open-webui           # 5 GB; an environment of its own
    python benchmarks/open_webui.py --env /tmp/owui --ours "--model_name_or_path smollm2-135m" [--settings defaults]

Starts both on the loopback, with the settings of docs/en/front-ends.md (or with Open WebUI's own defaults), and does
what a browser does: signs up, uploads a text of 36 kB, asks a question while the text is embedded, asks about the
text, waits for title, tags and follow-up questions, stops an answer. Prints a table with seconds and what came. The
texts are made up. Exits with 1 if a step failed.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

OWN_PORT, THEIR_PORT = 8097, 8098
V1 = f"http://127.0.0.1:{OWN_PORT}/v1"
CONNECTION = {
    "OPENAI_API_BASE_URL": V1,
    "OPENAI_API_KEY": "any",
    "ENABLE_OLLAMA_API": "false",
    "RAG_EMBEDDING_ENGINE": "openai",
    "RAG_OPENAI_API_BASE_URL": V1,
    "RAG_OPENAI_API_KEY": "any",
    "RAG_EMBEDDING_MODEL": "multilingual-e5-small",
}
DOCUMENTED = {  # as in docs/en/front-ends.md
    "OPENAI_API_CONFIGS": '{"0": {"model_ids": ["carellama"]}}',
    "RAG_EMBEDDING_BATCH_SIZE": "32",
    "RAG_EMBEDDING_PREFIX_FIELD_NAME": "input_type",
    "RAG_EMBEDDING_QUERY_PREFIX": "query",
    "RAG_EMBEDDING_CONTENT_PREFIX": "document",
    "CHUNK_SIZE": "500",
    "CHUNK_OVERLAP": "50",
    "ENABLE_TAGS_GENERATION": "false",
    "ENABLE_FOLLOW_UP_GENERATION": "false",
}
OFFLINE = {"OFFLINE_MODE": "true", "HF_HUB_OFFLINE": "1", "ENABLE_VERSION_UPDATE_CHECK": "false"}
RULES = "\n\n".join(
    f"Rule {number}: on ward {number} the visiting hours end at {number % 6 + 15} o'clock, and each visitor washes "
    "their hands before and after the visit."
    for number in range(270)
)  # 36 kB
Row = tuple[str, float, str]


@contextmanager
def started(command: list[str], url: str, log: Path, **environment: str) -> Iterator[None]:
    """Run a server while the block runs; it is ready when the address answers."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, env={**os.environ, **environment}, start_new_session=True
        )
        try:
            end = time.monotonic() + 180
            while True:
                try:
                    if httpx2.get(url, timeout=5).status_code == 200:
                        break
                except httpx2.HTTPError:
                    pass
                if process.poll() is not None or time.monotonic() > end:
                    sys.exit(f"{command[0]} was not ready:\n{log.read_text()[-2000:]}")
                time.sleep(0.2)
            yield
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


class Browser:
    """What the page of Open WebUI sends."""

    def __init__(self) -> None:
        self.client = httpx2.Client(base_url=f"http://127.0.0.1:{THEIR_PORT}", timeout=300)
        person = {"name": "Test", "email": "test@example.org", "password": uuid.uuid4().hex}
        signed = self.client.post("/api/v1/auths/signup", json=person).raise_for_status().json()
        self.client.headers["authorization"] = f"Bearer {signed['token']}"

    def models(self) -> list[str]:
        """Return the models of the menu."""
        return [one["id"] for one in self.client.get("/api/models").raise_for_status().json()["data"]]

    def upload(self, text: str) -> str:
        """Upload a document and wait until it is embedded; return its id."""
        files = {"file": ("rules.txt", text.encode(), "text/plain")}
        file = self.client.post("/api/v1/files/", files=files).raise_for_status().json()["id"]
        while True:
            status = self.client.get(f"/api/v1/files/{file}/process/status").raise_for_status().json()["status"]
            if status in ("completed", "failed"):
                assert status == "completed", "Open WebUI could not embed the document"
                return str(file)
            time.sleep(0.2)

    def ask(self, question: str, *, tasks: bool = False, files: tuple[str, ...] = ()) -> tuple[str, float, str]:
        """Ask as a new chat of the page; return the answer, seconds to its first text, and the chat's id."""
        asked, answer = str(uuid.uuid4()), str(uuid.uuid4())
        user = {"id": asked, "parentId": None, "childrenIds": [answer], "role": "user", "content": question}
        reply = {"id": answer, "parentId": asked, "childrenIds": [], "role": "assistant", "content": "", "done": False}
        history = {"messages": {asked: user, answer: reply | {"model": "carellama"}}, "currentId": answer}
        chat = {"title": "New Chat", "models": ["carellama"], "history": history, "messages": [user, reply]}
        chat_id = self.client.post("/api/v1/chats/new", json={"chat": chat}).raise_for_status().json()["id"]
        names = ("title_generation", "tags_generation", "follow_up_generation") if tasks else ()
        began, first = time.monotonic(), 0.0
        self.client.post(
            "/api/chat/completions",
            json={
                "model": "carellama", "stream": True, "messages": [{"role": "user", "content": question}],
                "chat_id": chat_id, "id": answer, "session_id": asked, "background_tasks": dict.fromkeys(names, True),
                "files": [{"type": "file", "id": one} for one in files], "params": {}, "features": {},
            },
        ).raise_for_status()  # fmt: skip
        while True:
            message = self.chat(chat_id)["history"]["messages"][answer]
            first = first or (message["content"] != "") * (time.monotonic() - began)
            if message.get("done"):
                assert message["content"], f"no answer: {message.get('error')}"
                return message["content"], first, chat_id
            time.sleep(0.1)

    def chat(self, chat_id: str) -> dict[str, Any]:
        """Return a chat as it is stored."""
        found: dict[str, Any] = self.client.get(f"/api/v1/chats/{chat_id}").raise_for_status().json()["chat"]
        return found

    def stop(self) -> None:
        """Begin a long answer and hang up after its first words."""
        body = {"model": "carellama", "stream": True, "messages": [{"role": "user", "content": "Tell me all of it."}]}
        with self.client.stream("POST", "/api/chat/completions", json=body) as stream:
            for line in stream.iter_lines():
                if '"content":"' in line and '"content":""' not in line:
                    return


def idle() -> bool:
    """Whether nothing is at work in our server."""
    page = httpx2.get(f"http://127.0.0.1:{OWN_PORT}/metrics").text
    return all(f"carellama_answers_{what} 0.0" in page for what in ("running", "waiting"))


def wait_until(true: Callable[[], bool], seconds: float = 300) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"it took more than {seconds:.0f} s"
        time.sleep(0.1)


def visit(rows: list[Row], log: Path) -> None:
    """Do what a browser does, and note each step."""

    def timed(step: str, function: Callable[[], str]) -> None:
        began = time.monotonic()
        said = function()
        rows.append((step, time.monotonic() - began, said))
        print("{:34} {:7.1f} s  {}".format(*rows[-1]), flush=True)

    browser = Browser()
    timed("models of the menu", lambda: ", ".join(browser.models()))
    uploaded: list[str] = []

    def upload() -> str:
        uploaded.append(browser.upload(RULES))
        return f"{len(RULES.encode()) / 1000:.0f} kB, {log.read_text().count('POST /v1/embeddings 200')} requests"

    def beside() -> str:
        answer, first, _ = browser.ask("What is asthma?")
        return f"first text after {first:.1f} s, {len(answer)} characters"

    thread = threading.Thread(target=timed, args=("document embedded", upload))
    thread.start()
    time.sleep(0.5)
    timed("answer beside the document", beside)
    thread.join()
    assert uploaded, "the document was not embedded"
    timed(
        "answer about the document", lambda: browser.ask("When do visits on ward 7 end?", files=(uploaded[0],))[0][:50]
    )
    chats: list[str] = []
    timed("answer with background tasks", lambda: chats.append(browser.ask("What is a fever?", tasks=True)[2]) or "")
    timed("title", lambda: wait_until(lambda: browser.chat(chats[0])["title"] != "New Chat") or "")
    timed("all background tasks", lambda: wait_until(idle) or "")
    timed("stream of an answer that is stopped", lambda: browser.stop() or "")
    timed("server idle after the stop", lambda: wait_until(idle, 10) or "")
    statuses = [line for line in log.read_text().splitlines() if " POST /v1/" in line and " 200 " not in line]
    left_out = [line for line in log.read_text().splitlines() if "left out" in line]
    rows.append(
        ("requests with another status", len(statuses), "; ".join(line.split(" POST ")[1][:40] for line in statuses))
    )
    rows.append(("lines of what was left out", len(left_out), left_out[0].split(": ", 1)[1] if left_out else ""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", type=Path, required=True, help="virtual environment with open-webui")
    parser.add_argument("--ours", default="--model_name_or_path smollm2-135m", help="options of `carellama api`")
    parser.add_argument("--settings", choices=["documented", "defaults"], default="documented")
    options = parser.parse_args()
    ours = [sys.executable, "-m", "carellama", "api", "--port", str(OWN_PORT), *shlex.split(options.ours)]
    theirs = [str(options.env / "bin" / "open-webui"), "serve", "--host", "127.0.0.1", "--port", str(THEIR_PORT)]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "ours.log"
        environment = CONNECTION | (DOCUMENTED if options.settings == "documented" else {}) | OFFLINE
        environment |= {"DATA_DIR": folder, "WEBUI_SECRET_KEY": uuid.uuid4().hex, "OMP_NUM_THREADS": "1"}
        with (
            started(ours, f"{V1}/models", log),
            started(theirs, f"http://127.0.0.1:{THEIR_PORT}/api/version", Path(folder) / "theirs.log", **environment),
        ):
            visit(rows, log)
    print(f"\n| Step ({options.settings} settings) | Seconds | |\n| --- | --- | --- |")
    for step, seconds, said in rows:
        print(f"| {step} | {seconds:.1f} | {json.dumps(said, ensure_ascii=False) if said else ''} |")


if __name__ == "__main__":
    main()
