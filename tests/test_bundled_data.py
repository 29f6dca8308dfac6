"""Checks on the bundled sample data (English and Chinese)."""

import collections
import hashlib
import json
import pathlib
import re

import pytest

DATA = pathlib.Path(__file__).resolve().parent.parent / "data"
LANGS = ["en", "zh"]
# A dose: a number followed by a dosing unit. "mg/dL" and the like are laboratory units, not doses.
DOSE = re.compile(r"\d\s*(?:(?:mg|ml|mcg|µg)(?![a-z])|毫克|毫升|微克)(?!\s*[/每])", re.IGNORECASE)
EMAIL = re.compile(r"[\w.+-]+@[\w-]+\.[\w.]+")
# A phone number: six or more digits, also when split by blanks, dots or hyphens.
# The generic emergency numbers (112, 911, 120 and so on) are shorter.
PHONE = re.compile(r"(?<![\d.])\+?\d(?:[ .\-()]{0,2}\d){5,}(?!\d)")
LONG_SENTENCE = {"en": 40, "zh": 20}


def load(name):
    with (DATA / name).open(encoding="utf-8") as f:
        return json.load(f)


def load_lines(name):
    with (DATA / name).open(encoding="utf-8") as f:
        return [json.loads(line) for line in f if line.strip()]


def consultations(lang):
    return load(f"consult_{lang}.json"), load(f"consult_{lang}_heldout.json")


def filled(value):
    return isinstance(value, str) and bool(value.strip())


def texts(record):
    """All the prose of one consultation."""
    yield record["instruction"]
    yield record["input"]
    yield record["output"]
    for turn in record["history"]:
        yield from turn


def sentences(text):
    """Sentences of a text, whatever their number of blanks and capitals."""
    for part in re.split(r"(?<=[.!?])\s+|[。！？；]|\n", text):
        part = re.sub(r"\s+", " ", part).strip().lower()
        if part:
            yield part


def front_matter(path):
    text = path.read_text(encoding="utf-8")
    match = re.match(r"---\n(.*?)\n---\n(.*)", text, re.DOTALL)
    assert match, f"{path.name} has no front matter"
    fields = {}
    for line in match.group(1).split("\n"):
        key, sep, value = line.partition(":")
        if sep:
            fields[key.strip()] = value.strip().strip("\"'")
    return fields, match.group(2)


@pytest.mark.parametrize("lang", LANGS)
def test_counts(lang):
    train, heldout = consultations(lang)
    assert len(train) == 100
    assert len(heldout) == 20
    assert len(load(f"preference_{lang}.json")) == 20
    assert len(load_lines(f"exam_{lang}.jsonl")) == 30
    assert len(list((DATA / "knowledge" / lang).glob("*.md"))) == 12


@pytest.mark.parametrize("lang", LANGS)
def test_consultation_fields(lang):
    train, heldout = consultations(lang)
    for record in train + heldout:
        assert set(record) == {"instruction", "input", "output", "history"}
        assert filled(record["instruction"])
        assert filled(record["output"])
        assert isinstance(record["input"], str)
        assert isinstance(record["history"], list)
        for turn in record["history"]:
            assert isinstance(turn, list) and len(turn) == 2
            assert filled(turn[0]) and filled(turn[1])
    assert any(record["history"] for record in train)
    assert any(not record["history"] for record in train)
    assert any(record["input"] for record in train)


@pytest.mark.parametrize("lang", LANGS)
def test_no_output_twice(lang):
    train, heldout = consultations(lang)
    outputs = [record["output"].strip() for record in train + heldout]
    assert len(set(outputs)) == len(outputs)


@pytest.mark.parametrize("lang", LANGS)
def test_no_shared_long_sentence(lang):
    train, heldout = consultations(lang)
    owner: dict[str, int] = {}
    shared = []
    for number, record in enumerate(train + heldout):
        for sentence in set(sentences(record["output"])):
            if len(sentence) <= LONG_SENTENCE[lang]:
                continue
            if sentence in owner:
                shared.append((owner[sentence], number, sentence))
            owner[sentence] = number
    assert not shared, shared


