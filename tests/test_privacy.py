"""De-identification: what is found stands where it is said to stand, and nothing found is left."""

from __future__ import annotations

import itertools
import logging
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carellama.errors import UserError
from carellama.privacy import checksums
from carellama.privacy.deidentify import Deidentifier
from carellama.privacy.detect import find_identifiers
from carellama.privacy.kinds import KINDS
from carellama.privacy.normalize import canonical_form, normalize
from carellama.privacy.word_lists import english, groups, medical_terms
from conftest import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks"))
import identifiers

MASK = Deidentifier()
LETTER = (
    "患者王小明，男，生于1985年3月2日，身份证号１１０１０５１９４９１２３１００２Ｘ，电话138-0013-8000，家住北京市朝阳区建国路88号。\n"
    "Seen by Dr. Jane Doe. MRN: 00-123-456, e-mail jane(at)example(dot)com, call (555) 010-4477. 王小明 takes 5 mg."
)
PIECES = st.lists(
    st.sampled_from(
        "患者 王小明 ， 电话 13800138000 1 3 8 - 00 ： 一三八 〇〇 身份证号 11010519491231002X Dr. "
        "Smith MRN jane @ example .com "
        "生于 1985年3月2日 DOB 3/2/1985 [NAME_1] [PHONE_2] 住院号 ZY203 12 Oak Street 路 88号 +44 20 7946 0018 "
        "192.0.2.7 姓名 : 我叫 李雪 \n name is".split(" ")
    ),
    max_size=14,
)


def test_offsets_are_those_of_the_text_as_given():
    for found in find_identifiers(LETTER):
        assert LETTER[found.start : found.end] == found.text
    assert [found.kind for found in find_identifiers(LETTER)] == [
        "NAME",
        "BIRTH_DATE",
        "ID_CARD",
        "PHONE",
        "ADDRESS",
        "NAME",
        "RECORD_NUMBER",
        "EMAIL",
        "PHONE",
        "NAME",
    ]


@given(st.text(), PIECES)
@settings(max_examples=200)
def test_folding_keeps_every_character_at_its_place(text, pieces):
    for one in (text, "".join(pieces)):
        assert len(normalize(one)) == len(one)


@given(PIECES, st.booleans())
@settings(max_examples=200)
def test_a_masked_text_has_nothing_left_and_masking_it_again_changes_nothing(pieces, spaced):
    text = (" " if spaced else "").join(pieces)
    spans = find_identifiers(text)
    assert all(one.end <= other.start for one, other in itertools.pairwise(spans))
    masked, _ = MASK(text)
    assert find_identifiers(masked) == []
    assert MASK(masked) == (masked, {})


@pytest.mark.parametrize(
    "text",
    [
        "孩子外用尤卓尔，可以吗？",
        "他莫西芬和吡罗昔康贴片能一起用吗？",
        "靶向药物是曲妥珠单抗（赫赛汀），降压药换成海捷亚",
        "慢严舒柠颗粒怎么吃？夏桑菊呢？",
        "可以服用金银花、薄荷或者丁香。",
        "每天吃易坦静，小儿咳喘灵，玉屏风散",
        "睡前氯硝西泮半片，早上安理申一片",
        "不知名的新药高欣宁口服液，一天两次",
        "家里有华乐平，0.5g一片",
        "避免孩子暴露在烟雾中，及时通知医生。",
        "患者应行胃镜检查，患儿家长可以陪同",
        "他的并发症·白癜风",
        "窦性心动过速危险吗？叫窦性心律。这叫虹视还是眩光？",
        "针刺梁丘、足三里。服用伊可新AD和钙。",
        "宝宝便便有血丝，吃吃这两天还不见好转，拉拉又哭",
        "我是仲景智能医学助手，很高兴为您服务。",
        "你好，我是小康，一个AI健康助手",
        "高敏hbVdna结果是多少？阴超正常。",
        "给孩子用小儿七星茶可以吗",
        "我从老家安徽宿州市萧县坐高铁到鹤壁，当天发烧38.5度",
        "I am Clara, an AI assistant trained on medical texts.",
        "Take Terrell 5 mg, then Ringer's lactate; Asp and Glu residues.",
        "英文名:Ampeptide Elemente",
    ],
)
def test_medicines_findings_and_assistants_are_no_persons(text):
    """D4: medicines, herbs, words and the assistant's own name were masked as persons."""
    assert MASK(text) == (text, {})


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("姓名：丁香，性别：女", "丁香"),
        ("患者丁香，女，30岁，服用丁香后好转", "丁香"),
        ("我叫高峰，今年45岁", "高峰"),
        ("联系人：文静", "文静"),
        ("主治医师：白英", "白英"),
        ("骨科石医生", "石"),
        ("妇四于主任", "于"),
    ],
)
def test_a_person_named_like_a_herb_is_a_person(text, name):
    """D4, D5: a word of the lists is a name where a label, a title, or age and sex say so."""
    assert name in [found.text for found in find_identifiers(text) if found.kind == "NAME"]


