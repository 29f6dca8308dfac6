"""What an answer says is marked where it must not stand alone, sentence by sentence, as the policy has it."""

from __future__ import annotations

import gzip
import subprocess
import time
from pathlib import Path
from typing import get_args

import pytest

import preloaded
from carellama.assistant import Assistant
from carellama.engine.base import AnswerKind, Sampling
from carellama.engine.generate import generate
from carellama.engine.generate import stream as stream_of
from carellama.engine.scripted import ScriptedEngine
from carellama.errors import UserError
from carellama.records import Message
from carellama.safety.answers.checks import AnswerChecks, load_answer_rules
from carellama.safety.answers.classifier import (
    KINDS,
    AnswerClassifier,
    features,
    fit_answers,
    load_answer_classifier,
    read_answer_classifier,
)
from carellama.safety.answers.watch import LONGEST
from carellama.safety.check import faulty_examples
from carellama.safety.layer import SafetyLayer
from carellama.safety.policy import load_policy
from inline_engine import InlineEngine

ALL = get_args(AnswerKind)


def kinds(sentence: str, said: str = "") -> list[str]:
    return [rule.kind for rule in AnswerChecks(ALL, said).find(sentence)]


def answered(text: str, question: str = "I have had a cough for two days", *, lump: int = 3, **options):
    """The pieces joined and the reply, where the answer streams in lumps of so many characters."""
    engine = InlineEngine(*(text[begin : begin + lump] for begin in range(0, len(text), lump)))
    one = Assistant(engine, safety=SafetyLayer(options.pop("mode", "on"), **options))
    stream, said = stream_of(one, [Message("user", question)], one.sampling), ""
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
    (whole,) = generate(
        Assistant(
            ScriptedEngine("Rest well. You have pneumonia. Take 2.5 mg daily.\nDrink water."), safety=SafetyLayer("on")
        ),
        [[Message("user", "I have had a cough for two days")]],
        Sampling(),
    )
    assert whole.text == said


@pytest.mark.parametrize("lump", [1, 3, 1000])
@pytest.mark.parametrize(
    ("answer", "marked"),
    [
        ("| Drug | How |\n|---|---|\n| Ibuprofen | Take 400 mg every 6 hours |\nRest.", "every 6 hours {}|\nRest."),
        ("- Rest\n- Take 400 mg of ibuprofen every 6 hours\n- Sleep", "every 6 hours{}\n- Sleep"),
        ('They say: "Take 400 mg of ibuprofen every 6 hours." Rest.', 'every 6 hours."{} Rest.'),
        ("他说：“布洛芬每次0.4克，一天三次。”多喝水。", "一天三次。”{}多喝水。"),
        ("**Take 400 mg of ibuprofen every 6 hours.** Rest.", "every 6 hours.**{} Rest."),
    ],
    ids=["cell", "item", "quote", "chinese-quote", "bold"],
)
def test_a_mark_keeps_tables_lists_and_quotes_whole(answer: str, marked: str, lump: int) -> None:
    said, reply = answered(answer, lump=lump)
    (note,) = [notice.text for notice in reply.notices if notice.kind == "dose"]
    mark = f"〔提示：{note}〕" if "布洛芬" in answer else f" [Note: {note}]"
    assert marked.format(mark) in said
    assert said.replace(mark, "") == answer


def test_the_heading_of_a_list_tells_what_its_items_are() -> None:
    headed, bare = "Ibuprofen, how much to take:\n- 400 mg\n- rest", "In the shop:\n- 400 mg\n- rest"
    assert [notice.kind for notice in answered(headed)[1].notices] == ["dose", "disclaimer"]
    assert [notice.kind for notice in answered(bare)[1].notices] == ["disclaimer"]
    ended = "Ibuprofen, how much to take:\n- rest\nA pack holds:\n- 400 mg"
    assert [notice.kind for notice in answered(ended)[1].notices] == ["disclaimer"]


