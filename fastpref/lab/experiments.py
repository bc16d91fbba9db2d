"""The lab's sections by name."""

from __future__ import annotations

from collections.abc import Callable

from . import (
    experiment_coverage,
    experiment_misspecified,
    experiment_offline_online,
    experiment_pairs,
    experiment_targets,
    experiment_temperature,
)
from .results import Experiment

EXPERIMENTS: dict[str, Callable[..., Experiment]] = {
    "targets": experiment_targets.run,
    "temperature": experiment_temperature.run,
    "pairs": experiment_pairs.run,
    "coverage": experiment_coverage.run,
    "offline-online": experiment_offline_online.run,
    "misspecified": experiment_misspecified.run,
}
"""Name -> ``run(quick=False)``, in the order in which they are run."""
