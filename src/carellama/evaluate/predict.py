"""Answers held-out conversations, scores the answers, and writes both down.

    predict(engine, chats, Sampling.of(GenerationOptions()), Path("predict_output"))

Writes `generated_predictions.jsonl` (prompt, label, predict; one line a record, in the order given) and
`predict_results.json` (the metric names of 2023, with intervals and counts). Reasoning before an answer is no part of
label and predict, and is written beside them as `reasoning`. With several processes (torchrun, accelerate) each answers
its share and the first one writes. It neither chooses records nor loads a model.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from carellama.config.environment import world
from carellama.engine.base import Engine, PreparedPrompt, Reply, Sampling
from carellama.engine.generate import generate
from carellama.errors import UserError
from carellama.evaluate.metrics import Metric, Scorer, flat, score
from carellama.files import atomic_write, write_json
from carellama.records import Chat, JSONObject, ToolCall
from carellama.text import split_reasoning

log = logging.getLogger(__name__)

PREDICTIONS = "generated_predictions.jsonl"
RESULTS = "predict_results.json"
TOO_LONG = "the prompt leaves no room for an answer"

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Prediction:
    """One record's answer; `index` is its place among the records given."""

    index: int
    prompt: str
    label: str
    reply: Reply

    @property
    def text(self) -> str:
        """The answer, with the tools that it calls."""
        return _with_calls(self.reply.text, self.reply.calls)

    def line(self) -> str:
        """Return it as a line of `generated_predictions.jsonl`."""
        row = {"prompt": self.prompt, "label": self.label, "predict": self.text}
        row |= {"reasoning": self.reply.reasoning} if self.reply.reasoning else {}
        return json.dumps(row, ensure_ascii=False) + "\n"


@dataclass(frozen=True, slots=True)
class PredictResults:
    """What came out. `cut`: answers that `max_new_tokens` ended; `empty`: answers without a word."""

    dataset: str
    metrics: dict[str, Metric]
    samples: int
    skipped: int
    empty: int
    cut: int
    new_tokens: int
    runtime_seconds: float

    def to_dict(self) -> JSONObject:
        """Return the content of `predict_results.json`."""
        return {
            "predict_dataset": self.dataset,
            **flat(self.metrics, "predict"),
            "predict_samples": self.samples,
            "predict_skipped": self.skipped,
            "predict_empty": self.empty,
            "predict_cut": self.cut,
            "predict_new_tokens": self.new_tokens,
            "predict_runtime": round(self.runtime_seconds, 4),
            "predict_samples_per_second": round(self.samples / max(self.runtime_seconds, 1e-9), 3),
        }


def predict(
    engine: Engine,
    chats: Sequence[Chat],
    sampling: Sampling,
    out_dir: Path,
    *,
    dataset: str = "",
) -> PredictResults | None:
    """Answer the prompt of every chat and score it against the chat's last answer.

    `dataset` is what the results call the chats.
    A prompt that leaves no room in the model's context is skipped, counted and logged. Ctrl-C leaves
    the answers so far in `generated_predictions.partial-N.jsonl`. Returns None in all processes but
    the first. Raises `UserError` for no records or an unwritable folder, at once.
    """
    rank, processes = world()
    if not chats:
        raise UserError("no records to predict: the data given has no conversation with an answer")
    scorer = Scorer() if rank == 0 else None  # a missing library shows before the work, not after
    partial = _open(out_dir, rank)
    started = time.monotonic()
    mine = range(rank, len(chats), processes)
    prompts = {index: prompt for index in mine if (prompt := _prepare_or_none(engine, chats[index])) is not None}
    with _group(processes):
        done = _answer(engine, chats, prompts, sampling, partial, progress=rank == 0)
        predictions = _gather(done, processes)
        skipped = _gather(sorted(set(mine) - set(prompts)), processes)
        results = None
        if scorer is not None:
            if skipped:
                first = ", ".join(str(chats[index].place) for index in sorted(skipped)[:5])
                log.warning("skipped %d: %s (%s)", len(skipped), TOO_LONG, first)
            predictions.sort(key=lambda prediction: prediction.index)
            results = _results(predictions, dataset, len(skipped), scorer, time.monotonic() - started)
            with atomic_write(out_dir / PREDICTIONS) as file:
                file.writelines(prediction.line() for prediction in predictions)
            write_json(out_dir / RESULTS, results.to_dict())
        partial.unlink()
    if results is not None and not results.samples:
        raise UserError(
            f"no record could be answered: each of the {len(chats)} prompts leaves no room for an answer in the "
            f"{engine.context_tokens:,} tokens of the model"
        )
    return results


