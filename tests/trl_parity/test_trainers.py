"""Whole trainers of TRL, on a tiny random Llama made here: a training step, and the advantages that they compute from rewards.

This is also the check that the trainers without ``__init__`` of the other files are faithful.
"""

import pytest

pytest.importorskip("transformers")

import torch
from torch import Tensor

import fastpref
from fastpref.packing import pack_padded
from tests.train.conftest import make_llama, make_pairs, make_tokenizer
from tests.trl_parity import test_dpo
from tests.trl_parity.common import SINGLE, Padded, deviation, needs_trl

pytestmark = needs_trl

BETA = 0.3
ON_CPU = {"use_cpu": True, "bf16": False, "report_to": "none", "save_strategy": "no", "disable_tqdm": True}


def models():
    """A policy and a reference near it, and their tokenizer."""
    tokenizer = make_tokenizer()
    policy, reference = make_llama(len(tokenizer)), make_llama(len(tokenizer))
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=g)
    return policy, reference, tokenizer


def dpo_trainer(folder, **options):
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    policy, reference, tokenizer = models()
    args = DPOConfig(
        output_dir=str(folder),
        per_device_train_batch_size=4,
        max_steps=1,
        optim="sgd",
        learning_rate=1.0,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        logging_steps=1,
        beta=BETA,
        **ON_CPU,
        **options,
    )
    return DPOTrainer(
        model=policy,
        ref_model=reference,
        args=args,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(make_pairs(4)),
    )


def rows_of(model, batch: dict[str, Tensor]):
    """Packed completion rows of TRL's batch, from the model's last hidden states."""
    hidden = model.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    return pack_padded(hidden, batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100))


@torch.no_grad()
def sequence_logps(model, batch: dict[str, Tensor]) -> Tensor:
    """``[K]``."""
    rows = rows_of(model, batch)
    tokens = fastpref.linear_logprobs(rows.hidden, model.lm_head.weight, rows.targets)
    return fastpref.packing.segment_sum(tokens.logps, rows.cu_seqlens).float()


STEPS = [
    (["sigmoid"], {}),
    (["sigmoid", "bco_pair", "sft"], {"loss_weights": [0.8, 0.2, 1.0]}),
    (["ipo"], {"ld_alpha": 0.4, "use_weighting": True}),
]


@pytest.mark.parametrize(("loss_types", "options"), STEPS, ids=lambda x: "+".join(x))
def test_a_step_of_the_dpo_trainer(tmp_path, loss_types, options):
    trainer = dpo_trainer(tmp_path, loss_type=loss_types, **options)
    policy, reference = trainer.model, trainer.ref_model
    (batch,) = trainer.get_train_dataloader()
    before = {name: p.detach().clone() for name, p in policy.named_parameters()}

    rows = rows_of(policy, batch)
    with torch.no_grad():
        ref = rows_of(reference, batch)
    out = fastpref.linear_preference_loss(
        fastpref.objective(loss_types, beta=BETA, **options),
        rows.hidden,
        policy.lm_head.weight,
        rows.targets,
        rows.cu_seqlens,
        reference=(ref.hidden, reference.lm_head.weight),
    )
    out.loss.backward()
    gradients = {name: p.grad.clone() for name, p in policy.named_parameters()}
    policy.zero_grad()

    trainer.train()
    logged = trainer.state.log_history[0]
    assert out.loss.item() == pytest.approx(logged["loss"], rel=1e-5)
    for name in (*test_dpo.REWARDS, *test_dpo.LOGPS):
        assert out.metrics[name].item() == pytest.approx(logged[name], rel=1e-4, abs=1e-5), name
    # SGD at learning rate 1: the weights moved by the gradient, here that of TRL's own backward in float32 through two layers.
    for name, parameter in policy.named_parameters():
        moved = before[name] - parameter.detach()
        assert deviation(gradients[name], moved) < 1e-4, name


