"""The options of how answers are drawn. Loads no library."""

from __future__ import annotations

from dataclasses import dataclass, field

from carellama.config.option import about
from carellama.errors import UserError


@dataclass(frozen=True)
class GeneratingArguments:
    """How answers are sampled."""

    do_sample: bool = field(default=True, metadata=about("Sample; false: always the likeliest token."))
    temperature: float = field(default=0.95, metadata=about("0: always the likeliest token."))
    top_p: float = field(default=0.7, metadata=about("Sample from the likeliest tokens of this total probability."))
    top_k: int = field(default=50, metadata=about("Sample from this many likeliest tokens; 0: from all."))
    num_beams: int = field(default=1, metadata=about("Beam search; 1: none."))
    max_new_tokens: int = field(default=512, metadata=about("Maximum length of an answer in tokens."))
    repetition_penalty: float = field(default=1.0, metadata=about("Above 1: repeat less."))
    length_penalty: float = field(default=1.0, metadata=about("Beam search: above 0 favours long answers."))

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 2 or not 0 < self.top_p <= 1 or self.top_k < 0 or self.max_new_tokens < 1:
            raise UserError(
                f"sampling: temperature {self.temperature} (0 to 2), top_p {self.top_p} (above 0, at most 1), "
                f"top_k {self.top_k} (at least 0), max_new_tokens {self.max_new_tokens} (at least 1)"
            )
