"""What a chat page costs and keeps: bytes, requests, axe findings, doses, a reload, a gap in the network.

    python benchmarks/page_load.py --endpoint 8300                    # OpenAI's API with answers from a script
    carellama web --engine openai --endpoint http://127.0.0.1:8300/v1 --model_name_or_path scripted --profile patient
    python benchmarks/page_load.py --url http://127.0.0.1:7860 --box "textarea" --send "button[type=submit]"

The page has to answer by that endpoint: `250 words` in a question gives so many numbered words, `dose` the doses below,
anything else "ok". Every page is opened in Chromium with an empty profile. Its connections go through a relay in this
process, which counts the bytes of both directions (headers, WebSocket frames and service workers included) and can cut
them; requests and the bytes of responses (`Network.loadingFinished`) are those of the DevTools protocol. Selectors are
Playwright's. What is not clicked or typed here is not tried. The result is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Error, Page, sync_playwright

DOSES = "1~2片，5*10mg，2**3，H_2O，pH<7.35，10%~20%"
SIZES = {"desktop": {"width": 1280, "height": 800}, "phone": {"width": 390, "height": 844}}
SMALL = {"width": 320, "height": 568}
ANSWER = """() => {
    const holds = one => /word0\\b[^]*word399\\b/.test(one.innerText ?? '');
    let found = document.body;
    for (let next = found; next; next = [...found.children].find(holds)) found = next;
    return found.innerText;
}"""  # of the first element that holds all words and has no child that does
QUIET = 1.5  # seconds without a byte, after which a step is over
LONGEST = 15.0  # seconds that are waited for that
SAYS_SO = "connect|network|offline|server|retry"  # what a page says of a gap in the network
GAP = 4.0  # seconds without a network


class Relay:
    """A port whose connections are passed on to a server, counted, and cut when told to."""

    def __init__(self, host: str, port: int) -> None:
        self.target, self.port, self.down, self.up, self.is_cut = (host, port), 0, 0, 0, False
        self.last = time.monotonic()  # when the last byte came or went
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        threading.Thread(target=self._run, args=(ready,), daemon=True).start()
        ready.wait()

    def cut(self, is_cut: bool) -> None:
        """Abort all connections and close new ones at once, until told otherwise."""
        self.is_cut = is_cut
        for writer in list(self._writers) * is_cut:
            self._loop.call_soon_threadsafe(writer.transport.abort)

    def _run(self, ready: threading.Event) -> None:
        async def serve() -> None:
            server = await asyncio.start_server(self._pass_on, "127.0.0.1", 0)
            self.port = server.sockets[0].getsockname()[1]
            ready.set()
            await server.serve_forever()

        self._loop.run_until_complete(serve())

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_cut:
            return writer.transport.abort()
        there, back = await asyncio.open_connection(*self.target)
        self._writers |= {writer, back}
        await asyncio.gather(self._copy(reader, back, "up"), self._copy(there, writer, "down"))
        self._writers -= {writer, back}

    async def _copy(self, source: asyncio.StreamReader, to: asyncio.StreamWriter, way: str) -> None:
        try:
            while data := await source.read(65536):
                setattr(self, way, getattr(self, way) + len(data))
                self.last = time.monotonic()
                to.write(data)
                await to.drain()
        except OSError:
            pass
        to.close()


class Endpoint(BaseHTTPRequestHandler):
    """OpenAI's chat completions, a word each event."""

    protocol_version = "HTTP/1.1"
    word_seconds = 0.02

    def log_message(self, *_: object) -> None:
        """Nothing is logged."""

    def do_GET(self) -> None:
        """The list of models."""
        model = {"id": "scripted", "object": "model", "created": 0, "owned_by": "benchmark"}
        self._send({"object": "list", "data": [model]})

    def do_POST(self) -> None:
        """An answer, whole or streamed."""
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        words = script(_text_of(asked["messages"][-1]["content"]))
        head = {"id": "chatcmpl-1", "created": 0, "model": "scripted"}
        if not asked.get("stream"):
            message = {"role": "assistant", "content": "".join(words)}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            usage = {"prompt_tokens": 1, "completion_tokens": len(words), "total_tokens": len(words) + 1}
            return self._send({**head, "object": "chat.completion", "choices": [choice], "usage": usage})
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        try:
            for number, word in enumerate([*words, ""]):
                delta = {"role": "assistant"} if not number else {}
                choice = {
                    "index": 0, "delta": {**delta, "content": word}, "finish_reason": None if word else "stop",
                }  # fmt: skip
                event = json.dumps({**head, "object": "chat.completion.chunk", "choices": [choice]})
                self.wfile.write(f"data: {event}\n\n".encode())
                time.sleep(self.word_seconds)
            self.wfile.write(b"data: [DONE]\n\n")
        except OSError:
            pass
        self.close_connection = True

    def _send(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def script(question: str) -> list[str]:
    """The answer to a question, in the pieces that are sent."""
    if "### Task" in question:  # Open WebUI asks for a title, tags and further questions
        return ['{"title": "Test", "tags": ["Test"], "follow_ups": []}']
    if found := re.search(r"(\d+) words", question):
        return [f"word{number} " for number in range(int(found[1]))]
    return [DOSES[start : start + 4] for start in range(0, len(DOSES), 4)] if "dose" in question else ["ok"]


def _text_of(content: str | list[dict[str, Any]]) -> str:
    return content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)


