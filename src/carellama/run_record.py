"""run.json: what a checkpoint is, and everything needed to make it again; written by a run, read by later commands.

    write_run(Path("output"), config.asked, settings_of(config), used, data, results)
    template_for(model, data.template)     # the chat format that the checkpoints were trained with

`asked` is what the person gave, `settings` all options with their defaults, `used` what the run made of them. Loads no
library.
"""

from __future__ import annotations

import json
import logging
import platform
import re
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import carellama
from carellama.adapter_json import read_adapter_json
from carellama.config.data import PromptOptions
from carellama.config.environment import model_home
from carellama.config.model import ModelOptions
from carellama.errors import UserError, read_failure
from carellama.files import write_json
from carellama.stages import STAGES
from carellama.weights import (
    ADAPTER,
    Fingerprint,
    base_fingerprint,
    fingerprint,
    is_adapter,
    unpacked_name,
)

log = logging.getLogger(__name__)

RUN_FILE = "run.json"
PULLED = "pulled.json"  # where a folder comes from that was fetched by name
CHECKPOINT_NAME = re.compile(r"checkpoint-\d+")  # of the folders that a training saves into
LIBRARIES = ("torch", "transformers", "peft", "accelerate", "tokenizers", "bitsandbytes", "trl")
Prompt = TypeVar("Prompt", bound=PromptOptions)
OWN_FORMAT = "the tokenizer's own chat format"


def write_run(
    folder: Path,
    *,
    asked: Mapping[str, str],
    settings: Mapping[str, Mapping[str, object]],
    used: Mapping[str, object],
    data: Sequence[Mapping[str, object]],
    results: Mapping[str, object],
    resumed: Sequence[Mapping[str, object]] = (),
) -> None:
    """Write `run.json`: options, data (name, digest, counts), versions, code, machine, results so far.

    `resumed` has an entry for each time that the run was resumed with other options.
    """
    record = {
        "carellama": carellama.__version__,
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "stage": settings["finetuning"]["stage"],
        "base_model": settings["model"]["model_name_or_path"],
        "seed": settings["training"]["seed"],
        "asked": dict(asked),
        "used": dict(used),
        "settings": dict(settings),
        "data": list(data),
        "results": dict(results),
        **({"resumed": list(resumed)} if resumed else {}),
        "versions": {"python": platform.python_version(), **library_versions()},
        "git_commit": git_commit(),
        "machine": f"{platform.system()} {platform.machine()}",
    }
    write_json(folder / RUN_FILE, record)


def read_run(checkpoint: Path) -> dict[str, Any] | None:
    """Return the run.json of a checkpoint, which is in it or, for output/checkpoint-100, above it; None: there is none.

    Raises `UserError` for one that cannot be read, or that no run wrote.
    """
    places = [checkpoint]
    if CHECKPOINT_NAME.fullmatch((whole := checkpoint.resolve()).name):  # any other folder is not a part of that run
        places.append(whole.parent)
    for folder in places:
        path = folder / RUN_FILE
        if path.is_file():
            record = _read_json(path)
            if fault := _fault_of(record):
                raise UserError(f"{path} is not what a training writes: {fault}")
            return record
    return None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {read_failure(error)}") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    if not isinstance(record, dict):
        raise UserError(f"{path} holds {record!r:.40}, not names with values")
    return record


def _fault_of(record: Mapping[str, Any]) -> str:
    """The first part of a run.json that is of another form than a run writes; "" where all is as it has to be."""
    settings, used = record.get("settings", {}), record.get("used", {})
    parts = {name: record.get(name, {}) for name in ("asked", "used", "settings", "results", "versions")}
    parts |= {f"settings.{name}": group for name, group in settings.items()} if isinstance(settings, dict) else {}
    for name, value in parts.items():
        if not isinstance(value, dict):
            return f"{name} is {value!r:.40}, not names with values"
    rows = {"data": record.get("data", []), "resumed": record.get("resumed", [])}
    for name, value in (rows | {"used.foundation": used.get("foundation", [])}).items():
        if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
            return f"{name} is {value!r:.40}, not a list of entries"
    if any({"name", "weights", "whole"} - one.keys() for one in used.get("foundation", [])):
        return "an entry of used.foundation lacks name, weights or whole"
    if (stage := record.get("stage", "sft")) not in list(STAGES):
        return f"stage is {stage!r:.40}, not one of {', '.join(STAGES)}"
    return ""


def run_records(model: ModelOptions) -> list[dict[str, Any]]:
    """Return the run.json of each of the `--checkpoint_dir` that has one, in order."""
    found = (read_run(Path(checkpoint).expanduser()) for checkpoint in model.checkpoints)
    return [record for record in found if record is not None]


