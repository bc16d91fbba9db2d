"""The training loop: steps, evaluations, checkpoints, and how it stops."""

from __future__ import annotations

import dataclasses
import logging
import math
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import UserError
from ..preference import PreferenceOutput
from . import checkpoint
from .batches import Batch, Layout, PairOrder, collate, micro_batches
from .config import TrainConfig
from .evaluation import Means, Split, evaluate
from .log import Record, RunLog
from .model import PreferenceModel
from .objective import losses_per_pair
from .schedule import learning_rate
from .signals import Interrupted, StopRequest

_log = logging.getLogger(__name__)


class Callback(Protocol):
    """Called with every record of the log, as it is written."""

    def __call__(self, record: Record, policy: PreferenceModel) -> None:
        """``record`` has ``step`` and either ``loss`` (a step) or ``eval_loss`` (an evaluation)."""
        ...


@dataclass(frozen=True)
class TrainResult:
    """What a run leaves.

    Attributes:
        step: optimiser steps done, earlier processes' included.
        total_steps: steps of the whole run.
        checkpoint: the newest checkpoint, a directory that ``from_pretrained`` loads; ``None`` where nothing was done.
        history: the records of ``log.jsonl``, earlier processes' included.
        interrupted: the signal that stopped the run, or ``None``.
        policy: the trained model.
        tokenizer: its tokenizer.
    """

    step: int
    total_steps: int
    checkpoint: Path | None
    history: list[Record]
    interrupted: signal.Signals | None
    policy: PreferenceModel
    tokenizer: Any


