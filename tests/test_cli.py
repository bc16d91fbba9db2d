"""The command line as a user runs it: in a process of its own."""

import os
import subprocess
import sys

import pytest
import torch

from fastpref import backends, doctor


def run(*args: str, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "fastpref", *args],
        capture_output=True,
        text=True,
        env={**os.environ, **env},
        check=False,
    )


def test_help_and_version_do_not_import_torch():
    code = "import sys, fastpref.cli as c; c.main(['--help']); c.main(['--version']); print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "fastpref COMMAND" in out
    assert out.rstrip().endswith("False")


@pytest.mark.parametrize(("args", "words"), [(["docter"], ["docter", "did you mean 'doctor'"]), ([], ["usage"])])
def test_wrong_call(args, words):
    done = run(*args)
    assert done.returncode == 2
    for word in words:
        assert word in done.stderr


def test_doctor_tells_versions_backends_and_reasons():
    done = run("doctor", TRITON_INTERPRET="0")
    assert done.returncode == 0, done.stderr
    assert f"torch        {doctor.version('torch')}" in done.stdout
    lines = {line.split()[0]: line for line in done.stdout.split("\nbackends")[1].splitlines() if line.strip()}
    assert "active" in lines["eager"]
    for name in backends.BACKENDS:
        assert name in lines
    if not torch.cuda.is_available():
        assert "not active:" in lines["triton"]
        assert len(lines["triton"].split("not active:")[1].strip()) > 10


def test_doctor_tells_what_a_wrong_override_does():
    done = run("doctor", FASTPREF_BACKEND="foo")
    assert done.returncode == 0, done.stderr
    assert "FASTPREF_BACKEND='foo': expected one of auto, eager" in done.stdout


def test_documented_modules_are_reachable_from_the_package():
    code = "import fastpref as f; print(f.packing.pack_padded, f.nn.LinearPreferenceLoss, f.planner.make_plan, f.objectives.DPO, f.train.train)"
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)


def test_a_closed_pipe_is_no_error():
    done = subprocess.run(
        f"{sys.executable} -m fastpref doctor | head -1", shell=True, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""


def test_openmp_does_not_spin_under_the_command_line():
    code = "import os, fastpref.cli as c; c.main(['--version']); print(os.environ['GOMP_SPINCOUNT'])"
    env = {k: v for k, v in os.environ.items() if k != "GOMP_SPINCOUNT"}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True).stdout
    assert out.splitlines()[-1] == "0"
