// The linear head on AMX (bf16 tiles, fp32 accumulation), with the softmax as the epilogue of the tile product: a logit
// lives in a block of 32 vocabulary rows x 32 tokens that never leaves the L1 cache, in fp32. Any mix of fp32, bf16 and
// fp16 operands (amx_tiles.h); any rows, vocab, width, strides.
//
// stats   2 THV FLOPs times the products of planes. The vocabulary is cut into segments that depend on V alone; each
//         keeps running sums per token (tokens are lanes, so no sum goes across a vector), folded in order at the end.
// grad    by chunks of the vocabulary and blocks of rows, in three products with a barrier between: the gradient D of
//         the chunk's logits, in tiles of both orders and as many planes as the wider operand has (2 THV, none for kept
//         rows); dX += D W in fp32; dW = D^T X. Memory traffic beside the operands: D, in scratch, written and read
//         once by each product.
//
// Operands are packed into tiles first: rows a power of two apart would fall on the same cache sets, and one packing
// serves all tokens. Work is handed out as a group of left strips that fits half of L2 beside a group of right ones; of
// strips that are too long for that, a panel at a time, with the group's blocks of sums beside them.
// Bits do not depend on threads: each block belongs to one task, and every sum has an order of its own.
#if defined(__GNUC__) && !defined(__clang__)
  // GCC bug 105593: its own AVX-512 intrinsics pass an undefined register on purpose.
  #pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
  #pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#define FASTPREF_ISA avx512
#include "amx_tiles.h"
#include "head.h"
#include "kernels.h"
#include "vec_math.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include <type_traits>
#ifdef _OPENMP
  #include <omp.h>
#endif

#include "../core/log_sum.h"

namespace fastpref {
namespace amx {
namespace {

using namespace avx512;

#define FASTPREF_MEMBER inline __attribute__((always_inline))

constexpr int64_t kLeftBytes = 512 << 10;      // of left strips that a task works on
constexpr int64_t kPackedBytes = 1 << 20;      // of left strips, whole, that a thread packs for its statistics
constexpr int64_t kAllPackedBytes = 32 << 20;  // that all threads do
constexpr int64_t kRightBytes = 768 << 10;     // of right strips beside them
constexpr int64_t kMinSegment = 1024, kMaxSegments = 64;
constexpr int kBlock = kEdge * kEdge;

// --- pieces of work -----------------------------------------------------------------------------------------------------

int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

int thread_number() {
#ifdef _OPENMP
  return omp_get_thread_num();
#else
  return 0;
#endif
}

// How many pairs of strips go together so that a panel of them is in the cache.
int64_t group_of(int64_t bytes, const Panels& panels, int planes) {
  return larger(bytes / pair_bytes(panels.count == 1 ? panels.length : panels.most, planes), 1);
}

// A grid of left x right pairs of strips, cut into tasks.
struct Grid {
  Panels panels;
  int64_t lefts, rights, left_group, right_group;

  Grid(int64_t k_blocks, int64_t lefts_, int left_planes, int64_t rights_, int right_planes, int threads)
      : panels(k_blocks, left_planes, right_planes),
        lefts(lefts_),
        rights(rights_),
        left_group(smaller(group_of(kLeftBytes, panels, left_planes), lefts)),
        right_group(smaller(group_of(kRightBytes, panels, right_planes), rights)) {
    while (tasks() < 4 * threads && left_group * right_group > 1) {
      if (left_group >= right_group) {
        left_group = (left_group + 1) / 2;
      } else {
        right_group = (right_group + 1) / 2;
      }
    }
  }

  int64_t left_tasks() const { return (lefts + left_group - 1) / left_group; }
  int64_t tasks() const {
    return lefts == 0 || rights == 0 ? 0 : left_tasks() * ((rights + right_group - 1) / right_group);
  }

  // Calls body(left, right, panel, place) for the pairs of a task, panel after panel; a pair has the same `place`, below
  // held_blocks(), in each. Neighbouring tasks share their right strips.
  template <class Body>
  void run(int64_t task, const Body& body) const {
    const int64_t l0 = task % left_tasks() * left_group, r0 = task / left_tasks() * right_group;
    const int64_t l1 = smaller(l0 + left_group, lefts), r1 = smaller(r0 + right_group, rights);
    for (int64_t panel = 0; panel < panels.count; panel++) {
      for (int64_t l = l0; l < l1; l++) {
        for (int64_t r = r0; r < r1; r++) body(l, r, panel, (l - l0) * right_group + r - r0);
      }
    }
  }
};

// Blocks of sums that a thread holds between the panels of a task; none where there is one panel.
int64_t held_blocks(const Panels& panels, int left_planes, int right_planes) {
  return panels.count == 1 ? 0
                           : group_of(kLeftBytes, panels, left_planes) * group_of(kRightBytes, panels, right_planes);
}

// Calls body with a null pointer to an operand's element type.
template <class Body>
void with_type(DType type, const Body& body) {
  switch (type) {
    case DType::kFloat32:
      return body(static_cast<const float*>(nullptr));
    case DType::kBFloat16:
      return body(static_cast<const BFloat16*>(nullptr));
    case DType::kFloat16:
      return body(static_cast<const Float16*>(nullptr));
  }
}

struct Matrix {
  DType type;
  const void* data;
  int64_t stride, rows, width;

  int planes() const { return planes_of(type); }

