"""`carellama data stats`: how long, how many turns, which languages and departments, as a table and as a page.

    carellama data stats consult_zh consult_en --html stats.html

Lengths are in characters: how many tokens they are depends on the model (`carellama data mix --tokenizer`). Rows
that cannot be used are counted, not measured. Eight bytes a record are kept. The page holds everything it needs;
bars of lengths are of equal width on a logarithmic scale, as lengths are spread over three orders of magnitude.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
import numpy as np

from carellama.config.data import DataOptions
from carellama.config.data_commands import StatsOptions
from carellama.config.reader import parse_options
from carellama.data.convert import lengths_of, texts_of
from carellama.data.datasets import Dataset, load_datasets
from carellama.data.file_format import KIND_NAMES, counted_kind
from carellama.data.report import DataReport
from carellama.errors import UserError
from carellama.files import atomic_write
from carellama.package_data import package_text
from carellama.records import Chat, Pair, Record, Text
from carellama.text import counted, language

GROUPED_BY = ("department", "category", "subject")  # keys of a record's meta that say what it is about
MOST_GROUPS = 20  # shown of them; the others are counted together

BARS = 24  # of a histogram of lengths
MOST_TURNS = 20  # with a bar of their own; longer conversations share one


@dataclass(kw_only=True)
class Measurements:
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
class Stats(Measurements):
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
    (arguments,) = parse_options((StatsOptions,), argv, "carellama data stats NAME_OR_FILE...", positional="names")
    if arguments.html is not None:
        page_at(Path(arguments.html))
    datasets = load_datasets(arguments.names, DataOptions(dataset_dir=arguments.dataset_dir))
    found = [measured(dataset, arguments.max_samples) for dataset in datasets]
    for stats in found:
        print("\n".join(lines(stats)))
    if arguments.html:
        with atomic_write(Path(arguments.html)) as file:
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
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(package_text("data/stats.html"))
    return template.render(
        datasets=found, summary=summary, lengths=_lengths, turns=_turns, most_common=most_common, any=any
    )


def _lengths(values: array[int]) -> list[tuple[str, int]]:
    """Records by their length, on a logarithmic scale."""
    counts, edges = np.histogram(np.log10(np.frombuffer(values, dtype=np.uint32) + 1.0), bins=BARS)
    return list(zip((f"{10**edge - 1:,.0f}" for edge in edges), counts.tolist(), strict=False))


def _turns(stats: Stats) -> list[tuple[str, int]]:
    """Records of each number of turns, from the fewest on without a gap."""
    counted = [(str(turns), stats.turns[turns]) for turns in range(min(stats.turns), max(stats.turns) + 1)]
    if len(counted) <= MOST_TURNS:
        return counted
    longer = sum(count for _, count in counted[MOST_TURNS:])
    return [*counted[:MOST_TURNS], (f"{counted[MOST_TURNS][0]}+", longer)]
