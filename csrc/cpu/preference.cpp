#include "preference.h"

#include <math.h>

#include <vector>

#include "../core/heads.h"

namespace fastpref {
namespace {

double number_at(const Numbers& numbers, int64_t i) {
  switch (numbers.type) {
    case NumberType::kFloat32:
      return static_cast<const float*>(numbers.values)[i];
    case NumberType::kBFloat16:
      return to_float(static_cast<const BFloat16*>(numbers.values)[i]);
    case NumberType::kFloat16:
      return to_float(static_cast<const Float16*>(numbers.values)[i]);
    case NumberType::kFloat64:
      return static_cast<const double*>(numbers.values)[i];
    case NumberType::kUInt8:
      return static_cast<const uint8_t*>(numbers.values)[i];
    case NumberType::kInt32:
      return static_cast<const int32_t*>(numbers.values)[i];
    default:
      return static_cast<double>(static_cast<const int64_t*>(numbers.values)[i]);
  }
}

// Statistics of every row of one side.
struct Side {
  std::vector<float> m, s, zt;

  RowStatsArgs start(const PreferenceArgs& a, const void* logits, int64_t stride, const int64_t* targets, int threads) {
    const size_t n = static_cast<size_t>(a.rows);
    m.assign(n, -INFINITY);
    s.assign(n, 0.0f);
    zt.assign(n, NAN);
    RowStatsArgs args = {};
    args.dtype = a.dtype;
    args.rows = a.rows;
    args.cols = a.cols;
    args.logits = logits;
    args.logits_stride = stride;
    args.targets = targets;
    args.inv_temperature = a.inv_temperature;
    args.m = m.data();
    args.s = s.data();
    args.zt = zt.data();
    args.transform = a.transform;
    args.threads = threads;
    return args;
  }

