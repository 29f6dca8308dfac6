"""The output folder of a run: what is in it already, the checkpoint that a run is resumed from, and who writes into it.

    with locked(output):
        checkpoint = check_output_folder(output, options)   # None: the run begins at step 0
        ...                                                 # all that may be refused
        remove_previous_run(output)                         # --overwrite_output_dir, just before the first step

Nothing is removed before all that can be refused has been, and only what a training of ours has written.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from carellama.config.run import RunOptions
from carellama.errors import UserError
from carellama.model.paths import places_of
from carellama.run_record import CHECKPOINT_NAME, RUN_FILE, read_run

log = logging.getLogger(__name__)

LOCK = "_training.lock"  # held while a training runs; hub uploads leave out names with _
# what a run writes into its output folder
ACCOUNTS = (RUN_FILE, "data_report.json", "eval_results.json", "predict_results.json", "all_results.json",
            "generated_predictions.jsonl")  # fmt: skip
# and a training, beside its checkpoints; files of the tokenizer are always written again
TRAINED = ("trainer_log.jsonl", "trainer_state.json", "train_results.json", "training_loss.png", "training_args.bin",
           "adapter_config.json", "adapter_model.safetensors", "model.safetensors", "model.safetensors.index.json",
           "model-[0-9]*-of-[0-9]*.safetensors", "config.json", "generation_config.json")  # fmt: skip
STAGING = ".saving"  # a checkpoint is written in here, then moved out
TENSORBOARD = "events.out.tfevents.*"
# all that lies there before run.json
EARLY_RUN_FILES = ("data_report.json", "trainer_log.jsonl", STAGING, ".stream", ".*.tmp", LOCK)


def check_output_folder(output: Path, options: RunOptions) -> str | None:
    """Guard the output folder of a training; return the checkpoint to go on from, if any. Changes nothing.

    A finished run, or files that are not ours, are not touched unless --overwrite_output_dir is given; an unfinished
    run of ours is resumed. Raises `UserError` for what cannot be, and for options that contradict each other.
    """
    asked = str(options.training.resume_from_checkpoint or "")
    overwrite = options.own.overwrite_output_dir
    if asked.lower() == "true" and overwrite:
        raise UserError(
            "--resume_from_checkpoint true resumes the run in the output folder, and --overwrite_output_dir "
            "replaces it: give one of them"
        )
    named = Path(asked) if asked.lower() not in ("", "true", "false") else None
    if named is not None:
        _check_named(named, output, overwrite=overwrite)
    if overwrite:
        _check_weights(output)
        return asked if named else None
    checkpoints = checkpoints_of(output)
    if named is not None and (_within(named, output) or not _is_trained(output)):
        return asked
    if (output / "train_results.json").exists():
        longer = ""
        if checkpoints:
            longer = f"; --resume_from_checkpoint {checkpoints[-1]} --resume_changed max_steps makes it longer"
        raise UserError(
            f"{output} holds a finished run; give --overwrite_output_dir to replace it, or another --output_dir{longer}"
        )
    if checkpoints:
        return _last(checkpoints, asked)
    if asked.lower() == "true":
        raise UserError(
            f"--resume_from_checkpoint true: --output_dir {output} holds no checkpoint; leave the option out to begin "
            "at step 0 (a run that was stopped is resumed without it)"
        )
    _refuse_foreign(output)
    return None


def checkpoints_of(output: Path) -> list[Path]:
    """The checkpoints in an output folder, in the order of their making."""
    found = [path.parent for path in output.glob("checkpoint-*/trainer_state.json")]
    named = [folder for folder in found if CHECKPOINT_NAME.fullmatch(folder.name)]
    return sorted(named, key=lambda folder: (folder / "trainer_state.json").stat().st_mtime)


def _last(checkpoints: list[Path], asked: str) -> str:
    """The last checkpoint, unless the options say that the run is not resumed, or from where."""
    last = checkpoints[-1]
    if asked.lower() == "false":
        raise UserError(
            f"--resume_from_checkpoint false, and --output_dir {last.parent} holds an unfinished run ({last.name}): "
            "give --overwrite_output_dir to replace it, another --output_dir, or leave the option out to go on with it"
        )
    if asked and asked.lower() != "true":
        raise UserError(
            f"--resume_from_checkpoint {asked}, and --output_dir {last.parent} holds an unfinished run of its own "
            f"({last.name}): give --overwrite_output_dir to replace it, another --output_dir, or leave "
            "--resume_from_checkpoint out to go on with it"
        )
    log.info("going on from %s (give --overwrite_output_dir to start from the beginning)", last)
    return str(last)


def _check_named(checkpoint: Path, output: Path, *, overwrite: bool) -> None:
    if not (checkpoint / "trainer_state.json").is_file():
        raise UserError(f"--resume_from_checkpoint {checkpoint}: not a checkpoint (no trainer_state.json in it)")
    if overwrite and _within(checkpoint, output):
        raise UserError(
            f"--resume_from_checkpoint {checkpoint} is part of the run that --overwrite_output_dir replaces: "
            "give one of them, or another --output_dir"
        )


def _within(path: Path, folder: Path) -> bool:
    return folder.expanduser().resolve() in path.expanduser().resolve().parents


def _refuse_foreign(output: Path) -> None:
    """Refuse a folder of other files; a run that was killed before its first checkpoint has nothing worth keeping."""
    if not output.exists() or (output / RUN_FILE).exists():
        return
    foreign = next((path for path in output.iterdir() if not any(path.match(name) for name in EARLY_RUN_FILES)), None)
    if foreign is not None:
        _check_weights(output)  # which are not replaced in any case
        raise UserError(
            f"{output} holds {foreign.name} and no run; give --overwrite_output_dir or another --output_dir"
        )


def check_sources(output: Path, options: RunOptions) -> None:
    """Raise `UserError` for an output folder that holds what the run reads, and would replace."""
    data = options.data
    reads = {"dataset": data.datasets, "eval_dataset": data.eval_datasets}
    if options.training.do_train:  # an evaluation may write its results beside the model
        reads |= {"model_name_or_path": [options.model.model_name_or_path], "checkpoint_dir": options.model.checkpoints,
                  "reward_model": (options.reward.reward_model or "").split(","),
                  "judge_model_name_or_path": [options.grpo.judge_model_name_or_path or ""]}  # fmt: skip
    target = output.expanduser().resolve()
    for option, names in reads.items():
        for name in filter(None, names):
            if any(path == target or _is_removed(path, target) for path in places_of(Path(name))):
                raise UserError(
                    f"--output_dir {output} holds --{option} {name}, which this run reads and would write over: give "
                    "another folder"
                )


def _is_removed(path: Path, output: Path) -> bool:
    """Whether `remove_previous_run` would take a file or folder away, or a new run write over it."""
    if output not in path.parents:
        return False
    first = path.relative_to(output).parts[0]
    inner = path.parent == output and any(path.match(name) for name in (*ACCOUNTS, *TRAINED))
    return inner or first.startswith("checkpoint-") or first == STAGING


def _is_trained(output: Path) -> bool:
    """Whether a training of ours has written into this folder; an evaluation may have written into that of a model."""
    if (output / "trainer_state.json").is_file() or checkpoints_of(output):
        return True
    record = read_run(output) if (output / RUN_FILE).is_file() else None
    return bool(record and record.get("settings", {}).get("training", {}).get("do_train"))


def _check_weights(output: Path) -> None:
    """Raise `UserError` for weights that no training has written: they are not replaced."""
    if any(output.glob("*.safetensors")) and not _is_trained(output):
        raise UserError(
            f"--output_dir {output} holds weights and no run of a training ({RUN_FILE}), so it is not replaced: give "
            "another folder"
        )


def remove_previous_run(output: Path) -> None:
    """Remove what an earlier run wrote into its output folder, and nothing else."""
    trained = _is_trained(output)
    if not trained and not (output / RUN_FILE).is_file():
        return
    for pattern in (*ACCOUNTS, *(TRAINED if trained else ())):
        for path in output.glob(pattern):
            path.unlink()
    if not trained:
        return
    for folder in [*checkpoints_of(output), output / STAGING]:
        shutil.rmtree(folder, ignore_errors=True)
    for events in output.glob(f"runs/*/{TENSORBOARD}"):
        events.unlink()
    for folder in [*output.glob("runs/*"), output / "runs"]:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def make_output_folder(output: Path) -> None:
    """Make the folder. Raises `UserError` where it cannot be."""
    if output.exists() and not output.is_dir():
        raise UserError(f"--output_dir {output} is a file: give a folder")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output_dir {output} cannot be made: {error.strerror}") from error


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Hold the output folder, which is made, for one training. Raises `UserError` where another one holds it.

    The system lets go of it when the process ends, however it does. Of the processes of a launch the first holds it.
    """
    make_output_folder(output)
    path = output / LOCK
    with _opened(path) as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # of this process alone: workers do not inherit it
        except (BlockingIOError, PermissionError) as error:
            file.seek(0)
            raise UserError(
                f"--output_dir {output}: another training writes into it ({file.read().strip() or 'just begun'}): wait "
                "for its end, stop it, or give another --output_dir"
            ) from error
        except OSError as error:  # some network disks have no locks
            log.warning("%s cannot be locked (%s): start no second training into this folder", output, error.strerror)
        if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
            raise UserError(f"--output_dir {output}: another training has ended there just now; start this one again")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {os.uname().nodename}, since {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _opened(path: Path) -> TextIO:
    try:
        return path.open("a+", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--output_dir {path.parent} cannot be written: {error.strerror}") from error
