"""Answers that are JSON of a schema: which tokens may come next.

    grammar = Grammar(tokenizer, vocabulary=49152, stop_ids=[2])
    matcher = grammar.matcher({"type": "object"})
    matcher.allowed()      # (V,) bool
    matcher.take(token)

By llguidance (Rust), which compiles the schema and walks the vocabulary. The JSON is written on one line as Python's
`json.dumps` does it: a model that may put in white space can go on with it forever.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from carellama.engine.base import Unsupported
from carellama.errors import need

FORM = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
ANY_OBJECT = {"type": "object"}


class Grammar:
    """A tokenizer as llguidance needs it; made once, as that takes up to a second."""

    def __init__(self, tokenizer: Any, vocabulary: int, stop_ids: Sequence[int]) -> None:
        self._library = need("llguidance", extra="serve", why="JSON of a schema")
        from llguidance.hf import from_tokenizer

        self._tokens = from_tokenizer(tokenizer, n_vocab=vocabulary, eos_token=list(stop_ids) or None)

    def matcher(self, schema: Mapping[str, Any]) -> Matcher:
        """Return the state of an answer to this schema; {}: any object. Raises `Unsupported` for what it can not be."""
        written = json.dumps(dict(schema) or ANY_OBJECT)
        grammar = self._library.LLMatcher.grammar_from_json_schema(written, overrides=FORM)
        state = self._library.LLMatcher(self._tokens, grammar, log_level=0)
        if state.is_error():
            problem = " ".join(str(state.get_error()).split())[:200]
            raise Unsupported(f"the JSON schema can not be kept to: {problem}")
        return Matcher(state)


class Matcher:
    """How far an answer has come in its schema."""

    def __init__(self, state: Any) -> None:
        self._state = state

    @property
    def finished(self) -> bool:
        """Whether nothing can follow."""
        return bool(self._state.is_stopped())

    def allowed(self) -> npt.NDArray[np.bool_]:
        """Which tokens may come next, as flags over the vocabulary and a few more to a whole byte."""
        bits = np.frombuffer(self._state.compute_bitmask(), dtype=np.uint8)
        return np.unpackbits(bits, bitorder="little").astype(np.bool_)

    def take(self, token: int) -> None:
        """Go on by a token that was allowed."""
        self._state.consume_token(token)
        if self._state.is_error():
            raise Unsupported("the JSON schema is too much for llguidance: give a simpler one")