class Visit:
    """A page in a browser with an empty profile, and what its network does."""

    def __init__(self, browser: Browser, relay: Relay, given: argparse.Namespace, size: dict[str, int]) -> None:
        self.given, self.relay = given, relay
        self.context = browser.new_context(viewport=size, locale=given.locale, has_touch=size["width"] < 500)
        self.page: Page = self.context.new_page()
        self.requests: Counter[str] = Counter()
        self.received = 0.0
        network = self.context.new_cdp_session(self.page)
        network.send("Network.enable")
        network.on("Network.requestWillBeSent", self._requested)
        network.on("Network.webSocketCreated", lambda _: self.requests.update(["websocket"]))
        network.on("Network.loadingFinished", self._finished)
        self.start = self.now()
        self.page.goto(f"http://127.0.0.1:{relay.port}{urlsplit(given.url).path}", wait_until="commit")

    def _requested(self, event: dict[str, Any]) -> None:
        if event["request"]["url"].startswith("http"):
            self.requests[event.get("type", "Other").lower()] += 1

    def _finished(self, event: dict[str, Any]) -> None:
        self.received += event["encodedDataLength"]

    def now(self) -> dict[str, float]:
        """All counters."""
        return {
            "seconds": time.monotonic(), "requests": self.requests.total(), "response_bytes": self.received,
            "bytes_down": self.relay.down, "bytes_up": self.relay.up,
        }  # fmt: skip

    def since(self, before: dict[str, float]) -> dict[str, float]:
        """What was counted since then."""
        return {name: round(value - before[name], 2) for name, value in self.now().items()}

    def settle(self) -> None:
        """Wait until no byte comes or goes."""
        end = time.monotonic() + LONGEST
        self.page.wait_for_timeout(QUIET * 1000)
        while time.monotonic() < end and time.monotonic() - self.relay.last < QUIET:
            self.page.wait_for_timeout(100)

    def ready(self) -> dict[str, float]:
        """Wait until the box can be typed into; what that took."""
        for selector in self.given.dismiss:  # what stands before the box at a first visit
            self.page.locator(selector).first.click(timeout=60_000)
        self.box.wait_for(timeout=60_000)
        self.box.fill("x", timeout=60_000)
        took = self.since(self.start)
        self.box.fill("")
        return took

    @property
    def box(self) -> Any:
        """Where a question is typed."""
        return self.page.locator(self.given.box).first

    def ask(self, question: str, last: str) -> dict[str, float]:
        """Send a question and wait until the page shows `last`; what that took."""
        before = self.now()
        self.send(question)
        self.wait(last, 60)
        self.settle()
        return self.since(before)

    def send(self, question: str) -> None:
        """Type a question and send it."""
        self.box.click()
        self.page.keyboard.insert_text(question)
        if self.given.send:
            self.page.locator(self.given.send).first.click()
        else:
            self.page.keyboard.press("Enter")

    def wait(self, last: str, seconds: float) -> None:
        """Wait until the page shows a text. Raises `TimeoutError` with what it shows instead."""
        if not self.until(lambda text: last in text, seconds):
            raise TimeoutError(f"the page did not show {last!r} but {self.text()[-500:]!r}")

    def until(self, true: Callable[[str], bool], seconds: float) -> bool:
        """Wait for something to be true of the text that is shown."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if true(self.text()):
                return True
            self.page.wait_for_timeout(100)
        return False

    def text(self) -> str:
        """What the page shows."""
        try:
            return self.page.evaluate("document.body ? document.body.innerText : ''")
        except Error:  # it is being loaded again
            return ""

    def axe(self) -> dict[str, int]:
        """Elements by rule, of the findings that axe calls serious or critical."""
        found = Axe().run(self.page).response["violations"]
        return {one["id"]: len(one["nodes"]) for one in found if one["impact"] in ("serious", "critical")}

    def overflows(self) -> bool:
        """Whether the page scrolls sideways."""
        return self.page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth + 1")


def loads(enter: Callable[..., Visit], given: argparse.Namespace) -> dict[str, Any]:
    """Bytes and requests to the first question, to the end of the load, and of three answers in one conversation."""
    one = enter(SIZES["desktop"])
    result: dict[str, Any] = {"first_question": one.ready()}
    one.settle()
    result["whole_load"] = {**one.since(one.start), "kinds": dict(one.requests)}
    lengths = range(given.words, given.words + 3)  # each answer ends with a word that no earlier one has
    result["answers"] = [one.ask(f"Say {words} words, please.", f"word{words - 1}") for words in lengths]
    return result


def findings(enter: Callable[..., Visit], given: argparse.Namespace) -> dict[str, Any]:
    """What axe says of the empty page and after one answer, and whether a narrow page scrolls sideways."""
    result: dict[str, Any] = {}
    for name, size in {**SIZES, "small": SMALL}.items():
        one = enter(size)
        one.ready()
        one.settle()
        result[name] = {"empty": one.axe(), "overflows_empty": one.overflows()}
        one.ask("Say 40 words, please.", "word39")
        result[name] |= {"answered": one.axe(), "overflows_answered": one.overflows()}
    return result


def doses(enter: Callable[..., Visit], given: argparse.Namespace) -> dict[str, Any]:
    """Which doses the page shows as they were written, in an answer and in a question."""
    result = {}
    questions = {"answer": "What is the usual dose for an adult?", "question": f"Is this right: {DOSES}"}
    for place, question in questions.items():
        one = enter(SIZES["desktop"])
        one.ready()
        one.send(question)
        one.wait("20%", 20)
        one.settle()
        shown = one.text()
        changed = [part for part in DOSES.split("，") if part not in shown]
        result[place] = {
            "as_written": DOSES in shown, "changed": changed, "struck_out": one.page.locator("del, s").count(),
        }  # fmt: skip
    return result


def keeps(enter: Callable[..., Visit], given: argparse.Namespace) -> dict[str, Any]:
    """Whether an answer comes to its end after a reload in its middle, and after a gap in the network."""
    result = {}
    for name in ("reload", "gap"):
        one = enter(SIZES["desktop"])
        one.ready()
        one.send("Say 400 words, please.")
        one.wait("word40", 30)
        if name == "reload":
            one.page.reload(wait_until="commit")
        else:
            one.relay.cut(True)
            one.page.wait_for_timeout(GAP * 1000)
            during = one.text()
            one.relay.cut(False)
        whole = one.until(lambda text: "word399" in text, 40)
        text, answer = one.text(), one.page.evaluate(ANSWER)
        result[name] = {
            "question_shown": "Say 400 words" in text, "begin_shown": "word10" in text, "end_shown": whole,
            "each_word_once": re.findall(r"word\d+", answer) == [f"word{number}" for number in range(400)],
        }  # fmt: skip
        if name == "gap":
            result[name]["said"] = [line for line in during.splitlines() if re.search(SAYS_SO, line, re.IGNORECASE)]
    return result


@contextmanager
def visits(given: argparse.Namespace) -> Iterator[Callable[..., Visit]]:
    """Opens the page, each time with an empty profile and a relay of its own."""
    target = urlsplit(given.url)
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    open_now: list[Visit] = []
    with sync_playwright() as driver:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
        browser = driver.chromium.launch(executable_path=chromium, args=arguments)

        def enter(size: dict[str, int]) -> Visit:
            for one in open_now:
                one.context.close()
            open_now[:] = [Visit(browser, Relay(target.hostname or "127.0.0.1", target.port or 80), given, size)]
            return open_now[0]

        try:
            yield enter
        finally:
            browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endpoint", type=int, help="serve the scripted endpoint on this port, and nothing else")
    parser.add_argument("--word_seconds", type=float, default=0.02, help="endpoint: how long each word takes")
    parser.add_argument("--url", help="address of the page")
    parser.add_argument("--box", default="textarea", help="the box for a question")
    parser.add_argument("--send", default="", help="what is clicked to send it; default: the Enter key")
    parser.add_argument("--dismiss", action="append", default=[], help="what is clicked first; may be repeated")
    parser.add_argument("--words", type=int, default=250, help="length of an answer")
    parser.add_argument("--locale", default="en-US", help="language of the browser")
    parser.add_argument("--only", default="loads,findings,doses,keeps", help="parts, comma separated")
    given = parser.parse_args()
    if given.endpoint:
        Endpoint.word_seconds = given.word_seconds
        ThreadingHTTPServer(("127.0.0.1", given.endpoint), Endpoint).serve_forever()
    if not given.url:
        parser.error("--url is missing: the address of a page, as http://127.0.0.1:7860")
    result: dict[str, Any] = {"url": given.url, "date": time.strftime("%Y-%m-%d")}
    parts = {"loads": loads, "findings": findings, "doses": doses, "keeps": keeps}
    with visits(given) as enter:
        for part in given.only.split(","):
            began = time.monotonic()
            try:
                result[part] = parts[part](enter, given)
            except (Error, TimeoutError) as error:
                result[part] = {"failed": str(error)[:600]}
            print(f"{part}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    print(json.dumps(result, ensure_ascii=False, indent=1))
    sys.exit(any("failed" in result[part] for part in given.only.split(",")))


if __name__ == "__main__":
    main()
