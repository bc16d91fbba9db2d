// The end of a preference loss, done by whichever block has the last of a sequence's rows: its log-probs and sums, then with the last sequence
// of an item the head, rewards and the coefficients of the item's tokens, then with the last item the loss.
//
// Inputs    partial statistics m, s [sides, parts, T] and zt [sides, T] of the rows, which other blocks stored (see preference_forward.cuh)
// Outputs   those of PreferenceArgs
// Bytes     per token 8 for each part and 4 more, for each side; 8 of its target, which heads of sequences read twice; writes 16 to 20. O(T)
// Values    a token's log-prob is fp32, (zt - m) - log s; sums, heads and means are double, because margins are small differences of large sums. Where
//           policy and reference hold the same numbers a margin is exactly 0
// Order     who does it depends on which block comes last; what is done does not: every sum runs in a fixed order, and the only atomics are counters
// Limits    T < 2^31. Boundaries outside of the rows are never followed; rows of no sequence keep a coefficient of NaN
#pragma once

#include "../core/heads.h"
#include "preference.h"
#include "row_sweep.cuh"

namespace fastpref {

// Where the parts of a call's workspace lie.
struct PreferenceWorkspace {
  float* m;            // [sides, parts, T]
  float* s;            // [sides, parts, T]
  float* zt;           // [sides, T]
  int32_t* lengths;    // [K]: active rows
  uint32_t* counters;  // [K] rows of a sequence, [K] sequences of an item, [1] items; all 0 at first
};

struct PreferencePlan {
  PreferenceArgs args;
  PreferenceWorkspace at;
  TransformKind transform;
  int32_t parts, vectors;  // as in RowParts
};

FASTPREF_DEVICE double load_number(const Numbers& numbers, int64_t i) {
  switch (numbers.type) {
    case NumberType::kFloat32:
      return load(static_cast<const float*>(numbers.values) + i);
    case NumberType::kBFloat16:
      return load_float(static_cast<const BFloat16*>(numbers.values) + i);
    case NumberType::kFloat16:
      return load_float(static_cast<const Float16*>(numbers.values) + i);
    case NumberType::kFloat64:
      return load(static_cast<const double*>(numbers.values) + i);
    case NumberType::kUInt8:
      return load(static_cast<const uint8_t*>(numbers.values) + i);
    case NumberType::kInt32:
      return load(static_cast<const int32_t*>(numbers.values) + i);
    default:
      return static_cast<double>(load(static_cast<const int64_t*>(numbers.values) + i));
  }
}

struct TokenStatistics {
  float logp, lse;
};

// Of row t on side 0, the policy, or 1, the reference: its parts merged in ascending order.
FASTPREF_DEVICE TokenStatistics token_statistics(const PreferencePlan& p, int side, int64_t t) {
  const int64_t rows = p.args.rows;
  Running all = {kLowest, 0.0f};
  for (int part = 0; part < p.parts; ++part) {
    const int64_t i = (static_cast<int64_t>(side) * p.parts + part) * rows + t;
    all = merge(all, {load_from_others(p.at.m + i), load_from_others(p.at.s + i)});
  }
  const float log_s = logf(all.s);
  return {(load_from_others(p.at.zt + side * rows + t) - all.m) - log_s, all.m + log_s};
}

struct Rows {
  int32_t begin, end;
};

FASTPREF_DEVICE Rows rows_of(const PreferenceArgs& a, int k) {
  const int32_t begin = load(a.cu_seqlens + k), end = load(a.cu_seqlens + k + 1);
  const int32_t rows = static_cast<int32_t>(a.rows);
  return {begin < 0 ? 0 : begin > rows ? rows : begin, end < 0 ? 0 : end > rows ? rows : end};
}

// The reference's log-prob of an active row, 0 where it is not known by token.
FASTPREF_DEVICE double token_reference(const PreferencePlan& p, int64_t t) {
  switch (p.args.reference_form) {
    case ReferenceForm::kLogits:
      return token_statistics(p, 1, t).logp;
    case ReferenceForm::kTokens:
      return load_number(p.args.reference, t);
    default:
      return 0.0;
  }
}

FASTPREF_DEVICE double weight_of(const PreferenceArgs& a, int64_t t) {
  return a.weights.values ? load_number(a.weights, t) : 1.0;
}

// The coefficient of every row of sequence k, whose own is `coef`.
FASTPREF_DEVICE void spread(const PreferenceArgs& a, int k, double coef) {
  const Rows rows = rows_of(a, k);
  for (int32_t t = rows.begin + static_cast<int32_t>(threadIdx.x); t < rows.end; t += threads_again()) {
    const bool active = load(a.targets + t) != a.ignored;
    store(a.coef + t, active ? static_cast<float>(coef * weight_of(a, t)) : 0.0f);
  }
}

// A datum of an item; of those that are not given 0, or the policy's own log-prob.
FASTPREF_DEVICE double datum(const PreferenceArgs& a, int i, int64_t at, double policy) {
  if (a.data[i].values) return load_number(a.data[i], at);
  return i == a.own ? policy : 0.0;
}

// What all blocks of a call do with the last of the rows of sequence k. True: the sequence's item is complete.
template <HeadKind kKind>
FASTPREF_DEVICE void finish_rows(const PreferencePlan& p, int k) {
  const PreferenceArgs& a = p.args;
  const Rows rows = rows_of(a, k);
  const double divisor = kKind == HeadKind::kToken ? load_number(a.divisors, k) : 1.0;
  const double share = 1.0 / (divisor * a.sequences);
  double policy_sum = 0.0, reference_sum = 0.0, count = 0.0, loss_sum = 0.0;
  for (int32_t t = rows.begin + static_cast<int32_t>(threadIdx.x); t < rows.end; t += threads_again()) {
    const bool active = load(a.targets + t) != a.ignored;
    TokenStatistics policy = {0.0f, 0.0f};
    double reference = 0.0, coef = 0.0;
    if (active) {
      policy = token_statistics(p, 0, t);
      reference = token_reference(p, t);
      const double weight = weight_of(a, t);
      policy_sum += weight * policy.logp;
      reference_sum += weight * reference;
      count += 1.0;
      if constexpr (kKind == HeadKind::kToken) {
        constexpr int kData = kDataOf<kKind>;
        double in[2 + kData], out[2] = {0.0, 0.0};
        in[0] = policy.logp;
        in[1] = reference;
#pragma unroll
        for (int i = 0; i < kData; ++i) in[2 + i] = datum(a, i, a.by_sequence >> i & 1u ? k : t, policy.logp);
        run_head<kKind>(a.head, in, a.hyper, out);
        loss_sum += out[0];
        coef = out[1] * share;
      }
    }
    store(a.lse + t, policy.lse);
    store(a.logps + t, policy.logp);
    if (a.ref_logps) store(a.ref_logps + t, static_cast<float>(reference));
    if constexpr (kKind == HeadKind::kToken) store(a.coef + t, static_cast<float>(coef));
  }
  policy_sum = block_sum(policy_sum);
  reference_sum = block_sum(reference_sum);
  count = block_sum(count);
  if constexpr (kKind == HeadKind::kToken) loss_sum = block_sum(loss_sum);
  if (threadIdx.x == 0) {
    if (a.reference_form == ReferenceForm::kSequences) reference_sum = load_number(a.reference, k);
    store(a.sums + k, policy_sum);
    store(a.sums + a.sequences + k, reference_sum);
    store(p.at.lengths + k, static_cast<int32_t>(count));
    if (a.rewards) store(a.rewards + k, a.reward_scale * (policy_sum - reference_sum));
    if constexpr (kKind == HeadKind::kToken) store(a.losses + k, loss_sum / divisor);
  }
}

template <HeadKind kKind>
FASTPREF_DEVICE int items_of(const PreferenceArgs& a) {
  return kKind == HeadKind::kPair ? a.sequences / 2 : a.sequences;
}

// Policy, reference and length of sequence k into every `step`-th place of `in`.
FASTPREF_DEVICE void gather(const PreferencePlan& p, int k, double* in, int step) {
  const PreferenceArgs& a = p.args;
  const int32_t length = load_from_others(p.at.lengths + k);
  in[0] = load_from_others(a.sums + k);
  in[step] = load_from_others(a.sums + a.sequences + k);
  in[2 * step] = length > 1 ? length : 1;
}

// The head of an item of one or two sequences, and the coefficients of their rows.
template <HeadKind kKind>
FASTPREF_DEVICE void finish_item(const PreferencePlan& p, int item) {
  static_assert(kKind != HeadKind::kToken);
  constexpr int kSides = kKind == HeadKind::kPair ? 2 : 1, kData = kDataOf<kKind>;
  FASTPREF_SHARED(double, out, 3);
  // One thread's, but in registers the longest heads would have none left.
  FASTPREF_SHARED(double, in, kSides * (3 + kData));
  FASTPREF_SHARED(double, hyper, kMostHyper);
  FASTPREF_SHARED(int32_t, which, 1);
  const PreferenceArgs& a = p.args;
  const int items = items_of<kKind>(a);
  if (threadIdx.x == 0) {
#pragma unroll
    for (int side = 0; side < kSides; ++side) {
      const int k = item + side * items;
      gather(p, k, in + side, kSides);
#pragma unroll
      for (int i = 0; i < kData; ++i) in[(3 + i) * kSides + side] = datum(a, i, k, in[side]);
    }
#pragma unroll
    for (int i = 0; i < kMostHyper; ++i)
      hyper[i] = a.number.values && i == a.hyper_count ? load_number(a.number, 0) : a.hyper[i];
    which[0] = item;
    run_head<kKind>(a.head, in, hyper, out);
    store(a.losses + which[0], out[0]);
    if (kKind == HeadKind::kPair && a.margins) {
      store(a.margins + which[0], a.reward_scale * (in[0] - in[2]) - a.reward_scale * (in[1] - in[3]));
    }
  }
  __syncthreads();
#pragma unroll
  for (int side = 0; side < kSides; ++side) spread(a, which[0] + side * items, out[1 + side] / items);
}

// After the last row of sequence k.
template <HeadKind kKind>
FASTPREF_DEVICE void finish_sequence(const PreferencePlan& p, int k) {
  const PreferenceArgs& a = p.args;
  const int items = items_of<kKind>(a);
  finish_rows<kKind>(p, k);
  if constexpr (kKind == HeadKind::kPair) {
    if (!arrives_last(p.at.counters + a.sequences + k % items, 2)) return;
  } else {
    __syncthreads();  // the sums, which thread 0 stored
  }
  if constexpr (kKind != HeadKind::kToken) finish_item<kKind>(p, k % items);
  if (!arrives_last(p.at.counters + 2 * a.sequences, static_cast<uint32_t>(items))) return;
  double sum = 0.0;
  for (int i = static_cast<int>(threadIdx.x); i < items; i += threads_again()) sum += load_from_others(a.losses + i);
  sum = block_sum(sum);
  if (threadIdx.x == 0) store(a.loss, static_cast<float>(sum / items));
}

}  // namespace fastpref
