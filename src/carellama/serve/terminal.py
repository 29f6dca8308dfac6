"""A conversation in the terminal: answers stream, and Ctrl-C stops the answer, not the program.

    chat(Assistant(engine, sampling=Sampling.of(GenerationOptions())))
    ask(assistant, "What is asthma?")

What is said stays in memory: neither the conversation nor the line history reaches the disk, but for what `/save` is
asked to write. Without a terminal (lines piped in) it reads to the end of the input; answers go to stdout as they are,
all else to stderr.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from carellama.assistant import Assistant, Consultant
from carellama.consultation.files import report_bytes
from carellama.engine.base import Reply
from carellama.engine.generate import stream
from carellama.errors import UserError, lookup, nearest
from carellama.files import write_private
from carellama.records import JSONObject, Message
from carellama.safety.layer import Screening
from carellama.safety.notices import SHOWN, disclaimer
from carellama.serve.conversation import Conversation
from carellama.serve.terminal_markdown import MarkdownStyler

GREETING = "CareLlama: ask a health question. /help lists the commands. · 请输入您的健康问题，/help 查看命令。"
HELP = """\
clear          forget the conversation · 清空对话
/retry         answer the last question again · 重新回答上一个问题
/system TEXT   set the system message, and forget the conversation · 设置系统提示并清空对话
/system        show the system message · 显示系统提示
/model NAME    let this adapter answer; carellama: none · 选择适配器；carellama 表示不使用
/model         list the adapters · 列出适配器
/save FILE     write the conversation as JSON · 把对话保存为 JSON
/report FILE   write the report of a consultation: .md .html .pdf .json · 保存问诊报告
/help          this list · 显示帮助
exit           leave (also Ctrl-D, or Ctrl-C twice) · 退出
Ctrl-C         stop the answer · 停止回答"""
OTHER_LANGUAGE = (
    "(This model was not trained on the language of the question: do not rely on its answer. · "
    "这个模型没有学过提问所用的语言，请不要采信它的回答。)"
)
LEAVE = ("exit", "/exit", "quit", "/quit")
BASE = "carellama"  # the name of the model as it was loaded, as in the API
# Control characters of an answer could move the cursor or retitle the window; tabs and new lines stay.
CONTROL = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}

ReadLine = Callable[[], str]  # raises EOFError at the end, KeyboardInterrupt at Ctrl-C


def chat(assistant: Assistant) -> None:
    """Talk until the person leaves or the input ends."""
    if sys.stdin.isatty() and sys.stdout.isatty():
        console = Console(highlight=False)
        styled = console.color_system is not None and not console.no_color
        ChatSession(assistant, console, styled=styled).run(_interactive_reader())
    else:
        notices = Console(stderr=True, highlight=False, color_system=None, soft_wrap=True)
        ChatSession(assistant, notices).run(_pipe_reader)


def ask(assistant: Assistant, question: str, *, as_json: bool = False) -> None:
    """Answer one question on stdout: as it streams, or whole as JSON with why it ended and its tokens."""
    if not assistant.speaks(question):
        print(OTHER_LANGUAGE, file=sys.stderr)
    pieces = stream(assistant, [Message("user", question)], assistant.sampling)
    try:
        while True:
            piece = next(pieces)
            for notice in piece.notices if not piece.text else ():
                if notice.level in SHOWN:
                    print(notice.text, file=sys.stderr)
            if not as_json:
                print(piece.text.translate(CONTROL), end="", flush=True)
    except StopIteration as end:
        reply: Reply = end.value
    finally:
        pieces.close()
    if as_json:
        usage = {
            "prompt_tokens": reply.prompt_tokens,
            "completion_tokens": reply.completion_tokens,
            "total_tokens": reply.prompt_tokens + reply.completion_tokens,
        }
        row: JSONObject = {"text": reply.text, "finish_reason": reply.finish_reason, "usage": usage}
        row |= {"reasoning": reply.reasoning} if reply.reasoning else {}
        row |= {"notices": [notice.as_json() for notice in reply.notices]} if reply.notices else {}
        print(json.dumps(row, ensure_ascii=False))
        return
    print(flush=True)
    if reply.finish_reason == "length":
        print(f"cut after {reply.completion_tokens} tokens, see --max_new_tokens", file=sys.stderr)


def read_question(words: Sequence[str]) -> str:
    """Return the question of a command line: its words, or for "-" all of stdin. Raises `UserError` if it is empty."""
    piped = list(words) == ["-"]
    question = sys.stdin.buffer.read().decode("utf-8", errors="replace").strip() if piped else " ".join(words).strip()
    if not question:
        raise UserError('the question is empty; write it after the command, or "-" to read it from stdin')
    return question


class ChatSession:
    """One conversation: answers go to stdout, with their Markdown as style if `styled`; all else goes to `notices`."""

    def __init__(self, assistant: Assistant, notices: Console, *, styled: bool = False) -> None:
        self.assistant = assistant
        self.notices = notices
        self.styled = styled
        self.sampling = assistant.sampling
        self.conversation = Conversation(assistant.system_prompt)
        self._noticed: set[str] = set()  # notices that the person has seen: each is shown once
        self.commands: dict[str, Callable[[str], None]] = {
            "/retry": self._retry, "/system": self._system, "/model": self._model, "/save": self._save,
            "/report": self._report,
        }  # fmt: skip

    def run(self, read: ReadLine) -> None:
        """Read questions and commands until the person leaves."""
        self._print_notice("\n".join((GREETING, disclaimer("en"), disclaimer("zh"))))
        interrupted = False
        while True:
            try:
                line = read().strip()
            except EOFError:
                return
            except KeyboardInterrupt:
                if interrupted:
                    return
                interrupted = True
                self._print_notice("Ctrl-C again or Ctrl-D leaves. · 再按一次 Ctrl-C 退出。")
                continue
            interrupted = False
            if line.lower() in LEAVE:
                return
            try:
                if line:
                    self._run_command(line)
            except UserError as error:
                self._print_notice(f"error: {error}")

    def _run_command(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        if line.lower() in ("clear", "/clear"):
            self.conversation.clear()
            self._print_notice("The conversation is forgotten. · 对话已清空。")
        elif line == "/help":
            self._print_notice(HELP)
        elif word in self.commands:
            self.commands[word](rest.strip())
        elif word[:1] == "/" and word[1:].isalpha():  # not a path, a date or a share
            known = ["/help", "/clear", "/exit", *self.commands]
            raise UserError(f"unknown command {word}.{nearest(word, known)} /help lists the commands")
        else:
            self._answer(line)

    def _system(self, text: str) -> None:
        if not text:
            self._print_notice(self.conversation.system or "(none · 无)")
            return
        self.conversation = Conversation(text)
        self._print_notice("The system message is set. · 系统提示已设置。")

    def _model(self, name: str) -> None:
        names = {BASE: "", **{f"{BASE}:{adapter}": adapter for adapter in self.assistant.adapters}}
        if name:
            known = names | {adapter: adapter for adapter in self.assistant.adapters}
            self.sampling = replace(self.sampling, adapter=lookup(known, name, "model"))
        model = f" ({self.assistant.cards[0].name})" if self.assistant.cards else ""
        for shown, adapter in names.items():
            self._print_notice(f"{'*' if adapter == self.sampling.adapter else ' '} {shown}{'' if adapter else model}")

    def _save(self, file: str) -> None:
        """Write the conversation for `carellama data convert`; only its owner may read the file."""
        if not file:
            raise UserError("/save needs the name of a file, as in /save conversation.json")
        if not self.conversation.messages:
            raise UserError("there is no answer yet to save")
        text = json.dumps([{"messages": self.conversation.rows()}], ensure_ascii=False, indent=2) + "\n"
        write_private(Path(file).expanduser(), text.encode("utf-8", "replace"))
        self._print_notice(f"saved · 已保存: {file}")

    def _report(self, file: str) -> None:
        """Write the report of the consultation as far as it came; only its owner may read the file."""
        if not isinstance(self.assistant, Consultant):
            raise UserError("/report is for a consultation; start the program with --mode consult")
        if not file:
            raise UserError("/report needs the name of a file, as in /report report.pdf")
        if not self.conversation.messages:
            raise UserError("there is nothing yet to report on")
        made = self.assistant.interview.report(self.conversation.messages, self.sampling.adapter)
        write_private(Path(file).expanduser(), report_bytes(made, file))
        self._print_notice(f"saved · 已保存: {file}")

    def _retry(self, _: str) -> None:
        question = self.conversation.undo()
        if not question:
            raise UserError("there is no question yet to answer again")
        self._print_notice(f"> {question}")
        self._answer(question)

    def _answer(self, question: str) -> None:
        """Stream one answer and remember it; one that was stopped is remembered as far as it came."""
        said: list[str] = []
        note = ""
        try:
            screening = self.assistant.screen(self.conversation.whole(question))
            refused = screening and screening.refusal  # then no engine, and no endpoint, counts the tokens either
            if not refused and (
                dropped := self.conversation.drop_oldest_turns(self.assistant, question, self.sampling)
            ):
                self._print_notice(f"({dropped} oldest turns no longer fit. · 最早的 {dropped} 轮对话已省略。)")
            if not self.assistant.speaks(question):
                self._print_notice(OTHER_LANGUAGE)
            reply = self._say(question, said, screening)
            if reply.finish_reason == "length":
                note = f"(cut after {reply.completion_tokens} tokens, see --max_new_tokens · 已达最大长度)"
        except KeyboardInterrupt:
            note = "(stopped · 已停止)"
        except UserError as error:
            note = f"error: {error}"
        answer = "".join(said)
        if answer:
            print(flush=True)
        elif not note:
            note = "(the model gave no answer · 模型没有回答)"
        if note:
            self._print_notice(note)
        self.conversation.add_turn(question, answer)

    def _say(self, question: str, said: list[str], screening: Screening | None) -> Reply:
        """Print the pieces of an answer as they come, and add them to `said`."""
        styled = MarkdownStyler() if self.styled else None
        messages, dropped = self.conversation.prompt(question), self.conversation.dropped
        prompt = self.assistant.prepare(messages, exact=False, dropped=dropped, screening=screening)
        pieces = stream(self.assistant, prompt, self.sampling)
        reasons = False
        try:
            while True:
                piece = next(pieces)
                if piece.reasoning and not reasons:
                    self._print_notice("(reasoning · 思考中)")
                    reasons = True
                for notice in piece.notices:
                    if not piece.text and notice.level in SHOWN and notice.text not in self._noticed:
                        self._print_notice(notice.text)
                    self._noticed.add(notice.text)
                said.append(piece.text)
                text = piece.text.translate(CONTROL)
                print(styled.add(text) if styled else text, end="", flush=True)
        except StopIteration as end:
            reply: Reply = end.value
            return reply
        finally:
            pieces.close()
            if styled:
                print(styled.end(), end="", flush=True)

    def _print_notice(self, text: str) -> None:
        self.notices.print(text, style="dim", markup=False)


def _interactive_reader() -> ReadLine:
    """Return a reader with line editing and arrow-key history, kept in memory."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import InMemoryHistory

    session: PromptSession[str] = PromptSession(history=InMemoryHistory())
    return lambda: session.prompt("> ")


def _pipe_reader() -> str:
    """Read one line of a file or a pipe; bytes that are no UTF-8 become replacement characters."""
    line = sys.stdin.buffer.readline()
    if not line:
        raise EOFError
    return line.decode("utf-8", errors="replace")
