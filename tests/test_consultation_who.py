"""Who is ill, to whom a sign belongs, and where common things go: relatives, levels of answers, departments."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from carellama.consultation.complaints import assess
from carellama.consultation.interview import Interview
from carellama.consultation.levels import Patient, TriageInput, is_of_others, triage_interview
from carellama.consultation.reading import read_text
from carellama.records import Message
from carellama.safety.layer import SafetyLayer
from carellama.safety.triage.rules import load_red_flags


@pytest.mark.parametrize(
    "text",
    [
        "I've had a cold for three days. My son is with me, he had it first.",
        "My wife drove me here, I can't feel my left arm",
        "My daughter says I snore",
        "I'm thirsty all day. My mother has diabetes.",
        "My dad died of a heart attack and I have palpitations",
        "My partner noticed a mole on my back",
        "My husband and I both have diarrhoea",
        "My son, 6, is with me, and my back hurts",
        "我儿子陪我来的，我胸口疼",
        "我妈妈有糖尿病，我最近老口渴",
        "我老公说我打呼噜",
        "我嗓子疼两天了，我儿子也感冒了",
        "我奶奶和我妈都得过乳腺癌，我摸到一个疙瘩",
        "没有其他不舒服，就是嗓子疼",
    ],
)
def test_a_relative_who_came_along_saw_something_or_has_it_in_the_family_is_not_who_is_ill(text: str) -> None:
    said = read_text(text, "complaint")
    assert (said.sex, said.other, said.age) == (None, False, None)
    assert not {"child", "old"} & assess(text).people


@pytest.mark.parametrize(
    ("text", "sex"),
    [
        ("my husband has chest pain", "male"),
        ("I'm worried about my husband, he keeps coughing", "male"),
        ("My mother has diabetes, what should she eat?", "female"),
        ("She is nine days old and feels hot", "female"),
        ("我老公胸口疼", "male"),
        ("我哥开车撞了，头在流血", "male"),
        ("我妈有糖尿病，最近脚麻", "female"),
        ("我婆婆中风了，右边手脚不能动", "female"),
    ],
)
def test_a_relative_who_is_ill_is_the_patient(text: str, sex: str) -> None:
    said = read_text(text, "complaint")
    assert (said.sex, said.other) == (sex, True)


def _heard(*told: tuple[str, str | None]) -> list[TriageInput]:
    return [TriageInput((Message("user", text),), about) for text, about in told]  # type: ignore[arg-type]


def _levels(heard: Sequence[TriageInput], patient: Patient | None = None) -> dict[str, str]:
    return {one.rule.id: one.level for one in triage_interview(SafetyLayer("on"), heard, patient or Patient()).findings}


@pytest.mark.parametrize(
    ("rule", "level", "told"),
    [
        (
            "insulin-missed-unwell",  # a weak pump: the heart's
            None,
            [
                ("My shoes are a bit tight by evening, it's this warm weather.", "complaint"),
                ("No pain, no fainting. I'm all right sitting here, and both legs match.", "red_flag"),
                (
                    "A small heart attack at sixty-six. They mentioned a weak pump. Type 2 diabetes on insulin.",
                    "history",
                ),
            ],
        ),
        (
            "alcohol-poisoning",  # cold, and wine
            "urgent",
            [
                ("I've got some lumps in my neck that haven't gone down.", "complaint"),
                ("I change my nightshirt most nights, I feel cold then.", "red_flag"),
                ("Rubbery, about two centimetres. Not tender, but they ache when I drink wine.", "severity"),
            ],
        ),
        (
            "antithyroid-fever",  # what the medicines are asked for
            "urgent",
            [
                ("My knee gets stuck, it's the right one.", "complaint"),
                ("No, it's not hot.", "red_flag"),
                ("I take carbimazole.", "drugs"),
                ("I've a temperature now and then.", "associated"),
            ],
        ),
    ],
)
def test_signs_of_one_rule_in_several_answers_make_no_emergency(
    rule: str, level: str | None, told: list[tuple[str, str | None]]
) -> None:
    heard = _heard(*told)
    as_one_text = SafetyLayer("on").triage([one.messages[0] for one in heard], rules_only=True)
    assert rule in {one.rule.id for one in as_one_text.findings if one.level == "emergency"}
    assert _levels(heard, Patient(45, "female")).get(rule) == level


@pytest.mark.parametrize("at", [1, 2])
def test_an_emergency_that_one_answer_tells_stands(at: int) -> None:
    told: list[tuple[str, str | None]] = [("I have a headache.", "complaint"), ("Since Monday.", "onset")]
    told.insert(at, ("My chest feels crushed, it goes into my left arm and I'm sweating.", "red_flag"))
    assert "emergency" in _levels(_heard(*told)).values()


def test_a_rule_about_children_is_about_no_adult_unless_one_message_tells_all_of_it() -> None:
    rules = {one.id: one for one in load_red_flags().rules}
    intussusception, pregnancy = rules["intussusception"], rules["pre-eclampsia"]
    assert is_of_others(intussusception, Patient(48, "female"))
    assert not is_of_others(intussusception, Patient(0.7, "male"))
    assert not is_of_others(intussusception, Patient())
    assert is_of_others(pregnancy, Patient(30, "male"))
    assert is_of_others(pregnancy, Patient(30, "female", not_pregnant=True))
    assert not is_of_others(pregnancy, Patient(30, "female"))
    accident = _heard(
        ("I have a cold.", "complaint"),
        ("My toddler has just swallowed one of grandpa's blood pressure tablets!", "associated"),
    )
    assert _levels(accident, Patient(34, "female"))["overdose-by-child-pill"] == "emergency"


def test_a_hesitant_classifier_makes_many_short_answers_urgent_and_no_emergency() -> None:
    """A mole that grows was an emergency, as the classifier was above its threshold by little after ten answers."""
    messages = [
        Message("user", "我左脚底有块黑斑，这半年变大了，想问要不要点掉？"),
        Message("assistant", "变大、变色、边缘不齐、出血发痒吗？超过 6 毫米吗？"),
        Message(
            "user",
            "半年大到小指甲盖那么大，边上不齐，有的地方黑有的地方发灰。 上个月磨破出过一次血，大腿根没摸到疙瘩。",
        ),
        Message("assistant", "请问您多大年纪，是女士还是男士？"),
        Message("user", "61岁，女。"),
        Message("assistant", "家里人（父母、兄弟姐妹）有类似的情况，或者心脏病、糖尿病、肿瘤这类病吗？"),
        Message("user", "家里没人得过。 没别的病。"),
        Message("assistant", "现在在吃什么药吗，包括自己买的药、中药和保健品？"),
        Message("user", "集市上有人给我点过一次药水，没点掉。别问了"),
    ]
    assert Interview(SafetyLayer("on")).report(messages).urgency in ("soon", "urgent")


def test_a_sudden_sign_behind_a_denial_is_denied() -> None:
    safety = SafetyLayer("on")
    assert safety.triage([Message("user", "偶尔几个黑点飘，没突然看不见，眼不疼。")], rules_only=True).level is None
    said = Message("user", "没有别的，突然胸口压得喘不过气，一身冷汗")
    assert safety.triage([said], rules_only=True).level == "emergency"


@pytest.mark.parametrize(
    ("text", "department"),
    [
        ("I've had a cold for three days, runny nose and a sore throat", "general_practice"),
        ("I think I have the flu, everything aches", "general_practice"),
        ("感冒两天了，流鼻涕，嗓子疼", "respiratory"),
        ("感冒了，发烧38度5", "fever_clinic"),
        ("发烧三天了", "fever_clinic"),
        ("fever since yesterday", "general_practice"),
        ("I have a fever since I came back from Nigeria", "infectious_diseases"),
        ("从非洲出差回来就发烧", "infectious_diseases"),
        ("血糖高，怎么吃", "endocrinology"),
        ("my blood sugar is high, what should I eat", "general_practice"),
        ("I've had low mood since I gave birth", "psychiatry"),
        ("生完孩子以后情绪低落，老想哭", "psychiatry"),
        ("我脸上长了蛇盘疮", "ophthalmology"),
        ("有带状疱疹，腰上疼", "dermatology"),
    ],
)
def test_common_things_go_to_the_common_department(text: str, department: str) -> None:
    assert assess(text).departments[0].id == department


@pytest.mark.parametrize("text", ["I sprained my wrist, and my blood pressure is up", "扭伤了脚踝，血压有点高"])
def test_blood_pressure_is_no_bleeding(text: str) -> None:
    assert assess(text).urgency == "urgent"


@pytest.mark.parametrize(
    ("text", "urgency"),
    [
        ("绝经好几年了，最近又来了点月经，是不是返老还童啊", "soon"),
        ("绝经后出血正常吗", "soon"),
    ],
)
def test_what_stands_before_a_question_in_a_sentence_is_told(text: str, urgency: str) -> None:
    assert assess(text).urgency == urgency


@pytest.mark.parametrize(
    "text", ["I bruise easily lately.", "最近腿上老是青一块紫一块的", "My water was red the other day"]
)
def test_a_vague_time_leaves_the_question_when_it_began(text: str) -> None:
    assert "onset" not in read_text(text, "complaint").slots


@pytest.mark.parametrize(("text", "yes"), [("I have a runny nose", "yes"), ("脸上长痘", "有"), ("鼻塞流鼻涕", "有")])
def test_two_bare_yes_to_mild_questions_are_for_today_and_no_emergency(text: str, yes: str) -> None:
    interview, messages = Interview(SafetyLayer("on")), [Message("user", text)]
    for _ in range(2):
        messages += [Message("assistant", interview.step(messages).question or ""), Message("user", yes)]
    assert interview.report(messages).urgency == "urgent"
