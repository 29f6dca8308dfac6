"""The output folder of a run: what is in it already, and the checkpoint that a run is resumed from.

checkpoint = claim(Path("output"), config)   # None: the run begins at step 0
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from carellama.config.run import RunOptions
from carellama.errors import UserError
from carellama.run_record import RUN_FILE

log = logging.getLogger(__name__)


def claim_output_folder(output: Path, options: RunOptions) -> str | None:
    """Guard the output folder; return the checkpoint to go on from, if any.

    A finished run, or files that are not ours, are not touched unless --overwrite_output_dir is given; an unfinished
    run of ours is gone on with.
    """
    training = options.training
    _check_sources(output, options)
    asked = training.resume_from_checkpoint
    if asked and str(asked).lower() not in ("true", "false"):
        if not Path(asked, "trainer_state.json").is_file():
            raise UserError(f"--resume_from_checkpoint {asked}: not a checkpoint (no trainer_state.json in it)")
        return str(asked)
    if not output.exists() or not any(output.iterdir()):
        return None
    checkpoints = sorted(output.glob("checkpoint-*/trainer_state.json"), key=lambda path: path.stat().st_mtime)
    if options.own.overwrite_output_dir:
        _check_trained(output)
        if training.should_save:
            remove_previous_run(output)
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
        log.info("going on from %s (give --overwrite_output_dir to start from the beginning)", last)
        return last
    # one that was killed before its first checkpoint has begun nothing worth keeping
    foreign = next((path for path in output.iterdir() if not any(path.match(name) for name in EARLY_RUN_FILES)), None)
    if foreign is not None and not (output / "run.json").exists():
        raise UserError(
            f"{output} holds {foreign.name} and no run; give --overwrite_output_dir or another --output_dir"
        )
    return None


def _check_sources(output: Path, options: RunOptions) -> None:
    """Raise `UserError` for an output folder that holds what the training reads: it would be replaced."""
    reads = {"model_name_or_path": [options.model.model_name_or_path], "checkpoint_dir": options.model.checkpoints,
             "reward_model": (options.reward.reward_model or "").split(","),
             "judge_model_name_or_path": [options.grpo.judge_model_name_or_path or ""]}  # fmt: skip
    target = output.expanduser().resolve()
    for option, names in reads.items():
        for name in filter(None, names):
            path = Path(name).expanduser()
            resolved = path.resolve()
            inside = resolved.parent == target and resolved.name.startswith("checkpoint-")
            if path.exists() and (resolved == target or inside):
                raise UserError(
                    f"--output_dir {output} holds --{option} {name}, which this training reads: give another folder"
                )


def _check_trained(output: Path) -> None:
    """Raise `UserError` for weights that no training has written: they are not replaced."""
    if any(output.glob("*.safetensors")) and not any(any(output.glob(name)) for name in TRAINED):
        raise UserError(
            f"--output_dir {output} holds weights and no run ({RUN_FILE}), so it is not replaced: give another folder"
        )


RUN_FILES = (RUN_FILE, "data_report.json", "trainer_log.jsonl", "trainer_state.json", "train_results.json",
        "eval_results.json", "predict_results.json", "all_results.json", "training_loss.png",
        "generated_predictions.jsonl", "adapter_*", "*.safetensors")  # fmt: skip
TRAINED = (RUN_FILE, "trainer_state.json", "trainer_log.jsonl", "checkpoint-*/trainer_state.json")
EARLY_RUN_FILES = (
    "data_report.json",
    "trainer_log.jsonl",
    ".saving",
    ".stream",
    ".*.tmp",
)  # all that lies there before run.json


def remove_previous_run(output: Path) -> None:
    """Remove what an earlier run wrote into its output folder, and nothing else."""
    for folder in [*output.glob("checkpoint-*"), output / ".saving", output / "runs"]:
        shutil.rmtree(folder, ignore_errors=True)
    for pattern in RUN_FILES:
        for path in output.glob(pattern):
            path.unlink()
