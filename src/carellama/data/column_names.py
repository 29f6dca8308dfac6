"""What the columns of rows hold, by their names and values: questions, answers, options, turns, texts.

    chat_columns(rows)       # Guess(Columns(prompt="问", response="答"), unclear="")
    exam_columns(rows)       # Guess(Columns(prompt="question", options=("opa", "opb"), response="cop"), ...)

Where two columns could hold the same thing, `unclear` says which, and nothing is chosen. Which format a file has is
decided by `carellama.data.detect_format`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from carellama.data.exam_answers import FORMS, AnswerForm, Sample, answer_forms, letters_of
from carellama.data.exam_options import first_key, in_text, options_of
from carellama.data.read import Row
from carellama.data.speakers import Speakers
from carellama.records import BadRecord


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column holds what; None: there is no such column (`""` in dataset_info.json).

    A name with dots that is no column is a path into objects: "data.question".
    """

    prompt: str | None = "instruction"  # of a text: the text; of an exam: the question
    query: str | None = "input"  # more of the question
    response: str | None = "output"  # of an exam: the answer
    history: str | None = None
    system: str | None = None
    chosen: str | None = "chosen"
    rejected: str | None = "rejected"
    messages: str | None = None  # the list of a sharegpt or openai row
    good: str | None = None  # true or false: whether a person found the answer good
    context: str | None = None  # a passage that the question is about; goes before it
    options: tuple[str, ...] | None = None  # of an exam: one column, or one for each; (): they are in the question
    explanation: str | None = None
    id: str | None = None
    answer_check: str | None = None  # a second column with the answer, which must agree
    answer_form: AnswerForm = "letters"
    speakers: Speakers | None = None  # marks in the question that part turns; (): there are none; None: refuse them

    @property
    def used(self) -> set[str]:
        """The columns of a row that a record is made of."""
        single = (
            self.prompt, self.query, self.response, self.history, self.system, self.chosen, self.rejected,
            self.messages, self.good, self.context, self.explanation, self.id, self.answer_check,
        )  # fmt: skip
        named = {*filter(None, single), *(self.options or ())}
        return named | {name.partition(".")[0] for name in named}


EXAM = Columns(
    prompt="question", query=None, response="answer", options=("options",), explanation="explanation", id="id"
)
NONE = Columns(None, None, None, None, None, None, None)

# Names by which a column is known, likeliest first; compared in lower case.
QUESTIONS = (
    "instruction",
    "question",
    "query",
    "ask",
    "prompt",
    "问",
    "问题",
    "提问",
    "患者提问",
    "患者问题",
    "user_input",
)
PROMPTS = (*QUESTIONS, "q", "input", "text", "title")
ANSWERS = (
    "output",
    "response",
    "answer",
    "reply",
    "completion",
    "target",
    "答",
    "答案",
    "回答",
    "医生回答",
    "医生回复",
)
RESPONSES = (*ANSWERS, "a")
QUERIES = {
    "instruction": ("input",),
    "title": ("ask", "question", "content"),
    "prompt": ("input",),
    "question": ("input",),
    "query": ("input",),
}
CHOSEN = ("chosen", "response_chosen", "better", "accepted")
REJECTED = ("rejected", "response_rejected", "worse", "refused")
HISTORIES = ("history",)
SYSTEMS = ("system", "system_prompt")
VERDICTS = ("good", "label", "kto_tag", "is_good", "thumbs_up", "desirable")
VERDICT_WORDS = {
    "true": True, "1": True, "1.0": True, "good": True, "desirable": True,
    "false": False, "0": False, "0.0": False, "bad": False, "undesirable": False,
}  # fmt: skip
ZERO = {"0", "0.0"}
RANKS = ("rank", "ranks", "ranking", "rankings")  # of ranked answers: 1 is the best
SCORES = ("score", "scores", "rating", "ratings", "reward", "rewards")  # of ranked answers: most is best
CONTEXTS = ("context", "contexts", "passage", "abstract", "vignette", "case", "background", "case_description",
            "clinical_case", "patient_case", "case_text", "case_summary", "case_presentation", "scenario",
            "clinical_scenario", "clinical_vignette", "patient_note", "clinical_note", "材料", "病例", "背景", "案例",
            "病历", "共用题干")  # fmt: skip
TEXTS = ("text", "content", "正文", "内容", "document", "passage", "paragraph", "body")
PASSAGES = ("document", "content", "text", "article", "paragraph", "正文", "内容")  # beside a question they may hold it
TURNS = ("conversations", "messages", "conversation", "dialogue", "dialog", "turns", "prompt", "chosen")
STEMS = ("question", "stem", "problem_text", "problem", "query", "题目", "题干", "问题", "试题", "prompt",
         "instruction", "input", "text", "q", "ques", "sent1")  # fmt: skip
