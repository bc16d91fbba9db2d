#include "row_cross.cuh"
#include "row_kl_grad.cuh"
#include "row_launch.cuh"

namespace fastpref {
namespace {

int cross_threads(DType dtype, int64_t cols) {
  return threads_for(cols, kCrossLoads * 16 / element_size(dtype), kRowThreads);
}

RowParts cross_parts(DType dtype, int64_t rows, int64_t cols, int multiprocessors) {
  return row_parts(rows, cols, dtype, cross_threads(dtype, cols), kCrossLoads, multiprocessors);
}

int64_t kept_bytes(int64_t rows) { return ceil_div(rows * 12, 16) * 16; }

}  // namespace

// The kept state, then what the three launches after it use one after the other.
int64_t row_kl_stats_workspace(DType dtype, int64_t rows, int64_t cols, int multiprocessors) {
  if (rows == 0 || cols == 0) return 0;
  const int64_t stats = row_stats_workspace(dtype, rows, cols, false, multiprocessors);
  const int64_t cross = parts_workspace(cross_parts(dtype, rows, cols, multiprocessors), rows, sizeof(float));
  return kept_bytes(rows) + (stats > cross ? stats : cross);
}

CudaStatus run_row_kl_stats(const RowKlStatsArgs& args, void* workspace, const CudaLaunch& where) {
  OnDevice on(where);
  if (args.rows == 0 || args.cols == 0 || !on.ok()) return on.status();
  const RowStatsArgs &a = args.forward ? args.reference : args.policy, &b = args.forward ? args.policy : args.reference;
  float* kept = static_cast<float*>(workspace);
  void* shared = static_cast<unsigned char*>(workspace) + kept_bytes(args.rows);
  const KeptState state = {args.rows, a.m, a.s, b.m, kept};
  const dim3 blocks(static_cast<unsigned>(ceil_div(args.rows, kRowThreads)));
  FASTPREF_LAUNCH(keep_state, blocks, kRowThreads, 0, where.stream, state);
  on.launched("keep_state");
  launch_row_stats(args.policy, shared, where, &on, &args.reference);
  launch_row_stats(args.reference, shared, where, &on, &args.policy);

  RowParts parts = cross_parts(a.dtype, args.rows, args.cols, where.multiprocessors);
  place(&parts, shared, args.rows, where.stream, &on);
  if (!on.ok()) return on.status();
  const RowCrossArgs cross = {
      args.rows, args.cols,         a.logits,   b.logits,         a.logits_stride,      b.logits_stride,
      a.targets, a.inv_temperature, kept,       kept + args.rows, kept + 2 * args.rows, a.m,
      b.m,       args.cross,        a.transform};
  const dim3 grid(static_cast<unsigned>(args.rows), static_cast<unsigned>(parts.count));
  const int threads = cross_threads(a.dtype, args.cols);
  for_dtype(a.dtype, [&](auto element) {
    for_kind(a.transform, a.inv_temperature != nullptr, [&](auto kind) {
      const auto kernel = row_cross<decltype(element), decltype(kind)::kValue>;
      FASTPREF_LAUNCH(kernel, grid, static_cast<unsigned>(threads), 0, where.stream, cross, parts);
    });
  });
  on.launched("row_cross");
  return on.status();
}

CudaStatus run_row_kl_grad(const RowKlGradArgs& args, const CudaLaunch& where) {
  OnDevice on(where);
  if (args.rows == 0 || args.cols == 0 || !on.ok()) return on.status();
  const RowGradArgs& a = args.policy;
  const int64_t per_thread = 16 / element_size(a.dtype);
  const int threads = threads_for(args.cols, per_thread, kGradThreads);
  const dim3 grid = grad_grid(args.rows, args.cols, threads, per_thread);
  for_dtype(a.dtype, [&](auto element) {
    for_kind(a.transform, a.inv_temperature != nullptr, [&](auto kind) {
      const auto kernel = row_kl_grad<decltype(element), decltype(kind)::kValue>;
      FASTPREF_LAUNCH(kernel, grid, static_cast<unsigned>(threads), 0, where.stream, args);
    });
  });
  on.launched("row_kl_grad");
  return on.status();
}

}  // namespace fastpref
