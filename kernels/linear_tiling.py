"""How the kernels of a linear head are cut into tiles: one reasoned default per family of GPUs and width of operands, no autotuning.

A program holds the logits of ``rows x columns`` in fp32 registers (tensor memory on sm_100), so the tile decides everything else. What
bounds each family:

``cuda8``   A100: 164 KiB of shared memory hold four steps of a 128 x 128 tile
``cuda8x``  sm_86, sm_89 and sm_120: 100 KiB of shared memory, so steps of half the depth
``cuda9``   H100, H200: 128 x 128 again. 128 x 256 would feed the tensor cores better, but the log-sum-exp epilogue then spills: its
            128 accumulators per thread, their exponentials and the addresses of the next loads do not fit 255 registers
``cuda10``  B200: accumulators are in tensor memory, the epilogue reads them into as many registers; steps of half the depth leave it those
            that the addresses of loads would take
``cdna``    gfx90a, gfx942, gfx950: 64 KiB of LDS; 128 x 128 by 8 wavefronts of 64 leaves registers for the epilogue
``other``   anything else: a tile that fits everywhere
``interpreter``  few large tiles and small groups of them: it pays for every operation, not for its size

Nothing here looks at the number of rows: the bits of a row's log-probability do not depend on what other rows run in the same launch, so
that a policy and a reference with the same numbers agree exactly whichever way their rows are grouped. For the same reason
the vocabulary is split into :func:`segment_columns`, a function of V alone.
"""

from typing import NamedTuple

import triton

from .tiling import active_family

MOST_SEGMENTS = 128
"""Programs per tile of rows: enough to fill a GPU from a single one. A segment costs 8 bytes per row, far less than the row itself."""

SEGMENT_STEP = 256
"""Segments are multiples of this, as every tile's ``columns`` divide it."""


class LinearTiling(NamedTuple):
    """One program's tile of logits and how its product over H is pipelined.

    Attributes:
        rows: of the tile.
        columns: of the tile, vocabulary entries; divides :data:`SEGMENT_STEP`.
        depth: elements of H per step.
        group: tiles of rows that share each tile of the head while it is in the L2 cache.
        num_warps: per program.
        num_stages: steps in flight.
    """

    rows: int
    columns: int
    depth: int
    group: int
    num_warps: int
    num_stages: int


NARROW: dict[str, LinearTiling] = {
    "cuda8": LinearTiling(128, 128, 64, 16, 8, 4),
    "cuda8x": LinearTiling(128, 128, 32, 16, 8, 4),
    "cuda9": LinearTiling(128, 128, 64, 16, 8, 3),
    "cuda10": LinearTiling(128, 128, 32, 16, 8, 4),
    "cdna": LinearTiling(128, 128, 64, 16, 8, 2),
    "other": LinearTiling(64, 128, 64, 16, 4, 2),
    "interpreter": LinearTiling(64, 256, 64, 2, 4, 2),
}
"""Two 16-bit operands of one dtype: tensor cores, summed in fp32."""

HEAVY: dict[str, LinearTiling] = {f: t._replace(columns=64) for f, t in NARROW.items()} | {
    "cuda8x": NARROW["cuda8x"]._replace(columns=64, num_stages=5),
    "interpreter": NARROW["interpreter"],
}
"""The same with half of the columns, where the epilogue needs the registers: a softcap, the statistics that trainers log, or masks along H.

``cuda8x`` has room for one more step of these. With four, the compiler spills on sm_89 to fit two programs on a multiprocessor.
"""

WIDE: dict[str, LinearTiling] = dict.fromkeys(NARROW, LinearTiling(64, 64, 16, 16, 4, 3)) | {
    "cdna": LinearTiling(64, 64, 32, 16, 4, 2),
    "interpreter": NARROW["interpreter"],
}
"""An fp32 operand: no tensor core multiplies fp32 without rounding it, so these run on the ordinary units, whose registers bound the tile."""


def linear_tiling(narrow: bool, heavy: bool = False, family: str | None = None) -> LinearTiling:
    """The tile of a launch.

    Args:
        narrow: both operands have one 16-bit dtype.
        heavy: see :data:`HEAVY`; :func:`is_heavy` says so of a launch.
        family: of GPUs; ``None`` for that of the one in use.
    """
    table = WIDE if not narrow else HEAVY if heavy else NARROW
    return table[family or active_family()]


def is_heavy(width: int, cap: float | None, metrics: bool = False) -> bool:
    """Whether a launch over operands of ``width`` takes the tile of :data:`HEAVY`; ``metrics``: statistics of ``row_stats`` beside ``s2``.

    ``s2`` alone is not heavy: the losses that use it compare a policy with a reference that does not have it, bit for bit.
    """
    return cap is not None or metrics or width % 64 != 0


def segment_columns(vocab: int) -> int:
    """Vocabulary columns per program, so that there are at most :data:`MOST_SEGMENTS`."""
    return SEGMENT_STEP * triton.cdiv(triton.cdiv(vocab, MOST_SEGMENTS), SEGMENT_STEP)
