"""The options of the smaller commands: recipe, export, ask, task, models, keys, tokenizer, convert."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from carellama.config.data import PromptOptions
from carellama.config.engine import EngineOptions, GenerationOptions
from carellama.config.model import ModelOptions
from carellama.config.options import Options, check_names, in_case_of, option, split_commas
from carellama.errors import UserError, lookup

MODEL_SIZES = ("7B", "7Bf", "13B", "13Bf", "30B", "34B", "65B", "70B", "70Bf")
SCOPES = {"chat": "the model", "knowledge": "the knowledge base", "admin": "measurements and settings"}
WHERE = (
    "SQLite file, or postgresql://USER:PASSWORD@HOST/NAME; default: $CARELLAMA_DATABASE, else carellama.db in the "
    "user's data folder."
)
DATABASE_ALIASES = ("keys",)  # accepted for --database
LIMIT = 2**31 - 1  # what the database can hold


@dataclass(frozen=True)
class RecipeOptions(Options):
    """Which stages, and what is done again."""

    recipe: str = option("YAML file of the stages (first word).")
    redo: list[str] | None = option(
        "Stages to run again, with all that come after them; their folders are replaced.", None
    )
    dry_run: bool = option("Print the command of each stage and leave.", default=False)


EXPORT_TARGETS = dict.fromkeys(("hf", "gguf", "lora", "lora-gguf", "ollama", "openvino", "gptq", "awq", "web"))
OF_GGUF, OF_CHAT = ("gguf", "ollama", "web"), ("ollama", "web")
GGUF_TYPES = dict.fromkeys(("f16", "q8_0", "q6_K", "q5_K_M", "q4_K_M", "iq4_xs", "q4_0"))
WITH_IMPORTANCE = tuple(GGUF_TYPES)[2:]  # the number formats that an importance matrix changes
# An option, the other one that it needs, and the words of it that read the option; (): any.
NEEDED_OF_EXPORT: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("gguf_type", "to", OF_GGUF),
    ("importance", "to", OF_GGUF),
    ("importance", "gguf_type", WITH_IMPORTANCE),
    ("context_tokens", "to", OF_CHAT),
    ("system", "to", OF_CHAT),
    ("language", "to", ("web",)),
    ("country", "to", ("web",)),
    ("max_shard_size", "to", ("hf",)),
    ("lora_base", "to", ("lora",)),
    ("lora_rank", "to", ("lora",)),
    ("merge_density", "merge", ("ties", "dare_linear", "dare_ties")),
    ("merge_seed", "merge", ("dare_linear", "dare_ties")),
    ("push_public", "push_to", ()),
)


@dataclass(frozen=True)
class ExportOptions(Options):
    """Where and how a model is exported."""

    output_dir: str = option("Folder to write the model to.")
    to: str = option(
        "Forms to write, comma separated: hf (a Hugging Face folder), gguf, lora (as an adapter of a base), lora-gguf "
        "(the adapter alone), ollama, openvino, gptq, awq (4 bits, by AutoRound), web (a page without a network).",
        "hf",
        commas=True,
    )
    gguf_type: str = option(
        "gguf: number format(s), comma separated: f16, q8_0, q6_K, q5_K_M, q4_K_M, iq4_xs, q4_0.", "q4_K_M", commas=True
    )
    importance: str = option(
        "gguf: which columns of matrices matter most; auto: measured on medical texts; none; or a file of llama.cpp's "
        "imatrix (.gguf).",
        "auto",
    )
    gguf_pre: str | None = option(
        "gguf: llama.cpp's pre-tokenizer, for a tokenizer that its converter does not know; refused where ids differ.",
        None,
    )
    context_tokens: int = option("ollama, web: tokens of prompt and answer together.", 2048, at_least=256)
    system: str = option("ollama, web: what stands before every conversation.", "", empty=True)
    language: Literal["zh", "en"] = option("web: language of the page where the browser asks for neither.", "zh")
    country: str | None = option("web: whose telephone numbers it shows; default: CN for zh, US for en.", None)
    template: str | None = option(
        "Chat format by name that the model is saved with; default: the one it was trained with.", None
    )
    max_shard_size: str = option("Largest weights file.", "5GB")
    overwrite_output_dir: bool = option("Replace a folder that is not empty.", default=False)
    safety_parity: bool = option(
        "Let the model answer 100 triage cases before and after, and compare how urgent it finds them.", default=True
    )
    accept_parity_loss: bool = option(
        "Keep an export that differs from the trained model by more than its tolerance; the card says so.",
        default=False,
    )

    card: Literal["huggingface", "chai"] = option(
        "Model card: for the hub, in English and Chinese; chai: also that of the Coalition for Health AI.",
        "huggingface",
    )
    results: str | None = option(
        "Files of carellama eval, predict, safety eval or guard eval for the card, comma separated; "
        "those of the checkpoints are found.",
        None,
        commas=True,
    )
    merge: Literal["linear", "ties", "dare_linear", "dare_ties"] | None = option(
        "How several adapters of --checkpoint_dir are combined; default: each is put on those before it.", None
    )
    merge_weights: str | None = option("merge: a number for each adapter; default: all the same.", None, commas=True)
    merge_density: float = option("ties, dare: share of each change that is kept.", 0.5, above=0, at_most=1)
    merge_seed: int = option("dare: start of the random numbers.", 0)
    lora_base: str | None = option(
        "lora: model that the adapter is for; default: --model_name_or_path, where checkpoints lie on it.", None
    )
    lora_rank: int = option("lora: rank of the adapter.", 16, at_least=1)
    push_to: str | None = option("Upload the export, to hf:USER/NAME or modelscope:USER/NAME.", None)
    push_public: bool = option("push_to: everybody may read it.", default=False)

    @property
    def targets(self) -> list[str]:
        """The forms of `to`."""
        return [in_case_of(name, EXPORT_TARGETS) for name in split_commas(self.to)]

    @property
    def writes_gguf(self) -> bool:
        """Whether a .gguf of `gguf_type` is written, be it for another form."""
        return bool({"gguf", "ollama", "web"} & {*self.targets})

    @property
    def gguf_types(self) -> list[str]:
        """The number formats of `gguf_type`, as `GGUF_TYPES` spells them; llama.cpp's own spelling is Q4_K_M."""
        return [in_case_of(name, GGUF_TYPES) for name in split_commas(self.gguf_type)]

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, given, known, kind in (
            ("to", self.targets, EXPORT_TARGETS, "form"),
            ("gguf_type", self.gguf_types, GGUF_TYPES, "number format"),
        ):
            if not given:
                raise UserError(f"--{name} names nothing; known: {', '.join(known)}")
            check_names(name, given, known, kind)
        if self.gguf_pre and not self.writes_gguf and "lora-gguf" not in self.targets:
            raise UserError(f"--gguf_pre {self.gguf_pre} is for --to gguf, lora-gguf, ollama and web, not {self.to}")

    def check_given(self, given: Collection[str]) -> None:
        """Raise `UserError` for an option that was given and that nothing of this export reads."""
        written = {"to": self.targets, "gguf_type": self.gguf_types}
        for name, other, readers in NEEDED_OF_EXPORT:
            words = written.get(other) or split_commas(getattr(self, other))
            if name in given and not ({*readers} & {*words} if readers else words):
                *first, last = readers or ("",)
                one_of = f"{', '.join(first)} or {last}" if first else last
                raise UserError(f"--{name} needs {f'--{other} {one_of}'.strip()}: nothing of this export reads it")


