// A preference loss from given logits on the CPU: everything of its forward pass in one call.
#pragma once

#include "../core/preference.h"
#include "kernels.h"

namespace fastpref {

// A row that a loss cannot be computed from, the first of its kind.
struct BadRow {
  enum What {
    kNone,
    kTarget,
    kPolicy,
    kReference
  } what;  // a target outside the vocabulary; a NaN log-prob of either side
  int64_t row;
};

// Statistics of policy and reference by `rows` in one sweep on so many threads, then log-probs, sums, the head, coefficients
// and the loss on one: a few bytes per token, where the logits were a few hundred thousand. `workspace` of the arguments is not
// looked at. With a bad target nothing is computed.
BadRow preference_forward(const PreferenceArgs& args, const RowKernels& rows, int threads);

}  // namespace fastpref
