// The row primitives on the CPU, written once over Vec and compiled once per instruction set (FASTPREF_ISA).
//
// row_stats  reads each logit once from memory. A row keeps a reference m that is some value already met, not the
//            maximum: a block is summed relative to m, and only a sum that jumps, because something lies well above m,
//            makes the block (by then in L1) be redone relative to its own maximum. The common path has no maximum at
//            all. fp32 lanes add kTermsPerLane terms; blocks add up in double. The target's z comes out of the same
//            vector code, so that it cancels against the z inside its row's sum. The companions of the sum (Moments, the
//            total) are compiled apart, so that the plain sum pays nothing for them. The largest logit costs
//            little more than the sum of squares: no term of a block is larger than the root of its lanes' largest, and
//            the block (by then in L1) is only searched where that is not below the term of the largest logit so far.
// row_grad   reads and writes each logit once, in place or not; rows without a gradient are only written. A destination
//            of its own that is larger than the caches is written past them (kStream): an ordinary store would read
//            each of its lines first. A chunk that a GEMM reads next is smaller than that, or in place.
//
// Bits do not depend on strides, alignment, threads or scheduling: a row belongs to one thread and is always cut into
// the same blocks. Any number of rows and columns; fp32, bf16, fp16; 64-bit offsets.
#pragma once

#include <math.h>
#include <string.h>

#include "../core/log_sum.h"
#include "../core/rows.h"
#include "kernels.h"
#include "vec_math.h"

namespace fastpref {
namespace FASTPREF_ISA {

constexpr int kPair = 2 * kLanes;  // elements of one load2
constexpr int kTermsPerLane = 32;
constexpr int kBlock = 2 * kPair * kTermsPerLane;
constexpr float kJump = 16.0f;                // a block sum beyond this, and beyond twice its predecessors, has jumped
constexpr int kPrefetchBytes = 4096;          // hardware prefetchers stop at the end of a page
constexpr int64_t kStreamBytes = 1 << 25;     // a destination from this size on is written past the caches
constexpr int64_t kTaskLogits = 1 << 15;      // the least a thread takes at a time: waking it for less does not pay
constexpr int64_t kMostTaskLogits = 1 << 18;  // and the most, where there are
constexpr int64_t kTasksPerThread = 8;        // so many for each

struct Identity {
  explicit Identity(const Transform&) {}

  Vec z(Vec x) const { return x; }
};

// x or -x: which logit is the largest, whatever rounding does to z.
struct Oriented {
  Vec sign;

  Vec z(Vec x) const { return mul(x, sign); }
};

struct Scaled {
  Vec scale;

  explicit Scaled(const Transform& t) : scale(set1(t.scale)) {}

  Vec z(Vec x) const { return mul(x, scale); }

  // The slope is dz/dx over the transform's constant factor.
  Vec z_and_slope(Vec x, Vec* slope) const {
    *slope = set1(1.0f);
    return z(x);
  }

  // exp(z + shift), where the constant dz/dx is left to the factor inside exp.
  Vec gradient(Vec x, Vec shift, const ScaledExp& exp) const { return exp(fmadd(x, scale, shift)); }
};

struct Softcap {
  Vec in, out;

  explicit Softcap(const Transform& t) : in(set1(t.cap_in)), out(set1(t.cap_out)) {}

  Vec z(Vec x) const {
    Vec unused;
    return z_and_slope(x, &unused);
  }

  Vec z_and_slope(Vec x, Vec* slope) const { return mul(tanh(mul(x, in), slope), out); }

