"""One run as `train_bash.py` of 2023 does it: train, evaluate, predict, in this order, as asked.

    carellama train --stage sft --do_train --model_name_or_path smollm2-135m --dataset consult_en --output_dir output

Everything that can be refused is refused before the model is loaded: options, output folder, template, data. The run's
account lies in the output folder: data_report.json, run.json, trainer_log.jsonl, the results, the plot.
"""

from __future__ import annotations

import importlib
import itertools
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from carellama.config.data import DataArguments
from carellama.config.environment import world
from carellama.config.finetuning import FinetuningArguments
from carellama.config.generating import GeneratingArguments
from carellama.config.help import training_help
from carellama.config.model import ModelArguments
from carellama.config.objectives import GRPOArguments, PPOArguments, PreferenceArguments, RewardArguments
from carellama.config.parse import parse_light, read_yaml
from carellama.disk import write_json
from carellama.errors import UserError, lookup, need
from carellama.model.paths import check_model
from carellama.model.zoo.pull import with_named_weights
from carellama.run_record import as_trained, read_run, write_run
from carellama.stages import STAGES
from carellama.train.distributed import check_resume

if TYPE_CHECKING:
    from carellama.config.run import RunConfig
    from carellama.model.vocabulary import Added
    from carellama.train.loop import Stopped
    from carellama.train.summary import History

log = logging.getLogger(__name__)

LIGHT_GROUPS = (
    ModelArguments, DataArguments, FinetuningArguments, GeneratingArguments, PreferenceArguments, RewardArguments,
    PPOArguments, GRPOArguments,
)  # fmt: skip
DATA_FILES = (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".txt", ".xlsx", ".gz", ".zst")


def train(argv: Sequence[str]) -> None:
    """`carellama train`: as `src/train_bash.py`, with --do_train unless another --do_ is given."""
    asked = {word[2:].partition("=")[0] for word in argv}
    if argv and argv[0].endswith((".yaml", ".yml")):
        asked |= read_yaml(argv[0]).keys()
    doing = asked & {"do_train", "do_eval", "do_predict"}
    start(argv, "carellama train", {} if doing else {"do_train": True})


def evaluate(argv: Sequence[str]) -> None:
    """`carellama eval`: loss and perplexity on --dataset."""
    start(argv, "carellama eval", {"do_eval": True, "output_dir": "eval_output"})


def predict(argv: Sequence[str]) -> None:
    """`carellama predict`: answers to --dataset, with their scores."""
    settings = {"do_predict": True, "predict_with_generate": True, "output_dir": "predict_output"}
    start(argv, "carellama predict", settings)


def start(argv: Sequence[str], prog: str, settings: dict[str, Any]) -> None:
    """Read the options and run; `--help` prints them."""
    if print_help(argv, prog):
        return
    check_early(argv, prog, settings)
    from carellama.train.options import run_config  # it loads transformers, which takes seconds

    run(run_config(argv, prog, **settings), summary=True)


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
    print(training_help((*more, *LIGHT_GROUPS), prog, stage.name, every="all" in argv))
    return True


def check_early(argv: Sequence[str], prog: str, settings: dict[str, Any], *more: type) -> None:
    """Answer misspelt options and paths that do not exist before any library is loaded. Raises `UserError`."""
    model, data, *_ = parse_light((*LIGHT_GROUPS, *more), argv, prog, settings)
    check_model(model)
    info = Path(data.dataset_dir, "dataset_info.json")
    named = info.read_text(encoding="utf-8", errors="replace") if info.is_file() else ""
    for name in (*data.datasets, *data.eval_datasets):
        path = Path(name)
        if path.suffix in DATA_FILES and not path.exists() and f'"{name}"' not in named:
            raise UserError(f"{name} is no file, and no dataset of {info} has this name")


def run(config: RunConfig, *, summary: bool = False) -> dict[str, Any]:
    """Do what the options ask for and return all results; with `summary` print them. Raises `UserError` early."""
    from carellama.data.prepare import conversations

    if world()[0] > 0:  # one process speaks for all
        logging.getLogger("carellama").setLevel(logging.ERROR)
    config = with_trained_template(config)
    training = config.training
    from carellama.train.output_folder import claim

    output = Path(training.output_dir)
    with training.main_process_first(desc="claim the output folder"):
        checkpoint = claim(output, config) if training.do_train else None
        if checkpoint:
            from carellama.train.resume import check_changes

            check_resume(config, checkpoint)
            check_changes(config, checkpoint)
        elif training.resume_changed:
            log.warning("--resume_changed has no effect: there is no checkpoint to resume, the run begins at step 0")
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--output_dir {output} cannot be made: {error.strerror}") from error
    tokenizer, template, added, prepared = prepared_run(config)
    if prepared and training.should_save and not prepared.streams:
        report(prepared, output)
    if prepared and config.data.show_example and training.should_save:
        show_example(prepared.first(), tokenizer)
    chats = conversations(config) if training.do_predict else []
    if training.do_train:
        from carellama.plan import check

        check(config, prepared, added)
    runner = Run(config, tokenizer, template, output, added)
    results = runner.do(prepared, chats, checkpoint)
    if summary and training.should_save:
        from carellama.train.summary import print_summary

        print_summary(config, results, runner.history)
    return results


