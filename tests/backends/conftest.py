"""Which cases the emulated CUDA kernels run of those that every backend does: it computes a few million elements per second."""

import pytest
import torch

SPREADS = (0.0, 2.5)


def _is_extra(item: pytest.Item) -> bool:
    """float16 and bfloat16 are one template, which ``tests/cuda`` runs in both; the rest is more of the same."""
    chosen = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    if chosen.get("backend") != "cuda":
        return False
    return chosen.get("dtype") is torch.float16 or chosen.get("spread", SPREADS[0]) not in SPREADS


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    extra = [item for item in items if _is_extra(item)]
    if extra:
        config.hook.pytest_deselected(items=extra)
        items[:] = [item for item in items if not _is_extra(item)]
