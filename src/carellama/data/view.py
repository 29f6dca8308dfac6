"""`carellama data view`: page through the records of a dataset, as they are and as a model is trained on them.

    carellama data view consult_zh --start 10 --tokenizer smollm2-135m --template default

A row that cannot be used is shown with the reason. On a terminal Enter goes on and q ends.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from carellama.config.data import DataOptions
from carellama.config.data_commands import ViewOptions
from carellama.config.reader import parse_options
from carellama.data.convert import BadRecord
from carellama.data.datasets import load_datasets
from carellama.data.encoding.encode import Encoder
from carellama.errors import UserError
from carellama.records import IGNORED, Chat, Pair, Question, Record, Text, Tokens
from carellama.text import counted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
GREEN, GREY, PLAIN = "\033[32m", "\033[90m", "\033[0m"


def run(argv: Sequence[str]) -> None:
    """Show records, page by page."""
    (arguments,) = parse_options((ViewOptions,), argv, "carellama data view NAME_OR_FILE", positional="name")
    if arguments.start < 1 or arguments.records < 1:
        raise UserError(f"--start {arguments.start} and --records {arguments.records} must be at least 1")
    if arguments.template and not arguments.tokenizer:
        raise UserError("--template needs --tokenizer: a chat format is shown as a model's tokens")
    (dataset,) = load_datasets([arguments.name], DataOptions(dataset_dir=arguments.dataset_dir))
    encode = _encoder(arguments) if arguments.tokenizer else None
    shown = 0
    rows = itertools.islice(dataset.rows(), arguments.start - 1, None)
    for number, row in enumerate(rows, arguments.start):
        if shown and shown % arguments.records == 0 and not _goes_on():
            return
        try:
            record = dataset.record(row)
            print(_visible("\n".join([f"--- {number} ({record.place})", *lines(record)])))
            if encode:
                print(encode(record, colours=sys.stdout.isatty()))
        except BadRecord as error:
            print(f"--- {number} ({error.place})\nnot usable: {error.reason}: {error.detail}")
        shown += 1
    if not shown:
        raise UserError(f"--start {arguments.start}: {arguments.name} has no row of this number")


def _goes_on() -> bool:
    """Ask on a terminal; elsewhere one page is all."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    return input("Enter: go on, q: end > ").strip().lower() != "q"


def lines(record: Record) -> Iterator[str]:
    """A record for reading."""
    if isinstance(record, Text):
        yield record.text
    elif isinstance(record, Question):
        yield record.stem
        for letter, option in record.options.items():
            yield f"{'*' if letter in record.answers else ' '} {letter} {option}"
        if record.explanation:
            yield record.explanation
    else:
        for message in record.messages if isinstance(record, Chat) else record.prompt:
            kept = "" if message.learned else " (not learned)"
            yield f"{message.role}{kept}: {message.content}"
            yield from (f"  calls {call.name} {call.arguments}" for call in message.calls)
        if isinstance(record, Pair):
            yield f"chosen: {record.chosen}"
            yield f"rejected: {record.rejected}"
        yield from (f"[tool: {tool.name}]" for tool in record.tools)
    for key, value in record.meta.items():
        yield f"[{key}: {value}]"


def _visible(text: str) -> str:
    """Text without characters that move the cursor or change the colours of a terminal; they are shown instead."""
    return CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def _encoder(arguments: ViewOptions) -> Callable[..., str]:
    """A function from a record to its tokens as text."""
    from carellama.config.model import ModelOptions
    from carellama.model.tokenizer import load_tokenizer
    from carellama.model.zoo.pull import with_named_weights
    from carellama.templates.template import get_template

    assert arguments.tokenizer is not None
    data = DataOptions(cutoff_len=arguments.cutoff_len, template=arguments.template)
    model, data = with_named_weights(ModelOptions(model_name_or_path=arguments.tokenizer), data)
    tokenizer = load_tokenizer(model)
    encoder = Encoder(tokenizer, get_template(data.template, tokenizer), data.lengths)

    def encoded(record: Record, *, colours: bool) -> str:
        if not isinstance(record, (Text, Chat)):
            return "(pairs and exam questions are not encoded here)"
        (found,) = encoder.encode([record])
        notes = [f"{note.kind}: {note.reason}" for note in found.notes]
        return "\n".join([*(marked(tokens, tokenizer, colours=colours) for tokens in found.tokens), *notes])

    return encoded


def marked(tokens: Tokens, tokenizer: PreTrainedTokenizerBase, *, colours: bool) -> str:
    """The text of an encoded record, and how many tokens it has; the learned in green, or in [[ ]] without colours.

    On a terminal the others are grey.
    """
    begin, end = (GREEN, PLAIN) if colours else ("[[", "]]")
    before, behind = (GREY, PLAIN) if colours else ("", "")
    pairs = zip(tokens.input_ids.tolist(), (tokens.labels != IGNORED).tolist(), strict=True)
    text = "".join(
        f"{begin if learned else before}"
        f"{tokenizer.decode([token for token, _ in group], skip_special_tokens=False)}{end if learned else behind}"
        for learned, group in itertools.groupby(pairs, key=lambda pair: pair[1])
    )
    return f"{text}\n{counted(len(tokens), 'token')}, {int((tokens.labels != IGNORED).sum())} of them learned"