def _answer(
    engine: Engine,
    chats: Sequence[Chat],
    prompts: Mapping[int, PreparedPrompt],
    sampling: Sampling,
    partial: Path,
    *,
    progress: bool,
) -> list[Prediction]:
    """Answer the prompts of these chats, noting each answer in the partial file as it comes."""
    done: list[Prediction] = []
    columns = (TextColumn("predict"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    bar = Progress(*columns, console=console, disable=not (progress and console.is_terminal))
    task = bar.add_task("predict", total=len(prompts))
    with bar, partial.open("a", encoding="utf-8") as notes:

        def keep(index: int, reply: Reply) -> None:
            chat = chats[index]
            label = _with_calls(split_reasoning(chat.response)[3], chat.messages[-1].calls)
            done.append(Prediction(index, prompts[index].text, label, reply))
            notes.write(done[-1].line())
            notes.flush()
            bar.advance(task)

        offered: list[list[int]] = []  # those with the same tools are answered together
        for index in prompts:
            group = next((own for own in offered if chats[own[0]].tools == chats[index].tools), None)
            if group is None:
                offered.append([index])
            else:
                group.append(index)
        for own in offered:
            given = replace(sampling, tools=chats[own[0]].tools)
            generate(engine, [prompts[index] for index in own], given, lambda at, reply, own=own: keep(own[at], reply))  # type: ignore[misc]
    return done


def _with_calls(text: str, calls: Sequence[ToolCall]) -> str:
    """An answer with its calls of tools, a line of JSON each: what is compared with the reference."""
    written = [f'{{"name": {json.dumps(call.name)}, "arguments": {call.arguments}}}' for call in calls]
    return "\n".join([text, *written] if text or not written else written)


def _results(
    predictions: list[Prediction], dataset: str, skipped: int, scorer: Scorer, runtime_seconds: float
) -> PredictResults:
    replies = [prediction.reply for prediction in predictions]
    labels = [prediction.label for prediction in predictions]
    scores = score([prediction.text for prediction in predictions], labels, scorer)
    return PredictResults(
        dataset=dataset,
        metrics=scores.metrics,
        samples=len(predictions),
        skipped=skipped,
        empty=scores.empty,
        cut=sum(reply.finish_reason == "length" for reply in replies),
        new_tokens=sum(reply.completion_tokens for reply in replies),
        runtime_seconds=runtime_seconds,
    )


def _prepare_or_none(engine: Engine, chat: Chat) -> PreparedPrompt | None:
    """The prompt of a chat; None: it leaves no room for an answer."""
    try:
        return engine.prepare(chat.prompt, chat.tools)
    except UserError:
        return None


@contextmanager
def _group(processes: int) -> Iterator[None]:
    """Join the other processes, if a trainer has not yet; all leave together, when the files are written."""
    if processes == 1:
        yield
        return
    import torch.distributed as group

    joining = not group.is_initialized()
    if joining:
        group.init_process_group("gloo")
    yield
    group.barrier()
    if joining:
        group.destroy_process_group()


def _gather(mine: list[Item], processes: int) -> list[Item]:
    """Return the lists of all processes joined, in each of them."""
    if processes == 1:
        return mine
    import torch.distributed as group

    parts: list[list[Item]] = [[] for _ in range(processes)]
    group.all_gather_object(parts, mine)
    return [item for part in parts for item in part]


def _open(out_dir: Path, rank: int) -> Path:
    """Make the folder and an empty partial file in it."""
    partial = out_dir / f"generated_predictions.partial-{rank}.jsonl"
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        partial.write_text("", encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write predictions into {out_dir}: {error.strerror or error}") from error
    return partial
