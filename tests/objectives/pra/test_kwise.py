"""K-wise losses, prompt by prompt, against formulas written here."""

import math
from dataclasses import replace

import pytest
import torch

from fastpref.objectives.batch import SequenceBatch, TokenBatch

from .plain import make, sigmoid, softplus

GROUPS = [7, 3, 7, 3, 7, 5, 3, 3]
H = [0.7, -1.5, -0.2, 1.5, -0.9, 2.0, 12.0, -7.0]
LENGTHS = [3, 1, 4, 2, 5, 6, 2, 3]
REWARDS = [1.0, -0.5, 0.25, 2.0, 3.0, 0.7, -1.0, 0.0]
RANKS = [0, 3, 1, 0, 2, 0, 1, 2]
LEVELS = [1, 2, 3, 1, 1, 4, 2, 4]
MEMBERS = [[i for i, g in enumerate(GROUPS) if g == wanted] for wanted in sorted(set(GROUPS))]


def batch_of(h=H, dtype=torch.float64, **data) -> SequenceBatch:
    reference = torch.full((len(h),), -30.0, dtype=dtype)
    policy = (torch.tensor(h, dtype=dtype) + reference).requires_grad_()
    given = {"groups": GROUPS, "rewards": REWARDS, "ranks": RANKS, "levels": LEVELS, **data}
    tensors = {k: torch.tensor(v, dtype=dtype if k == "rewards" else None) for k, v in given.items()}
    return SequenceBatch(policy, reference, torch.tensor(LENGTHS), tensors)


def run(objective, batch):
    losses = objective.losses(batch)
    return losses.tolist(), torch.autograd.grad(losses.sum(), batch.policy)[0].tolist()


def logsumexp(values):
    most = max(values)
    return most + math.log(sum(math.exp(v - most) for v in values))


def softmax(values):
    total = logsumexp(values)
    return [math.exp(v - total) for v in values]


def plackett_luce(members, h, beta=0.1, ranks=RANKS):
    x = {i: beta * h[i] for i in members}
    loss, slopes = 0.0, dict.fromkeys(members, 0.0)
    for k in members:
        rest = [j for j in members if ranks[j] >= ranks[k]]
        loss += logsumexp([x[j] for j in rest]) - x[k]
        slopes[k] -= beta
        for j, s in zip(rest, softmax([x[j] for j in rest]), strict=True):
            slopes[j] += beta * s
    return loss, slopes


def infonca(members, h, beta=0.1, alpha=1.0):
    x = [beta * h[i] for i in members]
    s, p = softmax([REWARDS[i] / alpha for i in members]), softmax(x)
    loss = sum(a * (logsumexp(x) - b) for a, b in zip(s, x, strict=True))
    return loss, {i: beta * (q - a) for i, a, q in zip(members, s, p, strict=True)}


def nca(members, h, beta=0.1, alpha=1.0):
    x, k = [beta * h[i] for i in members], len(members)
    s = softmax([REWARDS[i] / alpha for i in members])
    loss = sum(a * softplus(-b) + softplus(b) / k for a, b in zip(s, x, strict=True))
    return loss, {i: beta * (sigmoid(b) / k - a * sigmoid(-b)) for i, a, b in zip(members, s, x, strict=True)}


CASES = [
    ("plackett_luce", {}, plackett_luce),
    ("plackett_luce", {"beta": 2.0}, plackett_luce),
    ("infonca", {}, infonca),
    ("infonca", {"beta": 2.0, "alpha": 0.3}, infonca),
    ("nca", {}, nca),
    ("nca", {"beta": 2.0, "alpha": 0.3}, nca),
]


def differences(loss_of, h):
    """Central differences of a function of the log-ratios."""
    step, found = 1e-5, []
    for i in range(len(h)):
        up, down = ([x + s * (j == i) for j, x in enumerate(h)] for s in (step, -step))
        found.append((loss_of(up) - loss_of(down)) / (2 * step))
    return found


@pytest.mark.parametrize(("name", "hyper", "formula"), CASES)
def test_value_and_derivative(name, hyper, formula):
    losses, grads = run(make(name, **hyper), batch_of())
    expected = [formula(members, H, **hyper) for members in MEMBERS]
    slopes = {i: a for _, found in expected for i, a in found.items()}
    assert losses == pytest.approx([loss for loss, _ in expected], rel=1e-9)
    assert grads == pytest.approx([slopes[i] for i in range(len(H))], rel=1e-9, abs=1e-15)
    total = differences(lambda h: sum(formula(members, h, **hyper)[0] for members in MEMBERS), H)
    assert grads == pytest.approx(total, rel=1e-5, abs=1e-7)


def test_equal_ranks_compete_with_each_other():
    ranks = [0, 1, 0, 0, 1, 0, 1, 1]
    losses, grads = run(make("plackett_luce"), batch_of(ranks=ranks))
    expected = [plackett_luce(members, H, ranks=ranks) for members in MEMBERS]
    assert losses == pytest.approx([loss for loss, _ in expected], rel=1e-12)
    assert grads == pytest.approx(
        [next(s[i] for _, s in expected if i in s) for i in range(len(H))], rel=1e-9, abs=1e-15
    )


