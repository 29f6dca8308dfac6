"""What an answer says against the text that it is about: quotations, numbers, medicines, negations, units of dose.

    source = SourceText("RUL nodule 8 mm. No effusion.")
    source.has("8mm")                                     # True; "18 mm" would not have it
    check_result(result, source, {"quotes": ["findings.size"]})

Rules, and no model: a value that is flagged is there to be looked at, and one that is not flagged may still be wrong.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property

from carellama.batch.tasks import UNITS
from carellama.package_data import Patterns
from carellama.privacy.word_lists import groups
from carellama.safety.rules.measures import NUMBER, read_number
from carellama.text import HAN

PATTERNS = Patterns("batch/text_checks.yaml")

QUOTES = str.maketrans("“”‘’–—−～", "\"\"''---~")
DIGITS = re.compile(r"\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?")
NUMBER_GOES_ON = re.compile(r"\d|\.\d|,\d{3}(?!\d)")
MINUS = re.compile(r"(?:^|[^\d\s][\s]*[\s:=(,;]|[:=(,;，：]|\n\s*)-$")  # behind a number it is a range
LINE_START = re.compile(r"(?:^|\n)\s*-$")
SPACES = re.compile(r"\s+")
PARTED = re.compile(r"[a-z]\s+[a-z]|\d\s+\d")
ITEM_NUMBER = re.compile(r"^\s*\(?\d{1,2}(?:[.)、](?!\d))", re.MULTILINE)  # "1. ", "2、": of a list
FREQUENCIES = {"qd": 1, "once": 1, "daily": 1, "bid": 2, "twice": 2, "tid": 3, "thrice": 3, "qid": 4}
FREQUENCY = re.compile(
    r"(?<![a-z])(?:" + "|".join([*FREQUENCIES, r"b\.i\.d", r"t\.i\.d", r"q\.i\.d", r"q\.d"]) + r")(?![a-z])"
)
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")
MAX_CLAUSE = 200  # characters
KNOWN_UNITS = frozenset({*UNITS, *UNITS.values()}) | frozenset(
    "kg mmol mol meq mg/kg ug/kg mg/ml g/l iu/kg ug/h ml/h 支 袋 丸 贴 瓶 枚 板 盒 万单位 万iu 万u u 揿 包 剂 mmol/l "
    "ampoule vial patch puff spray sachet suppository lozenge application teaspoon tablespoon".split()
)


@dataclass(frozen=True)
class Issue:
    """Something of a result that the text does not bear out: where it stands, what it is, which check found it."""

    field: str
    value: str
    issue: str


class SourceText:
    """A text in which quotations are looked up, whatever their spaces, width and case."""

    def __init__(self, text: str) -> None:
        self.plain = plain(text)
        kept = [(at, character) for at, character in enumerate(self.plain) if not character.isspace()]
        self._places = [at for at, _ in kept]
        self._squeezed = "".join(character for _, character in kept)

    @cached_property
    def _denied(self) -> list[tuple[int, int]]:
        return denied_spans(self.plain)

    def places(self, quote: str) -> Iterator[tuple[int, int]]:
        """The begin and end of each occurrence in `plain`; none within a number or a word of Latin letters."""
        quote = plain(quote)
        wanted, gaps = "".join(quote.split()), _gaps(quote)
        at = self._squeezed.find(wanted) if wanted else -1
        while at >= 0:
            begin, end = self._places[at], self._places[at + len(wanted) - 1] + 1
            same = _gaps(self.plain[begin:end]) == gaps  # "1 50 mg" has no "150 mg", "a typical" no "atypical"
            if same and not _divides(self.plain, begin) and not _divides(self.plain, end):
                yield begin, end
            at = self._squeezed.find(wanted, at + 1)

    def has(self, quote: str) -> bool:
        """Whether the text has it."""
        return next(self.places(quote), None) is not None

    def denies(self, quote: str) -> bool:
        """Whether the text has it, and each time behind a negation or right before one."""
        found = list(self.places(quote))
        return bool(found) and all(self._is_denied(begin, end) for begin, end in found)

    def _is_denied(self, begin: int, end: int) -> bool:
        at = bisect_right(self._denied, (begin, len(self.plain))) - 1  # the spans are in order and do not overlap
        return (at >= 0 and begin < self._denied[at][1]) or PATTERNS["denied_after"].match(self.plain, end) is not None


def plain(text: str) -> str:
    """A text in lower case and normal width (NFKC), with plain quotation marks and dashes."""
    return _INVISIBLE.sub("", unicodedata.normalize("NFKC", text).translate(QUOTES).lower())


def _gaps(text: str) -> list[int]:
    """Where spaces part two Latin letters or two digits, counted in what is no space: there they tell words apart."""
    found, spaces = [], 0
    for gap in SPACES.finditer(text):
        if PARTED.match(text, gap.start() - 1):
            found.append(gap.start() - spaces)
        spaces += len(gap[0])
    return found


def _divides(text: str, at: int) -> bool:
    """Whether a cut at this place divides a number or a word of Latin letters."""
    before, after = text[max(0, at - 2) : at], text[at : at + 5]
    if not before or not after:
        return False
    if before[-1].isdigit() and NUMBER_GOES_ON.match(after):
        return True
    if (after[0].isdigit() and re.search(r"\d\.$", before)) or (
        re.search(r"\d,$", before) and re.match(r"\d{3}(?!\d)", after)
    ):
        return True
    return before[-1].isascii() and before[-1].isalpha() and after[0].isascii() and after[0].isalpha()


def check_result(result: object, source: SourceText, checks: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    """The issues of a result, in the order of its fields, each `{"field", "value", "issue"}`."""
    issues: list[Issue] = []
    for check, paths in checks.items():
        found = [one for path in paths for one in values_at(result, path.split("."))]
        issues += CHECKS[check](found, source)
    return [asdict(issue) for issue in issues]


def values_at(value: object, path: Sequence[str], name: str = "") -> Iterator[tuple[str, object]]:
    """The values at a path with their places: `findings.size` gives `("findings[0].size", "8 mm")` and so on."""
    if isinstance(value, list):
        for at, one in enumerate(value):
            yield from values_at(one, path, f"{name}[{at}]")
    elif not path:
        yield name, value
    elif isinstance(value, dict) and path[0] in value:
        yield from values_at(value[path[0]], path[1:], f"{name}.{path[0]}" if name else path[0])


Found = Sequence[tuple[str, object]]


def _texts(found: Found) -> list[tuple[str, str]]:
    """Those that say something; a number of JSON is looked up as it is written."""
    written = [(name, value if isinstance(value, str) else str(value)) for name, value in found
               if isinstance(value, (str, int, float)) and not isinstance(value, bool)]  # fmt: skip
    return [(name, text) for name, text in written if text.strip()]


def _quotes(found: Found, source: SourceText) -> list[Issue]:
    return [Issue(name, text, "not in the text") for name, text in _texts(found) if not source.has(text)]


def _numbers(found: Found, source: SourceText) -> list[Issue]:
    known = numbers_of_source(source.plain)
    return [
        Issue(name, number, "number not in the text")
        for name, text in _texts(found)
        for number, value in numbers_of_answer(plain(text)).items()
        if value not in known
    ]


def _drugs(found: Found, source: SourceText) -> list[Issue]:
    return [
        Issue(name, drug, "medicine not in the text")
        for name, text in _texts(found)
        for drug in drugs_of(plain(text))
        if not source.has(drug)
    ]


def _kept_drugs(found: Found, source: SourceText) -> list[Issue]:
    said = SourceText("\n".join(text for _, text in _texts(found)))
    field = found[0][0] if found else ""
    return [
        Issue(field, drug, "medicine of the text is missing") for drug in drugs_of(source.plain) if not said.has(drug)
    ]


def _negations(found: Found, source: SourceText) -> list[Issue]:
    denied = [term for term in denied_terms(source.plain) if source.denies(term)]
    return [
        Issue(name, term, "denied in the text, affirmed here")
        for name, said in ((name, SourceText(text)) for name, text in _texts(found))
        for term in denied
        if said.has(term) and not said.denies(term)
    ]


def _statuses(found: Found, source: SourceText) -> list[Issue]:
    return [
        Issue(f"{name}.status", one["description"], "denied in the text, present here")
        for name, one in found
        if isinstance(one, dict) and one.get("status") == "present" and source.denies(str(one.get("description", "")))
    ]


def _units(found: Found, _source: SourceText) -> list[Issue]:
    return [Issue(name, text, "unknown unit") for name, text in _texts(found) if not is_unit(text)]


CHECKS = {
    "quotes": _quotes, "numbers": _numbers, "drugs": _drugs, "kept_drugs": _kept_drugs, "negations": _negations,
    "statuses": _statuses, "units": _units,
}  # fmt: skip


def is_unit(text: str) -> bool:
    """Whether this is a unit of dose of either language."""
    unit = plain(text).replace(" ", "").rstrip(".").replace("μ", "u").replace("mcg", "ug")
    return any(one in KNOWN_UNITS for one in (unit, unit.removesuffix("s"), unit.removesuffix("es")))


def numbers_of_source(text: str) -> set[float]:
    """Every number of a plain text, in digits, in words of either language, and of frequencies: bid is 2."""
    found = set(signed_numbers(text).values())
    found |= {abs(value) for value in signed_numbers(text, at_line_start=True).values()}  # "-5 mg" may be an item
    found |= {read_number(one[0]) for one in NUMBER.finditer(text) if not one[0][0].isdigit()}
    return found | {float(FREQUENCIES[one.replace(".", "")]) for one in FREQUENCY.findall(text)}


def signed_numbers(text: str, *, at_line_start: bool = False) -> dict[str, float]:
    """The numbers in digits as they are written, with the minus of a T-score of -2.5; a range (3-5, 3 -5) has none.

    `at_line_start`: those alone whose minus begins a line.
    """
    found: dict[str, float] = {}
    for digits in DIGITS.finditer(text):
        before = text[max(0, digits.start() - 12) : digits.start()]
        minus = MINUS.search(before) is not None
        if not at_line_start or (minus and LINE_START.search(before)):
            sign = "-" if minus else ""
            found[sign + digits[0]] = float(sign + digits[0].replace(",", ""))
    return found


def numbers_of_answer(text: str) -> dict[str, float]:
    """The numbers of a plain text as they are written, but those that number a list's items, and one in words."""
    text = ITEM_NUMBER.sub("", text)
    words = [one[0] for one in NUMBER.finditer(text) if one[0].isascii() and not one[0][0].isdigit()]
    found = {word: read_number(word) for word in (*words, *PATTERNS["counted"].findall(text))}
    found |= {one: float(FREQUENCIES[one.replace(".", "")]) for one in FREQUENCY.findall(text)}
    return signed_numbers(text) | {word: value for word, value in found.items() if value > 1}


