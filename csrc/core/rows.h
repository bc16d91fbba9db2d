// Arguments of the two row primitives (fastpref/backends/base.py holds their contract). Plain data: no owner, no torch
// type. Logits are [rows, cols] of `dtype` covering vocabulary columns [col0, col0 + cols), last dimension contiguous;
// strides count elements. Per-row arrays are contiguous. A negative target marks an ignored row.
#pragma once

#include <stdint.h>

#include "dtype.h"
#include "transform.h"

namespace fastpref {

struct RowStatsArgs {
  DType dtype;
  int64_t rows, cols, col0;
  const void* logits;
  int64_t logits_stride;
  const int64_t* targets;
  float* m;   // running reference, updated
  float* s;   // running sum exp(z - m), updated
  float* zt;  // z of the target, written where the chunk holds it
  Transform transform;
  int threads;
};

struct RowGradArgs {
  DType dtype;
  int64_t rows, cols, col0;
  const void* logits;
  int64_t logits_stride;
  const int64_t* targets;
  const float* lse;
  const float* onehot_coef;
  const float* softmax_coef;
  void* out;  // may be `logits` with the same stride
  int64_t out_stride;
  Transform transform;
  int threads;
};

}  // namespace fastpref
