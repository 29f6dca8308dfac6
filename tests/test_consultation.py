"""The consultation: which question comes next, what is read of an answer, when it ends, and how it is served."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import preloaded
from api_server import running
from carellama.assistant import Assistant, Consultant
from carellama.consultation.interview import Interview, Step, is_report
from carellama.consultation.model import wording_fault
from carellama.consultation.questions import load_questions
from carellama.consultation.reading import is_denial, kind_of, read_text
from carellama.consultation.state import SLOTS
from carellama.engine.base import Piece, PreparedPrompt, Reply, Sampling, Unavailable
from carellama.engine.generate import generate
from carellama.engine.generate import stream as stream_of
from carellama.engine.scripted import ScriptedEngine
from carellama.errors import UserError
from carellama.records import Message
from carellama.safety.layer import SafetyLayer

LAYER = SafetyLayer("on")
INTERVIEW = Interview(LAYER)
TOOTH = [
    "my tooth has hurt since yesterday", "no", "41, male", "lower left", "nothing else", "none", "no", "no", "no",
    "about 6", "no", "no",
]  # fmt: skip
ALARM = "胸口像压了块石头，一身冷汗，喘不上气"


def talk(interview: Interview, answers: Sequence[str]) -> tuple[list[Message], list[Step]]:
    """Say the answers one after the other, until the interview ends."""
    messages: list[Message] = []
    steps: list[Step] = []
    for answer in answers:
        messages.append(Message("user", answer))
        steps.append(interview.step(messages))
        question = steps[-1].question
        if question is None:
            break
        messages.append(Message("assistant", question))
    return messages, steps


class Schooled(ScriptedEngine):
    """Holds its answers to a schema, as far as the script does."""

    def answer(self, prompt: PreparedPrompt, sampling: Sampling):
        return super().answer(prompt, Sampling(max_new_tokens=sampling.max_new_tokens, temperature=0.0))


def test_one_sentence_fills_three_slots() -> None:
    said = read_text("I'm 34, on the pill, started Tuesday")
    assert said.slots == {"age_sex": "I'm 34", "drugs": "on the pill", "onset": "started Tuesday"}
    assert (said.age, said.sex) == (34, "female")


@pytest.mark.parametrize(
    ("text", "age", "sex", "other"),
    [
        ("我妈78岁，这两天走路不稳", 78, "female", True),
        ("My husband has been coughing for weeks", None, "male", True),
        ("My husband says I should ask about my knee", None, None, False),
        ("我有男朋友，最近月经推迟", None, "female", False),
        ("医生说没事，我是女的，今年二十五岁", 25, "female", False),
    ],
)
def test_who_is_ill(text: str, age: float | None, sex: str | None, other: bool) -> None:
    said = read_text(text)
    assert (said.age, said.sex, said.other) == (age, sex, other)


@pytest.mark.parametrize(
    ("answer", "age", "sex"), [("34f", 34, "female"), ("M, 60", 60, "male"), ("三十四，男", 34, "male")]
)
def test_bare_age_and_sex(answer: str, age: float, sex: str) -> None:
    said = read_text(answer, "age_sex")
    assert (said.age, said.sex) == (age, sex)


def test_a_question_fills_nothing() -> None:
    assert read_text("Can I take ibuprofen while I'm on warfarin?").slots == {}


def test_what_was_said_is_not_asked() -> None:
    _, steps = talk(INTERVIEW, ["头疼三天了，我38岁，女，没怀孕，对青霉素过敏", *["没有"] * 12])
    asked = steps[-1].state.asked
    assert steps[-1].state.reason == "complete"
    assert {"red_flag", "drugs", "history"} <= set(asked)
    assert not {"onset", "age_sex", "pregnancy", "allergies"} & set(asked)


def test_red_flags_come_first_and_the_words_of_the_person_are_kept() -> None:
    _, steps = talk(INTERVIEW, TOOTH)
    state = steps[-1].state
    assert state.asked[0] == "red_flag" and state.reason == "complete"
    assert state.slots["onset"] == TOOTH[0] and state.slots["location"] == "lower left"
    assert state.read_by["onset"] == "rules" and state.read_by["drugs"] == "answer"
    assert (state.age, state.sex) == (41, "male")


@pytest.mark.parametrize(
    ("who", "asked"),
    [("I'm a woman, 30 years old", True), ("I'm a man, 30 years old", False), ("I'm 71, a woman", False)],
)
def test_pregnancy_is_asked_about_where_it_can_be(who: str, asked: bool) -> None:
    _, steps = talk(INTERVIEW, [f"{who}. I have had tummy pain since Monday", *["no"] * 12])
    assert ("pregnancy" in steps[-1].state.asked) == asked
    assert "age_sex" not in steps[-1].state.asked


def test_a_bare_yes_gets_one_follow_up() -> None:
    _, steps = talk(INTERVIEW, ["my knee aches since last week", "yes", "a high fever", *["no"] * 12])
    assert steps[0].slot == steps[1].slot == "red_flag" and steps[2].slot != "red_flag"
    assert steps[-1].state.slots["red_flag"] == "yes; a high fever"


def test_a_yes_to_a_list_of_signs_affirms_none_of_them_until_it_is_said_twice() -> None:
    messages, steps = talk(INTERVIEW, ["I have felt odd since last week", "yes"])
    assert steps[1].state.level == "routine"
    ended = INTERVIEW.step([*messages, Message("user", "yes")])
    assert ended.state.level == "emergency"


def test_an_emergency_ends_it_at_once() -> None:
    _, steps = talk(INTERVIEW, ["胃有点不舒服", ALARM])
    assert [step.state.reason for step in steps] == ["", "emergency"]
    assert steps[1].report is not None and steps[1].question is None


def test_illness_of_the_family_is_not_the_persons_own() -> None:
    knee = Message("user", "my knee has ached for two weeks, I'm 40, male")
    family = Message("assistant", load_questions().text("family", "en"))
    father = "My father had crushing chest pain and died of a heart attack."
    assert INTERVIEW.step([knee, family, Message("user", father)]).state.level == "routine"
    now = "My father had a stroke. And now I have crushing chest pain and I'm sweating."
    assert INTERVIEW.step([knee, family, Message("user", now)]).state.level == "emergency"


@pytest.mark.parametrize(
    ("words", "opening"), [("just tell me what to do", TOOTH[0]), ("别问了，直接说吧", "牙疼两天了")]
)
def test_the_person_may_end_it(words: str, opening: str) -> None:
    _, steps = talk(INTERVIEW, [opening, words])
    assert steps[1].state.reason == "person asked" and steps[1].report is not None


def test_a_wish_to_be_told_is_no_answer() -> None:
    _, steps = talk(INTERVIEW, ["嗓子疼两天了", "别问了，直接告诉我吃什么药"])
    assert steps[1].state.level == "routine" and "red_flag" not in steps[1].state.slots
    _, steps = talk(INTERVIEW, ["胃有点不舒服", f"别问了，{ALARM}"])
    assert steps[1].state.reason == "emergency"


def test_a_question_about_a_medicine_is_asked_what_it_is_for() -> None:
    _, steps = talk(INTERVIEW, ["Is ibuprofen all right with my blood pressure tablets?", "for a sore back, 3 days"])
    assert steps[0].slot == "complaint" and "medicine" in (steps[0].question or "")
    assert steps[1].state.complaints == ("back_pain",) and "onset" in steps[1].state.slots


def test_age_and_sex_that_come_one_after_the_other_are_kept() -> None:
    knee = [Message("user", "my knee has ached for two weeks")]
    ask = load_questions().text("age_sex", "en")
    state = INTERVIEW.step([*knee, Message("assistant", ask), Message("user", "45")]).state
    assert (state.slots["age_sex"], state.age, state.sex) == ("45", 45, None)


def test_a_stretch_of_time_in_another_answer_is_no_second_beginning() -> None:
    messages = [Message("user", "我咳嗽两周了"), Message("assistant", load_questions().text("social", "zh"))]
    state = INTERVIEW.step([*messages, Message("user", "抽烟三十年，一天一包")]).state
    assert state.slots["onset"] == "我咳嗽两周了" and state.slots["social"] == "抽烟三十年，一天一包"


def test_max_questions_is_the_most() -> None:
    _, steps = talk(Interview(LAYER, max_questions=3), TOOTH)
    assert len(steps) == 4 and steps[-1].state.reason == "limit"
    with pytest.raises(UserError, match="max_questions is 0"):
        Interview(LAYER, max_questions=0)


ANSWERS = st.sampled_from(
    ["?", "", "no", "yes", "没有", "有", "嗯", "I don't know", "😀", "34 f", "since Monday", "I take aspirin",
     "别的没有", "it hurts", "男", "头疼", "what?", "My son has a rash", "ok", "右边", "a" * 300]
)  # fmt: skip


@settings(max_examples=60)
@given(st.lists(ANSWERS, min_size=25, max_size=25), st.integers(1, 12))
def test_any_interview_ends_and_repeats_no_question(answers: list[str], most: int) -> None:
    interview = Interview(LAYER, max_questions=most)
    messages, steps = talk(interview, answers)
    questions = [step.question for step in steps if step.question is not None]
    assert len(steps) <= most + 1 and steps[-1].report is not None
    assert len(set(questions)) == len(questions)
    assert max(Counter(steps[-1].state.asked).values(), default=0) <= 2
    assert interview.step(messages).state == steps[-1].state  # a replay gives the same


@pytest.mark.parametrize("opening", ["", "😀😀", "?", "？？？", "\ud800", "头疼" * 50_000, "it hurts. " * 10_000])
def test_openings_that_are_no_story(opening: str) -> None:
    step = INTERVIEW.step([Message("user", opening)])
    assert step.question is not None or step.report is not None
    assert all(len(text) <= 600 for text in step.state.slots.values())


def test_a_conversation_without_the_person_asks_for_the_trouble() -> None:
    assert INTERVIEW.step([]).slot == "complaint"


def test_every_question_is_known_again_by_its_wording() -> None:
    questions = load_questions()
    own = [(one.id, slot) for one in questions.complaints.values() for slot in one.ask]
    assert len(own) > 100
    for language in ("en", "zh"):
        for slot in SLOTS:
            for kind in questions.of_slot[slot]:
                assert questions.slot_of(f"**Notice.**\n\n{questions.text(slot, language, kind)}") == slot
        for name, slot in own:
            assert questions.slot_of(questions.text(slot, language, "ask", [name])) == slot


@pytest.mark.parametrize(
    ("text", "kind", "denies"),
    [("No.", "no", True), ("没有，都没有", "text", True), ("不太清楚", "unknown", False), ("？？", "nothing", False),
     ("no, but my chest is tight", "text", False), ("没有，就是有点喘", "text", False), ("Yes!", "yes", False)],
)  # fmt: skip
def test_kinds_of_answers(text: str, kind: str, denies: bool) -> None:
    assert (kind_of(text), is_denial(text)) == (kind, denies)


# The model's part


def reads(**slots: str) -> str:
    return json.dumps(dict.fromkeys(SLOTS, "") | slots)


def test_the_model_fills_what_the_rules_leave_empty_and_only_with_words_that_were_said() -> None:
    script = reads(severity="hardly slept", drugs="aspirin 500 mg", onset="on Tuesday")
    engine = Schooled(script)
    interview = Interview(LAYER, engine=engine, reading="both")
    messages = [Message("user", "My knee swelled on Tuesday, I have hardly slept")]
    state = interview.step(messages).state
    assert state.slots["severity"] == "hardly slept" and state.read_by["severity"] == "model"
    assert "drugs" not in state.slots  # it made that up
    assert interview.step(messages).state == state and len(engine.asked) == 1  # remembered


@pytest.mark.parametrize("script", ["no JSON", '{"onset": "Tuesday"}', "[]"])
def test_a_reading_that_fails_is_replaced_by_the_rules_and_named(script: str) -> None:
    by_rules = INTERVIEW.step([Message("user", TOOTH[0])]).state
    state = Interview(LAYER, engine=Schooled(script), reading="model").step([Message("user", TOOTH[0])]).state
    assert state.slots == by_rules.slots and set(state.read_by.values()) <= {"rules", "answer"}
    assert len(state.failures) == 1 and "not read by the model" in state.failures[0]


def test_an_engine_without_schemas_reads_by_rules() -> None:
    state = Interview(LAYER, engine=ScriptedEngine("x"), reading="both").step([Message("user", TOOTH[0])]).state
    assert "json_schema" in state.failures[0]


def test_an_engine_that_does_not_answer_is_asked_again() -> None:
    class Away(ScriptedEngine):
        def answer(self, prompt: PreparedPrompt, sampling: Sampling):
            raise Unavailable("gone")
            yield  # type: ignore[unreachable]

    engine = Away("x")
    interview = Interview(LAYER, engine=engine, reading="both", wording="model")
    for _ in range(2):
        step = interview.step([Message("user", TOOTH[0]), Message("assistant", "Hm."), Message("user", "it is bad")])
        assert step.question is not None and any("gone" in one for one in step.state.failures)
    assert len(engine.asked) > 2


def test_the_model_words_questions_but_no_red_flags() -> None:
    engine = ScriptedEngine("Since your tooth hurts: when did it start?")
    interview = Interview(LAYER, engine=engine, wording="model")
    first = [Message("user", "my tooth hurts")]
    asked = interview.step(first)
    assert asked.slot == "red_flag" and engine.asked == []
    then = interview.step([*first, Message("assistant", asked.question or ""), Message("user", "no")])
    assert then.question == "Since your tooth hurts: when did it start?" and then.slot == "onset"
    assert load_questions().slot_of(then.question) == "onset"


@pytest.mark.parametrize(
    "text",
    ["", "When did it start", "When did it start? Is it bad?", "什么时候开始的？", "Are you allergic to anything?",
     "When did it start, " + "and " * 40 + "how?"],
)  # fmt: skip
def test_wordings_that_are_not_taken(text: str) -> None:
    assert wording_fault(text, "onset", "en", load_questions())
    assert not wording_fault("When did that tooth start to hurt?", "onset", "en", load_questions())


def test_a_model_that_is_asked_for_has_to_be_there() -> None:
    with pytest.raises(UserError, match="needs an engine"):
        Interview(LAYER, reading="both")


# The assistant


def consultant(script: str = "(the model)", **options) -> Consultant:
    assistant = Assistant(ScriptedEngine(script), safety=LAYER)
    return Consultant(assistant, Interview(LAYER, engine=assistant.engine, **options))


def ended(one: Consultant) -> list[Message]:
    """A conversation up to the report."""
    messages: list[Message] = []
    for answer in TOOTH:
        messages.append(Message("user", answer))
        (reply,) = generate(one, [messages], one.sampling)
        messages.append(Message("assistant", reply.text))
        if is_report(reply.text):
            return messages
    raise AssertionError("there was no report")


def test_the_consultant_asks_reports_and_then_lets_the_model_answer() -> None:
    one = consultant()
    messages = ended(one)
    first, report = messages[1].content, messages[-1].content
    assert first.startswith(load_questions().intro["en"]) and first.count("?") == 1
    assert "lower left" in report
    (reply,) = generate(one, [[*messages, Message("user", "What may I eat?")]], one.sampling)
    assert reply.text == "(the model)" and reply.consultation is None
    (reply,) = generate(one, [[*messages, Message("user", "all right, thanks")]], one.sampling)
    assert reply.text == load_questions().closing["en"]
    (reply,) = generate(
        one, [[*messages, Message("user", "It runs in the family, my mother had bad teeth too.")]], one.sampling
    )
    assert is_report(reply.text) and "my mother" in reply.text
    (reply,) = generate(one, [[*messages, Message("user", ALARM)]], one.sampling)
    assert reply.consultation is not None and reply.consultation["state"]["reason"] == "emergency"


def test_what_is_streamed_is_what_is_generated() -> None:
    one = consultant()
    for messages in ([Message("user", TOOTH[0])], [Message("user", ALARM)]):
        pieces: list[Piece] = []
        stream = stream_of(one, messages, one.sampling)
        try:
            while True:
                pieces.append(next(stream))
        except StopIteration as end:
            reply: Reply = end.value
        (whole,) = generate(one, [messages], one.sampling)
        assert "".join(piece.text for piece in pieces) == reply.text == whole.text
        assert [piece.consultation for piece in pieces if piece.consultation] == [whole.consultation]


def test_the_notice_comes_before_the_report_of_an_emergency() -> None:
    (reply,) = generate(consultant(), [[Message("user", ALARM)]], Sampling())
    assert reply.text.startswith(reply.notices[0].text) and "120" in reply.notices[0].text
    assert reply.consultation is not None and reply.consultation["state"]["reason"] == "emergency"
    assert reply.consultation["report"]["urgency"] == "emergency"


def test_a_request_may_choose_its_mode() -> None:
    one = consultant()
    with running(Assistant(one.engine, safety=LAYER), consultant=one) as server:
        client = openai.OpenAI(base_url=server.v1, api_key="any", max_retries=0)

        def ask(mode: str | None, **options):
            turns: Any = [{"role": "user", "content": TOOTH[0]}]
            body = {"mode": mode} if mode else {}
            return client.chat.completions.create(model="carellama", messages=turns, extra_body=body, **options)

        assert ask(None).choices[0].message.content == "(the model)"
        done = ask("consult").choices[0]
        deltas = [chunk.choices[0].delta for chunk in ask("consult", stream=True)]
        with pytest.raises(openai.BadRequestError, match="'answer' or 'consult'"):
            ask("consultation")
        for option in ({"n": 2}, {"response_format": {"type": "json_object"}}, {"logprobs": True}):
            with pytest.raises(openai.BadRequestError, match="no meaning in mode consult"):
                ask("consult", **option)
    field = done.message.model_extra["consultation"]
    assert done.finish_reason == "stop" and field["slot"] == "red_flag" and field["report"] is None
    assert field["state"]["slots"]["onset"] == TOOTH[0]
    assert "".join(delta.content or "" for delta in deltas) == done.message.content
    assert [one.model_extra["consultation"] for one in deltas if "consultation" in (one.model_extra or {})] == [field]


def test_no_conversation_is_too_long_to_be_consulted() -> None:
    """It was refused as too long for the model, which is not asked: the rules read all turns."""
    assistant = Assistant(ScriptedEngine("(the model)", context_tokens=50), safety=LAYER)
    one = Consultant(assistant, Interview(LAYER))
    with running(assistant, consultant=one) as server:
        turns = [{"role": "user", "content": f"{TOOTH[0]} {'It throbs. ' * 20}"}]
        answers = [
            httpx2.post(f"{server.v1}/chat/completions", json={"messages": turns, "mode": mode}).json()
            for mode in ("consult", "answer")
        ]
    assert answers[0]["choices"][0]["message"]["consultation"]["slot"] == "red_flag"
    assert answers[1]["error"]["code"] == "context_length_exceeded"


def test_a_server_without_the_safety_layer_does_not_consult() -> None:
    with running(ScriptedEngine("x")) as server:
        client = openai.OpenAI(base_url=server.v1, api_key="any", max_retries=0)
        with pytest.raises(openai.BadRequestError, match="--safety off"):
            client.chat.completions.create(
                model="carellama", messages=[{"role": "user", "content": "x"}], extra_body={"mode": "consult"}
            )


def test_responses_have_the_field_too() -> None:
    one = consultant()
    with running(Assistant(one.engine, safety=LAYER), consultant=one, mode="consult") as server:
        client = openai.OpenAI(base_url=server.v1, api_key="any", max_retries=0)
        whole = client.responses.create(model="carellama", input=TOOTH[0])
        events = list(client.responses.create(model="carellama", input=TOOTH[0], stream=True))
    assert whole.output[0].model_extra["consultation"]["slot"] == "red_flag"
    assert events[-1].response.output[0].model_extra == whole.output[0].model_extra


# The commands

PROGRAM = """
from carellama.assistant import Assistant, Consultant
from carellama.consultation.interview import Interview
from carellama.engine.scripted import ScriptedEngine
from carellama.safety.layer import SafetyLayer
from carellama.serve.terminal import chat