OPTIONS = (
    "options",
    "option",
    "choices",
    "choice",
    "answer_choices",
    "answer_options",
    "opts",
    "选项",
    "备选答案",
    "备选项",
)
KEYS = ("answer_idx", "answer_index", "answer_key", "answerkey", "answer_letter", "answer_option", "correct_option",
        "correct_choice", "correct_answer", "right_answer", "cop", "answer", "anwer", "答案", "正确答案", "参考答案",
        "correct", "gold", "key", "ans", "target", "output", "response", "label")  # fmt: skip
EXPLANATIONS = ("explanation", "exp", "rationale", "解析", "答案解析", "analysis", "reasoning", "solution", "cot")
IDS = ("id", "problem_id", "question_id", "qid", "编号", "题号")
OPTION_COLUMN = re.compile(r"(op|opt|option|choice|ending|选项|备选)?[ _.\-]?([a-j]|10|[0-9])")
NAME_PARTS = re.compile(r"[\s\-_]+|(?<=[a-z0-9])(?=[A-Z])")
LATE = frozenset((*QUESTIONS, "input", *CONTEXTS, *OPTIONS, *CHOSEN, *REJECTED))
MEANINGS: dict[AnswerForm, str] = {
    "letters": "letters", "text": "texts of options",
    "index_from_0": "counted from 0", "index_from_1": "counted from 1",
}  # fmt: skip
LETTERS_ONLY = re.compile(r"\W*[A-H](?:\W*[A-H])*\W*")  # the answers of an exam


@dataclass(frozen=True)
class Guess:
    """Which column holds what, or why that is not clear: the readings, and what is to be written to choose one."""

    columns: Columns
    unclear: str = ""
    choices: Mapping[str, Any] = field(default_factory=dict)  # keys of dataset_info.json that would choose one


def plain_name(name: str) -> str:
    """A column's name as the known ones are written: "Correct Answer" and "correctAnswer" are "correct_answer"."""
    return NAME_PARTS.sub("_", name.strip()).lower()


def lower_names(rows: Sequence[Row], *, share: float = 0.5) -> dict[str, str]:
    """The columns that so many of the rows have, by their plain names."""
    counts = Counter(name for row in rows for name in row.fields)
    return {plain_name(name): name for name, count in reversed(counts.items()) if count >= share * len(rows)}


def first_of(known: Iterable[str], among: Mapping[str, str]) -> str | None:
    """The column that has the likeliest of some names."""
    return next((among[name] for name in known if name in among), None)