  void left(int64_t row, char* out) const {
    with_type(type, [&](auto* t) { pack_left(static_cast<decltype(t)>(data), stride, row, rows, width, out); });
  }
  void right_rows(int64_t row, char* out) const {
    with_type(type, [&](auto* t) { pack_right_rows(static_cast<decltype(t)>(data), stride, row, rows, width, out); });
  }
  void right_columns(int64_t row, int64_t k, int64_t k_blocks, char* out) const {
    with_type(type, [&](auto* t) {
      pack_right_columns(static_cast<decltype(t)>(data), stride, row, rows, width, k, k_blocks, out);
    });
  }
  // Rows [first, first + n), n at most.
  Matrix slice(int64_t first, int64_t n) const {
    const int64_t bytes = type == DType::kFloat32 ? 4 : 2;
    return {type, static_cast<const char*>(data) + first * stride * bytes, stride, smaller(n, rows - first), width};
  }
};

Matrix hidden_of(const HeadOperands& a) { return {a.hidden_dtype, a.hidden, a.hidden_stride, a.rows, a.width}; }
Matrix weight_of(const HeadOperands& a) { return {a.weight_dtype, a.weight, a.weight_stride, a.vocab, a.width}; }

// Carves arrays out of the scratch; with no scratch it only counts.
struct Arena {
  char* base;
  int64_t used = 0;

  template <class T>
  T* take(int64_t n) {
    char* at = base ? base + used : nullptr;
    used += round_up(n * static_cast<int64_t>(sizeof(T)), 64);
    return reinterpret_cast<T*>(at);
  }
};

// A chain of the rows whose target lies in each block of 32 vocabulary rows.
struct TargetChains {
  int32_t *first, *next;

  static TargetChains take(Arena* arena, int64_t rows, int64_t vocab) {
    int32_t* first = arena->take<int32_t>(blocks_of(vocab));
    return {first, arena->take<int32_t>(rows)};
  }
  void fill(const int64_t* targets, int64_t rows, int64_t vocab) {
    for (int64_t b = 0; b < blocks_of(vocab); b++) first[b] = -1;
    for (int64_t r = rows - 1; r >= 0; r--) {
      if (targets[r] < 0 || targets[r] >= vocab) continue;
      int32_t* head = first + targets[r] / kEdge;
      next[r] = *head;
      *head = static_cast<int32_t>(r);
    }
  }
};

// z = cap(x) * scale, where cap is tanh(x * in) or nothing, and scale differs from token to token.
template <bool kSoftcap>
FASTPREF_FN Vec capped(Vec x, float in, Vec* slope) {
  if (kSoftcap) return tanh(mul(x, set1(in)), slope);
  return x;
}

FASTPREF_FN Vec at(const float* x) { return {_mm512_load_ps(x)}; }
FASTPREF_FN void put(float* x, Vec v) { _mm512_store_ps(x, v.v); }

FASTPREF_FN void add_bias(float* block, const float* bias, int n) {
  for (int r = 0; r < n; r++) {
    const Vec b = set1(bias[r]);
    put(block + r * kEdge, add(at(block + r * kEdge), b));
    put(block + r * kEdge + 16, add(at(block + r * kEdge + 16), b));
  }
}

// One bf16 exponential per logit relative to a maximum per token, beside those maxima; or the logits in fp32. The first
// form halves the memory and costs one rounding to bf16, as the gradient takes anyway when all operands are bf16.
bool keeps_exponentials(const HeadOperands& a) {
  return planes_of(a.hidden_dtype) == 1 && planes_of(a.weight_dtype) == 1 && !a.transform.has_softcap;
}
int64_t kept_block_bytes(const HeadOperands& a) { return keeps_exponentials(a) ? 2 * kBlock + 4 * kEdge : 4 * kBlock; }

// --- statistics ---------------------------------------------------------------------------------------------------------

enum Field { kMax, kSum, kSquares, kMoment, kTotal, kTop, kArgmax, kFields };

struct Segments {
  int64_t size, count;

  explicit Segments(int64_t vocab) {
    size = larger(kMinSegment, round_up((vocab + kMaxSegments - 1) / kMaxSegments, kEdge));
    count = (vocab + size - 1) / size;
  }
};

struct StatsScratch {
  char* hidden;             // right strips of all rows
  float* scale;             // [padded rows]
  float* partial;           // [segment][field][padded rows]
  char* weights;            // [thread] left strips
  float* held;              // [thread] blocks of sums between panels
  int64_t group, together;  // pairs of left strips that a thread packs at a time, and of right ones beside them
  TargetChains chains;

  static StatsScratch take(Arena* arena, const HeadOperands& a, bool statistics) {
    const int64_t k_blocks = blocks_of(a.width), padded = round_up(a.rows, kEdge);
    StatsScratch s;
    s.hidden = arena->take<char>(padded / kEdge * pair_bytes(k_blocks, planes_of(a.hidden_dtype)));
    s.scale = arena->take<float>(padded);
    s.partial = arena->take<float>(Segments(a.vocab).count * (statistics ? kFields : 2) * padded);
    const int of_hidden = planes_of(a.hidden_dtype), of_weight = planes_of(a.weight_dtype);
    const Panels panels(k_blocks, of_weight, of_hidden);
    s.group =
        smaller(group_of(kLeftBytes, panels, of_weight), smaller(Segments(a.vocab).size / kEdge, blocks_of(a.vocab)));
    const int64_t packed = smaller(kPackedBytes, kAllPackedBytes / a.threads);
    s.group = smaller(s.group, larger(packed / pair_bytes(k_blocks, of_weight), 1));
    s.together = smaller(group_of(kRightBytes, panels, of_hidden), padded / kEdge);
    s.weights = arena->take<char>(a.threads * s.group * pair_bytes(k_blocks, of_weight));
    s.held = arena->take<float>(panels.count == 1 ? 0 : a.threads * s.group * s.together * kBlock);
    s.chains = TargetChains::take(arena, a.rows, a.vocab);
    return s;
  }
};

void fill_scale(const HeadOperands& a, float constant, float* scale) {
  const int64_t padded = round_up(a.rows, kEdge);
  for (int64_t r = 0; r < padded; r++) {
    scale[r] = r < a.rows && a.inverse_temperature ? constant * a.inverse_temperature[r] : constant;
  }
}

constexpr float kJump = 16.0f;  // how far above its reference a logit may lie

// Folds blocks of logits into the running sums of their tokens, a few rows at a time. A token keeps a reference m that
// is some logit already met, not the maximum: only where a block has one that lies well above m is it summed again.
template <bool kSoftcap, bool kStatistics>
struct Fold {
  const HeadOperands& a;
  int64_t stride;  // of a field
  float* block = nullptr;
  float* partial = nullptr;
  char* kept = nullptr;
  int n = 0, row = 0;
  int64_t column = 0;
  Vec m[2], scale[2], top[2], sum[2], squares[2], moment[2], total[2], raw[2];
  __m512i place[2];

