"""Answers of the page outlive the connection: they are read from any event on, by who asked, and stopped."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from api_server import ASKED, Running, running, until
from carellama.assistant import Assistant
from carellama.config.serve import WebOptions
from carellama.engine.scripted import ScriptedEngine
from carellama.safety.layer import SafetyLayer
from carellama.serve.web import answers
from carellama.serve.web.app import add_page

TEXT = "Asthma narrows the airways. It can be treated well."


@pytest.fixture
def static(tmp_path: Path) -> Path:
    """A page as `make web` builds one, in small."""
    (tmp_path / "assets").mkdir()
    (tmp_path / "index.html").write_text("<!doctype html><title>CareLlama</title>", encoding="utf-8")
    (tmp_path / "assets" / "app-1a2b.js").write_text("0", encoding="utf-8")
    return tmp_path


@contextmanager
def page(static: Path, engine: Any, options: WebOptions | None = None, **settings: Any) -> Iterator[Running]:
    """Serve the page."""
    with running(engine, extend=lambda app: add_page(app, options or WebOptions(), static), **settings) as server:
        yield server


def ask(server: Running, **body: Any) -> httpx2.Response:
    return httpx2.post(f"{server.url}/web/answers", json={"messages": ASKED, **body}, timeout=20)


def read(server: Running, id: str, after: int = 0, most: int | None = None) -> list[tuple[int, str, Any]]:
    """The events behind number `after`, of which `most` are read before the client hangs up: number, kind, JSON."""
    headers = {"last-event-id": str(after)} if after else {}
    found: list[tuple[int, str, Any]] = []
    number, kind = 0, ""
    with httpx2.stream("GET", f"{server.url}/web/answers/{id}", headers=headers, timeout=20) as response:
        assert response.status_code == 200, response.read()
        for line in response.iter_lines():
            name, _, value = line.partition(": ")
            if name == "id":
                number = int(value)
            elif name == "event":
                kind = value
            elif name == "data":
                found.append((number, kind, value if value == "[DONE]" else json.loads(value)))
                number, kind = 0, ""
                if most is not None and len(found) >= most:
                    break
    return found


def text_of(events: list[tuple[int, str, Any]]) -> str:
    chunks = [data for _, kind, data in events if not kind and data != "[DONE]"]
    return "".join(one["delta"].get("content", "") for chunk in chunks for one in chunk.get("choices", ()))


def test_an_answer_is_read_to_its_end_and_again_from_any_event_on(static: Path) -> None:
    with page(static, ScriptedEngine(TEXT)) as server:
        begun = ask(server)
        assert begun.status_code == 202 and begun.json()["ahead"] == 0
        events = read(server, begun.json()["id"])
        assert [number for number, _, _ in events] == [*range(1, len(events) + 1)] and len(events) > 4
        assert text_of(events) == TEXT and events[-1][2] == "[DONE]"
        assert events[-2][2]["usage"]["completion_tokens"] > 0
        assert "id" not in events[1][2] and None not in events[1][2]["choices"][0].values()
        assert read(server, begun.json()["id"], after=3) == events[3:]


def test_it_goes_on_while_nobody_reads_and_is_resumed_where_it_was(static: Path) -> None:
    engine = ScriptedEngine(TEXT * 3, token_seconds=0.02)
    with page(static, engine) as server:
        id = ask(server).json()["id"]
        first = read(server, id, most=4)  # a telephone that loses its network
        until(lambda: engine.running == 0)
        rest = read(server, id, after=first[-1][0])
        assert text_of(first) + text_of(rest) == TEXT * 3
        assert [number for number, _, _ in first + rest] == [*range(1, len(first) + len(rest) + 1)]


def test_two_tabs_read_the_same_answer(static: Path) -> None:
    with page(static, ScriptedEngine(TEXT, token_seconds=0.02)) as server:
        id = ask(server).json()["id"]
        found: list[Any] = []
        readers = [threading.Thread(target=lambda: found.append(read(server, id))) for _ in range(2)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(20)
        assert len(found) == 2 and found[0] == found[1] and text_of(found[0]) == TEXT


@pytest.mark.parametrize("action", ["on", "warn"])
def test_a_stopped_answer_ends_as_others_do(static: Path, tmp_path: Path, action: str) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(f"conversation: {{disclaimer: {action}}}")
    engine = ScriptedEngine("x " * 5000, token_seconds=0.01)
    with page(static, Assistant(engine, safety=SafetyLayer("on", "CN", policy=policy))) as server:
        id = ask(server).json()["id"]
        until(lambda: engine.running == 1)
        read(server, id, most=6)
        httpx2.delete(f"{server.url}/web/answers/{id}", timeout=20)
        events = read(server, id)
        *_, (_, _, notice), (_, _, used), (_, _, done) = events
        assert done == "[DONE]" and used["usage"]["completion_tokens"] > 2
        delta = notice["choices"][0]["delta"]
        assert [one["kind"] for one in delta["notices"]] == ["disclaimer"]
        assert delta["content"] == (f"\n\n{delta['notices'][0]['text']}" if action == "on" else "")


def test_a_stopped_answer_ends_and_what_there_is_stays(static: Path) -> None:
    engine = ScriptedEngine("x " * 5000, token_seconds=0.01)
    with page(static, engine) as server:
        id = ask(server, max_tokens=4000).json()["id"]
        read(server, id, most=4)
        assert httpx2.delete(f"{server.url}/web/answers/{id}").status_code == 204
        until(lambda: engine.running == 0, 5)
        events = read(server, id)
        assert events[-1][2] == "[DONE]" and 0 < len(text_of(events)) < 5000


def test_the_place_in_the_queue_is_told_and_a_full_queue_keeps_the_question(static: Path) -> None:
    engine = ScriptedEngine("x " * 5000, token_seconds=0.01, parallel=1)
    with page(static, engine, queue=1) as server:
        running_id = ask(server, max_tokens=4000).json()["id"]
        until(lambda: engine.running == 1)
        waiting = ask(server)
        assert waiting.status_code == 202
        until(lambda: server.state.admission.waiting == 1)
        ((number, kind, place),) = read(server, waiting.json()["id"], most=1)
        assert (number, kind, place.get("ahead")) == (0, "queue", 0), place
        assert place["seconds"] > 0
        refused = ask(server)
        assert refused.status_code == 429 and refused.headers["retry-after"]
        assert refused.json()["error"]["code"] == "server_busy"
        for id in (running_id, waiting.json()["id"]):
            httpx2.delete(f"{server.url}/web/answers/{id}")


@pytest.mark.parametrize("mode", ["on", "warn"])
def test_the_notice_comes_before_the_answer_as_an_event_of_its_own(static: Path, mode: Any) -> None:
    """The page shows it apart from the answer; with `warn` it is no part of the text that is sent back."""
    with page(static, Assistant(ScriptedEngine("请立即就医。"), safety=SafetyLayer(mode))) as server:
        said = [{"role": "user", "content": "胸口压着疼，一身冷汗"}]
        events = read(server, ask(server, messages=said).json()["id"])
        deltas = [data["choices"][0]["delta"] for _, kind, data in events if not kind and "choices" in data]
        first = next(delta for delta in deltas if delta.get("content") or delta.get("notices"))
        assert first["notices"][0]["level"] == "emergency" and "120" in first["notices"][0]["text"]
        assert ("120" in first.get("content", "")) == (mode == "on")


def test_an_error_is_an_event_with_its_status_and_the_notices(static: Path) -> None:
    engine = Assistant(ScriptedEngine("x", context_tokens=40), safety=SafetyLayer("on"))
    with page(static, engine) as server:
        said = [{"role": "user", "content": "My chest hurts and my left arm is numb. " * 20}]
        id = ask(server, messages=said).json()["id"]
        (_, kind, failure), (_, _, done) = read(server, id)
        assert (kind, done) == ("failure", "[DONE]")
        assert failure["status"] == 400 and failure["error"]["code"] == "context_length_exceeded"
        assert failure["notices"][0]["level"] == "emergency"


def test_a_question_has_a_longest_length(static: Path) -> None:
    with page(static, ScriptedEngine(TEXT), WebOptions(question_chars=20)) as server:
        assert ask(server).status_code == 202
        refused = ask(server, messages=[{"role": "user", "content": "x" * 21}])
        assert refused.status_code == 400 and refused.json()["error"]["code"] == "question_too_long"


def test_an_answer_is_forgotten_some_time_after_its_end(static: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "KEEP_SECONDS", 0.3)
    with page(static, ScriptedEngine(TEXT)) as server:
        id = ask(server).json()["id"]
        assert text_of(read(server, id)) == TEXT
        time.sleep(0.5)
        gone = httpx2.get(f"{server.url}/web/answers/{id}")
        assert gone.status_code == 404 and gone.json()["error"]["code"] == "answer_not_found"


def test_the_oldest_are_forgotten_where_there_are_too_many(static: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MAX_KEPT_BYTES", 2000)
    with page(static, ScriptedEngine(TEXT)) as server:
        ids = []
        for _ in range(4):
            ids.append(ask(server).json()["id"])
            read(server, ids[-1])
        assert httpx2.get(f"{server.url}/web/answers/{ids[0]}").status_code == 404
        assert text_of(read(server, ids[-1])) == TEXT


def test_a_drain_waits_for_an_answer_that_nobody_reads(static: Path) -> None:
    engine = ScriptedEngine(TEXT * 2, token_seconds=0.02)
    with page(static, engine) as server:
        ask(server)
        until(lambda: engine.running == 1)
        assert len(server.state.running) == 1
        until(lambda: engine.running == 0)
        until(lambda: not server.state.running)


def test_the_page_its_conversations_and_its_headers(static: Path) -> None:
    with page(static, ScriptedEngine(TEXT)) as server:
        for path in ("/", "/c/abc-123"):
            found = httpx2.get(server.url + path)
            assert found.status_code == 200 and "<title>CareLlama" in found.text
            assert found.headers["cache-control"] == "no-cache"
            assert found.headers["content-security-policy"].startswith("default-src 'self'")
        assert "immutable" in httpx2.get(f"{server.url}/assets/app-1a2b.js").headers["cache-control"]
        for path in ("/web/config", "/v1/models", "/assets/none.js", "/../../etc/passwd"):
            found = httpx2.get(server.url + path)
            assert found.headers["cache-control"] == "no-store" and "x-frame-options" in found.headers
        assert httpx2.get(f"{server.url}/assets/none.js").json()["error"]["code"] == "not_found"
        other = {"host": "evil.example"}
        assert httpx2.get(server.url, headers=other).status_code == 403
        assert httpx2.post(f"{server.url}/web/answers", content=b"{}").status_code == 415  # a form of another site


@pytest.mark.parametrize(("profile", "shows"), [("patient", False), ("clinician", False), ("researcher", True)])
def test_patients_get_no_sampling_and_no_system_prompt(static: Path, profile: Any, shows: bool) -> None:
    engine = Assistant(ScriptedEngine(TEXT), "Be brief.", languages=("en",), safety=SafetyLayer("on", "GB"))
    with page(static, engine, WebOptions(profile=profile)) as server:
        config = httpx2.get(f"{server.url}/web/config").json()
        assert ("sampling" in config, "system_prompt" in config) == (shows, shows)
        assert config["profile"] == profile and config["speaks"] == ["en"] and config["safety"] == "on"
        assert config["numbers"]["zh"]["ambulance"] == "999" and set(config["examples"]) == {"en", "zh"}
