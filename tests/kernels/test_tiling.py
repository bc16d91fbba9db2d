"""The rule of the row kernels' tiles on each family of GPUs, without one."""

import pytest

pytest.importorskip("triton")

from fastpref.kernels import tiling


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch):
    """Make a family the one in use."""

    def use(family: str, warp_size: int = 32) -> None:
        monkeypatch.setattr(tiling, "active_family", lambda: family)
        monkeypatch.setattr(tiling, "warp_size", lambda: warp_size)

    return use


@pytest.mark.parametrize("family", ["cuda8", "cuda8x", "cuda9", "cuda10", "other", "interpreter"])
def test_long_rows_take_8_warps_of_32(on, family) -> None:
    on(family)
    assert tiling.tiling(128256, 2, 4) == tiling.Tiling(lanes=2048, num_warps=8)
    assert tiling.tiling(128256, 4, 2) == tiling.Tiling(lanes=1024, num_warps=8)


def test_and_4_of_64_which_are_as_many_threads(on) -> None:
    on("cdna", 64)
    assert tiling.tiling(128256, 2, 4) == tiling.Tiling(lanes=2048, num_warps=4)


@pytest.mark.parametrize(("columns", "num_warps"), [(1, 1), (1024, 1), (1025, 2), (2049, 4), (4097, 8), (10**6, 8)])
def test_short_rows_take_what_covers_them_in_one_step(on, columns, num_warps) -> None:
    on("cuda9")
    assert tiling.tiling(columns, 2, 4) == tiling.Tiling(lanes=256 * num_warps, num_warps=num_warps)
