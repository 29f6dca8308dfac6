"""The exported page in a real browser whose network is off, and whose server is gone: it opens and answers."""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from carellama.config.engine import GenerationOptions
from carellama.export.web.write import write_web
from carellama.records import Message
from carellama.templates.template import get_template
from conftest import make_model, make_tokenizer
from page_site import MARKS, PHONE, browser, check_page
from tiny_gguf import write_tiny_gguf

__all__ = ["browser"]
pytestmark = MARKS
TOKENS, CONTEXT = 24, 512
QUESTION = re.compile("Your question|您的问题")
START = re.compile("^(Download|Start|Continue|下载|启动|继续)")


FULL = "caches.open = async () => ({ keys: async () => [], put: async () => { throw new Error('full') } })"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Static files, as `python -m http.server` serves them."""
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


class Phone:
    """A browser of its own at the exported page."""

    def __init__(self, browser: Any, size: dict[str, int] = PHONE, locale: str = "en-US", **settings: Any) -> None:
        self.context = browser.new_context(viewport=size, locale=locale, **settings)
        self.page = self.context.new_page()
        self.faults = list[str]()
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.asked = list[str]()  # addresses that the page asked for
        self.context.on("request", lambda request: self.asked.append(request.url))

    @property
    def box(self) -> Any:
        return self.page.get_by_role("textbox", name=QUESTION)

    def start(self) -> None:
        self.page.get_by_role("button", name=START).click()
        self.box.wait_for(timeout=60_000)

    def ask(self, question: str, *, wait: bool = True) -> str:
        """The last answer, when it has ended."""
        articles = self.page.get_by_role("article")
        before = articles.count()
        self.box.fill(question)
        self.page.get_by_role("button", name=re.compile("^(Send|发送)")).click()
        articles.nth(before + 1).wait_for()  # it may have ended before anybody looks
        if wait:
            self.page.locator("article[data-running]").wait_for(state="detached", timeout=60_000)
        return articles.last.inner_text()

    def go_offline(self) -> None:
        """Wait until the page is kept, and cut the network."""
        self.page.get_by_text(re.compile("Ready for flight mode|可在飞行模式下使用")).wait_for(timeout=60_000)
        self.context.set_offline(True)


@pytest.fixture
def phone(browser: Any) -> Iterator[Callable[..., Phone]]:
    made: list[Phone] = []

    def take(**settings: Any) -> Phone:
        made.append(Phone(browser, **settings))
        return made[-1]

    yield take
    for one in made:
        one.context.close()
    assert [one.faults for one in made] == [[] for _ in made] and made


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = make_model(max_position_embeddings=CONTEXT)
    return write_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf", model, make_tokenizer())


def export(folder: Path, gguf: Path, tokens: int = TOKENS, context: int = CONTEXT) -> Path:
    generating = GenerationOptions(do_sample=False, max_new_tokens=tokens)
    template = get_template(None, make_tokenizer())
    more: dict[str, Any] = {"generating": generating, "context_tokens": context}
    write_web(folder, gguf, template, name="tiny", language="en", country="US", **more)
    return folder


@pytest.fixture(scope="module")
def folder(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(tmp_path_factory.mktemp("export") / "web", tiny)


def of_llama_cpp(gguf: Path, talks: list[list[Message]]) -> list[str]:
    """The greedy answers of llama.cpp in the engine of the project."""
    from carellama.engine.base import Sampling
    from carellama.engine.generate import generate
    from carellama.engine.llamacpp.engine import LlamaCppEngine

    engine = LlamaCppEngine(gguf, context_tokens=CONTEXT, parallel=1)
    try:
        sampling = Sampling(temperature=0.0, max_new_tokens=TOKENS)
        return [generate(engine, [talk], sampling)[0].text for talk in talks]
    finally:
        engine.close()


def test_in_flight_mode_it_answers_as_llama_cpp_does(phone: Callable[..., Phone], folder: Path, tiny: Path) -> None:
    one = phone()
    one.context.add_init_script("Object.defineProperty(navigator, 'hardwareConcurrency', { get: () => 3 })")
    with served(folder) as url:
        one.page.goto(url)
        one.start()
        one.go_offline()
    before = len(one.asked)
    one.page.reload()
    one.start()
    first = one.ask("What is asthma?")
    second = one.ask("发烧三天了 <|im_end|> 怎么办？")
    asked = [Message("user", "What is asthma?")]
    want = of_llama_cpp(tiny, [asked])
    talk = [*asked, Message("assistant", want[0]), Message("user", "发烧三天了 <|im_end|> 怎么办？")]
    want += of_llama_cpp(tiny, [talk])
    assert len(want[0]) > 20 and want[0] != want[1]
    one.page.get_by_role("button", name="Settings").click()
    one.page.get_by_text("threads: 2").wait_for()  # the service worker sends the headers that allow them
    assert [text.split("\n\n")[1] for text in (first, second)] == want
    assert all(address.startswith((url, f"blob:{url}")) for address in one.asked[before:])


@pytest.mark.parametrize(
    ("locale", "question", "call", "other"),
    [("zh-CN", "胸痛，呼吸困难", "拨打 911", "拨打 999"), ("en-US", "I can't breathe", "Call 911", "Call 999")],
    ids=["zh", "en"],
)
def test_what_sounds_like_an_emergency_is_said_before_the_model_speaks(
    locale: str, question: str, call: str, other: str, phone: Callable[..., Phone], folder: Path
) -> None:
    one = phone(locale=locale)
    with served(folder) as url:
        one.page.goto(url)
        one.start()
        one.go_offline()
    told = one.ask(question)
    assert len(told[told.rindex("911") :]) > 20  # the answer stands behind the notice
    link = one.page.get_by_role("link", name=call, exact=True)
    assert link.get_attribute("href") == "tel:911"
    assert "911" not in one.ask("?") and link.count() == 1  # once is enough
    one.page.get_by_role("combobox").select_option("GB")
    one.page.get_by_role("link", name=other, exact=True).wait_for()
    one.page.reload()
    one.start()
    one.page.get_by_role("link", name=other, exact=True).wait_for()
    check_page(one.page)


def test_an_answer_can_be_stopped_and_the_talk_is_kept_and_deleted(phone: Callable[..., Phone], tmp_path: Path) -> None:
    one, tokens = phone(), 16 * CONTEXT
    endless = write_tiny_gguf(tmp_path / "e.gguf", make_model(), make_tokenizer(), context=2 * tokens, ends=False)
    with served(export(tmp_path / "web", endless, tokens, 2 * tokens)) as url:
        one.page.goto(url)
        one.start()
        one.ask("Tell me all about asthma", wait=False)
        one.page.get_by_role("button", name="Stop").click()
        one.page.get_by_text("You stopped this answer.").wait_for()
        one.page.reload()
        one.start()
        one.page.get_by_text("Tell me all about asthma").wait_for()
        one.page.get_by_role("button", name="Settings").click()
        one.page.get_by_role("button", name="Delete the conversation").click()
        one.page.get_by_role("button", name="Delete", exact=True).click()
        one.page.get_by_role("article").first.wait_for(state="detached")
        one.page.reload()
        one.start()
        assert one.page.get_by_role("article").count() == 0


def test_without_isolation_one_thread_answers(phone: Callable[..., Phone], folder: Path, tiny: Path) -> None:
    """A host that lets no service worker take over, as on a first visit: the build for one thread runs."""
    one = phone(service_workers="block")
    with served(folder) as url:
        one.page.goto(url)
        one.start()
        assert not one.page.evaluate("crossOriginIsolated")
        got = one.ask("What is asthma?").split("\n\n")[1]
    assert got == of_llama_cpp(tiny, [[Message("user", "What is asthma?")]])[0]


def test_what_stands_in_the_way_is_said(phone: Callable[..., Phone], tiny: Path, tmp_path: Path) -> None:
    broken = export(tmp_path / "web", tiny)
    piece = next((broken / "model").iterdir())
    whole = piece.read_bytes()
    one = phone()
    with served(broken) as url:
        piece.write_bytes(whole[:-5] + b"wrong")
        one.page.goto(url)
        one.page.get_by_role("button", name=START).click()
        one.page.get_by_role("alert").get_by_text(f"{piece.name} is missing or has other contents").wait_for()
        piece.write_bytes(whole[:1000])
        one.page.get_by_role("button", name=START).click()
        one.page.get_by_role("alert").get_by_text(f"{piece.name} is missing").wait_for()
        piece.write_bytes(whole)
        one.page.evaluate(FULL)
        one.page.get_by_role("button", name=START).click()
        one.page.get_by_role("alert").get_by_text("Storage is full").wait_for()
    without = phone()
    without.context.add_init_script("WebAssembly.validate = () => false")
    with served(broken) as url:
        without.page.goto(url)
        without.page.get_by_role("alert").get_by_text("lacks WebAssembly").wait_for()


@pytest.mark.parametrize(("scheme", "locale"), [("light", "en-US"), ("dark", "zh-CN")])
def test_it_fits_a_narrow_phone_in_both_languages(
    scheme: str, locale: str, phone: Callable[..., Phone], folder: Path
) -> None:
    one = phone(size={"width": 320, "height": 640}, locale=locale, color_scheme=scheme)
    with served(folder) as url:
        one.page.goto(url)
        one.page.get_by_role("button", name=START).wait_for()
        check_page(one.page)
        one.start()
        one.ask("胸痛，呼吸困难")
        check_page(one.page)
        one.page.get_by_role("button", name=re.compile("Settings|设置")).click()
        check_page(one.page)


def test_it_can_be_installed(phone: Callable[..., Phone], folder: Path) -> None:
    one = phone()
    with served(folder) as url:
        one.page.goto(url)
        assert one.page.evaluate("navigator.serviceWorker.ready.then(() => true)")
        session = one.context.new_cdp_session(one.page)
        assert session.send("Page.getAppManifest")["errors"] == []
        errors = session.send("Page.getInstallabilityErrors")["installabilityErrors"]
        assert [error["errorId"] for error in errors if error["errorId"] != "in-incognito"] == []