def with_trained_template(config: RunConfig) -> RunConfig:
    """The options with named weights resolved, and with the chat format that the checkpoints were trained with."""
    model, data = with_named_weights(config.model, config.data)
    return replace(config, model=model, data=as_trained(model, data))


def prepared_run(config: RunConfig) -> tuple[Any, Any, Added | None, Any]:
    """Return (tokenizer, template, added tokens, encoded data), all of a run that needs no model."""
    from carellama.data.prepare import Prepared, asked_as_learned
    from carellama.model.adapter import check_adapter_options
    from carellama.model.load import load_tokenizer
    from carellama.model.vocabulary import add_tokens
    from carellama.template import get_template

    if config.training.do_train:
        from carellama.train.optimizer import check_optimizer

        check_optimizer(config.training)
        check_adapter_options(config.model, config.finetuning, config.asked)
    tokenizer = load_tokenizer(config.model)
    added = None
    if config.finetuning.add_tokens:
        added = add_tokens(tokenizer, Path(config.finetuning.add_tokens).expanduser())
    template = get_template(config.data.template, tokenizer)
    prepared = None
    if config.training.do_train or config.training.do_eval:
        keep_to_window(config)
        with config.training.main_process_first(desc="encode the data"):
            prepared = prepared_for(config)(config, tokenizer, template)
    if isinstance(prepared, Prepared) and config.training.do_train and config.data.template is None:
        template = asked_as_learned(template, prepared)
        tokenizer.chat_template = tokenizer.chat_template and template.jinja  # saved with the checkpoint
    return tokenizer, template, added, prepared


def keep_to_window(config: RunConfig) -> None:
    """Limit the lengths to the model's positions, so that longer records are cut by rule and counted with their line.

    The options keep what was asked. ppo and grpo look at the positions themselves, which have to hold an answer too.
    """
    from carellama.model.load import load_config

    data = config.data
    window = getattr(load_config(config.model).get_text_config(), "max_position_embeddings", None)
    if not window or data.lengths[2] <= window or config.stage.generates:
        return
    log.info("records may have %d tokens, which is all that the model takes, not %d", window, data.lengths[2])
    data.window = int(window)


def prepared_for(config: RunConfig) -> Callable[..., Any]:
    """What reads and encodes the data of this stage."""
    from carellama.data.prepare import prepare
    from carellama.train import NEEDS, PREPARE

    if package := NEEDS.get(config.stage.name):
        need(package, extra="rl", why=f"--stage {config.stage.name}")
    place = PREPARE.get(config.stage.name)
    return imported(place) if place else prepare


