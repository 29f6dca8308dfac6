"""data synthesize: what is written has its source, nothing twice, and each reply that is not used is counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from carellama.batch.synthesize import Account, run, synthesize
from carellama.batch.tasks import TASKS, doses, filled, prompts
from carellama.config.data_commands import SynthesizeOptions
from carellama.config.reader import parse_options
from carellama.data.convert import convert
from carellama.data.readers import Row
from carellama.data.write import COLUMNS
from carellama.engine.base import Prompt
from carellama.engine.scripted import ScriptedEngine
from carellama.errors import UserError
from carellama.records import Chat, Pair, Place

ARTICLE = "Drink enough when you have a fever. See a doctor if the fever lasts longer than three days. Number {}."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    articles = tmp_path / "articles"
    articles.mkdir()
    for number in range(4):
        (articles / f"{number}.md").write_text(f"---\ntitle: t\nlanguage: en\n---\n\n{ARTICLE.format(number)}\n")
    return tmp_path


def arguments(folder: Path, *flags: str, sources: str = "articles") -> SynthesizeOptions:
    argv = [str(folder / sources), "--output", str(folder / "x.jsonl"), "--parallel", "2", *flags]
    return parse_options((SynthesizeOptions,), argv, "test", positional="sources")[0]


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "x.jsonl").read_text(encoding="utf-8").splitlines()]


def answered(question: str = "How much should I drink, {}?", answer: str = "Enough. See a doctor after three days."):
    """A script that answers with JSON and a new question each time, one prompt after the other."""
    count = iter(range(1000))
    return ScriptedEngine(
        lambda _: json.dumps({"question": question.format(next(count)), "answer": answer}), parallel=1
    )


def made(folder: Path, engine: ScriptedEngine, *flags: str, **more: str) -> Account:
    return synthesize(arguments(folder, *flags, **more), engine, "script")


def reasons(account: Account) -> dict[str, int]:
    return {reason: len(places) for reason, places in account.skipped.items()}


def test_records_say_where_they_come_from_and_can_be_trained_on(folder: Path) -> None:
    engine = answered()
    account = made(folder, engine, "--records", "6", "--price_in", "1000000", "--price_out", "0")
    found = rows(folder)
    assert account.written == account.asked == len(found) == 6
    meta = found[0]["meta"]
    assert meta["source"].endswith("articles/0.md") and meta["line"] == "1" and meta["model"] == "script"
    assert meta["task"] == "qa" and meta["prompts"] == prompts()["version"] and len(meta["passage_sha1"]) == 40
    assert isinstance(convert(Row(found[0], Place("x", 1)), COLUMNS, "alpaca"), Chat)
    assert [row["meta"]["source"][-4:] for row in found] == ["0.md", "1.md", "2.md", "3.md", "0.md", "1.md"]
    assert "title: t" not in engine.asked[0][1].content and "Number 0" in engine.asked[0][1].content
    assert found[0]["instruction"] in engine.asked[4][1].content  # the second round knows the questions of the first
    kept = json.loads((folder / "x.jsonl.json").read_text())
    assert kept["tokens"]["model"]["prompt"] == kept["cost"] == sum(int(row["meta"]["prompt_tokens"]) for row in found)


def test_resuming_asks_only_what_is_missing_and_cuts_half_a_line_off(folder: Path) -> None:
    made(folder, answered(), "--records", "4")
    whole = (folder / "x.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    (folder / "x.jsonl").write_bytes(b"".join(lines[:2]) + lines[2][:50])
    with pytest.raises(UserError, match="--resume"):
        made(folder, answered(), "--records", "4")
    engine = answered("Another question {}?")
    account = made(folder, engine, "--records", "4", "--resume")
    assert len(engine.asked) == account.asked == account.written == 2 and account.done_before == 2
    assert [row["meta"]["source"][-4:] for row in rows(folder)] == ["0.md", "1.md", "2.md", "3.md"]
    assert (folder / "x.jsonl").read_bytes().startswith(b"".join(lines[:2]))


def test_what_was_finished_before_a_failure_is_kept(folder: Path) -> None:
    def script(messages: Prompt) -> str:
        if "Number 3" in messages[1].content:
            raise UserError("the network is gone")
        return json.dumps({"question": f"Q {messages[1].content[-400:]}", "answer": "See a doctor."})

    with pytest.raises(UserError, match="network"):
        made(folder, ScriptedEngine(script), "--records", "4")
    assert len(rows(folder)) == 3 and json.loads((folder / "x.jsonl.json").read_text())["written"] == 3


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("I can not do that.", "no JSON"),
        ('{"question": "a", ', "broken JSON"),
        ('{"question": "a"}', "JSON without question and answer"),
        ('{"question": "...", "answer": "...."}', "the answer repeats the question"),
        ('{"question": "a", "answer": "Take 500 mg."}', "a dose that the source does not have"),
        ("", "an empty reply"),
        ("x" * 2000, "cut off at --max_new_tokens"),
    ],
)
def test_unusable_replies_are_counted_and_not_written(folder: Path, reply: str, reason: str) -> None:
    account = made(folder, ScriptedEngine(reply), "--records", "4")
    assert account.written == 0 and rows(folder) == [] and reasons(account) == {reason: 4}


def test_fences_and_words_around_json_are_no_fault(folder: Path) -> None:
    script = [
        'Sure!\n```json\n{"question": "a b", "answer": "c"}\n```',
        'Here: {"question": "d e", "answer": "f\ng"} .',
    ]
    assert made(folder, ScriptedEngine(script), "--records", "2").written == 2


def test_a_question_is_written_once(folder: Path) -> None:
    there = {"instruction": "What  IS a fever?", "input": "", "output": "x"}
    (folder / "old.jsonl").write_text(json.dumps(there) + "\n")
    count = iter(["What is a fever", "When to worry?", "when to WORRY？", "Else?"])
    engine = ScriptedEngine(lambda _: json.dumps({"question": next(count), "answer": "See a doctor."}))
    account = made(folder, engine, "--records", "4", "--existing", str(folder / "old.jsonl"))
    assert [row["instruction"] for row in rows(folder)] == ["When to worry?", "Else?"]
    assert reasons(account) == {"duplicate question": 2}


def test_a_consultation_alternates_and_ends_with_the_doctor(folder: Path) -> None:
    count = iter(range(100))

    def script(messages: Prompt) -> str:
        doctor = messages[0].content.startswith("You are a doctor")
        assert messages[-1].role == "user"
        return f"{'Doctor' if doctor else 'Patient'}: message {next(count)}"

    made(folder, ScriptedEngine(script), "--records", "1", "--task", "consultation", "--turns", "3")
    (row,) = rows(folder)
    assert row["history"] == [["message 0", "message 1"], ["message 2", "message 3"]]
    assert (row["instruction"], row["output"]) == ("message 4", "message 5")


def test_a_reply_for_both_sides_makes_no_consultation(folder: Path) -> None:
    account = made(folder, ScriptedEngine("I have a fever.\nDoctor: Rest."), "--task", "consultation", "--records", "1")
    assert reasons(account) == {"one reply speaks for both": 1}


def conversations(folder: Path) -> str:
    row = {"instruction": "May I take 5 ml?", "input": "", "output": "5 ml, as your doctor said.", "history": []}
    (folder / "talks.jsonl").write_text(json.dumps(row) + "\n")
    return "talks.jsonl"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("Yes: 5 ml, as the doctor told you.", None),
        ("Yes, as the doctor told you.", "a dose of the original is missing"),
        ("Yes: 5 ml or 10 ml.", "a dose that the source does not have"),
    ],
)
def test_a_rewriting_keeps_the_doses(folder: Path, answer: str, reason: str | None) -> None:
    engine = answered("Can I have 5 ml {}?", answer)
    account = made(folder, engine, "--task", "rewrite", "--records", "1", sources=conversations(folder))
    assert list(account.skipped) == ([reason] if reason else [])


def judged(verdicts: list[str]) -> ScriptedEngine:
    return ScriptedEngine([json.dumps({"better": verdict}) for verdict in verdicts])


@pytest.mark.parametrize(
    ("verdicts", "chosen"),
    [
        (["A", "B"], "first"),
        (["B", "A"], "second"),
        (["A", "A"], "verdicts differ with the order"),
        (["tie", "tie"], "judged a tie"),
        (["tie", "A"], "verdicts differ with the order"),
    ],
)
def test_only_a_verdict_that_holds_in_both_orders_makes_a_pair(folder: Path, verdicts: list[str], chosen: str) -> None:
    given = arguments(folder, "--task", "preference", sources=conversations(folder))
    judge = judged(verdicts)
    account = synthesize(given, ScriptedEngine(["first", "second"]), "script", judge, "the judge")
    assert account.asked == 1 and account.tokens["judge"][0] > 0
    if chosen in ("first", "second"):
        (row,) = rows(folder)
        pair = convert(Row(row, Place("x", 1)), COLUMNS, "alpaca")
        assert isinstance(pair, Pair) and pair.chosen == chosen and row["meta"]["judge"] == "the judge"
    else:
        assert reasons(account) == {chosen: 1}
    first, second = (asked[0].content for asked in judge.asked)
    assert first.index("first") < first.index("second\n") and second.index("second\n") < second.index("first\n")


def test_doses_have_one_spelling() -> None:
    assert doses("每次500毫克，或 2 片") == doses("500 mg or 2 tablets") == {"500mg", "2tablet"}
    assert doses("5-10 mL") == {"5ml", "10ml"} and doses("for 3 days, 2 groups") == set()


def test_both_languages_have_the_same_prompts_with_the_same_blanks() -> None:
    import re

    def blanks(found: dict) -> dict:
        return {
            k: blanks(v) if isinstance(v, dict) else sorted(set(re.findall(r"\{\w+\}", v))) for k, v in found.items()
        }

    assert blanks(prompts()["zh"]) == blanks(prompts()["en"]) and set(prompts()["zh"]) == set(TASKS)
    assert filled("{a} {b} {c}", a="{b}", b="x") == "{b} x {c}"


@pytest.mark.parametrize(
    ("flags", "hint"),
    [
        ([], "--endpoint"),
        (["--endpoint", "http://localhost:1/v1"], "--model NAME"),
        (["--endpoint", "http://localhost:1/v1", "--model_name_or_path", "m"], "not both"),
        (["--judge_model", "m"], "preference"),
        (["--price_in", "1"], "--price_out"),
        (["--turns", "0"], "--turns"),
    ],
)
def test_contradictions_are_one_line(folder: Path, flags: list[str], hint: str) -> None:
    with pytest.raises(UserError, match=hint):
        run([str(folder / "articles"), "--output", str(folder / "x.jsonl"), *flags])
    assert not (folder / "x.jsonl").exists()


def test_an_endpoint_that_does_not_answer_leaves_no_file(folder: Path) -> None:
    flags = ["--endpoint", "http://127.0.0.1:9/v1", "--model", "m", "--task", "qa", "--parallel", "2"]
    with pytest.raises(UserError, match="nothing answers"):
        run([str(folder / "articles"), "--output", str(folder / "x.jsonl"), *flags])
    assert not list(folder.glob("x.jsonl*"))