@dataclass(frozen=True)
class AskOptions(Options):
    """What is asked, and how the answer is given."""

    question: list[str] = option('The question, in the first words; "-": it is read from stdin.', empty=True)
    json: bool = option("One line of JSON: text, finish_reason (stop, length, tool_calls) and usage.", default=False)


@dataclass(frozen=True)
class TaskOptions(Options):
    """Which task, on which texts, and where the rows go."""

    words: list[str] = option("NAME FILE: the task and its texts; or list; or show NAME (first words).")
    text_column: str | None = option(
        "Column(s) with the text, comma separated; several are joined under their names.", None, commas=True
    )
    text_unit: Literal["line", "file"] | None = option(
        "Plain text: each line is a text, or the whole file is one.", None
    )
    output: str | None = option("JSON Lines file to write; default: FILE.NAME.jsonl; the report is OUTPUT.json.", None)
    resume: bool = option(
        "Continue an output of the same input and options; false: refuse one that exists.", default=True
    )
    overwrite: bool = option("Replace an output that exists.", default=False)
    max_rows: int | None = option("Stop after so many rows of the input.", None, at_least=1)
    batch_size: int = option("Rows that go to the engine together.", 16, at_least=1)
    language: Literal["auto", "zh", "en"] = option("Language of the prompt; auto: that of each text.", "auto")
    prompt: str | None = option("File with a prompt in place of the task's; {text} in it is the text of a row.", None)
    task_file: str | None = option("YAML file with a task of your own.", None)
    retries: int = option(
        "How often a reply that cannot be used is asked for again, with what was wrong.", 2, at_least=0
    )
    prefix: str = option("Put before the names of the columns result, unsupported, checks and error.", "")
    reading_length: int | None = option("rewrite: most words (characters in Chinese); default: 150.", None, at_least=10)
    table: str | None = option("normalize: table with code and name; icd10cm: the package simple-icd-10-cm.", None)
    code_column: str | None = option("Column of --table with the codes.", None)
    name_column: str | None = option("Column of --table with the names.", None)
    by: Literal["model", "rules"] = option(
        "normalize: the model picks among the nearest entries; rules: no model, near matches only.", "model"
    )
    candidates: int = option("normalize: nearest entries that the model picks from.", 5, at_least=1, at_most=25)
    min_score: float = option(
        "normalize --by rules: similarity (0 to 1) from which an entry is a match.", 0.85, at_least=0, at_most=1
    )


