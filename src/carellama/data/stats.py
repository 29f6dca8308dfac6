"""`carellama data stats`: how long, how many turns, which languages and departments, as a table and as a page.

    carellama data stats consult_zh consult_en --html stats.html

Lengths are in characters: how many tokens they are depends on the model (`carellama data mix --tokenizer`). Rows
that cannot be used are counted, not measured. Eight bytes a record are kept. The page holds everything it needs;
bars of lengths are of equal width on a logarithmic scale, as lengths are spread over three orders of magnitude.
"""

from __future__ import annotations

import html
import math
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from carellama.config.data import DataArguments
from carellama.config.data_commands import StatsArguments
from carellama.config.reader import parse_options
from carellama.data.convert import lengths_of, texts_of
from carellama.data.datasets import Dataset, load_datasets
from carellama.data.file_format import KIND_NAMES, counted_kind
from carellama.data.report import DataReport
from carellama.disk import whole_file
from carellama.errors import UserError
from carellama.package_data import package_text
from carellama.records import Chat, Pair, Record, Text
from carellama.text import counted, language

GROUPED_BY = ("department", "category", "subject")  # keys of a record's meta that say what it is about
MOST_GROUPS = 20  # shown of them; the others are counted together

BARS = 24  # of a histogram of lengths
MOST_TURNS = 20  # with a bar of their own; longer conversations share one
WIDTH, HEIGHT, ABOVE, BELOW = 460, 150, 18, 24  # pixels of a histogram; above it the highest count, below the names
WIDEST = 40  # pixels of a bar, where there are few
KINDS = {
    "conversations": "对话 · conversations",
    "preference pairs": "偏好对 · preference pairs",
    "texts": "文本 · texts",
    "exam questions": "考题 · exam questions",
}
LENGTHS = "<p>提问、回答：字符数的中位数 · asked, answer: median characters</p>"
LANGUAGES = {"zh": "中文 · Chinese", "en": "英文 · English", "mixed": "混合 · mixed", "other": "其他 · other"}


@dataclass(kw_only=True)
class Measured:
    """Kinds, languages and lengths of the usable records of a file or dataset."""

    rows: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    asked: array[int] = field(default_factory=lambda: array("I"))  # characters of all a user says in a record
    answered: array[int] = field(default_factory=lambda: array("I"))  # of all the assistant says; of a text, of it all

    @property
    def measures(self) -> tuple[tuple[str, array[int]], ...]:
        """What the lengths are of, and the lengths."""
        only_texts = set(self.kinds) == {KIND_NAMES[Text]}
        return ("question", self.asked), ("text" if only_texts else "answer", self.answered)

    @property
    def usable(self) -> int:
        """Records that training could take."""
        return self.kinds.total()

    def add_lengths(self, record: Record) -> None:
        """Count the kind and the lengths of one record."""
        self.kinds[KIND_NAMES[type(record)]] += 1
        asked, answered = lengths_of(record)
        self.asked.append(min(asked, 2**32 - 1))
        self.answered.append(min(answered, 2**32 - 1))


@dataclass
class Stats(Measured):
    """What was measured of one dataset."""

    name: str
    where: str
    skipped: Counter[str] = field(default_factory=Counter)
    turns: Counter[int] = field(default_factory=Counter)  # questions in a conversation -> records
    groups: Counter[str] = field(default_factory=Counter)
    with_system: int = 0

    def add(self, record: Record) -> None:
        """Measure one record."""
        self.add_lengths(record)
        self.languages[language("\n".join(texts_of(record)))] += 1
        group = next((record.meta[key] for key in GROUPED_BY if record.meta.get(key)), None)
        if group:
            self.groups[group] += 1
        if isinstance(record, (Chat, Pair)):
            messages = record.messages if isinstance(record, Chat) else record.prompt
            self.with_system += messages[0].role == "system"
            self.turns[sum(message.role == "user" for message in messages)] += 1


