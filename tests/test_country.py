"""The country of the numbers: of the server, of a request, of a notice that is there already."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from api_server import Running, running
from carellama.assistant import Assistant, Consultant
from carellama.config.serve import WebOptions
from carellama.consultation.interview import Interview
from carellama.engine.scripted import ScriptedEngine
from carellama.errors import UserError
from carellama.records import Message
from carellama.safety.layer import SafetyLayer
from carellama.serve.web.app import add_page

ENGINE = ScriptedEngine("好。")
CHEST = [{"role": "user", "content": "胸口压着疼，一身冷汗"}]


def post(server: Running, path: str, **body: Any) -> httpx2.Response:
    return httpx2.post(server.url + path, json={"messages": CHEST, **body}, timeout=20)


@pytest.fixture(scope="module")
def server() -> Any:
    layer = SafetyLayer("on", "CN")
    assistant = Assistant(ENGINE, safety=layer)
    consultant = Consultant(assistant, Interview(layer))
    with running(assistant, consultant=consultant, extend=lambda app: add_page(app, WebOptions())) as one:
        yield one


@pytest.mark.parametrize("mode", ["answer", "consult"])
def test_a_request_chooses_the_country_of_its_numbers_and_no_other_request_does(server: Running, mode: str) -> None:
    for country, number, other in (("JP", "119", "120"), ("uk", "999", "120"), (None, "120", "119")):
        answer = post(server, "/v1/chat/completions", country=country, mode=mode).json()
        said = answer["choices"][0]["message"]["content"]
        notice = next(one for one in answer["choices"][0]["message"]["notices"] if one["kind"] == "emergency")
        assert number in notice["text"] and other not in notice["text"]
        assert notice["text"] in said or (mode == "consult" and number in said)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/web/notices"])
def test_an_unknown_country_is_refused_with_those_that_are_known(server: Running, path: str) -> None:
    refused = post(server, path, country="XX")
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "country"
    assert "Known: AU, CA, CN" in refused.json()["error"]["message"]


def test_a_notice_is_told_again_for_another_country_without_an_answer(server: Running) -> None:
    asked = len(ENGINE.asked)
    there = post(server, "/web/notices", country="US").json()["notices"]
    assert [one["kind"] for one in there] == ["emergency"] and "911" in there[0]["text"]
    usual = post(server, "/web/notices").json()["notices"]
    assert usual[0]["rule"] == there[0]["rule"] and "120" in usual[0]["text"]
    assert len(ENGINE.asked) == asked


def test_the_page_is_told_all_countries(server: Running) -> None:
    config = httpx2.get(f"{server.url}/web/config", timeout=20).json()
    assert config["country"] == "CN" and config["countries"]["JP"]["ambulance"] == "119"
    assert all("source" not in one for one in config["countries"].values()) and len(config["countries"]) > 10


def test_a_layer_for_a_country_leaves_the_other_as_it_was() -> None:
    layer = SafetyLayer("on", "CN")
    other = layer.for_country("de")
    asked = [Message("user", CHEST[0]["content"])]
    assert (layer.country, other.country) == ("CN", "DE")
    assert "120" in layer.screen(asked).preface() and "112" in other.screen(asked).preface()
    with pytest.raises(UserError, match="unknown country 'ZZ'"):
        layer.for_country("zz")
