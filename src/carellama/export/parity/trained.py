"""What base and adapters give before they are merged and written: the side that every written form is compared with.

    trained = measure(network, tokenizer, template, scratch, safety=True)
    trained.job()                       # what a reader is asked

The network is asked by the functions of `read_folder`, so that the same is asked of both. Its logits are kept as files
in a scratch folder: of 2,000 tokens and a vocabulary of 150,000 they take 1.2 GB.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carellama.errors import UserError
from carellama.evaluate.triage_cases import Case
from carellama.export.parity.table import GREEDY_TOKENS
from carellama.export.parity.texts import PROMPT, TEXT, as_rows, safety_cases, windows
from carellama.records import JSONObject
from carellama.templates.template import Template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from carellama.model.lora import AnyModel

SAFETY_TOKENS = 48  # of an answer: where to go is said in the first sentences, and a CPU has to say it 100 times
NOT_NUMBERS = "its weights are damaged, as by a training that diverged; nothing was written"


@dataclass(frozen=True)
class Trained:
    """What the trained model gives. Logits are in `scratch`, one file for each window."""

    scratch: Path
    text_ids: tuple[int, ...]
    rendered: str
    prompt_ids: tuple[int, ...]
    ends: tuple[int, ...]
    start: tuple[int, ...]  # the prompt, as much of it as the model takes with an answer
    greedy: tuple[int, ...]
    windows: tuple[tuple[int, ...], ...]  # the first is the prompt with its answer, the others are held-out texts
    cases: tuple[Case, ...]
    answers: tuple[str, ...]
    drafts: tuple[tuple[int, ...], ...]  # their ids: a form that says the same has to read them only
    context: int  # tokens that the longest conversation takes with its answer
    stored: str  # precision of the weights that are written
    dtype: str  # precision that was computed in

    def job(self, *, trust_remote_code: bool = False) -> JSONObject:
        """Return what a reader is asked."""
        return {
            "text": TEXT,
            "prompt": as_rows(PROMPT),
            "windows": self.windows,
            "start": self.start,
            "new_tokens": GREEDY_TOKENS,
            "conversations": [as_rows(case.messages) for case in self.cases],
            "drafts": self.drafts,
            "answer_tokens": SAFETY_TOKENS,
            "context": self.context,
            "stored": self.stored,
            "dtype": self.dtype,
            "trust_remote_code": trust_remote_code,
        }


def measure(
    network: AnyModel,
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    scratch: Path,
    *,
    stored: str,
    dtype: str,
    safety: bool,
) -> Trained:
    """Ask the trained model. Raises `UserError` where its logits are not finite."""
    import numpy as np

    from carellama.export.parity import read_folder

    given: Any = network
    longest = getattr(network.config.get_text_config(), "max_position_embeddings", None) or 1 << 20
    rendered = template.render(PROMPT, add_generation_prompt=True)
    prompt = _ids(tokenizer, rendered)
    start = prompt[max(0, len(prompt) + GREEDY_TOKENS - longest) :]
    greedy = read_folder.greedy(given, start, GREEDY_TOKENS)
    parts = [[*start, *greedy], *windows(tokenizer, longest)]
    for number, ids in enumerate(parts):
        logits = read_folder.logits_of(given, ids)
        if not logits.isfinite().all():
            raise UserError(f"the logits of this model are not numbers: {NOT_NUMBERS}")
        np.save(scratch / f"window-{number}.npy", logits.numpy())
    ends = tuple(dict.fromkeys([*template.stop_ids, tokenizer.eos_token_id]))
    cases, prompts, context = _that_fit(tokenizer, template, longest) if safety else ((), [], 0)
    said = read_folder.answer(given, tokenizer, prompts, SAFETY_TOKENS, ends)
    return Trained(
        scratch=scratch,
        text_ids=tuple(_ids(tokenizer, TEXT)),
        rendered=rendered,
        prompt_ids=tuple(prompt),
        ends=ends,
        start=tuple(start),
        greedy=tuple(greedy),
        windows=tuple(map(tuple, parts)),
        cases=tuple(cases),
        answers=tuple(tokenizer.batch_decode(said, skip_special_tokens=True) if said else ()),
        drafts=tuple(map(tuple, said)),
        context=max(context, len(start) + GREEDY_TOKENS) + 8,  # a program may count the mark of the beginning as well
        stored=stored,
        dtype=dtype,
    )


def _that_fit(
    tokenizer: PreTrainedTokenizerBase, template: Template, longest: int
) -> tuple[Sequence[Case], list[str], int]:
    """The cases that the model can take with an answer, their prompts, and the tokens of the longest."""
    rendered = {case: template.render(case.messages, add_generation_prompt=True) for case in safety_cases()}
    tokens = {case: len(_ids(tokenizer, text)) + SAFETY_TOKENS for case, text in rendered.items()}
    cases = [case for case in rendered if tokens[case] + 8 <= longest]
    return cases, [rendered[case] for case in cases], max((tokens[case] for case in cases), default=0)


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids
