"""The roofline model conserves what it counts, keeps its own floors, and its committed table is what it says now."""

import json
import os
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TRITON_INTERPRET", "1")  # before triton is imported

import pytest
import roofline
import roofline_given
import roofline_others
import torch
from roofline_devices import DEVICES, RESOURCES, bandwidth_share, resident_programs, resident_warps
from roofline_model import Assumptions, Phase, Step, full_waves
from roofline_ours import BUDGET_BYTES, ENGINE, GRADIENT_PASSES, STATS_PASSES, Head, chunked, fused, problem

from fastpref.planner import DESIGNS, make_plan

A = Assumptions()
H100 = DEVICES["H100"]
HEAD = Head("toy", 64, 1000, 4096)
THV = 4096 * 64 * 1000
ALL = [Head("", *shape, rows) for shape in roofline.HEADS.values() for rows in (2048, 32768)]


def test_bytes_of_naive_by_hand():
    gemms = 4 * (2 * 4096 * 1000 + 2 * 1000 * 64 + 2 * 4096 * 64)  # logits, head, hidden states: two forward, dX, dW
    softmax = 2 * (2 + 2) + 2 + (2 + 2 + 2)  # two forward; zeros, and their log-softmax
    step = roofline_others.naive(HEAD)
    assert step.nbytes == gemms + softmax * 4096 * 1000
    assert step.flops == 4 * 2 * THV
    assert step.peak_bytes == 3 * 2 * 4096 * 1000


def test_bytes_of_liger_grow_with_the_pairs():
    one, many = (roofline_others.liger(replace(HEAD, pair_rows=rows)) for rows in (4096, 2048))
    head = 2 * 1000 * 64
    # Per chunk: the head is read by policy, reference and dX; its dW is written, read, and added to a sum that is read and written.
    assert many.nbytes - one.nbytes == (3 + 4) * head
    assert one.peak_bytes - many.peak_bytes == 3 * 2 * 2048 * 1000
    with pytest.raises(ValueError, match="precomputed"):
        roofline_others.liger(replace(HEAD, precomputed=True))


@pytest.mark.parametrize(("precomputed", "expected"), [(False, 8), (True, 6)])
def test_given_logits_take_the_least_bytes(precomputed, expected):
    head = replace(HEAD, precomputed=precomputed)
    assert roofline_given.ours(head).nbytes == expected * head.logits
    for form in roofline_given.FORMS.values():
        assert form(head).nbytes >= expected * head.logits


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_row_kernels_move_what_the_model_says(dtype):
    from tests.emulation import require_triton, watch

    require_triton()
    from fastpref.backends import LogitTransform, RowState
    from fastpref.backends.triton import TritonBackend

    rows, columns, backend = 3, 1000, TritonBackend()
    logits, targets = torch.randn(rows, columns).to(dtype), torch.tensor([1, 2, 3])
    state = RowState.start(rows, logits.device, torch.float32)
    with watch() as launches:
        backend.row_stats(logits, targets, state, col0=0, transform=LogitTransform())
        coef, lse = torch.ones(rows), torch.zeros(rows)
        backend.row_grad(logits, targets, lse, coef, coef, logits, col0=0, transform=LogitTransform())
    passes = logits.numel() * logits.element_size()
    per_row = rows * 128
    stats, gradient = (
        sum(x.bytes_loaded() + x.bytes_stored() for x in part) for part in (launches[:-1], launches[-1:])
    )
    assert 0 <= stats - STATS_PASSES * passes <= per_row
    assert 0 <= gradient - GRADIENT_PASSES * passes <= per_row


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("precomputed", [False, True])
def test_ours_are_the_planners_figures(design, precomputed):
    head = replace(HEAD, precomputed=precomputed)
    made = make_plan(problem(head), BUDGET_BYTES, design)
    step = chunked(head, design)
    assert step.nbytes == made.bytes_moved
    assert step.flops == made.flops
    assert step.peak_bytes == made.scratch_bytes
    other = make_plan(problem(head, ENGINE), BUDGET_BYTES, design)
    keeping = 2 * ENGINE.kept_bytes(head.rows, head.vocab) if design in ("D1", "D2") else 0
    assert fused(head, design).nbytes == other.bytes_moved + keeping
    assert fused(head, design).peak_bytes == other.scratch_bytes
    assert step.flops == fused(head, design).flops == (6 + 2 * (design == "D0") + 2 * (not precomputed)) * THV


