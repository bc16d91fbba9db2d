// A preference loss from given logits in one launch: statistics of policy and reference, log-probs, objective, coefficients, loss.
//
// Inputs    logits [T, V] of policy and, if it is online, reference: float32, bfloat16 or float16, contiguous rows at any stride; the rest of
//           PreferenceArgs
// Outputs   those of PreferenceArgs
// Bytes     every logit of an active row once, and its target's once more; O(T) beside (objective_stage.cuh). 16-byte loads but for the elements before the
//           first aligned address of a row and after the last
// Values    as row_stats: z is the transformed logit, float32 after the load. Policy and reference rows of the same numbers give the same bits: where their
//           addresses are aligned alike both are swept from the first aligned element on, elsewhere both from their first, the one that is not aligned by
//           single elements
// Grid      one block for each row, part of a row and side, as many threads and parts as row_stats has for these rows: the sums have its bits. A block sweeps, reduces and stores its partials; whoever is last of
//           its sequence goes on to objective_stage.cuh. No block waits for another
// Limits    T < 2^31, V < 2^31, K < 2^30
//
// Occupancy: three blocks of 256 threads (at most 85 registers) keep 3 x 256 x 4 loads of 16 bytes = 48 KB in flight per multiprocessor. Latency times
// bandwidth is about 18 KB on an H100 (25 bytes/ns and multiprocessor, 700 ns) and 43 KB on a B200 (54 bytes/ns, 800 ns).
#pragma once

#include "objective_stage.cuh"
#include "row_stats.cuh"