def template_for(model: ModelOptions, asked: str | None, adapters: Iterable[str] = ()) -> str | None:
    """Return the chat format to use with a model's checkpoints, by name; None: the tokenizer's own.

    Without `asked` it is the one that the last checkpoint was trained with. If `asked` is another one, it is used, and
    one line warns. `adapters` are folders that answer beside each other. Plain text (stage pt) has no chat format.
    """
    own = next((found for found in map(trained_with, reversed(model.checkpoints)) if found), None)
    trained = [found for found in (own, *map(trained_with, adapters)) if found]
    if not trained:
        return asked
    folder, chosen = trained[0] if asked is None else ("", asked)
    if asked is None and chosen is not None:
        log.info("template %s: %s was trained with it", chosen, folder)
    alike = len({template for _, template in trained}) == 1
    for folder, template in trained:
        if template != chosen:
            log.warning(
                "%s was trained with %s and is used with %s, so its answers get worse: %s",
                folder,
                OWN_FORMAT if template is None else f"--template {template}",
                OWN_FORMAT if chosen is None else f"--template {chosen}",
                "leave --template out" if asked is not None and alike else "give adapters of one chat format",
            )
    return chosen


def trained_with(folder: str) -> tuple[str, str | None] | None:
    """Return a checkpoint and its chat format by name; None: it has no record, or was trained on plain text."""
    record = read_run(Path(folder).expanduser())
    if record is None or not STAGES[record.get("stage", "sft")].has_chat_format:
        return None
    return folder, record.get("settings", {}).get("data", {}).get("template")


def as_trained(model: ModelOptions, data: Prompt, adapters: Iterable[str] = ()) -> Prompt:
    """Return the options of the data with the chat format of `template_for`; check positions and foundation.

    Every command that reads a checkpoint calls this once.
    """
    adapters = list(adapters)
    check_foundation(model, adapters)
    check_positions(model)
    chosen = template_for(model, data.template, adapters)
    return data if chosen == data.template else replace(data, template=chosen)


def check_positions(model: ModelOptions) -> None:
    """Warn where the positions are stretched otherwise than in the last training."""
    now = (model.rope_scaling, model.rope_factor if model.rope_scaling else None)
    if not model.rope_scaling and model.checkpoints and not is_adapter(Path(model.checkpoints[0]).expanduser()):
        return  # the config.json of a whole checkpoint says it
    for record in run_records(model)[-1:]:
        settings = record.get("settings", {}).get("model", {})
        then = (settings.get("rope_scaling"), settings.get("rope_factor") if settings.get("rope_scaling") else None)
        if then != now:
            log.warning(
                "trained with --rope_scaling %s --rope_factor %s, used with %s %s, so answers get worse: give the same",
                *then, *now,
            )  # fmt: skip


def foundation(model: ModelOptions, checkpoints: Sequence[str], *, whole: bool = True) -> list[dict[str, Any]]:
    """What a training begins from, for run.json: its base and the checkpoints on it, each with its digests.

    `whole`: with the fingerprints of the whole models among them, by which they are known in other files as well.
    """
    found: list[dict[str, Any]] = []
    for at, name in enumerate([model.model_name_or_path, *checkpoints]):
        full = not at or not is_adapter(Path(name).expanduser())
        found.append({"name": name, "weights": fingerprint(name), "whole": full})
        place = weights_folder(name, model) if full and whole else None
        if place and (print_of := base_fingerprint(place)):
            found[-1]["fingerprint"] = print_of.as_json()
    return found


