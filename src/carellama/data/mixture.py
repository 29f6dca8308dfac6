"""`carellama data mix`: several datasets into one file by a recipe, exact and repeatable.

    carellama data mix examples/mix.yaml --output mixed.jsonl --tokenizer smollm2-135m

    seed: 42
    total: 1000                             # records in all, for the parts that have a weight
    datasets:
      - {name: consult_zh, weight: 3}       # a name of dataset_info.json or of the catalogue, or a file
      - {name: consult_en, weight: 1}
      - {name: general.jsonl, records: 200} # so many; without weight and records: all of it
                                            # repeat: true takes a small part more than once

Which records of a part are taken depends on the seed and the part's name alone, their order in the mix on the
seed. Records are drawn without replacement. The account, `mixed.jsonl.json`, has the share of each part in records
and in tokens (of the texts, without markup). Mixing in turn while training is `--mix_strategy` (`data.mix`).
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from carellama.config.data import DataOptions
from carellama.config.data_commands import MixOptions
from carellama.config.reader import parse_options
from carellama.config.yaml_file import read_yaml
from carellama.data.convert import texts_of
from carellama.data.datasets import load_datasets
from carellama.data.file_format import KIND_NAMES
from carellama.data.readers import digest
from carellama.data.report import DataReport
from carellama.data.write import row_of
from carellama.errors import UserError, nearest
from carellama.files import atomic_write, refuse_existing, refuse_sources, write_json
from carellama.records import JSONObject, Record
from carellama.text import counted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KEYS = ("seed", "total", "datasets")
PART_KEYS = ("name", "weight", "records", "repeat")
COUNTED_TOGETHER = 1000  # texts whose tokens are counted in one call


@dataclass(frozen=True)
class Portion:
    """How much of one dataset goes into the mix: by weight, by number of records, or (neither) all."""

    name: str
    weight: float | None = None
    records: int | None = None
    repeat: bool = False


@dataclass(frozen=True)
class Recipe:
    """What is mixed."""

    portions: tuple[Portion, ...]
    seed: int
    total: int | None


def run(argv: Sequence[str]) -> None:
    """Mix, write the records and the account, and print the account."""
    (arguments,) = parse_options((MixOptions,), argv, "carellama data mix RECIPE", positional="recipe")
    output = Path(arguments.output)
    refuse_existing(output, [Path(arguments.recipe)], overwrite=arguments.overwrite)
    recipe = read_recipe(arguments.recipe)
    account = mix_recipe(recipe, output, arguments)
    write_json(output.with_name(f"{output.name}.json"), account)
    unit = "tokens" if arguments.tokenizer else "characters"
    for part in account["parts"]:
        share = part[unit] / max(1, account[unit])
        print(
            f"{part['name']}: {part['taken']} of {counted(part['available'], 'record')} "
            f"({part['taken'] / account['records']:.1%}), {part[unit]:,} {unit} ({share:.1%})"
            + (f", taken up to {part['times']} times" if part["times"] > 1 else "")
            + (f", {part['skipped']} skipped" if part["skipped"] else "")
            + (f", {part['in_earlier_parts']} equal to records of parts above" if part["in_earlier_parts"] else "")
        )
    print(
        f"{output}: {counted(account['records'], 'record')}, {account[unit]:,} {unit}, sha1 {account['sha1'][:12]}..."
    )


def read_recipe(path: str) -> Recipe:
    """Read and check a recipe. `UserError` names the key that is wrong."""
    fields = read_yaml(path)
    _known(fields, KEYS, path)
    given = fields.get("datasets")
    if not isinstance(given, list) or not given:
        raise UserError(f"{path}: datasets must be a list of at least one {{name: ...}}")
    portions = tuple(_portion(one, f"{path}, dataset {number}") for number, one in enumerate(given, 1))
    names = [portion.name for portion in portions]
    if len(set(names)) < len(names):
        raise UserError(f"{path} names a dataset twice: {', '.join(names)}")
    seed, total = fields.get("seed", 42), fields.get("total")
    for key, value in (("seed", seed), ("total", total)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < (key == "total")):
            raise UserError(f"{path}: {key} must be a whole number above {0 if key == 'total' else -1}, not {value!r}")
    weighted = [portion.name for portion in portions if portion.weight is not None]
    if bool(weighted) != (total is not None):
        raise UserError(f"{path}: total and weight belong together: total says how many records the weights divide")
    return Recipe(portions, seed, total)


def _known(fields: dict[str, object], known: Sequence[str], where: str) -> None:
    for key in fields:
        if key not in known:
            raise UserError(f"{where}: unknown key {key!r}.{nearest(str(key), known)} Known: {', '.join(known)}")


def _portion(given: object, where: str) -> Portion:
    if not isinstance(given, dict) or not isinstance(given.get("name"), str):
        raise UserError(f"{where}: must be {{name: ..., weight: ... or records: ...}}, not {given!r}")
    _known(given, PART_KEYS, where)
    weight, records, repeat = given.get("weight"), given.get("records"), given.get("repeat", False)
    if weight is not None and records is not None:
        raise UserError(f"{where}: give weight or records, not both")
    if weight is not None and (isinstance(weight, bool) or not isinstance(weight, (int, float)) or not weight > 0):
        raise UserError(f"{where}: weight must be a number above 0, not {weight!r}")
    if records is not None and (isinstance(records, bool) or not isinstance(records, int) or records < 1):
        raise UserError(f"{where}: records must be a whole number of at least 1, not {records!r}")
    if not isinstance(repeat, bool):
        raise UserError(f"{where}: repeat must be true or false, not {repeat!r}")
    return Portion(given["name"], weight, records, repeat)


def divided(total: int, weights: Sequence[float]) -> list[int]:
    """`total` in these proportions, whole numbers that add up to it (largest remainders; the first of equal ones)."""
    exact = [total * weight / sum(weights) for weight in weights]
    found = [int(value) for value in exact]
    by_remainder = sorted(range(len(weights)), key=lambda at: found[at] - exact[at])
    for at in by_remainder[: total - sum(found)]:
        found[at] += 1
    return found


def chosen(available: int, wanted: int, seed: int, name: str) -> np.ndarray:
    """How often each of the `available` records is taken, shape (available,): evenly, the rest drawn by the seed."""
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    times = np.full(available, wanted // available, dtype=np.int64)
    times[np.random.default_rng([seed, key]).permutation(available)[: wanted % available]] += 1
    return times


def mix_recipe(recipe: Recipe, output: Path, arguments: MixOptions) -> JSONObject:
    """Write the mix and return its account. Memory: 24 bytes for each record of the mix."""
    data = DataOptions(dataset_dir=arguments.dataset_dir)
    datasets = load_datasets([portion.name for portion in recipe.portions], data)
    refuse_sources(output, (source for dataset in datasets for source in dataset.files))
    skips = arguments.on_bad_record == "skip"
    reports = [DataReport() for _ in datasets]
    kinds: dict[str, str] = {}  # kind of record -> the first dataset that holds it
    available = []
    for dataset, report in zip(datasets, reports, strict=True):
        found = Counter(KIND_NAMES[type(record)] for record in dataset.records(report, skips=skips))
        kinds = dict.fromkeys(found, dataset.name) | kinds
        if len(kinds) > 1:
            (kind, name), (other, another), *_ = kinds.items()
            raise UserError(f"{name} holds {kind}, {another} holds {other}: they cannot be mixed")
        available.append(found.total())
    wanted = _wanted(recipe, available)
    tokenizer = _tokenizer(arguments.tokenizer) if arguments.tokenizer else None
    output.parent.mkdir(parents=True, exist_ok=True)
    parts: list[JSONObject] = []
    offsets: list[np.ndarray] = []
    hashes: list[np.ndarray] = []  # of the records taken of each part
    with tempfile.TemporaryFile(dir=output.parent) as unordered:
        for dataset, report, there, want in zip(datasets, reports, available, wanted, strict=True):
            times = chosen(there, want, recipe.seed, dataset.name)
            at, sizes, own = _write(dataset.records(DataReport(), skips=skips), times, unordered, tokenizer)
            copies = int(np.isin(own, np.concatenate(hashes)).sum()) if hashes else 0
            offsets.append(at)
            hashes.append(own)
            parts.append(
                {
                    "name": dataset.name, "where": dataset.where, "sha1": dataset.digest(),
                    "available": there, "skipped": report.datasets[dataset.name].skipped, "taken": want,
                    "times": int(times.max(initial=0)), "in_earlier_parts": copies, **sizes,
                }
            )  # fmt: skip
        order = np.concatenate(offsets)
        order = order[np.random.default_rng(recipe.seed).permutation(len(order))]
        with atomic_write(output) as file:
            for at in order.tolist():
                unordered.seek(at)
                file.write(unordered.readline().decode())
    totals = {unit: sum(part[unit] for part in parts) for unit in parts[0] if unit in ("tokens", "characters")}
    return {
        "seed": recipe.seed, "records": len(order), **totals, "tokenizer": arguments.tokenizer,
        "sha1": digest(output), "parts": parts,
    }  # fmt: skip


def _wanted(recipe: Recipe, available: Sequence[int]) -> list[int]:
    """How many records of each part. `UserError` where a part has too few and may not repeat."""
    weighted = [portion.weight for portion in recipe.portions if portion.weight is not None]
    shares = iter(divided(recipe.total, weighted) if recipe.total is not None else [])
    found = []
    for portion, there in zip(recipe.portions, available, strict=True):
        all_or_some = there if portion.records is None else portion.records
        want = all_or_some if portion.weight is None else next(shares)
        if not there:
            raise UserError(f"{portion.name} has no usable record")
        if want > there and not portion.repeat:
            raise UserError(
                f"{portion.name} has {counted(there, 'usable record')} and the recipe takes {want}: "
                "take fewer, or give it repeat: true"
            )
        found.append(want)
    return found


def _write(
    records: Iterator[Record], times: np.ndarray, file: BinaryIO, tokenizer: PreTrainedTokenizerBase | None
) -> tuple[np.ndarray, dict[str, int], np.ndarray]:
    """Append the chosen records as lines; return where each line to be written begins, the sizes of all, and a hash
    of each record, which tells equal ones whatever is known about them (`meta`, `id`)."""
    offsets: list[int] = []
    hashes = array("Q")
    sizes = Counter[str]()
    texts: list[str] = []  # whose sizes are not counted yet,
    repeats: list[int] = []  # and how often each is taken
    for record, repeat in zip(records, times.tolist(), strict=True):
        if not repeat:
            continue
        offsets += [file.tell()] * repeat
        row = row_of(record)
        file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        text = json.dumps({key: value for key, value in row.items() if key not in ("meta", "id")}).encode()
        hashes.append(int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little"))
        own = texts_of(record)
        texts += own
        repeats += [repeat] * len(own)
        if len(texts) >= COUNTED_TOGETHER:
            sizes.update(_sizes(texts, repeats, tokenizer))
            texts, repeats = [], []
    sizes.update(_sizes(texts, repeats, tokenizer))
    return np.array(offsets, dtype=np.int64), sizes, np.array(hashes, dtype=np.uint64)


def _tokenizer(model: str) -> PreTrainedTokenizerBase:
    from carellama.config.model import ModelOptions
    from carellama.model.tokenizer import load_tokenizer
    from carellama.model.zoo.pull import with_named_weights

    return load_tokenizer(with_named_weights(ModelOptions(model_name_or_path=model), DataOptions())[0])


def _sizes(texts: Sequence[str], repeats: Sequence[int], tokenizer: PreTrainedTokenizerBase | None) -> dict[str, int]:
    """{"characters": n, "tokens": n} of texts that are taken so often; tokens only where there is a tokenizer."""
    sizes = {"characters": sum(len(text) * repeat for text, repeat in zip(texts, repeats, strict=True))}
    if tokenizer is None:
        return sizes
    ids = tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
    return sizes | {"tokens": sum(len(one) * repeat for one, repeat in zip(ids, repeats, strict=True))}
