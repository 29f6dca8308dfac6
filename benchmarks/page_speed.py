"""How fast the page is, in Chromium over a scripted engine: until one can type, the first token, frames, 100 readers.

    python benchmarks/page_speed.py                    # all four
    python benchmarks/page_speed.py --only frames      # load, first, frames or readers

load     milliseconds from the navigation until the box for a question can be typed into, median of 20 new browsers
first    from the engine's first token to its pixels: the engine notes the time (the clock of both is the machine's),
         the page the frame after the one in which the text came; median of 20 questions
frames   gaps between two frames while 100 tokens a second stream behind 200 messages; where the script's time goes
readers  memory of the server before, during and after 100 open pages: 95 read by HTTP as the page does, 5 are Chromium

Needs what the tests of the page need. Numbers of a machine that does something else beside it say little.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))  # the site, its visitors

from carellama.config.serve import WebOptions  # noqa: E402
from carellama.engine.scripted import ScriptedEngine  # noqa: E402
from page_site import QUESTION, Visitor, chromium, site  # noqa: E402

TOKENS_A_SECOND = 100
FRAMES = """() => { window.gaps = []; let last = performance.now()
  const step = (now) => { window.gaps.push(now - last); last = now; window.counting && requestAnimationFrame(step) }
  window.counting = true; requestAnimationFrame(step) }"""
FIRST = """() => new Promise((done) => {
  const seen = () => document.querySelectorAll('main article .markdown').length > window.before
  const observer = new MutationObserver(() => {
    if (!seen()) return
    observer.disconnect()
    requestAnimationFrame(() => setTimeout(() => done(performance.timeOrigin + performance.now())))  // it was painted
  })
  observer.observe(document.querySelector('main'), { childList: true, subtree: true, characterData: true })
})"""


class NotedEngine(ScriptedEngine):
    """It notes when it gives its first token."""

    def answer(self, prompt: Any, sampling: Any) -> Any:
        """Yield the answer."""
        self.first = 0.0
        pieces = super().answer(prompt, sampling)
        try:
            while True:
                piece = next(pieces)
                self.first = self.first or time.time() * 1000
                yield piece
        except StopIteration as end:
            return end.value


def load(browser: Any) -> None:
    """Print how long it takes until one can type."""
    found = []
    with site(ScriptedEngine("ok"), WebOptions(profile="patient")) as server:
        for _ in range(20):
            context = browser.new_context()
            page = context.new_page()
            page.add_init_script(
                "const box = () => { const one = document.querySelector('main ~ form textarea, form textarea');"
                "one ? (window.usable = performance.now()) : setTimeout(box, 1) }; box()"
            )
            page.goto(server.url)
            page.get_by_role("textbox", name=QUESTION).wait_for()
            found.append(page.evaluate("window.usable"))
            context.close()
    print(f"load: usable after {statistics.median(found):.0f} ms (median; {min(found):.0f} to {max(found):.0f})")


def first(browser: Any) -> None:
    """Print the time from the engine's first token to its pixels."""
    engine, found = NotedEngine("A first word and some more.", token_seconds=0.02), []
    with site(engine, WebOptions(profile="patient")) as server:
        one = Visitor(browser, server)
        for number in range(20):
            one.page.evaluate("window.before = document.querySelectorAll('main article .markdown').length")
            one.page.evaluate(f"window.painted = ({FIRST})(); 0")
            one.ask(f"Question {number}")
            found.append(one.page.evaluate("window.painted") - engine.first)
            one.page.get_by_role("article").last.get_by_role("button", name="Ask again").wait_for()
        one.context.close()
    print(f"first: {statistics.median(found):.0f} ms (median; {min(found):.0f} to {max(found):.0f})")


