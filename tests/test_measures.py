"""Numbers are read with their label or unit, in digits or words of either language, and nothing else is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carellama.rules import normalize
from carellama.safety.rules.measures import find_measures, measure_names, read_number

READ = [
    ("体温39.5度", "temperature", 39.5),
    ("烧到三十九度五", "temperature", 39.5),
    ("38度5", "temperature", 38.5),
    ("temp 102.4F", "temperature", 39.11),
    ("a fever of 38", "temperature", 38),
    ("SpO2 88%", "spo2", 88),
    ("血氧只有88", "spo2", 88),
    ("BP 220/120", "systolic", 220),
    ("BP 220/120", "diastolic", 120),
    ("血压220/120", "systolic", 220),
    ("HR 135", "heart_rate", 135),
    ("心率150次/分", "heart_rate", 150),
    ("RR 32", "respiratory_rate", 32),
    ("血糖28.6", "glucose", 28.6),
    ("glucose 480 mg/dL", "glucose", 26.7),
    ("68岁", "age", 68),
    ("我今年六十八岁", "age", 68),
    ("a 68-year-old man", "age", 68),
    ("宝宝两个月大", "age", 2 / 12),
    ("my 3-week-old", "age", 21 / 365.25),
    ("孕32周", "pregnancy_weeks", 32),
    ("24 weeks pregnant", "pregnancy_weeks", 24),
    ("吃了40片扑热息痛", "tablets", 40),
    ("took forty tablets", "tablets", 40),
    ("二十多片安眠药", "tablets", 20),
    ("fell from 3 metres", "fall_height", 3),
    ("从三楼掉下来", "fall_height", 9),
    ("抽了十分钟", "hours", 1 / 6),
    ("hb 5.2", "hemoglobin", 52),
    ("心率一百五", "heart_rate", 150),
    ("血压二百二", "systolic", 220),
    ("血压一百零五", "systolic", 105),
    ("三十九度八", "temperature", 39.8),
    ("fever of a hundred and four", "temperature", 40),
    ("took two hundred paracetamol pills", "tablets", 200),
    ("took 1,000 tablets", "tablets", 1000),
    ("吃了一半片", "tablets", 0.5),
    ("glucose 1,200 mg/dl", "glucose", 66.7),
    ("血小板 20000", "platelets", 20),
    ("疼了一个半小时", "hours", 1.5),
    ("疼了半小时", "hours", 0.5),
    ("my baby is 6 weeks", "age", 42 / 365.25),
]


@pytest.mark.parametrize(("text", "name", "value"), READ)
def test_a_number_is_read(text: str, name: str, value: float) -> None:
    got = [one.value for one in find_measures(normalize(text)).get(name, [])]
    assert got
    assert any(one is not None and abs(one - value) < 0.02 for one in got)


@pytest.mark.parametrize(
    ("text", "name"),
    [("39 Main Street", "temperature"), ("page 88", "spo2"), ("烧了3天", "temperature"), ("52度白酒", "temperature"),
     ("temp 102.4F", "age"), ("房间38号", "temperature"), ("I am number 1", "tablets"),
     ("a fever of 38.5 for only 3 days", "age"), ("she is 10 weeks pregnant", "age"),
     ("he is 3 days into antibiotics", "age"),
     ("I am 35 and took pills for my headache", "tablets"), ("BMI 22", "glucose")],
)  # fmt: skip
def test_another_number_is_not(text: str, name: str) -> None:
    assert name not in find_measures(normalize(text))


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("三十九", 39),
        ("十二", 12),
        ("两百", 200),
        ("半", 0.5),
        ("百", 100),
        ("千", 1000),
        ("forty-two", 42),
        ("a hundred", 100),
        ("三十八点五", 38.5),
    ],
)
def test_number_words(word: str, value: float) -> None:
    assert read_number(word) == value


@given(st.text() | st.text(alphabet="零一二两三十百千点半岁度片个月天0123456789. "))
def test_any_text_is_read(text: str) -> None:
    found = find_measures(normalize(text))
    assert set(found) <= measure_names()
    assert all(one.value is not None for mentions in found.values() for one in mentions)
