// Sixteen fp32 lanes of AVX-512 (F, BW, DQ, VL). See vec_math.h for what a Vec has to offer.
#pragma once

#include <immintrin.h>

#include "../core/dtype.h"

namespace fastpref {
namespace avx512 {

struct Vec {
  __m512 v;
};
constexpr int kLanes = 16;

FASTPREF_FN Vec set1(float x) { return {_mm512_set1_ps(x)}; }
FASTPREF_FN Vec add(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
FASTPREF_FN Vec sub(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
FASTPREF_FN Vec mul(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
FASTPREF_FN Vec div(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
FASTPREF_FN Vec fmadd(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
FASTPREF_FN Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
FASTPREF_FN Vec select_less(Vec a, Vec b, Vec yes, Vec no) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), no.v, yes.v)};
}
FASTPREF_FN Vec abs(Vec a) { return {_mm512_andnot_ps(_mm512_set1_ps(-0.0f), a.v)}; }
FASTPREF_FN Vec copysign(Vec magnitude, Vec sign) {
  const __m512 bit = _mm512_set1_ps(-0.0f);
  return {_mm512_or_ps(_mm512_andnot_ps(bit, magnitude.v), _mm512_and_ps(bit, sign.v))};
}
FASTPREF_FN float reduce_add(Vec a) { return _mm512_reduce_add_ps(a.v); }
FASTPREF_FN float reduce_max(Vec a) { return _mm512_reduce_max_ps(a.v); }

// vscalefps takes floor(y) itself, and gives 0 at -inf and inf at +inf.
using Exponent = Vec;
FASTPREF_FN Exponent split_exponent(Vec y, Vec* fraction) {
  fraction->v = _mm512_reduce_ps(y.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  return y;
}
FASTPREF_FN Vec scale_by_exponent(Vec p, Exponent e) { return {_mm512_scalef_ps(p.v, e.v)}; }

FASTPREF_FN void load2(const float* x, Vec* a, Vec* b) {
  a->v = _mm512_loadu_ps(x);
  b->v = _mm512_loadu_ps(x + 16);
}
FASTPREF_FN void store2(float* x, Vec a, Vec b) {
  _mm512_storeu_ps(x, a.v);
  _mm512_storeu_ps(x + 16, b.v);
}

FASTPREF_FN void load2(const BFloat16* x, Vec* a, Vec* b) {
  const __m512i pairs = _mm512_loadu_si512(x);
  a->v = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
  b->v = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
}
// Rounded in the upper half of each lane, ties away from zero: one addition, where ties to even would take four.
FASTPREF_FN __m512i rounded_to_bf16(__m512 v) {
  return _mm512_add_epi32(_mm512_castps_si512(v), _mm512_set1_epi32(0x8000));
}
FASTPREF_FN __m512i packed_to_bf16(Vec a, Vec b) {
  const __m512i even = _mm512_srli_epi32(rounded_to_bf16(a.v), 16);
  return _mm512_mask_blend_epi16(0xaaaaaaaau, even, rounded_to_bf16(b.v));
}
FASTPREF_FN void store2(BFloat16* x, Vec a, Vec b) { _mm512_storeu_si512(x, packed_to_bf16(a, b)); }

FASTPREF_FN void load2(const Float16* x, Vec* a, Vec* b) {
  a->v = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)));
  b->v = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + 16)));
}
FASTPREF_FN void store2(Float16* x, Vec a, Vec b) {
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(x), _mm512_cvtps_ph(a.v, kNearest));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(x + 16), _mm512_cvtps_ph(b.v, kNearest));
}

FASTPREF_FN void stream2(float* x, Vec a, Vec b) {
  _mm512_stream_ps(x, a.v);
  _mm512_stream_ps(x + 16, b.v);
}
FASTPREF_FN void stream2(BFloat16* x, Vec a, Vec b) {
  _mm512_stream_si512(reinterpret_cast<__m512i*>(x), packed_to_bf16(a, b));
}
FASTPREF_FN void stream2(Float16* x, Vec a, Vec b) {
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  const __m512i low = _mm512_castsi256_si512(_mm512_cvtps_ph(a.v, kNearest));
  _mm512_stream_si512(reinterpret_cast<__m512i*>(x), _mm512_inserti64x4(low, _mm512_cvtps_ph(b.v, kNearest), 1));
}
FASTPREF_FN void stream_fence() { _mm_sfence(); }

}  // namespace avx512
}  // namespace fastpref
