// The row primitives (fastpref/backends/base.py holds their contract) on a GPU; arguments as on the CPU, where `threads` is not looked at.
#pragma once

#include "api.h"

namespace fastpref {

struct CudaRowsApi {};

const CudaRowsApi* cuda_rows_api();

}  // namespace fastpref
