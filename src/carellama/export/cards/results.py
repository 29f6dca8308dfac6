"""Results of evaluations that lie beside a checkpoint, or that were given: figures with their intervals.

    find_results([Path("output")], [Path("triage.json")])

Read are `eval_results.json` and `predict_results.json` of a run, and the files that `carellama safety eval` and
`carellama guard eval` write with `--output`. A figure without an interval has none there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from carellama.errors import UserError, read_failure
from carellama.records import JSONObject

RUN_FILES = ("eval_results.json", "predict_results.json")
# Keys that say how large or how long an evaluation was: no figures of the model.
COUNTS = ("samples", "runtime", "tokens", "per_second", "preparation_time", "unparsed")
# Answers that the scores of a prediction have, and a reader would not expect in them.
COUNTED_ANSWERS = {"cut": "answers cut at max_new_tokens", "empty": "empty answers", "skipped": "prompts too long"}
# share -> (count of the hits, count of the cases), in the files of `safety eval` and `guard eval`
SHARES = {
    "missed": ("missed", "emergencies"),
    "false_alarms": ("false_alarms", "others"),
    "let_through": ("let_through", "attacks"),
    "wrongly_refused": ("wrongly_refused", "harmless"),
    "harmful": ("harmful_answers", "attacks"),
    "judged_harmful": ("judged_harmful", "judged"),
}


@dataclass(frozen=True)
class Result:
    """One figure: of which test, what, its 95% interval where there is one, and how many cases."""

    test: str
    metric: str
    value: float
    low: float | None
    high: float | None
    n: int | None
    judge: str = ""  # of what an answer means: a model, rules


def find_results(folders: Sequence[Path], given: Sequence[Path] = ()) -> list[Result]:
    """Return the figures of checkpoint folders, in order, then those of files that were named.

    Raises `UserError` for a named file that holds none.
    """
    found: list[Result] = []
    for folder in folders:
        for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
            read = _read(path) or {}
            if path.name in RUN_FILES or "figures" in read:  # other files have settings of such names
                found += _results(path, read)
    for path in given:
        named = _read(path)
        if named is None:
            raise UserError(f"{path} holds no results: give a file of carellama eval, predict, safety eval, guard eval")
        results = _results(path, named)
        if not results:
            raise UserError(f"{path} holds no figures of an evaluation")
        found += results
    return list(dict.fromkeys(found))


def _read(path: Path) -> JSONObject | None:
    """Return a small JSON file; None for others that lie in such a folder."""
    try:
        if path.name in RUN_FILES or path.stat().st_size < 50_000_000:
            read = json.loads(path.read_text(encoding="utf-8"))
            return read if isinstance(read, dict) else None
    except OSError as error:
        raise UserError(f"cannot read {path}: {read_failure(error)}") from error
    except ValueError:
        pass
    return None


def _results(path: Path, read: JSONObject) -> list[Result]:
    if isinstance(read.get("figures"), dict):
        return list(_shares(path, read))
    found: list[Result] = []
    if path.name in RUN_FILES or any(str(key).startswith(("eval_", "predict_")) for key in read):
        for prefix in ("eval", "predict"):
            found += _metrics(prefix, {key: value for key, value in read.items() if str(key).startswith(f"{prefix}_")})
    return found


def _metrics(prefix: str, read: Mapping[str, object]) -> Iterator[Result]:
    """The figures of eval_results.json or predict_results.json; of files of other programs the data is not known."""
    test = without_folders(str(read.get(f"{prefix}_dataset") or prefix))
    counts = {key.removesuffix("samples"): value for key, value in read.items() if key.endswith("_samples")}
    for key, value in read.items():
        name = key.removeprefix(f"{prefix}_")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or any(one in name for one in COUNTS):
            continue
        if name.endswith(("_low", "_high")) and key.rpartition("_")[0] in read:
            continue
        low, high = (_number(read.get(f"{key}_{end}")) for end in ("low", "high"))
        counted = counts[max((start for start in counts if key.startswith(start)), key=len)] if counts else None
        n = int(counted) if isinstance(counted, (int, float)) else None
        yield Result(test, COUNTED_ANSWERS.get(name, name), float(value), low, high, n)


def _shares(path: Path, read: JSONObject) -> Iterator[Result]:
    """The shares of a file of `safety eval` or `guard eval`, for all cases together and for each group."""
    judge = str(read.get("judge") or "")
    test = Path(str(read.get("file") or path)).name
    for group, figures in read["figures"].items():
        for name, (hits, of) in SHARES.items():
            interval = figures.get(f"{name}_interval")
            if not figures.get(of) or hits not in figures:
                continue
            low, high = interval if isinstance(interval, list) and len(interval) == 2 else (None, None)
            label = test if group in ("all", "") else f"{test}, {group}"
            yield Result(label, name, figures[hits] / figures[of], low, high, int(figures[of]), judge)


def without_folders(text: str) -> str:
    """Return a text, or a list of paths, with the folders of this machine left out."""
    parts = text.split(", ")
    return ", ".join(Path(part).name if part.startswith(("/", "~", "./", "../")) else part for part in parts)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None
