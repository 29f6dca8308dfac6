"""The web page: a chat with an assistant, in Chinese and English, each visitor for himself.

    run(Assistant(engine), WebOptions(), password=None)

A conversation lives in the server's memory until its page is closed or cleared; neither disk nor log sees it. Nothing
is loaded from other machines, and no statistics are sent to the makers of Gradio. It does not know which engine it
has.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Generator, Iterator
from dataclasses import replace
from types import FrameType
from typing import Any, cast

import gradio as gr
import uvicorn
from fastapi import FastAPI
from starlette.routing import Mount

from carellama.assistant import Assistant
from carellama.config.serve import WebOptions
from carellama.engine.base import Reply, Sampling
from carellama.engine.generate import stream
from carellama.errors import UserError
from carellama.package_data import package_text
from carellama.records import JSONObject
from carellama.safety.layer import Screening
from carellama.safety.notices import SHOWN, Language, disclaimer
from carellama.serve.hosts import bind_socket, url_of
from carellama.serve.http_protocol import ConnectionLimits, guarded
from carellama.serve.page.gate import Gate
from carellama.serve.page.markdown import answer_markdown, verbatim
from carellama.serve.page.visits import Visit, Visits
from carellama.serve.page.words import error_text, page_words

Updates = list[object]  # values and updates of components, as Gradio takes them from a button
TICK = 0.06  # seconds between two updates of a page while an answer streams
SLIDERS = {  # name -> (least, most, step), in the order in which `Page.answer` takes them
    "temperature": (0.0, 2.0, 0.05),
    "top_p": (0.05, 1.0, 0.05),
    "top_k": (0, 200, 1),
    "max_new_tokens": (16, 8192, 1),
    "repetition_penalty": (1.0, 2.0, 0.05),
}
log = logging.getLogger(__name__)


class Page:
    """The page and what its buttons do. Each method that Gradio calls gives what `_shown` says."""

    def __init__(self, assistant: Assistant, arguments: WebOptions) -> None:
        self.assistant = assistant
        self.question_chars = arguments.question_chars
        self.visits = Visits(assistant.parallel + arguments.queue)
        self.labelled: dict[str, gr.Component] = {}  # word -> the component that bears it
        self.blocks = self._build()

    # What the buttons do. Gradio tells by the type of an argument that it is to give the request.

    def ask(self, question: str, language: Language, request: gr.Request) -> Updates:
        """Take a question; `answer` follows."""
        question = question or ""
        visit = self.visits.of(request.session_hash)
        refusal = self._refusal(visit, question, language)
        if not refusal and question.strip() and not visit.begin(question.strip()):
            refusal = page_words(language)["busy"]
        if refusal:
            visit.note = refusal
        return [question if refusal else "", *self._shown(visit, language)]

    def answer(
        self, language: Language, system: str, adapter: str, temperature: float, top_p: float, top_k: float,
        max_new_tokens: float, repetition_penalty: float, request: gr.Request,
    ) -> Iterator[Updates]:  # fmt: skip
        """Answer the question that `ask` or `retry` took, piece by piece."""
        key = request.session_hash
        visit = self.visits.seen(key)
        if visit is not None and visit.take():
            visit.conversation.system = (system or "").strip() or None
            sampling = replace(
                self.assistant.sampling, adapter=adapter, temperature=temperature, top_p=top_p, top_k=int(top_k),
                max_new_tokens=int(max_new_tokens), repetition_penalty=repetition_penalty,
            )  # fmt: skip
            for _ in self._follow(visit, sampling, language):
                if self.visits.seen(key) is visit:  # not cleared meanwhile
                    yield self._shown(visit, language)
        yield self._shown(self.visits.seen(key) or Visit(), language)

    def stop(self, language: Language, request: gr.Request) -> Updates:
        """Stop the answer; it is kept as far as it came."""
        visit = self.visits.of(request.session_hash)
        if visit.stop(page_words(language)["stopped"]):
            return [gr.skip()] * 4  # `answer` shows its end; what is true now may come to the page after that
        return self._shown(visit, language)

    def retry(self, language: Language, request: gr.Request) -> Updates:
        """Take the last question once more; `answer` follows."""
        visit = self.visits.of(request.session_hash)
        refusal = self._refusal(visit, "", language)
        if not refusal and not visit.begin_again():
            refusal = page_words(language)["nothing"]
        if refusal:
            visit.note = refusal
        return self._shown(visit, language)

    def undo(self, question: str, language: Language, request: gr.Request) -> Updates:
        """Put the last question back into its box, and forget its answer."""
        visit = self.visits.of(request.session_hash)
        if visit.question:
            return [question, gr.skip(), page_words(language)["busy"], gr.skip(), gr.skip()]
        visit.note = ""
        return [visit.conversation.undo() or question, *self._shown(visit, language)]

    def clear(self, language: Language, request: gr.Request) -> Updates:
        """Forget the conversation; an answer under way ends."""
        return self._shown(self.visits.renew(request.session_hash), language)

    def leave(self, request: gr.Request) -> None:
        """Forget a page that was closed."""
        self.visits.leave(request.session_hash)

    def speak(self, language: Language, request: gr.Request) -> Updates:
        """Say everything in another language."""
        words = page_words(language)
        beside = {"question": {"placeholder": words["placeholder"]}, "system": {"info": words["system_info"]}}
        fresh = [gr.update(value=disclaimer(language))]
        for word, component in self.labelled.items():
            name = "value" if isinstance(component, gr.Button) else "label"
            fresh.append(gr.update(**{name: words[word]}, **beside.get(word, {})))
        return fresh

    def begin(self, request: gr.Request) -> Updates:
        """Take the language that the browser asks for first."""
        first = request.headers.get("accept-language", "").strip().lower()
        language: Language = "zh" if first.startswith("zh") else "en"
        return [language, *self.speak(language, request)]

    # How an answer is made

    def _refusal(self, visit: Visit, question: str, language: Language) -> str:
        """Why no answer can be begun; "": it can."""
        words = page_words(language)
        if visit.question:
            return words["busy"]
        if len(question) > self.question_chars:
            return words["long"].format(given=len(question), most=self.question_chars)
        return words["full"] if self.visits.full else ""

    def _follow(self, visit: Visit, sampling: Sampling, language: Language) -> Iterator[None]:
        """Make the answer of a visit, yielding from time to time; whatever happens, the visit is free afterwards."""
        words, notes = page_words(language), []
        try:
            screening = self.assistant.screen(visit.conversation.whole(visit.question))
            refused = screening and screening.refusal  # then no engine, and no endpoint, counts the tokens either
            if not refused and (
                turns := visit.conversation.drop_oldest_turns(self.assistant, visit.question, sampling)
            ):
                notes.append(words["dropped"].format(turns=turns))
            if not self.assistant.speaks(visit.question):
                notes.append(words["other language"])
            reply = yield from self._stream(visit, sampling, notes, screening)
            if reply is None:
                notes.append(words["stopped"])
            elif reply.finish_reason == "length":
                notes.append(words["cut"].format(tokens=reply.completion_tokens))
            elif not reply.text:
                notes.append(words["no answer"])
        except UserError as error:
            log.warning("an answer was refused: %s", error)
            notes.append(error_text(error, language))
        except Exception as error:  # noqa: BLE001 - shown to the visitor; its text may hold what was said
            log.error("an answer failed: %s", _place(error))
            notes.append(error_text(error, language))
        finally:
            visit.end(" ".join(notes))

    def _stream(
        self, visit: Visit, sampling: Sampling, notes: list[str], screening: Screening | None
    ) -> Generator[None, None, Reply | None]:
        """Read the answer into `visit.partial`, and notices beside it into `notes`.

        Give its `Reply`, or None when it was stopped.
        """
        asked, dropped = visit.conversation.prompt(visit.question), visit.conversation.dropped
        prompt = self.assistant.prepare(asked, exact=False, dropped=dropped, screening=screening)
        pieces = stream(self.assistant, prompt, sampling)
        due = 0.0
        try:
            while not visit.stopped:
                try:
                    piece = next(pieces)
                except StopIteration as end:
                    reply: Reply = end.value
                    return reply
                visit.partial += piece.text
                for notice in piece.notices if not piece.text else ():
                    said = any(notice.text in one.content for one in visit.conversation.messages)
                    if notice.level in SHOWN and not said:
                        notes.append(notice.text)
                        visit.note = " ".join(notes)
                if (now := time.monotonic()) >= due:
                    due = now + TICK
                    yield
            return None
        finally:
            pieces.close()

    # How it looks

    def _shown(self, visit: Visit, language: Language) -> Updates:
        """What the chat, the note and the buttons show: [chat, note, ask, stop]."""
        rows = [_row(message.role, message.content) for message in visit.conversation.messages]
        busy = bool(visit.question)
        last = visit.question or visit.conversation.pending_question
        if last:
            rows.append(_row("user", last))
        if visit.partial:
            rows.append(_row("assistant", visit.partial))
        note = page_words(language)["wait"] if busy and not visit.partial else answer_markdown(visit.note)
        return [rows, note, gr.update(interactive=not busy), gr.update(interactive=busy)]

    def _build(self) -> gr.Blocks:
        words, sampling = page_words("en"), self.assistant.sampling
        with gr.Blocks(title="CareLlama", analytics_enabled=False, fill_height=True) as blocks:
            with gr.Row():
                gr.Markdown("# CareLlama", elem_id="title")
                language = gr.Radio(
                    [("中文", "zh"), ("English", "en")], value="en", show_label=False, container=False, scale=0,
                    min_width=200, elem_id="language",
                )  # fmt: skip
            notice = gr.Markdown(disclaimer("en"), elem_id="notice")
            chat = gr.Chatbot(
                label=words["conversation"], scale=1, height="48vh", buttons=["copy"], feedback_options=None,
                allow_tags=False, latex_delimiters=[], elem_id="chat",
            )  # fmt: skip
            note = gr.Markdown("", elem_id="note")
            question = gr.Textbox(
                label=words["question"], placeholder=words["placeholder"], lines=1, max_lines=8, autofocus=True,
                elem_id="question",
            )  # fmt: skip
            with gr.Row():
                buttons = {
                    word: gr.Button(words[word], variant="primary" if word == "ask" else "secondary", elem_id=word,
                                    interactive=word != "stop", min_width=80)
                    for word in ("ask", "stop", "retry", "undo", "clear")
                }  # fmt: skip
            with gr.Accordion(words["settings"], open=False, elem_id="settings") as settings:
                system = gr.Textbox(
                    self.assistant.system_prompt or "", label=words["system"], info=words["system_info"], lines=2
                )
                adapters = self.assistant.adapters
                adapter = gr.Dropdown(
                    [("carellama", ""), *((f"carellama:{name}", name) for name in adapters)],
                    value=sampling.adapter, label=words["adapter"], visible=bool(adapters),
                )  # fmt: skip
                sliders = {name: self._slider(name, sampling) for name in SLIDERS}
            self.labelled = {
                "conversation": chat, "question": question, **buttons, "settings": settings, "system": system,
                "adapter": adapter, **sliders,
            }  # fmt: skip
            shown = [chat, note, buttons["ask"], buttons["stop"]]
            options = [language, system, adapter, *sliders.values()]
            said = [notice, *self.labelled.values()]
            self._wire(blocks, buttons, question, language, shown, options, said)
        return blocks

    def _slider(self, name: str, sampling: Sampling) -> gr.Slider:
        least, most, step = SLIDERS[name]
        value = getattr(sampling, name)
        if name == "max_new_tokens":
            most = min(most, self.assistant.context_tokens or most)
            value = min(value or most, most)
        return gr.Slider(least, most, value=value, step=step, label=page_words("en")[name], elem_id=name)

    def _wire(
        self, blocks: gr.Blocks, buttons: dict[str, gr.Button], question: gr.Textbox, language: gr.Radio,
        shown: list[gr.Component], options: list[gr.Component], said: list[gr.Component],
    ) -> None:  # fmt: skip
        """Tie the buttons to what they do. Only answers wait for a place; all else is done at once."""
        chat = shown[0]
        at_once: dict[str, object] = {"queue": False, "show_progress": "hidden"}
        in_turn: dict[str, object] = {
            "fn": self.answer, "inputs": options, "outputs": shown, "show_progress": "hidden",
            "concurrency_id": "answers", "concurrency_limit": self.assistant.parallel,
        }  # fmt: skip
        gr.on(
            [question.submit, buttons["ask"].click], self.ask, [question, language], [question, *shown],
            api_name="ask", **at_once,
        ).then(**in_turn, api_name="answer")  # fmt: skip
        buttons["retry"].click(self.retry, [language], shown, api_name="retry", **at_once).then(
            **in_turn, api_name="answer_again"
        )
        buttons["stop"].click(self.stop, [language], shown, api_name="stop", **at_once)
        buttons["undo"].click(self.undo, [question, language], [question, *shown], api_name="undo", **at_once)
        gr.on([buttons["clear"].click, chat.clear], self.clear, [language], shown, api_name="clear", **at_once)
        language.input(self.speak, [language], said, api_name="speak", **at_once)
        blocks.load(self.begin, None, [language, *said], api_name="begin", **at_once)
        blocks.unload(self.leave)


def app(page: Page, password: str | None) -> FastAPI:
    """Return the server's application."""
    front = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    blocks = page.blocks
    blocks.max_threads = max(blocks.max_threads, 2 * page.assistant.parallel)
    blocks.queue(max_size=2 * page.visits.room)  # `Visits` refuses before this one does, in the visitor's language
    gr.mount_gradio_app(
        front, blocks, path="/", footer_links=[], run_history=False, enable_monitoring=False, show_error=False,
        ssr_mode=False, pwa=False, mcp_server=False, max_file_size=1,
        css=package_text("serve/page/page.css"), head=f"<script>{package_text('serve/page/copy.js')}</script>",
    )  # fmt: skip
    front.add_middleware(Gate, password=password)
    return front


