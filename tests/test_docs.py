"""The documentation is made from the code, its examples run, and the README's commands exist."""

import doctest
import importlib
import importlib.util
import re
import sys
from pathlib import Path

import pytest

from fastpref import cli
from fastpref.objectives import OBJECTIVES

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(not (ROOT / "docs").exists(), reason="the documentation is not part of this install")


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "docs"))  # for the modules beside it
        spec.loader.exec_module(module)
    yield module
    for name in ("losses_page", "markup"):
        sys.modules.pop(name)


@pytest.mark.parametrize("page", ["api.md", "losses.md", "train.md"])
def test_pages_are_up_to_date(generate, page):
    assert (ROOT / "docs" / page).read_text() == generate.PAGES[page](), "run python docs/generate.py"


@pytest.mark.parametrize(
    "module",
    [
        "fastpref.token_logprobs",
        "fastpref.preference",
        "fastpref.divergence",
        "fastpref.advantages",
        "fastpref.objectives.from_function",
    ],
)
def test_examples_run(module):
    results = doctest.testmod(importlib.import_module(module), raise_on_error=False)
    assert results.attempted > 0
    assert results.failed == 0


def blocks(page: str) -> list[str]:
    found = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert found
    return found


def test_python_blocks_of_the_readme_run():
    for block in blocks("README.md"):
        exec(compile(block, "README.md", "exec"), {})


def test_python_blocks_of_the_losses_run_one_after_another(monkeypatch):
    monkeypatch.setattr("fastpref.objectives.OBJECTIVES", dict(OBJECTIVES))  # what a block registers goes again
    page: dict[str, object] = {"__name__": "losses"}
    for block in blocks("docs/losses.md"):
        exec(compile(block, "losses.md", "exec"), page)


def test_the_losses_page_has_every_name():
    page = (ROOT / "docs" / "losses.md").read_text()
    first_cells = "\n".join(line.split(" | ")[0] for line in page.splitlines() if line.startswith("| `"))
    named = set(re.findall(r"`(\w+)`", first_cells))
    assert set(OBJECTIVES) <= named
    assert not re.search(r"\{\{\w+\}\}", page)


def test_numbers_of_losses_in_the_readme(generate):
    classes = {known.cls for known in OBJECTIVES.values()}
    ready = {cls for cls in classes if cls.name in sys.modules["losses_page"].device_forms()}
    text = (ROOT / "README.md").read_text()
    assert f"{len(classes)} losses under {len(OBJECTIVES)} names" in text
    assert f"{len(ready)} of the {len(classes)} losses" in text


def test_markup(generate):
    markup = sys.modules["markup"]

    class Documented:
        """A thing.

        Args:
            one, two: shared,
                on two lines.
            three: alone.

        Raises:
            ValueError: never.
        """

    assert markup.arguments(Documented) == {
        "one": "shared, on two lines.",
        "two": "shared, on two lines.",
        "three": "alone.",
    }
    assert markup.inline(":func:`~fastpref.objective` of ``x``") == "`fastpref.objective` of `x`"
    assert markup.table(["a"], [["p | q"]]).splitlines()[-1] == "| p \\| q |"


def test_commands_of_the_readme_exist():
    named = set(re.findall(r"fastpref (demo|train|doctor|\w+) ", (ROOT / "README.md").read_text()))
    shell = "\n".join(re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL))
    used = set(re.findall(r"(?:^|/|\s)fastpref (\w+)", shell))
    assert used
    assert used <= set(cli.COMMANDS)
    assert named


def test_files_named_by_the_readme_exist():
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text())
    scripts = re.findall(r"python ((?:bench|docs)/\S+\.py)", (ROOT / "README.md").read_text())
    assert links
    assert scripts
    for path in [*links, *scripts]:
        assert (ROOT / path).exists(), path
