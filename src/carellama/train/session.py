"""One training, evaluation or prediction before its model is read: every decision that needs no weights, made once.

    session = Session.open(config)
    trainer = session.make_trainer(session.load_model())

`train`, `plan` and the estimate of the memory share it. Raises `UserError` for all that can be refused early: options
of the optimizer and of an adapter that is trained further, template, data.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from carellama.config.run import RunOptions
from carellama.data.encoding.examples import Examples
from carellama.data.encoding.prepare import Prepared, prepare
from carellama.data.encoding.prompts import Tasks
from carellama.errors import UserError, import_object, need
from carellama.model import packed_attention as attention
from carellama.model.adapter_plan import AdapterPlan, check_adapter_options, plan_adapters
from carellama.model.adapters import apply_adapters, describe_trainable
from carellama.model.load import checkpoint_kind, load_config, load_model, model_class
from carellama.model.lora import AnyModel
from carellama.model.readers import find_pad_token
from carellama.model.tokenizer import load_tokenizer, match_tokenizer, tokenizer_checkpoint
from carellama.model.vocabulary import Added, add_tokens, begin
from carellama.model.zoo.pull import with_named_weights
from carellama.records import IGNORED
from carellama.run_record import as_trained
from carellama.stages import ModelKind
from carellama.templates.format import named_format
from carellama.templates.template import Template, get_template
from carellama.train import NEEDS, PREPARE, TRAINERS
from carellama.train.distributed import record_of
from carellama.train.epochs import check_last_batch
from carellama.train.optimizer import check_optimizer
from carellama.train.resume import foundation_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from carellama.config.run import Training
    from carellama.train.grpo import GRPOTrainer
    from carellama.train.trainer import PackedTrainer

StageTrainer: TypeAlias = "PackedTrainer | GRPOTrainer"

SAMPLED = 64  # training examples that are looked at for reasoning
LEAD_TOKENS = 48  # before an answer, among which the markup before it is looked for
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelPlan:
    """How the model of a run is loaded."""

    kind: ModelKind
    dtype: str  # of the weights
    attention: str | None  # transformers' name; None: the model's own
    adapters: AdapterPlan
    new_tokens: tuple[int, ...] = ()  # ids of --add_tokens

    @property
    def embedding_rows(self) -> int:
        """Rows that the embedding has to have for the new tokens, 0: as many as it has."""
        return max(self.new_tokens, default=-1) + 1


@dataclass(frozen=True)
class Session:
    """What a run has decided: its options, tokenizer, chat format, added tokens and encoded data.

    `prepared` is None where nothing is trained or evaluated by its loss.
    """

    options: RunOptions
    tokenizer: PreTrainedTokenizerBase
    template: Template
    added: Added
    prepared: Prepared | Tasks | None

    @classmethod
    def open(cls, options: RunOptions) -> Session:
        """Read what needs no weights, and refuse what can be refused.

        `config`: with the chat format of its checkpoints, see `with_trained_template`.
        """
        if options.training.do_train:
            check_optimizer(options.training)
            check_adapter_options(plan_adapters(options.model, options.finetuning), options.asked)
        elif options.stage.model_kind == "reward" and checkpoint_kind(options.model) != "reward":
            raise UserError(
                f"--stage {options.stage.name} evaluates a reward model, and "
                f"{(options.model.checkpoints or [options.model.model_name_or_path])[-1]} has no score head, so its "
                "scores would be random: give the --checkpoint_dir of a training of this stage"
            )
        tokenizer = load_tokenizer(options.model)
        added: Added = {}
        if options.finetuning.add_tokens:
            added = add_tokens(tokenizer, Path(options.finetuning.add_tokens).expanduser())
        template = get_template(options.data.template, tokenizer)
        prepared = None
        if options.training.do_train or options.training.do_eval:
            options = limited_to_window(options)
            if package := NEEDS.get(options.stage.name):
                need(package, extra="rl", why=f"--stage {options.stage.name}")
            place = PREPARE.get(options.stage.name)
            read: Callable[..., Prepared | Tasks] = import_object(place) if place else prepare
            with options.training.main_process_first(desc="encode the data"):
                prepared = read(options, tokenizer, template)
        if isinstance(prepared, Prepared) and isinstance(prepared.train, Examples) and options.training.do_train:
            check_last_batch(len(prepared.train), options.training)
        if isinstance(prepared, Prepared) and options.training.do_train and options.data.template is None:
            template = asked_as_learned(template, prepared)
            tokenizer.chat_template = tokenizer.chat_template and template.jinja  # saved with the checkpoint
        return cls(options, tokenizer, template, added, prepared)

    @cached_property
    def model_plan(self) -> ModelPlan:
        """How the model is loaded, and what is trained of it."""
        options = self.options
        return ModelPlan(
            kind=options.stage.model_kind,
            dtype=weights_dtype(options),
            attention=attention_of(options),
            adapters=plan_adapters(options.model, options.finetuning if options.training.do_train else None),
            new_tokens=tuple(sorted(self.added)),
        )

    @cached_property
    def foundation(self) -> list[dict[str, object]]:
        """The weights that the training begins from, without those that it trains further, as they are now."""
        return foundation_of(self.options)

    @property
    def decisions(self) -> dict[str, object]:
        """What the run has made of its options, for run.json."""
        options, plan = self.options, self.model_plan
        prompt, answer, whole = options.data.lengths
        return {
            "template": self.template.name,
            "dtype": plan.dtype,
            "computes_in": options.compute_dtype,
            "attention": plan.attention,
            "max_source_length": prompt,
            "max_target_length": answer,
            "cutoff_len": whole,
            "row_tokens": options.row_limit,
            **({"foundation": self.foundation} if options.training.do_train else {}),
            **record_of(options.training),
        }

    def load_model(self) -> AnyModel:
        """The model, with what is trained on it."""
        from transformers import set_seed

        options, training, plan = self.options, self.options.training, self.model_plan
        fit = training.do_train
        set_seed(training.seed)  # new adapters are drawn at random
        if options.model.checkpoints and checkpoint_kind(options.model) == "reward" != plan.kind:
            raise UserError(f"{options.model.checkpoints[-1]} is a reward model: it goes with --stage rm")
        model = load_model(options.model, dtype=plan.dtype, attention=plan.attention, kind=plan.kind)
        if plan.kind == "reward":  # a reader that pads with the end token would never score it
            self.tokenizer.pad_token = (
                find_pad_token(self.tokenizer, self.template.stop_ids) or self.tokenizer.pad_token
            )
        match_tokenizer(model, self.tokenizer, extended=bool(plan.new_tokens or tokenizer_checkpoint(options.model)))
        if self.added:
            begin(model, self.added)
        if fit and options.stage.has_chat_format:
            self._name_chat_format(model)
        adapted = apply_adapters(model, plan.adapters, plan.new_tokens)
        if fit:
            log.info("%s", describe_trainable(adapted))
        return adapted

    def _name_chat_format(self, model: PreTrainedModel) -> None:
        """Write the trained chat format and its end tokens into what checkpoints save for other programs."""
        self.tokenizer.chat_template = self.template.jinja
        ends = list(dict.fromkeys([*self.template.stop_ids, self.tokenizer.eos_token_id]))
        for options in (model.config, model.config.get_text_config()):
            options.eos_token_id = ends if len(ends) > 1 else ends[0]
        if getattr(model, "generation_config", None) is not None:
            model.generation_config.eos_token_id = ends

    def make_trainer(self, model: AnyModel) -> StageTrainer:
        """Return the trainer of the stage."""
        trainer = import_object(TRAINERS[self.options.stage.name])
        with reached_hub(self.options.training):
            made: StageTrainer = trainer(self.options, model, self.tokenizer, self.prepared)
        return made


def with_trained_template(options: RunOptions) -> RunOptions:
    """The options with named weights resolved, and with the chat format that the checkpoints were trained with."""
    model, data = with_named_weights(options.model, options.data)
    if data.template is not None:
        named_format(data.template)  # before anything is said of what it does
    return replace(options, model=model, data=as_trained(model, data))


def limited_to_window(options: RunOptions) -> RunOptions:
    """Return the options with lengths that the model's positions hold: longer records are cut by rule, and counted.

    The options keep what was asked. A stage that generates looks at the positions itself: they hold its answers too.
    """
    data = options.data
    window = getattr(load_config(options.model).get_text_config(), "max_position_embeddings", None)
    if not window or data.lengths.total <= window or options.stage.generates:
        return options
    log.info("records may have %d tokens, which is all that the model takes, not %d", window, data.lengths.total)
    return replace(options, data=replace(data, window=int(window)))


@contextmanager
def reached_hub(training: Training) -> Iterator[None]:
    """Turn the error of a hub that cannot be reached, or does not let in, into one line."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except (OSError, HfHubHTTPError) as error:
        if not training.push_to_hub:
            raise
        raise UserError(f"--push_to_hub: {' '.join(str(error).split())}") from error


