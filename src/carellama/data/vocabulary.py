"""`carellama tokenizer train`: Chinese pieces that a tokenizer lacks, learned from texts, for `--add_tokens`.

    carellama tokenizer train pretrain_zh consult_zh --model_name_or_path smollm2-135m --output pieces.txt

A unigram model (Kudo, arXiv:1804.10959) of the runs of Chinese characters gives candidates; each text is then read as
the extended tokenizer will read it, from the left and always the longest piece, and the pieces that save the most
tokens are kept. Every twentieth record is not learned from: on those the tokens are counted before and after.

It changes no model: `carellama train --add_tokens pieces.txt` adds the tokens, and trains them.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ahocorasick_rs import AhoCorasick, MatchKind

from carellama.config.commands import TokenizerOptions
from carellama.config.data import DataOptions
from carellama.config.model import ModelOptions
from carellama.config.reader import parse_options, to_flags
from carellama.data.convert import texts_of
from carellama.data.datasets import load_datasets
from carellama.data.report import DataReport
from carellama.errors import UserError
from carellama.files import atomic_write, print_status, refuse_existing, write_json
from carellama.text import HAN, counted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

RUN = re.compile(rf"[{HAN}]+")
HELD_OUT = 20  # of so many records one is measured on
CANDIDATES = 8  # candidates for each piece that is wanted
CALL = 1000  # texts that are tokenised in one call


@dataclass(frozen=True)
class Learned:
    """The pieces, and how many tokens the same texts take without and with them."""

    pieces: list[str]
    uses: list[int]  # in the texts learned from
    characters: int  # of the texts learned from
    measured_on: str  # "held out" or, where there are too few records for that, "learned from"
    measured_texts: int
    measured_characters: int
    tokens_before: int
    tokens_after: int
    not_usable: int  # rows

    @property
    def rates(self) -> tuple[float, float]:
        """Tokens per 1,000 characters before and after."""
        whole = self.measured_characters / 1000
        return self.tokens_before / whole, self.tokens_after / whole


def run(argv: Sequence[str]) -> None:
    """Learn the pieces, write them and tell what they save."""
    asked = [word for word in argv if word not in ("-h", "--help")]
    if asked[:1] != ["train"] and asked == list(argv):
        raise UserError("carellama tokenizer has one task: carellama tokenizer train NAME_OR_FILE... (--help)")
    words = [word for number, word in enumerate(argv) if number or word != "train"]
    (arguments,) = parse_options(
        (TokenizerOptions,), words, "carellama tokenizer train NAME_OR_FILE...", positional="names"
    )
    output = Path(arguments.output)
    refuse_existing(output, map(Path, arguments.names), overwrite=arguments.overwrite)
    learned = learn(arguments)
    with atomic_write(output) as file:
        file.writelines(f"{piece}\n" for piece in learned.pieces)
    before, after = learned.rates
    write_json(output.with_name(f"{output.name}.json"), asdict(learned) | {"per_1000": [before, after]})
    print(
        f"{output}: {counted(len(learned.pieces), 'piece')}; tokens per 1,000 characters {before:.1f} -> {after:.1f} "
        f"on {counted(learned.measured_texts, 'text')} {learned.measured_on} "
        f"({counted(learned.measured_characters, 'character')})"
    )
    print(f"  files  {output}, {output}.json\nnext: {_training(arguments)}")


def _training(arguments: TokenizerOptions) -> str:
    """Return the command that trains the new tokens on the same data."""
    data = DataOptions(dataset_dir=arguments.dataset_dir)
    plain = all(dataset.format.row_format == "text" for dataset in load_datasets(arguments.names, data))
    options = {
        "stage": "pt" if plain else "sft",
        "model_name_or_path": arguments.model_name_or_path,
        "dataset": arguments.names,
        "dataset_dir": None if arguments.dataset_dir == DataOptions.dataset_dir else arguments.dataset_dir,
        "add_tokens": arguments.output,
        "output_dir": f"{Path(arguments.output).with_suffix('')}_trained",
    }
    return shlex.join(["carellama", "train", *to_flags(options)])


def learn(arguments: TokenizerOptions) -> Learned:
    """Find the pieces. Raises `UserError` for texts without Chinese, and a tokenizer that cannot be extended."""
    from carellama.model.tokenizer import load_tokenizer
    from carellama.model.vocabulary import put
    from carellama.model.zoo.pull import with_named_weights

    model, _ = with_named_weights(ModelOptions(model_name_or_path=arguments.model_name_or_path), DataOptions())
    tokenizer = load_tokenizer(model)
    texts, held, skipped = _texts(arguments)
    runs = Counter(found for text in texts for found in RUN.findall(text))
    if not runs:
        unusable = f" ({counted(skipped, 'row')} cannot be used: carellama data check)" if skipped else ""
        raise UserError(f"{', '.join(arguments.names)}: no Chinese characters to learn from{unusable}")
    print_status(f"learning from {sum(map(len, texts)):,} characters")
    chosen = _chosen(runs, tokenizer, arguments)
    if not chosen:
        raise UserError(
            f"no piece of these texts is used {arguments.min_count} times and is not one token already: "
            "give more texts, or a lower --min_count"
        )
    measured, where = (held, "held out") if any(map(RUN.search, held)) else (texts, "learned from")
    before = _count(tokenizer, measured)
    pieces = sorted(chosen, key=lambda piece: (-chosen[piece], piece))
    put(tokenizer, pieces)
    return Learned(
        pieces, [chosen[piece] for piece in pieces], sum(map(len, texts)), where, len(measured),
        sum(map(len, measured)), before, _count(tokenizer, measured), skipped,
    )  # fmt: skip


def _texts(arguments: TokenizerOptions) -> tuple[list[str], list[str], int]:
    """(texts to learn from, texts held out, rows that cannot be used)."""
    found: tuple[list[str], list[str]] = ([], [])
    room, number, report = arguments.max_characters, 0, DataReport()
    for dataset in load_datasets(arguments.names, DataOptions(dataset_dir=arguments.dataset_dir)):
        for record in dataset.records(report, skips=True):
            texts = texts_of(record)
            number += 1
            found[number % HELD_OUT == 0].extend(texts)
            room -= sum(map(len, texts))
            if room <= 0:
                print_status(f"--max_characters {arguments.max_characters:,} reached in {dataset.name}")
                return (*found, report.skipped)
    return (*found, report.skipped)


def _chosen(runs: Counter[str], tokenizer: PreTrainedTokenizerBase, arguments: TokenizerOptions) -> dict[str, int]:
    """The pieces that save the most tokens, with their uses."""
    from carellama.model.vocabulary import pieces_of

    costs: dict[str, int] = {}  # tokens that a piece takes without itself
    for piece in _candidates(runs, arguments):
        cost = len(pieces_of(tokenizer, piece))
        if cost > 1:
            costs[piece] = cost
    uses = _uses(runs, costs)
    saved = {piece: count * (costs[piece] - 1) for piece, count in uses.items() if count >= arguments.min_count}
    best = sorted(saved, key=lambda piece: (-saved[piece], piece))[: arguments.pieces]
    # without the others, these are used where a longer one stood before
    again = _uses(runs, best)
    return {piece: again[piece] for piece in best if again[piece] >= arguments.min_count}


def _candidates(runs: Counter[str], arguments: TokenizerOptions) -> list[str]:
    """Pieces of two characters and more that a unigram model of the texts keeps."""
    from tokenizers import Tokenizer, models, trainers

    alphabet = {letter for text in runs for letter in text}
    backend = Tokenizer(models.Unigram())
    trainer = trainers.UnigramTrainer(
        vocab_size=len(alphabet) + CANDIDATES * arguments.pieces,
        max_piece_length=arguments.longest,
        unk_token="<unk>",
        special_tokens=["<unk>"],
        show_progress=False,
    )
    backend.train_from_iterator((text for text, count in runs.items() for _ in range(count)), trainer)
    return sorted(piece for piece in backend.get_vocab() if 1 < len(piece) <= arguments.longest and piece[0] != "<")


def _uses(runs: Counter[str], pieces: Iterable[str]) -> Counter[str]:
    """How often each piece is taken, reading from the left and taking the longest, as added tokens are."""
    automaton = AhoCorasick(pieces, matchkind=MatchKind.LeftmostLongest)
    found: Counter[str] = Counter()
    for text, count in runs.items():
        for piece in automaton.find_matches_as_strings(text):
            found[piece] += count
    return found


def _count(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> int:
    """Tokens of all texts."""
    batches = (list(texts[at : at + CALL]) for at in range(0, len(texts), CALL))
    encoded = (tokenizer(batch, add_special_tokens=False)["input_ids"] for batch in batches)
    return sum(len(ids) for batch in encoded for ids in batch)
