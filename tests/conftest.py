"""Process-wide settings that must come before torch and triton are imported."""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "0")  # shared cores: spinning OpenMP threads cost 10-40x
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
from hypothesis import settings

# CI judges a change by the same examples every time; elsewhere every run tries new ones.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")


def _runs_on_gpu(config: pytest.Config) -> bool:
    if config.option.markexpr.strip() != "gpu":
        return False
    import torch

    return torch.cuda.is_available()


def pytest_configure(config: pytest.Config) -> None:
    """Kernels are interpreted, but for ``-m gpu`` where there is a GPU. Triton looks once, when it is first imported."""
    os.environ.setdefault("TRITON_INTERPRET", "0" if _runs_on_gpu(config) else "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true", help="also run tests that take minutes")
    parser.addoption("--run-network", action="store_true", help="also run tests that fetch from the package registry")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        for marker in ("slow", "network"):
            if marker in item.keywords and not config.getoption(f"--run-{marker}"):
                item.add_marker(pytest.mark.skip(reason=f"needs --run-{marker}"))


@pytest.fixture(scope="session")
def emulated_cuda() -> object:
    """The backend ``"cuda"`` on the CPU, for this test and those after it; the emulator's library is built when the first one asks."""
    from tests.emulation.cuda import require_emulated

    return require_emulated()
