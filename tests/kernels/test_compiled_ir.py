"""The kernels as the compiler leaves them, executed without a GPU and without Triton's interpreter, against float64.

    pip install --no-deps --ignore-requires-python ttsem==0.1.0
    TRITON_INTERPRET=0 pytest tests/kernels/test_compiled_ir.py

Needs a process of its own, in which kernels are compiled and not interpreted: skipped anywhere else, see ``emulation.compiled_ir``. Every launch
is compiled for each of three GPUs through all passes before LLVM and executed from there; accesses, races and layouts are checked.
"""

import pytest
import torch

from fastpref.backends import LogitTransform

from ..backends import test_row_divergence as divergence
from ..backends import test_row_primitives as primitives
from ..backends import test_row_statistics as statistics
from ..backends import test_row_temperature as temperature
from ..backends.cases import PLAIN, assert_grad, assert_stats, draw, draw_coefficients, fold
from ..emulation import compiled_ir

if (reason := compiled_ir.why_not()) is not None:
    pytest.skip(reason, allow_module_level=True)

from fastpref.backends.triton import TritonBackend

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
