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
from typing import TYPE_CHECKING, NoReturn

from carellama.config.environment import world
from carellama.config.help import training_help
from carellama.config.reader import ParsedOptions
from carellama.config.run import OUTPUT, RUN_OPTIONS, RunOptions, settings_of
from carellama.config.yaml_file import read_settings
from carellama.errors import UserError, lookup
from carellama.files import write_json
from carellama.model.paths import check_model
from carellama.records import JSONObject
from carellama.run_record import read_run, write_run
from carellama.stages import STAGES
from carellama.train.distributed import check_resume
from carellama.train.options import build_run, parse_run

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from carellama.data.encoding.prepare import Prepared
    from carellama.data.encoding.prompts import Tasks
    from carellama.model.lora import AnyModel
    from carellama.records import Chat, Tokens
    from carellama.train.loop import TrainingStopped
    from carellama.train.session import Session, StageTrainer
    from carellama.train.summary import History

log = logging.getLogger(__name__)

DATA_FILES = (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".txt", ".xlsx", ".gz", ".zst")


def train(argv: Sequence[str]) -> None:
    """`carellama train`: as `src/train_bash.py`, with --do_train unless another --do_ is given."""
    start(argv, "carellama train", {})


def evaluate(argv: Sequence[str]) -> None:
    """`carellama eval`: loss and perplexity on --dataset, or on --eval_dataset."""
    start(argv, "carellama eval", {"do_eval": True, "output_dir": OUTPUT["eval"]}, trains=False)


def predict(argv: Sequence[str]) -> None:
    """`carellama predict`: answers to --dataset, or to --eval_dataset, with their scores."""
    settings = {"do_predict": True, "predict_with_generate": True, "output_dir": OUTPUT["predict"]}
    start(argv, "carellama predict", settings, trains=False)


def start(argv: Sequence[str], command: str, defaults: dict[str, object], *, trains: bool = True) -> None:
    """Read the options and run; `--help` prints them.

    `trains`: whether the command trains, unless only something else is asked for. The others never do: the settings of
    a training serve them as well.
    """
    if print_help(argv, command):
        return
    parsed = parse_run(argv, command, defaults)
    wanted = [name for name in ("do_train", "do_eval", "do_predict") if parsed.is_on(name)]
    if trains and not wanted and "do_train" not in parsed.asked:
        parsed = parsed.with_training(do_train="true")
    elif not trains and "do_train" in wanted:
        log.warning("do_train is left out: %s trains nothing (carellama train does)", command)
        parsed = parsed.with_training(do_train="false")
    check_paths(parsed)
    run(build_run(parsed), summary=True)


def print_help(argv: Sequence[str], prog: str, *more: type) -> bool:
    """Print the help of a training command where it is asked for; return whether it was.

    `--stage dpo --help` or `--help dpo` shows the options of that stage, `--help all` those of all stages and every
    training flag.
    """
    if not {"--help", "-h"} & set(argv):
        return False
    settings = read_settings(argv[0]) if argv[0].endswith((".yaml", ".yml")) else {}
    words = [word for item in argv for word in item.split("=", 1)]
    pairs = list(itertools.pairwise(words))
    named = [value for name, value in pairs if name == "--stage"]
    named += [value for name, value in pairs if name in ("--help", "-h") and value in STAGES]
    stage = lookup(STAGES, str((named or [settings.get("stage", "sft")])[-1]), "stage (--stage)")
    print(training_help((*more, *RUN_OPTIONS), prog, stage.name, every="all" in argv))
    return True


def check_paths(parsed: ParsedOptions) -> None:
    """Answer paths that do not exist before any library is loaded. Raises `UserError`."""
    model, data, *_ = parsed.groups
    check_model(model)
    info = Path(data.dataset_dir, "dataset_info.json")
    named = info.read_text(encoding="utf-8", errors="replace") if info.is_file() else ""
    for name in (*data.datasets, *data.eval_datasets):
        path = Path(name)
        if path.suffix in DATA_FILES and not path.exists() and f'"{name}"' not in named:
            raise UserError(f"{name} is no file, and no dataset of {info} has this name")


