"""The CUDA kernels of a linear head in the emulator: against float64, the same bits in every order of threads and blocks, and every plan above them."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

import fastpref
from fastpref import work
from fastpref.backends.base import STATISTICS, RowState
from fastpref.backends.cpu_head import HeadTiling
from fastpref.backends.cuda_costs import segment_columns, segments
from fastpref.backends.cuda_head import CudaHead
from fastpref.kernels.kept_layout import SLOT, kept_layout

from .. import oracle
from ..backends.linear_cases import BF16, CASES, F16, F32, Case
from ..emulation.cuda import control, require_emulated
from ..oracle import assert_precise

NARROW = {name: case for name, case in CASES.items() if case.dtypes[0] == case.dtypes[1] != F32}
WHOLE, CUT = HeadTiling(4096, 4096), HeadTiling(224, 32)
TILE_COLUMNS = 256


@pytest.fixture(scope="module")
def head() -> CudaHead:
    return require_emulated().head


def aligned(case: Case) -> Case:
    """The same numbers with rows that begin on 16 bytes, between rows of NaN."""
    for name in ("hidden", "weight"):
        values = case.tensors[name]
        stride = -(-values.shape[1] // 8) * 8 + 8
        wide = torch.full((values.shape[0], stride), torch.nan, dtype=values.dtype)
        wide[:, : values.shape[1]] = values
        case.tensors[name] = wide[:, : values.shape[1]]
    return case


def keep(case: Case, rows: int | None = None) -> Tensor:
    rows = case.rows if rows is None else rows
    layout = kept_layout(*case.dtypes, case.vocab, case.softcap is not None)
    return torch.full((layout.row_bytes() * rows,), 0xFF, dtype=torch.uint8)


def run_stats(head: CudaHead, case: Case, stats: tuple[str, ...] = (), kept: Tensor | None = None) -> RowState:
    hidden, weight, bias, targets = case.operands
    state = RowState.start(case.rows, hidden.device, F32, stats)
    kept_rows = 0 if kept is None else case.rows
    head.statistics(hidden, weight, bias, targets, state, case.transform, kept=kept, kept_rows=kept_rows)
    return state


def assert_statistics(case: Case, state: RowState, stats: tuple[str, ...] = STATISTICS) -> None:
    found, live = state.statistics(case.tensors["targets"], case.vocab), case.tensors["targets"] >= 0
    exact, plain = case.plain(torch.float64), case.plain(F32)
    for what in ("logps", "lse", *stats):
        value = getattr(found, what)
        if what == "argmax":
            assert torch.equal(value[live], exact["argmax"][live])
        else:
            assert_precise(value[live], exact[what][live], plain[what][live], 2.0, what=what)
            assert not value[~live].any()


def assert_same(a: RowState, b: RowState, rows: slice = slice(None)) -> None:
    """Bit for bit, in every field that both have."""
    for name, value in vars(a).items():
        other = getattr(b, name)
        if value is not None and other is not None:
            assert torch.equal(value, other[rows]), name


# --- statistics -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NARROW)
def test_statistics(head, name) -> None:
    case = NARROW[name]
    assert_statistics(case, run_stats(head, case, STATISTICS))
    assert_statistics(case, run_stats(head, case), ())


@pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
@pytest.mark.parametrize(
    "shape",
    [(1, 8, 1), (2, 16, 7), (64, 96, 256), (33, 40, 300), (65, 72, 257), (7, 104, 31), (3, 24, 1000), (5, 32, 1003)],
    ids=str,
)
def test_rows_that_are_copied_by_16_bytes(head, shape, dtype) -> None:
    rows, width, vocab = shape
    case = aligned(Case(rows=rows, width=width, vocab=vocab, dtypes=(dtype, dtype)))
    assert_statistics(case, run_stats(head, case, STATISTICS))
    assert_statistics(case, run_stats(head, case), ())


@pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
def test_vocabulary_of_32768(head, dtype) -> None:
    case = aligned(Case(rows=2, width=8, vocab=32768, dtypes=(dtype, dtype)))
    assert_statistics(case, run_stats(head, case), ())


def test_each_statistic_by_itself(head) -> None:
    case = NARROW["bf16, softcap, temperature per token"]
    whole = run_stats(head, case, STATISTICS)
    for name in STATISTICS:
        state = run_stats(head, case, (name,))
        assert_statistics(case, state, (name,))
        assert_same(state, whole)


def test_what_is_added_to_a_state_that_has_seen_columns(head) -> None:
    """As of shards of the vocabulary, one after the other; their columns are each shard's own."""
    case = Case(rows=9, vocab=300)
    hidden, weight, bias, targets = case.operands
    state = RowState.start(case.rows, hidden.device, F32, ("entropy", "log_sum_sq_probs", "mean_logit"))
    for first, last in itertools.pairwise((0, 130, 300)):
        shard = torch.where((targets >= first) & (targets < last), targets - first, torch.tensor(2**40))
        head.statistics(hidden, weight[first:last], bias[first:last], shard, state, case.transform)
    assert_statistics(case, state, ("entropy", "log_sum_sq_probs", "mean_logit"))


