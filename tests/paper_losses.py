"""The losses of the stages by their papers, in plain PyTorch: no Trainer, no packing, one record at a time.

Stiennon et al. 2020 (rm, ppo), Rafailov et al. 2023 and what follows it (dpo), Ethayarajh et al. 2024 (kto),
Schulman et al. 2016 and 2017 (ppo). A record is (ids, labels): the label of a position is its id or -100.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

Record = tuple[list[int], list[int]]


def logps(model, record: Record) -> torch.Tensor:
    """log p of each labelled token given all tokens before it, (N,)."""
    ids, labels = (torch.tensor(part) for part in record)
    logs = model(ids[None]).logits[0, :-1].log_softmax(-1)
    return logs.gather(1, ids[1:, None])[:, 0][labels[1:] != -100]


def sft(model, records: Sequence[Record]) -> torch.Tensor:
    each = torch.cat([logps(model, record) for record in records])
    return -each.mean()


def rm(model, pairs: Sequence[Record]) -> torch.Tensor:
    scores = [model.score(model.model(torch.tensor(ids)[None]).last_hidden_state[0, -1])[0] for ids, _ in pairs]
    return torch.stack([-F.logsigmoid(c - r) for c, r in zip(scores[0::2], scores[1::2], strict=True)]).mean()


def dpo(model, ref, pairs: Sequence[Record], kind: str, beta: float, smooth=0.0, gamma=0.5, ftx=0.0) -> torch.Tensor:
    losses = []
    for chosen, rejected in zip(pairs[0::2], pairs[1::2], strict=True):
        c, r = logps(model, chosen), logps(model, rejected)
        with torch.no_grad():
            ref_c, ref_r = logps(ref, chosen), logps(ref, rejected)
        h = (c.sum() - ref_c.sum()) - (r.sum() - ref_r.sum())
        odds = [p - torch.log(1 - p.exp()) for p in (c.mean(), r.mean())]
        losses.append({
            "sigmoid": -(1 - smooth) * F.logsigmoid(beta * h) - smooth * F.logsigmoid(-beta * h),
            "hinge": torch.relu(1 - beta * h),
            "ipo": ((c - ref_c).mean() - (r - ref_r).mean() - 1 / (2 * beta)) ** 2,
            "orpo": -c.mean() - beta * F.logsigmoid(odds[0] - odds[1]),
            "simpo": -F.logsigmoid(beta * (c.mean() - r.mean()) - gamma),
        }[kind] - ftx * c.mean())  # fmt: skip
    return torch.stack(losses).mean()


def kto(model, ref, records: Sequence[Record], good: Sequence[bool], beta: float, w_good=1.0, w_bad=1.0):
    def reward(record: Record) -> torch.Tensor:
        with torch.no_grad():
            other = logps(ref, record).sum()
        return beta * (logps(model, record).sum() - other)

    def prompt(record: Record) -> list[int]:
        return [token for token, label in zip(*record, strict=True) if label == -100]

    mixed = []  # each prompt with the answer to another one
    for at, record in enumerate(records):
        answer = [label for label in records[at - 1][1] if label != -100]
        mixed.append((prompt(record) + answer, [-100] * len(prompt(record)) + answer))
    with torch.no_grad():
        drift = torch.stack([reward(record) for record in mixed]).mean()
    z = drift.clamp(min=0)
    each = []
    for record, liked in zip(records, good, strict=True):
        value = reward(record) - z
        each.append(w_good * (1 - torch.sigmoid(value)) if liked else w_bad * (1 - torch.sigmoid(-value)))
    return torch.stack(each).mean(), drift


def values(model, head, record: Record) -> torch.Tensor:
    """The value before each labelled token, (N,)."""
    ids, labels = (torch.tensor(part) for part in record)
    return head(model.model(ids[None]).last_hidden_state[0, :-1])[:, 0][labels[1:] != -100]


def ppo_rollout(model, head, ref, records, scores, b, gamma, lam):
    """log pi, V, A and A + V of each token of each answer when it was drawn; A whitened over all tokens."""
    found = []
    with torch.no_grad():
        for record, score in zip(records, scores, strict=True):
            own, v = logps(model, record), values(model, head, record)
            reward = -b * (own - logps(ref, record))
            reward[-1] += score
            ahead = torch.cat([v[1:], torch.zeros(1)])
            delta = reward + gamma * ahead - v
            a = [sum((gamma * lam) ** (k - t) * delta[k] for k in range(t, len(v))) for t in range(len(v))]
            found.append([own, v, torch.stack(a), torch.stack(a) + v])
    every = torch.cat([a for *_, a, _ in found])
    return [(own, v, (a - every.mean()) / every.std(), returns) for own, v, a, returns in found]


def ppo(model, head, records, rollout, clip, value_clip, value_coef) -> torch.Tensor:
    each = []
    for record, (old, old_v, a, returns) in zip(records, rollout, strict=True):
        ratio = (logps(model, record) - old).exp()
        v = values(model, head, record)
        near = old_v + (v - old_v).clamp(-value_clip, value_clip)
        policy = -torch.minimum(a * ratio, a * ratio.clamp(1 - clip, 1 + clip))
        each.append(policy + value_coef * 0.5 * torch.maximum((v - returns) ** 2, (near - returns) ** 2))
    return torch.cat(each).mean()


def trained(model, loss: Callable[[], torch.Tensor], steps: int, learning_rate: float, more=()) -> list[float]:
    """The losses of so many steps of AdamW with a constant rate, gradients clipped to a norm of 1."""
    parameters = [*model.parameters(), *more]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0)
    found = []
    for _ in range(steps):
        value = loss()
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        found.append(float(value.detach()))
    return found