  Fold(const HeadOperands& a_, int64_t stride_) : a(a_), stride(stride_) {}

  float* field(Field f, int half) const { return partial + f * stride + 16 * half; }

  // A block of n_ vocabulary rows from column_ on; token_scale and partial_ are those of its first token.
  FASTPREF_MEMBER void begin(float* block_, int n_, int64_t column_, const float* token_scale, float* partial_,
                             char* kept_) {
    block = block_;
    n = n_;
    row = 0;
    column = column_;
    partial = partial_;
    kept = kept_;
    for (int i = 0; i < 2; i++) {
      m[i] = at(field(kMax, i));
      scale[i] = at(token_scale + 16 * i);
      clear(i);
      if (kStatistics) {
        raw[i] = at(field(kTop, i));
        place[i] = _mm512_load_si512(field(kArgmax, i));
        total[i] = set1(0.0f);
      }
    }
  }

  // Turns the next rows into z and adds their exponentials.
  FASTPREF_MEMBER void rows(int count) {
    const ScaledExp exp(1.0f);
    for (; row < n && count > 0; row++, count--) {
      Vec e[2];
      for (int i = 0; i < 2; i++) {
        float* x = block + row * kEdge + 16 * i;
        Vec z = at(x), slope;
        if (kStatistics) {
          const __mmask16 greater = _mm512_cmp_ps_mask(z.v, raw[i].v, _CMP_GT_OQ);
          raw[i].v = _mm512_mask_mov_ps(raw[i].v, greater, z.v);
          place[i] = _mm512_mask_mov_epi32(place[i], greater, _mm512_set1_epi32(static_cast<int>(column) + row));
        }
        z = mul(capped<kSoftcap>(z, a.transform.cap_in, &slope), scale[i]);
        put(x, z);
        top[i] = max(z, top[i]);
        if (kStatistics) total[i] = add(total[i], z);
        e[i] = add_exponential(i, z, exp);
      }
      if (kept) keep(e);
    }
  }

  FASTPREF_MEMBER void end() {
    rows(n);
    for (int i = 0; i < 2; i++) {
      const Vec limit = add(m[i], set1(kJump));
      if (!_mm512_cmp_ps_mask(top[i].v, limit.v, _CMP_GT_OQ)) continue;
      move_reference(i, max(top[i], m[i]));
      clear(i);
      const ScaledExp exp(1.0f);
      for (int r = 0; r < n; r++) {
        const Vec e = add_exponential(i, at(block + r * kEdge + 16 * i), exp);
        if (kept)
          _mm256_store_si256(reinterpret_cast<__m256i*>(kept + r * 64 + 32 * i), (__m256i)_mm512_cvtneps_pbh(e.v));
      }
    }
    for (int i = 0; i < 2; i++) {
      put(field(kSum, i), add(at(field(kSum, i)), sum[i]));
      if (kStatistics) {
        put(field(kSquares, i), add(at(field(kSquares, i)), squares[i]));
        put(field(kMoment, i), add(at(field(kMoment, i)), moment[i]));
        put(field(kTotal, i), add(at(field(kTotal, i)), total[i]));
        put(field(kTop, i), raw[i]);
        _mm512_store_si512(field(kArgmax, i), place[i]);
      }
      if (kept) _mm512_store_ps(kept + 2 * kBlock + 64 * i, m[i].v);
    }
    n = 0;
  }

 private:
  FASTPREF_MEMBER void clear(int i) {
    top[i] = set1(-INFINITY);
    sum[i] = squares[i] = moment[i] = set1(0.0f);
  }

  FASTPREF_MEMBER Vec add_exponential(int i, Vec z, const ScaledExp& exp) {
    const Vec d = sub(z, m[i]), e = exp(d);
    sum[i] = add(sum[i], e);
    if (kStatistics) {
      squares[i] = fmadd(e, e, squares[i]);
      moment[i] = fmadd(e, max(d, set1(-1e4f)), moment[i]);  // 0 of the 0 * -inf of an excluded logit
    }
    return e;
  }

  FASTPREF_MEMBER void keep(const Vec e[2]) {
    _mm512_store_si512(kept + row * 64, (__m512i)_mm512_cvtne2ps_pbh(e[1].v, e[0].v));
  }

