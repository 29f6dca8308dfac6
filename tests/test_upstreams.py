"""Several servers behind one engine: which is asked, which rests, what is said when none answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import pytest

from carellama.engine.base import Sampling, Unavailable, drain
from carellama.engine.generate import generate, stream
from carellama.engine.openai.engine import OpenAIEngine
from carellama.engine.openai.upstreams import UpstreamPool
from carellama.errors import UserError
from carellama.records import Message
from openai_server import Answer, Quiet, answering, events, listening, said

SAMPLING = Sampling(9)
ASKED = (Message("user", "What is asthma?"),)


def until(true: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


def test_the_one_with_the_least_to_do_is_asked() -> None:
    """Six requests at once on two servers, none answered before all have come: three each."""
    everyone = threading.Barrier(6)

    def wait(*_: object) -> Answer:
        everyone.wait(10)
        return said("x")

    with (
        answering(wait) as one,
        answering(wait) as other,
        closing(OpenAIEngine([one.url, other.url], "m", parallel=6)) as engine,
    ):
        generate(engine, [ASKED] * 6, SAMPLING)
    assert len(one.asked) == len(other.asked) == 3


def test_one_after_the_other_all_go_to_the_first() -> None:
    with (
        answering(lambda *_: said("x")) as one,
        answering(lambda *_: said("x")) as other,
        closing(OpenAIEngine([one.url, other.url], "m")) as engine,
    ):
        for _ in range(3):
            generate(engine, [ASKED], SAMPLING)
    assert (len(one.asked), len(other.asked)) == (3, 0)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_could_not_be_begun_goes_to_the_next_and_the_first_rests(status: int, capsys) -> None:
    with (
        answering(lambda *_: (status, {}, "")) as bad,
        answering(lambda *_: said("well")) as good,
        closing(OpenAIEngine([bad.url, good.url], "m", delays=())) as engine,
    ):
        engine._upstreams.rest = 60
        assert [reply.text for reply in generate(engine, [ASKED], SAMPLING)] == ["well"]
        assert [reply.text for reply in generate(engine, [ASKED] * 3, SAMPLING)] == ["well"] * 3
    assert len(bad.asked) == 1 and len(good.asked) == 4
    assert f"answers {status}" in (told := capsys.readouterr().err) and "rests" in told and "asthma" not in told


def test_a_dead_one_is_asked_for_its_health_and_comes_back(capsys) -> None:
    with answering(lambda *_: said("x")) as gone:
        pass
    port = int(gone.url.rpartition(":")[2].partition("/")[0])
    with (
        answering(lambda *_: said("other")) as other,
        closing(OpenAIEngine([gone.url, other.url], "m", delays=())) as engine,
    ):
        engine._upstreams.rest = 0.05
        assert generate(engine, [ASKED], SAMPLING)[0].text == "other"
        with answering(lambda *_: said("back"), {"data": []}, port=port):
            until(lambda: not engine._upstreams.all[0].resting)
            assert generate(engine, [ASKED], SAMPLING)[0].text == "back"
    assert "is well again" in capsys.readouterr().err


def test_rests_grow_with_each_failure_until_an_answer(capsys) -> None:
    broken = True

    def flaky(*_: object) -> Answer:
        return (500, {}, "") if broken else said("well")

    with (
        answering(flaky, {"data": []}) as one,
        answering(lambda *_: said("other")) as other,
        closing(OpenAIEngine([one.url, other.url], "m", delays=())) as engine,
    ):
        engine._upstreams.rest = 0.05
        for _ in range(3):
            generate(engine, [ASKED], SAMPLING)
            until(lambda: not engine._upstreams.all[0].resting)
        broken = False
        assert generate(engine, [ASKED], SAMPLING)[0].text == "well"
        assert engine._upstreams.all[0].failures == 0
    told = capsys.readouterr().err
    assert [word in told for word in ("rests for 0.05 s", "rests for 0.1 s", "rests for 0.2 s")] == [True] * 3


def test_where_all_are_down_it_says_what_each_did() -> None:
    with answering(lambda *_: said("x")) as gone:
        pass
    with (
        answering(lambda *_: (503, {}, "")) as busy,
        closing(OpenAIEngine([gone.url, busy.url], "m", delays=(0,))) as engine,
        pytest.raises(Unavailable) as error,
    ):
        generate(engine, [ASKED], SAMPLING)
    said_of = str(error.value)
    assert "nothing answers at 127.0.0.1:" in said_of and "answers 503" in said_of and "\n" not in said_of
    assert len(busy.asked) == 2


def test_what_has_begun_is_not_asked_elsewhere() -> None:
    with (
        answering(lambda *_: events({"content": "half"}, finish=None)) as broken,
        answering(lambda *_: said("whole")) as good,
        closing(OpenAIEngine([broken.url, good.url], "m", delays=(0,))) as engine,
    ):
        with pytest.raises(Unavailable, match="broke off"):
            drain(stream(engine, ASKED, SAMPLING))
        assert not good.asked
        assert generate(engine, [ASKED], SAMPLING)[0].text == "whole"  # it rests now


def test_servers_of_two_kinds_are_each_told_in_their_own_words() -> None:
    everyone = threading.Barrier(2)

    def wait(*_: object) -> Answer:
        everyone.wait(10)
        return said("x")

    with ExitStack() as stack:
        one, other = (
            stack.enter_context(answering(wait, {"data": [{"id": "m", "owned_by": owner}]}))
            for owner in ("vllm", "llamacpp")
        )
        engine = stack.enter_context(closing(OpenAIEngine([one.url, other.url], "m")))
        generate(engine, [ASKED] * 2, Sampling(9, repetition_penalty=1.5))
    assert one.asked[0]["repetition_penalty"] == other.asked[-1]["repeat_penalty"] == 1.5


def test_many_threads_share_the_servers_and_no_answer_is_mixed_up() -> None:
    def echo(body: dict, _: int) -> Answer:
        return said(body["messages"][0]["content"])

    with ExitStack() as stack:
        servers = [stack.enter_context(answering(echo)) for _ in range(3)]
        engine = stack.enter_context(closing(OpenAIEngine([server.url for server in servers], "m", parallel=16)))
        texts = [f"marker {number}" for number in range(100)]

        def ask(text: str) -> str:
            return drain(stream(engine, (Message("user", text),), SAMPLING)).text

        with ThreadPoolExecutor(16) as pool:
            assert list(pool.map(ask, texts)) == texts
        assert sum(len(server.asked) for server in servers) == 100
        assert all(upstream.active_requests == 0 for upstream in engine._upstreams.all)


def test_connections_are_used_again() -> None:
    clients = set()

    class Handler(Quiet):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.say(404, "{}")

        def do_POST(self) -> None:
            clients.add(self.client_address)
            self.body()
            status, headers, text = events({"content": "x"})
            self.say(status, text, headers)

    with listening(Handler) as url, closing(OpenAIEngine(url, "m", parallel=1)) as engine:
        for _ in range(5):
            assert generate(engine, [ASKED], SAMPLING)[0].text == "x"
    assert len(clients) == 1


@pytest.mark.parametrize("endpoint", ["localhost:8000", "ftp://a/v1", "http://", ""])
def test_an_address_that_is_none_is_refused(endpoint: str) -> None:
    with pytest.raises(UserError, match="http://localhost:8000/v1"):
        UpstreamPool(["http://a/v1", endpoint])


def test_paths_stand_below_v1_or_beside_it() -> None:
    for endpoint in ("http://a:1/x/v1", "http://a:1/x/v1/", "http://a:1/x/v1/chat/completions"):
        (upstream,) = UpstreamPool([endpoint]).all
        assert str(upstream.url("models")) == "http://a:1/x/v1/models"
        assert str(upstream.url("/health")) == "http://a:1/x/health" and upstream.host == "a:1"


def test_a_key_that_is_none_is_refused() -> None:
    with pytest.raises(UserError, match="CARELLAMA_API_KEY") as error:
        UpstreamPool(["http://a/v1"], key="geheim\n")
    assert "geheim" not in str(error.value)
