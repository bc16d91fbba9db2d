"""The documentation is made from the code, its examples run, and the README's commands exist."""

import doctest
import importlib.util
import re
from pathlib import Path

import pytest

from fastpref import cli

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(not (ROOT / "docs").exists(), reason="the documentation is not part of this install")


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["api.md", "train.md"])
def test_pages_are_up_to_date(generate, page):
    assert (ROOT / "docs" / page).read_text() == generate.PAGES[page](), "run python docs/generate.py"


@pytest.mark.parametrize("module", ["fastpref.token_logprobs", "fastpref.preference"])
def test_examples_run(module):
    results = doctest.testmod(importlib.import_module(module), raise_on_error=False)
    assert results.attempted > 0
    assert results.failed == 0


def test_python_blocks_of_the_readme_run():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})


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