  // The running sums relative to another reference, and this one in use.
  FASTPREF_MEMBER void move_reference(int i, Vec higher) {
    const Vec step = max(sub(m[i], higher), set1(-1e4f)), factor = ScaledExp(1.0f)(step), before = at(field(kSum, i));
    put(field(kSum, i), mul(before, factor));
    if (kStatistics) {
      put(field(kMoment, i), mul(factor, fmadd(step, before, at(field(kMoment, i)))));
      put(field(kSquares, i), mul(at(field(kSquares, i)), mul(factor, factor)));
    }
    put(field(kMax, i), higher);
    m[i] = higher;
  }
};

void start_fields(float* partial, int64_t padded, int fields) {
  for (int64_t i = 0; i < fields * padded; i++) partial[i] = 0.0f;
  for (int64_t r = 0; r < padded; r++) {
    partial[kMax * padded + r] = -FLT_MAX;
    if (fields == kFields) partial[kTop * padded + r] = -INFINITY;
  }
}

void finish_rows(const HeadStatsArgs& a, const float* partial, int64_t padded, int fields) {
  const int64_t segments = Segments(a.head.vocab).count;
#ifdef _OPENMP
  #pragma omp for schedule(static)
#endif
  for (int64_t r = 0; r < a.head.rows; r++) {
    LogSum sum = {a.m[r], a.s[r], a.s2 ? a.s2[r] : 0.0, a.sd ? a.sd[r] : 0.0};
    double total = a.total ? a.total[r] : 0.0;
    for (int64_t g = 0; g < segments; g++) {
      const float* part = partial + g * fields * padded + r;
      const float m = part[kMax * padded];
      if (a.total) {
        total += part[kTotal * padded];
        const float top = part[kTop * padded];
        if (top > a.top[r]) {
          int32_t place;
          memcpy(&place, part + kArgmax * padded, sizeof place);
          a.top[r] = top;
          a.argmax[r] = place;
        }
      }
      if (part[kSum * padded] == 0.0f) continue;
      LogSum piece = {m, part[kSum * padded]};
      if (a.s2) {
        piece.s2 = part[kSquares * padded];
        piece.sd = part[kMoment * padded];
      }
      if (m > sum.m) {
        rebase(&sum, m);
      } else {
        rebase(&piece, sum.m);
      }
      sum.s += piece.s;
      sum.s2 += piece.s2;
      sum.sd += piece.sd;
    }
    normalise(&sum);
    a.m[r] = sum.m;
    a.s[r] = static_cast<float>(sum.s);
    if (a.s2) {
      a.s2[r] = static_cast<float>(sum.s2);
      a.sd[r] = static_cast<float>(sum.sd);
      a.total[r] = static_cast<float>(total);
    }
  }
}

template <bool kSoftcap, bool kStatistics>
void stats_with(const HeadStatsArgs& a) {
  const HeadOperands& head = a.head;
  Arena arena = {static_cast<char*>(a.scratch)};
  StatsScratch s = StatsScratch::take(&arena, head, kStatistics);
  const Matrix hidden = hidden_of(head), weight = weight_of(head);
  const Products products(weight.planes(), hidden.planes());
  const int64_t k_blocks = blocks_of(head.width), padded = round_up(head.rows, kEdge), groups = padded / kEdge;
  const int64_t right = pair_bytes(k_blocks, hidden.planes()), left = pair_bytes(k_blocks, weight.planes());
  const Panels panels(k_blocks, weight.planes(), hidden.planes());
  const Segments segments(head.vocab);
  constexpr int fields = kStatistics ? kFields : 2;
  const int64_t kept_groups = blocks_of(a.kept_rows), kept_bytes = kept_block_bytes(head);
  const bool exponentials = keeps_exponentials(head);
  const int rows_per_step = static_cast<int>((kEdge + panels.length - 1) / panels.length);
  const Transform& t = head.transform;
  fill_scale(head, t.has_softcap ? t.cap_out : t.scale, s.scale);
  s.chains.fill(head.targets, head.rows, head.vocab);

#ifdef _OPENMP
  #pragma omp parallel num_threads(head.threads)
#endif
  {
#ifdef _OPENMP
  #pragma omp for schedule(static)
#endif
    for (int64_t g = 0; g < groups; g++) hidden.right_rows(g * kEdge, s.hidden + g * right);
    configure_tiles();
#ifdef _OPENMP
  #pragma omp for schedule(dynamic)
#endif
    for (int64_t segment = 0; segment < segments.count; segment++) {
      alignas(64) float blocks[2][kBlock];
      char* strips = s.weights + thread_number() * s.group * left;
      float* held = s.held + thread_number() * s.group * s.together * kBlock;
      float* partial = s.partial + segment * fields * padded;
      start_fields(partial, padded, fields);
      Fold<kSoftcap, kStatistics> fold(head, padded);
      int64_t v_before = 0, g_before = 0;
      int turn = 0;
      const auto finish = [&] {
        if (fold.n == 0) return;
        const float* z = fold.block;
        fold.end();
        for (int64_t r = s.chains.first[v_before]; r >= 0; r = s.chains.next[r]) {
          if (r / kEdge == g_before) a.zt[r] = z[head.targets[r] % kEdge * kEdge + r % kEdge];
        }
      };
      const int64_t first = segment * segments.size / kEdge;
      const int64_t last = blocks_of(smaller(head.vocab, (segment + 1) * segments.size));
      for (int64_t v0 = first; v0 < last; v0 += s.group) {
        const int64_t v1 = smaller(v0 + s.group, last);
        for (int64_t v = v0; v < v1; v++) weight.left(v * kEdge, strips + (v - v0) * left);
        for (int64_t g0 = 0; g0 < groups; g0 += s.together) {
          const int64_t g1 = smaller(g0 + s.together, groups);
          const auto strips_of = [&](int64_t v, int64_t g) {
            return Strips{strips + (v - v0) * left, s.hidden + g * right, k_blocks, nullptr, 0};
          };
          const auto held_of = [&](int64_t v, int64_t g) { return held + ((v - v0) * s.together + g - g0) * kBlock; };
          if (panels.count > 1) finish();  // of a held block
          for (int64_t panel = 0; panel + 1 < panels.count; panel++) {
            for (int64_t v = v0; v < v1; v++) {
              for (int64_t g = g0; g < g1; g++) {
                product(strips_of(v, g), panels.first(panel), panels.last(panel), products, held_of(v, g), panel > 0,
                        Nothing());
              }
            }
          }
          for (int64_t v = v0; v < v1; v++) {
            for (int64_t g = g0; g < g1; g++) {
              // The sums of one block run beside the product of the next.
              const bool add_to = panels.count > 1;
              float* block = add_to ? held_of(v, g) : blocks[turn ^= 1];
              product(strips_of(v, g), panels.first(panels.count - 1), k_blocks, products, block, add_to,
                      [&] { fold.rows(rows_per_step); });
              finish();
              const int n = static_cast<int>(smaller(head.vocab - v * kEdge, kEdge));
              if (head.bias) add_bias(block, head.bias + v * kEdge, n);
              char* kept = g < kept_groups ? static_cast<char*>(a.kept) + (v * kept_groups + g) * kept_bytes : nullptr;
              if (kept && !exponentials) {
                memcpy(kept, block, kBlock * sizeof(float));
                kept = nullptr;
              }
              fold.begin(block, n, v * kEdge, s.scale + g * kEdge, partial + g * kEdge, kept);
              v_before = v;
              g_before = g;
            }
          }
        }
      }
      finish();
    }
    _tile_release();
    finish_rows(a, s.partial, padded, fields);
  }
}

void stats(const HeadStatsArgs& a) {
  const bool statistics = a.s2 != nullptr;
  if (a.head.transform.has_softcap) return statistics ? stats_with<true, true>(a) : stats_with<true, false>(a);
  statistics ? stats_with<false, true>(a) : stats_with<false, false>(a);
}

// --- gradients ----------------------------------------------------------------------------------------------------------

struct GradScratch {
  int64_t chunk, block;  // vocabulary columns and rows at a time, multiples of 32
  char* hidden_rows;     // right strips of a row block, k = width
  char* hidden_columns;  // right strips of a row block, k = rows
  char* weight_rows;     // left strips of a chunk, k = width
  char* weight_columns;  // right strips of a chunk, k = vocabulary
  char* by_token;        // D of a chunk and row block: left strips of tokens, k = vocabulary
  char* by_word;         // the same: left strips of vocabulary rows, k = tokens
  uint8_t* used;         // [vocabulary block][token block]: 0 where the filter leaves a block out
  float* dx;             // [token block][width block][32][32]
  float* dw;             // [vocabulary block][width block][32][32], where rows come in several blocks
  float* held;           // [thread] blocks of sums between panels
  int64_t held_by_thread;
  float* db;      // [vocabulary block][token block][32]
  float* shift;   // [padded rows] -lse
  float* factor;  // [padded rows] -softmax_coef dz/dx at 0
  float* scale;   // [padded rows] see fill_scale
  TargetChains chains;

