"""The losses of TRL's GRPO, GMPO, RLOO and online DPO trainers."""

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

import fastpref
from tests.trl_parity.common import (
    EXACT,
    ROUNDED,
    LogitsModel,
    OneProcess,
    Padded,
    Result,
    assert_agree,
    bare,
    by_fastpref,
    metrics_of,
    needs_trl,
)

pytestmark = needs_trl

PROMPTS = [3, 3, 3, 1, 1, 1]
LENGTHS = [5, 1, 7, 3, 4, 9]
ADVANTAGES = torch.tensor([0.9, -1.3, 0.4, 1.1, 0.0, -0.6], dtype=torch.float64)
CLIP_METRICS = tuple(f"clip_ratio/{name}" for name in ("low_mean", "low_min", "high_mean", "high_max", "region_mean"))


def batch_of(seed: int = 0) -> Padded:
    return Padded.of(PROMPTS, LENGTHS, aligned=True, spread=0.4, seed=seed)


def inputs_of(batch: Padded, **more: Tensor) -> dict[str, Tensor]:
    """What the trainers' own sampling step hands to their losses."""
    width = batch.prompt_width
    found = {
        "prompt_ids": batch.input_ids[:, :width],
        "prompt_mask": batch.attention_mask[:, :width],
        "completion_ids": batch.input_ids[:, width:],
        "completion_mask": batch.attention_mask[:, width:],
        "advantages": ADVANTAGES,
    }
    return found | more


def on_completions(batch: Padded, logits: Tensor) -> Tensor:
    """``[B, C]`` token log-probs of the completions, 0 on padding."""
    logps = LogitsModel(logits)(batch.input_ids, labels=batch.labels, fused_lm_head=True).log_probs
    return logps[:, batch.prompt_width - 1 :]


def step(trainer, batch: Padded, inputs: dict[str, Tensor]) -> Result:
    leaf = batch.policy.clone().requires_grad_()
    loss = trainer._compute_loss(LogitsModel(leaf), inputs)
    loss.backward()
    return Result(loss.detach(), leaf.grad, metrics_of(trainer))


def grpo_like(cls: type, **options):
    """A trainer of the GRPO family with TRL's defaults, except as ``options`` say."""
    arguments = {
        "use_bias_correction_kl": True,
        "delta": None,
        "sapo_temperature_pos": 1.0,
        "sapo_temperature_neg": 1.05,
        "steps_per_generation": 1,
    }
    attributes = {
        "loss_type": "grpo",
        "importance_sampling_level": "token",
        "beta": 0.0,
        "epsilon_low": 0.2,
        "epsilon_high": 0.2,
        "max_completion_length": 16,
        "current_gradient_accumulation_steps": 1,
        "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None,
        "use_vllm": False,
        "vllm_importance_sampling_correction": False,
        "_entropy_bonus_enabled": False,
    }
    assert options.keys() <= arguments.keys() | attributes.keys()
    args = SimpleNamespace(**{name: options.get(name, value) for name, value in arguments.items()})
    return bare(cls, args=args, **{name: options.get(name, value) for name, value in attributes.items()})


def compare_grpo(name: str, trl: dict, hyper: dict, *, old: bool = True, tools: bool = False, **data: Tensor) -> None:
    """``name`` with ``hyper`` against TRL's ``loss_type`` and options ``trl``.

    Args:
        name: of the objective.
        trl: options of TRL.
        hyper: those of the objective.
        old: with log-probs of the policy that sampled; without, the ratios are 1.
        tools: with tokens inside completions that a tool wrote, which do not count.
        data: further data of fastpref, beside advantages and log-probs.
    """
    from trl import GRPOTrainer

    batch = batch_of()
    beta = trl.get("beta", 0.0)
    inputs = inputs_of(batch, num_items_in_batch=torch.tensor(37))
    if old:
        inputs["old_per_token_logps"] = on_completions(batch, batch.old)
        data["old_logps"] = batch.tokens(batch.old).logps
    if beta:
        inputs["ref_per_token_logps"] = on_completions(batch, batch.reference)
    if tools:
        written = torch.ones_like(batch.input_ids)
        written[:, batch.prompt_width + 1 : batch.prompt_width + 4 : 2] = 0
        written[1] = 1  # one token
        inputs["tool_mask"] = written[:, batch.prompt_width :]
        data["mask"] = batch.packed(written).bool()
    wanted = step(grpo_like(GRPOTrainer, **trl), batch, inputs)
    data = {"advantages": ADVANTAGES} | data
    objective = fastpref.objective(name, **hyper, **({"beta": beta} if beta else {}))
    found = by_fastpref(objective, batch, reference=beta > 0, **data)
    metrics = ("kl",) * (beta > 0) + CLIP_METRICS * (name not in ("cispo", "sapo"))
    if name == "cispo":
        metrics += ("cispo_clip_ratio",)
    # TRL holds SAPO's temperatures in float32, which has no 1.05, the default.
    tolerance = ROUNDED if name == "sapo" and "sapo_temperature_neg" not in hyper else EXACT
    assert_agree(found, wanted, tolerance, metrics=metrics)


