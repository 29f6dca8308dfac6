"""A reward model before and after: the scores of conversations of unequal lengths.

    trained = measure_scores(network, tokenizer, template)
    row = compare_scores(trained, reading)

The written folder has to give the same scores to a padded batch, whose text comes from the chat template in the folder.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from carellama.errors import UserError
from carellama.export.parity.table import ParityRow
from carellama.export.parity.texts import PROMPT, as_rows
from carellama.export.parity.trained import NOT_NUMBERS
from carellama.records import JSONObject, Message
from carellama.templates.template import Template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from carellama.model.lora import AnyModel

log = logging.getLogger(__name__)

ANSWERS = ("多饮、多食、多尿。", "Thirst and weight loss; a blood test tells.", "No.")
LARGEST_SCORE_DIFFERENCE = 0.05  # of the largest score; above it the export fails


@dataclass(frozen=True)
class TrainedScores:
    """What the trained reward model gives."""

    ids: tuple[tuple[int, ...], ...]  # of each conversation
    scores: tuple[float, ...]
    stored: str  # precision of the weights that are written
    dtype: str  # precision that was computed in

    def job(self, *, trust_remote_code: bool = False) -> JSONObject:
        """Return what a reader is asked."""
        scored = [as_rows(one) for one in conversations()]
        asked = {"scored": scored, "stored": self.stored, "dtype": self.dtype}
        return asked | {"trust_remote_code": trust_remote_code}


def conversations() -> list[tuple[Message, ...]]:
    """The conversations, of unequal lengths, on which a reward model is compared."""
    return [(*PROMPT, Message("assistant", answer)) for answer in ANSWERS]


def measure_scores(
    network: AnyModel, tokenizer: PreTrainedTokenizerBase, template: Template, *, stored: str, dtype: str
) -> TrainedScores:
    """Score each conversation on its own, at its last token, as `--stage rm` reads it."""
    import torch

    from carellama.templates.tokenize import GroupEncoder

    encoded = GroupEncoder(tokenizer).encode([template.groups(messages) for messages in conversations()])
    ids = tuple(tuple(int(token) for part in parts for token in part) for parts in encoded)
    pad = network.config.pad_token_id
    network.config.pad_token_id = None  # so that the last token counts, whatever it is
    try:
        with torch.no_grad():
            scores = [float(network(input_ids=torch.tensor([row], device=network.device)).logits[0, 0]) for row in ids]
    finally:
        network.config.pad_token_id = pad
    if not torch.tensor(scores).isfinite().all():
        raise UserError(f"the scores of this model are not numbers: {NOT_NUMBERS}")
    return TrainedScores(ids, tuple(scores), stored, dtype)


def compare_scores(trained: TrainedScores, reading: JSONObject) -> ParityRow:
    """Return how the scores of the written folder differ. Raises `UserError` where they are others."""
    scores = reading["scores"]
    difference = max(abs(one - other) for one, other in zip(scores, trained.scores, strict=True))
    equal = tuple(map(tuple, reading["scored_ids"])) == trained.ids
    if not equal:
        log.warning(
            "plain transformers tokenizes a whole conversation otherwise than this training did, where the answer "
            "begins: its scores differ by up to %.2g",
            difference,
        )
    elif not difference <= LARGEST_SCORE_DIFFERENCE * max(1.0, *map(abs, trained.scores)):  # NaN as well
        raise UserError(
            f"the exported reward model would give other scores in plain transformers: {_shown(scores)} where the "
            f"trained one gives {_shown(trained.scores)}; nothing was written"
        )
    return ParityRow(
        form="reward",
        reader=reading["reader"],
        file=".",
        dtype=reading["dtype"],
        ids_equal=equal,
        end_tokens_equal=True,
        max_logit_difference=difference,
    )


def _shown(scores: tuple[float, ...] | list[float]) -> str:
    return ", ".join(f"{score:.3f}" for score in scores)
