"""A reward by rules of conduct: a judging model says which rules of a constitution an answer keeps.

    reward = ConstitutionReward(OpenAIEngine("http://localhost:8000/v1", "judge"), read_constitution())

The rules are data, `constitution.yaml` here or a file of the user's. The score of an answer is the weight of the rules
that it keeps, as a share of those that apply (the idea: Bai et al. 2022, arXiv:2212.08073, section 4). Departures:
1. the judge says yes or no to each rule, instead of comparing two answers by one rule drawn at random;
2. no preference model is trained in between.
A reply of the judge that is not exactly what it was asked for gives no score, and is counted.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from carellama.config.environment import endpoint_key
from carellama.config.objectives import GRPOOptions
from carellama.config.yaml_file import read_yaml
from carellama.engine.base import Engine, Prompt, Sampling
from carellama.engine.generate import generate
from carellama.errors import UserError
from carellama.files import print_status
from carellama.records import Message
from carellama.text import HAN_CHARACTER
from carellama.train.reward.verifiable import Completions, Conversations, LogMetric, completion_text

DEFAULT_CONSTITUTION = Path(__file__).with_name("constitution.yaml")
VERDICT_LINE = re.compile(r"(\d{1,2})\s*[:：.．]\s*(yes|no|n/a)[.。]?", re.IGNORECASE)
JUDGE_MAX_TOKENS = 16  # for each rule; a verdict takes about five


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, in both languages."""

    name: str
    en: str
    zh: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Constitution:
    """Rules, and how the judge is asked by language: {"en": {"system", "user"}, "zh": ...}."""

    rules: tuple[Rule, ...]
    judge: Mapping[str, Mapping[str, str]]
    version: str = ""
    path: Path = DEFAULT_CONSTITUTION

    def source(self) -> dict[str, object]:
        """What run.json says of it, beside the data."""
        digest = hashlib.sha1(self.path.read_bytes(), usedforsecurity=False).hexdigest()
        count = len(self.rules)
        return {"name": f"constitution {self.version}".strip(), "where": str(self.path), "sha1": digest, "rows": count,
                "used": count, "tokens": None}  # fmt: skip


def read_constitution(path: Path | None = None) -> Constitution:
    """Read a file of rules; None: the built-in one, whose judge also serves files that have none.

    Raises `UserError` for a file that is not as `constitution.yaml`.
    """
    own = read_yaml(str(DEFAULT_CONSTITUTION))
    where = path or DEFAULT_CONSTITUTION
    found = read_yaml(str(where))
    unknown = set(found) - {"version", "rules", "judge"}
    if unknown or not isinstance(found.get("rules"), list) or not found["rules"]:
        raise UserError(
            f"{where} must hold rules, and may hold version and judge, as the built-in {DEFAULT_CONSTITUTION} does"
        )
    rules = tuple(_rule(entry, number, where) for number, entry in enumerate(found["rules"], 1))
    if len({rule.name for rule in rules}) < len(rules):
        raise UserError(f"{where}: two rules have the same name")
    judge = found.get("judge", own["judge"])
    for language in ("en", "zh"):
        texts = judge.get(language) if isinstance(judge, dict) else None
        if not isinstance(texts, dict) or not all(isinstance(texts.get(part), str) for part in ("system", "user")):
            raise UserError(f"{where}: judge needs the texts system and user in en and zh")
    return Constitution(rules, judge, str(found.get("version", "")), where)


def _rule(entry: object, number: int, where: Path) -> Rule:
    texts = entry if isinstance(entry, dict) else {}
    weight = texts.get("weight", 1)
    named = all(isinstance(texts.get(part), str) and texts[part].strip() for part in ("name", "en", "zh"))
    if not named or set(texts) - {"name", "en", "zh", "weight"} or not isinstance(weight, (int, float)) or weight <= 0:
        raise UserError(f"{where}, rule {number}: it needs name, en and zh, and may have a weight above 0")
    return Rule(texts["name"], texts["en"].strip(), texts["zh"].strip(), float(weight))


