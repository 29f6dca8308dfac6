"""The loss curve as a picture: each logged loss (or reward, where answers get one), and the same smoothed.

plot_loss(Path("output"))  # reads trainer_log.jsonl, writes training_loss.png
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from carellama.disk import named
from carellama.errors import need


def smooth(values: Sequence[float], weight: float = 0.85) -> list[float]:
    """Exponential moving average without its bias to the start: m_i = w m_(i-1) + (1 - w) v_i, shown / (1 - w^i).

    (Kingma and Ba 2015, arXiv:1412.6980, section 3.)
    """
    smoothed: list[float] = []
    average = 0.0
    for count, value in enumerate(values, 1):
        average = weight * average + (1 - weight) * value
        smoothed.append(average / (1 - weight**count))
    return smoothed


def plot_loss(folder: Path) -> Path | None:
    """Draw `training_loss.png` from the run's log; None when nothing was logged."""
    need("matplotlib", extra="plot", why="--plot_loss")
    from matplotlib.figure import Figure

    lines = (folder / "trainer_log.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    drawn = False
    curve = "reward" if any("reward" in entry for entry in entries) else "loss"
    for key, label in ((curve, f"training {curve}"), (f"eval_{curve}", f"held-out {curve}")):
        points = [(entry["current_steps"], entry[key]) for entry in entries if key in entry]
        if not points:
            continue
        steps, losses = zip(*points, strict=True)
        drawn = True
        if key == curve:
            axes.plot(steps, losses, color="tab:blue", alpha=0.35, label=label)
            axes.plot(steps, smooth(losses), color="tab:blue", label=f"{label}, smoothed")
        else:
            axes.plot(steps, losses, color="tab:orange", marker="o", label=label)
    if not drawn:
        return None
    unit = "mean reward of an answer" if curve == "reward" else "loss per token (nats)"
    axes.set(xlabel="step", ylabel=unit, title=folder.resolve().name)
    axes.grid(alpha=0.3)
    axes.legend()
    path = folder / "training_loss.png"
    temporary = path.with_name(".training_loss.tmp.png")
    try:
        with named(path):
            figure.savefig(temporary, dpi=150)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
