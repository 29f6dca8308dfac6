"""A conversation in the terminal: answers stream, and Ctrl-C stops the answer, not the program.

    chat(engine, system=None, sampling=Sampling.of(GeneratingArguments()))

What is said stays in memory: neither the conversation nor the line history reaches the disk. Without a
terminal (lines piped in) it reads to the end of the input; answers go to stdout, all else to stderr. It is
handed an engine and loads none.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from rich.console import Console

from carellama.engine.base import Engine, Reply, Sampling
from carellama.errors import UserError
from carellama.records import Message

GREETING = """\
CareLlama: ask a health question. /help lists the commands. · 请输入您的健康问题，/help 查看命令。
It informs, it does not diagnose; in an emergency call your local emergency number.
本助手仅提供健康信息，不能代替医生诊断；紧急情况请立即拨打急救电话。"""
HELP = """\
clear          forget the conversation · 清空对话
/system TEXT   set the system message, and forget the conversation · 设置系统提示并清空对话
/system        show the system message · 显示系统提示
/help          this list · 显示帮助
exit           leave (also Ctrl-D, or Ctrl-C twice) · 退出
Ctrl-C         stop the answer · 停止回答"""
LEAVE = ("exit", "/exit", "quit", "/quit")
CLEAR = ("clear", "/clear")
# Control characters of an answer could move the cursor or retitle the window; tabs and new lines stay.
CONTROL = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}

ReadLine = Callable[[], str]  # raises EOFError at the end, KeyboardInterrupt at Ctrl-C


@dataclass
class Conversation:
    """The messages so far. `messages` never ends with an unanswered question."""

    system: str | None
    messages: list[Message] = field(default_factory=list)

    def prompt(self, question: str) -> list[Message]:
        """Return everything the engine is to answer."""
        system = [Message("system", self.system)] if self.system else []
        return [*system, *self.messages, Message("user", question)]

    def forget_oldest(self) -> None:
        """Drop the oldest question with its answer."""
        del self.messages[:2]


def chat(engine: Engine, system: str | None, sampling: Sampling) -> None:
    """Talk until the person leaves or the input ends."""
    if sys.stdin.isatty() and sys.stdout.isatty():
        talk(engine, Conversation(system), sampling, _prompt_line(), Console(highlight=False))
    else:
        plain = Console(stderr=True, highlight=False, color_system=None, soft_wrap=True)
        talk(engine, Conversation(system), sampling, _input_line, plain)


def talk(engine: Engine, conversation: Conversation, sampling: Sampling, read: ReadLine, notices: Console) -> None:
    """Read questions and commands from `read`; answers go to stdout, everything else to `notices`."""
    notices.print(GREETING, style="dim")
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
            notices.print("Ctrl-C again or Ctrl-D leaves. · 再按一次 Ctrl-C 退出。", style="dim")
            continue
        interrupted = False
        if line.lower() in LEAVE:
            return
        if line and not _command(line, conversation, notices):
            _answer(engine, conversation, line, sampling, notices)


def _command(line: str, conversation: Conversation, notices: Console) -> bool:
    """Obey a command; return False for a question."""
    word, _, rest = line.partition(" ")
    if line.lower() in CLEAR:
        conversation.messages.clear()
        notices.print("The conversation is forgotten. · 对话已清空。", style="dim")
    elif word == "/system" and rest.strip():
        conversation.system = rest.strip()
        conversation.messages.clear()
        notices.print("The system message is set. · 系统提示已设置。", style="dim")
    elif word == "/system":
        notices.print(conversation.system or "(none · 无)", style="dim", markup=False)
    elif line == "/help":
        notices.print(HELP, style="dim", markup=False)
    else:
        return False
    return True


def _answer(engine: Engine, conversation: Conversation, question: str, sampling: Sampling, notices: Console) -> None:
    """Stream one answer and remember it; one that was stopped is remembered as far as it came."""
    said: list[str] = []
    note = ""
    try:
        if dropped := _make_room(engine, conversation, question, sampling):
            text = f"({dropped} oldest turns no longer fit. · 最早的 {dropped} 轮对话已省略。)"
            notices.print(text, style="dim")
        reply = _say(engine, conversation.prompt(question), sampling, said)
        if reply.finish_reason == "length":
            note = f"(cut after {reply.completion_tokens} tokens, see --max_new_tokens · 已达最大长度)"
    except KeyboardInterrupt:
        note = "(stopped · 已停止)"
    except UserError as error:
        note = f"error: {error}"
    if said:
        print(flush=True)
    elif not note:
        note = "(the model gave no answer · 模型没有回答)"
    if note:
        notices.print(note, style="dim", markup=False)
    if answer := "".join(said):
        conversation.messages += [Message("user", question), Message("assistant", answer)]


def _say(engine: Engine, messages: list[Message], sampling: Sampling, said: list[str]) -> Reply:
    """Print the pieces of an answer as they come, and add them to `said`."""
    stream = engine.stream(messages, sampling)
    try:
        while True:
            piece = next(stream)
            said.append(piece.text)
            print(piece.text.translate(CONTROL), end="", flush=True)
    except StopIteration as end:
        reply: Reply = end.value
        return reply
    finally:
        stream.close()


def _make_room(engine: Engine, conversation: Conversation, question: str, sampling: Sampling) -> int:
    """Forget the oldest turns until the answer has room; return how many. The question is never cut."""
    context = engine.context_tokens
    if context is None:
        return 0
    dropped = 0
    wanted = min(sampling.max_new_tokens, context // 2)
    while conversation.messages and engine.count_tokens(conversation.prompt(question)) + wanted > context:
        conversation.forget_oldest()
        dropped += 1
    return dropped


def _prompt_line() -> ReadLine:
    """Return a reader with line editing and arrow-key history, kept in memory."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import InMemoryHistory

    session: PromptSession[str] = PromptSession(history=InMemoryHistory())
    return lambda: session.prompt("> ")


def _input_line() -> str:
    """Read one line of a file or a pipe; bytes that are no UTF-8 become replacement characters."""
    line = sys.stdin.buffer.readline()
    if not line:
        raise EOFError
    return line.decode("utf-8", errors="replace")
