"""Hyper-parameters that an objective takes from TRL have TRL's defaults."""

import importlib
from dataclasses import fields

import pytest

import fastpref
from tests.trl_parity.common import needs_trl

pytestmark = needs_trl

SHARED = ["beta", "f_divergence_type", "f_alpha_divergence_coef", "ld_alpha", "use_weighting"]
GRPO = ["beta", "use_bias_correction_kl", "importance_sampling_level"]
DEFAULTS = [  # objective, TRL's configuration, options of both
    *((name, "trl.DPOConfig", SHARED) for name in ("sigmoid", "hinge", "ipo", "bco_pair", "sppo_hard", "apo_zero")),
    ("robust", "trl.DPOConfig", [*SHARED, "label_smoothing"]),
    ("aot", "trl.DPOConfig", [*SHARED, "label_smoothing"]),
    ("discopop", "trl.DPOConfig", [*SHARED, "discopop_tau"]),
    ("kto", "trl.KTOConfig", ["beta", "desirable_weight", "undesirable_weight"]),
    ("apo_zero_unpaired", "trl.KTOConfig", ["beta", "desirable_weight", "undesirable_weight"]),
    ("cpo", "trl.experimental.cpo.CPOConfig", ["beta", "label_smoothing", "cpo_alpha"]),
    ("simpo", "trl.experimental.cpo.CPOConfig", ["beta", "label_smoothing", "simpo_gamma"]),
    ("orpo", "trl.experimental.orpo.ORPOConfig", ["beta"]),
    ("grpo", "trl.GRPOConfig", [*GRPO, "epsilon", "epsilon_high", "delta"]),
    ("sapo", "trl.GRPOConfig", [*GRPO, "sapo_temperature_pos", "sapo_temperature_neg"]),
    ("gmpo", "trl.experimental.gmpo.GMPOConfig", ["beta", "epsilon", "epsilon_high"]),
    ("rloo", "trl.RLOOConfig", ["epsilon", "epsilon_high"]),
]


@pytest.mark.parametrize(("name", "config", "options"), DEFAULTS)
def test_defaults(name, config, options):
    module, cls = config.rsplit(".", 1)
    theirs = {field.name: field.default for field in fields(getattr(importlib.import_module(module), cls))}
    ours = fastpref.objective(name)
    assert {option: getattr(ours, option) for option in options} == {option: theirs[option] for option in options}
