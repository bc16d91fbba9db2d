"""The demo from end to end: fetch, pair, train, compare, write down.

It runs :func:`fastpref.train.train`, the same as ``fastpref train`` does; an interrupted demo continues where it was.
"""

from __future__ import annotations

import json
import resource
import shutil
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from .._files import atomic_directory, saving, write_atomic
from ..errors import UserError
from ..train import TrainConfig, TrainResult, train
from ..train.command import messages
from .fetch import MODEL, RATINGS, Asset, fetch
from .ratings import PROMPT, Pair, preference_pairs, read_snippets
from .report import curves, table
from .smollm import prepare_model

RATING_GAP = 1.5
"""Least difference of two snippets' mean human ratings (from -4 to 4) for a pair."""

SAMPLES, SAMPLE_TOKENS = 3, 28


@dataclass(frozen=True)
class DemoConfig:
    """Train SmolLM2-135M-Instruct with fused DPO on human ratings of movie snippets, and show what changed."""

    output: str | None = None
    """Directory for the model, log.jsonl, curves.png and result.json. Default: runs/demo, with --quick runs/demo-quick."""
    quick: bool = False
    """Fewer pairs: about a minute and a half in place of about five."""
    seed: int = 0
    """Seed of the split, the pairing, the order and the sample texts."""
    threads: int | None = None
    """CPU threads of torch. Default: torch's own choice."""

    @property
    def directory(self) -> Path:
        """Where everything is left."""
        return Path(self.output or ("runs/demo-quick" if self.quick else "runs/demo"))


@dataclass(frozen=True)
class Size:
    """How much of the data a run takes, and how it is trained."""

    train_pairs: int
    heldout_pairs: int
    max_words: int
    batch_size: int
    lr: float
    eval_every: int
    save_every: int


FULL = Size(train_pairs=320, heldout_pairs=200, max_words=16, batch_size=8, lr=7e-5, eval_every=20, save_every=20)
QUICK = Size(train_pairs=72, heldout_pairs=64, max_words=12, batch_size=4, lr=1e-4, eval_every=100, save_every=100)


@dataclass(frozen=True)
class Inputs:
    """What the demo fetches."""

    model: Asset = MODEL
    ratings: Asset = RATINGS


def run(config: DemoConfig, inputs: Inputs | None = None, size: Size | None = None) -> int:
    """Run the demo and print its table.

    Args:
        config: the options.
        inputs: other packages to take model and ratings from.
        size: in place of the two presets.

    Returns:
        0, or 128 + the signal's number where it was interrupted.

    Raises:
        UserError: something could not be fetched, or ``output`` holds another run.
        SaveError: the disk is full; what was saved before is untouched.
    """
    started = time.monotonic()
    inputs, size = inputs or Inputs(), size or (QUICK if config.quick else FULL)
    output = config.directory
    settings = {**asdict(size), "seed": config.seed}
    if output.exists() and not output.is_dir():
        raise UserError(f"output {output}: expected a directory, found a file")
    with saving("the demo's results", output):
        output.mkdir(parents=True, exist_ok=True)
    if (finished := _finished(output, settings)) is not None:
        print(table(finished))
        print(f"\n{output} already holds this run; give another --output, or remove it, to run it again.")
        return 0
    with messages():
        model = prepare_model(inputs.model, progress=_say)
        snippets = read_snippets(fetch(inputs.ratings, notify=_say))
        train_pairs, heldout_pairs = preference_pairs(
            snippets,
            train_pairs=size.train_pairs,
            heldout_pairs=size.heldout_pairs,
            min_gap=RATING_GAP,
            max_words=size.max_words,
            seed=config.seed,
        )
        _say(f"{len(train_pairs)} pairs to train on, {len(heldout_pairs)} held out, of other snippets; for example")
        _say(f"    people preferred {train_pairs[0].chosen.strip()!r} ({train_pairs[0].rating_chosen:+.1f})")
        _say(f"    to               {train_pairs[0].rejected.strip()!r} ({train_pairs[0].rating_rejected:+.1f})")
        before = _samples_of(model, config.seed)
        result = train(
            TrainConfig(
                model=str(model),
                data="the demo's pairs",
                eval_data="the demo's held-out pairs",
                output=str(output),
                lr=size.lr,
                batch_size=size.batch_size,
                eval_every=size.eval_every,
                save_every=size.save_every,
                keep_checkpoints=1,
                seed=config.seed,
                threads=config.threads,
            ),
            train_pairs=[_record(p) for p in train_pairs],
            eval_pairs=[_record(p) for p in heldout_pairs],
        )
    if result.interrupted is not None:
        print(f"stopped after step {result.step} of {result.total_steps}; the same command continues", file=sys.stderr)
        return 128 + result.interrupted
    after = _samples(result.policy.causal_lm, result.tokenizer, config.seed)
    numbers = summarise(result, before, after, settings, time.monotonic() - started)
    _leave(output, result, numbers)
    print(table(numbers))
    print(f"\nmodel, log.jsonl, curves.png and result.json are in {output}")
    return 0


