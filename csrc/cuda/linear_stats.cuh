// Statistics of a linear head: log-sum-exp, target logit and more of hidden @ weight.T + bias with no logit in memory.
//
// Inputs    LinearStatsArgs: hidden [T, H] and weight [V, H], both bfloat16 or both float16, at any row stride; bias [V] fp32 or none; targets [T]
// Parts     m, s and, only where asked for, s2, sd, total, top, argmax: [fields, segments, T] in the caller's scratch, one row per segment
//           of the vocabulary, written for rows that are not ignored. zt [T] is written directly, by the block whose segment holds the target
// In place  the state of row_stats, each [T], into which a second kernel folds the parts
// Kept      if asked for: exp(z - reference) in the operands' dtype with its reference in fp32, one per row and 64 columns; or the raw logits in
//           fp32. What is kept changes no bit of the statistics
// Bytes     every block reads its 128 rows of hidden states once per 256 columns and its segment of the head once, from the L2 cache but for
//           the first time: blocks that run side by side are 16 tiles of rows on one segment. 8 bytes per row and segment are stored (4 more
//           for each further field); nothing of size T x V but what is kept: 2 + 1 / 16 bytes per logit, or 4
// Values    products are exact, their sum is fp32, logits are never rounded to 16 bits. NaN and +inf make s NaN, -inf adds nothing; a row with
//           nothing else has m = -inf, s = 0
// Order     a thread adds up 16 columns of each of its 8 rows per tile, tile after tile, with a maximum of its own and no communication; the four
//           threads and four warps that share a row meet once, after the last tile. No atomics. Segments depend on V alone, and the tile on
//           nothing: a row's bits do not depend on the rows beside it, on what else is asked for, nor on the order of the blocks
// Limits    T, V, H < 2^31. Fast copies as in head_tile.cuh
//
// Occupancy: one block of 256 threads per multiprocessor (head_tile.cuh). With all statistics a thread has seven numbers for each of its 8 rows
// beside 128 accumulators. Three of them (total, top, argmax) stay in shared memory, each touched once per tile, in place of a fourth step.
#pragma once

#include "head_tile.cuh"
#include "linear.h"
#include "transformed.cuh"

