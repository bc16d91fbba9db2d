// Row cross: what the divergence of two distributions needs of a chunk of both at once, after row_stats went over each.
//
//     cross[r] += sum exp(a - m_a) ((a - m_a) - (b - m_b))            a: the z of the one that measures, b: that of the other
//
// Inputs    both chunks [R, C] of T at any row stride and alignment; targets [R], negative on ignored rows, which are neither read nor changed;
//           m_a, s_a, m_b [R] as they were before the chunk, m_a and m_b as they are after it; inv_temperature [R], if given
// In place  cross [R], which is moved from the references before the chunk to those after it
// Bytes     every logit of both is read once; 28 bytes per row
// Values    an entry with a = -inf adds 0, one with b = -inf alone makes the row +inf, which stays. Equal rows give exactly 0: z is a rounded product,
//           and no multiplication is fused with the differences that follow
// Order     as in row_stats; parts of rows too. Columns fall to threads by the alignment of `a`; where `b` has another it is loaded by elements
// Limits    R < 2^31, C < 2^31
#pragma once

#include "row_stats.cuh"

namespace fastpref {

constexpr int kCrossLoads = 2;  // of each of the two

struct RowCrossArgs {
  int64_t rows, cols;
  const void *a, *b;
  int64_t a_stride, b_stride;
  const int64_t* targets;
  const float* inv_temperature;
  const float *m_a_before, *s_a_before, *m_b_before, *m_a, *m_b;
  float* cross;
  Transform transform;
};

// The references before the chunk, for row_cross after it; one thread per row.
struct KeptState {
  int64_t rows;
  const float *m_a, *s_a, *m_b;
  float* kept;  // [3, rows]
};

FASTPREF_KERNEL(kRowThreads, 1)
void keep_state(const KeptState a) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (row >= a.rows) return;
  store(a.kept + row, load(a.m_a + row));
  store(a.kept + a.rows + row, load(a.s_a + row));
  store(a.kept + 2 * a.rows + row, load(a.m_b + row));
}

// A reference value, or 0 where nothing finite was seen.
FASTPREF_DEVICE float finite_reference(float m) { return m == -INFINITY ? 0.0f : m; }

template <TransformKind kKind>
FASTPREF_DEVICE float cross_term(const Transform& t, float a, float b, float m_a, float m_b) {
  const float z_a = transformed<kKind>(t, a), z_b = transformed<kKind>(t, b);
  if (z_a == -INFINITY) return 0.0f;
  if (z_b == -INFINITY) return INFINITY;
  const float d_a = z_a - m_a;
  return exp2_fast(d_a * kLog2E) * (d_a - (z_b - m_b));
}

template <class T, TransformKind kKind>
FASTPREF_KERNEL(kRowThreads, 4)
void row_cross(const RowCrossArgs args, const RowParts parts) {
  constexpr int kWidth = kPerVector<T>;
  const int64_t row = blockIdx.x;
  if (load(args.targets + row) < 0) return;
  const T* a = static_cast<const T*>(args.a) + row * args.a_stride;
  const T* b = static_cast<const T*>(args.b) + row * args.b_stride;
  Transform t = args.transform;
  if (kKind != TransformKind::kIdentity && args.inv_temperature) t = scaled_by(t, load(args.inv_temperature + row));
  const float m_a_after = load(args.m_a + row), m_b_after = load(args.m_b + row);
  const float m_a = finite_reference(m_a_after), m_b = finite_reference(m_b_after);

  const int me = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int columns = static_cast<int>(args.cols), part = static_cast<int>(blockIdx.y);
  const int shift = common_shift(a, b);
  const bool wide_a = reinterpret_cast<uintptr_t>(a + shift) % 16 == 0;
  const bool wide_b = reinterpret_cast<uintptr_t>(b + shift) % 16 == 0;
  const int first = shift < columns ? shift : columns;
  const int vectors = (columns - first) / kWidth;
  const int begin = part * parts.vectors;
  const int end = part == parts.count - 1 ? vectors : begin + parts.vectors;
  float total = 0.0f;
  for (int v = begin + me; v < end; v += kCrossLoads * threads) {
    const int count = count_below<kCrossLoads>(v, threads, end);
    float x[kCrossLoads][kWidth], y[kCrossLoads][kWidth];
    load_groups(wide_a, a + first + v * kWidth, threads * kWidth, count, x);
    load_groups(wide_b, b + first + v * kWidth, threads * kWidth, count, y);
#pragma unroll
    for (int l = 0; l < kCrossLoads; ++l) {
      if (l >= count) continue;
      float of_vector = 0.0f;
#pragma unroll
      for (int j = 0; j < kWidth; ++j) of_vector += cross_term<kKind>(t, x[l][j], y[l][j], m_a, m_b);
      total += of_vector;
    }
  }
  if (part == 0) {  // the elements before the first vector and after the last
    const int tail = first + vectors * kWidth;
    const int edge = me < kWidth ? me : tail + me - kWidth;
    if (edge < (me < kWidth ? first : columns)) {
      total += cross_term<kKind>(t, load_float(a + edge), load_float(b + edge), m_a, m_b);
    }
  }
  total = block_sum(total);
  if (parts.count > 1) {
    float* partials = static_cast<float*>(parts.partials) + row;
    if (threadIdx.x == 0) store(partials + part * args.rows, total);
    if (!arrives_last(parts.arrived + row, static_cast<uint32_t>(parts.count))) return;
    total = me < parts.count ? load_from_others(partials + me * args.rows) : 0.0f;
    total = block_sum(total);
  }
  if (threadIdx.x != 0) return;
  const float cross = load(args.cross + row), s_before = load(args.s_a_before + row);
  const float m_a_before = load(args.m_a_before + row);
  const float moved = (m_a_before - m_a_after) - (load(args.m_b_before + row) - m_b_after);
  const float carried = exp2_fast((m_a_before - m_a_after) * kLog2E) * (cross + s_before * moved);
  store(args.cross + row, (s_before == 0.0f || cross == INFINITY ? cross : carried) + total);
}

}  // namespace fastpref