@dataclass(frozen=True)
class TaskGenerationOptions(GenerationOptions):
    """How answers are sampled: by default the likeliest token, so that a text has one result."""

    temperature: float = option("0: always the likeliest token.", 0.0, at_least=0, at_most=2)
    top_p: float = option("Sample from the likeliest tokens of this total probability.", 1.0, above=0, at_most=1)
    top_k: int = option("Sample from this many likeliest tokens; 0: from all.", 0, at_least=0)
    max_new_tokens: int = option("Maximum length of an answer in tokens.", 1024, at_least=1)


@dataclass(frozen=True)
class ListModelsOptions(Options):
    """Which models are listed, and how."""

    search: str | None = option("Only models whose entry has this text (first word).", None)
    language: str | None = option("Only models of this language, as zh; of --field the language: en or zh.", None)
    licence: str | None = option(
        "Only this licence: id of the hub, SPDX id, or free: no terms, copyleft or clash.", None
    )
    size: str | None = option("Only models of at most so many parameters, as 8B.", None)
    kind: Literal["embedded", "adapter", "delta", "model"] | None = option("Only models of this kind.", None)
    field: bool = option(
        "The medical models, deployments, resources and lessons of the field, and what became of them.", default=False
    )
    json: bool = option("Print one JSON list instead of a table.", default=False)


@dataclass(frozen=True)
class ShowModelOptions(Options):
    """Which model is shown."""

    name: str = option("Name of the model, or one of its ids on a hub (first word).")
    json: bool = option("Print one JSON object instead of lines.", default=False)


@dataclass(frozen=True)
class PullModelOptions(Options):
    """Which model is fetched, and from where."""

    name: str = option("Name of the model, or an id of the hub (first word).")
    hub: Literal["huggingface", "modelscope"] = option("Which hub it is fetched from.", "huggingface")
    model_revision: str = option("Branch, tag or commit; default: that of the entry, else main.", "main")
    cache_dir: str | None = option("Where hub downloads are kept.", None)
    hf_auth_token: str | None = option("Token for gated hub models.", None)
    allow_pickle: bool = option("Fetch .bin weights, which can run code when read.", default=False)
    accept_licence: bool = option("Accept the terms of an embedded model that has any (gemma3-270m).", default=False)


@dataclass(frozen=True)
class VerifyModelOptions(Options):
    """What is verified, and who may have signed it."""

    name: str = option("Folder with SHA256SUMS, or name of a model that was fetched (first word).")
    public_key: str | None = option("File with the key that model.sig was made with (needs model-signing).", None)
    identity: str | None = option("Who has signed model.sig through Sigstore (needs model-signing).", None)
    identity_provider: str | None = option("Address of the OpenID provider that vouches for --identity.", None)


