"""The losses of TRL's KTO trainer, with the batch of mismatched completions that the reference point of ``kto`` is estimated from."""

from types import SimpleNamespace

import pytest
import torch

from tests.trl_parity.common import LogitsModel, Padded, Result, assert_agree, bare, by_fastpref, metrics_of, needs_trl

pytestmark = needs_trl

PROMPTS = [3, 1, 4, 2, 5, 3]
LENGTHS = [5, 1, 7, 3, 4, 9]
DESIRABLE = [True, False, False, True, True, False]


def batches(seed: int) -> tuple[Padded, Padded]:
    """Completions under their own prompts, and shifted by one under those of their neighbours, two tokens wider so that a model can tell."""
    shifted = LENGTHS[-1:] + LENGTHS[:-1]
    matched = Padded.of(PROMPTS, LENGTHS, seed=seed)
    mismatched = Padded.of([p + 2 for p in PROMPTS], shifted, seed=seed + 1)
    assert matched.policy.shape[1] != mismatched.policy.shape[1]
    return matched, mismatched


def swapped(batch: Padded) -> Padded:
    """With policy and reference exchanged: the log-ratios change sign."""
    batch.policy, batch.reference = batch.reference, batch.policy
    return batch


def by_trl(batch: Padded, mismatched: Padded, desirable: torch.Tensor, loss_type: str, **options: float) -> Result:
    from trl import KTOTrainer

    leaf = batch.policy.clone().requires_grad_()
    trainer = bare(
        KTOTrainer,
        ref_model=LogitsModel(batch.reference, mismatched.reference),
        precompute_ref_logps=False,
        calculate_KL=loss_type == "kto",
        loss_type=loss_type,
        args=SimpleNamespace(gradient_checkpointing_kwargs=None),
        **options,
    )
    trainer.model = LogitsModel(leaf, mismatched.policy)
    names = ("input_ids", "attention_mask", "completion_mask")
    inputs = {name: getattr(batch, name) for name in names} | {"label": desirable}
    if loss_type == "kto":
        inputs |= {f"KL_{name}": getattr(mismatched, name) for name in names}
    loss = trainer._compute_loss(trainer.model, inputs, return_outputs=False)
    loss.backward()
    return Result(loss.detach(), leaf.grad, metrics_of(trainer))


def compare(loss_type: str, batch: Padded, mismatched: Padded, desirable: list[bool], **weights: float) -> float:
    """Returns the reference point ``z0``, of ``kto``."""
    options = {"beta": 0.3, "desirable_weight": 1.0, "undesirable_weight": 1.0} | weights
    labels = torch.tensor(desirable)
    data = {"desirable": labels}
    metrics = [f"{kind}/{which}" for kind in ("rewards", "logps") for which in ("chosen", "rejected")]
    if loss_type == "kto":
        data["mismatched_log_ratios"] = mismatched.sums(mismatched.policy) - mismatched.sums(mismatched.reference)
        metrics.append("kl")
    found = by_fastpref(loss_type, batch, **options, **data)
    wanted = by_trl(batch, mismatched, labels, loss_type, **options)
    if all(desirable):
        metrics = [name for name in metrics if not name.endswith("rejected")]
    assert_agree(found, wanted, metrics=tuple(metrics))
    return wanted.metrics["kl"]


WEIGHTS = [{}, {"desirable_weight": 1.3, "undesirable_weight": 0.6}]


@pytest.mark.parametrize("weights", WEIGHTS, ids=["equal", "weighted"])
@pytest.mark.parametrize("loss_type", ["kto", "apo_zero_unpaired"])
def test_both_losses(loss_type, weights):
    compare(loss_type, *batches(seed=0), DESIRABLE, **weights)


def test_reference_point_above_zero_and_held_at_zero():
    batch, mismatched = batches(seed=0)
    found = [compare("kto", batch, m, DESIRABLE) for m in (mismatched, swapped(batches(seed=0)[1]))]
    assert min(found) == 0.0 < max(found)


@pytest.mark.parametrize("loss_type", ["kto", "apo_zero_unpaired"])
def test_a_batch_of_desirable_responses_only(loss_type):
    compare(loss_type, *batches(seed=3), [True] * len(LENGTHS))