@pytest.mark.parametrize(("loss_types", "options"), STEPS, ids=lambda x: "+".join(x))
def test_the_trainer_without_init_is_faithful(tmp_path, loss_types, options):
    trainer = dpo_trainer(tmp_path, loss_type=loss_types, **options)
    (batch,) = trainer.get_train_dataloader()
    wanted = trainer.compute_loss(trainer.model, batch).item()
    with torch.no_grad():
        inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
        logits = [m(**inputs).logits for m in (trainer.model, trainer.ref_model)]
    given = Padded(
        *(batch[name] for name in ("input_ids", "attention_mask", "completion_mask")),
        *logits,
        logits[0],
        prompt_width=0,
    )
    found = test_dpo.by_trl(given, loss_types, beta=BETA, **options)
    assert found.loss.item() == pytest.approx(wanted, rel=SINGLE)
    for name, values in trainer._metrics["train"].items():
        assert found.metrics[name] == pytest.approx(values[-1], rel=1e-5), name


@pytest.mark.parametrize(
    "loss_type", ["aot", "aot_unpaired", "apo_zero", "apo_down", "bco_pair", "nca_pair", "sppo_hard"]
)
def test_both_refuse_other_divergences(tmp_path, loss_type):
    with pytest.raises(ValueError, match="f_divergence_type"):
        dpo_trainer(tmp_path, loss_type=[loss_type], f_divergence_type="js_divergence")
    with pytest.raises(ValueError, match="f_divergence_type"):
        fastpref.objective(loss_type, f_divergence_type="js_divergence")


@pytest.mark.parametrize("loss_type", ["aot", "aot_unpaired"])
def test_both_refuse_wpo_weights_of_sorted_pairs(tmp_path, loss_type):
    with pytest.raises(NotImplementedError, match="weighting"):
        dpo_trainer(tmp_path, loss_type=[loss_type], use_weighting=True)
    with pytest.raises(ValueError, match="use_weighting"):
        fastpref.objective(loss_type, use_weighting=True)


def test_loss_of_the_kto_trainer(tmp_path):
    from datasets import Dataset
    from trl import KTOConfig, KTOTrainer

    policy, reference, tokenizer = models()
    pairs = make_pairs(3)
    rows = [
        {"prompt": pair["prompt"], "completion": pair[name], "label": name == "chosen"}
        for pair in pairs
        for name in ("chosen", "rejected")
    ]
    trainer = KTOTrainer(
        model=policy,
        ref_model=reference,
        args=KTOConfig(output_dir=str(tmp_path), per_device_train_batch_size=6, beta=BETA, **ON_CPU),
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(rows),
    )
    (batch,) = trainer.get_train_dataloader()
    mismatched = {name: batch[f"KL_{name}"] for name in ("input_ids", "attention_mask", "completion_mask")}

    rows = rows_of(policy, batch)
    with torch.no_grad():
        ref = rows_of(reference, batch)
    out = fastpref.linear_preference_loss(
        "kto",
        rows.hidden,
        policy.lm_head.weight,
        rows.targets,
        rows.cu_seqlens,
        reference=(ref.hidden, reference.lm_head.weight),
        beta=BETA,
        desirable=batch["label"].bool(),
        mismatched_log_ratios=sequence_logps(policy, mismatched) - sequence_logps(reference, mismatched),
    )
    out.loss.backward()
    gradients = {name: p.grad.clone() for name, p in policy.named_parameters()}
    policy.zero_grad()
    wanted = trainer.compute_loss(policy, batch)
    wanted.backward()
    assert out.loss.item() == pytest.approx(wanted.item(), rel=SINGLE)
    assert out.metrics["kl"].item() == pytest.approx(trainer._metrics["train"]["kl"][-1], rel=1e-4)
    for name, parameter in policy.named_parameters():
        assert deviation(gradients[name], parameter.grad) < 1e-4, name


