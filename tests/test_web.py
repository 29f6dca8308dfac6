"""The web page: each visitor has a conversation of his own; nothing is run, loaded or kept that should not be."""

from __future__ import annotations

import base64
import itertools
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from carellama.assistant import Assistant
from carellama.config.serve import WebOptions, credentials
from carellama.engine.base import Piece, PromptTooLong, Sampling, Unavailable, Unsupported
from carellama.engine.scripted import ScriptedEngine
from carellama.errors import UserError
from carellama.records import Message
from carellama.serve.page.markdown import answer_markdown
from carellama.serve.page.visits import Visits
from carellama.serve.page.words import error_text, page_words
from conftest import REPOSITORY

gradio = pytest.importorskip("gradio")
httpx = pytest.importorskip("httpx")
PASSWORD = "clinic:correct horse"
NUMBERS = (0.5, 0.9, 40, 100, 1.1)  # temperature, top_p, top_k, max_new_tokens, repetition_penalty


def page_of(engine: Any, system: str | None = None, **options: Any):
    from carellama.serve.page.web import Page

    return Page(Assistant(engine, system, Sampling(64)), WebOptions(**options))


def visitor(key: str = "a", **headers: str) -> Any:
    return SimpleNamespace(session_hash=key, headers=headers)


def texts(shown: list[Any]) -> list[str]:
    """The messages of what a button gives: [chat, note, ask, stop]."""
    return [row["content"][0]["text"] for row in shown[-4]]


def asked(page: Any, question: str, key: str = "a", *, language: str = "en", system: str = "", adapter: str = ""):
    """Ask as the browser does; return all that the page showed."""
    first = page.ask(question, language, visitor(key))[1:]
    return [first, *page.answer(language, system, adapter, *NUMBERS, visitor(key))]


def wait_for(true: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)


def test_an_answer_streams_and_is_remembered() -> None:
    engine = ScriptedEngine(lambda messages: f"About {messages[-1].content}.", token_seconds=0.02)
    page = page_of(engine, "Brief.")
    shown = asked(page, " fever ")
    assert texts(shown[0]) == ["fever"] and texts(shown[-1]) == ["fever", "About fever."]
    grown = [texts(one)[1] for one in shown if len(texts(one)) == 2]
    assert len(grown) > 3 and all(after.startswith(before) for before, after in itertools.pairwise(grown))
    asked(page, "cough", system="Kind.")
    asked(page, "alone", "b")
    assert engine.asked == [
        (Message("system", "Brief."), Message("user", "fever")),
        (Message("system", "Kind."), Message("user", "fever"), Message("assistant", "About fever."),
         Message("user", "cough")),
        (Message("system", "Brief."), Message("user", "alone")),
    ]  # fmt: skip


def test_the_sliders_and_the_model_are_what_the_engine_gets() -> None:
    got: list[Sampling] = []

    class Told(ScriptedEngine):
        def answer(self, prompt, sampling):
            got.append(sampling)
            return super().answer(prompt, sampling)

    shown = asked(page_of(Told("ok", adapters=("tcm",))), "hi", adapter="tcm")
    assert texts(shown[-1])[-1] == "[tcm] ok"
    assert got == [
        Sampling(100, temperature=0.5, top_p=0.9, top_k=40, repetition_penalty=1.1, adapter="tcm")
    ]  # fmt: skip


def test_retry_undo_and_clear() -> None:
    engine = ScriptedEngine(["one", "two", "three"])
    page = page_of(engine)
    assert page.retry("en", visitor())[1] == page_words("en")["nothing"]
    asked(page, "first")
    assert texts(page.retry("en", visitor())) == ["first"]
    *_, shown = page.answer("en", "", "", *NUMBERS, visitor())
    assert texts(shown) == ["first", "two"]
    assert texts(asked(page, "second")[-1]) == ["first", "two", "second", "three"]
    box, *shown = page.undo("", "en", visitor())
    assert box == "second" and texts(shown) == ["first", "two"]
    assert texts(page.clear("en", visitor())) == []
    assert page.undo("typed", "en", visitor())[0] == "typed"
    assert len(engine.asked) == 3