  static GradScratch take(Arena* arena, const HeadOperands& a, bool want_dx, bool want_dw, bool want_db, int64_t chunk,
                          int64_t row_block) {
    GradScratch s;
    const int64_t padded = round_up(a.rows, kEdge), words = round_up(a.vocab, kEdge), width = round_up(a.width, kEdge);
    s.chunk = smaller(chunk, words);
    s.block = smaller(row_block, padded);
    const int hidden_planes = planes_of(a.hidden_dtype), weight_planes = planes_of(a.weight_dtype);
    const int planes = hidden_planes > weight_planes ? hidden_planes : weight_planes;
    const int64_t of_hidden = s.block * width * 2 * hidden_planes, of_weight = s.chunk * width * 2 * weight_planes;
    const int64_t of_gradient = s.block * s.chunk * 2 * planes;
    s.hidden_rows = arena->take<char>(of_hidden);
    s.hidden_columns = want_dw ? arena->take<char>(of_hidden) : nullptr;
    s.weight_rows = arena->take<char>(of_weight);
    s.weight_columns = want_dx ? arena->take<char>(of_weight) : nullptr;
    s.by_token = want_dx ? arena->take<char>(of_gradient) : nullptr;
    s.by_word = want_dw ? arena->take<char>(of_gradient) : nullptr;
    s.used = arena->take<uint8_t>(s.chunk / kEdge * (s.block / kEdge));
    s.dx = want_dx ? arena->take<float>(padded * width) : nullptr;
    s.dw = want_dw && s.block < padded ? arena->take<float>(s.chunk * width) : nullptr;
    s.held_by_thread = held_blocks(Panels(width / kEdge, weight_planes, hidden_planes), weight_planes, hidden_planes);
    if (want_dw && s.block == padded) {
      const Panels of_rows(s.block / kEdge, planes, hidden_planes);
      s.held_by_thread = larger(s.held_by_thread, held_blocks(of_rows, planes, hidden_planes));
    }
    s.held = arena->take<float>(a.threads * s.held_by_thread * kBlock);
    s.db = want_db ? arena->take<float>(s.chunk * (s.block / kEdge)) : nullptr;
    s.shift = arena->take<float>(padded);
    s.factor = arena->take<float>(padded);
    s.scale = arena->take<float>(padded);
    s.chains = TargetChains::take(arena, a.rows, a.vocab);
    return s;
  }
};

// The entry where the one-hot counts: o - c p = (o - c) + c (1 - p), which keeps its digits when p is close to 1.
float target_gradient(double logp, double slope, float onehot_coef, float softmax_coef) {
  const double o = onehot_coef, c = softmax_coef;
  return static_cast<float>(((o - c) - c * expm1(logp)) * slope);
}

// Turns blocks of logits (32 vocabulary rows, 32 tokens) into their gradients, a few rows at a time, and these into tiles.
template <bool kSoftcap, int kPlanes>
struct Gradient {
  const HeadGradArgs& a;
  const GradScratch& s;
  int64_t words, groups;  // blocks of the chunk and of the row block
  int64_t left_out = 0;
  float* block = nullptr;
  int64_t v = 0, g = 0, column = 0, token = 0;  // in the chunk, in the row block; in the whole vocabulary, of all rows
  int row = kEdge, n = 0;                       // of the block's rows: those done, and those that are in the vocabulary
  bool has_logps = false;                       // take log p of the targets from the caller
  int found = 0;
  struct {
    int64_t row;
    float x;
  } targets[kEdge];
  Vec scale[2], shift[2], factor[2], top[2];

  Gradient(const HeadGradArgs& a_, const GradScratch& s_, int64_t words_, int64_t groups_)
      : a(a_), s(s_), words(words_), groups(groups_) {}

  bool pending() const { return block != nullptr; }

  // A block of raw logits.
  FASTPREF_MEMBER void begin(float* block_, int64_t v_, int64_t g_, int64_t column_, int64_t token_) {
    start(block_, v_, g_, column_, token_);
    has_logps = false;
    for (int i = 0; i < 2; i++) {
      scale[i] = at(s.scale + token + 16 * i);
      shift[i] = at(s.shift + token + 16 * i);
      factor[i] = at(s.factor + token + 16 * i);
      top[i] = set1(0.0f);
    }
    row = 0;
  }

