"""Layouts of one question with one answer, and of the conversations that lie among such files.

    LAYOUTS["text-answer"].convert(Path("medical_sft.json"))

What belongs together by ids (cMedQA2, webMedQA) is in `candidates.py`, PubMedQA in `pubmedqa.py`. Nothing is made
shorter or better here but what a set is known to have got by mistake: wrappers of prompts, tags, names put in.
"""

from __future__ import annotations

import csv
import html
import itertools
import re
from collections.abc import Iterator
from dataclasses import replace
from io import TextIOWrapper
from pathlib import Path
from typing import BinaryIO, Literal, cast

from carellama.data.catalogue.layout import Layout, first_row, make_chat, meta_of, spoken, text_of, value_of
from carellama.data.catalogue.layouts import candidates, pubmedqa
from carellama.data.convert import BadRecord, Columns, convert
from carellama.data.file_bytes import open_bytes
from carellama.data.readers import BadRow, Row, encoding_of, kind_of, rows
from carellama.data.spreadsheets import SUFFIXES as SHEETS
from carellama.errors import DataError
from carellama.records import Chat, Message, Place, Record

PROMPT_WRAP = re.compile(r"^<s>\s*问：\s*(.*?)\s*答：\s*$", re.DOTALL)
TAGS = re.compile(
    r"</?(?:p|br|div|span|a|b|strong|font|img|em|i|u|li|ul|ol|h[1-6]|table|tr|td)\b[^<>]*>", re.IGNORECASE
)
NOTHING_ASKED = ("无", "无。", "暂无", "没有", "如题", "同上", "")
DEPARTMENT_PROMPT = "现在你是一个{}医生，请根据患者的问题给出建议："
DOCTOR_PROMPT = "If you are a doctor, please answer the medical questions based on the patient's description."
QUESTION_MARK = re.compile(r"^\s*(?:问题|问)\s*[:：]\s*")
ANSWER_MARK = re.compile(r"\s*(?:回答|答)\s*[:：]\s*$")
COLONS = re.compile(r"^[\s:：]+")
SPEAKERS = re.compile(r"<(user|bot)>\s*[:：]\s*")
FEWEST_BLOCKS = 2  # one may be any two lines
LINK = re.compile(r"^\s*https?://\S+\s*$")
# "Chat Doctor" where it stands for the name of a site or a doctor: in a greeting, or in thanks and signatures
GREETED = re.compile(
    r"\b(?:(?:hi|hello|dear)[\s,.!]+)?(?:and\s+)?(?:welcome\s+(?:back\s+)?to|(?:thanks?|thank you)\s+(?:you\s+)?for\s+"
    r"(?:using|choosing|visiting|consulting|contacting|writing\s+to|posting\s+(?:on|in|at)|asking\s+(?:on|in|at))(?:\s+in)?)"
    r"\s+(?:the\s+)?chat\s?doctor\b(?:\s+(?:forum|site|website|com))?[\s.,!:;]*",
    re.IGNORECASE,
)
SIGNED = re.compile(
    r"[\s,.]*\b(?:(?:with|best|kind|warm)\s+)*(?:regards|sincerely|thanks|thank you|wishes)"
    r"[\s,.:\-]+(?:dr\.?\s*)?chat\s?doctor[\s.,!]*$",
    re.IGNORECASE,
)
COLUMNS = Columns(history="history", system="system")
CHAT_DOCTOR = re.compile(r"chat\s?doctor", re.IGNORECASE)


def _chat(row: Row, question: str, answer: str, **about: object) -> Chat:
    if LINK.match(answer):
        raise BadRecord(row.place, "the answer is a link")
    return make_chat(row.place, question, answer, **about)


def _strip_prompt(row: Row, column: str) -> str:
    """A question without the prompt of a model around it."""
    text = text_of(row, column)
    wrapped = PROMPT_WRAP.match(text)
    if wrapped and not wrapped[1].strip():
        raise BadRecord(row.place, f"column {column!r} is empty")
    return wrapped[1].strip() if wrapped else text


def _query_response(row: Row) -> Chat:
    """{query, response}: ChatMed, ShenNong. Their test files keep the model's prompt around the query."""
    return _chat(row, _strip_prompt(row, "query"), text_of(row, "response"))