  // exp(z + shift) * (1 - tanh^2), where dz/dx at 0 is left to the factor inside exp.
  Vec gradient(Vec x, Vec shift, const ScaledExp& exp) const {
    Vec slope;
    const Vec capped = z_and_slope(x, &slope);
    return mul(exp(add(capped, shift)), slope);
  }
};

// The last n < kPair elements of a row, padded with zeros, and weights that are 1 on the elements and 0 on the padding.
template <class T>
FASTPREF_FN void load_tail(const T* x, int n, Vec v[2], Vec weight[2]) {
  T values[kPair], weights[kPair];
  memset(values, 0, sizeof values);
  memset(weights, 0, sizeof weights);
  memcpy(values, x, n * sizeof(T));
  for (int i = 0; i < n; i++) from_float(1.0f, weights + i);
  load2(values, v, v + 1);
  load2(weights, weight, weight + 1);
}

template <class T>
FASTPREF_FN void prefetch(const T* x) {
  const char* ahead = reinterpret_cast<const char*>(x) + kPrefetchBytes;
  for (size_t line = 0; line < 2 * kPair * sizeof(T); line += 64) __builtin_prefetch(ahead + line);
}

// max z over a block; NaNs may or may not show.
template <class T, class Z>
static float block_max(const T* x, int n, const Z& t) {
  const Vec lowest = set1(-INFINITY);
  Vec top = lowest, v[2];
  int i = 0;
  for (; i + kPair <= n; i += kPair) {
    load2(x + i, v, v + 1);
    top = max(top, max(t.z(v[0]), t.z(v[1])));
  }
  if (i < n) {
    Vec weight[2];
    load_tail(x + i, n - i, v, weight);
    for (int k = 0; k < 2; k++) top = max(top, select_less(set1(0.0f), weight[k], t.z(v[k]), lowest));
  }
  return reduce_max(top);
}

// Which sums of a block are formed: s alone, s and s2, or s, s2 and sd (see LogSum), the last where a logit may be
// excluded (-inf) or, at a lower price, where none is; sd is NaN if there is one all the same.
enum Moments { kSum, kSquares, kEntropy, kMaskedEntropy };

template <Moments kMoments>
struct LaneSums {
  Vec s, s2, sd;

  LaneSums() : s(set1(0.0f)), s2(s), sd(s) {}