def summarise(
    result: TrainResult, before: list[str], after: list[str], settings: dict[str, Any], seconds: float
) -> dict[str, Any]:
    """The numbers of ``result.json``.

    ``heldout_accuracy_after`` is the share of held-out pairs whose implicit reward margin is above 0. Untrained, policy and reference are
    the same and every margin is exactly 0, so ``heldout_accuracy_before`` is how often the untrained model gives the snippet that people
    preferred the higher log-probability, the one opinion that it has; ``heldout_likelihood_accuracy_after`` is the same after training.
    """
    evaluations = [record for record in result.history if "eval_loss" in record]
    first, last = evaluations[0], evaluations[-1]
    if (first["step"], last["step"]) != (0, result.step):
        raise UserError("log.jsonl lacks an evaluation before the first step or after the last: nothing to compare")
    return {
        "heldout_accuracy_before": first["eval_logps/accuracies"],
        "heldout_accuracy_after": last["eval_rewards/accuracies"],
        "heldout_likelihood_accuracy_after": last["eval_logps/accuracies"],
        "heldout_margin_before": first["eval_rewards/margins"],
        "heldout_margin_after": last["eval_rewards/margins"],
        "heldout_loss_before": first["eval_loss"],
        "heldout_loss_after": last["eval_loss"],
        "heldout_pairs": last["eval_pairs"],
        "steps": result.step,
        "seconds": round(seconds, 1),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "prompt": PROMPT,
        "samples_before": before,
        "samples_after": after,
        "settings": settings,
    }


def _say(line: str) -> None:
    print(line, flush=True)


def _record(pair: Pair) -> dict[str, str]:
    return {"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected}


def _finished(output: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """The numbers of this very run where it is complete already."""
    path = output / "result.json"
    if not path.exists():
        return None
    try:
        numbers = json.loads(path.read_text(encoding="utf-8"))
        same = numbers["settings"] == settings
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: is not a result of the demo; give another --output") from None
    if not same:
        raise UserError(f"{output}: holds a demo with other settings; give another --output")
    return numbers


def _samples_of(model: Path, seed: int) -> list[str]:
    """Sample texts of the model in a directory."""
    from ..train.model import load_causal_lm, load_tokenizer

    return _samples(load_causal_lm(model, device=torch.device("cpu")), load_tokenizer(model), seed)


def _samples(causal_lm: Any, tokenizer: Any, seed: int) -> list[str]:
    """What the model writes after the prompt, from the same random numbers every time."""
    inputs = tokenizer([PROMPT] * SAMPLES, return_tensors="pt")
    causal_lm.eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokens = causal_lm.generate(
            **inputs,
            max_new_tokens=SAMPLE_TOKENS,
            do_sample=True,
            temperature=0.8,
            top_p=0.95,
            pad_token_id=tokenizer.eos_token_id,
        )
    texts = tokenizer.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [" ".join(text.split()) for text in texts]


def _leave(output: Path, result: TrainResult, numbers: dict[str, Any]) -> None:
    """Put the model in ``output/model``, the picture and the numbers beside it, and drop the checkpoints: nothing is left to continue."""
    checkpoint = result.checkpoint
    if checkpoint is None:
        raise UserError(f"{output}: there is no checkpoint to take the model from")
    from ..train.model import without_transformers_bars

    with atomic_directory(output / "model", what="the trained model") as building, without_transformers_bars():
        result.policy.causal_lm.save_pretrained(building)
        result.tokenizer.save_pretrained(building)
    write_atomic(output / "curves.png", curves(result.history), what="the curves")
    write_atomic(output / "result.json", json.dumps(numbers, indent=2) + "\n", what="the numbers")
    shutil.rmtree(checkpoint)
