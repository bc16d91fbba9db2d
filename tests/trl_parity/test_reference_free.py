"""The losses of TRL's CPO and ORPO trainers: no reference, and an NLL of the chosen responses."""

import pytest
import torch

import fastpref
from tests.trl_parity.common import (
    ROUNDED,
    LogitsModel,
    Padded,
    Result,
    assert_agree,
    bare,
    by_fastpref,
    needs_trl,
)

pytestmark = needs_trl

PROMPTS = [3, 1, 4, 2, 5]
LENGTHS = [5, 1, 7, 3, 4, 2, 6, 1, 3, 9]  # five chosen, five rejected
METRICS = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "nll_loss")


def collated(batch: Padded) -> dict[str, torch.Tensor]:
    """As TRL's collator gives a batch of pairs, each half at its own width."""
    found = {}
    for name, half in zip(("chosen", "rejected"), torch.arange(len(batch.input_ids)).chunk(2), strict=True):
        width = batch.attention_mask[half].sum(1).max()
        for key, values in (
            ("input_ids", batch.input_ids),
            ("attention_mask", batch.attention_mask),
            ("labels", batch.labels),
        ):
            found[f"{name}_{key}"] = values[half, :width]
    return found


def by_trl(trainer, batch: Padded) -> Result:
    leaf = batch.policy.clone().requires_grad_()
    loss, metrics = trainer.get_batch_loss_metrics(LogitsModel(leaf), collated(batch))
    loss.backward()
    return Result(loss.detach(), leaf.grad, metrics)


def cpo(loss_type: str, **options: float):
    from trl.experimental.cpo import CPOTrainer

    known = {"beta": 0.1, "label_smoothing": 0.0, "cpo_alpha": 1.0, "simpo_gamma": 0.5, "alpha": 0.0}
    assert options.keys() <= known.keys()
    return bare(CPOTrainer, is_encoder_decoder=False, pad_token_id=0, loss_type=loss_type, **(known | options))


CPO = [  # TRL's loss_type, fastpref's objective, options that have the same name
    ("sigmoid", "cpo", {"beta": 0.3}),
    ("sigmoid", "cpo", {"beta": 0.3, "cpo_alpha": 0.7, "label_smoothing": 0.1}),
    ("hinge", "cpo", {"beta": 0.3, "cpo_alpha": 0.7}),
    ("ipo", "cpo", {"beta": 0.3, "cpo_alpha": 0.7}),
    ("simpo", "simpo", {"beta": 2.5, "simpo_gamma": 1.375, "cpo_alpha": 0.0}),
    ("simpo", "simpo", {"beta": 2.0, "simpo_gamma": 0.3, "cpo_alpha": 0.7, "label_smoothing": 0.1}),
    ("simpo", "alphapo", {"beta": 2.5, "simpo_gamma": 0.1, "alpha": 0.25, "cpo_alpha": 0.0}),
    ("simpo", "alphapo", {"beta": 1.5, "simpo_gamma": 0.2, "alpha": -0.4, "cpo_alpha": 0.7, "label_smoothing": 0.1}),
]


@pytest.mark.parametrize(("loss_type", "name", "options"), CPO)
def test_cpo(loss_type, name, options):
    batch = Padded.of(PROMPTS * 2, LENGTHS)
    which = {"loss_type": loss_type} if name == "cpo" else {}
    found = by_fastpref(fastpref.objectives.lookup(name)(**which, **options), batch, reference=False)
    metrics = METRICS
    if loss_type in ("ipo", "simpo"):
        # TRL logs token means as "logps" with these, fastpref token sums with every loss.
        found.metrics = {key: value for key, value in found.metrics.items() if not key.startswith("logps/")}
    else:
        metrics += ("logps/chosen", "logps/rejected")
    if options.get("cpo_alpha") == 0.0:
        del found.metrics["nll_loss"]  # TRL then logs 0
        metrics = METRICS[:-1]
    assert_agree(found, by_trl(cpo(loss_type, **options), batch), metrics=metrics)


@pytest.mark.parametrize("prefix", [False, True], ids=["completions_only", "prompts"])
@pytest.mark.parametrize("beta", [0.1, 1.5])
def test_orpo(beta, prefix):
    from trl.experimental.orpo import ORPOTrainer

    # TRL's NLL counts the prompts' tokens; with prompts of one token, which nothing predicts, there are none to count.
    batch = Padded.of((PROMPTS if prefix else [1] * 5) * 2, LENGTHS)
    trainer = bare(ORPOTrainer, is_encoder_decoder=False, padding_value=0, beta=beta)
    if not prefix:
        found = by_fastpref("orpo", batch, reference=False, beta=beta)
        found.metrics = {name: value for name, value in found.metrics.items() if not name.startswith("logps/")}
        # The odds ratio is float32 in TRL.
        names = (*METRICS, "log_odds_chosen", "log_odds_ratio")
        assert_agree(found, by_trl(trainer, batch), ROUNDED, metrics=names)
        return
    # Else the odds-ratio term alone: fastpref's loss less its NLL.
    found = by_fastpref(
        fastpref.objective(["orpo", "sft"], beta=beta, loss_weights=[1.0, -1.0]), batch, reference=False
    )
    leaf = batch.policy.clone().requires_grad_()
    means = trainer.get_batch_logps(leaf, batch.labels, average_log_prob=True)
    loss = -trainer.odds_ratio_loss(*means.chunk(2))[0].mean()
    loss.backward()
    assert_agree(Result(found.loss, found.gradient), Result(loss.detach(), leaf.grad), ROUNDED)
