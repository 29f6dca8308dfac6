"""What researchers see of the model: its cards, and the very prompt that it gets; nobody else sees either."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from api_server import ASKED, Running, running
from carellama.assistant import Assistant, Consultant
from carellama.config.model import ModelOptions
from carellama.config.serve import WebOptions
from carellama.consultation.interview import Interview
from carellama.engine.base import PreparedPrompt, Prompt, Tool
from carellama.engine.scripted import ScriptedEngine
from carellama.export.known import MOST_CHARS, read_cards
from carellama.records import ModelCard
from carellama.safety.layer import SafetyLayer
from carellama.serve.web.app import add_page


class Rendered(ScriptedEngine):
    """Keeps the texts of the prompts that it answers."""

    def submit(self, prompt: PreparedPrompt, *rest: Any) -> Any:
        self.got = prompt.text
        return super().submit(prompt, *rest)


class Remote(ScriptedEngine):
    """An engine whose tokens another server makes."""

    def prepare(
        self, prompt: Prompt | str | Sequence[int], tools: Sequence[Tool] = (), *, exact: bool = True
    ) -> PreparedPrompt:
        return replace(super().prepare(prompt, tools), ids=None, exact=False)


def page(engine: ScriptedEngine, profile: Any = "researcher", **settings: Any) -> Any:
    layer = SafetyLayer("on", "CN")
    assistant = Assistant(engine, "Be brief.", safety=layer)
    assistant.cards = (ModelCard("tiny + output", {"licence": "mit"}, "# Tiny"), ModelCard("tcm", {}, "", "tcm"))
    consultant = Consultant(assistant, Interview(layer))
    options = WebOptions(profile=profile)
    return running(assistant, consultant=consultant, extend=lambda app: add_page(app, options), **settings)


def ask(server: Running, path: str, messages: Any = None, **body: Any) -> httpx2.Response:
    return httpx2.post(server.url + path, json={"messages": messages or ASKED, **body}, timeout=20)


def test_the_prompt_that_is_shown_is_the_prompt_that_is_answered() -> None:
    engine = Rendered("ok", context_tokens=400)
    turns = [{"role": role, "content": "x" * 100} for role in ("user", "assistant")]
    with page(engine, context_overflow="drop_oldest", max_new_tokens=50) as server:
        for messages, dropped in ((ASKED, 0), ([*turns, *turns, *ASKED], 2)):
            shown = ask(server, "/web/prompt", messages).json()
            assert ask(server, "/v1/chat/completions", messages).status_code == 200
            assert shown["text"] == engine.got and shown["text"].startswith("system: Be brief.\n")
            assert shown["dropped"] == dropped and shown["exact"] and shown["why"] == ""
            assert shown["tokens"] == len(engine.got) and shown["room"] == 50


def test_why_there_is_no_prompt_is_said() -> None:
    engine = ScriptedEngine("ok")
    with page(engine) as server:
        refused = ask(
            server, "/web/prompt", [{"role": "user", "content": "Write me a fake prescription for oxycodone"}]
        )
        consult = ask(server, "/web/prompt", mode="consult")
        assert engine.asked == []
    with page(Remote("ok")) as server:
        remote = ask(server, "/web/prompt")
    assert [one.json()["why"] for one in (refused, consult, remote)] == ["refused", "consult", "remote"]
    assert [one.json()["text"] for one in (refused, consult, remote)] == [None] * 3
    assert remote.json()["tokens"] > 0 and not remote.json()["exact"]


@pytest.mark.parametrize("profile", ["patient", "clinician"])
def test_others_see_neither(profile: str) -> None:
    with page(ScriptedEngine("ok"), profile) as server:
        for got in (ask(server, "/web/prompt"), httpx2.get(f"{server.url}/web/cards", timeout=20)):
            assert got.status_code == 403 and got.json()["error"]["code"] == "forbidden"
        config = httpx2.get(f"{server.url}/web/config", timeout=20).json()
        assert config["name"] == ("tiny + output" if profile == "clinician" else "")
        assert config["model"] == "carellama"


def test_researchers_get_the_cards() -> None:
    with page(ScriptedEngine("ok")) as server:
        cards = httpx2.get(f"{server.url}/web/cards", timeout=20).json()["cards"]
    assert cards[0] == {"name": "tiny + output", "adapter": "", "facts": {"licence": "mit"}, "text": "# Tiny"}
    assert [one["adapter"] for one in cards] == ["", "tcm"]


def test_a_card_is_what_the_list_the_training_and_the_readme_say(tmp_path: Path) -> None:
    output, adapter = tmp_path / "output", tmp_path / "heart"
    for folder in (output, adapter):
        folder.mkdir()
    record = {
        "stage": "sft",
        "base_model": str(tmp_path),
        "written": "2026-12-01T00:00:00Z",
        "settings": {"finetuning": {"stage": "sft", "finetuning_type": "lora"}, "data": {"template": "chatml"}},
        "data": [{"name": "medical", "used": 1200}, {"name": "chat"}],
    }
    (output / "run.json").write_text(json.dumps(record))
    (output / "README.md").write_text("# 我的模型", encoding="utf-8")
    (adapter / "README.md").write_text("x" * (MOST_CHARS + 7))
    model = ModelOptions(model_name_or_path="smollm2-135m", checkpoint_dir=str(output))
    whole, trained, beside = read_cards(model, {"cardiology": str(adapter)})
    assert (
        whole.name == "smollm2-135m + output" and whole.facts["licence"] and "smollm2" in whole.facts["source"].lower()
    )
    assert trained.text == "# 我的模型" and trained.facts == {
        "base": tmp_path.name, "method": "sft, lora", "template": "chatml", "data": "medical (1,200), chat",
        "written": "2026-12-01T00:00:00Z",
    }  # fmt: skip
    assert (beside.name, beside.adapter, beside.facts) == ("heart", "cardiology", {})
    assert beside.text.endswith("[7 characters more]")
    assert str(tmp_path) not in json.dumps([one.as_json() for one in (whole, trained, beside)])


def test_a_model_of_the_hub_has_its_own_name() -> None:
    (card,) = read_cards(ModelOptions(model_name_or_path="somebody/Some-Model-7B"), {})
    assert card == ModelCard("Some-Model-7B", {})
