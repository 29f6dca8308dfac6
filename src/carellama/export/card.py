"""The model card: what a model was made from and how, written from the run.json of its trainings.

`carellama export` and `carellama train` write it. The front matter is what the Hugging Face hub reads: licence, base,
relation to it, datasets, languages, task. No path of this machine is in it.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import carellama
from carellama.config.model import ModelOptions
from carellama.records import JSONObject
from carellama.run_record import run_records
from carellama.templates.template import Template

if TYPE_CHECKING:
    from carellama.stages import ModelKind

PAPERS = re.compile(r"(licen[cs]e|notice|use_policy|.*terms)[^/]*", re.IGNORECASE)
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
SHOWN_SETTINGS = {
    "model": ("quantization_bit", "rope_scaling", "rope_factor", "dtype"),
    "data": ("template", "system_prompt", "cutoff_len", "max_source_length", "max_target_length", "packing"),
    "finetuning": (
        *("stage", "finetuning_type", "lora_rank", "lora_alpha", "lora_dropout", "lora_target"),
        *("peft_type", "use_rslora", "use_dora", "pissa_init", "loraplus_lr_ratio", "add_tokens"),
        *("num_layer_trainable", "name_module_trainable"),
    ),
    "training": (
        *("learning_rate", "lr_scheduler_type", "warmup_steps", "num_train_epochs", "max_steps"),
        *(
            "per_device_train_batch_size",
            "gradient_accumulation_steps",
            "weight_decay",
            "bf16",
            "fp16",
            "seed",
        ),
    ),
}


def write_card(folder: Path, model: ModelOptions, template: Template, parity: str, kind: ModelKind) -> None:
    """Write README.md of an exported model, and copy the licence texts of the base beside it.

    `parity` says how the written model compares with base and adapters.
    """
    base = find_base(model)
    licences = _copy_papers(base.place, folder)
    records = run_records(model)
    trained = bool(records or model.checkpoints)
    front = front_matter(base, records, kind, relation="finetune" if trained else base.relation)
    ends = [*template.tokenizer.convert_ids_to_tokens(template.stop_ids), *template.stops]
    facts = [
        f"- chat format: {template.name}, in the tokenizer; "
        f"an answer ends with {' or '.join(f'`{end!r}`' for end in ends)}",
        f"- as written, against base and adapters: {parity}",
    ]
    lines = _page(
        f"{base.name}, {'fine-tuned' if trained else 'exported'} with CareLlama", front, base, licences, facts
    )
    (folder / "README.md").write_text("\n".join([*lines, *_trainings(records)]), encoding="utf-8")


def write_checkpoint_card(folder: Path, model: ModelOptions, kind: ModelKind) -> None:
    """Write README.md of the folder that a training has filled, from its run.json.

    It takes the place of the page that peft writes, which names a folder of this machine and leaves the rest open.
    """
    base = find_base(model)
    records = run_records(dataclasses.replace(model, checkpoint_dir=",".join([*model.checkpoints, str(folder)])))
    adapter = (folder / "adapter_config.json").is_file()
    front = front_matter(base, records, kind, relation="adapter" if adapter else "finetune")
    if adapter:
        front["library_name"] = "peft"
    lines = _page(f"{base.name}, {'adapter' if adapter else 'weights'} trained with CareLlama", front, base, [], [])
    (folder / "README.md").write_text("\n".join([*lines, *_trainings(records)]), encoding="utf-8")


@dataclass(frozen=True)
class BaseModel:
    """What is known of the base: enough for a card, and nothing of this machine."""

    name: str
    place: Path | str
    hub: str | None  # id of the hub
    licence: str | None
    languages: tuple[str, ...]
    relation: str | None  # of the base as it is to `hub`


def find_base(model: ModelOptions) -> BaseModel:
    """Return what the list of models, or the card beside the base, says of it."""
    from carellama.model.zoo.entries import find_entry
    from carellama.model.zoo.resolve import model_folder

    name = model.model_name_or_path
    place = model_folder(name, accept_licence=model.accept_licence)
    entry = find_entry(name)
    stated = _stated(place)
    hub = entry.hub if entry else place if isinstance(place, str) else stated.get("base_model")
    hub = hub[0] if isinstance(hub, list) and hub else hub
    languages = entry.languages if entry else stated.get("language") or ()
    licence = entry.licence if entry else stated.get("license")
    relation = "quantized" if isinstance(place, Path) and not Path(name).expanduser().is_dir() else None
    return BaseModel(
        name=Path(name).name if isinstance(place, Path) else name,
        place=place,
        hub=hub if isinstance(hub, str) and HUB_ID.fullmatch(hub) else None,
        licence=str(licence) if licence and licence != "unknown" else None,
        languages=(languages,) if isinstance(languages, str) else tuple(map(str, languages)),
        relation=relation,
    )


def front_matter(
    base: BaseModel, records: Sequence[JSONObject], kind: ModelKind, *, relation: str | None
) -> dict[str, object]:
    """Return the head of a card, which the hub reads: keys and values as its documentation has them."""
    data = [entry for record in records for entry in record.get("data", []) if isinstance(entry, dict)]
    names = [str(entry.get("hub") or Path(str(entry.get("name", ""))).stem) for entry in data]
    languages = [*(language for entry in data for language in entry.get("languages") or ()), *base.languages]
    settings = [record.get("settings", {}).get("finetuning", {}) for record in records]
    methods = [str(group[key]) for group in settings for key in ("stage", "finetuning_type") if group.get(key)]
    front: dict[str, object] = {
        "license": base.licence or "unknown",
        "base_model": base.hub,
        "base_model_relation": relation if base.hub else None,
        "datasets": list(dict.fromkeys(name for name in names if name)),
        "language": list(dict.fromkeys(languages)),
        "pipeline_tag": "text-classification" if kind == "reward" else "text-generation",
        "library_name": "transformers",
        "tags": list(
            dict.fromkeys(["medical", "carellama", *methods, *(["reward-model"] if kind == "reward" else [])])
        ),
    }
    return {key: value for key, value in front.items() if value}


def _page(
    title: str, front: Mapping[str, object], base: BaseModel, licences: Sequence[str], facts: Sequence[str]
) -> list[str]:
    """The lines of a card above its trainings."""
    import yaml

    head = yaml.safe_dump(dict(front), allow_unicode=True, sort_keys=False).strip()
    return [
        *("---", head, "---", f"# {title}", ""),
        "It informs and refers; it does not diagnose, and no answer replaces a doctor. "
        "Its answers can be wrong: do not use it for decisions about patients.",
        *("", "仅供学习研究，不能代替医生的诊断和治疗。", ""),
        f"- base: {base.hub or base.name}",
        *_weights_of(base),
        f"- licence of the base: {base.licence or 'unknown; look it up before you pass this model on'}"
        + (f" ({', '.join(licences)})" if licences else ""),
        *facts,
        f"- made by CareLlama {carellama.__version__}",
        "",
    ]


def _weights_of(base: BaseModel) -> list[str]:
    """The line on weights that were read from a .gguf file: mostly rounded, and so not those of the hub."""
    if base.relation != "quantized":
        return []
    other = f"; those of {base.hub} are close and not equal, and an adapter answers slightly otherwise on them"
    return [f"- weights of the base: read from a .gguf file, in which they may be rounded{other if base.hub else ''}"]


def _trainings(records: Sequence[JSONObject]) -> list[str]:
    """The lines of all trainings, in order."""
    if not records:
        return ["There is no record of its training (run.json).", ""]
    lines = list[str]()
    for number, record in enumerate(records, start=1):
        lines += [f"## Training {number}" if len(records) > 1 else "## Training", "", *_training(record)]
    return lines


def _copy_papers(place: Path | str, folder: Path) -> list[str]:
    """Copy the licence texts of a base folder; return their names."""
    files = sorted(place.iterdir()) if isinstance(place, Path) else []
    papers = [file for file in files if file.is_file() and PAPERS.fullmatch(file.name)]
    for paper in papers:
        shutil.copy(paper, folder)
    return [paper.name for paper in papers]


def _stated(place: Path | str) -> JSONObject:
    """Return the front matter of the base's own card, where it can be read; else nothing."""
    import yaml

    if isinstance(place, str):
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(place, "README.md")
        card = Path(cached) if isinstance(cached, str) else None
    else:
        card = place / "README.md"
    if card is None or not card.is_file():
        return {}
    text = card.read_text(encoding="utf-8", errors="replace")
    head = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", text, re.DOTALL)
    try:
        stated = yaml.safe_load(head[1]) if head else None
    except yaml.YAMLError:
        return {}
    return stated if isinstance(stated, dict) else {}


