// A linear head on a GPU: statistics with no logit in memory, what turns a tile of logits into its gradient, and rows times a factor.
//
// Plain data as in ../core/rows.h: strides count elements, last dimensions are contiguous, per-row arrays too. A negative target marks an ignored row.
#pragma once

#include "../core/rows.h"
#include "api.h"

namespace fastpref {

// Columns of kept exponentials that share a reference.
constexpr int kKeptSlot = 64;

// Both operands have `dtype`, a 16-bit one; their columns are the whole vocabulary.
struct LinearStatsArgs {
  DType dtype;
  int64_t rows, columns, width;  // T, V, H
  const void* hidden;            // [T, H]
  int64_t hidden_stride;
  const void* weight;  // [V, H]
  int64_t weight_stride;
  const float* bias;  // [V]; null where there is none
  const int64_t* targets;
  const float* inv_temperature;  // a row's own factor on z, positive; null where no row has one
  Transform transform;
  int64_t segment;  // columns that one block goes over, a multiple of 256
  float* parts;     // scratch: [linear_stats_fields, segments, T]
  float* m;         // the state, as in RowStatsArgs
  float* s;
  float* zt;
  // Null where not asked for:
  float* s2;
  float* sd;
  float* total;
  float* top;
  int64_t* argmax;    // null exactly where top is
  void* kept;         // [T, kept_stride]: exponentials of `dtype` where there are references, else raw logits in fp32
  float* references;  // [T, kept_stride / kKeptSlot]: what the exponentials are relative to
  int64_t kept_stride;
};

// Words per row and segment in LinearStatsArgs::parts.
constexpr int64_t linear_stats_fields(bool s2, bool others) { return others ? 7 : s2 ? 3 : 2; }

// The gradient of columns [col0, col0 + columns) of all logits, from the logits or from what was kept of them.
struct TileGradArgs {
  DType dtype;  // of the gradient, a 16-bit one, and of kept exponentials
  int64_t rows, columns, col0;
  const void* values;  // [T, columns] raw logits in fp32; with references [T, columns] exponentials of `dtype`
  int64_t values_stride;
  const float* references;  // [T, ...], of the whole vocabulary; null for logits
  int64_t references_stride;
  const float* bias;  // [columns], to be added to logits; null where there is none
  const int64_t* targets;
  const float* inv_temperature;  // as above
  const float* lse;
  const float* logps;  // of the targets, exact where the exponentials are rounded; null: from the logits
  const float* onehot_coef;
  const float* softmax_coef;
  void* out;  // [T, columns]
  int64_t out_stride;
  const float* factor;  // [T], null exactly where db is
  float* db;            // [ceil(T / 64), columns]: column sums of factor * out over 64 rows each; null where not wanted
  Transform transform;  // its constant slope is in the coefficients
};

struct ScaleRowsArgs {
  DType dtype, out_dtype;
  int64_t rows, width;
  const void* x;  // [T, H]
  int64_t x_stride;
  const float* factor;  // [T]
  void* out;            // [T, H]; may be x with the same dtype and stride
  int64_t out_stride;
};

struct CudaLinearApi {
  CudaStatus (*stats)(const CudaLaunch&, const LinearStatsArgs&);
  CudaStatus (*grad)(const CudaLaunch&, const TileGradArgs&);
  CudaStatus (*scale_rows)(const CudaLaunch&, const ScaleRowsArgs&);
};

const CudaLinearApi* cuda_linear_api();

}  // namespace fastpref
