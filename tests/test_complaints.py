"""The guide of complaints and departments: whole, in both languages, and refused with its line where it is faulty."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

import pytest

from carellama.consultation.complaints import assess, find_complaints, load_guide
from carellama.consultation.guide_files import Complaint
from carellama.errors import UserError
from conftest import REPOSITORY

COMPLAINT = """complaints:
- id: hiccups
  name: {en: hiccups, zh: 打嗝不止}
  words: [[打嗝不止], [hiccups]]
  departments: [paediatrics if child, gastroenterology]
  needs: [onset]
  urgency: routine
  raise:
  - {to: urgent, find: [vomiting blood], why: {en: blood, zh: 血}}
  ask:
    red_flag: {en: "Is there blood?", zh: 有血吗？}
  tests: {en: none, zh: 无}
  self_care: {en: sip water, zh: 喝水}
  return_if: {en: it lasts, zh: 不停}
  source: a handbook
"""


HAN = re.compile(r"[\u4e00-\u9fff]")


def texts_of(one: Complaint) -> list[Mapping[str, str]]:
    return [
        *(one.name, one.tests, one.self_care, one.return_if),
        *(*one.ask.values(), *(each.why for each in one.raises)),
    ]


def ids(text: str) -> list[str]:
    return [one.id for one in find_complaints(text)]


def test_the_guide_is_as_large_as_it_says_and_its_texts_are_of_their_language() -> None:
    guide = load_guide()
    assert len(guide.complaints) >= 70
    assert len(guide.departments) >= 60
    texts = [(one.place, text) for one in guide.complaints.values() for text in texts_of(one)]
    assert [place for place, text in texts if HAN.search(text["en"])] == []
    assert [place for place, text in texts if not HAN.search(text["zh"])] == []


def test_every_complaint_is_found_by_its_own_words() -> None:
    special = re.compile(r"[&{*]|\.\.")
    missed = [
        one.id
        for one in load_guide().complaints.values()
        if not any(one.id in ids(word) for word in one.words if not special.search(word))
    ]
    assert missed == []


def test_questions_end_as_questions_and_advice_names_no_dose() -> None:
    guide = load_guide().complaints.values()
    asked = [question for one in guide for question in one.ask.values()]
    assert len(asked) >= len(guide)
    assert [said for said in asked if not (said["en"].endswith("?") and said["zh"].endswith("？"))] == []
    dose = re.compile(r"\d ?(mg|毫克|ml\b|毫升|片|粒)")
    assert [one.place for one in guide if dose.search(one.self_care["en"] + one.self_care["zh"])] == []


def test_departments_of_the_cards_are_in_the_guide() -> None:
    names = {name for one in load_guide().departments.values() for given in one.names.values() for name in given}
    wanted = set()
    for language in ("en", "zh"):
        lines = (
            (REPOSITORY / "data" / "consultation" / f"cards_{language}.jsonl").read_text(encoding="utf-8").splitlines()
        )
        wanted |= {json.loads(line)["department"] for line in lines}
    assert len(wanted) > 50
    assert wanted <= names


def test_a_denied_complaint_is_none_and_a_longer_word_stands_for_its_parts() -> None:
    assert ids("I have no headache") == []
    assert ids("我没有头痛，就是嗓子疼") == ["sore_throat"]
    assert "wheeze" not in ids("I've had a cough for a week")


def test_conditions_lead_to_the_department_of_the_person() -> None:
    def first(text: str, age: float | None = None) -> str:
        return assess(text, age).departments[0].id

    assert first("I have a bad cough", 40) == "respiratory"
    assert first("I have a bad cough", 6) == "paediatrics"
    assert first("my baby has a bad cough", 10 / 365.25) == "neonatology"
    assert first("I am 20 weeks pregnant and my legs are swollen") == "obstetrics"
    assert first("我左腿肿了两天") == "vascular_surgery"


def test_a_sign_raises_the_urgency_and_says_why() -> None:
    calm, raised = assess("I have chest pain"), assess("I have chest pain and I am short of breath")
    assert calm.urgency == "urgent"
    assert raised.urgency == "emergency"
    assert "breathlessness" in raised.raised[0].why["en"]
    assert assess("I have chest pain. I am not short of breath").urgency == "urgent"


def test_past_illness_raises_the_urgency_and_is_no_complaint() -> None:
    found = assess("I have diarrhoea", background="I am having chemotherapy, and had a rash last year")
    assert [one.id for one in found.complaints] == ["diarrhoea"]
    assert found.urgency == "urgent"
    assert found.departments[0].id == "oncology"


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("  source: a handbook\n", "", 2, "has no source"),
        ("urgency: routine", "urgensy: routine", 7, "Did you mean 'urgency'"),
        ("gastroenterology]", "gastroentrology]", 5, "Did you mean 'gastroenterology'"),
        ("gastroenterology]", "gastroenterology if child]", 5, "needs no condition"),
        ("needs: [onset]", "needs: [onsett]", 6, "Did you mean 'onset'"),
        ("name: {en: hiccups, zh: 打嗝不止}", "name: {en: hiccups}", 3, "in en and in zh"),
        ("urgency: routine", "urgency: later", 7, "routine"),
        ("[hiccups]]", "[hiccups, no]]", 4, "in quotes"),
        ("[hiccups]]", "[hiccups &]]", 4, "not parts joined"),
        ("find: [vomiting blood], ", "", 9, "needs find, who or both"),
        ("    red_flag:", "    redflag:", 10, "Did you mean 'red_flag'"),
        ("paediatrics if child", "paediatrics if tall", 2, "'tall', which no file has"),
    ],
)
def test_a_faulty_file_is_refused_with_its_line(old: str, new: str, line: int, said: str) -> None:
    assert load_guide((("own.yaml", COMPLAINT),)).complaints.keys() == {"hiccups"}
    faulty = COMPLAINT.replace(old, new)
    assert faulty != COMPLAINT
    with pytest.raises(UserError, match=rf"own\.yaml:{line}: .*{re.escape(said)}"):
        load_guide((("own.yaml", faulty),))


def test_long_text_takes_linear_time_and_odd_text_nothing() -> None:
    assert ids("") == []
    assert ids("😀" * 1000) == []
    assert ids("chest pain " * 10_000)[0] == "chest_pain"


@pytest.mark.parametrize("text", ["胸口像压了块石头，一身冷汗", "胸口压得慌", "胸口堵得难受"])
def test_a_pressed_chest_goes_to_cardiology(text: str) -> None:
    """The report of an emergency sent it to general practice afterwards."""
    assert ids(text) == ["chest_pain"]
