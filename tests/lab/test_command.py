"""``fastpref lab`` as a user runs it."""

import subprocess
import sys

import pytest

from fastpref import cli, lab
from fastpref.errors import UserError
from fastpref.lab import plots
from fastpref.lab.experiments import EXPERIMENTS
from fastpref.lab.results import Experiment, Panel, Picture, Series, Table, digits

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def one_wrong(monkeypatch):
    def run(*, quick=False):
        table = Table("T", ["row", "value"], [("r", [digits(1.0, "2.0")])], ["a caveat"])
        return Experiment("coverage", "made up", [table], [])

    monkeypatch.setitem(EXPERIMENTS, "coverage", run)


def test_tables_and_pictures(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out = tmp_path / "new" / "pictures"
    assert cli.main(["lab", "coverage", "--output", str(out)]) == 0
    assert (out / "coverage.png").read_bytes().startswith(PNG)
    printed = capsys.readouterr().out
    assert printed.isascii()
    assert "< 1e-12 ok" in printed
    assert "6 numbers and orderings agree, 0 do not" in printed


def test_disagreement_is_exit_status_1(one_wrong, capsys, tmp_path):
    assert cli.main(["lab", "coverage", "--no-plots", "--output", str(tmp_path / "none")]) == 1
    printed = capsys.readouterr().out
    assert "1.0 | 2.0 NO" in printed
    assert "* a caveat" in printed
    assert "does not agree: T: r, value" in printed
    assert not (tmp_path / "none").exists()


def test_without_matplotlib(monkeypatch, capsys):
    monkeypatch.setattr(plots.importlib.util, "find_spec", lambda name: None)
    assert cli.main(["lab", "coverage"]) == 1
    assert "pip install 'fastpref[train]'" in capsys.readouterr().err
    assert lab.main(["coverage", "--no-plots"]) == 0
    with pytest.raises(UserError, match="matplotlib"):
        plots.draw(Picture("p", [Panel("t", "x", "y", [Series("s", [1], [1])])]))


def test_wrong_calls(tmp_path, capsys):
    with pytest.raises(SystemExit) as wrong:
        cli.main(["lab", "converge"])
    assert wrong.value.code == 2
    assert "unknown section 'converge'" in capsys.readouterr().err
    file = tmp_path / "file"
    file.write_text("")
    assert cli.main(["lab", "coverage", "--output", str(file)]) == 1
    assert "--output: expected a directory" in capsys.readouterr().err


def test_runs_without_torch_and_matplotlib():
    code = "import sys, fastpref.cli as c; s = c.main(['lab', 'coverage', '--no-plots']); print('torch' in sys.modules, 'matplotlib' in sys.modules); sys.exit(s)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "False False"
