"""The figures of a comparison of written forms with the trained model, as rows that go into parity.json and the card.

    table = ParityTable(rows=(row,), tolerances={}, perplexity=14.2)
    table.as_json()

A row is one form read by one program. What is None was not measured: a reward model answers nothing, and scores alone
are compared.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

from carellama.package_data import package_yaml
from carellama.records import JSONObject

GREEDY_TOKENS = 32  # of an answer that both give
NOTICEABLE = 0.01  # nats; a smaller change is noticed by hardly anybody


@dataclass(frozen=True)
class SafetyChange:
    """What `carellama safety eval --by model` says of the answers of the trained model and of a written form."""

    cases: int
    changed: int  # answers whose level is another
    emergencies: int  # of the cases
    missed_before: int  # emergencies that no answer calls one
    missed_after: int
    false_alarms_before: int
    false_alarms_after: int


@dataclass(frozen=True)
class ParityRow:
    """How one form, read by one program, differs from base and adapters."""

    form: str  # hf, f16, q4_K_M, lora-gguf, openvino, web, ...
    reader: str  # program and version, as "llama.cpp (xllamacpp 2026.10.11549)"
    file: str  # name in the export, "." for the folder itself
    dtype: str  # that the reader computed in
    ids_equal: bool  # of a Chinese and English text and of a rendered prompt
    end_tokens_equal: bool  # all tokens that end an answer end one there
    max_logit_difference: float  # of a reward model: of the scores
    greedy_equal: int | None = None  # first tokens of GREEDY_TOKENS that are the same
    kl_mean: float | None = None  # Kullback-Leibler divergence from the trained model, in nats, mean over tokens
    kl_999: float | None = None  # its 99.9% quantile
    top1_agreement: float | None = None  # share of the held-out tokens for which both choose the same next one
    perplexity: float | None = None  # on the held-out tokens
    tokens: int = 0  # held-out tokens that were compared
    safety: SafetyChange | None = None
    tensor_types: Mapping[str, int] = field(default_factory=dict)  # number format -> tensors, as the file has them
    kl_median: float | None = None
    kl_noticeable: int = 0  # tokens whose divergence is above NOTICEABLE
    weights: str = ""  # number type of the file's weights, where the form's name does not say it

    @property
    def name(self) -> str:
        """The form with the number type of its weights."""
        return f"{self.form} ({self.weights})" if self.weights else self.form

    def line(self, perplexity: float | None) -> str:
        """Return the figures in a line, beside the perplexity of the trained model."""
        name = f"{self.name}, read by {self.reader}"
        if self.kl_mean is None or self.top1_agreement is None or perplexity is None:
            return f"{name}: difference of scores {self.max_logit_difference:.2g} (computed in {self.dtype})"
        safety = self.safety
        changed = (
            f", urgency of {safety.changed} of {safety.cases} answers changed (of {safety.emergencies} emergencies "
            f"{safety.missed_before} were missed before and {safety.missed_after} after)"
            if safety
            else ""
        )
        return (
            f"{name}: largest difference of logits {self.max_logit_difference:.2g} (computed in {self.dtype}), same "
            f"next token for {self.top1_agreement:.1%} of {self.tokens:,} tokens, KL divergence "
            f"{self.kl_mean:.2g} nats, perplexity {self.perplexity:.4g} (trained model {perplexity:.4g}), "
            f"{self.greedy_equal} of {GREEDY_TOKENS} greedy tokens{changed}"
        )


@dataclass(frozen=True)
class Tolerance:
    """How far a form may differ; None: not limited. `reason` says why so far."""

    reason: str
    max_logit_difference: float | None = None
    greedy_equal: int | None = None  # at least
    kl_mean: float | None = None
    kl_999: float | None = None
    top1_agreement: float | None = None  # at least
    perplexity_ratio: float | None = None  # of the form's to the trained model's
    safety_changed: float | None = None  # share of the cases


@dataclass(frozen=True)
class ParityTable:
    """All forms of an export, against the trained model."""

    rows: tuple[ParityRow, ...]
    tolerances: Mapping[str, Tolerance]  # form -> how far it may differ
    perplexity: float | None  # of the trained model, on the same tokens
    past: tuple[str, ...] = ()  # figures past their tolerance, which the user accepted

    def __str__(self) -> str:
        faults = [f"PAST ITS TOLERANCE, and accepted: {one}" for one in self.past]
        lines = []
        for row in self.rows:
            limits = self.limits(row, "en")
            reason = f"; {self.tolerances[row.form].reason}" if limits else ""
            lines += [row.line(self.perplexity), *([f"  limits: {limits}{reason}"] if limits else [])]
        return "\n".join([*faults, *lines])

    def limits(self, row: ParityRow, language: str) -> str:
        """Return how far a form may differ in what was measured of it, in `en` or `zh`; "": nothing is limited."""
        tolerance = self.tolerances.get(row.form)
        words = package_yaml("export/cards/words.yaml")[language]["bounds"]
        found = {name: getattr(tolerance, name, None) for name in words}
        found |= {} if row.safety else {"safety_changed": None}
        shares = ("top1_agreement", "safety_changed")
        stated = {name: 100 * limit if name in shares else limit for name, limit in found.items() if limit is not None}
        return ", ".join(words[name].format(limit) for name, limit in stated.items())

    def as_json(self) -> JSONObject:
        """Return the table as parity.json has it."""
        return dataclasses.asdict(self)
