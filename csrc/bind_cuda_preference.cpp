#include "bind_cuda.h"
#include "bind_preference.h"
#include "cuda/preference.h"

namespace py = pybind11;

namespace fastpref {
namespace {

// Device, stream, multiprocessors.
using Where = std::tuple<int, uintptr_t, int>;

CudaLaunch launch_of(const Where& where) {
  const auto& [device, stream, multiprocessors] = where;
  return {device, at<void>(stream), multiprocessors};
}

}  // namespace

void bind_cuda_preference(py::module_& m) {
  m.def(
      "cuda_heads", [] { return names_of(cuda_api().preference->heads, cuda_api().preference->head_count); },
      "(name, kind, data, hyper-parameters, number, variants) of every head of the library.");
  m.def(
      "cuda_preference_workspace",
      [](const LogitsAt& logits, int sequences, const Where& where) {
        return cuda_api().preference->workspace(logits_of(logits, sequences), launch_of(where));
      },
      py::arg("logits"), py::arg("sequences"), py::arg("where"), "Bytes of the workspace of cuda_preference_forward.");
  def_preference_forward<Where, uintptr_t>(
      m, "cuda_preference_forward", [] { return cuda_api().preference->head_count; },
      [](PreferenceArgs args, const Where& where, uintptr_t workspace) {
        args.workspace = at<void>(workspace);
        require_success(cuda_api().preference->forward(args, launch_of(where)));
      },
      py::arg("where"), py::arg("workspace"));
}

}  // namespace fastpref
