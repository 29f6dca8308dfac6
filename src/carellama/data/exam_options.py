r"""Options of exam questions, in whatever way a file writes them, by letter.

    options_of(["A. rest", "B. smoke"])             # {"A": "rest", "B": "smoke"}
    in_text("Which?\nA. rest\nB. smoke")            # ("Which?", {"A": "rest", "B": "smoke"})

It does not know which columns hold them: `carellama.data.guess_columns` does. Answers are read by `exam_answers`.
"""

from __future__ import annotations

import ast
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from carellama.data.readers import Row
from carellama.records import BadRecord

LETTERS = "ABCDEFGHIJ"
# a letter at the beginning of a line: (A) text, A. text, A: text, A、text, "A text", Ａ．text, A)text
MARK = re.compile(
    r"^[ \t\u3000]*(?:[(（]\s*([A-JＡ-Ｊ])\s*[)）][.．、:：]?|([A-JＡ-Ｊ])(?:[.．、:：)）]|(?=\s)|$))[ \t\u3000]*",
    re.MULTILINE,
)
# the same within a line, where no line begins with one: "A.this B.that"
INLINE = re.compile(r"(?:^|(?<=\s))(?:[(（]\s*([A-JＡ-Ｊ])\s*[)）][.．、:：]?|([A-JＡ-Ｊ])[.．、:：)）])[ \t\u3000]*")
# the same without a space before it, in a text that holds nothing but options: "A.这个B.那个"
TIGHT = re.compile(r"(?:^|(?<=[^A-Za-z]))(?:[(（]\s*([A-JＡ-Ｊ])\s*[)）]|([A-JＡ-Ｊ])[.．、:：])[ \t\u3000]*")
# the same in small letters, or in numbers, in a text that holds nothing but options
SMALL = tuple(
    re.compile(one.pattern.replace("A-J", "a-j").replace("Ａ-Ｊ", "ａ-ｊ"), one.flags) for one in (MARK, INLINE)
)
NUMBERED = re.compile(r"(?:^|(?<=\s))[(（]?(10|[0-9])[.．、:：)）](?!\d)[ \t\u3000]*")  # not the 0. of "0.5 mg"
CIRCLED = re.compile(r"(?:^|(?<=[\s;；]))([①-⑩])[.．、:：]?(?![①-⑩])")
# the letter of one option: not of "A cells"
PREFIX = re.compile(r"\s*(?:[(（]\s*([A-JＡ-Ｊa-j])\s*[)）][.．、:：]?|([A-JＡ-Ｊ])[.．、:：)）])\s*")
# what ends a prompt behind its options
ANSWER_CUE = re.compile(r"\n\s*(?:the )?(?:correct )?(?:answer|正确答案|答案|答)(?: is)?\s*[:：]\s*$", re.IGNORECASE)
STRAY_QUOTE = re.compile(r'\s*\n"(?=\.?$)')  # MedQA ends some last options with a line break and a quote
SEPARATORS = frozenset(";；,，、|/")
KEYS = ("key", "label", "letter", "id", "option", "index", "name")  # of an option that is an object
TEXTS = ("value", "text", "content", "option_text", "answer", "option", "description")
FLAGS = ("is_correct", "iscorrect", "correct", "is_answer", "isanswer", "is_right", "isright", "right")  # lower case
FLAG_WORDS = {
    "true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False, "none": False, "": False,
}  # fmt: skip


def in_text(text: str) -> tuple[str, dict[str, str]]:
    """Part a text into what stands before its options, and the options by letter. A line begins an option.

    Letters count up, and all are written as the first is ("A." or "(A)"): a line that begins otherwise belongs to
    the option before it. Where no line begins an option they are looked for within the lines.
    """
    return _parted(text, MARK, INLINE)


def in_question(text: str) -> tuple[str, dict[str, str]]:
    """The same for a question whose answer is a letter: its options may have small letters, "(a) rest (b) smoke"."""
    for patterns in ((MARK, INLINE), (SMALL[1],)):
        stem, options = _parted(text, *patterns)
        if options:
            return stem, options
    return text.strip(), {}


