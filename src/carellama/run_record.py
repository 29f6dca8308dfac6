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
from carellama.config.data import PromptOptions
from carellama.config.model import ModelOptions
from carellama.errors import UserError
from carellama.files import write_json
from carellama.stages import STAGES

log = logging.getLogger(__name__)

RUN_FILE = "run.json"
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

    Raises `UserError` for one that is not JSON.
    """
    places = [checkpoint]
    if CHECKPOINT_NAME.fullmatch((whole := checkpoint.resolve()).name):  # any other folder is not a part of that run
        places.append(whole.parent)
    for folder in places:
        path = folder / RUN_FILE
        if path.is_file():
            try:
                record = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise UserError(f"{path} is not JSON: {error}") from error
            return record if isinstance(record, dict) else None
    return None


def run_records(model: ModelOptions) -> list[dict[str, Any]]:
    """Return the run.json of each of the `--checkpoint_dir` that has one, in order."""
    found = (read_run(Path(checkpoint).expanduser()) for checkpoint in model.checkpoints)
    return [record for record in found if record is not None]


def template_for(model: ModelOptions, asked: str | None, adapters: Iterable[str] = ()) -> str | None:
    """Return the chat format to use with a model's checkpoints, by name; None: the tokenizer's own.

    Without `asked` it is the one that the last checkpoint was trained with. If `asked` is another one, it is used, and
    one line warns. `adapters` are folders that answer beside each other. Plain text (stage pt) has no chat format.
    """
    own = next((found for found in map(_trained_with, reversed(model.checkpoints)) if found), None)
    trained = [found for found in (own, *map(_trained_with, adapters)) if found]
    if not trained:
        return asked
    folder, chosen = trained[0] if asked is None else ("", asked)
    if asked is None and chosen is not None:
        log.info("template %s: %s was trained with it", chosen, folder)
    for folder, template in trained:
        if template != chosen:
            log.warning(
                "%s was trained with %s and is used with %s, so its answers get worse: %s",
                folder,
                OWN_FORMAT if template is None else f"--template {template}",
                OWN_FORMAT if chosen is None else f"--template {chosen}",
                "leave --template out" if asked is not None else "give adapters of one chat format",
            )
    return chosen


def _trained_with(folder: str) -> tuple[str, str | None] | None:
    """Return a checkpoint and its chat format by name; None: it has no record, or was trained on plain text."""
    record = read_run(Path(folder).expanduser())
    if record is None or not STAGES[record.get("stage", "sft")].has_chat_format:
        return None
    return folder, record.get("settings", {}).get("data", {}).get("template")


def as_trained(model: ModelOptions, data: Prompt, adapters: Iterable[str] = ()) -> Prompt:
    """Return the options of the data with the chat format of `template_for`; warn of other positions.

    Every command that reads a checkpoint calls this once.
    """
    check_positions(model)
    chosen = template_for(model, data.template, adapters)
    return data if chosen == data.template else replace(data, template=chosen)


def check_positions(model: ModelOptions) -> None:
    """Warn where the positions are stretched otherwise than in the last training."""
    now = (model.rope_scaling, model.rope_factor if model.rope_scaling else None)
    for record in run_records(model)[-1:]:
        settings = record.get("settings", {}).get("model", {})
        then = (settings.get("rope_scaling"), settings.get("rope_factor") if settings.get("rope_scaling") else None)
        if then != now:
            log.warning(
                "trained with --rope_scaling %s --rope_factor %s, used with %s %s, so answers get worse: give the same",
                *then, *now,
            )  # fmt: skip


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
