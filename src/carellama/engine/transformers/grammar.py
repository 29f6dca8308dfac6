"""Answers that keep to a JSON schema, a regular expression, a list of texts or a grammar: which tokens may come next.

    grammar = Grammar(tokenizer, vocabulary=49152, stop_ids=[2])
    matcher = grammar.matcher(Sampling(json_schema={"type": "object"}))
    matcher.token_mask()   # (V,) bool
    matcher.accept(token)

By llguidance (Rust), which compiles the grammar and walks the vocabulary. llama.cpp has it too, and gets the same
grammar (`lark_of`). JSON is written on one line as Python's `json.dumps` does it: a model that may put in white space
can go on with it forever.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from carellama.engine.base import Sampling, Unsupported
from carellama.errors import need

if TYPE_CHECKING:
    from llguidance import LLMatcher
    from transformers import PreTrainedTokenizerBase, TokenizersBackend

JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
ANY_OBJECT = {"type": "object"}
LARK = "%llguidance {}\n"  # the line that a grammar of llguidance begins with
WHAT = "an answer by a JSON schema, a regular expression or a grammar"


def lark_of(sampling: Sampling) -> str | None:
    """Return the grammar of an answer in llguidance's form of Lark; None where nothing limits it.

    Raises `Unsupported` for a grammar that is wrong, and for one that llguidance cannot keep to.
    """
    if not sampling.constrained:
        return None
    library = need("llguidance", extra="serve", why=WHAT)
    if sampling.json_schema is not None:
        field, name, rule = "json_schema", "the JSON schema", f"%json {_json(sampling)}"
    elif sampling.regex is not None:
        field, name, rule = "regex", "the regular expression", f"/{library.regex_to_lark(sampling.regex)}/"
    elif sampling.choice:
        field, name, rule = (
            "choice",
            "the choice",
            " | ".join(json.dumps(text, ensure_ascii=False) for text in sampling.choice),
        )
    else:
        return _checked("grammar", "the grammar", _lark(sampling.grammar or ""))
    return _checked(field, name, f"{LARK}start: {rule}")


def _json(sampling: Sampling) -> str:
    return json.dumps(dict(sampling.json_schema or ANY_OBJECT) | {"x-guidance": JSON_STYLE}, ensure_ascii=False)


def _lark(grammar: str) -> str:
    """A grammar in GBNF or Lark as Lark."""
    from llguidance.gbnf_to_lark import any_to_lark

    try:
        lark: str = any_to_lark(grammar)
    except Exception as error:  # the converter's own, which is not public, and a few others at odd texts
        raise Unsupported(
            f"the grammar is neither GBNF nor Lark: {' '.join(str(error).split())[:200]}", "grammar"
        ) from error
    return lark if lark.lstrip().startswith("%llguidance") else LARK + lark


def _checked(field: str, name: str, lark: str) -> str:
    library = need("llguidance", extra="serve", why=WHAT)
    if problem := library.LLMatcher.validate_grammar(lark):
        raise Unsupported(f"{name} cannot be used: {_reason(problem)}", field)
    return lark


def _reason(problem: str) -> str:
    """The reason in a message of llguidance, which quotes the grammar after it."""
    head = problem.split("\n   1 | ")[0]
    for before in ("failed to compile JSON schema: ", "(in regex): "):
        head = head.partition(before)[2] or head
    return " ".join(head.split())[:300]


class Grammar:
    """A tokenizer as llguidance needs it; made once, as that takes up to a second."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocabulary: int, stop_ids: Sequence[int]) -> None:
        self._library = need("llguidance", extra="serve", why=WHAT)
        from llguidance.hf import from_tokenizer

        self._tokens = from_tokenizer(
            cast("TokenizersBackend", tokenizer), n_vocab=vocabulary, eos_token=list(stop_ids) or None
        )

    def matcher(self, sampling: Sampling) -> Matcher:
        """Return the state of an answer with this sampling. Raises `Unsupported` as `lark_of` does."""
        lark = lark_of(sampling)
        assert lark is not None, "nothing limits the answer"
        state = self._library.LLMatcher(self._tokens, self._library.LLMatcher.grammar_from_lark(lark), log_level=0)
        if state.is_error():
            raise Unsupported(f"the grammar of the answer cannot be used: {_reason(str(state.get_error()))}")
        return Matcher(state)


class Matcher:
    """How far an answer has come in its schema."""

    def __init__(self, state: LLMatcher) -> None:
        self._state = state

    @property
    def finished(self) -> bool:
        """Whether nothing can follow."""
        return bool(self._state.is_stopped())

    def token_mask(self) -> npt.NDArray[np.bool_]:
        """Which tokens may come next, as flags over the vocabulary and a few more to a whole byte."""
        bits = np.frombuffer(self._state.compute_bitmask(), dtype=np.uint8)
        return np.unpackbits(bits, bitorder="little").astype(np.bool_)

    def accept(self, token: int) -> None:
        """Go on by a token that was allowed."""
        self._state.consume_token(token)
        if self._state.is_error():
            raise Unsupported("the grammar of the answer is too much for llguidance: give a simpler one")
