"""Comparison of a written model folder with base and adapters, read back as a stranger reads it.

    expected = measure(network, tokenizer, template, kind)
    report = check_parity(folder, expected, dtype="bfloat16", exact=True, trust_remote_code=False)

The folder is read with nothing but transformers' `Auto` classes: no setting of this program helps. A language model has
to give the same logits along an answer. A reward model has to give the same scores to a padded batch of conversations
of unequal lengths, whose text comes from the chat template in the folder.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from carellama.errors import UserError
from carellama.model.quiet import quiet_loading
from carellama.records import Message
from carellama.stages import ModelKind
from carellama.templates.template import Template
from carellama.templates.tokenize import GroupEncoder

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from carellama.model.lora import AnyModel

log = logging.getLogger(__name__)

PARITY_PROMPT = (Message("user", "What are the early signs of diabetes? 糖尿病早期有哪些症状？"),)
PARITY_TOKENS = 32  # of an answer, on which both models are compared
PARITY_ANSWERS = (
    "多饮、多食、多尿。",
    "Thirst and weight loss; a blood test tells.",
    "No.",
)
LARGEST_SCORE_DIFFERENCE = 0.05  # of the largest score; above it the export fails


@dataclass(frozen=True)
class ParityReport:
    """How the written model differs from base and adapters."""

    max_logit_difference: float  # of a reward model: of the scores
    top1_agreement: float | None  # share of the answer's tokens that both would choose; None: a reward model
    dtype: str  # that both were computed in

    def __str__(self) -> str:
        if self.top1_agreement is None:
            return f"difference of scores {self.max_logit_difference:.2g} (computed in {self.dtype})"
        return (
            f"largest difference of logits {self.max_logit_difference:.2g} (computed in {self.dtype}), "
            f"same choice for {self.top1_agreement:.0%} of {PARITY_TOKENS} tokens"
        )


@dataclass(frozen=True)
class Expected:
    """What base and adapters give, before they are merged and written."""

    kind: ModelKind
    texts: tuple[tuple[int, ...], ...]  # ids of the prompt; of a reward model: of each conversation
    ids: (
        torch.Tensor | None
    )  # (1, T) of the end of the prompt, as much as the model takes, and the answer; None: a reward model
    values: torch.Tensor  # float32 tensor: logits (A, V) of the answer, or scores (conversations,)


def measure(network: AnyModel, tokenizer: PreTrainedTokenizerBase, template: Template, kind: ModelKind) -> Expected:
    """Return the logits along a greedy answer, or the scores of a reward model at the tokens it was trained at.

    Raises `UserError` where they are not finite.
    """
    found = (
        _measure_scores(network, tokenizer, template)
        if kind == "reward"
        else _measure_logits(network, tokenizer, template)
    )
    if not found.values.isfinite().all():
        raise UserError(
            f"the {'scores' if kind == 'reward' else 'logits'} of this model are not numbers: its weights are damaged, "
            "as by a training that diverged; nothing was written"
        )
    return found


def _measure_logits(network: AnyModel, tokenizer: PreTrainedTokenizerBase, template: Template) -> Expected:
    """Return the logits along a greedy answer."""
    import torch

    rendered = template.render(PARITY_PROMPT, add_generation_prompt=True)
    prompt = tokenizer(rendered, add_special_tokens=False)["input_ids"]
    window = getattr(network.config.get_text_config(), "max_position_embeddings", None)
    start = max(0, len(prompt) + PARITY_TOKENS - window) if window else 0
    ids = torch.tensor([prompt[start:]], device=network.device)
    with torch.no_grad():
        following, cache = ids, None
        for _ in range(PARITY_TOKENS):
            output = network(input_ids=following, past_key_values=cache, use_cache=True)
            following, cache = output.logits[:, -1:].argmax(-1), output.past_key_values  # (1, 1)
            ids = torch.cat([ids, following], dim=1)
    return Expected("causal", (tuple(prompt),), ids.cpu(), _answer_logits(network, ids))


def conversations() -> list[tuple[Message, ...]]:
    """The conversations, of unequal lengths, on which a reward model is compared."""
    return [(*PARITY_PROMPT, Message("assistant", answer)) for answer in PARITY_ANSWERS]


def _measure_scores(network: AnyModel, tokenizer: PreTrainedTokenizerBase, template: Template) -> Expected:
    """Score each conversation on its own, at its last token, as `--stage rm` reads it."""
    import torch

    groups = [template.groups(messages) for messages in conversations()]
    encoded = GroupEncoder(tokenizer).encode(groups)
    ids = [tuple(int(token) for part in parts for token in part) for parts in encoded]
    pad = network.config.pad_token_id
    network.config.pad_token_id = None  # so that the last token counts, whatever it is
    try:
        with torch.no_grad():
            scores = [
                network(input_ids=torch.tensor([row], device=network.device)).logits[0, 0].float().cpu() for row in ids
            ]
    finally:
        network.config.pad_token_id = pad
    return Expected("reward", tuple(ids), None, torch.stack(scores))


def _answer_logits(network: AnyModel, ids: torch.Tensor) -> torch.Tensor:
    """Return the logits (A, V), in float32, of the last `PARITY_TOKENS` tokens."""
    import torch

    with torch.no_grad():
        logits = network(input_ids=ids).logits[0, -PARITY_TOKENS - 1 : -1]
    values: torch.Tensor = logits.float().cpu()
    return values


def check_parity(
    folder: Path, template: Template, expected: Expected, *, dtype: str, exact: bool, trust_remote_code: bool
) -> ParityReport:
    """Read the written folder with plain transformers, and compare what it gives with `expected`.

    exact: compute in float32. Raises `UserError` for a reward model that scores otherwise, and for a tokenizer that
    gives other ids.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    family: Any = AutoModelForSequenceClassification if expected.kind == "reward" else AutoModelForCausalLM
    with quiet_loading(folder):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
        network = family.from_pretrained(folder, dtype=getattr(torch, dtype), trust_remote_code=trust_remote_code)
    network.eval()
    if exact:  # loaded as the base was: some models compute their buffers in the precision they are loaded in
        network.float()
    computed = "float32" if exact else dtype
    if expected.kind == "reward":
        return _check_scores(tokenizer, network, expected, computed)
    rendered = _rendered(tokenizer, [PARITY_PROMPT], add_generation_prompt=True)[0]
    if rendered != template.render(PARITY_PROMPT, add_generation_prompt=True):
        raise UserError("the written chat template renders another prompt than the template of the training")
    if tuple(tokenizer(rendered, add_special_tokens=False)["input_ids"]) != expected.texts[0]:
        raise UserError("the written tokenizer gives other ids than the one that the model was trained with")
    logits = _answer_logits(network, cast("torch.Tensor", expected.ids))
    if not logits.isfinite().all():
        raise UserError(f"the written model's logits are not numbers in {computed}; nothing was written")
    report = ParityReport(
        max_logit_difference=float((logits - expected.values).abs().max()),
        top1_agreement=float((logits.argmax(-1) == expected.values.argmax(-1)).float().mean()),
        dtype=computed,
    )
    if report.top1_agreement is not None and report.top1_agreement < 0.9:
        log.warning("the exported model answers differently: %s; check its answers before you use it", report)
    return report


