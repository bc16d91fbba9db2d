// The two primitives of a divergence on the CPU, over the row kernels of rows_impl.h and compiled with them.
//
// row_kl_stats  reads each logit of both once from memory. It folds a block of the policy's row and the same block of the
//               reference's exactly as row_stats does, then goes over both, by then in L1, for the sum that needs both,
//               sum exp(a - m_a) ((a - m_a) - (b - m_b)); that sum moves along when one of the reference values does.
// row_kl_grad   reads each logit of both once and writes each gradient once, over the policy's logits or elsewhere.
//
// Equal rows give a sum of exactly 0 and a third term of exactly 0: both sides go through the same instructions, and the
// differences are taken before anything multiplies them. Bits, threads, strides and dtypes as in rows_impl.h.
#pragma once

#include "rows_impl.h"

namespace fastpref {
namespace FASTPREF_ISA {

// One vector of the sum: 0 where a is excluded; +inf where only b is, whatever is left of exp there. Without kMasked these
// are NaN or infinite.
template <bool kMasked>
FASTPREF_FN Vec cross_term(Vec a, Vec b, Vec m_a, Vec m_b, const ScaledExp& exp) {
  const Vec excluded = set1(-INFINITY), d_a = sub(a, m_a);
  const Vec term = mul(exp(d_a), sub(d_a, sub(b, m_b)));
  if (!kMasked) return term;
  return select_less(excluded, a, select_less(excluded, b, term, set1(INFINITY)), set1(0.0f));
}

// The sum over a block of at most kBlock columns.
template <bool kMasked, class T, class Z>
static float cross_block(const T* a, const T* b, int n, const Z& t, float m_a, float m_b) {
  const Vec zero = set1(0.0f), reference_a = set1(m_a), reference_b = set1(m_b);
  const ScaledExp exp(1.0f);
  Vec sum[2] = {zero, zero}, u[2], v[2];
  int i = 0;
  for (; i + kPair <= n; i += kPair) {
    load2(a + i, u, u + 1);
    load2(b + i, v, v + 1);
    for (int k = 0; k < 2; k++) {
      sum[k] = add(sum[k], cross_term<kMasked>(t.z(u[k]), t.z(v[k]), reference_a, reference_b, exp));
    }
  }
  if (i < n) {
    Vec weight[2];
    load_tail(a + i, n - i, u, weight);
    load_tail(b + i, n - i, v, weight);
    for (int k = 0; k < 2; k++) {
      const Vec term = cross_term<kMasked>(t.z(u[k]), t.z(v[k]), reference_a, reference_b, exp);
      sum[k] = add(sum[k], select_less(zero, weight[k], term, zero));
    }
  }
  return reduce_add(add(sum[0], sum[1]));
}

FASTPREF_FN float finite_reference(float m) { return m == -INFINITY ? 0.0f : m; }

// A sum relative to (m_a, m_b) over entries whose exp(a - m_a) add up to s_a, relative to two other reference values.
// +inf stays, also where its own weight has since become 0.
FASTPREF_FN double moved_cross(double cross, double s_a, double m_a, double m_b, double to_a, double to_b) {
  if (s_a == 0.0 || cross == INFINITY || (m_a == to_a && m_b == to_b)) return cross;
  return exp(m_a - to_a) * (cross + s_a * ((m_a - to_a) - (m_b - to_b)));
}

// Folds a block of one side unless its sum is already undefined, as row_stats would.
template <class T, class Z>
FASTPREF_FN void fold_side(const T* x, int n, const Z& t, RowFold* side) {
  if (side->defined) fold_block<kSum, false>(x, n, t, side);
}

template <class T, class Z>
FASTPREF_FN void finish_side(const RowStatsArgs& a, int64_t r, const Z& t, RowFold* side) {
  if (side->defined) normalise(&side->sum);
  a.m[r] = side->sum.m;
  a.s[r] = static_cast<float>(side->sum.s);
  const int64_t j = a.targets[r] - a.col0;
  const T* x = static_cast<const T*>(a.logits) + r * a.logits_stride;
  if (j >= 0 && j < a.cols) a.zt[r] = z_of(t, to_float(x[j]));
}

template <class T, class Z>
static void kl_stats_row(const RowKlStatsArgs& args, int64_t r) {
  if (args.policy.targets[r] < 0) return;
  const RowStatsArgs& a = args.forward ? args.reference : args.policy;
  const RowStatsArgs& b = args.forward ? args.policy : args.reference;
  const Z t(row_transform(a, r));
  const T* x = static_cast<const T*>(a.logits) + r * a.logits_stride;
  const T* y = static_cast<const T*>(b.logits) + r * b.logits_stride;
  RowFold side_a = {{a.m[r], a.s[r]}}, side_b = {{b.m[r], b.s[r]}};
  double cross = args.cross[r];
  bool masked = false;
  for (int64_t start = 0; start < args.cols; start += kBlock) {
    const int n = block_length(start, args.cols);
    const LogSum before = side_a.sum;
    const float before_b = side_b.sum.m;
    fold_side(x + start, n, t, &side_a);
    fold_side(y + start, n, t, &side_b);
    const float m_a = finite_reference(side_a.sum.m), m_b = finite_reference(side_b.sum.m);
    cross = moved_cross(cross, before.s, before.m, before_b, m_a, m_b);
    float part = masked ? NAN : cross_block<false>(x + start, y + start, n, t, m_a, m_b);
    if (!(fabsf(part) < INFINITY)) {
      masked = true;
      part = cross_block<true>(x + start, y + start, n, t, m_a, m_b);
    }
    cross += part;
  }
  const LogSum before = side_a.sum;
  const float before_b = side_b.sum.m;
  finish_side<T>(a, r, t, &side_a);
  finish_side<T>(b, r, t, &side_b);
  cross = moved_cross(cross, before.s, before.m, before_b, finite_reference(a.m[r]), finite_reference(b.m[r]));
  args.cross[r] = static_cast<float>(cross);
}

// d of the third term: p - q, or p (log p - log q - kl).
template <bool kForward>
FASTPREF_FN Vec divergence_slope(Vec log_p, Vec log_q, Vec kl, Vec p, const ScaledExp& exp) {
  if (kForward) return sub(p, exp(log_q));
  return mul(p, sub(sub(log_p, log_q), kl));
}

// What a row's gradient is made from, with every NaN made the plain one (see gradient_row).
struct KlRow {
  Vec lse, ref_lse, kl, softmax_coef, kl_coef;
  ScaledExp exp{1.0f};

