"""The page of `carellama data stats`: tables and histograms in one HTML file, in Chinese and English.

    page([measured(dataset)])

It holds everything it needs and asks no other site for anything. Bars of lengths are of equal width on a logarithmic
scale, as lengths are spread over three orders of magnitude.
"""

from __future__ import annotations

import html
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from carellama.data.stats.run import Stats

BARS = 24  # of a histogram of lengths
WIDTH, HEIGHT, MARGIN = 560, 150, 34  # pixels of a histogram; the margin is for the words below
STYLE = """
body { font: 15px/1.5 system-ui, "Noto Sans CJK SC", sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
  color: #1c2a2a; background: #fff }
h1 { font-size: 1.4rem }
h2 { font-size: 1.15rem; margin-top: 2.5rem; border-top: 1px solid #cfdcdc; padding-top: 1rem }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem }
table { border-collapse: collapse }
td { padding: .15rem .8rem .15rem 0 }
td.n { text-align: right; font-variant-numeric: tabular-nums }
rect { fill: #1f8a83 }
text { font-size: 11px; fill: #4a5a5a }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem }
svg { max-width: 100%; height: auto }
"""
HEAD = """<!doctype html>
<html lang="zh">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>数据统计 · Data</title>
"""


def page(found: Sequence[Stats]) -> str:
    """The whole page."""
    body = "\n".join(_dataset(stats) for stats in found)
    return f"{HEAD}<style>{STYLE}</style>\n</head>\n<body>\n<h1>数据统计 · Data</h1>\n{body}\n</body>\n</html>\n"


def _dataset(stats: Stats) -> str:
    from carellama.data.stats.run import most_common

    parts = [f"<h2>{_text(stats.name)}</h2>", f"<p>{_text(stats.where)}</p>"]
    counts = [("数据行 · rows", stats.rows), *stats.kinds.most_common()]
    counts += [(f"不可用 · not usable: {reason}", count) for reason, count in stats.skipped.most_common()]
    parts.append(_table(counts, stats.rows))
    if not stats.used:
        return "\n".join(parts)
    parts.append('<div class="pictures">')
    lengths = (("提问字符数 · characters asked", stats.asked), ("回答字符数 · characters answered", stats.answered))
    for title, values in lengths:
        if any(values):
            parts.append(f"<div><h3>{title}</h3>{_lengths(values)}</div>")
    if stats.turns:
        bars = [(str(turns), count) for turns, count in sorted(stats.turns.items())]
        parts.append(f"<div><h3>轮数 · turns</h3>{_bars(bars)}</div>")
    parts.append("</div>")
    parts.append(f"<h3>语言 · languages</h3>{_table(stats.languages.most_common(), stats.used)}")
    if stats.groups:
        parts.append(f"<h3>科室或类别 · departments</h3>{_table(most_common(stats.groups), stats.used)}")
    return "\n".join(parts)


def _table(items: Sequence[tuple[str, int]], whole: int) -> str:
    rows = "".join(
        f'<tr><td>{_text(name)}</td><td class="n">{count:,}</td><td class="n">{count / max(1, whole):.1%}</td></tr>'
        for name, count in items
    )
    return f"<table>{rows}</table>"


def _lengths(values: array[int]) -> str:
    numbers = np.frombuffer(values, dtype=np.uint32).astype(np.float64) + 1
    counts, edges = np.histogram(np.log10(numbers), bins=BARS)
    names = [f"{10**edge - 1:,.0f}" for edge in edges[:-1]]
    median, high = np.quantile(numbers - 1, [0.5, 0.95])
    picture = _bars(list(zip(names, counts.tolist(), strict=True)))
    return f"{picture}<p>中位数 · median {median:,.0f}, 95% {high:,.0f}, 最长 · most {numbers.max() - 1:,.0f}</p>"


def _bars(bars: Sequence[tuple[str, int]]) -> str:
    """A histogram; every few bars one is named, so that the names do not touch."""
    highest = max(count for _, count in bars)
    step = WIDTH / len(bars)
    every = max(1, round(56 / step))
    drawn = []
    for at, (name, count) in enumerate(bars):
        height = HEIGHT * count / highest
        drawn.append(
            f'<rect x="{at * step + 1:.1f}" y="{HEIGHT - height:.1f}" width="{max(1.0, step - 2):.1f}" '
            f'height="{height:.1f}"><title>{_text(name)}: {count:,}</title></rect>'
        )
        if at % every == 0:
            drawn.append(f'<text x="{at * step + 1:.1f}" y="{HEIGHT + 16}">{_text(name)}</text>')
    drawn.append(f'<text x="{WIDTH}" y="11" text-anchor="end">{highest:,}</text>')
    size = f'viewBox="0 0 {WIDTH} {HEIGHT + MARGIN}" width="{WIDTH}" height="{HEIGHT + MARGIN}"'
    return f'<svg {size} role="img">{"".join(drawn)}</svg>'


def _text(text: str) -> str:
    return html.escape(text)