namespace fastpref {

constexpr float kLowestLogit =
    -3.4028234663852886e38f;        // every finite fp32 is at least this, and z - it is well defined for z = -inf
constexpr float kFarBelow = -1e4f;  // exp is 0 this far down: makes 0, and not NaN, of 0 * -inf
constexpr int kNoColumn = 0x7fffffff;

constexpr int kIgnoredRow = -2, kElsewhere = -1;  // in place of a target's column

constexpr int kRowsPerThread = 2 * kRowFragments;

// Which statistics a kernel was compiled for, beside m, s and zt.
enum class LinearStats { kPlain, kSquares, kAll };

// Of some columns of a row.
struct HeadPart {
  float m, s, s2, sd, total, top;
  int argmax;
};

FASTPREF_DEVICE HeadPart empty_part() { return {kLowestLogit, 0.0f, 0.0f, 0.0f, 0.0f, -INFINITY, kNoColumn}; }

// Of both; where the largest logits are equal, the lower column.
template <LinearStats kStats>
FASTPREF_DEVICE HeadPart joined_parts(const HeadPart& a, const HeadPart& b) {
  HeadPart c = empty_part();
  c.m = fmaxf(a.m, b.m);
  const float step_a = a.m - c.m, step_b = b.m - c.m;
  const float decay_a = exp2_fast(product(step_a, kLog2E)), decay_b = exp2_fast(product(step_b, kLog2E));
  c.s = product(a.s, decay_a) + product(b.s, decay_b);
  if constexpr (kStats != LinearStats::kPlain) {
    c.s2 = product(a.s2, product(decay_a, decay_a)) + product(b.s2, product(decay_b, decay_b));
  }
  if constexpr (kStats == LinearStats::kAll) {
    c.sd = decay_a * (a.sd + a.s * fmaxf(step_a, kFarBelow)) + decay_b * (b.sd + b.s * fmaxf(step_b, kFarBelow));
    c.total = a.total + b.total;
    const bool second = b.top > a.top || (b.top == a.top && b.argmax < a.argmax);
    c.top = second ? b.top : a.top;
    c.argmax = second ? b.argmax : a.argmax;
  }
  return c;
}

template <LinearStats kStats>
FASTPREF_DEVICE HeadPart part_of_lane(const HeadPart& mine, int other) {
  HeadPart p = empty_part();
  p.m = __shfl_xor_sync(kAllLanes, mine.m, other);
  p.s = __shfl_xor_sync(kAllLanes, mine.s, other);
  if constexpr (kStats != LinearStats::kPlain) p.s2 = __shfl_xor_sync(kAllLanes, mine.s2, other);
  if constexpr (kStats == LinearStats::kAll) {
    p.sd = __shfl_xor_sync(kAllLanes, mine.sd, other);
    p.total = __shfl_xor_sync(kAllLanes, mine.total, other);
    p.top = __shfl_xor_sync(kAllLanes, mine.top, other);
    p.argmax = __shfl_xor_sync(kAllLanes, mine.argmax, other);
  }
  return p;
}

// Parts as they lie in shared or global memory: each field `step` words after the one before. `kGlobal`: of global memory.
template <LinearStats kStats, bool kGlobal>
FASTPREF_DEVICE void put_part(float* to, int64_t step, const HeadPart& p) {
  const float words[7] = {p.m, p.s, p.s2, p.sd, p.total, p.top, float_from_bits(static_cast<uint32_t>(p.argmax))};
  constexpr int kFields = kStats == LinearStats::kAll ? 7 : kStats == LinearStats::kSquares ? 3 : 2;
#pragma unroll
  for (int i = 0; i < kFields; ++i) {
    if constexpr (kGlobal) {
      store(to + i * step, words[i]);
    } else {
      to[i * step] = words[i];
    }
  }
}

template <LinearStats kStats, bool kGlobal>
FASTPREF_DEVICE HeadPart get_part(const float* from, int64_t step) {
  float words[7] = {};
  constexpr int kFields = kStats == LinearStats::kAll ? 7 : kStats == LinearStats::kSquares ? 3 : 2;
#pragma unroll
  for (int i = 0; i < kFields; ++i) {
    if constexpr (kGlobal) {
      words[i] = load(from + i * step);
    } else {
      words[i] = from[i * step];
    }
  }
  HeadPart p = empty_part();
  p.m = words[0];
  p.s = words[1];
  if constexpr (kStats != LinearStats::kPlain) p.s2 = words[2];
  if constexpr (kStats == LinearStats::kAll) {
    p.sd = words[3];
    p.total = words[4];
    p.top = words[5];
    p.argmax = static_cast<int>(float_bits(words[6]));
  }
  return p;
}

// Which tile of rows and which segment a block has: all segments for 16 tiles of rows, and these fastest.
struct HeadBlock {
  unsigned row_tile, segment;
};

FASTPREF_DEVICE HeadBlock block_of_head(unsigned row_tiles, unsigned segments) {
  constexpr unsigned kGroup = 16;
  const unsigned group = blockIdx.x / (kGroup * segments), place = blockIdx.x % (kGroup * segments);
  const unsigned left = row_tiles - group * kGroup, count = left < kGroup ? left : kGroup;
  return {group * kGroup + place % count, place / count};
}

FASTPREF_DEVICE unsigned segments_of(const LinearStatsArgs& args) {
  const unsigned segment = static_cast<unsigned>(args.segment);
  return (static_cast<unsigned>(args.columns) + segment - 1) / segment;
}

// Two neighbours of a row.
struct alignas(8) FloatPair {
  float first, second;
};

template <class T>
FASTPREF_DEVICE uint32_t packed_pair(float low, float high) {
  T a, b;
  narrowed(low, &a);
  narrowed(high, &b);
  return static_cast<uint32_t>(a.bits) | static_cast<uint32_t>(b.bits) << 16;
}

// Where a thread has what does not fit its registers.
enum MoreField { kTotal, kTop, kArgmax, kMoreFields };
FASTPREF_DEVICE constexpr int place_of(MoreField field, int row) {
  return (field * kRowsPerThread + row) * kTileThreads;
}

// Folds a thread's share of one tile into its running sums, and keeps what is to be kept. `first`: the tile's first column.
template <class T, LinearStats kStats>
FASTPREF_DEVICE void fold_tile(const LinearStatsArgs& args, Logits& logits, const HeadBlock* block, int first,
                               const int* target, const float* factor, float (&m)[kRowsPerThread],
                               float (&s)[kRowsPerThread], float (&s2)[kRowsPerThread], float (&sd)[kRowsPerThread],
                               float* more) {
  const TilePlace at = tile_place();
  const int left = static_cast<int>(args.columns) - first;  // columns of the tile that there are
  if (args.bias) {
#pragma unroll
    for (int n = 0; n < kColumnFragments; ++n) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int column = tile_column(at, n) + j;
        const float bias = column < left ? load(args.bias + first + column) : 0.0f;
#pragma unroll
        for (int i = 0; i < kRowFragments; ++i) {
          logits[i][n][j] += bias;
          logits[i][n][2 + j] += bias;
        }
      }
    }
  }
  const int slot = first + at.warp_column * kWarpEdge;
