"""`carellama template audit`: whether training, tokenizer, .gguf and Modelfile render the same conversations alike.

    report = audit_model("output_export", checkpoint_dir="output")
    report.lines()      # who was compared, and the first character that differs

The training's text is that of run.json's format under the tokenizer, or that of the checkpoint's own tokenizer; it is
what the others are compared with. Without a run.json it is the tokenizer's. A bos token at the beginning is left out of
the comparison: llama.cpp and Ollama put it there themselves. Both sides get the system text of a Modelfile. The end
tokens are compared as well: one that a file does not stop at lets a model babble on. A conversation that both refuse
was not compared: where that is all of them, the parts are not alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carellama.config.model import ModelOptions
from carellama.config.options import split_commas
from carellama.errors import UserError
from carellama.evaluate.chat_formats.sources import Source, of_gguf, of_model, of_modelfile, of_training
from carellama.model.gguf.read import is_model

ROWS: tuple[tuple[tuple[str, str], ...], ...] = (
    (("user", "I cough."),),
    (("system", "Be brief."), ("user", "咳嗽三天了。")),
    (("system", "Be brief."), ("user", "I cough."), ("assistant", "Rest."), ("user", "How long?")),
    (("user", "One."), ("assistant", "Two."), ("user", "三。"), ("assistant", "四。"), ("user", "5 < 6 & 7")),
)
CONTEXT = 24  # characters shown before a difference


@dataclass(frozen=True)
class Difference:
    """Where two sources part."""

    first: str
    second: str
    conversation: int  # which of `ROWS`, from 1
    at: int  # character, from 0; -1: the end tokens
    shown: tuple[str, str]


@dataclass(frozen=True)
class Refusal:
    """Conversations that one of two sources, or both, give no text of."""

    first: str
    second: str
    conversations: tuple[int, ...]  # which of `ROWS`, from 1
    reasons: tuple[str, str]  # "": that one renders them

    @property
    def of_both(self) -> bool:
        """Whether neither gives a text, so that nothing was compared."""
        return all(self.reasons)

    def lines(self) -> list[str]:
        """Who refuses what, and the whole reason."""
        numbers = f"conversation{'s' * (len(self.conversations) > 1)} {', '.join(map(str, self.conversations))}"
        who = [(name, reason) for name, reason in zip((self.first, self.second), self.reasons, strict=True) if reason]
        said = f"both give no text of {numbers}, so nothing was compared"
        if not self.of_both:
            said = f"only {who[0][0]} gives no text of {numbers}"
        return [f"{self.first} and {self.second}: {said}:", *(f"  {name}: {reason}" for name, reason in who)]


@dataclass(frozen=True)
class Report:
    """What was compared, and where it differs."""

    sources: tuple[str, ...]
    rendered: tuple[int, ...]  # the conversations that all render, from 1
    differences: tuple[Difference, ...]
    refusals: tuple[Refusal, ...]
    notes: tuple[str, ...] = ()  # what is no difference, and has to be known

    @property
    def alike(self) -> bool:
        """Whether something was compared, and nothing differs."""
        return bool(self.rendered) and not self.differences and all(one.of_both for one in self.refusals)

    def lines(self) -> list[str]:
        """The report for a person."""
        found = [f"asked: {', '.join(self.sources)}", *self.notes]
        for refusal in self.refusals:
            found += refusal.lines()
        for one in self.differences:
            if one.at < 0:
                found.append(f"{one.second} does not stop at {one.shown[0]}, where answers end by {one.first}")
                continue
            found.append(
                f"{one.first} and {one.second} differ in conversation {one.conversation} at character {one.at}:"
            )
            found += [f"  {name}: {text}" for name, text in zip((one.first, one.second), one.shown, strict=True)]
        if not self.rendered:
            return [*found, "no conversation is rendered by all of them: that they are alike is not known"]
        count = f"{len(self.rendered)} of {len(ROWS)}" if len(self.rendered) < len(ROWS) else f"{len(ROWS)}"
        return [*found, f"all render {count} conversations alike"] if self.alike else found

    def as_json(self) -> dict[str, Any]:
        """The report for programs."""
        return {
            "compared": list(self.sources),
            "alike": self.alike,
            "rendered": list(self.rendered),
            "differences": [
                {"first": one.first, "second": one.second, "conversation": one.conversation, "character": one.at,
                 "texts": list(one.shown)}
                for one in self.differences
            ],
            "refusals": [
                {"first": one.first, "second": one.second, "conversations": list(one.conversations),
                 "reasons": list(one.reasons)}
                for one in self.refusals
            ],
            "notes": list(self.notes),
        }  # fmt: skip


def audit_model(name: str, checkpoint_dir: str | None, gguf: str | None = None, modelfile: str | None = None) -> Report:
    """Compare all that is known of a model. Raises `UserError` where fewer than two places say anything."""
    place = Path(name).expanduser()
    files = [place] if place.suffix == ".gguf" else sorted(filter(is_model, place.glob("*.gguf")))
    bare = bool(files) and not any(place.glob("*token*")) and not any(place.glob("adapter_config.json"))
    files += [Path(gguf).expanduser()] if gguf else []
    recipe = Path(modelfile).expanduser() if modelfile else (place if place.is_dir() else place.parent) / "Modelfile"
    sources: list[Source] = []
    if not bare:
        sources = of_model(ModelOptions(name, checkpoint_dir))
    elif checkpoint_dir:
        sources = [of_training(split_commas(checkpoint_dir))]
    sources += [of_gguf(file) for file in files]
    if modelfile or recipe.exists() or recipe.is_symlink():
        sources.append(of_modelfile(recipe, sources[0].bos if sources else ""))
    if len(sources) < 2:
        raise UserError(
            f"only {sources[0].name if sources else 'nothing'} says how {name} is asked: there is nothing to compare "
            "it with; give the training as --checkpoint_dir, a --gguf or a --modelfile"
        )
    return compare(sources)


def compare(sources: Sequence[Source]) -> Report:
    """Compare each source with the first that gives a text."""
    first = next((one for one in sources if any(_text(one, given)[0] for given in ROWS)), sources[0])
    others = [one for one in sources if one is not first]
    differences, refusals = list[Difference](), list[Refusal]()
    rendered = set(range(1, len(ROWS) + 1))
    for other in others:
        refused: dict[tuple[str, str], list[int]] = {}
        parted = False
        for number, given in enumerate(_with_system(other.system), 1):
            (one, why), (two, why_not) = _text(first, given), _text(other, given)
            if why or why_not:
                refused.setdefault((why, why_not), []).append(number)
            elif one != two and not parted:
                parted = True
                differences.append(_difference(first, other, number, (one, two)))
        refusals += [Refusal(first.name, other.name, tuple(which), whys) for whys, which in refused.items()]
        rendered.difference_update(*refused.values())
        missing = sorted((first.ends or frozenset()) - other.ends) if other.ends is not None else []
        differences += [Difference(first.name, other.name, 0, -1, (end, "")) for end in missing]
    notes = tuple(note for source in sources for note in source.notes)
    return Report(
        tuple(one.name for one in sources), tuple(sorted(rendered)), tuple(differences), tuple(refusals), notes
    )


def _difference(first: Source, other: Source, number: int, texts: tuple[str, str]) -> Difference:
    """The first character in which two texts part."""
    at = next((at for at, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), min(map(len, texts)))
    return Difference(first.name, other.name, number, at, (_around(texts[0], at), _around(texts[1], at)))


def _with_system(system: str) -> list[tuple[tuple[str, str], ...]]:
    """The conversations, those without a system text given this one."""
    return [given if not system or given[0][0] == "system" else (("system", system), *given) for given in ROWS]


def _text(source: Source, given: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """The prompt without bos, and why there is none."""
    try:
        text = source.render([{"role": role, "content": content} for role, content in given])
    except UserError as error:
        return "", str(error)
    return text.removeprefix(source.bos), "" if text.strip() else "it renders no text"


def _around(text: str, at: int) -> str:
    before = text[max(0, at - CONTEXT) : at]
    return f"{before!r} then {text[at : at + CONTEXT]!r}" if at < len(text) else f"{before!r} then nothing"
