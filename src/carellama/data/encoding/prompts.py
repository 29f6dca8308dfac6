"""Prompts that a model answers itself while it learns, each with what its answers are judged by.

    tasks = prepare_tasks(config, tokenizer, template)   # tasks.train, tasks.held_out, tasks.report

An exam question becomes one message, `exam_prompt`; of a conversation and of a pair the last answer is left out and
kept as `reference`. A prompt that is too long loses its earliest turns; one whose last question alone is too long is
refused, as what is asked would be lost. All of it is counted. What judges the answers is
`carellama.train.reward.verifiable`.
"""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from carellama.config.run import RunOptions
from carellama.data.convert import BadRecord
from carellama.data.datasets import SKIP_HINT, Dataset, load_datasets
from carellama.data.encoding.examples import metric_names
from carellama.data.encoding.mixing import held_out, mix
from carellama.data.encoding.prepare import data_seed, takes_kind
from carellama.data.file_format import KIND_NAMES
from carellama.data.readers import BadRow, Row
from carellama.data.report import DataReport
from carellama.errors import UserError
from carellama.model.load import load_config
from carellama.records import IGNORED, NOWHERE, Chat, JSONObject, Message, Pair, Place, Question, Record, Tokens
from carellama.stages import other_records
from carellama.templates.template import Template
from carellama.templates.tokenize import GroupEncoder
from carellama.text import HAN_CHARACTER, counted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)
EARLIER = "earlier turns left out"
ASKS = {  # (language, several answers): how an exam question is to be answered
    ("en", False): 'Answer with the letter of the one right option, as in "Answer: X".',
    ("en", True): 'Several options are right. Answer with all of their letters, as in "Answer: XY".',
    ("zh", False): "请选出唯一正确的选项，用字母作答，格式如“答案：X”。",
    ("zh", True): "正确的选项不止一个，请写出全部字母作答，格式如“答案：XY”。",
}
# [1] or 【1】 begins a passage, which ends with the next one or with an empty line
PASSAGE = re.compile(
    r"^[ \t\u3000]*(?:\[(\d{1,3})\]|【(\d{1,3})】)(.*(?:\n(?![ \t\u3000]*(?:[\[【]\d|\n|$)).*)*)", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Task:
    """A prompt (ending with the user), and what an answer to it can be compared with.

    `letters` are the right ones of an exam question and `options` all of its letters; `reference` is the answer (or
    explanation) that the record has, "" where it has none that was found good.
    """

    prompt: tuple[Message, ...]
    letters: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    reference: str = ""
    place: Place = NOWHERE

    @property
    def text(self) -> str:
        """All messages of the prompt, an empty line between them."""
        return "\n\n".join(message.content for message in self.prompt)


@dataclass(frozen=True)
class Tasks:
    """What a run is trained and measured on, with the account of every record; made as `Prepared` is."""

    train: list[Task]
    held_out: list[Task] | None
    report: DataReport
    sources: list[JSONObject]
    encode: Callable[[Task], list[int]]
    streams: bool = False
    parts: dict[str, slice] = field(default_factory=dict)  # of `held_out`: the tasks of each dataset, if several

    def first(self) -> list[Tokens]:
        """The first prompt as tokens, none of them learned."""
        ids = np.array(self.encode(self.train[0] if self.train else (self.held_out or [])[0]), dtype=np.int32)
        return [Tokens(ids, np.full(len(ids), IGNORED, dtype=np.int32))]


def exam_prompt(question: Question) -> str:
    """A question with its options, a line each, and how it is to be answered, in its own language."""
    chinese = HAN_CHARACTER.search(question.stem + "".join(question.options.values())) is not None
    options = [f"{letter}. {text}" for letter, text in question.options.items()]
    return "\n".join([question.stem, *options, ASKS["zh" if chinese else "en", len(question.answers) > 1]])


def numbered_passages(text: str) -> dict[int, str]:
    """The passages of a prompt by their number: lines that begin with [1] or 【1】, up to an empty line."""
    return {int(found[1] or found[2]): found[3].strip() for found in PASSAGE.finditer(text) if found[3].strip()}


def task_of(record: Record, system: str | None = None) -> Task:
    """The task that a record makes; `system` is the system message of a question, which has none of its own."""
    if isinstance(record, Question):
        asked = Message("user", exam_prompt(record))
        prompt = (Message("system", system), asked) if system else (asked,)
        return Task(prompt, record.answers, tuple(record.options), record.explanation, record.place)
    if isinstance(record, Pair):
        return Task(record.prompt, reference=record.chosen, place=record.place)
    assert isinstance(record, Chat), f"{type(record).__name__} has no prompt"
    return Task(record.prompt, reference="" if record.good is False else record.response, place=record.place)


def prompt_ids(encoder: GroupEncoder, template: Template, prompts: Sequence[Sequence[Message]]) -> list[list[int]]:
    """The ids that the answers to these prompts start from: the very ids of `TransformersEngine` and of `sft`."""
    groups = [[template.prompt_group(prompt)] for prompt in prompts]
    return [ids.tolist() for (ids,) in encoder.encode(groups)]


def prepare_tasks(options: RunOptions, tokenizer: PreTrainedTokenizerBase, template: Template) -> Tasks:
    """Read, check, mix and hold out the prompts of a run. Raises `UserError` before anything is trained."""
    data, seed = options.data, data_seed(options)
    encoder = GroupEncoder(tokenizer)
    reader = _Reader(options, lambda prompt: len(prompt_ids(encoder, template, [prompt])[0]))
    training = options.training.do_train
    sets = reader.read_all(data.datasets, data.max_samples if training else data.eval_limit)
    out: list[_PromptSet] | None = None
    if data.eval_dataset:
        out = reader.read_all(data.eval_datasets, data.max_eval_samples)
        if training:
            reader.count_shared(out, sets)
    elif data.val_size:
        sets, out = reader.hold_out(sets, data.val_size, seed)
    elif not training:
        out = sets
    train = [task for one in sets for task in one.tasks]
    if training:
        order = mix([len(one.tasks) for one in sets], data.mix_strategy, data.probabilities, seed)
        train = [sets[number].tasks[entry] for number, entry in order.tolist()]
        reader.count_shares(order, sets, data.mix_strategy)
    held = None if out is None else [task for one in out for task in one.tasks]
    return Tasks(
        train, held, reader.report, reader.sources, lambda task: prompt_ids(encoder, template, [task.prompt])[0],
        parts=_parts(out or []),
    )  # fmt: skip


@dataclass(frozen=True)
class _PromptSet:
    """The prompts of one dataset, and its name in the report."""

    name: str
    tasks: list[Task]


def _parts(sets: Sequence[_PromptSet]) -> dict[str, slice]:
    """Return where the prompts of each dataset are when all stand one after the other; {} for a single one."""
    ends = np.cumsum([0, *(len(one.tasks) for one in sets)]).tolist()
    every = zip(metric_names([one.name for one in sets]), itertools.pairwise(ends), strict=True)
    return {name: slice(*ends) for name, ends in every} if len(sets) > 1 else {}


class _Reader:
    """Rows of a dataset to tasks that fit, with the account of all of them."""

    def __init__(self, options: RunOptions, tokens: Callable[[Sequence[Message]], int]) -> None:
        self.data, self.stage, self.tokens = options.data, options.stage, tokens
        self.report, self.sources = DataReport(), list[dict[str, object]]()
        self._sets: dict[tuple[str, int | None], _PromptSet] = {}
        self.rewards = options.grpo.names
        context = getattr(load_config(options.model).get_text_config(), "max_position_embeddings", None)
        self.room = self.data.lengths.prompt
        if context is not None:
            self.room = min(self.room, int(context) - options.generating.max_new_tokens)
        if self.room < 1:
            raise UserError(
                f"--max_new_tokens {options.generating.max_new_tokens} leaves no room for a prompt: "
                f"the model takes {context:,} tokens in all"
            )

    def read_all(self, names: list[str], limit: int | None) -> list[_PromptSet]:
        """Return the prompts of these datasets, each counted once in `report` and `sources`."""
        found = []
        for dataset in load_datasets(names, self.data):
            key = (dataset.name, limit)
            if key not in self._sets:
                self._sets[key] = self._counted(dataset, limit)
            found.append(self._sets[key])
        return found

    def _counted(self, dataset: Dataset, limit: int | None) -> _PromptSet:
        tasks, counts = self.read(dataset, limit)
        if not tasks:
            raise UserError(f"dataset {dataset.name!r}: no row could be used; see {'; '.join(counts.lines()[1:])}")
        entry = counts.datasets[dataset.name]
        name = self.report.add_dataset(dataset.name, counts, dataset.remarks(), limit, self.data.max_samples)
        self.sources.append(
            {"name": name, "where": dataset.where, "hub": dataset.hub, "licence": dataset.licence,
             "sha1": dataset.digest(), "rows": entry.rows, "used": entry.used, "tokens": None}
        )  # fmt: skip
        return _PromptSet(name, tasks)

    def count_shared(self, others: Sequence[_PromptSet], sets: Sequence[_PromptSet]) -> None:
        """Say how many prompts of --eval_dataset are trained on too."""
        known = {task.prompt for one in sets for task in one.tasks}
        for other in others:
            if shared := sum(task.prompt in known for task in other.tasks):
                line = (
                    f"{shared} of {counted(len(other.tasks), 'prompt')} of --eval_dataset are also in the training data"
                )
                self.report.say(other.name, line)
                log.warning("%s: %s", other.name, line)

    def count_shares(self, order: np.ndarray, sets: Sequence[_PromptSet], strategy: str) -> None:
        """Say what an epoch takes of each dataset where a mix takes a part of it, or repeats it."""
        for number, one in enumerate(sets):
            taken, size = int((order[:, 0] == number).sum()), len(one.tasks)
            if taken < size:
                self.report.say(
                    one.name, f"{taken} of {counted(size, 'prompt')} in an epoch ({strategy}), the same in each"
                )
            elif taken > size:
                self.report.say(one.name, f"{counted(taken, 'prompt')} in an epoch, repeated from {size} ({strategy})")

    def hold_out(
        self, sets: Sequence[_PromptSet], val_size: float, seed: int
    ) -> tuple[list[_PromptSet], list[_PromptSet]]:
        """Divide the prompts of all datasets: a held-out prompt is evaluated once, and its copies are left out."""
        numbers: dict[tuple[Message, ...], int] = {}
        for task in (task for one in sets for task in one.tasks):
            numbers.setdefault(task.prompt, len(numbers))
        chosen = set(held_out(len(numbers), val_size, seed).tolist())
        train, out = list[_PromptSet](), list[_PromptSet]()
        for one in sets:
            left = [task for task in one.tasks if numbers[task.prompt] not in chosen]
            held = {task.prompt: task for task in reversed(one.tasks) if numbers[task.prompt] in chosen}
            for earlier in out:
                for task in earlier.tasks:
                    held.pop(task.prompt, None)
            self.report.say(one.name, f"{counted(len(held), 'prompt')} held out for evaluation")
            if copies := len(one.tasks) - len(left) - len(held):
                self.report.say(
                    one.name, f"{counted(copies, 'copy', 'copies')} of held-out prompts left out of training"
                )
                log.warning("%s: %d copies of held-out prompts are left out of training", one.name, copies)
            train.append(_PromptSet(one.name, left))
            out.append(_PromptSet(one.name, list(reversed(held.values()))))
        return train, [one for one in out if one.tasks]

    def read(self, dataset: Dataset, limit: int | None) -> tuple[list[Task], DataReport]:
        """Return the prompts of the first rows and their report.

        Raises `BadRecord` for a row that cannot be used, unless such rows are skipped.
        """
        report, found = DataReport(), list[Task]()
        report.row(dataset.name, 0)
        for row in itertools.islice(dataset.rows(), limit):
            report.row(dataset.name)
            try:
                task = self._task(dataset, row)
                fitted = self._fitted(task)
            except BadRecord as error:
                if self.data.on_bad_record == "error":
                    known = takes_kind(self.stage, dataset)
                    raise (error.with_hint(SKIP_HINT) if known else error) from error
                report.note(dataset.name, "skipped", error.place, error.reason)
                continue
            if fitted is not task:
                report.note(dataset.name, "shortened", task.place, EARLIER)
            found.append(fitted)
        return found, report

    def _task(self, dataset: Dataset, row: Row | BadRow) -> Task:
        record = dataset.record(row, self.data.system_prompt)
        if not isinstance(record, self.stage.records):
            raise BadRecord(row.place, other_records(self.stage, type(record), KIND_NAMES[type(record)]))
        task = task_of(record, dataset.system or self.data.system_prompt)
        for reward in self.rewards:
            if reward in NEEDS and not NEEDS[reward][0](task):
                raise BadRecord(row.place, NEEDS[reward][1])
        return task

    def _fitted(self, task: Task) -> Task:
        """The task, without as many of its earliest turns as do not fit."""
        prompt = task.prompt
        lead = int(prompt[0].role == "system")
        try:
            while (count := self.tokens(prompt)) > self.room:
                if len(prompt) - lead < 3:
                    raise BadRecord(
                        task.place, "the prompt is too long",
                        f"{count} tokens; {self.room} fit (--max_source_length, and the model's length less "
                        "--max_new_tokens)",
                    )  # fmt: skip
                prompt = (*prompt[:lead], *prompt[lead + 2 :])
        except BadRecord:
            raise
        except UserError as error:  # of the template
            raise BadRecord(task.place, str(error)) from error
        return task if prompt is task.prompt else replace(task, prompt=prompt)


# What a reward must find in a task, and how it is called where it is missing.
NEEDS: Mapping[str, tuple[Callable[[Task], object], str]] = {
    "letter": (lambda task: task.letters, "--rewards letter needs exam questions: this row has no right letter"),
    "citation": (
        lambda task: numbered_passages(task.text),
        "--rewards citation needs passages in the prompt, lines that begin with [1], [2], ...: this row has none",
    ),
}
