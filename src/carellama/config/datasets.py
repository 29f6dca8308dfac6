"""The options of `carellama data VERB`, one dataclass a verb. Light: nothing of a model is imported."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Optional

from carellama.config.parse import about

# HfArgumentParser reads the types at run time, and takes Optional[...] in all Python versions.
# ruff: noqa: UP045


@dataclass
class ListArguments:
    """Which datasets are listed."""

    stage: Optional[Literal["pt", "sft", "rm", "exam"]] = field(
        default=None, metadata=about("Only those that this stage can use.")
    )
    language: Optional[Literal["zh", "en"]] = field(default=None, metadata=about("Only those in this language."))


@dataclass
class ShowArguments:
    """Which dataset is shown."""

    name: str = field(metadata=about("A dataset of the catalogue (first word)."))


@dataclass
class PullArguments:
    """Which dataset is fetched, and from where."""

    name: str = field(metadata=about("A dataset of the catalogue (first word)."))
    source: Optional[Literal["huggingface", "modelscope", "github", "google-drive", "url"]] = field(
        default=None, metadata=about("Which of its hosts; default: each in turn until one answers.")
    )
    from_folder: Optional[str] = field(
        default=None, metadata=about("Take the files from this folder (downloaded by hand) instead of fetching them.")
    )
    accept_licence: bool = field(default=False, metadata=about("Accept the dataset's terms without being asked."))
    hf_auth_token: Optional[str] = field(default=None, metadata=about("Token for gated datasets of the hub."))


@dataclass
class ConvertArguments:
    """What is converted, and where the records go."""

    name: str = field(metadata=about("A dataset NAME or NAME:PART of the catalogue, or a file or folder (first word)."))
    from_path: Optional[str] = field(
        default=None, metadata=about("The dataset's file or folder; default: what was pulled.")
    )
    split: Literal["train", "held_out"] = field(
        default="train", metadata=about("Which of a dataset's files: those to train on, or those held out.")
    )
    output: Optional[str] = field(
        default=None, metadata=about("JSON Lines file to write; default: NAME.jsonl in this folder.")
    )
    overwrite: bool = field(default=False, metadata=about("Replace the output file if it is there."))


@dataclass
class CheckArguments:
    """Which files are checked."""

    files: list[str] = field(metadata=about("Files, or folders of files (first words)."))
    stage: Optional[Literal["pt", "sft", "rm", "exam"]] = field(
        default=None, metadata=about("Stage that the records must fit; default: any.")
    )
    most_shown: int = field(default=20, metadata=about("Most places shown of each problem; all are counted."))


@dataclass
class MixArguments:
    """Which recipe is mixed, and where to."""

    recipe: str = field(metadata=about("YAML file: which datasets, how much of each, and the seed (first word)."))
    output: str = field(default="mixed.jsonl", metadata=about("JSON Lines file to write; the account is OUTPUT.json."))
    dataset_dir: str = field(default="data", metadata=about("Folder with dataset_info.json."))
    tokenizer: Optional[str] = field(
        default=None,
        metadata=about("Model whose tokenizer counts the tokens of each part; default: characters are counted."),
    )
    on_bad_record: Literal["error", "skip"] = field(
        default="error", metadata=about("A record that can not be used: stop, or skip and count it.")
    )
    overwrite: bool = field(default=False, metadata=about("Replace the output if it is there."))
