"""The linear head as native calls, against plain PyTorch in float64 on the same operands. Skipped on CPUs without tile instructions; what
runs there instead, chunks of torch's GEMM and the row primitives, is tested by tests/test_token_logprobs.py everywhere."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor

from fastpref.backends.base import STATISTICS, LogitTransform, RowState
from fastpref.backends.cpu_head import PLANES, CpuHead, HeadTiling
from fastpref.backends.native import load_native
from tests.oracle import assert_precise, transform

F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16


@pytest.fixture(scope="module")
def head() -> CpuHead:
    try:
        native = load_native()
    except ImportError as error:
        pytest.skip(str(error))
    made = CpuHead(native, {F32: native.FLOAT32, BF16: native.BFLOAT16, F16: native.FLOAT16})
    if (reason := made.why_not(BF16, BF16)) is not None:
        pytest.skip(reason)
    return made


@dataclass
class Case:
    """One call's operands. Strides: every matrix is a slice of a wider one."""

    rows: int = 70
    width: int = 100
    vocab: int = 1501
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
            "hidden": draw(self.rows, self.width + 3)[:, : self.width].to(hidden),
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

    def plain(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Everything by plain PyTorch in one dtype."""
        hidden, weight, bias = (
            None if x is None else x.detach().to(dtype).clone().requires_grad_() for x in self.operands[:3]
        )
        raw = hidden @ weight.t() if bias is None else torch.addmm(bias, hidden, weight.t())
        z = transform(raw, self.scale, self.softcap, self.temperature)
        if self.per_token:
            z = z * self.tensors["inv_temperature"].to(dtype)[:, None]
        lse, logp = z.logsumexp(-1), z.log_softmax(-1)
        zt = z.gather(1, self.tensors["targets"][:, None]).squeeze(1)
        # The gradient's definition: two coefficients, of the target's logit and of the softmax.
        loss = (zt * self.tensors["onehot"].to(dtype) - lse * self.tensors["softmax"].to(dtype)).sum()
        loss.backward()
        found = {
            "logps": logp.gather(1, self.tensors["targets"][:, None]).squeeze(1),
            "lse": lse,
            "entropy": -(logp.exp() * logp).sum(-1),
            "log_sum_sq_probs": (2 * logp).logsumexp(-1),
            "mean_logit": z.mean(-1),
            "argmax": raw.argmax(-1),
            "dx": hidden.grad,
            "dw": weight.grad,
        }
        if bias is not None:
            found["db"] = bias.grad
        return {name: value.detach() for name, value in found.items()}


TILING = HeadTiling(256, 64)


class Run:
    """Statistics and gradients of a case by the native calls."""

    def __init__(self, head: CpuHead, case: Case, stats: tuple[str, ...] = (), kept_rows: int = 0) -> None:
        self.head, self.case, self.kept_rows = head, case, kept_rows
        hidden, _, _, targets = case.operands
        self.state = RowState.start(case.rows, hidden.device, F32, stats)
        shape = (case.rows, case.vocab, case.width)
        softcap = case.softcap is not None
        size = head.sizes(*case.dtypes, shape, HeadTiling(256, 64), softcap=softcap, kept_rows=kept_rows).kept
        self.kept = torch.empty(size + 64, dtype=torch.uint8)
        self.kept = self.kept[-self.kept.data_ptr() % 64 :] if kept_rows else None
        head.statistics(*case.operands, self.state, case.transform, kept=self.kept, kept_rows=kept_rows)
        self.found = self.state.statistics(targets, case.vocab)

    def gradients(
        self, tiling: HeadTiling = TILING, *, use_kept: bool = False, gradient_filter: float = 0.0
    ) -> dict[str, Tensor]:
        case, t = self.case, self.case.tensors
        hidden, weight, bias, _ = case.operands
        out = {"dx": torch.empty(hidden.shape, dtype=hidden.dtype), "dw": torch.empty(weight.shape, dtype=weight.dtype)}
        if bias is not None:
            out["db"] = torch.zeros(case.vocab)
        self.left_out = self.head.gradients(
            *case.operands, self.found.lse, t["onehot"], t["softmax"], case.transform, tiling,
            dx=out["dx"], dw=out["dw"], db=out.get("db"), gradient_filter=gradient_filter,
            kept=self.kept if use_kept else None, kept_rows=self.kept_rows, logps=self.found.logps,
        )  # fmt: skip
        return out


CASES = {
    "bf16": Case(),
    "bf16, no bias, temperature": Case(bias=False, temperature=0.7, scale=1.3),
    "bf16, softcap": Case(softcap=6.0, temperature=1.2),
    "bf16, temperature per token": Case(per_token=True),
    "bf16, softcap, temperature per token": Case(per_token=True, softcap=9.0),
    "fp16": Case(dtypes=(F16, F16)),
    "fp16, softcap": Case(dtypes=(F16, F16), softcap=6.0),
    "fp32 head, bf16 hidden": Case(dtypes=(BF16, F32)),
    "bf16 head, fp32 hidden": Case(dtypes=(F32, BF16), softcap=12.0),
    "fp16 head, bf16 hidden": Case(dtypes=(BF16, F16)),
    "fp32 head, fp16 hidden": Case(dtypes=(F16, F32), per_token=True),
    "fp32": Case(dtypes=(F32, F32)),
    "fp32, sums in parts": Case(rows=600, width=1100, vocab=700, dtypes=(F32, F32)),
    "one of each": Case(rows=1, width=1, vocab=1, bias=False),
    "odd": Case(rows=33, width=31, vocab=33),
    "one row, several segments": Case(rows=1, width=65, vocab=5003),
    "a tile of everything": Case(rows=32, width=32, vocab=1024, bias=False),
}


@pytest.mark.parametrize("name", CASES)
def test_statistics(head, name):
    case = CASES[name]
    found = Run(head, case, STATISTICS).found
    oracle, plain = case.plain(torch.float64), case.plain(F32)
    for what in ("logps", "lse", "entropy", "log_sum_sq_probs", "mean_logit"):
        assert_precise(getattr(found, what), oracle[what], plain[what], 2.0, what=what)
    assert torch.equal(found.argmax, oracle["argmax"])
    for field_, value in vars(Run(head, case).found).items():
        if value is not None:
            assert torch.equal(value, getattr(found, field_)), f"{field_} changes with stats="


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kept_rows", [0, 32, 10**6])
def test_gradients(head, name, kept_rows):
    case = CASES[name]
    run = Run(head, case, kept_rows=min(kept_rows, case.rows))
    found = run.gradients(use_kept=kept_rows > 0)
    oracle = case.plain(torch.float64)
    narrow = F16 if case.dtypes == (F16, F16) else BF16 if case.dtypes == (BF16, BF16) else F32
    plain = case.plain(narrow)
    for what, value in found.items():
        wide = F32 if what == "db" else value.dtype
        assert_precise(value.to(wide), oracle[what], plain[what], 3.0, ulps=24.0, what=what)


@pytest.mark.parametrize("name", ["bf16", "fp32 head, bf16 hidden", "fp32", "bf16, softcap"])
def test_bits_depend_on_no_thread_tiling_or_neighbour(head, name):
    case, threads = CASES[name], torch.get_num_threads()
    first = Run(head, case, STATISTICS, kept_rows=32)
    grads = first.gradients(use_kept=True)
    try:
        for n in (1, 2, 3, 5):
            torch.set_num_threads(n)
            again = Run(head, case, STATISTICS, kept_rows=32)
            assert torch.equal(again.found.logps, first.found.logps)
            assert torch.equal(again.found.entropy, first.found.entropy)
            assert all(
                torch.equal(a, b) for a, b in zip(again.gradients(use_kept=True).values(), grads.values(), strict=True)
            )
    finally:
        torch.set_num_threads(threads)
    # A row's numbers do not depend on the other rows or on its place among them.
    some = replace(case, rows=7)
    some.tensors.update({k: v[-7:] if v.shape[0] == case.rows else v for k, v in case.tensors.items()})
    assert torch.equal(Run(head, some).found.logps, first.found.logps[-7:])
    # Without float32 operands dX is summed over the vocabulary in order, whatever the chunk, and dW over the rows; with one, in parts of
    # a chunk or row block. db by row blocks, in float32.
    usual = Run(head, case).gradients()
    for tiling in (HeadTiling(32, 32), HeadTiling(4096, 4096)):
        found = Run(head, case).gradients(tiling)
        for what in ("dx", "dw"):
            if F32 in case.dtypes:
                limit = 1e-6 if found[what].dtype == F32 else 2.0**-8
                assert (found[what] - usual[what]).norm() <= limit * usual[what].norm(), what
            else:
                assert torch.equal(found[what], usual[what]), what
        torch.testing.assert_close(found["db"], usual["db"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("rows", "width", "vocab"), [(64, 2048, 1000), (1024, 64, 1000), (64, 64, 20_000)])
def test_two_float32_operands_are_more_exact_than_torchs_gemm(head, rows, width, vocab):
    """Over the width, the rows and the vocabulary: a sum of six bf16 products in one go would be up to 1.6 times worse than torch's."""
    case = Case(rows=rows, width=width, vocab=vocab, dtypes=(F32, F32), bias=False)
    run, oracle, plain = Run(head, case), case.plain(torch.float64), case.plain(F32)
    for what, value in {"logps": run.found.logps, **run.gradients(HeadTiling(1024, rows))}.items():
        ours, theirs = (value.double() - oracle[what]).norm(), (plain[what].double() - oracle[what]).norm()
        assert ours < theirs, (what, ours, theirs)


def test_adding_to_a_float32_dw_leaves_it_unrounded(head):
    case = CASES["bf16"]
    run = Run(head, case)
    plain = run.gradients()["dw"]
    into, t = torch.full(case.operands[1].shape, 3.0), case.tensors
    head.gradients(
        *case.operands, run.found.lse, t["onehot"], t["softmax"], case.transform, HeadTiling(256, 64), dx=None, dw=into,
        db=None, add_to_dw=True,
    )  # fmt: skip
    torch.testing.assert_close(into - 3.0, plain.float(), rtol=2**-8, atol=1e-6)
    assert ((into - 3.0) != plain.float()).any()  # more digits than a bf16 dW has


def test_rows_without_a_gradient_get_exact_zeros(head):
    case = CASES["bf16, softcap"]
    case = replace(case)
    rows = torch.tensor([0, 31, 33, 69])
    case.tensors["onehot"][rows] = case.tensors["softmax"][rows] = 0.0
    dx = Run(head, case).gradients()["dx"]
    assert not dx[rows].any()
    assert dx[1].any()


def test_undefined_rows_are_nan_and_leave_the_others_alone(head):
    case = replace(CASES["bf16"])
    good = Run(head, case, STATISTICS).found
    case.tensors["hidden"] = case.tensors["hidden"].clone()
    case.tensors["hidden"][3, 5], case.tensors["hidden"][40, 0] = torch.nan, torch.inf
    found = Run(head, case, STATISTICS).found
    for what in ("logps", "lse", "entropy", "log_sum_sq_probs", "mean_logit"):
        value = getattr(found, what)
        assert value[[3, 40]].isnan().all(), what
        others = [r for r in range(case.rows) if r not in (3, 40)]
        assert torch.equal(value[others], getattr(good, what)[others]), what


def test_excluded_words_and_large_logits(head):
    case = replace(CASES["bf16"])
    case.tensors["bias"] = case.tensors["bias"].clone()
    case.tensors["bias"][torch.arange(0, 1501, 2)] = -torch.inf
    case.tensors["bias"][:64] = -torch.inf
    case.tensors["targets"] = torch.arange(101, 101 + 2 * case.rows, 2)
    case.tensors["hidden"] = case.tensors["hidden"] * 64
    oracle, found = case.plain(torch.float64), Run(head, case, ("entropy",)).found
    torch.testing.assert_close(found.logps.double(), oracle["logps"], rtol=1e-5, atol=1e-4)
    oracle["entropy"] = -(p := case_probabilities(case)).mul(p.clamp_min(1e-300).log()).sum(-1)
    torch.testing.assert_close(found.entropy.double(), oracle["entropy"], rtol=1e-4, atol=1e-4)
    grads = Run(head, case).gradients()
    assert all(value.isfinite().all() for value in grads.values())


def case_probabilities(case: Case) -> Tensor:
    hidden, weight, bias, _ = (None if x is None else x.double() for x in case.operands)
    return (hidden @ weight.t() + bias).softmax(-1)


def test_logits_are_not_rounded_to_16_bits(head):
    """The log-ratio of a 512-token sequence: plain bf16 logits put 0.5 nats of noise on it, float32 sums of exact products none."""
    case = Case(rows=512, width=256, vocab=4000, bias=False)
    oracle, found, plain = case.plain(torch.float64)["logps"], Run(head, case).found.logps, case.plain(BF16)["logps"]
    assert abs((found.double() - oracle).sum()) < 1e-3
    assert (plain.double() - oracle).abs().sum() > 0.5


def test_filter_leaves_out_blocks_and_bounds_the_error(head):
    case = Case(rows=64, width=64, vocab=2048, bias=False)
    case.tensors["weight"] = case.tensors["weight"] * torch.linspace(3, 0, 2048)[:, None].bfloat16()
    run = Run(head, case)
    exact, threshold = run.gradients(), 2.0**-12
    assert run.left_out == 0
    filtered = run.gradients(gradient_filter=threshold)
    assert 0 < run.left_out < 64 * 2
    # An entry of dlogits that is left out is below threshold * |coefficient|.
    hidden, weight = (x.double() for x in case.operands[:2])
    bound = threshold * case.tensors["softmax"].abs().double()
    slack = 2.0**-7 * exact["dx"].double().abs().max()
    assert ((filtered["dx"] - exact["dx"]).double().abs() <= bound[:, None] * weight.abs().sum(0) + slack).all()
    assert ((filtered["dw"] - exact["dw"]).double().abs() <= (bound[:, None] * hidden.abs()).sum(0) + slack).all()


def test_refused_operands(head):
    assert "found torch.float64" in head.why_not(torch.float64, F32)
    assert all(head.why_not(a, b) is None for a in PLANES for b in PLANES)


def test_what_is_kept_is_whole_blocks_of_rows(head):
    run = Run(head, CASES["bf16"], kept_rows=33)
    with pytest.raises(ValueError, match="kept_rows: expected all rows or a multiple of 32, found 33"):
        run.gradients(use_kept=True)


@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
@pytest.mark.parametrize(("rows", "width", "vocab"), [(1100, 40, 700), (40, 1100, 2500), (600, 1100, 1100)])
def test_scratch_is_not_overrun(head, monkeypatch, dtype, rows, width, vocab):
    """Also where strips are cut into panels, with every thread's sums held between them."""
    guards: list[Tensor] = []

    def guarded(nbytes: int, device: torch.device) -> Tensor:
        buffer = torch.full((nbytes + 64 + 4096,), 0x5A, dtype=torch.uint8)
        buffer = buffer[-buffer.data_ptr() % 64 :]
        guards.append(buffer[nbytes : nbytes + 4096])
        return buffer

    monkeypatch.setattr("fastpref.backends.cpu_head._aligned", guarded)
    run = Run(head, Case(rows=rows, width=width, vocab=vocab, dtypes=(dtype, dtype), bias=False), STATISTICS)
    for tiling in (HeadTiling(1024, rows), HeadTiling(256, 64)):
        run.gradients(tiling)
    assert len(guards) == 3
    assert all((guard == 0x5A).all() for guard in guards)
