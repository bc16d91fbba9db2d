"""Temperature: what the target gives away in reward, how fast descent gets there, and the rate in closed form."""

from __future__ import annotations

import numpy as np

from . import pairs
from .curves import geometric, history
from .descent import contraction, descend, steps_to_target
from .instance import Instance
from .losses import BDA, PRA, RDA, Update
from .results import Experiment, Panel, Picture, Series, Table, below, digits
from .targets import log_boltzmann, reward_gap, reward_gap_bounds

CAVEAT = (
    "The largest stable step scales as 1 / tau^2 too (lr < 1 / (tau^2 lambda_max) for RDA), and the condition number lambda_n / lambda_2 does not "
    "depend on tau: 'larger tau converges faster' is a statement at a fixed learning rate, towards a worse target."
)


def run(*, quick: bool = False) -> Experiment:
    """The section; it takes a second, ``quick`` changes nothing."""
    return Experiment(
        "temperature",
        "Temperature: trade-off and rate",
        [_trade_off(), _rates()],
        [_speed_picture(), _target_picture()],
    )


def line(tau: float) -> Instance:
    """Ten responses with rewards evenly spaced from 0 to 2, prior-free."""
    return Instance(np.linspace(0.0, 2.0, 10), tau=tau)


def _trade_off() -> Table:
    expected = {
        0.25: ("0.1548", "0.5756", "129", "399", "90"),
        0.5: ("0.3707", "1.1513", "30", "90", "59"),
        1.0: ("0.6229", "2.3026", "6", "18", "36"),
        2.0: ("0.8004", "4.6052", "11", "3", "26"),
    }
    rows = []
    for tau, numbers in expected.items():
        instance = line(tau)
        gap = float(reward_gap(instance.reward, instance.target))
        bound = float(reward_gap_bounds(instance.reward, tau)[-1])
        steps = [steps_to_target(instance, update, lr=lr, distance=1e-2) for _, update, lr in _algorithms(instance)]
        rows.append((f"{tau:g}", [digits(m, e) for m, e in zip((gap, bound, *steps), numbers, strict=True)]))
    columns = ["tau", "max r - E r", "tau log n", *(f"{name} (lr {lr:g})" for name, _, lr in _algorithms(line(1.0)))]
    title = "Price and steps to TV <= 0.01 of the own target (10 responses, r = 0 ... 2, all pairs)"
    return Table(title, columns, rows, [CAVEAT, "RDA at tau = 2 is close to the stability limit."])


def _algorithms(instance: Instance) -> list[tuple[str, Update, float]]:
    everywhere = pairs.uniform(instance.n)
    return [("RDA", RDA(everywhere), 1.0), ("PRA", PRA(everywhere), 4.0), ("BDA", BDA(), 1.0)]


def _rates() -> Table:
    instance = Instance.random()
    designs = (
        ("all pairs", pairs.uniform(6), "0.9216", "0.958764"),
        ("star at 0", pairs.star(6, 0), "0.9608", "0.977699"),
        ("path", pairs.path(6), "0.989496", "0.994085"),
    )
    spread = instance.preference * (1.0 - instance.preference)
    rows = []
    for label, weights, rda_expected, pra_expected in designs:
        cells = []
        for update, graph, factor, lr, number in (
            (RDA(weights), weights, 2.0, 0.2, rda_expected),
            (PRA(weights), weights * spread, 1.0, 1.0, pra_expected),
        ):
            values, vectors = pairs.spectrum(graph)
            measured = contraction(instance, update, vectors[:, 1], lr=lr, epsilon=1e-6)
            predicted = 1.0 - factor * instance.tau**2 * lr * float(values[1])
            cells += [digits(measured, number), below(abs(measured - predicted), 1e-7)]
        rows.append((label, cells))
    columns = ["pairs", "RDA, lr 0.2", "off the formula", "PRA, lr 1", "off the formula"]
    notes = [
        "Formulas: RDA 1 - 2 tau^2 lr lambda_2(L_W), PRA 1 - tau^2 lr lambda_2(L_{W p*(1 - p*)}), one step from the target along that eigenvector."
    ]
    return Table("Contraction per step (6 responses, seed 0, tau = 0.7)", columns, rows, notes)


def _speed_picture() -> Picture:
    panels = []
    for index, (name, _, lr) in enumerate(_algorithms(line(1.0))):
        series = []
        for tau in (0.25, 0.5, 1.0, 2.0):
            instance = line(tau)
            end = descend(instance, _algorithms(instance)[index][1], lr=lr, steps=1000, snapshots=geometric(1000))
            x, y = history(instance, end)
            series.append(Series(f"tau = {tau:g}", x, np.maximum(y, 1e-16)))
        panels.append(Panel(f"{name}, lr {lr:g}", "step", "TV to the own target", series, log_x=True, log_y=True))
    return Picture("temperature", panels, CAVEAT)


def _target_picture() -> Picture:
    reward, reference = np.array([0, 0.25, 0.5, 0.75, 1]), np.array([0.4, 0.3, 0.15, 0.1, 0.05])
    taus = np.geomspace(0.03, 30.0, 200)
    panels = []
    for title, prior in (("prior-free target", np.zeros(5)), ("posterior target", np.log(reference))):
        p = np.exp(np.stack([log_boltzmann(reward, float(tau), prior) for tau in taus]))
        series = [
            Series(f"r = {r:g}, pi_ref = {q:g}", taus, p[:, i])
            for i, (r, q) in enumerate(zip(reward, reference, strict=True))
        ]
        panels.append(Panel(title, "tau", "probability", series, log_x=True))
    free = [Instance(reward, tau=float(tau)) for tau in taus]
    gaps = [float(reward_gap(reward, i.target)) for i in free]
    bounds = np.array([[float(b) for b in reward_gap_bounds(reward, float(tau))] for tau in taus])
    price = [Series("max r - E r", taus, gaps), Series("tau H(target)", taus, bounds[:, 0], "--")]
    price.append(Series("tau log n", taus, bounds[:, 1], ":"))
    panels.append(Panel("the price, prior-free", "tau", "reward given away", price, log_x=True, log_y=True))
    note = "tau -> 0: all mass on the best response; tau -> infinity: uniform, or the reference."
    return Picture("target_against_tau", panels, note)