class ConstitutionReward:
    """A reward function for TRL's trainers; None for an answer that the judge did not judge as it was asked to."""

    __name__ = "constitution"

    def __init__(self, engine: Engine, constitution: Constitution) -> None:
        self.engine, self.constitution = engine, constitution
        room = JUDGE_MAX_TOKENS * len(constitution.rules)
        self.sampling = Sampling(room, temperature=0.0, seed=0)  # always the likeliest token

    def __call__(
        self,
        prompts: Conversations,
        completions: Completions,
        log_metric: LogMetric | None = None,
        **columns: object,
    ) -> list[float | None]:
        """Return a score in [0, 1] for each answer, and log how often each rule is kept."""
        asked = [self.ask(prompt, completion_text(one)) for prompt, one in zip(prompts, completions, strict=True)]
        replies = generate(self.engine, asked, self.sampling)
        verdicts = [parse_verdicts(reply.text, len(self.constitution.rules)) for reply in replies]
        if log_metric:
            self._log(verdicts, log_metric)
        return [None if each is None else self.score(each) for each in verdicts]

    def ask(self, prompt: Sequence[Mapping[str, str]], answer: str) -> Prompt:
        """What the judge is asked about one answer, in the language of the last question."""
        language = "zh" if HAN_CHARACTER.search(prompt[-1]["content"]) else "en"
        texts = self.constitution.judge[language]
        rules = [getattr(rule, language) for rule in self.constitution.rules]
        filled = {
            "conversation": _inert("\n".join(f"{turn['role']}: {turn['content']}" for turn in prompt)),
            "answer": _inert(answer),
            "rules": "\n".join(f"{number}. {text}" for number, text in enumerate(rules, 1)),
            "count": str(len(rules)),
        }
        user = re.sub(r"\{(\w+)\}", lambda found: filled.get(found[1], found[0]), texts["user"])
        return (Message("system", texts["system"]), Message("user", user))

    def score(self, verdicts: Sequence[bool | None]) -> float:
        """The weight of the rules that are kept, as a share of those that apply; 1 where none applies."""
        weights = [rule.weight for rule in self.constitution.rules]
        kept = sum(weight for weight, verdict in zip(weights, verdicts, strict=True) if verdict)
        applies = sum(weight for weight, verdict in zip(weights, verdicts, strict=True) if verdict is not None)
        return kept / applies if applies else 1.0

    def _log(self, verdicts: Sequence[Sequence[bool | None] | None], log_metric: LogMetric) -> None:
        log_metric("rewards/constitution/unparsed", sum(each is None for each in verdicts) / len(verdicts))
        for at, rule in enumerate(self.constitution.rules):
            said = [each[at] for each in verdicts if each is not None and each[at] is not None]
            if said:
                log_metric(f"rewards/constitution/{rule.name}", sum(map(bool, said)) / len(said))


def parse_verdicts(reply: str, rules: int) -> list[bool | None] | None:
    """The verdict on each rule (None: it does not apply), from a reply of one line each and nothing else; else None."""
    found: dict[int, bool | None] = {}
    for line in filter(None, map(str.strip, reply.splitlines())):
        said = VERDICT_LINE.fullmatch(line)
        if said is None or int(said[1]) in found:
            return None
        found[int(said[1])] = {"yes": True, "no": False, "n/a": None}[said[2].lower()]
    return [found[number] for number in range(1, rules + 1)] if set(found) == set(range(1, rules + 1)) else None


def _inert(text: str) -> str:
    """Text that cannot end the tag that it stands in."""
    return re.sub(r"<(?=/?(?:conversation|answer)>)", "< ", text)


def load_judge(arguments: GRPOOptions) -> Engine:
    """The judging engine that the options name: an endpoint, or a local model, which is loaded."""
    if arguments.judge_endpoint:
        from carellama.engine.openai.engine import OpenAIEngine

        assert arguments.judge_model is not None, "checked with the options"
        engine = OpenAIEngine(arguments.judge_endpoint, arguments.judge_model, key=endpoint_key())
        print_status(f"prompts and answers are sent to {engine.host}, which judges them")
        return engine
    from carellama.config.data import DataOptions
    from carellama.config.model import ModelOptions
    from carellama.engine.transformers.load import load

    assert arguments.judge_model_name_or_path is not None, "checked with the options"
    return load(ModelOptions(arguments.judge_model_name_or_path), DataOptions())
