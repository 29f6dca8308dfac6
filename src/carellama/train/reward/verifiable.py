"""Rewards that can be checked: the right letter, citations that hold, a format, a length.

    letters_in("It cannot be A, so the answer is B.", "ABCD")     # {"B"}
    citation_reward('It "lasts a week" [2].', {2: "A cold lasts a week or more."})   # 1.0

Pure functions of an answer, and `load_rewards`, which makes of them (and of any function that a person names) what
TRL's trainers take: `reward(prompts, completions, completion_ids, **columns) -> one number an answer`. The columns are
those of `carellama.data.encoding.prompts.Task`. What cannot be read is counted and scored 0: it is never guessed.
"""

from __future__ import annotations

import importlib
import re
import sys
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from carellama.config.objectives import GRPOOptions
from carellama.data.encoding.prompts import numbered_passages
from carellama.errors import UserError, nearest
from carellama.text import folded

Conversation = Sequence[Mapping[str, str]]  # a message: role, content
Conversations = Sequence[Conversation]
Completions = Sequence[str | Conversation]
LogMetric = Callable[[str, float], None]
Reward = Callable[..., Sequence[float | None]]  # a coroutine function of the same signature is taken as well

CITATION_MARKS = str.maketrans("", "", "*_`#$")  # of Markdown and TeX
# letters as an answer names them: B, (B), A、C, "A, C and D", ACD; not the first letters of a word, nor of B-cell
LETTERS = (
    r"[(\[【「\"'“]*(?P<letters>[A-J](?:(?:\s*[,，、&+/;；]\s*|\s*(?:and|和|及|与)\s*|\s*,\s*and\s+)?[A-J])*)"
    r"(?![A-Za-z0-9]|-[A-Za-z]|\s*(?:or|或者?|还是)\s*[A-J](?![A-Za-z]))"
)
ANSWER_PHRASE = re.compile(
    r"(?:(?:answers?|correct (?:option|choice|letter)s?|right (?:option|choice|letter)s?)"
    r"\s*(?:is|are|would be|should be|must be|:)+\s*:?\s*(?:(?:the )?(?:option|choice|letter)s?\s*)?"
    r"|\\boxed\{\s*(?:\\text\{)?"
    r"|(?:答案|正确选项|正解)\s*(?:应该?)?\s*(?:是|为|选|[:：])+\s*[:：]?\s*(?:选项)?\s*"
    r"|(?<![不非别未勿])(?:应选|故选|应该选择?|选择|选)(?!项)\s*(?:的是|[:：])?\s*)" + LETTERS,
    re.IGNORECASE,
)
BARE_LETTERS = re.compile(rf"(?:option|choice|选项)?\s*{LETTERS}[)\]】」\"'”.。:：!！\s]*", re.IGNORECASE)
LEADING_LETTERS = re.compile(r"[(\[【]?(?P<letters>[A-J])(?:[)\]】]|\s*(?:[、:]|\.(?![A-Za-z0-9]\b)))", re.IGNORECASE)
WORD_AFTER = re.compile(r"\s+[a-z]{2,}")

CITED = r"[\[【]\s*(?:\d{1,3}\s*(?:[,，、;；\-–]\s*)?)+[\]】]"
CITATIONS = re.compile(rf"(?:{CITED}\s*)+")
NUMBERS = re.compile(r"(\d{1,3})(?:\s*[-–]\s*(\d{1,3}))?")
QUOTED = re.compile(r"[“\"「『]([^“”\"「」『』\n]{2,})[”\"」』](?:(?!\.\s)[^“”\"「」『』。！？!?\n])*$")


def extract_letters(answer: str, options: Collection[str]) -> frozenset[str] | None:
    """The letters that an answer settles on, in Chinese or English; None: it cannot be read.

    Read are, in this order: what the last "the answer is ...", "答案：..." or "故选..." names; an answer that is
    nothing but letters; one that begins with a letter and a mark ("B. Beta cells") where no other line does. "A or B",
    letters in a word ("B-cell") and letters that are no options are not read.
    """
    text = unicodedata.normalize("NFKC", answer).translate(CITATION_MARKS).strip()
    declared = [found for found in ANSWER_PHRASE.finditer(text) if _is_deliberate(found)]
    if declared:
        return _valid_letters(declared[-1]["letters"], options)
    if hedged := BARE_LETTERS.fullmatch(text):
        return _valid_letters(hedged["letters"], options)
    begins = [found for line in text.splitlines() if (found := LEADING_LETTERS.match(line.strip()))]
    if len(begins) == 1 and LEADING_LETTERS.match(text):
        return _valid_letters(begins[0]["letters"], options)
    return None


def _is_deliberate(found: re.Match[str]) -> bool:
    """Whether the letters are capitals or stand alone, and a run of them is not an abbreviation ("ACE inhibitors")."""
    letters, after = found["letters"], found.string[found.end() :]
    if letters.islower():  # "the answer is b.", but not "the answer is a disease"
        return len(letters) == 1 and not re.match(r"\s*\w", after)
    return letters == letters.upper() and not (letters.isalpha() and len(letters) > 1 and WORD_AFTER.match(after))


def _valid_letters(letters: str, options: Collection[str]) -> frozenset[str] | None:
    found = frozenset(re.findall("[A-J]", re.sub("and", "", letters, flags=re.IGNORECASE).upper()))
    return found if found <= set(options) else None


