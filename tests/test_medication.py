"""Contraindications and interactions: what a person says of themselves, and the medicines that do not go with it."""

from __future__ import annotations

import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import preloaded
from carellama.errors import UserError
from carellama.records import Message
from carellama.safety.medication.conflicts import PersonFacts, conflicts, person_facts
from carellama.safety.medication.rules import Row, load_medication

RULES = load_medication()


def ids(facts: PersonFacts) -> set[str]:
    """The facts as words: `pregnancy`, `allergy penicillin`, `asthma`, `takes warfarin`, `age 5`."""
    found = {one.id for one in facts.diseases}
    found |= {f"allergy {one.id}" for one in facts.allergies} | {f"takes {one.id}" for one in facts.drugs}
    found |= {one.id for one in (facts.pregnancy, facts.breastfeeding) if one}
    return found | ({f"age {facts.age.value:g}"} if facts.age and facts.age.value is not None else set())


def pairs(text: str, of: str = "question", facts: PersonFacts | None = None) -> set[tuple[str, str]]:
    found = conflicts(
        person_facts(text) if facts is None else facts, text, "question" if of == "question" else "answer"
    )
    return {(one.drug, one.condition) for one in found}


# (what is said, facts, conflicts of the question)
CONVERSATIONS: list[tuple[str, set[str], set[tuple[str, str]]]] = [
    ("我怀孕了能吃布洛芬吗", {"pregnancy"}, {("ibuprofen", "pregnancy")}),
    ("孕12周，发烧38.5，家里有美林", {"pregnancy"}, {("ibuprofen", "pregnancy")}),
    ("青霉素过敏，牙疼能吃阿莫西林吗", {"allergy penicillin"}, {("amoxicillin", "penicillin")}),
    ("我对阿司匹林过敏", {"allergy aspirin"}, set()),
    ("对头孢和青霉素都过敏，能吃希刻劳吗", {"allergy cephalosporin", "allergy penicillin"},
     {("cefaclor", "cephalosporin"), ("cefaclor", "penicillin")}),
    ("我儿子5岁，发烧，可以吃阿司匹林吗", {"age 5"}, {("aspirin", "age")}),
    ("宝宝八个月咳嗽，能喂蜂蜜吗", {"age 0.5"}, {("honey", "age")}),
    ("我老公高血压，感冒了能吃新康泰克吗", {"hypertension"}, {("contac", "hypertension")}),
    ("我妈在吃华法林，膝盖疼，能吃芬必得吗", {"takes warfarin"}, {("ibuprofen", "warfarin")}),
    ("一直在吃优甲乐，能和钙片一起吃吗", {"takes levothyroxine"}, {("calcium", "levothyroxine")}),
    ("昨天吃了头孢克肟，今晚有酒局，能喝白酒吗", {"takes cefixime"}, {("alcohol", "cefixime")}),
    ("有蚕豆病，尿路感染能吃呋喃妥因吗", {"g6pd"}, {("nitrofurantoin", "g6pd")}),
    ("既往胃溃疡病史，腰疼想吃扶他林", {"peptic_ulcer"}, {("diclofenac", "peptic_ulcer")}),
    ("青光眼患者可以吃苯海拉明吗", {"glaucoma"}, {("diphenhydramine", "glaucoma")}),
    ("舍曲林吃了半年，最近腰痛医生开了曲马多，能一起吃吗", {"takes sertraline", "takes tramadol"},
     {("tramadol", "sertraline")}),
    ("痛风能喝啤酒吗", {"gout"}, {("alcohol", "gout")}),
    ("哺乳期感冒咳嗽能吃可待因吗", {"breastfeeding"}, {("codeine", "breastfeeding")}),
    ("Can I take ibuprofen? I'm 30 weeks pregnant.", {"pregnancy"}, {("ibuprofen", "pregnancy")}),
    ("My wife is pregnant, can she take Advil?", {"pregnancy"}, {("ibuprofen", "pregnancy")}),
    ("I'm allergic to sulfa drugs and the doctor prescribed Bactrim",
     {"allergy sulfonamide", "takes cotrimoxazole"}, {("cotrimoxazole", "sulfonamide")}),
    ("penicillin gives me hives. Is Augmentin okay?", {"allergy penicillin"}, {("augmentin", "penicillin")}),
    ("I take warfarin for AFib. Is aspirin ok for a headache?", {"takes warfarin", "fast_heart"},
     {("aspirin", "warfarin")}),
    ("I'm on sertraline, can I take tramadol?", {"takes sertraline"}, {("tramadol", "sertraline")}),
    ("can i drink alcohol while taking flagyl", {"takes metronidazole"}, {("alcohol", "metronidazole")}),
    ("I have asthma and get migraines. Would propranolol be safe?", {"asthma"}, {("propranolol", "asthma")}),
    ("My daughter is 7 and has a cough, can she have codeine?", {"age 7"}, {("codeine", "age")}),
    ("I'm 72 with dementia in the family. Can I take Benadryl to sleep?", {"age 72"}, {("diphenhydramine", "age")}),
    ("history of stomach ulcer, is naproxen fine", {"peptic_ulcer"}, {("naproxen", "peptic_ulcer")}),
    ("Is it safe to take Viagra with my isosorbide?", {"takes isosorbide"}, {("sildenafil", "isosorbide")}),
    ("I took NyQuil, can I also take Tylenol?", {"takes nyquil"}, {("paracetamol", "nyquil")}),
    ("I take simvastatin. The doctor gave me clarithromycin.", {"takes simvastatin", "takes clarithromycin"},
     {("clarithromycin", "simvastatin")}),
    ("St John's wort and the pill - problem?", set(), {("combined_contraceptive", "st_johns_wort")}),
    ("breastfeeding my 3 month old, is Sudafed ok?", {"breastfeeding"}, {("pseudoephedrine", "breastfeeding")}),
    ("I have CKD stage 4, which is better, Aleve or Celebrex?", {"kidney_disease"},
     {("naproxen", "kidney_disease"), ("celecoxib", "kidney_disease")}),
    ("I've got G6PD deficiency, is Bactrim safe", {"g6pd"}, {("cotrimoxazole", "g6pd")}),
    ("epileptic here, thinking of Wellbutrin to stop smoking, can I?", {"epilepsy", "smoker"},
     {("bupropion", "epilepsy")}),
    ("Long QT syndrome. Can I have azithromycin?", {"qt_prolongation"}, {("azithromycin", "qt_prolongation")}),
    ("myasthenia gravis and given Cipro for a UTI", {"myasthenia", "takes ciprofloxacin"},
     {("ciprofloxacin", "myasthenia")}),
    ("enlarged prostate, can i take sudafed", {"prostate"}, {("pseudoephedrine", "prostate")}),
    ("I'm taking lithium. Is Motrin alright?", {"takes lithium"}, {("ibuprofen", "lithium")}),
    ("Xarelto since my clot. Dentist says ibuprofen, can I?", {"thrombosis"}, {("ibuprofen", "rivaroxaban")}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("said", "facts", "found"), CONVERSATIONS, ids=lambda one: one[:40] if isinstance(one, str) else "set"
)  # sets have no order
def test_facts_and_conflicts_of_a_question(said: str, facts: set[str], found: set[tuple[str, str]]) -> None:
    assert ids(person_facts(said)) == facts
    assert pairs(said) == found


@pytest.mark.parametrize(
    "said",
    [
        "我没怀孕，能吃布洛芬吗",
        "不是怀孕，能吃布洛芬吗",
        "备孕能吃布洛芬吗",
        "上次怀孕的时候吃过布洛芬，现在能吃吗",
        "我姐怀孕了，我头疼能吃布洛芬吗",
        "我对青霉素不过敏，能吃阿莫西林吗",
        "没有药物过敏，能吃阿莫西林吗",
        "我妈青霉素过敏，我能吃阿莫西林吗",
        "过敏性鼻炎能吃氯雷他定吗",
        "没有哮喘，能吃普萘洛尔吗",
        "哮喘早就好了，小时候的事，能吃普萘洛尔吗",
        "华法林已经停了，能吃布洛芬吗",
        "没喝酒，能吃头孢吗",
        "我不吃华法林，头疼能吃布洛芬吗",
        "家族史有青光眼，我能吃苯海拉明吗",
        "布洛芬会引起胃溃疡吗",
        "什么是蚕豆病",
        "住的酒店附近有卖头孢的吗",
        "酒精棉消毒后能涂红霉素眼膏吗",
        "我吃的是酒石酸美托洛尔，能吃头孢吗",
        "肾功能正常，能吃布洛芬吗",
        "I'm not pregnant. Can I take ibuprofen?",
        "trying to get pregnant, can I take paracetamol?",
        "I'm not allergic to penicillin. Is amoxicillin ok?",
        "No known drug allergies. Is amoxicillin ok?",
        "My sister takes warfarin",
        "my sister takes warfarin. Can I take ibuprofen?",
        "My dad has asthma, can I take propranolol?",
        "I stopped warfarin last year, can I take ibuprofen?",
        "I used to take sertraline. Is tramadol ok now?",
        "I never drink alcohol, can I take metronidazole?",
        "I take loratadine for my allergies, can I take amoxicillin?",
        "Does ibuprofen cause stomach ulcers?",
        "Can ibuprofen cause kidney failure?",
        "What is glaucoma? Is Benadryl an antihistamine?",
        "the rubbing alcohol smells, is cefalexin bad when old?",
        "family history of porphyria. Can I take carbamazepine?",
        "I'm 35, can I take aspirin?",
        "My friend is 15 weeks pregnant. Is ibuprofen ok for me?",
        "I don't have kidney disease. Can I take Advil?",
        "Elon Musk tweets while I am pregnant",
        "I am pregnant with hope that paracetamol helps",
    ],
)
def test_what_is_denied_past_or_of_somebody_else_is_no_conflict(said: str) -> None:
    assert conflicts(person_facts(said), said, "question") == []


ANSWERS = [  # (what the person said, a sentence of the answer, drugs in conflict)
    ("我怀孕了", "可以吃布洛芬止痛。", {"ibuprofen"}),
    ("我怀孕了", "孕妇禁用布洛芬。", set()),
    ("我怀孕了", "布洛芬孕期不建议使用，可以吃对乙酰氨基酚。", set()),
    ("我怀孕了", "不要自行服用布洛芬，以免影响胎儿。", set()),
    ("青霉素过敏", "建议口服阿莫西林，每日三次。", {"amoxicillin"}),
    ("青霉素过敏", "避免使用阿莫西林、氨苄西林等青霉素类药物。", set()),
    ("青霉素过敏", "可以用阿奇霉素代替阿莫西林。", set()),
    ("我在吃华法林", "您正在服用华法林，不能和布洛芬一起吃。", set()),
    ("我在吃华法林", "疼得厉害时吃一片布洛芬。", {"ibuprofen"}),
    ("我在吃舍曲林", "曲马多缓解疼痛效果好。", {"tramadol"}),
    ("我有哮喘", "普萘洛尔是一种β受体阻滞剂。", set()),
    ("我有哮喘", "普萘洛尔10毫克，每日两次。", {"propranolol"}),
    ("孩子5岁发烧怎么办", "可以给孩子吃阿司匹林退烧。", {"aspirin"}),
    ("I'm pregnant", "You can take ibuprofen 400 mg every six hours.", {"ibuprofen"}),
    ("I'm pregnant", "Avoid ibuprofen in pregnancy.", set()),
    ("I'm pregnant", "Ibuprofen should be avoided, but paracetamol is safe.", set()),
    ("I'm pregnant", "Take paracetamol instead of ibuprofen.", set()),
    ("I'm pregnant", "Do not take NSAIDs such as ibuprofen, naproxen or aspirin.", set()),
    ("I'm pregnant", "Try Advil, and rest.", {"ibuprofen"}),
    ("I'm pregnant", "Ibuprofen is fine at this stage.", {"ibuprofen"}),
    ("I take warfarin", "Since you take warfarin, a pharmacist should be asked.", set()),
    ("I take warfarin", "Do not take aspirin with warfarin.", set()),
    ("I take warfarin", "Aspirin helps against the pain.", {"aspirin"}),
    ("I take warfarin", "Aspirin is an antiplatelet drug that was introduced in 1899.", set()),
    ("I have asthma", "Start propranolol, but not if you have asthma.", set()),
    ("I'm allergic to penicillin", "Your dentist may prescribe amoxicillin; take it with food.", {"amoxicillin"}),
    ("I'm allergic to penicillin", "Tell them before taking amoxicillin.", set()),
    ("I have a headache", "Take ibuprofen with aspirin.", {"aspirin"}),
    ("I have a headache", "Take ibuprofen or aspirin.", set()),
    ("My son is 5 and has a fever", "Give him aspirin.", {"aspirin"}),
    ("I have kidney disease", "What it means:\n- Ibuprofen\n- Heat", set()),
    ("I have kidney disease", "You can try these:\n- Ibuprofen\n- Heat", {"ibuprofen"}),
    ("I have kidney disease", "Avoid these:\n- Ibuprofen\n- Naproxen", set()),
]


@pytest.mark.parametrize(("said", "answer", "drugs"), ANSWERS)
def test_an_answer_that_recommends_is_a_conflict_and_one_that_warns_is_none(
    said: str, answer: str, drugs: set[str]
) -> None:
    assert {drug for drug, _ in pairs(answer, "answer", person_facts(said))} == drugs


def test_a_conversation_is_read_as_a_whole() -> None:
    facts = person_facts(
        [
            Message("system", "You are pregnant and take warfarin."),
            Message("user", "I have had a headache since Monday."),
            Message("assistant", "Do you take blood thinners, such as warfarin?"),
            Message("user", "Yes, since 2022."),
            Message("assistant", "Are you pregnant?"),
            Message("user", "No. Which painkiller can I take?"),
        ]
    )
    assert ids(facts) == {"takes warfarin", "takes anticoagulant"}
    assert pairs("Take Advil.", "answer", facts) == {("ibuprofen", "warfarin"), ("ibuprofen", "anticoagulant")}


def test_the_patient_is_the_person_of_the_last_request() -> None:
    turns = [Message("user", "I take warfarin."), Message("user", "My son is 4 and has a fever, can he have aspirin?")]
    assert ids(person_facts(turns)) == {"age 4"}
    assert ids(person_facts([*turns, Message("user", "And can I have aspirin?")])) == {"takes warfarin"}


def test_places_are_those_of_the_text() -> None:
    said = "医生好，我青霉素过敏，能吃阿莫西林吗"
    facts = person_facts(said)
    (found,) = conflicts(facts, said, "question")
    assert said[facts.allergies[0].start : facts.allergies[0].end] == "青霉素"
    assert said[found.start : found.end] == "阿莫西林"
    assert (found.row, found.severity) == ("any-allergy-same", "avoid")
    assert "阿莫西林" in found.texts["zh"] and "pharmacist" in found.texts["en"] and found.source


def test_trimesters_matter_where_a_row_says_so() -> None:
    for weeks, expected in ((8, set()), (36, {("nitrofurantoin", "pregnancy")})):
        assert pairs(f"I'm {weeks} weeks pregnant, can I take nitrofurantoin?") == expected
    assert pairs("I'm pregnant, can I take nitrofurantoin?") == {("nitrofurantoin", "pregnancy")}


def test_a_cream_is_only_held_against_allergies() -> None:
    assert pairs("胃溃疡能涂双氯芬酸凝胶吗") == set()
    assert pairs("I'm allergic to diclofenac, can I use diclofenac gel?") == {("diclofenac", "diclofenac")}
    assert pairs("asthma, can I use timolol eye drops?") == {("timolol", "asthma")}


def question(row: Row, drug: str, target: int, language: str) -> str | None:
    """The plainest question that must run into a row."""
    one, name = row.targets[target], RULES.drugs["ibuprofen" if drug == "any" else drug].names[language]
    english = language == "en"
    if one.kind == "condition":
        fact = RULES.conditions[one.id][language]
        said = f"I have {fact}." if english else f"我有{fact}，"
    elif one.kind == "drug" and one.id != drug:
        said = f"I take {RULES.drugs[one.id].names['en']}." if english else f"我在吃{RULES.drugs[one.id].names['zh']}，"
    elif one.kind == "allergy":
        fact = name if one.id == "same" else RULES.drugs[one.id].names[language]
        said = f"I'm allergic to {fact}." if english else f"我对{fact}过敏，"
    elif one.kind == "pregnancy":
        weeks = (20, 8, 20, 35)[one.trimester]
        said = f"I'm {weeks} weeks pregnant." if english else f"我怀孕{weeks}周，"
    elif one.kind == "breastfeeding":
        said = "I'm breastfeeding." if english else "我在哺乳，"
    else:
        return None
    return f"{said} Can I take {name}?" if english else f"{said}能吃{name}吗"


@pytest.mark.parametrize("row", RULES.rows, ids=lambda row: row.id[:60])
def test_each_row_is_found_for_each_of_its_drugs(row: Row) -> None:
    questions = [
        (text, drug)
        for drug in row.drugs
        for target in range(len(row.targets))
        for language in ("en", "zh")
        if (text := question(row, drug, target, language))
    ]
    same = len(row.drugs) == 1 and any(one.id == row.drugs[0] for one in row.targets)
    assert questions or same or any(one.kind == "age" for one in row.targets)
    missed = [text for text, _ in questions if not conflicts(person_facts(text), text, "question")]
    assert missed == []


def test_there_are_as_many_as_the_pages_say() -> None:
    substances = [drug for drug in RULES.drugs.values() if drug.of == (drug.id,)]
    assert len(RULES.rows) >= 180 and len(substances) >= 200
    assert len({row.source for row in RULES.rows}) > 50
    assert all(row.text["en"] and row.text["zh"] for row in RULES.rows)


@pytest.mark.parametrize("group", RULES.examples, ids=lambda group: group.name)
def test_examples_of_the_file_hold(group: object) -> None:
    from carellama.safety.check import faulty_medication_examples

    alone = replace(RULES, examples=(group,))  # type: ignore[arg-type]
    assert list(faulty_medication_examples(alone)) == []


GOOD = """
conditions:
  hiccups: {en: [hiccups], zh: [打嗝]}
groups:
  - name: own
    rows:
      - drug: ibuprofen
        with: hiccups
        severity: caution
        text: {en: they can get worse, zh: 可能加重}
        source: our hospital
    fires:
      ibuprofen-hiccups: [我打嗝，能吃布洛芬吗, "I have hiccups, can I take Advil?"]
    spares: [我没有打嗝，能吃布洛芬吗]
"""


def test_a_pharmacist_adds_a_row(tmp_path: Path) -> None:
    file = tmp_path / "pharmacy.yaml"
    file.write_text(GOOD, encoding="utf-8")
    rules = load_medication([file])
    said = "I have hiccups, can I take Advil?"
    (found,) = conflicts(person_facts(said, rules), said, "question", rules)
    assert (found.row, found.source) == ("ibuprofen-hiccups", "our hospital")
    assert conflicts(person_facts(said), said, "question") == []


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("severity: caution", "severty: caution", 9, "unknown key 'severty'. Did you mean 'severity'?"),
        ("severity: caution", "severity: mild", 7, "known: avoid, caution"),
        ("drug: ibuprofen", "drug: ibuprofn", 7, "unknown drug or class 'ibuprofn'. Did you mean 'ibuprofen'?"),
        ("with: hiccups", "with: hicups", 7, "Did you mean 'hiccups'?"),
        ("with: hiccups", "with: age below 3", 7, "age < 16"),
        ("        source: our hospital\n", "", 7, "no source"),
        (", zh: 可能加重}", "}", 10, "text in zh is missing"),
        ("with: hiccups", "with: lithium", 13, "which the group has not"),
        ("ibuprofen-hiccups:", "ibuprofen-hicups:", 13, "Did you mean 'ibuprofen-hiccups'?"),
        ("hiccups: {en: [hiccups], ", "hiccups: {", 3, "no name in en"),
        ("hiccups: {en: [hiccups]", "hiccups: {en: [asthma]", 3, "'asthma'"),
        ("  hiccups:", "  asthma:", 3, "used twice"),
        ("drug: ibuprofen", "drug: [ibuprofen", 8, "not YAML"),
        ("    spares: [我没有打嗝，能吃布洛芬吗]\n", "", 5, "no spares"),
        ("groups:", "rows:", 4, "unknown key 'rows'"),
    ],
)  # fmt: skip
def test_mistakes_are_named_with_file_and_line(tmp_path: Path, old: str, new: str, line: int, says: str) -> None:
    assert old in GOOD
    file = tmp_path / "pharmacy.yaml"
    file.write_text(GOOD.replace(old, new), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_medication([file])
    assert f"pharmacy.yaml:{line}:" in str(caught.value) and says in str(caught.value)


def test_a_row_that_is_there_already_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "pharmacy.yaml"
    file.write_text(
        GOOD.replace("drug: ibuprofen", "drug: anticoagulant").replace("with: hiccups", "with: nsaid"), "utf-8"
    )
    with pytest.raises(UserError, match=r"pharmacy\.yaml:7: .*stands at contraindications\.yaml:\d+ too"):
        load_medication([file])


def test_safety_check_tries_the_rows_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "pharmacy.yaml"
    file.write_text(GOOD.replace("spares: [我没有打嗝", "spares: [我打嗝"), encoding="utf-8")
    command = [preloaded.python(), "-m", "carellama", "safety", "check", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "pharmacy.yaml:14: ibuprofen-hiccups fires on: 我打嗝，能吃布洛芬吗" in done.stdout
    assert f"medicines: {len(RULES.rows) + 1} rows" in done.stdout and "1 faulty" in done.stdout


@settings(max_examples=150)
@given(st.text(max_size=300))
def test_no_text_breaks_it(text: str) -> None:
    facts = person_facts(text)
    assert facts.text == text
    for of in ("question", "answer"):
        assert all(0 <= one.start < one.end <= len(text) for one in conflicts(facts, text, of))


WORDS = ["I take", "warfarin", "布洛芬", "过敏", "我", "怀孕", "not", "allergic to", ", ", "。", "penicillin", "my son",
         "5岁", "?", "avoid", "can", "没有", "哮喘", " ", "he", "or", "酒"]  # fmt: skip


@settings(max_examples=40)
@given(st.lists(st.sampled_from(WORDS), min_size=2, max_size=12))
def test_time_is_linear(words: list[str]) -> None:
    """A text ten times as long takes at most thirty times as long."""
    times = []
    for repeats in (50, 500):
        text = "".join(words) * repeats
        best = 9.0
        for _ in range(2):
            begin = time.process_time()
            facts = person_facts(text)
            conflicts(facts, text, "question")
            conflicts(facts, text, "answer")
            best = min(best, time.process_time() - begin)
        times.append(best)
    assert times[1] < 0.05 + 30 * times[0]


def test_a_text_of_all_drugs_takes_no_long_time() -> None:
    text = "I take " + ", ".join(drug.names["en"] for drug in RULES.drugs.values()) + ". Can I?"
    begin = time.process_time()
    assert conflicts(person_facts(text), text, "question")
    assert time.process_time() - begin < 3
