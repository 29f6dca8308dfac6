"""Triage: rules combine signs over a whole conversation, and a faulty file of rules is refused with its line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carellama.errors import UserError
from carellama.records import Message
from carellama.safety.check import faulty_examples
from carellama.safety.rules.files import shipped_folder
from carellama.safety.triage import rules as module
from carellama.safety.triage.rules import FOLDER, LEVELS, RedFlags, load_red_flags
from carellama.safety.triage.triage import patient_text, triage, triage_text

GOOD = """
concepts:
  spots: [[小红点], [spots]]
rules:
  - id: spots-with-fever
    level: emergency
    system: skin
    find: [spots, temperature >= 38]
    do: {en: Call an ambulance., zh: 拨打急救电话。}
    source: a guideline
    fires: [小红点，烧到39度, "spots and a temp of 39"]
    spares: [有小红点，没发烧, "spots, temp 36.8"]
"""


def rules_of(tmp_path: Path, text: str = GOOD):
    file = tmp_path / "hospital.yaml"
    file.write_text(text, encoding="utf-8")
    return load_red_flags([file])


def ids(text: str, rules=None) -> list[str]:
    return [finding.rule.id for finding in triage_text(text, rules).findings]


def fired_by(rules: RedFlags):
    """What `safety check` asks for each example."""
    return lambda text: {rule.id for rule, _ in rules.scan(text)}


def test_the_examples_of_all_rules_hold_in_both_languages() -> None:
    rules = load_red_flags()
    assert list(faulty_examples(rules, fired_by(rules))) == []
    assert len(rules.rules) >= 80


def test_each_rule_has_a_source_and_an_action_in_both_languages() -> None:
    rules = load_red_flags().rules
    assert rules
    lacking = [
        one.id
        for one in rules
        if len(one.source) < 8 or not one.do["zh"].strip() or not one.do["en"].strip() or "\n" in one.do["en"]
    ]
    assert lacking == []


def test_a_rule_of_a_hospital_fires_beside_the_others(tmp_path: Path) -> None:
    rules = rules_of(tmp_path)
    assert "spots-with-fever" in ids("小红点，烧到39度", rules)
    assert "spots-with-fever" not in ids("小红点，烧到37度", rules)
    assert "spots-with-fever" not in ids("没有小红点，烧到39度", rules)


def test_the_most_urgent_comes_first(tmp_path: Path) -> None:
    found = triage_text("胸口压着疼，一身冷汗，另外还有点低烧三天了").findings
    assert found
    order = [LEVELS.index(one.rule.level) for one in found]
    assert order == sorted(order)


def test_signs_of_several_turns_are_one_case(tmp_path: Path) -> None:
    rules = rules_of(tmp_path)
    turns = [Message("user", "孩子身上有小红点"), Message("assistant", "发烧吗？"), Message("user", "39度")]
    assert "spots-with-fever" in [one.rule.id for one in triage(turns, rules).findings]


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("有", True),
        ("yes, a few", True),
        ("没有", False),
        ("no", False),
        ("I don't", False),
        ("I do not", False),
        ("I have a cold only", False),
        ("I have had it for days", True),
        ("yesterday I had a cold", False),
        ("it isn't", False),
        ("I do", True),
        ("he has, since noon", True),
        ("right now I am fine", False),
        ("right, it does", True),
        ("对不起，没有", False),
        ("在家休息", False),
        ("是没有", False),
        ("对，没有", False),
        ("不是", False),
        ("嗯，没有缓解", True),
        ("在疼", True),
        ("会的", True),
        ("会不会传染", False),
    ],
)
def test_a_question_that_is_affirmed_counts(answer: str, told: bool) -> None:
    turns = [Message("user", "发烧"), Message("assistant", "还好。有小红点吗？"), Message("user", answer)]
    assert ("小红点" in patient_text(turns)) == told


def test_what_the_assistant_says_of_itself_counts_for_nothing() -> None:
    turns = [Message("user", "你好"), Message("assistant", "胸口压着疼、一身冷汗请打120。"), Message("user", "谢谢")]
    assert triage(turns).level is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("level: emergency", "level: panic"), r":6: .*panic"),
        (("source: a guideline", "sorce: a guideline"), r":10: unknown key 'sorce'.* 'source'"),
        (("    source: a guideline\n", ""), r":5: .*no source"),
        (("temperature >= 38", "temprature >= 38"), r"temprature"),
        (("find: [spots,", "find: [spotz,"), r"spotz"),
        (("find: [spots, temp", "find: [spots >= 3, temp"), r"no number"),
        (("zh: 拨打急救电话。", "de: Hilfe"), r":9: .*en and in zh"),
        (("rules:", "rulez:"), r":4: unknown key 'rulez'"),
        (("rules:", "  fever: [[微烫]]\nrules:"), r":4: there is a concept 'fever' already.*under extend"),
        (("rules:", "extend:\n  fevr: [[微烫]]\nrules:"), r":5: extend names 'fevr', which no file has"),
        (("[[小红点], [spots]]", "no"), r":3: the terms of 'spots' must be a list of texts"),
        (("concepts:\n", "concepts: [a]\nx:\n"), r":\d: (concepts must be a mapping|unknown key)"),
        (("id: spots-with-fever", "id: [1, 2"), r":\d+: not YAML"),
        (("    fires:", "    even_if: [gone]\n    fires:"), r"even_if.*gone.*past"),
        (("    fires:", "    within: near\n    fires:"), r"within.*near"),
        (("    fires:", "    within: -3\n    fires:"), r":11: within.*-3.*1 word or more"),
        (("    fires:", "    within: true\n    fires:"), r"within.*True.*1 word or more"),
        (("    fires:", "    even_if: [[past]]\n    fires:"), r":11: even_if.*list of texts"),
        (("    fires: [", "    fires: [yes, "), r":11: fires.*list of texts.*quotes"),
        (("    fires:", "    level: soon\n    fires:"), r":11: the key 'level' stands in line 6 too"),
        (("temperature >= 38", "temperature >= 3.8.5"), r":8: find.*'temperature >= 3.8.5'"),
        (("find: [spots,", "find: [{spots: x},"), r":8: find.*list of texts"),
        (("zh: 拨打急救电话。", "zh: 120"), r":9: .*en and in zh, each a text"),
        (("    system:", "    [a]: b\n    system:"), r": a key is a word"),
        (("[[小红点], [spots]]", "[[!!python/name:os.system x]]"), r":3: not plain texts"),
        (("[[小红点], [spots]]", "[&x [*x]]"), r":3: not plain texts"),
        (("[[小红点], [spots]]", "[" * 900 + "x" + "]" * 900), r":3: lists within lists go too deep"),
        (("[spots]]", "[spots, 'red {fever}']]"), r"'red \{fever\}' has words beside braces"),
    ],
)
def test_a_faulty_file_is_refused_with_its_line(
    tmp_path: Path, change: tuple[str, str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside one of the files that ship, whose concepts it may not take: all of them are read in a second."""
    (signs,) = [file for file in shipped_folder(FOLDER) if file[0].endswith("/signs.yaml")]
    monkeypatch.setattr(module, "shipped_folder", lambda folder: [signs])
    assert change[0] in GOOD
    with pytest.raises(UserError, match=says):
        rules_of(tmp_path, GOOD.replace(*change))


