#include "bind_head.h"

#include <pybind11/stl.h>

#include <optional>
#include <stdexcept>
#include <tuple>

namespace py = pybind11;

namespace fastpref {
namespace {

const HeadKernels* (*g_active)() = nullptr;

template <class T>
T* at(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

// The operands as Python passes them, in the order of fastpref/backends/cpu_head.py.
using Operands = std::tuple<int, int, int64_t, int64_t, int64_t, uintptr_t, int64_t, uintptr_t, int64_t, uintptr_t,
                            uintptr_t, uintptr_t, double, std::optional<double>, double, int>;

HeadOperands operands_of(const Operands& o) {
  const auto& [hidden_dtype, weight_dtype, rows, vocab, width, hidden, hidden_stride, weight, weight_stride, bias,
               targets, inverse_temperature, logit_scale, softcap, temperature, threads] = o;
  return {static_cast<DType>(hidden_dtype),
          static_cast<DType>(weight_dtype),
          rows,
          vocab,
          width,
          at<const void>(hidden),
          hidden_stride,
          at<const void>(weight),
          weight_stride,
          at<const float>(bias),
          at<const int64_t>(targets),
          at<const float>(inverse_temperature),
          make_transform(logit_scale, softcap.has_value(), softcap.value_or(0.0), temperature),
          threads};
}

const HeadKernels& kernels() {
  const HeadKernels* found = g_active();
  if (!found) throw std::runtime_error("the instruction set in use has no kernels for a linear head");
  return *found;
}

py::tuple head_scratch(const Operands& o, bool statistics, bool dx, bool dw, bool db, int64_t chunk, int64_t row_block,
                       int64_t kept_rows) {
  const HeadScratch s = kernels().scratch(operands_of(o), statistics, dx, dw, db, chunk, row_block, kept_rows);
  return py::make_tuple(s.stats, s.grad, s.kept);
}

void head_stats(const Operands& o, uintptr_t m, uintptr_t s, uintptr_t zt, uintptr_t s2, uintptr_t sd, uintptr_t total,
                uintptr_t top, uintptr_t argmax, uintptr_t kept, int64_t kept_rows, uintptr_t scratch) {
  kernels().stats({operands_of(o), at<float>(m), at<float>(s), at<float>(zt), at<float>(s2), at<float>(sd),
                   at<float>(total), at<float>(top), at<int64_t>(argmax), at<void>(kept), kept_rows,
                   at<void>(scratch)});
}

int64_t head_grad(const Operands& o, uintptr_t lse, uintptr_t onehot_coef, uintptr_t softmax_coef, uintptr_t kept,
                  int64_t kept_rows, uintptr_t logps, uintptr_t dx, int dx_dtype, uintptr_t dw, int dw_dtype,
                  int64_t dw_stride, bool dw_add, uintptr_t db, float filter, int64_t chunk, int64_t row_block,
                  uintptr_t scratch) {
  return kernels().grad({operands_of(o), at<const float>(lse), at<const float>(onehot_coef),
                         at<const float>(softmax_coef), at<const void>(kept), kept_rows, at<const float>(logps),
                         at<void>(dx), static_cast<DType>(dx_dtype), at<void>(dw), static_cast<DType>(dw_dtype),
                         dw_stride, dw_add, at<float>(db), filter, chunk, row_block, at<void>(scratch)});
}

}  // namespace

void bind_head(py::module_& m, const HeadKernels* (*active)()) {
  g_active = active;
  const auto no_gil = py::call_guard<py::gil_scoped_release>();
  m.def(
      "has_head", [] { return g_active() != nullptr; }, "Whether the instruction set in use has the head_ functions.");
  m.def("head_scratch", &head_scratch, py::arg("operands"), py::kw_only(), py::arg("statistics"), py::arg("dx"),
        py::arg("dw"), py::arg("db"), py::arg("chunk"), py::arg("row_block"), py::arg("kept_rows"),
        "Bytes of scratch of head_stats and of head_grad, and of what is kept between them.");
  m.def("head_stats", &head_stats, no_gil, py::arg("operands"), py::kw_only(), py::arg("m"), py::arg("s"),
        py::arg("zt"), py::arg("s2"), py::arg("sd"), py::arg("total"), py::arg("top"), py::arg("argmax"),
        py::arg("kept"), py::arg("kept_rows"), py::arg("scratch"), "HeadStatsArgs on addresses.");
  m.def("head_grad", &head_grad, no_gil, py::arg("operands"), py::kw_only(), py::arg("lse"), py::arg("onehot_coef"),
        py::arg("softmax_coef"), py::arg("kept"), py::arg("kept_rows"), py::arg("logps"), py::arg("dx"),
        py::arg("dx_dtype"), py::arg("dw"), py::arg("dw_dtype"), py::arg("dw_stride"), py::arg("dw_add"), py::arg("db"),
        py::arg("filter"), py::arg("chunk"), py::arg("row_block"), py::arg("scratch"),
        "HeadGradArgs on addresses; returns how many 32 x 32 blocks the filter left out.");
}

}  // namespace fastpref
