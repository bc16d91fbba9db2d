// Row gradient: turn a chunk of logits into the gradient of any loss of token log-probabilities, in place or out of place.
//
//     out[r, j] = (onehot[r] * 1[col0 + j == targets[r]] - softmax[r] * exp(z[r, j] - lse[r])) * dz/dx
//
// Inputs    logits [R, C] of T at any row stride and alignment: vocabulary columns [col0, col0 + C); targets [R], negative on ignored rows; lse, onehot and
//           softmax [R]; inv_temperature [R], bias [C] and gain (one number that is known on the device only, a factor on both coefficients), if given
// Output    out [R, C] of O at any row stride and alignment: T, or where that is fp32 any; may be `logits` itself where it is T
// Bytes     every logit is read once and every gradient written once, + 20 bytes per row and block of columns. Rows that are ignored, or whose two
//           coefficients are both 0, are written as zeros and not read
// Values    fp32 until the one rounding at the store. The target's entry keeps its digits where p is near 1: onehot - softmax * p is taken as
//           (onehot - softmax) - softmax * expm1(z - lse)
// Limits    R < 2^31, C < 2^31. Stores are 16 bytes wide but for the first and last elements of a row, loads too where `logits` and `out` have the
//           same alignment
//
// There is nothing to carry along a row, so the grid is rows (axis x) by blocks of columns (axis y) and few rows still fill a GPU. Every element is
// loaded by the one thread that stores it and nothing is read a second time (no load of the target's logit, say, which another warp might have
// overwritten): that is what makes in place safe.
#pragma once

#include "../core/rows.h"
#include "row_sweep.cuh"

