"""A table of codes and names, and the entries of it that are nearest to a diagnosis.

    table = CodeTable.read("icd10.csv")
    table.search("2型糖尿病伴肾病", count=5)     # [(score, Entry("E11.2", "2型糖尿病伴有肾的并发症")), ...]

Nearness is the cosine of the TF-IDF of character bigrams and trigrams (Salton and Buckley 1988, doi:
10.1016/0306-4573(88)90021-0): the same for the same table, whatever model is loaded, and it needs none.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from carellama.data.readers import Row, rows
from carellama.errors import UserError
from carellama.files import print_status
from carellama.package_data import package_yaml
from carellama.text import HAN_CHARACTER, counted, folded

ICD10_CM = "icd10cm"  # --table of this name: the package simple-icd-10-cm
SIZES = (2, 3)  # characters of an n-gram
NUMBERS = re.compile(r"\d+(?:\.\d+)?")
# Numerals of a type or grade, which one table writes so and another so: Ⅱ型, 二型, type II.
NUMERALS = dict(zip("一二三四五", "12345", strict=True)) | {"i": "1", "ii": "2", "iii": "3", "iv": "4", "v": "5"}
GRADE = re.compile(
    r"(?<![a-z])(?:iv|v|i{1,3}|[一二三四五])(?=[型级度期])|(?:(?<=type )|(?<=stage )|(?<=grade ))(?:iv|v|i{1,3})\b"
)
PARTS = re.compile(r"[;；\n]+|、")
# The number of an item: "1." and "2、", not the 1 of 1.5, but that of 1.2型糖尿病
ITEM = re.compile(r"(?:^|(?<=[\s。;；、]))[(（]?\d{1,2}[)）.、．](?!\d(?![型级度期]))\s*")


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the table."""

    code: str
    name: str


