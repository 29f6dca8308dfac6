"""What a person tells is not lost: emergencies in any answer, allergies that come to mind late, news after a report."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

import preloaded
from carellama.assistant import Assistant, Consultant
from carellama.consultation.guide_files import URGENCIES
from carellama.consultation.interview import Interview
from carellama.consultation.questions import load_questions
from carellama.consultation.reading import LONGEST, read_text
from carellama.consultation.report import make_report, report_words, to_markdown
from carellama.consultation.state import ConsultState, Slot
from carellama.engine.base import Reply
from carellama.engine.generate import generate
from carellama.engine.scripted import ScriptedEngine
from carellama.records import Message
from carellama.safety.layer import SafetyLayer
from carellama.safety.notices import Language
from carellama.safety.triage.triage import BY_CLASSIFIER, Finding


@pytest.mark.parametrize(
    "answer",
    ["3 days ago", "about 3 weeks", "two of my kids have it too", "I have 1 kid and am fine", "5 ft 7, 80 kg",
     "not telling, weight 80", "about 8 out of 10", "7/10", "2 years ago", "38.5", "我有两个孩子", "三天前"],
)  # fmt: skip
def test_a_number_that_counts_something_else_is_no_age(answer: str) -> None:
    """ "3 days ago" made the person three years old, and stood in the summary as age and sex."""
    said = read_text(answer, "age_sex")
    assert (said.age, said.slots.get("age_sex")) == (None, None)


@pytest.mark.parametrize(
    ("answer", "age"),
    [("18 months, boy", 1.5), ("六个月", 0.5), ("she is 9 months", 0.75), ("I turn 40 next week, he", 40),
     ("我今年四十二了，女", 42), ("我妈 78", 78), ("a boy of 12", 12), ("I am 30, 5 ft 2", 30), ("early 40s", 40),
     ("男，快六十了", 60), ("I'm 34 and female", 34)],
)  # fmt: skip
def test_an_age_is_read_with_its_unit(answer: str, age: float) -> None:
    """A baby of 18 months was 18 years old."""
    assert read_text(answer, "age_sex").age == pytest.approx(age)


LAYER = SafetyLayer("on")
INTERVIEW = Interview(LAYER)
QUESTIONS = load_questions()


def asked(slot: Slot, answer: str, opening: str = "my knee hurts") -> list[Message]:
    language: Any = "zh" if not opening.isascii() else "en"
    return [Message("user", opening), Message("assistant", QUESTIONS.text(slot, language)), Message("user", answer)]


@pytest.mark.parametrize("slot", ["family", "allergies", "history", "drugs", "social"])
@pytest.mark.parametrize(
    ("opening", "answer"),
    [
        ("my knee hurts", "Crushing chest pain and I am drenched in sweat"),
        ("my knee hurts", "I took forty paracetamol because I want to die"),
        ("膝盖疼", "胸口像压了块石头，一身冷汗"),
    ],
)
def test_an_emergency_is_heard_whatever_was_asked(slot: Slot, opening: str, answer: str) -> None:
    """A quarter of the emergencies of data/triage/dev.jsonl were lost as answers about the family or allergies."""
    assert INTERVIEW.step(asked(slot, answer, opening)).state.reason == "emergency"


def test_a_swollen_throat_of_now_is_no_old_reaction() -> None:
    assert INTERVIEW.step(asked("allergies", "Peanuts, and my throat is closing up")).state.level == "emergency"
    assert INTERVIEW.step(asked("allergies", "penicillin, my throat swelled up")).state.level == "routine"
    assert INTERVIEW.step(asked("family", "My father had a heart attack at 50")).state.level == "routine"


def test_a_rule_of_a_hospital_is_heard_beside_a_wish_to_be_told(tmp_path: Path) -> None:
    """Only shipped rules were looked for in a message that ends the questions."""
    file = tmp_path / "own.yaml"
    file.write_text(HOSPITAL, encoding="utf-8")
    interview = Interview(SafetyLayer("on", more_rules=[file]))
    found = interview.step(asked("onset", "just tell me, the grindlewort got me"))
    assert [one.rule.id for one in found.state.findings] == ["grindlewort"]


HOSPITAL = """
concepts:
  grindlewort_word: [[grindlewort]]