namespace fastpref {

constexpr int kForwardThreads = kRowThreads;
template <HeadKind kKind>
constexpr int kForwardBlocks = 3;
constexpr int kForwardLoads = kStatsLoads;

struct Swept {
  Running running;
  float zt;  // of the first thread, where this part writes it
};

// This thread's part of what a block sweeps of its row, which holds T.
template <class T, TransformKind kTransform>
FASTPREF_DEVICE Swept sweep_row(const PreferencePlan& p, int64_t row, int64_t target) {
  const PreferenceArgs& a = p.args;
  const int part = static_cast<int>(blockIdx.y);
  const T* policy = static_cast<const T*>(a.logits) + row * a.logits_stride;
  const T* reference = static_cast<const T*>(a.ref_logits) + row * a.ref_logits_stride;
  const T* x = blockIdx.z ? reference : policy;
  const int shift = common_shift(x, a.ref_logits ? blockIdx.z ? policy : reference : nullptr);
  const int columns = static_cast<int>(a.cols), width = p.vectors * kPerVector<T>;
  const Transform t = a.inv_temperature ? scaled_by(a.transform, load(a.inv_temperature + row)) : a.transform;

  Swept found = {{kLowest, 0.0f}, NAN};
  if (part == 0 && threadIdx.x == 0 && target >= 0 && target < columns) {
    found.zt = transformed<kTransform>(t, load_float(x + target));
  }
  const int begin = part ? shift + part * width : 0;
  const int end = part + 1 < p.parts ? shift + (part + 1) * width : columns;
  if (shift == elements_to_alignment(x)) {
    sweep<kTransform, kForwardLoads, true>(&found.running, x, begin, end, shift, t);
  } else {
    sweep<kTransform, 1, false>(&found.running, x, begin, end, shift, t);
  }
  return found;
}

template <TransformKind kTransform>
FASTPREF_DEVICE Swept sweep_row_of(const PreferencePlan& p, int64_t row, int64_t target) {
  switch (p.args.dtype) {
    case DType::kFloat32:
      return sweep_row<float, kTransform>(p, row, target);
    case DType::kBFloat16:
      return sweep_row<BFloat16, kTransform>(p, row, target);
    default:
      return sweep_row<Float16, kTransform>(p, row, target);
  }
}

// Sequences that belong to an item: of an odd number for a head of pairs the last has none.
template <HeadKind kKind>
FASTPREF_DEVICE int paired_sequences(const PreferenceArgs& a) {
  return kKind == HeadKind::kPair ? a.sequences / 2 * 2 : a.sequences;
}

// The next sequence without rows from *next on, in shared memory, or -1. All threads call it together.
template <HeadKind kKind>
FASTPREF_DEVICE int next_empty_sequence(const PreferenceArgs& a, int32_t* next) {
  const int sequences = paired_sequences<kKind>(a);
  int k = *next;
  while (k < sequences) {
    const Rows rows = rows_of(a, k);
    if (rows.end <= rows.begin) break;
    ++k;
  }
  __syncthreads();
  if (threadIdx.x == 0) *next = k + 1;
  return k < sequences ? k : -1;
}

template <HeadKind kKind>
FASTPREF_KERNEL(kForwardThreads, kForwardBlocks<kKind>)
void preference_forward(const PreferencePlan p) {
  FASTPREF_SHARED(int32_t, found, 2);  // the row's sequence; the first sequence not yet looked at for rows
  const PreferenceArgs& a = p.args;
  const int64_t row = blockIdx.x;
  const int part = static_cast<int>(blockIdx.y), side = static_cast<int>(blockIdx.z);
  const bool first = part == 0 && side == 0;
  int k = -1;
  if (row < a.rows) {
    // The sequence of the row: all boundaries at once, while the logits are on their way.
    if (threadIdx.x == 0) {
      found[0] = -1;
      if (first) store(a.coef + row, NAN);  // stays where cu_seqlens is not what it should be
      if (first && row == 0) store(a.loss, NAN);
    }
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < a.sequences; i += static_cast<int>(blockDim.x)) {
      if (load(a.cu_seqlens + i) <= row && row < load(a.cu_seqlens + i + 1)) found[0] = i;
    }
    const int64_t target = load(a.targets + row);
    if (target != a.ignored) {
      Swept mine;
      switch (p.transform) {
        case TransformKind::kIdentity:
          mine = sweep_row_of<TransformKind::kIdentity>(p, row, target);
          break;
        case TransformKind::kScale:
          mine = sweep_row_of<TransformKind::kScale>(p, row, target);
          break;
        default:
          mine = sweep_row_of<TransformKind::kSoftcap>(p, row, target);
      }
      const Running running = block_total(mine.running);
      if (threadIdx.x == 0) {
        const int64_t i = (static_cast<int64_t>(side) * p.parts + part) * a.rows + row;
        store(p.at.m + i, running.m);
        store(p.at.s + i, running.s);
        if (part == 0) store(p.at.zt + side * a.rows + row, mine.zt);
      }
    }
    __syncthreads();
    k = found[0];
    if (k >= 0) {
      const Rows rows = rows_of(a, k);
      const uint32_t expected = static_cast<uint32_t>(rows.end - rows.begin) * gridDim.y * gridDim.z;
      if (!arrives_last(p.at.counters + k, expected)) k = -1;
    }
  }
  // The block of the first row also looks after the sequences that have no rows, and so no block of their own.
  int next = a.sequences;
  if (first && row == 0) {
    float empty = 0.0f;  // together, since there are none as a rule
    for (int i = static_cast<int>(threadIdx.x); i < a.sequences; i += static_cast<int>(blockDim.x)) {
      const Rows rows = rows_of(a, i);
      empty += rows.end <= rows.begin ? 1.0f : 0.0f;
    }
    if (block_sum(empty) > 0.0f) next = 0;
  }
  if (threadIdx.x == 0) found[1] = next;
  for (;;) {
    __syncthreads();
    if (k < 0) k = next_empty_sequence<kKind>(a, found + 1);
    if (k < 0 || k >= paired_sequences<kKind>(a)) break;
    finish_sequence<kKind>(p, k);
    k = -1;
  }
}

}  // namespace fastpref
