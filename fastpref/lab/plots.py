"""An experiment's pictures as PNG. matplotlib is imported when the first one is drawn."""

from __future__ import annotations

import importlib.util
import io
import textwrap

from ..errors import UserError
from .results import Picture


def require_matplotlib() -> None:
    """Raise ``UserError`` where matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError(
            "the pictures need matplotlib: pip install 'fastpref[train]', or leave them out with --no-plots"
        )


def draw(picture: Picture) -> bytes:
    """The PNG of ``picture``: its panels side by side, each with a legend, the note underneath.

    Raises:
        UserError: matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    width = 5.4 * len(picture.panels)
    figure = Figure(figsize=(max(width, 7.5), 4.4), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(picture.panels), squeeze=False)[0], picture.panels, strict=True):
        for series in panel.series:
            axes.plot(series.x, series.y, series.style, label=series.label, linewidth=1.3)
        axes.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
        if panel.log_x:
            axes.set_xscale("log")
        if panel.log_y:
            axes.set_yscale("log")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    if picture.note:
        figure.supxlabel("\n".join(textwrap.wrap(picture.note, int(15 * max(width, 7.5)))), fontsize=7.5)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()
