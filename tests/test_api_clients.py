"""The API by programs that people use: NextChat, Open WebUI, LangChain, curl; and by the seed's command."""

from __future__ import annotations

import json
import shutil
import subprocess

import httpx2
import pytest

from api_server import ASKED, echo, running

PAGE = "https://nextchat.example.org"


@pytest.fixture(scope="module")
def served():
    with running(echo(), cors_origins=PAGE) as server:
        yield server


class NextChat:
    """What the browser sends straight to a server: preflight, then a stream; a body without max_tokens."""

    def __init__(self, url: str) -> None:
        self.http = httpx2.Client(base_url=url, headers={"origin": PAGE, "authorization": "Bearer nk-any"})

    def preflight(self) -> None:
        answer = self.http.options(
            "/v1/chat/completions",
            headers={
                "access-control-request-method": "POST",
                "access-control-request-headers": "authorization,content-type",
            },
        )
        assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == PAGE
        assert {"authorization", "content-type"} <= set(answer.headers["access-control-allow-headers"].split(","))

    def body(self, messages: list[dict], stream: bool) -> dict:
        return {
            "messages": messages, "stream": stream, "model": "carellama", "temperature": 0.5, "presence_penalty": 0,
            "frequency_penalty": 0, "top_p": 1,
        }  # fmt: skip

    def chat(self, messages: list[dict]) -> str:
        self.preflight()
        text = ""
        with self.http.stream("POST", "/v1/chat/completions", json=self.body(messages, True)) as answer:
            assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/event-stream")
            assert answer.headers["access-control-allow-origin"] == PAGE
            lines = [line for line in answer.iter_lines() if line and not line.startswith(":")]  # a comment
        assert lines[-1] == "data: [DONE]"
        for line in lines[:-1]:
            text += json.loads(line.removeprefix("data: "))["choices"][0]["delta"].get("content") or ""
        return text

    def summarise(self, messages: list[dict]) -> str:
        answer = self.http.post("/v1/chat/completions", json=self.body(messages, False))
        return answer.json()["choices"][0]["message"]["content"]


def test_nextchat(served) -> None:
    client = NextChat(served.url)
    systems = [{"role": "system", "content": "You are ..."}, {"role": "system", "content": "Summary: asthma"}]
    assert client.chat([*systems, *ASKED]) == "What is asthma?"
    answered = [*ASKED, {"role": "assistant", "content": "A disease."}]
    assert client.summarise([*answered, {"role": "system", "content": "Summarise."}]) == "Summarise."
    broken = [*ASKED, {"role": "assistant", "content": ""}, {"role": "user", "content": "Again?"}]
    assert client.chat(broken) == "What is asthma?\n\nAgain?"  # the failed answer was left out
    assert client.chat([answered[1], *ASKED]) == "What is asthma?"  # its window may begin with an answer


def test_nextchat_shows_errors(served) -> None:
    wrong = NextChat(served.url).http.post("/v1/chat/completions", json={"messages": ASKED, "model": "gpt-4"})
    assert wrong.status_code == 404 and wrong.headers["content-type"] == "application/json"
    assert wrong.headers["access-control-allow-origin"] == PAGE and wrong.json()["error"]["message"]


def test_open_webui(served) -> None:
    """It lists the models, chats with fields of its own, and asks for titles and tags."""
    http = httpx2.Client(base_url=served.v1, headers={"authorization": "Bearer x"})
    (model,) = http.get("/models").json()["data"]
    body = {
        "stream": True, "model": model["id"], "messages": ASKED, "stream_options": {"include_usage": True},
        "metadata": {"chat_id": "1"}, "chat_id": "1", "session_id": "s", "id": "m", "features": {"web_search": False},
        "background_tasks": {"title_generation": True}, "params": {}, "tool_servers": [], "variables": {},
    }  # fmt: skip
    with http.stream("POST", "/chat/completions", json=body) as answer:
        events = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: {")]
    assert events[-1]["usage"]["total_tokens"] and events[-2]["choices"][0]["finish_reason"] == "stop"
    title = {"model": model["id"], "messages": ASKED, "stream": False, "max_completion_tokens": 4}
    assert http.post("/chat/completions", json=title).json()["choices"][0]["message"]["content"] == "What"
    parts = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    assert http.post("/chat/completions", json={"messages": parts}).json()["choices"][0]["message"]["content"] == "Hi"
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,x"}}]}]
    assert http.post("/chat/completions", json={"messages": image}).json()["error"]["code"] == "unsupported_content"


def test_langchain(served) -> None:
    langchain = pytest.importorskip("langchain_openai")
    model = langchain.ChatOpenAI(base_url=served.v1, api_key="any", model="carellama", stream_usage=True)
    said = model.invoke([("system", "Be brief."), ("human", "What is asthma?")])
    assert said.content == "What is asthma?" and said.usage_metadata["output_tokens"] == len("What is asthma?")
    assert "".join(part.content for part in model.stream("What is asthma?")) == "What is asthma?"
    vectors = langchain.OpenAIEmbeddings(
        base_url=served.v1, api_key="any", model="carellama", check_embedding_ctx_length=False
    )
    assert vectors.embed_query("fever") == pytest.approx(served.state.engine.embed(["fever"])[0])


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
def test_curl(served) -> None:
    def curl(*words: str) -> str:
        return subprocess.run(["curl", "-sN", *words], capture_output=True, text=True, check=True, timeout=30).stdout

    chat = f"{served.v1}/chat/completions"
    kind = ("-H", "Content-Type: application/json")
    whole = curl(chat, *kind, "-d", json.dumps({"messages": ASKED}))
    assert json.loads(whole)["choices"][0]["message"]["content"] == "What is asthma?"
    streamed = curl(chat, *kind, "-d", json.dumps({"messages": ASKED, "stream": True}))
    assert streamed.startswith("data: {") and streamed.endswith("data: [DONE]\n\n")
    assert json.loads(curl(chat, "-d", "{}"))["error"]["message"].startswith("send the body as JSON")
    long = json.dumps({"messages": [{"role": "user", "content": "x" * (5 << 20)}]})
    sent = subprocess.run(
        ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", chat, *kind, "-d", "@-"],
        input=long, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert sent.stdout == "413"