class CodeTable:
    """The entries with an index of their n-grams."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.entries = list(dict.fromkeys(entries))
        self._exact: dict[str, int] = {}
        self._codes = {folded(entry.code): at for at, entry in reversed(list(enumerate(self.entries)))}
        gram_ids: dict[str, int] = {}
        ids, owners, counts = [], [], []
        for at, entry in enumerate(self.entries):
            self._exact.setdefault(_form(entry.name), at)
            for gram, count in _grams(entry.name).items():
                ids.append(gram_ids.setdefault(gram, len(gram_ids)))
                owners.append(at)
                counts.append(count)
        self._gram_ids = gram_ids
        order = np.argsort(np.array(ids, dtype=np.int64), kind="stable")
        sizes = np.bincount(np.array(ids, dtype=np.int64), minlength=len(gram_ids))
        self._starts = np.concatenate([[0], np.cumsum(sizes)])
        self._idf = np.log((1 + len(self.entries)) / (1 + sizes)) + 1
        weights = (1 + np.log(np.array(counts, dtype=np.float64))) * self._idf[ids]
        lengths = np.sqrt(np.bincount(owners, weights**2, minlength=len(self.entries)))
        self._owners = np.array(owners, dtype=np.int64)[order]
        self._weights = (weights / lengths[owners])[order]

    @classmethod
    def read(cls, name: str, code_column: str | None = None, name_column: str | None = None) -> CodeTable:
        """Read a table from a file, or from simple-icd-10-cm. Raises `UserError` for one without code and name."""
        if name == ICD10_CM:
            return cls(_icd10_cm())
        path = Path(name)
        if not path.is_file():
            raise UserError(f"--table {name}: there is no such file; give a table with code and name, or {ICD10_CM}")
        known = package_yaml("batch/columns.yaml")
        expected = [*known["code"], *known["name"], *filter(None, (code_column, name_column))]
        entries, skipped = [], 0
        columns: tuple[str, str] | None = None
        for row in rows(path, expected):
            if not isinstance(row, Row):
                skipped += 1
                continue
            columns = columns or _columns(list(row.fields), name, code_column, name_column)
            code, title = (str(row.fields.get(column) or "").strip() for column in columns)
            if code and folded(title):
                entries.append(Entry(code, title))
            else:
                skipped += 1
        if not entries:
            raise UserError(f"--table {name} has no row with a code and a name")
        if skipped:
            print_status(f"{name}: {counted(skipped, 'row')} without a code and a name left out")
        return cls(entries)

    def exact(self, text: str) -> Entry | None:
        """The entry whose name is the text but for case, width, spaces and punctuation; or whose code is."""
        at = self._exact.get(_form(text), self._codes.get(folded(text)))
        return None if at is None else self.entries[at]

    def search(self, text: str, count: int) -> list[tuple[float, Entry]]:
        """The nearest entries with their cosine, best first; of equal ones the earlier in the table."""
        scores = np.zeros(len(self.entries))
        grams = _grams(text)
        length = 0.0
        for gram, times in grams.items():
            at = self._gram_ids.get(gram)
            weight = (1 + math.log(times)) * (self._idf[at] if at is not None else math.log(1 + len(self.entries)) + 1)
            length += weight**2
            if at is not None:
                span = slice(self._starts[at], self._starts[at + 1])
                scores[self._owners[span]] += weight * self._weights[span]
        best = _best(scores, count)
        return [(round(float(scores[at] / math.sqrt(length)), 4), self.entries[at]) for at in best if scores[at] > 0]


def _best(scores: npt.NDArray[np.float64], count: int) -> list[int]:
    few = np.argpartition(-scores, min(count, len(scores)) - 1)[:count] if len(scores) > count else range(len(scores))
    cut = min(scores[at] for at in few)
    tied = np.flatnonzero(scores >= cut) if cut > 0 else np.array(sorted(few), dtype=np.int64)
    return sorted(map(int, tied), key=lambda at: (-scores[at], at))[:count]


def _form(text: str) -> str:
    """The form in which names are compared."""
    return GRADE.sub(lambda numeral: NUMERALS[numeral[0]], folded(text))


def _grams(text: str) -> Counter[str]:
    """The n-grams of a name, with a mark where it begins and ends, and each Chinese character, which is half a word."""
    form = f"^{_form(text)}$"
    grams = Counter(form[at : at + size] for size in SIZES for at in range(len(form) - size + 1))
    grams.update(HAN_CHARACTER.findall(form))
    return grams


def contrast(first: str, second: str) -> str:
    """What makes two near names different diseases: "left/right", "numbers"; "" for nothing that is known here."""
    one, other = _form(first), _form(second)
    for difference, (left, right) in package_yaml("batch/contrasts.yaml").items():
        sides = [(bool(re.search(left, text)), bool(re.search(right, text))) for text in (one, other)]
        if sides in ([(True, False), (False, True)], [(False, True), (True, False)]):
            return difference
    if set(NUMBERS.findall(one)) != set(NUMBERS.findall(other)):
        return "numbers"
    return ""


def split_diagnoses(text: str, table: CodeTable) -> list[str]:
    """The diagnoses of a text, by lines, semicolons, 、 and numbers before them; a name of the table stays whole."""
    if table.exact(text):
        return [text.strip()]
    parts = [part.strip(" \t\r,，。.") for part in PARTS.split(ITEM.sub("\n", text))]
    return [part for part in parts if part]


def _columns(names: list[str], file: str, code: str | None, name: str | None) -> tuple[str, str]:
    found = []
    for kind, given in (("code", code), ("name", name)):
        known = package_yaml("batch/columns.yaml")[kind]
        match = given or next((one for want in known for one in names if one.strip().lower() == want), None)
        if match is None or match not in names:
            what = f"no column {given!r}" if given else "no column of a known name"
            raise UserError(f"--table {file}: {what}; it has {', '.join(names)}: give --{kind}_column")
        found.append(match)
    return found[0], found[1]


def _icd10_cm() -> list[Entry]:
    try:
        import simple_icd_10_cm as icd
    except ModuleNotFoundError as error:
        raise UserError(
            f"--table {ICD10_CM} needs the package simple-icd-10-cm (MIT licence; English names of ICD-10-CM): "
            "run pip install simple-icd-10-cm, or give a table of your own"
        ) from error
    return [
        Entry(code, icd.get_description(code))
        for code in icd.get_all_codes(True)  # noqa: FBT003 - with the dots
        if icd.is_category_or_subcategory(code)
    ]
