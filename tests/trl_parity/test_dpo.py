"""The losses of TRL's DPO trainer, with everything that it lets them take."""

from types import SimpleNamespace

import pytest
import torch

import fastpref
from tests.trl_parity.common import (
    EXACT,
    ROUNDED,
    SINGLE,
    LogitsModel,
    Padded,
    Result,
    assert_agree,
    bare,
    by_fastpref,
    metrics_of,
    needs_trl,
)

pytestmark = needs_trl

BETA = 0.6  # one of the five pairs is beyond the kink of the hinge
PROMPTS = [3, 1, 4, 2, 5]
LENGTHS = [5, 1, 7, 3, 4, 2, 6, 1, 3, 9]  # five chosen, five rejected
LOGPS = ("logps/chosen", "logps/rejected")
REWARDS = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")

LOSSES: dict[str, dict[str, float]] = {
    "sigmoid": {},
    "hinge": {},
    "ipo": {},
    "exo_pair": {"label_smoothing": 0.05},
    "nca_pair": {},
    "robust": {"label_smoothing": 0.1},
    "bco_pair": {},
    "sppo_hard": {},
    "aot": {"label_smoothing": 0.1},
    "aot_unpaired": {"label_smoothing": 0.1},
    "apo_zero": {},
    "apo_down": {},
    "discopop": {"discopop_tau": 0.3},
    "sft": {},
    "sigmoid_norm": {},
}
SCORED = ("sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "robust", "discopop", "sft")
"""Those that take other f-divergences."""


def tolerance(loss_types: list[str], dtype: torch.dtype = torch.float64) -> float:
    """TRL makes a float32 tensor of EXO's label smoothing, whatever the dtype of the logits."""
    if dtype == torch.float32:
        return SINGLE
    return ROUNDED if "exo_pair" in loss_types else EXACT


def batch_of(dtype: torch.dtype = torch.float64, seed: int = 0) -> Padded:
    return Padded.of(PROMPTS * 2, LENGTHS, dtype=dtype, seed=seed)


def by_trl(batch: Padded, loss_types: list[str], **options) -> Result:
    from trl import DPOTrainer

    leaf = batch.policy.clone().requires_grad_()
    known = {
        "beta": 0.1,
        "label_smoothing": 0.0,
        "f_divergence_type": "reverse_kl",
        "f_alpha_divergence_coef": 0.5,
        "ld_alpha": None,
        "use_weighting": False,
        "loss_weights": [1.0] * len(loss_types),
        "discopop_tau": 0.05,
    }
    assert options.keys() <= known.keys()
    settings = known | options
    trainer = bare(
        DPOTrainer,
        ref_model=LogitsModel(batch.reference),
        precompute_ref_logps=False,
        loss_types=loss_types,
        args=SimpleNamespace(discopop_tau=settings.pop("discopop_tau"), gradient_checkpointing_kwargs=None),
        **settings,
    )
    trainer.model = LogitsModel(leaf)
    inputs = {name: getattr(batch, name) for name in ("input_ids", "attention_mask", "completion_mask")}
    loss = trainer._compute_loss(trainer.model, inputs, return_outputs=False)
    loss.backward()
    return Result(loss.detach(), leaf.grad, metrics_of(trainer))


def compare(loss_types: list[str], batch: Padded, *, allowed: float | None = None, **options) -> None:
    wanted = by_trl(batch, loss_types, beta=BETA, **options)
    takes = set().union(*(fastpref.objectives.hyper_parameters(fastpref.objectives.lookup(t)) for t in loss_types))
    objective = fastpref.objective(
        loss_types, beta=BETA, **{k: v for k, v in options.items() if k in takes or k == "loss_weights"}
    )
    with_reference = objective.traits.reference != "none"
    stats = ("log_sum_sq_probs",) if options.get("use_weighting") else ()
    found = by_fastpref(objective, batch, reference=with_reference, stats=stats)
    if not with_reference:  # TRL subtracts one from the rewards that it logs, although the loss has none
        found.metrics = {name: found.metrics[name] for name in LOGPS}
    names = (*LOGPS, *REWARDS) if with_reference else LOGPS
    assert_agree(found, wanted, allowed or tolerance(loss_types, batch.policy.dtype), metrics=names)


@pytest.mark.parametrize("ld_alpha", [None, 0.4], ids=["sums", "ld_alpha"])
@pytest.mark.parametrize("loss_type", LOSSES)
def test_every_loss(loss_type, ld_alpha):
    compare([loss_type], batch_of(), **LOSSES[loss_type], ld_alpha=ld_alpha)


# Not "aot" and "aot_unpaired", which both refuse. Nor those that TRL accepts and cannot run: it multiplies the weights in place into what the
# backward of "hinge" needs, and into the expanded scalar of "sft" (RuntimeError).
WEIGHTED = [name for name in LOSSES if name not in ("aot", "aot_unpaired", "hinge", "sft")]


@pytest.mark.parametrize("ld_alpha", [None, 0.4], ids=["sums", "ld_alpha"])
@pytest.mark.parametrize("loss_type", WEIGHTED)
def test_wpo_weights(loss_type, ld_alpha):
    compare([loss_type], batch_of(), **LOSSES[loss_type], ld_alpha=ld_alpha, use_weighting=True)


DIVERGENCES = [
    pytest.param("forward_kl", {}, torch.float64, id="forward_kl"),
    pytest.param("js_divergence", {}, torch.float64, id="js_divergence"),
    # TRL's alpha-divergence knows no float64.
    *(
        pytest.param("alpha_divergence", {"f_alpha_divergence_coef": c}, torch.float32, id=f"alpha_divergence{c}")
        for c in (0.5, -0.3, 1.6, 1.0)
    ),
]


@pytest.mark.parametrize(("f_divergence_type", "options", "dtype"), DIVERGENCES)
@pytest.mark.parametrize("loss_type", SCORED)
def test_every_divergence(loss_type, f_divergence_type, options, dtype):
    compare([loss_type], batch_of(dtype), f_divergence_type=f_divergence_type, **LOSSES[loss_type], **options)


@pytest.mark.parametrize(("f_divergence_type", "options", "dtype"), DIVERGENCES[:3])
def test_divergence_of_weighted_and_length_desensitised_sums(f_divergence_type, options, dtype):
    options = {"f_divergence_type": f_divergence_type, "ld_alpha": 0.4, "use_weighting": True, **options}
    compare(["sigmoid"], batch_of(dtype), **options)


MIXTURES = [
    (["sigmoid", "sft"], {"loss_weights": [1.0, 0.005]}),  # RPO
    (["sigmoid", "sft"], {}),  # IRPO
    (["sigmoid", "bco_pair", "sft"], {"loss_weights": [0.8, 0.2, 1.0]}),  # MPO
    (["sigmoid", "sft"], {"ld_alpha": 0.4}),
    (["ipo", "sigmoid_norm", "apo_down"], {"loss_weights": [0.3, -0.1, 2.0], "use_weighting": True}),
    (["aot", "sigmoid"], {"loss_weights": [0.5, 1.5], "label_smoothing": 0.1}),
    (["robust", "exo_pair"], {"label_smoothing": 0.05}),
    (["sigmoid", "discopop"], {"f_divergence_type": "js_divergence", "discopop_tau": 0.3}),
]


@pytest.mark.parametrize(("loss_types", "options"), MIXTURES, ids=lambda x: "+".join(x))
def test_mixtures(loss_types, options):
    compare(loss_types, batch_of(), **options)


@pytest.mark.parametrize("loss_type", LOSSES)
def test_one_pair_of_single_tokens(loss_type):
    compare([loss_type], Padded.of([2, 2], [1, 1], seed=6), **LOSSES[loss_type])


@pytest.mark.parametrize("f_divergence_type", ["alpha_divergence", "js_divergence"])
def test_divergence_of_log_ratios_in_the_hundreds(f_divergence_type):
    batch = Padded.of(PROMPTS * 2, LENGTHS, dtype=torch.float32, spread=60.0)
    batch.policy, batch.reference = batch.reference, batch.policy
    # The exponents (c - 1) h of the alpha-divergence reach the clamp at 80 that both have.
    assert (batch.sums(batch.policy) - batch.sums(batch.reference)).min() < -160
    # In float32, numbers of this size are known to 1e-5, and so is a relative error of their exponentials.
    compare(["sigmoid"], batch, allowed=1e-4, f_divergence_type=f_divergence_type)
