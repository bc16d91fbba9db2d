"""What an engine that runs a linear head over the whole vocabulary tells the planner of itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol


class EngineCosts(Protocol):
    """What an engine takes for operands of two dtypes, as pure functions of shapes, for the planner. A named tuple of plain values,
    which is hashable, and which ``torch.compile`` can take apart."""

    def __iter__(self) -> Iterator[Any]: ...

    @property
    def edge(self) -> int:
        """What is kept of the logits is that of all rows, or of a multiple of so many."""
        ...

    @property
    def chunk_columns(self) -> int:
        """Most vocabulary columns whose gradients are formed at a time."""
        ...

    @property
    def flops(self) -> float | None:
        """FLOP/s of its products; ``None``: those of the device's GEMMs."""
        ...

    @property
    def narrow_products(self) -> bool:
        """Whether the gradients' products run in 16 bits where both operands do."""
        ...

    @property
    def logit_bytes(self) -> int:
        """Bytes per logit that a gradient takes in memory on its way into the GEMMs."""
        ...

    def statistics_bytes(self, rows: int, vocab: int, hidden: int, *, all_statistics: bool = False) -> int:
        """Scratch of the statistics of ``rows`` rows."""
        ...

    def gradient_bytes(
        self,
        rows: int,
        vocab: int,
        hidden: int,
        chunk: int,
        row_block: int,
        *,
        dx: bool = True,
        dw: bool = True,
        db: bool = False,
        float32_dw: bool = False,
    ) -> int:
        """Scratch of the gradients of ``rows`` rows, by ``chunk`` columns and ``row_block`` rows; ``float32_dw``: into a float32 dW."""
        ...

    def kept_bytes(self, rows: int, vocab: int, *, softcap: bool = False) -> int:
        """What is kept of the logits of ``rows`` rows."""
        ...
