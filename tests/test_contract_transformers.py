"""The transformers engine keeps the contract of engines."""

from __future__ import annotations

import pytest

from carellama.engine.transformers.engine import TransformersEngine
from carellama.templates.template import get_template
from conftest import make_model
from engine_contract import Contract


class TestTransformers(Contract):
    @pytest.fixture
    def engine(self, tiny_tokenizer):
        engine = TransformersEngine(make_model(), tiny_tokenizer, get_template(None, tiny_tokenizer), batch_size=4)
        yield engine
        engine.close()