namespace fastpref {

constexpr int kGradThreads = 256;   // of a block; fewer where a row is short
constexpr int kGradPerThread = 16;  // elements in flight per thread

// How many elements a thread takes together: a vector of the narrower of the two types.
template <class T, class O>
constexpr int kGroup = kPerVector<T> > kPerVector<O> ? kPerVector<T> : kPerVector<O>;

// exp(d) - 1 for |d| <= 1/2, relative error 3e-9 before rounding (minimax).
FASTPREF_DEVICE float expm1_near_zero(float d) {
  const float q = 0.04166536f + d * (0.008333579f + d * (0.0013996176f + d * 0.0001984981f));
  return d + d * d * (0.5f + d * (0.16666664f + d * q));
}

template <class O, int kWidth>
FASTPREF_DEVICE void store_elements(O* p, const float (&x)[kWidth]) {
#pragma unroll
  for (int i = 0; i < kWidth; i += kPerVector<O>) {
    float of_vector[kPerVector<O>];
#pragma unroll
    for (int j = 0; j < kPerVector<O>; ++j) of_vector[j] = x[i + j];
    store16(p + i, pack<O>(of_vector));
  }
}

// Calls `one(column)` and `group(count, column, stride)` for what falls to this thread of the columns of a row whose first `shift` elements lie before
// its groups of kWidth. Group l of `count`, at most kGroups, begins at column + l stride.
template <int kWidth, int kGroups, class One, class Group>
FASTPREF_DEVICE void over_row(int columns, int shift, One&& one, Group&& group) {
  const int me = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int first = shift < columns ? shift : columns;
  const int groups = (columns - first) / kWidth;
  const int tail = first + groups * kWidth;
  if (blockIdx.y == 0 && me < 2 * kWidth) {
    const int edge = me < kWidth ? me : tail + me - kWidth;
    if (edge < (me < kWidth ? first : columns)) one(edge);
  }
  const int64_t step = static_cast<int64_t>(threads) * kGroups;
  for (int64_t from = blockIdx.y * step; from + me < groups; from += gridDim.y * step) {
    const int at = static_cast<int>(from) + me;
    group(count_below<kGroups>(at, threads, groups), first + at * kWidth, threads * kWidth);
  }
}

// What a row's entries have in common.
struct GradRow {
  Transform transform;
  float lse, onehot, softmax;  // coefficients times the constant factor of dz/dx
  int hit;                     // the target's column in the chunk, or -1
};

template <TransformKind kKind>
FASTPREF_DEVICE float grad_entry(const GradRow& r, float x) {
  float slope;
  const float d = transformed<kKind>(r.transform, x, &slope) - r.lse;
  return -r.softmax * exp2_fast(d * kLog2E) * slope;
}

template <TransformKind kKind>
FASTPREF_DEVICE float grad_entry_of_target(const GradRow& r, float x) {
  float slope;
  const float d = transformed<kKind>(r.transform, x, &slope) - r.lse;
  const float close = (r.onehot - r.softmax) - r.softmax * expm1_near_zero(d);
  return (fabsf(d) < 0.5f ? close : r.onehot - r.softmax * exp2_fast(d * kLog2E)) * slope;
}

template <class T, class O, TransformKind kKind, class B>
FASTPREF_KERNEL(kGradThreads, sizeof(B) == sizeof(NoBias) ? 4 : 3)
void row_grad(const RowGradArgs a, const B bias) {
  constexpr int kWidth = kGroup<T, O>, kGroups = kGradPerThread / kWidth;
  const int64_t row = blockIdx.x;
  const int columns = static_cast<int>(a.cols);
  O* out = static_cast<O*>(a.out) + row * a.out_stride;
  const int shift = elements_to_alignment(out);
  const int64_t target = load(a.targets + row);
  GradRow r = {a.transform, 0.0f, load(a.onehot_coef + row), load(a.softmax_coef + row), -1};
  if (a.gain) {
    const float gain = load(a.gain);  // infinite or NaN, it leaves a silent row silent
    if (r.onehot != 0.0f) r.onehot *= gain;
    if (r.softmax != 0.0f) r.softmax *= gain;
  }
  if (target < 0 || (r.onehot == 0.0f && r.softmax == 0.0f)) {
    const float zeros[kWidth] = {};
    over_row<kWidth, kGroups>(
        columns, shift, [&](int column) { store_float(out + column, 0.0f); },
        [&](int count, int column, int stride) {
#pragma unroll
          for (int l = 0; l < kGroups; ++l) {
            if (l < count) store_elements(out + column + l * stride, zeros);
          }
        });
    return;
  }

  const T* logits = static_cast<const T*>(a.logits) + row * a.logits_stride;
  const bool wide = reinterpret_cast<uintptr_t>(logits + shift) % 16 == 0;
  if (kKind != TransformKind::kIdentity) {
    if (a.inv_temperature) r.transform = scaled_by(r.transform, load(a.inv_temperature + row));
    r.onehot *= r.transform.scale;
    r.softmax *= r.transform.scale;
  }
  r.lse = load(a.lse + row);
  const int64_t in_chunk = target - a.col0;
  if (in_chunk >= 0 && in_chunk < columns) r.hit = static_cast<int>(in_chunk);
  over_row<kWidth, kGroups>(
      columns, shift,
      [&](int column) {
        float x[1] = {load_float(logits + column)};
        add_bias(bias, x, column);
        store_float(out + column, column == r.hit ? grad_entry_of_target<kKind>(r, x[0]) : grad_entry<kKind>(r, x[0]));
      },
      [&](int count, int column, int stride) {
        float x[kGroups][kWidth];
        load_groups(wide, logits + column, stride, count, x);
#pragma unroll
        for (int l = 0; l < kGroups; ++l) {
          if (l >= count) continue;
          const int from = column + l * stride;
          add_bias(bias, x[l], from);
          float g[kWidth];
#pragma unroll
          for (int j = 0; j < kWidth; ++j) g[j] = grad_entry<kKind>(r, x[l][j]);
          if (r.hit >= from && r.hit < from + kWidth) {
#pragma unroll
            for (int j = 0; j < kWidth; ++j) {
              if (r.hit == from + j) g[j] = grad_entry_of_target<kKind>(r, x[l][j]);
            }
          }
          store_elements(out + from, g);
        }
      });
}

}  // namespace fastpref
