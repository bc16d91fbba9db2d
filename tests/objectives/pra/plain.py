"""The preference losses' oracle: scalar functions in plain Python, example pairs, and the comparison of an objective with a formula.

A formula takes a :class:`Pair` and hyper-parameters and returns ``(loss, a_w, a_l)``; nothing here calls the package's own functions.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pytest
import torch

from fastpref.objectives.base import Objective
from fastpref.objectives.batch import SequenceBatch
from fastpref.objectives.catalogue_pra import entries

KNOWN = {name: (cls, defaults) for cls, names, defaults in entries() for name in names}
MOST = 80.0
"""Where the losses clamp the exponents of an exp."""


def make(name: str, **hyper: Any) -> Objective:
    cls, defaults = KNOWN[name]
    return cls(**{**defaults, **hyper})


def softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x > 0 else math.exp(x) / (1.0 + math.exp(x))


def slope(x: float) -> float:
    """Derivative of the sigmoid."""
    return sigmoid(x) * sigmoid(-x)


def clamped_exp(x: float) -> tuple[float, float]:
    """``e^min(x, 80)`` and its derivative, 0 beyond."""
    return math.exp(min(x, MOST)), (math.exp(x) if x <= MOST else 0.0)


def log1mexp(x: float) -> float:
    return math.log(-math.expm1(x)) if x > -math.log(2) else math.log1p(-math.exp(x))


def bernoulli_kl(g: float, z: float) -> float:
    """``KL(sigmoid(g) || sigmoid(z))``, from the definition of the divergence."""
    return sigmoid(g) * (softplus(-z) - softplus(-g)) + sigmoid(-g) * (softplus(z) - softplus(g))


@dataclass(frozen=True)
class Pair:
    """``w`` chosen, ``l`` rejected; ``share`` is the mean chosen length of the call."""

    lw: float
    ll: float
    rw: float = 0.0
    rl: float = 0.0
    tw: int = 1
    tl: int = 1
    reward_w: float = 0.0
    reward_l: float = 0.0
    win_w: float = 0.5
    win_l: float = 0.5
    ref_w: bool = False
    kl_w: float = 0.0
    kl_l: float = 0.0
    sft: float = 0.0
    share: float = 1.0

    @property
    def hw(self) -> float:
        return self.lw - self.rw

    @property
    def hl(self) -> float:
        return self.ll - self.rl

    @property
    def d(self) -> float:
        return self.hw - self.hl


GOLDEN = (Pair(-12.3, -15.1, -13.0, -14.2, 7, 9), Pair(-20.5, -18.0, -19.0, -19.5, 12, 10))


def _random_pairs(count: int) -> list[Pair]:
    g = random.Random(0)
    found = []
    for _ in range(count):
        tw, tl = g.randint(1, 12), g.randint(1, 12)
        lw, ll = -g.uniform(0.05, 3.0) * tw, -g.uniform(0.05, 3.0) * tl
        rewards, wins = [g.gauss(0, 2) for _ in "wl"], [g.random() for _ in "wl"]
        rest = (g.random() < 0.5, g.uniform(0, 3), g.uniform(0, 3), -g.uniform(1, 9))
        found.append(Pair(lw, ll, lw - g.gauss(0, 3), ll - g.gauss(0, 3), tw, tl, *rewards, *wins, *rest))
    return found


MODERATE = [*GOLDEN, *_random_pairs(12)]
EXTREME = [
    Pair(-1e5, -1e-3, -1.0, -2.0, reward_w=3.0),
    Pair(-1e-3, -1e5, -1.0, -2.0, reward_w=-1e4),
    Pair(-1e5, -1e5, -1e5 + 0.5, -1e5, 7, 3, reward_l=1e4),
    Pair(-5e4, -1.0, -1.0, -5e4, reward_w=1.0, kl_w=50.0, kl_l=1e3),
    Pair(-1.0, -5e4, -5e4, -1.0, reward_l=1.0, ref_w=True),
    Pair(-300.0, -300.0, -300.0, -300.0, 1, 300),
    Pair(-900.0, -100.0, -100.0, -100.0, 1, 300, win_w=1.0, win_l=0.0),
    Pair(-1e-9, -1e-9, -1.0, -1.0),
]


def batch_of(objective: Objective, pairs: Sequence[Pair], dtype: torch.dtype = torch.float64) -> SequenceBatch:
    def both(chosen: str, rejected: str, kind: torch.dtype = dtype) -> torch.Tensor:
        return torch.tensor([getattr(p, chosen) for p in pairs] + [getattr(p, rejected) for p in pairs], dtype=kind)

    traits, from_w = objective.traits, torch.tensor([p.ref_w for p in pairs])
    everything = {
        "rewards": both("reward_w", "reward_l"),
        "win_probs": both("win_w", "win_l"),
        "from_reference": torch.cat([from_w, ~from_w]),
        "sft_logps": torch.tensor([p.sft for p in pairs], dtype=dtype),
    }
    return SequenceBatch(
        both("lw", "ll").requires_grad_(),
        None if traits.reference == "none" else both("rw", "rl"),
        both("tw", "tl", torch.int64),
        {name: everything[name] for name in (*traits.data, *traits.optional_data) if name in everything},
        kl=both("kl_w", "kl_l") if traits.vocabulary == ("forward_kl",) else None,
    )


def losses_and_derivatives(objective: Objective, batch: SequenceBatch) -> tuple[list[float], list[float], list[float]]:
    losses = objective.losses(batch)
    (grad,) = torch.autograd.grad(losses.sum(), batch.policy)
    chosen, rejected = grad.chunk(2)
    return losses.tolist(), chosen.tolist(), rejected.tolist()


Formula = Callable[..., tuple[float, float, float]]


def close(found: float, expected: float) -> bool:
    return math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-13)


def check(name: str, hyper: dict[str, Any], formula: Formula) -> None:
    """Value and derivative at moderate and extreme pairs; the formula's own derivative by central differences at the moderate ones."""
    objective = make(name, **hyper)
    for dtype in (torch.float64, torch.float32):
        pairs = [*MODERATE, *EXTREME]
        pairs = [replace(p, share=sum(q.tw for q in pairs) / len(pairs)) for p in pairs]
        found = losses_and_derivatives(objective, batch_of(objective, pairs, dtype))
        for pair, *got in zip(pairs, *found, strict=True):
            if dtype == torch.float32:
                assert all(map(math.isfinite, got)), (pair, got)
                continue
            expected = formula(pair, **hyper)
            assert all(map(close, got, expected)), (pair, got, expected)
    for pair in MODERATE:
        _, a_w, a_l = formula(pair, **hyper)
        for field, a in (("lw", a_w), ("ll", a_l)):
            step = 1e-5
            up, down = (formula(replace(pair, **{field: asdict(pair)[field] + s}), **hyper)[0] for s in (step, -step))
            assert (up - down) / (2 * step) == pytest.approx(a, rel=1e-5, abs=1e-7), (pair, field)