@pytest.mark.parametrize(
    ("sentence", "kind"),
    [
        ("Your swollen toe is gout, no question about it.", "diagnosis"),
        ("您的胸闷由冠心病导致。", "diagnosis"),
        ("Start with 3 mg of melatonin an hour before bed.", "dose"),
        ("褪黑素3毫克，睡前半小时服用。", "dose"),
        ("Ditch the bisoprolol and do yoga.", "stop_medicine"),
        ("阿托伐他汀不用吃了，伤肝。", "stop_medicine"),
        ("You will never have another asthma attack after this course.", "cure"),
        ("脚气永不再犯，这点我可以打包票。", "cure"),
        ("Trust me, patients like you come to my office every day.", "claims_doctor"),
        ("我做外科这些年，切过几百个这样的包块。", "claims_doctor"),
    ],
)
def test_the_classifier_finds_what_no_rule_names(sentence: str, kind: str) -> None:
    nothing = AnswerClassifier({}, (-1.0,) * len(KINDS), (0.0,) * len(KINDS))
    assert kind in kinds(sentence)
    assert [rule.kind for rule in AnswerChecks(ALL, "", nothing).find(sentence)] == []


@pytest.mark.parametrize(
    "sentence",
    [
        "This may be gout, an infection or an injury.",
        "尿路感染是其中一种可能。",
        "Do you have asthma?",
        "Drink six to eight glasses of water a day.",
        "按照药品说明书，布洛芬缓释胶囊成人每次一粒，每日两次。",
        "Do not stop your statin without talking to your doctor.",
        "胰岛素不能断，赶紧联系药房。",
        "There is no cure for type 1 diabetes yet.",
        "I'm a language model, not a nurse.",
        "皮肤科医生大概会用皮肤镜看这颗痣。",
    ],
)
def test_careful_sentences_are_not_marked(sentence: str) -> None:
    assert kinds(sentence) == []


def test_what_is_stated_in_a_part_of_a_question_is_stated() -> None:
    assert kinds("You have gout, so drink enough.", "I have gout, can I eat fish?") == []
    assert kinds("You have gout, so drink enough.", "What helps my gout?") == []
    assert kinds("You have gout, so drink enough.", "My toe hurts, do I have gout?") == ["diagnosis"]


def test_weights_are_read_as_they_were_written(tmp_path: Path) -> None:
    claims = ["you have gout", "take 5 mg of ibuprofen", "drop the warfarin", "it always heals", "i am a doctor"]
    others = ["gout is painful", "ibuprofen 5 mg is white", "warfarin is a drug", "it helps", "i am a program"]
    sentences = [*zip(claims, KINDS, strict=True), *((text, "none") for text in others)] * 2
    read = [(text, AnswerChecks(ALL, "", load_answer_classifier()).mentions(text)) for text, _ in sentences]
    made = fit_answers(read, [kind for _, kind in sentences], least=1, penalty=0.1)
    made.save(tmp_path / "weights.gz")
    again = read_answer_classifier((tmp_path / "weights.gz").read_bytes(), "weights.gz")
    found = [again.margins(features(*read[place]))["diagnosis"] for place in (0, len(claims))]
    assert found[0] > 0 > found[1]
    assert found[0] == pytest.approx(made.margins(features(*read[0]))["diagnosis"], abs=0.01)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("#bias\t0\t0\t0\t0\t0\n", "has no lines #bias and #threshold"),
        ("#bias\t0\t0\n", "line 1: a feature and 5 numbers"),
        ("gout\t0\t0\tx\t0\t0\n", "line 1: a feature and 5 numbers"),
    ],
)
def test_faulty_weights_are_refused_with_their_line(lines: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        read_answer_classifier(gzip.compress(lines.encode()), "weights.gz")
    with pytest.raises(UserError, match="no gzip file"):
        read_answer_classifier(lines.encode(), "weights.gz")


def test_a_kind_without_sentences_cannot_be_learned() -> None:
    read = [("you have gout", AnswerChecks(ALL).mentions("you have gout"))]
    with pytest.raises(UserError, match="no sentence of the kind dose"):
        fit_answers(read, ["diagnosis"], least=1, penalty=0.1)


def test_a_long_sentence_takes_linear_time() -> None:
    checks, seconds = AnswerChecks(ALL), []
    checks.find("warm up")
    for size in (2000, 20000):
        begin = time.thread_time()
        checks.find(("you have 5 mg of it and take it daily " * size)[:size])
        seconds.append(time.thread_time() - begin)
    assert seconds[1] < 40 * seconds[0] + 0.05


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
        ("- dose", ":1: a policy has the sections requests, answers and conversation"),
        ("answers: on", ":1: a policy has the sections requests, answers and conversation"),
        ("", ":1: the file is empty; a policy has the sections"),
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
    done = subprocess.run([preloaded.python(), "-m", "carellama", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "unknown key 'dosis'" in done.stderr
