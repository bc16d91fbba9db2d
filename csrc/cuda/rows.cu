#include "rows.h"

#include "launch.h"
#include "row_cross.cuh"
#include "row_grad.cuh"
#include "row_kl_grad.cuh"
#include "row_stats.cuh"

namespace fastpref {
namespace {

constexpr int kBlocksPerMultiprocessor = 2;
constexpr int64_t kMostColumnBlocks = 65535;  // of grid axis y

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Just enough threads to take a row in one step of `per_thread` elements, at most `most`.
int threads_for(int64_t columns, int64_t per_thread, int most) {
  int threads = kWarp;
  while (threads < most && threads * per_thread < columns) threads *= 2;
  return threads;
}

int64_t element_size(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

// Calls `with(T{})` for the type that `dtype` is.
template <class With>
void for_dtype(DType dtype, With&& with) {
  switch (dtype) {
    case DType::kFloat32:
      return with(float{});
    case DType::kBFloat16:
      return with(BFloat16{});
    case DType::kFloat16:
      return with(Float16{});
  }
}

template <TransformKind kKind>
struct KindTag {
  static constexpr TransformKind kValue = kKind;
};

// Calls `with(KindTag)` for the plainest kind that the transform is.
template <class With>
void for_kind(const Transform& t, bool per_row, With&& with) {
  switch (kind_of(t, per_row)) {
    case TransformKind::kIdentity:
      return with(KindTag<TransformKind::kIdentity>{});
    case TransformKind::kScale:
      return with(KindTag<TransformKind::kScale>{});
    case TransformKind::kSoftcap:
      return with(KindTag<TransformKind::kSoftcap>{});
  }
}

// Into how many parts each row is split. Rows stay whole where every multiprocessor has one, or where the number is 0: not known.
// Nothing else goes into it, so the same shape on the same kind of device is always summed in the same order.
RowParts parts_of(int64_t rows, int64_t columns, DType dtype, int threads, int loads, int multiprocessors) {
  const int64_t step = static_cast<int64_t>(threads) * loads;  // vectors
  const int64_t vectors = columns / (16 / element_size(dtype));
  const int64_t steps = ceil_div(vectors, step);
  if (rows >= multiprocessors || steps < 2) return {1, 0, nullptr, nullptr};
  int64_t wanted = ceil_div(static_cast<int64_t>(kBlocksPerMultiprocessor) * multiprocessors, rows);
  if (wanted > steps) wanted = steps;
  if (wanted > kMostParts) wanted = kMostParts;
  const int64_t width = ceil_div(steps, wanted) * step;
  return {static_cast<int>(ceil_div(vectors, width)), static_cast<int>(width), nullptr, nullptr};
}

// Counters of rows, then partials, 16-byte aligned.
int64_t counter_bytes(int64_t rows) { return ceil_div(rows * 4, 16) * 16; }

int64_t parts_workspace(const RowParts& parts, int64_t rows, int64_t partial_bytes) {
  return parts.count == 1 ? 0 : counter_bytes(rows) + ceil_div(parts.count * rows * partial_bytes, 16) * 16;
}

void place(RowParts* parts, void* workspace, int64_t rows, void* stream, OnDevice* on) {
  if (parts->count == 1 || !on->ok()) return;
  parts->arrived = static_cast<uint32_t*>(workspace);
  parts->partials = static_cast<unsigned char*>(workspace) + counter_bytes(rows);
  on->note(cudaMemsetAsync(workspace, 0, static_cast<size_t>(rows) * 4, static_cast<cudaStream_t>(stream)),
           "the counters of rows in parts");
}

// --- statistics ---------------------------------------------------------------------------------------------------------

bool wants_more(const RowStatsArgs& a) { return a.s2 || a.sd || a.total || a.top; }

int stats_threads(DType dtype, int64_t cols) {
  return threads_for(cols, kStatsLoads * 16 / element_size(dtype), kRowThreads);
}

RowParts stats_parts(DType dtype, int64_t rows, int64_t cols, int multiprocessors) {
  return parts_of(rows, cols, dtype, stats_threads(dtype, cols), kStatsLoads, multiprocessors);
}

int64_t row_stats_workspace(DType dtype, int64_t rows, int64_t cols, bool more, int multiprocessors) {
  if (rows == 0 || cols == 0) return 0;
  const RowParts parts = stats_parts(dtype, rows, cols, multiprocessors);
  return parts_workspace(parts, rows, more ? sizeof(Everything) : sizeof(Running));
}

template <class T, TransformKind kKind, class R>
void launch_row_stats(const RowStatsArgs& a, const RowParts& parts, void* stream) {
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

void run_row_stats(const RowStatsArgs& a, void* workspace, const CudaLaunch& where, OnDevice* on) {
  if (a.rows == 0 || a.cols == 0) return;
  RowParts parts = stats_parts(a.dtype, a.rows, a.cols, where.multiprocessors);
  place(&parts, workspace, a.rows, where.stream, on);
  if (!on->ok()) return;
  for_dtype(a.dtype, [&](auto element) {
    for_kind(a.transform, a.inv_temperature != nullptr, [&](auto kind) {
      using T = decltype(element);
      constexpr TransformKind kKind = decltype(kind)::kValue;
      if (wants_more(a)) {
        launch_row_stats<T, kKind, Everything>(a, parts, where.stream);
      } else {
        launch_row_stats<T, kKind, Running>(a, parts, where.stream);
      }
    });
  });
  on->launched("row_stats");
}

CudaStatus run_row_stats(const RowStatsArgs& a, void* workspace, const CudaLaunch& where) {
  OnDevice on(where);
  run_row_stats(a, workspace, where, &on);
  return on.status();
}

// --- gradient -----------------------------------------------------------------------------------------------------------

// Rows by as many blocks of columns as `per_thread` elements make.
dim3 grad_grid(int64_t rows, int64_t columns, int threads, int64_t per_thread) {
  const int64_t blocks = ceil_div(columns, threads * per_thread);
  return {static_cast<unsigned>(rows), static_cast<unsigned>(blocks < kMostColumnBlocks ? blocks : kMostColumnBlocks)};
}

template <class T, class O, TransformKind kKind>
void launch_row_grad(const RowGradArgs& a, void* stream) {
  const int threads = threads_for(a.cols, kGradPerThread, kGradThreads);
  const dim3 grid = grad_grid(a.rows, a.cols, threads, kGradPerThread);
  if (a.bias) {
    const auto kernel = row_grad<T, O, kKind, Bias>;
    FASTPREF_LAUNCH(kernel, grid, static_cast<unsigned>(threads), 0, stream, a, Bias{a.bias, a.bias_dtype});
  } else {
    const auto kernel = row_grad<T, O, kKind, NoBias>;
    FASTPREF_LAUNCH(kernel, grid, static_cast<unsigned>(threads), 0, stream, a, NoBias{});
  }
}

CudaStatus run_row_grad(const RowGradArgs& a, const CudaLaunch& where) {
  OnDevice on(where);
  if (a.rows == 0 || a.cols == 0 || !on.ok()) return on.status();
  for_kind(a.transform, a.inv_temperature != nullptr, [&](auto kind) {
    constexpr TransformKind kKind = decltype(kind)::kValue;
    if (a.dtype == DType::kFloat32) {
      for_dtype(a.out_dtype, [&](auto out) { launch_row_grad<float, decltype(out), kKind>(a, where.stream); });
    } else if (a.dtype == DType::kBFloat16) {
      launch_row_grad<BFloat16, BFloat16, kKind>(a, where.stream);
    } else {
      launch_row_grad<Float16, Float16, kKind>(a, where.stream);
    }
  });
  on.launched("row_grad");
  return on.status();
}

// --- divergence ---------------------------------------------------------------------------------------------------------

int cross_threads(DType dtype, int64_t cols) {
  return threads_for(cols, kCrossLoads * 16 / element_size(dtype), kRowThreads);
}

RowParts cross_parts(DType dtype, int64_t rows, int64_t cols, int multiprocessors) {
  return parts_of(rows, cols, dtype, cross_threads(dtype, cols), kCrossLoads, multiprocessors);
}

int64_t kept_bytes(int64_t rows) { return ceil_div(rows * 12, 16) * 16; }

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
  run_row_stats(args.policy, shared, where, &on);
  run_row_stats(args.reference, shared, where, &on);

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

}  // namespace

const CudaRowsApi* cuda_rows_api() {
  static const CudaRowsApi api = {&row_stats_workspace,    &run_row_stats,    &run_row_grad,
                                  &row_kl_stats_workspace, &run_row_kl_stats, &run_row_kl_grad};
  return &api;
}

}  // namespace fastpref
