"""`carellama export`: a trained model in the forms that other programs read, each proved equal to what was trained.

    carellama export --model_name_or_path smollm2-135m --checkpoint_dir output --output_dir output_export --to hf,gguf

Base and adapters are asked first (`parity.trained`), merged and written (`merge`, `targets`), and each form is opened
again by a program of its own and compared (`parity`). Past a stated tolerance the export fails. The folder appears
under its name at the end, whole, with parity.json, a model card and SHA256SUMS.
"""

from __future__ import annotations

import gc
import re
import shlex
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from carellama.config.commands import EXPORT_OPTIONS, ExportOptions
from carellama.config.environment import check_hub
from carellama.config.model import ModelOptions
from carellama.config.options import split_commas
from carellama.config.reader import parse_given
from carellama.errors import UserError
from carellama.export.adapters import AdapterMerge, parse_weights
from carellama.export.card import write_card
from carellama.export.merge import Source, load
from carellama.export.parity.compare import compare, perplexity
from carellama.export.parity.readers import read
from carellama.export.parity.rewards import TrainedScores, compare_scores, measure_scores
from carellama.export.parity.table import ParityRow, ParityTable
from carellama.export.parity.tolerance import past_tolerance, tolerance_of
from carellama.export.parity.trained import SAFETY_TOKENS, Trained, measure
from carellama.export.push import parse_place, push
from carellama.export.targets import TARGETS, ExportContext, Form, base_of_lora, check_targets
from carellama.files import disk_full_message, is_disk_full, print_status, write_json
from carellama.hardware import physical_cores
from carellama.model.digests import write_digests
from carellama.model.paths import check_model, check_output, check_space, filled_folder
from carellama.model.quiet import QUICK_BYTES
from carellama.weights import is_adapter

# Bytes of a weight in a .gguf, those of its scales included (ggml-common.h), somewhat more than it takes.
BYTES = {"f16": 2.0, "q8_0": 1.1, "q6_K": 0.9, "q5_K_M": 0.8, "q4_K_M": 0.7, "q4_0": 0.65, "iq4_xs": 0.65}
BESIDE = {"lora-gguf": "f16", "gptq": "q4_0", "awq": "q4_0"}  # the base that it is compared on; weights in 4 bits
SLOW_WEIGHTS = 50_000_000  # from here on each step takes long enough to be announced at once
SLOW_SECONDS = 3.0  # after which a step of a smaller model is


def main(argv: Sequence[str]) -> None:
    """`carellama export` and `src/export_model.py`."""
    given = parse_given(EXPORT_OPTIONS, argv, "carellama export")
    model, options = given.groups
    options.check_given(given.asked)
    check_model(model)  # before a library is loaded
    folder = Path(options.output_dir).expanduser()
    table = export_model(model, options)
    print(f"exported to {folder}\n{table}")
    if options.push_to:
        print(push(folder, options.push_to, public=options.push_public, token=model.hf_auth_token))
    if table.perplexity is not None:  # a reward model does not answer
        for at, use in enumerate(_uses(folder, model, options)):
            print(f"{'  or' if at else 'next'}: {use}")


def _uses(folder: Path, model: ModelOptions, options: ExportOptions) -> list[str]:
    """Commands that use what was written."""
    name, kind, found = folder.resolve().name, options.gguf_types[0], []
    if "hf" in options.targets:
        found.append(f"carellama chat --model_name_or_path {shlex.quote(str(folder))}")
    if {"gguf", "ollama"} & {*options.targets}:
        file = shlex.quote(str(folder / f"{name}.{kind}.gguf"))
        found.append(f"carellama chat --model_name_or_path {file}")
    if "ollama" in options.targets:
        found.append(f"ollama create {shlex.quote(name.lower())} -f {shlex.quote(str(folder / 'Modelfile'))}")
    if "lora" in options.targets:
        base = shlex.quote(options.lora_base or model.model_name_or_path)
        found.append(f"carellama chat --model_name_or_path {base} --checkpoint_dir {shlex.quote(str(folder / 'lora'))}")
    if "openvino" in options.targets:
        place = shlex.quote(str(folder / "openvino"))
        found.append(f"carellama chat --model_name_or_path {place} --engine openvino")
    if "web" in options.targets:
        place = shlex.quote(str(folder / "web"))
        found.append(f"python -m http.server 8000 --directory {place}      # then open http://localhost:8000")
    return found


