// One block goes over some columns of one row of logits and adds up what a log-probability needs: the sweep that every kernel with statistics shares.
//
// Each thread keeps a Running (a maximum, and the sum of exp relative to it) or an Everything (more statistics) over the columns that it sees; there
// is no communication between threads in the loop, for one more exp2 per step. The threads meet once, in block_total.
//
// Which thread sees which columns is a matter of `shift` alone, the columns before the first vector: vector i of a row holds columns
// [shift + i w, shift + (i + 1) w), w = 16 / sizeof(T). Elements before the first vector and after the last go to a thread each. A row swept with its own
// shift (elements_to_alignment) is loaded by 16 bytes; with the shift of another row (kWide = false) its columns fall to the same threads
// and are added in the same order, so that equal rows have equal sums.
//
// Bytes   every element of the columns is loaded once
// Values  fp32. A NaN or +inf makes s NaN; -inf adds nothing; a sweep that saw nothing but -inf has s = 0
// Order   of every sum is fixed: same columns, shift and number of threads, same bits
// Limits  blocks of whole warps, at most 1024 threads; columns < 2^31
#pragma once

#include "../core/log_sum.h"
#include "transformed.cuh"

namespace fastpref {

// Where every maximum starts, not at -inf: every finite fp32 is at least this, and it makes z - m well defined (-inf) for z = -inf.
constexpr float kLowest = -3.4028234663852886e38f;

constexpr float kFar = -1e4f;  // exp is 0 this far down: a bound for z - m that makes 0, and not NaN, of 0 * -inf
constexpr int kNowhere = 0x7fffffff;

// sum exp(z - m) over what was seen.
struct Running {
  float m, s;
};

// s2 = sum exp(2 (z - m)), sd = sum exp(z - m) (z - m), total = sum z; top, the largest logit (of z's sign), and its first column.
struct Everything {
  float m, s, s2, sd, total, top;
  int argmax;
};

FASTPREF_DEVICE void clear(Running* r) { *r = {kLowest, 0.0f}; }
FASTPREF_DEVICE void clear(Everything* r) { *r = {kLowest, 0.0f, 0.0f, 0.0f, 0.0f, -INFINITY, kNowhere}; }

// --- joining ------------------------------------------------------------------------------------------------------------

// The same relative to a reference that is at least its own and at least kLowest.
FASTPREF_DEVICE Running at_reference(const Running& r, float m) { return {m, r.s * exp2_fast((r.m - m) * kLog2E)}; }

FASTPREF_DEVICE Everything at_reference(Everything r, float m) {
  const float step = r.m - m;
  move_reference(fmaxf(step, kFar), exp2_fast(step * kLog2E), &r.s, &r.s2, &r.sd);
  r.m = m;
  return r;
}

// Of both, which have the same reference.
FASTPREF_DEVICE Running joined(const Running& a, const Running& b) { return {a.m, a.s + b.s}; }

FASTPREF_DEVICE Everything joined(const Everything& a, const Everything& b) {
  const bool second = b.top > a.top || (b.top == a.top && b.argmax < a.argmax);
  return {a.m,
          a.s + b.s,
          a.s2 + b.s2,
          a.sd + b.sd,
          a.total + b.total,
          second ? b.top : a.top,
          second ? b.argmax : a.argmax};
}

// Of both. A reference may be -inf where s is 0, but not both.
template <class R>
FASTPREF_DEVICE R merge(const R& a, const R& b) {
  const float m = fmaxf(a.m, b.m);
  return joined(at_reference(a, m), at_reference(b, m));
}

FASTPREF_DEVICE Running from_lane_xor(const Running& r, int other) {
  return {r.m, __shfl_xor_sync(kAllLanes, r.s, other)};
}

FASTPREF_DEVICE Everything from_lane_xor(const Everything& r, int other) {
  return {r.m,
          __shfl_xor_sync(kAllLanes, r.s, other),
          __shfl_xor_sync(kAllLanes, r.s2, other),
          __shfl_xor_sync(kAllLanes, r.sd, other),
          __shfl_xor_sync(kAllLanes, r.total, other),
          __shfl_xor_sync(kAllLanes, r.top, other),
          __shfl_xor_sync(kAllLanes, r.argmax, other)};
}

// Of all threads of the block, in every one of them. All call it together.
template <class R>
FASTPREF_DEVICE R block_total(R mine) {
  FASTPREF_SHARED(R, of_warp, 32);
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  float m = mine.m;
#pragma unroll
  for (int other = kWarp / 2; other > 0; other /= 2) m = fmaxf(m, __shfl_xor_sync(kAllLanes, m, other));
  mine = at_reference(mine, m);
#pragma unroll
  for (int other = kWarp / 2; other > 0; other /= 2) mine = joined(mine, from_lane_xor(mine, other));
  __syncthreads();  // what an earlier call left may still be read
  if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = mine;
  __syncthreads();
  for (int w = 0; w < warps; ++w) m = fmaxf(m, of_warp[w].m);
  R all = at_reference(of_warp[0], m);
  for (int w = 1; w < warps; ++w) all = joined(all, at_reference(of_warp[w], m));
  return all;
}

// The sum over all threads of the block, in every one of them. All call it together.
template <class X>
FASTPREF_DEVICE X block_sum(X mine) {
  FASTPREF_SHARED(X, of_warp, 32);
  const int warps = static_cast<int>(blockDim.x) / kWarp;
#pragma unroll
  for (int other = kWarp / 2; other > 0; other /= 2) mine += __shfl_xor_sync(kAllLanes, mine, other);
  __syncthreads();  // what an earlier call left may still be read
  if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = mine;
  __syncthreads();
  X all = of_warp[0];
  for (int w = 1; w < warps; ++w) all += of_warp[w];
  return all;
}

// --- adding logits ----------------------------------------------------------------------------------------------------------

// z of `count` of the kLoads vectors, in place of x; -inf for the rest.
template <TransformKind kKind, int kLoads, int kWidth>
FASTPREF_DEVICE void transform_in_place(const Transform& t, float (&x)[kLoads][kWidth], int count) {
#pragma unroll
  for (int l = 0; l < kLoads; ++l) {
#pragma unroll
    for (int j = 0; j < kWidth; ++j) x[l][j] = l < count ? transformed<kKind>(t, x[l][j]) : -INFINITY;
  }
}

template <int kLoads, int kWidth>
FASTPREF_DEVICE float highest(float m, const float (&z)[kLoads][kWidth]) {
#pragma unroll
  for (int l = 0; l < kLoads; ++l) {
    // fmaxf passes over a NaN; z - m does not, so s becomes NaN
#pragma unroll
    for (int j = 0; j < kWidth; ++j) m = fmaxf(m, z[l][j]);
  }
  return m;
}

// Adds `count` of kLoads vectors of logits, which are overwritten. Vector l begins at `column` + l `stride`.
template <TransformKind kKind, int kLoads, int kWidth>
FASTPREF_DEVICE void add(Running* r, float (&x)[kLoads][kWidth], int count, int /*column*/, int /*stride*/,
                         const Transform& t) {
  transform_in_place<kKind>(t, x, count);
  const float m = highest(r->m, x);
  float s = 0.0f;
#pragma unroll
  for (int l = 0; l < kLoads; ++l) {
    float of_vector = 0.0f;
#pragma unroll
    for (int j = 0; j < kWidth; ++j) of_vector += exp2_fast((x[l][j] - m) * kLog2E);
    s += of_vector;
  }
  *r = {m, r->s * exp2_fast((r->m - m) * kLog2E) + s};
}

template <TransformKind kKind, int kLoads, int kWidth>
FASTPREF_DEVICE void add(Everything* r, float (&x)[kLoads][kWidth], int count, int column, int stride,
                         const Transform& t) {
  const bool rising = kKind == TransformKind::kIdentity || t.scale > 0.0f;
  float top = -INFINITY;
  int argmax = kNowhere;
#pragma unroll
  for (int l = 0; l < kLoads; ++l) {
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      const float height = rising ? x[l][j] : -x[l][j];
      if (l < count && height > top) top = height, argmax = column + l * stride + j;
    }
  }
  transform_in_place<kKind>(t, x, count);
  const float m = highest(r->m, x);
  Everything step = {m, 0.0f, 0.0f, 0.0f, 0.0f, top, argmax};
#pragma unroll
  for (int l = 0; l < kLoads; ++l) {
    float s = 0.0f, s2 = 0.0f, sd = 0.0f, total = 0.0f;
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      const float d = x[l][j] - m;
      const float e = exp2_fast(d * kLog2E);
      s += e;
      s2 += e * e;
      sd += e * fmaxf(d, kFar);
      total += x[l][j];
    }
    step.s += s;
    step.s2 += s2;
    step.sd += sd;
    step.total += l < count ? total : 0.0f;
  }
  *r = joined(at_reference(*r, m), step);
}