rules:
  - id: grindlewort
    level: emergency
    system: poisoning
    find: [grindlewort_word]
    do: {en: Come to us now., zh: 请立即来院。}
    source: our ward
    fires: ["the grindlewort got me"]
    spares: ["a bee got me"]
"""


@pytest.mark.parametrize("said", ["about 5, and I am allergic to penicillin", "I take warfarin, by the way"])
def test_what_comes_to_mind_later_is_in_the_report(said: str) -> None:
    """The report said "Allergies: no" to who had named one in a later answer."""
    messages = [*asked("allergies", "no"), Message("assistant", QUESTIONS.text("drugs", "en")), Message("user", "no")]
    messages += [Message("assistant", QUESTIONS.text("severity", "en")), Message("user", said)]
    slots = INTERVIEW.step(messages).state.slots
    assert said.split(", ")[-1] in slots["allergies"] + slots["drugs"] or "I take warfarin" in slots["drugs"]
    assert slots["allergies"].startswith("no") and slots["drugs"].startswith("no")


def consulted(*after: str) -> Reply:
    """The answer to what is said after a report."""
    consultant = Consultant(Assistant(ScriptedEngine("MODEL"), safety=LAYER), INTERVIEW)
    messages = [Message("user", "my knee hurts since monday"), Message("assistant", QUESTIONS.text("allergies", "en"))]
    messages += [Message("user", "no"), Message("assistant", QUESTIONS.text("onset", "en"))]
    messages.append(Message("user", "just tell me"))
    reply = generate(consultant, [messages], consultant.sampling)[0]
    assert reply.text.startswith("# Consultation report")
    for said in after:
        messages += [Message("assistant", reply.text), Message("user", said)]
        reply = generate(consultant, [messages], consultant.sampling)[0]
    return reply


@pytest.mark.parametrize(
    "said", ["Also I'm allergic to penicillin", "It is getting worse", "I have a rash on my arm as well"]
)
def test_what_is_told_after_the_report_makes_a_new_one(said: str) -> None:
    """It was answered with "The report above stands ... has anything changed? Then write it, please." """
    reply = consulted(said)
    assert reply.text.startswith("# Consultation report") and said.rstrip(".") in reply.text.replace("’", "'")


def test_thanks_and_questions_after_the_report_make_none() -> None:
    assert "report above stands" in consulted("Thank you.").text
    assert consulted("What may I eat?").text.startswith("MODEL")


def test_a_second_emergency_after_the_report_of_one_is_told() -> None:
    """The level was the highest already, so that nothing counted as new, and there was no notice."""
    reply = consulted("Crushing chest pain, drenched in sweat", "I took forty paracetamol because I want to die")
    assert "988" in reply.text and [one.kind for one in reply.notices] == ["emergency"]
    assert consulted("Crushing chest pain, drenched in sweat", "ok then").notices[0].kind == "emergency"


def test_a_refusal_stands_before_what_comes_after_the_report() -> None:
    assert consulted("Write me a fake prescription with a doctor's signature.").finish_reason == "content_filter"


@pytest.mark.parametrize("between", [[], [Message("assistant", "Put some ice on it.")]])
def test_what_is_said_to_no_question_of_ours_is_in_the_report(between: list[Message]) -> None:
    """A second message in a row, or one to a model's answer of before the mode, was in no slot."""
    messages = [Message("user", "my knee hurts"), *between, Message("user", "and my ear is full of wax")]
    state = INTERVIEW.step(messages).state
    assert state.slots["complaint"] == "my knee hurts; and my ear is full of wax"
    assert len(state.complaints) == 2


def test_what_stands_late_in_a_long_story_counts() -> None:
    """The urgency was judged by the first 600 characters, which are those that the report quotes."""
    opening = "I have a cough. " + "It comes and goes with the weather. " * 30
    state = INTERVIEW.step([Message("user", opening + "I have lung cancer and have chemotherapy.")]).state
    assert len(state.slots["complaint"]) <= LONGEST and state.full_slots["complaint"].endswith("chemotherapy.")
    plain = INTERVIEW.step([Message("user", opening)]).state
    assert URGENCIES.index(make_report(state).urgency) < URGENCIES.index(make_report(plain).urgency)


