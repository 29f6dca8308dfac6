"""The rows of a task on their way through the engine to the output, a batch at a time, in their order.

    TaskRunner(task, options, report, load_engine, sampling).run(rows, Path("reports.structure.jsonl"))

A prompt that is too long, a reply that cannot be used or an empty text fails its own row. What stops all rows (an
endpoint that does not answer, a full disk) is raised, and the rows before it stay written.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path

from carellama.batch.clinical_rows import TextRow
from carellama.batch.clinical_tasks import ClinicalTask
from carellama.batch.clinical_work import Outcome, Request, RowError, Work, extract, normalize
from carellama.batch.code_table import CodeTable
from carellama.batch.output import AppendOnlyFile
from carellama.config.commands import TaskOptions
from carellama.engine.base import Engine, PreparedPrompt, PromptTooLong, Reply, Sampling, Unavailable
from carellama.engine.generate import generate
from carellama.errors import DataError, UserError
from carellama.files import print_status, write_json
from carellama.records import JSONObject, Place
from carellama.text import counted, language

TOO_LONG = "too long for the model"
COLUMNS = ("result", "unsupported", "checks", "error")


@dataclass
class TaskReport:
    """What is in the output so far, and what it took."""

    task: str
    input: str
    settings: dict[str, object]
    rows: int = 0
    failed: Counter[str] = field(default_factory=Counter)  # by the kind of reason
    flagged_rows: int = 0
    issues: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    complete: bool = False

    def count(self, checks: Sequence[dict[str, str]], error: str | None) -> None:
        """Count a row of the output."""
        self.rows += 1
        self.flagged_rows += bool(checks)
        self.issues.update(one["issue"].partition(":")[0] for one in checks)
        if error:
            self.failed[error.partition(":")[0]] += 1

    def as_json(self) -> JSONObject:
        """The report as plain values."""
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in vars(self).items()}

    def show(self, output: Path) -> None:
        """Print it."""
        for reason, count in self.failed.most_common():
            print(f"failed: {count} x {reason}")
        for issue, count in self.issues.most_common():
            print(f"flagged: {count} x {issue}")
        failed = self.failed.total()
        print(f"{output}: {counted(self.rows, 'row')}, {failed} failed, {self.flagged_rows} with something flagged")


def report_path(output: Path) -> Path:
    """Where the report of an output is."""
    return output.with_name(f"{output.name}.json")


@dataclass
class ActiveRow:
    """A row on its way: its work, and what it asks next."""

    at: int
    work: Work
    request: Request


class TaskRunner:
    """Goes through the rows, a batch at a time; what its rows ask at the same step goes to the engine together."""

    def __init__(
        self,
        task: ClinicalTask,
        options: TaskOptions,
        report: TaskReport,
        load: Callable[[], Engine] | None,
        sampling: Sampling,
        table: CodeTable | None = None,
    ) -> None:
        self.task, self.options, self.report, self.sampling, self.table = task, options, report, sampling, table
        self._load = load
        self._engine: Engine | None = None
        self._constrained, self._answered = True, False
        self._outcomes: dict[int, Outcome | str] = {}  # of the batch; a text is the reason why there is none
        self._written = 0  # rows of the batch
        self._write_ready: Callable[[], None] = lambda: None

    def run(self, rows: Iterator[TextRow], output: Path) -> TaskReport:
        """Write the rows that the output does not have, and the report; print it, also where an error ends the run."""
        try:
            with AppendOnlyFile.opened(output, self._count_line, fresh=self.options.overwrite) as file:
                self._save_report(output)
                if self.report.rows:
                    print_status(f"{output}: {counted(self.report.rows, 'row')} there already; the others follow")
                left = islice(rows, self.report.rows, None)
                while batch := list(islice(left, self.options.batch_size)):
                    self._run_batch(batch, file)
                    self._save_report(output)
                    print_status(f"{counted(self.report.rows, 'row')} done, {self.report.failed.total()} failed")
                self.report.complete = self.options.max_rows is None
                self._save_report(output)
        finally:
            if self._engine is not None:
                self._engine.close()
            self.report.show(output)
        return self.report

    def _save_report(self, output: Path) -> None:
        write_json(report_path(output), self.report.as_json())

    def _count_line(self, number: int, row: object) -> None:
        added = [self.options.prefix + column for column in COLUMNS]
        if not isinstance(row, dict) or not set(added) <= set(row):
            raise DataError(Place("the output", number), "not a row of carellama task; give another --output")
        self.report.count(row[added[2]], row[added[3]])

    def _run_batch(self, batch: Sequence[TextRow], file: AppendOnlyFile) -> None:
        """Bring each row to its result or to the reason why there is none; what is done is written also on an error."""
        self._outcomes = {}
        self._written = 0
        self._write_ready = partial(self._write_rows, file, batch)
        try:
            active = [one for at, row in enumerate(batch) if (one := self._started(at, row)) is not None]
            while active:
                following: list[ActiveRow] = []
                schemas = {json.dumps(one.request.schema): one.request.schema for one in active}
                for key, schema in schemas.items():
                    self._send([one for one in active if json.dumps(one.request.schema) == key], schema, following)
                active = following
        finally:
            self._write_ready()

    def _started(self, at: int, row: TextRow) -> ActiveRow | None:
        if row.error or not row.text.strip():
            self._outcomes[at] = row.error or "empty text"
            return None
        own = self.options.language
        code = own if own != "auto" else "en" if language(row.text) in ("en", "other") else "zh"
        if self.table is not None:
            work = normalize(self.task, row.text, code, self.options, self.table)
        else:
            work = extract(self.task, row.text, code, self.options)
        return self._advance(at, work, None)

    def _advance(self, at: int, work: Work, reply: Reply | None) -> ActiveRow | None:
        """Hand a reply to a row; return it with its next request, or note its outcome."""
        try:
            return ActiveRow(at, work, next(work) if reply is None else work.send(reply))
        except StopIteration as end:
            self._outcomes[at] = end.value
        except RowError as error:
            self._outcomes[at] = str(error)
        return None

    def _send(self, same: list[ActiveRow], schema: JSONObject | None, following: list[ActiveRow]) -> None:
        """Ask the engine for rows whose answers have the same schema; a prompt that is too long fails its own row."""
        engine = self._open_engine()
        prompts = {one.at: prompt for one in same if (prompt := self._prepared(one, engine)) is not None}
        waiting = {one.at: one for one in same if one.at in prompts}
        together = True
        while waiting:
            rows = list(waiting.values()) if together else [next(iter(waiting.values()))]
            sampling = replace(self.sampling, json_schema=schema if self._constrained else None)
            try:
                on_reply = partial(self._take, rows, waiting, following)
                generate(engine, [prompts[row.at] for row in rows], sampling, on_reply)
            except PromptTooLong as error:
                if len(rows) == 1:
                    self._outcomes[rows[0].at] = f"{TOO_LONG}: {error}"
                    del waiting[rows[0].at]
                together = False
            except Unavailable:
                raise
            except UserError as error:
                if not self._constrained or self._answered:
                    raise
                print_status(f"replies by a schema: {error}")
                print_status("without it: a reply that does not follow the schema is requested again")
                self._constrained = False

    def _take(
        self, rows: list[ActiveRow], waiting: dict[int, ActiveRow], following: list[ActiveRow], at: int, reply: Reply
    ) -> None:
        """Hand a reply to its row; write the rows that are done."""
        row = waiting.pop(rows[at].at)
        self._answered = True
        self.report.prompt_tokens += reply.prompt_tokens
        self.report.completion_tokens += reply.completion_tokens
        if (further := self._advance(row.at, row.work, reply)) is not None:
            following.append(further)
        self._write_ready()

    def _prepared(self, row: ActiveRow, engine: Engine) -> PreparedPrompt | None:
        try:
            return engine.prepare(row.request.messages, exact=engine.context_tokens is not None)
        except PromptTooLong as error:
            count, room = error.prompt_tokens, error.context_tokens
        self._outcomes[row.at] = f"{TOO_LONG}: {count:,} tokens with the prompt, and the model takes {room:,} in all"
        return None

    def _open_engine(self) -> Engine:
        if self._engine is None:
            assert self._load is not None, "a task without a model asks none"
            self._engine = self._load()
        return self._engine

    def _write_rows(self, file: AppendOnlyFile, batch: Sequence[TextRow]) -> None:
        """Write the rows of the batch that are done, up to the first that is not."""
        while self._written in self._outcomes:
            outcome = self._outcomes[self._written]
            error = outcome if isinstance(outcome, str) else None
            result, issues = (None, []) if isinstance(outcome, str) else (outcome.result, outcome.issues)
            values = (result, bool(issues) if error is None else None, issues, error)
            added = {self.options.prefix + column: value for column, value in zip(COLUMNS, values, strict=True)}
            file.append(batch[self._written].columns | added)
            self._written += 1
            self.report.count(issues, error)