def _check_scores(
    tokenizer: PreTrainedTokenizerBase, network: AnyModel, expected: Expected, computed: str
) -> ParityReport:
    """Score the conversations in one padded batch, with the tokenizer, template and pad token of the folder."""
    import torch

    texts = _rendered(tokenizer, conversations(), add_generation_prompt=False)
    batch = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
    with torch.no_grad():
        scores = network(**batch).logits[:, 0].float()
    difference = float((scores - expected.values).abs().max())
    ids = tuple(tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)
    if ids != expected.texts:
        log.warning(
            "plain transformers tokenizes a whole conversation otherwise than this training did, where the answer "
            "begins: its scores differ by up to %.2g",
            difference,
        )
    elif not difference <= LARGEST_SCORE_DIFFERENCE * max(1.0, float(expected.values.abs().max())):  # NaN as well
        raise UserError(
            f"the exported reward model would give other scores in plain transformers: {_shown(scores)} where the "
            f"trained one gives {_shown(expected.values)}; nothing was written"
        )
    return ParityReport(difference, None, computed)


def _rendered(
    tokenizer: PreTrainedTokenizerBase, every: Sequence[Sequence[Message]], *, add_generation_prompt: bool
) -> list[str]:
    """Render conversations by the chat template of a tokenizer."""
    rows = [[{"role": message.role, "content": message.content} for message in messages] for messages in every]
    return [
        cast("str", tokenizer.apply_chat_template(row, tokenize=False, add_generation_prompt=add_generation_prompt))
        for row in rows
    ]


def _shown(scores: torch.Tensor) -> str:
    return ", ".join(f"{float(score):.3f}" for score in scores)
