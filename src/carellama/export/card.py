"""The model card: what a model was made from and how, written from the run.json of its trainings.

`carellama export` and `carellama train` write it: README.md in English with the head that the Hugging Face hub reads,
README_zh.md in Chinese, and on request the Applied Model Card of the Coalition for Health AI. `cards` has its parts.
No path of this machine is in it.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from carellama.config.model import ModelOptions
from carellama.export.cards.chai import write_chai
from carellama.export.cards.facts import CardFacts, find_base, gather
from carellama.export.cards.metadata import head
from carellama.export.cards.notes import Note, note
from carellama.export.cards.page import page
from carellama.export.cards.trainings import TrainingRecord, write_record
from carellama.export.parity.table import ParityTable
from carellama.templates.template import Template

if TYPE_CHECKING:
    from carellama.stages import ModelKind

PAPERS = re.compile(r"(licen[cs]e|notice|use_policy|.*terms)[^/]*", re.IGNORECASE)


def write_card(
    folder: Path, model: ModelOptions, template: Template, parity: ParityTable | str, kind: ModelKind, *,
    relation: str | None = None, notes: Sequence[Note] = (), results: Sequence[Path] = (), chai: bool = False,
    adapter_base: ModelOptions | None = None,
) -> CardFacts:  # fmt: skip
    """Write the card of an exported model in both languages, and copy the licence texts of the base beside it.

    `parity` says how the written forms compare with base and adapters. `relation` is that of the hub to the base,
    `notes` are lines on how it was made, `results` files of evaluations beside those of the trainings. With `chai` the
    card of the Coalition for Health AI is written as well. `adapter_base`: what was written is an adapter alone, for
    this base. Raises `UserError` for results that cannot be read.
    """
    relation = "adapter" if adapter_base else relation
    facts = gather(
        model, kind=kind, relation=relation, adapter=adapter_base is not None, given_results=results,
        adapter_base=adapter_base,
    )  # fmt: skip
    if adapter_base and adapter_base.model_name_or_path != model.model_name_or_path:
        made_from = find_base(model)
        known = {"licence": made_from.licence} if made_from.licence else {}
        notes = [*notes, note("made_from" if known else "made_from_unknown", name=made_from.name, **known)]
    ends = [*template.tokenizer.convert_ids_to_tokens(template.stop_ids), *template.stops]
    facts = dataclasses.replace(
        facts,
        licence_files=tuple(_copy_papers(facts.base.place, folder)),
        template=template.name,
        ends=tuple(map(str, ends)),
        parity=parity,
        notes=tuple(notes),
    )
    _write(folder / "README.md", facts, "en")
    _write(folder / "README_zh.md", facts, "zh")
    record = TrainingRecord(facts.trainings, facts.results)
    for place in (folder, folder / "lora"):  # which is used without what lies beside it
        if place.is_dir():
            write_record(place, record)
    if chai:
        write_chai(folder, facts)
    return facts


def write_checkpoint_card(folder: Path, model: ModelOptions, kind: ModelKind) -> None:
    """Write README.md of the folder that a training has filled, from its run.json.

    It takes the place of the page that peft writes, which names a folder of this machine and leaves the rest open.
    """
    trained = dataclasses.replace(model, checkpoint_dir=",".join([*model.checkpoints, str(folder)]))
    adapter = (folder / "adapter_config.json").is_file()
    facts = gather(trained, kind=kind, relation="adapter" if adapter else "finetune", adapter=adapter)
    _write(folder / "README.md", facts, "en")


def _write(path: Path, facts: CardFacts, language: str) -> None:
    front = yaml.safe_dump(head(facts), allow_unicode=True, sort_keys=False).strip()
    path.write_text(f"---\n{front}\n---\n{page(facts, language)}", encoding="utf-8")


def _copy_papers(place: Path | str, folder: Path) -> list[str]:
    """Copy the licence texts of a base folder; return their names."""
    files = sorted(place.iterdir()) if isinstance(place, Path) else []
    papers = [file for file in files if file.is_file() and PAPERS.fullmatch(file.name)]
    for paper in papers:
        shutil.copy(paper, folder)
    return [paper.name for paper in papers]
