"""The API by OpenAI's own client: what it sends is understood, what it gets is what OpenAI would say."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import re
from array import array
from typing import Any

import httpx2
import openai
import pytest

from api_server import ASKED, echo, running
from carellama.engine.base import Piece, Reply, Sampling, TokenLogprob, Unavailable
from carellama.engine.scripted import ScriptedEngine
from carellama.records import Message, ToolCall
from carellama.serve.api import response_schemas as schemas

CALL = '<tool_call>{"name": "department", "arguments": {"of": "ear"}}</tool_call>'
TOOLS = [{"type": "function", "function": {"name": "department", "parameters": {"properties": {"of": {}}}}}]


class Told(ScriptedEngine):
    """Remembers how it was to draw, and takes what the scripted engine lacks."""

    def __init__(self, script="See a doctor.", **kwargs) -> None:
        super().__init__(script, **kwargs)
        self.drawn: list[Sampling] = []

    def answer(self, prompt, sampling):
        self.drawn.append(sampling)
        return super().answer(prompt, Sampling(sampling.max_new_tokens, stop=sampling.stop, tools=sampling.tools))


@pytest.fixture(scope="module")
def served():
    with running(echo(context_tokens=300, adapters=["tcm"]), model_alias="gpt-3.5-turbo") as server:
        yield server


@pytest.fixture
def client(served):
    return openai.OpenAI(base_url=served.v1, api_key="any", max_retries=0)


def ask(client: openai.OpenAI, **kwargs):
    return client.chat.completions.create(**{"model": "carellama", "messages": ASKED, **kwargs})


def test_an_answer(client) -> None:
    done = ask(client)
    assert done.choices[0].message.content == "What is asthma?"
    assert (done.choices[0].finish_reason, done.model, done.object) == ("stop", "carellama", "chat.completion")
    prompt, answer = len("user: What is asthma?\n"), len("What is asthma?")
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (prompt, answer)
    assert done.usage.total_tokens == prompt + answer


def test_a_stream_says_the_same(client) -> None:
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    *said, usage = chunks
    assert "".join(chunk.choices[0].delta.content or "" for chunk in said) == "What is asthma?"
    assert said[0].choices[0].delta.role == "assistant" and said[-1].choices[0].finish_reason == "stop"
    assert not usage.choices and usage.usage.total_tokens == ask(client).usage.total_tokens
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    plain = list(ask(client, stream=True))
    assert all(chunk.usage is None and chunk.choices for chunk in plain)


@pytest.mark.parametrize("stream", [False, True])
def test_the_end_of_an_answer_has_its_reason(client, stream) -> None:
    def reason(**kwargs):
        done = ask(client, stream=stream, **kwargs)
        if not stream:
            return done.choices[0].message.content, done.choices[0].finish_reason
        chunks = list(done)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        return text, chunks[-1].choices[0].finish_reason

    assert reason(max_tokens=4) == ("What", "length")
    assert reason(max_completion_tokens=4) == ("What", "length")
    assert reason(stop=" is") == ("What", "stop")
    assert reason(stop=["never", "asthma", ""]) == ("What is ", "stop")


def test_several_answers(client) -> None:
    done = ask(client, n=3, max_tokens=2)
    assert [choice.index for choice in done.choices] == [0, 1, 2]
    assert {choice.message.content for choice in done.choices} == {"Wh"}
    assert done.usage.completion_tokens == 6 and done.usage.prompt_tokens == ask(client).usage.prompt_tokens
    texts = {0: "", 1: "", 2: ""}
    for chunk in ask(client, n=3, max_tokens=2, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert set(texts.values()) == {"Wh"}


def test_log_probabilities(client) -> None:
    done = ask(client, max_tokens=2, logprobs=True, top_logprobs=1)
    content = done.choices[0].logprobs.content
    assert [one.token for one in content] == ["W", "h"] and content[0].top_logprobs[0].bytes == [ord("W")]
    streamed = [
        one
        for chunk in ask(client, max_tokens=2, logprobs=True, top_logprobs=1, stream=True)
        for one in (chunk.choices[0].logprobs.content if chunk.choices[0].logprobs else [])
    ]
    assert streamed == content


def test_what_json_can_not_write_is_no_error() -> None:
    class Sure(ScriptedEngine):
        def answer(self, prompt, sampling):
            never = TokenLogprob("x", -math.inf, (("x", -math.inf),))
            yield Piece("x", logprobs=(never,))
            return Reply("x", "stop", 1, 1, logprobs=(never,))

    with running(Sure("")) as server:
        client = openai.OpenAI(base_url=server.v1, api_key="any")
        assert ask(client, logprobs=True).choices[0].logprobs.content[0].logprob == -9999


def test_the_fields_of_a_request_reach_the_engine() -> None:
    engine = Told()
    schema = {"type": "object", "properties": {}}
    with running(engine, max_new_tokens=77, top_k=9) as server:
        client = openai.OpenAI(base_url=server.v1, api_key="any")
        ask(client)
        ask(
            client, temperature=0.5, top_p=0.9, presence_penalty=0, frequency_penalty=0.25, seed=5, stop=["a", "b"],
            logit_bias={"7": -100}, max_tokens=6, user="ward 3", logprobs=True,
            response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
            extra_body={"top_k": -1, "min_p": 0.1, "repetition_penalty": 0, "unknown": 1},
        )  # fmt: skip
        ask(client, temperature=0, response_format={"type": "json_object"}, n=2, seed=1)
        ask(client, top_p=0)
    assert engine.drawn[0] == Sampling(77, 0.3, top_k=9, repetition_penalty=1.05)
    assert engine.drawn[1] == Sampling(
        6, 0.5, 0.9, 0, 0.1, repetition_penalty=1.0, frequency_penalty=0.25, seed=5, stop=("a", "b"),
        logit_bias=((7, -100.0),), json_schema=schema, top_logprobs=0,
    )  # fmt: skip
    assert {(each.temperature, each.json_schema == {}, each.seed) for each in engine.drawn[2:4]} == {
        (0.0, True, 1),
        (0.0, True, 2),
    }
    assert (engine.drawn[4].temperature, engine.drawn[4].top_p) == (0.0, 1.0)


def test_tools() -> None:
    engine = Told(lambda messages: CALL if messages[-1].role == "user" else f"To {messages[-1].content}.")
    with running(engine) as server:
        client = openai.OpenAI(base_url=server.v1, api_key="any")
        done = ask(client, tools=TOOLS).choices[0]
        assert done.finish_reason == "tool_calls" and done.message.content is None
        (call,) = done.message.tool_calls
        assert (call.function.name, json.loads(call.function.arguments)) == ("department", {"of": "ear"})
        (delta,) = [
            told for chunk in ask(client, tools=TOOLS, stream=True) for told in chunk.choices[0].delta.tool_calls or ()
        ]
        assert (delta.index, delta.function.name, delta.type) == (0, "department", "function") and delta.id
        result = {"role": "tool", "tool_call_id": call.id, "content": "ENT"}
        again = ask(client, messages=[*ASKED, done.message.model_dump(exclude_none=True), result], tools=TOOLS)
        assert again.choices[0].message.content == "To ENT."
        with pytest.raises(openai.BadRequestError, match="tool_choice"):
            ask(client, tools=TOOLS, tool_choice={"type": "function", "function": {"name": "other"}})
        ask(client, tools=TOOLS, tool_choice="required")
    assert engine.drawn[-1].tool_choice == "required" and engine.drawn[-1].tools[0].name == "department"
    assert engine.asked[2][1].calls == (ToolCall(call.id, "department", call.function.arguments),)


def test_reasoning_is_passed_on() -> None:
    class Thinks(ScriptedEngine):
        def answer(self, prompt, sampling):
            yield Piece(reasoning="hm")
            yield Piece("Rest.")
            return Reply("Rest.", "stop", 1, 2, reasoning="hm")

    with running(Thinks("")) as server:
        client = openai.OpenAI(base_url=server.v1, api_key="any")
        assert ask(client).choices[0].message.reasoning_content == "hm"
        first = next(chunk for chunk in ask(client, stream=True) if not chunk.choices[0].delta.role)
        assert first.choices[0].delta.reasoning_content == "hm" and first.choices[0].delta.content is None


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("wrong", "status", "code", "says"),
    [
        ({"messages": [{"role": "user", "content": "x" * 400}]}, 400, "context_length_exceeded", r"407.*300"),
        ({"model": "gpt-9"}, 404, "model_not_found", "carellama:tcm"),
        ({"messages": []}, 400, "invalid_value", "messages"),
        ({"messages": "hello"}, 400, "invalid_value", "messages"),
        ({"messages": [{"role": "boss", "content": "x"}]}, 400, "invalid_value", r"messages\.0\.role"),
        ({"temperature": "hot"}, 400, "invalid_value", "temperature"),
        ({"temperature": 3}, 400, "invalid_value", "temperature"),
        ({"n": 99}, 400, "invalid_value", "at most 8"),
        ({"max_tokens": 0}, 400, "invalid_value", "max_tokens"),
        ({"logit_bias": {"a": 1}}, 400, "invalid_value", "logit_bias"),
        ({"logit_bias": {"1": 1}}, 400, "unsupported", "logit_bias"),
        ({"top_logprobs": 2}, 400, "invalid_value", "top_logprobs"),
        ({"stop": ["x"] * 99}, 400, "invalid_value", "stop"),
        ({"response_format": {"type": "json_schema"}}, 400, "invalid_value", "json_schema"),
        ({"functions": [{}]}, 400, "unsupported_parameter", "tools"),
        ({"modalities": ["audio"]}, 400, "unsupported_value", "text"),
        ({"tool_choice": "required"}, 400, "invalid_value", "tool_choice"),
    ],
)  # fmt: skip
def test_an_error_has_its_status_before_the_first_byte(client, wrong, status, code, says, stream) -> None:
    with pytest.raises(openai.APIStatusError, match=says) as refused:
        ask(client, stream=stream, **({"extra_body": wrong} if "model" not in wrong else wrong))
    assert refused.value.status_code == status and refused.value.code == code and refused.value.param
    assert refused.value.type == "invalid_request_error" and refused.value.request_id.startswith("req-")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status"), [(Unavailable("the endpoint rests"), 503), (ValueError("SECRET of a patient"), 500)]
)
def test_failures_of_the_engine(error, status, stream, caplog) -> None:
    def fails(messages):
        raise error

    with running(ScriptedEngine(fails)) as server:
        client = openai.OpenAI(base_url=server.v1, api_key="any", max_retries=0)
        with pytest.raises(openai.APIStatusError) as refused:
            ask(client, stream=stream)
    assert refused.value.status_code == status
    assert "SECRET" not in str(refused.value.body) + caplog.text
    if status == 500:
        assert "ValueError" in caplog.text and "test_api.py" in caplog.text


def test_a_failure_in_the_middle_is_told_in_the_stream() -> None:
    class Breaks(ScriptedEngine):
        def answer(self, prompt, sampling):
            yield Piece("He")
            raise Unavailable("gone")

    with running(Breaks("")) as server:
        client = openai.OpenAI(base_url=server.v1, api_key="any", max_retries=0)
        said = ""
        with pytest.raises(openai.APIError, match="gone"):
            for chunk in ask(client, stream=True):
                said += chunk.choices[0].delta.content or ""
        assert said == "He"


def test_models_and_their_names(served, client) -> None:
    assert [one.id for one in client.models.list()] == ["carellama", "gpt-3.5-turbo", "carellama:tcm"]
    assert client.models.retrieve("carellama:tcm").parent == "carellama"
    assert ask(client, model="carellama:tcm").choices[0].message.content == "[tcm] What is asthma?"
    assert ask(client, model="gpt-3.5-turbo").model == "gpt-3.5-turbo"
    for name in ("carellama:", "carellama:other", "tcm", "gpt-3.5-turbo:other"):
        with pytest.raises(openai.NotFoundError):
            ask(client, model=name)
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_completions(client) -> None:
    done = client.completions.create(model="carellama", prompt="The heart", max_tokens=5, echo=True)
    assert done.choices[0].text == "The heartThe h" and done.choices[0].finish_reason == "length"
    assert client.completions.create(model="carellama", prompt="x" * 40).usage.completion_tokens == 16
    many = client.completions.create(model="carellama", prompt=["ab", "cd"], n=2, logprobs=1)
    assert [choice.text for choice in many.choices] == ["ab", "ab", "cd", "cd"]
    assert many.choices[3].logprobs.text_offset == [0, 1] and many.choices[0].logprobs.tokens == ["a", "b"]
    assert (many.usage.prompt_tokens, many.usage.completion_tokens) == (4, 8)
    texts = ["", ""]
    for chunk in client.completions.create(model="carellama", prompt=["ab", "cd"], stream=True, echo=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == ["abab", "cdcd"]
    for wrong in ({"prompt": []}, {"prompt": [1, -2]}, {"prompt": ""}, {"suffix": "x"}, {"best_of": 3}):
        with pytest.raises(openai.BadRequestError):
            client.completions.create(**{"model": "carellama", "prompt": "x", **wrong})


def test_embeddings(served, client) -> None:
    given = client.embeddings.create(model="carellama", input=["fever", "发烧"])  # asks for base64
    plain = client.embeddings.create(model="carellama", input="fever", encoding_format="float")
    assert given.data[0].embedding == pytest.approx(plain.data[0].embedding)
    assert given.data[1].embedding == pytest.approx(served.state.engine.embed(["发烧"])[0])
    assert given.usage.prompt_tokens == len("fever发烧")
    raw = httpx2.post(
        f"{served.v1}/embeddings", json={"model": "carellama", "input": "fever", "encoding_format": "base64"}
    ).json()
    assert array("f", base64.b64decode(raw["data"][0]["embedding"])).tolist() == given.data[0].embedding
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length"):
        client.embeddings.create(model="carellama", input=[[1, 2]])
    with pytest.raises(openai.BadRequestError, match="dimensions"):
        client.embeddings.create(model="carellama", input="x", dimensions=3)


def test_rerank(served) -> None:
    body = {
        "model": "carellama",
        "query": "ear",
        "documents": ["eye", {"text": "ear"}, "nose"],
        "top_n": 2,
        "return_documents": True,
    }
    found = httpx2.post(f"{served.v1}/rerank", json=body).json()
    schemas.RerankResponse.model_validate(found)
    assert found["results"][0] == {"index": 1, "relevance_score": pytest.approx(1), "document": {"text": "ear"}}
    assert len(found["results"]) == 2


def test_scores_of_a_reward_model() -> None:
    from carellama.train.reward.server import ServerReward

    def score(prompts, answers):
        return [float(len(prompt) * 100 + len(answer)) for prompt, answer in zip(prompts, answers, strict=True)]

    with running(echo(), score=score) as server:
        asks = ServerReward(f"{server.v1}/score", 10)
        prompt = (Message("user", "My ear hurts."),)
        assert asks([prompt, (Message("system", "s"), *prompt)], ["See", "doctor"]) == [103, 206]
        wrong = httpx2.post(f"{server.v1}/score", json={"messages": [[{"role": "user", "content": "x"}]]})
        assert wrong.status_code == 400
    with running(echo()) as server:
        assert httpx2.post(f"{server.v1}/score", json={"messages": [ASKED]}).json()["error"]["code"] == "unsupported"


def test_tokens(served) -> None:
    found = httpx2.post(f"{served.url}/tokenize", json={"prompt": "发烧"}).json()
    assert found == {"count": 2, "tokens": [ord("发"), ord("烧")], "max_model_len": 300}
    counted = httpx2.post(f"{served.url}/tokenize", json={"messages": ASKED}).json()
    assert counted["count"] == len("user: What is asthma?\n")
    assert httpx2.post(f"{served.url}/tokenize", json={}).status_code == 400


def test_answers_are_of_the_types_that_the_document_tells(served) -> None:
    document = httpx2.get(f"{served.url}/openapi.json").json()
    assert "/v1/chat/completions" in httpx2.get(f"{served.url}/docs").text
    for path, body, kind in (
        ("/v1/chat/completions", {"messages": ASKED, "logprobs": True}, schemas.ChatCompletionResponse),
        ("/v1/completions", {"prompt": "x", "logprobs": 1}, schemas.CompletionResponse),
        ("/v1/embeddings", {"model": "carellama", "input": "x"}, schemas.EmbeddingResponse),
        ("/tokenize", {"prompt": "x"}, schemas.TokenizeResponse),
    ):
        kind.model_validate(httpx2.post(served.url + path, json=body).json())
        assert kind.__name__ in json.dumps(document["paths"][path]["post"]["responses"]["200"])
    schemas.ModelList.model_validate(httpx2.get(f"{served.v1}/models").json())
    schemas.ErrorResponse.model_validate(httpx2.get(f"{served.v1}/nothing").json())


def test_a_format_that_wants_the_user_first_gets_him() -> None:
    from carellama.errors import UserError

    class Strict(ScriptedEngine):
        def render(self, messages, tools=()):
            if messages[0].role != "user":
                raise UserError("the user must begin")
            return super().render(messages, tools)

    greeting = [{"role": "assistant", "content": "Hello!"}, *ASKED]
    for engine, begins in ((Strict("ok"), "user"), (ScriptedEngine("ok"), "assistant")):
        with running(engine) as server:
            httpx2.post(f"{server.v1}/chat/completions", json={"messages": greeting}).raise_for_status()
        assert engine.asked[0][0].role == begins and engine.asked[0][-1].content == "What is asthma?"


def test_many_async_clients_get_their_own_answers(served) -> None:
    async def all_of_them() -> list[str]:
        async with openai.AsyncOpenAI(base_url=served.v1, api_key="any") as client:

            async def one(index: int) -> str:
                messages: Any = [{"role": "user", "content": f"marker {index}"}]
                text = ""
                async for chunk in await client.chat.completions.create(
                    model="carellama", messages=messages, stream=True
                ):
                    text += chunk.choices[0].delta.content or ""
                return text

            return await asyncio.gather(*(one(index) for index in range(40)))

    assert asyncio.run(all_of_them()) == [f"marker {index}" for index in range(40)]


def test_metrics(served, client) -> None:
    ask(client, model="carellama:tcm")
    page = httpx2.get(f"{served.url}/metrics").text
    line = re.search(r'carellama_answer_tokens_total\{key="open",model="carellama:tcm"\} (\d+)', page)
    assert line and int(line[1]) > 0
    assert 'route="/v1/chat/completions",status="200"' in page and "asthma" not in page
    for name in ("time_to_first_token", "time_per_output_token", "answers_running", "answers_waiting"):
        assert f"carellama_{name}" in page
