// The row primitives (fastpref/backends/base.py holds their contract) on a GPU; arguments as on the CPU, where `threads` is not looked at.
#pragma once

#include "api.h"

namespace fastpref {

// A workspace is memory on the device, aligned to 16 bytes, of as many bytes as the function before it says (0: null will do) for the same arguments
// and device. It holds nothing before and after a call.
struct CudaRowsApi {
  int64_t (*row_stats_workspace)(const RowStatsArgs&, int multiprocessors);
  CudaStatus (*row_stats)(const RowStatsArgs&, void* workspace, const CudaLaunch&);
  CudaStatus (*row_grad)(const RowGradArgs&, const CudaLaunch&);
  int64_t (*row_kl_stats_workspace)(const RowKlStatsArgs&, int multiprocessors);
  CudaStatus (*row_kl_stats)(const RowKlStatsArgs&, void* workspace, const CudaLaunch&);
  CudaStatus (*row_kl_grad)(const RowKlGradArgs&, const CudaLaunch&);
};

const CudaRowsApi* cuda_rows_api();

}  // namespace fastpref