@pytest.mark.parametrize("button", ["stop", "clear", "leave"])
def test_an_answer_that_nobody_wants_gives_its_place_back(button: str) -> None:
    engine = ScriptedEngine("word " * 1000, token_seconds=0.02)
    page = page_of(engine)
    page.ask("long", "zh", visitor())
    stream = page.answer("zh", "", "", *NUMBERS, visitor())
    while len(texts(next(stream))) < 2:
        pass
    assert engine.running == 1 and page.visits.seen("a").question
    assert page.ask("again", "zh", visitor())[0] == "again"  # one at a time; what was typed stays
    assert page.undo("typed", "zh", visitor())[::2] == ["typed", page_words("zh")["busy"], gradio.skip()]
    getattr(page, button)(*([visitor()] if button == "leave" else ["zh", visitor()]))
    *_, shown = stream
    assert engine.running == 0
    if button == "stop":
        assert texts(shown)[0] == "long" and texts(shown)[1].startswith("w") and shown[1] == "已停止。"
    else:
        assert texts(shown) == []
    assert texts(page.ask("next", "zh", visitor())[1:])[-1] == "next"


def test_a_page_that_is_gone_closes_the_stream() -> None:
    engine = ScriptedEngine("word " * 1000)
    page = page_of(engine)
    page.ask("long", "en", visitor())
    stream = page.answer("en", "", "", *NUMBERS, visitor())
    next(stream)
    stream.close()  # as Gradio does
    assert engine.running == 0 and not page.visits.seen("a").question


def test_a_question_that_waits_can_be_stopped_and_the_line_has_an_end() -> None:
    page = page_of(ScriptedEngine("ok", parallel=1), queue=1)
    page.ask("one", "en", visitor("a"))
    page.ask("two", "en", visitor("b"))
    box, *shown = page.ask("three", "zh", visitor("c"))
    assert box == "three" and shown[1] == page_words("zh")["full"] and texts(shown) == []
    page.stop("en", visitor("b"))
    assert texts(list(page.answer("en", "", "", *NUMBERS, visitor("b")))[-1]) == ["two"]
    assert not page.visits.full
    page.leave(visitor("a"))
    assert list(page.answer("en", "", "", *NUMBERS, visitor("a")))[-1][0] == []
    assert page.visits.seen("a") is None


def test_limits_are_told_in_the_language_of_the_page() -> None:
    engine = ScriptedEngine(lambda messages: "w" * 90, context_tokens=400)
    page = page_of(engine, question_chars=500)
    assert page.ask("x" * 501, "zh", visitor())[2] == "问题有 501 个字符，最多 500 个。"
    assert "496 tokens" not in asked(page, "x" * 450, "b")[-1][1] and "457 tokens" in asked(page, "x" * 450, "b")[-1][1]
    for _ in range(3):
        shown = asked(page, "y" * 80, language="zh")
    assert "最早的" in shown[-1][1] and len(texts(shown[-1])) == 6  # the page still shows what the model no longer sees
    cut = page_of(ScriptedEngine("w" * 200))
    assert asked(cut, "long", language="zh")[-1][1] == page_words("zh")["cut"].format(tokens=100)


def test_an_error_is_told_without_what_was_said(caplog) -> None:
    class Broken(ScriptedEngine):
        def answer(self, prompt, sampling):
            yield Piece("half")
            raise ValueError(f"I choke on {prompt.messages[-1].content}")

    page = page_of(Broken(""))
    with caplog.at_level(logging.DEBUG):
        shown = asked(page, "SECRET", language="zh")[-1]
    assert shown[1] == page_words("zh")["broken"] and texts(shown) == ["SECRET", "half"]
    assert "ValueError at" in caplog.text and "SECRET" not in caplog.text


def test_errors_have_both_languages() -> None:
    assert page_words("en").keys() == page_words("zh").keys()
    assert "900" in error_text(PromptTooLong(900, 512), "zh") and "512" in error_text(PromptTooLong(900, 512), "en")
    assert "10.0.0.7" not in error_text(Unavailable("at 10.0.0.7"), "zh") + error_text(Unavailable("at 10.0.0.7"), "en")
    assert error_text(Unsupported("no beams"), "zh") == "该模型不支持此操作 (no beams)"
    assert error_text(UserError("out of memory"), "en") == "That did not work (out of memory)"
    assert "secret" not in error_text(ValueError("secret"), "en")