#pragma unroll
  for (int r = 0; r < kRowsPerThread; ++r) {
    const int h = 2 * (r % 2), local = tile_row(at, r / 2) + 8 * (r % 2);
    float (&fragments)[kColumnFragments][4] = logits[r / 2];
    const int wanted = target[local];
    // Beside what it saves, this keeps the compiler from working on all rows side by side, for which there are no registers.
    if (wanted == kIgnoredRow) continue;
    const int64_t row = static_cast<int64_t>(block->row_tile) * kTileRows + local;
    if (args.kept && !args.references) {
      float* kept = static_cast<float*>(args.kept) + row * args.kept_stride + slot;
#pragma unroll
      for (int n = 0; n < kColumnFragments; ++n) {
        store(reinterpret_cast<FloatPair*>(kept + 8 * n + 2 * (at.lane % 4)),
              FloatPair{fragments[n][h], fragments[n][h + 1]});
      }
    }
    if constexpr (kStats == LinearStats::kAll) {
      // A softcap keeps the order of logits, and may make equal numbers of different ones.
      float top = more[place_of(kTop, r)];
      int argmax = static_cast<int>(float_bits(more[place_of(kArgmax, r)]));
      const bool rising = args.transform.scale > 0.0f;
#pragma unroll
      for (int n = 0; n < kColumnFragments; ++n) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const int column = tile_column(at, n) + j;
          const float height = rising ? fragments[n][h + j] : -fragments[n][h + j];
          if (height > top && column < left) {
            top = height;
            argmax = first + column;
          }
        }
      }
      more[place_of(kTop, r)] = top;
      more[place_of(kArgmax, r)] = float_from_bits(static_cast<uint32_t>(argmax));
    }
    const Transform own = scaled_by(args.transform, factor[local]);
    if (args.transform.has_softcap) {
#pragma unroll
      for (int n = 0; n < kColumnFragments; ++n) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          fragments[n][h + j] = transformed<TransformKind::kSoftcap>(own, fragments[n][h + j]);
        }
      }
    } else {
#pragma unroll
      for (int n = 0; n < kColumnFragments; ++n) {
#pragma unroll
        for (int j = 0; j < 2; ++j) fragments[n][h + j] = product(fragments[n][h + j], own.scale);
      }
    }
    if (wanted >= slot && wanted < slot + kWarpEdge) {
#pragma unroll
      for (int n = 0; n < kColumnFragments; ++n) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          if (first + tile_column(at, n) + j == wanted) store(args.zt + row, fragments[n][h + j]);
        }
      }
    }
    float highest = m[r], total = 0.0f;
