"""`carellama consult eval`: how well consultations go on patient cards, against one-shot answers of the same model.

    carellama consult eval data/consultation/cards_en.jsonl data/consultation/cards_zh.jsonl
    carellama consult eval data/consultation/cards_en.jsonl --by consult one-shot --model_name_or_path smollm2-135m

Each doctor talks to each patient once a seed. What is counted: `score`; the intervals: `tables`. The patients are
scripted, or played by a model, which makes figures of different models hard to compare.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import track

from carellama.config.consultation import ConsultEvalOptions
from carellama.config.engine import ANSWER_OPTIONS
from carellama.config.reader import Groups, Reader, parse_options
from carellama.engine.base import Engine, Sampling
from carellama.errors import UserError
from carellama.evaluate.consultation.advice import Departments, check_terms, load_departments
from carellama.evaluate.consultation.cards import Card, load_cards
from carellama.evaluate.consultation.doctors import DOCTORS, WITH_MODEL, Doctor, Needs
from carellama.evaluate.consultation.patient import ModelPatient, Patient, ScriptedPatient
from carellama.evaluate.consultation.score import MEASURES, consult, score
from carellama.evaluate.consultation.tables import (
    Scored,
    as_json,
    differences_table,
    figures_table,
    groups_of,
    groups_table,
)
from carellama.files import atomic_write, refuse_existing, write_json
from carellama.safety.layer import SafetyLayer
from carellama.text import counted

ASKING, ANSWERING = ("consult", "rules"), ("one-shot", "free")  # differences are of the first to the second
COMMAND = "carellama consult eval FILE..."


@dataclass(frozen=True, slots=True)
class _Setting:
    """What stays the same for all consultations."""

    options: ConsultEvalOptions
    departments: Departments
    patient_engine: Engine | None  # None: the patients are scripted
    sampling: Sampling


def evaluate(argv: Sequence[str]) -> None:
    """Run `carellama consult eval`."""
    groups = (ConsultEvalOptions, *ANSWER_OPTIONS) if _needs_model(argv) else (ConsultEvalOptions,)
    options, *engine_options = parse_options(groups, argv, COMMAND, positional="files")
    cards = _cards(options)
    for output, name in ((options.output, "output"), (options.transcripts, "transcripts")):
        if output is not None:
            refuse_existing(Path(output), map(Path, options.files), overwrite=options.overwrite, option=name)
    safety = SafetyLayer("on")
    departments = load_departments()
    with _engines(engine_options, options) as (engine, patient_engine, sampling):
        needs = Needs(
            safety,
            departments,
            options.max_questions,
            engine,
            sampling,
            options.consult_wording,
            options.consult_reading,
        )
        setting = _Setting(options, departments, patient_engine, sampling)
        parallel = min([one.parallel for one in (engine, patient_engine) if one], default=1)
        by_doctor = {name: _hold_all(name, DOCTORS[name](needs), cards, setting, parallel) for name in options.by}
    _print(by_doctor, cards, options)
    _write(by_doctor, options)


def _needs_model(argv: Sequence[str]) -> bool:
    """Whether the options ask for a model: only then does the command have a model's options."""
    given = dict(Reader((ConsultEvalOptions,), COMMAND).pairs(argv, "files")[0])
    return given.get("patient") == ["model"] or bool({*given.get("by", [])} & set(WITH_MODEL))


def _cards(options: ConsultEvalOptions) -> list[Card]:
    """The cards of all files. An id stands for a card in the tables, so that two files may not share one."""
    found: dict[str, Card] = {}
    for file in options.files:
        for card in _spread(load_cards(Path(file)), options.max_cards):
            if card.id in found:
                raise UserError(f"{file}: the card {card.id!r} is in a file before it; give each card once")
            check_terms(card, file)
            found[card.id] = card
    return list(found.values())


