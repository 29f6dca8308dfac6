"""The files of a layout may differ in how they are written: every way gives the same records."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from carellama.config.data_commands import ConvertOptions
from carellama.data.catalogue.convert import planned
from carellama.data.convert import BadRecord, texts_of
from carellama.errors import UserError
from carellama.records import Question

ASK, SAY, NO = "感冒了要怎么办？", "多喝温水，注意休息。", "不用管它。"
TURNS = ["病人：感冒了要怎么办？", "医生：多喝温水，注意休息。"]
OPTIONS = {"A": "多喝温水", "B": "少睡觉", "C": "多吸烟", "D": "不吃饭"}
SPOKEN = [{"from": "human", "value": ASK}, {"from": "gpt", "value": SAY}]
NER = [{"name": "感冒", "mention": "感冒", "range": [0, 2], "type": "clinical_findings", "attr": "阳性"}]
DIALOG = [{"sentence_id": "1", "sender": "患者", "text": ASK, "ner": NER}, {"sender": "医生", "text": SAY, "ner": []}]

Fields = dict[str, Any]
# dataset (and part), the fields of a row, fields that may be null
ROWS: list[tuple[str, Fields, tuple[str, ...]]] = [
    ("icliniq-10k", {"input": ASK, "answer_icliniq": SAY, "answer_chatgpt": NO}, ("answer_chatgpt", "id")),
    ("healthcaremagic-100k", {"instruction": "Answer.", "input": ASK, "output": SAY}, ("history", "system")),
    ("genmedgpt-5k", {"instruction": "Answer.", "input": ASK, "output": SAY}, ("history",)),
    ("shennong-tcm", {"query": ASK, "response": SAY}, ()),
    ("chatmed-consult", {"query": f"<s>问：\n{ASK}\n答：\n", "response": SAY}, ()),
    ("chinese-medical-dialogue", {"department": "内科", "title": ASK, "ask": "两天了。", "answer": SAY}, ("id",)),
    ("billgpt-chinese-medical-dialogue", {"department": "内科", "title": ASK, "question": "无", "answer": SAY}, ()),
    ("huatuo-26m", {"questions": [[ASK, "感冒怎么治？"]], "answers": [SAY]}, ()),
    ("huatuo-26m", {"id": 3, "question": ASK, "answer": SAY, "score": 4, "label": "内科"}, ("score", "label", "id")),
    ("huatuo-26m", {"id": "", "instruction": [ASK], "input": "", "output": [SAY], "history": []}, ("input", "history")),
    ("huatuo-encyclopedia-qa", {"questions": [[ASK]], "answers": [SAY]}, ()),
    ("qizhengpt", {"instruction": ASK, "output": SAY}, ("input", "history")),
    ("llm-pretrain-finetune-sft", {"text": f" {ASK}", "answer": f"{SAY} "}, ()),
    ("llm-pretrain-finetune-sft", {"instruction": ASK, "input": "A．水\nB．烟", "output": SAY}, ("history",)),
    ("medicalgpt-finetune", {"conversations": SPOKEN}, ("tools", "id")),
    ("medicalgpt-finetune", {"instruction": ASK, "input": "", "output": SAY}, ("input",)),
    ("medicalgpt-finetune:grpo", {"question": ASK, "answer": SAY}, ()),
    ("shibing624-medical", {"instruction": ASK, "input": "", "output": SAY}, ("input",)),
    ("shibing624-medical:pretrain", {"text": SAY}, ("title",)),
    ("shibing624-medical", {"question": ASK, "response_chosen": SAY, "response_rejected": NO}, ("system", "history")),
    ("medalpaca", {"instruction": "Answer this question truthfully", "input": ASK, "output": SAY}, ()),
    (
        "zhongjing-sft",
        {"id": 1, "cate1": "内科", "instruction": ASK, "output": SAY, "history": [["你好", "您好"]]},
        ("cate2", "input"),
    ),
    ("zhongjing-sft", {"instruct": ASK, "output": SAY}, ()),
    ("med-chatglm", {"context": f"问题：{ASK}\n回答: ", "target": SAY}, ()),
    ("med-chatglm", {"instruction": f"<user>: {ASK} <bot>: 多久了？ <user>: 两天。", "output": SAY}, ("input",)),
    ("medical-dialogue-system", {"Turn": 2, "Id": 1, "Dialogue": TURNS}, ("Turn",)),
    ("medical-dialog-hf", {"utterances": TURNS}, ("description",)),
    ("medical-dialog-hf", {"dialogue_id": 1, "dialogue_turns": [
        {"speaker": "病人", "utterance": ASK}, {"speaker": "医生", "utterance": SAY}]}, ("dialogue_id",)),
    ("cmcqa", {"question": ASK, "answer": SAY}, ()),
    ("imcs-v2", {"conversations": [{"from": "user", "value": ASK}, {"from": "assistant", "value": SAY}]}, ("id",)),
    ("imcs-v2:report", {"dialogue": f"患者：{ASK}", "report": {"主诉": "感冒", "诊断": "感冒"}}, ()),
    ("imcs-v2", {"input": ASK, "target": SAY, "task_dataset": "IMCS-V2-MRG", "sample_id": "1"}, ("sample_id",)),
    ("chip-mdcfnpc", {"dialog_id": 1, "dialog_info": DIALOG}, ()),
    ("chip-mdcfnpc:labels", {"dialog_id": 1, "dialog_info": DIALOG}, ()),
    ("meddg", {"history": TURNS[:1], "response": TURNS[1]}, ()),
    ("huatuogpt-sft", {"data": [f"问：{ASK}\n", f"答：{SAY}"]}, ()),
    ("medicalgpt-reward", {"conversations": SPOKEN[:1], "chosen": SAY, "rejected": NO}, ("tools", "system")),
    ("medicalgpt-reward", {"system": "", "history": [], "question": ASK, "chosen": SAY, "rejected": NO},
     ("system", "history")),
    ("zhongjing-rw", {"instruction": ASK, "output": [SAY, "休息。", NO], "history": []}, ("history", "input")),
    ("comparison-gpt4", {"instruction": ASK, "input": "", "output": [SAY, NO]}, ("input",)),
    ("comparison-gpt4", {"instruction": ASK, "input": "", "chosen": SAY, "rejected": NO}, ("input",)),
    ("comparison-gpt4", {"user_input": ASK, "completion_a": SAY, "completion_b": NO}, ()),
    ("comparison-gpt4", {"user_input": ASK, "responses_and_scores": [{"response": NO, "score": 1.0},
                                                                     {"response": SAY, "score": 9.0}]}, ()),
    ("hh-rlhf", {"chosen": f"\n\nHuman: {ASK}\n\nAssistant: {SAY}", "rejected": f"\n\nHuman: {ASK}\n\nAssistant: {NO}"},
     ()),
    ("medqa", {"question": ASK, "answer": "多喝温水", "options": OPTIONS, "answer_idx": "A", "meta_info": "x"},
     ("meta_info", "rationale")),
    ("medqa:usmle-sft", {"question": ASK, "answer": "多喝温水", "options": OPTIONS, "answer_idx": "A"}, ("answer",)),
    ("medmcqa", {"id": "a", "question": ASK, "opa": "水", "opb": "烟", "opc": "酒", "opd": "盐", "cop": 1,
                 "exp": "Ans. is 'a' i.e. 水", "subject_name": "Medicine"}, ("subject_name", "topic_name", "id")),
    ("cmexam", {"Question": ASK, "Options": "A 多喝温水\nB 少睡觉", "Answer": "A", "Explanation": "是。"},
     ("Disease Group",)),
    ("cmexam", {"problem_id": 1, "problem_text": ASK, "choices": list(OPTIONS.values()), "answer": ["a"]}, ()),
    ("cmexam", {"question": ASK, "option": "(A) 多喝温水.\n(B) 少睡觉.", "anwer": "(A)", "source": "x"}, ("source",)),
    ("cmmlu-medical", {"": 0, "Question": ASK, **OPTIONS, "Answer": "A"}, ()),
    ("mmlu-medical", {"question": ASK, "subject": "anatomy", "choices": list(OPTIONS.values()), "answer": 0}, ()),
    ("cmb", {"exam_type": "x", "question": ASK, "answer": "A", "option": OPTIONS, "question_type": "单项选择题"},
     ("explanation", "id", "exam_subject")),
    ("cmb:clin", {"id": 1, "title": "感冒", "description": "两天。", "QA_pairs": [{"question": ASK, "answer": SAY}]},
     ("title",)),
]  # fmt: skip


def lines(rows: list[Fields], end: str = "\n") -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + end for row in rows)


def flat(rows: list[Fields]) -> bool:
    return all(isinstance(value, str | int | None) for row in rows for value in row.values())


def as_csv(rows: list[Fields]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_parquet(rows: list[Fields]) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    file = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


WRITTEN: dict[str, Callable[[list[Fields]], bytes]] = {
    "array.json": lambda rows: json.dumps(rows, ensure_ascii=False).encode(),
    "indented.json": lambda rows: json.dumps(rows, indent=2).encode(),
    "lines.json": lambda rows: lines(rows).encode(),
    "mark.jsonl": lambda rows: b"\xef\xbb\xbf" + lines(rows).encode(),
    "mark-array.json": lambda rows: b"\xef\xbb\xbf" + json.dumps(rows).encode(),
    "windows.jsonl": lambda rows: lines(rows, "\r\n").encode(),
    "blank.jsonl": lambda rows: ("\n\n" + lines(rows, "\n\n")).encode(),
    "unended.jsonl": lambda rows: lines(rows).rstrip().encode(),
    "gb.jsonl": lambda rows: lines(rows).encode("gb18030"),
    "packed.jsonl.gz": lambda rows: gzip.compress(lines(rows).encode()),
    "packed.json.gz": lambda rows: gzip.compress(json.dumps(rows).encode()),
    "table.parquet": as_parquet,
}


def varied(fields: Fields, nullable: tuple[str, ...]) -> Iterator[tuple[str, Fields]]:
    yield "reordered", dict(reversed(fields.items()))
    yield "extra", {"another": {"deep": [1]}, **fields, "note": "x"}
    for name in nullable:
        if name not in fields or isinstance(fields[name], str | list):
            yield f"null {name}", fields | {name: None}


def records(name: str, path: Path) -> list[object]:
    found: list[object] = []
    for outcome in planned(ConvertOptions(name=name, from_path=str(path))).outcomes():
        if isinstance(outcome, BadRecord):
            found.append(str(outcome))
            continue
        for record in outcome:
            answers = record.answers if isinstance(record, Question) else ()
            found.append((type(record).__name__, texts_of(record), answers))
    return found


def same(name: str, expected: list[object], path: Path, content: bytes) -> str:
    """What is wrong with the records of a file, "" where they are the expected ones."""
    path.write_bytes(content)
    try:
        found = records(name, path)
    except UserError as error:
        return f"{path.name}: {error}\n"
    return "" if found == expected else f"{path.name}: {found}\n"


NAMED = pytest.mark.parametrize(("name", "fields", "nullable"), ROWS, ids=[str(number) for number in range(len(ROWS))])


@NAMED
def test_a_file_gives_the_same_records_however_it_is_written(
    tmp_path: Path, name: str, fields: Fields, nullable: tuple[str, ...]
) -> None:
    rows = [fields, fields]
    (tmp_path / "plain.jsonl").write_text(lines(rows), encoding="utf-8")
    expected = records(name, tmp_path / "plain.jsonl")
    assert len(expected) >= 2 and not any(isinstance(one, str) for one in expected)
    wrong = "".join(same(name, expected, tmp_path / file, written(rows)) for file, written in WRITTEN.items())
    if flat(rows):
        wrong += same(name, expected, tmp_path / "table.csv", as_csv(rows).encode("utf-8-sig"))
        wrong += same(name, expected, tmp_path / "gb.csv", as_csv(rows).encode("gb18030"))
    for change, other in varied(fields, nullable):
        wrong += same(name, expected, tmp_path / f"{change}.jsonl", lines([other, other]).encode())
    assert not wrong


JUNK = (None, 5, 0.5, True, "", " ", "x", [], {}, [None], [5], ["x"], [[]], [{}], {"a": 1}, [["x"]], [["x", "y"]])


@NAMED
def test_a_field_of_any_other_type_costs_its_row_at_most(
    tmp_path: Path, name: str, fields: Fields, nullable: tuple[str, ...]
) -> None:
    """No value of a row stops the file, and the rows before and after it stay what they are."""
    (tmp_path / "plain.jsonl").write_text(lines([fields]), encoding="utf-8")
    expected = records(name, tmp_path / "plain.jsonl")
    path = tmp_path / "junk.jsonl"
    assert fields and expected
    for field in fields:
        others = [fields | {field: value} for value in JUNK] + [{key: fields[key] for key in fields if key != field}]
        path.write_text(lines([fields, *others, fields]), encoding="utf-8")
        conversion = planned(ConvertOptions(name=name, from_path=str(path)))
        outcomes = list(conversion.outcomes())
        assert len(outcomes) == len(others) + 2, field
        assert records(name, path)[: len(expected)] == expected == records(name, path)[-len(expected) :], field


def whole(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


BLOCK = "id={}\nhttps://example.org\n\nDescription\n咳嗽两天。\n\nDialogue\n医生：\n多喝水。\n\n"
SENTENCES = [{"id": "Patients", "Sentence": ASK}, {"id": "Doctor", "Sentence": SAY}]
CASE = {
    "self-report": ASK,
    "dialogue": [{"speaker": "医生", "sentence": SAY}],
    "report": [{"主诉": "感冒"}],
    "diagnosis": "x",
}
ABSTRACT = {"QUESTION": "Does it help?", "CONTEXTS": ["We looked."], "LABELS": ["AIM"], "LONG_ANSWER": "It does."}
FILES = [
    ("medical-dialogue-system", "a.txt", BLOCK.format(1) + BLOCK.format(2)),
    ("medical-dialogue-system", "a.json", whole([TURNS, TURNS])),
    ("medical-dialogue-system", "a.json", f"{whole(TURNS)}\n{whole(TURNS)}\n"),
    ("cmcqa", "a.json", whole([[[ASK, "p"], [SAY, "d"]]] * 2)),
    ("imcs-v2", "a.json", whole({"1": CASE, "2": dict(reversed(CASE.items()))})),
    ("imcs-v2:report", "a.json", whole({"1": CASE})),
    ("meddg", "a.json", whole([SENTENCES, SENTENCES])),
    ("pubmedqa", "a.json", whole({"1": ABSTRACT, "2": ABSTRACT | {"final_decision": "yes"}})),
    ("chinese-medical-dialogue", "a.csv", f'department,title,ask,answer\n内科,{ASK},"两天, 三天",{SAY}\n'),
    ("chinese-medical-dialogue", "a.csv", f"answer,title,note,ask,department\n{SAY},{ASK},x,无,内科\n"),
    ("chinese-medical-dialogue:text", "内科.txt", f"头痛,头痛两天怎么办？\n{SAY}\n\n\n头晕,为什么头晕？\n{SAY}\n\n\n"),
    ("webmedqa", "a.txt", f"内科\t1\t5\t{ASK}\t{SAY}\n外科\t1\t6\t{ASK}\t{SAY}\n"),
    ("mmlu-medical", "a.csv", f'"{ASK}",水,烟,酒,盐,A\n"{ASK}",水,烟,酒,盐,B\n'),
    ("cmmlu-medical", "a.csv", f",Question,A,B,C,D,Answer\n0,{ASK},水,烟,酒,盐,B\n"),
    ("cmexam", "a.csv", f'Question,Options,Answer,Explanation\n{ASK},"A 水\nB 烟",A,是\n'),
    ("cmexam", "a.csv", f'Answer,note,Options,Question\nA,x,"A 水\nB 烟",{ASK}\n'),
    ("qizhengpt", "a.csv", f"药品,药品适应症,医学专家标注的适应病症,instruction\n甲,<p>{SAY}</p>,a|b,{ASK}\n"),
    ("medicalgpt-pretrain", "a.txt", f"{SAY}\n\n{SAY}\n"),
    ("medicalgpt-finetune", "a.txt", whole({"问": ASK, "答": SAY}) + "\n"),
    ("llm-pretrain-finetune-sft:refusals", "a.json", f"{whole({'instruction': ASK, 'output': SAY})},\n" * 2),
    ("zysj", "a.txt", "<篇名>书\n书名：书\n作者：人\n\n<目录>一\n<篇名>甲\n内容：水治咳。 \n多喝。 \n"),
]
BYTES: dict[str, Callable[[str], bytes]] = {
    "mark": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "windows": lambda text: text.replace("\n", "\r\n").encode(),
    "gb18030": lambda text: text.encode("gb18030"),
    "blank before": lambda text: ("\n\n" + text).encode(),
    "blank behind": lambda text: (text + "\n\n \n").encode(),
}


@pytest.mark.parametrize(("name", "file", "text"), FILES, ids=[f"{name}-{at}" for at, (name, *_) in enumerate(FILES)])
def test_a_file_of_its_own_kind_gives_the_same_records_however_it_is_written(
    tmp_path: Path, name: str, file: str, text: str
) -> None:
    (tmp_path / file).write_text(text, encoding="utf-8")
    expected = records(name, tmp_path / file)
    assert expected and not any(isinstance(one, str) for one in expected)
    wrong = ""
    for way, written in BYTES.items():
        (tmp_path / way).mkdir()
        wrong += same(name, expected, tmp_path / way / file, written(text))
    if name not in ("zysj", "webmedqa", "chinese-medical-dialogue:text"):  # which come as they are, or as a zip
        wrong += same(name, expected, tmp_path / f"{file}.gz", gzip.compress(text.encode()))
    assert not wrong
