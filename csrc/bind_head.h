// The linear head's part of fastpref._C; see bindings.cpp for its rules.
#pragma once

#include <pybind11/pybind11.h>

#include "cpu/head.h"

namespace fastpref {

// Adds head_scratch, head_stats and head_grad, which run the kernels that `active` gives at the time of the call.
void bind_head(pybind11::module_& m, const HeadKernels* (*active)());

}  // namespace fastpref