def weights_dtype(options: RunOptions) -> str:
    """The precision the weights are loaded in.

    Frozen weights (LoRA, evaluation) in what the machine computes in; trained ones in float32, of which mixed precision
    makes its own copies: in bfloat16, steps smaller than 1/256 of a weight would be lost.
    """
    learns = options.training.do_train and options.finetuning.finetuning_type in ("full", "freeze")
    return "float32" if learns and options.model.dtype == "auto" else options.frozen_dtype


def attention_of(options: RunOptions) -> str | None:
    """transformers' name of the attention: completions are compared in padded batches, so the model's own in place of
    that of packed rows."""
    chosen = attention.choose(options.model.attention, model_class(options.model, options.stage.model_kind))
    return None if options.stage.compares_completions and chosen == attention.PACKED else chosen


def asked_as_learned(template: Template, prepared: Prepared) -> Template:
    """Return the template that asks a model as these records taught it to answer: directly, or with reasoning first.

    Only a template that writes something between its generation prompt and an answer, as Qwen3's empty <think> block,
    has the choice. `SAMPLED` examples are looked at: where all of their answers begin behind that markup, so will the
    model's. Else the template stays as its model brings it.
    """
    reasoning = template.reasoning_first()
    if not reasoning.lead:
        return template
    if isinstance(prepared.train, Examples):
        numbers = np.linspace(0, len(prepared.train) - 1, min(SAMPLED, len(prepared.train))).astype(int)
        examples = [tokens for number in numbers.tolist() for tokens in prepared.train[number]]
    else:
        examples = prepared.first()
    direct, seen = 0, 0
    for tokens in examples:
        learned = tokens.labels != IGNORED
        for start in np.flatnonzero(learned[1:] & ~learned[:-1]) + 1:
            before = tokens.input_ids[max(0, start - LEAD_TOKENS) : start].tolist()
            text = template.tokenizer.decode(before, skip_special_tokens=False, clean_up_tokenization_spaces=False)
            assert isinstance(text, str)
            direct, seen = direct + text.endswith(reasoning.lead), seen + 1
    if 0 < direct < seen:
        log.warning(
            "%d of %d sampled answers have no reasoning and the others do: the model is asked to reason unless the "
            "chat template gets enable_thinking=false",
            direct,
            seen,
        )
    return reasoning.answering_directly() if seen and direct == seen else reasoning
