"""``bench/scaling.py``: the fit, and a run at toy sizes."""

import json

import pytest
import scaling
import torch


def test_fit_of_a_line_through_the_origin():
    found = scaling.fit([1, 2, 5, 10], [3.0, 6.0, 15.0, 30.0])
    assert found.slope == pytest.approx(1.0)
    assert (found.fixed, found.rate, found.r_squared) == pytest.approx((0.0, 3.0, 1.0))
    assert found.residuals == pytest.approx([0.0] * 4)


def test_fit_tells_a_square_and_a_fixed_cost_from_a_line():
    assert scaling.fit([1, 2, 4, 8], [1.0, 4.0, 16.0, 64.0]).slope == pytest.approx(2.0)
    found = scaling.fit([1, 2, 4, 8], [11.0, 12.0, 14.0, 18.0])
    assert found.slope < 0.5
    assert (found.fixed, found.rate) == pytest.approx((10.0, 1.0))
    assert scaling.fit([1, 2, 3], [1.0, 2.0, 1.0]).r_squared == pytest.approx(0.0)


def test_a_decade_is_a_decade_of_multiples():
    assert scaling.decade(256, 5, 4) == [256, 456, 808, 1440, 2560]
    assert all(size % 64 == 0 for size in scaling.decade(12800, 5, 64))


def test_a_run_writes_every_fit_and_leaves_the_threads_as_they_were(tmp_path):
    path, before = tmp_path / "scaling.json", torch.get_num_threads()
    sizes = ["--base-rows", "8", "--base-vocab", "64", "--hidden", "16", "--points", "3"]
    scaling.main([*sizes, "--repeats", "1", "--json", str(path)])
    content = json.loads(path.read_text())
    assert len(content["growth"]) == 8
    assert {(entry["what"], entry["dtype"]) for entry in content["threads"]} == {
        (what, dtype) for what in ("head", "logits") for dtype in ("float32", "bfloat16")
    }
    assert all(set(entry["speedup"]) == {"2"} for entry in content["threads"])
    assert torch.get_num_threads() == before
