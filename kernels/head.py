"""What a kernel has to know of the device form of a loss: the function of one item, and what to give it."""

from typing import Any, Literal, NamedTuple


class Head(NamedTuple):
    """One head of ``objective_heads``.

    Attributes:
        function: jitted, elementwise, with the arguments of every head of its ``kind``; returns the loss and its derivatives with respect to
            the policy's log-probs.
        kind: what an item is.
        data: names of its data, in the order of ``x0, x1, ...``.
        hyper: names of its hyper-parameters, in the order of ``h0, h1, ...``.
        number: name of the number of the whole call that it reads, or ``None``.
    """

    function: Any
    kind: Literal["pair", "sequence", "token"]
    data: tuple[str, ...]
    hyper: tuple[str, ...]
    number: str | None
