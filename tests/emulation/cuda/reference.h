// Two kernels whose results are easily known, and bugs that can be planted in them: what the emulator and the sanitizers must find.
//
// log_sum uses what a streaming kernel uses (vector loads of unaligned rows, shuffles, shared memory, the last block that arrives), multiply what a
// matrix kernel does (asynchronous copies into stages of dynamic shared memory, matrix loads, tensor cores).
#pragma once

#include <math.h>

#include "cuda/device.h"

namespace reference {

using namespace fastpref;

enum class Bug {
  kNone,
  kNoBarrier,            // the first warp reads what the others have perhaps not written
  kNoFenceBeforeCount,   // what was stored before need not be seen by who sees the count
  kNoFenceAfterCount,    // what others stored may be read before the count is
  kPlainCount,           // load and store in place of an atomic
  kNoCount,              // the block with the highest number takes itself for the last one
  kOneTooFew,            // the last but one of the blocks that arrive takes itself for the last
  kLoadBeyond,           // one element after the row
  kStoreBeyond,          // one element after the partial results
  kSmallShared,          // one element fewer than there are warps
  kUninitialisedShared,  // reads an element that no warp writes
  kMisaligned,           // takes rows to be aligned
  kDivergentBarrier,     // one thread returns before it
  kWrongMask,            // half of the lanes are not in it
  kPartialShuffle,       // half of the lanes do not come
  kShuffleAsBarrier,     // reads what another lane wrote to shared memory after a shuffle only
  kNoWait,               // multiplies what is being copied
  kLateWait,             // waits for one copy fewer than it must
  kNoTileBarrier,        // other threads' copies may not have landed
  kSmallDynamic,         // the launch asks for one vector less
  kCount_
};
constexpr const char* kBugNames[] = {"none",
                                     "no_barrier",
                                     "no_fence_before_count",
                                     "no_fence_after_count",
                                     "plain_count",
                                     "no_count",
                                     "one_too_few",
                                     "load_beyond",
                                     "store_beyond",
                                     "small_shared",
                                     "uninitialised_shared",
                                     "misaligned",
                                     "divergent_barrier",
                                     "wrong_mask",
                                     "partial_shuffle",
                                     "shuffle_as_barrier",
                                     "no_wait",
                                     "late_wait",
                                     "no_tile_barrier",
                                     "small_dynamic"};
static_assert(sizeof kBugNames / sizeof *kBugNames == static_cast<int>(Bug::kCount_));

inline Bug planted = Bug::kNone;
inline bool has(Bug bug) { return planted == bug; }

// --- log2 of the sum of 2^x of every row --------------------------------------------------------------------------------

constexpr int kSumThreads = 128, kSumWarps = kSumThreads / kWarp;

struct Sum {
  float m, s;  // s 2^m
};

struct LogSumArgs {
  const BFloat16* x;
  int rows, columns, parts;
  int64_t stride;
  Sum* partial;        // [rows, parts]
  uint32_t* counters;  // [rows], zeros before and after
  float* out;          // [rows]
};

FASTPREF_DEVICE Sum merged(Sum a, Sum b) {
  const float m = fmaxf(a.m, b.m);
  if (m == -INFINITY) return {m, 0.0f};
  return {m, a.s * exp2_fast(a.m - m) + b.s * exp2_fast(b.m - m)};
}

FASTPREF_DEVICE Sum over_warp(Sum a) {
  const unsigned lane = threadIdx.x % kWarp;
  if (has(Bug::kPartialShuffle) && lane >= 16) return a;
  const unsigned mask = has(Bug::kWrongMask) ? 0x0000ffffu : kAllLanes;
  for (int step = kWarp / 2; step > 0; step /= 2) {
    a = merged(a, {__shfl_xor_sync(mask, a.m, step), __shfl_xor_sync(mask, a.s, step)});
  }
  return a;
}

// arrives_last, where nothing is planted in it.
FASTPREF_DEVICE bool is_last(uint32_t* counter, uint32_t expected) {
  if (has(Bug::kNoCount)) return blockIdx.x + 1 == gridDim.x;
  if (has(Bug::kOneTooFew)) return arrives_last(counter, expected - 1);
  if (!has(Bug::kNoFenceBeforeCount) && !has(Bug::kNoFenceAfterCount) && !has(Bug::kPlainCount)) {
    return arrives_last(counter, expected);
  }
  FASTPREF_SHARED(uint32_t, before, 1);
  __syncthreads();
  if (threadIdx.x == 0) {
    if (!has(Bug::kNoFenceBeforeCount)) __threadfence();
    if (has(Bug::kPlainCount)) {
      before[0] = load(counter);
      store(counter, before[0] + 1);
    } else {
      before[0] = count_up(counter);
    }
    if (!has(Bug::kNoFenceAfterCount)) __threadfence();
  }
  __syncthreads();
  return before[0] + 1 == expected;
}

FASTPREF_KERNEL(kSumThreads, 1)
void log_sum(const LogSumArgs a) {
  FASTPREF_SHARED(Sum, enough, kSumWarps + 1);  // the last one is not written
  FASTPREF_SHARED(Sum, few, kSumWarps - 1);
  FASTPREF_SHARED(float, turns, kSumThreads);
  Sum* warps = has(Bug::kSmallShared) ? few : enough;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp, warp = thread / kWarp;
  const int row = static_cast<int>(blockIdx.y), part = static_cast<int>(blockIdx.x);

  // The part of the row: vectors from the first aligned 16 bytes on.
  const int each = (a.columns + a.parts - 1) / a.parts, begin = part * each;
  const int n = begin + each < a.columns ? each : a.columns - begin;
  const BFloat16* x = a.x + row * a.stride + begin;
  const int unaligned = has(Bug::kMisaligned) ? 0 : elements_to_alignment(x);
  const int head = unaligned < n ? unaligned : n, vectors = (n - head) / kPerVector<BFloat16>;
  Sum mine = {-INFINITY, 0.0f};
  for (int i = thread; i < head; i += kSumThreads) mine = merged(mine, {load_float(x + i), 1.0f});
  for (int i = thread; i < vectors; i += kSumThreads) {
    float values[kPerVector<BFloat16>];
    unpack<BFloat16>(load16(x + head + i * kPerVector<BFloat16>), values);
    for (float value : values) mine = merged(mine, {value, 1.0f});
  }
  const int end = n + (has(Bug::kLoadBeyond) ? 1 : 0);
  for (int i = head + vectors * kPerVector<BFloat16> + thread; i < end; i += kSumThreads) {
    mine = merged(mine, {load_float(x + i), 1.0f});
  }

  // Over the block. What goes around by `turns` comes back as it was.
  mine = over_warp(mine);
  turns[thread] = mine.m;
  if (has(Bug::kShuffleAsBarrier)) {
    (void)__shfl_xor_sync(kAllLanes, mine.s, 1);
  } else {
    __syncwarp();
  }
  mine.m = turns[thread ^ 1];
  if (has(Bug::kDivergentBarrier) && thread == 77) return;
  __syncthreads();
  if (lane == 0) warps[warp] = mine;
  if (!has(Bug::kNoBarrier)) __syncthreads();
  if (warp == 0) {
    mine = over_warp(lane < kSumWarps ? warps[lane] : Sum{-INFINITY, 0.0f});
    if (has(Bug::kUninitialisedShared)) mine.s += warps[kSumWarps].s;
    Sum* partial = a.partial + row * a.parts + part + (has(Bug::kStoreBeyond) ? 1 : 0);
    if (lane == 0) {
      store(&partial->m, mine.m);
      store(&partial->s, mine.s);
    }
  }

  // Over the row.
  if (!is_last(a.counters + row, static_cast<uint32_t>(a.parts)) || thread > 0) return;
  Sum all = {-INFINITY, 0.0f};
  for (int i = 0; i < a.parts; ++i) {
    const Sum* partial = a.partial + row * a.parts + i;
    all = merged(all, {load_from_others(&partial->m), load_from_others(&partial->s)});
  }
  store(a.out + row, all.m + log2f(all.s));
  store(a.counters + row, 0u);
}

// --- a b^T --------------------------------------------------------------------------------------------------------------

constexpr int kRows = 32, kColumns = 16, kDepth = 16, kStages = 3, kMultiplyThreads = 2 * kWarp;
constexpr int kStageVectors = (kRows + kColumns) * kDepth / 8;
constexpr int kMultiplyShared = kStages * kStageVectors * 16;

struct MultiplyArgs {
  const void *a, *b;  // [m, k] and [n, k], k a multiple of 8 and rows aligned to 16 bytes
  float* c;           // [m, n]
  int m, n, k;
};

// A vector of a matrix of rows of k elements; zeros where it has none.
FASTPREF_DEVICE void fetch(Vector16* to, const void* from, int row, int rows, int at, int k) {
  const bool exists = row < rows && at < k;
  copy16_async(to, static_cast<const char*>(from) + 2 * (exists ? static_cast<int64_t>(row) * k + at : 0),
               exists ? 16 : 0);
}

template <class T>
FASTPREF_KERNEL(kMultiplyThreads, 1)
void multiply(const MultiplyArgs g) {
  FASTPREF_DYNAMIC_SHARED(memory);
  Vector16* stages = reinterpret_cast<Vector16*>(memory);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp, warp = thread / kWarp;
  const int row0 = static_cast<int>(blockIdx.y) * kRows, column0 = static_cast<int>(blockIdx.x) * kColumns;
  const int steps = (g.k + kDepth - 1) / kDepth;
  const auto fetch_step = [&](int step) {  // rows of two vectors: those of a, then those of b
    Vector16* stage = stages + step % kStages * kStageVectors;
    if (step < steps) {
      const int row = thread / 2, at = step * kDepth + thread % 2 * 8;
      fetch(stage + thread, g.a, row0 + row, g.m, at, g.k);
      if (thread < 2 * kColumns) fetch(stage + 2 * kRows + thread, g.b, column0 + row, g.n, at, g.k);
    }
    commit_copies();
  };
  for (int step = 0; step < kStages - 1; ++step) fetch_step(step);
  float c[2][4] = {};
  for (int step = 0; step < steps; ++step) {
    if (has(Bug::kLateWait)) {
      wait_for_copies<kStages - 1>();
    } else if (!has(Bug::kNoWait)) {
      wait_for_copies<kStages - 2>();
    }
    if (!has(Bug::kNoTileBarrier)) __syncthreads();
    fetch_step(step + kStages - 1);
    const Vector16* stage = stages + step % kStages * kStageVectors;
    uint32_t a[4], b[4];
    load_matrices(a, stage + 2 * (16 * warp + lane % 16) + lane / 16);
    load_matrices(b, stage + 2 * (kRows + lane / 16 * 8 + lane % 8) + lane / 8 % 2);
    multiply_add(c[0], a, b[0], b[1], T{});
    multiply_add(c[1], a, b[2], b[3], T{});
  }
  wait_for_copies<0>();
  for (int i = 0; i < 8; ++i) {
    const int row = row0 + 16 * warp + lane / 4 + i % 4 / 2 * 8, column = column0 + i / 4 * 8 + 2 * (lane % 4) + i % 2;
    if (row < g.m && column < g.n) store(g.c + static_cast<int64_t>(row) * g.n + column, c[i / 4][i % 4]);
  }
}

}  // namespace reference
