"""Reads an answer along as it comes, sentence by sentence, and says where something has to stand behind one.

    watch = AnswerWatch(policy, "en", said="I have a cough.")
    watch.add("You have pneu"), watch.add("monia. Rest")       # [], [Mark]: a diagnosis stated as a fact
    watch.end()                                                # what has no full stop at its end

However an answer is cut into pieces, its marks are the same: a sentence ends where what follows cannot change that.
Each character is looked at once for ends, and judged once, in a table with the cells before it.
"""

from __future__ import annotations

import re
from typing import NamedTuple, get_args

from carellama.engine.base import AnswerKind, Notice
from carellama.safety.answers.checks import AnswerChecks, Claim
from carellama.safety.answers.urgency import makes_light_of
from carellama.safety.medication.conflicts import Conflict, PersonFacts, conflicts
from carellama.safety.medication.rules import MedicationRules
from carellama.safety.notices import Language, contradiction_notice, language_of
from carellama.safety.policy import Policy

LONGEST = 2000  # characters of a sentence that has not ended, after which it is judged all the same
LONGEST_WORD = 100  # characters beyond, within which the word ends behind which that is
CELLS = 8  # of a row of a table, that are judged with the one behind them
LONGEST_HEADING = 200  # characters of a heading that are judged with each item below it
_CLOSING = "[\"'”’」』）)\\]*_]"
_CITATION = r"\[\d{1,3}\]"
# Ends of a sentence of an answer, with the quotes, brackets and citations that close behind it; a cell of a table ends
# with |. The full stop of an abbreviation or a number is none.
ANSWER_END = re.compile(
    rf"(?:[。！？!?；;]|(?<!\be\.g)(?<!\bi\.e)(?<!\bapprox)(?<!\bvs)(?<!\bDr)"
    rf"\.(?=(?:{_CITATION}|{_CLOSING})*(?:\s|$|\[\d{{0,3}}$)))(?:{_CITATION}|{_CLOSING})*|\n|\|"
)
_MAY_END = re.compile(r"[。！？!?；;.\n|]")  # with which an end begins
_MAY_CLOSE = re.compile(r"(?:\[\d{0,3})?")  # nothing, or the beginning of a citation
_WORD = re.compile(r"[^\W_]")
_NO_LETTER = re.compile(r"[^A-Za-z0-9]")
ITEM = re.compile(r"\s*(?:[-*+•·]|\d{1,3}[.)、])(?:\s|$)")
HEADING = re.compile(r"\s*#{1,6} |.*[:：]\W{0,8}$")
CHECKS = tuple(kind for kind in get_args(AnswerKind) if kind not in ("contradiction", "contraindication"))


class Mark(NamedTuple):
    """What is said of a sentence of an answer."""

    notice: Notice
    surplus: int  # characters of what was added last that stand behind the sentence
    shown: bool  # in the answer, not only beside it
    stops: bool  # the answer ends there


class _End(NamedTuple):
    """Where a sentence ends, and how many characters of it only close quotes, brackets and citations."""

    place: int
    closing: int = 0


