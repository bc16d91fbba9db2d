"""What the comparisons with TRL share: padded batches, a model made of given logits, trainers without their ``__init__``.

TRL's side is TRL's own trainer code, run on logits that stand for a model's output; the statistics that its fused head would return are
written here in plain PyTorch. fastpref's side packs the same padded logits and runs ``logprobs`` and ``preference_loss`` on them. Compared
are the loss, its gradient with respect to the logits, and every metric that both report.
"""

from __future__ import annotations

import os
from collections import defaultdict
from contextlib import nullcontext
from dataclasses import dataclass, field
from importlib import metadata
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import fastpref
from fastpref.packing import pack_padded, segment_sum

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # half of the trainers are in trl.experimental, which says so

VOCAB = 13
EXACT = 1e-12
"""Where TRL computes in float64."""
ROUNDED = 5e-7
"""Where TRL rounds a constant, or the last few steps, to float32."""
SINGLE = 5e-6
"""Where TRL computes in float32, relative to the largest number: exponentials of sums of several terms, in some 40 units in the last place."""


def _why_not() -> str | None:
    try:
        found = metadata.version("trl")
    except metadata.PackageNotFoundError:
        return "trl is not installed (these tests compare with trl>=1.16,<2)"
    major, minor = (int(part) for part in found.split(".")[:2])
    return None if major == 1 and minor >= 16 else f"compares with trl>=1.16,<2, found {found}"


needs_trl = pytest.mark.skipif(_why_not() is not None, reason=str(_why_not()))
"""Decided from the installed packages' metadata: TRL takes seconds to import, and only the tests themselves do it."""


@dataclass
class Padded:
    """B sequences of a prompt and a completion, with random logits ``[B, L, V]`` of a policy and, near it, of a reference and an old policy."""

    input_ids: Tensor
    attention_mask: Tensor
    completion_mask: Tensor
    policy: Tensor
    reference: Tensor
    old: Tensor
    prompt_width: int

    @classmethod
    def of(
        cls,
        prompts: list[int],
        completions: list[int],
        *,
        aligned: bool = False,
        dtype: torch.dtype = torch.float64,
        spread: float = 0.8,
        seed: int = 0,
    ) -> Padded:
        """From lengths. ``aligned``: prompts are padded on the left, so that all completions begin at the same position, as GRPO has them."""
        g = torch.Generator().manual_seed(seed)
        width = max(prompts)
        starts = [width - p if aligned else 0 for p in prompts]
        total = max(s + p + c for s, p, c in zip(starts, prompts, completions, strict=True))
        position = torch.arange(total)
        start, prompt, end = (
            torch.tensor(v)[:, None]
            for v in (
                starts,
                [s + p for s, p in zip(starts, prompts, strict=True)],
                [s + p + c for s, p, c in zip(starts, prompts, completions, strict=True)],
            )
        )
        shape = (len(prompts), total, VOCAB)
        base = 2.0 * torch.randn(shape, generator=g, dtype=torch.float64)
        near = [base + spread * torch.randn(shape, generator=g, dtype=torch.float64) for _ in range(2)]
        return cls(
            torch.randint(0, VOCAB, shape[:2], generator=g),
            ((position >= start) & (position < end)).long(),
            ((position >= prompt) & (position < end)).long(),
            *(x.to(dtype) for x in (base, *near)),
            prompt_width=width,
        )

    @property
    def labels(self) -> Tensor:
        """``[B, L]``, aligned to the input."""
        return self.input_ids.masked_fill(self.completion_mask == 0, -100)

    @property
    def cu_seqlens(self) -> Tensor:
        """``[B+1]``."""
        return pack_padded(self.policy, self.labels).cu_seqlens

    def tokens(self, logits: Tensor, stats: tuple[str, ...] = ()) -> fastpref.TokenLogProbs:
        """``[T]`` packed token log-probs."""
        rows = pack_padded(logits, self.labels)
        return fastpref.logprobs(rows.hidden, rows.targets, stats=stats)

    def sums(self, logits: Tensor) -> Tensor:
        """``[B]`` sequence log-probs."""
        return segment_sum(self.tokens(logits).logps, self.cu_seqlens)

    def packed(self, values: Tensor) -> Tensor:
        """Numbers of the completion tokens, ``[B, L]`` aligned to the input, to ``[T]``."""
        return values[:, 1:][self.completion_mask[:, 1:].bool()]

    def take(self, order: Tensor) -> Padded:
        """Some of the sequences."""
        fields = ("input_ids", "attention_mask", "completion_mask", "policy", "reference", "old")
        return Padded(**{name: getattr(self, name)[order] for name in fields}, prompt_width=self.prompt_width)