def test_ignored_rows_are_not_read_and_stay(head) -> None:
    case = Case(rows=200, width=16, vocab=60)
    t = case.tensors
    t["targets"][[0, 5]] = -1
    t["targets"][40:150] = -1
    ignored = t["targets"] < 0
    t["hidden"][ignored] = torch.nan
    for given in (case, aligned(case)):
        state = RowState.start(case.rows, t["hidden"].device, F32, STATISTICS)
        for value in vars(state).values():
            value[ignored] = 7
        head.statistics(*given.operands, state, case.transform)
        assert all((value[ignored] == 7).all() for value in vars(state).values())
    t["hidden"] = t["hidden"].masked_fill(ignored[:, None], 0)
    assert_statistics(case, state)
    t["targets"][:] = -1
    assert run_stats(head, case).zt.isnan().all()


def test_bits_depend_on_no_neighbour_no_order_and_nothing_else_that_is_asked_for(head) -> None:
    case = aligned(Case(rows=80, width=40, vocab=300))
    state = run_stats(head, case, STATISTICS)
    for seed in (1, 2):
        with control().shuffled(seed):
            assert_same(run_stats(head, case, STATISTICS), state)
    some = Case(rows=13, width=40, vocab=300)
    last = slice(80 - 13, 80)
    some.tensors.update({k: v[last] if v.shape[0] == 80 else v for k, v in case.tensors.items()})
    assert_same(run_stats(head, some, STATISTICS), state, last)
    for stats in ((), ("log_sum_sq_probs",)):
        assert_same(run_stats(head, case, stats), state)
        assert_same(run_stats(head, case, stats, keep(case)), state)
    # Rows that are copied element by element.
    case.tensors["hidden"] = torch.cat([case.tensors["hidden"], torch.zeros(80, 1, dtype=BF16)], 1)[:, :40]
    assert_same(run_stats(head, case, STATISTICS), state)


def test_undefined_rows_are_nan_and_leave_the_others_alone(head) -> None:
    case = Case(rows=20, width=40, vocab=300)
    good = run_stats(head, case, STATISTICS).statistics(case.tensors["targets"], case.vocab)
    case.tensors["hidden"] = case.tensors["hidden"].clone()
    case.tensors["hidden"][3, 5], case.tensors["hidden"][11, 0] = torch.nan, torch.inf
    found = run_stats(head, case, STATISTICS).statistics(case.tensors["targets"], case.vocab)
    others = [r for r in range(case.rows) if r not in (3, 11)]
    for what in ("logps", "lse", "entropy", "log_sum_sq_probs", "mean_logit"):
        value = getattr(found, what)
        assert value[[3, 11]].isnan().all(), what
        assert torch.equal(value[others], getattr(good, what)[others]), what


def test_excluded_words_and_large_logits(head) -> None:
    case = Case(rows=20, width=40, vocab=601)
    bias = case.tensors["bias"]
    bias[::2] = -torch.inf
    bias[:520] = -torch.inf  # two segments of nothing
    case.tensors["targets"] = torch.arange(521, 521 + 2 * case.rows, 2)
    case.tensors["hidden"] = case.tensors["hidden"] * 64
    found = run_stats(head, case, ("entropy", "argmax")).statistics(case.tensors["targets"], case.vocab)
    exact, p = case.plain(torch.float64), case.raw(torch.float64).softmax(-1)
    torch.testing.assert_close(found.logps.double(), exact["logps"], rtol=1e-5, atol=1e-4)
    entropy = -(p * p.clamp_min(1e-300).log()).sum(-1)
    torch.testing.assert_close(found.entropy.double(), entropy, rtol=1e-4, atol=1e-4)
    assert torch.equal(found.argmax, exact["argmax"])
    nothing = Case(rows=3, width=8, vocab=300)
    nothing.tensors["bias"][:] = -torch.inf
    state = run_stats(head, nothing)
    assert (state.m == -torch.inf).all()
    assert (state.s == 0).all()