def test_a_name_in_one_record_is_treated_alike():
    """D5: the first mention of a physician was masked, a later one behind another verb stayed."""
    texts = [
        "您好马医生，谢谢。又来麻烦马医生给看看。",
        "忘了跟你说了马医生。",
        "提高医生水平",
        "找黄建安教授",
        "黄教授好",
    ]
    masked, counts = MASK.deidentify_texts(texts)
    assert masked == [
        "您好[NAME_1]医生，谢谢。又来麻烦[NAME_1]医生给看看。",
        "忘了跟你说了[NAME_1]医生。",
        "提高医生水平",
        "找[NAME_2]教授",
        "[NAME_3]教授好",
    ]
    assert counts == {"NAME": 5}


def test_a_word_that_is_a_medicine_in_one_mention_is_one_in_all():
    """D5: 易坦静 alone looks like a name; 易坦静口服液 in the same record says what it is."""
    texts = ["楚乐康能去痰吗？", "楚乐康口服液一天两次"]
    assert MASK.deidentify_texts(texts) == (texts, {})


def test_the_word_lists_name_their_source():
    for file in sorted((REPOSITORY / "src/carellama/privacy/lists").glob("*.txt")):
        head = file.read_text(encoding="utf-8").splitlines()[:2]
        assert all(line.startswith("# ") for line in head)
    assert all(groups(name) for name in ("medical_zh.txt", "thuocl_medical.txt", "words_en.txt"))
    assert len(medical_terms().words) > 7000 and len(english().drugs) > 400


def test_each_removal_is_counted():
    masked, counts = MASK(LETTER)
    assert counts.total() == len(find_identifiers(LETTER)) and counts["NAME"] == 3
    assert masked.count("[NAME_1]") == 2 and "[NAME_2]" in masked


def test_the_kinds_asked_for_alone_go():
    masked, counts = Deidentifier(kinds=["PHONE"])(LETTER)
    assert set(counts) == {"PHONE"} and "王小明" in masked and "138-0013" not in masked
    dated, counts = Deidentifier(kinds=[*KINDS])("2021年3月4日入院。")
    assert counts == {"DATE": 1} and "2021" not in dated
    with pytest.raises(UserError, match="PHONE"):
        Deidentifier(kinds=["PHONES"])


def test_the_texts_of_a_record_share_their_names_and_numbers():
    (first, second), counts = MASK.deidentify_texts(
        ["患者王小明，电话13800138000。", "王小明的电话是１３８ 0013 8000吗？"]
    )
    assert first == "患者[NAME_1]，电话[PHONE_1]。" and second == "[NAME_1]的电话是[PHONE_1]吗？"
    assert counts == {"NAME": 2, "PHONE": 2}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("电话13800138000", "电话：１３８ ００１３ ８０００"),
        ("电话13800138000", "手机+86 138-0013-8000"),
        ("电话13800138000", "手机 一三八零零一三八零零零"),
        ("住院号ZY203345", "住院号：ＺＹ-203345"),
    ],
)
def test_one_value_has_one_surrogate_however_it_is_spelled(one, other):
    made = Deidentifier(mode="surrogate", secret=b"s")
    first, second = (
        canonical_form(find_identifiers(made(text)[0], kinds)[0].text)[-8:]
        for text, kinds in ((one, None), (other, None))
    )
    assert first == second
    assert made(one) == Deidentifier(mode="surrogate", secret=b"s")(one)
    assert made(one)[0] != Deidentifier(mode="surrogate", secret=b"t")(one)[0]


