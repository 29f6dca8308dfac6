"""Layouts of single-turn answers, rankings and plain text: a small file of each, and the real files where they are."""

from __future__ import annotations

import bz2
import gzip
import json
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from carellama.data.catalogue.convert import Conversion, of_file
from carellama.data.catalogue.entries import entries, find
from carellama.data.catalogue.layout import Outcome
from carellama.data.catalogue.layouts import LAYOUTS
from carellama.data.catalogue.layouts.answers import undoctored
from carellama.data.convert import BadRecord
from carellama.errors import UserError
from carellama.records import Chat, Message, Pair, Question, Text


def outcomes(name: str, *paths: Path) -> list[Outcome]:
    layout = LAYOUTS[name]
    assert all(layout.fits(path) for path in paths)
    return list(layout.joined(paths) if layout.joined else layout.convert(paths[0]))


def records(name: str, *paths: Path) -> list:
    return [record for outcome in outcomes(name, *paths) if isinstance(outcome, tuple) for record in outcome]


def reasons(name: str, *paths: Path) -> list[str]:
    return [outcome.reason for outcome in outcomes(name, *paths) if isinstance(outcome, BadRecord)]


def written(path: Path, *rows: Any, array: bool = False) -> Path:
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("[" + ",".join(lines) + "]" if array else "\n".join(lines), encoding="utf-8")
    return path


ASK, SAY = "感冒要多喝水吗？", "可以适量多喝温水，并注意休息。"
ROWS = [
    ("query-response", {"query": ASK, "response": SAY}, ASK),
    ("query-response", {"query": f"<s>问：\n{ASK}\n答：\n", "response": SAY}, ASK),
    ("text-answer", {"text": f" {ASK} ", "answer": f"{SAY} "}, ASK),
    ("context-target", {"context": f"问题：{ASK}\n回答: ", "target": SAY}, ASK),
    ("instruction", {"instruction": ASK, "output": SAY}, ASK),
    ("instruction", {"instruction": "回答问题", "input": ASK, "output": SAY}, f"回答问题\n{ASK}"),
    ("instruct", {"instruct": f" {ASK}", "output": SAY}, ASK),
    ("question-answer-lists", {"id": "", "instruction": [ASK], "input": "", "output": [SAY]}, ASK),
    ("questions-answers", {"questions": [[ASK, "感冒喝水好吗？"]], "answers": [SAY]}, ASK),
    ("questions-answers", {"questions": f"：{ASK}", "answers": SAY}, ASK),
    ("question-answer", {"question": ASK, "answer": SAY}, ASK),
    ("wen-da", {"问": ASK, "答": SAY}, ASK),
    ("departments", {"department": "", "title": ASK, "ask": "无", "answer": SAY}, ASK),
    ("turns", {"conversations": [{"from": "human", "value": ASK}, {"from": "gpt", "value": SAY}]}, ASK),
    ("drug-indications", {"药品": "甲片", "药品适应症": f"<p>{SAY}</p>", "instruction": ASK}, ASK),
]


@pytest.mark.parametrize(("name", "row", "question"), ROWS)
def test_one_question_with_one_answer(tmp_path: Path, name: str, row: dict, question: str) -> None:
    (chat,) = records(name, written(tmp_path / "a.jsonl", row))
    assert [message.content for message in chat.messages] == [question, SAY]


@pytest.mark.parametrize("ending", ["", ","])
def test_json_lines_are_read_whatever_they_are_called(tmp_path: Path, ending: str) -> None:
    path = tmp_path / ("a.json" if ending else "a.txt")
    path.write_text("".join(json.dumps({"问": ASK, "答": SAY}) + f"{ending}\n" for _ in range(3)))
    assert len(records("wen-da", path)) == 3


