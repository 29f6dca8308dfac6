"""The terminal: answers stream, commands work, Ctrl-C stops the answer alone, nothing reaches the disk."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from carellama.assistant import Assistant
from carellama.data.convert import Columns, convert
from carellama.data.readers import rows
from carellama.engine.base import Piece, PromptTooLong, Sampling
from carellama.engine.generate import count_tokens, generate
from carellama.engine.scripted import ScriptedEngine
from carellama.errors import UserError
from carellama.records import Message, ModelCard
from carellama.safety.notices import disclaimer
from carellama.serve.terminal import ChatSession, ask, read_question
from carellama.serve.terminal_markdown import MarkdownStyler

SAMPLING = Sampling(50)
PROGRAM = """
from carellama.assistant import Assistant
from carellama.engine.base import Sampling
from carellama.engine.scripted import ScriptedEngine
from carellama.serve.terminal import chat

engine = ScriptedEngine(lambda messages: "答 " + messages[-1].content * 3, token_seconds=SECONDS)
chat(Assistant(engine, sampling=Sampling(1000)))
"""


def held(engine: ScriptedEngine, *typed: str | type[BaseException], system: str | None = None):
    """Hold a conversation; return it and what was noted beside the answers."""
    lines: Iterator = iter(typed)

    def read() -> str:
        line = next(lines, EOFError)
        if isinstance(line, str):
            return line
        raise line

    notes = io.StringIO()
    talk = ChatSession(Assistant(engine, system, SAMPLING), Console(file=notes, width=200))
    talk.run(read)
    return talk.conversation, notes.getvalue()


def test_an_unknown_command_does_not_go_to_the_model() -> None:
    """A16: `/retri` was answered by the model."""
    engine = ScriptedEngine("Rest.")
    _, notes = held(engine, "/retri", "/HELP me", "/帮助")
    assert engine.asked == [] and notes.count("error: unknown command") == 3 and "Did you mean '/retry'?" in notes
    held(engine, "/etc/hosts: what is it?", "1/2 tablet?", "/5")
    assert len(engine.asked) == 3


def test_answers_are_printed_and_the_conversation_remembered(capsys) -> None:
    engine = ScriptedEngine(["Rest.", "发烧请就医。"])
    conversation, notes = held(engine, "I feel ill", "", "发烧")
    assert capsys.readouterr().out == "Rest.\n发烧请就医。\n"
    assert engine.asked[1] == (
        Message("user", "I feel ill"),
        Message("assistant", "Rest."),
        Message("user", "发烧"),
    )
    assert len(conversation.messages) == 4
    assert "does not diagnose" in notes and "不能代替医生" in notes


def test_commands(capsys) -> None:
    engine = ScriptedEngine("ok")
    typed = (
        "one",
        "clear",
        "two",
        "/system You are brief.",
        "three",
        "/system",
        "/help",
        "EXIT",
        "never read",
    )
    _, notes = held(engine, *typed)
    assert engine.asked == [
        (Message("user", "one"),),
        (Message("user", "two"),),
        (Message("system", "You are brief."), Message("user", "three")),
    ]
    assert "forgotten" in notes and "\nYou are brief.\n" in notes and "Ctrl-C         stop" in notes
    assert capsys.readouterr().out == "ok\n" * 3


def test_retry_asks_the_last_question_again_answered_or_not(capsys) -> None:
    engine = ScriptedEngine(["first", "second", "third"], context_tokens=100)
    conversation, notes = held(engine, "/retry", "one", "/retry", "x" * 200, "/retry", "two")
    assert "no question yet" in notes and notes.count("error: the prompt has") == 2
    assert [asked[-1].content for asked in engine.asked if len(asked[-1].content) < 9] == ["one", "one", "two"]
    assert [message.content for message in conversation.messages] == ["one", "second", "two", "third"]


def test_model_chooses_an_adapter(capsys) -> None:
    engine = ScriptedEngine("ok", adapters=("cardiology",))
    _, notes = held(engine, "/model", "/model cardiolgy", "/model cardiology", "hi", "/model carellama", "hi")
    assert "* carellama\n  carellama:cardiology\n" in notes and "Did you mean 'cardiology'" in notes
    assert "  carellama\n* carellama:cardiology\n" in notes
    assert capsys.readouterr().out == "[cardiology] ok\nok\n"
    assistant, lines = Assistant(engine, None, SAMPLING), iter(["/model", "exit"])
    assistant.cards, said = (ModelCard("ward3", {}, ""),), io.StringIO()
    ChatSession(assistant, Console(file=said, width=200)).run(lambda: next(lines))
    assert "* carellama (ward3)\n" in said.getvalue()  # which model it is was not told


def test_a_saved_conversation_is_private_is_data_and_replaces_nothing(tmp_path: Path, capsys) -> None:
    file = tmp_path / "said.json"
    engine = ScriptedEngine(["Rest.", "发烧请就医。"])
    save = f"/save {file}"
    conversation, notes = held(engine, save, "ill", "发烧", save, save, system="Brief.")
    assert "no answer yet" in notes and "is there already" in notes
    assert file.stat().st_mode & 0o777 == 0o600
    (row,) = rows(file)
    record = convert(row, Columns(), "openai")  # type: ignore[arg-type]
    assert record.messages == (Message("system", "Brief."), *conversation.messages)


def test_ask_gives_one_answer(capsys) -> None:
    ask(Assistant(ScriptedEngine("Rest\x1b[2J."), "Brief."), "ill?")
    assert capsys.readouterr().out == "Rest[2J.\n"
    ask(Assistant(ScriptedEngine("发烧请就医"), sampling=Sampling(2)), "发烧", as_json=True)
    row = json.loads(capsys.readouterr().out)
    assert row["text"] == "发烧" and row["finish_reason"] == "length"
    assert row["usage"] == {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}
    assert read_question(["What", "is asthma?"]) == "What is asthma?"
    with pytest.raises(UserError, match="empty"):
        read_question([" "])
    with pytest.raises(PromptTooLong):
        ask(Assistant(ScriptedEngine("ok", context_tokens=5)), "too long")


MARKED = "# Fever\n\nDrink **water** and `tea**`.\n- one\n  * two\n```\n- **raw**\n```\n3 * 4, **open\nplain *"


def test_marks_become_style_however_the_answer_is_cut() -> None:
    def styled(size: int) -> str:
        style = MarkdownStyler()
        pieces = [style.add(MARKED[at : at + size]) for at in range(0, len(MARKED), size)]
        return "".join(pieces) + style.end()

    assert len({styled(size) for size in range(1, len(MARKED))}) == 1
    plain = re.sub(r"\x1b\[\d+m", "", styled(1))
    assert plain == ("Fever\n\nDrink water and tea**.\n• one\n  • two\n```\n- **raw**\n```\n3 * 4, **open\nplain *")
    assert "\x1b[1mwater\x1b[0m" in styled(3) and styled(3).endswith("\n3 * 4, **open\nplain *")


@settings(max_examples=100)
@given(
    st.lists(
        st.sampled_from(
            ["1~2片", "5*10mg", "2**3=8", "4**5", "*P<0.05", "**P<0.01", "1_000", "38~39℃", "+ 5", "> 38", "`"]
        ),
        min_size=1, max_size=6,
    ).filter(lambda doses: doses.count("`") < 2),  # two are code, and what ** around them means is open
    st.integers(1, 7),
)  # fmt: skip
def test_doses_come_to_the_terminal_as_they_were_written(doses: list[str], size: int) -> None:
    """A lone ** was taken off, and 2**3 was shown as 23."""
    text = "\n".join(["，".join(doses), *doses])
    style = MarkdownStyler()
    printed = "".join(style.add(text[at : at + size]) for at in range(0, len(text), size)) + style.end()
    pairs = re.compile(r"`([^`\n]+)`|(?<!\d)\*\*(?=[^\s*])([^\n]+?)(?<=[^\s*])\*\*(?!\d)")
    assert re.sub(r"\x1b\[\d+m", "", printed) == pairs.sub(lambda pair: pair[1] or pair[2], text)


def test_an_assistant_brings_its_system_message_and_sampling() -> None:
    engine = ScriptedEngine("four")
    assistant = Assistant(engine, "Brief.", Sampling(2))
    asked = (Message("user", "2 + 2"),)
    own = (Message("system", "Long."), *asked)
    replies = generate(assistant, [asked, own], assistant.sampling)
    assert engine.asked == [(Message("system", "Brief."), *asked), own]
    (other,) = generate(assistant, [own], Sampling())
    assert [reply.text for reply in replies] == ["fo", "fo"] and other.text == "four"
    assert assistant.count_tokens(asked) == count_tokens(engine, engine.asked[0]) > count_tokens(engine, asked)
    assert "不能代替医生" in disclaimer("zh") and "does not diagnose" in disclaimer("en")


def test_a_question_in_a_language_that_the_model_never_learned_is_answered_with_a_warning(capsys) -> None:
    """The embedded English model answered a Chinese question with hundreds of dashes, and nothing was said (P4)."""
    english = Assistant(ScriptedEngine("--"), None, SAMPLING, ("en",))
    ask(english, "头痛怎么办？")
    assert "没有学过" in capsys.readouterr().err
    ask(english, "What helps against a headache?")
    ask(Assistant(ScriptedEngine("--"), None, SAMPLING), "头痛怎么办？")
    assert not capsys.readouterr().err
    assert english.speaks("38.5 ℃") and not english.speaks("孩子发烧 38.5 度怎么办")


def test_ctrl_c_stops_the_answer_and_what_was_said_is_remembered(capsys) -> None:
    class Stopped(ScriptedEngine):
        def answer(self, prompt, sampling):
            self.closed = False
            try:
                yield Piece("Half an")
                time.sleep(0.3)
                signal.raise_signal(signal.SIGINT)  # Ctrl-C is the main thread's
                while True:
                    time.sleep(0.01)
                    yield Piece()
            finally:
                self.closed = True

    engine = Stopped("")
    conversation, notes = held(engine, "question")
    assert engine.closed and "stopped" in notes
    assert conversation.messages == [Message("user", "question"), Message("assistant", "Half an")]


def test_ctrl_c_at_the_prompt_leaves_only_when_repeated() -> None:
    engine = ScriptedEngine("ok")
    held(engine, KeyboardInterrupt, "still here", KeyboardInterrupt, KeyboardInterrupt, "gone")
    assert [asked[-1].content for asked in engine.asked] == ["still here"]


def test_a_cut_answer_and_dropped_turns_are_told(capsys) -> None:
    engine = ScriptedEngine(lambda messages: "word " * 20, context_tokens=200)
    conversation, notes = held(engine, "first question", "second question", "third")
    assert "cut after 50 tokens" in notes and "1 oldest turns no longer fit" in notes
    assert engine.asked[-1][0] == Message("user", "second question")
    assert conversation.messages[0] == Message("user", "first question")  # for /save


def test_a_question_too_long_for_the_model_is_refused_and_forgotten(capsys) -> None:
    conversation, notes = held(ScriptedEngine("ok", context_tokens=100), "x" * 200, "short")
    assert "error: the prompt has 207 tokens" in notes
    assert conversation.messages == [Message("user", "short"), Message("assistant", "ok")]


def test_control_characters_of_an_answer_do_not_reach_the_terminal(capsys) -> None:
    held(ScriptedEngine("a\x1b]0;title\x07b\x9b31m\tc\n"), "question")
    assert capsys.readouterr().out == "a]0;titleb31m\tc\n\n"


def test_lines_from_a_pipe(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("SECONDS", "0")],
        input="发烧\n".encode() + b"\xff!\nexit\n",
        capture_output=True,
        timeout=120,
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path), "LC_ALL": "C.UTF-8"},
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode() == "答 发烧发烧发烧\n答 \ufffd!\ufffd!\ufffd!\n"
    assert "CareLlama" in done.stderr.decode()


@pytest.mark.slow
def test_a_real_terminal(tmp_path: Path) -> None:
    """Ctrl-C in the middle of an answer, the arrow key at the prompt, Ctrl-D; and no file is left."""
    leader, follower = pty.openpty()
    home = tmp_path / "home"
    home.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.replace("SECONDS", "0.05")],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        cwd=home,
        start_new_session=True,
        env={
            **os.environ,
            "HOME": str(home),
            "XDG_CACHE_HOME": str(home),
            "TERM": "xterm",
            "LC_ALL": "C.UTF-8",
        },
    )
    os.close(follower)
    try:
        screen = Screen(leader)
        screen.wait("\n>")
        screen.type("slow" * 20 + "\r")
        screen.wait("答 slow")
        os.kill(process.pid, signal.SIGINT)
        screen.wait("stopped")
        screen.wait("\n>")
        screen.type("\x1b[A\x01again \r")  # up: the question before; Ctrl-A: its beginning
        screen.wait("答 again slow")
        os.kill(process.pid, signal.SIGINT)
        screen.wait("stopped")
        screen.wait("\n>")
        screen.type("\x04")
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        os.close(leader)
    assert not list(home.rglob("*"))


class Screen:
    """Types into a terminal and waits for what it shows; escape sequences are left out."""

    def __init__(self, leader: int) -> None:
        self.leader = leader
        self.unread = ""
        os.set_blocking(leader, False)

    def type(self, text: str) -> None:
        os.write(self.leader, text.encode())

    def wait(self, text: str, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while text not in self.unread:
            assert time.monotonic() < end, f"{text!r} not in {self.unread!r}"
            try:
                new = os.read(self.leader, 65536).decode(errors="replace")
            except BlockingIOError:
                time.sleep(0.05)
                continue
            self.unread = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.unread + new)
        self.unread = self.unread.partition(text)[2]
