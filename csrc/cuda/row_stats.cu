#include "row_launch.cuh"

namespace fastpref {
namespace {

bool wants_more(const RowStatsArgs& a) { return a.s2 || a.sd || a.total || a.top; }

template <class T, TransformKind kKind, class R>
void launch_as(const RowStatsArgs& a, const RowParts& parts, void* stream) {
  const dim3 grid(static_cast<unsigned>(a.rows), static_cast<unsigned>(parts.count));
  const unsigned threads = static_cast<unsigned>(stats_threads(a.dtype, a.cols));
  if (a.bias) {
    const auto kernel = row_stats<T, kKind, R, Bias>;
    FASTPREF_LAUNCH(kernel, grid, threads, 0, stream, a, parts, Bias{a.bias, a.bias_dtype});
  } else {
    const auto kernel = row_stats<T, kKind, R, NoBias>;
    FASTPREF_LAUNCH(kernel, grid, threads, 0, stream, a, parts, NoBias{});
  }
}

}  // namespace

int stats_threads(DType dtype, int64_t cols) {
  return threads_for(cols, kStatsLoads * 16 / element_size(dtype), kRowThreads);
}

RowParts stats_parts(DType dtype, int64_t rows, int64_t cols, int multiprocessors) {
  return row_parts(rows, cols, dtype, stats_threads(dtype, cols), kStatsLoads, multiprocessors);
}

int64_t row_stats_workspace(DType dtype, int64_t rows, int64_t cols, bool more, int multiprocessors) {
  if (rows == 0 || cols == 0) return 0;
  const RowParts parts = stats_parts(dtype, rows, cols, multiprocessors);
  return parts_workspace(parts, rows, more ? sizeof(Everything) : sizeof(Running));
}

void launch_row_stats(const RowStatsArgs& a, void* workspace, const CudaLaunch& where, OnDevice* on,
                      const RowStatsArgs* twin) {
  if (a.rows == 0 || a.cols == 0) return;
  RowParts parts = stats_parts(a.dtype, a.rows, a.cols, where.multiprocessors);
  place(&parts, workspace, a.rows, where.stream, on);
  if (!on->ok()) return;
  if (twin) {
    parts.twin = twin->logits;
    parts.twin_stride = twin->logits_stride;
  }
  for_dtype(a.dtype, [&](auto element) {
    for_kind(a.transform, a.inv_temperature != nullptr, [&](auto kind) {
      using T = decltype(element);
      constexpr TransformKind kKind = decltype(kind)::kValue;
      if (wants_more(a)) {
        launch_as<T, kKind, Everything>(a, parts, where.stream);
      } else {
        launch_as<T, kKind, Running>(a, parts, where.stream);
      }
    });
  });
  on->launched("row_stats");
}

CudaStatus run_row_stats(const RowStatsArgs& a, void* workspace, const CudaLaunch& where) {
  OnDevice on(where);
  launch_row_stats(a, workspace, where, &on);
  return on.status();
}

}  // namespace fastpref
