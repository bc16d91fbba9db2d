#include "bind_cuda.h"
#include "cuda/linear.h"

namespace py = pybind11;

namespace fastpref {

void bind_cuda_linear(py::module_&) {}

}  // namespace fastpref
