"""The trainings of a model, from their run.json, or from the record that an export has of them.

    record = read_record(base)          # of a folder that was exported: its trainings and evaluations
    write_record(folder, record)

Licences of data are those of the catalogue of datasets where a run.json has none. No folder of this machine is in it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from carellama.data.catalogue.entries import entries
from carellama.errors import read_failure
from carellama.export.cards.results import Result, without_folders
from carellama.files import write_json
from carellama.records import JSONObject

log = logging.getLogger(__name__)

RECORD = "training_record.json"
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
class TrainingRecord:
    """What an exported folder says of its trainings, in order, and of the evaluations of these weights."""

    trainings: tuple[Training, ...] = ()
    results: tuple[Result, ...] = ()


def write_record(folder: Path, record: TrainingRecord) -> None:
    """Write training_record.json, which a later export of the folder reads; nothing where nothing is known."""
    from pydantic import TypeAdapter

    if record.trainings or record.results:
        write_json(folder / RECORD, TypeAdapter(TrainingRecord).dump_python(record, mode="json"))


def read_record(folder: Path) -> TrainingRecord:
    """Return the record of an exported folder; an empty one where there is none, or, with a warning, no valid one."""
    from pydantic import TypeAdapter, ValidationError

    path = folder / RECORD
    if not path.is_file():
        return TrainingRecord()
    try:
        return TypeAdapter(TrainingRecord).validate_json(path.read_bytes())
    except OSError as error:
        reason = read_failure(error)
    except ValidationError as error:
        reason = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:1])
    log.warning("the model card leaves out the trainings of %s: cannot read %s: %s", folder.name, path, reason)
    return TrainingRecord()


def texts(given: object) -> tuple[str, ...]:
    """A text, or those of a list; a line says what is none and is left out."""
    several = isinstance(given, (list, tuple))
    values: Sequence[object] = given if several else [given]  # type: ignore[assignment]
    if odd := [one for one in values if not isinstance(one, str) and one is not None]:
        log.warning("the model card leaves out %r, which is no text", odd[0])
    return tuple(one for one in values if isinstance(one, str) and one)


def training_of(record: JSONObject) -> Training:
    """Return a training by its run.json."""
    settings = record.get("settings", {})
    results = record.get("results", {})
    chosen = tuple(
        (name, _public(settings[group][name]))
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
        results=tuple((name, _public(value)) for name, value in results.items() if _plain(value)),
        seconds=_number(results.get("train_runtime")),
        flop=_number(results.get("total_flos")),
        base=without_folders(str(record.get("base_model") or "")),
        commit=str(record.get("git_commit") or "") or None,
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
    plain = {key: _public(value) for key, value in entry.items() if _plain(value) and key not in own}
    return DataFact(
        name=str(hub or Path(name).stem),
        hub=str(hub) if hub else None,
        languages=texts(entry.get("languages")),
        licence=str(entry["licence"]) if entry.get("licence") else _catalogued(name, hub),
        digest=str(entry.get("sha1") or entry.get("digest") or "") or None,  # its older name
        columns=plain,
    )


def _catalogued(name: str, hub: object) -> str | None:
    """The licence of a dataset of the catalogue, by its hub id or its name; None: it is not there, or not stated."""
    stem = re.split(r"[.:]", Path(name).name)[0]
    for entry in entries().values():
        if entry.name in (stem, name) or any(hub and host.repo == hub for host in entry.hosts):
            return entry.licence if entry.licence != "unstated" else None
    return None


def _public(value: object) -> object:
    return without_folders(value) if isinstance(value, str) else value


def _plain(value: object) -> bool:
    return isinstance(value, (str, int, float))


def _number(value: object) -> float | None:
    """A number, or a text that is one, as in settings that were written by hand."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