class AnswerWatch:
    """Reads one answer; of each kind the first is marked.

    `language` is that of the person. `said` is what the person wrote, `facts` what is known of them (None: medicines
    are not held against it) and `medicines` the rules of medicines. `is_emergency`: an answer may not make light of it.
    """

    def __init__(
        self,
        policy: Policy,
        language: Language,
        *,
        said: str = "",
        facts: PersonFacts | None = None,
        medicines: MedicationRules | None = None,
        is_emergency: bool = False,
    ) -> None:
        self._policy, self._language, self._marked = policy, language, set[str]()
        kinds = [kind for kind in CHECKS if policy.action(kind) != "off"]
        self._checks = AnswerChecks(kinds, said, medicines=medicines)
        self._facts, self._medicines = facts, medicines
        self._contradicts = is_emergency and policy.action("contradiction") != "off"
        self._rest = ""  # of the sentence that has not ended
        self._seen = 0  # characters of it that have no end
        self._line = ""  # what is judged already of the line that has not ended
        self._heading = ""  # above the items of a list, or of a section
        self._is_about_taking = False  # that heading

    def add(self, text: str) -> list[Mark]:
        """Take a part of the answer; return the marks of the sentences that end in it."""
        is_open, self._rest = self._seen < len(self._rest), self._rest + text
        if not is_open and len(self._rest) <= LONGEST and not _MAY_END.search(text):
            self._seen = len(self._rest)
            return []
        ends, pending = self._ends()
        if not ends and pending is None:
            return []
        whole, begin, marks = self._rest, 0, list[Mark]()
        for end in ends:
            marks += self._read(whole[begin : end.place], len(whole) - end.place, end.closing)
            begin = end.place
        self._rest, self._seen = whole[begin:], self._seen - begin
        if pending is not None and self._contradicts:
            # Nothing waits for a quote that may close here: an answer that makes light of an emergency stops.
            marks += self._contradiction(whole[begin : pending.place], len(whole) - pending.place)
        return marks

    def end(self) -> list[Mark]:
        """Judge what has no full stop at its end."""
        return self._read(self._rest, 0)

    def _ends(self) -> tuple[list[_End], _End | None]:
        """The ends in what was not looked at yet, and one that what comes next may move or undo."""
        whole, ends, pending = self._rest, list[_End](), None
        for found in ANSWER_END.finditer(whole, self._seen):
            ends += self._cuts(ends, found.end())
            if found[0] not in "|\n" and _MAY_CLOSE.fullmatch(whole, found.end()):
                self._seen = found.start()
                if found[0][0] != ".":  # that of 3.5 is none
                    pending = _End(found.start() + 1)
                return ends, pending
            ends.append(_End(found.end(), 0 if found[0][0] == "." else len(found[0]) - 1))
        self._seen = len(whole)
        return [*ends, *self._cuts(ends, len(whole))], None

    def _cuts(self, ends: list[_End], until: int) -> list[_End]:
        """Where a sentence is cut that began at the last end and is too long: behind a word, if that ends."""
        begin, cuts = ends[-1].place if ends else 0, list[_End]()
        while until - begin > LONGEST:
            most = begin + LONGEST + LONGEST_WORD
            behind = _NO_LETTER.search(self._rest, begin + LONGEST, min(until, most))
            if behind is None and until < most:
                break
            begin = most if behind is None else behind.start()
            cuts.append(_End(begin))
        return cuts

    def _read(self, sentence: str, surplus: int, closing: int = 0) -> list[Mark]:
        """Judge a sentence; in a row of a table, with the cells before it, and with its mark inside of the cell."""
        line = self._line + sentence
        in_row = line.lstrip().startswith("|")
        if in_row and sentence.endswith("|"):
            surplus += 1
        surplus += len(sentence) - len(sentence.rstrip("\r\n"))
        marks = []
        if _WORD.search(sentence):
            judged = line if in_row else sentence
            marks = self._contradiction(judged, surplus + closing)
            marks += self._marks(self._notices(judged, len(line) - len(sentence), line), surplus)
        if sentence.endswith("\n"):
            self._end_line(line)
        else:
            self._line = _last_cells(line) if in_row else line[-LONGEST:]
        return marks

    def _end_line(self, line: str) -> None:
        """Keep a heading; a line that is no item of a list ends what stands below it."""
        self._line = ""
        if HEADING.match(line.rstrip()):
            self._heading = line.strip()[-LONGEST_HEADING:]
            self._is_about_taking = self._checks.is_about_taking(self._heading)
        elif line.strip() and not ITEM.match(line):
            self._heading = ""

    def _notices(self, sentence: str, begin: int, line: str) -> list[Notice]:
        """What a sentence is marked for, which begins at a place of its line."""
        language, is_item = language_of(sentence), bool(self._heading and ITEM.match(line))
        found = [
            Notice(one.kind, "caution", one.note[language], one.id) for one in self._claims(sentence, is_item=is_item)
        ]
        if self._facts is not None:
            text = f"{self._heading}\n{line}" if is_item else sentence
            behind = len(self._heading) + 1 + begin if is_item else 0
            of_medicines = conflicts(self._facts, text, rules=self._medicines, behind=behind)
            found += [conflict_notice(one, language) for one in of_medicines]
        return found

    def _claims(self, sentence: str, *, is_item: bool) -> list[Claim]:
        """What a sentence claims; an item of a list is a dose where it is one with the heading above it."""
        found = self._checks.find(sentence, self._marked)
        open_to = is_item and self._is_about_taking and "dose" not in self._marked
        if open_to and not any(one.kind == "dose" for one in found):
            found += [one for one in self._checks.find(f"{self._heading} {sentence}") if one.kind == "dose"]
        return found

    def _contradiction(self, sentence: str, surplus: int) -> list[Mark]:
        """The mark of a sentence that makes light of an emergency."""
        if not self._contradicts or not makes_light_of(sentence):
            return []
        text = contradiction_notice(self._language, stopped=self._policy.action("contradiction") == "on")
        return self._marks([Notice("contradiction", "emergency", text)], surplus)

    def _marks(self, found: list[Notice], surplus: int) -> list[Mark]:
        """The marks of what was not marked yet."""
        marks = []
        for notice in found:
            once = notice.rule if notice.kind == "contraindication" else notice.kind
            if once not in self._marked:
                self._marked.add(once)
                shown = self._policy.action(notice.kind) == "on"
                marks.append(Mark(notice, surplus, shown, stops=shown and notice.kind == "contradiction"))
        return marks


def _last_cells(row: str) -> str:
    """The end of a row, of at most so many cells and characters."""
    at = len(row)
    for _ in range(CELLS + 1):
        if (at := row.rfind("|", 0, at)) <= 0:
            break
    row = row[max(0, at) :]
    return row if len(row) <= LONGEST else f"|{row[-LONGEST:]}"


def conflict_notice(conflict: Conflict, language: Language) -> Notice:
    """Return the notice of a medicine that does not go with what the person said."""
    return Notice("contraindication", "caution", conflict.texts[language], conflict.row)
