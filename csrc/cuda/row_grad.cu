#include "row_grad.cuh"

#include "row_launch.cuh"

namespace fastpref {
namespace {

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

}  // namespace

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

}  // namespace fastpref
