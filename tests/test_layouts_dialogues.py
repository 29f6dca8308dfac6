"""Layouts of dialogues: nothing of the file's frame is left in a turn, and every row is accounted for."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from carellama.config.data_commands import ConvertOptions
from carellama.config.reader import parse_options
from carellama.data.catalogue.convert import Conversion, planned
from carellama.data.catalogue.layouts import LAYOUTS
from carellama.data.convert import BadRecord
from carellama.data.readers import Row
from carellama.data.report import DataReport
from carellama.errors import UserError
from carellama.records import NOWHERE, Chat


def plan(name: str, path: Path) -> Conversion:
    (arguments,) = parse_options((ConvertOptions,), [name, "--from_path", str(path)], "convert", positional="name")
    return planned(arguments)


def converted(name: str, path: Path) -> tuple[list[Chat], Counter[str]]:
    """The conversations of a file, and how many rows were skipped for each reason."""
    found: list[Chat] = []
    skipped: Counter[str] = Counter()
    for outcome in plan(name, path).outcomes():
        if isinstance(outcome, BadRecord):
            skipped[outcome.reason] += 1
        else:
            found += [record for record in outcome if isinstance(record, Chat)]
    return found, skipped


def written(path: Path, value: Any) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return path


def said(chat: Chat) -> list[str]:
    return [message.content for message in chat.messages]


CHINESE = """
id=1
https://example.org/1

Doctor faculty
示例医院 呼吸科

Description
疾病： 咳嗽
病情描述： 咳嗽两天。

Dialogue
医生：
发烧吗？
医生：
有痰吗？
病人：
不发烧。
说明：没有痰。
医生：
多喝水，注意休息。疾病诊断： 咳嗽
药品： 示例糖浆

Description
病情描述： 复诊，还有一点咳嗽。

Dialogue
医生：
会慢慢好的。

Diagnosis and suggestions
病情摘要及初步印象： 咳嗽
总结建议： 休息

Dialogue
病人：
好的，谢谢！

id=2
https://example.org/2

Description
病情描述： 没有人回答。
"""


def test_chinese_blocks_are_parted_at_each_description(tmp_path: Path) -> None:
    found, skipped = converted("medical-dialogue-system", written(tmp_path / "notes.txt", CHINESE))
    first, second = found
    assert said(first) == [
        "疾病： 咳嗽\n病情描述： 咳嗽两天。",
        "发烧吗？\n有痰吗？",
        "不发烧。\n说明：没有痰。",
        "多喝水，注意休息。",
    ]
    assert said(second) == ["病情描述： 复诊，还有一点咳嗽。", "会慢慢好的。"]
    assert first.meta == {"id": "notes-1", "department": "示例医院 呼吸科"}
    assert skipped == {"no question with an answer": 1, "a description without a dialogue": 1}


BROKEN = """
id=3
https://example.org/3

Description
疾病： 发热

Dialogue
病人：
体温38度，昨天开始。

Dialogue
医生：
有没有咳嗽？

Dialogue
预约医生： 示例甲

Dialogue
病人：
没有。
医生：
先观察，多喝水。

Description

