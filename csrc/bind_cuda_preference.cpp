#include "bind_cuda.h"
#include "cuda/preference.h"

namespace py = pybind11;

namespace fastpref {

void bind_cuda_preference(py::module_&) {}

}  // namespace fastpref
