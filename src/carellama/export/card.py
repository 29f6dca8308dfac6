"""The model card: what a model was made from and how, written from the run.json of its trainings.

It is made by `carellama export`; the front matter is what the Hugging Face hub reads.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import carellama
from carellama.config.model import ModelArguments
from carellama.run_record import run_records
from carellama.template import Template

PAPERS = re.compile(r"(licen[cs]e|notice|use_policy|.*terms)[^/]*", re.IGNORECASE)
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


def write_card(folder: Path, model: ModelArguments, template: Template, parity: str) -> None:
    """Write README.md of an exported model, and lay the licence texts of the base beside it.

    `parity` says how the written model compares with base and adapters.
    """
    from carellama.model.hub import EMBEDDED, model_folder

    name = model.model_name_or_path
    place = model_folder(name, accept_licence=model.accept_licence)
    licence = EMBEDDED[name].licence if name in EMBEDDED else _licence(place)
    papers = _copy_papers(place, folder)
    base = Path(name).name if isinstance(place, Path) else name
    front = [
        f"license: {licence or 'unknown'}",
        "library_name: transformers",
        "pipeline_tag: text-generation",
    ]
    if isinstance(place, str):
        front.append(f"base_model: {base}")
    ends = [*template.tokenizer.convert_ids_to_tokens(template.stop_ids), *template.stops]
    lines = [
        *("---", *front, "tags: [medical, carellama]", "---"),
        *(f"# {base}, fine-tuned with CareLlama", ""),
        "It informs and refers; it does not diagnose, and no answer replaces a doctor. "
        "Its answers can be wrong: do not use it for decisions about patients.",
        *("", "仅供学习研究，不能代替医生的诊断和治疗。", ""),
        f"- base: {base}",
        f"- licence of the base: {licence or 'unknown; look it up before passing this model on'}"
        + (f" ({', '.join(papers)})" if papers else ""),
        f"- chat format: {template.name}, in the tokenizer; "
        f"an answer ends with {' or '.join(f'`{end!r}`' for end in ends)}",
        f"- as written, against base and adapters: {parity}",
        f"- made by CareLlama {carellama.__version__}",
        "",
    ]
    records = run_records(model)
    if not records:
        lines += ["There is no record of its training (run.json).", ""]
    for number, record in enumerate(records, start=1):
        lines += [f"## Training {number}" if len(records) > 1 else "## Training", "", *_training(record)]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")


def _copy_papers(place: Path | str, folder: Path) -> list[str]:
    """Copy the licence texts of a base folder; return their names."""
    files = sorted(place.iterdir()) if isinstance(place, Path) else []
    papers = [file for file in files if file.is_file() and PAPERS.fullmatch(file.name)]
    for paper in papers:
        shutil.copy(paper, folder)
    return [paper.name for paper in papers]


def _licence(place: Path | str) -> str | None:
    """The licence that the base's own card states, if it can be read."""
    if isinstance(place, str):
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(place, "README.md")
        card = Path(found) if isinstance(found, str) else None
    else:
        card = place / "README.md"
    if card is None or not card.is_file():
        return None
    stated = re.search(r"^license:\s*(\S+)", card.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    return stated[1] if stated and stated[1] != "unknown" else None


def _training(record: Mapping[str, Any]) -> list[str]:
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
    stated = {"base": record.get("base_model"), "code": record.get("git_commit"), "libraries": versions}
    return [*lines, *(f"- {name}: {value}" for name, value in stated.items() if value), ""]


def _plain(value: Any) -> bool:
    return isinstance(value, (str, int, float))


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """A Markdown table."""
    cells = [[f"{cell:.6g}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    body = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in [list(header), *cells]]
    body.insert(1, ["---"] * len(header))
    return [*("| " + " | ".join(row) + " |" for row in body), ""]
