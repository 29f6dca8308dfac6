"""Files and speech on the page, in a real browser: what is read is shown, kept and sent, and nothing in it runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from api_server import until
from carellama.config.serve import WebOptions
from carellama.engine.scripted import ScriptedEngine
from page_site import DESKTOP, MARKS, PHONE, Visitor, browser, check_page, site, visit
from test_web_files import pdf

pytestmark = MARKS
__all__ = ["browser", "visit"]
DOSES = "成人每次1~2片，5*10mg，H_2O，pH<7.35，> 38.5℃。"


def attach(one: Visitor, *paths: Path) -> None:
    """Choose files with the button."""
    with one.page.expect_file_chooser() as chooser:
        one.page.get_by_role("button", name=re.compile("^(Attach a file|添加文件)$")).click()
    chooser.value.set_files([str(path) for path in paths])


def chip(one: Visitor, name: str) -> Any:
    """The button of a file that was read."""
    found = one.page.get_by_role("list", name=re.compile("Attached files|已添加的文件"))
    button = found.get_by_role("button", name=re.compile(f"^{re.escape(name)}"))
    button.wait_for()
    return button


def made(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_file_is_read_previewed_sent_and_shown_folded(visit: Callable[..., Visitor], tmp_path: Path) -> None:
    engine = ScriptedEngine("It says so.")
    with site(engine) as server:
        one = visit(server)
        attach(one, made(tmp_path, "用药.txt", DOSES), made(tmp_path, "report.pdf", pdf("Hemoglobin 13.5 g/dL", "")))
        chips = one.page.get_by_role("list", name="Attached files")
        chip(one, "report.pdf")
        chip(one, "用药.txt")
        one.page.locator("form").get_by_text("could not be read: 1").wait_for()  # the page without text
        chip(one, "用药.txt").click()
        one.page.get_by_role("dialog").get_by_text(DOSES).wait_for()
        check_page(one.page)
        one.page.keyboard.press("Escape")
        one.page.reload()  # they are part of the draft
        chip(one, "report.pdf")
        chip(one, "用药.txt")
        one.ask("Is this right?")
        one.page.get_by_text("It says so.").first.wait_for()
        sent = engine.asked[-1][-1].content
        assert (
            sent.startswith("Is this right?\n\n") and DOSES in sent and "report.pdf\n```\nHemoglobin 13.5 g/dL" in sent
        )
        assert not chips.count(), "the box is empty again"
        article = one.page.get_by_role("article", name="You")
        assert DOSES not in article.inner_text()
        article.get_by_text("用药.txt").first.click()
        article.get_by_text(DOSES).first.wait_for()
        check_page(one.page)
        article.get_by_role("button", name="Edit your question").click()  # its files stay with it
        one.page.get_by_role("textbox", name="Edit your question").fill("And now?")
        one.page.get_by_role("button", name="Send").first.click()
        until(lambda: len(engine.asked) == 2)
        assert engine.asked[-1][-1].content == sent.replace("Is this right?", "And now?")


def test_what_is_not_attached_is_said_in_the_persons_language(visit: Callable[..., Visitor], tmp_path: Path) -> None:
    with site(ScriptedEngine("ok"), WebOptions(profile="patient", file_bytes=200_000)) as server:
        one = visit(server, PHONE, locale="zh-CN")
        attach(
            one,
            made(tmp_path, "scan.pdf", pdf("")),
            made(tmp_path, "locked.pdf", pdf("x", password="y")),
            made(tmp_path, "empty.txt", ""),
            made(tmp_path, "big.txt", "x" * 200_001),
            made(tmp_path, "photo.png", b"\x89PNG\r\n\x1a\n"),
        )
        alert = one.page.get_by_role("alert")
        for words in ("可能是扫描件", "文件设有密码", "文件是空的", "最大为 200 KB", "这是图片"):
            alert.get_by_text(re.compile(words)).wait_for()
        check_page(one.page)
        assert not one.page.get_by_role("list", name="已添加的文件").count()


def test_a_long_file_is_cut_and_the_limit_counts_files_before_sending(
    visit: Callable[..., Visitor], tmp_path: Path
) -> None:
    engine = ScriptedEngine("ok")
    with site(engine, WebOptions(profile="patient", question_chars=1000)) as server:
        one = visit(server)
        attach(one, made(tmp_path, "long.txt", "word " * 1000))
        words = "Only the first 750 characters are attached; 4,250 at the end are left out."
        one.page.locator("form").get_by_text(words).wait_for()
        box = one.page.get_by_role("textbox", name="Your question")
        box.fill("x" * 300)
        one.page.get_by_text(re.compile("1,[01].. of at most 1,000 characters, files included")).wait_for()
        assert one.page.get_by_role("button", name="Send").is_disabled()
        one.page.keyboard.press("Enter")
        box.fill("Is it?")
        one.page.get_by_role("button", name="Send").click()
        one.page.get_by_text("ok", exact=True).first.wait_for()
        assert len(engine.asked) == 1 and "its beginning only" in engine.asked[0][-1].content


ATTACK = "<img src=x onerror=alert(1)>.txt"


def test_nothing_in_a_file_or_its_name_runs(visit: Callable[..., Visitor], tmp_path: Path) -> None:
    with site(ScriptedEngine(lambda messages: messages[-1].content)) as server:
        one = visit(server)
        attach(one, made(tmp_path, ATTACK, "<script>alert(2)</script> ``` <b>x</b> [a](javascript:alert(3))"))
        chip(one, ATTACK).click()
        one.page.get_by_role("dialog").get_by_text("<script>alert(2)</script>").wait_for()
        one.page.keyboard.press("Escape")
        one.ask("")  # a file alone is a question, too
        one.page.get_by_role("button", name=re.compile("^Ask again")).first.wait_for()
        one.page.get_by_role("article", name="You").get_by_text(ATTACK).first.click()
        assert one.page.get_by_role("link", name=re.compile("onerror")).count() == 1, "the title is the file's name"
        assert not one.page.locator("#app script, #app img, #app b, #app [onerror], a[href^=javascript]").count()


def test_files_are_dropped_pasted_and_removed_by_keyboard(visit: Callable[..., Visitor]) -> None:
    transfer = """name => {
        const data = new DataTransfer()
        data.items.add(new File(['Hb 13.5'], name, {type: 'text/plain'}))
        return data
    }"""
    with site(ScriptedEngine("ok")) as server:
        one = visit(server)
        dropped = one.page.evaluate_handle(transfer, "dropped.txt")
        one.page.dispatch_event("main", "dragover", {"dataTransfer": dropped})
        one.page.get_by_text("Drop the files here").wait_for()
        one.page.dispatch_event("main", "drop", {"dataTransfer": dropped})
        chips = one.page.get_by_role("list", name="Attached files")
        chip(one, "dropped.txt")
        one.page.evaluate(
            f"""document.querySelector('form textarea').dispatchEvent(
                new ClipboardEvent('paste', {{
                    clipboardData: ({transfer})('pasted.txt'), bubbles: true, cancelable: true,
                }})
            )"""
        )
        chip(one, "pasted.txt")
        remove = one.page.get_by_role("button", name="Remove dropped.txt")
        remove.focus()
        one.page.keyboard.press("Enter")
        chips.get_by_text("dropped.txt").wait_for(state="detached")
        assert one.page.evaluate("document.activeElement.tagName") == "TEXTAREA"
        assert chips.get_by_text("pasted.txt").count() == 1


def test_no_button_where_the_server_reads_no_files(visit: Callable[..., Visitor]) -> None:
    with site(ScriptedEngine("ok"), WebOptions(profile="patient", file_bytes=0)) as server:
        one = visit(server)
        assert one.page.get_by_role("button", name="Send").count() == 1
        assert not one.page.get_by_role("button", name="Attach a file").count()


def test_an_emergency_in_the_words_is_noticed_beside_a_long_file(visit: Callable[..., Visitor], tmp_path: Path) -> None:
    with site(ScriptedEngine("请立即就医。")) as server:
        one = visit(server, PHONE, locale="zh-CN")
        attach(one, made(tmp_path, "体检.txt", "血脂正常，肝功能正常，未见异常。\n" * 900))
        chip(one, "体检.txt")
        one.ask("胸口压着疼，一身冷汗")
        one.page.get_by_role("alert").get_by_text(re.compile("120")).first.wait_for()


@pytest.mark.parametrize("size", [{"width": 320, "height": 568}, {"width": 390, "height": 420}, DESKTOP])
def test_the_composer_with_files_leaves_room_for_the_conversation(
    visit: Callable[..., Visitor], tmp_path: Path, size: dict[str, int]
) -> None:
    """A phone's screen with the keyboard open is 400 pixels high."""
    with site(ScriptedEngine("word " * 300)) as server:
        one = visit(server, size)
        one.ask("What is asthma?")
        one.page.get_by_role("button", name=re.compile("^Ask again")).first.wait_for()
        names = [made(tmp_path, f"a rather long name of a file, number {n}.txt", "text " * 9000) for n in range(4)]
        attach(one, *names)
        for path in names:
            chip(one, path.name)
        one.page.get_by_role("textbox", name="Your question").fill("line\n" * 20)
        form = one.page.get_by_role("form", name="Your question").bounding_box()
        assert form["y"] >= 40 and form["y"] + form["height"] <= size["height"] + 1
        assert form["height"] <= 0.85 * size["height"], form
        check_page(one.page)


