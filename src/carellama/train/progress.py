"""How a training goes, while it goes: one live line on a terminal, plain lines elsewhere, and numbers for the log.

    step 12/60  epoch 0.8  loss 2.314  1,210 tokens/s, 38% of the matrix rate  2.1 GB  0:03:12 left

The matrix rate is what a matrix product of this machine reaches, measured when the training begins (0.2 s). The work of
a step is counted as is usual (Kaplan et al. 2020, arXiv:2001.08361, table 1; Chowdhery et al. 2022, appendix B): two
operations a weight and token forwards, two for the gradients of what passes through, two for those of the weights that
learn; and four a head's width and pair of tokens of a record for attention, twice that backwards. Norms and the
optimiser count nothing; neither does what is computed twice to save memory.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from carellama.hardware import measure_matmul_flops, process_memory_bytes
from carellama.model.lora import base_of

if TYPE_CHECKING:
    from rich.live import Live


class ThroughputCounter:
    """Tokens and operations done, in this process."""

    def __init__(self, model: torch.nn.Module, passes: float = 0) -> None:
        """`passes`: how often a batch goes through a model forwards besides being learned, as a reference's."""
        base = base_of(model)
        head = base.get_output_embeddings()
        inside = set() if head is None else {id(module) for module in head.modules()}
        body = trained = 0
        for module in model.modules():
            if isinstance(module, torch.nn.Linear) and id(module) not in inside:
                size = module.in_features * module.out_features
                body += size
                trained += size * module.weight.requires_grad
        text = base.config.get_text_config()
        wide = 0 if head is None else text.vocab_size * text.hidden_size
        learns = head is not None and any(one.requires_grad and one.numel() >= wide for one in head.parameters())
        self._token = body * (4 + 2 * passes) + 2 * trained
        self._target = wide * (4 + 2 * passes + 2 * learns)
        width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        self._pair = 4 * text.num_hidden_layers * text.num_attention_heads * width * (3 + passes)
        self.tokens, self.operations = 0, 0.0

    def add(self, tokens: int, targets: int, pairs: int = 0) -> None:
        """Count a batch: its tokens, those that are predicted, and the squares of its records' lengths."""
        self.tokens += tokens
        self.operations += tokens * self._token + targets * self._target + pairs * self._pair


class Progress(TrainerCallback):
    """Shows each step, and knows the rates that are logged: `tokens_per_second`, `matrix_share`, `memory_gb`."""

    def __init__(self, work: ThroughputCounter, dtype: str) -> None:
        self.work, self.dtype = work, dtype
        self.live: Live | None = None
        self.loss: float | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Measure the machine, and open the line."""
        self.rate = measure_matmul_flops(self.dtype)
        self.began = self.last = time.monotonic()
        self.first_step, self.before = state.global_step, (0, 0.0)
        if state.is_world_process_zero and sys.stderr.isatty() and not args.disable_tqdm:
            from rich.console import Console
            from rich.live import Live

            self.live = Live(console=Console(stderr=True), refresh_per_second=4, transient=True)
            self.live.start()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Bring the line up to date."""
        if self.live is not None:
            from rich.text import Text

            self.live.update(
                Text(self.line(state, *self._since(self.began, (0, 0.0))), no_wrap=True, overflow="ellipsis")
            )

    def rates(self) -> dict[str, float]:
        """The rates since this was asked before, for the log."""
        rate, share = self._since(self.last, self.before)
        self.last, self.before = time.monotonic(), (self.work.tokens, self.work.operations)
        memory = round(process_memory_bytes() / 1e9, 3)
        return {"tokens_per_second": round(rate, 1), "matrix_share": round(share, 4), "memory_gb": memory}

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        """Print a line where there is no live one."""
        if not logs or "loss" not in logs:
            return
        self.loss = float(logs["loss"])
        if state.is_world_process_zero and self.live is None:
            print(self.line(state, logs["tokens_per_second"], logs["matrix_share"]), file=sys.stderr, flush=True)

    def show(self, line: str) -> None:
        """Print a line above the live one."""
        if self.live is not None:
            self.live.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Close the line."""
        self.close()

    def close(self) -> None:
        """Give the terminal back, also after an error."""
        if self.live is not None:
            self.live.stop()
            self.live = None

    def line(self, state: TrainerState, rate: float, share: float) -> str:
        """The state in words."""
        done = max(state.global_step - self.first_step, 1)
        left = (time.monotonic() - self.began) / done * max(state.max_steps - state.global_step, 0)
        parts = [f"step {state.global_step}/{state.max_steps}", f"epoch {state.epoch or 0:.2f}"]
        if self.loss is not None:
            parts.append(f"loss {self.loss:.4g}")
        parts += [
            f"{rate:,.0f} tokens/s, {share:.0%} of the matrix rate",
            f"{process_memory_bytes() / 1e9:.1f} GB",
            f"{int(left) // 3600}:{int(left) // 60 % 60:02}:{int(left) % 60:02} left",
        ]
        return "  ".join(parts)

    def _since(self, began: float, before: tuple[int, float]) -> tuple[float, float]:
        """(tokens a second, share of the matrix rate) since then."""
        seconds = max(time.monotonic() - began, 1e-9)
        tokens, operations = self.work.tokens - before[0], self.work.operations - before[1]
        return tokens / seconds, operations / seconds / self.rate
