// Online log-sum-exp: a sum of exponentials relative to a reference, s = sum exp(z - m).
// The reference need not be the maximum, only finite and so close to it that s neither overflows nor vanishes.
#pragma once

#include <math.h>

#include "function.h"

namespace fastpref {

struct LogSum {
  float m;   // -inf while nothing finite was seen (then s is 0)
  double s;  // NaN once anything made the sum undefined
};

// The same sum relative to another finite reference.
FASTPREF_FN void rebase(LogSum* sum, float m) {
  sum->s *= exp(static_cast<double>(sum->m) - m);  // 0 * exp(-inf) for a sum with nothing in it
  sum->m = m;
}

// Moves the reference to the log-sum-exp itself, rounded, which leaves s within a rounding of 1 and so lets fp32 hold
// it without losing digits of log s. The logarithm need not be exact: s is rescaled by the step actually taken.
FASTPREF_FN void normalise(LogSum* sum) {
  if (sum->s > 0.0) rebase(sum, sum->m + static_cast<float>(log(sum->s)));
}

}  // namespace fastpref