SPEECH = """() => {
    window.heard = null
    window.webkitSpeechRecognition = class {
        start() { window.heard = this; this.started = true }
        stop() { this.onend() }
        abort() {}
        say(...texts) { this.onresult({results: texts.map(text => ({0: {transcript: text}, isFinal: true}))}) }
    }
    delete window.SpeechRecognition
}"""


def speaking(one: Visitor) -> Any:
    """A page of a browser that hears."""
    one.context.add_init_script(f"({SPEECH})()")
    return one.open("/")


def test_speech_is_written_into_the_box_after_consent(visit: Callable[..., Visitor]) -> None:
    with site(ScriptedEngine("ok")) as server:
        one = visit(server, locale="zh-CN")
        page = speaking(one)
        page.get_by_role("button", name="语音输入").click()
        page.get_by_role("dialog").get_by_text(re.compile("浏览器厂商的服务器")).wait_for()
        check_page(page)
        assert page.evaluate("window.heard") is None, "nothing is heard before consent"
        page.get_by_role("button", name="取消").click()
        assert page.evaluate("window.heard") is None
        page.get_by_role("button", name="语音输入").click()
        page.get_by_role("button", name="同意并开始").click()
        button = page.get_by_role("button", name="语音输入")
        assert button.get_attribute("aria-pressed") == "true" and page.evaluate("window.heard.lang") == "zh-CN"
        page.get_by_text("正在聆听").first.wait_for()
        check_page(page)
        page.evaluate("window.heard.say('我头')")
        page.evaluate("window.heard.say('我头疼三天')")
        box = page.get_by_role("textbox", name="您的问题")
        assert box.input_value() == "我头疼三天"
        button.click()
        assert button.get_attribute("aria-pressed") == "false" and box.input_value() == "我头疼三天"
        button.click()  # consent is asked once
        page.evaluate("window.heard.onerror({error: 'network'}); window.heard.onend()")
        page.get_by_role("alert").get_by_text("浏览器无法连接其语音服务").wait_for()


def test_no_microphone_where_the_browser_cannot_hear(visit: Callable[..., Visitor]) -> None:
    with site(ScriptedEngine("ok")) as server:
        one = visit(server)
        one.context.add_init_script("delete window.SpeechRecognition; delete window.webkitSpeechRecognition")
        page = one.open("/")
        assert page.get_by_role("button", name="Send").count() == 1
        assert not page.get_by_role("button", name="Speak your question").count()
