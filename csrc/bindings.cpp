// fastpref._C: the native kernels as functions of raw addresses and sizes. No torch header is included, so the module
// needs no rebuild when torch changes; fastpref/backends/native.py and cpu.py are where both sides are known.
//
// Tensors arrive as data_ptr() integers and must stay alive during the call, which runs without the GIL. Nothing here
// checks what they point to. Bump kAbiVersion whenever the signature or meaning of a function changes.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <atomic>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "bind_cuda.h"
#include "bind_head.h"
#include "bind_preference.h"
#include "bind_rows.h"
#include "core/heads.h"
#include "cpu/kernels.h"
#include "cpu/preference.h"
#include "cpu/stream.h"

namespace py = pybind11;
using namespace fastpref;

namespace {

constexpr int kAbiVersion = 5;

#ifdef _OPENMP
constexpr bool kOpenMP = true;
#else
constexpr bool kOpenMP = false;
#endif

#if defined(__clang__)
constexpr const char* kCompiler = "Clang " __clang_version__;
#else
constexpr const char* kCompiler = "GCC " __VERSION__;
#endif

const std::vector<Isa>& isas() {
  static const std::vector<Isa> all = [] {
    Isa found[kMaxIsas];
    return std::vector<Isa>(found, found + list_isas(found));
  }();
  return all;
}

const Isa* widest_supported() {
  const Isa* widest = nullptr;
  for (const Isa& isa : isas()) {
    if (isa.supported) widest = &isa;
  }
  return widest;
}

std::atomic<const Isa*>& active_isa() {
  static std::atomic<const Isa*> active{widest_supported()};
  return active;
}

void set_isa(const std::string& name) {
  std::string names;
  for (const Isa& isa : isas()) {
    if (name == isa.name) {
      if (!isa.supported) throw std::invalid_argument("this CPU has no " + name);
      active_isa() = &isa;
      return;
    }
    names += (names.empty() ? "" : ", ") + std::string(isa.name);
  }
  throw std::invalid_argument("unknown instruction set '" + name + "', expected one of " + names);
}

void bind_rows(py::module_& m) {
  def_row_stats<int>(
      m, "row_stats",
      [](RowStatsArgs a, int threads) {
        a.threads = threads;
        active_isa().load()->rows->row_stats(a, nullptr);
      },
      "Backend.row_stats on addresses; strides count elements; 0 for an array that is not there.", py::arg("threads"));
  def_row_grad<int>(
      m, "row_grad",
      [](RowGradArgs a, int threads) {
        a.threads = threads;
        active_isa().load()->rows->row_grad(a);
      },
      "Backend.row_grad on addresses; strides count elements.", py::arg("threads"));
  def_row_kl_stats<int>(
      m, "row_kl_stats",
      [](RowKlStatsArgs a, int threads) {
        a.threads = a.policy.threads = a.reference.threads = threads;
        active_isa().load()->rows->row_kl_stats(a);
      },
      "Backend.row_kl_stats on addresses.", py::arg("threads"));
  def_row_kl_grad<int>(
      m, "row_kl_grad",
      [](RowKlGradArgs a, int threads) {
        a.threads = a.policy.threads = threads;
        active_isa().load()->rows->row_kl_grad(a);
      },
      "Backend.row_kl_grad on addresses.", py::arg("threads"));
}

std::vector<std::string> isa_names(bool only_supported) {
  std::vector<std::string> names;
  for (const Isa& isa : isas()) {
    if (isa.supported || !only_supported) names.emplace_back(isa.name);
  }
  return names;
}

}  // namespace

PYBIND11_MODULE(_C, m, py::mod_gil_not_used()) {
  m.doc() = "Native kernels of fastpref on raw addresses; see fastpref.backends.cpu.";
  m.attr("ABI_VERSION") = kAbiVersion;
  m.attr("COMPILER") = kCompiler;
  m.attr("OPENMP") = kOpenMP;
  m.attr("FLOAT32") = static_cast<int>(DType::kFloat32);
  m.attr("BFLOAT16") = static_cast<int>(DType::kBFloat16);
  m.attr("FLOAT16") = static_cast<int>(DType::kFloat16);

  m.def("compiled_isas", [] { return isa_names(false); }, "Instruction sets in this build, plainest first.");
  m.def("supported_isas", [] { return isa_names(true); }, "Those of them that this CPU can run.");
  m.def(
      "active_isa", [] { return std::string(active_isa().load()->name); }, "The one in use: the widest, or set_isa's.");
  m.def("set_isa", &set_isa, py::arg("name"), "Use one of supported_isas(), in the whole process.");

  const auto no_gil = py::call_guard<py::gil_scoped_release>();
  bind_rows(m);
  const char* types[] = {"float32", "bfloat16", "float16", "float64", "uint8", "int32", "int64"};
  py::dict numbers;
  for (int i = 0; i < 7; ++i) numbers[types[i]] = i;
  m.attr("NUMBER_TYPES") = numbers;
  m.def(
      "heads", [] { return names_of(kHeadNames, kHeadCount); },
      "(name, kind, data, hyper-parameters, number, variants) of every head of preference_forward.");
  def_preference_forward<int>(
      m, "preference_forward", [] { return static_cast<int>(kHeadCount); },
      [](const PreferenceArgs& args, int threads) {
        const BadRow bad = preference_forward(args, *active_isa().load()->rows, threads);
        return std::make_pair(static_cast<int>(bad.what), bad.row);
      },
      py::arg("threads"));

  bind_head(m, [] { return active_isa().load()->head; });
  bind_cuda(m);

  m.def(
      "stream_read",
      [](uintptr_t words, int64_t n, int threads) { return stream_read(at<const uint64_t>(words), n, threads); },
      no_gil, py::kw_only(), py::arg("words"), py::arg("n"), py::arg("threads"),
      "The sum of n 64-bit words: what reading memory costs.");
  m.def(
      "stream_update", [](uintptr_t words, int64_t n, int threads) { stream_update(at<uint64_t>(words), n, threads); },
      no_gil, py::kw_only(), py::arg("words"), py::arg("n"), py::arg("threads"),
      "Inverts n 64-bit words: what updating memory in place costs.");
}
