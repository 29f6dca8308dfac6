"""How a consultation reads answers: what is asked again, and what the report makes of it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from carellama.consultation.interview import Interview, Step
from carellama.consultation.reading import read_text
from carellama.consultation.report import make_report, to_markdown
from carellama.consultation.state import ConsultState, Slot
from carellama.records import Message
from carellama.safety.layer import SafetyLayer

INTERVIEW = Interview(SafetyLayer("on"))
TOOTH = ["my tooth has hurt since yesterday", "no", "41, male", "lower left", *["no"] * 8]


def talk(answers: Sequence[str]) -> list[Step]:
    """Say the answers one after the other, until the interview ends."""
    messages: list[Message] = []
    steps: list[Step] = []
    for answer in answers:
        messages.append(Message("user", answer))
        steps.append(INTERVIEW.step(messages))
        if steps[-1].question is None:
            break
        messages.append(Message("assistant", steps[-1].question))
    return steps


def asked_about(answers: Sequence[str]) -> tuple[Slot, ...]:
    steps = talk(answers)
    return steps[-1].state.asked + ((steps[-1].slot,) if steps[-1].slot else ())


@pytest.mark.parametrize(("greeting", "complaint"), [("hi", "I have a toothache"), ("你好", "牙疼")])
def test_a_complaint_told_after_a_greeting_is_not_asked_again(greeting: str, complaint: str) -> None:
    assert asked_about([greeting, complaint]) == ("complaint", "red_flag")


@pytest.mark.parametrize(
    ("opening", "answer", "follows"),
    [
        ("my tooth hurts", "it started last week", ("red_flag", "red_flag")),
        ("我牙疼", "三天了", ("red_flag", "red_flag")),
        ("my tooth hurts", "fever since yesterday", ("red_flag", "age_sex")),
        ("我牙疼", "没有，三天了", ("red_flag", "age_sex")),
    ],
)
def test_a_time_alone_says_nothing_about_warning_signs(opening: str, answer: str, follows: tuple[Slot, ...]) -> None:
    assert asked_about([opening, answer]) == follows


@pytest.mark.parametrize(
    ("answer", "slot"),
    [("penicillin gave me a rash once", "allergies"), ("I took Advil this morning", "drugs"), ("吃了布洛芬", "drugs")],
)
def test_medicines_and_allergies_are_read_where_they_are_told(answer: str, slot: Slot) -> None:
    assert read_text(answer, "associated").slots == {slot: answer}


def test_the_report_warns_of_the_medicine_that_is_asked_about() -> None:
    steps = talk(["我怀孕24周了，腰疼能吃布洛芬吗", "没有", "别问了"])
    report = steps[-1].report
    assert report is not None and any("布洛芬" in line for line in report.medicines)
    steps = talk(["my knee hurts, can I take aspirin?", "no", *["warfarin"] * 12])
    report = steps[-1].report
    assert report is not None and any("aspirin" in line.lower() for line in report.medicines)
    steps = talk(TOOTH)
    assert steps[-1].report is not None and steps[-1].report.medicines == ()


def test_a_bare_no_is_reported_with_its_question() -> None:
    steps = talk(TOOTH)
    report = steps[-1].report
    assert report is not None
    signs = next(one for one in report.summary if one.slot == "red_flag")
    assert signs.text == "no" and "swollen" in signs.question and signs.question in to_markdown(report)


def test_the_lead_of_an_emergency_comes_once() -> None:
    state = ConsultState("zh", level="emergency", asked=("red_flag",))
    lead = INTERVIEW.lead(state)
    assert lead and INTERVIEW.lead(state, [Message("assistant", f"{lead}\n\n？")]) == ""
    assert INTERVIEW.closing(state, "好的") != INTERVIEW.closing(ConsultState("zh"), "好的")


@pytest.mark.parametrize(
    ("opening", "answer"), [("my tooth hurts", "what about my blood pressure?"), ("我咳嗽一周了", "?")]
)
@pytest.mark.parametrize(("denial", "affirmation"), [("no", "yes"), ("没有", "有")])
def test_a_no_to_the_second_question_about_warning_signs_is_no_yes(
    opening: str, answer: str, denial: str, affirmation: str
) -> None:
    assert asked_about([opening, answer, denial])[:3].count("red_flag") == 2
    steps = talk([opening, answer, denial])
    assert steps[-1].state.level == "routine" and steps[-1].state.slots["red_flag"] == denial
    assert talk([opening, answer, affirmation])[-1].state.level == "emergency"


def test_a_question_in_place_of_an_answer_fills_nothing() -> None:
    steps = talk(["我咳嗽一周了", "对了我还想问下我爸的糖尿病怎么控制"])
    assert steps[-1].slot == "red_flag" and "red_flag" not in steps[-1].state.slots
    lead = INTERVIEW.lead(steps[-1].state, [Message("user", "对了我还想问下我爸的糖尿病怎么控制")])
    assert lead.startswith("这个问题") and INTERVIEW.lead(steps[-1].state, [Message("user", "没有")]) == ""


def test_what_stands_before_a_question_is_read() -> None:
    assert read_text("I'm 24 weeks pregnant, can I take ibuprofen?", "complaint").slots == {
        "pregnancy": "I'm 24 weeks pregnant"
    }
    assert read_text("is paracetamol safe in asthma?", "complaint").slots == {}


def test_an_age_of_this_year_and_grandchildren_make_no_child() -> None:
    said = read_text("我今年七十八了，孙子都上大学了，膝盖疼", "complaint")
    assert said.age == 78
    steps = talk(["我今年七十八了，孙子都上大学了，膝盖疼", "没有", "别问了"])
    assert steps[-1].report is not None and steps[-1].report.departments[0].id != "paediatrics"


@pytest.mark.parametrize("told", ["19 f", "F, 19", "19岁女", "女，19"])
def test_age_and_sex_are_read_wherever_they_are_told(told: str) -> None:
    steps = talk(["I feel dizzy" if told.isascii() else "头晕", "no", told])
    assert (steps[-1].state.age, steps[-1].state.sex) == (19, "female")
    assert "age_sex" not in asked_about(["I feel dizzy" if told.isascii() else "头晕", "no", told, "since Monday"])


def test_an_age_and_a_sex_are_no_height() -> None:
    steps = talk(["I twisted my ankle playing football", "no, I can walk on it", "27 M"])
    assert steps[-1].state.level == "routine" and steps[-1].state.age == 27


def test_the_age_of_a_child_is_read_behind_the_word() -> None:
    assert read_text("my son, 3, has a rash", "complaint").age == 3
    assert read_text("my son has had a rash for 3 days", "complaint").age is None


@pytest.mark.parametrize(("opening", "yes"), [("I have a cough", "yes"), ("咳嗽", "有")])
def test_a_yes_to_warning_signs_makes_it_at_least_urgent(opening: str, yes: str) -> None:
    report = make_report(
        ConsultState("en" if opening.isascii() else "zh", slots={"complaint": opening, "red_flag": yes})
    )
    assert report.urgency in ("emergency", "urgent") and any("Reason" in one or "原因" in one for one in report.why)
    report = make_report(ConsultState("en" if opening.isascii() else "zh", slots={"complaint": opening}))
    assert report.urgency not in ("emergency", "urgent")


def test_rest_at_home_has_no_place_in_an_emergency() -> None:
    report = talk(["my head hurts", "yes", "yes"])[-1].report
    assert report is not None and report.urgency == "emergency" and report.self_care == ()


def test_what_is_not_known_is_listed_once() -> None:
    report = talk(["我头晕", *["不知道"] * 10])[-1].report
    assert report is not None and "onset" in report.unknown
    assert not {one.slot for one in report.summary} & set(report.unknown)


@pytest.mark.parametrize(
    "complaint", ["嘴歪了，说话不清", "起了好多风团，过敏了", "一条腿又凉又白", "心情很差，情绪低落"]
)
def test_a_yes_affirms_each_of_several_questions(complaint: str) -> None:
    steps = talk([complaint, "有", "有"])
    assert steps[-1].state.level == "emergency"


def test_a_first_message_that_wants_to_be_told_is_the_complaint_all_the_same() -> None:
    steps = talk(["可以直接告诉我头疼吃什么药吗", "别问了"])
    assert steps[0].slot == "red_flag" and steps[1].report is not None
    assert steps[1].report.complaint == "可以直接告诉我头疼吃什么药吗"


@pytest.mark.parametrize("greeting", ["hello doctor", "Good evening!", "大夫好"])
def test_a_greeting_is_no_complaint(greeting: str) -> None:
    assert talk([greeting])[0].slot == "complaint"


@pytest.mark.parametrize(
    "answers", [["hi", "I have a toothache", "it started two days ago"], ["我头疼", "不知道", "不清楚"]]
)
def test_a_greeting_and_not_known_are_no_signs(answers: list[str]) -> None:
    found = talk(answers)[-1].found
    told = [one for one in answers if one not in ("hi", "不知道", "不清楚")]
    assert found is not None and found.text == "\n".join(told)


@pytest.mark.parametrize(
    ("opening", "aside"), [("我胃不舒服，有点反酸", "68岁，女的"), ("I've had a sore throat for three days", "34 f")]
)
def test_an_age_answers_no_question_about_warning_signs(opening: str, aside: str) -> None:
    steps = talk([opening, aside])
    assert steps[-1].slot == "red_flag"
    assert "red_flag" not in steps[-1].state.slots


def test_an_answer_without_a_medicine_is_no_list_of_medicines() -> None:
    opening = ["I've had a sore throat for three days", "no, I can swallow and breathe fine", "34, female", "no fever"]
    assert talk(opening)[-1].slot == "drugs"
    steps = talk([*opening, "a bit of a cough since last night"])
    assert steps[-1].slot == "drugs"
    assert "drugs" not in steps[-1].state.slots
