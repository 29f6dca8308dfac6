"""The options of a run's data: which datasets, how they are mixed, cut and checked."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Optional

from carellama.config.option import about, at_least
from carellama.errors import UserError

# HfArgumentParser reads the types at run time, and takes Optional[...] in all Python versions.
# ruff: noqa: UP045


class Lengths(NamedTuple):
    """The most tokens of a turn's prompt, of a turn's answer, and of a whole record."""

    prompt: int
    response: int
    total: int

    def limited_to(self, window: int | None) -> Lengths:
        """Return the lengths within so many positions; None: as they are."""
        return self if window is None else Lengths(*(min(length, window) for length in self))


@dataclass(frozen=True)
class DataArguments:
    """Which data, how it is mixed, cut and checked."""

    dataset: Optional[str] = field(
        default=None, metadata=about("Name(s) in dataset_info.json, or files, comma separated.")
    )
    dataset_dir: str = field(default="data", metadata=about("Folder with dataset_info.json."))
    split: str = field(default="train", metadata=about("Split of hub datasets."))
    template: Optional[str] = field(
        default=None, metadata=about("Chat format by name; default: the tokenizer's own, else 'default'.")
    )
    system_prompt: Optional[str] = field(
        default=None, metadata=about("System message for records without one; beats the template's.")
    )
    mask_history: bool = field(
        default=False, metadata=about("sft: learn only the last answer of a conversation, not the earlier ones.")
    )
    max_source_length: Optional[int] = field(
        default=None, metadata=about("Most prompt tokens of a turn (512 unless --cutoff_len is given).")
    )
    max_target_length: Optional[int] = field(
        default=None, metadata=about("Most answer tokens of a turn (512 unless --cutoff_len is given).")
    )
    cutoff_len: Optional[int] = field(
        default=None, metadata=about("Most tokens of a whole record, instead of the two lengths above.")
    )
    max_samples: Optional[int] = field(default=None, metadata=about("Use the first so many rows of each --dataset."))
    max_eval_samples: Optional[int] = field(
        default=None, metadata=about("Use the first so many rows of each dataset that is evaluated or predicted.")
    )
    eval_dataset: Optional[str] = field(
        default=None,
        metadata=about("Name(s) or files to evaluate on, comma separated, instead of --val_size."),
    )
    val_size: float = field(default=0.0, metadata=about("Held-out records: a share below 1, or a number of records."))
    mix_strategy: Literal["concat", "interleave_under", "interleave_over"] = field(
        default="concat",
        metadata=about("Several datasets: one after the other, or in turn until the first / the last is used up."),
    )
    interleave_probs: Optional[str] = field(
        default=None, metadata=about("Shares of the datasets when interleaving, comma separated.")
    )
    streaming: bool = field(default=False, metadata=about("Encode while training; needs --max_steps."))
    buffer_size: int = field(default=1024, metadata=about("Records shuffled together when streaming."))
    packing: Optional[bool] = field(
        default=None, metadata=about("Fill windows of --cutoff_len whole; default: only for plain text.")
    )
    overwrite_cache: bool = field(default=False, metadata=about("Encode again even if the token cache has the data."))
    data_cache_dir: Optional[str] = field(
        default=None, metadata=about("Folder of the token cache; default: the user's cache folder.")
    )
    preprocessing_num_workers: Optional[int] = field(
        default=None, metadata=about("Processes that encode; default: threads, one a core.")
    )
    on_bad_record: Literal["error", "skip"] = field(
        default="error", metadata=about("A record that cannot be used: stop, or skip and count it.")
    )
    trust_dataset_script: bool = field(
        default=False, metadata=about("Run the Python script of a dataset with script_url.")
    )
    show_example: bool = field(default=False, metadata=about("Print one encoded record, trained tokens in green."))
    window: Optional[int] = field(default=None, init=False, repr=False)  # positions of the model, which the run sets

    @property
    def datasets(self) -> list[str]:
        """The names of `dataset`, in order."""
        return [part.strip() for part in (self.dataset or "").split(",") if part.strip()]

    @property
    def eval_datasets(self) -> list[str]:
        """The names of `eval_dataset`, in order."""
        return [part.strip() for part in (self.eval_dataset or "").split(",") if part.strip()]

    @property
    def eval_limit(self) -> int | None:
        """How many rows of each --dataset are used where it is evaluated and not trained on."""
        return self.max_eval_samples if self.max_eval_samples is not None else self.max_samples

    @property
    def probabilities(self) -> list[float] | None:
        """`interleave_probs` as numbers."""
        if self.interleave_probs is None:
            return None
        try:
            return [float(part) for part in self.interleave_probs.split(",")]
        except ValueError:
            raise UserError(f"--interleave_probs takes numbers as in 0.7,0.3, not {self.interleave_probs!r}") from None

    @property
    def lengths(self) -> Lengths:
        """The most tokens of a record and its parts, within the model's positions."""
        if self.cutoff_len is not None:
            whole = self.cutoff_len
            source, target = self.max_source_length or whole, self.max_target_length or whole
        else:
            source, target = self.max_source_length or 512, self.max_target_length or 512
            whole = source + target
        return Lengths(source, target, whole).limited_to(self.window)

    def within(self, window: int) -> DataArguments:
        """Return the options for a model of so many positions."""
        made = copy.copy(self)
        object.__setattr__(made, "window", window)
        return made

    def __post_init__(self) -> None:
        at_least(
            self,
            max_source_length=1,
            max_target_length=1,
            cutoff_len=1,
            max_samples=1,
            max_eval_samples=1,
            buffer_size=1,
        )
        if self.val_size < 0 or (self.val_size >= 1 and self.val_size != int(self.val_size)):
            raise UserError(f"--val_size is {self.val_size}; give a share below 1 or a whole number of records")
        shares = self.probabilities
        if shares is not None:
            if self.mix_strategy == "concat":
                raise UserError("--interleave_probs needs --mix_strategy interleave_under or interleave_over")
            if len(shares) != len(self.datasets) or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
                raise UserError(
                    f"--interleave_probs has {shares} for {len(self.datasets)} datasets; "
                    "give one share each, adding up to 1"
                )
