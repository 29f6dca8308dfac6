"""What an answer says is marked where it must not stand alone, sentence by sentence, as the policy has it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from carellama.assistant import Assistant
from carellama.engine.base import AnswerKind, Piece, Reply
from carellama.engine.scripted import ScriptedEngine
from carellama.errors import UserError
from carellama.records import Message
from carellama.safety.answer_checks import AnswerChecks, load_answer_rules
from carellama.safety.check import faulty_examples
from carellama.safety.layer import LONGEST, SafetyLayer
from carellama.safety.policy import load_policy

ALL = get_args(AnswerKind)


def kinds(sentence: str, said: str = "") -> list[str]:
    return [rule.kind for rule in AnswerChecks(ALL, said).find(sentence)]


def answered(text: str, question: str = "I have had a cough for two days", *, lump: int = 3, **options):
    """The pieces joined and the reply, where the answer streams in lumps of so many characters."""

    class Lumps(ScriptedEngine):
        def stream(self, messages, sampling):
            for begin in range(0, len(text), lump):
                yield Piece(text[begin : begin + lump])
            return Reply(text, "stop", 1, 1)

    one = Assistant(Lumps(text), safety=SafetyLayer(options.pop("mode", "on"), **options))
    stream, said = one.stream([Message("user", question)]), ""
    while True:
        try:
            said += next(stream).text
        except StopIteration as end:
            return said, end.value


def test_the_examples_of_the_rules_hold() -> None:
    rules, checks = load_answer_rules(), AnswerChecks(ALL)
    assert len(rules.rules) >= 6
    assert list(faulty_examples(rules, lambda text: {rule.id for rule in checks.find(text)})) == []


def test_what_the_person_stated_is_no_claim_of_the_model() -> None:
    assert kinds("You have diabetes, so watch your feet.") == ["diagnosis"]
    assert kinds("You have diabetes, so watch your feet.", "I have had diabetes for ten years.") == []
    assert kinds("You have diabetes.", "Do I have diabetes?") == ["diagnosis"]
    assert kinds("您得了糖尿病。", "我是不是得了糖尿病") == ["diagnosis"]
    assert kinds("Keep taking 500 mg of metformin twice a day.", "I take metformin 500mg") == []
    assert kinds("Take 850 mg of metformin twice a day.", "I take metformin 500mg") == ["dose"]


@pytest.mark.parametrize("lump", [1, 2, 7, 1000])
def test_a_mark_stands_behind_its_sentence_however_it_streams(lump: int) -> None:
    said, reply = answered("Rest well. You have pneumonia. Take 2.5 mg daily.\nDrink water.", lump=lump)
    diagnosis, dose, _ = reply.notices
    marked = f"You have pneumonia. [Note: {diagnosis.text}] Take 2.5 mg daily. [Note: {dose.text}]"
    assert said == reply.text == f"Rest well. {marked}\nDrink water."
    assert [notice.kind for notice in reply.notices] == ["diagnosis", "dose", "disclaimer"]
    (whole,) = Assistant(
        ScriptedEngine("Rest well. You have pneumonia. Take 2.5 mg daily.\nDrink water."), safety=SafetyLayer("on")
    ).generate([[Message("user", "I have had a cough for two days")]])
    assert whole.text == said


def test_a_kind_is_marked_once_in_an_answer() -> None:
    said, reply = answered("You have gout. You have asthma. You have lupus.")
    assert said.count("[Note:") == 1
    assert [notice.kind for notice in reply.notices].count("diagnosis") == 1


def test_a_chinese_sentence_is_marked_in_chinese() -> None:
    said, _ = answered("您得了肺炎。多喝水。", "咳嗽两天")
    assert "〔提示：" in said
    assert said.endswith("〕多喝水。")


def test_warn_says_it_beside_the_answer() -> None:
    said, reply = answered("You have gout.", mode="warn")
    assert said == reply.text == "You have gout."
    assert [notice.kind for notice in reply.notices] == ["diagnosis", "disclaimer"]


def test_the_policy_turns_single_checks_off_or_to_warn(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text("answers: {diagnosis: off, dose: warn}\nconversation: {disclaimer: on}\n", encoding="utf-8")
    said, reply = answered("You have gout. Take 2 tablets a day.", policy=file)
    assert [notice.kind for notice in reply.notices] == ["dose", "disclaimer"]
    assert said == reply.text
    assert said == f"You have gout. Take 2 tablets a day.\n\n{reply.notices[1].text}"


def test_the_disclaimer_is_said_once_in_a_conversation() -> None:
    layer = SafetyLayer("on")
    first = layer.screen([Message("user", "hello")])
    turns = [Message("user", "hello"), Message("assistant", "Hello."), Message("user", "what is asthma?")]
    assert [one.kind for one in first.after] == ["disclaimer"]
    assert layer.screen(turns).after == ()


def test_a_sentence_that_never_ends_is_judged_in_time() -> None:
    said, reply = answered("You have gout " + "and rest " * LONGEST, lump=10)
    assert reply.notices[0].kind == "diagnosis"
    assert "[Note:" in said


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("answers: {dosis: on}", ":1: unknown key 'dosis'"),
        ("answer: {dose: on}", ":1: unknown key 'answer'"),
        ("answers:\n  dose: sometimes", ":2: dose is 'sometimes'; allowed: on, warn, off"),
        ("answers:\n  dose: on\n  dose: off", ":3: the key 'dose' stands in line 2"),
        ("- dose", ":1: a policy has the sections"),
        ("answers: on", ":1: a policy has the sections"),
        ("", ":1: a policy has the sections"),
    ],
)
def test_a_faulty_policy_is_refused_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=says):
        load_policy(file)


def test_a_faulty_policy_stops_the_command_before_a_model_is_read(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text("answers: {dosis: on}", encoding="utf-8")
    words = ["ask", "--policy", str(file), "--model_name_or_path", "nowhere", "hello"]
    done = subprocess.run([sys.executable, "-m", "carellama", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "unknown key 'dosis'" in done.stderr
