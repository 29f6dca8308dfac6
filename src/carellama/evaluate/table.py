"""Results side by side: before and after training, or any number of runs.

    print(compare({"before": metrics_of(before), "after": metrics_of(after)}))

Plain text for the terminal, Markdown for the model card. It computes nothing but the difference.
"""

from __future__ import annotations

from collections.abc import Mapping

from rich.cells import cell_len

from carellama.evaluate.metrics import NAMES, Metric
from carellama.records import JSONObject

LOWER_IS_BETTER = ("loss", "perplexity")
SHOWN = (*LOWER_IS_BETTER, *NAMES)


def metrics_of(*results: JSONObject) -> dict[str, Metric]:
    """Return the metrics in eval_results.json and predict_results.json, by name without prefix."""
    found: dict[str, Metric] = {}
    for values in results:
        for prefix in ("eval", "predict"):
            for name in SHOWN:
                key = f"{prefix}_{name}"
                if isinstance(values.get(key), (int, float)):
                    found[name] = Metric(
                        float(values[key]),
                        values.get(f"{key}_low"),
                        values.get(f"{key}_high"),
                        int(values.get(f"{prefix}_samples", 0)),
                    )
    return found


def compare(runs: Mapping[str, Mapping[str, Metric]], *, markdown: bool = False) -> str:
    """Return a table with a row a metric and a column a run; of two runs, the change as well."""
    names = list(dict.fromkeys(name for run in runs.values() for name in run))
    two = len(runs) == 2
    table = [["metric", *runs, *(["change"] if two else []), "n"]]
    for name in names:
        found = [run.get(name) for run in runs.values()]
        change = [_change(*found)] if two else []
        counts = list(dict.fromkeys(f"{metric.n:,}" for metric in found if metric is not None))
        label = f"{name} (lower is better)" if name.rpartition(" ")[2] in LOWER_IS_BETTER else name
        table.append([label, *map(_cell, found), *change, " / ".join(counts)])
    return _markdown(table) if markdown else aligned(table)


def _cell(metric: Metric | None) -> str:
    """`12.35 [10.10, 14.60]`, or `1.2345` without an interval."""
    if metric is None:
        return "-"
    if metric.low is None or metric.high is None:
        return f"{metric.value:.4f}"
    return f"{metric.value:.2f} [{metric.low:.2f}, {metric.high:.2f}]"


def _change(before: Metric | None, after: Metric | None) -> str:
    if before is None or after is None:
        return "-"
    return f"{after.value - before.value:+.{4 if before.low is None else 2}f}"


def aligned(table: list[list[str]]) -> str:
    """Columns padded to the same width on screen; names to the left, numbers to the right."""
    widths = [max(map(cell_len, column)) for column in zip(*table, strict=True)]
    lines = []
    for row in table:
        pads = [" " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)]
        numbers = [pad + cell for cell, pad in zip(row[1:], pads[1:], strict=True)]
        lines.append("  ".join([row[0] + pads[0], *numbers]))
    lines.insert(1, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    return "\n".join(lines) + "\n"


def _markdown(table: list[list[str]]) -> str:
    rows = [[cell.replace("|", "\\|") for cell in row] for row in table]
    rows.insert(1, ["---", *["---:"] * (len(table[0]) - 1)])
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)