def test_a_hospital_adds_terms_to_a_concept_that_ships(tmp_path: Path) -> None:
    rules = rules_of(tmp_path, GOOD.replace("rules:", "extend:\n  fever: [[身子滚如炭火]]\nrules:"))
    assert "fever" in rules.lexicon.find("身子滚如炭火")
    assert "fever" not in load_red_flags().lexicon.find("身子滚如炭火")


def test_an_example_that_does_not_hold_is_named_with_its_line(tmp_path: Path) -> None:
    rules = rules_of(tmp_path, GOOD.replace("小红点，烧到39度,", "一切都好,"))
    (fault,) = [fault for fault in faulty_examples(rules, fired_by(rules)) if "hospital" in fault]
    assert "hospital.yaml:5" in fault
    assert "does not fire" in fault


def test_an_empty_file_of_rules_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"hospital\.yaml:1: the file is empty"):
        rules_of(tmp_path, "# nothing yet\n")


def test_a_rule_without_an_example_in_a_language_is_named(tmp_path: Path) -> None:
    rules = rules_of(tmp_path, GOOD.replace(', "spots and a temp of 39"', ""))
    assert any("no example in en" in fault for fault in faulty_examples(rules, fired_by(rules)))


def test_the_same_id_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is used by .*hospital\.yaml:5"):
        rules_of(tmp_path, GOOD + GOOD[GOOD.index("  - id") :])


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.yaml"):
        load_red_flags([tmp_path / "nowhere.yaml"])


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.text(max_size=400))
def test_any_text_is_screened(text: str) -> None:
    found = triage_text(text)
    assert all(0 <= start < end <= len(text) for one in found.findings for start, end in one.spans)


@pytest.mark.parametrize("text", ["", " \n", "😀" * 1000, "\ud800", "0" * 5000, "\x00" * 50, "…。" * 500])
def test_texts_that_say_nothing_find_nothing(text: str) -> None:
    assert triage_text(text).level is None


def test_offsets_are_those_of_the_text_as_it_was_written() -> None:
    text = "ＭＹ　ＣＨＥＳＴ hurts, crushing, and I am sweating"
    found = triage_text(text)
    assert found.level == "emergency"
    assert any("hurts" in text[start:end] for one in found.findings for start, end in one.spans)


@pytest.mark.parametrize(
    "text",
    [
        "crushing ch\u200best pa\u00adin and sweating",
        "胸\u200b口\u200b压榨样疼\u200b痛，出\u200b冷汗",
        "𝐜𝐫𝐮𝐬𝐡𝐢𝐧𝐠 𝐜𝐡𝐞𝐬𝐭 𝐩𝐚𝐢𝐧 𝐚𝐧𝐝 𝐬𝐰𝐞𝐚𝐭𝐢𝐧𝐠",
    ],
)
def test_what_a_page_or_a_phone_puts_into_words_hides_no_sign(text: str) -> None:
    assert "heart-attack-with-signs" in [one.rule.id for one in triage([Message("user", text)]).findings]


def test_a_question_whether_a_dose_kills_counts() -> None:
    assert "suicide-lethal-dose" in ids("Are 30 tramadol enough to kill me?")
    assert "suicide-lethal-dose" not in ids("Is 70% alcohol enough to kill bacteria?")
