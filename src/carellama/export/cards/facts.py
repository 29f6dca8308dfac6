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
from carellama.errors import UserError
from carellama.export.cards.licences import Clash, licence_clashes
from carellama.export.cards.notes import Note
from carellama.export.cards.results import Result, find_results
from carellama.export.cards.trainings import RECORD, DataFact, Training, TrainingRecord, read_record, texts, training_of
from carellama.export.parity.table import ParityTable
from carellama.model.card_head import card_head, stated_licence
from carellama.model.digests import read_digests
from carellama.records import JSONObject
from carellama.run_record import read_run
from carellama.stages import ModelKind

log = logging.getLogger(__name__)

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


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
    folders = [Path(name).expanduser() for name in model.checkpoints]
    record = _record(_exported_folder(model.model_name_or_path, base.place), folders)
    if relation is None and (record.trainings or folders):
        relation = "finetune"
    licences = {one.name: one.licence for training in record.trainings for one in training.data}
    clashes = licence_clashes(base.licence, licences, declared or base.licence)
    if base.base_licence:
        clashes += [one for one in licence_clashes(base.base_licence, {}, declared or base.licence) if one.licence]
    return CardFacts(
        base=base,
        kind=kind,
        relation=relation or base.relation,
        adapter=adapter,
        trainings=record.trainings,
        results=tuple(dict.fromkeys([*record.results, *find_results(folders, given_results)])),
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
    hubs = tuple(one for one in texts(of_hub) if HUB_ID.fullmatch(one))
    languages = entry.languages if entry else stated.get("language")
    licence = entry.licence if entry else stated_licence(stated)
    unpacked = isinstance(place, Path) and not Path(name).expanduser().is_dir()
    return BaseModel(
        name=Path(name).name if isinstance(place, Path) else name,
        place=place,
        hubs=hubs,
        licence=licence or None,
        languages=texts(languages),
        relation="quantized" if unpacked and (entry or not hubs) else None,  # a .gguf names what it was trained from
        licence_link="" if entry else "".join(texts(stated.get("license_link"))[:1]),
        unpacked=unpacked,
        base_licence=(entry.base_licence or None) if entry else None,
    )


def _record(base: Path | None, checkpoints: Sequence[Path]) -> TrainingRecord:
    """The trainings of a base and of the checkpoints on it; results are of these weights alone."""
    found = read_record(base) if base else TrainingRecord()
    for folder in checkpoints:
        if (exported := read_record(folder)).trainings:  # which has those of its base as well
            found = exported
        else:
            run = read_run(folder)
            found = TrainingRecord((*found.trainings, training_of(run)) if run else found.trainings)
    return found


def _exported_folder(name: str, place: Path | str) -> Path | None:
    """Where the record of an exported model would lie; that of a .gguf is beside it, where SHA256SUMS names both."""
    given = Path(name).expanduser()
    if not given.is_file():
        return given if given.is_dir() else place if isinstance(place, Path) else None
    try:
        return given.parent if {given.name, RECORD} <= read_digests(given.parent).keys() else None
    except UserError:
        return None


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
