"""How well the weights of a LoRA fit each chat format: training moves them against the gradients of its own format.

The matrix B of a LoRA layer begins as zeros, and AdamW moves it against the gradient of the loss, where each number is
divided by the root of its mean square. So a training under format k leaves a B that looks like -g_k, the gradient at
B = 0 of the loss of some answers rendered by k. Most of it is the same for all formats (the words of the answers); what
k alone asks for is in the rest. For each layer the trained B is explained by the gradients of all formats together, in
a ridge regression (Hoerl and Kennedy, Technometrics 12, 1970), whose coefficients are brought to mean 0 and deviation 1
over the formats. Their means over the layers, brought to mean 0 and deviation 1 again, are the matches.

    gradients = LoraGradients(network, formats=len(pairs))
    gradients.add(dict(enumerate(pairs)))  # some answers behind the prompts of each format
    gradients.matches()

The loss under a format says less: a base model dislikes some formats more than others, which no training made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from carellama.evaluate.chat_formats.answer_scores import answer_logprobs
from carellama.evaluate.chat_formats.candidates import Pair
from carellama.evaluate.chat_formats.progress import with_progress
from carellama.evaluate.chat_formats.verdict import standard_errors

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

RIDGE = 0.5  # of the mean square of the gradients
MOST_NUMBERS = 1 << 28  # gradients in memory: 1 GiB of float32; of larger adapters layers are left out evenly


class LoraGradients:
    """Gradients of K formats at the untrained state of the L layers of a LoRA, summed over answers."""

    def __init__(self, network: PeftModel, formats: int) -> None:
        self.network = network
        weights = lora_b_weights(network)
        size = sum(weight.numel() for weight in weights)
        step = -(-size * formats // MOST_NUMBERS)
        self.weights = weights[::step]
        self.trained = [weight.detach().float().cpu().flatten() for weight in self.weights]
        self.sums = [weight.new_zeros(formats, len(weight)) for weight in self.trained]  # each (K, N)
        self.squares = [weight.new_zeros(len(weight)) for weight in self.trained]

    def add(self, answers: Mapping[int, Sequence[Pair]], step: str = "") -> None:
        """Add the gradients of some answers: for each format by its number, the same ones behind its prompts.

        `step` is printed.
        """
        import torch

        with untrained(self.network), torch.enable_grad():
            for row, pairs in with_progress(step, list(answers.items())):
                loss = torch.stack([-said.mean() for said in answer_logprobs(self.network, pairs)]).mean()
                # A layer that no token went through, as an expert of a mixture, has zeros.
                of_layers = torch.autograd.grad(loss, self.weights, materialize_grads=True)
                for layer, gradient in enumerate(of_layers):
                    found = gradient.float().cpu().flatten()
                    self.sums[layer][row] += found
                    self.squares[layer] += found.square()

    def matches(self) -> list[float]:
        """Return the match of each format: standard deviations from their mean, averaged over layers."""
        import torch

        rows = [
            _standard(_ridge(units - units.mean(0), -trained))  # what all formats have in common are the answers
            for trained, units in self._layers()
        ]
        return _standard(torch.stack(rows).mean(0)).tolist()

    def lead(self, one: int, other: int) -> float:
        """Return by how many standard errors over the layers the weights fit one format better than another.

        The trained matrix of each layer is compared with the difference of the two gradients (cosine). A layer that no
        token went through has none; 0 where fewer than two are left.
        """
        cosines = []
        for trained, units in self._layers():
            apart = units[one] - units[other]
            if scale := float(apart.norm() * trained.norm()):
                cosines.append(-float(apart @ trained) / scale)
        return standard_errors(cosines, [0.0] * len(cosines)) if len(cosines) > 1 else 0.0

    def _layers(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The trained matrix (N) of each layer, and the unit gradients (K, N) as AdamW sees them."""
        import torch

        for trained, sums, squares in zip(self.trained, self.sums, self.squares, strict=True):
            gradients = sums / squares.sqrt().clamp_min(torch.finfo(squares.dtype).tiny)
            yield trained, torch.nn.functional.normalize(gradients, dim=1)


def lora_b_weights(network: PeftModel) -> list[torch.Tensor]:
    """Return the matrices B of the active LoRA, in the order of the layers; none for other kinds of adapters."""
    from peft.tuners.lora import LoraLayer

    return [
        layer.lora_B[name].get_parameter("weight")
        for layer in network.modules()
        if isinstance(layer, LoraLayer)
        for name in layer.active_adapters
        if name in layer.lora_B
    ]


@contextmanager
def untrained(network: PeftModel) -> Iterator[None]:
    """Set the matrices B to zeros, as before the training, and let them have gradients; restores both at the end."""
    weights = lora_b_weights(network)
    before = [(weight.detach().clone(), weight.requires_grad) for weight in weights]
    try:
        for weight in weights:
            weight.data.zero_()
            weight.requires_grad = True
        yield
    finally:
        for weight, (values, trainable) in zip(weights, before, strict=True):
            weight.data.copy_(values)
            weight.requires_grad = trainable


def _ridge(units: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The coefficients (K) of centred unit gradients (K, N) that explain the target (N)."""
    import torch

    gram = (units @ units.T).double()  # (K, K)
    penalty = (RIDGE * gram.diagonal().mean()).clamp_min(1e-30) * torch.eye(len(gram), dtype=gram.dtype)
    coefficients: torch.Tensor = torch.linalg.solve(gram + penalty, (units @ target).double())
    return coefficients


def _standard(values: torch.Tensor) -> torch.Tensor:
    """Values with mean 0 and deviation 1; zeros where all are the same."""
    centred = values - values.mean()
    return centred / centred.std().clamp_min(1e-30)
