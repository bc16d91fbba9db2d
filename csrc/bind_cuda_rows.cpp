#include "bind_cuda.h"
#include "cuda/rows.h"

namespace py = pybind11;

namespace fastpref {

void bind_cuda_rows(py::module_&) {}

}  // namespace fastpref
