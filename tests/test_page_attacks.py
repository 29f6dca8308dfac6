"""What others wrote stays text: in a question, an answer, a title, an address, and in every field of a file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from carellama.engine.scripted import ScriptedEngine
from page_site import MARKS, Visitor, browser, site, visit

pytestmark = MARKS
AGAIN = re.compile("^Ask again")
Asked = Callable[..., tuple[Visitor, list[str]]]
MARKUP = "<img src=x onerror=alert(1)><script>alert(2)</script><svg/onload=alert(3)>"
ATTACKS = {
    "script": f"{MARKUP} [x](javascript:alert(4)) <javascript:alert(5)>",
    "elements of SVG and MathML": "<svg><a xlink:href='javascript:alert(1)'><text y=9>x</text></a></svg>"
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(2)></style></mglyph></table></mtext></math>",
    "a formula": r"$\href{javascript:alert(1)}{x}$ $\htmlClass{x}{y}$ "
    r"$\includegraphics[x]{https://example.org/p.png}$ $x^2$",
    "data addresses": "[x](data:text/html,<script>alert(1)</script>) ![x](data:text/html;base64,PHN2Zz4=)",
    "beacons": "![x](https://example.org/p.png) ![][r]\n\n[r]: https://example.org/q.png\n\n"
    "<link rel=prefetch href=https://example.org/l><video poster=https://example.org/v.png></video>",
    "styles": "<style>body{background:url(https://example.org/b.png)}</style>"
    "<p style='position:fixed;inset:0;background:url(//example.org/c.png)'>x</p>",
    "another page": "<meta http-equiv=refresh content='0;url=https://example.org'><base href=//example.org/>",
    "a form": "<form action=https://example.org><input name=password autofocus onfocus=alert(1)>"
    "<button>Log in</button></form>",
    "names of the page": "<a id=app name=config href=#x>x</a><input name=attributes>"
    "<div id=thread data-note=a class=note>x</div>",
    "code": '```html\n<img src=x onerror=alert(1)>\n```\n\n```"onmouseover=alert(2)\nx\n```\n\n'
    "`<script>alert(3)</script>`",
}
ALIVE = "main :is(script, img, iframe, style, form:not([aria-label]), video, link, meta, base, object, embed, input)"


def inert(page: Any) -> list[str]:
    """What in the conversation could run or load: elements, handlers, links of other kinds."""
    return page.evaluate(
        """(alive) => {
          const found = [...document.querySelectorAll(alive)].map((one) => one.outerHTML.slice(0, 80))
          for (const one of document.querySelectorAll('main *, nav *, title')) {
            for (const { name, value } of one.attributes) {
              if (name.startsWith('on') || name === 'style') found.push(`${one.tagName} ${name}=${value}`)
              const leads = /href|src|action/.test(name)
              if (leads && !/^(https?:|mailto:|tel:|\\/)/.test(value)) found.push(`${name}=${value}`)
            }
          }
          if (document.querySelectorAll('#app, #thread').length !== 2) found.push('an id of the page')
          return found
        }""",
        ALIVE,
    )


@pytest.fixture
def asked(visit: Callable[..., Visitor]) -> Asked:
    """Makes a visitor whose requests to other places are written down."""

    def enter(server: Any) -> tuple[Visitor, list[str]]:
        one, elsewhere = visit(server), list[str]()
        one.context.on("request", lambda request: elsewhere.append(request.url))
        return one, elsewhere

    return enter


def away(server: Any, urls: list[str]) -> list[str]:
    """Addresses of other machines; there must have been some of this one."""
    assert urls
    return [url for url in urls if not url.startswith((server.url, "blob:", "data:"))]


def test_ten_attacks_in_a_question_and_its_answer(asked: Asked) -> None:
    with site(ScriptedEngine(lambda messages: messages[-1].content)) as server:
        one, elsewhere = asked(server)
        for number, (name, attack) in enumerate(ATTACKS.items(), 1):
            one.ask(attack)
            one.page.get_by_role("button", name=AGAIN).nth(number - 1).wait_for()
            assert inert(one.page) == [], name
        assert number == 10
        one.page.wait_for_timeout(300)  # formulas and coloured code come a moment later
        assert inert(one.page) == [] and away(server, elsewhere) == []
        assert one.page.url.startswith(f"{server.url}/c/")


def test_a_title_an_address_and_a_file_of_markup(asked: Asked, tmp_path: Path) -> None:
    message = {
        "id": MARKUP, "parent": MARKUP, "role": "assistant", "created": MARKUP, "model": MARKUP, "finish": MARKUP,
        "reasoning": MARKUP, "sentAt": MARKUP, "running": {"answer": f"../../{MARKUP}", "last": MARKUP},
        "failure": {"code": MARKUP, "detail": MARKUP}, "logprobs": [{"token": MARKUP}], "consultation": MARKUP,
        "request": MARKUP, "pair": MARKUP,
        "segments": [
            {"text": MARKUP, "notices": []},
            {"text": MARKUP, "notices": [{"kind": MARKUP, "level": MARKUP, "rule": MARKUP, "text": f"{MARKUP} 120"}]},
        ],
    }  # fmt: skip
    ours = {
        "conversation": {
            "id": MARKUP,
            "title": MARKUP,
            "named": True,
            "leaf": MARKUP,
            "updated": MARKUP,
            "running": True,
        },
        "messages": [message],
    }
    file = tmp_path / "<img src=x onerror=alert(4)>.json"
    file.write_text(json.dumps({"format": "carellama-conversations", "conversations": [ours]}), encoding="utf-8")
    with site(ScriptedEngine("ok")) as server:
        one, elsewhere = asked(server)
        page = one.page
        assert bring(page, file) == "Imported: 1"
        page.keyboard.press("Escape")
        page.get_by_role("article").first.wait_for()
        assert MARKUP in page.get_by_role("navigation").inner_text() and MARKUP in page.title()
        page.get_by_role("button", name=re.compile("^More")).first.click()
        page.get_by_role("button", name="Rename").click()
        page.get_by_label("Title of the conversation").fill(f"{MARKUP} again")
        page.keyboard.press("Enter")
        page.get_by_role("link", name=re.compile("again$")).wait_for()
        assert inert(page) == []
        page.goto(f"{server.url}/c/%3Cimg%20src=x%20onerror=alert(1)%3E")
        page.get_by_role("textbox", name="Your question").wait_for()
        assert inert(page) == [] and away(server, elsewhere) == []


def test_a_file_cannot_change_what_objects_are(asked: Asked, tmp_path: Path) -> None:
    file = tmp_path / "kept.json"
    file.write_text(
        '{"__proto__": {"polluted": 1}, "constructor": {"prototype": {"polluted": 1}}, "title": "Kept", "messages": '
        '[{"role": "user", "content": "Hello", "__proto__": {"polluted": 1, "running": {"answer": "x", "last": ""}}},'
        ' {"role": "__proto__", "content": "x"}, {"role": "constructor", "content": "x"}]}',
        encoding="utf-8",
    )
    with site(ScriptedEngine("ok")) as server:
        one, elsewhere = asked(server)
        assert bring(one.page, file) == "Imported: 1"
        one.page.keyboard.press("Escape")
        one.page.get_by_role("article").get_by_text("Hello").wait_for()
        assert one.page.get_by_role("article").count() == 1, "no role but those of a conversation"
        assert one.page.evaluate("[{}.polluted, [].polluted, ''.polluted]") == [None, None, None]
        assert away(server, elsewhere) == []


NESTED = {
    "quotations": ">" * 5000 + " x",
    "lists": "\n".join(" " * (2 * depth) + "- x" for depth in range(400)),
    "brackets": "[" * 5000 + "x" + "](y)" * 5000,
    "stars": "**a *b " * 4000,
    "formulas": "$x^2 " * 4000,
    "entities": "&amp;" * 4000 + "<" * 4000,
    "a table": "|a" * 500 + "|\n" + "|-" * 500 + "|\n" + ("|1" * 500 + "|\n") * 10,
    "backticks": "".join("`" * count + "x" for count in range(1, 200)),
}


def test_markup_without_end_does_not_hold_the_page_up(visit: Callable[..., Visitor], tmp_path: Path) -> None:
    """One conversation for each kind; the page shows all of them and can be used."""
    said = [
        {"title": name, "messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": text}]}
        for name, text in NESTED.items()
    ]
    file = tmp_path / "nested.json"
    file.write_text(json.dumps(said), encoding="utf-8")
    with site(ScriptedEngine("ok")) as server:
        page = visit(server).page
        assert bring(page, file) == f"Imported: {len(NESTED)}"
        page.keyboard.press("Escape")
        for name, text in NESTED.items():
            page.get_by_role("link", name=name, exact=True).click()
            page.get_by_role("heading", name=name, exact=True, level=1).wait_for()
            shown = page.get_by_role("article").nth(1).locator(".markdown")
            shown.locator("> *").first.wait_for()
            assert shown.inner_text().count("x") >= text.count("x"), name


def bring(page: Any, file: Path) -> str:
    """Import a file; return what the page says of it."""
    page.get_by_role("button", name="Export and import").click()
    page.get_by_role("dialog").locator("input[type=file]").set_input_files(str(file))
    said = page.get_by_role("dialog").get_by_role("status")
    said.filter(has_text=re.compile(r"\S")).wait_for()
    return str(said.inner_text())