assistant = Assistant(ScriptedEngine("(the model)"), safety=SafetyLayer("on"))
chat(Consultant(assistant, Interview(assistant.safety)))
"""


def carellama(*words: str) -> subprocess.CompletedProcess[str]:
    command = [preloaded.python(), "-m", "carellama", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_terminal_writes_reports_and_a_saved_conversation_gives_the_same_one(tmp_path: Path) -> None:
    report, saved, again = tmp_path / "report.json", tmp_path / "saved.json", tmp_path / "again.json"
    lines = [*TOOTH[:9], f"/report {report}", f"/report {report}", f"/report {tmp_path}/report.doc", f"/save {saved}"]
    done = subprocess.run(
        [preloaded.python(), "-c", PROGRAM], input="\n".join(lines), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("error:") == 2 and "is there already" in done.stderr and ".pdf" in done.stderr
    assert report.stat().st_mode & 0o777 == 0o600
    done = carellama("consult", "report", str(saved), "--output", str(again))
    assert done.returncode == 0, done.stderr
    assert json.loads(again.read_text()) == json.loads(report.read_text())
    printed = carellama("consult", "report", str(saved))
    assert is_report(printed.stdout)
    refused = carellama("consult", "report", str(saved), "--output", str(again))
    assert refused.returncode == 2 and "is there already" in refused.stderr
    before = saved.read_bytes()
    refused = carellama("consult", "report", str(saved), "--output", f"{tmp_path}/./saved.json", "--overwrite")
    assert refused.returncode == 2 and "is the conversation" in refused.stderr and saved.read_bytes() == before


@pytest.mark.parametrize(
    ("text", "error"),
    [("no json", "is not JSON"), ("{}", "holds no conversation"),
     ('[{"messages": []}, {"messages": []}]', "2 conversations"),
     ('[{"role": "assistant", "content": "hi"}]', "no message of the role user has a text"),
     ('[{"role": "nurse"}]', "message 1 has no role"), ('[{"role": "user", "content": 3}]', "message 1: its content")],
)  # fmt: skip
def test_files_that_are_no_conversation(tmp_path: Path, text: str, error: str) -> None:
    file = tmp_path / "conversation.json"
    file.write_text(text)
    done = carellama("consult", "report", str(file))
    assert done.returncode == 2 and error in done.stderr and done.stdout == ""
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "error"),
    [(["--max_questions", "3"], "--max_questions is for --mode consult"),
     (["--mode", "consult", "--safety", "off"], "--safety off"),
     (["--mode", "consult", "--max_questions", "0"], "at least 1"),
     (["--mode", "talk"], "answer")],
)  # fmt: skip
def test_options_that_do_not_go_together(options: list[str], error: str) -> None:
    done = carellama("ask", "x", "--model_name_or_path", "nowhere", *options)
    assert done.returncode == 2 and error in done.stderr
