#include "rows.h"

#include "row_launch.cuh"

namespace fastpref {

const CudaRowsApi* cuda_rows_api() {
  static const CudaRowsApi api = {&row_stats_workspace,    &run_row_stats,    &run_row_grad,
                                  &row_kl_stats_workspace, &run_row_kl_stats, &run_row_kl_grad};
  return &api;
}

}  // namespace fastpref
