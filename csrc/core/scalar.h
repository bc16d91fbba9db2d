// Scalar functions of the objective heads, for float and double, host and device; each accurate at any argument, so
// that a head needs no case of its own for large margins.
#pragma once

#include <math.h>

#include "function.h"

namespace fastpref {

// The C functions by precision: no overload set of the C++ library is used (see function.h).
#define FASTPREF_SCALAR(name)                                     \
  FASTPREF_FN float scalar_##name(float x) { return name##f(x); } \
  FASTPREF_FN double scalar_##name(double x) { return name(x); }
FASTPREF_SCALAR(exp)
FASTPREF_SCALAR(log)
FASTPREF_SCALAR(log1p)
FASTPREF_SCALAR(expm1)
FASTPREF_SCALAR(sqrt)
#undef FASTPREF_SCALAR

template <typename T>
FASTPREF_FN T scalar_abs(T x) {
  return x < T(0) ? -x : x;
}

template <typename T>
FASTPREF_FN T scalar_sign(T x) {
  return x > T(0) ? T(1) : x < T(0) ? T(-1) : T(0);
}

template <typename T>
FASTPREF_FN T scalar_min(T a, T b) {
  return b < a ? b : a;
}

template <typename T>
FASTPREF_FN T scalar_max(T a, T b) {
  return b > a ? b : a;
}

// 1 / (1 + e^-x); the exponent is never positive.
template <typename T>
FASTPREF_FN T scalar_sigmoid(T x) {
  const T e = scalar_exp(-scalar_abs(x));
  return x < T(0) ? e / (T(1) + e) : T(1) / (T(1) + e);
}

// log sigmoid(x) = min(x, 0) - log(1 + e^-|x|).
template <typename T>
FASTPREF_FN T scalar_log_sigmoid(T x) {
  return scalar_min(x, T(0)) - scalar_log1p(scalar_exp(-scalar_abs(x)));
}

}  // namespace fastpref
