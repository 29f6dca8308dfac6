"""An importance matrix measured: which columns of a network's matrices get large inputs from medical texts.

    importance = measure_importance(network, tokenizer, medical_texts())
    importance.save(Path("imatrix.gguf"))                   # llama-quantize --imatrix reads it, too

The squared inputs of each matrix product are summed while the network reads. The texts are Chinese and English and were
written for this project. Each matrix is kept under its name in a .gguf, which llama.cpp's converter tells
(`carellama.model.gguf.names`). The output counts as well, and where it is one with the embedding it has that name.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

from carellama.errors import UserError
from carellama.files import write_json
from carellama.model.gguf.converter import run_converter
from carellama.model.gguf.importance import CHUNK_TOKENS, Importance
from carellama.model.readers import CONFIG, readable_config
from carellama.package_data import package_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Measured = tuple[torch.Tensor, torch.Tensor]  # sums of squares (1 or experts, columns), tokens (1 or experts,)
OWN_TEXTS = "medical texts of CareLlama, zh and en"
NAMES = "from carellama.model.gguf.names import write; write(*sys.argv[1:])"
MOST_CHUNKS = 5  # of a text: a language whose words take many tokens does not count more
EXPERT = re.compile(r"\.experts\.(\d+)\.")
# Products of an input and a matrix: where both stand in the call, and whether the matrix has its columns first.
PRODUCTS: dict[Callable[..., Any], tuple[int, int, bool]] = {
    torch.nn.functional.linear: (0, 1, False),
    torch.addmm: (1, 2, True),
    torch.matmul: (0, 1, True),
    torch.Tensor.matmul: (0, 1, True),
    torch.Tensor.__matmul__: (0, 1, True),
}


@lru_cache(maxsize=1)
def medical_texts() -> tuple[str, ...]:
    """The texts that importance is measured on: one Chinese, one English."""
    return tuple(text for _, text in package_folder("model/gguf/texts", ".txt"))


def measure_importance(
    network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], source: str = OWN_TEXTS
) -> Importance:
    """Let a network read texts, and return how much each column of its matrices matters.

    source: what the matrix says of its texts. Raises `UserError` for texts without words, and `NotConvertible` for a
    model that llama.cpp's converter does not know.
    """
    limit = min(CHUNK_TOKENS, getattr(network.config.get_text_config(), "max_position_embeddings", CHUNK_TOKENS))
    rows = list(_chunks(tokenizer, texts, limit))
    if not rows:
        raise UserError("the texts for an importance matrix are empty: give texts with some thousand words")
    with _plain_experts(network), InputSquares(network) as squares, torch.no_grad():
        for row in rows:
            network(input_ids=torch.tensor([row], device=network.device), use_cache=False)
    names = _gguf_names(network, {name: total.shape[-1] for name, total in squares.sums.items()})
    parts: dict[str, dict[int, Measured]] = defaultdict(dict)
    stripped: dict[str, str] = {}
    for parameter, total in squares.sums.items():
        expert = EXPERT.search(parameter)
        for name in names.get(parameter, ()):
            parts[name][int(expert[1]) if expert else 0] = (total, squares.counts[parameter])
            stripped[name] = EXPERT.sub(".experts.", parameter)
    if not parts:
        raise UserError("none of the model's matrices has a name in llama.cpp: no importance matrix can be made")
    experts = Counter(EXPERT.sub(".experts.", name) for name, _ in network.named_parameters())
    joined = {}
    for name, part in parts.items():
        every = _whole(part, experts[stripped[name]])
        joined[name] = [torch.cat(one) for one in zip(*every, strict=True)]
    sums = {name: total.float().cpu().numpy() for name, (total, _) in joined.items()}
    counts = {name: seen.float().cpu().numpy() for name, (_, seen) in joined.items()}
    return Importance(sums, counts, (source,), len(rows))


def _whole(found: Mapping[int, Measured], count: int) -> list[Measured]:
    """Sums and counts of all experts in order, with zeros for those that read nothing."""
    total, seen = next(iter(found.values()))
    nothing = torch.zeros_like(total), torch.zeros_like(seen)
    return [found.get(number, nothing) for number in range(count)]


def _chunks(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], limit: int) -> Iterator[list[int]]:
    for text in texts:
        ids = tokenizer(text)["input_ids"][: MOST_CHUNKS * CHUNK_TOKENS]
        for begin in range(0, len(ids), limit):
            yield ids[begin : begin + limit]


class InputSquares(TorchFunctionMode):
    """Sums, within its block, the squares of what each matrix of a network is multiplied with.

    `sums`: (1 or experts, columns) by parameter, in float64; `counts`: (1 or experts,) tokens.
    """

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.sums: dict[str, torch.Tensor] = {}
        self.counts: dict[str, torch.Tensor] = {}
        self._last: tuple[torch.Tensor, torch.Tensor] | None = None  # inputs and their squares
        self._known: dict[int, tuple[str, int, int]] = {}  # by address: parameter, expert, experts
        for name, parameter in network.named_parameters():
            if parameter.dim() == 2:
                self._known[parameter.data_ptr()] = (name, 0, 1)
            for expert in range(len(parameter) if parameter.dim() == 3 else 0):
                self._known[parameter[expert].data_ptr()] = (name, expert, len(parameter))

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Look at one call of torch."""
        product = PRODUCTS.get(func)
        if product is not None:
            first, second, columns_first = product
            inputs = args[first] if len(args) > first else (kwargs or {}).get("input")
            weight = args[second] if len(args) > second else (kwargs or {}).get("weight")
            if isinstance(weight, torch.Tensor) and isinstance(inputs, torch.Tensor):
                known = self._known.get(weight.data_ptr())
                if known and inputs.shape[-1] == weight.shape[-2 if columns_first else -1]:
                    self._add(known, inputs)
        return func(*args, **(kwargs or {}))

    def _add(self, known: tuple[str, int, int], inputs: torch.Tensor) -> None:
        name, expert, experts = known
        with torch._C.DisableTorchFunction():  # noqa: SLF001 - as torch documents it
            if self._last is None or self._last[0] is not inputs:  # queries, keys and values get the same
                rows = inputs.detach().reshape(-1, inputs.shape[-1]).float()  # (tokens, columns)
                self._last = (inputs, torch.linalg.vector_norm(rows, dim=0).double().square())
            squares = self._last[1]
            if name not in self.sums:
                self.sums[name] = squares.new_zeros(experts, len(squares))
                self.counts[name] = squares.new_zeros(experts)
            self.sums[name][expert] += squares
            self.counts[name][expert] += inputs.shape[:-1].numel()


@contextmanager
def _plain_experts(network: PreTrainedModel) -> Iterator[None]:
    """Let experts be computed one after another, as matrix products that can be seen."""
    config = network.config
    before = getattr(config, "_experts_implementation", None)
    if before is None:
        yield
        return
    network.set_experts_implementation("eager")
    try:
        yield
    finally:
        network.set_experts_implementation(before)


def _gguf_names(network: PreTrainedModel, columns: Mapping[str, int]) -> dict[str, list[str]]:
    """The names in a .gguf of each parameter (whose columns are given), by the converter."""
    shapes = {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}
    with tempfile.TemporaryDirectory(prefix="carellama-") as temporary:
        folder, asked, answer = (Path(temporary) / name for name in ("model", "asked.json", "names.json"))
        network.config.save_pretrained(folder)
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        write_json(folder / CONFIG, readable_config(config | {"architectures": [type(network).__name__]}))
        asked.write_text(json.dumps({name: (shapes[name], size) for name, size in columns.items()}), encoding="utf-8")
        run_converter(NAMES, [str(folder), str(asked), str(answer)], "the model")
        found: dict[str, list[str]] = json.loads(answer.read_text(encoding="utf-8"))
    return found