// --- the sweep --------------------------------------------------------------------------------------------------------------

// What is added to the logits before their transform: nothing, or one element per column, of any of the three types.
struct NoBias {};
struct Bias {
  const void* values;
  DType dtype;
};

template <int kWidth>
FASTPREF_DEVICE void add_bias(const NoBias&, float (&)[kWidth], int) {}

template <class B, int kWidth>
FASTPREF_DEVICE void add_bias_of(const B* from, float (&x)[kWidth]) {
  if constexpr (kWidth % kPerVector<B> == 0) {
    if (reinterpret_cast<uintptr_t>(from) % 16 == 0) {
#pragma unroll
      for (int i = 0; i < kWidth; i += kPerVector<B>) {
        float b[kPerVector<B>];
        unpack<B>(load16(from + i), b);
#pragma unroll
        for (int j = 0; j < kPerVector<B>; ++j) x[i + j] += b[j];
      }
      return;
    }
  }
#pragma unroll
  for (int j = 0; j < kWidth; ++j) x[j] += load_float(from + j);
}

template <int kWidth>
FASTPREF_DEVICE void add_bias(const Bias& bias, float (&x)[kWidth], int column) {
  switch (bias.dtype) {
    case DType::kFloat32:
      return add_bias_of(static_cast<const float*>(bias.values) + column, x);
    case DType::kBFloat16:
      return add_bias_of(static_cast<const BFloat16*>(bias.values) + column, x);
    case DType::kFloat16:
      return add_bias_of(static_cast<const Float16*>(bias.values) + column, x);
  }
}