def run(options: RunOptions, *, summary: bool = False) -> JSONObject:
    """Do what the options ask for and return all results; with `summary` print them. Raises `UserError` early."""
    if world()[0] > 0:  # one process speaks for all
        logging.getLogger("carellama").setLevel(logging.ERROR)
    from carellama.train.output_folder import locked, make_output_folder

    output, training = Path(options.training.output_dir), options.training
    if training.do_train and world()[0] == 0:
        with locked(output):
            return _run(options, output, summary=summary)
    make_output_folder(output)
    return _run(options, output, summary=summary)


def _run(options: RunOptions, output: Path, *, summary: bool) -> JSONObject:
    """What `run` does in the output folder."""
    from carellama.data.encoding.prepare import conversations
    from carellama.train.session import Session, with_trained_template

    options = with_trained_template(options)
    training = options.training
    with training.main_process_first(desc="look at the output folder"):
        checkpoint = _resumed_from(output, options)
    session = Session.open(options)
    options, prepared = session.options, session.prepared
    if prepared and not prepared.streams:
        log_data_report(prepared)
    if prepared and options.data.show_example and training.should_save:
        print_example(prepared.first(), session.tokenizer)
    chats = conversations(options) if training.do_predict else []
    if training.do_train:
        from carellama.train.memory.check import check_memory

        check_memory(session)
    model = session.load_model()
    results: JSONObject = {}  # numbers, and what else goes into a file of JSON
    history = train_and_evaluate(session, model, checkpoint, results) if session.prepared else None
    if training.do_predict:
        results |= predict_answers(session, model, chats)
        record(session, results)
    if summary and training.should_save:
        from carellama.train.summary import print_summary

        print_summary(options, results, history)
    return results


def _resumed_from(output: Path, options: RunOptions) -> str | None:
    """The checkpoint that a training goes on from; None: it begins at step 0, or nothing is trained."""
    from carellama.train.output_folder import check_output_folder, check_sources
    from carellama.train.resume import check_changes

    check_sources(output, options)
    checkpoint = check_output_folder(output, options) if options.training.do_train else None
    if checkpoint:
        check_resume(options, checkpoint)
        check_changes(options, checkpoint)
    elif options.own.resume_changed:
        log.warning("--resume_changed has no effect: there is no checkpoint to resume, the run begins at step 0")
    return checkpoint


def train_and_evaluate(
    session: Session, model: AnyModel, checkpoint: str | None, results: dict[str, object]
) -> History:
    """Train and evaluate as asked; add what is measured to `results` and write it into the output folder."""
    from carellama.train.loop import TrainingStopped, run_training
    from carellama.train.resume import check_changes, history
    from carellama.train.summary import History

    options, prepared, training = session.options, session.prepared, session.options.training
    assert prepared is not None
    changes = check_changes(options, checkpoint, prepared.sources) if checkpoint else {}
    resumed = history(checkpoint, changes) if checkpoint else []
    trainer = session.make_trainer(model)
    trainer.changes = changes
    begin_output(session, trainer)
    record(session, results, resumed)
    try:
        if training.do_train:
            results |= run_training(options, trainer, checkpoint)
    except TrainingStopped as stopped:
        finish_stream_report(session, trainer)
        record(session, results, resumed)
        exit_stopped(options, stopped, trainer)
    finish_stream_report(session, trainer)
    output = Path(training.output_dir)
    if training.do_eval:
        held_out = f" (held out: --val_size {options.data.val_size:g})" if options.data.val_size else ""
        results["eval_dataset"] = options.data.evaluated_on + held_out
        results |= trainer.evaluate()
        if training.should_save:
            write_json(output / "eval_results.json", {k: v for k, v in results.items() if k.startswith("eval_")})
    steps = History.of(trainer.state, loads_best=training.load_best_model_at_end)
    record(session, results, resumed)
    if training.do_train and training.should_save:
        if options.finetuning.plot_loss:
            from carellama.train.plot import plot_loss

            plot_loss(output, kept=steps.kept)
        from carellama.export.card import write_checkpoint_card

        write_checkpoint_card(output, options.model, options.stage.model_kind)
    return steps


