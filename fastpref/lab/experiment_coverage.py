"""Coverage: what a disconnected comparison graph cannot identify stays where it started, in closed form."""

from __future__ import annotations

import numpy as np

from .curves import geometric
from .descent import ROUNDING, descend
from .instance import Instance
from .limits import component_limit
from .losses import PRA, RDA, Update
from .results import Experiment, Panel, Picture, Series, Table, below
from .targets import Array


def run(*, quick: bool = False) -> Experiment:
    """The section; it takes a second, ``quick`` changes nothing."""
    instance, weights = Instance.random(), broken_graph()
    starts = {
        "the reference": instance.log_prior,
        "zero": np.zeros(instance.n),
        "random": np.random.default_rng(1).normal(size=instance.n),
    }
    algorithms: list[tuple[str, Update, float]] = [
        ("PRA-P, lr 2", PRA(weights), 2.0),
        ("RDA-P, lr 0.5", RDA(weights), 0.5),
    ]
    rows, series = [], []
    for label, start in starts.items():
        limit = component_limit(instance, weights, start)
        cells = []
        for name, update, lr in algorithms:
            end = descend(
                instance, update, lr=lr, steps=200_000, start=start, tolerance=ROUNDING, snapshots=geometric(300)
            )
            error = {s: float(np.abs(theta - limit).max()) for s, theta in end.snapshots.items() if s <= end.steps}
            cells.append(below(float(np.abs(end.theta - limit).max()), 1e-12))
            series.append(Series(f"{name}, from {label}", list(error), np.maximum(list(error.values()), 1e-17)))
        rows.append((label, cells))
    notes = [
        "Limit: theta_y = s_y + mean over y's component of (start - s), s = log pi_ref + r / tau; a response in no pair keeps its logit. "
        "Pairs (0, 1), (1, 2) and (3, 4) are compared, 5 is in none.",
        "RDA's step is below its stability limit 1 / (tau^2 lambda_max); at PRA's 2 it diverges.",
    ]
    title = "max |logit - closed-form limit| with a disconnected comparison graph (6 responses, seed 0)"
    table = Table(title, ["start", *(name for name, _, _ in algorithms)], rows, notes)
    panel = Panel("a disconnected comparison graph", "step", "max |logit - limit|", series, log_x=True, log_y=True)
    picture = Picture(
        "coverage", [panel], "The limit depends on the start: only differences inside a component are identified."
    )
    return Experiment("coverage", "Coverage: a conservation law", [table], [picture])


def broken_graph() -> Array:
    """Weights ``[6, 6]`` with the components {0, 1, 2}, {3, 4} and {5}."""
    weights = np.zeros((6, 6))
    weights[0, 1], weights[1, 2], weights[3, 4] = 0.5, 0.3, 0.2
    return weights