def _instruction(row: Row) -> Record:
    """{instruction, input, output, history, system}: the common shape; `instruct` for instruction (Zhongjing).

    An instruction that is a conversation, "<user>: ... <bot>: ... <user>: ...", becomes one (liver_cancer.json).
    """
    asked = "instruction" if "instruction" in row.fields else "instruct"
    instruction, answer = text_of(row, asked, required=False), text_of(row, "output")
    question = "\n".join(part for part in (instruction, text_of(row, "input", required=False)) if part)
    if marks := list(SPEAKERS.finditer(question)):
        return _marked_turns(row, question, marks, answer)
    if not question:
        raise BadRecord(row.place, "empty question")
    fields = {name: row.fields[name] for name in ("history", "system") if row.fields.get(name)}
    made = convert(Row({**fields, "instruction": question, "output": answer}, row.place), COLUMNS, "alpaca")
    assert isinstance(made, Chat)
    about = {"id": "id", "category": "cate1", "subcategory": "cate2"}
    return replace(made, meta=meta_of(**{key: row.fields.get(column) for key, column in about.items()}))


def _marked_turns(row: Row, text: str, marks: list[re.Match[str]], answer: str) -> Chat:
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    turns: list[tuple[Literal["user", "assistant"], str]] = [
        ("user" if mark[1] == "user" else "assistant", text[mark.end() : end])
        for mark, end in zip(marks, ends, strict=True)
    ]
    turns = [turn for turn in turns if turn[1].strip()]
    if not turns or turns[-1][0] != "user":
        raise BadRecord(row.place, "the conversation does not end with the user")
    before = text[: marks[0].start()].strip()  # what the conversation is about
    system = (Message("system", before),) if before else ()
    return Chat((*system, *spoken(row.place, [*turns, ("assistant", answer)])), row.place)


def _constant_doctor(row: Row) -> Record:
    """{instruction (always the same), input, output}: HealthCareMagic, GenMedGPT. "Chat Doctor" as in `undoctored`."""
    made = _instruction(row)
    assert isinstance(made, Chat)
    return undoctored(made)


def _icliniq(row: Row) -> Chat:
    """{input, answer_icliniq, answer_chatgpt, answer_chatdoctor}: asked as HealthCareMagic asks."""
    question = f"{DOCTOR_PROMPT}\n{text_of(row, 'input')}"
    return undoctored(_chat(row, question, text_of(row, "answer_icliniq")))


def undoctored(chat: Chat) -> Chat:
    """Take "Chat Doctor" out of greetings and signatures of an answer, where it replaced the name of a site or doctor.

    meta says `chat_doctor`: "removed"; or "kept" where it stands elsewhere in the text, which is left as it is.
    """
    answer = chat.response
    if not CHAT_DOCTOR.search(answer):
        return chat
    plain = SIGNED.sub("", GREETED.sub("", answer)).strip()
    if not plain:
        raise BadRecord(chat.place, "the answer is only a greeting")
    said = "kept" if CHAT_DOCTOR.search(plain) else "removed"
    return replace(chat, messages=(*chat.prompt, Message("assistant", plain)), meta={**chat.meta, "chat_doctor": said})


def _text_answer(row: Row) -> Chat:
    """{text, answer}: medical_sft.json, kuake_sft.json, llama_sft.json."""
    return _chat(row, text_of(row, "text"), text_of(row, "answer"))


def _context_target(row: Row) -> Chat:
    """{context "问题：… 回答: " in two lines, target}: Med-ChatGLM."""
    question = ANSWER_MARK.sub("", QUESTION_MARK.sub("", text_of(row, "context"))).strip()
    if not question:
        raise BadRecord(row.place, "column 'context' holds no question")
    return _chat(row, question, text_of(row, "target"))


def first_text(row: Row, column: str) -> str:
    """The first text of a column that is a text, a list of texts, or a list of lists of texts (paraphrases)."""
    value: object = row.fields.get(column)
    while isinstance(value, list):
        value = next((one for one in value if one not in (None, "", [], [""])), "")
    return text_of(Row({**row.fields, column: value}, row.place), column)


