"""The output folder of a run: what is in it already, and the checkpoint that a run is resumed from.

checkpoint = claim(Path("output"), config)   # None: the run begins at step 0
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from carellama.config.run import RunConfig
from carellama.errors import UserError

log = logging.getLogger(__name__)


def claim(output: Path, config: RunConfig) -> str | None:
    """Guard the output folder; return the checkpoint to go on from, if any.

    A finished run, or files that are not ours, are not touched unless --overwrite_output_dir is given; an unfinished
    run of ours is gone on with.
    """
    training = config.training
    asked = training.resume_from_checkpoint
    if asked and str(asked).lower() not in ("true", "false"):
        if not Path(asked, "trainer_state.json").is_file():
            raise UserError(f"--resume_from_checkpoint {asked}: not a checkpoint (no trainer_state.json in it)")
        return str(asked)
    if not output.exists() or not any(output.iterdir()):
        return None
    checkpoints = sorted(output.glob("checkpoint-*/trainer_state.json"), key=lambda path: path.stat().st_mtime)
    if training.overwrite_output_dir:
        if training.should_save:
            clear(output)
        return None
    if (output / "train_results.json").exists():
        longer = ""
        if checkpoints:
            longer = f"; --resume_from_checkpoint {checkpoints[-1].parent} --resume_changed max_steps makes it longer"
        raise UserError(
            f"{output} holds a finished run; give --overwrite_output_dir to replace it, or another --output_dir{longer}"
        )
    if checkpoints:
        last = str(checkpoints[-1].parent)
        log.info("going on from %s (give --overwrite_output_dir to begin anew)", last)
        return last
    # one that was killed before its first checkpoint has begun nothing worth keeping
    foreign = next((path for path in output.iterdir() if not any(path.match(name) for name in BEGUN)), None)
    if foreign is not None and not (output / "run.json").exists():
        raise UserError(
            f"{output} holds {foreign.name} and no run; give --overwrite_output_dir or another --output_dir"
        )
    return None


OURS = ("run.json", "data_report.json", "trainer_log.jsonl", "trainer_state.json", "*_results.json", "*.png",
        "generated_predictions.jsonl", "adapter_*", "*.safetensors")  # fmt: skip
BEGUN = ("data_report.json", "trainer_log.jsonl", ".saving", ".stream", ".*.tmp")  # all that lies there before run.json


def clear(output: Path) -> None:
    """Remove what an earlier run wrote into its output folder, and nothing else."""
    for folder in [*output.glob("checkpoint-*"), output / ".saving", output / "runs"]:
        shutil.rmtree(folder, ignore_errors=True)
    for pattern in OURS:
        for path in output.glob(pattern):
            path.unlink()
