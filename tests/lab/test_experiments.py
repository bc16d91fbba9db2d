"""Every number of the lab to its printed digits; the sampled section has its orderings tested in ``test_sampling``."""

import pytest

from fastpref.lab.experiments import EXPERIMENTS
from fastpref.lab.results import Experiment, Table, below, digits, typical

JUDGED = {"targets": 37, "temperature": 32, "pairs": 24, "coverage": 6, "misspecified": 30}
"""How many numbers each section compares: none may fall out unnoticed."""


@pytest.mark.parametrize("name", JUDGED)
def test_numbers(name):
    experiment = EXPERIMENTS[name](quick=True)
    assert experiment.disagreements == []
    cells = [cell for table in experiment.tables for _, row in table.rows for cell in row]
    assert sum(cell.agrees is True for cell in cells) == JUDGED[name]
    assert experiment.name == name


def test_stable_step_caveat_is_under_its_table():
    experiment = EXPERIMENTS["temperature"](quick=True)
    assert any("condition number" in note for note in experiment.tables[0].notes)
    assert "condition number" in experiment.pictures[0].note


@pytest.mark.parametrize(
    ("measured", "expected", "agrees"),
    [
        (0.52164, "0.5216", True),
        (0.52166, "0.5216", False),
        (129, "129", True),
        (130, "129", False),
        (6.57e-3, "6.6e-3", True),
        (6.44e-3, "6.6e-3", False),
        (0.9999263, "0.9999", True),
        (float("nan"), "0.5", False),
        (None, "129", False),
    ],
)
def test_digits(measured, expected, agrees):
    assert digits(measured, expected).agrees is agrees


def test_other_cells():
    assert below(1e-13, 1e-12).agrees is True
    assert below(1e-11, 1e-12).agrees is False
    assert below(float("nan"), 1e-12).agrees is False
    assert typical(0.9, "0.1").agrees is None


def test_disagreements_are_named():
    table = Table(
        "T",
        ["row", "a", "b"],
        [("first", [digits(1, "1"), digits(2, "3")]), ("second", [typical(1, "9"), digits(1, "2")])],
    )
    assert Experiment("x", "X", [table], []).disagreements == ["T: first, b", "T: second, b"]
