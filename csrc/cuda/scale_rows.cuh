// Rows times a factor of their own, in another dtype or in place: the deferred half of a gradient's coefficients.
//
//     out[r, h] = x[r, h] * factor[r]
//
// Inputs    ScaleRowsArgs: x [T, H] fp32, bfloat16 or float16, factor [T] fp32
// Output    out [T, H] of any of these dtypes; may be x itself
// Bytes     reads every element of a row whose factor is not 0 once and writes every element once. Rows with factor 0 are written as zeros and
//           not read, whatever they hold
// Values    the product is fp32 and rounded once at the store; exact where the factor is a power of two and nothing underflows
// Limits    T < 2^31, H < 2^27 (65535 blocks on grid axis y). 16-byte accesses need pointers and row strides that are multiples of 16 bytes;
//           anything else is right and slower
#pragma once

#include "device.h"
#include "linear.h"

namespace fastpref {

constexpr int kScaleThreads = 256, kScalePerThread = 8, kScaleColumns = kScaleThreads * kScalePerThread;

template <class In, class Out, bool kVector>
FASTPREF_KERNEL(kScaleThreads, 1)
void scale_rows_kernel(ScaleRowsArgs args) {
  const int64_t row = blockIdx.x;
  const int64_t first = static_cast<int64_t>(blockIdx.y) * kScaleColumns;
  const In* x = static_cast<const In*>(args.x) + row * args.x_stride;
  Out* out = static_cast<Out*>(args.out) + row * args.out_stride;
  const float factor = load(args.factor + row);
  const int64_t start = first + static_cast<int64_t>(threadIdx.x) * kScalePerThread;
  if (kVector && start + kScalePerThread <= args.width) {
    float values[kScalePerThread] = {};
    if (factor != 0.0f) {
      constexpr int kIn = kPerVector<In>;
#pragma unroll
      for (int i = 0; i < kScalePerThread; i += kIn) {
        float part[kIn];
        unpack<In>(load(reinterpret_cast<const Vector16*>(x + start + i)), part);
#pragma unroll
        for (int k = 0; k < kIn; ++k) values[i + k] = product(part[k], factor);
      }
    }
    constexpr int kOut = kPerVector<Out>;
#pragma unroll
    for (int i = 0; i < kScalePerThread; i += kOut) {
      float part[kOut];
#pragma unroll
      for (int k = 0; k < kOut; ++k) part[k] = values[i + k];
      store(reinterpret_cast<Vector16*>(out + start + i), pack<Out>(part));
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < kScalePerThread; ++i) {
    const int64_t h = kVector ? start + i : first + i * kScaleThreads + static_cast<int64_t>(threadIdx.x);
    if (h < args.width) store_float(out + h, factor == 0.0f ? 0.0f : product(load_float(x + h), factor));
  }
}

}  // namespace fastpref
