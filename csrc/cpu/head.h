// The linear head as two calls that never hold a [rows, vocab] matrix: the statistics of logits = hidden weight^T + bias
// and, from the statistics, the gradients of hidden, weight and bias. Plain data: no owner, no torch type.
#pragma once

#include <stdint.h>

#include "../core/dtype.h"
#include "../core/transform.h"

namespace fastpref {

// hidden [rows, width] and weight [vocab, width], each of its own dtype, last dimension contiguous, strides in elements.
// Every row counts: the caller leaves ignored ones out.
struct HeadOperands {
  DType hidden_dtype, weight_dtype;
  int64_t rows, vocab, width;
  const void* hidden;
  int64_t hidden_stride;
  const void* weight;
  int64_t weight_stride;
  const float* bias;                 // [vocab] or null
  const int64_t* targets;            // [rows]; one outside [0, vocab) matches no column
  const float* inverse_temperature;  // [rows], beside the transform's own temperature, or null
  Transform transform;
  int threads;
};

// The state of RowStatsArgs (see rows.h), folded over the whole vocabulary.
struct HeadStatsArgs {
  HeadOperands head;
  float* m;
  float* s;
  float* zt;
  // All null, or none:
  float* s2;
  float* sd;
  float* total;
  float* top;
  int64_t* argmax;
  // Logits of the first `kept_rows` rows for HeadGradArgs, in a form of their own; see head_kept_bytes.
  void* kept;
  int64_t kept_rows;
  void* scratch;  // head_stats_scratch bytes, aligned to 64
};

struct HeadGradArgs {
  HeadOperands head;
  const float* lse;           // [rows]
  const float* onehot_coef;   // [rows], see row_grad
  const float* softmax_coef;  // [rows]
  const void* kept;           // what HeadStatsArgs left, or null; of all rows, or of a multiple of 32
  int64_t kept_rows;
  const float* logps;  // [rows] log-probabilities of the targets; read for kept rows only
  void* dx;            // [rows, width], contiguous, or null
  DType dx_dtype;
  void* dw;  // [vocab, width] with stride dw_stride, or null
  DType dw_dtype;
  int64_t dw_stride;
  bool dw_add;    // add to what dw holds, in fp32, rounded once per call; else overwrite it
  float* db;      // [vocab], added to, or null
  float filter;   // blocks of 32 x 32 whose softmax stays below this (and that hold no target) are left out; 0: none
  int64_t chunk;  // vocabulary columns at a time, a multiple of 32
  int64_t row_block;  // rows at a time, a multiple of 32
  void* scratch;      // head_grad_scratch bytes, aligned to 64
};

struct HeadScratch {
  int64_t stats;  // bytes for HeadStatsArgs
  int64_t grad;   // bytes for HeadGradArgs
  int64_t kept;   // bytes of `kept`
};

struct HeadKernels {
  void (*stats)(const HeadStatsArgs&);
  int64_t (*grad)(const HeadGradArgs&);  // returns the blocks of 32 x 32 that the filter left out
  HeadScratch (*scratch)(const HeadOperands&, bool statistics, bool dx, bool dw, bool db, int64_t chunk,
                         int64_t row_block, int64_t kept_rows);
};

}  // namespace fastpref
