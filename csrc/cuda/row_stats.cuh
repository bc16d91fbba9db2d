// Row statistics: fold a chunk of logits into each row's running log-sum-exp and target logit, and what else was asked for.
//
// Inputs    logits [R, C] of T at any row stride and alignment: vocabulary columns [col0, col0 + C); targets [R], a negative one marks a row that is
//           neither read nor changed; inv_temperature [R] and bias [C], if given
// In place  m, s, zt [R]; s2, sd, total, top, argmax [R] where given, in the variant that has R = Everything (see RowStatsArgs)
// Bytes     every logit of an active row is read once, and its target's once more; 8 bytes + the state per row
// Values    see row_sweep.cuh. A row that holds nothing but -inf so far keeps m = -inf, s = 0; one with NaN or +inf has s = NaN and a finite m
// Order     the same shape, alignment of rows and number of multiprocessors give the same bits, in whatever order threads and blocks run
// Limits    R < 2^31, C < 2^31; unaligned rows spend one step on the elements before and after their vectors
//
// One block per row, on grid axis x. Where there are fewer rows than multiprocessors, axis y has several parts of each row: every block writes its
// part's sums into the workspace, and the last of a row to arrive folds them all, in the order of the parts.
#pragma once

#include "../core/rows.h"
#include "parts.h"
#include "row_sweep.cuh"

namespace fastpref {

constexpr int kRowThreads = 256;  // of a block; fewer where a row is short
constexpr int kStatsLoads = 4;

// How rows are split: part p begins at vector p * `vectors` of its row.
struct RowParts {
  int count, vectors;
  uint32_t* arrived;  // [rows], 0 at first; null where count is 1, and so is:
  void* partials;     // [parts, rows] of Running or Everything
  // The same rows of the other side of a divergence, or null. Where a row and its twin are aligned differently both are swept from their first element.
  const void* twin = nullptr;
  int64_t twin_stride = 0;
};

FASTPREF_DEVICE void fold_more(const RowStatsArgs&, int64_t, const Running&, float, float, float) {}

FASTPREF_DEVICE void fold_more(const RowStatsArgs& a, int64_t row, const Everything& found, float m_before,
                               float s_before, float m) {
  const float step = m_before - m;
  const float decay_before = exp2_fast(step * kLog2E);
  const Everything moved = at_reference(found, m);
  if (a.s2) store(a.s2 + row, load(a.s2 + row) * (decay_before * decay_before) + moved.s2);
  if (a.sd) store(a.sd + row, decay_before * (load(a.sd + row) + s_before * fmaxf(step, kFar)) + moved.sd);
  if (a.total) store(a.total + row, load(a.total + row) + found.total);
  if (a.top && found.top > load(a.top + row)) {
    store(a.top + row, found.top);
    store(a.argmax + row, a.col0 + found.argmax);
  }
}

// Folds what was found in the whole chunk into the state. By one thread.
template <class R>
FASTPREF_DEVICE void fold(const RowStatsArgs& a, int64_t row, const R& found) {
  const float m_before = load(a.m + row), s_before = load(a.s + row);
  const float m = fmaxf(m_before, found.m);
  const float s = s_before * exp2_fast((m_before - m) * kLog2E) + at_reference(found, m).s;
  // A row with a finite logit has s >= 1 or nearly so: s = 0 means that there was none.
  store(a.m + row, s == 0.0f ? -INFINITY : fminf(m, -kLowest));
  store(a.s + row, s);
  fold_more(a, row, found, m_before, s_before, m);
}

FASTPREF_DEVICE void store_partial(Running* p, const Running& r) {
  store(&p->m, r.m);
  store(&p->s, r.s);
}

FASTPREF_DEVICE void store_partial(Everything* p, const Everything& r) {
  store(&p->m, r.m);
  store(&p->s, r.s);
  store(&p->s2, r.s2);
  store(&p->sd, r.sd);
  store(&p->total, r.total);
  store(&p->top, r.top);
  store(&p->argmax, r.argmax);
}

FASTPREF_DEVICE void load_partial(const Running* p, Running* r) {
  *r = {load_from_others(&p->m), load_from_others(&p->s)};
}

FASTPREF_DEVICE void load_partial(const Everything* p, Everything* r) {
  *r = {load_from_others(&p->m),     load_from_others(&p->s),   load_from_others(&p->s2),    load_from_others(&p->sd),
        load_from_others(&p->total), load_from_others(&p->top), load_from_others(&p->argmax)};
}

// Blocks that registers must leave room for on a multiprocessor.
template <class R, class B>
constexpr int kStatsBlocks = sizeof(R) > sizeof(Running)   ? 2
                             : sizeof(B) == sizeof(NoBias) ? 4
                                                           : 3;

template <class T, TransformKind kKind, class R, class B>
FASTPREF_KERNEL(kRowThreads, (kStatsBlocks<R, B>))
void row_stats(const RowStatsArgs a, const RowParts parts, const B bias) {
  const int64_t row = blockIdx.x;
  const int64_t target = load(a.targets + row);
  if (target < 0) return;
  const T* logits = static_cast<const T*>(a.logits) + row * a.logits_stride;
  Transform t = a.transform;
  if (kKind != TransformKind::kIdentity && a.inv_temperature) t = scaled_by(t, load(a.inv_temperature + row));

  const int columns = static_cast<int>(a.cols), part = static_cast<int>(blockIdx.y);
  constexpr bool kMayHaveTwin = sizeof(R) == sizeof(Running) && sizeof(B) == sizeof(NoBias);
  const T* twin = nullptr;
  if (kMayHaveTwin && parts.twin) twin = static_cast<const T*>(parts.twin) + row * parts.twin_stride;
  const int shift = common_shift(logits, twin);
  const int width = parts.vectors * kPerVector<T>;
  const int begin = part == 0 ? 0 : shift + part * width;
  const int end = part == parts.count - 1 ? columns : shift + (part + 1) * width;

  const int64_t column = target - a.col0;
  if (threadIdx.x == 0 && column >= begin && column < end) {
    float x[1] = {load_float(logits + column)};
    add_bias(bias, x, static_cast<int>(column));
    store(a.zt + row, transformed<kKind>(t, x[0]));
  }

  R found;
  clear(&found);
  if (kMayHaveTwin && shift != elements_to_alignment(logits)) {
    sweep<kKind, 1, false>(&found, logits, begin, end, shift, t, bias);
  } else {
    sweep<kKind, kStatsLoads, true>(&found, logits, begin, end, shift, t, bias);
  }
  found = block_total(found);
  if (parts.count > 1) {
    R* partials = static_cast<R*>(parts.partials) + row;
    if (threadIdx.x == 0) store_partial(partials + part * a.rows, found);
    if (!arrives_last(parts.arrived + row, static_cast<uint32_t>(parts.count))) return;
    if (threadIdx.x != 0) return;
    clear(&found);
    for (int i = 0; i < parts.count; ++i) {
      R one;
      load_partial(partials + i * a.rows, &one);
      found = merge(found, one);
    }
  }
  if (threadIdx.x == 0) fold(a, row, found);
}

}  // namespace fastpref
