"""Every engine keeps the contract of `engine_contract.Contract`."""

from __future__ import annotations

import pytest

from carellama.assistant import Assistant
from carellama.engine.scripted import ScriptedEngine
from engine_contract import Contract


class TestScripted(Contract):
    LACKS = frozenset({"logit_bias", "json_schema", "num_beams", "ends"})

    @pytest.fixture
    def engine(self) -> ScriptedEngine:
        return ScriptedEngine(
            lambda messages: f"{messages[-1].content} That is for a doctor to say, and here is some more of it.",
            context_tokens=2000,
            token_seconds=0.002,
            parallel=4,
        )


class TestAssistant(Contract):
    """An assistant is an engine."""

    LACKS = TestScripted.LACKS

    @pytest.fixture
    def engine(self) -> Assistant:
        script = "That is for a doctor to say, and here is some more of it."
        return Assistant(ScriptedEngine(script, context_tokens=2000, token_seconds=0.002, parallel=4), "You are brief.")