def frames(browser: Any, messages: int) -> None:
    """Print how even the frames are while an answer streams, and what took the time."""
    long = "Rest, drink, and **see a doctor** if it lasts.\n\n| a | b |\n| - | - |\n| 1 | 2 |\n\n- one\n- two\n\n"
    kept = [{"role": ("user", "assistant")[at % 2], "content": long * (at % 2) or "How?"} for at in range(messages)]
    text = "A sentence of several words, and **some** of them bold. " * 18
    engine = ScriptedEngine(text, token_seconds=1 / TOKENS_A_SECOND)
    with site(engine, WebOptions(profile="patient")) as server:
        one = Visitor(browser, server)
        page = one.page
        page.get_by_role("button", name="Export and import").click()
        file = {"name": "kept.json", "mimeType": "application/json", "buffer": json.dumps(kept).encode()}
        page.locator("input[type=file][accept*=json]").set_input_files(file)
        page.get_by_text("Imported: 1").wait_for()
        page.keyboard.press("Escape")
        page.get_by_role("article").last.wait_for()
        page.evaluate(FRAMES)
        page.wait_for_timeout(3000)
        idle = page.evaluate("window.counting = false, window.gaps")
        session = one.context.new_cdp_session(page)
        session.send("Profiler.enable")
        one.ask("And now?")
        page.get_by_text("A sentence of").last.wait_for()
        session.send("Profiler.start")
        page.evaluate(FRAMES)
        page.wait_for_timeout(8000)
        gaps = page.evaluate("window.counting = false, window.gaps")
        profile = session.send("Profiler.stop")["profile"]
        one.context.close()
    for name, found in (("at rest", idle), (f"{TOKENS_A_SECOND} tokens/s", gaps)):
        slow = sum(gap > 20 for gap in found) / len(found)
        print(
            f"frames, {name}: {1000 * len(found) / sum(found):.0f} a second, {slow:.1%} over 20 ms, "
            f"median {statistics.median(found):.1f} ms, worst {max(found):.0f} ms"
        )
    spent: Counter[str] = Counter()
    names = {node["id"]: node["callFrame"]["functionName"] or "(anonymous)" for node in profile["nodes"]}
    for node, microseconds in zip(profile["samples"], profile["timeDeltas"], strict=False):
        spent[names[node]] += microseconds
    total = sum(spent.values())
    print("  script:", ", ".join(f"{name} {part / total:.1%}" for name, part in spent.most_common(8)))


CHILD = """
import sys; sys.path[:0] = {paths!r}
import threading
from carellama.config.serve import WebOptions
from carellama.engine.scripted import ScriptedEngine
from page_site import site
with site(ScriptedEngine('word ' * 400, token_seconds=0.02, parallel=128), WebOptions(profile='patient')) as server:
    print(server.url, flush=True)
    threading.Event().wait()
"""


async def read(client: httpx.AsyncClient, rounds: int) -> int:
    """Ask and read to the end, as the page does; return the bytes."""
    size = 0
    for _ in range(rounds):
        body = {"messages": [{"role": "user", "content": "How?"}]}
        answer = (await client.post("/web/answers", json=body)).raise_for_status().json()
        async with client.stream("GET", f"/web/answers/{answer['id']}") as stream:
            async for part in stream.aiter_bytes():
                size += len(part)
    return size


def readers(browser: Any, pages: int) -> None:
    """Print the server's memory with many open pages."""
    child = CHILD.format(paths=[str(ROOT / "src"), str(ROOT / "tests")])
    server = subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        visitors = [Visitor(browser, SimpleNamespace(url=url)) for _ in range(5)]
        before = memory(server.pid)
        rounds, during = 5, []

        async def all_of_them() -> None:
            limits = httpx.Limits(max_connections=None)
            async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
                tasks = [asyncio.create_task(read(client, rounds)) for _ in range(pages - len(visitors))]
                while not all(task.done() for task in tasks):
                    await asyncio.sleep(1)
                    during.append(memory(server.pid))
                sizes = [task.result() for task in tasks]
                assert min(sizes) > 0

        for one in visitors:
            one.ask("How?")
        thread = threading.Thread(target=asyncio.run, args=(all_of_them(),))  # playwright has the loop of this one
        thread.start()
        thread.join()
        for one in visitors:
            one.page.get_by_role("button", name="Ask again").wait_for(timeout=60_000)
            one.context.close()
        time.sleep(2)
        print(
            f"readers: {pages} pages, {rounds} answers of 2000 tokens each; memory {before:.0f} MB before, "
            f"{during[len(during) // 5]:.0f} after a fifth of the time, {during[-1]:.0f} at its end, "
            f"{max(during):.0f} at most, {memory(server.pid):.0f} MB after"
        )
    finally:
        server.terminate()
        server.wait()


def memory(process: int) -> float:
    """Megabytes of a process that lie in memory."""
    for line in Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("the system does not tell the memory of a process")


def main() -> None:
    """Measure."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--only", choices=["load", "first", "frames", "readers"])
    options.add_argument("--messages", type=int, default=200, help="of the conversation of `frames`")
    options.add_argument("--pages", type=int, default=100, help="of `readers`")
    given = options.parse_args()
    measures = {
        "load": load,
        "first": first,
        "frames": lambda browser: frames(browser, given.messages),
        "readers": lambda browser: readers(browser, given.pages),
    }
    with chromium() as browser:
        for name, measure in measures.items():
            if given.only in (None, name):
                measure(browser)


if __name__ == "__main__":
    main()