def _parted(text: str, *patterns: re.Pattern[str]) -> tuple[str, dict[str, str]]:
    text = ANSWER_CUE.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    marks: list[tuple[str, re.Match[str]]] = []
    for pattern in patterns:
        if len(marks) < 2:
            marks = _marks(pattern, text)
    if len(marks) < 2:
        return text.strip(), {}
    ends = [match.start() for _, match in marks[1:]] + [len(text)]
    texts = without_separators([text[match.end() : end].strip() for (_, match), end in zip(marks, ends, strict=True)])
    return text[: marks[0][1].start()].strip(), {letter: text for (letter, _), text in zip(marks, texts, strict=True)}


def without_separators(texts: Sequence[str]) -> list[str]:
    """Return options without what parts them: one sign that ends all but the last, as in "A. rest; B. smoke"."""
    ends = {text[-1:] for text in texts[:-1]}
    if len(ends) != 1 or not ends <= SEPARATORS:
        return list(texts)
    *others, last = texts
    sign = "".join(ends)
    one_sentence = "\n" not in last and not re.search(r"。\s*\S|\.\s+\S", last)
    return [*(text[:-1].rstrip() for text in others), last.rstrip(sign + ".。" if one_sentence else sign).rstrip()]


def _marks(pattern: re.Pattern[str], text: str) -> list[tuple[str, re.Match[str]]]:
    """The letters that begin the options of a text, from A on. One may be missing, but not where letters are bare.

    Letters that count up without a gap are believed, unless a gap makes more options of the text: the C of
    "A、维生素C、" is none where B follows.
    """
    found = [(unicodedata.normalize("NFKC", match[1] or match[2]).upper(), match) for match in pattern.finditer(text)]
    whole, gaps = _counted(found, gaps=False), _counted(found, gaps=True)
    return gaps if len(gaps) > len(whole) else whole


def _counted(found: Sequence[tuple[str, re.Match[str]]], *, gaps: bool) -> list[tuple[str, re.Match[str]]]:
    """The marks among the letters found that count up; `gaps`: one letter may be missing between two."""
    marks: list[tuple[str, re.Match[str]]] = []
    for at, (letter, match) in enumerate(found):
        bare = match[0].strip() == match[2]
        if letter == "A" and len(marks) == 1 and _frame(marks[0][1]) == "" and not bare:
            marks.clear()  # the first was a word of the stem: "A man of 40 ..."
        following = LETTERS[LETTERS.index(marks[-1][0]) + 1 :] if marks else "A"
        next_one = letter == following[:1]
        if not next_one and not (gaps and letter in following and not bare and _frame(match) == _frame(marks[0][1])):
            continue
        if (
            marks
            and match.start() == marks[-1][1].end()
            and _is_name(letter, found[at + 1 :], out_of_order=gaps and not next_one)
        ):
            continue
        marks.append((letter, match))
    return marks


def _is_name(letter: str, after: Sequence[tuple[str, re.Match[str]]], *, out_of_order: bool) -> bool:
    """Whether a letter right behind a mark begins its text, as in "A. E. coli" and "B. C. difficile C. ..."."""
    return out_of_order or any(other == letter for other, _ in after)


def _frame(mark: re.Match[str]) -> str:
    """What stands around the letter of a mark: "()", ".", or nothing."""
    return mark[0].strip().replace(mark[1] or mark[2], "", 1)


def options_of(value: object) -> dict[str, str]:
    """Return the options of a cell by letter; {} where it holds none. Empty options (padding) are left out.

    {"A": text}, {"1": text}, [text, ...], ["A. text", ...], [{"key": "A", "value": text}, ...],
    [{"text": text, "is_correct": true}, ...] (`correct_in` says which are right),
    {"label": ["A", ...], "text": [...]}, "A. text B. text", a text a line, or a list written as text.
    """
    if isinstance(value, str):
        return _options_in(value.strip())
    if isinstance(value, Mapping):
        lists = [one for one in value.values() if isinstance(one, list)]
        if len(lists) == len(value) == 2 and len(lists[0]) == len(lists[1]):
            keys = next((value[name] for name in KEYS if name in value), None)
            texts = next((value[name] for name in TEXTS if name in value), None)
            return {} if keys is None or texts is None else _keyed(dict(zip(map(str, keys), texts, strict=True)))
        return _keyed({str(key): text for key, text in value.items()})
    if not isinstance(value, Sequence) or len(value) < 2:
        return {}
    if pairs := _pairs(value):
        return _keyed(pairs)
    if all(isinstance(one, Mapping) for one in value):
        return _of_objects(value)
    return _listed(value)