SCORES = [0.5, -1.0, 2.0, 0.25, 0.25, None, 1.0, 1.0, 1.0, None, 0.7, None]
"""Of four prompts with three completions each: all scored, one unscored, all alike, one scored."""
REWARDS = torch.tensor([torch.nan if score is None else score for score in SCORES])
GROUPS = torch.tensor([7, 7, 7, 2, 2, 2, 5, 5, 5, 3, 3, 3])


def sampled(name: str, folder, **options):
    """TRL's trainer ``name``, and what it makes of twelve samples with the rewards ``SCORES``."""
    import trl
    from datasets import Dataset

    policy, reference, tokenizer = models()
    # The trainer loads its reference from where the policy says that it came from.
    reference.save_pretrained(folder / "reference")
    policy.config._name_or_path = str(folder / "reference")
    prompts = [{"prompt": f"Day {10 ** (i // 3)}:"} for i in range(12)]
    args = getattr(trl, f"{name}Config")(
        output_dir=str(folder),
        per_device_train_batch_size=12,
        num_generations=3,
        max_completion_length=4,
        **ON_CPU,
        **options,
    )
    trainer = getattr(trl, f"{name}Trainer")(
        model=policy,
        reward_funcs=lambda completions, **_: SCORES,
        args=args,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(prompts[::3]),
    )
    torch.manual_seed(0)
    return trainer, trainer._generate_and_score_completions(prompts)


def joined(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Prompts and completions of samples in one."""
    nothing = torch.zeros_like(inputs["prompt_mask"])
    return {
        "input_ids": torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1),
        "attention_mask": torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1),
        "completion_mask": torch.cat([nothing, inputs["completion_mask"]], dim=1),
    }


@pytest.mark.parametrize("scale_rewards", ["group", "batch", "none"])
def test_group_relative_advantages(tmp_path, scale_rewards):
    _, inputs = sampled("GRPO", tmp_path, scale_rewards=scale_rewards)
    found = fastpref.advantages.group_relative(REWARDS, GROUPS, scale_rewards)
    assert deviation(found, inputs["advantages"]) < SINGLE


@pytest.mark.parametrize("normalize_advantages", [False, True], ids=["plain", "normalized"])
@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_leave_one_out_advantages(tmp_path, beta, normalize_advantages):
    trainer, inputs = sampled("RLOO", tmp_path, beta=beta, normalize_advantages=normalize_advantages)
    rewards = REWARDS
    if beta:
        batch = joined(inputs)
        log_ratio = sequence_logps(trainer.model, batch) - sequence_logps(trainer.ref_model, batch)
        assert log_ratio.abs().min() > 1e-3
        rewards = rewards - beta * log_ratio
    found = fastpref.advantages.leave_one_out(rewards, GROUPS, normalize_advantages)
    assert deviation(found, inputs["advantages"]) < 1e-5


@pytest.mark.parametrize("name", ["grpo", "dapo", "gspo"])
def test_loss_of_the_grpo_trainer_on_its_own_samples(tmp_path, name):
    level, loss_type = ("sequence", "grpo") if name == "gspo" else ("token", name)
    options = {"loss_type": loss_type, "importance_sampling_level": level, "epsilon_high": 0.28}
    trainer, inputs = sampled("GRPO", tmp_path, beta=BETA, **options)
    trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps
    model, reference = trainer.model, trainer.ref_model

    rows = rows_of(model, joined(inputs))
    with torch.no_grad():
        ref = rows_of(reference, joined(inputs))
    out = fastpref.linear_preference_loss(
        fastpref.objective(name, beta=BETA, epsilon_high=0.28),
        rows.hidden,
        model.lm_head.weight,
        rows.targets,
        rows.cu_seqlens,
        reference=(ref.hidden, reference.lm_head.weight),
        advantages=fastpref.advantages.group_relative(REWARDS, GROUPS),
    )
    out.loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    wanted = trainer.compute_loss(model, inputs)
    wanted.backward()
    assert out.loss.item() == pytest.approx(wanted.item(), rel=1e-5, abs=1e-6)
    for key, parameter in model.named_parameters():
        assert deviation(gradients[key], parameter.grad) < 1e-4, key
