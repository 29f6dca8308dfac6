"""`carellama data list` and `carellama data show NAME`: what the catalogue says, and what of it is on this machine.

    carellama data list --stage sft --language zh

Neither asks the network, or imports anything of a model.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from carellama.config.data_commands import ListOptions, ShowOptions
from carellama.config.environment import dataset_home
from carellama.config.reader import parse_options
from carellama.data.catalogue.entries import Entry, entries, find
from carellama.data.catalogue.named import next_step
from carellama.data.catalogue.pulled_files import read_record
from carellama.download.hosts import Host
from carellama.text import counted

HEADINGS = ("name", "stage", "language", "rows", "licence", "where", "needs", "pulled")


def list_datasets(argv: Sequence[str]) -> None:
    """Print a table of the datasets that one stage, or one language, can use."""
    (arguments,) = parse_options((ListOptions,), argv, "carellama data list")
    chosen = [
        entry
        for entry in entries().values()
        if (arguments.stage is None or arguments.stage in entry.stages)
        and (arguments.language is None or arguments.language in entry.language.split("+"))
    ]
    rows = [_row(entry) for entry in chosen]
    if sys.stdout.isatty():
        _table(rows)
    else:
        _columns(rows)
    print(f"{len(chosen)} of {counted(len(entries()), 'dataset')}; more of one: carellama data show NAME")


def _row(entry: Entry) -> tuple[str, ...]:
    where = ", ".join(dict.fromkeys(host.kind for host in entry.hosts))
    pulled = "yes" if (dataset_home() / entry.name / "files").is_dir() else ""
    stages = ", ".join(entry.stages)
    return entry.name, stages, entry.language, entry.rows, entry.licence, where, needs(entry), pulled


def needs(entry: Entry) -> str:
    """What a person has to do first: accept terms, download by hand; empty where nothing."""
    return ", ".join(word for word, true in (("terms", entry.accept), ("by hand", entry.by_hand)) if true)


def _table(rows: Sequence[tuple[str, ...]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for heading in HEADINGS:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


def _columns(rows: Sequence[tuple[str, ...]]) -> None:
    """Columns as wide as their widest cell: for `grep`, files and pipes, where nothing may be cut off."""
    from rich.cells import cell_len, set_cell_size  # a Chinese character is two columns wide

    widths = [max(cell_len(row[at]) for row in (HEADINGS, *rows)) for at in range(len(HEADINGS))]
    for row in (HEADINGS, *rows):
        print("  ".join(set_cell_size(cell, width) for cell, width in zip(row, widths, strict=True)).rstrip())


def show(argv: Sequence[str]) -> None:
    """Print all that the catalogue says of one dataset, what of it was pulled, and the next command to type."""
    (arguments,) = parse_options((ShowOptions,), argv, "carellama data show NAME", positional="name")
    entry, _ = find(arguments.name)
    for line in description(entry):
        print(line)


def description(entry: Entry) -> list[str]:
    """The lines of `show`."""
    lines = [
        f"{entry.name}: {entry.title}",
        f"  homepage  {entry.homepage}",
        f"  language  {entry.language}" + ("" if entry.medical else " (not medical)"),
        f"  rows      {entry.rows}",
        f"  licence   {entry.licence}, see {entry.terms}" + ("; has to be accepted" if entry.accept else ""),
    ]
    if entry.note:
        lines.append(f"  note      {' '.join(entry.note.split())}")
    if entry.same_as:
        lines.append(f"  same as   {entry.same_as}: they hold the same records, do not train on both")
    lines += ["hosts, in the order they are tried", *(line for host in entry.hosts for line in _host(host)), "parts"]
    for part in entry.parts:
        lines.append(f"  {entry.name}:{part.name}  stage {part.stage}, layouts {', '.join(part.layouts)}")
        if part.files:
            lines.append(f"    files     {', '.join(' or else '.join(group) for group in part.groups('train'))}")
        if part.held_out:
            lines.append(f"    held out  {', '.join(' or else '.join(group) for group in part.groups('held_out'))}")
    return lines + _pulled(entry)


def _host(host: Host) -> list[str]:
    revision = "" if host.revision == "main" else f" at {host.revision}"
    files = ", ".join(host.files) + ("" if host.seen or not host.files else " (names not verified)")
    about = {"files": files, "holds": host.holds, "sha256": host.sha256, "note": " ".join(host.note.split())}
    return [f"  {host.kind}  {host.repo}{revision}", *(f"    {key:<9} {text}" for key, text in about.items() if text)]


def _pulled(entry: Entry) -> list[str]:
    home = dataset_home() / entry.name
    record = read_record(home)
    if not (home / "files").is_dir():
        waiting = read_record(home / "incoming").get("files", {})
        half = f" (a pull was stopped; {counted(len(waiting), 'file')} here)" if (home / "incoming").is_dir() else ""
        way = " --from FOLDER" if entry.by_hand else ""
        accept = " --accept_licence" if entry.accept else ""
        return [f"not pulled{half}", f"next: carellama data pull {entry.name}{way}{accept}"]
    sources = ", ".join(dict.fromkeys(own["source"] for own in record.get("sources", ()))) or "elsewhere"
    lines = [f"pulled {record.get('time', 'at an unknown time')} from {sources}"]
    files = [path for path in sorted((home / "files").rglob("*")) if path.is_file()]
    lines.extend(f"  {path.stat().st_size:>14,} bytes  {path.relative_to(home / 'files').as_posix()}" for path in files)
    return [*lines, f"  in {home / 'files'}", f"next: {next_step(entry, home / 'files')}"]
