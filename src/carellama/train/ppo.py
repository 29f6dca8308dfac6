"""Stage `ppo`: the policy answers prompts, a reward scores the answers, and what scored well becomes likelier.

For each rollout: answer the next prompts; score the answers; the reward of a token is - b (log pi - log ref), with the
score added at the last one; advantages by GAE over the values of a linear head on the last hidden state; then
`--ppo_epochs` passes in minibatches over the clipped losses (`advantages`). Schulman et al. 2017, arXiv:1707.06347, as
Stiennon et al. 2020 (arXiv:2009.01325, section 3.4 and appendix B.1) and Ouyang et al. 2022 (arXiv:2203.02155) use it.

Departures:
1. The value head sits on the policy and shares its adapter (Stiennon: a network of its own, begun from the reward
   model); it begins at zero, so that the first advantages are the rewards alone, and its loss weighs --ppo_value_coef.
2. The reference is the policy with its adapter switched off (adapters that came before stay on), so there is one copy
   of the weights; where whole weights are trained it is a frozen copy.
3. No dropout, in any pass: the ratio compares two states of one network, and begins at exactly 1.
4. The score is of the answer as text (`rewards`), not of the sampled ids.
5. Ratios are of the whole distribution at --temperature. With --top_p below 1 or --top_k the answers come from a part
   of it, and the gradient is biased; the log says so.
6. The adapted cost of KL takes Ziegler's step once a rollout (`advantages.adapted`), fixed unless --ppo_target.
7. An answer that --max_new_tokens cut is scored as it stands, less --ppo_no_end_penalty (0: as in TRL's default).
8. Advantages are whitened over the rollout, in all processes; there is no entropy bonus. The entropy that is logged
   is - log pi of the tokens that were drawn.

What is drawn depends on --seed, epoch, rollout and process alone, and a checkpoint holds the rollout it falls into: a
resumed run is the uninterrupted one. Answers come from whole weights: DDP, but neither FSDP nor DeepSpeed.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import astuple, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.modules.module import _IncompatibleKeys
from torch.utils.data import DataLoader

from carellama.config.run import RunOptions
from carellama.data.encoding.prepare import Prepared, data_seed
from carellama.data.encoding.prompts import Task, Tasks, prepare_tasks
from carellama.engine.base import Sampling
from carellama.engine.transformers.engine import GeneratedIds, TransformersEngine
from carellama.errors import UserError
from carellama.model.adapters import ReferenceModel
from carellama.model.lora import AnyModel, base_of
from carellama.records import Tokens
from carellama.templates.template import Template, get_template
from carellama.train.chunked_loss import Batch, token_logps
from carellama.train.divergence_guard import LossTerm
from carellama.train.policy_gradient import RunningMoments, adapt_kl_coefficient, gae, ppo_losses, token_rewards
from carellama.train.reward.model import check_reward, load_reward
from carellama.train.rollout import (
    TOKEN_VALUES,
    Rollout,
    RolloutLoader,
    index_batch,
    load_state,
    make_example,
    save_state,
)
from carellama.train.trainer import PackedTrainer, add_intervals

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from carellama.data.encoding.examples import Examples

log = logging.getLogger(__name__)

VALUE_HEAD_NAME = "value_head"  # its name in the model; its file lies beside the adapter
EVAL_SEED = 1 << 20  # in place of an epoch, for what evaluation draws


def prepare(options: RunOptions, tokenizer: PreTrainedTokenizerBase, template: Template) -> Tasks:
    """Check the reward and read the prompts. Raises `UserError` before the model is loaded."""
    check_reward(str(options.reward.reward_model), options, tokenizer)
    return prepare_tasks(options, tokenizer, template)


class PPOTrainer(PackedTrainer):
    """Learns from scores of its own answers; evaluation answers held-out prompts and gives their mean score."""

    def __init__(self, options: RunOptions, model: AnyModel, tokenizer: PreTrainedTokenizerBase, tasks: Tasks) -> None:
        train = cast("Examples", range(len(tasks.train)))  # what evaluation and the loader ask for: a length and places
        held_out = cast("Examples", range(len(tasks.held_out))) if tasks.held_out else None
        if options.training.ddp_find_unused_parameters is None:
            # it would not find the value head, behind forward
            options = options.with_training(ddp_find_unused_parameters=False)
        numbers = Prepared(train, held_out, tasks.report, tasks.sources, packed=False)
        super().__init__(options, model, tokenizer, numbers)
        self.eval_parts = tasks.parts
        if self.sharded:
            raise UserError("--stage ppo answers with whole weights: launch it with DDP, not FSDP or DeepSpeed")
        self.options, self.seed = options.ppo, data_seed(options)
        self.tasks = tasks
        self.collate_rows = self.data_collator
        self.data_collator = index_batch  # type: ignore[assignment]  # of evaluation: numbers of tasks
        template = get_template(options.data.template, tokenizer)
        self.engine = TransformersEngine(self.model, tokenizer, template, self.args.per_device_eval_batch_size)
        self.sampling = Sampling.of(options.generating)
        dropouts = [module for module in self.model.modules() if isinstance(module, torch.nn.Dropout) and module.p]
        for module in dropouts:  # departure 3
            module.p = 0.0
        if dropouts:
            log.info("ppo trains without dropout")
        learns = any(parameter.requires_grad for parameter in self.model.parameters())
        compares = learns or hasattr(self.model, "peft_config")
        self.reference = ReferenceModel(self.model, sharded=self.sharded) if compares else None
        self.score = load_reward(str(options.reward.reward_model), options, tokenizer, self.model)
        self.coefficient, self.moments = self.options.ppo_kl_coef, RunningMoments()
        self._resumed: dict[str, torch.Tensor] = {}
        self._current: Rollout | None = None
        if learns:
            self.value_head = add_value_head(self.model)
            if self.sampling.top_p < 1 or self.sampling.top_k:
                log.warning("--top_p below 1 and --top_k bias the gradient: they leave out part of the distribution")

    @property
    def rollout_size(self) -> int:
        """Answers of a rollout in this process."""
        args = self.args
        return int(args.per_device_train_batch_size * args.gradient_accumulation_steps * self.options.ppo_buffer_size)

    @property
    def rollout_batches(self) -> int:
        """Batches that are made of a rollout."""
        return self.options.ppo_epochs * self.rollout_size // int(self.args.per_device_train_batch_size)

    @property
    def rollouts(self) -> int:
        """Rollouts of an epoch: all prompts are answered, and some twice where they do not divide."""
        return -(-len(self.tasks.train) // (self.rollout_size * int(self.args.world_size)))

    def get_train_dataloader(self) -> DataLoader:
        """A plain loader: it must not read ahead, or a rollout would come from the policy of a step before."""
        return RolloutLoader(self.rollouts * self.rollout_batches, self.batches)

    def batches(self) -> Iterator[Batch | None]:
        """The batches of the epoch that the training is in; None for those that were taken before it was resumed.

        `Trainer` passes over these, and does not know that nothing was computed for them.
        """
        taken = self.state.global_step * self.args.gradient_accumulation_steps
        epoch, done = divmod(taken, self.rollouts * self.rollout_batches)
        yield from itertools.repeat(None, done)
        first, within = divmod(done, self.rollout_batches)
        for number in range(first, self.rollouts):
            if number == first and within:
                self._current = self._restore_rollout()
            else:
                within, self._current = 0, self.rollout(epoch, number)
            draw = np.random.default_rng(self._seeds(epoch, number))
            size = int(self.args.per_device_train_batch_size)
            batches = self._current.minibatches(size, self.options.ppo_epochs, draw, self.collate_rows)
            yield from itertools.islice(batches, within, None)

    def _seeds(self, epoch: int, number: int) -> list[int]:
        return [self.seed, epoch, number, self.args.process_index]

    def rollout(self, epoch: int, number: int) -> Rollout:
        """Answer the next prompts, score the answers, and compute what each token was worth."""
        answers, tokens, scores = self._generate(self._select_prompts(epoch, number), self._seeds(epoch, number))
        logps, values, others = self._logps_and_values(tokens)
        kls = [float((own - other).sum()) for own, other in zip(logps, others, strict=True)]
        rewards = [
            token_rewards(own, other, score, self.coefficient)
            for own, other, score in zip(logps, others, self._normalize_scores(scores, answers), strict=True)
        ]
        if self.options.ppo_whiten_rewards:
            rewards = self._whiten(rewards, shift=False)
        estimates = [
            gae(one, value, self.options.ppo_gamma, self.options.ppo_lambda)
            for one, value in zip(rewards, values, strict=True)
        ]
        advantages = self._whiten([one for one, _ in estimates], shift=True)
        self._log_rollout(scores, kls, logps, answers)
        return Rollout(
            tokens,
            {"logps": logps, "values": values, "advantages": advantages, "returns": [one for _, one in estimates]},
        )

    def _select_prompts(self, epoch: int, number: int) -> list[Task]:
        """The prompts of a rollout: the next of the epoch's order, this process's share of them."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.tasks.train))
        size, world = self.rollout_size, int(self.args.world_size)
        order = np.resize(order, self.rollouts * size * world)
        start = (number * world + int(self.args.process_index)) * size
        return [self.tasks.train[index] for index in order[start : start + size]]

    def _generate(
        self, tasks: Sequence[Task], seeds: list[int]
    ) -> tuple[list[GeneratedIds], list[Tokens], list[float]]:
        """Answers, the same with their prompts as tokens, and their scores.

        Raises `UserError` in all processes where it fails in one: the others would wait for it.
        """
        failure = None
        answers: list[GeneratedIds] = []
        scores: list[float] = []
        asked = [self.tasks.encode(task) for task in tasks]
        seed = int(np.random.SeedSequence(seeds).generate_state(1)[0])
        try:
            with torch.no_grad():
                answers = self.engine.complete_ids(asked, replace(self.sampling, seed=seed))
                scores = self.score([task.prompt for task in tasks], [answer.text for answer in answers])
        except UserError as error:
            failure = str(error)
        if (failure := self.failure_of_any(failure)) is not None:
            raise UserError(failure)
        tokens = [
            make_example([*ids, *answer.ids], len(ids), str(task.place))
            for task, ids, answer in zip(tasks, asked, answers, strict=True)
        ]
        return answers, tokens, scores

    @torch.no_grad()
    def _logps_and_values(
        self, tokens: list[Tokens]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
        """Of each answer's tokens: log-probabilities, values, and log-probabilities in the reference, on the CPU."""
        model = self.model
        model.eval()
        found: tuple[list[torch.Tensor], ...] = ([], [], [])
        size = int(self.args.per_device_train_batch_size)
        for start in range(0, len(tokens), size):
            batch = self._prepare_inputs(self.collate_rows([[one] for one in tokens[start : start + size]]))
            logps, values, lengths = self._forward(model, batch)
            others = logps
            if self.reference is not None:
                with self.reference.use(model) as reference:
                    others, *_ = self._forward(reference, batch)
            for part, all_tokens in zip(found, (logps, values, others), strict=True):
                part += all_tokens.cpu().split(lengths)
        return found[0], found[1], found[2]

    def _forward(self, model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
        """Log-probability and value of each answer token, (N,) float32, and how many each answer has."""
        logps, hidden, record, count = token_logps(
            model, batch, chunked=self.chunked, dtype=self.head_dtype, temperature=self.sampling.temperature
        )
        head = getattr(self, VALUE_HEAD_NAME, None)
        values = torch.zeros_like(logps) if head is None else F.linear(hidden.float(), head.weight, head.bias)[:, 0]
        return logps, values, torch.bincount(record, minlength=count).tolist()

    def _normalize_scores(self, scores: list[float], answers: list[GeneratedIds]) -> list[float]:
        """The scores as they are learned from: scaled, and less the penalty of answers without an end."""
        if self.options.ppo_score_norm:
            numbers = np.array(scores)
            self.moments.add(*self._sum_over_ranks(len(scores), numbers.sum(), (numbers**2).sum()))
            scores = [(score - self.moments.mean) / self.moments.deviation for score in scores]
        cost = self.options.ppo_no_end_penalty
        return [score if answer.reached_eos else score - cost for score, answer in zip(scores, answers, strict=True)]

    def _whiten(self, parts: list[torch.Tensor], *, shift: bool) -> list[torch.Tensor]:
        """Scaled to variance 1 over all tokens of all processes, and to mean 0 with `shift`."""
        flat = torch.cat(parts).double()
        moments = RunningMoments()
        moments.add(*self._sum_over_ranks(len(flat), float(flat.sum()), float((flat**2).sum())))
        white = (flat - moments.mean) / moments.deviation + (0.0 if shift else moments.mean)
        return list(white.float().split([len(part) for part in parts]))

    def _sum_over_ranks(self, *numbers: float) -> list[float]:
        """The sums of these over all processes."""
        mine = torch.tensor([float(number) for number in numbers], dtype=torch.float64, device=self.args.device)
        every: list[float] = self.accelerator.reduce(mine, "sum").tolist()
        return every

    def _log_rollout(
        self, scores: list[float], kls: list[float], logps: list[torch.Tensor], answers: list[GeneratedIds]
    ) -> None:
        """Log the rollout, of all processes together, and adapt the cost of KL for the next."""
        count, score, kl, surprise, tokens, ended = self._sum_over_ranks(
            len(scores), sum(scores), sum(kls), -sum(float(one.sum()) for one in logps), sum(map(len, logps)),
            sum(answer.reached_eos for answer in answers),
        )  # fmt: skip
        measured = {
            "ppo/score": score / count,
            "ppo/kl": kl / count,
            "ppo/kl_coef": self.coefficient,
            "ppo/entropy": surprise / tokens,
            "ppo/length": tokens / count,
            "ppo/ended": ended / count,
        }
        self.note(measured)
        self.coefficient = adapt_kl_coefficient(self.coefficient, kl / count, self.options.ppo_target)

    def batch_loss(self, model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum of the losses of the answers' tokens."""
        row = {name: value for name, value in batch.items() if not name.startswith("old_")}
        logps, values, _ = self._forward(model, row)
        losses = ppo_losses(logps, values, {name: batch[f"old_{name}"] for name in TOKEN_VALUES}, self.options)
        measured = {
            "ppo/policy_loss": losses.policy,
            "ppo/value_loss": losses.value,
            "ppo/clip_fraction": losses.clipped,
            "ppo/approx_kl": losses.apart,
        }
        self.note(measured)
        return losses.each.sum(), self.units(batch)

    def loss_terms(self) -> list[LossTerm]:
        """The term of the values, of the last batch."""
        values = self._noted.get("ppo/value_loss")
        if not values:
            return []
        name = f"the value term (--ppo_value_coef {self.options.ppo_value_coef:g} x {values[-1]:.4g})"
        advice = "the value head is far from the scores; give --ppo_score_norm, or lower --learning_rate"
        return [LossTerm(name, self.options.ppo_value_coef * values[-1], advice)]

    def units(self, batch: Batch) -> torch.Tensor:
        """Tokens of the answers."""
        return torch.tensor(len(batch["old_logps"]), device=batch["old_logps"].device)

    @torch.no_grad()
    def batch_values(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Of each prompt's answer: score, KL, tokens, whether it ended, and the prompt's number, (prompts, 5)."""
        assert self.tasks.held_out is not None
        numbers = batch["numbers"].tolist()
        tasks = [self.tasks.held_out[number] for number in numbers]
        answers, tokens, scores = self._generate(tasks, [self.seed, EVAL_SEED, *numbers])
        own, _, other = self._logps_and_values(tokens)
        rows = [
            [score, float((mine - theirs).sum()), len(mine), answer.reached_eos, number]
            for score, mine, theirs, answer, number in zip(scores, own, other, answers, numbers, strict=True)
        ]
        return torch.tensor(rows, dtype=torch.float64)

    def summary(self, values: np.ndarray) -> dict[str, float]:
        """Mean score with a 95% bootstrap interval over the prompts, mean KL and length, share of ended answers.

        Several processes answer the last prompts twice, so that each has as much to do: a prompt counts once.
        """
        _, first = np.unique(values[:, 4], return_index=True)
        values = values[first]
        found = add_intervals({"score": values[:, 0]}) | {"samples": len(values)}
        return found | {name: float(values[:, at].mean()) for at, name in ((1, "kl"), (2, "length"), (3, "ended"))}

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        """Save the model as other stages do, and its value head in a file of its own."""
        if not hasattr(self, VALUE_HEAD_NAME):
            super()._save(output_dir, state_dict)
            return
        every = self.model.state_dict() if state_dict is None else state_dict
        super()._save(output_dir, {name: one for name, one in every.items() if not name.startswith(VALUE_HEAD_NAME)})
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            save_state(folder / f"{VALUE_HEAD_NAME}.safetensors", self.value_head.state_dict())

    def _save_rng_state(self, output_dir: str) -> None:
        """Each process also keeps the rollout that its next batch comes from, if there is one, and what it adapts."""
        super()._save_rng_state(output_dir)
        numbers = [self.coefficient, *astuple(self.moments)]
        state = {"kept": torch.tensor(numbers, dtype=torch.float64)}
        if self.state.global_step * self.args.gradient_accumulation_steps % self.rollout_batches:
            assert self._current is not None
            state |= self._current.tensors()
        save_state(Path(output_dir) / f"rollout_{self.args.process_index}.safetensors", state)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        """Load the model, its value head, and what `_save_rng_state` kept."""
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        folder = Path(resume_from_checkpoint)
        self.value_head.load_state_dict(load_state(folder / f"{VALUE_HEAD_NAME}.safetensors"))
        self._resumed = load_state(folder / f"rollout_{self.args.process_index}.safetensors")
        self.coefficient, count, mean, squares = self._resumed.pop("kept").tolist()
        self.moments = RunningMoments(count, mean, squares)

    def _issue_warnings_after_load(self, load_result: _IncompatibleKeys) -> None:
        """The value head is not missing: it lies in a file of its own."""
        load_result.missing_keys[:] = [key for key in load_result.missing_keys if not key.startswith(VALUE_HEAD_NAME)]
        super()._issue_warnings_after_load(load_result)

    def _restore_rollout(self) -> Rollout:
        """The rollout that the checkpoint fell into. Raises `UserError` where the options cut rollouts otherwise."""
        kept = Rollout.of(self._resumed) if self._resumed else None
        if kept is None or len(kept) != self.rollout_size:
            raise UserError(
                "the checkpoint lies within a rollout of another size: go on with the batch size, accumulation, "
                "--ppo_buffer_size and --ppo_epochs that it was made with"
            )
        return kept


def add_value_head(model: AnyModel) -> torch.nn.Linear:
    """Put a value head on the model, beginning at zero (departure 1)."""
    head = cast("torch.nn.Linear", base_of(model).get_output_embeddings())
    device = next(model.parameters()).device
    value = torch.nn.Linear(head.in_features, 1, device=device, dtype=torch.float32)
    torch.nn.init.zeros_(value.weight)
    torch.nn.init.zeros_(value.bias)
    setattr(model, VALUE_HEAD_NAME, value)
    return value
