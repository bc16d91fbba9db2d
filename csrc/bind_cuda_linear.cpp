#include <pybind11/stl.h>

#include <optional>

#include "bind_cuda.h"
#include "cuda/linear.h"

namespace py = pybind11;

namespace fastpref {
namespace {

template <class T>
T* at(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

void linear_stats(int device, uintptr_t stream, int multiprocessors, int dtype, int64_t rows, int64_t columns,
                  int64_t width, uintptr_t hidden, int64_t hidden_stride, uintptr_t weight, int64_t weight_stride,
                  uintptr_t bias, uintptr_t targets, uintptr_t inv_temperature, double logit_scale,
                  std::optional<double> softcap, double temperature, int64_t segment, uintptr_t parts, uintptr_t m,
                  uintptr_t s, uintptr_t zt, uintptr_t s2, uintptr_t sd, uintptr_t total, uintptr_t top,
                  uintptr_t argmax, uintptr_t kept, uintptr_t references, int64_t kept_stride) {
  LinearStatsArgs args = {};
  args.dtype = static_cast<DType>(dtype);
  args.rows = rows;
  args.columns = columns;
  args.width = width;
  args.hidden = at<const void>(hidden);
  args.hidden_stride = hidden_stride;
  args.weight = at<const void>(weight);
  args.weight_stride = weight_stride;
  args.bias = at<const float>(bias);
  args.targets = at<const int64_t>(targets);
  args.inv_temperature = at<const float>(inv_temperature);
  args.transform = make_transform(logit_scale, softcap.has_value(), softcap.value_or(0.0), temperature);
  args.segment = segment;
  args.parts = at<float>(parts);
  args.m = at<float>(m);
  args.s = at<float>(s);
  args.zt = at<float>(zt);
  args.s2 = at<float>(s2);
  args.sd = at<float>(sd);
  args.total = at<float>(total);
  args.top = at<float>(top);
  args.argmax = at<int64_t>(argmax);
  args.kept = at<void>(kept);
  args.references = at<float>(references);
  args.kept_stride = kept_stride;
  require_success(cuda_api().linear->stats({device, at<void>(stream), multiprocessors}, args));
}

void tile_grad(int device, uintptr_t stream, int multiprocessors, int dtype, int64_t rows, int64_t columns,
               int64_t col0, uintptr_t values, int64_t values_stride, uintptr_t references, int64_t references_stride,
               uintptr_t bias, uintptr_t targets, uintptr_t inv_temperature, uintptr_t lse, uintptr_t logps,
               uintptr_t onehot_coef, uintptr_t softmax_coef, uintptr_t out, int64_t out_stride, uintptr_t factor,
               uintptr_t db, double logit_scale, std::optional<double> softcap, double temperature) {
  TileGradArgs args = {};
  args.dtype = static_cast<DType>(dtype);
  args.rows = rows;
  args.columns = columns;
  args.col0 = col0;
  args.values = at<const void>(values);
  args.values_stride = values_stride;
  args.references = at<const float>(references);
  args.references_stride = references_stride;
  args.bias = at<const float>(bias);
  args.targets = at<const int64_t>(targets);
  args.inv_temperature = at<const float>(inv_temperature);
  args.lse = at<const float>(lse);
  args.logps = at<const float>(logps);
  args.onehot_coef = at<const float>(onehot_coef);
  args.softmax_coef = at<const float>(softmax_coef);
  args.out = at<void>(out);
  args.out_stride = out_stride;
  args.factor = at<const float>(factor);
  args.db = at<float>(db);
  args.transform = make_transform(logit_scale, softcap.has_value(), softcap.value_or(0.0), temperature);
  require_success(cuda_api().linear->grad({device, at<void>(stream), multiprocessors}, args));
}

void scale_rows(int device, uintptr_t stream, int multiprocessors, int dtype, int out_dtype, int64_t rows,
                int64_t width, uintptr_t x, int64_t x_stride, uintptr_t factor, uintptr_t out, int64_t out_stride) {
  const ScaleRowsArgs args = {static_cast<DType>(dtype),
                              static_cast<DType>(out_dtype),
                              rows,
                              width,
                              at<const void>(x),
                              x_stride,
                              at<const float>(factor),
                              at<void>(out),
                              out_stride};
  require_success(cuda_api().linear->scale_rows({device, at<void>(stream), multiprocessors}, args));
}

}  // namespace

void bind_cuda_linear(py::module_& m) {
  const auto no_gil = py::call_guard<py::gil_scoped_release>();
  m.attr("CUDA_KEPT_SLOT") = kKeptSlot;
  m.def(
      "cuda_linear_stats_bytes",
      [](int64_t rows, int64_t segments, bool s2, bool others) {
        return 4 * linear_stats_fields(s2, others) * segments * rows;
      },
      py::kw_only(), py::arg("rows"), py::arg("segments"), py::arg("s2"), py::arg("others"),
      "Bytes of the parts of cuda_linear_stats; others: any of sd, total, top.");
  m.def("cuda_linear_stats", &linear_stats, no_gil, py::kw_only(), py::arg("device"), py::arg("stream"),
        py::arg("multiprocessors"), py::arg("dtype"), py::arg("rows"), py::arg("columns"), py::arg("width"),
        py::arg("hidden"), py::arg("hidden_stride"), py::arg("weight"), py::arg("weight_stride"), py::arg("bias"),
        py::arg("targets"), py::arg("inv_temperature"), py::arg("logit_scale"), py::arg("softcap"),
        py::arg("temperature"), py::arg("segment"), py::arg("parts"), py::arg("m"), py::arg("s"), py::arg("zt"),
        py::arg("s2"), py::arg("sd"), py::arg("total"), py::arg("top"), py::arg("argmax"), py::arg("kept"),
        py::arg("references"), py::arg("kept_stride"),
        "LinearStatsArgs on addresses; 0 for an array that is not there.");
  m.def("cuda_tile_grad", &tile_grad, no_gil, py::kw_only(), py::arg("device"), py::arg("stream"),
        py::arg("multiprocessors"), py::arg("dtype"), py::arg("rows"), py::arg("columns"), py::arg("col0"),
        py::arg("values"), py::arg("values_stride"), py::arg("references"), py::arg("references_stride"),
        py::arg("bias"), py::arg("targets"), py::arg("inv_temperature"), py::arg("lse"), py::arg("logps"),
        py::arg("onehot_coef"), py::arg("softmax_coef"), py::arg("out"), py::arg("out_stride"), py::arg("factor"),
        py::arg("db"), py::arg("logit_scale"), py::arg("softcap"), py::arg("temperature"),
        "TileGradArgs on addresses; 0 for an array that is not there.");
  m.def("cuda_scale_rows", &scale_rows, no_gil, py::kw_only(), py::arg("device"), py::arg("stream"),
        py::arg("multiprocessors"), py::arg("dtype"), py::arg("out_dtype"), py::arg("rows"), py::arg("width"),
        py::arg("x"), py::arg("x_stride"), py::arg("factor"), py::arg("out"), py::arg("out_stride"),
        "ScaleRowsArgs on addresses.");
}

}  // namespace fastpref