  float logp(int64_t t) const {
    return (zt[static_cast<size_t>(t)] - m[static_cast<size_t>(t)]) - logf(s[static_cast<size_t>(t)]);
  }
  float lse(int64_t t) const { return m[static_cast<size_t>(t)] + logf(s[static_cast<size_t>(t)]); }
};

struct Bounds {
  int64_t begin, end;
};

Bounds rows_of(const PreferenceArgs& a, int64_t k) {
  const int64_t begin = a.cu_seqlens[k], end = a.cu_seqlens[k + 1];
  return {begin < 0 ? 0 : begin, end > a.rows ? a.rows : end};  // a begin beyond the rows has none
}

double weight_of(const PreferenceArgs& a, int64_t t) { return a.weights.values ? number_at(a.weights, t) : 1.0; }

// A datum; of those that are not given 0, or the policy's own log-prob.
double datum(const PreferenceArgs& a, int i, int64_t at, double policy) {
  if (a.data[i].values) return number_at(a.data[i], at);
  return i == a.own ? policy : 0.0;
}

// Log-probs and sums of every sequence, and with a head of tokens its losses and coefficients. `lengths` gets the active rows.
template <HeadKind kKind>
void finish_rows(const PreferenceArgs& a, const Side& policy, const Side& reference, std::vector<double>* lengths) {
  for (int64_t k = 0; k < a.sequences; ++k) {
    const Bounds rows = rows_of(a, k);
    const double divisor = kKind == HeadKind::kToken ? number_at(a.divisors, k) : 1.0;
    double policy_sum = 0.0, reference_sum = 0.0, count = 0.0, loss_sum = 0.0;
    for (int64_t t = rows.begin; t < rows.end; ++t) {
      const bool active = a.targets[t] != a.ignored;
      float logp = 0.0f, lse = 0.0f;
      double near = 0.0, coef = 0.0;
      if (active) {
        logp = policy.logp(t);
        lse = policy.lse(t);
        if (a.reference_form == ReferenceForm::kLogits) near = reference.logp(t);
        if (a.reference_form == ReferenceForm::kTokens) near = number_at(a.reference, t);
        const double weight = weight_of(a, t);
        policy_sum += weight * logp;
        reference_sum += weight * near;
        count += 1.0;
        if constexpr (kKind == HeadKind::kToken) {
          constexpr int kData = kDataOf<kKind>;
          double in[2 + kData] = {logp, near}, out[2] = {0.0, 0.0};
          for (int i = 0; i < kData; ++i) in[2 + i] = datum(a, i, a.by_sequence >> i & 1u ? k : t, logp);
          run_head<kKind>(a.head, in, a.hyper, out);
          loss_sum += out[0];
          coef = out[1] / (divisor * a.sequences);
        }
      }
      a.logps[t] = logp;
      a.lse[t] = lse;
      if (a.ref_logps) a.ref_logps[t] = static_cast<float>(near);
      if constexpr (kKind == HeadKind::kToken) a.coef[t] = static_cast<float>(coef);
    }
    if (a.reference_form == ReferenceForm::kSequences) reference_sum = number_at(a.reference, k);
    a.sums[k] = policy_sum;
    a.sums[a.sequences + k] = reference_sum;
    (*lengths)[static_cast<size_t>(k)] = count < 1.0 ? 1.0 : count;
    if (a.rewards) a.rewards[k] = a.reward_scale * (policy_sum - reference_sum);
    if constexpr (kKind == HeadKind::kToken) a.losses[k] = loss_sum / divisor;
  }
}

// The coefficient of every row of sequence k, whose own is `coef`.
void spread(const PreferenceArgs& a, int64_t k, double coef) {
  const Bounds rows = rows_of(a, k);
  for (int64_t t = rows.begin; t < rows.end; ++t) {
    a.coef[t] = a.targets[t] != a.ignored ? static_cast<float>(coef * weight_of(a, t)) : 0.0f;
  }
}

// The head of every item of one or two sequences.
template <HeadKind kKind>
void finish_items(const PreferenceArgs& a, const std::vector<double>& lengths) {
  constexpr int kSides = kKind == HeadKind::kPair ? 2 : 1, kData = kDataOf<kKind>;
  const int64_t items = a.sequences / kSides;
  double hyper[kMostHyper];
  for (int i = 0; i < kMostHyper; ++i) hyper[i] = a.hyper[i];
  if (a.number.values) hyper[a.hyper_count] = number_at(a.number, 0);
  for (int64_t item = 0; item < items; ++item) {
    double in[kSides * (3 + kData)], out[3] = {0.0, 0.0, 0.0};
    for (int side = 0; side < kSides; ++side) {
      const int64_t k = item + side * items;
      in[side] = a.sums[k];
      in[kSides + side] = a.sums[a.sequences + k];
      in[2 * kSides + side] = lengths[static_cast<size_t>(k)];
      for (int i = 0; i < kData; ++i) in[(3 + i) * kSides + side] = datum(a, i, k, in[side]);
    }
    run_head<kKind>(a.head, in, hyper, out);
    a.losses[item] = out[0];
    if (kKind == HeadKind::kPair && a.margins) {
      a.margins[item] = a.reward_scale * (in[0] - in[2]) - a.reward_scale * (in[1] - in[3]);
    }
    for (int side = 0; side < kSides; ++side)
      spread(a, item + side * items, out[1 + side] / static_cast<double>(items));
  }
}

template <HeadKind kKind>
void finish(const PreferenceArgs& a, const Side& policy, const Side& reference) {
  std::vector<double> lengths(static_cast<size_t>(a.sequences));
  finish_rows<kKind>(a, policy, reference, &lengths);
  if constexpr (kKind != HeadKind::kToken) finish_items<kKind>(a, lengths);
  const int64_t items = kKind == HeadKind::kPair ? a.sequences / 2 : a.sequences;
  double sum = 0.0;
  for (int64_t i = 0; i < items; ++i) sum += a.losses[i];
  *a.loss = static_cast<float>(sum / static_cast<double>(items));
}

BadRow first_nan(const PreferenceArgs& a) {
  for (int64_t t = 0; t < a.rows; ++t) {
    if (a.logps[t] != a.logps[t]) return {BadRow::kPolicy, t};
  }
  for (int64_t t = 0; a.ref_logps && t < a.rows; ++t) {
    if (a.ref_logps[t] != a.ref_logps[t]) return {BadRow::kReference, t};
  }
  return {BadRow::kNone, 0};
}

}  // namespace

BadRow preference_forward(const PreferenceArgs& a, const RowKernels& rows, int threads) {
  // The row kernels take an ignored row for one with a negative target.
  std::vector<int64_t> targets(static_cast<size_t>(a.rows));
  for (int64_t t = 0; t < a.rows; ++t) {
    const int64_t id = a.targets[t];
    if (id != a.ignored && (id < 0 || id >= a.cols)) return {BadRow::kTarget, t};
    targets[static_cast<size_t>(t)] = id == a.ignored ? -1 : id;
    a.logps[t] = a.coef[t] = NAN;  // stays where cu_seqlens leaves a row out
  }
  Side policy, reference;
  const RowStatsArgs mine = policy.start(a, a.logits, a.logits_stride, targets.data(), threads);
  if (a.ref_logits) {
    const RowStatsArgs near = reference.start(a, a.ref_logits, a.ref_logits_stride, targets.data(), threads);
    rows.row_stats(mine, &near);
  } else {
    rows.row_stats(mine, nullptr);
  }
  switch (kHeadKinds[a.head]) {
    case HeadKind::kPair:
      finish<HeadKind::kPair>(a, policy, reference);
      break;
    case HeadKind::kSequence:
      finish<HeadKind::kSequence>(a, policy, reference);
      break;
    default:
      finish<HeadKind::kToken>(a, policy, reference);
  }
  return first_nan(a);
}

}  // namespace fastpref
