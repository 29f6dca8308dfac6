"""Which column of rows holds what, guessed from names and values: of turns, texts, chats and exams.

    chat_columns(rows)       # Guess(Columns(prompt="问", response="答"), unclear="")
    exam_columns(rows)       # Guess(Columns(prompt="question", options=("opa", "opb"), response="cop"), ...)

Where two columns could hold the same thing, `unclear` says which, and nothing is chosen. Which format a file has is
decided by `carellama.data.detect_format`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from carellama.data.column_names import (
    LETTERS_ONLY,
    NONE,
    Columns,
    first_of,
    lower_names,
    names_of,
    option_columns,
    options_in,
    plain_name,
    query_names,
    unread_options,
    verdict_words,
)
from carellama.data.exam_answers import FORMS, AnswerForm, Sample, answer_forms, letters_of
from carellama.data.exam_options import correct_in, first_key, in_question
from carellama.data.readers import Row
from carellama.records import BadRecord

ZERO, MINUS = {"0", "0.0"}, {"-1", "-1.0"}
MEANINGS: dict[AnswerForm, str] = {
    "letters": "letters", "text": "texts of options",
    "index_from_0": "counted from 0", "index_from_1": "counted from 1",
}  # fmt: skip


@dataclass(frozen=True)
class Guess:
    """Which column holds what, or why that is not clear: the readings, and what is to be written to choose one."""

    columns: Columns
    unclear: str = ""
    choices: Mapping[str, Any] = field(default_factory=dict)  # keys of dataset_info.json that would choose one


def turn_columns(rows: Sequence[Row], column: str, others: Guess | None = None) -> Guess:
    """The columns of rows with a list of turns; `others`: those of the conversations among them without one."""
    names, anywhere = lower_names(rows), lower_names(rows, share=0)
    chosen, rejected = _ranked(names)
    system, good = first_of(names_of("systems"), anywhere), _verdicts(rows, anywhere)
    base = others.columns if others else NONE
    return Guess(replace(base, messages=column, system=system, chosen=chosen, rejected=rejected, good=good))


def _ranked(names: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Return the columns of a better and a worse answer; None for both unless both are there."""
    chosen, rejected = first_of(names_of("chosen"), names), first_of(names_of("rejected"), names)
    return (chosen, rejected) if chosen and rejected else (None, None)


def text_columns(rows: Sequence[Row]) -> Guess | None:
    """The column of rows that hold a text; None where there is none. Beside a question it may be the answer."""
    names = lower_names(rows)
    text = first_of(names_of("texts"), names)
    if text is None:
        return None
    question = first_of([name for name in (*names_of("questions"), "input") if names.get(name) != text], names)
    held = [row.fields.get(question) for row in rows] if question else []
    if question and 2 * sum(isinstance(one, str) and bool(one.strip()) for one in held) > len(rows):
        choice = {"columns": {"prompt": question, "query": "", "response": text, "history": ""}}
        return Guess(replace(NONE, prompt=text), f"{text!r} may be the answer to {question!r}, or a text alone", choice)
    return Guess(replace(NONE, prompt=text))


def chat_columns(rows: Sequence[Row]) -> Guess | None:
    """The columns of rows with a question and its answer or ranked answers; None where there are no such columns."""
    names, anywhere = lower_names(rows), lower_names(rows, share=0)
    response = first_of(names_of("responses"), names)
    prompt = first_of([name for name in names_of("prompts") if names.get(name) != response], names)
    if "title" in names and first_of(query_names("title"), names) and response:
        prompt = names["title"]
    chosen, rejected = _ranked(names)
    if not prompt or not (response or chosen):
        return None
    query = first_of(query_names(prompt), names)
    columns = Columns(
        prompt=prompt, query=query, response=response, chosen=chosen, rejected=rejected,
        history=first_of(names_of("histories"), anywhere), system=first_of(names_of("systems"), anywhere),
        good=_verdicts(rows, anywhere),
        context=_context(rows, names, (prompt, query, response)),
    )  # fmt: skip
    answers = [one if isinstance(one := row.fields.get(response), str) else "" for row in rows] if response else []
    unread = [column for row in rows if (column := unread_options(row.fields))]
    if 2 * len(unread) > len(rows):
        why = f"{unread[0]!r} may hold the options of an exam, and is not understood"
        return Guess(columns, why, {"formatting": "alpaca"})
    if two := _two_contexts(rows, names, columns):
        return Guess(columns, *two)
    if answers and all(map(LETTERS_ONLY.fullmatch, answers)):
        return Guess(columns, f"the answers in {response!r} are letters, and no column holds their options")
    if order := other_order(rows, names, response):
        return Guess(columns, f"{response!r} holds ranked answers, and {order!r} another order: sort them, best first")
    if response and chosen and any(row.fields.get(response) not in (None, "", []) for row in rows):
        why = f"{response!r} holds an answer, and {chosen!r} and {rejected!r} hold a better and a worse one"
        ranked = {"prompt": prompt, "query": query or "", "response": "", "chosen": chosen, "rejected": rejected}
        return Guess(replace(columns, chosen=None, rejected=None), why, {"columns": ranked})
    rival = _rival(rows, names, prompt, names_of("questions"), (prompt, query, response))
    if rival:
        choice = {"columns": {"prompt": prompt, "query": rival, "response": response or "", "history": ""}}
        return Guess(columns, f"{prompt!r} and {rival!r} may both hold the question", choice)
    rival = _rival(rows, names, response, names_of("answers"), (prompt, query, response)) if response else None
    if rival:
        choice = {"columns": {"prompt": prompt, "query": query or "", "response": rival, "history": ""}}
        return Guess(columns, f"{response!r} and {rival!r} may both hold the answer", choice)
    return Guess(columns)