def export_model(model: ModelOptions, options: ExportOptions) -> ParityTable:
    """Write the model with its checkpoints merged to `output_dir`, in each form of `to`; return how they compare.

    The folder appears at once and whole. Raises `UserError` for a folder that is not empty (or, to be replaced, holds
    no export), for too little disk space, for what cannot be loaded, and for a form past its tolerance.
    """
    output = Path(options.output_dir).expanduser()
    read_from = [Path(name) for name in _read_names(model, options)]
    check_output(output, read_from, overwrite=options.overwrite_output_dir)
    size = re.fullmatch(r"(\d+(\.\d+)?)\s*[KMGT]i?B", options.max_shard_size, re.IGNORECASE)
    if not size or not float(size[1]):
        raise UserError(f"--max_shard_size {options.max_shard_size}: give a size like 5GB or 500MB")
    if options.push_to:
        parse_place(options.push_to)
        check_hub(model.hf_auth_token)
    merge = None
    if options.merge:
        weights = parse_weights(options.merge_weights)
        merge = AdapterMerge(options.merge, weights, options.merge_density, options.merge_seed)
        merge.weights_of(_adapters(model))
    elif options.merge_weights:
        raise UserError("--merge_weights needs --merge: linear, ties, dare_linear or dare_ties")
    source = load(model, options.template, merge)
    if source.kind == "reward" and (refused := [one for one in options.targets if one != "hf"]):
        raise UserError(
            f"--to {','.join(refused)}: this is a reward model, which gives scores and no answers; "
            "these programs read models that answer: leave --to at hf"
        )
    written, compared = _bytes_needed(source, options)
    check_space(
        output,
        written + compared,
        f"the export with its comparison ({compared / 1e9:.2f} GB) takes",
    )
    try:
        with filled_folder(output, overwrite=options.overwrite_output_dir) as made:
            scratch = made.parent / "scratch"
            scratch.mkdir()
            if written > QUICK_BYTES:
                print_status(f"writing up to {written / 1e9:.1f} GB to {output}")
            context = ExportContext(options, source, made, scratch, output.resolve().name)
            if source.note:
                context.notes.append(source.note)
            if merge:
                context.notes.append(merge.described(_adapters(model)))
            with _announced("checking that each form can be written", source):
                check_targets(context)
            table = _fill(context)
    except (OSError, UserError) as error:
        if is_disk_full(error):
            raise UserError(disk_full_message(error, output.parent)) from error
        if isinstance(error, UserError):
            raise
        raise UserError(f"cannot write {output}: {error}") from error
    return table


def _adapters(model: ModelOptions) -> list[Path]:
    """The adapters of `--checkpoint_dir`: all but the folder of a whole model."""
    places = [(Path(name), Path(name).expanduser()) for name in model.checkpoints]
    return [path for path, place in places if is_adapter(place) or not place.is_dir()]


def _read_names(model: ModelOptions, options: ExportOptions) -> list[str]:
    """All that an export may read, by the names that were given."""
    others = [options.lora_base or "", options.importance, *split_commas(options.results)]
    return [name for name in (model.model_name_or_path, *model.checkpoints, *others) if name]


def _fill(context: ExportContext) -> ParityTable:
    """Write everything into the folder: the forms, what their comparison says, the card, the digests."""
    source, options = context.source, context.options
    trained = _measure(source, context.scratch, safety=options.safety_parity)
    with _announced("merging and writing the model", source):
        context.merged  # noqa: B018 - written before the network, which takes the memory, is let go
    source.network = None  # type: ignore[assignment]
    gc.collect()
    forms = []
    for name in options.targets:
        with _announced(f"writing {name}", source):
            forms += TARGETS[name](context)
    rows = _rows(forms, trained, context)
    before = perplexity(trained) if isinstance(trained, Trained) else None
    tolerances = {
        row.form: tolerance_of(form.tolerance or row.form, source.stored) for form, row in zip(forms, rows, strict=True)
    }
    table = ParityTable(tuple(rows), tolerances, before)
    past = [
        f"{row.file}: {fault}"
        for row in rows
        for fault in past_tolerance(row, tolerances[row.form], before, experts=source.experts)
    ]
    if past:
        if not options.accept_parity_loss:
            rounded = all(row.ids_equal and row.end_tokens_equal for row in rows)
            other = "a form with more bits" if rounded else "another form (bits do not change a tokenizer)"
            raise UserError(
                f"what was written is not the model that was trained: {'; '.join(past)}. Nothing was kept; "
                f"choose {other}, or keep it as it is with --accept_parity_loss true"
            )
        table = replace(table, past=tuple(past))
    write_json(context.folder / "parity.json", table.as_json())
    write_card(
        context.folder,
        source.model,
        source.template,
        table,
        source.kind,
        relation="merge" if options.merge else None,
        notes=context.notes,
        results=[Path(name).expanduser() for name in split_commas(options.results)],
        chai=options.card == "chai",
        adapter_base=base_of_lora(context) if options.targets == ["lora"] else None,
    )
    write_digests(context.folder)
    return table


