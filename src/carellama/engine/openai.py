"""Answers through an OpenAI-compatible endpoint (`/v1/chat/completions`), a few requests at a time.

    engine = OpenAIEngine("http://localhost:8000/v1", "my-model", key=endpoint_key())

The key is sent in a header and stands in no message; nor does what the server says of a prompt. Redirects are not
followed. The protocol has no top_k, repetition penalty or beams: a sampling that asks for them is refused.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, Any, Literal

from carellama.disk import say
from carellama.engine.base import OnReply, Prompt, Reply, Sampling
from carellama.errors import UserError
from carellama.text import HAN_CHARACTER

if TYPE_CHECKING:
    import httpx2

PAUSES = (1.0, 3.0, 10.0, 30.0)  # seconds before each further try
LONGEST_PAUSE = 120.0  # seconds, whatever the server asks for
WORTH_A_TRY = {408, 425, 429, 500, 502, 503, 504}
LETTERS_A_TOKEN = 4  # of the estimate; a Chinese character counts as a token


class OpenAIEngine:
    """An `Engine` behind an address. `context_tokens` is not known: the endpoint refuses what is too long."""

    def __init__(
        self,
        endpoint: str,
        model: str,
        *,
        key: str | None = None,
        parallel: int = 4,
        timeout: float = 120.0,
        pauses: Sequence[float] = PAUSES,
    ) -> None:
        import httpx2

        try:
            url = httpx2.URL(endpoint)
        except httpx2.InvalidURL:
            url = httpx2.URL("")
        if url.scheme not in ("http", "https") or not url.host:
            raise UserError("the endpoint must be an address as in http://localhost:8000/v1")
        if key is not None and not (key.isascii() and key.isprintable()):
            raise UserError("the key of the endpoint has characters that no key has; set CARELLAMA_API_KEY anew")
        path = url.path.rstrip("/")
        self.url = url.copy_with(path=path if path.endswith("/chat/completions") else f"{path}/chat/completions")
        self.model = model
        self.context_tokens: int | None = None
        self.host = url.host
        self._key, self._parallel, self._timeout, self._pauses = key, parallel, timeout, tuple(pauses)
        self._said_no_usage = False

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, on_reply: OnReply | None = None
    ) -> list[Reply]:
        """Answer each conversation; see `Engine.generate`. `on_reply` is called in the thread of the caller.

        A request that fails ends the call with its `UserError` once the others under way have been answered.
        """
        replies: dict[int, Reply] = {}
        failure: UserError | None = None
        with self._client() as http, ThreadPoolExecutor(self._parallel) as pool:
            bodies = [self._body(messages, sampling) for messages in prompts]
            asked = {pool.submit(self._ask, http, body): index for index, body in enumerate(bodies)}
            told: set[Future[Reply]] = set()

            def tell(done: Future[Reply]) -> None:
                told.add(done)
                replies[asked[done]] = reply = done.result()
                if on_reply is not None:
                    on_reply(asked[done], reply)

            try:
                for done in as_completed(asked):
                    tell(done)
            except UserError as error:
                failure = error
            finally:  # a cancelled request never completes for as_completed
                pool.shutdown(wait=True, cancel_futures=True)
            for done in asked:
                if done not in told and not done.cancelled() and done.exception() is None:
                    tell(done)
        if failure is not None:
            raise failure
        return [replies[index] for index in range(len(prompts))]

    def stream(self, messages: Prompt, sampling: Sampling) -> Generator[str, None, Reply]:
        """Yield the answer as it comes; see `Engine.stream`. A stream that breaks is an error: nothing is repeated."""
        import httpx2

        body = self._body(messages, sampling) | {"stream": True, "stream_options": {"include_usage": True}}
        text, finish, usage = "", None, None
        try:
            with self._client() as http, http.stream("POST", self.url, json=body) as response:
                if response.status_code != 200:
                    response.read()
                    raise self._refusal(response)
                for line in response.iter_lines():
                    data = line.removeprefix("data:").strip()
                    if not line.startswith("data:") or not data:
                        continue
                    if data == "[DONE]":
                        break
                    event = self._parsed(data)
                    usage = event.get("usage") or usage
                    for choice in event.get("choices") or ():
                        finish = choice.get("finish_reason") or finish
                        if piece := (choice.get("delta") or {}).get("content"):
                            text += piece
                            yield piece
        except httpx2.ConnectError as error:
            raise self._no_connection() from error
        except httpx2.RequestError as error:
            raise UserError(f"{self.host}: the answer broke off ({type(error).__name__}); ask again") from error
        if finish is None:
            raise UserError(f"{self.host}: the answer broke off before its end; ask again")
        return self._reply(text, finish, usage)

    def count_tokens(self, messages: Prompt) -> int:
        """An estimate: the endpoint has no tokenizer. What was counted stands in `Reply`."""
        text = self.render(messages)
        han = len(HAN_CHARACTER.findall(text))
        return han + (len(text) - han) // LETTERS_A_TOKEN

    def render(self, messages: Prompt) -> str:
        """Return the messages as lines of `role: content`; the endpoint's chat format is not known."""
        return "".join(f"{message.role}: {message.content}\n" for message in messages)

    def _client(self) -> httpx2.Client:
        import httpx2

        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        return httpx2.Client(timeout=httpx2.Timeout(self._timeout, connect=min(20.0, self._timeout)), headers=headers)

    def _body(self, messages: Prompt, sampling: Sampling) -> dict[str, Any]:
        if sampling.top_k or sampling.num_beams != 1 or sampling.repetition_penalty != 1:
            raise UserError(
                "an endpoint takes no top_k, num_beams or repetition_penalty: "
                "give --top_k 0 --num_beams 1 --repetition_penalty 1"
            )
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": message.role, "content": message.content} for message in messages],
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
        }
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        return body

    def _ask(self, http: httpx2.Client, body: dict[str, Any]) -> Reply:
        import httpx2

        for pause in (*self._pauses, None):
            try:
                response = http.post(self.url, json=body)
            except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError) as error:
                raise self._no_connection() from error
            except httpx2.TransportError as error:
                problem = type(error).__name__
                if pause is None:
                    raise UserError(
                        f"{self.host}: no answer after {len(self._pauses) + 1} tries ({problem}); see --timeout"
                    ) from error
            else:
                if response.status_code not in WORTH_A_TRY or pause is None:
                    return self._read(response)
                problem = f"answers {response.status_code} {response.reason_phrase}"
                asked = response.headers.get("retry-after", "")
                pause = min(max(pause, float(asked) if asked.isdecimal() else 0.0), LONGEST_PAUSE)
            say(f"{self.host}: {problem}; trying again in {pause:g} s")
            time.sleep(pause)
        raise AssertionError("the last try returns or raises")

    def _read(self, response: httpx2.Response) -> Reply:
        if response.status_code != 200:
            raise self._refusal(response)
        answer = self._parsed(response.text)
        try:
            choice = answer["choices"][0]
            text = choice["message"].get("content") or ""
            return self._reply(text, choice.get("finish_reason"), answer.get("usage"))
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise UserError(f"{self.host} does not answer as /v1/chat/completions does; check --endpoint") from error

    def _parsed(self, text: str) -> dict[str, Any]:
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise UserError(f"{self.host} does not answer with JSON; check --endpoint")
        if found.get("error"):
            raise UserError(f"{self.host} reports an error in its answer{_code(found)}")
        return found

    def _reply(self, text: str, finish: str | None, usage: dict[str, Any] | None) -> Reply:
        if not usage and not self._said_no_usage:
            self._said_no_usage = True
            say(f"{self.host} tells no usage: its tokens are counted as 0")
        counts = usage or {}
        reason: Literal["stop", "length"] = "length" if finish == "length" else "stop"
        return Reply(text, reason, int(counts.get("prompt_tokens") or 0), int(counts.get("completion_tokens") or 0))

    def _no_connection(self) -> UserError:
        return UserError(f"nothing answers at {self.host}: check --endpoint and the network")

    def _refusal(self, response: httpx2.Response) -> UserError:
        """The error of a status. The server's sentence is left out: it may repeat the prompt."""
        status = response.status_code
        if status in (401, 403):
            return UserError(
                f"{self.host} refuses the key ({status}): set CARELLAMA_API_KEY or OPENAI_API_KEY to one that it takes"
            )
        try:
            code = _code(response.json())
        except ValueError:
            code = ""
        if status == 404:
            return UserError(
                f"{self.host} has no model {self.model!r}, or no {self.url.path} (404{code}): "
                "check --model and --endpoint"
            )
        return UserError(f"{self.host} answers {status} {response.reason_phrase}{code}")


def _code(answer: Any) -> str:
    """` (code)` of an error, where it is a short word."""
    error = answer.get("error") if isinstance(answer, dict) else None
    code = (error.get("code") or error.get("type")) if isinstance(error, dict) else None
    word = str(code or "")
    return f" ({word})" if word and len(word) <= 60 and word.replace("_", "").replace("-", "").isalnum() else ""