WINDOW = {"num_items_in_batch": torch.tensor(37.0)}
SEQUENCE = {"importance_sampling_level": "sequence"}
TEMPERATURES = {"sapo_temperature_pos": 2.0, "sapo_temperature_neg": 0.75}
LOSSES = [  # fastpref's name, TRL's options, fastpref's options, fastpref's data
    pytest.param("grpo", {}, {}, {}, id="grpo"),
    pytest.param("bnpo", {"loss_type": "bnpo"}, {}, {}, id="bnpo"),
    pytest.param("dr_grpo", {"loss_type": "dr_grpo"}, {"max_completion_length": 16}, {}, id="dr_grpo"),
    pytest.param("dapo", {"loss_type": "dapo", "epsilon_high": 0.28}, {}, WINDOW, id="dapo"),
    pytest.param("cispo", {"loss_type": "cispo", "epsilon_high": 1.5}, {"epsilon_high": 1.5}, WINDOW, id="cispo"),
    pytest.param("sapo", {"loss_type": "sapo"}, {}, {}, id="sapo"),
    pytest.param(
        "sapo",
        {"loss_type": "sapo", **TEMPERATURES},
        TEMPERATURES,
        {},
        id="sapo-temperatures",
    ),
    pytest.param("luspo", {"loss_type": "luspo", **SEQUENCE}, {}, {}, id="luspo"),
    pytest.param("luspo", {"loss_type": "luspo"}, {"importance_sampling_level": "token"}, {}, id="luspo-token"),
    pytest.param("gspo", SEQUENCE, {}, {}, id="gspo"),
    pytest.param(
        "gspo",
        {**SEQUENCE, "epsilon_low": 0.03, "epsilon_high": 0.04},
        {"epsilon": 0.03, "epsilon_high": 0.04},
        {},
        id="gspo-narrow",
    ),
    pytest.param("dapo", {"loss_type": "dapo", "epsilon_high": 0.28, **SEQUENCE}, SEQUENCE, WINDOW, id="dapo-sequence"),
    pytest.param(
        "cispo",
        {"loss_type": "cispo", "epsilon_high": 1.02, **SEQUENCE},
        {"epsilon_high": 1.02, **SEQUENCE},
        WINDOW,
        id="cispo-sequence",
    ),
    pytest.param(
        "sapo",
        {"loss_type": "sapo", **SEQUENCE, **TEMPERATURES},
        SEQUENCE | TEMPERATURES,
        {},
        id="sapo-sequence",
    ),
    pytest.param(
        "grpo",
        {"epsilon_low": 0.1, "epsilon_high": 0.35, "delta": 1.4},
        {"epsilon": 0.1, "epsilon_high": 0.35, "delta": 1.4},
        {},
        id="grpo-delta",
    ),
    pytest.param(
        "dapo",
        {
            "loss_type": "dapo",
            "epsilon_high": 0.28,
            "current_gradient_accumulation_steps": 2,
            "steps_per_generation": 4,
        },
        {},
        {"num_items_in_batch": torch.tensor(37.0 * 2 / 4)},
        id="dapo-accumulation",
    ),
]
KL = [
    pytest.param({}, {}, id="no-kl"),
    pytest.param({"beta": 0.3}, {}, id="kl"),
    pytest.param(
        {"beta": 0.3, "use_bias_correction_kl": False}, {"use_bias_correction_kl": False}, id="kl-uncorrected"
    ),
]


@pytest.mark.parametrize("old", [True, False], ids=["off-policy", "on-policy"])
@pytest.mark.parametrize(("kl", "kl_hyper"), KL)
@pytest.mark.parametrize(("name", "trl", "hyper", "data"), LOSSES)
def test_grpo_family(name, trl, hyper, data, kl, kl_hyper, old):
    compare_grpo(name, trl | kl, hyper | kl_hyper, old=old, **data)


@pytest.mark.parametrize(("name", "trl", "hyper", "data"), LOSSES)
def test_tokens_that_a_tool_wrote_do_not_count(name, trl, hyper, data):
    compare_grpo(name, trl | {"beta": 0.3}, hyper, tools=True, **data)


