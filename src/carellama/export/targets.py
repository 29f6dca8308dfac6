"""What `--to` names: each target is a function that writes its form, and says how it is read back.

    for name in options.targets:
        forms += TARGETS[name](context)

A form is one thing that somebody may open: the folder, a .gguf, the folder of OpenVINO.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from carellama.config.commands import WITH_IMPORTANCE, ExportOptions
from carellama.config.model import ModelOptions
from carellama.config.options import split_commas
from carellama.errors import UserError
from carellama.export.cards.facts import gather
from carellama.export.cards.metadata import head
from carellama.export.cards.notes import Note, note
from carellama.export.merge import Source, write_folder
from carellama.files import print_status
from carellama.model.gguf.converter import NotConvertible

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from carellama.model.gguf.importance import Importance

ABOUT = ("license", "license_name", "license_link", "base_model", "datasets", "language")
FOLDER_READER, GGUF_READER = "read_folder.py", "read_gguf.py"


@dataclass(frozen=True)
class Form:
    """One written form, and the program that reads it back."""

    name: str  # hf, f16, q4_K_M, ...: by which its tolerance is known
    file: str  # in the export; "." for the folder itself
    reader: str  # a program of export/parity
    job: Mapping[str, object]  # what it is told beside the questions
    python: Path | None = None  # the interpreter of another environment
    tensor_types: Mapping[str, int] = field(default_factory=dict)
    weights: str = ""  # their number type, where its name does not say it
    same_as: Form | None = None  # whose bytes it has, so that it is not read again
    tolerance: str = ""  # by which it is known, where it is not its name


@dataclass
class ExportContext:
    """An export while it is made."""

    options: ExportOptions
    source: Source
    folder: Path  # which appears under its name at the end
    scratch: Path  # beside it; gone at the end
    name: str  # of the files
    notes: list[Note] = field(default_factory=list)  # for the card: how it was made

    importance: Importance | None = None

    def add_note(self, line: Note) -> None:
        """Print a line that the card has as well."""
        print_status(str(line))
        self.notes.append(line)

    @cached_property
    def merged(self) -> Path:
        """The Hugging Face folder, written when first asked for: the export itself, or a temporary one."""
        place = self.folder if "hf" in self.options.targets else self.scratch / "merged"
        place.mkdir(exist_ok=True)
        network = write_folder(self.source, place, self.options.max_shard_size)
        if self.options.writes_gguf and {*self.options.gguf_types} & {*WITH_IMPORTANCE}:
            self.importance = _importance(self.options.importance, network, self.source)
            self.add_note(_importance_note(self.options))
        return place

    @property
    def _about(self) -> dict[str, object]:
        """What a .gguf says of itself: its name, and what the card has of licence, base, data and languages."""
        front = head(gather(self.source.model, kind=self.source.kind, relation=None))
        return {"name": self.name} | {key: front[key] for key in ABOUT if key in front}

    @cached_property
    def gguf_files(self) -> list[Form]:
        """The .gguf files of `--gguf_type`, written when first asked for; temporary where none is asked for."""
        from carellama.model.gguf.write import convert_folder

        is_exported = {"gguf", "ollama"} & {*self.options.targets}
        place, merged = self.folder if is_exported else self.scratch, self.merged
        files = {kind: place / f"{self.name}.{kind}.gguf" for kind in self.options.gguf_types}
        pre = self.options.gguf_pre
        what = self.source.model.model_name_or_path
        types = convert_folder(merged, files, importance=self.importance, what=what, pre=pre, about=self._about)
        if pre:
            self.notes.append(note("gguf_pre", pre=pre))
        return [
            Form(kind, file.name, GGUF_READER, {"file": str(file)}, tensor_types=types[kind])
            for kind, file in files.items()
        ]


def check_targets(context: ExportContext) -> None:
    """Refuse what can be refused before the trained model is asked, which takes minutes, or hours for a large one.

    Raises `UserError` as the targets do.
    """
    from carellama.export.cards.results import find_results
    from carellama.export.environments import tool_environment
    from carellama.export.web.chat import chat_data
    from carellama.model.gguf.importance import load_importance
    from carellama.model.gguf.write import base_folder, check_convertible
    from carellama.model.tokenizer import tokenizer_checkpoint
    from carellama.safety.notices import known_country

    options, source, model = context.options, context.source, context.source.model
    find_results((), [Path(name).expanduser() for name in split_commas(options.results)])
    if options.writes_gguf and options.importance not in ("auto", "none"):
        load_importance(Path(options.importance).expanduser())
    if "lora" in options.targets:
        _check_lora_base(context)
    if "lora-gguf" in options.targets:
        _adapter_gguf(model)
    if "ollama" in options.targets:
        _modelfile(context, context.scratch / "Modelfile", "model.gguf")
    if "web" in options.targets:
        known_country(options.country or "US")
        chat_data(source.template, options.system)
    writes_any = options.writes_gguf or "lora-gguf" in options.targets
    if writes_any and tokenizer_checkpoint(model) is None:  # else the tokenizer is not the base's
        what, place = model.model_name_or_path, context.scratch / "vocabulary.gguf"
        try:
            check_convertible(base_folder(model), place, what, pickles=model.allow_pickle, pre=options.gguf_pre)
        except NotConvertible as error:
            of_gguf = [name for name in options.targets if name in ("gguf", "lora-gguf", "ollama", "web")]
            raise NotConvertible(f"{error}. Other forms can be written: --to without {','.join(of_gguf)}") from error
    for target, name in (("openvino", "openvino"), ("gptq", "auto-round"), ("awq", "auto-round")):
        if target in options.targets:
            tool_environment(name)


def _hf(context: ExportContext) -> list[Form]:
    return [Form("hf", ".", FOLDER_READER, {"folder": str(context.merged)}, weights=context.source.stored)]


def _gguf(context: ExportContext) -> list[Form]:
    return context.gguf_files


def _importance(wanted: str, network: PreTrainedModel, source: Source) -> Importance | None:
    """How much each column of the matrices matters: measured, read from a file, or not used."""
    from carellama.model.gguf.importance import load_importance
    from carellama.model.gguf.measure import measure_importance, medical_texts

    if wanted == "none":
        return None
    if wanted != "auto":
        return load_importance(Path(wanted).expanduser())
    return measure_importance(network, source.tokenizer, medical_texts())


def _importance_note(options: ExportOptions) -> Note:
    """Which importance matrix the number formats that take one were rounded by."""
    types = ", ".join(kind for kind in options.gguf_types if kind in WITH_IMPORTANCE)
    kind = options.importance if options.importance in ("auto", "none") else "file"
    return note(f"importance_{kind}", types=types, file=Path(options.importance).name)


def _ollama(context: ExportContext) -> list[Form]:
    """Write a .gguf and the Modelfile that Ollama reads; of several formats the first is the one it names."""
    forms = context.gguf_files
    _modelfile(context, context.folder / "Modelfile", forms[0].file)
    return [] if "gguf" in context.options.targets else forms


def _modelfile(context: ExportContext, target: Path, gguf_name: str) -> None:
    from carellama.export.modelfile import write_modelfile

    options, source = context.options, context.source
    num_ctx = min(options.context_tokens, source.positions or options.context_tokens)
    write_modelfile(target, gguf_name, source.template, system=options.system, num_ctx=num_ctx)


def _web(context: ExportContext) -> list[Form]:
    """Write the folder `web`: a page that answers without a network, with the smallest .gguf in pieces."""
    from carellama.export.web.write import write_web
    from carellama.safety.notices import DEFAULT_COUNTRY

    options, target = context.options, context.folder / "web"
    one = min(context.gguf_files, key=lambda form: Path(str(form.job["file"])).stat().st_size)
    write_web(
        target,
        Path(str(one.job["file"])),
        context.source.template,
        name=context.name,
        language=options.language,
        country=options.country or DEFAULT_COUNTRY[options.language],
        system=options.system,
        context_tokens=options.context_tokens,
    )
    _check_pieces(target)
    known = one if {"gguf", "ollama"} & {*options.targets} else None
    return [replace(one, name="web", file="web", same_as=known, tolerance=one.name, weights=one.name)]


def _check_pieces(folder: Path) -> None:
    """Raise `UserError` unless the pieces of a page's model are the .gguf that they were cut from."""
    model = json.loads((folder / "carellama.json").read_text(encoding="utf-8"))["model"]
    whole = hashlib.sha256()
    for piece in model["pieces"]:
        whole.update((folder / piece["file"]).read_bytes())
    if whole.hexdigest() != model["digest"]:
        raise UserError("the pieces of the model in the folder web are not the .gguf that was written: is a disk bad?")


