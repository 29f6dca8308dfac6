"""A trained model as one folder that every other program reads, with an account of how it was made.

    carellama export --model_name_or_path smollm2-135m --checkpoint_dir output --output_dir output_export

Adapters are merged; weights are written as safetensors, the chat format into the tokenizer, the tokens that end an
answer into the generation config, and a model card from run.json. What was written is then read back and must
answer as the adapters did. Conversion to GGUF is `carellama.gguf`.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import carellama
from carellama.config import EXPORT_GROUPS, FinetuningArguments, ModelArguments, parse, parser
from carellama.errors import UserError
from carellama.records import Message
from carellama.template import Template, get_template

log = logging.getLogger(__name__)

PROBE = (Message("user", "What are the early signs of diabetes? 糖尿病早期有哪些症状？"),)
PROBE_TOKENS = 32  # of an answer, on which both models are compared
EXACT_WEIGHTS = 2_000_000_000  # up to this size the comparison is made in float32
PAPERS = re.compile(r"(licen[cs]e|notice|use_policy|.*terms)[^/]*", re.IGNORECASE)
SHOWN_SETTINGS = {
    "model": ("quantization_bit", "rope_scaling", "rope_factor", "dtype"),
    "data": ("template", "system_prompt", "cutoff_len", "max_source_length", "max_target_length", "packing"),
    "finetuning": (
        *("stage", "finetuning_type", "lora_rank", "lora_alpha", "lora_dropout", "lora_target"),
        *("use_rslora", "use_dora", "num_layer_trainable", "name_module_trainable"),
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


@dataclass(frozen=True)
class Parity:
    """How the written model differs from base and adapters on the probe."""

    difference: float  # largest between two logits
    agreement: float  # share of the answer's tokens that both would choose
    dtype: str  # that both were computed in

    def __str__(self) -> str:
        return (
            f"largest difference of logits {self.difference:.2g} (computed in {self.dtype}), "
            f"same choice for {self.agreement:.0%} of {PROBE_TOKENS} tokens"
        )


def run(argv: Sequence[str]) -> None:
    """`carellama export` and `src/export_model.py`."""
    if "--help" in argv or "-h" in argv:
        parser(EXPORT_GROUPS, "carellama export").print_help()
        return
    model, data, finetuning, where = parse(EXPORT_GROUPS, argv, "carellama export")
    folder = Path(where.output_dir).expanduser()
    parity = export(
        model,
        data.template,
        finetuning,
        folder,
        max_shard_size=where.max_shard_size,
        overwrite=where.overwrite_output_dir,
    )
    print(f"exported to {folder}: {parity}")


def export(
    model: ModelArguments,
    template_name: str | None,
    finetuning: FinetuningArguments,
    output_dir: Path,
    *,
    max_shard_size: str = "5GB",
    overwrite: bool = False,
) -> Parity:
    """Write the model with its checkpoints merged to `output_dir`, which appears at once and whole.

    A base that was trained on quantised is taken unquantised. Raises `UserError` for a folder that is not empty
    (or, with `overwrite`, holds no model), for too little disk space, and for what can not be loaded.
    """
    from carellama.model.adapter import merge, prepare
    from carellama.model.load import bind, load_config, load_model, load_tokenizer

    _check_target(output_dir, model, overwrite)
    if not re.fullmatch(r"\d+(\.\d+)?\s*[KMGT]i?B", max_shard_size, re.IGNORECASE):
        raise UserError(f"--max_shard_size {max_shard_size}: give a size like 5GB or 500MB")
    if model.quantization_bit:
        log.info("export takes the base unquantised: adapters can not be merged into quantised weights")
        model = replace(model, quantization_bit=None)
    dtype = model.dtype if model.dtype != "auto" else _stored_dtype(load_config(model))
    tokenizer = load_tokenizer(model)
    template = get_template(template_name, tokenizer)
    base = load_model(model, dtype=dtype, attention=None)
    bind(base, tokenizer)
    adapted = prepare(base, model, finetuning, trainable=False)
    _check_space(base, output_dir, dtype)
    exact = base.num_parameters() <= EXACT_WEIGHTS
    if exact:
        adapted.float()
    probe = template.render(PROBE, add_generation_prompt=True)
    ids, expected = _answer(adapted, tokenizer, probe)
    merged = merge(adapted).to(_torch_dtype(dtype))
    try:
        output_dir.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{output_dir.name}.", dir=output_dir.parent) as temporary:
            made = Path(temporary) / "model"
            _save(merged, tokenizer, template, made, max_shard_size)
            del base, adapted, merged
            compared = "float32" if exact else dtype
            parity = _compare(made, template, ids, expected, compared, model)
            _write_card(made, model, template, parity)
            _put(made, output_dir, Path(temporary))
    except OSError as error:
        raise UserError(f"can not write {output_dir}: {error}") from error
    return parity


def _stored_dtype(config: Any) -> str:
    """The precision that the base is stored in; none stated: float32."""
    return str(config.dtype or "float32").removeprefix("torch.")


def _torch_dtype(name: str) -> Any:
    import torch

    return getattr(torch, name)


def _check_target(folder: Path, model: ModelArguments, overwrite: bool) -> None:
    """Refuse to write over anything but, if told so, an older model that nothing here is read from."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output_dir {folder} is a file")
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not overwrite:
        raise UserError(
            f"--output_dir {folder} is not empty; give another folder, or --overwrite_output_dir true to replace it"
        )
    target = folder.resolve()
    for source in (model.model_name_or_path, *model.checkpoints):
        path = Path(source).expanduser().resolve()
        if path.exists() and (path == target or target in path.parents):
            raise UserError(
                f"--output_dir {folder} holds {source}, which the export reads: give another folder"
            )
    if not (folder / "config.json").is_file():
        raise UserError(
            f"--output_dir {folder} holds no model (config.json), so it is not replaced; give another"
        )


