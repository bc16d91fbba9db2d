"""What the demo shows: a table for the terminal and a picture of the curves."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from typing import Any


def table(numbers: dict[str, Any]) -> str:
    """The table of a finished run, from the contents of ``result.json``."""
    rows = [
        ("held-out accuracy", numbers["heldout_accuracy_before"], numbers["heldout_accuracy_after"], "{:.3f}"),
        ("held-out margin", numbers["heldout_margin_before"], numbers["heldout_margin_after"], "{:+.3f}"),
        ("held-out loss", numbers["heldout_loss_before"], numbers["heldout_loss_after"], "{:.4f}"),
    ]
    lines = [f"\n{'':<20}{'before':>10}{'after':>10}"]
    lines += [f"{name:<20}{form.format(first):>10}{form.format(last):>10}" for name, first, last, form in rows]
    lines += [
        "",
        *textwrap.wrap(
            f"Accuracy is over {numbers['heldout_pairs']} held-out pairs that people rated. After training: the implicit reward ranks the "
            "pair as people do. Before, when policy and reference are the same: the untrained model's own log-probability does "
            f"(after training that one is {numbers['heldout_likelihood_accuracy_after']:.3f}).",
            96,
        ),
    ]
    for title, texts in (("before", numbers["samples_before"]), ("after", numbers["samples_after"])):
        lines += ["", f"{title}: {numbers['prompt']!r} ..."]
        for text in texts:
            lines += textwrap.wrap(text or "(ended at once)", 92, initial_indent="  - ", subsequent_indent="    ")
    lines += [
        "",
        f"{numbers['steps']} steps, {numbers['seconds']:.0f} s in all, peak memory {numbers['peak_memory_bytes'] / 2**30:.2f} GiB",
    ]
    return "\n".join(lines)


def curves(history: Sequence[dict[str, Any]]) -> bytes:
    """A PNG of loss and accuracy against the step, from the records of ``log.jsonl``."""
    from matplotlib.figure import Figure

    steps = [r for r in history if "loss" in r]
    held_out = [r for r in history if "eval_loss" in r]
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    panels = (
        ("loss", "DPO loss", held_out),
        ("rewards/accuracies", "pairs ranked as people do", held_out[1:]),  # at step 0 every margin is exactly 0
    )
    for axes, (key, title, points) in zip(figure.subplots(1, 2), panels, strict=True):
        axes.plot(
            [r["step"] for r in steps], [r[key] for r in steps], color="tab:blue", alpha=0.5, label="training batch"
        )
        axes.plot(
            [r["step"] for r in points], [r[f"eval_{key}"] for r in points], "o-", color="tab:orange", label="held out"
        )
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()