def _openvino(context: ExportContext) -> list[Form]:
    """Write the folder `openvino` with optimum-intel, which is installed in an environment of its own."""
    from carellama.export.environments import run_tool, tool_environment

    target = context.folder / "openvino"
    given = {"folder": str(context.merged), "target": str(target)}
    run_tool("openvino", Path(__file__).with_name("write_openvino.py"), given)
    job = {"folder": str(target), "reader": "openvino"}
    return [Form("openvino", "openvino", FOLDER_READER, job, tool_environment("openvino"))]


def _lora_gguf(context: ExportContext) -> list[Form]:
    """Write the adapter as a .gguf that llama.cpp puts on its base; it is read back on a base in 16 bits."""
    from carellama.model.gguf.write import base_folder, convert_folder

    model = context.source.model
    file, base = context.folder / f"{context.name}-lora.gguf", context.scratch / "base.f16.gguf"
    shutil.copyfile(_adapter_gguf(model), file)
    convert_folder(base_folder(model), {"f16": base}, pickles=model.allow_pickle, pre=context.options.gguf_pre)
    job = {"file": str(base), "adapter": str(file), "template": context.source.template.jinja}
    return [Form("lora-gguf", file.name, GGUF_READER, job)]


def _adapter_gguf(model: ModelOptions) -> Path:
    """The one adapter of a model as a .gguf of the cache."""
    from carellama.model.gguf.write import lora_gguf_of

    if not model.checkpoints:
        raise UserError("--to lora-gguf writes an adapter: give one as --checkpoint_dir, or take --to gguf")
    if len(model.checkpoints) > 1:
        raise UserError(
            f"--to lora-gguf writes one adapter, and --checkpoint_dir names {len(model.checkpoints)}: "
            "name one, or take --to gguf, which merges them"
        )
    return lora_gguf_of(model, Path(model.checkpoints[0]))