@dataclass
class Loop:
    """A run that is ready to take steps.

    Attributes:
        config: the options.
        policy: the model.
        tokenizer: saved with every checkpoint.
        optimizer: over the policy's parameters.
        training: what is learnt from.
        held_out: what is evaluated on, or ``None``.
        layout: of the batches.
        fingerprints: saved with every checkpoint.
        stop: asked between steps and passes.
        callbacks: called with every record.
        step: optimiser steps done.
        saved: the checkpoint of ``step``, if there is one already.
    """

    config: TrainConfig
    policy: PreferenceModel
    tokenizer: Any
    optimizer: torch.optim.Optimizer
    training: Split
    held_out: Split | None
    layout: Layout
    fingerprints: dict[str, str]
    stop: StopRequest
    callbacks: Sequence[Callback] = ()
    step: int = 0
    saved: Path | None = None

    def __post_init__(self) -> None:
        per_step = self.config.batch_size * self.config.gradient_accumulation
        self.order = PairOrder(len(self.training.data), per_step, self.config.seed)
        self.total = self.config.max_steps or self.config.epochs * self.order.steps_per_epoch

    def run(self) -> TrainResult:
        """Take all steps that are left.

        Raises:
            UserError: the loss or the gradient is not finite.
            SaveError: a checkpoint or the log could not be written.
        """
        from tqdm import tqdm

        output = Path(self.config.output)
        board = output / "tensorboard" if self.config.tensorboard else None
        log = RunLog(output / "log.jsonl", after=self.step, tensorboard=board)
        interrupted = None
        try:
            with tqdm(total=self.total, initial=self.step, desc="training", unit="step", disable=None) as bar:
                self._go_on(log, bar)
        except Interrupted as reason:
            interrupted = reason.signal
            if self.saved is None and self.step:
                self._save(log)
        finally:
            log.close()
        return TrainResult(self.step, self.total, self.saved, log.records, interrupted, self.policy, self.tokenizer)

    def _go_on(self, log: RunLog, bar: Any) -> None:
        config = self.config
        self.policy.train()
        self.stop.check()
        evaluated = any("eval_loss" in record and record["step"] == self.step for record in log.records)
        if self._evaluation_due() and not evaluated:  # at the start, or interrupted in the middle of it
            self._evaluate(log)
        while self.step < self.total:
            record = self._take_step()
            bar.update()
            bar.set_postfix_str(_summary(record))
            last = self.step == self.total
            if last or self.step % config.log_every == 0:
                self._write(log, record)
            if self._evaluation_due():
                self._evaluate(log)
            if last or self.step % config.save_every == 0:
                self._save(log)
            if not last:
                self.stop.check()

    def _take_step(self) -> Record:
        """One optimiser step: the gradient of the mean loss over all its pairs, in micro-batches."""
        started = time.perf_counter()
        config = self.config
        pairs = self.order.pairs(self.step)
        rate = learning_rate(
            self.step, peak=config.lr, schedule=config.schedule, warmup=config.warmup, total=self.total
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        means, losses, tokens = Means(), [], 0
        for micro in micro_batches(pairs, config.batch_size):
            batch = collate(self.training.data, micro, self.layout).to(self.policy.device)
            out = self._forward(batch)
            (out.loss * (len(micro) / len(pairs))).backward()
            means.add({"loss": out.loss, **out.metrics}, len(micro))
            losses.append(losses_per_pair(out.losses.detach(), len(micro)))
            tokens += batch.targets.numel()
        norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), config.max_grad_norm or math.inf)
        values = means.values()
        if not (math.isfinite(values["loss"]) and math.isfinite(float(norm))):
            raise self._not_finite(pairs, torch.cat(losses), values["loss"], float(norm))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.saved = None
        return {
            "step": self.step,
            "epoch": self.step / self.order.steps_per_epoch,
            **values,
            "lr": rate,
            "grad_norm": float(norm),
            "pairs": len(pairs),
            "tokens": tokens,
            "seconds": round(time.perf_counter() - started, 4),
        }

    def _forward(self, batch: Batch) -> PreferenceOutput:
        try:
            return self.policy(batch, self.training.reference.of(batch))
        except ValueError as error:  # fastpref refuses NaN where it can look
            raise UserError(self._about_step(f"the loss cannot be computed: {error}", batch.pairs)) from error

    def _not_finite(self, pairs: Sequence[int], losses: Tensor, loss: float, norm: float) -> UserError:
        guilty = [pair for pair, finite in zip(pairs, losses.isfinite().tolist(), strict=True) if not finite]
        what = f"the loss is {loss}" if guilty or not math.isfinite(loss) else f"the gradient's norm is {norm}"
        return UserError(self._about_step(what, guilty or pairs))

    def _about_step(self, what: str, pairs: Sequence[int]) -> str:
        where = [self.training.data.where[pair] for pair in pairs]
        shown = "; ".join(where[:8]) + ("; ..." if len(where) > 8 else "")
        kept = checkpoint.all_checkpoints(Path(self.config.output))
        last = f"The last checkpoint is {kept[-1]}." if kept else "There is no checkpoint yet."
        return (
            f"step {self.step + 1}: {what}. Pairs: {shown}. The weights were not changed by this step. {last} "
            "A lower lr, a longer warmup or dtype=float32 often helps."
        )

    def _evaluation_due(self) -> bool:
        every = self.config.eval_every
        return self.step in (0, self.total) or (every is not None and self.step % every == 0)

    def _evaluate(self, log: RunLog) -> None:
        if self.held_out is None:
            return
        started = time.perf_counter()
        try:
            values = evaluate(
                self.policy,
                self.held_out,
                layout=self.layout,
                batch_size=self.config.batch_size,
                check=self.stop.check,
                untrained=self.step == 0,
            )
        except ValueError as error:
            raise UserError(f"step {self.step}: the held-out loss cannot be computed: {error}") from error
        record: Record = {"step": self.step, **{f"eval_{name}": value for name, value in values.items()}}
        record["eval_pairs"] = len(self.held_out.data)
        record["eval_seconds"] = round(time.perf_counter() - started, 4)
        self._write(log, record)
        _log.info("step %d, held out: %s", self.step, _summary(values))

    def _write(self, log: RunLog, record: Record) -> None:
        log.write(record)
        for callback in self.callbacks:
            callback(record, self.policy)

    def _save(self, log: RunLog) -> None:
        # The log first: a checkpoint must not know of steps that the log has lost.
        log.sync()
        epoch, cursor = self.order.position(self.step)
        state = checkpoint.TrainerState(self.step, epoch, cursor, dataclasses.asdict(self.config), self.fingerprints)
        self.saved = checkpoint.save(
            Path(self.config.output),
            state,
            model=self.policy.causal_lm,
            tokenizer=self.tokenizer,
            optimizer=self.optimizer,
            objective_state=self.policy.objective_state,
            keep=self.config.keep_checkpoints,
        )
        _log.info("step %d: saved %s", self.step, self.saved)


def _summary(values: Mapping[str, float]) -> str:
    """What a person watches, of the metrics that the objective has."""
    shown = {"loss": "loss", "rewards/accuracies": "accuracy", "rewards/margins": "margin"}
    return ", ".join(f"{short} {values[name]:.4f}" for name, short in shown.items() if name in values)
