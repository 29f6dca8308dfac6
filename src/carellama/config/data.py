"""The options of a run's data: which datasets, how they are mixed, cut and checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from carellama.config.options import Options, option, split_commas, split_numbers
from carellama.errors import UserError


class Lengths(NamedTuple):
    """The most tokens of a turn's prompt, of a turn's answer, and of a whole record."""

    prompt: int
    response: int
    total: int


@dataclass(frozen=True)
class PromptOptions(Options):
    """How a conversation is written for the model."""

    template: str | None = option("Chat format by name; default: the tokenizer's own, else 'default'.", None)
    system_prompt: str | None = option(
        "System message for records without one; beats the template's.", None, empty=True
    )


@dataclass(frozen=True)
class DataOptions(PromptOptions):
    """Which data, how it is mixed, cut and checked."""

    dataset: str | None = option("Name(s) in dataset_info.json, or files, comma separated.", None, commas=True)
    dataset_dir: str = option("Folder with dataset_info.json.", "data")
    split: str = option("Split of hub datasets.", "train")
    mask_history: bool = option(
        "sft: learn only the last answer of a conversation, not the earlier ones.", default=False
    )
    max_source_length: int | None = option(
        "Most prompt tokens of a turn (512 unless --cutoff_len is given).", None, at_least=1
    )
    max_target_length: int | None = option(
        "Most answer tokens of a turn (512 unless --cutoff_len is given).", None, at_least=1
    )
    cutoff_len: int | None = option(
        "Most tokens of a whole record, instead of the two lengths above.", None, at_least=1
    )
    max_samples: int | None = option("Use the first so many rows of each --dataset.", None, at_least=1)
    max_eval_samples: int | None = option(
        "Use the first so many rows of each dataset that is evaluated or predicted.", None, at_least=1
    )
    eval_dataset: str | None = option(
        "Name(s) or files to evaluate on, comma separated, instead of --val_size; eval and predict take them "
        "for --dataset.",
        None,
        commas=True,
    )
    val_size: float = option("Held-out records: a share below 1, or a number of records.", 0.0, at_least=0)
    mix_strategy: Literal["concat", "interleave_under", "interleave_over"] = option(
        "Several datasets: one after the other, or in turn until the first / the last is used up.", "concat"
    )
    interleave_probs: str | None = option(
        "Shares of the datasets when interleaving, comma separated.", None, commas=True
    )
    streaming: bool = option("Encode while training; needs --max_steps.", default=False)
    buffer_size: int = option("Records shuffled together when streaming.", 1024, at_least=1)
    packing: bool | None = option("Fill windows of --cutoff_len whole; default: only for plain text.", None)
    overwrite_cache: bool = option("Encode again even if the token cache has the data.", default=False)
    data_cache_dir: str | None = option("Folder of the token cache; default: the user's cache folder.", None)
    preprocessing_num_workers: int | None = option(
        "Processes that encode; default: threads, one a core.", None, at_least=1
    )
    on_bad_record: Literal["error", "skip"] = option(
        "A record that cannot be used: stop, or skip and count it.", "error"
    )
    trust_dataset_script: bool = option("Run the Python script of a dataset with script_url.", default=False)
    show_example: bool = option(
        "Print one encoded record, learned tokens in green, or in [[ ]] where it is no terminal.", default=False
    )
    window: int | None = None  # positions of the model, which the run decides: no option

    @property
    def datasets(self) -> list[str]:
        """The names of `dataset`, in order."""
        return split_commas(self.dataset)

    @property
    def eval_datasets(self) -> list[str]:
        """The names of `eval_dataset`, in order."""
        return split_commas(self.eval_dataset)

    @property
    def evaluated_on(self) -> str:
        """The names of the data whose records are evaluated or predicted."""
        return ", ".join(self.eval_datasets or self.datasets)

    @property
    def eval_limit(self) -> int | None:
        """How many rows of each --dataset are used where it is evaluated and not trained on."""
        return self.max_eval_samples if self.max_eval_samples is not None else self.max_samples

    @property
    def probabilities(self) -> list[float] | None:
        """`interleave_probs` as numbers."""
        probs = self.interleave_probs
        return None if probs is None else split_numbers("interleave_probs", probs, "0.7,0.3")

    @property
    def lengths(self) -> Lengths:
        """The most tokens of a record and its parts, within the model's positions."""
        if self.cutoff_len is not None:
            whole = self.cutoff_len
            source, target = self.max_source_length or whole, self.max_target_length or whole
        else:
            source, target = self.max_source_length or 512, self.max_target_length or 512
            whole = source + target
        return Lengths(*(min(length, self.window or length) for length in (source, target, whole)))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.val_size >= 1 and self.val_size != int(self.val_size):
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
