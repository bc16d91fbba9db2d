// The heads of objective_heads.h by number: which there are, what an item of each is, and how one that is only known at run time is called.
#pragma once

#include "objective_heads.h"
#include "preference.h"

namespace fastpref {

enum class HeadKind : int { kPair, kSequence, kToken };

enum HeadId : int {
#define FASTPREF_ID(name, kind, inputs, hypers, outputs) kHead_##name,
  FASTPREF_HEADS(FASTPREF_ID)
#undef FASTPREF_ID
      kHeadCount
};

// By the names that the heads' header has for them.
constexpr HeadKind kHeadKind_pair = HeadKind::kPair, kHeadKind_sequence = HeadKind::kSequence,
                   kHeadKind_token = HeadKind::kToken;

// Most data that a head of a kind reads, of one sequence or token.
template <HeadKind kKind>
constexpr int kDataOf = kKind == HeadKind::kPair       ? 1
                        : kKind == HeadKind::kSequence ? 3
                                                       : kMostData;

// The head's loss and derivatives. The heads of a kind are one switch, so that 100 losses are not 100 kernels.
template <HeadKind kKind>
FASTPREF_FN void run_head(int head, const double* in, const double* hyper, double* out) {
  switch (head) {
#define FASTPREF_CASE(name, kind, inputs, hypers, outputs)                \
  case kHead_##name:                                                      \
    if constexpr (kKind == kHeadKind_##kind) head_##name(in, hyper, out); \
    break;
    FASTPREF_HEADS(FASTPREF_CASE)
#undef FASTPREF_CASE
    default:
      break;
  }
}

// Their kinds and names, by HeadId.
#define FASTPREF_KIND(name, kind, inputs, hypers, outputs) kHeadKind_##kind,
constexpr HeadKind kHeadKinds[] = {FASTPREF_HEADS(FASTPREF_KIND)};
#undef FASTPREF_KIND

#define FASTPREF_NAMES(name, kind, data, hyper, number, variants) {#name, #kind, data, hyper, number, variants},
constexpr HeadNames kHeadNames[] = {FASTPREF_HEAD_NAMES(FASTPREF_NAMES)};
#undef FASTPREF_NAMES
static_assert(sizeof kHeadKinds / sizeof *kHeadKinds == kHeadCount &&
              sizeof kHeadNames / sizeof *kHeadNames == kHeadCount);

}  // namespace fastpref