def _measure(source: Source, scratch: Path, *, safety: bool) -> Trained | TrainedScores:
    """Ask the trained model, in float32 where it is small enough."""
    if source.exact:
        source.network.float()
    asked = (source.network, source.tokenizer, source.template)
    if source.kind == "reward":
        return measure_scores(*asked, stored=source.stored, dtype=source.compared)
    cost = f", with 100 answers of {SAFETY_TOKENS} tokens each" if safety else ""
    place = scratch / "trained"
    place.mkdir()
    with _announced(f"asking the {'trained ' if source.model.checkpoints else ''}model: 2,000 tokens{cost}", source):
        return measure(*asked, place, stored=source.stored, dtype=source.compared, safety=safety)


@contextmanager
def _announced(what: str, source: Source) -> Iterator[None]:
    """Say what is done now, of a small model once it takes seconds, and at its end how long it took."""
    begin = time.monotonic()
    is_large = source.weights > SLOW_WEIGHTS
    later = threading.Timer(SLOW_SECONDS, print_status, [what])
    if is_large:
        print_status(what)
    else:
        later.start()
    try:
        yield
    finally:
        later.cancel()
        if later.is_alive():
            later.join()
    seconds = time.monotonic() - begin
    if is_large or seconds > SLOW_SECONDS:
        print_status(f"  done in {seconds:.0f} s")


def _rows(forms: Sequence[Form], trained: Trained | TrainedScores, context: ExportContext) -> list[ParityRow]:
    """A row for each form; forms of the same bytes are read once."""
    read_back = [form for form in forms if form.same_as is None]
    found = {}
    for number, form in enumerate(read_back, 1):
        with _announced(f"reading {form.name} back ({number} of {len(read_back)})", context.source):
            found[id(form)] = _compare(form, trained, context)
    rows = [found[id(form.same_as or form)] for form in forms]
    return [
        replace(row, form=form.name if form.same_as else row.form, file=form.file, weights=form.weights)
        for form, row in zip(forms, rows, strict=True)
    ]


def _compare(form: Form, trained: Trained | TrainedScores, context: ExportContext) -> ParityRow:
    """Read a form back, and compare it."""
    place = context.scratch / "reading"
    place.mkdir(exist_ok=True)
    code = context.source.model.trust_remote_code
    job = {**trained.job(trust_remote_code=code), "threads": physical_cores(), **form.job}
    reading = read(form.reader, job, place, what=f"{form.name} ({form.file})", python=form.python)
    if isinstance(trained, TrainedScores):
        return compare_scores(trained, reading)
    return compare(trained, reading, place, form=form.name, file=form.file, tensor_types=form.tensor_types)


def _bytes_needed(source: Source, options: ExportOptions) -> tuple[int, int]:
    """The disk space that the forms take at most while they are made, and that of the comparison beside them."""
    import torch

    folder = source.weights * getattr(torch, source.stored).itemsize * 1.02 + (64 << 20)
    files = sum(source.weights * BYTES[kind] for kind in options.gguf_types if options.writes_gguf)
    files *= 2 if "web" in options.targets else 1
    whole = source.weights * getattr(torch, source.stored).itemsize
    files += whole * (options.writes_gguf + ("openvino" in options.targets))  # what each .gguf is made from
    files += source.weights * sum(BYTES[kind] for target, kind in BESIDE.items() if target in options.targets)
    rows = 0 if source.kind == "reward" else source.network.config.get_text_config().vocab_size
    logits = 2 * 2100 * rows * 4  # before and after
    return int(folder + files), int(logits)
