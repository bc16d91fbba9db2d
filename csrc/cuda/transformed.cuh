// z(x) of one logit and its slope on the device; ../core/transform.h holds the formula and its constants.
//
// Which of the three it is is known when a kernel is compiled, so that plain logits pay for neither of the others. A row's own inverse temperature
// goes into the transform where a block starts on the row (scaled_by). z is a rounded product: nothing that follows it is fused with it, so that
// the z of a maximum, of a target and of a sum are one number.
#pragma once

#include "../core/math_constants.h"
#include "../core/transform.h"
#include "device.h"

namespace fastpref {

enum class TransformKind { kIdentity, kScale, kSoftcap };

// On the host: the plainest kind that a transform is. `per_row`: rows have factors of their own.
inline TransformKind kind_of(const Transform& t, bool per_row) {
  if (t.has_softcap) return TransformKind::kSoftcap;
  return t.scale == 1.0f && !per_row ? TransformKind::kIdentity : TransformKind::kScale;
}

// tanh(u), to a few ulp at any u, infinities and NaN included. `slope` gets 1 - tanh(u)^2, to as many.
FASTPREF_DEVICE float tanh_and_slope(float u, float* slope) {
  const float e = exp2_fast(fabsf(u) * (-2.0f * kLog2E));  // exp(-2 |u|) <= 1: nothing overflows
  const float far = quotient(1.0f - e, 1.0f + e);
  const float s = u * u;  // 1 - e cancels near 0: there a polynomial takes over
  const float near = kTanhP0 + s * (kTanhP1 + s * (kTanhP2 + s * (kTanhP3 + s * (kTanhP4 + s * kTanhP5))));
  *slope = quotient(4.0f * e, (1.0f + e) * (1.0f + e));
  return fabsf(u) < kTanhSmall ? u + u * s * near : copysignf(far, u);
}

// z(x); `slope` gets dz/dx over t.scale, its value at 0.
template <TransformKind kKind>
FASTPREF_DEVICE float transformed(const Transform& t, float x, float* slope) {
  *slope = 1.0f;
  if constexpr (kKind == TransformKind::kSoftcap)
    return product(tanh_and_slope(product(x, t.cap_in), slope), t.cap_out);
  if constexpr (kKind == TransformKind::kScale) return product(x, t.scale);
  return x;
}

template <TransformKind kKind>
FASTPREF_DEVICE float transformed(const Transform& t, float x) {
  float slope;
  return transformed<kKind>(t, x, &slope);
}

}  // namespace fastpref
