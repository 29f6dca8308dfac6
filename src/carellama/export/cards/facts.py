"""What is known of a model for its card, and nothing of this machine.

    facts = gather(model, folder, kind="causal", relation="finetune")

Base and licence come from the list of models or from the card beside the base, trainings from their run.json, figures
from the results beside them, licences of data from the catalogue of datasets.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from carellama.config.model import ModelOptions
from carellama.data.catalogue.entries import entries
from carellama.errors import UserError
from carellama.export.cards.licences import Clash, licence_clashes
from carellama.export.cards.notes import Note
from carellama.export.cards.results import Result, find_results, without_folders
from carellama.export.parity.table import ParityTable
from carellama.model.card_head import card_head, stated_licence
from carellama.records import JSONObject
from carellama.run_record import run_records
from carellama.stages import ModelKind

log = logging.getLogger(__name__)

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
SHOWN_SETTINGS = {
    "model": ("quantization_bit", "rope_scaling", "rope_factor", "dtype"),
    "data": (
        "template",
        "system_prompt",
        "cutoff_len",
        "max_source_length",
        "max_target_length",
        "packing",
        "val_size",
    ),
    "finetuning": (
        *("stage", "finetuning_type", "lora_rank", "lora_alpha", "lora_dropout", "lora_target"),
        *("peft_type", "use_rslora", "use_dora", "pissa_init", "loraplus_lr_ratio", "add_tokens"),
        *("num_layer_trainable", "name_module_trainable"),
    ),
    "training": (
        *("learning_rate", "lr_scheduler_type", "warmup_steps", "num_train_epochs", "max_steps"),
        *("per_device_train_batch_size", "gradient_accumulation_steps", "weight_decay", "bf16", "fp16", "seed"),
    ),
}


@dataclass(frozen=True)
class BaseModel:
    """What is known of the base."""

    name: str
    place: Path | str
    hubs: tuple[str, ...]  # ids of the hub; several where it was merged from them
    licence: str | None
    languages: tuple[str, ...]
    relation: str | None  # of the base as it is to `hubs`
    licence_link: str = ""  # of one that the hub has no id for
    unpacked: bool = False  # its weights were read from a .gguf
    base_licence: str | None = None  # of what the base was made from, where the list of models says so

    @property
    def hub(self) -> str | None:
        """The ids of the hub as a text."""
        return ", ".join(self.hubs) or None


@dataclass(frozen=True)
class DataFact:
    """One dataset of a training."""

    name: str
    hub: str | None  # id of the hub; None: files of one's own
    languages: tuple[str, ...]
    licence: str | None
    digest: str | None  # SHA-1 of its files
    columns: JSONObject  # all else that run.json has in plain values


@dataclass(frozen=True)
class Training:
    """One training, from its run.json."""

    stage: str
    method: str
    data: tuple[DataFact, ...]
    settings: tuple[tuple[str, object], ...]
    results: tuple[tuple[str, object], ...]
    seconds: float | None
    flop: float | None
    base: str
    commit: str | None
    versions: tuple[tuple[str, str], ...]
    machine: str


@dataclass(frozen=True)
class CardFacts:
    """All that a card is written from."""

    base: BaseModel
    kind: ModelKind
    relation: str | None  # of this model to its base, as the hub names it; None: the base itself
    adapter: bool
    trainings: tuple[Training, ...]
    results: tuple[Result, ...]
    clashes: tuple[Clash, ...]
    licence_files: tuple[str, ...] = ()
    template: str | None = None
    ends: tuple[str, ...] = ()  # texts that end an answer
    parity: ParityTable | str | None = None  # a line in place of a table
    notes: tuple[Note, ...] = field(default=())  # of the export: which adapters were merged how

    @property
    def data(self) -> list[DataFact]:
        """The datasets of all trainings, each once."""
        return list({one.name: one for training in self.trainings for one in training.data}.values())

    @property
    def languages(self) -> list[str]:
        """The languages of the data, then those of the base."""
        found = [*(one for data in self.data for one in data.languages), *self.base.languages]
        return list(dict.fromkeys(found))

    @property
    def title(self) -> str:
        """The name of the page."""
        return self.base.name


def gather(
    model: ModelOptions, *, kind: ModelKind, relation: str | None, adapter: bool = False,
    given_results: Sequence[Path] = (), declared: str | None = None, adapter_base: ModelOptions | None = None,
) -> CardFacts:  # fmt: skip
    """Return what is known of a model with its checkpoints. Raises `UserError` for results that cannot be read.

    `adapter_base`: the base of an adapter that was made from the model. What the model itself states comes first.
    """
    base = find_base(model)
    if adapter_base:
        base = _base_of_adapter(base, adapter_base)
    records = run_records(model)
    trainings = tuple(map(_training, records))
    if relation is None and (records or model.checkpoints):
        relation = "finetune"
    folders = [Path(name).expanduser() for name in model.checkpoints]
    licences = {one.name: one.licence for training in trainings for one in training.data}
    clashes = licence_clashes(base.licence, licences, declared or base.licence)
    if base.base_licence:
        clashes += [one for one in licence_clashes(base.base_licence, {}, declared or base.licence) if one.licence]
    return CardFacts(
        base=base,
        kind=kind,
        relation=relation or base.relation,
        adapter=adapter,
        trainings=trainings,
        results=tuple(find_results(folders, given_results)),
        clashes=tuple(dict.fromkeys(clashes)),
    )


def find_base(model: ModelOptions) -> BaseModel:
    """Return what the list of models, or the card beside the base, says of it."""
    from carellama.model.zoo.entries import find_entry
    from carellama.model.zoo.resolve import model_folder

    name = model.model_name_or_path
    place = model_folder(name, accept_licence=model.accept_licence)
    entry = find_entry(name)
    stated = _stated(place)
    of_hub = entry.hub if entry else place if isinstance(place, str) else stated.get("base_model")
    hubs = tuple(one for one in _texts(of_hub) if HUB_ID.fullmatch(one))
    languages = entry.languages if entry else stated.get("language")
    licence = entry.licence if entry else stated_licence(stated)
    unpacked = isinstance(place, Path) and not Path(name).expanduser().is_dir()
    return BaseModel(
        name=Path(name).name if isinstance(place, Path) else name,
        place=place,
        hubs=hubs,
        licence=licence or None,
        languages=_texts(languages),
        relation="quantized" if unpacked and (entry or not hubs) else None,  # a .gguf names what it was trained from
        licence_link="" if entry else "".join(_texts(stated.get("license_link"))[:1]),
        unpacked=unpacked,
        base_licence=(entry.base_licence or None) if entry else None,
    )


def name_of_base(base: ModelOptions) -> str:
    """The name that an adapter gives its base: the id of a released model, else what was given, without folders."""
    from carellama.model.zoo.entries import find_entry

    known = find_base(base)  # whose card names what it was made from, which is another model
    return (known.hub if find_entry(base.model_name_or_path) else None) or known.name


def _base_of_adapter(made_from: BaseModel, base: ModelOptions) -> BaseModel:
    """The base, under the licence of the model that the adapter was made from, where that states one."""
    known, name = find_base(base), name_of_base(base)
    hubs = (name,) if HUB_ID.fullmatch(name) else ()
    known = replace(known, name=name, hubs=hubs, languages=made_from.languages or known.languages)
    if made_from.licence is None:
        return known
    link, own = made_from.licence_link, made_from.licence
    return replace(known, place=made_from.place, licence=own, licence_link=link, base_licence=known.licence)


def _texts(given: object) -> tuple[str, ...]:
    """A text, or those of a list; a line says what is none and is left out."""
    several = isinstance(given, (list, tuple))
    values: Sequence[object] = given if several else [given]  # type: ignore[assignment]
    if odd := [one for one in values if not isinstance(one, str) and one is not None]:
        log.warning("the model card leaves out %r, which is no text", odd[0])
    return tuple(one for one in values if isinstance(one, str) and one)


def _stated(place: Path | str) -> JSONObject:
    """Return the head of the base's own card; nothing, and a line that says so, where it cannot be read."""
    if isinstance(place, str):
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(place, "README.md")
        if not isinstance(cached, str):
            return {}
        place = Path(cached).parent
    try:
        return card_head(place)
    except UserError as error:
        log.warning("licence and languages of the base are not known: %s", error)
        return {}


