"""`carellama task NAME FILE`: a task of a hospital on each row of a file; `task list` and `task show NAME`.

    carellama task structure reports.csv --text_column 检查所见 --model_name_or_path MODEL

The output has a line for each row of the input, in its order, with its columns; a row that failed has the reason. A run
that is killed is continued by the same command. It ends with exit code 1 where rows failed. A result is a machine's:
somebody who knows checks it before it is used.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import chain, islice
from pathlib import Path

import yaml

from carellama.batch.clinical_rows import TextRow, input_digest, read_rows
from carellama.batch.clinical_run import COLUMNS, TaskReport, TaskRunner, report_path
from carellama.batch.clinical_tasks import NORMALIZE, ClinicalTask, find_task, load_task_file, load_tasks
from carellama.batch.code_table import ICD10_CM, CodeTable
from carellama.config.commands import TASK_OPTIONS, TaskGenerationOptions, TaskOptions
from carellama.config.data import PromptOptions
from carellama.config.engine import EngineOptions
from carellama.config.model import ModelOptions
from carellama.config.reader import parse_options
from carellama.data.file_type import data_suffix
from carellama.data.readers import Row
from carellama.data.readers import rows as data_rows
from carellama.engine.base import Engine, Sampling
from carellama.errors import UserError, read_failure


def run(argv: Sequence[str]) -> None:
    """List or show tasks, or run one. Exit code 1: rows failed."""
    options, *engine_options = parse_options(
        TASK_OPTIONS, argv, "carellama task NAME", {"model_name_or_path": ""}, positional="words"
    )
    words = options.words
    if words[0] == "list" and len(words) == 1:
        _list(options.task_file)
    elif words[0] == "show" and len(words) == 2:
        _show(find_task(words[1], options.task_file))
    elif words[0] not in ("list", "show") and len(words) == 2:
        report = _run(options, *engine_options)
        if report.failed:
            sys.exit(1)
    else:
        raise UserError("write carellama task NAME FILE, carellama task list or carellama task show NAME")


def _list(task_file: str | None) -> None:
    tasks = dict(load_tasks())
    if task_file:
        own = load_task_file(task_file)
        tasks[own.name] = own
    for task in tasks.values():
        print(f"{task.name:12}  {task.about.get('en', '')}")
        if task.about.get("zh") != task.about.get("en"):
            print(f"{'':12}  {task.about['zh']}")


def _show(task: ClinicalTask) -> None:
    for code in ("en", "zh"):
        for kind, texts in (("system", task.system), ("prompt", task.prompt)):
            if code in texts:
                print(f"# {kind} ({code})\n{texts[code]}\n")
    print(f"# schema\n{json.dumps(task.schema, ensure_ascii=False, indent=2)}\n")
    print(f"# checks\n{yaml.safe_dump(dict(task.checks), allow_unicode=True) if task.checks else 'none'}")


def _run(
    options: TaskOptions,
    model: ModelOptions,
    data: PromptOptions,
    generating: TaskGenerationOptions,
    engine: EngineOptions,
) -> TaskReport:
    """Check all that needs no model, then load it and go through the rows."""
    name, path = options.words[0], Path(options.words[1])
    task = find_task(name, options.task_file).with_prompt(_prompt_of(options.prompt), data.system_prompt)
    _check_options(options, task)
    needs_model = not (name == NORMALIZE and options.by == "rules")
    if needs_model and not model.model_name_or_path and not engine.endpoints:
        without = " (normalize --by rules needs none)" if name == NORMALIZE else ""
        raise UserError(f"carellama task {name} needs --model_name_or_path or --endpoint{without}")
    output = Path(options.output or f"{path.resolve().name}.{name}.jsonl")
    rows = read_rows(path, options)
    first = next(rows, None)  # what is wrong with the input shows before a model is loaded
    if first is None:
        raise UserError(f"{path} has no rows")
    _check_columns(path, options, first)
    _check_output(output, options)
    report = TaskReport(
        name,
        str(path),
        _settings(options, task, path, model, data.template, generating, engine, needs_model=needs_model),
    )
    table = CodeTable.read(options.table, options.code_column, options.name_column) if options.table else None
    report = _with_earlier(report, output, options)

    def load() -> Engine:
        from carellama.engine.load import choose

        return choose(model, data, engine)

    runner = TaskRunner(task, options, report, load if needs_model else None, Sampling.of(generating), table)
    return runner.run(islice(chain([first], rows), options.max_rows), output)


def _prompt_of(path: str | None) -> str | None:
    if path is None:
        return None
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read --prompt {path}: {read_failure(error)}") from error


def _check_options(options: TaskOptions, task: ClinicalTask) -> None:
    """Refuse options that the task does not look at."""
    if task.name == NORMALIZE and not options.table:
        raise UserError(f"normalize needs --table FILE with code and name, or --table {ICD10_CM}")
    others = {"table": options.table, "code_column": options.code_column, "name_column": options.name_column}
    others |= {"by": options.by if options.by != "model" else None}
    if task.name != NORMALIZE and (given := [name for name, value in others.items() if value is not None]):
        raise UserError(f"--{given[0]} belongs to normalize, not to {task.name}")
    if options.reading_length and not any("{reading_length}" in prompt for prompt in task.prompt.values()):
        raise UserError(f"--reading_length: the prompt of {task.name} has no {{reading_length}}")


def _check_columns(path: Path, options: TaskOptions, first: TextRow) -> None:
    """Refuse an input in which any row has a column that the output adds."""
    found: Iterable[tuple[object, Mapping[str, object]]] = [("the input", first.columns)]
    if path.is_file() and data_suffix(path.name) in (".json", ".jsonl", ".ndjson"):  # others: the same in all rows
        found = ((row.place, row.fields) for row in data_rows(path, []) if isinstance(row, Row))
    for place, columns in found:
        if taken := [options.prefix + column for column in COLUMNS if options.prefix + column in columns]:
            raise UserError(
                f"{place} has a column {taken[0]!r} already: give --prefix task_ to name the added ones otherwise"
            )


def _check_output(output: Path, options: TaskOptions) -> None:
    if output.is_dir() or output.suffix.lower() in (".csv", ".tsv", ".xlsx", ".xls"):
        raise UserError(f"--output {output}: rows are appended as JSON Lines; give the name of a .jsonl file")
    if output.exists() and output.samefile(options.words[1]):
        raise UserError(f"--output {output} is the input; give another name, so that the original stays")
    if Path(options.words[1]).is_dir() and output.resolve().is_relative_to(Path(options.words[1]).resolve()):
        raise UserError(
            f"--output {output} is in the folder of the input, and would be read as a text; write it elsewhere"
        )
    side = report_path(output)
    for name in filter(None, (options.words[1], options.table, options.prompt, options.task_file)):
        if side.exists() and Path(name).exists() and side.samefile(name):
            raise UserError(f"--output {output}: its report would replace {name}; give a name like {output}.jsonl")
    if side.exists() and not output.exists() and not options.overwrite and not _is_report(side):
        raise UserError(f"--output {output}: {side} would be its report and is another file; give another --output")
    if output.exists() and not options.resume and not options.overwrite:
        raise UserError(f"{output} is there already: give --overwrite true, or another --output")


def _is_report(path: Path) -> bool:
    """Whether a file is the report of a run of `carellama task`."""
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(read, dict) and {"task", "settings"} <= read.keys()


def _settings(
    options: TaskOptions,
    task: ClinicalTask,
    path: Path,
    model: ModelOptions,
    template: str | None,
    generating: TaskGenerationOptions,
    engine: EngineOptions,
    *,
    needs_model: bool,
) -> dict[str, object]:
    """What the rows of an output depend on: a run with others does not continue it."""
    found: dict[str, object] = {"input_sha1": input_digest(path), "task": asdict(task)}
    names = ("text_column", "text_unit", "language", "retries", "prefix", "reading_length")
    found |= {name: getattr(options, name) for name in names}
    if task.name == NORMALIZE:
        own = options.table and Path(options.table).is_file()
        found |= {"table": input_digest(Path(str(options.table))) if own else options.table, "by": options.by}
        found |= {name: getattr(options, name) for name in ("code_column", "name_column", "candidates", "min_score")}
    if needs_model:
        found |= {"model_name_or_path": model.model_name_or_path, "checkpoint_dir": model.checkpoint_dir}
        found |= {name: getattr(model, name) for name in ("model_revision", "quantization_bit")}
        found |= {"template": template, "gguf_type": engine.gguf_type, "mask_identifiers": engine.mask_identifiers}
        # without its name, the model of an endpoint is known by the address alone
        found |= {
            "endpoint_model": engine.endpoint_model,
            "endpoint": None if engine.endpoint_model else engine.endpoint,
        }
        found |= asdict(generating)
    return found


def _with_earlier(report: TaskReport, output: Path, options: TaskOptions) -> TaskReport:
    """The report with the tokens of earlier runs. `UserError` for an output that is of other options."""
    side = report_path(output)
    if options.overwrite or not output.exists() or not output.stat().st_size:
        return report
    try:
        earlier = json.loads(side.read_text(encoding="utf-8"))
        settings, tokens = earlier["settings"], (int(earlier["prompt_tokens"]), int(earlier["completion_tokens"]))
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{output} is there without {side.name}, which says how it was made: "
            "give --overwrite true, or another --output"
        ) from None
    now = json.loads(json.dumps(report.settings))
    other = [key for key in {**now, **settings} if now.get(key) != settings.get(key)]
    if other:
        what = {"input_sha1": "the input has changed", "task": "the task's prompt, schema or checks have changed"}
        reason = what.get(other[0], f"--{other[0]} was {settings.get(other[0])!r} and is {now.get(other[0])!r}")
        raise UserError(f"{output} was made otherwise: {reason}; give --overwrite true or another --output")
    return replace(report, prompt_tokens=tokens[0], completion_tokens=tokens[1])
