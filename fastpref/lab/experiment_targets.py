"""One target: every scenario, on any full-support data, converges to the same Boltzmann distribution, and what breaks that."""

from __future__ import annotations

import numpy as np

from . import pairs
from .curves import geometric, history
from .descent import ROUNDING, descend
from .instance import Instance
from .losses import BDA, ON_POLICY, PRA, RA, RDA, PolicyGradient, Update
from .results import Experiment, Panel, Picture, Series, Table, below, digits
from .targets import Array, forward_kl_tilt, log_boltzmann, log_softmax, total_variation

_STOPPED = "A descent ends early once no logit moves by more than 5e-16 a step."


def run(*, quick: bool = False) -> Experiment:
    """The section; ``quick`` goes to fixed points and to infinity in ten times longer steps, the same to the printed digits."""
    scenarios, curves = _scenarios()
    picture = Picture(
        "convergence",
        [Panel(title, "step", "TV to the target", s, log_x=True, log_y=True) for title, s in curves],
        "Learning rates differ by algorithm (BDA 1, RA 0.5, RDA 0.5, PRA 2): compare where the curves end, not their speed.",
    )
    tables = [_golden(), scenarios, _controls(quick), _sampler(), _kl_terms(quick)]
    return Experiment("targets", "One target for four scenarios", tables, [picture])


def _golden() -> Table:
    instance = Instance([0, 0.25, 0.5, 0.75, 1], tau=0.5, log_reference=np.log([0.4, 0.3, 0.15, 0.1, 0.05]))
    expected = (
        ("prior-free", ("0.058012", "0.095646", "0.157694", "0.259993", "0.428656"), "1.42355082"),
        ("posterior", ("0.188681", "0.233312", "0.192333", "0.211402", "0.174272"), "0.37570341"),
    )
    rows = []
    for (label, target, log_z), version in zip(expected, (instance.prior_free(), instance), strict=True):
        cells = [digits(float(p), e) for p, e in zip(version.target, target, strict=True)]
        rows.append((label, [*cells, digits(0.5 * float(version.log_partition), log_z)]))
    columns = ["target", *(f"p(y{i})" for i in range(1, 6)), "tau log Z"]
    return Table("Golden targets: r = (0, .25, .5, .75, 1), pi_ref = (.4, .3, .15, .1, .05), tau = 0.5", columns, rows)


def _scenarios() -> tuple[Table, list[tuple[str, list[Series]]]]:
    posterior = Instance.random()
    free = posterior.prior_free()
    everywhere = pairs.uniform(posterior.n)
    runs: list[tuple[str, Instance, Update, float, int]] = [
        ("BDA-P", posterior, BDA(), 1.0, 20_000),
        ("RA-P, mu = pi_ref", posterior, RA(np.exp(posterior.log_prior)), 0.5, 60_000),
        ("RA-P, on-policy", posterior, RA(ON_POLICY), 0.5, 60_000),
        ("RDA-P, all pairs", posterior, RDA(everywhere), 0.5, 20_000),
        ("PRA-P, all pairs", posterior, PRA(everywhere), 2.0, 60_000),
        ("PRA-P, on-policy", posterior, PRA(ON_POLICY), 2.0, 60_000),
        ("BDA", free, BDA(), 1.0, 20_000),
        ("RA, uniform mu", free, RA(np.full(free.n, 1 / free.n)), 0.5, 60_000),
        ("RDA, all pairs", free, RDA(everywhere), 0.5, 20_000),
        ("PRA, all pairs", free, PRA(everywhere), 2.0, 60_000),
    ]
    rows = []
    curves: dict[str, list[Series]] = {
        "posterior target, from the reference": [],
        "prior-free target, from uniform": [],
    }
    for label, instance, update, lr, steps in runs:
        end = descend(instance, update, lr=lr, steps=steps, tolerance=ROUNDING, snapshots=geometric(steps))
        rows.append((label, [below(float(instance.distance(end.theta)), 1e-12)]))
        x, y = history(instance, end)
        curves[list(curves)[int(instance is free)]].append(Series(label, x, np.maximum(y, 1e-17)))
    table = Table(
        "TV to the target (6 responses, rewards and reference from seed 0, tau = 0.7)",
        ["algorithm", "TV"],
        rows,
        [_STOPPED],
    )
    return table, list(curves.items())