#pragma unroll
    for (int n = 0; n < kColumnFragments; ++n) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        if (tile_column(at, n) + j >= left) {
          fragments[n][h + j] = -INFINITY;
        } else if constexpr (kStats == LinearStats::kAll) {
          total += fragments[n][h + j];
        }
        highest = fmaxf(highest, fragments[n][h + j]);  // passes over a NaN, which z - highest does not
      }
    }
    const float step = m[r] - highest;
    const float decay = exp2_fast(product(step, kLog2E));
    float sum = 0.0f, sum2 = 0.0f, sum_d = 0.0f;
#pragma unroll
    for (int n = 0; n < kColumnFragments; ++n) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float d = fragments[n][h + j] - highest;
        const float e = exp2_fast(product(d, kLog2E));
        fragments[n][h + j] = e;
        sum += e;
        if constexpr (kStats != LinearStats::kPlain) sum2 += product(e, e);
        if constexpr (kStats == LinearStats::kAll) sum_d += e * fmaxf(d, kFarBelow);
      }
    }
    if constexpr (kStats == LinearStats::kAll) {
      sd[r] = decay * (sd[r] + s[r] * fmaxf(step, kFarBelow)) + sum_d;
      more[place_of(kTotal, r)] += total;
    }
    if constexpr (kStats != LinearStats::kPlain) s2[r] = product(s2[r], product(decay, decay)) + sum2;
    s[r] = product(s[r], decay) + sum;
    m[r] = highest;
    if (args.kept && args.references) {
      // The four threads of a row have maxima of their own; what is kept is relative to one of them all.
      const unsigned four = 0xfu << (at.lane & ~3);
      float reference = fmaxf(highest, __shfl_xor_sync(four, highest, 1));
      reference = fmaxf(reference, __shfl_xor_sync(four, reference, 2));
      const float shrink = exp2_fast(product(highest - reference, kLog2E));
      T* kept = static_cast<T*>(args.kept) + row * args.kept_stride + slot + 2 * (at.lane % 4);
#pragma unroll
      for (int n = 0; n < kColumnFragments; ++n) {
        store(reinterpret_cast<uint32_t*>(kept + 8 * n),
              packed_pair<T>(product(fragments[n][h], shrink), product(fragments[n][h + 1], shrink)));
      }
      if (at.lane % 4 == 0) {
        store(args.references + row * (args.kept_stride / kKeptSlot) + slot / kKeptSlot, reference);
      }
    }
  }
}

template <LinearStats kStats>
constexpr int kStatsStages = kStats == LinearStats::kAll ? kTileStages - 1 : kTileStages;

// Bytes of dynamic shared memory; kTileRows targets and factors are beside it.
template <LinearStats kStats>
constexpr int kLinearStatsBytes = kStatsStages<kStats> * kStageBytes +
                                  (kStats == LinearStats::kAll ? 4 * kMoreFields * kRowsPerThread * kTileThreads : 0);

