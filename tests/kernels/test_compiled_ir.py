"""The kernels as the compiler leaves them, executed without a GPU and without Triton's interpreter, against float64.

    pip install --no-deps --ignore-requires-python ttsem==0.1.0
    TRITON_INTERPRET=0 pytest tests/kernels/test_compiled_ir.py

Needs a process of its own, in which kernels are compiled and not interpreted: skipped anywhere else, see ``emulation.compiled_ir``. Every launch
is compiled for each of three GPUs through all passes before LLVM and executed from there; accesses, races and layouts are checked.
"""

import pytest
import torch

from fastpref.backends import LogitTransform, RowState
from fastpref.backends.base import STATISTICS

from ..backends import test_row_divergence as divergence
from ..backends import test_row_primitives as primitives
from ..backends import test_row_statistics as statistics
from ..backends import test_row_temperature as temperature
from ..backends.cases import PLAIN, assert_grad, assert_stats, draw, draw_coefficients, fold
from ..emulation import compiled_ir

if (reason := compiled_ir.why_not()) is not None:
    pytest.skip(reason, allow_module_level=True)

from fastpref.backends.triton import TritonBackend
from fastpref.kernels import linear_grad, linear_stats, scale_rows
from fastpref.kernels.kept_layout import kept_layout

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SOFTCAP = LogitTransform(softcap=5.0, temperature=1.3, logit_scale=2.0)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
directions = pytest.mark.parametrize("direction", ["forward", "reverse"])


@pytest.fixture(params=compiled_ir.TARGETS)
def launches(request: pytest.FixtureRequest):
    with compiled_ir.executing(request.param) as seen:
        yield seen
    assert seen, "nothing was executed"


@pytest.fixture
def backend(launches) -> TritonBackend:
    return TritonBackend()


def assert_both(backend, dtype: torch.dtype, columns: int, t: LogitTransform, cuts: tuple[int, ...] = ()) -> None:
    """Statistics, by chunks that end at ``cuts``, and the gradient."""
    logits, targets = draw(columns, dtype)
    assert_stats(logits, targets, t, *fold(backend, logits, targets, t, cuts).finish(targets))
    lse, coefs = primitives.oracle_lse(logits, targets, t), draw_coefficients(len(targets))
    out = primitives.gradient(backend, logits, targets, lse, *coefs, t)
    assert_grad(logits, targets, lse, *coefs, t, out)
    primitives.gradient(backend, logits, targets, lse, *coefs, t, out=logits)
    assert torch.equal(logits, out)


@dtypes
@pytest.mark.parametrize("columns", [1, 31, 1000, 4099])
def test_statistics_and_gradient(backend, dtype, columns) -> None:
    assert_both(backend, dtype, columns, PLAIN)


def test_aligned_rows_of_several_blocks(backend, launches) -> None:
    """The wide accesses of a real vocabulary, whose specialisation the odd sizes do not have."""
    assert_both(backend, torch.bfloat16, 16384, PLAIN, cuts=(9216,))
    assert {launch.kernel for launch in launches} == {"_row_stats", "_row_grad"}


@pytest.mark.parametrize("t", [LogitTransform(temperature=0.7), LogitTransform(logit_scale=-0.5), SOFTCAP], ids=str)
def test_transform(backend, t) -> None:
    assert_both(backend, torch.bfloat16, 1000, t, cuts=(400,))


@dtypes
def test_statistics_that_were_asked_for(backend, dtype) -> None:
    logits, targets = draw(1000, dtype)
    for t in (PLAIN, SOFTCAP):
        statistics.assert_statistics(logits, targets, t, statistics.fold(backend, logits, targets, t, cuts=(300,)))


@pytest.mark.parametrize("name", ["late peak", "every other -inf", "all at the lowest finite value"])
def test_extreme_values(backend, name) -> None:
    primitives.test_extreme_values(backend, torch.float32, name)


@pytest.mark.parametrize("name", temperature.BASES)
def test_rows_with_a_temperature_of_their_own(backend, name) -> None:
    temperature.test_statistics_and_gradient(backend, torch.bfloat16, name, 77)


@directions
@pytest.mark.parametrize(
    ("dtype", "columns"), [(torch.float32, 31), (torch.bfloat16, 1000), (torch.float16, 4097)], ids=str
)
def test_divergence(backend, dtype, columns, direction) -> None:
    divergence.test_values_and_gradients(backend, dtype, columns, direction)


