// The gradient of a linear head's logits for a chunk of the vocabulary, as a 16-bit operand of the products that make dX and dW of it.
//
//     out[r, j] = (onehot[r] * 1[col0 + j == targets[r]] - softmax[r] * exp(z[r, j] - lse[r])) * (dz/dx but for its constant factor)
//
// The caller divides a power of two out of each row's two coefficients, so that they are at most 1, and multiplies it to the [T, H] operands: the
// rounding to 16 bits is then relative to the row, and float16 does not underflow.
//
// Inputs    TileGradArgs: values [T, C], raw logits in fp32 (of a GEMM, or kept), to which bias [C] is added if given; or kept exponentials with
//           references of the whole vocabulary. targets, lse, both coefficients, optional inv_temperature and logps [T]
// Outputs   out [T, C] bfloat16 or float16; db [T / 64 rounded up, C] fp32 if given: column sums of factor[r] * out[r, j] before out is rounded
// Bytes     every value of a row that is not silent is read once, every gradient written once; 28 bytes per row and 256 columns
// Values    fp32 until the one rounding at the store. The target's entry keeps its digits where p is near 1: onehot - softmax * p is taken as
//           (onehot - softmax) - softmax * expm1(d); with logps it is exact whatever the rounding of the kept values. Rows that are ignored or
//           whose two coefficients are both 0 are silent: written as exact zeros, nothing of theirs is read
// Order     of the sums is fixed: a thread's rows, then the warps
// Limits    T < 2^31 * 64, C < 2^24 (65535 blocks on grid axis y). 16-byte accesses need pointers and row strides that are multiples of 16 bytes
//           and, for exponentials, a col0 that is a multiple of 8; anything else is right and slower
//
// A block has 64 rows and 256 columns: a warp reads and writes 8 columns per lane of one row at a time. Memory bound; no more than 64 registers, so
// that 1024 threads of a multiprocessor have loads in flight.
#pragma once

#include "linear.h"
#include "transformed.cuh"