@dataclass(frozen=True)
class AddModelOptions(Options):
    """An entry of one's own for the list of models."""

    name: str = option("Name of the new entry (first word).")
    model: str = option("Folder of a model or an adapter, or an id of the hub.")
    about: str = option("What it is, in one sentence.", "")
    base: str | None = option("Base of an adapter; default: what its adapter_config.json says.", None)
    template: str | None = option("Chat format that it was trained with; default: what its run.json says.", None)
    licence: str | None = option("Licence: id of the hub (apache-2.0); default: what its README.md says.", None)
    languages: str | None = option("Languages, comma separated, as zh,en.", None, commas=True)
    overwrite: bool = option("Replace an entry of one's own of this name.", default=False)


@dataclass(frozen=True)
class AddKeyOptions(Options):
    """Whose key is made, and what it may do."""

    name: str = option("Whose key it is, as in ward3.")
    scopes: str = option("What it may do, comma separated: chat, knowledge, admin.", "chat", commas=True)
    requests_per_minute: int | None = option(
        "Most requests begun within any 60 seconds; default: no limit.", None, at_least=1, at_most=LIMIT
    )
    concurrent: int | None = option("Most requests at once; default: no limit.", None, at_least=1, at_most=LIMIT)
    tokens_per_day: int | None = option(
        "Most tokens of prompts and answers in a day (UTC); default: no limit.", None, at_least=1, at_most=10**15
    )
    days: int | None = option("Days until it ends; default: it does not.", None, at_least=1, at_most=36500)
    database: str | None = option(WHERE, None, names=DATABASE_ALIASES)

    @property
    def scope_names(self) -> tuple[str, ...]:
        """The scopes in the order given, each once."""
        return tuple(dict.fromkeys(split_commas(self.scopes)))

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < len(self.name) <= 200 or not self.name.isprintable():
            raise UserError("--name has to be 1 to 200 characters in one line")
        if not self.scope_names:
            raise UserError(f"--scopes is empty; name some of {', '.join(SCOPES)}")
        for scope in self.scope_names:
            lookup(SCOPES, scope, "scope")


@dataclass(frozen=True)
class ListKeysOptions(Options):
    """How the keys are listed."""

    json: bool = option("Print JSON instead of a table.", default=False)
    database: str | None = option(WHERE, None, names=DATABASE_ALIASES)


@dataclass(frozen=True)
class RevokeKeyOptions(Options):
    """Which key is ended."""

    id: str = option("The key's id, as `keys list` shows it (first word).")
    database: str | None = option(WHERE, None, names=DATABASE_ALIASES)


@dataclass(frozen=True)
class TokenizerOptions(Options):
    """Which texts are learned from, for which tokenizer, and where the tokens go."""

    names: list[str] = option("Datasets (dataset_info.json, catalogue) or files (first words).")
    model_name_or_path: str = option("Model whose tokenizer is extended.")
    output: str = option("File to write, one token a line; the account is OUTPUT.json.", "pieces.txt")
    pieces: int = option("Most tokens to add.", 1000, at_least=1)
    min_count: int = option("Uses in the texts below which a piece is not worth a token.", 5, at_least=1)
    longest: int = option("Most characters of a piece.", 8, at_least=2)
    max_characters: int = option("Learn from so many characters; what comes after is not read.", 10_000_000, at_least=1)
    dataset_dir: str = option("Folder with dataset_info.json.", "data")
    overwrite: bool = option("Replace the output if it is there.", default=False)


@dataclass(frozen=True)
class LlamaOptions(Options):
    """Where the original weights are, and where the model folder goes."""

    input_dir: str = option(
        "Folder of the download: tokenizer.model, and params.json with consolidated.*.pth in it or below."
    )
    output_dir: str = option("Folder to write.")
    model_size: str = option("Size as the download names it; f is for the chat models.", "7B", choices=MODEL_SIZES)
    llama_version: int | None = option(
        "1 (2,048 positions) or 2 (4,096); default: by size and params.json.", None, choices=(1, 2)
    )
    overwrite_output_dir: bool = option("Replace an older model in the output folder.", default=False)


EXPORT_OPTIONS = (ModelOptions, ExportOptions)
TASK_OPTIONS = (TaskOptions, ModelOptions, PromptOptions, TaskGenerationOptions, EngineOptions)
