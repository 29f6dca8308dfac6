"""The options of `carellama data COMMAND`, one dataclass a command."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from carellama.config.options import Options, option
from carellama.errors import UserError


@dataclass(frozen=True)
class ListOptions(Options):
    """Which datasets are listed."""

    stage: Literal["pt", "sft", "rm", "exam"] | None = option("Only those that this stage can use.", None)
    language: Literal["zh", "en"] | None = option("Only those in this language.", None)


@dataclass(frozen=True)
class ShowOptions(Options):
    """Which dataset is shown."""

    name: str = option("A dataset of the catalogue (first word).")


@dataclass(frozen=True)
class PullOptions(Options):
    """Which dataset is fetched, and from where."""

    name: str = option("A dataset of the catalogue (first word).")
    source: Literal["huggingface", "modelscope", "github", "google-drive", "url"] | None = option(
        "Which of its hosts; default: each in turn until one answers.", None, names=("hub",)
    )
    from_folder: str | None = option(
        "Take the files from this folder or file (downloaded by hand).", None, names=("from",)
    )
    accept_licence: bool = option("Accept the dataset's terms without being asked.", default=False)
    hf_auth_token: str | None = option("Token for gated datasets of the hub.", None)


@dataclass(frozen=True)
class ConvertOptions(Options):
    """What is converted, and where the records go."""

    name: str = option("A dataset NAME or NAME:PART of the catalogue, or a file or folder (first word).")
    from_path: str | None = option("The dataset's file or folder; default: what was pulled.", None, names=("from",))
    split: Literal["train", "held_out"] = option(
        "Which of a dataset's files: those to train on, or those held out.", "train"
    )
    output: str | None = option("JSON Lines file to write; default: NAME.jsonl in this folder.", None)
    overwrite: bool = option("Replace the output file if it is there.", default=False)


@dataclass(frozen=True)
class FromFeedbackOptions(Options):
    """Which feedback becomes training data, and where it goes."""

    output_dir: str = option("Folder for the files and their dataset_info.json.")
    database: str | None = option(
        "Database that `carellama web` keeps feedback in, a file or a URL; default: as there.", None, names=("keys",)
    )
    encryption_key_file: str | None = option(
        "Keys of an encrypted database, one a line; or $CARELLAMA_STORE_KEY.", None
    )
    overwrite: bool = option("Replace files of an earlier run.", default=False)


@dataclass(frozen=True)
class CheckOptions(Options):
    """Which files are checked."""

    files: list[str] = option("Files, or folders of files (first words).")
    stage: Literal["pt", "sft", "rm", "exam"] | None = option("Stage that the records must fit; default: any.", None)
    most_shown: int = option("Most places shown of each problem; all are counted.", 20, at_least=1)
    longest: int = option("Characters above which an answer or a text is very long.", 8000, at_least=1)
    shortest: int = option("Characters below which an answer is very short.", 4, at_least=1)
    strict: bool = option("End with exit code 1 for warnings as well as for errors.", default=False)
    report: str | None = option("Also write all of it to this JSON file.", None)
    overwrite: bool = option("Replace the report if it is there.", default=False)


@dataclass(frozen=True)
class MixOptions(Options):
    """Which recipe is mixed, and where to."""

    recipe: str = option("YAML file: which datasets, how much of each, and the seed (first word).")
    output: str = option("JSON Lines file to write; the account is OUTPUT.json.", "mixed.jsonl")
    dataset_dir: str = option("Folder with dataset_info.json.", "data")
    tokenizer: str | None = option(
        "Model whose tokenizer counts the tokens of each part; default: characters are counted.", None
    )
    on_bad_record: Literal["error", "skip"] = option(
        "A record that cannot be used: stop, or skip and count it.", "error"
    )
    overwrite: bool = option("Replace the output if it is there.", default=False)


@dataclass(frozen=True)
class StatsOptions(Options):
    """What is measured, and where the page goes."""

    names: list[str] = option("Datasets (dataset_info.json, catalogue) or files (first words).")
    html: str | None = option("Also write a page with histograms to this file.", None)
    dataset_dir: str = option("Folder with dataset_info.json.", "data")
    max_samples: int | None = option("Read only so many rows of each.", None, at_least=1)


@dataclass(frozen=True)
class ViewOptions(Options):
    """Which records are shown, and how."""

    name: str = option("A dataset (dataset_info.json, catalogue) or a file (first word).")
    dataset_dir: str = option("Folder with dataset_info.json.", "data")
    start: int = option("First row that is shown, from 1.", 1, at_least=1)
    records: int = option("Records shown at a time; a terminal is asked whether to go on.", 5, at_least=1)
    tokenizer: str | None = option(
        "Model whose tokenizer encodes the records: learned tokens are shown in green.", None
    )
    template: str | None = option("Chat format of --tokenizer; default: its own.", None)
    cutoff_len: int = option("Most tokens of a record when encoding.", 1024, at_least=1)


@dataclass(frozen=True)
class CleanOptions(Options):
    """What is cleaned, what is taken out, and where the rest goes."""

    names: list[str] = option("Datasets (dataset_info.json, catalogue) or files (first words).")
    output: str = option("JSON Lines file to write.", "clean.jsonl")
    overwrite: bool = option("Replace the output if it is there.", default=False)
    removed: str | None = option("Also list every removed row in this JSON Lines file: place, reason, partner.", None)
    removed_text: bool = option("Put the removed row's record into that list as well.", default=False)
    dataset_dir: str = option("Folder with dataset_info.json.", "data")
    languages: str | None = option(
        "Only these, comma separated: zh, en, mixed, other; default: all.", None, commas=True
    )
    shortest_question: int = option(
        "Letters, characters and digits below which a question is too short.", 0, at_least=0
    )
    longest_question: int = option("Characters above which it is too long; 0: no bound.", 0, at_least=0)
    shortest_answer: int = option(
        "The same for an answer or text; 1: a dash is no answer, but 7 is one.", 1, at_least=0
    )
    longest_answer: int = option("Characters above which it is too long; 0: no bound.", 0, at_least=0)
    repetition: bool = option("Take out texts that repeat themselves.", default=True)
    boilerplate: bool = option("Take out greetings and a machine's excuses.", default=True)
    threshold: float = option(
        "Similarity (0 to 1) from which two records are near duplicates; 0: exact ones only.",
        0.8,
        at_least=0,
        at_most=1,
    )
    deidentify: Literal["mask", "surrogate"] | None = option(
        "Mask identifiers of persons, or put believable others in their place.", None
    )
    secret_file: str | None = option(
        "File whose bytes make surrogates the same in every run; default: new ones each run.", None
    )
    exams: list[str] | None = option(
        "Exams NAME:PART or files to keep out, besides those of the catalogue that are here.", None
    )
    catalogue_exams: bool = option("Keep out the exams of the catalogue that are here.", default=True)
    exam_characters: int = option(
        "Chinese characters in a row that make a row one with an exam question; common phrases have below 8.",
        20,
        at_least=8,
    )
    exam_similarity: float = option(
        "Share (0 to 1) of an edited exam question that makes a row one with it; 0: not looked for.", 0.75
    )


@dataclass(frozen=True)
class SynthesizeOptions(Options):
    """What is made of which texts, by which model, and where it goes."""

    sources: list[str] = option("Documents, folders of them, or files of records or dataset names (first words).")
    task: Literal["qa", "consultation", "rewrite", "preference"] = option(
        "Of passages: qa, consultation (several turns). Of conversations: rewrite, preference.", "qa"
    )
    records: int = option("Records to try; fewer are written where replies are unusable.", 100, at_least=1)
    language: Literal["auto", "zh", "en"] = option("Language to write in; auto: that of each passage.", "auto")
    output: str = option("JSON Lines file to write; the account is OUTPUT.json.", "synthetic.jsonl")
    resume: bool = option("Go on with the output: what it holds is not asked again.", default=False)
    existing: list[str] | None = option("Datasets or files whose questions are not to be written again.", None)
    dataset_dir: str = option("Folder with dataset_info.json.", "data")
    endpoint: str | None = option("Address of an OpenAI-compatible endpoint, as in http://localhost:8000/v1.", None)
    model: str | None = option("Name of the endpoint's model.", None)
    model_name_or_path: str | None = option(
        "Instead of an endpoint: a local model (folder, hub id, embedded name).", None
    )
    checkpoint_dir: str | None = option("Adapters of the local model.", None, commas=True)
    template: str | None = option("Chat format of the local model.", None)
    judge_endpoint: str | None = option(
        "preference: endpoint of another model that judges; default: the same model.", None
    )
    judge_model: str | None = option("Name of the judging endpoint's model.", None)
    judge_model_name_or_path: str | None = option("Or a local model that judges.", None)
    turns: int = option("consultation: questions of the patient, each with an answer.", 3, at_least=1)
    passage_chars: int = option("Most characters of a passage of a document.", 1500, at_least=100)
    temperature: float = option(
        "0: always the likeliest token; preference draws its second sample at 0.4 more.", 0.8, at_least=0, at_most=2
    )
    top_p: float = option("Sample from the likeliest tokens of this total probability.", 0.95, above=0, at_most=1)
    max_new_tokens: int = option("Most tokens of a reply; one cut off is not used.", 768, at_least=1)
    seed: int = option("Seed of the sampling; an endpoint may not heed it.", 42, at_least=0)
    parallel: int = option("Requests, or prompts of a local model, at a time.", 4, at_least=1)
    timeout: float = option("Seconds that a request may take before it is tried again.", 120.0, at_least=0.001)
    price_in: float | None = option("Price of a million prompt tokens.", None, at_least=0)
    price_out: float | None = option("Price of a million completion tokens.", None, at_least=0)
    judge_price_in: float | None = option("The same of another judge.", None, at_least=0)
    judge_price_out: float | None = option("The same of another judge.", None, at_least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.price_in is None) != (self.price_out is None):
            raise UserError("--price_in and --price_out belong together")
        if (self.judge_price_in is None) != (self.judge_price_out is None):
            raise UserError("--judge_price_in and --judge_price_out belong together")
        judged = (self.judge_endpoint, self.judge_model, self.judge_model_name_or_path, self.judge_price_in)
        if self.task != "preference" and any(value is not None for value in judged):
            raise UserError(f"--judge_* belong to --task preference, not {self.task}")
