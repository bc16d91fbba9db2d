// The tile of a linear head that a block multiplies on tensor cores: 128 rows of hidden states by 256 of the head, 32 of H at a time.
//
// Eight warps, 2 x 4, hold 64 x 64 logits each: 128 fp32 accumulators per thread. That is what feeds tensor cores best on every architecture
// here: a step of 32 of H moves 24 KiB out of the L2 cache for 2^20 multiply-adds, and each warp reads 4 KiB of shared memory for 2^17, while a
// block of 128 x 128 would ask an H100's L2 for more than it gives. The accumulators leave room for one block per multiprocessor
// (255 registers x 256 threads are all that it has); four steps in flight, 96 KiB of the 99 KiB that sm_86, sm_89 and sm_120 give
// a block, hide the latency of memory in place of a second one.
//
// Shared memory: of a step, 128 + 256 rows of 64 bytes. Piece q (16 bytes) of row r lies at q ^ (r / 2 % 4), so that the eight rows
// of a matrix of ldmatrix, and the writes of a warp, fall on different banks.
//
// Copies are 16 bytes by cp.async where both operands allow it (pointers and rows aligned to 16 bytes, H a multiple of 8); otherwise element by
// element, right and several times slower. Rows that are not wanted, rows of the head beyond the vocabulary and everything beyond H are
// zeros and not read.
#pragma once

#include "device.h"

namespace fastpref {

constexpr int kTileRows = 128, kTileColumns = 256, kTileDepth = 32, kTileStages = 4, kTileThreads = 256;
constexpr int kWarpEdge = 64;
constexpr int kRowFragments = kWarpEdge / 16, kColumnFragments = kWarpEdge / 8;
constexpr int kDepthBytes = 2 * kTileDepth;
constexpr int kStageBytes = (kTileRows + kTileColumns) * kDepthBytes;
constexpr int kTileSharedBytes = kTileStages * kStageBytes;

// A warp's logits: [16-row fragment][8-column fragment][the four of m16n8k16: row g and g + 8, two neighbours each].
using Logits = float[kRowFragments][kColumnFragments][4];

// Where a thread is in its block's tile.
struct TilePlace {
  int lane, warp_row, warp_column;
};

FASTPREF_DEVICE TilePlace tile_place() {
  const int thread = thread_again(), warp = thread / kWarp;
  return {thread % kWarp, warp / (kTileColumns / kWarpEdge), warp % (kTileColumns / kWarpEdge)};
}

// The first of the two rows of the tile that a thread holds of fragment i; the other is 8 further on.
FASTPREF_DEVICE int tile_row(const TilePlace& at, int i) { return at.warp_row * kWarpEdge + 16 * i + at.lane / 4; }

// The first of the two columns of the tile that it holds of fragment n.
FASTPREF_DEVICE int tile_column(const TilePlace& at, int n) {
  return at.warp_column * kWarpEdge + 8 * n + 2 * (at.lane % 4);
}

// 8 elements into shared memory, of which there are `left`.
template <class T, bool kVector>
FASTPREF_DEVICE void copy_piece(unsigned char* to, const T* from, int left, bool wanted) {
  if constexpr (kVector) {
    copy16_async(to, from, wanted && left > 0 ? 16 : 0);
  } else {
    Vector16 v = {{0, 0, 0, 0}};
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (wanted && i < left) v.words[i / 2] |= static_cast<uint32_t>(load(from + i).bits) << 16 * (i % 2);
    }
    *reinterpret_cast<Vector16*>(to) = v;
  }
}

// The two operands and where they lie.
template <class T>
struct HeadOperands {
  const T *x, *w;  // x: from the tile's first row on
  int64_t x_stride, w_stride;
  int width;
};

// Which step of which tile is to be copied next. A thread copies 2 pieces of hidden states and 4 of the head per step, of rows threadIdx.x / 4
// + 64 i; what follows from the thread and the operands is not kept but made again: registers are what a block has least of.
template <class T>
struct TileFeed {
  const T *x, *w;   // this thread's piece of the first of its rows
  int depth, left;  // of H; rows of the head from the tile's first on
  int place;        // in a stage
  int live;         // bit i: row threadIdx.x / 4 + 64 i of the hidden states is wanted
};

// Of tiles that begin at rows first, first + 256, ... < last of the head.
template <class T>
FASTPREF_DEVICE TileFeed<T> feed_of(const HeadOperands<T>& of, int first, int last, int live) {
  const int row = static_cast<int>(threadIdx.x) / 4, piece = static_cast<int>(threadIdx.x) % 4;
  return {of.x + row * of.x_stride + 8 * piece,
          of.w + (first + row) * of.w_stride + 8 * piece,
          0,
          last - first,
          row * kDepthBytes + (piece ^ (row / 2 % 4)) * 16,
          live};
}

// Begins the copies of the next step into one stage; nothing after the last.
template <class T, bool kVector>
FASTPREF_DEVICE void feed_next(TileFeed<T>* feed, const HeadOperands<T>& of, unsigned char* stage) {
  if (feed->left > 0) {
    const int row = static_cast<int>(threadIdx.x) / 4, at = feed->depth + 8 * (static_cast<int>(threadIdx.x) % 4);
    unsigned char* to = stage + feed->place;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      copy_piece<T, kVector>(to + i * 64 * kDepthBytes, feed->x + 64 * i * of.x_stride + feed->depth, of.width - at,
                             feed->live >> i & 1);
    }
    to += kTileRows * kDepthBytes;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      copy_piece<T, kVector>(to + i * 64 * kDepthBytes, feed->w + 64 * i * of.w_stride + feed->depth, of.width - at,
                             row + 64 * i < feed->left);
    }
    feed->depth += kTileDepth;
    if (feed->depth >= of.width) {
      feed->depth = 0;
      feed->w += kTileColumns * of.w_stride;
      feed->left -= kTileColumns;
    }
  }
  commit_copies();
}

// logits += the products of one stage.
template <class T>
FASTPREF_DEVICE void multiply_stage(Logits& logits, const unsigned char* stage, const TilePlace& at) {
  const int lane = at.lane, swizzle = lane / 2 % 4;
  const int x = (at.warp_row * kWarpEdge + lane % 16) * kDepthBytes + ((lane / 16) ^ swizzle) * 16;
  const int w = (kTileRows + at.warp_column * kWarpEdge + lane % 8 + lane / 16 * 8) * kDepthBytes +
                ((lane / 8 % 2) ^ swizzle) * 16;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    uint32_t a[kRowFragments][4];
#pragma unroll
    for (int i = 0; i < kRowFragments; ++i) load_matrices(a[i], stage + (x ^ half * 32) + i * 16 * kDepthBytes);
#pragma unroll
    for (int n = 0; n < kColumnFragments; n += 2) {
      uint32_t b[4];
      load_matrices(b, stage + (w ^ half * 32) + n * 8 * kDepthBytes);
#pragma unroll
      for (int i = 0; i < kRowFragments; ++i) {
        multiply_add(logits[i][n], a[i], b[0], b[1], T{});
        multiply_add(logits[i][n + 1], a[i], b[2], b[3], T{});
      }
    }
  }
}

}  // namespace fastpref