template <class T, LinearStats kStats, bool kVector>
FASTPREF_KERNEL(kTileThreads, 1)
void linear_stats_kernel(LinearStatsArgs args) {
  FASTPREF_DYNAMIC_SHARED(stages);
  FASTPREF_SHARED(int, target, kTileRows);
  FASTPREF_SHARED(float, factor, kTileRows);
  FASTPREF_SHARED(HeadBlock, block, 1);  // not in registers while there are none to spare
  const HeadBlock mine =
      block_of_head((static_cast<unsigned>(args.rows) + kTileRows - 1) / kTileRows, segments_of(args));
  const int64_t row0 = static_cast<int64_t>(mine.row_tile) * kTileRows;
  const int first = static_cast<int>(mine.segment * args.segment);
  const int last = static_cast<int>(args.columns - first < args.segment ? args.columns : first + args.segment);
  const int thread = static_cast<int>(threadIdx.x);
  const TilePlace at = tile_place();

  if (thread == 0) block[0] = mine;
  if (thread < kTileRows) {
    const int64_t row = row0 + thread;
    const int64_t asked = row < args.rows ? load(args.targets + row) : -1;
    target[thread] = asked < 0 ? kIgnoredRow : asked < args.columns ? static_cast<int>(asked) : kElsewhere;
    factor[thread] = asked >= 0 && args.inv_temperature ? load(args.inv_temperature + row) : 1.0f;
  }
  __syncthreads();
  int live[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int a = target[i * kWarpEdge + at.lane], b = target[i * kWarpEdge + kWarp + at.lane];
    live[i] = a > b ? a : b;
#pragma unroll
    for (int other = kWarp / 2; other > 0; other /= 2) {
      const int theirs = __shfl_xor_sync(kAllLanes, live[i], other);
      live[i] = live[i] > theirs ? live[i] : theirs;
    }
  }
  if (live[0] == kIgnoredRow && live[1] == kIgnoredRow) return;
  const bool works = (at.warp_row ? live[1] : live[0]) != kIgnoredRow;

  const HeadOperands<T> operands = {static_cast<const T*>(args.hidden) + row0 * args.hidden_stride,
                                    static_cast<const T*>(args.weight), args.hidden_stride, args.weight_stride,
                                    static_cast<int>(args.width)};
  TileFeed<T> feed = feed_of(operands, first, last,
                             (target[thread / 4] != kIgnoredRow) | (target[thread / 4 + 64] != kIgnoredRow) << 1);
  constexpr int kStages = kStatsStages<kStats>;
  float* more = reinterpret_cast<float*>(stages + kStages * kStageBytes) + thread;
  float m[kRowsPerThread], s[kRowsPerThread], s2[kRowsPerThread], sd[kRowsPerThread];
#pragma unroll
  for (int r = 0; r < kRowsPerThread; ++r) {
    m[r] = kLowestLogit;
    s[r] = s2[r] = sd[r] = 0.0f;
    if constexpr (kStats == LinearStats::kAll) {
      more[place_of(kTotal, r)] = 0.0f;
      more[place_of(kTop, r)] = -INFINITY;
      more[place_of(kArgmax, r)] = float_from_bits(kNoColumn);
    }
  }

  for (int i = 0; i < kStages - 1; ++i) feed_next<T, kVector>(&feed, operands, stages + i * kStageBytes);
  int stage = 0;
  for (int tile = first; tile < last; tile += kTileColumns) {
    Logits logits;
#pragma unroll
    for (int i = 0; i < kRowFragments; ++i) {
#pragma unroll
      for (int n = 0; n < kColumnFragments; ++n)
        logits[i][n][0] = logits[i][n][1] = logits[i][n][2] = logits[i][n][3] = 0.0f;
    }
    // A warp whose rows are all ignored, or whose columns are all beyond the vocabulary, multiplies nothing.
    const bool busy = works && tile + at.warp_column * kWarpEdge < last;
#pragma unroll 1
    for (int depth = 0; depth < static_cast<int>(args.width); depth += kTileDepth) {
      wait_for_copies<kStages - 2>();
      __syncthreads();  // this stage is there for every thread, and every thread is done with the one before
      feed_next<T, kVector>(&feed, operands, stages + (stage == 0 ? kStages - 1 : stage - 1) * kStageBytes);
      if (busy) multiply_stage<T>(logits, stages + stage * kStageBytes, at);
      stage = stage + 1 == kStages ? 0 : stage + 1;
    }
    if (busy) fold_tile<T, kStats>(args, logits, block, tile, target, factor, m, s, s2, sd, more);
  }
  wait_for_copies<0>();
  __syncthreads();

  const TilePlace end = tile_place();
  float* parts = reinterpret_cast<float*>(stages);  // [fields, 4 warps, rows of the tile]
  constexpr int kWarps = kTileColumns / kWarpEdge, kStep = kWarps * kTileRows;
#pragma unroll
  for (int r = 0; r < kRowsPerThread; ++r) {
    HeadPart part = empty_part();
    part.m = m[r];
    part.s = s[r];
    if constexpr (kStats != LinearStats::kPlain) part.s2 = s2[r];
    if constexpr (kStats == LinearStats::kAll) {
      part.sd = sd[r];
      part.total = more[place_of(kTotal, r)];
      part.top = more[place_of(kTop, r)];
      part.argmax = static_cast<int>(float_bits(more[place_of(kArgmax, r)]));
    }
#pragma unroll
    for (int other = 1; other <= 2; other *= 2) {
      part = joined_parts<kStats>(part, part_of_lane<kStats>(part, other));
    }
    const int local = tile_row(end, r / 2) + 8 * (r % 2);
    if (end.lane % 4 == 0) put_part<kStats, false>(parts + end.warp_column * kTileRows + local, kStep, part);
  }
  __syncthreads();
  const int local = thread_again();
  if (local < kTileRows && target[local] != kIgnoredRow) {
    HeadPart whole = get_part<kStats, false>(parts + local, kStep);
#pragma unroll
    for (int warp = 1; warp < kWarps; ++warp) {
      whole = joined_parts<kStats>(whole, get_part<kStats, false>(parts + warp * kTileRows + local, kStep));
    }
    const int64_t row = static_cast<int64_t>(block[0].row_tile) * kTileRows + local;
    put_part<kStats, true>(args.parts + block[0].segment * args.rows + row, segments_of(args) * args.rows, whole);
  }
}

