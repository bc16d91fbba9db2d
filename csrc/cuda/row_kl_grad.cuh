// Row gradient with a third term, for a loss that holds the divergence of a policy's rows from a reference's:
//
//     out[r, j] = (onehot[r] * 1[col0 + j == targets[r]] - softmax[r] * p + kl_coef[r] * d) * dz/dx
//     p = exp(z - lse), q = exp(ref_z - ref_lse), d = p - q (forward) or p * (log p - log q - kl) (reverse, 0 where p is 0)
//
// Inputs    both chunks [R, C] of T at any row stride and alignment; targets [R], negative on ignored rows; everything per row [R] fp32;
//           inv_temperature [R], if given
// Output    out [R, C] of T; may be `logits`, not `ref_logits`
// Bytes     every logit of both is read once and every gradient written once; rows without a third term do not read the reference's, rows that
//           are ignored or whose three coefficients are all 0 are written as zeros and read nothing
// Values    as in row_grad; equal rows have a third term of exactly 0: no multiplication is fused with the differences
// Limits    R < 2^31, C < 2^31. Stores are 16 bytes wide; loads too where the three have the same alignment
#pragma once

#include "row_grad.cuh"

namespace fastpref {

struct KlGradRow {
  GradRow grad;
  float ref_lse, kl, third;
  bool forward;
};

template <TransformKind kKind>
FASTPREF_DEVICE float kl_grad_entry(const KlGradRow& r, float x, float y, bool is_target) {
  float slope;
  const float log_p = transformed<kKind>(r.grad.transform, x, &slope) - r.grad.lse;
  const float log_q = transformed<kKind>(r.grad.transform, y) - r.ref_lse;
  const float p = exp2_fast(log_p * kLog2E);
  float d = r.forward ? p - exp2_fast(log_q * kLog2E) : p == 0.0f ? 0.0f : p * ((log_p - log_q) - r.kl);
  d = r.third == 0.0f ? 0.0f : product(r.third, d);
  float grad = d - r.grad.softmax * p;
  if (is_target) {
    const float close = ((r.grad.onehot - r.grad.softmax) - r.grad.softmax * expm1_near_zero(log_p)) + d;
    grad = fabsf(log_p) < 0.5f ? close : r.grad.onehot + grad;
  }
  return grad * slope;
}

template <class T, TransformKind kKind>
FASTPREF_KERNEL(kGradThreads, kKind == TransformKind::kSoftcap ? 2 : 4)
void row_kl_grad(const RowKlGradArgs args) {
  constexpr int kWidth = kPerVector<T>, kGroups = 1;
  const RowGradArgs& a = args.policy;
  const int64_t row = blockIdx.x;
  const int columns = static_cast<int>(args.cols);
  T* out = static_cast<T*>(a.out) + row * a.out_stride;
  const int shift = elements_to_alignment(out);
  const int64_t target = load(a.targets + row);
  KlGradRow r = {{a.transform, 0.0f, load(a.onehot_coef + row), load(a.softmax_coef + row), -1},
                 0.0f,
                 0.0f,
                 load(args.kl_coef + row),
                 args.forward};
  if (target < 0 || (r.grad.onehot == 0.0f && r.grad.softmax == 0.0f && r.third == 0.0f)) {
    const float zeros[kWidth] = {};
    over_row<kWidth, kGroups>(
        columns, shift, [&](int column) { store_float(out + column, 0.0f); },
        [&](int, int column, int) { store_elements(out + column, zeros); });
    return;
  }

  const T* logits = static_cast<const T*>(a.logits) + row * a.logits_stride;
  const T* reference = static_cast<const T*>(args.ref_logits) + row * args.ref_logits_stride;
  const bool wide = reinterpret_cast<uintptr_t>(logits + shift) % 16 == 0;
  const bool wide_reference = reinterpret_cast<uintptr_t>(reference + shift) % 16 == 0;
  const bool both = r.third != 0.0f;
  if (kKind != TransformKind::kIdentity) {
    if (a.inv_temperature) r.grad.transform = scaled_by(r.grad.transform, load(a.inv_temperature + row));
    r.grad.onehot *= r.grad.transform.scale;
    r.grad.softmax *= r.grad.transform.scale;
    r.third *= r.grad.transform.scale;
  }
  r.grad.lse = load(a.lse + row);
  r.ref_lse = load(args.ref_lse + row);
  if (!args.forward) r.kl = load(args.kl + row);
  const int64_t in_chunk = target - a.col0;
  if (in_chunk >= 0 && in_chunk < columns) r.grad.hit = static_cast<int>(in_chunk);
  over_row<kWidth, kGroups>(
      columns, shift,
      [&](int column) {
        const float x = load_float(logits + column), y = both ? load_float(reference + column) : 0.0f;
        store_float(out + column, kl_grad_entry<kKind>(r, x, y, column == r.grad.hit));
      },
      [&](int, int column, int) {
        float x[1][kWidth], y[1][kWidth] = {};
        load_groups(wide, logits + column, 0, 1, x);
        if (both) load_groups(wide_reference, reference + column, 0, 1, y);
        float g[kWidth];
#pragma unroll
        for (int j = 0; j < kWidth; ++j) g[j] = kl_grad_entry<kKind>(r, x[0][j], y[0][j], false);
        if (r.grad.hit >= column && r.grad.hit < column + kWidth) {
#pragma unroll
          for (int j = 0; j < kWidth; ++j) {
            if (r.grad.hit == column + j) g[j] = kl_grad_entry<kKind>(r, x[0][j], y[0][j], true);
          }
        }
        store_elements(out + column, g);
      });
}

}  // namespace fastpref