def test_target_outside_the_vocabulary_is_nan_and_never_read(head) -> None:
    case = Case(rows=3, width=8, vocab=300)
    case.tensors["targets"] = torch.tensor([300, 2**40, 2**32 + 1])
    state = run_stats(head, case)
    assert state.zt.isnan().all()
    assert state.s.isfinite().all()


def test_no_rows(head) -> None:
    case = Case(rows=0, width=8, vocab=30)
    run_stats(head, case)


# --- traffic ----------------------------------------------------------------------------------------------------------


def test_operands_are_read_once_per_tile_and_no_logit_is_stored(head) -> None:
    case = aligned(Case(rows=130, width=64, vocab=571, bias=False))
    hidden, weight, _, targets = case.operands
    targets[10:20] = -1
    state, live = RowState.start(case.rows, hidden.device, F32), 120
    operands = head_operands(head, case, state)
    with control().watching(hidden=hidden, weight=weight, targets=targets, **operands) as seen:
        head._launcher.native.cuda_linear_stats(**call(head, case, state, operands))
    tiles = -(-case.vocab // TILE_COLUMNS)
    assert seen["hidden"].loads == seen["hidden"].wide_loads == live * case.width * 2 * tiles
    assert seen["weight"].loads == seen["weight"].wide_loads == case.vocab * case.width * 2 * 2
    assert seen["parts"].stores == live * segments(case.vocab) * 8
    assert seen["zt"].stores == 4 * live
    assert seen["m"].stores == seen["s"].stores == 4 * live
    assert seen["hidden"].stores == seen["weight"].stores == seen["targets"].stores == 0


def head_operands(head: CudaHead, case: Case, state: RowState) -> dict[str, Tensor]:
    """Everything else that a launch of the statistics touches."""
    parts = torch.full((2, segments(case.vocab), case.rows), torch.nan)
    return {"parts": parts, "m": state.m, "s": state.s, "zt": state.zt}


def call(head: CudaHead, case: Case, state: RowState, operands: dict[str, Tensor]) -> dict[str, Any]:
    """The arguments of ``cuda_linear_stats`` for plain statistics without a bias."""
    hidden, weight, _, targets = case.operands
    none = dict.fromkeys(("bias", "inv_temperature", "s2", "sd", "total", "top", "argmax", "kept", "references"), 0)
    return {
        **head._launcher.where(hidden),
        **none,
        **{name: value.data_ptr() for name, value in operands.items()},
        "dtype": head._launcher.dtypes[hidden.dtype],
        "rows": case.rows,
        "columns": case.vocab,
        "width": case.width,
        "hidden": hidden.data_ptr(),
        "hidden_stride": hidden.stride(0),
        "weight": weight.data_ptr(),
        "weight_stride": weight.stride(0),
        "targets": targets.data_ptr(),
        "logit_scale": 1.0,
        "softcap": None,
        "temperature": 1.0,
        "segment": segment_columns(case.vocab),
        "kept_stride": 0,
    }


@pytest.mark.parametrize("vocab", [1, 256, 257, 32000, 50257, 128256, 151936, 262144, 2**31 - 1])
def test_segments(vocab) -> None:
    assert segments(vocab) <= 128
    assert segment_columns(vocab) % TILE_COLUMNS == 0
    assert (segments(vocab) - 1) * segment_columns(vocab) < vocab <= segments(vocab) * segment_columns(vocab)


@pytest.mark.parametrize(("dtype", "softcap"), [(BF16, None), (F16, None), (BF16, 5.0)], ids=str)
def test_what_is_kept(head, dtype, softcap) -> None:
    case = Case(rows=20, width=40, vocab=571, dtypes=(dtype, dtype), softcap=softcap, per_token=True)
    case.tensors["targets"][3] = -1
    layout, kept = kept_layout(dtype, dtype, case.vocab, softcap is not None), keep(case)
    state = run_stats(head, case, kept=kept)
    values, references = layout.views(kept, case.rows)
    live = case.tensors["targets"] >= 0
    raw = case.raw(torch.float64)
    if references is None:
        torch.testing.assert_close(values[live][:, : case.vocab].double(), raw[live], rtol=1e-5, atol=1e-5)
    else:
        z = case.transformed(raw) - references.double().repeat_interleave(SLOT, 1)[:, : case.vocab]
        unit = torch.finfo(dtype).eps
        found = values[:, : case.vocab].double()
        assert ((found - z.exp()).abs()[live] <= unit * z.exp()[live] + torch.finfo(F16).tiny).all()
        assert (references[live] <= state.m[live, None] + 1e-6).all()
    assert (
        head.kept_bytes(dtype, dtype, case.transform, 20, 571)
        == kept.numel()
        == 20 * (576 * (4 if softcap else 2) + (0 if softcap else 36))
    )
    untouched = layout.views(torch.full_like(kept, 0xFF), case.rows)[0]
    assert torch.equal(values[~live].view(torch.uint8), untouched[~live].view(torch.uint8))


# --- gradients --------------------------------------------------------------------------------------------------------


def run_gradients(
    head: CudaHead, case: Case, tiling: HeadTiling = WHOLE, kept_rows: int = 0, **into: Any
) -> dict[str, Tensor]:
    hidden, weight, bias, targets = case.operands
    state = RowState.start(case.rows, hidden.device, F32)
    kept = keep(case, kept_rows) if kept_rows else None
    for block, buffer in ((slice(0, kept_rows), kept), (slice(kept_rows, case.rows), None)):
        part = (hidden[block], weight, bias, targets[block], state.rows(block), case.transform.rows(block))
        head.statistics(*part, kept=buffer, kept_rows=kept_rows if buffer is not None else 0)
    logps, lse = state.finish(targets)
    out = {"dx": torch.full(hidden.shape, torch.nan, dtype=hidden.dtype)}
    out["dw"] = torch.full(weight.shape, torch.nan, dtype=weight.dtype)
    if bias is not None:
        out["db"] = torch.zeros(case.vocab)
    out |= into
    coefs = case.tensors["onehot"], case.tensors["softmax"]
    head.gradients(
        *case.operands, lse, *coefs, case.transform, tiling, dx=out["dx"], dw=out["dw"], db=out.get("db"),
        add_to_dw=into.get("dw") is not None, kept=kept, kept_rows=kept_rows, logps=logps,
    )  # fmt: skip
    return out


def assert_gradients(case: Case, found: dict[str, Tensor]) -> None:
    exact, plain = case.plain(torch.float64), case.plain(case.dtypes[0])
    for what, value in found.items():
        wide = value.float() if what == "db" else value
        assert_precise(wide, exact[what], plain[what], 3.0, ulps=24.0, what=what)


@pytest.mark.parametrize("name", NARROW)
def test_gradients(head, name) -> None:
    case = NARROW[name]
    assert_gradients(case, run_gradients(head, case))
    assert_gradients(case, run_gradients(head, case, CUT, kept_rows=case.rows * 2 // 3))


@pytest.mark.parametrize("kept", [False, True])
def test_chunks_and_order_change_no_bit_of_a_gradient(head, kept) -> None:
    for softcap in (None, 6.0):
        case = Case(rows=40, width=40, vocab=300, softcap=softcap)
        kept_rows = 40 if kept else 0
        whole = run_gradients(head, case, kept_rows=kept_rows, dx=None)
        with control().shuffled(3):
            again = run_gradients(head, case, kept_rows=kept_rows, dx=None)
            cut = run_gradients(head, case, HeadTiling(96, 4096), kept_rows=kept_rows, dx=None)
        assert torch.equal(again["dw"], whole["dw"])
        assert torch.equal(again["db"], whole["db"])
        assert torch.equal(cut["db"], whole["db"])


def test_a_gradient_that_is_not_wanted_is_not_made(head) -> None:
    case = Case()
    whole = run_gradients(head, case)
    for what in ("dx", "dw", "db"):
        alone = run_gradients(head, case, **dict.fromkeys({"dx", "dw", "db"} - {what}))
        assert torch.equal(alone[what], whole[what])


@pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
def test_adding_to_dw(head, dtype) -> None:
    case = Case(dtypes=(dtype, dtype))
    fresh = run_gradients(head, case)["dw"]
    main_grad = torch.full((case.vocab, case.width + 4), 3.0)[:, : case.width]
    run_gradients(head, case, CUT, dw=main_grad)
    torch.testing.assert_close(main_grad - 3.0, fresh.float(), rtol=2 * torch.finfo(dtype).eps, atol=2e-6)
    same = torch.full(fresh.shape, 3.0, dtype=dtype)
    run_gradients(head, case, CUT, dw=same)
    torch.testing.assert_close(same, fresh + 3.0, rtol=2 * torch.finfo(dtype).eps, atol=4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize(("dtype", "kept_rows"), [(BF16, 0), (BF16, 24), (F16, 24)], ids=str)
def test_ignored_and_silent_rows_reach_nothing(head, dtype, kept_rows) -> None:
    case = Case(rows=40, vocab=90, dtypes=(dtype, dtype))
    gone = torch.tensor([0, 3, 38, 39])
    case.tensors["targets"][gone[:2]] = -1
    case.tensors["onehot"][gone[2:]] = case.tensors["softmax"][gone[2:]] = 0.0
    wanted = run_gradients(head, case, kept_rows=kept_rows)
    case.tensors["hidden"] = case.tensors["hidden"].clone()
    case.tensors["hidden"][gone] = torch.nan
    again = run_gradients(head, case, kept_rows=kept_rows)
    assert not again["dx"][gone].any()
    assert all(torch.equal(again[what], value) for what, value in wanted.items())


def test_float16_coefficients_far_apart_and_tiny(head) -> None:
    """A mean over a large batch: coefficients that float16 cannot hold, and rows that differ by many powers of two."""
    case = Case(rows=19, dtypes=(F16, F16))
    spread = torch.logspace(-9, -3, 19)
    for name in ("onehot", "softmax"):
        case.tensors[name] = case.tensors[name] * spread
    found, exact = run_gradients(head, case), case.plain(torch.float64)
    small = torch.finfo(F16).tiny
    for r in range(19):
        limit = 2.0**-9 * exact["dx"][r].abs().max() + small
        assert (found["dx"][r].double() - exact["dx"][r]).abs().max() <= limit
    assert (found["dw"].double() - exact["dw"]).abs().max() <= 2.0**-9 * exact["dw"].abs().max() + small


def test_probabilities_near_1_keep_their_digits(head) -> None:
    """The target's entry is what is left of 1 - p: db of one row is its gradient, in float32."""
    for kept_rows in (0, 1):
        case = Case(rows=1, width=16, vocab=300)
        target = int(case.tensors["targets"])
        case.tensors["hidden"][:], case.tensors["hidden"][0, 0] = 0.0, 1.0
        case.tensors["weight"][target, 0] = 16.0
        case.tensors["onehot"] = case.tensors["softmax"] = torch.ones(1)
        found = run_gradients(head, case, kept_rows=kept_rows)["db"][target]
        exact = case.plain(torch.float64)["db"][target]
        assert 0 < exact < 1e-3
        torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=2e-6)  # of an lse of 16 in float32


def test_scale_rows(head) -> None:
    g = torch.Generator().manual_seed(0)
    factor = torch.tensor([0.5, 0.0, -2.0, 2.0**-20, 3.3])
    for offset, source, dtype in itertools.product((0, 1), (F32, BF16), (BF16, F16, F32)):
        x = torch.randn(5, 2200, generator=g).to(source)[:, offset : offset + 2100]
        x[1] = torch.nan
        out = torch.empty(5, 2200, dtype=dtype)[:, offset : offset + 2100]
        head._launcher.scale_rows(x, factor, out)
        wanted = (x.float() * factor[:, None]).to(dtype)
        wanted[1] = 0.0
        assert torch.equal(out, wanted)
    y = torch.randn(5, 1300)
    wanted = y * factor[:, None]
    head._launcher.scale_rows(y, factor, y)
    assert torch.equal(y, wanted)


def test_errors(head) -> None:
    for dtypes in ((F32, F32), (BF16, F16), (F32, BF16), (torch.float64, torch.float64)):
        assert "operands are both bfloat16 or both float16, found" in head.why_not(*dtypes)
    assert head.why_not(BF16, BF16) is None
    assert head.why_not(F16, F16) is None
    case = NARROW["bf16"]
    state = RowState.start(case.rows, case.operands[0].device, F32)
    with pytest.raises(ValueError, match="kept_rows: expected all 70 rows, found 5"):
        head.statistics(*case.operands, state, case.transform, kept=torch.empty(0, dtype=torch.uint8), kept_rows=5)


# --- the public functions ---------------------------------------------------------------------------------------------


def problem(dtype: torch.dtype, bias: bool = True, lengths: tuple[int, ...] = (12, 9, 14, 10)) -> oracle.Problem:
    return oracle.make_problem(dtype, list(lengths), hidden=40, vocab=333, bias=bias)


def preference(p: oracle.Problem, objective: str = "sigmoid", **options: Any) -> Any:
    options = {"reference": p.reference, "beta": 0.1} | options
    return fastpref.linear_preference_loss(
        objective, p.hidden, p.weight, p.targets, p.cu_seqlens, bias=p.bias, backend="cuda", **options
    )


def budget_for(p: oracle.Problem, plan: str) -> int | None:
    """D3: a budget that keeps some rows and not all."""
    if plan != "D3":
        return None
    active = int((p.targets >= 0).sum())
    for budget in range(20_000, 600_000, 1_000):
        try:
            if 0 < preference(p, plan=plan, budget_bytes=budget, explain=True).kept_rows < active:
                return budget
        except ValueError:
            pass
    raise AssertionError("no budget keeps some rows and not all")


@pytest.mark.parametrize(
    ("plan", "dtype"), [*((p, d) for p in ("D0", "D1", "D3") for d in (BF16, F16)), ("D2", BF16)], ids=str
)
def test_loss_and_gradients_under_every_plan(head, dtype, plan) -> None:
    p = problem(dtype)
    exact, plain = p.at(torch.float64), p.at(dtype)
    budget = budget_for(p, plan)
    with work.count_gemm() as count:
        out = preference(p, plan=plan, budget_bytes=budget)
        out.loss.backward()
    assert out.plan.design == plan
    assert budget is None or out.plan.scratch_bytes <= budget
    assert (out.plan.kept_rows > 0) == (plan == "D3")
    losses = [oracle.linear_dpo(q, 0.1) for q in (exact, plain)]
    assert_precise(out.loss, *losses, oracle.LOSS_FACTOR, what="loss")
    for loss in losses:
        loss.backward()
    for found, wanted, usual in zip(p.grads(), exact.grads(), plain.grads(), strict=True):
        assert_precise(found, wanted, usual, oracle.GRADIENT_FACTOR, ulps=oracle.GRADIENT_ULPS, what="gradient")
    assert count.flops == out.plan.flops
    made = sum(g.numel() * g.element_size() for g in p.grads())
    assert count.peak_bytes - made <= out.plan.scratch_bytes + 4096


@pytest.mark.parametrize(("plan", "dtype"), [("D0", BF16), ("D1", F16), ("D2", BF16), ("D3", BF16)], ids=str)
def test_a_policy_that_is_its_reference_has_loss_ln_2(head, dtype, plan) -> None:
    p = problem(dtype)
    with torch.no_grad():
        for mine, other in ((p.ref_hidden, p.hidden), (p.ref_weight, p.weight), (p.ref_bias, p.bias)):
            mine.copy_(other)
    with control().shuffled(5):
        out = preference(p, plan=plan, budget_bytes=budget_for(p, plan))
        out.loss.backward()
    assert torch.equal(out.logps, out.ref_logps)
    assert out.metrics["rewards/margins"].item() == 0.0
    assert out.loss.item() == pytest.approx(math.log(2), abs=6e-8)


@pytest.mark.parametrize("frozen", ["", "hidden", "weight"])
@pytest.mark.parametrize(("plan", "dtype"), [("D0", F16), ("D1", BF16), ("D3", BF16)], ids=str)
def test_scratch_is_never_more_and_flops_are_as_predicted(head, plan, dtype, frozen) -> None:
    for more, reference in itertools.product(({}, {"main_grad"}), ("given", "online", "shared")):
        p = oracle.make_problem(dtype, [7, 5, 3, 9], hidden=24, vocab=100, bias=reference == "online")
        if frozen:
            getattr(p, frozen).requires_grad_(False)
        references = {"given": torch.zeros(4), "online": p.reference, "shared": (p.ref_hidden, p.weight)}
        options: dict[str, Any] = {"reference": references[reference], "plan": plan}
        if "main_grad" in more and frozen != "weight":
            options["main_grad"] = torch.zeros(p.weight.shape)
        with work.count_gemm() as count:
            out = preference(p, **options)
            out.loss.backward()
        assert count.flops == out.plan.flops, (reference, more)
        made = sum(g.numel() * g.element_size() for g in p.grads() if g is not None)
        assert count.peak_bytes - made <= out.plan.scratch_bytes + 4096, (reference, more)


@pytest.mark.parametrize("plan", ["D0", "D3"])
def test_token_log_probs(head, plan) -> None:
    p = problem(BF16, bias=False)
    exact, temperature = p.at(torch.float64), torch.linspace(0.5, 2.0, 45)
    options = {"softcap": 8.0, "temperature": temperature, "stats": STATISTICS, "plan": plan, "backend": "cuda"}
    found = fastpref.linear_logprobs(p.hidden, p.weight, p.targets, **options)
    z = oracle.transform(exact.hidden @ exact.weight.t(), softcap=8.0) / temperature.double()[:, None]
    live, logp = p.targets >= 0, z.log_softmax(-1)
    wanted = logp.gather(1, p.targets.clamp_min(0)[:, None]).squeeze(1) * live
    torch.testing.assert_close(found.logps.double(), wanted, rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(found.entropy.double(), -(logp.exp() * logp).sum(-1) * live, rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(found.mean_logit.double(), z.mean(-1) * live, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.log_sum_sq_probs.double(), (2 * logp).logsumexp(-1) * live, rtol=2e-6, atol=2e-6)
    upstream = torch.randn(45, generator=torch.Generator().manual_seed(1))
    found.logps.backward(upstream)
    wanted.backward(upstream.double())
    for a, b in ((p.hidden.grad, exact.hidden.grad), (p.weight.grad, exact.weight.grad)):
        assert (a.double() - b).norm() <= 2.0**-8 * b.norm()


def test_a_shared_head_runs_in_one_sweep(head) -> None:
    p, q = problem(BF16, bias=False), problem(BF16, bias=False)
    together = preference(p, plan="D0", reference=(p.ref_hidden, p.weight))
    apart = preference(q, plan="D0", reference=(q.ref_hidden, q.weight.detach().clone()))
    together.loss.backward()
    apart.loss.backward()
    assert torch.equal(together.logps, apart.logps)
    assert torch.equal(together.ref_logps, apart.ref_logps)
    assert together.plan.flops == apart.plan.flops
    assert torch.equal(p.hidden.grad, q.hidden.grad)
    assert torch.equal(p.weight.grad, q.weight.grad)


def test_other_operands_run_by_chunks(head) -> None:
    p, q = (problem(F32, bias=False, lengths=(3, 2, 4, 2)) for _ in range(2))
    out = preference(p, plan="D0")
    options = {"reference": q.reference, "beta": 0.1, "backend": "eager"}
    other = fastpref.linear_preference_loss("sigmoid", q.hidden, q.weight, q.targets, q.cu_seqlens, **options)
    assert out.loss.item() == pytest.approx(other.loss.item(), rel=1e-6)


def test_operator_contracts(head) -> None:
    """Schema and fake kernels agree with what runs, kept logits included."""
    p = problem(BF16, bias=False, lengths=(6, 5, 8, 5))
    rows = (p.targets.clamp_min(-1), None, 1.0, None, 1.0, 128, 64, "cuda")
    for more in ((), ("entropy", None, 20, True)):
        torch.library.opcheck(
            torch.ops.fastpref.linear_logprobs.default,
            (p.hidden.detach(), p.weight.detach(), None, *rows, *more),
            test_utils=("test_schema", "test_faketensor"),
        )