namespace fastpref {

constexpr int kGradRows = 64, kGradColumns = 256, kGradThreads = 256, kGradWarps = kGradThreads / kWarp;
constexpr int kGradPerLane = kGradColumns / kWarp;

enum class GradSource { kLogits, kCappedLogits, kExponentials };

// exp(d) - 1 for |d| <= 1/2, relative error 3e-9 before rounding (minimax).
FASTPREF_DEVICE float expm1_near_zero(float d) {
  const float q = 0.04166536f + d * (0.008333579f + d * (0.0013996176f + d * 0.0001984981f));
  return d + d * d * (0.5f + d * (0.16666664f + d * q));
}

// onehot - softmax * exp(d) of a row's target, whose digits onehot - softmax keeps where d is near 0.
FASTPREF_DEVICE float target_entry(float d, float onehot, float softmax) {
  if (fabsf(d) < 0.5f) return (onehot - softmax) - softmax * expm1_near_zero(d);
  return onehot - softmax * exp2_fast(product(d, kLog2E));
}

// The k-th of a lane's columns in a block: neighbours where they are moved 16 bytes at a time, else such that a warp's are neighbours.
template <bool kVector>
FASTPREF_DEVICE int grad_column(int lane, int k) {
  return kVector ? lane * kGradPerLane + k : lane + k * kWarp;
}

template <class T, GradSource kSource, bool kVector>
FASTPREF_KERNEL(kGradThreads, 3)
void tile_grad_kernel(TileGradArgs args) {
  FASTPREF_SHARED(float, sums, kGradWarps* kGradColumns);
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t first = static_cast<int64_t>(blockIdx.y) * kGradColumns;
  const int left = static_cast<int>(args.columns - first < kGradColumns ? args.columns - first : kGradColumns);
  const bool whole = kVector && (lane + 1) * kGradPerLane <= left;  // all of this lane's columns are there
  float db[kGradPerLane], bias[kGradPerLane];
#pragma unroll
  for (int k = 0; k < kGradPerLane; ++k) {
    const int j = grad_column<kVector>(lane, k);
    db[k] = 0.0f;
    bias[k] = kSource != GradSource::kExponentials && args.bias && j < left ? load(args.bias + first + j) : 0.0f;
  }
#pragma unroll(kVector ? 2 : 1)
  for (int i = warp; i < kGradRows; i += kGradWarps) {
    const int64_t row = static_cast<int64_t>(blockIdx.x) * kGradRows + i;
    if (row >= args.rows) break;
    const int64_t target = load(args.targets + row);
    const float onehot = load(args.onehot_coef + row), softmax = load(args.softmax_coef + row);
    const bool silent = target < 0 || (onehot == 0.0f && softmax == 0.0f);
    float x[kGradPerLane] = {};
    if (!silent) {
      const float lse = load(args.lse + row);
      const int64_t hit = target - args.col0 - first;  // the target's column in the block
      if constexpr (kSource == GradSource::kExponentials) {
        const T* values = static_cast<const T*>(args.values) + row * args.values_stride + first;
        if (whole) unpack<T>(load(reinterpret_cast<const Vector16*>(values + lane * kGradPerLane)), x);
        const float* references = args.references + row * args.references_stride;
#pragma unroll
        for (int k = 0; k < kGradPerLane; ++k) {
          const int j = grad_column<kVector>(lane, k);
          if (j >= left) continue;
          if (!whole) x[k] = load_float(values + j);
          // Neighbours have one slot, and one load and power between them, where col0 is a multiple of 8.
          const int64_t slot = (args.col0 + first + (kVector ? lane * kGradPerLane : j)) / kKeptSlot;
          const float p = x[k] * exp2_fast(product(load(references + slot) - lse, kLog2E));
          x[k] = j == hit ? target_entry(load(args.logps + row), onehot, softmax) : -softmax * p;
        }
      } else {
        const float* values = static_cast<const float*>(args.values) + row * args.values_stride + first;
        if (whole) {
          float low[4], high[4];
          const Vector16* from = reinterpret_cast<const Vector16*>(values + lane * kGradPerLane);
          const Vector16 a = load(from), b = load(from + 1);
          unpack<float>(a, low);
          unpack<float>(b, high);
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            x[k] = low[k];
            x[4 + k] = high[k];
          }
        }
        const Transform own =
            args.inv_temperature ? scaled_by(args.transform, load(args.inv_temperature + row)) : args.transform;
#pragma unroll
        for (int k = 0; k < kGradPerLane; ++k) {
          const int j = grad_column<kVector>(lane, k);
          if (j >= left) continue;
          if (!whole) x[k] = load(values + j);
          constexpr TransformKind kKind =
              kSource == GradSource::kCappedLogits ? TransformKind::kSoftcap : TransformKind::kScale;
          float slope;
          const float d = transformed<kKind>(own, x[k] + bias[k], &slope) - lse;
          float grad = -softmax * exp2_fast(product(d, kLog2E));
          if (j == hit) grad = target_entry(args.logps ? load(args.logps + row) : d, onehot, softmax);
          x[k] = grad * slope;
        }
      }
      if (args.db) {
        const float factor = load(args.factor + row);
#pragma unroll
        for (int k = 0; k < kGradPerLane; ++k) db[k] += product(x[k], factor);
      }
    }
    T* out = static_cast<T*>(args.out) + row * args.out_stride + first;
    if (whole) {
      store(reinterpret_cast<Vector16*>(out + lane * kGradPerLane), pack<T>(x));
    } else {
#pragma unroll
      for (int k = 0; k < kGradPerLane; ++k) {
        const int j = grad_column<kVector>(lane, k);
        if (j < left) store_float(out + j, x[k]);
      }
    }
  }
  if (!args.db) return;
#pragma unroll
  for (int k = 0; k < kGradPerLane; ++k) sums[warp * kGradColumns + grad_column<kVector>(lane, k)] = db[k];
  __syncthreads();
  const int j = static_cast<int>(threadIdx.x);
  if (j >= left) return;
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kGradWarps; ++i) sum += sums[i * kGradColumns + j];
  store(args.db + blockIdx.x * args.columns + first + j, sum);
}

}  // namespace fastpref