def run(argv: Sequence[str]) -> None:
    """Measure, print the tables, and write the page."""
    (arguments,) = parse_options((StatsArguments,), argv, "carellama data stats NAME_OR_FILE...", positional="names")
    if arguments.html is not None:
        page_at(Path(arguments.html))
    datasets = load_datasets(arguments.names, DataArguments(dataset_dir=arguments.dataset_dir))
    found = [measured(dataset, arguments.max_samples) for dataset in datasets]
    for stats in found:
        print("\n".join(lines(stats)))
    if arguments.html:
        with whole_file(Path(arguments.html)) as file:
            file.write(page(found))
        print(f"wrote {arguments.html}")


def page_at(path: Path) -> None:
    """Raise `UserError` where no page can be written, or something else would be lost: before anything is measured."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--html {path} does not end in .html")
    if path.is_dir():
        raise UserError(f"--html {path} is a folder; give the name of a file to write")


def measured(dataset: Dataset, most: int | None = None) -> Stats:
    """Measure a dataset, or its first rows."""
    stats = Stats(dataset.name, dataset.where)
    report = DataReport()
    for record in dataset.records(report, skips=True, limit=most):
        stats.add(record)
    account = report.datasets[dataset.name]
    stats.rows = account.rows
    stats.skipped.update({reason: cases.count for reason, cases in account.done["skipped"].items()})
    return stats


def lines(stats: Stats) -> Iterator[str]:
    """The tables of one dataset."""
    kinds = ", ".join(counted_kind(count, kind) for kind, count in stats.kinds.most_common())
    yield f"{stats.name} ({stats.where}): {counted(stats.rows, 'row')}, {kinds or 'no records'}"
    for reason, count in stats.skipped.most_common():
        yield f"  not usable {count:,}: {reason}"
    if not stats.usable:
        return
    yield f"  {'characters':<12}{'mean':>9}{'median':>9}{'95%':>9}{'99%':>9}{'most':>9}"
    for name, values in stats.measures:
        if any(values):
            mean, *shares = summary(values)
            yield f"  {name:<12}{mean:>9,.0f}" + "".join(f"{share:>9,.0f}" for share in shares)
    if stats.turns:
        yield f"  turns        {_shares(sorted(stats.turns.items()), stats.usable)}"
        yield f"  with a system message: {stats.with_system / stats.usable:.1%}"
    yield f"  languages    {_shares(stats.languages.most_common(), stats.usable)}"
    if stats.groups:
        yield f"  about        {_shares(most_common(stats.groups), stats.usable)}"


def summary(values: Sequence[int]) -> tuple[float, float, float, float, float]:
    """(mean, median, 95%, 99%, most)."""
    numbers = np.frombuffer(values, dtype=np.uint32) if isinstance(values, array) else np.array(values)
    median, high, highest = np.quantile(numbers, [0.5, 0.95, 0.99])
    return float(numbers.mean()), float(median), float(high), float(highest), float(numbers.max())


def most_common(groups: Counter[str]) -> list[tuple[str, int]]:
    """The largest groups, and all others as one."""
    largest = groups.most_common(MOST_GROUPS)
    others = groups.total() - sum(count for _, count in largest)
    return [*largest, ("others", others)] if others else largest


def _shares(items: Sequence[tuple[object, int]], whole: int) -> str:
    return ", ".join(f"{key}: {count:,} ({count / whole:.1%})" for key, count in items)


def page(found: Sequence[Stats]) -> str:
    """The whole page."""
    body = "\n".join([*([_overview(found)] if len(found) > 1 else []), *map(_dataset, found)])
    return package_text("data/stats.html").replace("{body}", body)


def _overview(found: Sequence[Stats]) -> str:
    """A line a dataset: rows, records, and the medians of the lengths."""
    heads = ("数据集<br>dataset", "行数<br>rows", "可用<br>usable", "提问<br>asked", "回答<br>answer")
    head = "".join(f'<th class="{"n" if at else "name"}">{name}</th>' for at, name in enumerate(heads))
    rows = []
    for stats in found:
        medians = [f"{np.median(values):,.0f}" if any(values) else "–" for values in (stats.asked, stats.answered)]
        cells = "".join(f'<td class="n">{cell}</td>' for cell in (f"{stats.rows:,}", f"{stats.usable:,}", *medians))
        rows.append(f'<tr><td class="name">{_text(stats.name)}</td>{cells}</tr>')
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(rows)}</table></div>{LENGTHS}'


def _dataset(stats: Stats) -> str:
    parts = [f"<h2>{_text(stats.name)}</h2>"]
    if stats.where != stats.name:
        parts.append(f"<p>{_text(stats.where)}</p>")
    parts.append(f"<p>{stats.rows:,} 行 · rows</p>")
    counts = [(KINDS.get(kind, kind), count) for kind, count in stats.kinds.most_common()]
    counts += [(f"不可用 · not usable: {reason}", count) for reason, count in stats.skipped.most_common()]
    parts.append(_table(counts, stats.rows))
    if not stats.usable:
        return "\n".join(parts)
    parts.append('<div class="pictures">')
    lengths = (("提问字符数 · characters asked", stats.asked), ("回答字符数 · characters answered", stats.answered))
    for title, values in lengths:
        if any(values):
            parts.append(f"<div><h3>{title}</h3>{_lengths(values)}</div>")
    if stats.turns:
        parts.append(f"<div><h3>轮数 · turns</h3>{_bars(_turns(stats))}</div>")
    parts.append("</div>")
    if stats.with_system:
        share = stats.with_system / stats.usable
        parts.append(f"<p>带系统提示 · with a system message: {stats.with_system:,} ({share:.1%})</p>")
    languages = [(LANGUAGES.get(name, name), count) for name, count in stats.languages.most_common()]
    parts.append(f"<h3>语言 · languages</h3>{_table(languages, stats.usable)}")
    if stats.groups:
        parts.append(f"<h3>科室或类别 · departments</h3>{_table(most_common(stats.groups), stats.usable)}")
    return "\n".join(parts)


def _turns(stats: Stats) -> list[tuple[str, int]]:
    """Records of each number of turns, from the fewest on without a gap."""
    counted = [(str(turns), stats.turns[turns]) for turns in range(min(stats.turns), max(stats.turns) + 1)]
    if len(counted) <= MOST_TURNS:
        return counted
    longer = sum(count for _, count in counted[MOST_TURNS:])
    return [*counted[:MOST_TURNS], (f"{counted[MOST_TURNS][0]}+", longer)]


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
    """A histogram; every few bars one is named, so that the names do not touch, and the highest has its count."""
    highest = max(count for _, count in bars)
    step = min(WIDEST, WIDTH / len(bars))
    every = max(1, math.ceil((max(len(name) for name, _ in bars) * 8 + 8) / step))
    drawn = [f'<line x1="0" y1="{ABOVE + HEIGHT}" x2="{WIDTH}" y2="{ABOVE + HEIGHT}"/>']
    named = False
    for at, (name, count) in enumerate(bars):
        height, middle = HEIGHT * count / highest, at * step + step / 2
        drawn.append(
            f'<rect x="{at * step + 1:.1f}" y="{ABOVE + HEIGHT - height:.1f}" width="{max(1.0, step - 2):.1f}" '
            f'height="{height:.1f}"><title>{_text(name)}: {count:,}</title></rect>'
        )
        if at % every == 0:
            drawn.append(_label(name, middle, ABOVE + HEIGHT + 17))
        if count == highest and not named:
            drawn.append(_label(f"{count:,}", middle, ABOVE - 5))
            named = True
    size = f'viewBox="0 0 {WIDTH} {HEIGHT + ABOVE + BELOW}" width="{WIDTH}" height="{HEIGHT + ABOVE + BELOW}"'
    return f'<svg {size} role="img">{"".join(drawn)}</svg>'


def _label(text: str, middle: float, y: float) -> str:
    """A text centred at a place, moved inwards where it would be cut off."""
    half = len(text) * 4 + 2
    return f'<text x="{min(max(middle, half), WIDTH - half):.1f}" y="{y}" text-anchor="middle">{_text(text)}</text>'


def _text(text: str) -> str:
    return html.escape(text)