def _lora(context: ExportContext) -> list[Form]:
    """Write the folder `lora`: the difference to a base as an adapter of peft."""
    from carellama.export.lora import write_lora

    target = context.folder / "lora"
    found, base = write_lora(
        context.merged, target, base_of_lora(context), rank=context.options.lora_rank, dtype=context.source.stored
    )
    context.add_note(found.note)
    return [Form("lora", "lora", FOLDER_READER, {"folder": str(base), "adapter": str(target)}, weights="float32")]


def base_of_lora(context: ExportContext) -> ModelOptions:
    """The model that `--to lora` writes an adapter for, as it is without options of its use."""
    model, named = context.source.model, context.options.lora_base
    if not named and not model.checkpoints:
        raise UserError("--to lora: --lora_base is missing: name the model that the adapter is for")
    return replace(model, model_name_or_path=named or model.model_name_or_path, checkpoint_dir=None, rope_scaling=None)


def _check_lora_base(context: ExportContext) -> None:
    """Refuse a base of `--to lora` that is not there, or that computes otherwise."""
    from carellama.export.lora import check_base

    base = base_of_lora(context)
    try:
        check_base(context.source.network.config, base)
    except UserError as error:
        named = base.model_name_or_path
        missing = str(error).removeprefix(f"--model_name_or_path {named}: ")
        raise UserError(f"--lora_base {named}: {missing}" if missing != str(error) else str(error)) from error


def _gptq(context: ExportContext) -> list[Form]:
    """Write the folder `gptq`, and read it back by transformers with the layers of AutoRound."""
    from carellama.export.environments import tool_environment

    target = _rounded(context, "gptq", "auto_gptq")
    job = {"folder": str(target), "reader": "auto-round"}
    return [Form("gptq", "gptq", FOLDER_READER, job, tool_environment("auto-round"))]


def _awq(context: ExportContext) -> list[Form]:
    """Write the folder `awq`, which no program here reads back: it is said, and nothing is claimed of it."""
    _rounded(context, "awq", "auto_awq")
    context.add_note(note("awq"))
    return []


def _rounded(context: ExportContext, name: str, form: str) -> Path:
    """Write a folder in 4 bits with AutoRound, which is installed in an environment of its own."""
    from carellama.export.environments import run_tool
    from carellama.export.rounding import calibration_windows, group_size

    target = context.folder / name
    windows, size = calibration_windows(context.source.tokenizer), group_size(context.merged)
    given = {
        "folder": str(context.merged),
        "target": str(target),
        "format": form,
        "dtype": context.source.stored,
        "windows": windows,
        "group_size": size,
    }
    done = run_tool("auto-round", Path(__file__).with_name("write_gptq.py"), given)
    types = ", ".join(f"{kind} × {count}" for kind, count in done["types"].items())
    context.notes.append(note("rounded", name=name, types=types, size=size, steps=done["steps"], windows=len(windows)))
    return target


TARGETS: Mapping[str, Callable[[ExportContext], list[Form]]] = {
    "hf": _hf,
    "gguf": _gguf,
    "gptq": _gptq,
    "awq": _awq,
    "lora": _lora,
    "lora-gguf": _lora_gguf,
    "ollama": _ollama,
    "openvino": _openvino,
    "web": _web,
}
