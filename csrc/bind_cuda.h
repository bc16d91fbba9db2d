// What the functions of fastpref._C for the CUDA kernels share: the library, once it is loaded, and how a call's outcome becomes an exception.
#pragma once

#include <pybind11/pybind11.h>

#include "cuda/api.h"

namespace fastpref {

// The library that cuda_load took; throws where there is none.
const CudaApi& cuda_api();

// Throws RuntimeError, naming the kernel, unless the call went well.
void require_success(const CudaStatus& status);

void bind_cuda(pybind11::module_& m);
void bind_cuda_rows(pybind11::module_& m);
void bind_cuda_preference(pybind11::module_& m);
void bind_cuda_linear(pybind11::module_& m);

}  // namespace fastpref