def weights_folder(name: str, model: ModelOptions) -> Path | None:
    """The folder on this machine with the weights of a model by its name; None: they have not been fetched.

    That of a .gguf file, or of an embedded model, is the one that it is unpacked to.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    packed = [path] if path.is_file() else sorted((model_home() / name).glob("*.gguf")) if name else []
    if packed:
        place = model_home() / unpacked_name(packed[0])
        return place if place.is_dir() else None
    if name.count("/") != 1 or path.suffix == ".gguf":
        return None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(name, "config.json", model.cache_dir, model.model_revision)
    except HFValidationError:
        return None
    return Path(config).parent if isinstance(config, str) else None


def check_foundation(model: ModelOptions, adapters: Iterable[str] = ()) -> None:
    """Compare what each adapter is put on with what its run.json says that it was trained on.

    Raises `UserError` for an adapter on another whole model than its own, as its fingerprint tells
    (`--allow_other_base` allows it), and on its own base without the checkpoints between them. Warns of other
    weights. `adapters` are folders that answer beside each other, each on the checkpoints. Of an adapter without
    that record the base is compared that its files name.
    """
    chains = [(model.checkpoints[:at], name) for at, name in enumerate(model.checkpoints)]
    for below, name in [*chains, *((model.checkpoints, name) for name in adapters)]:
        folder = Path(name).expanduser()
        if not is_adapter(folder):
            continue
        if then := (read_run(folder) or {}).get("used", {}).get("foundation"):
            known = any("fingerprint" in one for one in then)
            now = foundation(model, below, whole=known)
            _compare_foundation(name, then, now, allow=model.allow_other_base)
        else:
            wholes = [one for one in below if not is_adapter(Path(one).expanduser())]
            _check_named_base(name, replace(model, model_name_or_path=[model.model_name_or_path, *wholes][-1]))


def _check_named_base(adapter: str, model: ModelOptions) -> None:
    """Compare the whole model that an adapter is put on with the one that its files name; warn where that cannot be."""
    named, file, revision = _named_base(Path(adapter).expanduser())
    if named == model.model_name_or_path:
        return
    of_base = replace(model, model_name_or_path=named, model_revision=revision)
    places = [weights_folder(one.model_name_or_path, one) for one in (of_base, model)]
    if places[0] and places[1] and places[0].samefile(places[1]):
        return
    then, now = (foundation(one, []) for one in (of_base, model))
    same = _same_model(then[0], now[0]) if named else None
    if same is None:
        log.warning(
            "the base of %s could not be checked: its %s names %s, and it is put on %s; make sure that they are the "
            "same model, or its answers get worse",
            adapter, file, named or "none", model.model_name_or_path,
        )  # fmt: skip
    elif not same:
        _compare_foundation(adapter, then, now, allow=model.allow_other_base)


def _named_base(adapter: Path) -> tuple[str, str, str]:
    """(the base of an adapter by its name, the file that names it, its revision); "": it is named nowhere.

    What the list of models says of an adapter that was fetched by name counts more than what its authors called it.
    """
    if (pulled := adapter / PULLED).is_file():
        base = _read_json(pulled).get("base")
        if isinstance(base, dict) and isinstance(base.get("repo"), str) and base["repo"]:
            return base["repo"], PULLED, "main"
    about = read_adapter_json(adapter)
    named, revision = about.get("base_model_name_or_path") or "", about.get("revision")
    return named.strip(), ADAPTER, revision if isinstance(revision, str) else "main"


def _compare_foundation(adapter: str, then: list[dict[str, Any]], now: list[dict[str, Any]], *, allow: bool) -> None:
    there, here = _effective(then), _effective(now)
    if len(there) == len(here) and all(_same_model(*pair) is not False for pair in zip(there, here, strict=True)):
        return
    needed = f"--checkpoint_dir {','.join([*(one['name'] for one in then[1:]), adapter])}"
    trained = f"{adapter} was trained on {_shown(then)}"
    if len(now) < len(then) and all(_same(*pair) for pair in zip(then, now, strict=False)):
        raise UserError(f"{trained}, and would be used on {_shown(now)} alone: give {needed}")
    if not allow and _fingerprints_differ(there[0], here[0]):
        raise UserError(
            f"{adapter} was trained on {there[0]['name']}, and {here[0]['name']} has other weights: it belongs to "
            f"--model_name_or_path {then[0]['name']} {needed}; if it is the same model, merged or quantised, "
            "add --allow_other_base true"
        )
    log.warning(
        "%s, and is used on %s, which are other weights: unless they are the same ones, merged, its answers get worse; "
        "it belongs to --model_name_or_path %s %s",
        trained, _shown(now), then[0]["name"], needed,
    )  # fmt: skip


def changed_weights(then: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> list[str]:
    """The parts of a foundation, of one in other folders as well, whose weights are others than they were."""
    return [str(new["name"]) for old, new in zip(then, now, strict=False) if _same(old, new) is False]


def _effective(foundation: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The part of a foundation that counts: the last whole model, and the adapters on it."""
    return foundation[max((at for at, one in enumerate(foundation) if one["whole"]), default=0) :]


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool | None:
    """Whether two entries are the same weights; None: one of them has no fingerprint, and they have other names."""
    if one["weights"] and other["weights"]:
        return bool(one["weights"] == other["weights"])
    return True if one["name"] == other["name"] else None


def _same_model(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool | None:
    """The same of whole models: by their fingerprints, where both have one."""
    first, second = Fingerprint.of_json(one.get("fingerprint")), Fingerprint.of_json(other.get("fingerprint"))
    return first.same_weights(second) if first and second else _same(one, other)


def _fingerprints_differ(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    first, second = Fingerprint.of_json(one.get("fingerprint")), Fingerprint.of_json(other.get("fingerprint"))
    return bool(first and second and not first.same_weights(second))


def _shown(foundation: Iterable[Mapping[str, Any]]) -> str:
    """`models/base (3f0c1a2b) + output`: what the entries are, with the first digits of the fingerprints known."""
    return " + ".join(one["name"] + (f" ({one['weights'][:8]})" if one["weights"] else "") for one in foundation)


def library_versions() -> dict[str, str]:
    """Versions of the libraries that a result depends on."""
    import importlib.metadata  # it takes longer than all of a typo's answer

    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def git_commit() -> str | None:
    """The commit of the code, with `+changes` when files differ; None outside a checkout."""
    here = Path(__file__).parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=5)
        if head.returncode:
            return None
        status = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no", "."],
            cwd=here, capture_output=True, text=True, timeout=5,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return head.stdout.strip() + ("+changes" if status.stdout.strip() else "")
