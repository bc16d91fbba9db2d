// Matrices in AMX tiles, and their product. A matrix of fp32, fp16 or bf16 is held as a sum of bf16 planes (3, 2 or 1 of
// them, which is exact for 16-bit types and leaves 2^-24 of fp32), so that one bf16 instruction serves every mix of
// operand types: the product of two matrices is the sum of the products of their planes, small ones first, in fp32.
//
// A tile is 1024 bytes: 16 rows of 64 bytes. Left operands have 16 rows x 32 k; right operands 16 pairs of k x 16 columns
// x 2 (VNNI). A *strip* is 16 rows (left) or 16 columns (right) over the whole of k: tiles [k / 32][plane]. Everything is
// padded with zeros to whole strips in pairs, that is to multiples of 32.
#pragma once

#include <immintrin.h>

#include "vec_avx512.h"

namespace fastpref {
namespace amx {

constexpr int kEdge = 32;        // rows and columns of a block of four tiles
constexpr int64_t kTile = 1024;  // bytes
constexpr int kMaxPlanes = 3;

FASTPREF_FN int64_t blocks_of(int64_t n) { return (n + kEdge - 1) / kEdge; }
FASTPREF_FN int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
FASTPREF_FN int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// Bytes of a pair of strips.
FASTPREF_FN int64_t pair_bytes(int64_t k_blocks, int planes) { return 2 * k_blocks * planes * kTile; }

FASTPREF_FN int planes_of(DType type) { return type == DType::kFloat32 ? 3 : type == DType::kFloat16 ? 2 : 1; }

// Two vectors of fp32 as planes of 32 bf16 (a first). The rest of an infinity is 0, not NaN.
template <int kPlanes>
FASTPREF_FN void split(__m512 a, __m512 b, __m512i out[kPlanes]) {
  for (int p = 0; p < kPlanes; p++) {
    out[p] = (__m512i)_mm512_cvtne2ps_pbh(b, a);
    if (p + 1 == kPlanes) break;
    const __m512 high_a =
        _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(out[p])), 16));
    const __m512 high_b =
        _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(out[p], 1)), 16));
    a = _mm512_sub_ps(a, high_a);
    b = _mm512_sub_ps(b, high_b);
    a = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, a, _CMP_ORD_Q), a);
    b = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(b, b, _CMP_ORD_Q), b);
  }
}

// 32 elements of a row as planes; those from n on are 0 and not read.
FASTPREF_FN void load_planes(const BFloat16* x, int64_t n, __m512i out[1]) {
  out[0] = n >= kEdge ? _mm512_loadu_si512(x) : _mm512_maskz_loadu_epi16((__mmask32)((1ull << n) - 1), x);
}
FASTPREF_FN void load_planes(const Float16* x, int64_t n, __m512i out[2]) {
  const __mmask32 mask = n >= kEdge ? 0xffffffffu : (__mmask32)((1ull << n) - 1);
  const __m512i halves = _mm512_maskz_loadu_epi16(mask, x);
  split<2>(_mm512_cvtph_ps(_mm512_castsi512_si256(halves)), _mm512_cvtph_ps(_mm512_extracti64x4_epi64(halves, 1)), out);
}
FASTPREF_FN void load_planes(const float* x, int64_t n, __m512i out[3]) {
  const __mmask32 mask = n >= kEdge ? 0xffffffffu : (__mmask32)((1ull << n) - 1);
  split<3>(_mm512_maskz_loadu_ps((__mmask16)mask, x), _mm512_maskz_loadu_ps((__mmask16)(mask >> 16), x + 16), out);
}

template <class T>
constexpr int planes_in();
template <>
constexpr int planes_in<BFloat16>() {
  return 1;
}
template <>
constexpr int planes_in<Float16>() {
  return 2;
}
template <>
constexpr int planes_in<float>() {
  return 3;
}

// 16 x 16 transpose of 32-bit elements.
FASTPREF_FN void transpose16(__m512i r[16]) {
  __m512i t[16];
  for (int i = 0; i < 8; i++) {
    t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
  for (int i = 0; i < 4; i++) {
    r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
  for (int i = 0; i < 4; i++) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
  }
  for (int i = 0; i < 8; i++) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
  }
}