def citation_reward(answer: str, passages: Mapping[int, str]) -> float:
    """The share of an answer's citations, as [1] or 【2】, that hold; 0 where it has none.

    One holds when there is a passage of its number and, where words in quotation marks stand before it in the same
    sentence, that passage (or one cited beside it) has these words, compared without case and punctuation.
    """
    right = total = 0
    at = 0
    for run in CITATIONS.finditer(answer):
        numbers = list(_numbers(run[0]))
        quote = QUOTED.search(answer[at : run.start()])
        words = folded(quote[1]) if quote else ""
        there = [number for number in numbers if number in passages]
        total += len(numbers)
        if not words or any(words in folded(passages[number]) for number in there):
            right += len(there)
        at = run.end()
    return right / total if total else 0.0


def _numbers(marks: str) -> Iterator[int]:
    """The numbers of [1], [1, 3] and [2-4]."""
    for first, last in NUMBERS.findall(marks):
        yield from (
            range(int(first), int(last) + 1)
            if last and int(first) < int(last) < int(first) + 20
            else (int(part) for part in (first, last) if part)
        )


def format_reward(answer: str, pattern: re.Pattern[str] | None, sections: Sequence[str] = ()) -> float:
    """1 where the whole answer matches, else 0; of sections the share that stand at a line's beginning, in order."""
    if pattern is not None:
        return float(pattern.fullmatch(answer.strip()) is not None)
    lines = iter(line.translate(CITATION_MARKS).strip().lower() for line in answer.splitlines())
    found = 0
    for section in sections:
        if not any(line.startswith(section.lower()) for line in lines):
            break
        found += 1
    return found / len(sections)


def length_reward(tokens: int, low: int, high: int) -> float:
    """0 within the band; outside it falls to -1 at no tokens, and at twice as many as are allowed."""
    if tokens < low:
        return tokens / low - 1
    return 0.0 - min(1.0, max(0, tokens - high) / high)


def load_rewards(arguments: GRPOOptions) -> dict[str, Reward]:
    """The rewards that `--rewards` names, but for `model` and `constitution`, which `carellama.train.grpo` loads.

    Raises `UserError` for a function that cannot be imported.
    """
    made: dict[str, Reward] = {}
    for name in arguments.names:
        if name == "letter":
            made[name] = _letter
        elif name == "citation":
            made[name] = _citation
        elif name == "format":
            made[name] = _format(arguments)
        elif name == "length":
            made[name] = _length(*(arguments.length_band or (0, 1)))
        elif "." in name or ":" in name:
            made[name] = import_function(name)
    return made


def _letter(
    prompts: Conversations,  # noqa: ARG001 - TRL gives them by name
    completions: Completions,
    letters: Sequence[Sequence[str]],
    options: Sequence[Sequence[str]],
    log_metric: LogMetric | None = None,
    **_columns: object,
) -> list[float]:
    found = [extract_letters(completion_text(one), known) for one, known in zip(completions, options, strict=True)]
    if log_metric:
        log_metric("rewards/letter/unparsed", sum(one is None for one in found) / len(found))
    return [float(one == frozenset(right)) for one, right in zip(found, letters, strict=True)]


def _citation(prompts: Conversations, completions: Completions, **_columns: object) -> list[float]:
    texts = ["\n\n".join(message["content"] for message in prompt) for prompt in prompts]
    return [
        citation_reward(completion_text(one), numbered_passages(text))
        for one, text in zip(completions, texts, strict=True)
    ]


def _format(arguments: GRPOOptions) -> Reward:
    pattern = re.compile(arguments.format_pattern, re.DOTALL) if arguments.format_pattern else None

    def judge(
        prompts: Conversations,  # noqa: ARG001 - TRL gives them by name
        completions: Completions,
        **_columns: object,
    ) -> list[float]:
        return [format_reward(completion_text(one), pattern, arguments.sections) for one in completions]

    return judge


def _length(low: int, high: int) -> Reward:
    def judge(
        prompts: Conversations,  # noqa: ARG001 - TRL gives them by name
        completions: Completions,  # noqa: ARG001
        completion_ids: Sequence[Sequence[int]],
        **_columns: object,
    ) -> list[float]:
        return [length_reward(len(ids), low, high) for ids in completion_ids]

    return judge


def completion_text(completion: str | Conversation) -> str:
    """The text of a completion as TRL hands it over: messages, or a text."""
    return completion if isinstance(completion, str) else str(completion[-1].get("content") or "")


def import_function(name: str) -> Reward:
    """The function at a dotted path, `module:function` or `module.function`; modules of the current folder are found.

    To import a module runs its code. Raises `UserError` where there is no such module or function.
    """
    module, _, function = name.partition(":") if ":" in name else name.rpartition(".")
    here = str(Path.cwd())
    sys.path.insert(0, here)  # as `python -m` does
    try:
        found = importlib.import_module(module)
    except (ModuleNotFoundError, ValueError, TypeError) as error:
        missing = getattr(error, "name", None)
        if missing and not f"{module}.".startswith(f"{missing}."):
            raise UserError(f"--rewards {name}: the module {module} needs {missing}, which is not installed") from error
        raise UserError(f"--rewards {name}: there is no module {module!r} here or among what is installed") from error
    finally:
        if here in sys.path:
            sys.path.remove(here)
    reward = getattr(found, function, None)
    if not callable(reward):
        known = [each for each, value in vars(found).items() if callable(value) and not each.startswith("_")]
        raise UserError(f"--rewards {name}: {module} has no function {function!r}.{nearest(function, known)}")
    return reward  # type: ignore[no-any-return]
