// fastpref._C: the native kernels as functions of raw addresses and sizes. No torch header is included, so the module
// needs no rebuild when torch changes; fastpref/backends/native.py and cpu.py are where both sides are known.
//
// Tensors arrive as data_ptr() integers and must stay alive during the call, which runs without the GIL. Nothing here
// checks what they point to. Bump kAbiVersion whenever the signature or meaning of a function changes.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <atomic>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "bind_cuda.h"
#include "bind_head.h"
#include "core/rows.h"
#include "cpu/kernels.h"
#include "cpu/stream.h"

namespace py = pybind11;
using namespace fastpref;

namespace {

constexpr int kAbiVersion = 3;

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

template <class T>
T* at(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

void row_stats(int dtype, uintptr_t logits, int64_t logits_stride, int64_t rows, int64_t cols, int64_t col0,
               uintptr_t targets, uintptr_t inv_temperature, uintptr_t m, uintptr_t s, uintptr_t zt, uintptr_t s2,
               uintptr_t sd, uintptr_t total, uintptr_t top, uintptr_t argmax, double logit_scale,
               std::optional<double> softcap, double temperature, int threads) {
  active_isa().load()->rows->row_stats(
      {static_cast<DType>(dtype), rows, cols, col0, at<const void>(logits), logits_stride, at<const int64_t>(targets),
       at<const float>(inv_temperature), at<float>(m), at<float>(s), at<float>(zt), at<float>(s2), at<float>(sd),
       at<float>(total), at<float>(top), at<int64_t>(argmax),
       make_transform(logit_scale, softcap.has_value(), softcap.value_or(0.0), temperature), threads});
}

void row_grad(int dtype, uintptr_t logits, int64_t logits_stride, int64_t rows, int64_t cols, int64_t col0,
              uintptr_t targets, uintptr_t inv_temperature, uintptr_t lse, uintptr_t onehot_coef,
              uintptr_t softmax_coef, uintptr_t out, int64_t out_stride, double logit_scale,
              std::optional<double> softcap, double temperature, int threads) {
  active_isa().load()->rows->row_grad(
      {static_cast<DType>(dtype), rows, cols, col0, at<const void>(logits), logits_stride, at<const int64_t>(targets),
       at<const float>(inv_temperature), at<const float>(lse), at<const float>(onehot_coef),
       at<const float>(softmax_coef), at<void>(out), out_stride,
       make_transform(logit_scale, softcap.has_value(), softcap.value_or(0.0), temperature), threads});
}

void row_kl_stats(int dtype, uintptr_t logits, int64_t logits_stride, uintptr_t ref_logits, int64_t ref_logits_stride,
                  int64_t rows, int64_t cols, int64_t col0, uintptr_t targets, uintptr_t inv_temperature, uintptr_t m,
                  uintptr_t s, uintptr_t zt, uintptr_t ref_m, uintptr_t ref_s, uintptr_t ref_zt, uintptr_t cross,
                  bool forward, double logit_scale, std::optional<double> softcap, double temperature, int threads) {
  RowStatsArgs side = {};
  side.dtype = static_cast<DType>(dtype);
  side.rows = rows;
  side.cols = cols;
  side.col0 = col0;
  side.targets = at<const int64_t>(targets);
  side.inv_temperature = at<const float>(inv_temperature);
  side.transform = make_transform(logit_scale, softcap.has_value(), softcap.value_or(0.0), temperature);
  side.threads = threads;
  RowKlStatsArgs args = {rows, cols, side, side, at<float>(cross), forward, threads};
  args.policy.logits = at<const void>(logits);
  args.policy.logits_stride = logits_stride;
  args.policy.m = at<float>(m);
  args.policy.s = at<float>(s);
  args.policy.zt = at<float>(zt);
  args.reference.logits = at<const void>(ref_logits);
  args.reference.logits_stride = ref_logits_stride;
  args.reference.m = at<float>(ref_m);
  args.reference.s = at<float>(ref_s);
  args.reference.zt = at<float>(ref_zt);
  active_isa().load()->rows->row_kl_stats(args);
}

void row_kl_grad(int dtype, uintptr_t logits, int64_t logits_stride, uintptr_t ref_logits, int64_t ref_logits_stride,
                 int64_t rows, int64_t cols, int64_t col0, uintptr_t targets, uintptr_t inv_temperature, uintptr_t lse,
                 uintptr_t ref_lse, uintptr_t kl, uintptr_t onehot_coef, uintptr_t softmax_coef, uintptr_t kl_coef,
                 uintptr_t out, int64_t out_stride, bool forward, double logit_scale, std::optional<double> softcap,
                 double temperature, int threads) {
  const RowGradArgs policy = {static_cast<DType>(dtype),
                              rows,
                              cols,
                              col0,
                              at<const void>(logits),
                              logits_stride,
                              at<const int64_t>(targets),
                              at<const float>(inv_temperature),
                              at<const float>(lse),
                              at<const float>(onehot_coef),
                              at<const float>(softmax_coef),
                              at<void>(out),
                              out_stride,
                              make_transform(logit_scale, softcap.has_value(), softcap.value_or(0.0), temperature),
                              threads};
  active_isa().load()->rows->row_kl_grad({rows, cols, policy, at<const void>(ref_logits), ref_logits_stride,
                                          at<const float>(ref_lse), at<const float>(kl), at<const float>(kl_coef),
                                          forward, threads});
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
  m.def("row_stats", &row_stats, no_gil, py::kw_only(), py::arg("dtype"), py::arg("logits"), py::arg("logits_stride"),
        py::arg("rows"), py::arg("cols"), py::arg("col0"), py::arg("targets"), py::arg("inv_temperature"), py::arg("m"),
        py::arg("s"), py::arg("zt"), py::arg("s2"), py::arg("sd"), py::arg("total"), py::arg("top"), py::arg("argmax"),
        py::arg("logit_scale"), py::arg("softcap"), py::arg("temperature"), py::arg("threads"),
        "Backend.row_stats on addresses; strides count elements; 0 for an array that is not there.");
  m.def("row_grad", &row_grad, no_gil, py::kw_only(), py::arg("dtype"), py::arg("logits"), py::arg("logits_stride"),
        py::arg("rows"), py::arg("cols"), py::arg("col0"), py::arg("targets"), py::arg("inv_temperature"),
        py::arg("lse"), py::arg("onehot_coef"), py::arg("softmax_coef"), py::arg("out"), py::arg("out_stride"),
        py::arg("logit_scale"), py::arg("softcap"), py::arg("temperature"), py::arg("threads"),
        "Backend.row_grad on addresses; strides count elements.");

  m.def("row_kl_stats", &row_kl_stats, no_gil, py::kw_only(), py::arg("dtype"), py::arg("logits"),
        py::arg("logits_stride"), py::arg("ref_logits"), py::arg("ref_logits_stride"), py::arg("rows"), py::arg("cols"),
        py::arg("col0"), py::arg("targets"), py::arg("inv_temperature"), py::arg("m"), py::arg("s"), py::arg("zt"),
        py::arg("ref_m"), py::arg("ref_s"), py::arg("ref_zt"), py::arg("cross"), py::arg("forward"),
        py::arg("logit_scale"), py::arg("softcap"), py::arg("temperature"), py::arg("threads"),
        "Backend.row_kl_stats on addresses.");
  m.def("row_kl_grad", &row_kl_grad, no_gil, py::kw_only(), py::arg("dtype"), py::arg("logits"),
        py::arg("logits_stride"), py::arg("ref_logits"), py::arg("ref_logits_stride"), py::arg("rows"), py::arg("cols"),
        py::arg("col0"), py::arg("targets"), py::arg("inv_temperature"), py::arg("lse"), py::arg("ref_lse"),
        py::arg("kl"), py::arg("onehot_coef"), py::arg("softmax_coef"), py::arg("kl_coef"), py::arg("out"),
        py::arg("out_stride"), py::arg("forward"), py::arg("logit_scale"), py::arg("softcap"), py::arg("temperature"),
        py::arg("threads"), "Backend.row_kl_grad on addresses.");

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
