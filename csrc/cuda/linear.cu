#include "linear.h"

#include "launch.h"
#include "linear_stats.cuh"
#include "parts.h"
#include "scale_rows.cuh"
#include "tile_grad.cuh"

namespace fastpref {
namespace {

// Whether every row begins on 16 bytes.
bool aligned_rows(const void* p, int64_t stride, int64_t item) {
  return reinterpret_cast<uintptr_t>(p) % 16 == 0 && stride * item % 16 == 0;
}

template <class T, LinearStats kStats, bool kVector>
void launch_stats(const CudaLaunch& where, const LinearStatsArgs& args, OnDevice* device) {
  const int64_t blocks = ceil_div(args.rows, kTileRows) * ceil_div(args.columns, args.segment);
  constexpr int kBytes = kLinearStatsBytes<kStats>;
  const auto kernel = linear_stats_kernel<T, kStats, kVector>;
  device->note(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes), "linear_stats");
  if (!device->ok()) return;
  FASTPREF_LAUNCH(kernel, dim3(static_cast<unsigned>(blocks)), kTileThreads, kBytes, where.stream, args);
  device->launched("linear_stats");
  if (!device->ok()) return;
  const auto merge = merge_parts_kernel<kStats>;
  FASTPREF_LAUNCH(merge, dim3(static_cast<unsigned>(ceil_div(args.rows, kMergeRows))), kMergeRows * kMergeWarps, 0,
                  where.stream, args);
  device->launched("merge_parts");
}

template <class T>
void choose_stats(const CudaLaunch& where, const LinearStatsArgs& args, OnDevice* device) {
  const bool vector = args.width % 8 == 0 && aligned_rows(args.hidden, args.hidden_stride, 2) &&
                      aligned_rows(args.weight, args.weight_stride, 2);
  const bool others = args.sd || args.total || args.top;
  if (others) {
    vector ? launch_stats<T, LinearStats::kAll, true>(where, args, device)
           : launch_stats<T, LinearStats::kAll, false>(where, args, device);
  } else if (args.s2) {
    vector ? launch_stats<T, LinearStats::kSquares, true>(where, args, device)
           : launch_stats<T, LinearStats::kSquares, false>(where, args, device);
  } else {
    vector ? launch_stats<T, LinearStats::kPlain, true>(where, args, device)
           : launch_stats<T, LinearStats::kPlain, false>(where, args, device);
  }
}

CudaStatus stats(const CudaLaunch& where, const LinearStatsArgs& args) {
  OnDevice device(where);
  if (!device.ok() || args.rows == 0) return device.status();
  if (args.dtype == DType::kBFloat16) {
    choose_stats<BFloat16>(where, args, &device);
  } else {
    choose_stats<Float16>(where, args, &device);
  }
  return device.status();
}

template <class T, GradSource kSource>
void launch_grad(const CudaLaunch& where, const TileGradArgs& args, OnDevice* device) {
  const int64_t item = kSource == GradSource::kExponentials ? 2 : 4;
  const bool vector = aligned_rows(args.values, args.values_stride, item) &&
                      aligned_rows(args.out, args.out_stride, 2) &&
                      (kSource != GradSource::kExponentials || args.col0 % kGradPerLane == 0);
  const dim3 grid(static_cast<unsigned>(ceil_div(args.rows, kGradRows)),
                  static_cast<unsigned>(ceil_div(args.columns, kGradColumns)));
  const auto kernel = vector ? tile_grad_kernel<T, kSource, true> : tile_grad_kernel<T, kSource, false>;
  FASTPREF_LAUNCH(kernel, grid, kGradThreads, 0, where.stream, args);
  device->launched("tile_grad");
}

template <class T>
void choose_grad(const CudaLaunch& where, const TileGradArgs& args, OnDevice* device) {
  if (args.references) {
    launch_grad<T, GradSource::kExponentials>(where, args, device);
  } else if (args.transform.has_softcap) {
    launch_grad<T, GradSource::kCappedLogits>(where, args, device);
  } else {
    launch_grad<T, GradSource::kLogits>(where, args, device);
  }
}

CudaStatus grad(const CudaLaunch& where, const TileGradArgs& args) {
  OnDevice device(where);
  if (!device.ok() || args.rows == 0 || args.columns == 0) return device.status();
  if (args.dtype == DType::kBFloat16) {
    choose_grad<BFloat16>(where, args, &device);
  } else {
    choose_grad<Float16>(where, args, &device);
  }
  return device.status();
}

template <class In, class Out>
void launch_scale(const CudaLaunch& where, const ScaleRowsArgs& args, OnDevice* device) {
  const bool vector =
      aligned_rows(args.x, args.x_stride, sizeof(In)) && aligned_rows(args.out, args.out_stride, sizeof(Out));
  const dim3 grid(static_cast<unsigned>(args.rows), static_cast<unsigned>(ceil_div(args.width, kScaleColumns)));
  const auto kernel = vector ? scale_rows_kernel<In, Out, true> : scale_rows_kernel<In, Out, false>;
  FASTPREF_LAUNCH(kernel, grid, kScaleThreads, 0, where.stream, args);
  device->launched("scale_rows");
}

template <class In>
void choose_scale(const CudaLaunch& where, const ScaleRowsArgs& args, OnDevice* device) {
  switch (args.out_dtype) {
    case DType::kFloat32:
      return launch_scale<In, float>(where, args, device);
    case DType::kBFloat16:
      return launch_scale<In, BFloat16>(where, args, device);
    case DType::kFloat16:
      return launch_scale<In, Float16>(where, args, device);
  }
}

CudaStatus scale_rows(const CudaLaunch& where, const ScaleRowsArgs& args) {
  OnDevice device(where);
  if (!device.ok() || args.rows == 0 || args.width == 0) return device.status();
  switch (args.dtype) {
    case DType::kFloat32:
      choose_scale<float>(where, args, &device);
      break;
    case DType::kBFloat16:
      choose_scale<BFloat16>(where, args, &device);
      break;
    case DType::kFloat16:
      choose_scale<Float16>(where, args, &device);
      break;
  }
  return device.status();
}

}  // namespace

const CudaLinearApi* cuda_linear_api() {
  static const CudaLinearApi api = {stats, grad, scale_rows};
  return &api;
}

}  // namespace fastpref