def _spread(cards: Sequence[Card], most: int | None) -> Sequence[Card]:
    """So many of the cards, at equal distances: files are sorted by urgency."""
    if most is None or most >= len(cards):
        return cards
    return [cards[number * len(cards) // most] for number in range(most)]


@contextmanager
def _engines(groups: Groups, options: ConsultEvalOptions) -> Iterator[tuple[Engine | None, Engine | None, Sampling]]:
    """The engines of doctor and patient, and how they answer; None where none is needed. They are closed at the end."""
    if not groups:
        yield None, None, Sampling()
        return
    from carellama.engine.load import choose

    model, data, generating, arguments = groups
    with ExitStack() as stack:
        engine = stack.enter_context(closing(choose(model, data, arguments)))
        patient = engine if options.patient == "model" else None
        if options.patient_model:
            other = replace(model, model_name_or_path=options.patient_model, checkpoint_dir=None)
            patient = stack.enter_context(closing(choose(other, data, arguments)))
        yield engine, patient, Sampling.of(generating)


def _hold_all(name: str, doctor: Doctor, cards: Sequence[Card], setting: _Setting, parallel: int) -> list[Scored]:
    """Let one doctor talk to all patients with all seeds, as many at once as the engine takes."""
    work = [(card, seed) for seed in range(setting.options.seeds) for card in cards]
    pool = ThreadPoolExecutor(max_workers=parallel)
    try:
        done = pool.map(partial(_hold, doctor, setting), work)
        console = Console(stderr=True)
        hidden = not console.is_terminal
        return list(track(done, name, total=len(work), console=console, transient=True, disable=hidden))
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C: what has not begun is not held


def _hold(doctor: Doctor, setting: _Setting, work: tuple[Card, int]) -> Scored:
    card, seed = work
    patient: Patient = ScriptedPatient(card, seed)
    if setting.patient_engine is not None:
        patient = ModelPatient(card, setting.patient_engine, setting.sampling, seed)
    held = consult(card, doctor, patient, setting.options.max_questions, seed)
    return Scored(held, score(held, setting.departments))


def _pairs(by: Sequence[str]) -> list[tuple[str, str]]:
    return [(first, second) for first in ASKING for second in ANSWERING if first in by and second in by]


def _print(by_doctor: dict[str, list[Scored]], cards: Sequence[Card], options: ConsultEvalOptions) -> None:
    patients = "scripted patients" if options.patient == "scripted" else "patients played by a model"
    print(f"{counted(len(cards), 'card')}, {counted(options.seeds, 'seed')}, {patients}, ", end="")
    print(f"at most {counted(options.max_questions, 'question')}")
    print(f"\n{figures_table(by_doctor)}")
    languages = sorted({card.language for card in cards})
    for language in languages if len(languages) > 1 else ():
        group = f"language {language}"
        print(f"{group}\n{figures_table({name: groups_of(scored)[group] for name, scored in by_doctor.items()})}")
    print(groups_table(by_doctor, MEASURES[0]))
    if pairs := _pairs(options.by):
        print(differences_table(by_doctor, pairs))
    for name, scored in by_doctor.items():
        _print_failures(name, scored)
        _print_worst(name, scored, options.list_worst)


def _print_failures(name: str, scored: Sequence[Scored]) -> None:
    """Replies of the model that the interview could not use, where the rules stood in."""
    failed = [failure for one in scored for failure in one.held.failures]
    if failed:
        print(
            f"{name}: the rules stood in for {counted(len(failed), 'reply', 'replies')} of the model; e.g. {failed[0]}"
        )


def _print_worst(name: str, scored: Sequence[Scored], most: int) -> None:
    """The cards of which the fewest key facts became known."""
    by_card: dict[str, list[float]] = {}
    for one in scored:
        by_card.setdefault(one.held.card.id, []).append(one.score.key_facts)
    shares = sorted((sum(values) / len(values), card) for card, values in by_card.items())
    if most:
        print(f"{name}: fewest key facts: " + ", ".join(f"{card} {share:.0%}" for share, card in shares[:most]))


def _write(by_doctor: dict[str, list[Scored]], options: ConsultEvalOptions) -> None:
    if options.output:
        report = {
            "files": options.files,
            "patient": options.patient_model or options.patient,
            "seeds": options.seeds,
            "max_questions": options.max_questions,
            **as_json(by_doctor, _pairs(options.by)),
        }
        write_json(Path(options.output), report)
        print(f"figures and scores: {options.output}")
    if options.transcripts:
        with atomic_write(Path(options.transcripts)) as file:
            for name, scored in by_doctor.items():
                for one in scored:
                    file.write(json.dumps(_transcript(name, one), ensure_ascii=False) + "\n")
        print(f"transcripts: {options.transcripts}")


def _transcript(doctor: str, scored: Scored) -> dict[str, object]:
    """A consultation as anyone can read it: what was said, what the patient did not tell, how it was scored."""
    held, card = scored.held, scored.held.card
    exchanges = [{"doctor": one.question, "slot": one.slot, "patient": one.answer.text} for one in held.exchanges]
    untold = [
        {"slot": fact.slot, "answer": fact.answer}
        for number, fact in enumerate(card.facts)
        if fact.key and held.fact_shares.get(number, 0.0) < 1
    ]
    return {
        "card": card.id,
        "doctor": doctor,
        "seed": held.seed,
        "opening": card.opening,
        "exchanges": exchanges,
        "advice": held.said,
        "urgency": held.advice.urgency,
        "departments": list(held.advice.departments),
        "right": {"urgency": card.urgency, "department": card.department},
        "key_facts_not_told": untold,
        "unsafe": [card.unsafe[number] for number in scored.score.unsafe],
        "failures": list(held.failures),
        "score": scored.score.as_json(),
    }
