"""A server of ours behind `--engine openai` keeps the contract: one front may serve many machines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from api_server import running
from carellama.engine.openai.engine import OpenAIEngine
from carellama.engine.scripted import ScriptedEngine
from engine_contract import Contract


class TestThroughOurServer(Contract):
    LACKS = frozenset({"logit_bias", "json_schema", "num_beams", "ends"})

    @pytest.fixture
    def engine(self) -> Iterator[OpenAIEngine]:
        scripted = ScriptedEngine(
            lambda messages: f"{messages[-1].content} That is for a doctor to say, and here is some more of it.",
            context_tokens=2000,
            token_seconds=0.002,
            parallel=4,
        )
        with running(scripted) as server, closing(OpenAIEngine(server.v1, None, parallel=4)) as engine:
            yield engine
