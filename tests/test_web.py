"""`carellama web`: who may use it, what a browser may do with it, and that nothing of a conversation is kept."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import pytest

from api_server import until
from carellama.assistant import Assistant
from carellama.config.data import PromptOptions
from carellama.config.engine import EngineOptions
from carellama.config.model import ModelOptions
from carellama.config.serve import ApiOptions, WebOptions, credentials
from carellama.engine.base import Sampling, Unsupported
from carellama.engine.load import choose
from carellama.engine.scripted import ScriptedEngine
from carellama.errors import UserError
from carellama.serve.api import server
from carellama.serve.api.app import create_app
from carellama.serve.api.auth import NoAuth
from carellama.serve.web import app as page
from carellama.serve.web.access import Access
from carellama.serve.web.languages import probe_languages
from carellama.serve.web.page_files import STATIC
from conftest import REPOSITORY

PASSWORD = "clinic:correct horse"


def test_others_than_this_machine_need_a_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CARELLAMA_WEB_PASSWORD", raising=False)
    for host in ("127.0.0.1", "localhost", "::1", "127.8.9.1"):
        assert credentials(WebOptions(host=host)) is None
    refused: list[WebOptions] = [WebOptions(host=host) for host in ("0.0.0.0", "::", "clinic.example")]
    for options in (*refused, WebOptions(share=True)):
        with pytest.raises(UserError, match="CARELLAMA_WEB_PASSWORD"):
            credentials(options)
        assert options.viewer == "patient" and WebOptions().viewer == "researcher"
    file = tmp_path / "password"
    file.write_text(PASSWORD + "\n")
    assert credentials(WebOptions(host="0.0.0.0", password_file=str(file))) == PASSWORD
    monkeypatch.setenv("CARELLAMA_WEB_PASSWORD", "nurse:short")
    with pytest.raises(UserError, match="at least 8") as short:
        credentials(WebOptions(host="0.0.0.0"))
    assert "short" not in str(short.value)


def test_a_tunnel_that_can_not_be_had_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gradio")

    def no_tunnel(*_: object) -> None:
        raise RuntimeError("no Internet")

    monkeypatch.setattr("gradio.networking.setup_tunnel", no_tunnel)
    with pytest.raises(UserError, match="--share: no tunnel"):
        page.open_tunnel(1)


def test_a_page_that_was_not_built_says_how(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="make web"):
        page.add_page(create_app(ScriptedEngine("x"), ApiOptions(), auth=NoAuth()), WebOptions(), tmp_path)


def test_the_page_is_built() -> None:
    text = (STATIC / "index.html").read_text(encoding="utf-8")
    assert "CareLlama" in text and "<script>" not in text and "style=" not in text, "the policy lets no inline code run"


def basic(password: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(password.encode()).decode()}


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, ScriptedEngine]]:
    """A page with a password, as `carellama web` serves it."""
    engine = ScriptedEngine(lambda messages: f"heard {messages[-1].content}")
    started: list[Any] = []

    def keep(settings: ApiOptions, application: Any, listening: Any) -> None:
        one = server.Server(server._config(application(), settings), application())
        started.extend([one, listening.getsockname()[1]])
        one.run(sockets=[listening])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "run", keep)
        assistant = Assistant(engine, "Be brief.", Sampling(64, temperature=0.5, top_k=7))
        access = Access("password", password=PASSWORD)
        thread = threading.Thread(target=page.serve_page, args=(assistant, WebOptions(port=0), access), daemon=True)
        thread.start()
        until(lambda: bool(started) and started[0].started)
        yield f"http://127.0.0.1:{started[1]}", engine
        started[0].should_exit = True
        thread.join(10)


def test_the_password_and_the_origin(served: tuple[str, ScriptedEngine]) -> None:
    address, _ = served
    with httpx2.Client(base_url=address, timeout=20) as client:
        for path in ("/", "/web/config", "/v1/models", "/assets/x.js", "/health"):
            refused = client.get(path)
            assert refused.status_code == 401 and "Basic" in refused.headers["www-authenticate"]
        assert client.get("/", headers=basic("clinic:wrong horse")).status_code == 401
        client.headers.update(basic(PASSWORD))
        assert client.get("/", headers={"origin": "https://evil.example"}).status_code == 403
        assert client.get("/web/config", headers={"origin": address}).status_code == 200
        assert client.get("/", headers={"host": "clinic.example"}).status_code == 200
        first = client.get("/")
        assert first.status_code == 200 and first.headers["cache-control"] == "no-cache"
        policy = dict(part.split(" ", 1) for part in first.headers["content-security-policy"].split("; "))
        assert policy["default-src"] == "'self'" and policy["img-src"] == "'self' data: blob:"
        assert not [rule for rule in policy.values() if "http" in rule or "*" in rule or "unsafe" in rule]


def test_requests_that_say_nothing_get_the_sampling_of_the_command(served: tuple[str, ScriptedEngine]) -> None:
    address, engine = served
    config = httpx2.get(f"{address}/web/config", headers=basic(PASSWORD)).json()
    assert config["sampling"] == {
        "temperature": 0.5, "top_p": 1.0, "top_k": 7, "max_new_tokens": 64, "repetition_penalty": 1.0,
    }  # fmt: skip
    body = {"messages": [{"role": "user", "content": "fever"}]}
    id = httpx2.post(f"{address}/web/answers", json=body, headers=basic(PASSWORD)).json()["id"]
    assert "heard fever" in _text(httpx2.get(f"{address}/web/answers/{id}", headers=basic(PASSWORD)).text)
    assert [message.content for message in engine.asked[-1]] == ["Be brief.", "fever"]


def _text(events: str) -> str:
    lines = [json.loads(line[6:]) for line in events.splitlines() if line.startswith("data: {")]
    return "".join(one["delta"].get("content", "") for line in lines for one in line.get("choices", ()))


def test_the_oldest_turns_are_dropped_and_the_page_is_told(served: tuple[str, ScriptedEngine]) -> None:
    address, engine = served
    engine.context_tokens, before = 300, engine.context_tokens
    try:
        turns = [{"role": role, "content": f"{role} says " + "word " * 10} for role in ("user", "assistant") * 4]
        body = {"messages": [*turns, {"role": "user", "content": "fever"}]}
        id = httpx2.post(f"{address}/web/answers", json=body, headers=basic(PASSWORD)).json()["id"]
        events = httpx2.get(f"{address}/web/answers/{id}", headers=basic(PASSWORD)).text
        assert 'event: dropped\nid: 1\ndata: {"messages":' in events and "heard fever" in _text(events)
    finally:
        engine.context_tokens = before


@pytest.mark.slow
@pytest.mark.parametrize(("name", "spoken"), [("smollm2-135m", ("en",)), ("gemma3-270m", ("en", "zh"))])
def test_the_languages_of_a_model_are_measured(name: str, spoken: tuple[str, ...]) -> None:
    with closing(choose(ModelOptions(name, accept_licence=True), PromptOptions(), EngineOptions())) as engine:
        assert probe_languages(engine) == spoken


def test_a_model_that_nobody_can_ask_has_no_known_language(tiny_folder: Path) -> None:
    class Silent(ScriptedEngine):
        def prompt_logprobs(self, *_: Any) -> Any:
            raise Unsupported("no log-probabilities")

    assert probe_languages(Silent("x")) == ()
    with closing(choose(ModelOptions(str(tiny_folder)), PromptOptions(), EngineOptions(engine="transformers"))) as one:
        assert probe_languages(one) == (), "a random model speaks no language"


PROGRAM = """
from carellama.assistant import Assistant
from carellama.cli import quieten
from carellama.config.serve import WebOptions
from carellama.engine.scripted import ScriptedEngine
from carellama.serve.web.access import Access
from carellama.serve.web.app import serve_page
quieten()
engine = ScriptedEngine(lambda messages: "heard " + messages[-1].content, token_seconds=0.02)
serve_page(Assistant(engine), WebOptions(port=0), Access("open"))
"""


@pytest.mark.slow
def test_nothing_of_a_conversation_reaches_the_disk_or_the_log(tmp_path: Path) -> None:
    places = {name: str(tmp_path / "home") for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME")}
    (tmp_path / "home").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path / "home", stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, env={**os.environ, **places, "PYTHONPATH": str(REPOSITORY / "src"), "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split()[3].rstrip(";")
        body = {"messages": [{"role": "user", "content": "MY SECRET ILLNESS"}]}
        until(lambda: _answers(address), 20)
        id = httpx2.post(f"{address}/web/answers", json=body).json()["id"]
        assert "heard MY SECRET ILLNESS" in _text(httpx2.get(f"{address}/web/answers/{id}").text)
        unread = httpx2.post(f"{address}/web/answers", json=body)
        assert unread.status_code == 202
        process.send_signal(signal.SIGTERM)
        logged, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0
    assert "/web/answers" in logged and "SECRET" not in logged and "Traceback" not in logged
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or b"SECRET" not in file.read_bytes(), file


def _answers(address: str) -> bool:
    try:
        return httpx2.get(f"{address}/health").status_code == 200
    except httpx2.TransportError:
        return False