def _pairs(value: Sequence[object]) -> dict[str, object]:
    """The options of [{"A": text}, {"B": text}] or [["A", text], ["B", text]], as Parquet's maps are; else {}."""
    pairs: list[tuple[object, object]] = []
    for one in value:
        if isinstance(one, Mapping) and len(one) == 1:
            pairs += one.items()
        elif isinstance(one, list | tuple) and len(one) == 2 and len(str(one[0]).strip("().: ")) == 1:
            pairs.append((one[0], one[1]))
        else:
            return {}
    found = {str(key): text for key, text in pairs}
    return found if len(found) == len(pairs) else {}


def _options_in(text: str) -> dict[str, str]:
    """The options of a text that holds nothing else."""
    value = unpacked(text)
    if value is not text:
        return options_of(value)
    for patterns in ((MARK, INLINE, TIGHT), SMALL):
        before, options = _parted(text, *patterns)
        if options and not before:
            return without_empty(options)
    numbered = _numbered(text)
    if numbered:
        return _listed([text for _, text in numbered])
    parts = [part.strip() for part in re.split(r"[\r\n]+|[|;；]", text) if part.strip()]
    return _listed(parts) if len(parts) > 1 else {}


def unpacked(value: Any) -> Any:
    """Return the list or object that a table's cell holds as text; any other value as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        for parse in (json.loads, ast.literal_eval):
            try:
                return parse(value)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
    return value


def _numbered(text: str) -> list[tuple[int, str]]:
    """The options of a text by the numbers before them, which count up from 0 or 1; [] where there are none."""
    text = CIRCLED.sub(lambda mark: f"\n{unicodedata.normalize('NFKC', mark[1])}. ", text)
    marks = list(NUMBERED.finditer(text))
    if len(marks) < 2 or text[: marks[0].start()].strip():
        return []
    numbers = [int(mark[1]) for mark in marks]
    if numbers[0] > 1 or numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        return []
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    texts = without_separators([text[mark.end() : end].strip() for mark, end in zip(marks, ends, strict=True)])
    return list(zip(numbers, texts, strict=True))


def _of_objects(value: Sequence[Mapping[str, object]]) -> dict[str, str]:
    names = set(value[0]).intersection(*value)
    key = next((name for name in KEYS if name in names), None)
    text = next((name for name in TEXTS if name in names and name != key), None)
    if text is None:
        return {}
    keyed = _keyed({str(one[key]): one[text] for one in value}) if key else {}
    if keyed or (key and _flag_of(value) is None):
        return keyed
    return _listed([one[text] for one in value])


def _flag_of(value: Sequence[Mapping[str, object]]) -> str | None:
    """The key by which each option says whether it is right; None where they have none."""
    for name in value[0]:
        words = {str(one.get(name, "")).strip().lower() for one in value}
        if name.lower() in FLAGS and words <= FLAG_WORDS.keys():
            return name
    return None


def correct_in(value: object) -> tuple[str, ...] | None:
    """Return the letters of the options that are objects and say they are right; None where options say nothing."""
    value = unpacked(value)
    if not isinstance(value, list | tuple) or not value or not all(isinstance(one, Mapping) for one in value):
        return None
    name = _flag_of(value)
    if name is None:
        return None
    letters = list(options_of([{**one, name: None} for one in value]))
    right = [FLAG_WORDS[str(one.get(name, "")).strip().lower()] for one in value]
    filled = [is_right for one, is_right in zip(value, right, strict=True) if _has_text(one)]
    if len(filled) != len(letters):
        return None
    return tuple(sorted(letter for letter, is_right in zip(letters, filled, strict=True) if is_right))


def _has_text(option: Mapping[str, object]) -> bool:
    return any(_plain(option[name]) for name in TEXTS if name in option)


def _listed(value: Sequence[object]) -> dict[str, str]:
    """The options of a list, whose letters are those that its texts begin with, or else count up."""
    if len(value) > len(LETTERS) or not all(isinstance(one, str | int | float | Decimal | None) for one in value):
        return {}
    texts = [_plain(one) for one in value]
    if numbers := _own_numbers(texts):
        parts = [NUMBERED.sub("", text, count=1) for text in texts]
        return without_empty(
            {LETTERS[number - min(numbers)]: part for number, part in zip(numbers, parts, strict=True)}
        )
    return without_empty(_own_letters(texts) or dict(zip(LETTERS, texts, strict=False)))


def _own_numbers(texts: Sequence[str]) -> list[int]:
    """The numbers that the texts begin with, in any order, where they are all those from 0 or 1 on; else []."""
    found = [mark for text in texts if (mark := NUMBERED.match(text))]
    numbers = [int(mark[1]) for mark in found]
    first = min(numbers, default=2)
    complete = first < 2 and len(numbers) == len(texts) and sorted(numbers) == list(range(first, first + len(texts)))
    return numbers if complete else []


def _own_letters(texts: Sequence[str]) -> dict[str, str]:
    """The options by the letters that their texts begin with: all from A on in any order, or in order without one.

    {} where a text has no letter, or others: "E. coli" is no option E.
    """
    marks = [(text, PREFIX.match(text)) for text in texts if text]
    options = {
        unicodedata.normalize("NFKC", mark[1] or mark[2]).upper(): text[mark.end() :] for text, mark in marks if mark
    }
    letters, count = list(options), len(marks)
    complete = sorted(letters) == list(LETTERS[:count])
    one_missing = letters == sorted(letters) and letters[:1] == ["A"] and letters[-1:] == [*LETTERS[count : count + 1]]
    return options if len(letters) == count and (complete or one_missing) else {}


def _keyed(value: Mapping[str, object]) -> dict[str, str]:
    """The options of an object: its keys are letters, or numbers that count up from 0 or 1."""
    if not all(isinstance(text, str | int | float | Decimal | None) for text in value.values()):
        return {}
    keys = [unicodedata.normalize("NFKC", key).strip().strip("().:").upper() for key in value]
    if first_key(value) is not None:
        keys = list(LETTERS[: len(keys)])
    if len(set(keys)) != len(keys) or not all(len(key) == 1 and key in LETTERS for key in keys):
        return {}
    return without_empty({key: _plain(text) for key, text in zip(keys, value.values(), strict=True)})


def first_key(value: object) -> int | None:
    """0 or 1 for options whose keys, or the numbers before them, count up from there; None for all others."""
    if isinstance(value, str):
        numbered = _numbered(value)
        return numbered[0][0] if numbered else None
    keys = _keys_of(value)
    if not keys and isinstance(value, list | tuple):
        return min(_own_numbers([_plain(one) for one in value]), default=None)
    for first in (0, 1):
        if 2 <= len(keys) <= len(LETTERS) and keys == [str(number) for number in range(first, first + len(keys))]:
            return first
    return None


def _keys_of(value: object) -> list[str]:
    """The keys of options: of an object, of a list of objects, or of the list beside that of the texts."""
    if isinstance(value, Mapping):
        listed = next((value[name] for name in KEYS if isinstance(value.get(name), list)), None)
        return [str(key) for key in (value if listed is None else listed)]
    if isinstance(value, list | tuple) and value and all(isinstance(one, Mapping) for one in value):
        name = next((name for name in KEYS if all(name in one for one in value)), None)
        return [str(one[name]) for one in value] if name else []
    return []


def _plain(value: object) -> str:
    return "" if value is None or value != value else str(value).strip()  # NaN: an empty cell of a table


def without_empty(options: Mapping[str, str]) -> dict[str, str]:
    """Return the options that have a text; empty ones are padding of a table."""
    stripped = {letter: STRAY_QUOTE.sub("", text).strip() for letter, text in options.items()}
    return {letter: text for letter, text in stripped.items() if text}


def listed(row: Row, column: str) -> dict[str, str]:
    """Return the options of a column by letter. `BadRecord` where it holds none."""
    options = options_of(row.fields.get(column))
    if not options:
        found = type(row.fields.get(column)).__name__
        raise BadRecord(row.place, f"column {column!r} has no options", f"found {found}")
    return options
