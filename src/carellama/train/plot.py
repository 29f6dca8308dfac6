"""The loss curve as a picture: each logged loss (or reward, where answers get one), the same smoothed, evaluations.

plot_loss(Path("output"))  # reads trainer_log.jsonl, writes training_loss.png
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from carellama.errors import need
from carellama.files import with_file_name
from carellama.records import JSONObject
from carellama.run_record import read_run
from carellama.stages import STAGES

TITLE = 90  # characters
WEIGHT = 0.85  # of the average so far


def exponential_moving_average(values: Sequence[float]) -> list[float]:
    """Exponential moving average without its bias to the start: m_i = w m_(i-1) + (1 - w) v_i, shown / (1 - w^i).

    (Kingma and Ba 2015, arXiv:1412.6980, section 3.)
    """
    smoothed: list[float] = []
    average = 0.0
    for count, value in enumerate(values, 1):
        average = WEIGHT * average + (1 - WEIGHT) * value
        smoothed.append(average / (1 - WEIGHT**count))
    return smoothed


def plot_loss(folder: Path, *, kept: int | None = None) -> Path | None:
    """Draw `training_loss.png` from the log and run.json of a run; None when nothing was logged.

    `kept` is the step whose weights were loaded at the end, and which an evaluation after the training is of.
    """
    need("matplotlib", extra="plot", why="--plot_loss")
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    lines = (folder / "trainer_log.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    record = read_run(folder) or {}
    stage = STAGES[record.get("stage", "sft")]
    unit = f"loss per {stage.loss_noun}{' (nats)' if stage.loss_noun == 'token' else ''}"
    trained, held_out, unit = stage.curve or ("loss", "eval_loss", unit)
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    points = [(entry["current_steps"], entry[trained]) for entry in entries if trained in entry]
    evaluated = _evaluations(entries, held_out, kept)
    if not points and not evaluated:
        return None
    name = unit.partition(" ")[0]
    if points:
        steps, values = zip(*points, strict=True)
        marker = "o" if len(points) == 1 else None
        axes.plot(steps, values, color="tab:blue", alpha=0.35, marker=marker, label=f"training {name}")
        axes.plot(steps, exponential_moving_average(values), color="tab:blue", label=f"training {name}, smoothed")
    if evaluated:
        steps, values = zip(*evaluated, strict=True)
        axes.plot(steps, values, color="tab:orange", marker="o", label=f"held-out {name}")
    axes.set(xlabel="step", ylabel=unit, title=_title(record) or folder.resolve().name)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend()
    path = folder / "training_loss.png"
    temporary = path.with_name(".training_loss.tmp.png")
    try:
        with with_file_name(path):
            figure.savefig(temporary, dpi=150)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _evaluations(entries: Sequence[Mapping[str, float]], key: str, kept: int | None) -> list[tuple[int, float]]:
    """(step, value) of each evaluation, the last one of a step; after the training, of the weights that were kept."""
    found: dict[int, float] = {}
    ended = False
    for entry in entries:
        ended = ended or "train_runtime" in entry
        if key in entry:
            found[kept if ended and kept is not None else int(entry["current_steps"])] = entry[key]
    return sorted(found.items())


def _title(record: JSONObject) -> str:
    """Model, stage and dataset of a run."""
    data = record.get("settings", {}).get("data", {}).get("dataset")
    if not record.get("base_model") or not data:
        return ""
    title = f"{Path(record['base_model']).name}, {record.get('stage')} on {data}"
    return title if len(title) <= TITLE else f"{title[: TITLE - 1]}…"
