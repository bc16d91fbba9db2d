// The row primitives (fastpref/backends/base.py holds their contract) on a GPU; arguments as on the CPU, where `threads` is not looked at.
#pragma once

#include "api.h"

namespace fastpref {

// A workspace is memory on the device, aligned to 16 bytes, of as many bytes as the function before it says for the same sizes and device (0: null will
// do). It holds nothing before and after a call. `more`: any of s2, sd, total and top is asked for.
struct CudaRowsApi {
  int64_t (*row_stats_workspace)(DType, int64_t rows, int64_t cols, bool more, int multiprocessors);
  CudaStatus (*row_stats)(const RowStatsArgs&, void* workspace, const CudaLaunch&);
  CudaStatus (*row_grad)(const RowGradArgs&, const CudaLaunch&);
  int64_t (*row_kl_stats_workspace)(DType, int64_t rows, int64_t cols, int multiprocessors);
  CudaStatus (*row_kl_stats)(const RowKlStatsArgs&, void* workspace, const CudaLaunch&);
  CudaStatus (*row_kl_grad)(const RowKlGradArgs&, const CudaLaunch&);
};

const CudaRowsApi* cuda_rows_api();

}  // namespace fastpref