// --- the segments of a row into its state -----------------------------------------------------------------------------------

constexpr int kMergeRows = kWarp, kMergeWarps = 8;

template <LinearStats kStats>
FASTPREF_KERNEL(kMergeRows* kMergeWarps, 1)
void merge_parts_kernel(LinearStatsArgs args) {
  FASTPREF_SHARED(float, parts, 7 * kMergeWarps * kMergeRows);
  constexpr int kStep = kMergeWarps * kMergeRows;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kMergeRows + lane;
  const int64_t segments = segments_of(args);
  const bool live = row < args.rows && load(args.targets + row) >= 0;
  HeadPart mine = empty_part();
  if (live) {
    for (int64_t i = warp; i < segments; i += kMergeWarps) {
      mine = joined_parts<kStats>(mine, get_part<kStats, true>(args.parts + i * args.rows + row, segments * args.rows));
    }
  }
  put_part<kStats, false>(parts + threadIdx.x, kStep, mine);
  __syncthreads();
  if (warp != 0 || !live) return;
  HeadPart before = empty_part();
  before.m = fmaxf(load(args.m + row), kLowestLogit);
  before.s = load(args.s + row);
  if constexpr (kStats != LinearStats::kPlain) before.s2 = args.s2 ? load(args.s2 + row) : 0.0f;
  if constexpr (kStats == LinearStats::kAll) {
    before.sd = args.sd ? load(args.sd + row) : 0.0f;
    before.total = args.total ? load(args.total + row) : 0.0f;
    before.top = args.top ? load(args.top + row) : -INFINITY;
  }
  HeadPart found = get_part<kStats, false>(parts + lane, kStep);
#pragma unroll
  for (int i = 1; i < kMergeWarps; ++i) {
    found = joined_parts<kStats>(found, get_part<kStats, false>(parts + i * kMergeRows + lane, kStep));
  }
  const HeadPart after = joined_parts<kStats>(before, found);
  // A row with a finite logit has s >= 1 or nearly so: s = 0 means that there was none.
  store(args.m + row, after.s == 0.0f ? -INFINITY : after.m);
  store(args.s + row, after.s);
  if constexpr (kStats != LinearStats::kPlain) {
    if (args.s2) store(args.s2 + row, after.s2);
  }
  if constexpr (kStats == LinearStats::kAll) {
    if (args.sd) store(args.sd + row, after.sd);
    if (args.total) store(args.total + row, after.total);
    if (args.top && found.top > before.top) {
      store(args.top + row, found.top);
      store(args.argmax + row, static_cast<int64_t>(found.argmax));
    }
  }
}

}  // namespace fastpref