def _check_space(network: Any, output_dir: Path, dtype: str) -> None:
    """Refuse when the disk has less space than the weights take."""
    needed = int(network.num_parameters() * _torch_dtype(dtype).itemsize * 1.02) + (64 << 20)
    place = next(parent for parent in output_dir.absolute().parents if parent.exists())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise UserError(
            f"the model takes {needed / 1e9:.2f} GB, and the disk of {output_dir} has {free / 1e9:.2f} GB free"
        )


def _answer(network: Any, tokenizer: Any, probe: str) -> tuple[Any, Any]:
    """Answer the probe greedily; return ids (1, P + A) and the logits (A, V) that each answer token came from."""
    import torch

    ids = tokenizer(probe, add_special_tokens=False, return_tensors="pt")["input_ids"].to(network.device)
    prompt_tokens = ids.shape[1]
    with torch.no_grad():
        for _ in range(PROBE_TOKENS):
            following = network(input_ids=ids, logits_to_keep=1).logits[:, -1].argmax(-1, keepdim=True)
            ids = torch.cat([ids, following], dim=1)
    return ids, _logits(network, ids, prompt_tokens)


def _logits(network: Any, ids: Any, prompt_tokens: int) -> Any:
    """The logits (A, V), in float32, of the tokens after the prompt."""
    import torch

    with torch.no_grad():
        logits = network(input_ids=ids).logits[0, prompt_tokens - 1 : -1]
    return logits.float().cpu()


def _save(network: Any, tokenizer: Any, template: Template, folder: Path, max_shard_size: str) -> None:
    """Write weights, tokenizer with the chat format, and the tokens that end an answer."""
    from safetensors import SafetensorError

    network.generation_config.bos_token_id = tokenizer.bos_token_id
    network.generation_config.eos_token_id = template.stop_ids
    network.generation_config.pad_token_id = tokenizer.pad_token_id
    network.config.use_cache = True
    tokenizer.chat_template = template.jinja
    try:
        network.save_pretrained(folder, max_shard_size=max_shard_size)
    except SafetensorError as error:
        raise UserError(f"can not write the weights: {error}") from error
    tokenizer.save_pretrained(folder)


