"""Data design: which pairs are compared sets the rate; at equal connectivity, pairs that cover the target's mass win."""

from __future__ import annotations

import numpy as np

from . import pairs
from .curves import geometric, history
from .descent import descend, steps_to_target
from .experiment_temperature import line
from .instance import Instance
from .losses import PRA, RDA, Update
from .results import Experiment, Panel, Picture, Series, Table, digits
from .targets import Array, log_boltzmann


def run(*, quick: bool = False) -> Experiment:
    """The section; it takes a second, ``quick`` changes nothing."""
    instance = line(0.5)
    expected = (
        ("0.2222", "0.0363", "30", "90"),
        ("0.1111", "0.0121", "64", "161"),
        ("0.1111", "0.0121", "62", "261"),
        ("0.0109", "0.0027", "625", "1263"),
        ("0.0185", "0.0025", "113", "332"),
        ("0.0185", "0.0025", "404", "1370"),
    )
    spread = instance.preference * (1.0 - instance.preference)
    rows = []
    for (label, weights), numbers in zip(designs(instance).items(), expected, strict=True):
        steps = [steps_to_target(instance, update, lr=lr, distance=1e-2) for _, update, lr in _algorithms(weights)]
        measured = (float(pairs.lambda_2(weights)), float(pairs.lambda_2(weights * spread)), *steps)
        rows.append((label, [digits(m, e) for m, e in zip(measured, numbers, strict=True)]))
    columns = ["pairs", "lambda_2(L_W)", "lambda_2(L_{W p*(1-p*)})", "RDA (lr 1)", "PRA (lr 4)"]
    notes = [
        "In the last two rows pairs of equal responses are left out. Connectivity governs the asymptotic rate; large reward gaps give a large first "
        "gradient but little curvature at the end; at equal lambda_2, pairs that cover the mass of the target win, because TV weights errors by it."
    ]
    table = Table("Steps to TV <= 0.01 by pair design (10 responses, r = 0 ... 2, tau = 0.5)", columns, rows, notes)
    return Experiment("pairs", "Data design", [table], [_picture(instance)])


def designs(instance: Instance) -> dict[str, Array]:
    """Pair weights ``[n, n]`` by name, for rewards in ascending order."""
    n = instance.n
    against = np.exp(log_boltzmann(-instance.reward, instance.tau))
    return {
        "all pairs": pairs.uniform(n),
        "best against each": pairs.star(n, n - 1),
        "worst against each": pairs.star(n, 0),
        "adjacent ranks": pairs.path(n),
        "from the target": pairs.product(instance.target, diagonal=False),
        "from exp(-r / tau)": pairs.product(against, diagonal=False),
    }


def _algorithms(weights: Array) -> list[tuple[str, Update, float]]:
    return [("RDA", RDA(weights), 1.0), ("PRA", PRA(weights), 4.0)]


def _picture(instance: Instance) -> Picture:
    panels = []
    for index in range(2):
        series = []
        for label, weights in designs(instance).items():
            name, update, lr = _algorithms(weights)[index]
            end = descend(instance, update, lr=lr, steps=3000, snapshots=geometric(3000))
            x, y = history(instance, end)
            series.append(Series(label, x, np.maximum(y, 1e-16)))
        panels.append(Panel(f"{name}, lr {lr:g}", "step", "TV to the target", series, log_x=True, log_y=True))
    return Picture(
        "pair_designs", panels, "Fixed learning rates; the last two designs leave out pairs of equal responses."
    )
