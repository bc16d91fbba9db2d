// Arguments of the row primitives (fastpref/backends/base.py holds their contract). Plain data: no owner, no torch
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
  const float* inv_temperature;  // a row's own factor on z, positive; null where no row has one
  float* m;                      // running reference, updated
  float* s;                      // running sum exp(z - m), updated
  float* zt;                     // z of the target, written where the chunk holds it
  // Null where not asked for:
  float* s2;        // running sum exp(2 (z - m)), updated
  float* sd;        // running sum exp(z - m) (z - m), updated
  float* total;     // running sum z, updated
  float* top;       // largest logit so far (negated where z falls with it), updated
  int64_t* argmax;  // its column, updated; null exactly where top is
  Transform transform;
  int threads;
  // On a GPU only; the CPU's kernels are never given any:
  const void* bias;  // [cols] of bias_dtype, added to the logits before their transform; null: none
  DType bias_dtype;
};

struct RowGradArgs {
  DType dtype;
  int64_t rows, cols, col0;
  const void* logits;
  int64_t logits_stride;
  const int64_t* targets;
  const float* inv_temperature;  // a row's own factor on z, positive; null where no row has one
  const float* lse;
  const float* onehot_coef;
  const float* softmax_coef;
  void* out;  // of out_dtype; may be `logits` with the same stride and dtype
  int64_t out_stride;
  Transform transform;
  int threads;
  DType out_dtype;  // `dtype`, or where that is fp32 any
  // On a GPU only; the CPU's kernels are never given any, nor an out_dtype that is not dtype:
  const float* gain;  // one element, a factor on both coefficients; null: 1
  const void* bias;   // [cols] of bias_dtype, added to the logits before their transform; null: none
  DType bias_dtype;
};

// Both rows of a divergence; `policy` and `reference` differ in logits, stride and state only.
struct RowKlStatsArgs {
  int64_t rows, cols;
  RowStatsArgs policy, reference;
  float* cross;  // running sum exp(a - m_a) ((a - m_a) - (b - m_b)), updated
  bool forward;  // the reference measures (a), the policy is the other (b); else the other way round
  int threads;
};

struct RowKlGradArgs {
  int64_t rows, cols;
  RowGradArgs policy;
  const void* ref_logits;
  int64_t ref_logits_stride;
  const float* ref_lse;
  const float* kl;
  const float* kl_coef;
  bool forward;
  int threads;
};

}  // namespace fastpref