def begin_output(session: Session, trainer: StageTrainer) -> None:
    """Remove the run that this one replaces, now that nothing is refused any more, and write the report of the data."""
    from carellama.train.output_folder import remove_previous_run

    options, prepared, training = session.options, session.prepared, session.options.training
    if training.should_save:
        if training.do_train and options.own.overwrite_output_dir:
            remove_previous_run(Path(training.output_dir))
        if prepared and not prepared.streams:
            write_data_report(prepared, Path(training.output_dir))
    trainer.accelerator.wait_for_everyone()


def finish_stream_report(session: Session, trainer: StageTrainer) -> None:
    """Write the report of a stream, when all processes have ended theirs."""
    from carellama.data.encoding.prepare import Prepared

    prepared, training = session.prepared, session.options.training
    if not isinstance(prepared, Prepared) or not prepared.streams:
        return
    trainer.accelerator.wait_for_everyone()
    if training.should_save:
        prepared.settle()
        write_data_report(prepared, Path(training.output_dir))
        log_data_report(prepared)


def exit_stopped(options: RunOptions, stopped: TrainingStopped, trainer: StageTrainer) -> NoReturn:
    """End a run that a signal (130) or its data (2) stopped, and say in one line how to resume it."""
    from carellama.train.loop import resume_hint

    hint = resume_hint(options, stopped.checkpoint)
    if stopped.failure is None:
        line = f"stopped at step {stopped.step}; {hint}"
    elif stopped.checkpoint is None:
        line = f"error: {stopped.failure}; no step was finished"
    else:
        option = "with that option, or " if "--on_bad_record skip" in stopped.failure else ""
        line = f"error: {stopped.failure}; stopped at step {stopped.step}: {option}when the cause is fixed, {hint}"
    log.warning("%s", " ".join(line.split()))
    trainer.accelerator.wait_for_everyone()  # torchrun ends the others when the first one leaves
    raise SystemExit(130 if stopped.failure is None else 2)


def predict_answers(session: Session, model: AnyModel, chats: list[Chat]) -> dict[str, object]:
    """Answer conversations and return the scores of the answers."""
    from carellama.engine.base import Sampling
    from carellama.engine.transformers.engine import TransformersEngine
    from carellama.evaluate.predict import predict as answer

    training = session.options.training
    engine = TransformersEngine(model, session.tokenizer, session.template, training.per_device_eval_batch_size)
    sampling = Sampling.of(session.options.generating, seed=training.seed)
    data, output = session.options.data.evaluated_on, Path(training.output_dir)
    results = answer(engine, chats, sampling, output, dataset=data)
    return results.to_dict() if results else {}


def record(session: Session, results: dict[str, object], resumed: Sequence[dict[str, object]] = ()) -> None:
    """Write run.json; an evaluation leaves that of a training as it is."""
    options, output = session.options, Path(session.options.training.output_dir)
    if not options.training.should_save:
        return
    earlier = (None if options.training.do_train else read_run(output)) or {}
    if earlier.get("settings", {}).get("training", {}).get("do_train"):
        return
    write_run(
        output, asked=options.asked, settings=settings_of(options), used=session.decisions,
        data=session.prepared.sources if session.prepared else [], results=results, resumed=list(resumed),
    )  # fmt: skip


def write_data_report(prepared: Prepared | Tasks, output: Path) -> None:
    """Write the account of the data."""
    write_json(output / "data_report.json", prepared.report.to_dict())


def log_data_report(prepared: Prepared | Tasks) -> None:
    """Log the account of the data."""
    for line in prepared.report.lines():
        log.info("%s", line)


def print_example(example: list[Tokens], tokenizer: PreTrainedTokenizerBase) -> None:
    """Print one record as the model sees it, with what is learned of it."""
    from carellama.data.view import marked

    colours = sys.stderr.isatty()
    shown = marked(example[0], tokenizer, colours=colours)
    print(f"one record, learned tokens in {'green' if colours else '[[ ]]'}:\n{shown}", file=sys.stderr)
