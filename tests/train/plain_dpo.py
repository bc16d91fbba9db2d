"""DPO in plain PyTorch, written from the formulas and TRL's conventions, independent of the package: padded batch, full
logits.

In float64 it is the oracle; in float32 the yardstick of the precision rule.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch.nn import functional as F


def padded(triples: list[tuple[list[int], list[int], list[int]]]) -> tuple[Tensor, Tensor, Tensor]:
    """``(input_ids, attention_mask, labels)`` of N chosen, then N rejected: right padding, -100 outside the
    completion."""
    sequences = [(p, c) for p, c, _ in triples] + [(p, r) for p, _, r in triples]
    width = max(len(p) + len(c) for p, c in sequences)
    ids = torch.zeros(len(sequences), width, dtype=torch.int64)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for i, (p, c) in enumerate(sequences):
        end = len(p) + len(c)
        ids[i, :end] = torch.tensor([*p, *c])
        mask[i, :end] = 1
        labels[i, len(p) : end] = torch.tensor(c)
    return ids, mask, labels


def sequence_logps(model, triples) -> Tensor:
    """``[2N]`` sums over completion tokens."""
    ids, mask, labels = padded(triples)
    logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
    labels = labels[:, 1:]
    picked = logits.log_softmax(-1).gather(-1, labels.clamp_min(0)[..., None]).squeeze(-1)
    return picked.masked_fill(labels < 0, 0.0).sum(-1)


def dpo_loss(policy: Tensor, reference: Tensor, beta: float) -> Tensor:
    """Mean over pairs."""
    chosen, rejected = (policy - reference).chunk(2)
    return F.softplus(-beta * (chosen - rejected)).mean()


def first_step(model, reference, triples, *, beta: float, lr: float, max_norm: float, dtype: torch.dtype) -> dict:
    """Loss, gradients and the parameters after one AdamW step (no weight decay), in ``dtype``."""
    model, reference = copy.deepcopy(model).to(dtype).eval(), copy.deepcopy(reference).to(dtype).eval()
    with torch.no_grad():
        fixed = sequence_logps(reference, triples)
    loss = dpo_loss(sequence_logps(model, triples), fixed, beta)
    loss.backward()
    parameters = dict(model.named_parameters())
    norm = torch.stack([p.grad.norm() for p in parameters.values()]).norm()
    scale = min(1.0, max_norm / float(norm))
    gradients = {name: p.grad.clone() for name, p in parameters.items()}
    with torch.no_grad():
        after = {}
        for name, p in parameters.items():
            g = p.grad * scale  # step 1 of Adam: bias-corrected moments are g and g**2
            after[name] = p - lr * g / (g.abs() + 1e-8)
    return {"loss": loss.detach(), "norm": norm, "gradients": gradients, "after": after}