  // A block of kept exponentials, done at once.
  FASTPREF_MEMBER void from_exponentials(const char* kept, float* block_, int64_t v_, int64_t g_, int64_t column_,
                                         int64_t token_) {
    start(block_, v_, g_, column_, token_);
    has_logps = true;
    const ScaledExp exp(1.0f);
    for (int i = 0; i < 2; i++) {
      const Vec m = {_mm512_load_ps(kept + 2 * kBlock + 64 * i)};
      scale[i] = exp(add(m, at(s.shift + token + 16 * i)));
      factor[i] = at(s.factor + token + 16 * i);
      top[i] = set1(0.0f);
    }
    for (int r = 0; r < n; r++) {  // what lies beyond them was never written
      const __m512i both = _mm512_load_si512(kept + r * 64);
      const __m256i of[2] = {_mm512_castsi512_si256(both), _mm512_extracti64x4_epi64(both, 1)};
      for (int i = 0; i < 2; i++) {
        const Vec e = {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(of[i]), 16))};
        const Vec p = mul(e, scale[i]);
        top[i] = max(p, top[i]);
        put(block + r * kEdge + 16 * i, mul(p, factor[i]));
      }
    }
    row = kEdge;
  }

  FASTPREF_MEMBER void rows(int count) {
    const ScaledExp exp(1.0f);
    for (; row < n && count > 0; row++, count--) {
      for (int i = 0; i < 2; i++) {
        float* x = block + row * kEdge + 16 * i;
        Vec slope;
        const Vec z = mul(capped<kSoftcap>(at(x), a.head.transform.cap_in, &slope), scale[i]);
        Vec p = exp(add(z, shift[i]));
        top[i] = max(p, top[i]);
        if (kSoftcap) p = mul(p, slope);
        put(x, mul(p, factor[i]));
      }
    }
  }

  FASTPREF_MEMBER void end() {
    rows(kEdge);
    for (int i = 0; i < found; i++) set_target(targets[i].row, targets[i].x);
    if (n < kEdge) memset(block + n * kEdge, 0, (kEdge - n) * kEdge * sizeof(float));
    for (int r = 0; s.db && r < kEdge; r++) {
      const Vec both = add(at(block + r * kEdge), at(block + r * kEdge + 16));
      s.db[(v * groups + g) * kEdge + r] = reduce_add(both);
    }
    const bool use = found > 0 || !(reduce_max(max(top[0], top[1])) < a.filter);
    s.used[v * groups + g] = use;
    left_out += !use;
    if (use) store();
    block = nullptr;
  }

 private:
  FASTPREF_MEMBER void start(float* block_, int64_t v_, int64_t g_, int64_t column_, int64_t token_) {
    block = block_;
    v = v_;
    g = g_;
    column = column_;
    token = token_;
    n = static_cast<int>(smaller(a.head.vocab - column * kEdge, kEdge));
    found = 0;
    for (int64_t r = s.chains.first[column]; r >= 0; r = s.chains.next[r]) {
      if (r >= token && r < token + kEdge) targets[found++] = {r, *entry(r)};
    }
  }

  float* entry(int64_t r) const { return block + a.head.targets[r] % kEdge * kEdge + r - token; }

  void set_target(int64_t r, float x) const {
    if (a.onehot_coef[r] == 0.0f && a.softmax_coef[r] == 0.0f) {
      *entry(r) = 0.0f;
      return;
    }
    const Transform& t = a.head.transform;
    double slope = a.head.inverse_temperature ? a.head.inverse_temperature[r] : 1.0, logp;
    if (has_logps) {
      logp = a.logps[r];
      slope *= t.scale;
    } else {
      Vec unused;
      const Vec z = mul(capped<kSoftcap>(set1(x), t.cap_in, &unused), set1(s.scale[r]));
      logp = static_cast<double>(reduce_max(z)) - a.lse[r];
      slope *= transform_derivative(t, x);
    }
    *entry(r) = target_gradient(logp, slope, a.onehot_coef[r], a.softmax_coef[r]);
  }

