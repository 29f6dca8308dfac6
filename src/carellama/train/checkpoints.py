"""What every trainer here owes its user, beside the learning: checkpoints that are complete, and a log of its steps.

    class PackedTrainer(AtomicCheckpointMixin, Trainer): ...

A class to put before transformers' `Trainer` or one made from it. A checkpoint appears under its name only when it is
complete; `checkpoint` is the last one that was written. `failure` says which data ended the training early (None: it
ran to its end, or was stopped by a signal, see `carellama.train.loop`).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from accelerate.utils import gather_object
from torch.distributed.tensor import DTensor
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput

from carellama.errors import UserError
from carellama.files import write_json
from carellama.model.quiet import quiet_bars
from carellama.model.readers import make_readable
from carellama.run_record import RUN_FILE
from carellama.train.callbacks import JsonLogCallback, any_rank
from carellama.train.distributed import LAUNCH, record_of
from carellama.train.divergence_guard import DivergenceGuard, LossTerm, TrainingDiverged, weights_problem
from carellama.train.output_folder import STAGING
from carellama.train.resume import apply_changes

if TYPE_CHECKING:
    import torch
    from torch.optim.lr_scheduler import LambdaLR
    from transformers import Trainer as Host
else:
    Host = object


class AtomicCheckpointMixin(Host):
    """Writes checkpoints in a staging folder and moves them to their place in one step."""

    failure: str | None = None
    checkpoint: Path | None = None
    changes: Mapping[str, object] = MappingProxyType({})  # options that differ from those of the run that is resumed
    optimizer: torch.optim.Optimizer  # they are there once the training begins
    lr_scheduler: LambdaLR
    _saving = False
    _guard: DivergenceGuard

    def failure_of_any(self, mine: str | None) -> str | None:
        """Return the first failure of all processes, or None."""
        if not any_rank(self.accelerator, mine=mine is not None):
            return None
        failures: list[str | None] = gather_object([mine])
        return next(failure for failure in failures if failure is not None)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load as `Trainer` does; options that --resume_changed names win over those of the checkpoint."""
        own = [{key: value for key, value in group.items() if key != "params"} for group in self.optimizer.param_groups]
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and self.changes:
            apply_changes(self.optimizer, self.lr_scheduler, own, self.changes)

    def _determine_best_metric(self, metrics: dict[str, float], trial: object) -> bool:
        """Compare as `Trainer` does. Raises `UserError` for a metric of which there is none."""
        try:
            return super()._determine_best_metric(metrics, trial)
        except KeyError as error:
            known = ", ".join(name.removeprefix("eval_") for name in metrics if name.startswith("eval_"))
            raise UserError(f"--metric_for_best_model {self.args.metric_for_best_model}: there are {known}") from error

    def check_loss(self, loss: float, records: Sequence[str], terms: Sequence[LossTerm] = ()) -> None:
        """Raise `TrainingDiverged` in all processes if the loss of any of them cannot be right.

        One that stopped alone would leave the others waiting in their next collective operation.
        """
        problem = self._guard.problem(loss, self.state.global_step, records, terms)
        failure = self.failure_of_any(problem) if self.accelerator.num_processes > 1 else problem
        if failure is not None:
            raise TrainingDiverged(failure)

    def check_weights(self) -> None:
        """Raise `TrainingDiverged` in all processes if a trained weight of any of them is no finite number.

        The loss of a step tells nothing of the weights after it: those of the last step no loss is computed of.
        """
        weights = cast("torch.nn.Module", self.model).named_parameters()
        name = next((name for name, one in weights if one.requires_grad and not _is_finite(one)), None)
        problem = None if name is None else weights_problem(name, self.state.global_step)
        failure = self.failure_of_any(problem) if self.accelerator.num_processes > 1 else problem
        if failure is not None:
            raise TrainingDiverged(failure)

    def prepare_evaluation(self) -> None:
        """Wrap the model as a training does, where none came before."""
        if not self.accelerator._models:  # noqa: SLF001 - accelerate has no other
            self.model_wrapped = self.accelerator.prepare_model(
                cast("torch.nn.Module", self.model), evaluation_mode=True
            )

    def save_what_was_learned(self) -> None:
        """Write a checkpoint of the steps since the last one, if there were any."""
        step = self.state.global_step
        saved = self.checkpoint is not None and self.checkpoint.name == f"{PREFIX_CHECKPOINT_DIR}-{step}"
        if step > self._initial_global_step and not saved:
            self._save_checkpoint(self.model_wrapped, None)

    def _get_output_dir(self, trial: object) -> str:
        """Where `Trainer` puts a checkpoint: the staging folder while one is being written."""
        folder: str = super()._get_output_dir(trial)
        return str(Path(folder) / STAGING) if self._saving else folder

    def _save_checkpoint(self, model: torch.nn.Module, trial: object) -> None:
        """Write the checkpoint in a staging folder, then move it to its place in one step.

        Raises `TrainingDiverged` for weights that are no numbers: the checkpoint before stays the last one.
        """
        self.check_weights()
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        home = Path(self._get_output_dir(trial))
        with self._staging(home):
            self._saving = True
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._saving = False
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                self._put(home, name)
        self.checkpoint = home / name

    def save_learned(self) -> None:
        """Write the model into the output folder: no file has its name before all of them are complete.

        Raises `TrainingDiverged` for weights that are no numbers.
        """
        self.check_weights()
        home = Path(str(self.args.output_dir))
        made = home / STAGING / "model"
        with self._staging(home):
            self.save_model(str(made), _internal_call=True)
            if self.args.should_save:
                _finish_files(made)
        if self.args.should_save:
            for file in made.iterdir():
                if (home / file.name).is_dir():
                    shutil.rmtree(home / file.name)
                file.replace(home / file.name)
            shutil.rmtree(home / STAGING, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    @contextmanager
    def _staging(self, home: Path) -> Iterator[None]:
        """Within this all processes write into an empty staging folder; it is removed when one of them fails."""
        if self.args.should_save:
            shutil.rmtree(home / STAGING, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        try:
            with quiet_bars():
                yield
        except BaseException:
            shutil.rmtree(home / STAGING, ignore_errors=True)  # half a checkpoint is of no use, and fills the disk
            raise
        self.accelerator.wait_for_everyone()

    def _put(self, home: Path, name: str) -> None:
        """Give a checkpoint that all processes have finished its place, and remove those that are too many."""
        made = home / STAGING / name
        _finish_files(made)
        write_json(made / LAUNCH, record_of(self.args))
        if (home / RUN_FILE).is_file():
            shutil.copy(home / RUN_FILE, made / RUN_FILE)
        if str(STAGING) in (self.state.best_model_checkpoint or ""):
            self.state.best_model_checkpoint = str(home / name)
            self.state.save_to_json(str(made / "trainer_state.json"))
        shutil.rmtree(home / name, ignore_errors=True)
        made.rename(home / name)
        shutil.rmtree(home / STAGING, ignore_errors=True)
        _remove_oldest(home, self.args.save_total_limit, self.state.best_model_checkpoint)

    def _finalize_training(self, *args: Any) -> TrainOutput:
        """End as `Trainer` does; one that was stopped keeps its last checkpoint, which need not be the best one."""
        if self.state.global_step < self.state.max_steps:
            self.state.best_model_checkpoint = None  # the checkpoint has it
        result: TrainOutput = super()._finalize_training(*args)
        return result


def _is_finite(weight: torch.Tensor) -> bool:
    """Whether all numbers of a weight are finite; of a sharded one, those of this process."""
    own = weight.to_local() if isinstance(weight, DTensor) else weight
    return bool(own.isfinite().all())


def _remove_oldest(home: Path, limit: int | None, best: str | None) -> None:
    """Remove the oldest checkpoints beyond `limit`, never the newest or the best one.

    Each is renamed first: a process that is killed meanwhile leaves no half checkpoint under its name.
    """
    found = [path.parent for path in home.glob(f"{PREFIX_CHECKPOINT_DIR}-*/trainer_state.json")]
    found.sort(key=lambda folder: (folder / "trainer_state.json").stat().st_mtime_ns)
    kept = {found[-1], *([Path(best)] if best else [])}
    surplus = len(found) - max(limit, len(kept)) if limit and limit > 0 else 0
    for folder in [folder for folder in found if folder not in kept][: max(surplus, 0)]:
        (home / STAGING).mkdir(exist_ok=True)
        folder.rename(home / STAGING / folder.name)
        shutil.rmtree(home / STAGING, ignore_errors=True)


def _finish_files(folder: Path) -> None:
    """Spell the files for other programs, and remove peft's page, which names a folder of this machine."""
    make_readable(folder)
    if (folder / "adapter_config.json").is_file():
        (folder / "README.md").unlink(missing_ok=True)


def json_log_callback(output_dir: str) -> JsonLogCallback:
    """The callback that writes trainer_log.jsonl into an output folder."""
    return JsonLogCallback(Path(output_dir) / "trainer_log.jsonl")