def _question_answer(row: Row) -> Chat:
    """{question, answer}, {questions, answers}, {instruction: [q], output: [a]}, {问, 答}: Huatuo-26M and others."""
    names = (("questions", "answers"), ("question", "answer"), ("问", "答"), ("instruction", "output"))
    columns = next((pair for pair in names if pair[0] in row.fields), names[0])
    lists = [row.fields.get(name) for name in columns]
    flat = [len(one) for one in lists if isinstance(one, list) and all(isinstance(text, str) for text in one)]
    if len(flat) == 2 and flat[0] == flat[1] > 1:
        raise BadRecord(row.place, "as many answers as questions in one row: write a row for each")
    question, answer = (COLONS.sub("", first_text(row, name)) for name in columns)
    if not question or not answer:
        raise BadRecord(row.place, f"column {columns[bool(question)]!r} is empty")
    about = {"id": "id", "score": "score", "department": "label", "diseases": "related_diseases"}
    return _chat(row, question, answer, **{key: row.fields.get(column) for key, column in about.items()})


def _lists(path: Path) -> bool:
    first = first_row(path)
    return first is not None and isinstance(first.fields.get("instruction"), list) and "output" in first.fields


def _department(row: Row) -> Chat:
    """{department, title, ask (or question), answer}: Chinese-medical-dialogue-data, and the rows of its .txt files."""
    for text in row.fields.values():
        if isinstance(text, str) and "\ufffd" in text:
            raise BadRecord(row.place, "bytes that are not GB18030")
    department, title = (untagged(text_of(row, name, required=False)) for name in ("department", "title"))
    ask = untagged(text_of(row, "ask" if "ask" in row.fields else "question", required=False))
    asked = [title] if ask == title or ask in NOTHING_ASKED else [title, ask]
    question = "，".join(part for part in asked if part and part not in NOTHING_ASKED)
    answer = untagged(text_of(row, "answer"))
    if not question or not answer:
        raise BadRecord(row.place, "empty question" if not question else "column 'answer' is empty")
    if department:
        question = f"{DEPARTMENT_PROMPT.format(department)}\n{question}"
    return _chat(row, question, answer, department=department, title=title)


def untagged(text: str) -> str:
    """Text without the tags and entities of HTML."""
    return html.unescape(TAGS.sub("", text)).replace("\xa0", " ").strip()


def _as_text(path: Path, encoding: str, newline: str | None = None) -> TextIOWrapper:
    """Open a text, decompressed; bytes that are not of the encoding become U+FFFD."""
    return TextIOWrapper(cast("BinaryIO", open_bytes(path)), encoding, "replace", newline)


def _gb_rows(path: Path) -> Iterator[Row | BadRow]:
    """The rows of a CSV file; one with bytes of no encoding is read as GB18030, its bad bytes as U+FFFD."""
    if path.suffix.lower() not in (".csv", ".tsv"):
        yield from rows(path)
        return
    try:
        encoding_of(path)
    except DataError:
        with _as_text(path, "gb18030", newline="") as text:
            reader = csv.DictReader(text)
            before = 1
            for fields in reader:
                place, before = Place(str(path), before + 1), reader.line_num
                whole = None not in fields and None not in fields.values()
                yield Row(fields, place) if whole else BadRow(place, "wrong number of fields")
        return
    yield from rows(path)


def _blocks(path: Path) -> Iterator[Row | BadRow]:
    """内科.txt: "title,question" in one line, the answer in the next, then two empty lines."""
    block: list[str] = []
    start = 1
    try:
        encoding = encoding_of(path)
    except DataError:
        encoding = "gb18030"
    with _as_text(path, encoding) as text:
        for number, line in enumerate(text, 1):
            if line := line.strip():
                start = start if block else number
                block.append(line)
            elif block:
                yield _block(block, Place(str(path), start))
                block = []
        if block:
            yield _block(block, Place(str(path), start))


def _block(lines: list[str], place: Place) -> Row | BadRow:
    title, _, ask = lines[0].partition(",")
    if len(lines) == 1:
        return BadRow(place, "a question without an answer")
    return Row({"title": title, "ask": ask, "answer": "\n".join(lines[1:])}, place)


