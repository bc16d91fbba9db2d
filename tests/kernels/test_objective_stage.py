"""A loss from given logits in three launches: what they move, and how exact they are, in the interpreter with every access checked."""

import math

import numpy as np
import pytest
import torch

import fastpref
from fastpref.backends.triton import TritonBackend

from .. import oracle
from ..emulation import require_triton, watch

require_triton()

from fastpref.kernels.objective_stage import objective  # noqa: E402

KERNELS = ["_row_stats", "_sequence_objective", "_row_grad"]
CU = torch.tensor([0, 3, 5, 9, 12], dtype=torch.int32)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
OPTIONS = {
    "plain": {},
    "temperature": {"temperature": 0.7},
    "softcap": {"softcap": 8.0, "logit_scale": 1.5},
}


def draw(rows: int, columns: int, dtype: torch.dtype, seed: int = 0, padding: int = 3):
    """``(policy, reference, targets)``, rows of padded matrices; row 4 is ignored and holds NaN, as the padding does."""
    g = torch.Generator().manual_seed(seed)
    policy, reference = (torch.full((rows, columns + padding), torch.nan, dtype=dtype)[:, :columns] for _ in range(2))
    policy.copy_(torch.randn(rows, columns, generator=g) * 3)
    reference.copy_(policy + 0.3 * torch.randn(rows, columns, generator=g))
    targets = torch.randint(0, columns, (rows,), generator=g)
    targets[4] = -100
    policy[4], reference[4] = torch.nan, torch.nan
    return policy, reference, targets


def run(policy, reference, targets, cu_seqlens=CU, upstream=1.0, name="sigmoid", **options):
    """The output, the gradient, and the launches of a forward and backward call; in place on a copy unless told."""
    leaf = policy.clone().requires_grad_()
    given = {"inplace_backward": True, **options}
    with watch(given.pop("shuffle", None)) as launches:
        # what a model would have computed, in a buffer of its own with the rows of the original
        logits = leaf * 1
        out = fastpref.logits_preference_loss(
            name, logits, targets, cu_seqlens, reference=reference, backend="triton", **given
        )
        (out.loss * upstream).backward()
    return out, leaf.grad, launches


def plain(policy, reference, targets, dtype, beta=0.3, **options):
    """DPO in plain torch in that dtype of arithmetic, and its gradient."""
    active = targets >= 0
    x = policy.to(dtype).masked_fill(~active[:, None], 0).requires_grad_()

    def sums(logits):
        z = oracle.transform(logits, **options)
        logps = z.log_softmax(-1).gather(1, targets.clamp_min(0)[:, None]).squeeze(1).masked_fill(~active, 0)
        return oracle.sequence_logps(logps, CU)

    loss = oracle.dpo_loss(sums(x), sums(reference.to(dtype).masked_fill(~active[:, None], 0)), beta)
    loss.backward()
    return loss.detach(), x.grad


CASES = [(dtype, columns, "plain") for dtype in DTYPES for columns in (1, 31, 1000)]
CASES += [(torch.float32, 31, "softcap"), (torch.bfloat16, 1000, "softcap"), (torch.float16, 31, "temperature")]


@pytest.mark.parametrize(("dtype", "columns", "name"), CASES, ids=str)
def test_loss_and_gradient(dtype, columns, name) -> None:
    policy, reference, targets = draw(12, columns, dtype)
    out, grad, _ = run(policy, reference, targets, beta=0.3, **OPTIONS[name])
    exact = plain(policy, reference, targets, torch.float64, **OPTIONS[name])
    # The logits are given: what is judged is float32 arithmetic on them and one rounding of the gradient.
    yardstick = plain(policy, reference, targets, torch.float32, **OPTIONS[name])
    oracle.assert_precise(out.loss, exact[0], yardstick[0], oracle.LOSS_FACTOR)
    oracle.assert_precise(grad, exact[1], yardstick[1].to(dtype), oracle.GRADIENT_FACTOR, ulps=oracle.GRADIENT_ULPS)
    assert (grad[4] == 0).all()


def test_vocabulary_of_32768() -> None:
    policy, reference, targets = draw(12, 32768, torch.bfloat16)
    out, grad, _ = run(policy, reference, targets, beta=0.3)
    exact, yardstick = (plain(policy, reference, targets, dtype) for dtype in (torch.float64, torch.float32))
    oracle.assert_precise(out.loss, exact[0], yardstick[0], oracle.LOSS_FACTOR)
    oracle.assert_precise(grad, exact[1], yardstick[1].bfloat16(), oracle.GRADIENT_FACTOR, ulps=oracle.GRADIENT_ULPS)


@pytest.mark.parametrize("online", [True, False], ids=["reference logits", "reference log-probs"])
def test_traffic_is_the_minimum(online) -> None:
    """8 bytes per bfloat16 logit, 6 with a precomputed reference, and some for each row."""
    rows, columns = 12, 1000
    policy, reference, targets = draw(rows, columns, torch.bfloat16)
    known = reference if online else -3 - torch.rand(rows)
    _, _, launches = run(policy, known, targets, beta=0.3)
    assert [launch.kernel for launch in launches] == KERNELS
    stats, objective, grad = launches
    active = (targets >= 0).numpy()
    for name in ("x_ptr", "ref_ptr") if online else ("x_ptr",):  # once, and the target's column again
        reads = stats.reads(name)
        assert (reads[active].sum(axis=1) == columns + 1).all()
        assert (reads[active].min(axis=1) == 1).all()
        assert (reads[~active] == 0).all()
    assert np.array_equal(grad.reads("x_ptr"), np.repeat(active[:, None], columns, 1).astype(np.int32))
    assert (grad.writes("out_ptr") == 1).all()
    moved = sum(launch.bytes_loaded() + launch.bytes_stored() for launch in launches)
    per_logit = (8 if online else 6) * active.sum() * columns + 2 * (
        ~active
    ).sum() * columns  # silent rows are only written
    assert 0 < moved - per_logit < 300 * rows
    assert objective.bytes_loaded() + objective.bytes_stored() < 150 * rows
    assert objective.programs == 1