def _controls(quick: bool) -> Table:
    instance = Instance.random()
    offsets = [("RA-P with log Z + 1, mu = pi_ref: TV", RA(np.exp(instance.log_prior), log_z_offset=1.0))]
    offsets += [("RA-P with log Z + 1, on-policy: TV", RA(ON_POLICY, log_z_offset=1.0))]
    ends = [descend(instance, update, lr=0.5, steps=60_000, tolerance=ROUNDING) for _, update in offsets]
    rows = [
        (offsets[0][0], [digits(float(instance.distance(ends[0].theta)), "0.5216")]),
        (offsets[1][0], [below(float(instance.distance(ends[1].theta)), 1e-12)]),
    ]
    longer = 10 if quick else 1
    update = PRA(pairs.uniform(instance.n), labels="deterministic")
    early = descend(instance, update, lr=1.0, steps=1000, snapshots=(100, 1000))
    late = descend(
        instance,
        update,
        lr=longer,
        steps=99_000 // longer,
        start=early.theta,
        snapshots=(9_000 // longer, 99_000 // longer),
    )
    logits = [*early.snapshots.values(), *late.snapshots.values()]
    expected = {100: "0.586", 1_000: "0.962", 10_000: "0.998", 100_000: "0.9999"}
    for (step, number), theta in zip(expected.items(), logits, strict=True):
        top = float(np.exp(log_softmax(theta)).max())
        rows.append((f"PRA-P, deterministic labels, {step} steps: max prob", [digits(top, number)]))
    notes = [
        "DPO's target needs labels that are random as Bradley-Terry says; deterministic ones lead to the greedy policy."
    ]
    return Table("Negative controls: what misses the target", ["case", "measured"], rows, notes)


def _sampler() -> Table:
    instance = Instance.random()
    kl = PRA(ON_POLICY, through_sampler=True)
    ce = PRA(ON_POLICY, form="cross_entropy", through_sampler=True)
    size = [float(np.abs(update.gradient(instance, instance.log_target)).max()) for update in (kl, ce)]
    rows = [("KL form", [below(size[0], 1e-9)]), ("cross-entropy form", [digits(size[1], "6.6e-3")])]
    notes = [
        "Differentiated through the sampler, -log sigmoid also lowers the label entropy of the pairs that it samples."
    ]
    return Table("PRA-P through the on-policy sampler, at the target", ["loss", "max |gradient|"], rows, notes)


def _kl_terms(quick: bool) -> Table:
    instance = Instance.random(seed=3)
    tilt = forward_kl_tilt(instance.reward, instance.tau, instance.log_prior)

    longer = 3.0 if quick else 0.3  # k3 is not stable at 3, and fast enough

    def policy(update: Update, *, lr: float = 0.3, steps: int = 200_000) -> Array:
        return descend(instance, update, lr=lr, steps=steps, tolerance=ROUNDING).policy

    std = policy(PolicyGradient("k2", scale_by_std=True), lr=longer)
    mean = (std * instance.reward).sum()
    tau = instance.tau * float(np.sqrt((std * (instance.reward - mean) ** 2).sum()))
    scaled = np.exp(log_boltzmann(instance.reward, tau, instance.log_prior))
    rows = [
        (
            "k1 in the reward: TV to Boltzmann",
            [below(float(total_variation(policy(PolicyGradient("k1_in_reward"), lr=longer), instance.target)), 1e-12)],
        ),
        (
            "k2 as a loss: TV to Boltzmann",
            [below(float(total_variation(policy(PolicyGradient("k2"), lr=longer), instance.target)), 1e-12)],
        ),
        (
            "k3 as a loss: TV to tau pi_ref / (lambda - r)",
            [below(float(total_variation(policy(PolicyGradient("k3")), tilt)), 1e-12)],
        ),
        ("TV between these two targets", [digits(float(total_variation(tilt, instance.target)), "0.589")]),
        (
            "k1 as a loss, 20000 steps: max prob",
            [digits(float(policy(PolicyGradient("k1_as_loss"), steps=20_000).max()), "0.9999")],
        ),
        ("k2, advantage / std: tau * std at the end", [digits(tau, "0.6755")]),
        ("the same: TV to Boltzmann at that temperature", [below(float(total_variation(std, scaled)), 1e-12)]),
    ]
    notes = [
        "k3 as a loss changes the target, k1 as a loss regularises nothing, a std-scaled advantage changes the temperature."
    ]
    return Table(
        "How the KL term enters (rewards and reference from seed 3)", ["policy gradient with", "measured"], rows, notes
    )