@lru_cache(maxsize=256)
def option_columns(names: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """Columns that may hold options: one that holds them all, or several ("opa", "opb", ...) that hold one each."""
    lower = {plain_name(name): name for name in reversed(names)}
    found: list[tuple[str, ...]] = [(lower[name],) for name in OPTIONS if name in lower]
    groups: dict[str, dict[str, str]] = {}
    for name, column in lower.items():
        match = OPTION_COLUMN.fullmatch(name)
        if match and (match[1] or match[2].isalpha()):
            groups.setdefault(match[1] or "", {})[match[2]] = column
    for prefix, group in groups.items():
        for first in ("abcdefghij", [str(number) for number in range(1, 11)], [str(number) for number in range(10)]):
            columns = []
            for end in first:
                if end not in group:
                    break
                columns.append(group[end])
            if len(columns) >= (2 if prefix or columns == ["A", "B"] else 3):
                found.append(tuple(columns))
                break
    return tuple(found)


def options_in(fields: Mapping[str, Any], columns: tuple[str, ...]) -> dict[str, str]:
    """The options of a row by letter; {} where it has none."""
    value = fields.get(columns[0]) if len(columns) == 1 else [fields.get(name) for name in columns]
    options = options_of(value)
    return options if len(options) > 1 else {}


def has_options(fields: Mapping[str, Any]) -> bool:
    """Whether a row has options: then it is an exam question, whatever else it has."""
    return any(options_in(fields, columns) for columns in option_columns(tuple(fields)))


def with_late_columns(row: Row, columns: Columns, seen: tuple[str, ...], row_format: str) -> Columns:
    """The columns of a row with those that none of the first rows had; `BadRecord` for one that would be lost."""
    turns = row_format in ("sharegpt", "openai")
    for name in row.fields:
        if name in seen or name in columns.used or row.fields[name] in (None, "", []):
            continue
        plain = plain_name(name)
        option = OPTION_COLUMN.fullmatch(plain)
        if plain in SYSTEMS and columns.system is None:
            columns = replace(columns, system=name)
        elif plain == "good" and columns.good is None:
            columns = replace(columns, good=name)
        elif turns and plain not in (*CHOSEN, *REJECTED):
            continue
        elif plain in HISTORIES and row_format == "alpaca":
            columns = replace(columns, history=name)
        elif plain in QUERIES.get(plain_name(columns.prompt or ""), ()) and columns.query is None:
            columns = replace(columns, query=name)
        elif plain in CONTEXTS and columns.context is None and row_format != "text":
            columns = replace(columns, context=name)
        elif plain in LATE or (option and (option[1] or option[2].isalpha())):
            reason = f"column {name!r} is not in the first rows, so it would be lost"
            raise BadRecord(row.place, reason, 'name it under "columns" in dataset_info.json')
    return columns


def unread_options(fields: Mapping[str, Any]) -> str | None:
    """The column of a row that is called as options are and holds something that is not read as options."""
    columns = option_columns(tuple(fields))
    column = columns[0][0] if columns and len(columns[0]) == 1 else None
    return column if column is not None and fields[column] not in (None, "", [], {}) else None


def may_be_exam(fields: Mapping[str, Any]) -> bool:
    """Whether a row has options, or a column that may hold some: it is not trained as a question with an answer."""
    return bool(option_columns(tuple(fields))) and (has_options(fields) or unread_options(fields) is not None)


def turns_in(fields: Mapping[str, Any], columns: Iterable[str] = ()) -> tuple[str, str] | None:
    """(column, row format) of a list of turns; None where a row has none. An empty list is none."""
    lower = {plain_name(name): name for name in reversed(list(fields))}
    for name in (*columns, *(lower[name] for name in TURNS if name in lower)):
        value = fields.get(name)
        first = value[0] if isinstance(value, list) and value else None
        if isinstance(first, dict) and ("role" in first or "from" in first):
            return name, "openai" if "role" in first else "sharegpt"
    return None


def turn_columns(rows: Sequence[Row], column: str, others: Guess | None = None) -> Guess:
    """The columns of rows with a list of turns; `others`: those of the conversations among them without one."""
    names, anywhere = lower_names(rows), lower_names(rows, share=0)
    chosen, rejected = first_of(CHOSEN, names), first_of(REJECTED, names)
    pair = (chosen, rejected) if chosen and rejected else (None, None)
    system, good = first_of(SYSTEMS, anywhere), _verdicts(rows, anywhere)
    return Guess(
        replace(
            others.columns if others else NONE,
            messages=column,
            system=system,
            chosen=pair[0],
            rejected=pair[1],
            good=good,
        )
    )


def text_columns(rows: Sequence[Row]) -> Guess | None:
    """The column of rows that hold a text; None where there is none. Beside a question it may be the answer."""
    names = lower_names(rows)
    text = first_of(TEXTS, names)
    if text is None:
        return None
    question = first_of([name for name in (*QUESTIONS, "input") if names.get(name) != text], names)
    held = [row.fields.get(question) for row in rows] if question else []
    if question and 2 * sum(isinstance(one, str) and bool(one.strip()) for one in held) > len(rows):
        choice = {"columns": {"prompt": question, "query": "", "response": text, "history": ""}}
        return Guess(replace(NONE, prompt=text), f"{text!r} may be the answer to {question!r}, or a text alone", choice)
    return Guess(replace(NONE, prompt=text))


def chat_columns(rows: Sequence[Row]) -> Guess | None:
    """The columns of rows with a question and its answer or ranked answers; None where there are no such columns."""
    names, anywhere = lower_names(rows), lower_names(rows, share=0)
    response = first_of(RESPONSES, names)
    prompt = first_of([name for name in PROMPTS if names.get(name) != response], names)
    if "title" in names and first_of(QUERIES["title"], names) and response:
        prompt = names["title"]
    chosen, rejected = first_of(CHOSEN, names), first_of(REJECTED, names)
    pair = (chosen, rejected) if chosen and rejected else (None, None)
    if not prompt or not (response or pair[0]):
        return None
    query = first_of(QUERIES.get(plain_name(prompt), ()), names)
    columns = Columns(
        prompt=prompt, query=query, response=response, chosen=pair[0], rejected=pair[1],
        history=first_of(HISTORIES, anywhere), system=first_of(SYSTEMS, anywhere), good=_verdicts(rows, anywhere),
        context=_context(rows, names, (prompt, query, response)),
    )  # fmt: skip
    answers = [str(row.fields.get(response)) for row in rows] if response else []
    unread = [column for row in rows if (column := unread_options(row.fields))]
    if 2 * len(unread) > len(rows):
        why = f"{unread[0]!r} may hold the options of an exam, and is not understood"
        return Guess(columns, why, {"formatting": "alpaca"})
    if two := _two_contexts(rows, names, columns):
        return Guess(columns, *two)
    if answers and all(map(LETTERS_ONLY.fullmatch, answers)):
        return Guess(columns, f"the answers in {response!r} are letters, and no column holds their options")
    if order := _other_order(rows, names, response):
        return Guess(columns, f"{response!r} holds ranked answers, and {order!r} another order: sort them, best first")
    if response and pair[0] and _filled(rows, response):
        return Guess(
            replace(columns, chosen=None, rejected=None),
            f"{response!r} holds an answer, and {pair[0]!r} and {pair[1]!r} hold a better and a worse one",
            {
                "columns": {
                    "prompt": prompt,
                    "query": query or "",
                    "response": "",
                    "chosen": pair[0],
                    "rejected": pair[1],
                }
            },
        )
    rival = _rival(rows, names, prompt, QUESTIONS, (prompt, query, response))
    if rival:
        choice = {"columns": {"prompt": prompt, "query": rival, "response": response or "", "history": ""}}
        return Guess(columns, f"{prompt!r} and {rival!r} may both hold the question", choice)
    rival = _rival(rows, names, response, ANSWERS, (prompt, query, response)) if response else None
    if rival:
        choice = {"columns": {"prompt": prompt, "query": query or "", "response": rival, "history": ""}}
        return Guess(columns, f"{response!r} and {rival!r} may both hold the answer", choice)
    return Guess(columns)


def _verdicts(rows: Sequence[Row], names: Mapping[str, str]) -> str | None:
    """The column that says whether an answer is good: true and false, their words, or 1 and 0; null: unknown.

    0 alone may be a class. 1 alone changes nothing, and a 0 after the first rows is not learned as a good answer.
    """
    for name in VERDICTS:
        values = [row.fields.get(names[name]) for row in rows] if name in names else []
        if values and name == "good":
            return names[name]
        given = {str(value).strip().lower() for value in values if value not in (None, "")}
        both = len({VERDICT_WORDS.get(word) for word in given}) == 2
        if given and given <= VERDICT_WORDS.keys() and (both or given - ZERO):
            return names[name]
    return None


def _other_order(rows: Sequence[Row], names: Mapping[str, str], response: str | None) -> str | None:
    """A column of ranks or scores by which the answers of some row do not stand best first."""
    for name in (*RANKS, *SCORES):
        for row in rows if response and name in names else ():
            answers, values = row.fields.get(response or ""), row.fields.get(names[name])
            if not (isinstance(answers, list) and isinstance(values, list) and len(answers) == len(values)):
                continue
            numbers = all(isinstance(value, int | float) for value in values)
            if numbers and values != sorted(values, reverse=name in SCORES):
                return names[name]
    return None


def _filled(rows: Sequence[Row], column: str) -> bool:
    return any(row.fields.get(column) not in (None, "", []) for row in rows)


def _rival(
    rows: Sequence[Row], names: Mapping[str, str], column: str, known: Iterable[str], used: tuple[str | None, ...]
) -> str | None:
    """Another column with a name of the same meaning, and a text in most rows that the first does not hold."""
    for name in known:
        other = names.get(name)
        if other is None or other in used:
            continue
        pairs = [(row.fields.get(column), row.fields.get(other)) for row in rows]
        differ = sum(
            isinstance(text, str) and bool(text.strip()) and (not isinstance(own, str) or text.strip() not in own)
            for own, text in pairs
        )
        if 2 * differ >= len(rows):
            return other
    return None


def _context(rows: Sequence[Row], names: Mapping[str, str], used: tuple[str | None, ...]) -> str | None:
    """The column of a passage: a text, or a list or object of texts. A text that holds the question is none."""
    for column in (names[name] for name in CONTEXTS if name in names and names[name] not in used):
        if any(isinstance(row.fields.get(column), (str, list, dict)) and row.fields[column] for row in rows):
            return column
    for column in (names[name] for name in PASSAGES if name in names and names[name] not in used):
        pairs = [(row.fields.get(used[0] or ""), row.fields.get(column)) for row in rows]
        apart = [isinstance(text, str) and bool(text) and str(asked) not in text for asked, text in pairs]
        if 2 * sum(apart) > len(rows):
            return column
    return None


def _two_contexts(rows: Sequence[Row], names: Mapping[str, str], columns: Columns) -> tuple[str, dict[str, Any]] | None:
    """Why it is not clear which column holds the passage, and the keys that choose one."""
    used = (columns.prompt, columns.query, columns.response, columns.context, *(columns.options or ()))
    rival = _rival(rows, names, columns.context, CONTEXTS, used) if columns.context else None
    if rival is None:
        return None
    chosen: dict[str, Any] = {"prompt": columns.prompt, "query": columns.query or "", "history": ""}
    chosen["response"] = columns.response or ""
    if columns.options:
        chosen["options"] = columns.options[0] if len(columns.options) == 1 else list(columns.options)
    why = f"{columns.context!r} and {rival!r} may both hold what the question is about"
    return why, {"columns": chosen | {"context": columns.context}}


def exam_columns(rows: Sequence[Row]) -> Guess | None:
    """The columns of exam questions; None where no column is known to hold the question."""
    names = lower_names(rows)
    sets = Counter(
        columns for row in rows for columns in option_columns(tuple(row.fields)) if options_in(row.fields, columns)
    )
    options = sets.most_common(1)[0][0] if sets else ()
    stem = first_of([name for name in STEMS if names.get(name) not in options], names)
    if stem is None:
        return None
    taken = {stem, *options}
    query = first_of([name for name in QUERIES.get(plain_name(stem), ()) if names.get(name) not in taken], names)
    if not options and not _options_in_question(rows, (stem, query)):
        return None
    keys = [names[name] for name in KEYS if name in names and names[name] not in {*taken, query}]
    given = {name: _answers(rows, (stem, query), options, name) for name in keys}
    fitting = {name: fits for name, (fits, _) in given.items() if fits}
    most = max(fitting.values(), default=0)  # an answer in letters goes before one whose numbers are not clear
    clear = {name: fits for name, fits in fitting.items() if len(given[name][1]) == 1 and 2 * fits >= most} or fitting
    response = max(clear, key=lambda name: clear[name], default=next(iter(keys), None))
    forms = given[response][1] if response else FORMS[:1]
    checks = [
        name for name, fits in fitting.items()
        if name != response and given[name][1][0] in ("letters", "text") and 2 * fits >= fitting[response or ""]
    ]  # fmt: skip
    columns = replace(
        NONE, prompt=stem, query=query, response=response, options=options, answer_form=forms[0],
        context=_context(rows, names, (stem, query, response)), explanation=first_of(EXPLANATIONS, names),
        id=first_of(IDS, names), answer_check=next(iter(checks), None),
    )  # fmt: skip
    if two := _two_contexts(rows, names, columns):
        return Guess(columns, *two)
    if len(forms) > 1:
        ways = " or ".join(MEANINGS[form] for form in forms)
        return Guess(columns, f"the answers in {response!r} may be {ways}", {"answer_form": forms})
    return Guess(columns)


def _answers(
    rows: Sequence[Row], stem: tuple[str, str | None], options: tuple[str, ...], column: str
) -> tuple[int, tuple[AnswerForm, ...]]:
    """(rows whose answer in this column names an option, how it may be written: several where that is not clear)."""
    samples = []
    for row in rows:
        if column in row.fields:
            found = options_in(row.fields, options) if options else in_text(_joined(row, stem))[1]
            first = first_key(row.fields.get(options[0])) if len(options) == 1 else _first_number(options)
            said = next((row.fields[name] for name in row.fields if plain_name(name) in EXPLANATIONS), None)
            if found:
                samples.append(Sample(row, row.fields[column], found, said, first))
    forms = answer_forms(samples)
    fits = 0
    for sample in samples:
        try:
            fits += bool(letters_of(sample.row, sample.answer, sample.options, forms[0]))
        except BadRecord:
            continue
    return fits, forms


def _first_number(options: tuple[str, ...]) -> int | None:
    """What the numbers in the names of option columns count from; None for letters."""
    end = options[0][-1:] if options else ""
    return int(end) if end in ("0", "1") else None


def _options_in_question(rows: Sequence[Row], stem: tuple[str, str | None]) -> bool:
    """Whether most questions end in their options."""
    return 2 * sum(len(in_text(_joined(row, stem))[1]) > 1 for row in rows) > len(rows)


def _joined(row: Row, columns: tuple[str, str | None]) -> str:
    values = [row.fields.get(name) for name in columns if name]
    return "\n".join(value for value in values if isinstance(value, str) and value)
