"""The options of `carellama tokenizer train`. Light: nothing of a model is imported."""

from __future__ import annotations

from dataclasses import dataclass, field

from carellama.config.option import about, at_least


@dataclass(frozen=True)
class TokenizerArguments:
    """Which texts are learned from, for which tokenizer, and where the tokens go."""

    names: list[str] = field(metadata=about("Datasets (dataset_info.json, catalogue) or files (first words)."))
    model_name_or_path: str = field(metadata=about("Model whose tokenizer is extended."))
    output: str = field(
        default="pieces.txt", metadata=about("File to write, one token a line; the account is OUTPUT.json.")
    )
    pieces: int = field(default=1000, metadata=about("Most tokens to add."))
    min_count: int = field(default=5, metadata=about("Uses in the texts below which a piece is not worth a token."))
    longest: int = field(default=8, metadata=about("Most characters of a piece."))
    max_characters: int = field(
        default=10_000_000, metadata=about("Learn from so many characters; what comes after is not read.")
    )
    dataset_dir: str = field(default="data", metadata=about("Folder with dataset_info.json."))
    overwrite: bool = field(default=False, metadata=about("Replace the output if it is there."))

    def __post_init__(self) -> None:
        at_least(self, pieces=1, min_count=1, longest=2, max_characters=1)
