"""One run as `train_bash.py` of 2023 does it: train, evaluate, predict, in this order, as asked.

    carellama train --stage sft --do_train --model_name_or_path smollm2-135m --dataset consult_en --output_dir output

Everything that can be refused is refused before the model is loaded: options, output folder, template, data. The run's
account lies in the output folder: data_report.json, run.json, trainer_log.jsonl, the results, the plot.
"""

from __future__ import annotations

import itertools
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from carellama.config.environment import world
from carellama.config.help import training_help
from carellama.config.reader import Parsed, read_yaml
from carellama.config.run import RUN_OPTIONS, RunConfig, settings_of
from carellama.disk import write_json
from carellama.errors import UserError, lookup
from carellama.model.paths import check_model
from carellama.run_record import read_run, write_run
from carellama.stages import STAGES
from carellama.train.distributed import check_resume
from carellama.train.options import build_run, parse_run

if TYPE_CHECKING:
    from carellama.train.loop import Stopped
    from carellama.train.session import Session
    from carellama.train.summary import History

log = logging.getLogger(__name__)

DATA_FILES = (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".txt", ".xlsx", ".gz", ".zst")


def train(argv: Sequence[str]) -> None:
    """`carellama train`: as `src/train_bash.py`, with --do_train unless another --do_ is given."""
    start(argv, "carellama train", {})


def evaluate(argv: Sequence[str]) -> None:
    """`carellama eval`: loss and perplexity on --dataset."""
    start(argv, "carellama eval", {"do_eval": True, "output_dir": "eval_output"})


def predict(argv: Sequence[str]) -> None:
    """`carellama predict`: answers to --dataset, with their scores."""
    settings = {"do_predict": True, "predict_with_generate": True, "output_dir": "predict_output"}
    start(argv, "carellama predict", settings)


def start(argv: Sequence[str], command: str, defaults: dict[str, Any]) -> None:
    """Read the options and run; `--help` prints them."""
    if print_help(argv, command):
        return
    parsed = parse_run(argv, command, defaults)
    if not {"do_train", "do_eval", "do_predict"} & parsed.asked.keys():
        parsed = parsed.with_training(do_train="true")
    check_paths(parsed)
    run(build_run(parsed), summary=True)


def print_help(argv: Sequence[str], prog: str, *more: type) -> bool:
    """Print the help of a training command where it is asked for; return whether it was.

    `--stage dpo --help` shows the options of that stage, `--help all` those of all stages and every training flag.
    """
    if not {"--help", "-h"} & set(argv):
        return False
    settings = read_yaml(argv[0]) if argv[0].endswith((".yaml", ".yml")) else {}
    words = [word for item in argv for word in item.split("=", 1)]
    named = [value for name, value in itertools.pairwise(words) if name == "--stage"]
    stage = lookup(STAGES, str((named or [settings.get("stage", "sft")])[-1]), "stage (--stage)")
    print(training_help((*more, *RUN_OPTIONS), prog, stage.name, every="all" in argv))
    return True


def check_paths(parsed: Parsed) -> None:
    """Answer paths that do not exist before any library is loaded. Raises `UserError`."""
    model, data, *_ = parsed.groups
    check_model(model)
    info = Path(data.dataset_dir, "dataset_info.json")
    named = info.read_text(encoding="utf-8", errors="replace") if info.is_file() else ""
    for name in (*data.datasets, *data.eval_datasets):
        path = Path(name)
        if path.suffix in DATA_FILES and not path.exists() and f'"{name}"' not in named:
            raise UserError(f"{name} is no file, and no dataset of {info} has this name")


def run(config: RunConfig, *, summary: bool = False) -> dict[str, Any]:
    """Do what the options ask for and return all results; with `summary` print them. Raises `UserError` early."""
    from carellama.data.encoding.prepare import conversations

    if world()[0] > 0:  # one process speaks for all
        logging.getLogger("carellama").setLevel(logging.ERROR)
    from carellama.train.output_folder import claim
    from carellama.train.session import Session, with_trained_template

    config = with_trained_template(config)
    training = config.training

    output = Path(training.output_dir)
    with training.main_process_first(desc="claim the output folder"):
        checkpoint = claim(output, config) if training.do_train else None
        if checkpoint:
            from carellama.train.resume import check_changes

            check_resume(config, checkpoint)
            check_changes(config, checkpoint)
        elif config.own.resume_changed:
            log.warning("--resume_changed has no effect: there is no checkpoint to resume, the run begins at step 0")
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--output_dir {output} cannot be made: {error.strerror}") from error
    session = Session.open(config)
    config, prepared = session.config, session.prepared
    if prepared and training.should_save and not prepared.streams:
        report(prepared, output)
    if prepared and config.data.show_example and training.should_save:
        show_example(prepared.first(), session.tokenizer)
    chats = conversations(config) if training.do_predict else []
    if training.do_train:
        from carellama.train.memory.check import check_memory

        check_memory(session)
    runner = Run(session, output)
    results = runner.do(chats, checkpoint)
    if summary and training.should_save:
        from carellama.train.summary import print_summary

        print_summary(config, results, runner.history)
    return results


