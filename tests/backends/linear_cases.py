"""Operands of a linear head and the same by plain PyTorch in any dtype, for the tests of its kernels. Nothing here uses a backend."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from fastpref.backends.base import LogitTransform
from tests.oracle import transform

F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16


@dataclass
class Case:
    """One call's operands. Strides: both matrices are slices of wider ones."""

    rows: int = 19
    width: int = 50
    vocab: int = 301
    dtypes: tuple[torch.dtype, torch.dtype] = (BF16, BF16)
    bias: bool = True
    scale: float = 1.0
    softcap: float | None = None
    temperature: float = 1.0
    per_token: bool = False
    seed: int = 0
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        g = torch.Generator().manual_seed(self.seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=g, dtype=torch.float64)

        hidden, weight = self.dtypes
        t = self.tensors = {
            "hidden": draw(self.rows, self.width + 3).to(hidden)[:, : self.width],
            "weight": (draw(self.vocab, self.width + 5) * 2.5 / self.width**0.5).to(weight)[:, : self.width],
            "targets": torch.randint(0, self.vocab, (self.rows,), generator=g),
            "onehot": draw(self.rows).float(),
            "softmax": draw(self.rows).float(),
        }
        if self.bias:
            t["bias"] = draw(self.vocab).to(weight)
        if self.per_token:
            t["inv_temperature"] = (draw(self.rows).abs() + 0.5).float()

    @property
    def transform(self) -> LogitTransform:
        return LogitTransform(self.scale, self.softcap, self.temperature, self.tensors.get("inv_temperature"))

    @property
    def operands(self) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        t = self.tensors
        return t["hidden"], t["weight"], t.get("bias"), t["targets"]

    def raw(self, dtype: torch.dtype) -> Tensor:
        """The logits."""
        hidden, weight, bias = (None if x is None else x.to(dtype) for x in self.operands[:3])
        return hidden @ weight.t() if bias is None else torch.addmm(bias, hidden, weight.t())

    def transformed(self, raw: Tensor) -> Tensor:
        """``z``."""
        z = transform(raw, self.scale, self.softcap, self.temperature)
        return z * self.tensors["inv_temperature"].to(raw.dtype)[:, None] if self.per_token else z

    def plain(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """The statistics and gradients in one dtype; undefined on ignored rows, whose coefficients should be 0."""
        hidden, weight, bias = (
            None if x is None else x.detach().to(dtype).clone().requires_grad_() for x in self.operands[:3]
        )
        raw = hidden @ weight.t() if bias is None else torch.addmm(bias, hidden, weight.t())
        z = self.transformed(raw)
        lse, logp = z.logsumexp(-1), z.log_softmax(-1)
        targets = self.tensors["targets"].clamp(0, self.vocab - 1)[:, None]
        zt = z.gather(1, targets).squeeze(1)
        live = self.tensors["targets"] >= 0
        # The gradient's definition: two coefficients, of the target's logit and of the softmax.
        pull = zt * self.tensors["onehot"].to(dtype) - lse * self.tensors["softmax"].to(dtype)
        (pull * live).sum().backward()
        found = {
            "logps": logp.gather(1, targets).squeeze(1),
            "lse": lse,
            "entropy": -(logp.exp() * logp).sum(-1),
            "log_sum_sq_probs": (2 * logp).logsumexp(-1),
            "mean_logit": z.mean(-1),
            "argmax": (raw if self.scale > 0 else -raw).argmax(-1),
            "dx": hidden.grad,
            "dw": weight.grad,
        }
        if bias is not None:
            found["db"] = bias.grad
        return {name: value.detach() for name, value in found.items()}


CASES = {
    "bf16": Case(rows=70, vocab=333),
    "bf16, no bias, temperature": Case(bias=False, temperature=0.7, scale=1.3),
    "bf16, negative scale": Case(scale=-1.5),
    "bf16, softcap": Case(softcap=6.0, temperature=1.2),
    "bf16, temperature per token": Case(per_token=True),
    "bf16, softcap, temperature per token": Case(per_token=True, softcap=9.0),
    "fp16": Case(dtypes=(F16, F16)),
    "fp16, softcap": Case(dtypes=(F16, F16), softcap=6.0),
    "fp32": Case(dtypes=(F32, F32)),
    "fp32, all transforms": Case(dtypes=(F32, F32), per_token=True, softcap=9.0, temperature=0.8, scale=1.1),
    "fp32 head, bf16 hidden": Case(dtypes=(BF16, F32)),
    "bf16 head, fp32 hidden": Case(dtypes=(F32, BF16), softcap=12.0),
    "fp16 head, bf16 hidden": Case(dtypes=(BF16, F16)),
    "one of each": Case(rows=1, width=1, vocab=1, bias=False),
    "odd": Case(rows=33, width=31, vocab=31),
    "one row, several segments": Case(rows=1, width=65, vocab=777),
}
