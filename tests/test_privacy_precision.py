"""What no list knows stays: a name is masked where a word speaks of a person, a number where its form or label does.

The medicines here are invented, so that no list can have them. Each of these was masked before.
"""

import pytest

from carellama.privacy import names_zh_prose
from carellama.privacy.deidentify import Deidentifier
from carellama.privacy.detect import find_identifiers

MASK = Deidentifier()


@pytest.mark.parametrize(
    "text",
    [
        "可以用清肝利胆胶囊,甘利康,肝炎灵救治",  # in a list of medicines
        "建议补充复合维生素如善康或施尔明，也可以用中药",
        "外用激素药膏如尤卓康等，不宜长期使用",
        "比如说斯维明，儿康宁",
        "您可以使用慢严舒宁治疗",  # a character before it that is no word
        "睡前喝了一包柴桂退热颗粒",
        "初步诊断为兰伯明-伊顿综合征",
        "病人：什么是峰值？\n医生：高峰就是体温最高的时候",  # a speaker's label
        "一患者张口中度受限",
        "南方百花争艳，北方薄蓝初现",  # 方 ends other words as well
        "昨天用了皮护士",
        "(A) 占总能量的50%～60%",
        "明代温病学家有叶天士、薛生白、吴鞠通",
        "1. 白术（Bai Zhu）健脾。2. 黄连 (Huang Lian) 清热。",
        "Human: May I drink wine?\n\nAssistant: Hm, actually I think not.\n\nAssistant: Rust is a powdered alloy.",
        "Hemoglobin 14.5 g/dL\nLeukocytes 16,500/mm3",
        "caries by Kennedy第一类",
        "Folds of Wharton's duct and Bowman's layer were intact, by Bolton ratio.",
    ],
)
def test_words_that_no_list_has_are_no_persons(text):
    assert MASK(text) == (text, {})


@pytest.mark.parametrize(
    "text",
    [
        "Ginger helps some people. Ginger tea?",
        "This could be migraine with aura.",
        "Please speak to your prescriber soon: aura, smoking and a combined pill together raise the risk.",
        "Changes in colour are due to sunshine.",
        "Left shin, with dusty lavender and sage; brandy is no help.",
        "Rosemary and thyme are harmless. Amber urine may be a sign that you drink too little.",
        "Dawn is when glucose rises.",
        "- Parsley\n- Salmon\n- Peach",
        "Shivers can come before a fever. Nettles sting.",
        "Grace period for the referral is 30 days.",
        "Grows from April to June; in August the pollen is gone.",
    ],
)
def test_words_that_are_names_as_well_are_no_persons_in_running_text(text):
    """Ginger, aura and sunshine became [NAME_1] in the project's own consultations."""
    assert MASK(text) == (text, {})


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Rosemary phoned this morning.", "Rosemary"),
        ("My wife rose said that it hurts.", "rose"),
        ("Please tell Dawn that the results are back.", "Dawn"),
        ("Our nurse, Ginger Jones, called.", "Ginger Jones"),
        ("Emily Frost came with her daughter Daisy.", "Emily Frost"),
    ],
)
def test_words_that_are_names_as_well_are_found_where_a_person_is_meant(text, name):
    assert name in [found.text for found in find_identifiers(text)]


@pytest.mark.parametrize(
    "text",
    [
        "E: 123I-SCH23982",
        "别名:苯酸咪唑；盐酸达唑酸；UK-37248",
        "after implementation (FY0607-FY0910) from two districts",
        "红细胞的多少，是否有夏2002U1-雷结晶",
        "x = [1 2 3 4 5 6 7 8 9];",
        "import java.util.List;\n\n@Service\npublic class Books {\n}",
        "try whatsapp to 0600123456 (the DOH covid hotline)",
        "14. Jobs - [jobs.com/blog](https://jobs.com/blog)",
    ],
)
def test_codes_and_addresses_of_things_stay(text):
    assert MASK(text) == (text, {})


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("未曾接触过，目前居住在苏州吴中区。", "ADDRESS", "苏州吴中区"),  # a county is narrower than a town
        ("我住在河北省保定市易县，请问", "ADDRESS", "河北省保定市易县"),
        ("医生我们单位的王刚得了乙型肝炎", "NAME", "王刚"),
        ("[通话记录] 医：您叫什么？ 患：查良。 医：今年多大？", "NAME", "查良"),
        ("床旁交班：6床仲秋实，昨夜躁动", "NAME", "仲秋实"),
    ],
)
def test_a_word_that_speaks_of_a_person_is_enough(text, kind, value):
    assert [(found.kind, found.text) for found in find_identifiers(text)] == [(kind, value)]


@pytest.mark.parametrize(
    ("texts", "masked"),
    [
        (["谢谢陈主任", "好的，谢谢陈主"], ["谢谢[NAME_1]主任", "好的，谢谢[NAME_2]"]),
        (["He met Paul Langerhans.", "Langerhans cells"], ["He met [NAME_1].", "Langerhans cells"]),
        (["Female citizens of Sami (the indigenous people), the Sami language law (Sami) in the Sami group"], None),
    ],
)
def test_a_name_is_not_carried_to_what_is_a_thing(texts, masked):
    assert MASK.deidentify_texts(texts)[0] == (masked or texts)


def test_the_run_of_characters_before_a_place_begins_behind_the_last_mark():
    """A search without its end would take the first run of the text instead."""
    text = "头疼，王小明"
    assert [names_zh_prose._run_begin(text, at) for at in range(len(text) + 1)] == [0, 0, 0, 3, 3, 3, 3]
