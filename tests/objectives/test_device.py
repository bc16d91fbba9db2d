"""The device form of every loss that has one, compiled and run, against the definition that it was derived from."""

import ctypes
import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

import fastpref
from fastpref.objectives import OBJECTIVES, device
from tests.emulation import require_triton

ROOT = Path(__file__).parents[2]
ITEMS = 64


@pytest.fixture(scope="module")
def forms():
    return device.device_forms(OBJECTIVES)


def sample(name: str, g: torch.Generator) -> torch.Tensor:
    """Plausible numbers of an input, exactly representable in float32."""
    stem = name.removesuffix("_w").removesuffix("_l")
    uniform, normal = torch.rand(ITEMS, generator=g), torch.randn(ITEMS, generator=g)
    found = {
        "policy": -0.1 - 30 * uniform,
        "reference": -0.1 - 30 * uniform,
        "length": torch.floor(1 + 20 * uniform),
        "desirable": (uniform > 0.5).float(),
        "from_reference": (uniform > 0.5).float(),
        "win_probs": 0.05 + 0.9 * uniform,
        "quantiles": 0.05 + 0.9 * uniform,
        "rewards": 0.05 + 0.9 * uniform,
        "old_logps": -0.1 - 30 * uniform,
        "aligned": -3 * uniform,
    }
    return found.get(stem, normal).double()


def example(form, g) -> dict[str, torch.Tensor]:
    """Inputs of ITEMS items; references and old log-probs near the policy, with far ones among them; some extreme items."""
    found = {name: sample(name, g) for name in form.inputs}
    for name in form.inputs:
        for near in ("reference", "old_logps", "sft_logps"):
            if name.startswith(near):
                policy = found["policy" + name.removeprefix(near)]
                noise = torch.randn(ITEMS, generator=g).double()
                found[name] = (policy + torch.where(torch.arange(ITEMS) % 4 == 0, 20.0, 0.5) * noise).float().double()
    return found


def definition(objective, form, given):
    """Loss and derivatives by the objective's own Python definition and autograd, in float64."""
    _, evaluate = device.item_losses(objective, ITEMS)
    shared = {name: torch.tensor(3.0, dtype=torch.float64) for name in device.CALL_NUMBERS}
    leaves = {k: v.clone().requires_grad_(k.startswith("policy")) for k, v in given.items()}
    loss = evaluate(objective, {k: leaves[k] for k in form.inputs}, shared)
    wrt = [leaves[k] for k in form.inputs if k.startswith("policy")]
    grads = torch.autograd.grad(loss, wrt, torch.ones_like(loss), allow_unused=True)
    return [loss.detach(), *(torch.zeros_like(loss) if x is None else x for x in grads)]


def hyper_values(objective, form) -> list[float]:
    return [3.0 if name in device.CALL_NUMBERS else float(getattr(objective, name)) for name in form.hyper]