def _compare(
    folder: Path, template: Template, ids: Any, expected: Any, dtype: str, model: ModelArguments
) -> Parity:
    """Read the written folder and compare its answers, and its rendering of the probe, with the expected."""
    from carellama.model.load import load_model, load_tokenizer

    written = ModelArguments(model_name_or_path=str(folder), trust_remote_code=model.trust_remote_code)
    tokenizer = load_tokenizer(written)
    probe = [{"role": message.role, "content": message.content} for message in PROBE]
    rendered = tokenizer.apply_chat_template(probe, tokenize=False, add_generation_prompt=True)
    assert rendered == template.render(PROBE, add_generation_prompt=True), "the chat template changed"
    prompt = tokenizer(rendered, add_special_tokens=False)["input_ids"]
    assert prompt == ids[0, : len(prompt)].tolist(), "the tokenizer changed"
    network = load_model(written, dtype=dtype, attention=None)
    found = _logits(network, ids, len(prompt))
    parity = Parity(
        difference=float((found - expected).abs().max()),
        agreement=float((found.argmax(-1) == expected.argmax(-1)).float().mean()),
        dtype=dtype,
    )
    if parity.agreement < 0.9:
        log.warning("the exported model answers differently: %s; look at it before use", parity)
    return parity


def _put(made: Path, target: Path, scratch: Path) -> None:
    """Give the finished folder its name; an older one is moved away first, and goes with `scratch`."""
    if target.exists():
        target.rename(scratch / "older")
    made.rename(target)


def _write_card(folder: Path, model: ModelArguments, template: Template, parity: Parity) -> None:
    """Write README.md, and lay beside it the licence texts of the base."""
    from carellama.model.hub import EMBEDDED, model_folder

    place = model_folder(model.model_name_or_path, accept_licence=model.accept_licence)
    papers = []
    for paper in sorted(place.iterdir()) if isinstance(place, Path) else []:
        if paper.is_file() and PAPERS.fullmatch(paper.name):
            shutil.copy(paper, folder)
            papers.append(paper.name)
    name = model.model_name_or_path
    licence = EMBEDDED[name].licence if name in EMBEDDED else _licence(place)
    shown = name if name in EMBEDDED or isinstance(place, str) else Path(name).name
    runs = [
        record for checkpoint in model.checkpoints if (record := _run_record(Path(checkpoint).expanduser()))
    ]
    front = [
        "license: " + (licence or "unknown"),
        "library_name: transformers",
        "pipeline_tag: text-generation",
    ]
    front += [f"base_model: {shown}"] if isinstance(place, str) else []
    ends = [*template.tokenizer.convert_ids_to_tokens(template.stop_ids), *template.stops]
    lines = [
        *("---", *front, "tags: [medical, carellama]", "---"),
        *(f"# {shown}, fine-tuned with CareLlama", ""),
        "It informs and refers; it does not diagnose, and no answer replaces a doctor. "
        "Its answers can be wrong: do not use it for decisions about patients.",
        *("", "仅供学习研究，不能代替医生的诊断和治疗。", ""),
        f"- base: {shown}",
        f"- licence of the base: {licence or 'unknown; look it up before passing this model on'}"
        + (f" (see {', '.join(papers)})" if papers else ""),
        f"- chat format: {template.name}, in the tokenizer; an answer ends with {' or '.join(map(repr, ends))}",
        f"- as written against base and adapters: {parity}",
        f"- made by CareLlama {carellama.__version__}",
        "",
    ]
    if not runs:
        lines += ["There is no record of its training (run.json).", ""]
    for number, record in enumerate(runs, start=1):
        lines += [f"## Training {number}" if len(runs) > 1 else "## Training", "", *_training(record)]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")


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


def _run_record(checkpoint: Path) -> dict[str, Any] | None:
    """The run.json of a checkpoint, which lies in it or, for output/checkpoint-100, above it."""
    for folder in (checkpoint, checkpoint.resolve().parent):
        path = folder / "run.json"
        if path.is_file():
            try:
                record = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise UserError(f"{path} is not JSON: {error}") from error
            return record if isinstance(record, dict) else None
    return None


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
