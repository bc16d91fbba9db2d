// A preference loss from given logits: what its forward pass is told and what it leaves, on the CPU and on a GPU. Plain data: no owner, no torch type.
#pragma once

#include <stdint.h>

#include "dtype.h"
#include "transform.h"

namespace fastpref {

// One number per index, of any of these types; null values: not given.
enum class NumberType : int {
  kFloat32 = 0,
  kBFloat16 = 1,
  kFloat16 = 2,
  kFloat64 = 3,
  kUInt8 = 4,
  kInt32 = 5,
  kInt64 = 6
};

struct Numbers {
  const void* values;
  NumberType type;
};

// What is known of the reference.
enum class ReferenceForm : int { kNone = 0, kLogits = 1, kTokens = 2, kSequences = 3 };

constexpr int kMostData = 5;
constexpr int kMostHyper = 6;

// T rows of V logits that belong to K packed sequences. An item is a pair of sequences (chosen k, rejected k + K / 2), a sequence, or with a
// token head a sequence too, whose tokens have a loss each. "In" arrays may be read by any block, "out" arrays are written once.
struct PreferenceArgs {
  DType dtype;
  int64_t rows, cols;
  const void* logits;  // [T, V], contiguous rows
  int64_t logits_stride;
  const void* ref_logits;  // the same of the reference; null without
  int64_t ref_logits_stride;
  const int64_t* targets;     // [T]; one outside the vocabulary gives NaN
  int64_t ignored;            // the target of rows that are not read
  const int32_t* cu_seqlens;  // [K + 1], from 0 to T
  int32_t sequences;
  const float* inv_temperature;  // [T], or null: a row's own factor on z
  Transform transform;

  ReferenceForm reference_form;
  Numbers reference;        // [T] or [K] log-probs, where it is precomputed
  Numbers weights;          // [T], in the sequence sums
  int head;                 // its HeadId
  Numbers data[kMostData];  // [K]; of a token head [T], or [K] where the bit of `by_sequence` is set
  uint32_t by_sequence;
  int own;                   // the datum that is the policy's own log-prob; -1: none
  double hyper[kMostHyper];  // the first `hyper_count` are numbers of the loss
  int hyper_count;
  Numbers number;    // one element: the number of the whole call that the head reads after those; not of a token head
  Numbers divisors;  // [K], of a token head
  double reward_scale;

  float* loss;       // one element
  double* losses;    // [items]
  double* sums;      // [2, K]: sequence log-probs of policy and reference
  double* rewards;   // [K]: reward_scale * (policy - reference); null: not wanted
  double* margins;   // [K / 2]: of pairs, chosen less rejected; null: not wanted
  float* lse;        // [T], as the following; 0 on ignored rows
  float* logps;      //
  float* ref_logps;  // null without logits of the reference
  float* coef;       // derivative of the loss with respect to logps
  void* workspace;   // aligned to 16 bytes, as large as `workspace` says; its content does not matter
};

// A head of objective_heads.h; names with commas between them.
struct HeadNames {
  const char* name;
  const char* kind;  // pair, sequence or token
  const char* data;
  const char* hyper;
  const char* number;
  const char* variants;
};

}  // namespace fastpref