PROGRAM = """
#include <string.h>
#include "core/objective_heads.h"
template <typename T> static int run(const char* wanted, const T* in, const T* hyper, T* out, int items) {
#define ONE(name, kind, inputs, hypers, outputs)                                                        \\
  if (strcmp(wanted, #name) == 0) {                                                                     \\
    for (int i = 0; i < items; ++i) fastpref::head_##name(in + i * inputs, hyper, out + i * outputs);   \\
    return 0;                                                                                           \\
  }
  FASTPREF_HEADS(ONE)
  return 1;
}
extern "C" int run_float(const char* n, const float* i, const float* h, float* o, int c) { return run(n, i, h, o, c); }
extern "C" int run_double(const char* n, const double* i, const double* h, double* o, int c) { return run(n, i, h, o, c); }
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    folder = tmp_path_factory.mktemp("heads")
    (folder / "heads.cpp").write_text(PROGRAM)
    command = [
        compiler,
        "-std=c++17",
        "-O1",
        "-shared",
        "-fPIC",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-I",
        str(ROOT / "csrc"),
    ]
    subprocess.run([*command, str(folder / "heads.cpp"), "-o", str(folder / "heads.so")], check=True, timeout=300)
    return ctypes.CDLL(str(folder / "heads.so"))


def run_cpp(library, form, objective, given, dtype) -> list[torch.Tensor]:
    inputs = torch.stack([given[n] for n in form.inputs], dim=1).to(dtype).contiguous()
    hyper = torch.tensor(hyper_values(objective, form) or [0.0], dtype=dtype)
    out = torch.full((ITEMS, len(form.outputs)), torch.nan, dtype=dtype)
    call = library.run_float if dtype == torch.float32 else library.run_double
    pointers = [ctypes.c_void_p(t.data_ptr()) for t in (inputs, hyper, out)]
    assert call(form.name.encode(), *pointers, ITEMS) == 0, "not in the header"
    return list(out.double().unbind(1))


def test_the_generated_files_are_up_to_date(forms):
    spec = importlib.util.spec_from_file_location("generate_heads", ROOT / "csrc" / "generate_heads.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for path, text in module.texts(forms[0]).items():
        assert path.read_text(encoding="utf-8") == text, f"{path}: run python csrc/generate_heads.py"


def test_every_elementwise_loss_has_a_form(forms):
    """What has none says why: it sorts, it sums over a prompt or a sequence, or it needs the vocabulary."""
    found, reasons = forms
    names = {f.name for f in found}
    without = {name for name in OBJECTIVES if OBJECTIVES[name].cls.name not in names}
    assert without == {
        *("tdpo1", "tdpo2"),
        *("bco", "aot", "aot_unpaired", "beta_dpo"),
        *("plackett_luce", "infonca", "nca", "trpa", "group_regression", "rda_group"),
        "gmpo",
    }
    for name in without:
        assert reasons[OBJECTIVES[name].cls.name]


def test_cpp_in_double_equals_the_definition(forms, library):
    objectives = device.variants(OBJECTIVES)
    for seed, form in enumerate(forms[0]):
        objective, given = objectives[form.name], example(form, torch.Generator().manual_seed(seed))
        for found, wanted in zip(
            run_cpp(library, form, objective, given, torch.float64), definition(objective, form, given), strict=True
        ):
            torch.testing.assert_close(
                found,
                wanted,
                rtol=1e-10,
                atol=1e-12 * float(wanted.abs().max()),
                msg=lambda m, f=form: f"{f.name}: {m}",
            )


def test_cpp_in_float_is_as_good_as_torch_in_float(forms, library):
    """Error against the float64 definition at most twice that of the definition run in float32, plus a few units of the last place."""
    objectives = device.variants(OBJECTIVES)
    for seed, form in enumerate(forms[0]):
        objective, given = objectives[form.name], example(form, torch.Generator().manual_seed(seed))
        wanted = definition(objective, form, given)
        plain = definition(objective, form, {k: v.float() for k, v in given.items()})
        for found, exact, torch_float in zip(
            run_cpp(library, form, objective, given, torch.float32), wanted, plain, strict=True
        ):
            scale = exact.abs().max()
            floor = 16 * torch.finfo(torch.float32).eps * scale
            error, yardstick = (found - exact).abs().max(), (torch_float.double() - exact).abs().max()
            assert error <= 2 * yardstick + floor, form.name


CUDA_PROGRAM = """
#include "core/objective_heads.h"
#define ONE(name, kind, inputs, hypers, outputs)                                                    \\
  extern "C" __global__ void head_##name(const float* in, const float* hyper, float* out) {         \\
    fastpref::head_##name(in + threadIdx.x * inputs, hyper, out + threadIdx.x * outputs);           \\
  }
