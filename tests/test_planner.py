"""The planner is pure: shapes and a budget in, a plan out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpref.planner import DEFAULT_BUDGET_BYTES, HeadProblem, even_chunk, group_units, make_plan, plan_recompute


def problem(**changes) -> HeadProblem:
    base = dict(rows=1024, vocab=49152, hidden=576, itemsize=4, unit_rows=(256,) * 4, coupling="pair")
    return HeadProblem(**{**base, **changes})


def test_a_pair_that_fits_is_kept_resident():
    plan = make_plan(problem())
    assert plan.design == "D1"
    assert plan.groups == ((0, 1), (1, 2), (2, 3), (3, 4))
    assert plan.scratch_bytes <= DEFAULT_BUDGET_BYTES
    assert plan.flops == 6 * 1024 * 576 * 49152


def test_float16_takes_d1_only_when_it_is_forced():
    half = problem(itemsize=2, float16=True)
    assert make_plan(half).design == "D0"
    assert make_plan(half, design="D1").design == "D1"


def test_a_larger_budget_keeps_more_pairs_together():
    assert make_plan(problem(), 512 << 20).groups == ((0, 4),)


@pytest.mark.parametrize(
    "changes",
    [{"coupling": "batch"}, {"divergence": True}, {"unit_rows": ()}, {"gradients": False}, {"unit_rows": (1024,)}],
)
def test_the_recompute_plan_where_d1_is_not_valid_or_does_not_fit(changes):
    assert make_plan(problem(**changes)).design == "D0"


@pytest.mark.parametrize(
    ("changes", "d0", "d1"),
    [
        ({}, 8, 6),
        ({"weight_gradient": False}, 6, 4),
        ({"online_reference": True}, 10, 8),
    ],
)
def test_predicted_flops(changes, d0, d1):
    unit = 1024 * 576 * 49152
    assert make_plan(problem(**changes), design="D0").flops == d0 * unit
    assert make_plan(problem(**changes), design="D1").flops == d1 * unit
    assert make_plan(problem(gradients=False)).flops == 2 * unit


def test_a_16_bit_head_sums_few_groups_directly_and_many_in_float32():
    few = make_plan(problem(itemsize=2), design="D1")
    assert not few.float32_weight_gradient
    large = problem(itemsize=2, rows=16384, unit_rows=(256,) * 64)
    many = make_plan(large, 176 << 20, design="D1")
    assert many.float32_weight_gradient
    assert many.scratch_bytes <= 176 << 20
    # Where the accumulator does not fit, D0 writes dW once.
    assert make_plan(large, 100 << 20).design == "D0"


@given(
    rows=st.integers(1, 5000),
    vocab=st.integers(1, 200_000),
    hidden=st.integers(1, 4096),
    itemsize=st.sampled_from([2, 4, 8]),
    budget=st.integers(1 << 16, 1 << 34),
    weight_gradient=st.booleans(),
)
def test_a_plan_never_exceeds_a_named_budget(rows, vocab, hidden, itemsize, budget, weight_gradient):
    sizes = (rows // 3, rows // 3, rows - 2 * (rows // 3)) if rows > 2 else (rows,)
    p = HeadProblem(rows, vocab, hidden, itemsize, sizes, "pair", weight_gradient=weight_gradient)
    try:
        plan = make_plan(p, budget)
    except ValueError as error:
        needed = int(str(error).split("at least ")[1].split(" ")[0])
        assert needed > budget
        assert plan_recompute(p, needed).scratch_bytes <= needed
        return
    assert plan.scratch_bytes <= budget
    assert 1 <= plan.vocab_chunk <= vocab
    if plan.design == "D1":
        assert plan.groups[0][0] == 0
        assert plan.groups[-1][1] == len(sizes)
        assert all(a[1] == b[0] for a, b in zip(plan.groups, plan.groups[1:], strict=False))


def test_what_operands_are_cast_to_is_counted():
    def scratch(**changes):
        return make_plan(problem(**changes), 1 << 30, design="D0").scratch_bytes

    columns, rows, hidden = 4096, 1024, 576  # of one chunk
    assert (
        scratch(weight_itemsize=2, mixed=True) == scratch() + 2 * columns * hidden * 4
    )  # the weight, and dW before it is rounded
    assert (
        scratch(itemsize=2, weight_itemsize=4, mixed=True) == scratch() + 2 * rows * hidden * 4
    )  # the hidden states and dX
    assert scratch(narrow_reference=True) == scratch() + (columns + rows) * hidden * 4
    narrow = scratch(itemsize=2)
    assert narrow == scratch() + columns * hidden * 4 + rows * columns * 2 + rows * hidden * (4 + 4 + 2)
    assert scratch(itemsize=2, main_grad=True) == narrow + columns * hidden * 2
    assert scratch(gradient_filter=True) > scratch()


def test_d1_keeps_dw_in_float32_for_a_main_grad():
    plan = make_plan(problem(main_grad=True), 256 << 20, design="D1")
    assert plan.float32_weight_gradient
    assert plan.scratch_bytes >= 49152 * 576 * 4 + 256 * 49152 * 4
    assert make_plan(problem(main_grad=True)).design == "D0"


def test_without_a_named_budget_the_least_workable_plan_is_taken():
    huge = problem(rows=200_000, coupling="batch", itemsize=2, hidden=8192)
    assert make_plan(huge).scratch_bytes > DEFAULT_BUDGET_BYTES


@given(total=st.integers(1, 10**6), pieces=st.integers(1, 100))
def test_chunks_are_even_and_within_the_limit(total, pieces):
    limit = pieces * 64
    chunk = even_chunk(total, limit)
    assert 1 <= chunk <= max(limit, 1)
    assert -(-total // chunk) == -(-total // limit)


def test_grouping():
    assert group_units([3, 3, 3], 6) == [(0, 2), (2, 3)]
    assert group_units([3, 7, 3], 6) is None
    assert group_units([6], 6) == [(0, 1)]