def test_surrogates_keep_the_form_and_nothing_of_the_value():
    made, counts = Deidentifier(mode="surrogate", secret=b"s")(LETTER)
    assert counts == MASK(LETTER)[1]
    for found in find_identifiers(LETTER):
        assert found.text not in made
    card = next(found.text for found in find_identifiers(made) if found.kind == "ID_CARD")
    plain = normalize(card)
    assert plain[:2] == "99" and checksums.id_card_check_digit(plain[:17]) == plain[17]


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (checksums.is_id_card, "11010519491231002X", "110105194912310021"),
        (checksums.is_id_card, "110105491231002", "110105491331002"),
        (checksums.is_id_card, "440524188001010014", "990524188001010014"),
        (checksums.is_luhn, "4111111111111111", "4111111111111112"),
        (checksums.is_nhs, "9434765919", "9434765918"),
        (checksums.is_iban, "GB82WEST12345698765432", "GB82WEST12345698765433"),
        (checksums.is_iban, "DE89370400440532013000", "DE8937040044053201300"),
        (checksums.is_calendar_date, "19850302", "19850230"),
    ],
)
def test_check_digits(check, good, bad):
    assert check(good) and not check(bad)


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("汇款到GB82 WEST 1234 5698 7654 32，谢谢", "BANK_CARD", "GB82 WEST 1234 5698 7654 32"),
        ("transfer to DE89370400440532013000 REF 7", "BANK_CARD", "DE89370400440532013000"),
        ("Medicare 1EG4-TE5-MK73 on file", "INSURANCE_NUMBER", "1EG4-TE5-MK73"),
        ("QQ 12 34 56 C was on the payslip", "SSN", None),
        ("AB 12 34 56 C was on the payslip", "SSN", "AB 12 34 56 C"),
        ("device 00:1A:2b:3C:4d:5E", "IP", "00:1A:2b:3C:4d:5E"),
        ("从203.0.113.77登录", "IP", "203.0.113.77"),
        ("connected to 10.20.30.40:8080", "IP", "10.20.30.40"),
        ("from 2001:db8::1", "IP", "2001:db8::1"),
        ("She is on +49 30 901820 at work", "PHONE", "+49 30 901820"),
        ("体温35.5.35.9.36.3", "IP", None),
        ("三天 36.5.37.2.38.1.39 度", "IP", None),
        ("体温 36.5.37.2，发烧吗", "IP", None),
        ("carboxylesterase (EC 3.1.1.11)", "IP", None),
        ("updated to version 2.10.3.14", "IP", None),
        ("from 8:30:45 to 9:15:00", "IP", None),
    ],
)
def test_forms_that_are_the_same_everywhere(text, kind, value):
    """D22: own patterns with check digits, in place of a library of 3,376 modules. D4: temperatures are no address."""
    assert [found.text for found in find_identifiers(text) if found.kind == kind] == ([value] if value else [])


def test_the_first_text_loads_few_modules():
    """D22: the first text with a digit imported 3,376 modules."""
    code = "import sys; from carellama.privacy.detect import find_identifiers as find; "
    code += "find('王小明 13800138000 +49 30 901820'); "
    code += "print(len(sys.modules), *{'presidio_analyzer', 'spacy', 'jieba', 'torch'} & set(sys.modules))"
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert int(made.stdout) < 600


def test_a_wrong_check_digit_is_an_identity_card_only_behind_its_marker():
    assert [found.kind for found in find_identifiers("身份证号：110105194912310021")] == ["ID_CARD"]
    assert "ID_CARD" not in [found.kind for found in find_identifiers("条码 110105194912310021")]


def test_nothing_is_logged_and_nothing_written(caplog, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.DEBUG):
        MASK(LETTER)
    assert not any(part in caplog.text for part in ("王小明", "13800138000", "jane", "Doe"))
    assert list(Path(tmp_path).iterdir()) == []


@pytest.mark.parametrize("language", ["zh", "en"])
def test_the_labelled_sentences_are_labelled(language):
    rows = identifiers.rows(language)
    assert len(rows) == len({row["text"] for row in rows}) == {"zh": 746, "en": 750}[language]
    assert sum(not row["spans"] for row in rows) == {"zh": 371, "en": 375}[language]
    for row in rows:
        assert [label.text for label in identifiers.labels(row)] == [span["text"] for span in row["spans"]]
        assert all(span["kind"] in KINDS for span in row["spans"])


@pytest.mark.parametrize("language", ["zh", "en"])
def test_the_labelled_identifiers_are_found_and_little_else(language):
    found = identifiers.score(language)
    assert found.total.recall >= 0.97, found.misses
    assert found.total.precision >= 0.95, found.misses


@pytest.mark.parametrize("language", ["zh", "en"])
def test_labelled_sentences_are_clean_when_masked(language):
    rows = list(identifiers.rows(language))
    assert rows
    for row in rows:
        masked, counts = MASK(row["text"])
        assert find_identifiers(masked) == [] and MASK(masked) == (masked, {})
        assert (masked == row["text"]) == (not counts)


def test_real_dialogues_lose_little(real_data):
    """Long texts of consultations hardly hold identifiers: more than a few would be words taken for names."""
    lines = (real_data / "chinese-medical-dialogue" / "样例_内科5000-6000.head.csv").read_text("gb18030", "replace")
    counts = sum((MASK(line)[1] for line in lines.splitlines()[:2000]), Counter())
    assert counts.total() < len(lines) / 10_000
