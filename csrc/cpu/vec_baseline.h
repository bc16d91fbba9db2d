// Four fp32 lanes in the vector extension of GCC and Clang: SSE2 on x86-64, NEON on arm64, plain code elsewhere.
// See vec_math.h for what a Vec has to offer. fp16 is converted lane by lane: SSE2 has no instruction for it.
#pragma once

#include <string.h>
#if defined(__SSE2__)
  #include <emmintrin.h>
#endif

#include "../core/dtype.h"

namespace fastpref {
namespace baseline {

typedef float Float4 __attribute__((vector_size(16)));
typedef int32_t Int4 __attribute__((vector_size(16)));
typedef uint32_t UInt4 __attribute__((vector_size(16)));

struct Vec {
  Float4 v;
};
constexpr int kLanes = 4;

FASTPREF_FN Vec set1(float x) { return {Float4{x, x, x, x}}; }
FASTPREF_FN Vec add(Vec a, Vec b) { return {a.v + b.v}; }
FASTPREF_FN Vec sub(Vec a, Vec b) { return {a.v - b.v}; }
FASTPREF_FN Vec mul(Vec a, Vec b) { return {a.v * b.v}; }
FASTPREF_FN Vec div(Vec a, Vec b) { return {a.v / b.v}; }
FASTPREF_FN Vec fmadd(Vec a, Vec b, Vec c) { return {a.v * b.v + c.v}; }
FASTPREF_FN Vec select(Int4 mask, Vec yes, Vec no) { return {(Float4)(((Int4)yes.v & mask) | ((Int4)no.v & ~mask))}; }
FASTPREF_FN Vec select_less(Vec a, Vec b, Vec yes, Vec no) { return select((Int4)(a.v < b.v), yes, no); }
FASTPREF_FN Vec max(Vec a, Vec b) { return select((Int4)(a.v > b.v), a, b); }
FASTPREF_FN Vec abs(Vec a) { return {(Float4)((Int4)a.v & 0x7fffffff)}; }
FASTPREF_FN Vec copysign(Vec magnitude, Vec sign) { return select(Int4{} + 0x7fffffff, magnitude, sign); }
FASTPREF_FN float reduce_add(Vec a) { return (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]); }
FASTPREF_FN float reduce_max(Vec a) {
  const float low = a.v[0] > a.v[2] ? a.v[0] : a.v[2], high = a.v[1] > a.v[3] ? a.v[1] : a.v[3];
  return low > high ? low : high;
}

// The clamp keeps the exponent field within [0, 255]: 0 is the factor 0 (results below 2^-126 flush to zero), 255 is
// inf. Comparing y with the bounds, in this order, lets a NaN through. Without a floor instruction, adding and
// subtracting 1.5 * 2^23 rounds y - 1/2 to an integer; a tie may give the integer below, with a fraction of 1.
using Exponent = Int4;
FASTPREF_FN Exponent split_exponent(Vec y, Vec* fraction) {
  const Vec low = set1(-126.75f), high = set1(128.0f);
  const Vec clamped = select_less(high, y, high, select_less(y, low, low, y));
  const Float4 shifted = clamped.v - 0.5f + 12582912.0f;
  fraction->v = clamped.v - (shifted - 12582912.0f);
  return ((Int4)shifted + (127 - 0x4b400000)) << 23;  // the low bits of `shifted` are the integer itself
}
FASTPREF_FN Vec scale_by_exponent(Vec p, Exponent e) { return {p.v * (Float4)e}; }

FASTPREF_FN void load2(const float* x, Vec* a, Vec* b) {
  memcpy(&a->v, x, sizeof a->v);
  memcpy(&b->v, x + 4, sizeof b->v);
}
FASTPREF_FN void store2(float* x, Vec a, Vec b) {
  memcpy(x, &a.v, sizeof a.v);
  memcpy(x + 4, &b.v, sizeof b.v);
}

FASTPREF_FN void load2(const BFloat16* x, Vec* a, Vec* b) {  // even and odd elements on a little-endian machine
  UInt4 pairs;
  memcpy(&pairs, x, sizeof pairs);
  a->v = (Float4)(pairs << 16);
  b->v = (Float4)(pairs & 0xffff0000u);
}
// Rounded in the upper half of each lane, ties away from zero: one addition, where ties to even would take four.
FASTPREF_FN UInt4 rounded_to_bf16(Float4 v) { return (UInt4)v + 0x8000u; }
FASTPREF_FN void store2(BFloat16* x, Vec a, Vec b) {
  const UInt4 pairs = (rounded_to_bf16(a.v) >> 16) | (rounded_to_bf16(b.v) & 0xffff0000u);
  memcpy(x, &pairs, sizeof pairs);
}

FASTPREF_FN void load2(const Float16* x, Vec* a, Vec* b) {
  a->v = Float4{to_float(x[0]), to_float(x[1]), to_float(x[2]), to_float(x[3])};
  b->v = Float4{to_float(x[4]), to_float(x[5]), to_float(x[6]), to_float(x[7])};
}
FASTPREF_FN void store2(Float16* x, Vec a, Vec b) {
  for (int i = 0; i < 4; i++) {
    from_float(a.v[i], x + i);
    from_float(b.v[i], x + 4 + i);
  }
}

#if defined(__SSE2__)
FASTPREF_FN void stream2(float* x, Vec a, Vec b) {
  _mm_stream_ps(x, (__m128)a.v);
  _mm_stream_ps(x + 4, (__m128)b.v);
}
template <class T>
FASTPREF_FN void stream2(T* x, Vec a, Vec b) {
  T packed[8];
  store2(packed, a, b);
  _mm_stream_si128(reinterpret_cast<__m128i*>(x), _mm_loadu_si128(reinterpret_cast<const __m128i*>(packed)));
}
FASTPREF_FN void stream_fence() { _mm_sfence(); }
#else  // no such store that every compiler has
template <class T>
FASTPREF_FN void stream2(T* x, Vec a, Vec b) {
  store2(x, a, b);
}
FASTPREF_FN void stream_fence() {}
#endif

}  // namespace baseline
}  // namespace fastpref
