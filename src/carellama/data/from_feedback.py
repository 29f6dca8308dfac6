"""`carellama data from-feedback`: what persons thought of answers, as data for `--stage kto` and `--stage dpo`.

    carellama data from-feedback --output_dir feedback
    carellama train --stage kto --dataset_dir feedback --dataset feedback_kto ...

A thumb makes a row of `feedback_kto`. A corrected answer, the choice of a blind comparison, and two answers to the same
conversation of which one was liked and the other not make pairs of `feedback_pairs`. What contradicts itself is left
out on both sides, what comes twice is written once, and each is counted.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

from carellama.config import environment
from carellama.config.data_commands import FromFeedbackOptions
from carellama.config.reader import parse_options
from carellama.data.write import writer
from carellama.errors import UserError, need
from carellama.files import atomic_write, print_status
from carellama.records import Chat, JSONObject, Message, Pair

KTO, PAIRS = "feedback_kto", "feedback_pairs"
INFO = "dataset_info.json"
ROLES = ("system", "user", "assistant")
Prompt = tuple[Message, ...]


class TrainingData(NamedTuple):
    """Records, and what was left out by reason."""

    judged: list[Chat]
    pairs: list[Pair]
    left_out: Counter[str]


def run(argv: Sequence[str]) -> None:
    """Write the files."""
    (options,) = parse_options((FromFeedbackOptions,), argv, "carellama data from-feedback")
    folder = Path(options.output_dir)
    for name in (KTO, PAIRS):
        if (path := folder / f"{name}.jsonl").exists() and not options.overwrite:
            raise UserError(f"{path} is there already; give --overwrite true to replace it, or another --output_dir")
    bodies = _read(options)
    found = training_data(bodies)
    counts = {KTO: len(found.judged), PAIRS: len(found.pairs)}
    if any(counts.values()):
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder, found)
    print_status(f"feedback: {len(bodies):,}; answers that were judged: {counts[KTO]:,}; pairs: {counts[PAIRS]:,}")
    for reason, count in found.left_out.most_common():
        print_status(f"left out: {count:,} x {reason}")
    for name, what in ((KTO, "kto"), (PAIRS, "dpo")):
        if counts[name]:
            print_status(f"carellama train --stage {what} --dataset_dir {folder} --dataset {name} ...")
    if not any(counts.values()):
        print_status("nothing was written")


def _read(options: FromFeedbackOptions) -> list[JSONObject]:
    need("sqlalchemy", extra="serve", why="the database of feedback")
    from carellama.store.cipher import read_cipher
    from carellama.store.database import open_database
    from carellama.store.feedback import FeedbackStore

    place = options.database or environment.database()
    database = open_database(place, make=False)
    if database is None:
        raise UserError("there is no such database; name by --database the one that carellama web was started with")
    try:
        return list(FeedbackStore(database, read_cipher(options.encryption_key_file)).read())
    finally:
        database.close()


def training_data(bodies: Iterable[JSONObject]) -> TrainingData:
    """Make records of feedback as it is stored."""
    left_out: Counter[str] = Counter()
    judged: dict[tuple[Prompt, str], set[bool]] = {}
    pairs: dict[tuple[Prompt, str, str], str] = {}  # chosen, rejected; and the model
    models: dict[tuple[Prompt, str], str] = {}
    for body in bodies:
        if not _is_feedback(body):
            left_out["a row that is no feedback of this version"] += 1
            continue
        prompt, answer = prompt_of(body), body["answer"]
        if prompt is None:
            left_out["a conversation without a question, or whose turns do not alternate"] += 1
            continue
        if not answer.strip():
            left_out["an empty answer"] += 1
            continue
        models[prompt, answer] = body["model"]
        if body["rating"] is not None:
            marks = judged.setdefault((prompt, answer), set())
            good = body["rating"] == "up"
            left_out["the same judgement of the same answer again"] += good in marks
            marks.add(good)
        for chosen, rejected in ((body["correction"], answer), (answer, body["rejected"])):
            if not chosen.strip() or not rejected.strip():
                continue
            if chosen.strip() == rejected.strip():
                left_out["two answers of a pair that are the same"] += 1
            elif (prompt, chosen, rejected) in pairs:
                left_out["the same pair again"] += 1
            else:
                pairs[prompt, chosen, rejected] = body["model"]
    contradicted = [key for key, marks in judged.items() if len(marks) > 1]
    left_out["an answer that was judged both good and bad"] += len(contradicted)
    for key in contradicted:
        del judged[key]
    for prompt, chosen, rejected in _liked_and_not(judged):
        pairs.setdefault((prompt, chosen, rejected), models[prompt, chosen])
    both = [key for key in pairs if (key[0], key[2], key[1]) in pairs]
    left_out["a pair that was chosen both ways"] += len(both) // 2
    for pair in both:
        del pairs[pair]
    return TrainingData(
        [
            Chat((*prompt, Message("assistant", answer)), meta=_meta(models[prompt, answer]), good=True in marks)
            for (prompt, answer), marks in judged.items()
        ],
        [Pair(prompt, chosen, rejected, meta=_meta(model)) for (prompt, chosen, rejected), model in pairs.items()],
        +left_out,
    )


def _is_feedback(body: object) -> bool:
    """Whether a row has what `serve.web.feedback` stores, each of its type."""
    if not isinstance(body, dict) or body.get("rating", 0) not in (None, "up", "down"):
        return False
    messages = body.get("messages")
    texts = [body.get(name) for name in ("answer", "correction", "rejected", "model")]
    if not isinstance(messages, list) or not all(isinstance(text, str) for text in texts):
        return False
    return all(
        isinstance(one, dict) and one.get("role") in ROLES and isinstance(one.get("content"), str) for one in messages
    )


def prompt_of(body: JSONObject) -> Prompt | None:
    """The messages before the answer; None where they are no [system] (user assistant)* user."""
    prompt = tuple(Message(one["role"], one["content"]) for one in body["messages"])
    turns = prompt[1:] if prompt and prompt[0].role == "system" else prompt
    roles = [one.role for one in turns]
    wanted = ["user", "assistant"] * (len(turns) // 2) + ["user"]
    return prompt if roles == wanted and all(one.content.strip() for one in turns) else None


def _liked_and_not(judged: dict[tuple[Prompt, str], set[bool]]) -> list[tuple[Prompt, str, str]]:
    """Each liked answer with each that was not, of the same conversation."""
    answers: dict[Prompt, dict[bool, list[str]]] = {}
    for (prompt, answer), marks in judged.items():
        answers.setdefault(prompt, {True: [], False: []})[True in marks].append(answer)
    return [(prompt, *pair) for prompt, of in answers.items() for pair in product(of[True], of[False])]


def _meta(model: str) -> dict[str, str]:
    return {"source": "feedback"} | ({"model": model} if model else {})


def _write(folder: Path, found: TrainingData) -> None:
    """Write the files that have records, and name them in dataset_info.json, whose other entries stay."""
    path = folder / INFO
    entries: JSONObject = {}
    if path.exists():
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path} is not JSON ({error}); correct it, or give another --output_dir") from error
    for name, records in ((KTO, found.judged), (PAIRS, found.pairs)):
        if not records:
            (folder / f"{name}.jsonl").unlink(missing_ok=True)  # of an earlier run
            entries.pop(name, None)
            continue
        with writer(folder / f"{name}.jsonl") as write:
            for record in records:
                write(record)
        entries[name] = {"file_name": f"{name}.jsonl", "formatting": "alpaca"}
    with atomic_write(path) as file:
        file.write(json.dumps(entries, ensure_ascii=False, indent=2) + "\n")