// How many of the kMost numbers at, at + stride, ... are below `end`, where `at` is.
template <int kMost>
FASTPREF_DEVICE int count_below(int at, int stride, int end) {
  int count = 1;
#pragma unroll
  for (int l = 1; l < kMost; ++l) count += at + l * stride < end;
  return count;
}

// The first `count` of kLoads groups of elements in fp32, group l from p + l `stride`; zeros for the rest. Wide: by 16 aligned bytes, all of them
// on their way before the first is looked at. Else one by one.
template <class T, int kLoads, int kWidth>
FASTPREF_DEVICE void load_groups(bool wide, const T* p, int stride, int count, float (&x)[kLoads][kWidth]) {
  constexpr int kVectors = kWidth / kPerVector<T>;
  if (wide) {
    Vector16 raw[kLoads][kVectors] = {};
#pragma unroll
    for (int l = 0; l < kLoads; ++l) {
#pragma unroll
      for (int i = 0; i < kVectors; ++i) {
        if (l < count) raw[l][i] = load16(p + l * stride + i * kPerVector<T>);
      }
    }
#pragma unroll
    for (int l = 0; l < kLoads; ++l) {
#pragma unroll
      for (int i = 0; i < kVectors; ++i) {
        float of_vector[kPerVector<T>];
        unpack<T>(raw[l][i], of_vector);
#pragma unroll
        for (int j = 0; j < kPerVector<T>; ++j) x[l][i * kPerVector<T> + j] = of_vector[j];
      }
    }
  } else {
#pragma unroll
    for (int l = 0; l < kLoads; ++l) {
#pragma unroll
      for (int j = 0; j < kWidth; ++j) x[l][j] = l < count ? load_float(p + l * stride + j) : 0.0f;
    }
  }
}

// The elements of a row before its groups: up to its first aligned address; none where the other side's row (null: there is none) is aligned differently.
// Both sides then have the same groups, and equal rows equal sums.
template <class T>
FASTPREF_DEVICE int common_shift(const T* row, const T* other) {
  const int own = elements_to_alignment(row);
  return other == nullptr || elements_to_alignment(other) == own ? own : 0;
}

// Adds columns [begin, end) of a row to this thread's Running or Everything: those that fall to it. All threads of a block call it together. `begin` is 0 or
// `shift` and whole vectors. kWide: row + shift is 16-byte aligned. kLoads loads of 16 bytes are in flight per thread.
template <TransformKind kKind, int kLoads, bool kWide, class T, class R, class B = NoBias>
FASTPREF_DEVICE void sweep(R* running, const T* row, int begin, int end, int shift, const Transform& t,
                           const B& bias = {}) {
  constexpr int kWidth = kPerVector<T>;
  const int me = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int first = begin > 0 ? begin : shift < end ? shift : end;
  const int vectors = (end - first) / kWidth;
  const int tail = first + vectors * kWidth;

  // Loaded first, added last: a thread's columns before the first vector, or after the last.
  const int edge = me < kWidth ? begin + me : tail + me - kWidth;
  const bool has_edge = me < kWidth ? edge < first : edge < end;
  float of_edge[1][1] = {};
  if (has_edge) {
    of_edge[0][0] = load_float(row + edge);
    add_bias(bias, of_edge[0], edge);
  }

  const int stride = threads * kWidth;
  int v = me;
  for (; v + (kLoads - 1) * threads < vectors; v += kLoads * threads) {
    const int column = first + v * kWidth;
    float x[kLoads][kWidth];
    load_groups(kWide, row + column, stride, kLoads, x);
#pragma unroll
    for (int l = 0; l < kLoads; ++l) add_bias(bias, x[l], column + l * stride);
    add<kKind>(running, x, kLoads, column, stride, t);
  }
  if (v < vectors) {
    const int column = first + v * kWidth;
    const int count = count_below<kLoads>(v, threads, vectors);
    float x[kLoads][kWidth];
    load_groups(kWide, row + column, stride, count, x);
#pragma unroll
    for (int l = 0; l < kLoads; ++l) {
      if (l < count) add_bias(bias, x[l], column + l * stride);
    }
    add<kKind>(running, x, count, column, stride, t);
  }
  if (has_edge) add<kKind>(running, of_edge, 1, edge, 0, t);
}

}  // namespace fastpref