@cache
def _chinese_drugs() -> re.Pattern[str]:
    lists = groups("medical_zh.txt")
    names = {name.lower() for name in lists["generics"] | lists["brands"] if len(name) > 2}
    return re.compile("|".join(sorted(map(re.escape, names), key=len, reverse=True)))


@cache
def _brands() -> frozenset[str]:
    return frozenset(name for name in groups("words_en.txt")["drugs"] if len(name) > 4)


def drugs_of(text: str) -> list[str]:
    """The medicines that a plain text names: by lists, by the stems of their names, and by a dose behind them."""
    found = dict.fromkeys(_chinese_drugs().findall(text)) if re.search(f"[{HAN}]", text) else {}
    found |= dict.fromkeys(PATTERNS["english_drug"].findall(text)) | dict.fromkeys(
        PATTERNS["before_dose"].findall(text)
    )
    words = dict.fromkeys(re.findall(r"[a-z]+", text))
    return [*(found | {word: None for word in words if word in _brands()})]


def denied_spans(text: str) -> list[tuple[int, int]]:
    """Where a plain text denies: from behind a negation to the end of its clause, `MAX_CLAUSE` characters at most.

    A comma ends it, unless the clause is a list whose last item follows "or": no fever, cough or chills.
    """
    spans: list[tuple[int, int]] = []
    for cue in PATTERNS["denials"].finditer(text):
        if spans and cue.start() < spans[-1][1]:  # it is denied as a whole
            continue
        most = min(len(text), cue.end() + MAX_CLAUSE)
        end = PATTERNS["clause_end"].search(text, cue.end(), most)
        stop = end.start() if end else most
        comma = text.find(",", cue.end(), stop)
        if comma >= 0 and not re.search(r"(?<![a-z])n?or(?![a-z])", text[comma:stop]):
            stop = comma
        spans.append((cue.end(), stop))
    return spans


def denied_terms(text: str) -> list[str]:
    """What a plain text denies, item by item; those of a few words only."""
    items = [one.strip() for begin, end in denied_spans(text) for one in PATTERNS["listed"].split(text[begin:end])]
    return [one for one in dict.fromkeys(items) if len(one) >= 2 and len(one.split()) <= 4 and len(one) <= 40]
