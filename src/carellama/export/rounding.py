"""What AutoRound is told: texts to calibrate on, and how many weights share a scale.

calibration_windows(tokenizer)       # lists of ids
group_size(folder)                   # 128, or the largest that divides every matrix
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from carellama.errors import UserError
from carellama.model.gguf.measure import medical_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WINDOW = 256  # tokens
MOST_WINDOWS = 128
GROUP_SIZES = (128, 64, 32)  # that vLLM and transformers read


def calibration_windows(tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Return pieces of the package's medical texts in both languages, one after the other, all of one length."""
    ids: list[int] = []
    for text in medical_texts():
        ids += tokenizer(text, add_special_tokens=False)["input_ids"]
    size = min(WINDOW, max(32, len(ids) // 8))
    windows = [ids[at : at + size] for at in range(0, len(ids) - size + 1, size)]
    step = max(1, -(-len(windows) // MOST_WINDOWS))
    return windows[::step]


def group_size(folder: Path) -> int:
    """Return how many weights share a scale. Raises `UserError` where no size divides the rows of all matrices."""
    from safetensors import safe_open

    sides: set[int] = set()
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                shape = file.get_slice(name).get_shape()
                if len(shape) == 2 and ".layers." in name:
                    sides.add(shape[1])
    for size in GROUP_SIZES:
        if not any(side % size for side in sides):
            return size
    raise UserError(
        f"--to gptq, awq: rows of {', '.join(map(str, sorted(sides)))} weights do not divide into groups of "
        f"{GROUP_SIZES[-1]}: take another form, as --to gguf"
    )