def test_the_language_is_the_browsers_until_another_is_chosen() -> None:
    page = page_of(ScriptedEngine("ok"))
    language, notice, *rest = page.begin(visitor(**{"accept-language": "zh-CN,zh;q=0.9,en;q=0.8"}))
    assert language == "zh" and "不能代替医生" in notice["value"]
    assert {"提问", "停止", "清空"} <= {one.get("value") for one in rest}
    assert page.begin(visitor(**{"accept-language": "de,zh"}))[0] == "en"
    assert len(page.speak("en", visitor())) == len(rest) + 1


def test_the_page_warns_of_a_language_that_the_model_never_learned() -> None:
    from carellama.serve.page.web import Page

    page = Page(Assistant(ScriptedEngine("--"), None, Sampling(64), ("en",)), WebOptions())
    assert page_words("zh")["other language"] in asked(page, "头痛怎么办？", language="zh")[-1][-3]
    assert page_words("en")["other language"] not in asked(page, "What is asthma?", "b")[-1][-3]


def test_what_a_browser_would_run_or_load_shows_as_text() -> None:
    wild = "<script>alert(1)</script> <IMG src=x onerror=y> <!-- --> ![p](https://example.org/p.png) ![q][1] 1 < 2 <3"
    tame = answer_markdown(wild)
    assert not [sign for sign in ("<script", "</", "<IMG", "<!--", "![") if sign in tame] and "1 < 2 <3" in tame
    for code in ("`<b> ![x](y)`", "```html\n<b>\n```", "~~~\n<b>\n~~~", "``a ` <b>``"):
        assert answer_markdown(f"{code}\n\nx") == f"{code}\n\nx"
    for trick in ("\\`<b>`", "`<b>\n`", "``` a`\n<b>\n```", "`<b>", "``<b>`", "> <b>"):
        assert "<b>" not in answer_markdown(trick)
    assert answer_markdown("```\n<b>") == "```\n<b>"  # while it streams
    assert "mermaid" not in answer_markdown("```mermaid\ngraph\n```\n- ~~~ Mermaid\n")


def test_others_than_this_machine_need_a_password(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("CARELLAMA_WEB_PASSWORD", raising=False)
    for host in ("127.0.0.1", "localhost", "::1", "127.8.9.1"):
        assert credentials(WebOptions(host=host)) is None
    for options in ({"host": "0.0.0.0"}, {"host": "::"}, {"host": "clinic.example"}, {"share": True}):
        with pytest.raises(UserError, match="CARELLAMA_WEB_PASSWORD"):
            credentials(WebOptions(**options))
    file = tmp_path / "password"
    file.write_text(PASSWORD + "\n")
    assert credentials(WebOptions(host="0.0.0.0", password_file=str(file))) == PASSWORD
    monkeypatch.setenv("CARELLAMA_WEB_PASSWORD", "nurse:short")
    with pytest.raises(UserError, match="at least 8") as refused:
        credentials(WebOptions(host="0.0.0.0"))
    assert "short" not in str(refused.value)


def test_a_page_that_is_closed_is_forgotten() -> None:
    visits = Visits(3)
    visits.of("a").begin("one")
    visits.leave("a")
    visits.leave("a")
    assert visits.seen("a") is None and visits.of("a").question == ""


def test_a_tunnel_that_can_not_be_had_is_told_in_one_line(monkeypatch) -> None:
    from carellama.serve.page import web

    def no_tunnel(*_: object) -> None:
        raise RuntimeError("no Internet")

    monkeypatch.setattr("gradio.networking.setup_tunnel", no_tunnel)
    with pytest.raises(UserError, match="--share: no tunnel"):
        web._tunnel(1)


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, ScriptedEngine, Any]]:
    """A real server with a password; its address, engine and page."""
    import uvicorn

    from carellama.serve.page.web import app

    engine = ScriptedEngine(lambda messages: "word " * 40, token_seconds=0.02, parallel=2)
    page = page_of(engine)
    server = uvicorn.Server(
        uvicorn.Config(app(page, PASSWORD), port=0, access_log=False, log_level="error", ws="none",
                       timeout_graceful_shutdown=1)
    )  # fmt: skip
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}", engine, page
    server.should_exit = True
    thread.join(timeout=10)