def run(assistant: Assistant, arguments: WebOptions, password: str | None) -> None:
    """Serve the page until SIGINT or SIGTERM. Raises `UserError` for an address that cannot be had."""
    page = Page(assistant, arguments)
    listening = bind_socket(arguments.host, arguments.port)
    listening.listen()  # who opens the page at once waits for it
    print(f"CareLlama is at {url_of(listening, arguments.scheme)}; Ctrl-C ends it.", flush=True)
    if arguments.share:
        address = _tunnel(listening.getsockname()[1])
        print(f"Everybody who has the password reaches it at {address}", flush=True)
    server = _Server(
        uvicorn.Config(
            app(page, password),
            http=guarded(ConnectionLimits()),
            log_level="warning",
            access_log=False,
            ws="none",
            timeout_graceful_shutdown=3,
            server_header=False,
            ssl_certfile=arguments.ssl_certfile,
            ssl_keyfile=arguments.ssl_keyfile,
        )
    )
    server.run(sockets=[listening])


class _Server(uvicorn.Server):
    """Ends when it is told to, though pages are open: each holds a connection to tell that it still is."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Let these connections end; answers under way have the time of `timeout_graceful_shutdown`."""
        front = cast("FastAPI", self.config.app)
        mounted: list[Any] = [route.app for route in front.routes if isinstance(route, Mount)]
        for gradio in mounted:
            gradio.stop_event.set()
        super().handle_exit(sig, frame)


def _tunnel(port: int) -> str:
    """Open Gradio's tunnel to the port; return its address."""
    import secrets

    from gradio.networking import setup_tunnel

    try:
        return str(setup_tunnel("127.0.0.1", port, secrets.token_urlsafe(32), None, None))
    except Exception as error:
        raise UserError(
            f"--share: no tunnel ({error}); it needs the Internet, and a program that Gradio fetches"
        ) from error


def _row(role: str, text: str) -> JSONObject:
    shown = verbatim(text) if role == "user" else answer_markdown(text)
    return {"role": role, "content": [{"type": "text", "text": shown}]}


def _place(error: BaseException) -> str:
    """Kind and place of an error, without its text."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__} at {f'{frames[-1].filename}:{frames[-1].lineno}' if frames else 'nowhere'}"