def _training(record: JSONObject) -> list[str]:
    """The lines of one training: data with digests and counts, settings, results."""
    lines = []
    data = [entry for entry in record.get("data", []) if isinstance(entry, dict)]
    if data:
        columns = list(dict.fromkeys(key for entry in data for key, value in entry.items() if _plain(value)))
        lines += _table(columns, [[entry.get(column, "") for column in columns] for entry in data])
    settings = record.get("settings", {})
    chosen = [
        (name, settings[group][name])
        for group, names in SHOWN_SETTINGS.items()
        for name in names
        if settings.get(group, {}).get(name) not in (None, "", False)
    ]
    lines += _table(["setting", "value"], chosen) if chosen else []
    results = [(name, value) for name, value in record.get("results", {}).items() if _plain(value)]
    lines += _table(["result", "value"], results) if results else []
    versions = ", ".join(f"{name} {version}" for name, version in record.get("versions", {}).items())
    stated = {
        "trained on": _without_folders(str(record.get("base_model") or "")),
        "code": record.get("git_commit"),
        "libraries": versions,
    }
    return [*lines, *(f"- {name}: {value}" for name, value in stated.items() if value), ""]


def _without_folders(text: str) -> str:
    """Return a text, or a list of paths, with the folders of this machine left out."""
    parts = text.split(", ")
    return ", ".join(Path(part).name if part.startswith(("/", "~", "./", "../")) else part for part in parts)


def _plain(value: object) -> bool:
    return isinstance(value, (str, int, float))


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """A Markdown table."""
    cells = [
        [f"{cell:.6g}" if isinstance(cell, float) else _without_folders(str(cell)) for cell in row] for row in rows
    ]
    body = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in [list(header), *cells]]
    body.insert(1, ["---"] * len(header))
    return [*("| " + " | ".join(row) + " |" for row in body), ""]