def basic(password: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(password.encode()).decode()}


def test_the_gate(served) -> None:
    address, _, _ = served
    with httpx.Client(base_url=address) as client:
        assert client.get("/").status_code == 401 and "Basic" in client.get("/config").headers["www-authenticate"]
        assert client.get("/", headers=basic("clinic:wrong horse")).status_code == 401
        client.headers.update(basic(PASSWORD))
        assert client.get("/", headers={"origin": "https://evil.example"}).status_code == 403
        assert client.get("/config", headers={"origin": address}).status_code == 200
        first = client.get("/")
        assert first.status_code == 200 and first.headers["cache-control"] == "no-store"
        policy = dict(part.split(" ", 1) for part in first.headers["content-security-policy"].split("; "))
        assert policy["default-src"] == "'none'" and policy["img-src"] == "'self' data: blob:"
        assert not [rule for rule in policy.values() if "http" in rule or "*" in rule]
        for path in ("/gradio_api/upload", "/monitoring", "/gradio_api/file=/etc/passwd", "/gradio_api/runs", "/x"):
            assert client.get(path).status_code == 404
        assert client.post("/gradio_api/upload", files={"files": b"x"}).status_code == 404
        assert client.post("/gradio_api/run/ask", content=b"x" * 2_000_000).status_code == 413
        assert client.post("/gradio_api/run/ask", content=iter([b"x"])).status_code == 411


def test_a_client_talks_stops_and_leaves(served, tmp_path: Path) -> None:
    from gradio_client import Client

    address, engine, page = served

    def connect() -> Any:
        return Client(address, headers=basic(PASSWORD), verbose=False, download_files=False, analytics_enabled=False)

    first, second = connect(), connect()
    options = ("en", "", "", *NUMBERS)
    first.predict("mine", "en", api_name="/ask")
    second.predict("yours", "en", api_name="/ask")
    job = first.submit(*options, api_name="/answer")
    other = second.submit(*options, api_name="/answer")
    wait_for(lambda: engine.running == 2)
    first.predict("en", api_name="/stop")
    mine, yours = job.result(timeout=30)[0], other.result(timeout=30)[0]
    assert mine[0]["content"][0]["text"] == "mine"
    assert [row["content"][0]["text"] for row in yours] == ["yours", "word " * 20]
    assert len(mine[1]["content"][0]["text"]) < len(yours[1]["content"][0]["text"])
    first.predict("more", "en", api_name="/ask")
    first.submit(*options, api_name="/answer")
    wait_for(lambda: engine.running == 1)
    began = time.monotonic()
    page.leave(visitor(first.session_hash))
    wait_for(lambda: engine.running == 0)
    assert time.monotonic() - began < 5


PROGRAM = """
import sys
from carellama.assistant import Assistant
from carellama.config.serve import WebOptions
from carellama.engine.scripted import ScriptedEngine
from carellama.serve.page.web import run

run(Assistant(ScriptedEngine(lambda messages: "heard " + messages[-1].content)), WebOptions(port=0), None)
"""


@pytest.mark.slow
def test_nothing_of_a_conversation_reaches_the_disk_or_the_log(tmp_path: Path) -> None:
    from gradio_client import Client

    places = {name: str(tmp_path / "home") for name in ("HOME", "TMPDIR", "GRADIO_TEMP_DIR", "XDG_CACHE_HOME")}
    (tmp_path / "home").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path / "home", stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, env={**os.environ, **places, "PYTHONPATH": str(REPOSITORY / "src"), "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    try:
        line = process.stdout.readline()
        address = line.split()[3].rstrip(";")
        client = Client(address, verbose=False, download_files=False, analytics_enabled=False)
        client.predict("MY SECRET ILLNESS", "en", api_name="/ask")
        shown = client.predict("en", "", "", *NUMBERS, api_name="/answer")
        assert "heard MY SECRET ILLNESS" in str(shown)
        client.close()
        with urllib.request.urlopen(f"{address}/gradio_api/heartbeat/open") as held:  # a page that is not closed
            assert b"ALIVE" in held.readline()
            process.send_signal(signal.SIGTERM)
            logged, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert "SECRET" not in logged and "Traceback" not in logged
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or b"SECRET" not in file.read_bytes(), file