def _verdicts(rows: Sequence[Row], names: Mapping[str, str]) -> str | None:
    """The column that says whether an answer is good: true and false, their words, or 1 and 0; null: unknown.

    0 alone may be a class. 1 alone changes nothing, and a 0 after the first rows is not learned as a good answer.
    """
    for name in names_of("verdicts"):
        values = [row.fields.get(names[name]) for row in rows] if name in names else []
        if values and name == "good":
            return names[name]
        given = {str(value).strip().lower() for value in values if value not in (None, "")}
        if given & ZERO and given & MINUS:  # three grades, of which the middle is neither
            continue
        both = len({verdict_words().get(word) for word in given}) == 2
        if given and given <= verdict_words().keys() and (both or given - ZERO):
            return names[name]
    return None


def other_order(rows: Sequence[Row], names: Mapping[str, str], response: str | None) -> str | None:
    """A column of ranks or scores by which the answers of some row do not stand best first."""
    for name in (*names_of("ranks"), *names_of("scores")):
        for row in rows if response and name in names else ():
            answers, values = row.fields.get(response or ""), row.fields.get(names[name])
            if not (isinstance(answers, list) and isinstance(values, list) and len(answers) == len(values)):
                continue
            numbers = all(isinstance(value, int | float) for value in values)
            if numbers and values != sorted(values, reverse=name in names_of("scores")):
                return names[name]
    return None


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
    for column in (names[name] for name in names_of("contexts") if name in names and names[name] not in used):
        if any(isinstance(row.fields.get(column), (str, list, dict)) and row.fields[column] for row in rows):
            return column
    for column in (names[name] for name in names_of("passages") if name in names and names[name] not in used):
        pairs = [(row.fields.get(used[0] or ""), row.fields.get(column)) for row in rows]
        apart = [isinstance(text, str) and bool(text) and str(asked) not in text for asked, text in pairs]
        if 2 * sum(apart) > len(rows):
            return column
    return None


def _two_contexts(
    rows: Sequence[Row], names: Mapping[str, str], columns: Columns
) -> tuple[str, dict[str, object]] | None:
    """Why it is not clear which column holds the passage, and the keys that choose one."""
    used = (columns.prompt, columns.query, columns.response, columns.context, *(columns.options or ()))
    rival = _rival(rows, names, columns.context, names_of("contexts"), used) if columns.context else None
    if rival is None:
        return None
    chosen: dict[str, object] = {"prompt": columns.prompt, "query": columns.query or "", "history": ""}
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
    stem = first_of([name for name in names_of("stems") if names.get(name) not in options], names)
    if stem is None:
        return None
    taken = {stem, *options}
    query = first_of([name for name in query_names(stem) if names.get(name) not in taken], names)
    if not options and not _options_in_question(rows, (stem, query)):
        return None
    keys = [names[name] for name in names_of("keys") if name in names and names[name] not in {*taken, query}]
    given = {name: _answers(rows, (stem, query), options, name) for name in keys}
    fitting = {name: fits for name, (fits, _) in given.items() if fits}
    most = max(fitting.values(), default=0)  # an answer in letters goes before one whose numbers are not clear
    clear = {name: fits for name, fits in fitting.items() if len(given[name][1]) == 1 and 2 * fits >= most} or fitting
    flagged = len(options) == 1 and 2 * sum(bool(correct_in(row.fields.get(options[0]))) for row in rows) > len(rows)
    response = max(clear, key=lambda name: clear[name], default=None if flagged else next(iter(keys), None))
    forms = given[response][1] if response else FORMS[:1]
    checks = [
        name for name, fits in fitting.items()
        if name != response and given[name][1][0] in ("letters", "text") and 2 * fits >= fitting[response or ""]
    ]  # fmt: skip
    columns = replace(
        NONE, prompt=stem, query=query, response=response, options=options, answer_form=forms[0],
        context=_context(rows, names, (stem, query, response)), explanation=first_of(names_of("explanations"), names),
        id=first_of(names_of("ids"), names), answer_check=next(iter(checks), None),
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
            found = options_in(row.fields, options) if options else in_question(_joined(row, stem))[1]
            first = first_key(row.fields.get(options[0])) if len(options) == 1 else _first_number(options)
            said = next((row.fields[name] for name in row.fields if plain_name(name) in names_of("explanations")), None)
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
    return 2 * sum(len(in_question(_joined(row, stem))[1]) > 1 for row in rows) > len(rows)


def _joined(row: Row, columns: tuple[str, str | None]) -> str:
    values = [row.fields.get(name) for name in columns if name]
    return "\n".join(value for value in values if isinstance(value, str) and value)
