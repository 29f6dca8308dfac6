"""The deployment page: a chat in Gradio with the model that `carellama export` wrote to ../output_export.

    cd Gradio && python app.py          # a Hugging Face Space imports `demo`

Options of `carellama chat`, and --host, --port and --password_file, may follow. What is said stays in the browser's
page; nothing is written to disk. `carellama web` is the whole page: conversations, resumed answers, languages.
"""

from __future__ import annotations

import atexit
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import gradio as gr

from carellama.assistant import Assistant
from carellama.cli import fail, open_assistant
from carellama.config.reader import parse_options
from carellama.config.serve import CHAT_OPTIONS, WebOptions, credentials
from carellama.engine.generate import stream
from carellama.errors import UserError
from carellama.records import Message
from carellama.safety.notices import disclaimer
from carellama.serve.conversation import Conversation
from carellama.serve.gradio_markdown import answer_markdown, verbatim

EXPORTED = Path(__file__).parent.parent / "output_export"
MISSING = """No model was found in `output_export`. Train and export one:

    carellama demo
    carellama export --model_name_or_path MODEL --checkpoint_dir output --output_dir output_export

没有在 `output_export` 中找到模型，请先用上面的命令训练并导出。"""
LONGEST = 20_000  # characters of a question
Rows = list[dict[str, str]]  # what was said, as written: role and content


def shown(said: Rows) -> Rows:
    """What the chat shows: the words of a person as typed, those of the model as Markdown in which doses stay."""
    show = {"user": verbatim, "assistant": answer_markdown}
    return [{"role": row["role"], "content": show[row["role"]](row["content"])} for row in said]


def answer(assistant: Assistant, question: str, said: Rows) -> Iterator[tuple[str, Rows, Rows]]:
    """Answer a question: the box, what was said and what the chat shows, piece by piece."""
    question = question.strip()
    if not question or len(question) > LONGEST:
        yield question, said, shown(said)
        return
    conversation = Conversation(messages=[Message(row["role"], row["content"]) for row in said])  # type: ignore[arg-type]
    said = [*said, {"role": "user", "content": question}, {"role": "assistant", "content": ""}]
    yield "", said, shown(said[:-1])
    try:
        screening = assistant.screen(conversation.whole(question))
        if screening is None or screening.refusal is None:
            conversation.drop_oldest_turns(assistant, question, assistant.sampling)
        prompt = assistant.prepare(
            conversation.prompt(question), exact=False, dropped=conversation.dropped, screening=screening
        )
        for piece in stream(assistant, prompt, assistant.sampling):
            if piece.text:
                said[-1]["content"] += piece.text
                yield "", said, shown(said)
    except UserError as error:
        raise gr.Error(str(error)) from error  # the question stays on the page


def build(assistant: Assistant | None) -> gr.Blocks:
    """Return the page; without an assistant it says what to run."""
    with gr.Blocks(title="CareLlama", analytics_enabled=False, fill_height=True) as blocks:
        gr.Markdown("# CareLlama")
        if assistant is None:
            gr.Markdown(MISSING)
            return blocks
        gr.Markdown(f"{disclaimer('en')}\n\n{disclaimer('zh')}")
        said = gr.State([])
        chat = gr.Chatbot(label="CareLlama", scale=1, allow_tags=False, latex_delimiters=[], buttons=["copy"])
        question = gr.Textbox(label="Question / 问题", lines=2, max_lines=8, autofocus=True)
        with gr.Row():
            ask = gr.Button("Ask / 提问", variant="primary")
            stop = gr.Button("Stop / 停止")
            clear = gr.Button("Clear / 清空")

        def reply(text: str, rows: Rows) -> Iterator[tuple[str, Rows, Rows]]:
            yield from answer(assistant, text, rows)

        asked = gr.on(
            [ask.click, question.submit], reply, [question, said], [question, said, chat],
            concurrency_limit=assistant.parallel,
        )  # fmt: skip
        stop.click(None, cancels=[asked])
        clear.click(lambda: ([], []), None, [said, chat], cancels=[asked])
    return blocks


def load(argv: list[str]) -> tuple[Assistant | None, WebOptions]:
    """Return the assistant of the exported model, None where there is none, and where the page listens."""
    words = argv if "--model_name_or_path" in argv else ["--model_name_or_path", str(EXPORTED), *argv]
    *options, page = parse_options((*CHAT_OPTIONS, WebOptions), words, "Gradio/app.py")
    if words is not argv and not EXPORTED.is_dir():
        print(MISSING, file=sys.stderr)
        return None, page
    holder = ExitStack()
    atexit.register(holder.close)
    return holder.enter_context(open_assistant(*options)), page


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as any_port:
        any_port.bind(("127.0.0.1", 0))
        return int(any_port.getsockname()[1])


def launch(blocks: gr.Blocks, page: WebOptions) -> None:
    """Serve the page until it is stopped."""
    password = credentials(page)
    auth: Any = tuple(password.split(":", 1)) if password else None
    blocks.queue(max_size=page.queue).launch(
        server_name=page.host, server_port=page.port or free_port(), share=page.share, auth=auth, show_error=True,
        footer_links=[], ssl_certfile=page.ssl_certfile, ssl_keyfile=page.ssl_keyfile,
    )  # fmt: skip


try:
    assistant, page = load(sys.argv[1:] if __name__ == "__main__" else [])
except UserError as error:
    fail(str(error))
demo = build(assistant)

if __name__ == "__main__":
    launch(demo, page)
