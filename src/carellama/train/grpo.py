"""Stage `grpo`: the model answers each prompt several times, and answers better than their siblings become likelier.

For the answers o_1..o_G to one prompt with rewards r_1..r_G, over each token t of each answer,

    A_i = (r_i - mean(r)) / std(r)
    loss = - mean_t min(w A_i, clip(w, 1 - e, 1 + e) A_i) + b KL(pi || ref),  w = pi(t) / pi_when_sampled(t)

(GRPO: Shao et al. 2024, arXiv:2402.03300, eq. 3 and 4; `--grpo_loss` says how tokens are averaged, dapo: Yu et al.
2025, arXiv:2503.14476.) The loss, the comparison and the sampling are those of TRL's `GRPOTrainer`. Departures from it:
1. prompts are rendered and tokenised by our template, and answers end where it says, as in `sft` and when serving;
2. the reference is the model with its new adapter switched off, also where a quantised base has earlier ones beside it,
   or a frozen copy of whole weights, `carellama.model.adapters.ReferenceModel`: TRL adds a copy of the adapter;
3. answers are sampled without dropout; adapters on a quantised base stay in float32;
4. evaluation is the mean reward of one answer to each held-out prompt, with an interval, not the loss;
5. checkpoints, log and stopping are ours, `carellama.train.checkpoints`; a resumed run draws the prompts that the whole
   one would have drawn, also in later epochs;
6. nothing is sent to anybody: no telemetry, no model card.

    tasks = prepare(config, tokenizer, template); GRPOTrainer(config, model, tokenizer, tasks).train()
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from accelerate.utils import gather, gather_object
from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from transformers.trainer_utils import TrainOutput
from trl import GRPOConfig
from trl import GRPOTrainer as TRLTrainer
from trl.trainer.utils import RepeatSampler

from carellama.config.run import RunOptions
from carellama.data.encoding.prompts import Task, Tasks, prepare_tasks, prompt_ids
from carellama.engine.transformers.generate import isolated_rng
from carellama.errors import UserError
from carellama.model.adapters import ReferenceModel
from carellama.model.lora import AnyModel
from carellama.records import Message, Role
from carellama.templates.template import Template, get_template
from carellama.templates.tokenize import GroupEncoder
from carellama.train.checkpoints import AtomicCheckpointMixin, json_log_callback
from carellama.train.divergence_guard import DivergenceGuard, LossTerm
from carellama.train.optimizer import OwnOptimizer
from carellama.train.reward.constitution import ConstitutionReward, load_judge, read_constitution
from carellama.train.reward.model import check_reward, load_reward
from carellama.train.reward.verifiable import Completions, Conversations, Reward, completion_text, load_rewards
from carellama.train.summary import EvaluationTable
from carellama.train.trainer import add_intervals

log = logging.getLogger(__name__)


class RewardFailed(UserError):
    """A reward that could not be given: the training ends with a checkpoint, in all processes at the same step."""


def prepare(options: RunOptions, tokenizer: PreTrainedTokenizerBase, template: Template) -> Tasks:
    """Read the prompts, and check all rewards. Raises `UserError` before the model is loaded."""
    arguments = options.grpo
    load_rewards(arguments)
    constitution = read_constitution(arguments.constitution_path) if "constitution" in arguments.names else None
    if options.reward.reward_model:
        check_reward(options.reward.reward_model, options, tokenizer)
    tasks = prepare_tasks(options, tokenizer, template)
    if constitution is not None:
        tasks.sources.append(constitution.source())
    prompts = cast("int", to_trl_config(options).generation_batch_size) // arguments.num_generations
    if options.training.do_train and len(tasks.train) < prompts:
        raise UserError(
            f"a step takes the answers to {prompts} prompts and there are {len(tasks.train)}: give a smaller "
            "--per_device_train_batch_size or --gradient_accumulation_steps, or a larger --num_generations"
        )
    return tasks


class GRPOTrainer(AtomicCheckpointMixin, OwnOptimizer, TRLTrainer):
    """TRL's trainer with our prompts, reference, evaluation and guarantees; see the head of this module."""

    processing_class: PreTrainedTokenizerBase
    num_generations: int
    args: GRPOConfig

    def __init__(self, options: RunOptions, model: AnyModel, tokenizer: PreTrainedTokenizerBase, tasks: Tasks) -> None:
        self.template = get_template(options.data.template, tokenizer)
        self.encoder = GroupEncoder(tokenizer)
        self._unable: str | None = None
        self._guard = DivergenceGuard()
        logging.getLogger("trl.trainer.grpo_trainer").setLevel(logging.ERROR)  # it would log prompts that got no reward
        rewards = self._loaded(options, model, tokenizer)
        learned = [one for one in model.parameters() if one.requires_grad]
        dtypes = [one.dtype for one in learned]
        super().__init__(
            model=model,
            reward_funcs=list[Any](rewards.values()),
            args=to_trl_config(options),
            train_dataset=to_trl_dataset(tasks.train or tasks.held_out or []),
            eval_dataset=to_trl_dataset(tasks.held_out) if tasks.held_out else None,
            processing_class=tokenizer,
            callbacks=[EvaluationTable(), json_log_callback(options.training.output_dir)],
        )
        self.loraplus_lr_ratio = options.finetuning.loraplus_lr_ratio
        for one, dtype in zip(learned, dtypes, strict=True):
            one.data = one.data.to(dtype)
        self.reward_func_names = list(rewards)
        self.eval_parts = tasks.parts  # the held-out prompts of each dataset
        if self.template.stop_ids:
            self.eos_token_ids = self.template.stop_ids
            self.generation_kwargs["eos_token_id"] = self.generation_config.eos_token_id = self.template.stop_ids
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        if options.grpo.grpo_beta and options.training.do_train:
            self.beta = options.grpo.grpo_beta
            reference = _ReferenceProxy(self.model, ReferenceModel(self.model, sharded=sharded))
            self.ref_model = reference  # type: ignore[assignment]  # a call is all that TRL does with it

    def _loaded(self, options: RunOptions, model: AnyModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, Reward]:
        """All rewards of `--rewards`, in its order."""
        found = load_rewards(options.grpo)
        if "constitution" in options.grpo.names:
            constitution = read_constitution(options.grpo.constitution_path)
            found["constitution"] = self._check_losses(ConstitutionReward(load_judge(options.grpo), constitution))
        if options.reward.reward_model:
            score = load_reward(options.reward.reward_model, options, tokenizer, model)

            def scored(prompts: Conversations, completions: Completions, **_columns: object) -> Sequence[float]:
                asked = [
                    tuple(Message(cast("Role", turn["role"]), turn["content"]) for turn in prompt) for prompt in prompts
                ]
                return score(asked, [completion_text(one) for one in completions])

            found["model"] = self._check_losses(scored)
        return {name: found[name] for name in options.grpo.names}

    def _check_losses(self, reward: Reward) -> Reward:
        """A reward whose failure is remembered: all processes must learn of it before any of them stops."""

        def judged(prompts: Conversations, **columns: object) -> Sequence[float | None]:
            try:
                return reward(prompts=prompts, **columns)
            except UserError as error:
                self._unable = str(error)
                return [None] * len(prompts)

        return judged

    def _calculate_rewards(
        self,
        inputs: Sequence[Mapping[str, object]],
        prompts: Conversations,
        completions: Conversations,
        completion_ids_list: Sequence[Sequence[int]],
    ) -> torch.Tensor:
        """The rewards (answers of all processes, rewards). Raises `RewardFailed` where one of them cannot be given."""
        spoken = [[{**one[0], "content": self._decode_completions(completion_text(one))}] for one in completions]
        found: torch.Tensor = super()._calculate_rewards(inputs, prompts, spoken, completion_ids_list)  # (N, K)
        infinite = torch.isinf(found).any(0).tolist()
        if self._unable is None and any(infinite):
            self._unable = f"--rewards {self.reward_func_names[infinite.index(True)]} gave a reward without end"
        unable = self.failure_of_any(self._unable)
        self._unable = None
        if unable is not None:
            raise RewardFailed(unable)
        return found

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,  # noqa: FBT001 - `Trainer`'s signature
        trial: dict[str, object] | None = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Train; a reward that cannot be given ends it early, with a checkpoint, and `failure` says why."""
        try:
            with quiet_trl():
                return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
        except RewardFailed as error:
            self.failure = str(error)
            self.save_what_was_learned()
            return TrainOutput(self.state.global_step, math.nan, {})

    def training_step(  # type: ignore[override]  # TRL's batches are rows
        self,
        model: torch.nn.Module,
        inputs: Sequence[Mapping[str, str]],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Answer, judge and learn. Raises `TrainingDiverged`, before the step is taken, for an impossible loss."""
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        self.check_loss(float(loss), list(dict.fromkeys(row["place"] for row in inputs)), self.loss_terms())
        return loss

    def loss_terms(self) -> list[LossTerm]:
        """The KL term of the last batch, by the mean that TRL has logged."""
        measured = self._metrics["train"].get("kl", [])
        if not self.beta or not measured:
            return []
        name = f"the KL term (--grpo_beta {self.beta:g} x {measured[-1]:.4g})"
        advice = "the model has moved far away from the reference; lower --learning_rate"
        return [LossTerm(name, self.beta * measured[-1] / self.args.gradient_accumulation_steps, advice)]

    def _tokenize_prompts(self, prompts: Conversations) -> tuple[list[list[int]], None, dict[str, object]]:
        asked = [[Message(cast("Role", turn["role"]), turn["content"]) for turn in prompt] for prompt in prompts]
        return prompt_ids(self.encoder, self.template, asked), None, {}

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], *args: object, **kwargs: object
    ) -> tuple[list[list[int]], object]:
        """Sample the answers, without dropout; cut each after a string that ends an answer in this template."""
        training = self.model.training
        self.model.eval()
        try:
            with quiet_trl():
                answers, logprobs = super()._generate_single_turn(prompt_ids, *args, **kwargs)
        finally:
            self.model.train(training)
        return [self._finish_reasons(ids) for ids in answers], logprobs

    def _finish_reasons(self, ids: list[int]) -> list[int]:
        if not self.template.stops:
            return ids
        text = self.processing_class.decode(ids)
        if not any(stop in text for stop in self.template.stops):
            return ids
        shortest, longest = 1, len(ids)  # the fewest tokens whose text has a stop
        while shortest < longest:
            middle = (shortest + longest) // 2
            text = self.processing_class.decode(ids[:middle])
            whole = any(stop in text for stop in self.template.stops)
            shortest, longest = (shortest, middle) if whole else (middle + 1, longest)
        return ids[:shortest]

    def _decode_completions(self, text: str) -> str:
        """An answer without what ended it, as an engine gives it."""
        ends = [*self.template.stops, *self.processing_class.convert_ids_to_tokens(self.template.stop_ids)]
        return text[: min((at for end in ends if (at := text.find(end)) >= 0), default=len(text))]

    def _get_train_sampler(self, dataset: Dataset | None = None) -> EpochSampler:
        return EpochSampler(
            self.train_dataset if dataset is None else dataset,  # type: ignore[arg-type]
            mini_repeat_count=self.num_generations,
            batch_size=cast("int", self.args.generation_batch_size) // self.num_generations,
            repeat_count=self.num_iterations * cast("int", self.args.steps_per_generation),
            seed=self.args.seed if self.args.data_seed is None else self.args.data_seed,
        )

    @torch.no_grad()
    def evaluate(
        self, eval_dataset: Dataset | None = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Return the mean reward of one answer to each held-out prompt, all in all and of each kind."""
        started = time.monotonic()
        data = self.eval_dataset if eval_dataset is None else eval_dataset
        self.prepare_evaluation()
        training = self.model.training
        self.model.eval()
        try:
            with isolated_rng(self.args.seed + self.accelerator.process_index, self.accelerator.device):
                found, lengths, shares = self._evaluate_rewards(data)
        finally:
            self.model.train(training)
        whole = (found * self.reward_weights.numpy()).sum(1, where=~np.isnan(found))
        scored = ~np.isnan(found).all(1)
        named = {"reward": whole[scored], **dict(zip(self.reward_func_names, found.T, strict=True))}
        metrics: dict[str, float] = {}
        for name, values in named.items():
            values, key = values[~np.isnan(values)], name if name == "reward" else f"rewards_{name}"
            if len(values):
                metrics |= add_intervals({key: values})
        for name, where in (self.eval_parts if eval_dataset is None else {}).items():
            of_part = add_intervals({"reward": whole[where][scored[where]]}) | {"samples": len(whole[where])}
            metrics |= {f"{name}_{key}": value for key, value in of_part.items()}
        metrics |= shares | {
            "length": float(lengths.mean()), "samples": len(found), "unscored": int((~scored).sum()),
            "runtime": round(time.monotonic() - started, 4),
        }  # fmt: skip
        metrics = {f"{metric_key_prefix}_{name.replace('/', '_')}": value for name, value in metrics.items()}
        self.model.eval()  # TRL keeps what it measured of training and evaluation apart by this
        self.log(dict(metrics))
        self.model.train(training)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _evaluate_rewards(self, data: Dataset) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
        """Rewards (prompts, K) and lengths of an answer to each prompt, and what the rewards tell beside them."""
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        size = self.args.per_device_eval_batch_size
        rewards, lengths, told = [], [], list[tuple[str, float]]()
        for start in range(0, len(data), size * world):
            rows = [data[min(start + rank * size + at, len(data) - 1)] for at in range(size)]
            prompts = [row["prompt"] for row in rows]
            answers, _ = self._generate_single_turn(self._tokenize_prompts(prompts)[0], None, {}, 1)
            texts = self.processing_class.batch_decode(answers, skip_special_tokens=True)
            completions = [[{"role": "assistant", "content": text}] for text in texts]
            rewards.append(self._calculate_rewards(rows, prompts, completions, answers).cpu())
            counts = torch.tensor([len(ids) for ids in answers], device=self.accelerator.device)
            lengths.append(gather(counts).cpu())
            told += [(name, value) for name, values in self._pending_metrics.items() for value in values]
            self._pending_metrics.clear()
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        shares: dict[str, list[float]] = {}
        for name, value in gather_object(told):
            shares.setdefault(name, []).append(value)
        means = {name: sum(values) / len(values) for name, values in shares.items()}
        return torch.cat(rewards)[: len(data)].double().numpy(), torch.cat(lengths)[: len(data)].double().numpy(), means

    def create_model_card(self, *args: object, **kwargs: object) -> None:
        """None is written: the output folder has run.json, and export writes the card."""

    def _send_telemetry(self) -> None:
        """Nothing is sent."""


class EpochSampler(RepeatSampler):
    """TRL's sampler, whose order depends on the seed and the epoch alone: a resumed run draws what comes next."""

    seed: int

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer at the beginning of each epoch."""
        self.generator.manual_seed(self.seed + epoch)


class _ReferenceProxy:
    """The reference in the place of TRL's `ref_model`: it is asked for log-probabilities, and nothing else."""

    def __init__(self, model: torch.nn.Module, reference: ReferenceModel) -> None:
        self.model, self.reference = model, reference

    def __call__(self, **inputs: object) -> object:
        with self.reference.use(self.model) as reference:
            return reference(**inputs)


def to_trl_config(options: RunOptions) -> GRPOConfig:
    """The run's training flags as TRL's. Raises `UserError` for what it cannot do."""
    training, grpo = options.training, options.grpo
    theirs = {field.name for field in dataclasses.fields(GRPOConfig) if field.init}
    shared = {
        field.name: getattr(training, field.name)
        for field in dataclasses.fields(training)
        if field.init and field.name in theirs
    }
    if training.metric_for_best_model == "loss":  # transformers' default; this stage is measured by its reward
        shared |= {"metric_for_best_model": "reward", "greater_is_better": True}
    try:
        return GRPOConfig(
            **shared
            | {
                "num_generations": grpo.num_generations, "num_generations_eval": 1, "beta": 0.0,  # see `beta` above
                "max_completion_length": options.generating.max_new_tokens, "temperature": grpo.rollout_temperature,
                "use_liger_kernel": False,  # TRL's is a loss of its own
                "loss_type": grpo.grpo_loss, "reward_weights": grpo.weights,
            }
        )  # fmt: skip
    except ValueError as error:
        raise UserError(" ".join(str(error).split())) from error


def to_trl_dataset(tasks: Sequence[Task]) -> Dataset:
    """Tasks as TRL takes them; the columns are what a reward function is given."""
    return Dataset.from_dict(
        {
            "prompt": [
                [{"role": message.role, "content": message.content} for message in task.prompt] for task in tasks
            ],
            "letters": [list(task.letters) for task in tasks],
            "options": [list(task.options) for task in tasks],
            "reference": [task.reference for task in tasks],
            "place": [str(task.place) for task in tasks],
        }
    )


@contextmanager
def quiet_trl() -> Iterator[None]:
    """Leave out the warnings of TRL and peft about old names that they use."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*gradient_checkpointing", category=FutureWarning)
        yield
