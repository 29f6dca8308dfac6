"""The engine behind an endpoint keeps the contract, against a small server over the scripted engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from carellama.engine.openai.engine import OpenAIEngine
from carellama.engine.scripted import ScriptedEngine
from engine_contract import Contract
from openai_server import serving


class TestOpenAI(Contract):
    LACKS = frozenset({"logit_bias", "json_schema", "num_beams", "ends"})

    @pytest.fixture
    def engine(self) -> Iterator[OpenAIEngine]:
        scripted = ScriptedEngine(
            lambda messages: f"{messages[-1].content} That is for a doctor to say, and here is some more of it.",
            context_tokens=2000,
            token_seconds=0.002,
        )
        with serving(scripted) as server, closing(OpenAIEngine(server.url, None, parallel=4)) as engine:
            yield engine
