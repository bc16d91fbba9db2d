// What the launchers of the row kernels share: sizes of blocks and grids, rows in parts, and the choice of a kernel by dtype and transform.
#pragma once

#include "launch.h"
#include "parts.h"
#include "row_stats.cuh"

namespace fastpref {

constexpr int64_t kMostColumnBlocks = 65535;  // of grid axis y

// Just enough threads to take a row in one step of `per_thread` elements, at most `most`.
inline int threads_for(int64_t columns, int64_t per_thread, int most) {
  int threads = kWarp;
  while (threads < most && threads * per_thread < columns) threads *= 2;
  return threads;
}

inline int64_t element_size(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

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

// The parts of rows that a block goes over by `threads` times `loads` vectors.
inline RowParts row_parts(int64_t rows, int64_t columns, DType dtype, int threads, int loads, int multiprocessors) {
  const int64_t step = static_cast<int64_t>(threads) * loads;
  const Parts parts = parts_of(rows, ceil_div(columns / (16 / element_size(dtype)), step), multiprocessors);
  return {static_cast<int>(parts.count), static_cast<int>(parts.steps * step), nullptr, nullptr};
}

// Counters of rows, then partials, 16-byte aligned.
inline int64_t counter_bytes(int64_t rows) { return ceil_div(rows * 4, 16) * 16; }

inline int64_t parts_workspace(const RowParts& parts, int64_t rows, int64_t partial_bytes) {
  return parts.count == 1 ? 0 : counter_bytes(rows) + ceil_div(parts.count * rows * partial_bytes, 16) * 16;
}

inline void place(RowParts* parts, void* workspace, int64_t rows, void* stream, OnDevice* on) {
  if (parts->count == 1 || !on->ok()) return;
  parts->arrived = static_cast<uint32_t*>(workspace);
  parts->partials = static_cast<unsigned char*>(workspace) + counter_bytes(rows);
  on->note(cudaMemsetAsync(workspace, 0, static_cast<size_t>(rows) * 4, static_cast<cudaStream_t>(stream)),
           "the counters of rows in parts");
}

// Rows by as many blocks of columns as `per_thread` elements make.
inline dim3 grad_grid(int64_t rows, int64_t columns, int threads, int64_t per_thread) {
  const int64_t blocks = ceil_div(columns, threads * per_thread);
  return {static_cast<unsigned>(rows), static_cast<unsigned>(blocks < kMostColumnBlocks ? blocks : kMostColumnBlocks)};
}

// --- launchers that are used by others --------------------------------------------------------------------------------

// Blocks and parts of the statistics of whole rows; whoever sweeps rows like these has the same sums.
int stats_threads(DType dtype, int64_t cols);
RowParts stats_parts(DType dtype, int64_t rows, int64_t cols, int multiprocessors);
int64_t row_stats_workspace(DType dtype, int64_t rows, int64_t cols, bool more, int multiprocessors);
int64_t row_kl_stats_workspace(DType dtype, int64_t rows, int64_t cols, int multiprocessors);
// Part of a call that has more launches; does nothing where something failed before.
void launch_row_stats(const RowStatsArgs& a, void* workspace, const CudaLaunch& where, OnDevice* on,
                      const RowStatsArgs* twin = nullptr);
CudaStatus run_row_stats(const RowStatsArgs& a, void* workspace, const CudaLaunch& where);
CudaStatus run_row_grad(const RowGradArgs& a, const CudaLaunch& where);
CudaStatus run_row_kl_stats(const RowKlStatsArgs& args, void* workspace, const CudaLaunch& where);
CudaStatus run_row_kl_grad(const RowKlGradArgs& args, const CudaLaunch& where);

}  // namespace fastpref