def trpa(h, levels=LEVELS, beta=0.1, anisotropy=2.5):
    """The loss of a call and its derivative, from the definition over all of its pairs."""
    rho = [x / t for x, t in zip(h, LENGTHS, strict=True)]
    slopes, total = [0.0] * len(h), 0.0
    pairs = [(i, j) for m in MEMBERS for i in m for j in m if levels[i] < levels[j]]
    for i, j in pairs:
        c = beta * (anisotropy if levels[i] == 1 else 1.0)
        z = c * (rho[i] - rho[j])
        total += softplus(-z) / len(pairs)
        slopes[i] -= c * sigmoid(-z) / LENGTHS[i] / len(pairs)
        slopes[j] += c * sigmoid(-z) / LENGTHS[j] / len(pairs)
    if not pairs:
        for i, level in enumerate(levels):
            sign = 1.0 if level == 1 else -1.0
            total += softplus(-sign * rho[i]) / len(h)
            slopes[i] -= sign * sigmoid(-sign * rho[i]) / LENGTHS[i] / len(h)
    return total, slopes


@pytest.mark.parametrize("hyper", [{}, {"beta": 1.5, "anisotropy": 0.5}])
@pytest.mark.parametrize("levels", [LEVELS, [1, 4, 1, 4, 1, 2, 4, 4]])
def test_trpa(levels, hyper):
    losses, grads = run(make("trpa", **hyper), batch_of(levels=levels))
    total, slopes = trpa(H, levels, **hyper)
    assert sum(losses) / len(MEMBERS) == pytest.approx(total, rel=1e-12)
    assert [g / len(MEMBERS) for g in grads] == pytest.approx(slopes, rel=1e-9, abs=1e-15)
    assert slopes == pytest.approx(differences(lambda h: trpa(h, levels, **hyper)[0], H), rel=1e-5, abs=1e-8)


def with_tokens(dtype=torch.float64):
    """A batch of levels with rows, of which one is ignored, and log-probs of the old policy."""
    g = torch.Generator().manual_seed(0)
    lengths = torch.tensor(LENGTHS)
    cu = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    rows = int(cu[-1])
    tokens = (-3 * torch.rand(rows, dtype=dtype, generator=g)).requires_grad_()
    old = tokens.detach() + 0.4 * torch.randn(rows, dtype=dtype, generator=g)
    old[0], old[4], old[9] = old[0] + 9, old[4] - 30, math.nan  # one clamped, one far below, one ignored
    active = torch.arange(rows) != 9
    sequence = torch.repeat_interleave(torch.arange(len(LENGTHS)), lengths)
    rows_of = TokenBatch(torch.where(active, tokens, 0.0), None, active, sequence, cu)
    lengths = rows_of.sums(torch.ones(rows, dtype=dtype)).long()
    batch = replace(batch_of(dtype=dtype), policy=rows_of.sums(rows_of.policy), lengths=lengths, tokens=rows_of)
    batch.data["old_logps"] = old
    return batch, tokens, old


@pytest.mark.parametrize("root", [False, True])
def test_trpa_trust_region(root):
    batch, tokens, old = with_tokens()
    coef = 0.3
    tied, free = (make("trpa", tr_kl_coef=c, tr_kl_sqrt=root) for c in (coef, 0.0))
    losses, without = tied.losses(batch), free.losses(batch)
    (grad,) = torch.autograd.grad(losses.mean() - without.mean(), tokens)
    d = [(o - t) if i != 9 else 0.0 for i, (o, t) in enumerate(zip(old.tolist(), tokens.tolist(), strict=True))]
    k3 = [math.exp(x) - x - 1 for x in d]
    count = len(d) - 1
    mean = sum(min(k, 10.0) for k in k3) / count
    value = coef * (math.sqrt(mean + 0.25) if root else mean)
    outer = coef / (2 * math.sqrt(mean + 0.25)) if root else coef
    assert (losses.mean() - without.mean()).item() == pytest.approx(value, rel=1e-12)
    expected = [
        outer * (1 - math.exp(x)) / count if k <= 10.0 and i != 9 else 0.0
        for i, (x, k) in enumerate(zip(d, k3, strict=True))
    ]
    assert grad.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_trpa_declares_what_its_trust_region_needs():
    assert (make("trpa").traits.level, make("trpa").traits.coupling) == ("token", "group")
    assert make("trpa", tr_kl_sqrt=True).traits.coupling == "batch"
    free = make("trpa", tr_kl_coef=0.0).traits
    assert (free.level, free.optional_data) == ("sequence", ())
    batch, _, old = with_tokens()
    with pytest.raises(ValueError, match="needs token log-probs"):
        make("trpa").losses(replace(batch, tokens=None))
    with pytest.raises(ValueError, match="old_logps: expected"):
        make("trpa").losses(replace(batch, data={**batch.data, "old_logps": old[1:]}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["plackett_luce", "infonca", "nca", "trpa"])
def test_extremes_are_finite(name, dtype):
    h = [1e5, -1e5, 0.0, -1e5, -1e5, 1e5, 1e5, 0.0]
    losses, grads = run(make(name), batch_of(h, dtype, rewards=[1e4 * r for r in REWARDS]))
    assert all(map(math.isfinite, [*losses, *grads]))


@pytest.mark.parametrize(
    ("name", "hyper", "error"),
    [
        *((name, {"beta": 0.0}, ValueError) for name in ("plackett_luce", "infonca", "nca", "trpa")),
        *((name, {"alpha": 0.0}, ValueError) for name in ("infonca", "nca")),
        ("trpa", {"anisotropy": 0.0}, ValueError),
        ("trpa", {"tr_kl_coef": -1.0}, ValueError),
        ("trpa", {"tr_kl_sqrt": 1}, TypeError),
    ],
)
def test_hyper_parameters_are_checked(name, hyper, error):
    with pytest.raises(error, match=f"{next(iter(hyper))}: expected"):
        make(name, **hyper)