def test_a_conversation_in_an_instruction_becomes_one(tmp_path: Path) -> None:
    text = "<user>: Is a fever dangerous? <bot>: Rarely in itself. <user>: When is it?"
    row = {"instruction": text, "input": "", "output": "When it is very high or lasts for days."}
    (chat,) = records("instruction", written(tmp_path / "a.json", row, array=True))
    assert [(message.role, message.content) for message in chat.messages] == [
        ("user", "Is a fever dangerous?"),
        ("assistant", "Rarely in itself."),
        ("user", "When is it?"),
        ("assistant", "When it is very high or lasts for days."),
    ]


def test_what_stands_before_a_conversation_is_its_system_message(tmp_path: Path) -> None:
    row = {"instruction": "On rest.\n<user>: Does it help? <bot>:", "output": "It may."}
    (chat,) = records("instruction", written(tmp_path / "a.jsonl", row))
    assert [message.content for message in chat.messages] == ["On rest.", "Does it help?", "It may."]


def test_history_and_category_come_along(tmp_path: Path) -> None:
    row = {"id": 7, "cate1": "内科", "cate2": None, "instruction": ASK, "output": SAY, "history": [["你好", "您好"]]}
    (chat,) = records("instruction", written(tmp_path / "a.json", row, array=True))
    assert len(chat.messages) == 4 and chat.meta == {"id": "7", "category": "内科"}


def test_links_tool_calls_and_empty_answers_are_skipped_for_a_reason(tmp_path: Path) -> None:
    linked = {"questions": [[ASK]], "answers": ["https://example.org/1"]}
    assert reasons("questions-answers", written(tmp_path / "a.jsonl", linked)) == ["the answer is a link"]
    called = {"conversations": [{"from": "human", "value": ASK}, {"from": "function_call", "value": "{}"}]}
    assert reasons("turns", written(tmp_path / "b.jsonl", called)) == ["a call of a tool"]
    empty = {"query": ASK, "response": " "}
    assert reasons("query-response", written(tmp_path / "c.jsonl", empty)) == ["column 'response' is empty"]


def test_the_doctor_answers_for_icliniq(tmp_path: Path) -> None:
    row = {"input": "My knee hurts.", "answer_icliniq": "Rest it.", "answer_chatgpt": "No", "answer_chatdoctor": "No"}
    (chat,) = records("icliniq", written(tmp_path / "a.json", row, array=True))
    assert chat.prompt[0].content.startswith("If you are a doctor") and chat.response == "Rest it."


@pytest.mark.parametrize(
    ("said", "left", "mark"),
    [
        ("Hi, welcome to Chat Doctor. Rest your knee.", "Rest your knee.", "removed"),
        ("Thanks for using Chat Doctor forum. Rest it.", "Rest it.", "removed"),
        ("Rest it. Best regards, Chat Doctor.", "Rest it", "removed"),
        ("Ask Chat Doctor Smith about it.", "Ask Chat Doctor Smith about it.", "kept"),
    ],
)
def test_chat_doctor_leaves_greetings_and_signatures_only(said: str, left: str, mark: str) -> None:
    chat = undoctored(Chat((Message("user", "My knee hurts."), Message("assistant", said))))
    assert chat.response == left and chat.meta["chat_doctor"] == mark


def plain(data: bytes) -> bytes:
    return data