def test_rows_without_a_coefficient_are_written_and_not_read() -> None:
    policy, _, targets = draw(12, 500, torch.float32)
    # the first pair, rows 0 to 2 and 5 to 8, is beyond the hinge
    known = torch.tensor([-1e3, 0.0, 1e3, -90.0])
    _, grad, launches = run(policy, known, targets, name="hinge", beta=1.0)
    silent = np.zeros(12, dtype=bool)
    silent[[0, 1, 2, 4, 5, 6, 7, 8]] = True
    loads = launches[2].reads("x_ptr").sum(axis=1)
    assert np.array_equal(loads == 0, silent)
    assert (grad[silent] == 0).all()
    assert (grad[~silent].abs().sum(1) > 0).all()
    assert (launches[2].writes("out_ptr") == 1).all()


def test_an_upstream_gradient_multiplies_on_the_device() -> None:
    policy, reference, targets = draw(12, 100, torch.float32)
    one, five, none = (run(policy, reference, targets, upstream=u, beta=0.3) for u in (1.0, -5.0, 0.0))
    torch.testing.assert_close(five[1], -5 * one[1], rtol=1e-6, atol=0)
    assert (none[1] == 0).all()
    assert (none[2][2].reads("x_ptr") == 0).all()


@pytest.mark.parametrize("name", ["sigmoid", "grpo"])
def test_an_order_of_programs_does_not_matter(name) -> None:
    policy, reference, targets = draw(12, 1000, torch.bfloat16)
    more = {"advantages": torch.linspace(-1, 1, 4)} if name == "grpo" else {"beta": 0.3}
    known = None if name == "grpo" else reference
    first, *others = [run(policy, known, targets, name=name, shuffle=seed, **more) for seed in (None, 1, 2)]
    for out, grad, _ in others:
        assert torch.equal(out.loss, first[0].loss)
        assert torch.equal(out.losses, first[0].losses)
        assert torch.equal(grad, first[1])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_policy_that_is_the_reference(dtype) -> None:
    policy, _, targets = draw(12, 777, dtype)
    out, _, _ = run(policy, policy.clone(), targets, beta=0.1)
    assert out.loss == torch.tensor(math.log(2), dtype=torch.float32)
    assert out.metrics["rewards/margins"] == 0
    assert torch.equal(out.logps, out.ref_logps)


def test_split_rows(monkeypatch) -> None:
    """With fewer rows than multiprocessors; the objective merges the partials, and it is still three launches."""
    policy, reference, targets = draw(12, 20011, torch.bfloat16)
    whole = run(policy, reference, targets, beta=0.3)
    stage = fastpref.backends.load("triton").stage
    monkeypatch.setattr(stage, "_multiprocessors", lambda device: 48)
    split = run(policy, reference, targets, beta=0.3)
    assert [launch.kernel for launch in split[2]] == KERNELS
    assert split[2][0].programs > 2 * 12
    torch.testing.assert_close(split[0].loss, whole[0].loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(split[0].logps, whole[0].logps, rtol=1e-6, atol=0)
    torch.testing.assert_close(split[1].float(), whole[1].float(), rtol=2**-7, atol=1e-9)


def test_sums_of_long_sequences_are_exact() -> None:
    """A log-ratio of 512 tokens is off by much less than 1e-3 nats; the statistics are float32, as they come from the rows."""
    rows, columns = 2048, 40
    g = torch.Generator().manual_seed(3)
    policy = torch.randn(rows, columns, generator=g) * 8
    sides = torch.stack([policy, policy + 0.2 * torch.randn(rows, columns, generator=g)])
    targets = torch.randint(0, columns, (rows,), generator=g)
    cu = torch.arange(0, 2049, 512, dtype=torch.int32)
    m = sides.amax(-1)
    s = (sides.double() - m[..., None]).exp().sum(-1).float()
    zt = sides.gather(2, targets.expand(2, -1)[..., None]).squeeze(2)
    head = TritonBackend().stage.heads["sigmoid"]
    partials = (m[:, None].contiguous(), s[:, None].contiguous(), zt)
    out = objective(head, (0.1,), partials, targets, cu, ignore_index=-100, data=())
    exact = [
        oracle.sequence_logps(x.double().log_softmax(-1).gather(1, targets[:, None]).squeeze(1), cu) for x in sides
    ]
    assert oracle.error(out.sums, torch.stack(exact)) < 1e-4
    assert oracle.error(out.sums[0] - out.sums[1], exact[0] - exact[1]) < 1e-4
    loss = oracle.dpo_loss(*exact, 0.1)
    assert oracle.error(out.loss, loss) < 1e-5


def test_no_boundary_leads_outside_of_the_rows() -> None:
    """What would be an error of the caller on the CPU is not looked at on a GPU, and reads nothing wild there."""
    stage = TritonBackend().stage
    policy, reference, targets = draw(6, 50, torch.float32)
    options = dict.fromkeys(("ref_logps", "weights", "number", "divisors", "reward_scale"))
    with watch() as launches:
        stage.forward(
            "sigmoid", [0.1], policy, reference, targets, torch.tensor([-7, 2, 900], dtype=torch.int32),
            ignore_index=-100, transform=fastpref.backends.LogitTransform(), data=[], **options,
        )  # fmt: skip
    assert len(launches) == 2
