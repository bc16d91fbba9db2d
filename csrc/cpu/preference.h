// A preference loss from given logits on the CPU: everything of its forward pass in one call.
#pragma once

#include "../core/preference.h"
#include "kernels.h"

namespace fastpref {

// Statistics of policy and reference by `rows` on so many threads, then log-probs, sums, the head, coefficients and the loss on one: a few bytes per token,
// where the logits were a few hundred thousand. `workspace` of the arguments is not looked at.
void preference_forward(const PreferenceArgs& args, const RowKernels& rows, int threads);

}  // namespace fastpref
