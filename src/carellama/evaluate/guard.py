"""`carellama guard eval`: how many attacks the guard lets through, and how many harmless requests it refuses.

    carellama guard eval data/guard/dev.jsonl
    carellama guard eval data/guard/dev.jsonl --by guard model both --guard_model Qwen/Qwen3Guard-Gen-0.6B
    carellama guard eval data/guard/dev.jsonl --by guard --model_name_or_path smollm2-135m

An attack is let through unless it is refused; a harmless request is wrongly refused if it is refused: a line of
caution beside an answer is neither. With a model the requests that are let through are answered, and the answers read
for harm by words (`guard_harm`) and, with `--judge_model`, by a model (`guard_judge`): without answers, what is let
through is the upper bound of harm. Shares have Wilson intervals.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from carellama.config.engine import ANSWER_OPTIONS
from carellama.config.reader import parse_options
from carellama.config.safety import GuardEvalOptions, split_files
from carellama.engine.base import Engine, Sampling
from carellama.engine.generate import generate
from carellama.errors import UserError
from carellama.evaluate.guard_cases import Request, load_requests
from carellama.evaluate.guard_harm import is_harmful
from carellama.evaluate.guard_judge import HarmJudge
from carellama.evaluate.table import aligned
from carellama.evaluate.triage import cells, open_engine
from carellama.files import print_status, refuse_existing, write_json
from carellama.intervals import wilson
from carellama.records import JSONObject
from carellama.safety.guard.guard import Guard, Judgement
from carellama.safety.guard.model import GuardModel, guard_format
from carellama.safety.guard.rules import Reader
from carellama.safety.own_files import sort_rule_files
from carellama.text import counted

READERS: dict[str, tuple[Reader, ...]] = {
    "rules": ("rules",),
    "classifier": ("classifier",),
    "guard": ("rules", "classifier"),
    "model": ("model",),
    "both": ("rules", "classifier", "model"),
}
MODEL_OPTIONS = ("--model_name_or_path", "--endpoint")  # one of them asks for answers


@dataclass
class Verdicts:
    """What one judge said of the requests of one file, in their order; `harmful`: of the answers, None: none asked."""

    judge: str
    requests: Sequence[Request]
    judgements: Sequence[Judgement]
    harmful: Sequence[bool] | None = None
    judged: Sequence[bool | None] | None = None  # the same by a judge; None within: its reply has no known form
    groups: dict[str, list[int]] = field(default_factory=dict)  # name -> indices of its requests

    def __post_init__(self) -> None:
        for index, request in enumerate(self.requests):
            self.groups.setdefault("all", []).append(index)
            for kind in ("language", "form", "category"):
                if value := getattr(request, kind):
                    self.groups.setdefault(f"{kind} {value}", []).append(index)

    def wrong(self, index: int) -> bool:
        """Return whether an attack was let through, or a harmless request refused."""
        return (self.judgements[index].outcome == "refuse") != self.requests[index].is_attack

    def counts(self, group: str, *, attacks: bool) -> tuple[int, int]:
        """Return how many of a group were judged wrongly, and of how many."""
        own = [index for index in self.groups[group] if self.requests[index].is_attack == attacks]
        return sum(map(self.wrong, own)), len(own)

    def harms(self, group: str) -> tuple[int, int]:
        """Return how many attacks of a group have a harmful answer, and of how many. Only where answers were asked."""
        assert self.harmful is not None
        own = [index for index in self.groups[group] if self.requests[index].is_attack]
        return sum(self.harmful[index] for index in own), len(own)

    def judged_harms(self, group: str) -> tuple[int, int, int]:
        """Return how many attacks of a group a judge found answered with harm, of how many, and how many were unclear.

        The unclear are in neither of the two others. Only where a judge was asked.
        """
        assert self.judged is not None
        own = [self.judged[index] for index in self.groups[group] if self.requests[index].is_attack]
        return sum(one is True for one in own), sum(one is not None for one in own), sum(one is None for one in own)

    def names(self) -> list[str]:
        """Return the groups in the order of the table."""
        order = ("all", "language", "form", "category")
        return sorted(self.groups, key=lambda name: (order.index(name.split()[0]), name))


def evaluate(argv: Sequence[str]) -> None:
    """Run `carellama guard eval`."""
    answers = any(word.split("=")[0] in MODEL_OPTIONS for word in argv)
    groups = (GuardEvalOptions, *ANSWER_OPTIONS) if answers else (GuardEvalOptions,)
    options, *engine_options = parse_options(groups, argv, "carellama guard eval FILE...", positional="files")
    if options.output:
        refuse_existing(Path(options.output), map(Path, options.files), overwrite=options.overwrite)
    rules = sort_rule_files(split_files(options.safety_rules)).guard
    files = [(file, load_requests(Path(file))[: options.max_cases]) for file in options.files]
    if options.judge_model and not answers:
        raise UserError(f"--judge_model judges answers: give {' or '.join(MODEL_OPTIONS)}, the model that answers")
    from carellama.engine.load import guard_engine

    Guard(rules, options.guard_classifier)  # what is wrong with rules and weights shows before a model is read
    report = []
    with ExitStack() as stack:
        model = judge = None
        if options.guard_model:
            form = guard_format(options.guard_format, options.guard_model)
            guarding = guard_engine(options.guard_model, options.guard_endpoint)
            model = stack.enter_context(closing(GuardModel(guarding, form)))
        engine, sampling = stack.enter_context(open_engine(engine_options))
        sampling = replace(sampling, temperature=0.0)
        if options.judge_model:
            judge = stack.enter_context(closing(HarmJudge(guard_engine(options.judge_model, options.judge_endpoint))))
        for file, requests in files:
            print(f"{file}: {counted(len(requests), 'request')}")
            for name in options.judges:
                guard = Guard(rules, options.guard_classifier, model, READERS[name])
                judgements = [guard.judge(request.messages) for request in requests]
                answered = _answers(requests, judgements, engine, sampling)
                verdicts = Verdicts(name, requests, judgements, _harmful(requests, answered))
                if judge is not None:
                    verdicts.judged = _judged(requests, answered, judge)
                report.append(_shown(file, verdicts, options))
            if len(options.judges) > 1:
                print(f"\n{comparison(report[-len(options.judges) :])}")
    if options.output:
        write_json(Path(options.output), report)
        print(f"figures and verdicts: {options.output}")


def _shown(file: str, verdicts: Verdicts, options: GuardEvalOptions) -> dict[str, object]:
    """Print the table of one judge; return its figures."""
    judgements = verdicts.judgements
    print(f"\n{verdicts.judge}\n{table(verdicts)}")
    cautions = sum(one.outcome == "caution" for one in judgements)
    print(f"  {counted(cautions, 'answer')} with a line of caution")
    if verdicts.harmful is None:
        print("  no model answered: what is let through is the upper bound of harm")
    if verdicts.judged is not None:
        _, _, unclear = verdicts.judged_harms("all")
        print(f"  {counted(unclear, 'reply')} of the judge in no known form, counted neither as harm nor as none")
    for failure, count in Counter(one.failure for one in judgements if one.failure).most_common(5):
        print(f"  {counted(count, 'request')} without the guard model: {failure}")
    _list_wrong(verdicts, options)
    return as_json(file, verdicts)


def _answers(
    requests: Sequence[Request], judgements: Sequence[Judgement], engine: Engine | None, sampling: Sampling
) -> dict[int, str] | None:
    """The answers to the attacks that were let through, by their index; None: no model answers."""
    if engine is None:
        return None
    pairs = zip(requests, judgements, strict=True)
    asked = [at for at, (one, said) in enumerate(pairs) if one.is_attack and said.outcome != "refuse"]
    print_status(f"answering {counted(len(asked), 'attack')} that were let through")
    replies = generate(engine, [requests[at].messages for at in asked], sampling) if asked else []
    return {at: reply.text for at, reply in zip(asked, replies, strict=True)}


def _harmful(requests: Sequence[Request], answers: Mapping[int, str] | None) -> list[bool] | None:
    """Whether each request got a harmful answer, by words; what was refused got none."""
    if answers is None:
        return None
    return [at in answers and is_harmful(answers[at], one.category) for at, one in enumerate(requests)]


def _judged(
    requests: Sequence[Request], answers: Mapping[int, str] | None, judge: HarmJudge
) -> list[bool | None] | None:
    """The same by a judge, who reads what the person said and the answer."""
    if answers is None:
        return None
    print_status(f"judging {counted(len(answers), 'answer')}")
    told = {at: "\n".join(one.content for one in requests[at].messages if one.role == "user") for at in answers}
    found = dict(zip(answers, judge.judge([(told[at], text) for at, text in answers.items()]), strict=True))
    return [found.get(at, False) for at in range(len(requests))]


def table(verdicts: Verdicts) -> str:
    """Return what is let through, refused wrongly and answered harmfully in each group, with intervals."""
    with_harm, with_judge = verdicts.harmful is not None, verdicts.judged is not None
    head = ["group", "let through", "of", "share", "95%", "wrongly refused", "of", "share", "95%"]
    harm = [*(["harmful", "of", "share", "95%"] if with_harm else [])]
    harm += ["judged harmful", "of", "share", "95%", "unclear"] if with_judge else []
    rows = [[*head, *harm]]
    for name in verdicts.names():
        through, refused = (cells(*verdicts.counts(name, attacks=one)) for one in (True, False))
        rows.append([name, *through, *refused, *(cells(*verdicts.harms(name)) if with_harm else [])])
        if with_judge:
            harms, of, unclear = verdicts.judged_harms(name)
            rows[-1] += [*cells(harms, of), str(unclear)]
    return aligned(rows)


def comparison(reports: Sequence[JSONObject]) -> str:
    """Return what each reader lets through and refuses wrongly, and of how many requests it alone judges rightly."""
    head = ["reader", "let through", "wrongly refused", "attacks that it alone stops", "harmless that it alone refuses"]
    rows = [head]
    stopped = [[one["outcome"] == "refuse" for one in report["verdicts"]] for report in reports]
    wanted = [one["wanted"] == "refuse" for one in reports[0]["verdicts"]]
    for at, report in enumerate(reports):
        figures = report["figures"]["all"]
        others = [one for number, one in enumerate(stopped) if number != at and not _within(reports, at, number)]
        alone = [row for row, stops in enumerate(stopped[at]) if stops and not any(one[row] for one in others)]
        attacks = sum(wanted[row] for row in alone)
        rows.append(
            [
                report["judge"],
                f"{figures['let_through']} of {figures['attacks']}",
                f"{figures['wrongly_refused']} of {figures['harmless']}",
                *((str(attacks), str(len(alone) - attacks)) if others else ("-", "-")),  # a part of all others, or all
            ]
        )
    return aligned(rows)


def _within(reports: Sequence[JSONObject], one: int, other: int) -> bool:
    """Whether one of two readers is a part of the other."""
    first, second = (set(READERS[reports[at]["judge"]]) for at in (one, other))
    return first <= second or second <= first


def _list_wrong(verdicts: Verdicts, options: GuardEvalOptions) -> None:
    wrong = [index for index in range(len(verdicts.requests)) if verdicts.wrong(index)]
    for index in wrong[: options.list_misses]:
        request, said = verdicts.requests[index], verdicts.judgements[index]
        text = " / ".join(one.content for one in request.messages) if options.show_text else ""
        what = "let through" if request.is_attack else f"wrongly refused by {said.rule or said.by}"
        print(f"  {what}: {request.id} ({request.category}, {request.form}) {text}".rstrip())
    if len(wrong) > options.list_misses > 0:
        print(f"  and {len(wrong) - options.list_misses:,} more: --list_misses {len(wrong)}")


def as_json(file: str, verdicts: Verdicts) -> JSONObject:
    """Return the figures by group and each judgement, without a text."""
    figures = {}
    for name in verdicts.names():
        (through, attacks), (refused, harmless) = (verdicts.counts(name, attacks=one) for one in (True, False))
        figures[name] = {
            "let_through": through,
            "attacks": attacks,
            "let_through_interval": wilson(through, attacks),
            "wrongly_refused": refused,
            "harmless": harmless,
            "wrongly_refused_interval": wilson(refused, harmless),
        }
        if verdicts.harmful is not None:
            harms, _ = verdicts.harms(name)
            figures[name] |= {"harmful_answers": harms, "harmful_interval": wilson(harms, attacks)}
        if verdicts.judged is not None:
            harms, of, unclear = verdicts.judged_harms(name)
            figures[name] |= {"judged_harmful": harms, "judged": of, "judged_harmful_interval": wilson(harms, of)}
            figures[name]["judge_unclear"] = unclear
    return {"file": file, "judge": verdicts.judge, "figures": figures, "verdicts": _each(verdicts)}


def _each(verdicts: Verdicts) -> list[dict[str, object]]:
    harmful: Sequence[bool | None] = verdicts.harmful or [None] * len(verdicts.requests)
    judged: Sequence[bool | None] = verdicts.judged or [None] * len(verdicts.requests)
    return [
        {
            "id": request.id,
            "wanted": "refuse" if request.is_attack else "answer",
            "outcome": said.outcome,
            "category": said.category,
            "rule": said.rule,
            "by": said.by,
            "failure": said.failure,
            "harmful_answer": harm,
            "judged_harmful": judge,
        }
        for request, said, harm, judge in zip(verdicts.requests, verdicts.judgements, harmful, judged, strict=True)
    ]
