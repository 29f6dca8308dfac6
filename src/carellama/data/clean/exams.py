"""Which exam questions are kept out of training data: those of the catalogue that are here, and those given.

    exams = gather(["cmexam:exam", "mine.jsonl"], Exams())

Says on standard error which exams of the catalogue are not on this machine, and which rows of an exam are no question.
"""

from __future__ import annotations

from collections.abc import Sequence

from carellama.config.data_commands import ConvertOptions
from carellama.config.environment import dataset_home
from carellama.data.catalogue.convert import Conversion, of_folder, planned
from carellama.data.catalogue.entries import entries
from carellama.data.clean.contamination import Exams
from carellama.data.report import DataReport
from carellama.errors import UserError
from carellama.files import print_status
from carellama.records import Question
from carellama.text import counted


def gather(names: Sequence[str], exams: Exams, *, catalogue: bool = True) -> Exams:
    """Add the questions of these exams (NAME:PART or files), and of those of the catalogue; ready to be asked.

    `UserError` for a name that is none, and for one of `names` that holds no question.
    """
    for name in names:
        _take(exams, name, planned(ConvertOptions(name=name)), needed=True)
    missing: list[str] = []
    for entry in entries().values() if catalogue else ():
        folder = dataset_home() / entry.name / "files"
        for part in entry.parts:
            if part.stage != "exam":
                continue
            name = f"{entry.name}:{part.name}"
            if not folder.is_dir():
                missing.append(name)
                continue
            try:
                _take(exams, name, of_folder(entry, part, folder, "held_out" if part.held_out else "train"))
            except UserError as error:
                print_status(f"exam {name}: not checked for: {error}")
    if missing:
        print_status(f"not checked for, as they are not on this machine: {', '.join(missing)}")
    exams.done()
    if exams.questions:
        print_status(f"{counted(len(exams.questions), 'exam question')} kept out")
    else:
        print_status("no exam is on this machine and none is given (--exams): exam questions are not looked for")
    return exams


def _take(exams: Exams, name: str, conversion: Conversion, *, needed: bool = False) -> None:
    before, report = len(exams.questions), DataReport()
    for record in conversion.records(report):
        if isinstance(record, Question):
            exams.add(name, record)
    for path, reason in conversion.unread.items():
        print_status(f"exam {name}: not read: {path}: {reason}")
    if report.skipped:
        print_status(f"exam {name}: {counted(report.skipped, 'row')} without a question, not checked for")
    if needed and len(exams.questions) == before:
        raise UserError(f"--exams {name} holds no exam question; see carellama data check {name} --stage exam")