  static Vec plain(float x) { return set1(x == x ? x : NAN); }
};

template <bool kForward, class Z>
FASTPREF_FN Vec kl_gradient(Vec x, Vec y, const Z& t, const KlRow& row) {
  Vec slope;
  const Vec z = t.z_and_slope(x, &slope);
  const Vec log_p = sub(z, row.lse), log_q = sub(t.z(y), row.ref_lse), p = row.exp(log_p);
  const Vec d = divergence_slope<kForward>(log_p, log_q, row.kl, p, row.exp);
  const Vec whole = mul(sub(mul(row.kl_coef, d), mul(row.softmax_coef, p)), slope);
  if (kForward) return whole;
  return select_less(set1(-INFINITY), z, whole, mul(p, slope));  // p is 0 there, or NaN with the row
}

template <bool kForward, class T, class Z>
static void kl_gradient_row(const T* x, const T* y, T* out, int64_t n, const Z& t, const KlRow& row) {
  Vec u[2], v[2];
  int64_t i = 0;
  for (; i + kPair <= n; i += kPair) {
    prefetch(x + i);
    prefetch(y + i);
    load2(x + i, u, u + 1);
    load2(y + i, v, v + 1);
    store2(out + i, kl_gradient<kForward>(u[0], v[0], t, row), kl_gradient<kForward>(u[1], v[1], t, row));
  }
  if (i < n) {
    T buffer[kPair];
    Vec weight[2];
    const int length = static_cast<int>(n - i);
    load_tail(x + i, length, u, weight);
    load_tail(y + i, length, v, weight);
    store2(buffer, kl_gradient<kForward>(u[0], v[0], t, row), kl_gradient<kForward>(u[1], v[1], t, row));
    memcpy(out + i, buffer, length * sizeof(T));
  }
}

// The entry where the one-hot counts: o - b p + c d, in double and with the digits of 1 - p.
static double kl_target_gradient(float z, float ref_z, const RowKlGradArgs& args, int64_t r) {
  const RowGradArgs& a = args.policy;
  const double log_p = static_cast<double>(z) - a.lse[r], log_q = static_cast<double>(ref_z) - args.ref_lse[r];
  const double o = a.onehot_coef[r], b = a.softmax_coef[r], p = exp(log_p);
  double d = args.forward ? p - exp(log_q) : p * (log_p - log_q - args.kl[r]);
  if (!args.forward && p == 0.0) d = 0.0;
  return ((o - b) - b * expm1(log_p)) + args.kl_coef[r] * d;
}

template <class T, class Z>
static void kl_grad_row(const RowKlGradArgs& args, int64_t r) {
  const RowGradArgs& a = args.policy;
  const float c = args.kl_coef[r];
  if (a.targets[r] < 0 || c == 0.0f) return grad_row<T, Z, false>(a, r);
  const T* x = static_cast<const T*>(a.logits) + r * a.logits_stride;
  const T* y = static_cast<const T*>(args.ref_logits) + r * args.ref_logits_stride;
  T* out = static_cast<T*>(a.out) + r * a.out_stride;
  const int64_t j = a.targets[r] - a.col0;
  const bool here = j >= 0 && j < a.cols;
  const Transform transform = row_transform(a, r);
  const Z t(transform);
  float target = 0.0f;
  if (here) {  // before the row is overwritten: out may be x
    const float xt = to_float(x[j]);
    const double grad = kl_target_gradient(z_of(t, xt), z_of(t, to_float(y[j])), args, r);
    target = static_cast<float>(grad * transform_derivative(transform, xt));
  }
  const float scale = transform.scale;  // the constant factor of dz/dx
  const KlRow row = {KlRow::plain(a.lse[r]), KlRow::plain(args.ref_lse[r]), KlRow::plain(args.kl[r]),
                     KlRow::plain(a.softmax_coef[r] * scale), KlRow::plain(c * scale)};
  args.forward ? kl_gradient_row<true>(x, y, out, a.cols, t, row) : kl_gradient_row<false>(x, y, out, a.cols, t, row);
  if (here) from_float(target, out + j);
}

template <class T>
static void row_kl_stats_of(const RowKlStatsArgs& a) {
  const Transform& t = a.policy.transform;
  const bool plain = t.scale == 1.0f && !a.policy.inv_temperature;
  for_each_row(a, t.has_softcap ? kl_stats_row<T, Softcap>
                  : plain       ? kl_stats_row<T, Identity>
                                : kl_stats_row<T, Scaled>);
}

template <class T>
static void row_kl_grad_of(const RowKlGradArgs& a) {
  for_each_row(a, a.policy.transform.has_softcap ? kl_grad_row<T, Softcap> : kl_grad_row<T, Scaled>);
}

static void row_kl_stats(const RowKlStatsArgs& a) {
  switch (a.policy.dtype) {
    case DType::kFloat32:
      return row_kl_stats_of<float>(a);
    case DType::kBFloat16:
      return row_kl_stats_of<BFloat16>(a);
    case DType::kFloat16:
      return row_kl_stats_of<Float16>(a);
  }
}

static void row_kl_grad(const RowKlGradArgs& a) {
  switch (a.policy.dtype) {
    case DType::kFloat32:
      return row_kl_grad_of<float>(a);
    case DType::kBFloat16:
      return row_kl_grad_of<BFloat16>(a);
    case DType::kFloat16:
      return row_kl_grad_of<Float16>(a);
  }
}

}  // namespace FASTPREF_ISA
}  // namespace fastpref
