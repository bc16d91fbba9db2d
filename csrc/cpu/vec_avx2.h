// Eight fp32 lanes of AVX2 with FMA and F16C. See vec_math.h for what a Vec has to offer.
#pragma once

#include <immintrin.h>

#include "../core/dtype.h"

namespace fastpref {
namespace avx2 {

struct Vec {
  __m256 v;
};
constexpr int kLanes = 8;

FASTPREF_FN Vec set1(float x) { return {_mm256_set1_ps(x)}; }
FASTPREF_FN Vec add(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
FASTPREF_FN Vec sub(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
FASTPREF_FN Vec mul(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
FASTPREF_FN Vec div(Vec a, Vec b) { return {_mm256_div_ps(a.v, b.v)}; }
FASTPREF_FN Vec fmadd(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
FASTPREF_FN Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.v, b.v)}; }
FASTPREF_FN Vec select_less(Vec a, Vec b, Vec yes, Vec no) {
  return {_mm256_blendv_ps(no.v, yes.v, _mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ))};
}
FASTPREF_FN Vec abs(Vec a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)}; }
FASTPREF_FN Vec copysign(Vec magnitude, Vec sign) {
  const __m256 bit = _mm256_set1_ps(-0.0f);
  return {_mm256_or_ps(_mm256_andnot_ps(bit, magnitude.v), _mm256_and_ps(bit, sign.v))};
}
FASTPREF_FN float reduce_add(Vec a) {
  __m128 r = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  r = _mm_add_ps(r, _mm_movehl_ps(r, r));
  return _mm_cvtss_f32(_mm_add_ss(r, _mm_movehdup_ps(r)));
}
FASTPREF_FN float reduce_max(Vec a) {
  __m128 r = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  r = _mm_max_ps(r, _mm_movehl_ps(r, r));
  return _mm_cvtss_f32(_mm_max_ss(r, _mm_movehdup_ps(r)));
}

// The clamp keeps the exponent field within [0, 255]: 0 is the factor 0 (results below 2^-126 flush to zero), 255 is
// inf. Its operand order lets a NaN through.
using Exponent = __m256i;
FASTPREF_FN Exponent split_exponent(Vec y, Vec* fraction) {
  const __m256 clamped = _mm256_min_ps(_mm256_set1_ps(128.0f), _mm256_max_ps(_mm256_set1_ps(-127.0f), y.v));
  const __m256 n = _mm256_floor_ps(clamped);
  fraction->v = _mm256_sub_ps(clamped, n);
  return _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
}
FASTPREF_FN Vec scale_by_exponent(Vec p, Exponent e) { return {_mm256_mul_ps(p.v, _mm256_castsi256_ps(e))}; }

FASTPREF_FN void load2(const float* x, Vec* a, Vec* b) {
  a->v = _mm256_loadu_ps(x);
  b->v = _mm256_loadu_ps(x + 8);
}
FASTPREF_FN void store2(float* x, Vec a, Vec b) {
  _mm256_storeu_ps(x, a.v);
  _mm256_storeu_ps(x + 8, b.v);
}

FASTPREF_FN void load2(const BFloat16* x, Vec* a, Vec* b) {
  const __m256i pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
  a->v = _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
  b->v = _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
}
// Rounded in the upper half of each lane, ties away from zero: one addition, where ties to even would take four.
FASTPREF_FN __m256i rounded_to_bf16(__m256 v) {
  return _mm256_add_epi32(_mm256_castps_si256(v), _mm256_set1_epi32(0x8000));
}
FASTPREF_FN __m256i packed_to_bf16(Vec a, Vec b) {
  const __m256i even = _mm256_srli_epi32(rounded_to_bf16(a.v), 16);
  return _mm256_blend_epi16(even, rounded_to_bf16(b.v), 0xaa);
}
FASTPREF_FN void store2(BFloat16* x, Vec a, Vec b) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(x), packed_to_bf16(a, b));
}

FASTPREF_FN void load2(const Float16* x, Vec* a, Vec* b) {
  a->v = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x)));
  b->v = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x + 8)));
}
FASTPREF_FN void store2(Float16* x, Vec a, Vec b) {
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  _mm_storeu_si128(reinterpret_cast<__m128i*>(x), _mm256_cvtps_ph(a.v, kNearest));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(x + 8), _mm256_cvtps_ph(b.v, kNearest));
}

FASTPREF_FN void stream2(float* x, Vec a, Vec b) {
  _mm256_stream_ps(x, a.v);
  _mm256_stream_ps(x + 8, b.v);
}
FASTPREF_FN void stream2(BFloat16* x, Vec a, Vec b) {
  _mm256_stream_si256(reinterpret_cast<__m256i*>(x), packed_to_bf16(a, b));
}
FASTPREF_FN void stream2(Float16* x, Vec a, Vec b) {
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  _mm_stream_si128(reinterpret_cast<__m128i*>(x), _mm256_cvtps_ph(a.v, kNearest));
  _mm_stream_si128(reinterpret_cast<__m128i*>(x + 8), _mm256_cvtps_ph(b.v, kNearest));
}
FASTPREF_FN void stream_fence() { _mm_sfence(); }

}  // namespace avx2
}  // namespace fastpref
