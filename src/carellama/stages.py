"""The training stages: what each learns from, what its loss needs at once, and how its model is loaded.

    stage = STAGES["dpo"]
    stage.records, stage.examples_per_record        # (Pair,), 2

Facts only. A new stage is a row here, a trainer in `carellama.train` (named in its `TRAINERS`), its options in
`carellama.config`, and a test. What depends on a further option stays with that option (`RunOptions.has_reference`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from carellama.records import Chat, Pair, Question, Text

ModelKind = Literal["causal", "reward"]  # reward: one score for a text
Objective = Literal["tokens", "scores", "answers", "completions"]  # what the memory estimate models
PAIR_METRICS = ("loss", "accuracy", "margin")
PROMPTS = ((Question, Chat, Pair), "exam questions, conversations and preference pairs")
LESS_IS_BETTER = ("loss", "perplexity", "kl")  # of the metrics
INTERVAL_ENDS = ("_low", "_high")  # behind a metric's name: the ends of its confidence interval


@dataclass(frozen=True)
class Stage:
    """One training stage.

    `loss_unit`: neighbouring examples that one term of the loss needs (a text, the two answers of a pair), so that a
    batch can be learned from in parts; None: the loss is that of a batch as a whole.
    `metrics`: what evaluation measures; of several held-out datasets also under DATASET_METRIC.
    """

    name: str
    records: tuple[type, ...]  # what a row of the data must become
    record_label: str  # the same, in messages
    example: str  # a bundled dataset of such rows
    metrics: tuple[str, ...]
    metric_aliases: Mapping[str, str] = field(default_factory=dict)  # other names that --metric_for_best_model takes
    loss_noun: str = "token"  # what the loss is a mean over
    curve: tuple[str, str, str] | None = None  # plotted in place of the loss: key of the log, of evaluation, its label
    examples_per_record: int = 1  # 2: the better and the worse answer
    loss_unit: int | None = None
    min_batch: int = 1
    model_kind: ModelKind = "causal"
    objective: Objective = "tokens"
    has_chat_format: bool = True  # no: texts are learned as they are
    needs_judged_answers: bool = False  # an answer that nobody judged is refused
    refuses_bad_answers: bool = False
    can_pack: bool = False
    packs_by_default: bool = False
    predicts: bool = False  # --do_predict answers its data
    starts_from_reference: bool = False  # adapters of --checkpoint_dir are merged: the model is compared with that
    reference_in_step: bool = False  # the reference is asked within the step, not before it
    compares_mismatched: bool = False  # each batch is also read with the answers of other prompts
    generates: bool = False  # learns from answers of its own: needs whole weights and all prompts, no stream
    keeps_rollout: bool = False  # a checkpoint may stand within a rollout, which belongs to its process
    compares_completions: bool = False  # with the other answers to the same prompt, in padded batches

    @property
    def can_chat(self) -> bool:
        """Whether its model answers in conversations."""
        return self.has_chat_format and self.model_kind == "causal"


STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage(
            "pt",
            records=(Text,),
            record_label="plain text",
            example="pretrain_en",
            metrics=("loss", "perplexity"),
            loss_unit=1,
            has_chat_format=False,
            can_pack=True,
            packs_by_default=True,
        ),
        Stage(
            "sft",
            records=(Chat,),
            record_label="conversations",
            example="consult_en",
            metrics=("loss", "perplexity"),
            loss_unit=1,
            refuses_bad_answers=True,
            can_pack=True,
            predicts=True,
        ),
        Stage(
            "rm",
            records=(Pair,),
            record_label="preference pairs",
            example="preference_en",
            metrics=PAIR_METRICS,
            loss_noun="pair",
            examples_per_record=2,
            loss_unit=2,
            model_kind="reward",
            objective="scores",
        ),
        Stage(
            "dpo",
            records=(Pair,),
            record_label="preference pairs",
            example="preference_en",
            metrics=PAIR_METRICS,
            loss_noun="pair",
            examples_per_record=2,
            loss_unit=2,
            objective="answers",
            starts_from_reference=True,
            reference_in_step=True,
        ),
        Stage(
            "kto",
            records=(Chat, Pair),
            record_label="answers judged good or bad",
            example="preference_en",
            metrics=("loss", "rewards_chosen", "rewards_rejected", "margin"),
            loss_noun="answer",
            min_batch=2,
            objective="answers",
            needs_judged_answers=True,
            starts_from_reference=True,
            reference_in_step=True,
            compares_mismatched=True,
        ),
        Stage(
            "ppo",
            records=PROMPTS[0],
            record_label=PROMPTS[1],
            example="consult_en",
            metrics=("score", "kl", "length", "ended"),
            curve=("ppo/score", "eval_score", "score of an answer"),
            objective="answers",
            starts_from_reference=True,
            generates=True,
            keeps_rollout=True,
        ),
        Stage(
            "grpo",
            records=PROMPTS[0],
            record_label=PROMPTS[1],
            example="consult_en",
            metrics=("reward", "length"),
            metric_aliases={"loss": "reward"},  # transformers' default
            curve=("reward", "eval_reward", "mean reward of an answer"),
            objective="completions",
            starts_from_reference=True,
            generates=True,
            compares_completions=True,
        ),
    )
}


def other_records(stage: Stage, kind: type, kind_name: str) -> str:
    """Say what to do with data of a kind that a stage does not take; `kind_name`: what its rows are, in words."""
    *able, last = (one.name for one in STAGES.values() if issubclass(kind, one.records))
    stages = f"{', '.join(able)} or {last}" if able else last
    return (
        f"--stage {stage.name} takes {stage.record_label}, and these rows are {kind_name}: give data such as "
        f"{stage.example}, or --stage {stages}"
    )


def plain_metric(metric: str) -> str:
    """`eval_loss_low` -> `loss`: the name of a metric without its prefix and the end of its interval."""
    name = metric.removeprefix("eval_")
    for end in INTERVAL_ENDS:
        name = name.removesuffix(end)
    return name


def greater_is_better(metric: str) -> bool:
    """Whether the best step is the one with the highest value; transformers asks only whether it is called a loss."""
    return not plain_metric(metric).endswith(LESS_IS_BETTER)