@pytest.mark.parametrize("head", ALL, ids=str)
def test_nothing_is_faster_than_its_own_arithmetic_or_its_own_bytes(head):
    for name, step in roofline.steps(head, roofline.contestants(A)).items():
        for device in DEVICES.values():
            assert isinstance(step, Step), f"{name}: {step}"
            found = step.seconds(device, A)
            assert found >= step.flops / (A.gemm * device.tensor_flops)
            assert found >= step.nbytes / device.bandwidth
            assert all(phase.flops >= 0 and phase.nbytes >= 0 and phase.logits >= 0 for phase in step.phases), name


@pytest.mark.parametrize("head", ALL, ids=str)
def test_fused_forms_move_less_than_chunked_ones(head):
    for design in DESIGNS:
        assert fused(head, design).nbytes < chunked(head, design).nbytes


def test_what_does_not_fit_has_no_time():
    large = Head("", 5120, 151936, 32768)
    found = roofline.steps(large, {"naive fp32": roofline_others.naive_float32})["naive fp32"]
    assert roofline.seconds(found, DEVICES["RTX 4090"], A) is None
    assert roofline.seconds(found, DEVICES["B200"], A) is not None
    assert roofline.seconds("no plan", H100, A) is None


def test_a_filter_leaves_work_out():
    assert roofline_others.filtered(HEAD, A).flops == (4 + 2 + 4 * A.kept_blocks) * THV
    assert roofline_others.filtered(HEAD, replace(A, kept_blocks=1.0)) == roofline_others.cut_cross_entropy(HEAD)


def test_a_phase_is_bound_by_the_slower_side():
    busy = Phase("", "gemm", flops=1e15, nbytes=1e9)
    assert busy.seconds(H100, A) == pytest.approx(1e15 / (A.gemm * H100.tensor_flops))
    idle = Phase("", "stream", flops=0, nbytes=1e12)
    assert idle.seconds(H100, A) == pytest.approx(1e12 / (A.stream * H100.bandwidth))


def test_waves_and_occupancy(tmp_path):
    assert full_waves(H100, 0) == 1.0
    assert full_waves(H100, 128) == pytest.approx(128 / 132)  # one wave, four multiprocessors idle
    assert bandwidth_share(H100, 64) == 1.0
    assert bandwidth_share(H100, 4) == pytest.approx(4 * 32 * 64 / (H100.bandwidth * 700e-9 / 132))
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"kernels": {"k": {"sm_90": {"resident_warps": 40, "warps": 8}}}}))
    assert resident_warps(H100, "k", report) == 40
    assert resident_programs(H100, "k", report) == 5
    assert resident_programs(H100, "other", report) == 1
    assert resident_warps(H100, "other", report) == resident_warps(H100, "k", tmp_path / "none") == 32


def test_every_kernel_that_is_named_is_in_the_report_of_the_compilers():
    if not RESOURCES.exists():
        pytest.skip(f"{RESOURCES.name} was not written")
    known = set(json.loads(RESOURCES.read_text())["kernels"])
    functions = {name.split(",")[0] for name in known}
    steps = [chunked(HEAD, "D0"), fused(HEAD, "D0"), roofline_given.ours(HEAD)]
    named = {phase.kernel for step in steps for phase in step.phases} - {""}
    assert {name for name in named if name.split(",")[0] in functions} <= known


def test_a_higher_gemm_efficiency_changes_the_order_in_favour_of_fewer_bytes():
    slow, fast = (dict(roofline.ranking(ALL[0], H100, A.with_gemm(e))) for e in (0.5, 0.9))
    assert slow["fused D1"] / slow["naive fp32"] > fast["fused D1"] / fast["naive fp32"]


def test_the_committed_table_says_what_the_model_says_now(tmp_path, capsys):
    path = tmp_path / "roofline.md"
    assert roofline.main(["--markdown", str(path), "--json", str(tmp_path / "roofline.json")]) == 0
    committed = Path(roofline.__file__).with_name("roofline.md").read_text()
    assert "A model, not a measurement" in committed.splitlines()[0]
    assert path.read_text() == committed, (
        "the planner or the report of the compilers changed: python bench/roofline.py --markdown bench/roofline.md"
    )
    content = json.loads((tmp_path / "roofline.json").read_text())
    assert "model" in content["label"]
    assert len(content["numbers"]) == len(roofline.HEADS) * 3 * len(roofline.contestants(A))
    assert capsys.readouterr().out.startswith("A model, not a measurement")


def test_rows_are_whole_pairs():
    with pytest.raises(SystemExit):
        roofline.main(["--rows", "1000"])