FASTPREF_HEADS(ONE)
"""


def test_cuda_compiles_every_form_without_spills(forms, tmp_path):
    """The text that the host ran above, for a device: no GPU is needed to compile it."""
    if shutil.which("nvcc") is None:
        pytest.skip("there is no nvcc; the same text is compiled and run for the host")
    (tmp_path / "heads.cu").write_text(CUDA_PROGRAM)
    command = [
        "nvcc",
        "-std=c++17",
        "-arch=sm_90",
        "-Xptxas",
        "-v",
        "-I",
        str(ROOT / "csrc"),
        "-c",
        str(tmp_path / "heads.cu"),
    ]
    done = subprocess.run([*command, "-o", str(tmp_path / "heads.o")], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    report = done.stdout + done.stderr
    assert report.count("0 bytes spill stores, 0 bytes spill loads") == len(forms[0])


def test_forms_are_finite_at_extreme_inputs(forms, library):
    objectives = device.variants(OBJECTIVES)
    for form in forms[0]:
        given = example(form, torch.Generator().manual_seed(1))
        for name in form.inputs:
            if name.startswith("policy"):
                given[name] = torch.tensor([-1e5, -1e-6, -1e4, -3.0]).double().repeat(ITEMS // 4)
            elif name.startswith("reference"):
                given[name] = torch.tensor([-1e4, -1e4, -1e-6, -1.5e4, -2.0]).double().repeat(ITEMS)[:ITEMS]
            elif name.startswith("length"):
                given[name] = torch.ones(ITEMS, dtype=torch.float64)
        if form.name == "ipo_f_divergence_type_alpha_divergence":
            continue  # the square of e^80 is above float32
        for found in run_cpp(library, form, objectives[form.name], given, torch.float32):
            assert found.isfinite().all(), form.name


def triton_kernels(forms, folder):
    """A module with one kernel per form: loads ITEMS of each input, calls the head, stores its outputs."""
    lines = ["import triton", "import triton.language as tl", "from fastpref.kernels import objective_heads as heads"]
    for form in forms:
        outputs = [f"o{i}" for i in range(len(form.outputs))]
        lines += [
            "@triton.jit",
            f"def {form.name}({', '.join(['x', 'y', *form.hyper, 'ITEMS: tl.constexpr'])}):",
            "    at = tl.arange(0, ITEMS)",
            *(f"    {name} = tl.load(x + {i} * ITEMS + at)" for i, name in enumerate(form.inputs)),
            f"    {', '.join(outputs)} = heads.head_{form.name}({', '.join([*form.inputs, *form.hyper])})",
            *(f"    tl.store(y + {i} * ITEMS + at, {o})" for i, o in enumerate(outputs)),
        ]
    path = folder / "heads_in_kernels.py"
    path.write_text("\n".join(lines))
    spec = importlib.util.spec_from_file_location("heads_in_kernels", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_triton_equals_the_definition(forms, tmp_path):
    """In the interpreter, float32."""
    require_triton()
    objectives = device.variants(OBJECTIVES)
    kernels = triton_kernels(forms[0], tmp_path)
    for seed, form in enumerate(forms[0]):
        objective, given = objectives[form.name], example(form, torch.Generator().manual_seed(seed))
        inputs = torch.stack([given[n] for n in form.inputs]).float().contiguous()
        out = torch.full((len(form.outputs), ITEMS), torch.nan)
        getattr(kernels, form.name)[(1,)](inputs, out, *hyper_values(objective, form), ITEMS=ITEMS)
        found = out.double().unbind(0)
        wanted = definition(objective, form, given)
        plain = definition(objective, form, {k: v.float() for k, v in given.items()})
        for one, exact, torch_float in zip(found, wanted, plain, strict=True):
            floor = 32 * torch.finfo(torch.float32).eps * exact.abs().max()
            assert (one - exact).abs().max() <= 3 * (torch_float.double() - exact).abs().max() + floor, form.name


def test_no_form_says_why():
    with pytest.raises(device.NoDeviceForm, match="aot: looks at the whole batch"):
        device.derive(fastpref.objective("aot"))
    with pytest.raises(device.NoDeviceForm, match="vocabulary"):
        device.derive(fastpref.objective("tdpo1"))