class Run:
    """The part of a run that has a model."""

    def __init__(self, session: Session, output: Path) -> None:
        self.session, self.config, self.output = session, session.config, output
        self.results: dict[str, Any] = {}
        self.resumed: list[dict[str, Any]] = []
        self.history: History | None = None

    def do(self, chats: list[Any], checkpoint: str | None) -> dict[str, Any]:
        """Load the model; train, evaluate and predict as asked."""
        from carellama.train.loop import Stopped
        from carellama.train.resume import check_changes, history
        from carellama.train.summary import History

        training, prepared = self.config.training, self.session.prepared
        fit = training.do_train
        model = self.session.load_model()
        sources = prepared.sources if prepared else []
        if prepared:
            changes: dict[str, Any] = {}
            if checkpoint:
                changes = check_changes(self.config, checkpoint, sources)
                self.resumed = history(checkpoint, changes)
            self._record(sources)
            trainer = self.session.make_trainer(model)
            trainer.changes = changes
            try:
                if fit:
                    self._train(trainer, checkpoint)
            except Stopped as stopped:
                self._settle(prepared, trainer)
                self._record(sources)
                self._leave(stopped, trainer)
            self._settle(prepared, trainer)
            if training.do_eval:
                self.results |= trainer.evaluate()
                self._write("eval_results.json", "eval_")
            self.history = History.of(trainer.state, loads_best=training.load_best_model_at_end)
            self._record(sources)
            if fit:
                self._plot()
            if fit and training.should_save:
                from carellama.export.card import write_checkpoint_card

                write_checkpoint_card(self.output, self.config.model, self.config.stage.model_kind)
        if training.do_predict:
            self._predict(model, chats)
            self._record(sources)
        return self.results

    def _train(self, trainer: Any, checkpoint: str | None) -> None:
        from carellama.train.loop import run

        self.results |= run(self.config, trainer, checkpoint)

    def _plot(self) -> None:
        if self.config.finetuning.plot_loss and self.config.training.should_save:
            from carellama.train.plot import plot_loss

            plot_loss(self.output, kept=self.history.kept if self.history else None)

    def _settle(self, prepared: Any, trainer: Any) -> None:
        """Write the account of a stream, when all processes have ended theirs."""
        if not prepared.streams:
            return
        trainer.accelerator.wait_for_everyone()
        if self.config.training.should_save:
            prepared.settle()
            report(prepared, self.output)

    def _leave(self, stopped: Stopped, trainer: Any) -> NoReturn:
        """End a run that a signal (130) or its data (2) stopped, and say in one line how it goes on."""
        from carellama.train.loop import going_on

        on = going_on(self.config, stopped.checkpoint)
        if stopped.failure is None:
            line = f"stopped at step {stopped.step}; {on}"
        elif stopped.checkpoint is None:
            line = f"error: {stopped.failure}; no step was finished"
        else:
            how = "with that option, or " if "--on_bad_record skip" in stopped.failure else ""
            line = f"error: {stopped.failure}; stopped at step {stopped.step}: {how}once this is mended, {on}"
        log.warning("%s", " ".join(line.split()))
        trainer.accelerator.wait_for_everyone()  # torchrun ends the others when the first one leaves
        raise SystemExit(130 if stopped.failure is None else 2)

    def _predict(self, model: Any, chats: list[Any]) -> None:
        from carellama.engine.base import Sampling
        from carellama.engine.transformers.engine import TransformersEngine
        from carellama.evaluate.predict import predict as answer

        batch = self.config.training.per_device_eval_batch_size
        engine = TransformersEngine(model, self.session.tokenizer, self.session.template, batch)
        sampling = Sampling.of(self.config.generating, seed=self.config.training.seed)
        if results := answer(engine, chats, sampling, self.output):
            self.results |= results.to_dict()

    def _write(self, name: str, prefix: str) -> None:
        if self.config.training.should_save:
            found = {key: value for key, value in self.results.items() if key.startswith(prefix)}
            write_json(self.output / name, found)

    def _record(self, sources: list[dict[str, Any]]) -> None:
        training = self.config.training
        if not training.should_save:
            return
        earlier = (None if training.do_train else read_run(self.output)) or {}
        if earlier.get("settings", {}).get("training", {}).get("do_train"):
            return  # the folder of a training keeps the record of it
        write_run(
            self.output, asked=self.config.asked, settings=settings_of(self.config), used=self.used(), data=sources,
            results=self.results, resumed=self.resumed,
        )  # fmt: skip

    def used(self) -> dict[str, Any]:
        """What the run has made of its options."""
        from carellama.train.distributed import record_of

        config, plan = self.config, self.session.model_plan
        prompt, answer, whole = config.data.lengths
        return {
            "template": self.session.template.name,
            "dtype": plan.dtype,
            "computes_in": config.compute_dtype,
            "attention": plan.attention,
            "max_source_length": prompt,
            "max_target_length": answer,
            "cutoff_len": whole,
            "row_tokens": config.row_limit,
            **record_of(config.training),
        }


def report(prepared: Any, output: Path) -> None:
    """Write and log the account of the data."""
    write_json(output / "data_report.json", prepared.report.to_dict())
    for line in prepared.report.lines():
        log.info("%s", line)


def show_example(example: list[Any], tokenizer: Any) -> None:
    """Print one record as the model sees it: learned tokens in green, the others grey."""
    from carellama.data.view import coloured

    print(f"one record, learned tokens in green:\n{coloured(example[0], tokenizer)}", file=sys.stderr)