  // Adds e = exp(d). The bound makes 0 of the 0 * -inf of an excluded logit, and changes no other bit.
  void operator()(Vec e, Vec d) {
    s = add(s, e);
    if (kMoments >= kSquares) s2 = fmadd(e, e, s2);
    if (kMoments >= kEntropy) sd = fmadd(e, kMoments == kEntropy ? d : max(d, set1(-1e4f)), sd);
  }
};

struct BlockSums {
  LogSum sum;
  float peak;   // no exp(z - m) of the block is larger
  float total;  // sum z, where it was asked for
};

// sum exp(z - m), and its companions, over a block of at most kBlock columns.
template <Moments kMoments, bool kTotal, class T, class Z>
static BlockSums block_sum(const T* x, int n, const Z& t, float m) {
  const Vec zero = set1(0.0f), reference = set1(m);
  const ScaledExp exp(1.0f);
  LaneSums<kMoments> sum[4];
  Vec v[4], total[2] = {zero, zero};
  const auto add_z = [&](int k, Vec z) {
    if (kTotal) total[k & 1] = add(total[k & 1], z);
    const Vec d = sub(z, reference);
    sum[k](exp(d), d);
  };
  int i = 0;
  for (; i + 2 * kPair <= n; i += 2 * kPair) {
    prefetch(x + i);
    load2(x + i, v, v + 1);
    load2(x + i + kPair, v + 2, v + 3);
    for (int k = 0; k < 4; k++) add_z(k, t.z(v[k]));
  }
  if (i + kPair <= n) {
    load2(x + i, v, v + 1);
    for (int k = 0; k < 2; k++) add_z(k, t.z(v[k]));
    i += kPair;
  }
  if (i < n) {
    Vec weight[2];
    load_tail(x + i, n - i, v, weight);
    for (int k = 0; k < 2; k++) {
      const Vec z = t.z(v[k]), d = select_less(zero, weight[k], sub(z, reference), zero);
      if (kTotal) total[k] = add(total[k], select_less(zero, weight[k], z, zero));
      sum[2 + k](select_less(zero, weight[k], exp(d), zero), d);
    }
  }
  const auto over = [&](Vec LaneSums<kMoments>::* part) {
    return static_cast<double>(reduce_add(add(add(sum[0].*part, sum[1].*part), add(sum[2].*part, sum[3].*part))));
  };
  BlockSums found = {{m, over(&LaneSums<kMoments>::s)}, 0.0f, 0.0f};
  if (kMoments >= kSquares) found.sum.s2 = over(&LaneSums<kMoments>::s2);
  if (kMoments >= kEntropy) found.sum.sd = over(&LaneSums<kMoments>::sd);
  if (kMoments >= kSquares) {  // a bound that flat rows do not reach either
    found.peak = sqrtf(reduce_max(max(max(sum[0].s2, sum[1].s2), max(sum[2].s2, sum[3].s2))));
  } else {
    found.peak = reduce_max(max(max(sum[0].s, sum[1].s), max(sum[2].s, sum[3].s)));
  }
  if (kTotal) found.total = reduce_add(add(total[0], total[1]));
  return found;
}

// z of one logit, by the vector code.
template <class Z>
static float z_of(const Z& t, float x) {
  return reduce_max(t.z(set1(x)));
}

// block_sum of a row that turns out to have excluded logits, or not.
template <Moments kMoments, bool kTotal, class T, class Z>
FASTPREF_FN BlockSums sum_block(const T* x, int n, const Z& t, float m, bool* masked) {
  if (kMoments != kEntropy) return block_sum<kMoments, kTotal>(x, n, t, m);
  if (!*masked) {
    const BlockSums found = block_sum<kMoments, kTotal>(x, n, t, m);
    if (found.sum.sd == found.sum.sd) return found;
    *masked = true;
  }
  return block_sum<kMaskedEntropy, true>(x, n, t, m);
}

// The largest logit of a row so far.
struct Top {
  float height;   // x, or -x where z falls with x
  int64_t block;  // where its block starts in this chunk; -1: in none of it
  float m, term;  // exp(z - m) of it, a little less
};

// Looks for a larger logit in a block that was summed relative to m. A NaN in the sums makes the comparison false, and the
// block is searched.
template <class T, class Z>
static void find_top(const T* x, int n, int64_t start, const Z& t, float sign, float m, float peak, Top* row) {
  constexpr float kRounding = 0.999f;  // of exp, far from 0
  if (row->m != m) {
    row->m = m;
    row->term = kRounding * static_cast<float>(exp(static_cast<double>(z_of(t, sign * row->height)) - m));
  }
  if (peak < row->term) return;
  const float top = block_max(x, n, Oriented{set1(sign)});
  if (!(top > row->height)) return;
  row->height = top;
  row->block = start;
  row->m = NAN;
}

// The first place of the largest of n logits, which are a row from the start of the block that holds it.
template <class T>
static int64_t place_of(const T* x, int64_t n, float sign, float height) {
  int64_t i = 0;
  // Wide windows first: a maximum across lanes costs as much as several loads.
  for (int window = 16 * kPair; window >= kPair; window /= 16) {
    while (i + window < n && block_max(x + i, window, Oriented{set1(sign)}) != height) i += window;
  }
  while (i < n - 1 && sign * to_float(x[i]) != height) i++;
  return i;
}

// A row that is being folded, block by block.
struct RowFold {
  LogSum sum;
  float limit = kJump;
  bool masked = false;
  bool defined = true;  // false: the sum is NaN, and no block changes that
};

// Folds one block into the row, whose sum must be defined; returns the block's own sums.
template <Moments kMoments, bool kTotal, class T, class Z>
static BlockSums fold_block(const T* block, int length, const Z& t, RowFold* row) {
  LogSum& sum = row->sum;
  const bool first = sum.m == -INFINITY;
  BlockSums part = {{sum.m, INFINITY}, 0.0f, 0.0f};
  if (!first) part = sum_block<kMoments, kTotal>(block, length, t, sum.m, &row->masked);
  if (part.sum.s > row->limit) {
    const float top = block_max(block, length, t);
    if (first && top == -INFINITY) {
      // 0, unless there is a NaN that the maximum passed over
      part = sum_block<kMoments, kTotal>(block, length, t, 0.0f, &row->masked);
    } else if (!(top < INFINITY)) {
      sum = {first ? 0.0f : sum.m, NAN};
      row->defined = false;
      return part;
    } else if (top > sum.m) {
      rebase(&sum, top);
      part = sum_block<kMoments, kTotal>(block, length, t, top, &row->masked);
      row->limit = kJump;
    }
    const float s = static_cast<float>(part.sum.s);
    if (2.0f * s > row->limit) row->limit = 2.0f * s;  // a flat row has large sums without anything above m
  }
  sum.s += part.sum.s;
  sum.s2 += part.sum.s2;
  sum.sd += part.sum.sd;
  return part;
}

FASTPREF_FN int block_length(int64_t start, int64_t n) {
  return static_cast<int>(n - start < kBlock ? n - start : kBlock);
}

// Folds a row into its sums, its total and its largest logit (null where not asked for).
template <Moments kMoments, bool kTotal, class T, class Z>
static LogSum fold_row(const T* x, int64_t n, const Z& t, float sign, LogSum before, double* total, Top* top) {
  RowFold row = {before};
  for (int64_t start = 0; start < n; start += kBlock) {
    const int length = block_length(start, n);
    const BlockSums part = fold_block<kMoments, kTotal>(x + start, length, t, &row);
    if (!row.defined) return row.sum;
    if (kTotal) *total += part.total;
    if (top) find_top(x + start, length, start, t, sign, part.sum.m, part.peak, top);
  }
  normalise(&row.sum);
  return row.sum;
}

template <class Args>
FASTPREF_FN Transform row_transform(const Args& a, int64_t r) {
  return a.inv_temperature ? scaled_by(a.transform, a.inv_temperature[r]) : a.transform;
}

template <class T, class Z, Moments kMoments, bool kTotal>
static void stats_row(const RowStatsArgs& a, int64_t r) {
  if (a.targets[r] < 0) return;
  const T* x = static_cast<const T*>(a.logits) + r * a.logits_stride;
  const Transform transform = row_transform(a, r);
  const Z t(transform);
  const float sign = transform.scale < 0.0f ? -1.0f : 1.0f;
  Top top = {};
  if (a.top) top = {a.top[r], -1, NAN, 0.0f};
  double total = 0.0;
  const LogSum before = {a.m[r], a.s[r], a.s2 ? a.s2[r] : 0.0, a.sd ? a.sd[r] : 0.0};
  const LogSum sum = fold_row<kMoments, kTotal>(x, a.cols, t, sign, before, &total, a.top ? &top : nullptr);
  a.m[r] = sum.m;
  a.s[r] = static_cast<float>(sum.s);
  if (a.s2) a.s2[r] = static_cast<float>(sum.s2);
  if (a.sd) a.sd[r] = static_cast<float>(sum.sd);
  if (kTotal) a.total[r] = static_cast<float>(a.total[r] + total);
  if (a.top && top.block >= 0) {
    a.top[r] = top.height;
    a.argmax[r] = a.col0 + top.block + place_of(x + top.block, a.cols - top.block, sign, top.height);
  }
  const int64_t j = a.targets[r] - a.col0;
  if (j >= 0 && j < a.cols) a.zt[r] = z_of(t, to_float(x[j]));
}

// The entry where the one-hot counts: o - c p = (o - c) + c (1 - p), which keeps its digits when p is close to 1.
static float target_gradient(float z, double slope, float lse, float onehot_coef, float softmax_coef) {
  const double one_minus_p = -expm1(static_cast<double>(z) - lse);
  const double o = onehot_coef, c = softmax_coef;
  return static_cast<float>(((o - c) + c * one_minus_p) * slope);
}

// At most kPair elements.
template <class T, class Z>
static void gradient_piece(const T* x, T* out, int n, const Z& t, Vec shift, const ScaledExp& exp) {
  Vec v[2];
  T buffer[kPair];
  memset(buffer, 0, sizeof buffer);
  memcpy(buffer, x, n * sizeof(T));
  load2(buffer, v, v + 1);
  store2(buffer, t.gradient(v[0], shift, exp), t.gradient(v[1], shift, exp));
  memcpy(out, buffer, n * sizeof(T));
}

template <bool kStream, class T, class Z>
static void gradient_row(const T* x, T* out, int64_t n, const Z& t, float lse, float k) {
  // NAN: a caller's NaN may have any payload, and store2 must not meet all of them.
  const Vec shift = set1(lse == lse ? -lse : NAN);
  const ScaledExp exp(k == k ? k : NAN);
  Vec v[4];
  int64_t i = 0;
  if (kStream) {  // up to where `out` is aligned to a vector
    const int64_t ahead = (-reinterpret_cast<uintptr_t>(out) % sizeof(Vec)) / sizeof(T);
    i = ahead < n ? ahead : n;
    gradient_piece(x, out, static_cast<int>(i), t, shift, exp);
  }
  for (; i + 2 * kPair <= n; i += 2 * kPair) {
    prefetch(x + i);
    load2(x + i, v, v + 1);
    load2(x + i + kPair, v + 2, v + 3);
    for (int j = 0; j < 4; j++) v[j] = t.gradient(v[j], shift, exp);
    kStream ? stream2(out + i, v[0], v[1]) : store2(out + i, v[0], v[1]);
    kStream ? stream2(out + i + kPair, v[2], v[3]) : store2(out + i + kPair, v[2], v[3]);
  }
  for (; i < n; i += kPair) {
    gradient_piece(x + i, out + i, static_cast<int>(n - i < kPair ? n - i : kPair), t, shift, exp);
  }
  if (kStream) stream_fence();  // before anything else is written to this row, by this thread or another
}

template <class T, class Z, bool kStream>
static void grad_row(const RowGradArgs& a, int64_t r) {
  const T* x = static_cast<const T*>(a.logits) + r * a.logits_stride;
  T* out = static_cast<T*>(a.out) + r * a.out_stride;
  float onehot_coef = a.onehot_coef[r], softmax_coef = a.softmax_coef[r];
  const float lse = a.lse[r];
  if (a.gain) {  // infinite or NaN, it leaves a silent row silent
    if (onehot_coef != 0.0f) onehot_coef *= *a.gain;
    if (softmax_coef != 0.0f) softmax_coef *= *a.gain;
  }
  if (a.targets[r] < 0 || (onehot_coef == 0.0f && softmax_coef == 0.0f)) {
    memset(out, 0, a.cols * sizeof(T));
    return;
  }
  const int64_t j = a.targets[r] - a.col0;
  const bool here = j >= 0 && j < a.cols;
  const Transform transform = row_transform(a, r);
  const Z t(transform);
  float target = 0.0f;
  if (here) {  // before the row is overwritten: out may be x
    const float xt = to_float(x[j]);
    target = target_gradient(z_of(t, xt), transform_derivative(transform, xt), lse, onehot_coef, softmax_coef);
  }
  gradient_row<kStream>(x, out, a.cols, t, lse, -softmax_coef * transform.scale);
  if (here) from_float(target, out + j);
}

// Rows are handed out a few at a time, because ignored ones cost nothing; short ones several together, because the start of
// a row that another thread's row precedes is not in any prefetcher's way. `more`, of as many columns, or null: its rows
// follow those of `a` in the same loop, so that threads are woken and waited for once.
template <class Args>
static void for_each_row(const Args& a, const Args* more, void (*row)(const Args&, int64_t)) {
  const int64_t rows = a.rows + (more ? more->rows : 0);
#ifdef _OPENMP
  const auto rows_of = [&](int64_t logits) { return a.cols < logits ? logits / (a.cols > 0 ? a.cols : 1) : 1; };
  const bool parallel = a.threads > 1 && rows > rows_of(kTaskLogits);
  const int64_t fair = rows / (kTasksPerThread * a.threads), least = rows_of(kTaskLogits),
                most = rows_of(kMostTaskLogits);
  const int64_t rows_per_task = fair < least ? least : fair > most ? most : fair;
  #pragma omp parallel for schedule(dynamic, rows_per_task) num_threads(a.threads) if (parallel)
#endif
  for (int64_t r = 0; r < rows; r++) r < a.rows ? row(a, r) : row(*more, r - a.rows);
}

template <class Args>
static void for_each_row(const Args& a, void (*row)(const Args&, int64_t)) {
  for_each_row<Args>(a, nullptr, row);
}

template <class T, class Z, bool kTotal>
static void row_stats_with(const RowStatsArgs& a, const RowStatsArgs* more) {
  for_each_row(a, more,
               a.sd            ? stats_row<T, Z, kEntropy, kTotal>
               : a.s2 || a.top ? stats_row<T, Z, kSquares, kTotal>
                               : stats_row<T, Z, kSum, kTotal>);
}

template <class T, class Z>
static void row_stats_with(const RowStatsArgs& a, const RowStatsArgs* more) {
  a.total ? row_stats_with<T, Z, true>(a, more) : row_stats_with<T, Z, false>(a, more);
}

template <class T>
static void row_stats_of(const RowStatsArgs& a, const RowStatsArgs* more) {
  const Transform& t = a.transform;
  if (t.has_softcap) return row_stats_with<T, Softcap>(a, more);
  t.scale == 1.0f && !a.inv_temperature ? row_stats_with<T, Identity>(a, more) : row_stats_with<T, Scaled>(a, more);
}

template <class T, bool kStream>
static void row_grad_with(const RowGradArgs& a) {
  for_each_row(a, a.transform.has_softcap ? grad_row<T, Softcap, kStream> : grad_row<T, Scaled, kStream>);
}

template <class T>
static void row_grad_of(const RowGradArgs& a) {
  const int64_t bytes = a.rows * a.cols * static_cast<int64_t>(sizeof(T));
  a.out != a.logits&& bytes >= kStreamBytes ? row_grad_with<T, true>(a) : row_grad_with<T, false>(a);
}

static void row_stats(const RowStatsArgs& a, const RowStatsArgs* more) {
  switch (a.dtype) {
    case DType::kFloat32:
      return row_stats_of<float>(a, more);
    case DType::kBFloat16:
      return row_stats_of<BFloat16>(a, more);
    case DType::kFloat16:
      return row_stats_of<Float16>(a, more);
  }
}

static void row_grad(const RowGradArgs& a) {
  switch (a.dtype) {
    case DType::kFloat32:
      return row_grad_of<float>(a);
    case DType::kBFloat16:
      return row_grad_of<BFloat16>(a);
    case DType::kFloat16:
      return row_grad_of<Float16>(a);
  }
}

}  // namespace FASTPREF_ISA
}  // namespace fastpref
