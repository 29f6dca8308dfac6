"""The texts that a written form is compared on: one in two languages with marks, held-out texts, cases of safety.

    windows(tokenizer, longest=2048)          # lists of ids of the held-out texts
    safety_cases()                            # a hundred cases of the test half

All were written for this project. The held-out texts are neither trained on nor in the texts of the importance matrix;
the cases are drawn from data/triage/test.jsonl with a fixed seed (tests/test_parity.py holds them to it).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from carellama.evaluate.triage_cases import Case, load_cases
from carellama.package_data import package_text
from carellama.records import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROMPT = (Message("user", "What are the early signs of diabetes? 糖尿病早期有哪些症状？"),)
# For ids: digits, units, two kinds of quotation marks, white space, an emoji, rare characters.
TEXT = (
    "患者发烧三天，体温 38.5℃，BP 120/80 mmHg，“糖尿病”史。\n\nTake 500 mg of paracetamol  (2×); any "
    "allergies?  无😷 γ-GT 龘\tdon't — 1,000 µg/mL"
)
LANGUAGES = ("en", "zh")
TOKENS_OF_LANGUAGE = 1000
WINDOW = 251  # tokens, of which the last 250 are predicted


def windows(tokenizer: PreTrainedTokenizerBase, longest: int) -> list[list[int]]:
    """Return the first tokens of each held-out text, cut into windows that the model takes, each on its own."""
    found = []
    size = min(WINDOW, longest)
    for language in LANGUAGES:
        text = package_text(f"export/parity/held_out_{language}.txt")
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"][: TOKENS_OF_LANGUAGE + 1]
        cut = [ids[at : at + size] for at in range(0, len(ids) - 1, size - 1)]
        found += [one for one in cut if len(one) > 1]
    return found


@cache
def safety_cases() -> Sequence[Case]:
    """Return the cases whose answers are compared."""
    with resources.as_file(resources.files("carellama").joinpath("export/parity/safety_cases.jsonl")) as file:
        return load_cases(Path(file)).cases


def as_rows(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Return messages as every program takes them."""
    return [{"role": one.role, "content": one.content} for one in messages]