def _is_blocks(path: Path) -> bool:
    """Two lines and an empty one, the first of them with a comma and a question, several times over."""
    if kind_of(path) != "txt":
        return False
    found = []
    for row in _blocks(path):
        found.append(isinstance(row, Row) and bool(row.fields["ask"]) and "\n" not in row.fields["answer"])
        if len(found) == 20:
            break
    return len(found) >= FEWEST_BLOCKS and sum(found) >= 0.9 * len(found) and not _single_spaced(path)


def _single_spaced(path: Path) -> bool:
    with _as_text(path, "utf-8") as text:
        stripped = itertools.dropwhile(lambda line: not line, (line.strip() for line in text))
        lines = list(itertools.islice(stripped, 4))
    return bool(len(lines) == 4 and (lines[2] or lines[3]))


def _turns(row: Row) -> Chat:
    """{conversations: [{from: human | gpt | system, value}]}; calls of tools are nothing to learn medicine from."""
    turns = value_of(row, "conversations")
    roles = {turn.get("from") for turn in turns if isinstance(turn, dict)} if isinstance(turns, list) else set()
    if roles & {"function_call", "observation"} or row.fields.get("tools"):
        raise BadRecord(row.place, "a call of a tool")
    made = convert(row, Columns(messages="conversations"), "sharegpt")
    if not isinstance(made, Chat):
        raise BadRecord(row.place, "a preference pair, not a conversation")
    return made


def _indication(row: Row) -> Chat:
    """{药品, 药品适应症 (HTML), 医学专家标注的适应病症 "a|b", instruction}: QiZhenGPT's evaluation of 94 drugs."""
    answer = untagged(text_of(row, "药品适应症"))
    if not answer:
        raise BadRecord(row.place, "column '药品适应症' is empty")
    about = {"drug": row.fields["药品"], "diseases": row.fields.get("医学专家标注的适应病症")}
    return _chat(row, text_of(row, "instruction"), answer, **about)


def _answered_sheet(row: Row) -> Chat:
    """A sheet of 问题 and an answer of each model, a column each (ShenNong): the last one, that of the makers."""
    *_, model = (name for name in row.fields if name != "问题")
    return _chat(row, _strip_prompt(row, "问题"), text_of(row, model), model=model)


def _is_answered_sheet(path: Path) -> bool:
    first = first_row(path) if path.suffix.lower() in SHEETS else None
    return first is not None and "问题" in first.fields and len(first.fields) > 1


LAYOUTS: dict[str, Layout] = {
    "answered-sheet": Layout("sft", record=_answered_sheet, recognises=_is_answered_sheet),
    "query-response": Layout("sft", ("query", "response"), _query_response),
    "icliniq": Layout("sft", ("input", "answer_icliniq"), _icliniq),
    "text-answer": Layout("sft", ("text", "answer"), _text_answer),
    "context-target": Layout("sft", ("context", "target"), _context_target),
    "question-answer-lists": Layout("sft", ("instruction", "output"), _question_answer, recognises=_lists),
    "instruction": Layout("sft", ("instruction", "output"), _instruction),
    "instruct": Layout("sft", ("instruct", "output"), _instruction),
    "doctor-instruction": Layout("sft", ("instruction", "input", "output"), _constant_doctor),
    "drug-indications": Layout("sft", ("药品", "药品适应症", "instruction"), _indication),
    "departments": Layout("sft", ("department", "title", "ask", "answer"), _department, rows=_gb_rows),
    "departments-question": Layout("sft", ("department", "title", "question", "answer"), _department, rows=_gb_rows),
    "department-blocks": Layout("sft", ("title", "ask", "answer"), _department, rows=_blocks, recognises=_is_blocks),
    **candidates.LAYOUTS,
    **pubmedqa.LAYOUTS,
    "questions-answers": Layout("sft", ("questions", "answers"), _question_answer),
    "question-answer": Layout("sft", ("question", "answer"), _question_answer),
    "wen-da": Layout("sft", ("问", "答"), _question_answer),
    "turns": Layout("sft", ("conversations",), _turns),
}
