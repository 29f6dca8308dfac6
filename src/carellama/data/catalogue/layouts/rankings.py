"""Layouts of answers that were ranked: preference pairs.

    LAYOUTS["transcripts"].convert(Path("harmless-base_test.jsonl"))

Of more than two ranked answers the best and the worst make the pair: neighbours in a ranking differ little, and a
question with six answers shall not weigh five times one with two. Two equal answers are no pair.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from carellama.data.catalogue.layout import Layout, first_row, text_of, value_of
from carellama.data.convert import BadRecord, Columns, convert
from carellama.data.readers import Row
from carellama.records import Message, Pair

SPOKEN = re.compile(r"\n\n(Human|Assistant):")
HISTORY = Columns(history="history", system="system")


def pair_of(row: Row, question: str, answers: list[object], **about: str) -> Pair:
    """The pair of a row: its system and history, the question, and [better, worse]."""
    fields = {name: row.fields[name] for name in ("history", "system") if row.fields.get(name)}
    answers = [answer.strip() if isinstance(answer, str) else answer for answer in answers]
    if any(isinstance(answer, dict) for answer in answers):
        raise BadRecord(row.place, "a call of a tool")
    made = convert(Row({**fields, "instruction": question, "output": answers}, row.place), HISTORY, "alpaca")
    assert isinstance(made, Pair)
    return replace(made, meta=about)


def _asked(row: Row) -> str:
    parts = (text_of(row, name, required=False) for name in ("instruction", "input"))
    if question := "\n".join(part for part in parts if part):
        return question
    raise BadRecord(row.place, "empty question")


def _pair_layout(question: str, better: str, worse: str) -> Callable[[Row], Pair]:
    """The pair of rows with these columns, and perhaps a system and a history."""
    return lambda row: pair_of(row, text_of(row, question), [value_of(row, better), value_of(row, worse)])


def _instruction(row: Row) -> Pair:
    """{instruction, input, chosen, rejected}."""
    return pair_of(row, _asked(row), [value_of(row, "chosen"), value_of(row, "rejected")])


def _ranked(row: Row) -> Pair:
    """{instruction, input, output: [best, ..., worst], history}."""
    answers = value_of(row, "output")
    if not isinstance(answers, list) or len(answers) < 2:
        raise BadRecord(row.place, "fewer than two ranked answers")
    return pair_of(row, _asked(row), [answers[0], answers[-1]])


def _is_ranked(path: Path) -> bool:
    first = first_row(path)
    return first is not None and "instruction" in first.fields and isinstance(first.fields.get("output"), list)


def _scored(row: Row) -> Pair:
    """{user_input, responses_and_scores: [{response, score, source}]}: the highest and the lowest score."""
    listed = value_of(row, "responses_and_scores")
    try:
        scored = sorted(((float(one["score"]), one["response"]) for one in listed), key=lambda one: one[0])
    except (TypeError, KeyError, ValueError) as error:
        raise BadRecord(row.place, "responses_and_scores is not a list of response and score") from error
    if len(scored) < 2:
        raise BadRecord(row.place, "fewer than two ranked answers")
    if scored[0][0] == scored[-1][0]:
        raise BadRecord(row.place, "all answers have the same score")
    return pair_of(
        row, text_of(row, "user_input"), [scored[-1][1], scored[0][1]], score=f"{scored[-1][0]:g}>{scored[0][0]:g}"
    )


def _conversations(row: Row) -> Pair:
    """{conversations: [{from, value}], chosen, rejected}; answers that are calls of tools are skipped."""
    answers = [value_of(row, "chosen"), value_of(row, "rejected")]
    if row.fields.get("tools") or any(isinstance(answer, dict) for answer in answers):
        raise BadRecord(row.place, "a call of a tool")
    made = convert(row, Columns(messages="conversations", system="system"), "sharegpt")
    if not isinstance(made, Pair):
        raise BadRecord(row.place, "the conversation does not end with the user")
    return made


def _transcripts(row: Row) -> Pair:
    """{chosen, rejected}, each a whole transcript of "Human: ..." and "Assistant: ..." paragraphs: HH-RLHF."""
    transcripts = [f"\n\n{text_of(row, name)}" for name in ("chosen", "rejected")]
    if not all("\n\nAssistant:" in one for one in transcripts):
        raise BadRecord(row.place, "not two transcripts of Human and Assistant")
    (prompt, _, better), (other, _, worse) = (one.rpartition("\n\nAssistant:") for one in transcripts)
    if prompt != other:
        raise BadRecord(row.place, "the transcripts differ before the last answer")
    if "\n\nHuman:" in better + worse:
        raise BadRecord(row.place, "the transcript does not end with the assistant")
    if not better.strip() or not worse.strip():
        raise BadRecord(row.place, "an empty answer")
    if better.strip() == worse.strip():
        raise BadRecord(row.place, "chosen and rejected answers are the same")
    return Pair(_turns_of(row, prompt), better.strip(), worse.strip(), row.place)


def _turns_of(row: Row, transcript: str) -> tuple[Message, ...]:
    before, *pieces = SPOKEN.split(transcript)
    turns = []
    for speaker, text in zip(pieces[::2], pieces[1::2], strict=True):
        if not text.strip():
            raise BadRecord(row.place, "an empty turn")
        turns.append(Message("user" if speaker == "Human" else "assistant", text.strip()))
    expected = ["assistant" if number % 2 else "user" for number in range(len(turns))]
    if before.strip() or not turns or [turn.role for turn in turns] != expected or turns[-1].role != "user":
        raise BadRecord(row.place, "turns do not alternate")
    return tuple(turns)


QUESTION_RESPONSES = ("question", "response_chosen", "response_rejected")
QUESTION_CHOSEN = ("question", "chosen", "rejected")
COMPLETIONS = ("user_input", "completion_a", "completion_b")  # GPT-4-LLM, where completion_a was ranked higher
LAYOUTS: dict[str, Layout] = {
    "conversations-chosen": Layout("rm", ("conversations", "chosen", "rejected"), _conversations),
    "question-response-chosen": Layout("rm", QUESTION_RESPONSES, _pair_layout(*QUESTION_RESPONSES)),
    "question-chosen": Layout("rm", QUESTION_CHOSEN, _pair_layout(*QUESTION_CHOSEN)),
    "instruction-chosen": Layout("rm", ("instruction", "chosen", "rejected"), _instruction),
    "ranked-answers": Layout("rm", ("instruction", "output"), _ranked, recognises=_is_ranked),
    "two-completions": Layout("rm", COMPLETIONS, _pair_layout(*COMPLETIONS)),
    "scored-answers": Layout("rm", ("user_input", "responses_and_scores"), _scored),
    "transcripts": Layout("rm", ("chosen", "rejected"), _transcripts),
}