  // The block as tiles of both orders.
  FASTPREF_MEMBER void store() const {
    __m512i rows_of[kPlanes][kEdge];
    for (int r = 0; r < kEdge; r++) {
      __m512i planes[kPlanes];
      split<kPlanes>(_mm512_load_ps(block + r * kEdge), _mm512_load_ps(block + r * kEdge + 16), planes);
      for (int p = 0; p < kPlanes; p++) rows_of[p][r] = planes[p];
    }
    if (s.by_word) {
      char* out = s.by_word + v * pair_bytes(groups, kPlanes) + g * kPlanes * kTile;
      for (int p = 0; p < kPlanes; p++) {
        for (int r = 0; r < kEdge; r++) {
          _mm512_store_si512(out + (r >> 4) * groups * kPlanes * kTile + p * kTile + (r & 15) * 64, rows_of[p][r]);
        }
      }
    }
    if (s.by_token) {
      char* out = s.by_token + g * pair_bytes(words, kPlanes) + v * kPlanes * kTile;
      for (int p = 0; p < kPlanes; p++) {
        for (int half = 0; half < 2; half++) {
          __m512i t[16];
          for (int r = 0; r < 16; r++) t[r] = interleave(rows_of[p][2 * r], rows_of[p][2 * r + 1], half);
          transpose16(t);
          char* tile = out + half * words * kPlanes * kTile + p * kTile;
          for (int r = 0; r < 16; r++) _mm512_store_si512(tile + r * 64, t[r]);
        }
      }
    }
  }
};

// 16 elements of a row as fp32 and back, rounded to nearest even; those outside the mask are left alone.
FASTPREF_FN __m512 load16(const float* x, __mmask16 mask) { return _mm512_maskz_loadu_ps(mask, x); }
FASTPREF_FN __m512 load16(const BFloat16* x, __mmask16 mask) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, x)), 16));
}
FASTPREF_FN __m512 load16(const Float16* x, __mmask16 mask) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, x));
}
FASTPREF_FN void store16(float* x, __mmask16 mask, __m512 v) { _mm512_mask_storeu_ps(x, mask, v); }
FASTPREF_FN void store16(BFloat16* x, __mmask16 mask, __m512 v) {
  _mm256_mask_storeu_epi16(x, mask, (__m256i)_mm512_cvtneps_pbh(v));
}
FASTPREF_FN void store16(Float16* x, __mmask16 mask, __m512 v) {
  _mm256_mask_storeu_epi16(x, mask, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

// A block of fp32 sums to at most 32 rows and columns of an output, added to it or not.
template <class T>
FASTPREF_FN void write_rows(const float* block, T* out, int64_t stride, int rows, int columns, bool add_to) {
  for (int half = 0; half < columns; half += 16) {
    const int n = columns - half < 16 ? columns - half : 16;
    const __mmask16 mask = static_cast<__mmask16>((1u << n) - 1);
    for (int r = 0; r < rows; r++) {
      T* to = out + r * stride + half;
      __m512 sum = _mm512_load_ps(block + r * kEdge + half);
      if (add_to) sum = _mm512_add_ps(sum, load16(to, mask));
      store16(to, mask, sum);
    }
  }
}

void write_block(const float* block, DType type, void* out, int64_t offset, int64_t stride, int rows, int columns,
                 bool add_to) {
  with_type(type, [&](auto* t) {
    using T = typename std::remove_const<typename std::remove_pointer<decltype(t)>::type>::type;
    write_rows(block, static_cast<T*>(out) + offset, stride, rows, columns, add_to);
  });
}

template <bool kSoftcap, int kPlanes>
int64_t grad_with(const HeadGradArgs& a) {
  const HeadOperands& head = a.head;
  Arena arena = {static_cast<char*>(a.scratch)};
  GradScratch s = GradScratch::take(&arena, head, a.dx, a.dw, a.db, a.chunk, a.row_block);
  const Matrix hidden = hidden_of(head), weight = weight_of(head);
  const Products to_logits(weight.planes(), hidden.planes()), to_dx(kPlanes, weight.planes()),
      to_dw(kPlanes, hidden.planes());
  const int64_t k_blocks = blocks_of(head.width), padded = round_up(head.rows, kEdge);
  const int64_t kept_groups = blocks_of(a.kept_rows), kept_bytes = kept_block_bytes(head);
  const bool exponentials = keeps_exponentials(head), several = s.block < padded;
  const Transform& t = head.transform;
  fill_scale(head, t.has_softcap ? t.cap_out : t.scale, s.scale);
  fill_scale(head, t.scale, s.factor);
  for (int64_t r = 0; r < padded; r++) {
    // A row that does not count, or has no gradient, has p = exp(z - inf) = 0.
    const bool real = r < head.rows && !(a.onehot_coef[r] == 0.0f && a.softmax_coef[r] == 0.0f);
    s.shift[r] = real ? -a.lse[r] : -INFINITY;
    s.factor[r] *= real ? -a.softmax_coef[r] : 0.0f;
  }
  s.chains.fill(head.targets, head.rows, head.vocab);
  int64_t left_out = 0;

#ifdef _OPENMP
  #pragma omp parallel num_threads(head.threads) reduction(+ : left_out)
#endif
  {
    float* held = s.held + thread_number() * s.held_by_thread * kBlock;
    configure_tiles();
    for (int64_t word = 0; word < head.vocab; word += s.chunk) {
      const Matrix piece = weight.slice(word, s.chunk);
      const int64_t words = blocks_of(piece.rows);
#ifdef _OPENMP
  #pragma omp for schedule(static) nowait
#endif
      for (int64_t v = 0; v < words; v++) {
        if (kept_groups < padded / kEdge) {  // else no logit is made again
          piece.left(v * kEdge, s.weight_rows + v * pair_bytes(k_blocks, piece.planes()));
        }
        if (a.dx) piece.right_columns(v * kEdge, v, words, s.weight_columns);
      }
      for (int64_t token = 0; token < head.rows; token += s.block) {
        const Matrix rows = hidden.slice(token, s.block);
        const int64_t groups = blocks_of(rows.rows), before = token / kEdge;
        if (word == 0 || several) {
#ifdef _OPENMP
  #pragma omp for schedule(static)
#endif
          for (int64_t g = 0; g < groups; g++) {
            if (before + g >= kept_groups) {
              rows.right_rows(g * kEdge, s.hidden_rows + g * pair_bytes(k_blocks, rows.planes()));
            }
            if (a.dw) rows.right_columns(g * kEdge, g, groups, s.hidden_columns);
          }
        } else {
#ifdef _OPENMP
  #pragma omp barrier
#endif
        }

        const int64_t left = pair_bytes(k_blocks, piece.planes()), right = pair_bytes(k_blocks, rows.planes());
        const Grid logits(k_blocks, words, piece.planes(), groups, rows.planes(), head.threads);
        const int64_t last_panel = logits.panels.count - 1;
        const int rows_per_step = static_cast<int>((kEdge + logits.panels.length - 1) / logits.panels.length);
#ifdef _OPENMP
  #pragma omp for schedule(dynamic)
#endif
        for (int64_t task = 0; task < logits.tasks(); task++) {
          alignas(64) float blocks[2][kBlock];
          int turn = 0;
          Gradient<kSoftcap, kPlanes> gradient(a, s, words, groups);
          logits.run(task, [&](int64_t v, int64_t g, int64_t panel, int64_t place) {
            const int64_t column = word / kEdge + v, first = token + g * kEdge;
            const char* kept = before + g < kept_groups
                                   ? static_cast<const char*>(a.kept) + (column * kept_groups + before + g) * kept_bytes
                                   : nullptr;
            const bool whole = panel == last_panel;
            if (kept && !whole) return;
            float* next = !kept && last_panel > 0 ? held + place * kBlock : blocks[turn ^= 1];
            if (!kept) {
              // The gradients of one block are made beside the product of the next.
              product({s.weight_rows + v * left, s.hidden_rows + g * right, k_blocks, nullptr, 0},
                      logits.panels.first(panel), logits.panels.last(panel), to_logits, next, panel > 0, [&] {
                        if (gradient.pending()) gradient.rows(rows_per_step);
                      });
            }
            if (!whole) return;
            if (gradient.pending()) gradient.end();
            if (kept && exponentials) return gradient.from_exponentials(kept, next, v, g, column, first);
            if (kept) {
              memcpy(next, kept, kBlock * sizeof(float));
            } else {
              const int n = static_cast<int>(smaller(head.vocab - column * kEdge, kEdge));
              if (head.bias) add_bias(next, head.bias + column * kEdge, n);
            }
            gradient.begin(next, v, g, column, first);
          });
          if (gradient.pending()) gradient.end();
          left_out += gradient.left_out;
        }

        if (a.db) {
#ifdef _OPENMP
  #pragma omp for schedule(static) nowait
#endif
          for (int64_t v = 0; v < piece.rows; v++) {
            double sum = 0.0;
            for (int64_t g = 0; g < groups; g++) sum += s.db[(v / kEdge * groups + g) * kEdge + v % kEdge];
            a.db[word + v] += static_cast<float>(sum);
          }
        }
        if (a.dx) {
          const int64_t token_strip = pair_bytes(words, kPlanes), word_strip = pair_bytes(words, piece.planes());
          const Grid grid(words, groups, kPlanes, k_blocks, piece.planes(), head.threads);
#ifdef _OPENMP
  #pragma omp for schedule(dynamic) nowait
#endif
          for (int64_t task = 0; task < grid.tasks(); task++) {
            grid.run(task, [&](int64_t g, int64_t h, int64_t panel, int64_t) {
              product({s.by_token + g * token_strip, s.weight_columns + h * word_strip, words,
                       a.filter > 0.0f ? s.used + g : nullptr, groups},
                      grid.panels.first(panel), grid.panels.last(panel), to_dx,
                      s.dx + ((before + g) * k_blocks + h) * kBlock, word > 0 || panel > 0, Nothing());
            });
          }
        }
        if (a.dw) {
          const int64_t word_strip = pair_bytes(groups, kPlanes), token_strip = pair_bytes(groups, rows.planes());
          const Grid grid(groups, words, kPlanes, k_blocks, rows.planes(), head.threads);
          const bool last = token + s.block >= head.rows;
#ifdef _OPENMP
  #pragma omp for schedule(dynamic) nowait
#endif
          for (int64_t task = 0; task < grid.tasks(); task++) {
            alignas(64) float block[kBlock];
            grid.run(task, [&](int64_t v, int64_t h, int64_t panel, int64_t place) {
              float* sums = several                 ? s.dw + (v * k_blocks + h) * kBlock
                            : grid.panels.count > 1 ? held + place * kBlock
                                                    : block;
              product({s.by_word + v * word_strip, s.hidden_columns + h * token_strip, groups,
                       a.filter > 0.0f ? s.used + v * groups : nullptr, 1},
                      grid.panels.first(panel), grid.panels.last(panel), to_dw, sums, token > 0 || panel > 0,
                      Nothing());
              if (!last || panel + 1 < grid.panels.count) return;
              const int64_t row = word + v * kEdge;
              write_block(sums, a.dw_dtype, a.dw, row * a.dw_stride + h * kEdge, a.dw_stride,
                          static_cast<int>(smaller(head.vocab - row, kEdge)),
                          static_cast<int>(smaller(head.width - h * kEdge, kEdge)), a.dw_add);
            });
          }
        }
#ifdef _OPENMP
  #pragma omp barrier
#endif
      }
    }
    _tile_release();
    if (a.dx) {
#ifdef _OPENMP
  #pragma omp for schedule(static)
#endif
      for (int64_t g = 0; g < padded / kEdge; g++) {
        for (int64_t h = 0; h < k_blocks; h++) {
          write_block(s.dx + (g * k_blocks + h) * kBlock, a.dx_dtype, a.dx, g * kEdge * head.width + h * kEdge,
                      head.width, static_cast<int>(smaller(head.rows - g * kEdge, kEdge)),
                      static_cast<int>(smaller(head.width - h * kEdge, kEdge)), false);
        }
      }
    }
  }
  return left_out;
}

template <bool kSoftcap>
int64_t grad_of(const HeadGradArgs& a) {
  const int hidden = planes_of(a.head.hidden_dtype), weight = planes_of(a.head.weight_dtype);
  switch (hidden > weight ? hidden : weight) {
    case 1:
      return grad_with<kSoftcap, 1>(a);
    case 2:
      return grad_with<kSoftcap, 2>(a);
    default:
      return grad_with<kSoftcap, 3>(a);
  }
}

int64_t grad(const HeadGradArgs& a) { return a.head.transform.has_softcap ? grad_of<true>(a) : grad_of<false>(a); }

HeadScratch scratch(const HeadOperands& a, bool statistics, bool dx, bool dw, bool db, int64_t chunk, int64_t row_block,
                    int64_t kept_rows) {
  Arena of_stats = {nullptr}, of_grad = {nullptr};
  StatsScratch::take(&of_stats, a, statistics);
  GradScratch::take(&of_grad, a, dx, dw, db, chunk, row_block);
  return {of_stats.used, of_grad.used, blocks_of(a.vocab) * blocks_of(kept_rows) * kept_block_bytes(a)};
}

}  // namespace
}  // namespace amx

const HeadKernels kAmxHead = {amx::stats, amx::grad, amx::scratch};

}  // namespace fastpref
