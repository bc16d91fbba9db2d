// Online log-sum-exp: a sum of exponentials relative to a reference, s = sum exp(z - m), and its two companions, on the CPU and on a GPU.
// The reference need not be the maximum, only finite and so close to it that s neither overflows nor vanishes.
#pragma once

#include <math.h>

#include "function.h"

namespace fastpref {

struct LogSum {
  float m;        // -inf while nothing finite was seen (then s is 0)
  double s;       // NaN once anything made the sum undefined
  double s2 = 0;  // sum exp(2 (z - m)), where it was asked for
  double sd = 0;  // sum exp(z - m) (z - m), where it was asked for
};

// What the three sums become when their reference moves: step = m_before - m, factor = exp(step). A step so far down that factor is 0 may be given as
// any other that far down, which keeps 0 * -inf away.
template <typename T>
FASTPREF_FN void move_reference(T step, T factor, T* s, T* s2, T* sd) {
  *sd = factor * (*sd + step * *s);
  *s2 *= factor * factor;
  *s *= factor;
}

// The same sums relative to another finite reference.
FASTPREF_FN void rebase(LogSum* sum, float m) {
  if (sum->s == 0.0) {  // nothing in it: there may be no old reference to come from
    sum->m = m;
    return;
  }
  const double step = static_cast<double>(sum->m) - m;
  move_reference(step, exp(step), &sum->s, &sum->s2, &sum->sd);
  sum->m = m;
}

// Moves the reference to the log-sum-exp itself, rounded, which leaves s within a rounding of 1 and so lets fp32 hold
// it without losing digits of log s. The logarithm need not be exact: s is rescaled by the step actually taken.
FASTPREF_FN void normalise(LogSum* sum) {
  if (sum->s > 0.0) rebase(sum, sum->m + static_cast<float>(log(sum->s)));
}

}  // namespace fastpref
