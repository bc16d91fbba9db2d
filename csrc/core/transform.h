// z(x) = softcap * tanh(logit_scale * x / softcap) / temperature, or logit_scale * x / temperature without a softcap,
// with its constants folded to fp32.
#pragma once

#include <math.h>

#include "function.h"

namespace fastpref {

struct Transform {
  bool has_softcap;
  float scale;    // dz/dx at x = 0: logit_scale / temperature
  float cap_in;   // logit_scale / softcap
  float cap_out;  // softcap / temperature
};

FASTPREF_FN Transform make_transform(double logit_scale, bool has_softcap, double softcap, double temperature) {
  Transform t;
  t.has_softcap = has_softcap;
  t.scale = static_cast<float>(logit_scale / temperature);
  t.cap_in = has_softcap ? static_cast<float>(logit_scale / softcap) : 0.0f;
  t.cap_out = has_softcap ? static_cast<float>(softcap / temperature) : 0.0f;
  return t;
}

// z times a positive factor: the transform of a row that has an inverse temperature of its own.
FASTPREF_FN Transform scaled_by(Transform t, float factor) {
  t.scale *= factor;
  t.cap_out *= factor;
  return t;
}

// dz/dx of one logit, in double.
FASTPREF_FN double transform_derivative(const Transform& t, float x) {
  if (!t.has_softcap) return t.scale;
  const double c = cosh(static_cast<double>(x) * t.cap_in);  // 1 - tanh^2 without cancellation; inf far out gives 0
  return t.scale / (c * c);
}

}  // namespace fastpref