class Run:
    """The part of a run that has a model."""

    def __init__(
        self, config: RunConfig, tokenizer: Any, template: Any, output: Path, added: Added | None = None
    ) -> None:
        self.config, self.tokenizer, self.template, self.output = config, tokenizer, template, output
        self.added = added
        self.results: dict[str, Any] = {}
        self.resumed: list[dict[str, Any]] = []
        self.history: History | None = None

    def do(self, prepared: Any, chats: list[Any], checkpoint: str | None) -> dict[str, Any]:
        """Load the model; train, evaluate and predict as asked."""
        from carellama.train.loop import Stopped
        from carellama.train.resume import check_changes, history
        from carellama.train.summary import History

        training = self.config.training
        fit = training.do_train
        model = self.load()
        sources = prepared.sources if prepared else []
        if prepared:
            changes: dict[str, Any] = {}
            if checkpoint:
                changes = check_changes(self.config, checkpoint, sources)
                self.resumed = history(checkpoint, changes)
            self._record(sources)
            trainer = self.trainer(model, prepared)
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

    def load(self) -> Any:
        """The model, with what is trained on it."""
        from transformers import set_seed

        from carellama.model import adapter
        from carellama.model.load import bind, extended_tokenizer, kind_of, load_model
        from carellama.model.readers import find_pad_token
        from carellama.model.vocabulary import begin

        config, training = self.config, self.config.training
        fit = training.do_train
        set_seed(training.seed)  # new adapters are drawn at random
        kind = config.stage.model_kind
        if config.model.checkpoints and kind_of(config.model) == "reward" != kind:
            raise UserError(f"{config.model.checkpoints[-1]} is a reward model: it goes with --stage rm")
        model = load_model(
            config.model,
            dtype=weights_dtype(config),
            attention=attention_of(config),
            kind=kind,
        )
        new = self.added.ids if self.added else []
        if kind == "reward":  # a reader that pads with the end token would never score it
            self.tokenizer.pad_token = (
                find_pad_token(self.tokenizer, self.template.stop_ids) or self.tokenizer.pad_token
            )
        bind(model, self.tokenizer, extended=bool(new or extended_tokenizer(config.model)))
        if self.added:
            begin(model, self.added)
        if fit and config.stage.has_chat_format:
            self._name_chat_format(model)
        model = adapter.prepare(model, config.model, config.finetuning, trainable=fit, tokens=new)
        if fit:
            log.info("%s", adapter.trainable_line(model))
        return model

    def _name_chat_format(self, model: Any) -> None:
        """Write the trained chat format and its end tokens into what checkpoints save for other programs."""
        self.tokenizer.chat_template = self.template.jinja
        ends = list(dict.fromkeys([*self.template.stop_ids, self.tokenizer.eos_token_id]))
        for config in (model.config, model.config.get_text_config()):
            config.eos_token_id = ends if len(ends) > 1 else ends[0]
        if getattr(model, "generation_config", None) is not None:
            model.generation_config.eos_token_id = ends

    def trainer(self, model: Any, prepared: Any) -> Any:
        """The trainer of the stage."""
        from carellama.train import TRAINERS

        kind = imported(TRAINERS[self.config.stage.name])
        with reached_hub(self.config.training):
            return kind(self.config, model, self.tokenizer, prepared)

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
        from carellama.engine.transformers import TransformersEngine
        from carellama.evaluate.predict import predict as answer

        batch = self.config.training.per_device_eval_batch_size
        engine = TransformersEngine(model, self.tokenizer, self.template, batch)
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
        from carellama.config.run import settings_of

        write_run(
            self.output, asked=self.config.asked, settings=settings_of(self.config), used=self.used(), data=sources,
            results=self.results, resumed=self.resumed,
        )  # fmt: skip

    def used(self) -> dict[str, Any]:
        """What the run has made of its options."""
        from carellama.train.distributed import record_of

        config = self.config
        prompt, answer, whole = config.data.lengths
        return {
            "template": self.template.name,
            "dtype": weights_dtype(config),
            "computes_in": config.training.compute_dtype,
            "attention": attention_of(config),
            "max_source_length": prompt,
            "max_target_length": answer,
            "cutoff_len": whole,
            "row_tokens": config.row_limit,
            **record_of(config.training),
        }


def imported(place: str) -> Callable[..., Any]:
    """Return what `module:name` names."""
    module, _, name = place.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


@contextmanager
def reached_hub(training: Any) -> Iterator[None]:
    """Turn the error of a hub that cannot be reached, or does not let in, into one line."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except (OSError, HfHubHTTPError) as error:
        if not training.push_to_hub:
            raise
        raise UserError(f"--push_to_hub: {' '.join(str(error).split())}") from error


def weights_dtype(config: RunConfig) -> str:
    """The precision the weights are loaded in.

    Frozen weights (LoRA, evaluation) in what the machine computes in; trained ones in float32, of which mixed precision
    makes its own copies: in bfloat16, steps smaller than 1/256 of a weight would be lost.
    """
    learns = config.training.do_train and config.finetuning.finetuning_type in ("full", "freeze")
    return "float32" if learns and config.model.dtype == "auto" else config.frozen_dtype


def attention_of(config: RunConfig) -> str | None:
    """transformers' name of the attention: completions are compared in padded batches, so the model's own in place of
    that of packed rows."""
    from carellama.model import attention
    from carellama.model.load import model_class

    chosen = attention.choose(config.model.attention, model_class(config.model, config.stage.model_kind))
    return None if config.stage.compares_completions and chosen == attention.PACKED else chosen


def report(prepared: Any, output: Path) -> None:
    """Write and log the account of the data."""
    write_json(output / "data_report.json", prepared.report.to_dict())
    for line in prepared.report.lines():
        log.info("%s", line)


def show_example(example: list[Any], tokenizer: Any) -> None:
    """Print one record as the model sees it: learned tokens in green, the others grey."""
    from carellama.data.view import coloured

    print(f"one record, learned tokens in green:\n{coloured(example[0], tokenizer)}", file=sys.stderr)