@pytest.mark.parametrize("lang", LANGS)
def test_heldout_questions_are_new(lang):
    train, heldout = consultations(lang)

    def key(text):
        return re.sub(r"\W+", "", text).lower()

    seen = set()
    for record in train:
        seen.add(key(record["instruction"]))
        seen.update(key(question) for question, _ in record["history"])
    assert heldout and seen
    for record in heldout:
        assert key(record["instruction"]) not in seen
        for question, _ in record["history"]:
            assert key(question) not in seen


@pytest.mark.parametrize("lang", LANGS)
def test_consultations_hold_no_doses_or_contacts(lang):
    train, heldout = consultations(lang)
    assert all(map(texts, train + heldout)) and train
    for record in train + heldout:
        for text in texts(record):
            assert not DOSE.search(text), text
            assert not EMAIL.search(text), text
            assert not PHONE.search(text), text


def test_patterns():
    for text in ("take 5 mg", "服用5mg即可", "喝200毫升水", "0.5 ML now"):
        assert DOSE.search(text)
    for text in ("a level of 95 mg/dL", "a value of 2.9 mmol/L", "3,600 metres"):
        assert not DOSE.search(text)
    assert PHONE.search("call 010-1234567")
    for text in ("call 112 or 911", "拨打120", "150/95", "in 2019"):
        assert not PHONE.search(text)


@pytest.mark.parametrize("lang", LANGS)
def test_exam_questions(lang):
    rows = load_lines(f"exam_{lang}.jsonl")
    assert len({row["id"] for row in rows}) == len(rows)
    assert len({row["question"] for row in rows}) == len(rows)
    for row in rows:
        for field in ("id", "question", "answer", "explanation", "topic"):
            assert filled(row[field]), (row["id"], field)
        options = row["options"]
        assert list(options) in (list("ABCD"), list("ABCDE"))
        assert all(filled(text) for text in options.values())
        assert len(set(options.values())) == len(options)
        assert len(row["answer"]) == 1 and row["answer"] in options


@pytest.mark.parametrize("lang", LANGS)
def test_exam_answers_are_balanced(lang):
    rows = load_lines(f"exam_{lang}.jsonl")
    count = collections.Counter(row["answer"] for row in rows)
    assert set("ABCD") <= set(count)
    assert max(count.values()) <= 12, count


@pytest.mark.parametrize("lang", LANGS)
def test_preference_pairs(lang):
    pairs = load(f"preference_{lang}.json")
    ratios = []
    for pair in pairs:
        assert filled(pair["instruction"])
        assert isinstance(pair["input"], str)
        assert isinstance(pair["history"], list)
        assert isinstance(pair["output"], list) and len(pair["output"]) == 2
        chosen, rejected = pair["output"]
        assert filled(chosen) and filled(rejected)
        assert chosen.strip() != rejected.strip()
        ratios.append(len(chosen) / len(rejected))
    assert 0.7 <= sum(ratios) / len(ratios) <= 1.4
    assert len({pair["instruction"] for pair in pairs}) == len(pairs)


@pytest.mark.parametrize("lang", LANGS)
def test_pretraining_text(lang):
    lines = (DATA / (f"pretrain_{lang}.txt")).read_text(encoding="utf-8").split("\n")
    paragraphs = [line for line in lines if line.strip()]
    assert len(paragraphs) >= 30
    assert len(set(paragraphs)) == len(paragraphs)


@pytest.mark.parametrize("lang", LANGS)
def test_knowledge_articles(lang):
    articles = sorted((DATA / "knowledge" / lang).glob("*.md"))
    assert articles
    for path in articles:
        fields, body = front_matter(path)
        for field in ("title", "language", "source", "source_url"):
            assert filled(fields.get(field, "")), (path.name, field)
        assert fields["language"] == lang
        assert re.match(r"https?://\S+$", fields["source_url"])
        assert "\n## " in body
        assert not EMAIL.search(body)


def test_dataset_info_has_the_checksum_of_each_file():
    """T18: without them, a changed file would be trained on without a word."""
    info = json.loads((DATA / "dataset_info.json").read_text(encoding="utf-8"))
    sums = {name: hashlib.sha1((DATA / entry["file_name"]).read_bytes()).hexdigest() for name, entry in info.items()}
    assert {name: entry["file_sha1"] for name, entry in info.items()} == sums and sums
    assert {entry["licence"] for entry in info.values()} == {"Apache-2.0"}  # model cards list it