class LogitsModel(torch.nn.Module):
    """A model that returns given logits, or what TRL's fused head makes of them; of several, those as wide as its input."""

    is_gradient_checkpointing = False

    def __init__(self, *logits: Tensor) -> None:
        super().__init__()
        self.logits = {x.shape[1]: x for x in logits}

    def forward(
        self, input_ids: Tensor, labels: Tensor | None = None, fused_lm_head: bool = False, **_: Any
    ) -> SimpleNamespace:
        logits = self.logits[input_ids.shape[1]]
        if not fused_lm_head:
            return SimpleNamespace(logits=logits)
        logits, targets = logits[:, :-1], labels[:, 1:]
        ignored, logp = targets == -100, logits.log_softmax(-1)
        picked = logp.gather(-1, targets.clamp_min(0)[..., None]).squeeze(-1)
        return SimpleNamespace(
            log_probs=picked.masked_fill(ignored, 0.0),
            entropy=-(logp.exp() * logp).sum(-1).masked_fill(ignored, 0.0).detach(),
            log_sum_sq_probs=(2.0 * logp).logsumexp(-1).masked_fill(ignored, 0.0).detach(),
            mean_logits=logits.mean(-1).masked_fill(ignored, 0.0).detach(),
            is_top1=(logits.argmax(-1) == targets) & ~ignored,
        )


class OneProcess:
    """The accelerator of a run on one CPU process."""

    device = torch.device("cpu")
    num_processes = 1
    sync_gradients = True
    is_main_process = False  # nothing to report to

    def gather(self, values: Tensor) -> Tensor:
        return values

    gather_for_metrics = gather

    def reduce(self, values: Tensor, reduction: str) -> Tensor:
        return values

    def autocast(self) -> nullcontext:
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        loss.backward()


def bare(cls: type, **attributes: Any) -> Any:
    """A trainer whose ``__init__`` did not run: it has the methods of ``cls`` and the attributes that its loss code reads."""
    trainer = object.__new__(cls)
    common = {
        "accelerator": OneProcess(),
        "aux_loss_enabled": False,
        "model": torch.nn.Identity(),
        "_metrics": {"train": defaultdict(list)},
        "_total_train_tokens": 0,
        "_tp_size": 1,
        "current_gradient_accumulation_steps": 1,
    }
    vars(trainer).update(common | attributes)
    return trainer


@dataclass
class Result:
    """Of one side."""

    loss: Tensor
    gradient: Tensor
    metrics: dict[str, float] = field(default_factory=dict)


def metrics_of(trainer: Any) -> dict[str, float]:
    """What a trainer logged in its only step."""
    return {name: values[-1] for name, values in trainer._metrics["train"].items()}


def by_fastpref(
    objective: Any, batch: Padded, *, reference: bool = True, stats: tuple[str, ...] = (), **data: Any
) -> Result:
    """fastpref's loss of a padded batch, and its gradient with respect to the policy's logits."""
    leaf = batch.policy.clone().requires_grad_()
    out = fastpref.preference_loss(
        objective,
        batch.tokens(leaf, stats),
        batch.tokens(batch.reference) if reference else None,
        cu_seqlens=batch.cu_seqlens,
        **data,
    )
    out.loss.backward()
    return Result(out.loss.detach(), leaf.grad, {name: value.item() for name, value in out.metrics.items()})


def assert_agree(found: Result, wanted: Result, tolerance: float = EXACT, *, metrics: tuple[str, ...] = ()) -> None:
    """Loss and gradient within ``tolerance`` of TRL's, relative to the loss and to the largest entry of the gradient; every metric that both
    report within float32, in which TRL logs some. ``metrics``: those that must be among them."""
    assert torch.isfinite(wanted.loss), "TRL's loss is not finite"
    assert wanted.gradient.any(), "TRL's gradient is 0: nothing to compare"
    for what, ours, theirs in (("loss", found.loss, wanted.loss), ("gradient", found.gradient, wanted.gradient)):
        off = deviation(ours, theirs)
        assert off <= tolerance, (
            f"{what}: {off:.1e} from TRL's, allowed {tolerance:.0e}; losses {found.loss}, {wanted.loss}"
        )
    shared = found.metrics.keys() & wanted.metrics.keys()
    assert set(metrics) <= shared, f"metrics: expected {sorted(metrics)}, in common are {sorted(shared)}"
    for name in shared:
        ours, theirs = found.metrics[name], wanted.metrics[name]
        assert ours == pytest.approx(theirs, rel=SINGLE, abs=SINGLE), f"{name}: {ours}, TRL {theirs}"


def deviation(found: Tensor, wanted: Tensor) -> float:
    """Largest difference, relative to the largest entry."""
    assert found.shape == wanted.shape
    return ((found.double() - wanted.double()).abs().max() / wanted.double().abs().max()).item()