@directions
def test_divergence_of_equal_rows_is_exactly_0(backend, direction) -> None:
    divergence.test_equal_rows_give_exactly_0(backend, torch.bfloat16, 33, "softcap", direction)


# --- rows that are split, and the stages of a loss ----------------------------------------------------------------------


def test_split_rows(launches, monkeypatch) -> None:
    backend = TritonBackend()
    monkeypatch.setattr(backend, "_multiprocessors", lambda _: 132)
    logits, targets = draw(40000, torch.bfloat16)
    statistics.assert_statistics(logits, targets, PLAIN, statistics.fold(backend, logits, targets))
    assert [launch.kernel for launch in launches] == ["_row_stats", "_merge_row_stats"]
    assert launches[0].programs > len(targets)


@pytest.mark.parametrize("objective", ["sigmoid", "grpo"])
def test_the_stages_of_a_loss(backend, launches, objective) -> None:
    g = torch.Generator().manual_seed(0)
    cu_seqlens = torch.tensor([0, 3, 7, 9, 12], dtype=torch.int32)
    logits, ref_logits = (torch.randn(12, 1000, generator=g) * 3 for _ in range(2))
    targets, advantages = torch.randint(1000, (12,), generator=g), torch.tensor([1.0, -1.0, 0.5, -0.5])
    targets[4] = -100
    token = objective == "grpo"
    stage = backend.stage
    lengths = torch.full((4,), 11.0, dtype=torch.float64)
    staged = stage.forward(
        stage.names[objective], (0.2,) if token else (0.1,), logits, None if token else ref_logits, targets, cu_seqlens,
        ignore_index=-100, transform=PLAIN, data=(advantages, None) if token else (), ref_logps=None, weights=None,
        number=None, divisors=lengths if token else None, reward_scale=None,
    )  # fmt: skip
    out = torch.full_like(logits, torch.nan)
    stage.backward(logits, targets, staged.lse, staged.coef, torch.tensor(2.0), out, PLAIN)
    assert [launch.kernel for launch in launches][1:] == [f"_{'token' if token else 'sequence'}_objective", "_row_grad"]

    x = logits.double().requires_grad_()
    keep = targets != -100
    picked, reference = (
        z.log_softmax(-1).gather(1, targets.clamp(min=0)[:, None]).squeeze(1).masked_fill(~keep, 0.0)
        for z in (x, ref_logits.double())
    )
    sequence = torch.repeat_interleave(torch.arange(4), cu_seqlens.diff().long())
    if token:  # at its own log-probs the ratio is 1 and is not clipped
        expected = -((picked - picked.detach()).exp() * advantages.double()[sequence])[keep].sum() / (4 * 11)
    else:
        sums = torch.zeros(4, dtype=torch.float64).index_add(0, sequence, picked - reference)
        expected = -torch.nn.functional.logsigmoid(0.1 * (sums[:2] - sums[2:])).mean()
    expected.backward()
    torch.testing.assert_close(staged.loss.double(), expected.detach(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(out.double(), 2 * x.grad, rtol=2e-5, atol=1e-7)


# --- the linear head -----------------------------------------------------------------------------------------------------


class Head:
    """A small linear head on several of a GPU's tiles: operands, and float64 logits of the same numbers."""

    def __init__(
        self, dtype: torch.dtype, width: int, softcap: bool = False, rows: int = 140, vocab: int = 300
    ) -> None:
        g = torch.Generator().manual_seed(0)
        self.hidden = torch.randn(rows, width, generator=g).to(dtype)
        self.weight = (torch.randn(vocab, width, generator=g) * 3 / width**0.5).to(dtype)
        self.bias = torch.randn(vocab, generator=g).to(dtype)
        self.targets = torch.randint(vocab, (rows,), generator=g)
        self.targets[3], self.targets[7] = -1, vocab - 1
        self.live = self.targets >= 0
        self.hidden[3] = torch.nan
        self.options = {"scale": 1.5, "cap": 4.0} if softcap else {}
        raw = (self.hidden.double() @ self.weight.double().T + self.bias.double())[self.live]
        self.slope = 1.5 / torch.cosh(1.5 * raw / 4) ** 2 if softcap else torch.ones(())
        self.z = 4 * torch.tanh(1.5 * raw / 4) if softcap else raw
        self.lse = torch.zeros(rows, dtype=torch.float64)
        self.lse[self.live] = self.z.logsumexp(-1)
        self.onehot, self.softmax = torch.rand(2, rows, generator=g)
        self.softmax[5] = self.onehot[5] = 0

    def gradient(self) -> torch.Tensor:
        """Of the live rows, without the transform's constant factor."""
        p = torch.exp(self.z - self.lse[self.live][:, None])
        out = -self.softmax[self.live].double()[:, None] * p
        out[torch.arange(len(out)), self.targets[self.live]] += self.onehot[self.live].double()
        return out * self.slope / self.options.get("scale", 1.0)

    def assert_gradient(self, out: torch.Tensor) -> None:
        """Within one rounding to its dtype, and silent rows exactly 0."""
        assert (out[[3, 5]] == 0).all()
        torch.testing.assert_close(out[self.live].double(), self.gradient(), rtol=torch.finfo(out.dtype).eps, atol=1e-5)


linear = pytest.mark.parametrize(
    ("dtype", "width", "softcap"),
    [(torch.bfloat16, 128, False), (torch.bfloat16, 200, True), (torch.float16, 77, False), (torch.float32, 72, False)],
    ids=str,
)


@linear
def test_linear_statistics(launches, dtype, width, softcap) -> None:
    head = Head(dtype, width, softcap)
    state = RowState.start(len(head.targets), head.hidden.device, torch.float32, STATISTICS)
    operands = head.hidden, head.weight, head.bias, head.targets
    linear_stats.linear_stats(*operands, **vars(state), **head.options)
    found = state.statistics(head.targets, len(head.weight))
    log_p = head.z.log_softmax(-1)
    expected = {
        "logps": log_p.gather(1, head.targets[head.live][:, None]).squeeze(1),
        "lse": head.z.logsumexp(-1),
        "entropy": -(log_p.exp() * log_p).sum(-1),
        "log_sum_sq_probs": (2 * log_p).logsumexp(-1),
        "mean_logit": head.z.mean(-1),
    }
    for name, value in expected.items():
        torch.testing.assert_close(getattr(found, name)[head.live].double(), value, rtol=2e-6, atol=1e-5, msg=name)
    assert torch.equal(found.argmax[head.live], head.z.argmax(-1))
    assert [launch.kernel for launch in launches] == ["_linear_stats", "_merge_partials"]


@linear
def test_linear_gradient(launches, dtype, width, softcap) -> None:
    head = Head(dtype, width, softcap)
    out = torch.full((140, 304), torch.nan, dtype=dtype)[:, :300]
    per_row = head.targets, head.lse.float(), head.onehot, head.softmax
    linear_grad.linear_grad(head.hidden, head.weight, head.bias, *per_row, out, **head.options)
    head.assert_gradient(out)


@pytest.mark.parametrize("softcap", [False, True])
def test_gradient_of_what_was_kept(launches, softcap) -> None:
    head = Head(torch.bfloat16, 128, softcap)
    layout = kept_layout(torch.bfloat16, torch.bfloat16, 300, softcap)
    kept = layout.views(torch.zeros(layout.row_bytes() * 140, dtype=torch.uint8), 140)
    state = RowState.start(140, head.hidden.device, torch.float32)
    operands = head.hidden, head.weight, head.bias, head.targets
    linear_stats.linear_stats(*operands, **vars(state), kept=kept, **head.options)
    logps, lse = state.finish(head.targets)
    out = torch.full((140, 300), torch.nan, dtype=torch.bfloat16)
    for first, last in ((0, 128), (128, 300)):
        per_row = head.targets, lse, logps, head.onehot, head.softmax
        linear_grad.kept_grad(kept, *per_row, out[:, first:last], col0=first, **head.options)
    assert (out[[3, 5]] == 0).all()
    # A kept exponential and the gradient are rounded once each.
    torch.testing.assert_close(out[head.live].double(), head.gradient(), rtol=2**-7, atol=1e-5)


def test_scaled_rows(launches) -> None:
    x, factor = torch.randn(5, 3000).bfloat16(), torch.tensor([1.0, 0.5, 0.0, -3.0, 1e-3])
    x[2] = torch.nan
    out = torch.full((5, 3000), torch.nan)
    scale_rows.scale_rows(x, factor, out)
    assert torch.equal(out, (x.float() * factor[:, None]).masked_fill((factor == 0)[:, None], 0.0))