// Interleaves two rows of 32 bf16: pairs (a, b) of elements 0-15, or of 16-31.
FASTPREF_FN __m512i interleave(__m512i a, __m512i b, bool upper) {
  alignas(64) static constexpr uint16_t kLow[32] = {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                                    8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
  const __m512i low = _mm512_load_si512(kLow);
  return _mm512_permutex2var_epi16(a, upper ? _mm512_add_epi16(low, _mm512_set1_epi16(16)) : low, b);
}

// Rows [row, row + 32) of x [rows, width] as a pair of left strips.
template <class T>
FASTPREF_FN void pack_left(const T* x, int64_t stride, int64_t row, int64_t rows, int64_t width, char* out) {
  constexpr int kPlanes = planes_in<T>();
  const int64_t k_blocks = blocks_of(width);
  for (int r = 0; r < kEdge; r++) {
    char* to = out + (r >> 4) * (k_blocks * kPlanes * kTile) + (r & 15) * 64;
    const T* from = x + (row + r) * stride;
    const bool real = row + r < rows;
    for (int64_t k = 0; k < k_blocks; k++) {
      __m512i planes[kPlanes];
      load_planes(real ? from + k * kEdge : x, real ? smaller(width - k * kEdge, kEdge) : 0, planes);
      for (int p = 0; p < kPlanes; p++) _mm512_store_si512(to + (k * kPlanes + p) * kTile, planes[p]);
    }
  }
}

// Rows [row, row + 32) of x [rows, width] as a pair of right strips whose columns are the rows and whose k is the width.
template <class T>
FASTPREF_FN void pack_right_rows(const T* x, int64_t stride, int64_t row, int64_t rows, int64_t width, char* out) {
  constexpr int kPlanes = planes_in<T>();
  const int64_t k_blocks = blocks_of(width);
  for (int half = 0; half < 2; half++) {
    for (int64_t k = 0; k < k_blocks; k++) {
      __m512i planes[kPlanes], r[kPlanes][16];
      for (int i = 0; i < 16; i++) {
        const int64_t at = row + 16 * half + i;
        const bool real = at < rows;
        load_planes(real ? x + at * stride + k * kEdge : x, real ? smaller(width - k * kEdge, kEdge) : 0, planes);
        for (int p = 0; p < kPlanes; p++) r[p][i] = planes[p];
      }
      char* to = out + (half * k_blocks + k) * kPlanes * kTile;
      for (int p = 0; p < kPlanes; p++) {
        transpose16(r[p]);
        for (int i = 0; i < 16; i++) _mm512_store_si512(to + p * kTile + i * 64, r[p][i]);
      }
    }
  }
}

// Rows [row, row + 32) of x [rows, width]: block `k` of every strip of a right operand whose k is the rows and whose
// columns are the width; out has all its pairs of strips, `k_blocks` long.
template <class T>
FASTPREF_FN void pack_right_columns(const T* x, int64_t stride, int64_t row, int64_t rows, int64_t width, int64_t k,
                                    int64_t k_blocks, char* out) {
  constexpr int kPlanes = planes_in<T>();
  for (int64_t column = 0; column < width; column += kEdge) {
    char* to = out + (column / 16) * k_blocks * kPlanes * kTile + k * kPlanes * kTile;
    const int64_t n = smaller(width - column, kEdge);
    for (int r = 0; r < kEdge; r += 2) {
      __m512i a[kPlanes], b[kPlanes];
      const int64_t at = row + r;
      load_planes(at < rows ? x + at * stride + column : x, at < rows ? n : 0, a);
      load_planes(at + 1 < rows ? x + (at + 1) * stride + column : x, at + 1 < rows ? n : 0, b);
      for (int p = 0; p < kPlanes; p++) {
        char* tile = to + p * kTile + (r / 2) * 64;
        _mm512_store_si512(tile, interleave(a[p], b[p], false));
        _mm512_store_si512(tile + k_blocks * kPlanes * kTile, interleave(a[p], b[p], true));
      }
    }
  }
}

// The products of planes that matter, the smallest first, in an order in which neighbours share an operand: all of them
// for 16-bit operands, and beside an fp32 operand those whose indices add up to less than 3 (the others are 2^-24 of it).
struct Products {
  struct Step {
    int a, b;  // byte offsets of the planes within a k block
    bool load_a, load_b;
  };
  Step step[6];
  int count = 0, a_planes, b_planes;
  // Sums of fp32 operands are taken panel by panel, and these added up: the six products round six times as often as a
  // product of fp32 numbers would, at the size of the sum so far.
  bool in_parts;

  Products(int a_planes_, int b_planes_)
      : a_planes(a_planes_), b_planes(b_planes_), in_parts(a_planes == kMaxPlanes || b_planes == kMaxPlanes) {
    static constexpr int8_t kOrder[6][2] = {{2, 0}, {1, 0}, {1, 1}, {0, 1}, {0, 2}, {0, 0}};
    const int limit = 3;
    int last_a = -1, last_b = -1;
    for (const auto& pair : kOrder) {
      if (pair[0] >= a_planes || pair[1] >= b_planes || pair[0] + pair[1] >= limit) continue;
      step[count++] = {pair[0] * static_cast<int>(kTile), pair[1] * static_cast<int>(kTile), pair[0] != last_a,
                       pair[1] != last_b};
      last_a = pair[0];
      last_b = pair[1];
    }
  }
};

// The configuration of a thread's tiles: eight of 16 x 64 bytes. Set it before and release it after use.
FASTPREF_FN void configure_tiles() {
  struct Config {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes_per_row[16];
    uint8_t rows[16];
  };
  alignas(64) static constexpr Config kConfig = {
      1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
  _tile_loadconfig(&kConfig);
}

// The intrinsics do not tell the compiler which memory the tiles are loaded from.
FASTPREF_FN void finish_stores() { asm volatile("" ::: "memory"); }

// The block as [32][32] fp32.
FASTPREF_FN void store_block(float* out) {
  _tile_stored(0, out, 128);
  _tile_stored(1, out + 16, 128);
  _tile_stored(2, out + 512, 128);
  _tile_stored(3, out + 528, 128);
  finish_stores();
}
FASTPREF_FN void load_block(const float* in) {
  finish_stores();
  _tile_loadd(0, in, 128);
  _tile_loadd(1, in + 16, 128);
  _tile_loadd(2, in + 512, 128);
  _tile_loadd(3, in + 528, 128);
}
FASTPREF_FN void clear_block() {
  finish_stores();
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

FASTPREF_FN void ask_for_tile(const char* at) {
  for (int line = 0; line < kTile; line += 64) _mm_prefetch(at + line, _MM_HINT_T0);
}

// A pair of strips of a left operand and one of a right one. Where `used` is given, only the k blocks whose byte
// (used_stride apart) is not 0 are multiplied.
struct Strips {
  const char *left, *right;
  int64_t k_blocks;
  const uint8_t* used;
  int64_t used_stride;
};

// Tiles 0 to 3 (a 32 x 32 block of fp32: 0 1 over 2 3) += left times right over k blocks [first, last). `between` is
// called once per k block: vector work that runs beside the tiles'.
template <class Between>
FASTPREF_FN void multiply(const Strips& strips, int64_t first, int64_t last, const Products& products,
                          const Between& between) {
  const int64_t a_step = products.a_planes * kTile, b_step = products.b_planes * kTile;
  const char *left = strips.left + first * a_step, *left2 = left + strips.k_blocks * a_step;
  const char *right = strips.right + first * b_step, *right2 = right + strips.k_blocks * b_step;
  // Several products per k block leave the time to fetch the next one's tiles from L2; beside a single one that costs.
  const bool ahead = products.count > 1;
  for (int64_t k = first; k < last; k++, left += a_step, left2 += a_step, right += b_step, right2 += b_step) {
    if (strips.used && !strips.used[k * strips.used_stride]) continue;
    for (int i = 0; i < products.count; i++) {
      const Products::Step& step = products.step[i];
      if (step.load_a) {
        _tile_loadd(4, left + step.a, 64);
        if (ahead) ask_for_tile(left + step.a + a_step);
        _tile_loadd(5, left2 + step.a, 64);
        if (ahead) ask_for_tile(left2 + step.a + a_step);
      }
      if (step.load_b) {
        _tile_loadd(6, right + step.b, 64);
        if (ahead) ask_for_tile(right + step.b + b_step);
        _tile_loadd(7, right2 + step.b, 64);
        if (ahead) ask_for_tile(right2 + step.b + b_step);
      }
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(3, 5, 7);
    }
    between();
  }
}

struct Nothing {
  void operator()() const {}
};

// The k blocks of a product, cut into panels of equal length: only a panel of the strips that go together need be in the
// cache at once.
struct Panels {
  int64_t k_blocks, most, length, count;  // no panel is longer than `most`

  Panels(int64_t k_blocks_, int left_planes, int right_planes)
      : k_blocks(k_blocks_), most(left_planes == 1 && right_planes == 1 ? 32 : 16) {
    const int64_t least = larger((k_blocks + most - 1) / most, 1);
    length = larger((k_blocks + least - 1) / least, 1);
    count = larger((k_blocks + length - 1) / length, 1);
  }

  int64_t first(int64_t panel) const { return panel * length; }
  int64_t last(int64_t panel) const { return smaller((panel + 1) * length, k_blocks); }
};

// out [32][32] = left times right over k blocks [first, last), or += with `add_to`.
template <class Between>
FASTPREF_FN void product(const Strips& strips, int64_t first, int64_t last, const Products& products, float* out,
                         bool add_to, const Between& between) {
  if (!products.in_parts) {
    add_to ? load_block(out) : clear_block();
    multiply(strips, first, last, products, between);
    return store_block(out);
  }
  alignas(64) float part[kEdge * kEdge];
  clear_block();
  multiply(strips, first, last, products, between);
  if (!add_to) return store_block(out);
  store_block(part);
  for (int i = 0; i < kEdge * kEdge; i += 16) {
    _mm512_store_ps(out + i, _mm512_add_ps(_mm512_load_ps(out + i), _mm512_load_ps(part + i)));
  }
}

}  // namespace amx
}  // namespace fastpref
