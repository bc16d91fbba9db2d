// Storage types of logits and their exact conversions from and to fp32 (round to nearest even, NaN stays NaN).
// The 16-bit types are bare bits, so that no compiler support and no torch header is needed.
#pragma once

#include <stdint.h>
#include <string.h>

#include "function.h"

namespace fastpref {

enum class DType : int { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2 };

struct BFloat16 {
  uint16_t bits;
};

struct Float16 {
  uint16_t bits;
};

FASTPREF_FN uint32_t float_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

FASTPREF_FN float float_from_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

FASTPREF_FN float to_float(float x) { return x; }

FASTPREF_FN float to_float(BFloat16 x) { return float_from_bits(static_cast<uint32_t>(x.bits) << 16); }

FASTPREF_FN float to_float(Float16 x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(x.bits & 0x7fffu) << 13;
  uint32_t bits;
  if (magnitude >= 0x0f800000u) {  // inf and NaN keep an all-ones exponent
    bits = magnitude + 0x70000000u;
  } else if (magnitude >= 0x00800000u) {  // normal: rebias the exponent from 15 to 127
    bits = magnitude + 0x38000000u;
  } else {  // subnormal: put the digits under 2^-14 and subtract it, which normalises without meeting an fp32 subnormal
    bits = float_bits(float_from_bits(magnitude + 0x38800000u) - float_from_bits(0x38800000u));
  }
  return float_from_bits(sign | bits);
}

FASTPREF_FN void from_float(float x, float* out) { *out = x; }

FASTPREF_FN void from_float(float x, BFloat16* out) {
  const uint32_t bits = float_bits(x);
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  out->bits = static_cast<uint16_t>((is_nan ? bits | 0x00400000u : bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

FASTPREF_FN void from_float(float x, Float16* out) {
  const uint32_t bits = float_bits(x);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u;
  } else if (magnitude >= 0x47800000u) {  // 65536 and more
    half = 0x7c00u;
  } else if (magnitude >= 0x38800000u) {  // normal; a carry out of the mantissa rounds up to the next power or to inf
    half = (magnitude - 0x38000000u + 0x0fffu + ((magnitude >> 13) & 1u)) >> 13;
  } else {  // subnormal: adding 0.5 makes the fp32 adder round at 2^-24, the spacing of these numbers
    half = float_bits(float_from_bits(magnitude) + 0.5f) - float_bits(0.5f);
  }
  out->bits = static_cast<uint16_t>(sign | half);
}

}  // namespace fastpref