Dialogue
预约医生： 示例甲
"""


def test_a_dialogue_without_a_description_goes_on_with_the_one_before_it(tmp_path: Path) -> None:
    (chat,), skipped = converted("medical-dialogue-system", written(tmp_path / "a.txt", BROKEN))
    assert said(chat) == ["疾病： 发热\n体温38度，昨天开始。", "有没有咳嗽？", "没有。", "先观察，多喝水。"]
    assert skipped == {"a dialogue without an utterance": 1}


ENGLISH = (
    "id=0\nhttps://example.org/0\n\nDescription\nHow long does a cough last?\n\nDialogue\nPatient:\n"
    "Hi, may I answer your health queries right now ?  Please type your query here...How long does a cough last?\n"
    "I have had it for a week.\nDoctor:\nHello,\r A cough may last for some weeks.\r\r Take care.\n\n"
    "id=1\nhttps://example.org/1\n\nDescription\nIs a fever bad?\n\nDialogue\nDoctor:\nRarely. Drink enough.\n"
)


def test_an_english_description_is_not_said_twice_and_a_bare_cr_is_a_line_break(tmp_path: Path) -> None:
    path = tmp_path / "blocks.txt"
    path.write_bytes(ENGLISH.encode())
    (first, second), skipped = converted("medical-dialog-hf", path)
    assert said(first) == [
        "How long does a cough last?\nI have had it for a week.",
        "Hello,\nA cough may last for some weeks.\nTake care.",
    ]
    assert said(second) == ["Is a fever bad?", "Rarely. Drink enough."]
    assert not skipped


LINES = ["医生：您好", "病人：咳嗽怎么办？", "病人: 两天了", "医生：多喝水。", "病人：谢谢"]
HEARD = ["咳嗽怎么办？\n两天了", "多喝水。"]
NATIVE_IMCS = {
    "10": {
        "diagnosis": "感冒",
        "self-report": "咳嗽怎么办？",
        "dialogue": [
            {"sentence_id": "1", "speaker": "患者", "sentence": "两天了", "BIO_label": "O O O"},
            {"sentence_id": "2", "speaker": "医生", "sentence": "多喝水。"},
        ],
        "report": [{"主诉": "咳嗽", "诊断": "感冒", "建议": "多喝水"}, {"主诉": "咳嗽两天", "诊断": "感冒"}],
    }
}
SENTENCES = [
    {"id": "Patients", "Sentence": "咳嗽怎么办？", "Symptom": ["咳嗽"]},
    {"id": "Patients", "Sentence": "两天了"},
    {"id": "Doctor", "Sentence": "多喝水。"},
]
MDCFNPC = {
    "dialog_id": 1,
    "dialog_info": [
        {"sentence_id": "1", "sender": "患者", "text": "咳嗽怎么办？", "ner": [
            {"name": "咳嗽", "mention": "咳嗽", "range": [0, 2], "type": "clinical_findings", "attr": "阳性"}]},
        {"sentence_id": "2", "sender": "患者", "text": "两天了", "ner": []},
        {"sentence_id": "3", "sender": "医生", "text": "多喝水。", "ner": [
            {"name": "undefined", "mention": "喝水", "range": [1, 3], "type": "clinical_findings", "attr": "不标注"}]},
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("cmcqa", [[["您好", "d"], ["咳嗽怎么办？", "p"], ["两天了", "p"], ["多喝水。", "d"], ["谢谢", "p"]]]),
        ("cmcqa", [{"question": " 咳嗽怎么办？\n两天了", "answer": " 多喝水。"}]),
        ("medical-dialogue-system", [LINES]),
        ("medical-dialogue-system", [{"Turn": 5, "Id": 1, "Dialogue": LINES}]),
        ("medical-dialog-hf", [{"utterances": LINES}]),
        ("medical-dialog-hf", [
            {"description": "咳嗽", "utterances": ["patient: 咳嗽怎么办？\n两天了", "doctor: 多喝水。"]}]),
        ("medical-dialog-hf", [{"dialogue_id": 3, "dialogue_turns": [
            {"speaker": 0, "utterance": "咳嗽怎么办？\n两天了"}, {"speaker": "医生", "utterance": "多喝水。"}]}]),
        ("imcs-v2", NATIVE_IMCS),
        ("imcs-v2", [{"conversations": [{"from": "user", "value": "咳嗽怎么办？\n两天了"},
                                        {"from": "assistant", "value": "多喝水。"},
                                        {"from": "user", "value": "谢谢"}]}]),
        ("chip-mdcfnpc", json.dumps(MDCFNPC, ensure_ascii=False) + "\n"),
        ("meddg", [SENTENCES]),
        ("meddg", [{"history": ["患者：咳嗽怎么办？", "患者：两天了"], "response": "医生：多喝水。"}]),
        ("huatuogpt-sft", json.dumps({"data": ["问：咳嗽怎么办？\n两天了\n", "答:多喝水。", "问：谢谢"]}) + "\n"),
    ],
)  # fmt: skip
def test_each_layout_gives_the_turns_alone_whatever_the_file_is_called(tmp_path: Path, name: str, rows: Any) -> None:
    found, skipped = converted(name, written(tmp_path / "a file.json", rows))
    assert [said(chat) for chat in found] == [HEARD] and not skipped


def test_a_report_is_a_task_with_an_answer_for_each_report(tmp_path: Path) -> None:
    found, skipped = converted("imcs-v2:report", written(tmp_path / "a.json", NATIVE_IMCS))
    assert [chat.response for chat in found] == ["主诉：咳嗽\n诊断：感冒\n建议：多喝水", "主诉：咳嗽两天\n诊断：感冒"]
    assert found[0].messages[0].content.endswith("患者：咳嗽怎么办？\n患者：两天了\n医生：多喝水。") and not skipped
    without = {"10": {key: value for key, value in NATIVE_IMCS["10"].items() if key != "report"}}
    assert converted("imcs-v2:report", written(tmp_path / "b.json", without)) == ([], {"no report": 1})


def test_labels_are_those_of_the_half_open_range_and_those_that_are_none_are_left_out(tmp_path: Path) -> None:
    found, _ = converted("chip-mdcfnpc:labels", written(tmp_path / "a.jsonl", json.dumps(MDCFNPC) + "\n"))
    assert found[0].response == "咳嗽：阳性"
    moved = json.loads(json.dumps(MDCFNPC))
    moved["dialog_info"][0]["ner"][0]["range"] = [0, 1]
    path = written(tmp_path / "b.jsonl", json.dumps(moved) + "\n")
    assert converted("chip-mdcfnpc:labels", path) == ([], {"the range of a finding does not hold it": 1})


def test_rows_without_an_answer_are_counted(tmp_path: Path) -> None:
    rows = [{"input": "问", "target": target, "task_dataset": "MedDG"} for target in ("答", "")]
    found, skipped = converted("meddg", written(tmp_path / "prompts.json", rows))
    assert said(found[0]) == ["问", "答"] and skipped == {"no answer": 1}
    history = written(tmp_path / "test.json", [{"history": ["医生：您好", "患者：咳嗽"]}])
    assert converted("meddg", history) == ([], {"no answer": 1})
    rows = [[["在吗", "p"]], ["not a dialogue"], [["咳嗽", "p"], ["多喝水", "d"]], 7]  # type: ignore[list-item]
    found, skipped = converted("cmcqa", written(tmp_path / "cmcqa.json", [rows[2], *rows]))
    assert len(found) == 2 and sum(skipped.values()) == 3


def test_a_pickle_is_refused_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "train.pk"
    path.write_bytes(pickle.dumps([SENTENCES]))
    with pytest.raises(UserError, match="is a pickle, which can run any program"):
        plan("meddg", path)


def test_another_kind_of_file_is_refused_with_the_field_and_the_row(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.json:1 has no 'data', it has 'title'"):
        plan("huatuogpt-sft", written(tmp_path / "a.json", [{"title": "x"}]))


@pytest.mark.parametrize(
    ("file", "layout", "rows"),
    [
        ("cmcqa/cmcqa.json", "dialogue-joined", 192),
        ("medical-dialogue-system/train_data.json", "dialogue-lines", 430),
        ("medical-dialogue-system/validate_data.json", "dialogue-lines", 109),
        ("medical-dialogue-system/COVID-Dialogue-Dataset-Chinese.head.json", "dialogue-numbered", 395),
        ("medical-dialogue-system/COVID-Dialogue-Dataset-Chinese.head.txt", "meddialog-blocks", 305),
        ("medical-dialogue-system/qa_zh_1.txt", "meddialog-blocks", 13),
        ("medical-dialogue-system/qa_zh_2.txt", "meddialog-blocks", 7),
        ("medical-dialog-hf/qa_en_1.txt", "meddialog-blocks", 20),
        ("medical-dialog-hf/qa_en_2.txt", "meddialog-blocks", 18),
        ("medical-dialog-hf/COVID-Dialogue-Dataset-English.txt", "meddialog-blocks", 604),
        ("imcs-v2/IMCS-V2_dev_conversation.head.json", "imcs-conversations", 119),
        ("imcs-v2/PromptCBLUE_toy_dev.IMCS-V2.jsonl", "prompt-cblue", 20),
        ("chip-mdcfnpc/fix_badcase.jsonl", "mdcfnpc", 9),
        ("chip-mdcfnpc/PromptCBLUE_toy_test.CHIP-MDCFNPC.jsonl", "prompt-cblue", 5),
        ("meddg/PromptCBLUE_toy_train.json", "prompt-cblue", 80),
    ],
)
def test_real_files_are_read_whole(real_data: Path, file: str, layout: str, rows: int) -> None:
    conversion = plan(file.partition("/")[0], real_data / file)
    assert list(conversion.layouts) == [layout]
    outcomes = list(conversion.outcomes())
    assert len(outcomes) == rows
    for outcome in outcomes:
        for record in () if isinstance(outcome, BadRecord) else outcome:
            assert isinstance(record, Chat) and all(message.content.strip() for message in record.messages)
            if layout in ("meddialog-blocks", "dialogue-lines"):
                frame = ("Diagnosis and suggestions", "病情摘要及初步印象", "预约医生：", "\nDialogue", "\r")
                text = "\n".join(said(record))
                assert not any(one in text for one in frame), record.place


def test_every_real_block_with_a_dialogue_is_kept_apart(real_data: Path) -> None:
    path = real_data / "medical-dialogue-system/COVID-Dialogue-Dataset-Chinese.head.txt"
    found = [one for one in LAYOUTS["meddialog-blocks"].convert(path) if not isinstance(one, BadRecord)]
    assert len(found) == 291 and len({record.meta["id"] for (record,) in found}) == 209


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "写报告", "input": "患者：咳嗽\n医生：多喝水。", "output": "主诉：咳嗽"},
        {"prompt": "写报告\n患者：咳嗽\n医生：多喝水。", "response": "主诉：咳嗽"},
        {"instruction": "写报告", "report": [{"主诉": "咳嗽"}], "dialogue": [
            {"speaker": "患者", "sentence": "咳嗽"}, {"speaker": "医生", "sentence": "多喝水。"}]},
    ],
)  # fmt: skip
def test_report_pairs_are_read_under_the_usual_names(tmp_path: Path, row: dict[str, Any]) -> None:
    found, skipped = converted("imcs-v2", written(tmp_path / "a.json", [row]))
    assert [said(chat) for chat in found] == [["写报告\n患者：咳嗽\n医生：多喝水。", "主诉：咳嗽"]] and not skipped


def test_half_a_surrogate_pair_is_a_counted_skip(tmp_path: Path) -> None:
    rows = '{"data": ["问：头\\ud83d疼", "答：休息。"]}\n{"data": ["问：头疼", "答：休息。"]}\n'
    report = DataReport()
    found = list(plan("huatuogpt-sft", written(tmp_path / "a.jsonl", rows)).records(report))
    assert len(found) == 1 and "not Unicode text" in "\n".join(report.lines())


@pytest.mark.parametrize(
    ("layout", "fields", "reason"),
    [
        ("dialogue-turns", {"dialogue_turns": [{"speaker": 0, "utterance": "咳嗽"}, "水"]}, "a turn is not an object"),
        ("dialogue-turns", {"dialogue_turns": {"speaker": [0], "utterance": []}},
         "as many speakers as utterances are needed"),
        ("dialogue-numbered", {"Dialogue": ["病人：咳嗽", "多喝水"]}, "a turn does not say who speaks"),
        ("mdcfnpc-labels", {"dialog_info": [{"sender": "患者", "text": "咳嗽", "ner": [{"attr": "阳性"}]}]},
         "a finding has no mention, range and attr"),
        ("imcs-conversations", {"conversations": [{"from": "robot", "value": "x"}]}, "unknown speaker"),
        ("huatuogpt", {"data": ["问：咳嗽怎么办？"]}, "no question with an answer"),
    ],
)  # fmt: skip
def test_a_turn_that_can_not_be_told_is_not_dropped_alone(layout: str, fields: dict[str, Any], reason: str) -> None:
    record = LAYOUTS[layout].record
    assert record is not None
    with pytest.raises(BadRecord) as refused:
        record(Row(fields, NOWHERE))
    assert refused.value.reason == reason
