"""What an answer says against its text: a part of a number is no quotation, and each check fires and spares."""

from __future__ import annotations

import time

import pytest

from carellama.batch.text_checks import (
    SourceText,
    check_result,
    denied_terms,
    drugs_of,
    is_unit,
    numbers_of_answer,
    plain,
)


@pytest.mark.parametrize(
    ("text", "quote", "found"),
    [
        ("nodule 18 mm", "8 mm", False),
        ("nodule 18 mm", "1", False),
        ("nodule 18 mm", "18mm", True),
        ("2.5 mg", "5 mg", False),
        ("2.5 mg", "2", False),
        ("25mg", "mg", True),
        ("25mg", "25", True),
        ("1,500 ml", "500 ml", False),
        ("血压130/80mmHg", "80", True),
        ("heart", "art", False),
        ("heart attack", "Heart  Attack", True),
        ("左肺　结节，大小约８ｍｍ", "大小约8mm", True),
        ("pain in the left\nleg", "left leg", True),
        ("結節", "", False),
    ],
)
def test_a_quotation_stands_in_the_text_whole(text: str, quote: str, found: bool) -> None:
    assert SourceText(text).has(quote) is found


@pytest.mark.parametrize(
    ("text", "quote", "denied"),
    [
        ("No effusion or fracture. Nodule.", "fracture", True),
        ("No effusion or fracture. Nodule.", "Nodule", False),
        ("No pneumothorax, small effusion.", "effusion", False),
        ("No fever but cough.", "cough", False),
        ("Denies fever. Later fever.", "fever", False),
        ("未见胸腔积液、气胸。结节。", "气胸", True),
        ("未见胸腔积液，见结节。", "结节", False),
        ("无力3天", "力3天", False),
        ("No fever.", "cough", False),
    ],
)
def test_what_is_denied_ends_with_its_clause(text: str, quote: str, denied: bool) -> None:
    assert SourceText(text).denies(quote) is denied


@pytest.mark.parametrize(
    ("source", "answer", "flagged"),
    [
        ("metformin 500 mg bid for 2 weeks", "500 mg twice a day for two weeks", []),
        ("metformin 500 mg bid", "500 mg three times a day", ["three"]),
        ("1,500 ml", "1500 ml", []),
        ("每日三次，连用7天", "每天3次，共七天", []),
        ("每日三次", "每日两次，一般无妨，统一安排", ["两"]),
        ("发热", "1. 发热\n2. 咳嗽", []),
        ("37.0", "37", []),
        ("5 mg", "50 mg", ["50"]),
        ("once", "one tablet a day", []),
    ],
)
def test_numbers_are_compared_by_their_value(source: str, answer: str, flagged: list[str]) -> None:
    issues = check_result({"text": answer}, SourceText(source), {"numbers": ["text"]})
    assert [one["value"] for one in issues] == flagged


@pytest.mark.parametrize(
    ("text", "drugs"),
    [
        ("Atorvastatin at night, aspirin, Xarelto.", ["atorvastatin", "aspirin", "xarelto"]),
        ("Take Zyxoquid 20 mg.", ["zyxoquid"]),
        ("予阿司匹林、二甲双胍缓释片", ["阿司匹林", "二甲双胍"]),
        ("The patient rests well and the private ward is calm. 患者一般情况可。", []),
    ],
)
def test_medicines_are_known_by_lists_stems_and_a_dose(text: str, drugs: list[str]) -> None:
    assert drugs_of(plain(text)) == drugs


def test_units_of_both_languages_are_known() -> None:
    known = ["mg", "ｍｇ", "毫克", "片", "Tablets", "µg", "mcg", "IU", "puffs", "patches", "mg/kg", "万单位"]
    assert [unit for unit in known if not is_unit(unit)] == []
    assert [unit for unit in ["坨", "mgg", "daily", "x"] if is_unit(unit)] == []


def test_long_texts_take_no_more_than_their_length() -> None:
    begun = time.monotonic()
    for text in ("no " * 30_000, "no a, " * 15_000, "无发热、" * 20_000, "1," * 40_000, "未" * 90_000):
        assert isinstance(denied_terms(plain(text)), list) and isinstance(numbers_of_answer(plain(text)), dict)
        assert not SourceText(text).has("q")
    assert time.monotonic() - begun < 20


def test_a_denial_behind_the_finding_is_seen() -> None:
    text = "Nodule: not seen. 胸痛（-），咳嗽（+），啰音阴性。结节未见增大。Cyst no change. 积液：无；水肿无加重"
    source, denied = SourceText(text), ["nodule", "胸痛", "啰音", "积液"]
    assert [one for one in denied if source.denies(one)] == denied
    assert not [one for one in ("咳嗽", "结节", "cyst", "水肿") if source.denies(one)]


def test_a_lost_minus_is_another_number() -> None:
    source = SourceText("T-score -2.5 at the hip, 3-5 mg, range 1 -2")
    assert [one["value"] for one in check_result({"a": "T-score 2.5"}, source, {"numbers": ["a"]})] == ["2.5"]
    assert check_result({"a": "T-score -2.5, 3 to 5 mg, 1 to 2"}, source, {"numbers": ["a"]}) == []


def test_invisible_characters_of_the_text_part_no_quotation() -> None:
    assert SourceText("pneu\u00admo\u200bnia").has("pneumonia")
