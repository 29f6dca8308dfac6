"""The chat formats that a tokenizer can carry, each with the ids of the same short conversations."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from carellama.errors import UserError
from carellama.package_data import package_text, parse_yaml
from carellama.records import Message
from carellama.templates.format import OWN, formats
from carellama.templates.template import Template, get_template, is_token
from carellama.templates.tokenize import GroupEncoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

Ids = tuple[int, ...]
Pair = tuple[Ids, Ids]  # a prompt, and the answer behind it with its end token


@dataclass(frozen=True)
class Candidate:
    """One text of the conversations, and the formats that render it."""

    names: tuple[str, ...]
    pairs: tuple[Pair, ...]  # of each conversation: up to its last answer, and that answer
    bare: str  # their text without white space, bos and eos: twins, which differ by these alone, have the same


def load_answers() -> list[tuple[Message, ...]]:
    """Return the conversations; each ends with the answer that is scored."""
    texts: list[list[str]] = parse_yaml(package_text("evaluate/chat_formats/answers.yaml"))
    return [tuple(Message("assistant" if at % 2 else "user", text) for at, text in enumerate(one)) for one in texts]


def candidates(tokenizer: PreTrainedTokenizerBase) -> tuple[list[Candidate], tuple[str, ...]]:
    """Return what the tokenizer can carry, those that render alike as one, and the names of the others."""
    encoder, talks = GroupEncoder(tokenizer), load_answers()
    names = [name for name, form in formats().items() if not form.same_as]
    fitting = [name for name in names if all(is_token(tokenizer, token) for token in formats()[name].tokens)]
    found: dict[tuple[Any, ...], list[str]] = {}
    for name in [*([None] if tokenizer.chat_template else []), *fitting]:
        try:
            pairs = _pairs(encoder, get_template(name, tokenizer), talks)
        except UserError as error:
            if name is not None:
                raise
            log.warning("%s format is not among those that are compared: %s", OWN, error)
            continue
        found.setdefault(tuple(pairs), []).append(name or OWN)
    made = [Candidate(tuple(names), pairs, _bare(tokenizer, pairs)) for pairs, names in found.items()]
    return made, tuple(name for name in names if name not in fitting)


def _pairs(encoder: GroupEncoder, template: Template, talks: Sequence[Sequence[Message]]) -> list[Pair]:
    encoded = encoder.encode([template.groups(template.conversations(talk)[-1]) for talk in talks])
    return [
        (tuple(int(number) for part in before for number in part), tuple(answer.tolist()))
        for *before, answer in encoded
    ]


def _bare(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair]) -> str:
    ends = {tokenizer.bos_token_id, tokenizer.eos_token_id}
    ids = [token for prompt, answer in pairs for token in (*prompt, *answer) if token not in ends]
    return "".join(str(tokenizer.decode(ids)).split())
