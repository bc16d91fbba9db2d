"""The planner is pure: shapes and a budget in, a plan out. That its figures are true of a run: tests/test_plan_figures.py."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpref.plan_costs import HeadProblem, Work
from fastpref.planner import DEFAULT_BUDGET_BYTES, even_chunk, group_units, make_plan, plan_recompute
from fastpref.tile_costs import TileCosts

UNIT = 1024 * 576 * 49152
"""T * H * V."""

ROWS, CHUNK = 1024 * 576 * 4, 4096 * 576 * 4
"""Bytes of all rows, and of a chunk of the head, in float32."""


def problem(**changes) -> HeadProblem:
    base = dict(rows=1024, vocab=49152, hidden=576, itemsize=4, unit_rows=(256,) * 4, coupling="pair")
    return HeadProblem(**{**base, **changes})


def rejected(plan, design: str):
    (found,) = [r for r in plan.rejected if r.design == design]
    return found


def test_a_pair_that_fits_is_kept_resident():
    plan = make_plan(problem())
    assert plan.design == "D1"
    assert plan.groups == ((0, 1), (1, 2), (2, 3), (3, 4))
    assert plan.scratch_bytes <= DEFAULT_BUDGET_BYTES
    assert plan.flops == 6 * UNIT


def test_a_single_pair_that_does_not_fit_accumulates_unscaled_gradients():
    plan = make_plan(problem(unit_rows=(1024,), known_direction=True))
    assert plan.design == "D2"
    assert plan.row_block < 1024
    assert plan.flops == 6 * UNIT
    assert plan.scratch_bytes <= DEFAULT_BUDGET_BYTES
    assert not plan.float32_weight_gradient, "dW is its own accumulator"


def test_what_the_budget_holds_is_kept_where_units_are_coupled():
    plans = [make_plan(problem(coupling="batch"), budget) for budget in (40 << 20, 100 << 20, 1 << 30)]
    assert [plan.design for plan in plans] == ["D3"] * 3
    assert 0 < plans[0].kept_rows < plans[1].kept_rows < plans[2].kept_rows == 1024
    assert plans[2].flops == 6 * UNIT
    for plan in plans:
        assert plan.flops == 6 * UNIT + 2 * (1024 - plan.kept_rows) * 576 * 49152


def test_many_units_are_not_worth_a_gradient_each():
    many = problem(rows=4096, vocab=500, hidden=64, unit_rows=(1,) * 4096, known_direction=True)
    plan = make_plan(many, 1 << 30)
    assert plan.design != "D2"
    assert rejected(plan, "D2").seconds > 100 * plan.seconds


def test_the_cheapest_valid_plan_is_taken_and_the_others_are_explained():
    plan = make_plan(problem(known_direction=True))
    for other in plan.rejected:
        assert (other.seconds is None) or other.seconds >= plan.seconds
    text = str(plan)
    assert text.startswith("D1: 4 group(s)")
    for words in (
        "GFLOP",
        "GB moved",
        "MiB of scratch",
        "not D0: costs more",
        "not D2: the budget",
        "not D3: costs more",
    ):
        assert words in text, words


def test_few_flops_do_not_win_where_memory_decides():
    # A head so thin that making a logit again in the cache is cheaper than keeping it in memory.
    plan = make_plan(problem(hidden=16, coupling="batch", itemsize=2, tiles=TileCosts((1, 1))))
    assert plan.design == "D0"
    assert rejected(plan, "D3").seconds > plan.seconds


def test_float16_takes_d1_and_d2_only_when_they_are_forced():
    half = problem(itemsize=2, float16=True, known_direction=True)
    plan = make_plan(half, 128 << 20)
    assert plan.design in ("D0", "D3")
    assert "float16 gradients are rounded" in rejected(plan, "D1").reason
    assert {make_plan(half, 512 << 20, d).design for d in ("D1", "D2")} == {"D1", "D2"}


def test_a_larger_budget_keeps_more_pairs_together():
    assert make_plan(problem(), 512 << 20, "D1").groups == ((0, 4),)


@pytest.mark.parametrize(
    ("changes", "refused", "words"),
    [
        ({"coupling": "batch"}, ["D1", "D2"], "couples all sequences"),
        ({"divergence": True, "online_reference": True}, ["D1", "D2", "D3"], "KL over the vocabulary"),
        ({"unit_rows": ()}, ["D1", "D2"], "not known on the host"),
        ({"gradients": False}, ["D1", "D2", "D3"], "nothing needs a gradient"),
        ({"scalar_loss": False}, ["D1", "D2"], "returns log-probs"),
        ({"unit_rows": (1024,)}, ["D1"], "does not hold the logits of the largest unit"),
        ({"known_direction": False}, ["D2"], "direction of a unit's gradient"),
    ],
)
def test_a_plan_that_is_not_valid_is_refused_with_the_reason(changes, refused, words):
    p = problem(**{"known_direction": True, **changes})
    chosen = make_plan(p)
    assert chosen.design not in refused
    for design in refused:
        assert words in rejected(chosen, design).reason
        assert rejected(chosen, design).seconds is None
        with pytest.raises(ValueError, match=f"'{design}' cannot be used: .*{words}"):
            make_plan(p, design=design)


@pytest.mark.parametrize(
    ("changes", "d0", "others"),
    [
        ({}, 8, 6),
        ({"weight_gradient": False}, 6, 4),
        ({"hidden_gradient": False}, 6, 4),
        ({"online_reference": True}, 10, 8),
        ({"online_reference": True, "shared_head": True}, 10, 8),
        ({"online_reference": True, "reference_hidden": 288}, 9, 7),
    ],
)
def test_predicted_flops(changes, d0, others):
    p = problem(known_direction=True, **changes)
    assert make_plan(p, design="D0").flops == d0 * UNIT
    for design in ("D1", "D2", "D3"):
        assert make_plan(p, 2 << 30, design).flops == others * UNIT
    assert make_plan(problem(gradients=False)).flops == 2 * UNIT
    divergence = problem(divergence=True, online_reference=True)
    assert make_plan(divergence).flops == 12 * UNIT, "both heads, and both again in backward"


def test_a_shared_head_is_read_once():
    apart = make_plan(problem(online_reference=True), design="D0")
    together = make_plan(problem(online_reference=True, shared_head=True), design="D0")
    assert together.bytes_moved < apart.bytes_moved


def test_a_16_bit_head_sums_few_groups_directly_and_many_in_float32():
    few = make_plan(problem(itemsize=2), 128 << 20, design="D1")
    assert len(few.groups) == 2
    assert not few.float32_weight_gradient
    large = problem(itemsize=2, rows=16384, unit_rows=(256,) * 64)
    many = make_plan(large, 200 << 20, design="D1")
    assert many.float32_weight_gradient
    assert many.scratch_bytes <= 200 << 20
    # Where the accumulator does not fit, dW is written once.
    assert make_plan(large, 100 << 20).design in ("D0", "D3")


def test_wider_logits_take_more_scratch():
    narrow, wide = (make_plan(problem(itemsize=2, logit_bytes=b, coupling="batch"), design="D0") for b in (2, 4))
    assert wide.scratch_bytes > narrow.scratch_bytes
    kept = [make_plan(problem(itemsize=2, logit_bytes=b), 80 << 20, "D3").kept_rows for b in (2, 4)]
    assert kept[0] > 1.9 * kept[1]


@given(
    rows=st.integers(1, 5000),
    vocab=st.integers(1, 200_000),
    hidden=st.integers(1, 4096),
    itemsize=st.sampled_from([2, 4, 8]),
    budget=st.integers(1 << 16, 1 << 34),
    flags=st.fixed_dictionaries(
        {
            name: st.booleans()
            for name in (
                "weight_gradient",
                "hidden_gradient",
                "bias_gradient",
                "online_reference",
                "shared_head",
                "ignored",
            )
        }
    ),
    design=st.sampled_from([None, "D0", "D1", "D2", "D3"]),
)
def test_a_plan_never_exceeds_a_named_budget(rows, vocab, hidden, itemsize, budget, flags, design):
    sizes = (rows // 3, rows // 3, rows - 2 * (rows // 3)) if rows > 2 else (rows,)
    p = HeadProblem(rows, vocab, hidden, itemsize, sizes, "pair", known_direction=True, **flags)
    try:
        plan = make_plan(p, budget, design)
    except ValueError as error:
        if design in (None, "D0"):
            needed = int(str(error).split("at least ")[1].split(" ")[0])
            assert needed > budget
            assert plan_recompute(p, needed).scratch_bytes <= needed
        else:
            needed = int(str(error).split("scratch (" if design != "D2" else "gradients (")[1].split(" ")[0])
            assert needed > budget
            assert make_plan(p, needed, design).scratch_bytes <= needed
        return
    assert plan.scratch_bytes <= budget
    assert 1 <= plan.vocab_chunk <= vocab
    assert 0 <= plan.kept_rows <= rows
    assert plan.seconds > 0
    if plan.groups:
        assert plan.groups[0][0] == 0
        assert plan.groups[-1][1] == len(sizes)
        assert all(a[1] == b[0] for a, b in zip(plan.groups, plan.groups[1:], strict=False))


@pytest.mark.parametrize(
    ("changes", "least"),
    [
        ({"weight_itemsize": 2, "mixed": True}, 2 * CHUNK),  # the weight, and dW before it is rounded
        ({"itemsize": 2, "weight_itemsize": 4, "mixed": True}, 2 * ROWS),  # the hidden states and dX
        ({"narrow_reference": True}, CHUNK + ROWS),
        (
            {"itemsize": 2},
            CHUNK + 2 * ROWS + ROWS // 2 + 1024 * 4096 * 2,
        ),  # 16-bit gradients of the logits and a part of dX
        ({"itemsize": 2, "main_grad": True}, CHUNK + CHUNK // 2 + 2 * ROWS + ROWS // 2 + 1024 * 4096 * 2),
        ({"gradient_filter": True}, 2 * CHUNK),  # the columns that are taken out of the weight, and their dW
    ],
    ids=str,
)
def test_what_operands_are_cast_to_is_counted(changes, least):
    plain, cast = (make_plan(problem(**c), 1 << 30, design="D0") for c in ({}, changes))
    assert (cast.vocab_chunk, cast.row_block) == (plain.vocab_chunk, plain.row_block) == (4096, 1024)
    assert plain.scratch_bytes + least <= cast.scratch_bytes <= plain.scratch_bytes + least + 2 * CHUNK


def test_d1_keeps_dw_in_float32_for_a_main_grad():
    plan = make_plan(problem(main_grad=True), 256 << 20, design="D1")
    assert plan.float32_weight_gradient
    assert plan.scratch_bytes >= 49152 * 576 * 4 + 256 * 49152 * 4
    assert "does not hold the logits" in rejected(make_plan(problem(main_grad=True)), "D1").reason


def test_without_a_named_budget_the_least_workable_plan_is_taken():
    huge = problem(rows=200_000, coupling="batch", itemsize=2, hidden=8192)
    assert make_plan(huge).scratch_bytes > DEFAULT_BUDGET_BYTES


def test_more_of_anything_costs_more():
    base = Work(10**9, 10**6, 10, 1)
    for more in (Work(flops=1), Work(bytes_moved=1), Work(calls=1), Work(groups=1)):
        assert (base + more).seconds(problem()) > base.seconds(problem())
    assert base.seconds(problem(device="gpu")) < base.seconds(problem())
    one, two = (base.seconds(problem(itemsize=2, tiles=TileCosts((n, n)))) for n in (1, 2))
    assert one < two, "the tile kernels take more products for wider operands"


class TestTileKernels:
    """Logits never reach memory but for those that are kept."""

    def test_take_less_scratch_than_chunks_of_logits(self):
        tiles, chunks = (make_plan(problem(itemsize=2, tiles=t), 1 << 30, "D0") for t in (TileCosts((1, 1)), None))
        assert tiles.flops == chunks.flops
        assert tiles.scratch_bytes < chunks.scratch_bytes
        assert tiles.bytes_moved < chunks.bytes_moved

    def test_keep_whole_blocks_of_rows(self):
        plan = make_plan(problem(itemsize=2, tiles=TileCosts((1, 1)), coupling="batch"))
        assert plan.design == "D3"
        assert 0 < plan.kept_rows < 1024
        assert plan.kept_rows % 32 == 0

    def test_keep_half_of_the_bytes_of_logits_where_no_softcap_is(self):
        kept = [
            make_plan(problem(itemsize=2, tiles=TileCosts((1, 1)), softcap=softcap), 100 << 20, "D3").kept_rows
            for softcap in (False, True)
        ]
        assert kept[0] > 1.8 * kept[1] > 0

    def test_run_float16_like_any_other_dtype(self):
        half = problem(itemsize=2, tiles=TileCosts((2, 2)), known_direction=True)
        assert make_plan(half, 512 << 20).design == "D1"


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
