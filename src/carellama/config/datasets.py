"""The options of `carellama data VERB`, one dataclass a verb. Light: nothing of a model is imported."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Optional

from carellama.config.option import about, at_least
from carellama.errors import UserError

# HfArgumentParser reads the types at run time, and takes Optional[...] in all Python versions.
# ruff: noqa: UP045


@dataclass(frozen=True)
class ListArguments:
    """Which datasets are listed."""

    stage: Optional[Literal["pt", "sft", "rm", "exam"]] = field(
        default=None, metadata=about("Only those that this stage can use.")
    )
    language: Optional[Literal["zh", "en"]] = field(default=None, metadata=about("Only those in this language."))


@dataclass(frozen=True)
class ShowArguments:
    """Which dataset is shown."""

    name: str = field(metadata=about("A dataset of the catalogue (first word)."))


@dataclass(frozen=True)
class PullArguments:
    """Which dataset is fetched, and from where."""

    name: str = field(metadata=about("A dataset of the catalogue (first word)."))
    source: Optional[Literal["huggingface", "modelscope", "github", "google-drive", "url"]] = field(
        default=None,
        metadata=about("Which of its hosts; default: each in turn until one answers.", aliases=["--hub"]),
    )
    from_folder: Optional[str] = field(
        default=None,
        metadata=about("Take the files from this folder or file (downloaded by hand).", aliases=["--from"]),
    )
    accept_licence: bool = field(default=False, metadata=about("Accept the dataset's terms without being asked."))
    hf_auth_token: Optional[str] = field(default=None, metadata=about("Token for gated datasets of the hub."))


@dataclass(frozen=True)
class ConvertArguments:
    """What is converted, and where the records go."""

    name: str = field(metadata=about("A dataset NAME or NAME:PART of the catalogue, or a file or folder (first word)."))
    from_path: Optional[str] = field(
        default=None, metadata=about("The dataset's file or folder; default: what was pulled.", aliases=["--from"])
    )
    split: Literal["train", "held_out"] = field(
        default="train", metadata=about("Which of a dataset's files: those to train on, or those held out.")
    )
    output: Optional[str] = field(
        default=None, metadata=about("JSON Lines file to write; default: NAME.jsonl in this folder.")
    )
    overwrite: bool = field(default=False, metadata=about("Replace the output file if it is there."))


@dataclass(frozen=True)
class CheckArguments:
    """Which files are checked."""

    files: list[str] = field(metadata=about("Files, or folders of files (first words)."))
    stage: Optional[Literal["pt", "sft", "rm", "exam"]] = field(
        default=None, metadata=about("Stage that the records must fit; default: any.")
    )
    most_shown: int = field(default=20, metadata=about("Most places shown of each problem; all are counted."))
    longest: int = field(default=8000, metadata=about("Characters above which an answer or a text is very long."))
    shortest: int = field(default=4, metadata=about("Characters below which an answer is very short."))
    strict: bool = field(default=False, metadata=about("End with exit code 1 for warnings as well as for errors."))
    report: Optional[str] = field(default=None, metadata=about("Also write all of it to this JSON file."))


@dataclass(frozen=True)
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
        default="error", metadata=about("A record that cannot be used: stop, or skip and count it.")
    )
    overwrite: bool = field(default=False, metadata=about("Replace the output if it is there."))


@dataclass(frozen=True)
class StatsArguments:
    """What is measured, and where the page goes."""

    names: list[str] = field(metadata=about("Datasets (dataset_info.json, catalogue) or files (first words)."))
    html: Optional[str] = field(default=None, metadata=about("Also write a page with histograms to this file."))
    dataset_dir: str = field(default="data", metadata=about("Folder with dataset_info.json."))
    max_samples: Optional[int] = field(default=None, metadata=about("Read only so many rows of each."))


@dataclass(frozen=True)
class ViewArguments:
    """Which records are shown, and how."""

    name: str = field(metadata=about("A dataset (dataset_info.json, catalogue) or a file (first word)."))
    dataset_dir: str = field(default="data", metadata=about("Folder with dataset_info.json."))
    start: int = field(default=1, metadata=about("First row that is shown, from 1."))
    records: int = field(default=5, metadata=about("Records shown at a time; a terminal is asked whether to go on."))
    tokenizer: Optional[str] = field(
        default=None, metadata=about("Model whose tokenizer encodes the records: learned tokens are shown in green.")
    )
    template: Optional[str] = field(default=None, metadata=about("Chat format of --tokenizer; default: its own."))
    cutoff_len: int = field(default=1024, metadata=about("Most tokens of a record when encoding."))


@dataclass(frozen=True)
class CleanArguments:
    """What is cleaned, what is taken out, and where the rest goes."""

    names: list[str] = field(metadata=about("Datasets (dataset_info.json, catalogue) or files (first words)."))
    output: str = field(default="clean.jsonl", metadata=about("JSON Lines file to write."))
    overwrite: bool = field(default=False, metadata=about("Replace the output if it is there."))
    removed: Optional[str] = field(
        default=None, metadata=about("Also list every removed row in this JSON Lines file: place, reason, partner.")
    )
    removed_text: bool = field(default=False, metadata=about("Put the removed row's record into that list as well."))
    dataset_dir: str = field(default="data", metadata=about("Folder with dataset_info.json."))
    languages: Optional[str] = field(
        default=None, metadata=about("Only these, comma separated: zh, en, mixed, other; default: all.")
    )
    shortest_question: int = field(
        default=0, metadata=about("Letters, characters and digits below which a question is too short.")
    )
    longest_question: int = field(default=0, metadata=about("Characters above which it is too long; 0: no bound."))
    shortest_answer: int = field(
        default=1, metadata=about("The same for an answer or text; 1: a dash is no answer, but 7 is one.")
    )
    longest_answer: int = field(default=0, metadata=about("Characters above which it is too long; 0: no bound."))
    repetition: bool = field(default=True, metadata=about("Take out texts that repeat themselves."))
    boilerplate: bool = field(default=True, metadata=about("Take out greetings and a machine's excuses."))
    threshold: float = field(
        default=0.8,
        metadata=about("Similarity (0 to 1) from which two records are near duplicates; 0: exact ones only."),
    )
    deidentify: Optional[Literal["mask", "surrogate"]] = field(
        default=None, metadata=about("Mask identifiers of persons, or put believable others in their place.")
    )
    secret_file: Optional[str] = field(
        default=None,
        metadata=about("File whose bytes make surrogates the same in every run; default: new ones each run."),
    )
    exams: Optional[list[str]] = field(
        default=None,
        metadata=about("Exams NAME:PART or files to keep out, besides those of the catalogue that are here."),
    )
    catalogue_exams: bool = field(default=True, metadata=about("Keep out the exams of the catalogue that are here."))
    exam_characters: int = field(
        default=20, metadata=about("Chinese characters in a row that make a row one with an exam question.")
    )
    exam_similarity: float = field(
        default=0.75,
        metadata=about("Share (0 to 1) of an edited exam question that makes a row one with it; 0: not looked for."),
    )


@dataclass(frozen=True)
class SynthesizeArguments:
    """What is made of which texts, by which model, and where it goes."""

    sources: list[str] = field(
        metadata=about("Documents, folders of them, or files of records or dataset names (first words).")
    )
    task: Literal["qa", "consultation", "rewrite", "preference"] = field(
        default="qa",
        metadata=about("Of passages: qa, consultation (several turns). Of conversations: rewrite, preference."),
    )
    records: int = field(default=100, metadata=about("Records to try; fewer are written where replies are unusable."))
    language: Literal["auto", "zh", "en"] = field(
        default="auto", metadata=about("Language to write in; auto: that of each passage.")
    )
    output: str = field(
        default="synthetic.jsonl", metadata=about("JSON Lines file to write; the account is OUTPUT.json.")
    )
    resume: bool = field(default=False, metadata=about("Go on with the output: what it holds is not asked again."))
    existing: Optional[list[str]] = field(
        default=None, metadata=about("Datasets or files whose questions are not to be written again.")
    )
    dataset_dir: str = field(default="data", metadata=about("Folder with dataset_info.json."))
    endpoint: Optional[str] = field(
        default=None, metadata=about("Address of an OpenAI-compatible endpoint, as in http://localhost:8000/v1.")
    )
    model: Optional[str] = field(default=None, metadata=about("Name of the endpoint's model."))
    model_name_or_path: Optional[str] = field(
        default=None, metadata=about("Instead of an endpoint: a local model (folder, hub id, embedded name).")
    )
    checkpoint_dir: Optional[str] = field(default=None, metadata=about("Adapters of the local model."))
    template: Optional[str] = field(default=None, metadata=about("Chat format of the local model."))
    judge_endpoint: Optional[str] = field(
        default=None, metadata=about("preference: endpoint of another model that judges; default: the same model.")
    )
    judge_model: Optional[str] = field(default=None, metadata=about("Name of the judging endpoint's model."))
    judge_model_name_or_path: Optional[str] = field(default=None, metadata=about("Or a local model that judges."))
    turns: int = field(default=3, metadata=about("consultation: questions of the patient, each with an answer."))
    passage_chars: int = field(default=1500, metadata=about("Most characters of a passage of a document."))
    temperature: float = field(
        default=0.8, metadata=about("0: always the likeliest token; preference draws its second sample at 0.4 more.")
    )
    top_p: float = field(default=0.95, metadata=about("Sample from the likeliest tokens of this total probability."))
    max_new_tokens: int = field(default=768, metadata=about("Most tokens of a reply; one cut off is not used."))
    seed: int = field(default=42, metadata=about("Seed of the sampling; an endpoint may not heed it."))
    parallel: int = field(default=4, metadata=about("Requests, or prompts of a local model, at a time."))
    timeout: float = field(default=120.0, metadata=about("Seconds that a request may take before it is tried again."))
    price_in: Optional[float] = field(default=None, metadata=about("Price of a million prompt tokens."))
    price_out: Optional[float] = field(default=None, metadata=about("Price of a million completion tokens."))
    judge_price_in: Optional[float] = field(default=None, metadata=about("The same of another judge."))
    judge_price_out: Optional[float] = field(default=None, metadata=about("The same of another judge."))

    def __post_init__(self) -> None:
        at_least(self, records=1, turns=1, passage_chars=100, max_new_tokens=1, parallel=1, seed=0)
        at_least(self, temperature=0, timeout=0.001, price_in=0, price_out=0, judge_price_in=0, judge_price_out=0)
        if not 0 < self.top_p <= 1:
            raise UserError(f"--top_p is {self.top_p}; it must be above 0 and at most 1")
        if (self.price_in is None) != (self.price_out is None):
            raise UserError("--price_in and --price_out belong together")
        if (self.judge_price_in is None) != (self.judge_price_out is None):
            raise UserError("--judge_price_in and --judge_price_out belong together")
        judged = (self.judge_endpoint, self.judge_model, self.judge_model_name_or_path, self.judge_price_in)
        if self.task != "preference" and any(value is not None for value in judged):
            raise UserError(f"--judge_* belong to --task preference, not {self.task}")