def test_advantages_per_token():
    from trl import GRPOTrainer

    batch = batch_of()
    advantages = torch.randn(batch.input_ids.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    old = on_completions(batch, batch.old)
    inputs = inputs_of(batch, old_per_token_logps=old) | {"advantages": advantages[:, batch.prompt_width :]}
    found = by_fastpref(
        "grpo",
        batch,
        reference=False,
        advantages=batch.packed(advantages),
        old_logps=batch.tokens(batch.old).logps,
    )
    assert_agree(found, step(grpo_like(GRPOTrainer), batch, inputs), metrics=CLIP_METRICS)


@pytest.mark.parametrize("old", [True, False], ids=["off-policy", "on-policy"])
@pytest.mark.parametrize("beta", [0.0, 0.3])
@pytest.mark.parametrize(
    ("trl", "hyper"),
    [
        ({"epsilon_low": 0.4, "epsilon_high": 0.4}, {}),
        ({"epsilon_low": 0.1, "epsilon_high": 0.2}, {"epsilon": 0.1, "epsilon_high": 0.2}),
    ],
    ids=["default", "narrow"],
)
def test_gmpo(trl, hyper, beta, old):
    from trl.experimental.gmpo import GMPOTrainer

    batch = batch_of()
    inputs = inputs_of(batch, ref_per_token_logps=on_completions(batch, batch.reference))
    data = {"advantages": ADVANTAGES}
    if old:
        inputs["old_per_token_logps"] = on_completions(batch, batch.old)
        data["old_logps"] = batch.tokens(batch.old).logps
    found = by_fastpref(fastpref.objective("gmpo", beta=beta, **hyper), batch, reference=beta > 0, **data)
    metrics = CLIP_METRICS + ("kl",) * (beta > 0)
    assert_agree(found, step(grpo_like(GMPOTrainer, beta=beta, **trl), batch, inputs), metrics=metrics)


@pytest.mark.parametrize("per_token", [True, False], ids=["tokens", "sums"])
@pytest.mark.parametrize(("epsilon", "epsilon_high"), [(0.2, 0.2), (0.1, 0.6)])
def test_rloo(epsilon, epsilon_high, per_token):
    from trl import RLOOTrainer

    batch = batch_of()
    trainer = grpo_like(RLOOTrainer, epsilon_low=epsilon, epsilon_high=epsilon_high)
    wanted = step(trainer, batch, inputs_of(batch, old_logps=batch.sums(batch.old)))
    old = batch.tokens(batch.old).logps if per_token else batch.sums(batch.old)
    objective = fastpref.objective("rloo", epsilon=epsilon, epsilon_high=epsilon_high)
    found = by_fastpref(objective, batch, reference=False, advantages=ADVANTAGES, old_logps=old)
    assert_agree(found, wanted, metrics=CLIP_METRICS)


@pytest.mark.parametrize(("loss_type", "name"), [("sigmoid", "sigmoid"), ("ipo", "ipo_sum")])
def test_online_dpo(loss_type, name):
    from trl.experimental.online_dpo import OnlineDPOTrainer

    # Two completions of each of three prompts; a reward function says which is chosen, by TRL the first among equals.
    batch = Padded.of([3, 1, 2] * 2, LENGTHS, aligned=True)
    rewards = torch.tensor([0.3, 0.9, 0.5, 0.8, -0.2, 0.5])
    given = inputs_of(batch)
    leaf = batch.policy.clone().requires_grad_()
    trainer = bare(
        OnlineDPOTrainer,
        _beta=0.3,
        accelerator=OneProcess(),
        args=SimpleNamespace(
            use_vllm=False,
            loss_type=loss_type,
            missing_eos_penalty=None,
            torch_empty_cache_steps=None,
            optim="adamw_torch",
            n_gpu=1,
            gradient_accumulation_steps=1,
        ),
        ref_model=LogitsModel(batch.reference),
        reward_funcs=["given"],
        processing_class=SimpleNamespace(batch_decode=lambda ids, **_: [""] * len(ids)),
        eos_token_ids=[0],
        max_length=batch.input_ids.shape[1],
        stats=defaultdict(list),
        _generate=lambda *_: (
            *(given[key] for key in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")),
            None,
        ),
        _calculate_rewards_from_functions=lambda **_: rewards,
    )
    loss = trainer.training_step(LogitsModel(leaf), {"prompt": ["", "", ""]})
    logged = {key: values[-1] for key, values in trainer.stats.items()}
    order = torch.tensor([3, 1, 2, 0, 4, 5])
    found = by_fastpref(name, batch.take(order), beta=0.3)
    found.gradient = found.gradient[order.argsort()]
    names = ("rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected")
    assert_agree(found, Result(loss, leaf.grad, logged), metrics=names)