@pytest.mark.parametrize("packed", [plain, gzip.compress])
def test_departments_are_read_as_gb18030_with_line_breaks_and_tags(
    tmp_path: Path, packed: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "a.csv"
    text = f'department,title,ask,answer\n内科,头痛,"头痛\n两天, 怎么办?",<p>{SAY}</p>\n内科,{ASK},{ASK},"好&nbsp;的"\n'
    path.write_bytes(packed(text.encode("gb18030")))
    first, second = records("departments", path)
    assert first.prompt[0].content == "现在你是一个内科医生，请根据患者的问题给出建议：\n头痛，头痛\n两天, 怎么办?"
    assert first.response == SAY and first.meta == {"department": "内科", "title": "头痛"}
    assert second.prompt[0].content.endswith(f"\n{ASK}") and second.response == "好 的"


def test_bytes_of_no_encoding_cost_their_row_only(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    rows = [f"内科,{ASK},无,{SAY}\n".encode("gb18030"), "内科,头".encode("gb18030") + b"\xff\xff,a,b\n"]
    path.write_bytes(b"department,title,ask,answer\n" + rows[0] + rows[1])
    assert len(records("departments", path)) == 1
    assert reasons("departments", path) == ["bytes that are not GB18030"]


@pytest.mark.parametrize(
    ("name", "packed"), [("内科.txt", plain), ("内科.txt", gzip.compress), ("内科.txt.gz", gzip.compress),
                         ("内科.txt.bz2", bz2.compress)],
)  # fmt: skip
def test_blocks_of_a_question_and_an_answer(tmp_path: Path, name: str, packed: Callable[[bytes], bytes]) -> None:
    """Compressed, they were read as bytes of GB18030, or as lines: twelve texts in place of six conversations."""
    path = tmp_path / name
    path.write_bytes(packed(f"头痛,头痛两天怎么办？\n{SAY}\n\n\n头晕,为什么头晕？\n{SAY}\n\n\n".encode("gb18030")))
    first, second = records("department-blocks", path)
    assert first.prompt[0].content == "头痛，头痛两天怎么办？" and second.place.line == 5
    assert not LAYOUTS["lines"].fits(written(tmp_path / "b.txt", {"问": ASK, "答": SAY}))


@pytest.fixture
def cmedqa2(tmp_path: Path) -> Path:
    (tmp_path / "question.csv").write_text("question_id,content\n1,头痛怎么办\n2,牙痛怎么办\n", encoding="utf-8")
    with zipfile.ZipFile(tmp_path / "answer.zip", "w") as archive:
        archive.writestr("answer.csv", 'ans_id,question_id,content\n10,1,"：多休息,多喝水"\n11,1,量体温\n20,2,看牙医\n')
    (tmp_path / "train_candidates.txt").write_text("question_id,pos_ans_id,neg_ans_id\n1,10,20\n1,11,99\n")
    (tmp_path / "dev_candidates.txt").write_text("question_id,ans_id,cnt,label\n2,20,0,1\n2,10,1,0\n")
    return tmp_path


def test_cmedqa2_joins_answers_and_keeps_the_split(cmedqa2: Path) -> None:
    train, dev = cmedqa2 / "train_candidates.txt", cmedqa2 / "dev_candidates.txt"
    assert [chat.response for chat in records("cmedqa2", train)] == ["多休息,多喝水", "量体温"]
    assert reasons("cmedqa2", train) == ["a question of another split"]
    assert [chat.response for chat in records("cmedqa2", dev)] == ["看牙医"]
    assert [chat.response for chat in records("cmedqa2", cmedqa2 / "answer.zip")] == ["多休息,多喝水", "量体温"]


def test_cmedqa2_pairs_right_with_wrong(cmedqa2: Path) -> None:
    (pair,) = records("cmedqa2-pairs", cmedqa2 / "train_candidates.txt")
    assert (pair.prompt[0].content, pair.chosen, pair.rejected) == ("头痛怎么办", "多休息,多喝水", "看牙医")
    assert reasons("cmedqa2-pairs", cmedqa2 / "train_candidates.txt") == ["no answer of this id"]
    (pair,) = records("cmedqa2-pairs", cmedqa2 / "dev_candidates.txt")
    assert (pair.chosen, pair.rejected) == ("看牙医", "多休息,多喝水")


def test_cmedqa2_is_found_in_the_folders_its_archives_were_unpacked_to(cmedqa2: Path) -> None:
    for name in ("question.csv", "train_candidates.txt"):
        folder = cmedqa2 / Path(name).stem
        folder.mkdir()
        (cmedqa2 / name).rename(folder / name)
    assert len(records("cmedqa2-pairs", cmedqa2 / "train_candidates" / "train_candidates.txt")) == 1


def test_cmedqa2_says_which_file_is_missing(cmedqa2: Path) -> None:
    (cmedqa2 / "answer.zip").unlink()
    with pytest.raises(UserError, match=r"answer\.csv or answer\.zip"):
        outcomes("cmedqa2", cmedqa2 / "train_candidates.txt")


def test_webmedqa_is_split_at_tabs_and_loses_dates(tmp_path: Path) -> None:
    lines = [
        f'内科\t1\t5\t"{ASK}\t{SAY}2013-01-0212:30',
        "内科\t0\t5\t" + ASK + '\t"看\t牙医2013-01-02 12:30',
        "内科\t2\t5\tx",
    ]
    with zipfile.ZipFile(tmp_path / "medQA.train.zip", "w") as archive:
        archive.writestr("medQA.train.txt", "\n".join(lines))
    path = tmp_path / "medQA.train.zip"
    (chat,) = records("webmedqa", path)
    assert chat.response == SAY and chat.meta == {"id": "5", "department": "内科"}
    (pair,) = records("webmedqa-pairs", path)
    assert (pair.chosen, pair.rejected) == (SAY, '"看\t牙医')
    assert len(outcomes("webmedqa", path)) == len(outcomes("webmedqa-pairs", path)) == 3


def paper(decision: str) -> dict:
    return {
        "QUESTION": "Does rest help?",
        "CONTEXTS": ["We studied rest.", "Many got well."],
        "LABELS": ["AIM", "RESULTS"],
        "LONG_ANSWER": "Rest seems to help.",
        "final_decision": decision,
        "reasoning_required_pred": decision,
    }


def test_pubmedqa_never_trains_on_test_questions_nor_shows_the_conclusion(tmp_path: Path) -> None:
    path = tmp_path / "ori_pqal.json"
    path.write_text(json.dumps({"1": paper("yes"), "2": paper("no")}))
    assert not LAYOUTS["pubmedqa"].fits(path), "which are test questions cannot be told yet"
    assert len(records("pubmedqa-exam", path)) == 2
    (tmp_path / "test_ground_truth.json").write_text('{"2": "no"}')
    (chat,) = records("pubmedqa", path)
    assert chat.meta["id"] == "1" and chat.response == "yes. Rest seems to help."
    assert "AIM: We studied rest." in chat.prompt[0].content and "seems" not in chat.prompt[0].content
    (question,) = records("pubmedqa-exam", path)
    assert question.id == "2" and question.answers == ("B",) and "seems" not in question.stem


def hub_paper(number: int, decision: str | None, **context: list[str]) -> dict:
    """A row of qiaojin/PubMedQA, as its Parquet files hold it."""
    row = {
        "pubid": number,
        "question": "Does rest help?",
        "context": {"contexts": ["We studied rest."], "labels": ["AIM"], "meshes": ["Rest"], **context},
        "long_answer": "Rest seems to help.",
    }
    return row | {"final_decision": decision} if decision else row


def as_parquet(path: Path, *rows: dict) -> Path:
    import pyarrow as pa
    from pyarrow import parquet

    path.parent.mkdir(exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def test_pubmedqa_of_the_hub_is_read_from_parquet(tmp_path: Path) -> None:
    made = as_parquet(tmp_path / "pqa_artificial" / "train.parquet", hub_paper(1, "yes"), hub_paper(2, "no"))
    first, second = records("pubmedqa", made)
    assert first.meta["id"] == "1" and first.response == "yes. Rest seems to help."
    assert second.response == "no. Rest seems to help." and "AIM: We studied rest." in first.prompt[0].content
    (open_answer,) = records("pubmedqa", as_parquet(tmp_path / "pqa_unlabeled" / "train.parquet", hub_paper(3, None)))
    assert open_answer.response == "Rest seems to help."
    assert not LAYOUTS["pubmedqa-exam"].fits(tmp_path / "pqa_unlabeled" / "train.parquet")


@pytest.mark.parametrize(
    ("name", "decision", "context"),
    [
        ("pqa_labeled", "yes", {}),
        ("renamed", "maybe", {}),  # the artificial part knows no "maybe"
        ("renamed", "yes", {"reasoning_required_pred": ["y"], "reasoning_free_pred": ["y"]}),
    ],
)
def test_labelled_questions_of_the_hub_are_an_exam_only(tmp_path: Path, name: str, decision: str, context) -> None:
    made = as_parquet(
        tmp_path / name / "train.parquet", hub_paper(1, "no", **context), hub_paper(2, decision, **context)
    )
    assert not LAYOUTS["pubmedqa"].fits(made), "which are test questions cannot be told"
    assert [question.id for question in records("pubmedqa-exam", made)] == ["1", "2"]
    (made.parent / "test_ground_truth.json").write_text(json.dumps({"2": decision}))
    assert [chat.meta["id"] for chat in records("pubmedqa", made)] == ["1"]
    assert [question.id for question in records("pubmedqa-exam", made)] == ["2"]


def test_a_row_of_the_hub_without_an_abstract_is_counted(tmp_path: Path) -> None:
    made = as_parquet(tmp_path / "a" / "train.parquet", hub_paper(1, "yes"), hub_paper(2, "no") | {"context": None})
    assert reasons("pubmedqa", made) == ["no pubid, or no context with contexts and labels"]


PAIRS = [
    ("question-response-chosen", {"question": ASK, "response_chosen": SAY, "response_rejected": "不"}),
    ("question-chosen", {"system": "", "history": [], "question": ASK, "chosen": SAY, "rejected": "不"}),
    ("conversations-chosen", {"conversations": [{"from": "human", "value": ASK}], "chosen": SAY, "rejected": "不"}),
    ("instruction-chosen", {"instruction": ASK, "input": "", "chosen": SAY, "rejected": "不"}),
    ("ranked-answers", {"instruction": ASK, "output": [SAY, "好", "不"], "history": []}),
    ("two-completions", {"user_input": ASK, "completion_a": SAY, "completion_b": "不"}),
    (
        "scored-answers",
        {
            "user_input": ASK,
            "responses_and_scores": [{"response": "不", "score": 2}, {"response": SAY, "score": "9.0"}],
        },
    ),
]


@pytest.mark.parametrize(("name", "row"), PAIRS)
def test_the_best_and_the_worst_answer_make_a_pair(tmp_path: Path, name: str, row: dict) -> None:
    (pair,) = records(name, written(tmp_path / "a.json", row, array=True))
    assert (pair.prompt[-1].content, pair.chosen, pair.rejected) == (ASK, SAY, "不")


def test_pairs_that_are_none_are_skipped(tmp_path: Path) -> None:
    same = {"instruction": ASK, "chosen": SAY, "rejected": f"{SAY} "}
    assert reasons("instruction-chosen", written(tmp_path / "a.jsonl", same)) == [
        "chosen and rejected answers are the same"
    ]
    called = {"conversations": [{"from": "human", "value": ASK}], "chosen": {"from": "function_call"}, "rejected": "不"}
    assert reasons("conversations-chosen", written(tmp_path / "b.jsonl", called)) == ["a call of a tool"]
    level = {"user_input": ASK, "responses_and_scores": [{"response": one, "score": 5} for one in "ab"]}
    assert reasons("scored-answers", written(tmp_path / "c.jsonl", level)) == ["all answers have the same score"]


@pytest.mark.parametrize("name", [name for name, _ in PAIRS])
def test_a_row_of_another_layout_is_skipped_by_the_field_it_lacks(tmp_path: Path, name: str) -> None:
    row = next(row for own, row in PAIRS if own == name)
    path = written(tmp_path / "a.jsonl", row, {"unknown": ASK}, {**row, "chosen": None, "output": None})  # type: ignore[dict-item]
    found = outcomes(name, path)
    assert len(found) == 3 and isinstance(found[0], tuple) and isinstance(found[1], BadRecord)
    assert "'unknown'" in found[1].detail or "empty" in found[1].reason


def test_half_a_surrogate_pair_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"query": "a", "response": "\\ud83d"}')
    assert reasons("query-response", path) == ["not Unicode text"]


def test_transcripts_are_split_at_the_last_answer(tmp_path: Path) -> None:
    start = "\n\nHuman: Hello\n\nAssistant: Good day\n\nHuman: What helps a cough?\n\nAssistant:"
    rows = [
        {"chosen": f"{start} Honey may.", "rejected": f"{start} Nothing."},
        {"chosen": f"{start} Honey may.", "rejected": start.replace("cough", "cold") + " Nothing."},
        {"chosen": f"{start} Honey may.", "rejected": f"{start} "},
        {"chosen": f"{start} Honey may.", "rejected": f"{start} Honey may."},
    ]
    path = tmp_path / "test.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    (pair,) = records("transcripts", path)
    assert [message.content for message in pair.prompt] == ["Hello", "Good day", "What helps a cough?"]
    assert (pair.chosen, pair.rejected) == ("Honey may.", "Nothing.")
    assert reasons("transcripts", path) == [
        "the transcripts differ before the last answer",
        "an empty answer",
        "chosen and rejected answers are the same",
    ]


def test_lines_and_documents_are_told_apart(tmp_path: Path) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("发热是常见症状。\n\n发热时应多休息。\n", encoding="utf-8")
    assert [record.text for record in records("lines", lines)] == ["发热是常见症状。", "发热时应多休息。"]
    wrapped = tmp_path / "wrapped.txt"
    said = [
        "A fever is a common sign of many illnesses, mild and",
        "severe ones, and it mostly goes with them after some",
        "days.",
    ]
    wrapped.write_text("\n".join([*said, "", *said]))
    book = tmp_path / "book.txt"
    book.write_bytes("<篇名>小书\r\n书名：小书\r\n<目录>卷一\r\n<篇名>生姜\r\n内容：味辛。\r\n".encode("gb18030"))
    fits = {name: {path.stem for path in (lines, wrapped, book) if LAYOUTS[name].fits(path)} for name in LAYOUTS}
    assert fits["lines"] == {"lines"} and fits["document"] == {"wrapped", "book"} and not fits["text-rows"]
    outcomes = [record for (record,) in LAYOUTS["document"].joined([wrapped, book])]  # type: ignore[misc]
    assert outcomes[0].text == "\n".join([" ".join(said)] * 2)
    assert "生姜" in outcomes[1].text and outcomes[1].text.endswith("味辛。")


# file of the real data -> (layout, rows, records)
REAL = {
    "llm-pretrain-finetune-pretrain/2010卫生部儿童孤独症诊疗康复指南.docx": ("document", 3, 3),
    "medicalgpt-pretrain/fever.txt": ("lines", 985, 985),
    "medicalgpt-pretrain/en_article_tail500.txt": ("document", 8, 8),
    "zysj/001-吴普本草.txt": ("document", 231, 231),
    "chatmed-consult/ChatMed-Consult_test.json": ("query-response", 450, 450),
    "chinese-medical-dialogue/内科.head.txt": ("department-blocks", 1299, 1299),
    "chinese-medical-dialogue/样例_内科5000-6000.head.csv": ("departments", 3332, 3332),
    "huatuo-26m/huatuo26M_test.json": ("question-answer-lists", 969, 969),
    "pubmedqa/ori_pqal.part1of2.json": ("pubmedqa", 579, 296),
    "pubmedqa/ori_pqal.part2of2.json": ("pubmedqa", 421, 204),
    "qizhengpt/药品适应症评测数据集.csv": ("drug-indications", 94, 94),
    "llm-pretrain-finetune-sft/doc_kb.json": ("instruction", 132, 132),
    "llm-pretrain-finetune-sft/example_index.json": ("instruction", 244, 244),
    "llm-pretrain-finetune-sft/harmlessness.head.json": ("instruction", 260, 260),
    "llm-pretrain-finetune-sft/kuake_sft.json": ("text-answer", 587, 587),
    "llm-pretrain-finetune-sft/llama_sft.json": ("text-answer", 658, 658),
    "llm-pretrain-finetune-sft/medical_sft.json": ("text-answer", 1514, 1514),
    "llm-pretrain-finetune-sft/multi_choice.json": ("instruction", 537, 537),
    "medicalgpt-finetune/Belle_open_source_1k.json": ("instruction", 1000, 1000),
    "medicalgpt-finetune/glaive_toolcall_zh_demo.jsonl": ("turns", 275, 0),
    "medicalgpt-finetune/grpo_sample.jsonl": ("question-answer", 32, 32),
    "medicalgpt-finetune/medical_corpus.txt": ("wen-da", 87, 87),
    "medicalgpt-finetune/medical_sft_1K_format.jsonl": ("turns", 1000, 1000),
    "medicalgpt-finetune/sharegpt_zh_1K_format.head.jsonl": ("turns", 58, 58),
    "shibing624-medical/reward_test.json": ("question-response-chosen", 100, 100),
    "medalpaca/medical_meadow_small.json": ("instruction", 786, 786),
    "med-chatglm/train.head.txt": ("context-target", 1655, 1655),
    "med-chatglm/huatuo-llama_llama_data.head.json": ("instruction", 1685, 1685),
    "genmedgpt-5k/chatdoctor5k.json": ("doctor-instruction", 730, 730),
    "medicalgpt-reward/dpo_zh_500.jsonl": ("conversations-chosen", 499, 499),
    "medicalgpt-reward/dpo_zh_500.history-system-history-question.jsonl": ("question-chosen", 54, 54),
    "medicalgpt-reward/dpo_zh.history-response_chosen.jsonl": ("question-response-chosen", 54, 54),
    "medicalgpt-reward/toolcall_dpo_zh_demo.jsonl": ("conversations-chosen", 11, 0),
    "comparison-gpt4/comparison_gpt4_data_zh.json": ("instruction-chosen", 1863, 1848),
    "hh-rlhf/harmless-base_test.jsonl": ("transcripts", 421, 420),
}
KINDS = {"pt": Text, "sft": Chat, "rm": Pair, "exam": Question}


@pytest.mark.parametrize("file", REAL)
def test_real_files_lose_no_row(real_data: Path, file: str) -> None:
    name, rows, made = REAL[file]
    conversion = _real(real_data, file)
    assert list(conversion.layouts) == [name]
    found = Counter[str]()
    for outcome in conversion.outcomes():
        found["rows"] += 1
        for record in outcome if isinstance(outcome, tuple) else ():
            assert isinstance(record, KINDS[LAYOUTS[name].stage])
            found["records"] += 1
    assert (found["rows"], found["records"]) == (rows, made)


@pytest.mark.parametrize(
    "file",
    [
        "genmedgpt-5k/format_dataset.csv",
        "llm-pretrain-finetune-sft/harmlessness.head.txt",
        "shennong-tcm/ShenNong-TCM-LLM_test_examples.xls",
        "zhongjing-rw/total_dataset.tsv",
    ],
)
def test_files_that_are_no_training_data_are_refused(real_data: Path, file: str) -> None:
    with pytest.raises(UserError, match=Path(file).name):
        _real(real_data, file)


def test_questions_to_compare_models_with_have_to_be_named(real_data: Path) -> None:
    path = real_data / "shennong-tcm" / "ShenNong-TCM-LLM_test_examples.xls"
    entry, part = find("shennong-tcm:examples")
    assert len(list(of_file("shennong-tcm:examples", entry, (part,), path).outcomes())) == 201
    with pytest.raises(UserError, match="name its part, shennong-tcm:examples"):
        of_file("shennong-tcm", entry, entry.parts, path)


def _real(real_data: Path, file: str) -> Conversion:
    path = real_data / file
    if not path.exists():
        pytest.skip(f"{file} is not there")
    entry = entries()[path.parent.name]
    return of_file(entry.name, entry, entry.parts, path)
