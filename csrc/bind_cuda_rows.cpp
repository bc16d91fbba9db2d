#include "bind_cuda.h"
#include "bind_rows.h"
#include "cuda/rows.h"

namespace py = pybind11;

namespace fastpref {
namespace {

CudaLaunch launch_of(int device, uintptr_t stream, int multiprocessors) {
  return {device, at<void>(stream), multiprocessors};
}

}  // namespace

void bind_cuda_rows(py::module_& m) {
  const auto device = py::arg("device"), stream = py::arg("stream"), multiprocessors = py::arg("multiprocessors"),
             workspace = py::arg("workspace");
  def_row_stats<int, uintptr_t, int, uintptr_t, uintptr_t, int>(
      m, "cuda_row_stats",
      [](RowStatsArgs a, int device_, uintptr_t stream_, int multiprocessors_, uintptr_t workspace_, uintptr_t bias,
         int bias_dtype) {
        a.bias = at<const void>(bias);
        a.bias_dtype = static_cast<DType>(bias_dtype);
        require_success(
            cuda_api().rows->row_stats(a, at<void>(workspace_), launch_of(device_, stream_, multiprocessors_)));
      },
      "row_stats on a GPU; optional bias [cols] is added to the logits.", device, stream, multiprocessors, workspace,
      py::arg("bias") = 0, py::arg("bias_dtype") = 0);
  def_row_grad<int, uintptr_t, int, std::optional<int>, uintptr_t, int>(
      m, "cuda_row_grad",
      [](RowGradArgs a, int device_, uintptr_t stream_, int multiprocessors_, std::optional<int> out_dtype,
         uintptr_t bias, int bias_dtype) {
        if (out_dtype) a.out_dtype = static_cast<DType>(*out_dtype);
        a.bias = at<const void>(bias);
        a.bias_dtype = static_cast<DType>(bias_dtype);
        require_success(cuda_api().rows->row_grad(a, launch_of(device_, stream_, multiprocessors_)));
      },
      "row_grad on a GPU; optional out_dtype other than that of fp32 logits, bias [cols] added to the logits.", device,
      stream, multiprocessors, py::arg("out_dtype") = py::none(), py::arg("bias") = 0, py::arg("bias_dtype") = 0);
  def_row_kl_stats<int, uintptr_t, int, uintptr_t>(
      m, "cuda_row_kl_stats",
      [](const RowKlStatsArgs& a, int device_, uintptr_t stream_, int multiprocessors_, uintptr_t workspace_) {
        require_success(
            cuda_api().rows->row_kl_stats(a, at<void>(workspace_), launch_of(device_, stream_, multiprocessors_)));
      },
      "row_kl_stats on a GPU.", device, stream, multiprocessors, workspace);
  def_row_kl_grad<int, uintptr_t, int>(
      m, "cuda_row_kl_grad",
      [](const RowKlGradArgs& a, int device_, uintptr_t stream_, int multiprocessors_) {
        require_success(cuda_api().rows->row_kl_grad(a, launch_of(device_, stream_, multiprocessors_)));
      },
      "row_kl_grad on a GPU.", device, stream, multiprocessors);

  m.def(
      "cuda_row_stats_workspace",
      [](int dtype, int64_t rows, int64_t cols, bool more, int multiprocessors_) {
        return cuda_api().rows->row_stats_workspace(static_cast<DType>(dtype), rows, cols, more, multiprocessors_);
      },
      py::kw_only(), py::arg("dtype"), py::arg("rows"), py::arg("cols"), py::arg("more"), multiprocessors,
      "Bytes of the workspace of cuda_row_stats; `more`: statistics beyond m, s and zt are asked for.");
  m.def(
      "cuda_row_kl_stats_workspace",
      [](int dtype, int64_t rows, int64_t cols, int multiprocessors_) {
        return cuda_api().rows->row_kl_stats_workspace(static_cast<DType>(dtype), rows, cols, multiprocessors_);
      },
      py::kw_only(), py::arg("dtype"), py::arg("rows"), py::arg("cols"), multiprocessors,
      "Bytes of the workspace of cuda_row_kl_stats.");
}

}  // namespace fastpref