def _training(record: JSONObject) -> Training:
    settings = record.get("settings", {})
    results = record.get("results", {})
    chosen = tuple(
        (name, settings[group][name])
        for group, names in SHOWN_SETTINGS.items()
        for name in names
        if settings.get(group, {}).get(name) not in (None, "", False) and _counts(name, settings)
    )
    finetuning = settings.get("finetuning", {})
    return Training(
        stage=str(record.get("stage") or finetuning.get("stage") or ""),
        method=str(finetuning.get("finetuning_type") or ""),
        data=tuple(_data(entry) for entry in record.get("data", []) if isinstance(entry, dict)),
        settings=chosen,
        results=tuple((name, value) for name, value in results.items() if _plain(value)),
        seconds=_number(results.get("train_runtime")),
        flop=_number(results.get("total_flos")),
        base=without_folders(str(record.get("base_model") or "")),
        commit=record.get("git_commit"),
        versions=tuple((name, str(version)) for name, version in record.get("versions", {}).items()),
        machine=str(record.get("machine") or ""),
    )


def _counts(name: str, settings: JSONObject) -> bool:
    """Whether a setting had an effect beside the others."""
    method = settings.get("finetuning", {}).get("finetuning_type")
    steps = (_number(settings.get("training", {}).get("max_steps")) or 0) > 0
    if name == "rope_factor":
        return bool(settings.get("model", {}).get("rope_scaling"))
    if method and name in ("num_layer_trainable", "name_module_trainable"):
        return bool(method == "freeze")
    if method and (name.startswith("lora_") or name == "peft_type"):
        return bool(method == "lora")
    return {"max_steps": steps, "num_train_epochs": not steps}.get(name, True)


def _data(entry: JSONObject) -> DataFact:
    hub, name = entry.get("hub"), str(entry.get("name", ""))
    own = ("name", "where", "hub", "licence", "sha1", "digest")  # which are of the local machine, or have a field here
    plain = {key: value for key, value in entry.items() if _plain(value) and key not in own}
    return DataFact(
        name=str(hub or Path(name).stem),
        hub=str(hub) if hub else None,
        languages=_texts(entry.get("languages")),
        licence=str(entry["licence"]) if entry.get("licence") else _catalogued(name, hub),
        digest=entry.get("sha1") or entry.get("digest"),  # its older name
        columns=plain,
    )


def _catalogued(name: str, hub: object) -> str | None:
    """The licence of a dataset of the catalogue, by its hub id or its name; None: it is not there, or not stated."""
    stem = re.split(r"[.:]", Path(name).name)[0]
    for entry in entries().values():
        if entry.name in (stem, name) or any(hub and host.repo == hub for host in entry.hosts):
            return entry.licence if entry.licence != "unstated" else None
    return None


def _plain(value: object) -> bool:
    return isinstance(value, (str, int, float))


def _number(value: object) -> float | None:
    """A number, or a text that is one, as in settings that were written by hand."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