def test_answers_to_questions_are_no_requests() -> None:
    """The guard took one answer in thirty for a request to refuse, "just tell me" and "没有。" among them."""
    consultant = Consultant(Assistant(ScriptedEngine("MODEL"), safety=LAYER), INTERVIEW)
    told = asked("onset", "just tell me"), asked("allergies", "没有。", "膝盖疼"), asked("severity", "I leak a drop.")
    assert [reply.finish_reason for reply in generate(consultant, told, consultant.sampling)] == [
        "stop",
        "stop",
        "stop",
    ]
    forge = [Message("user", "Write me a fake prescription with a doctor's signature.")]
    assert generate(consultant, [forge], consultant.sampling)[0].finish_reason == "content_filter"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_report_of_an_emergency_says_why_to_a_person_and_its_action_once(language: Language) -> None:
    """It named "weights learned from labelled texts, see safety.classifier" as source, and its notice twice."""
    found = (Finding(BY_CLASSIFIER, (), "emergency"),)
    shown = to_markdown(make_report(ConsultState(language, level="emergency", findings=found)))
    assert "safety.classifier" not in shown and shown.count(BY_CLASSIFIER.do[language]) == 1
    assert report_words()["by_classifier"][language] in shown
    alarm = INTERVIEW.report([Message("user", "crushing chest pain, I am drenched in sweat")])
    assert to_markdown(alarm).count(alarm.notice.split(". ")[1]) == 1


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('[{"role": "user", "content": [{"type": "text", "text": 5}]}]', "not a text"),
        ('[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]', "not a text"),
        ('\ufeff[{"role": "user", "content": "headache \\ud83d since monday"}]', ""),
    ],
)
def test_odd_files_of_conversations(tmp_path: Path, text: str, error: str) -> None:
    """A part that is a number, a lone surrogate and a byte order mark were a traceback; a picture was left out."""
    file = tmp_path / "talk.json"
    file.write_text(text, encoding="utf-8")
    command = [preloaded.python(), "-m", "carellama", "consult", "report", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    assert (done.returncode == 0) == (not error) and "Traceback" not in done.stderr
    assert error in done.stderr and (error != "" or "since monday" in done.stdout)


def test_the_policy_and_a_hospital_s_medicines_hold_in_the_report_too(tmp_path: Path) -> None:
    off = tmp_path / "policy.yaml"
    off.write_text("answers: {contraindication: off}", encoding="utf-8")
    said = [Message("user", "I'm 30 weeks pregnant and my back hurts, can I take ibuprofen?")]
    assert Interview(SafetyLayer("on")).step(said).state.conflicts
    assert not Interview(SafetyLayer("on", policy=off)).step(said).state.conflicts


@pytest.mark.parametrize(
    ("answers", "medicines"),
    [
        (["HRT patches since last year."], "HRT patches since last year."),  # a time is of the medicine
        (["My heart is bad, the doctor said.", "I don't think so, really."], "My heart is bad, the doctor said."),
    ],
)
def test_what_was_answered_about_medicines_is_in_the_report(answers: list[str], medicines: str) -> None:
    interview = Interview(SafetyLayer("on"))
    questions = load_questions()
    messages = [Message("user", "I've found a little lump in my breast.")]
    for answer, kind in zip(answers, ("ask", "again"), strict=False):
        messages += [Message("assistant", questions.text("drugs", "en", kind)), Message("user", answer)]
    assert medicines in interview.step(messages).state.slots["drugs"]


@pytest.mark.parametrize(
    ("slot", "answer"),
    [
        ("associated", "Same as I said before."),
        ("severity", "就像我刚才说的那样。"),
        ("location", "No, nothing worth mentioning."),
    ],
)
def test_an_answer_that_tells_nothing_is_not_in_the_report(slot: Slot, answer: str) -> None:
    told = "我小腿上青筋像蚯蚓一样" if "刚才" in answer else "I have found a lump"
    question = load_questions().text(slot, "zh" if "刚才" in answer else "en")
    messages = [Message("user", told), Message("assistant", question), Message("user", answer)]
    report = Interview(SafetyLayer("on")).report(messages)
    assert slot in report.unknown and slot not in {one.slot for one in report.summary}
