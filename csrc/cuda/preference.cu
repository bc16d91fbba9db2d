#include "preference.h"

#include "launch.h"
#include "preference_forward.cuh"
#include "row_launch.cuh"

namespace fastpref {
namespace {

struct Layout {
  int parts, vectors, sides;
  int64_t bytes, counters_at, counters;
};

Layout layout_of(const PreferenceArgs& a, const CudaLaunch& where) {
  Layout l = {};
  l.sides = a.ref_logits ? 2 : 1;
  const RowParts parts = stats_parts(a.dtype, a.rows, a.cols, where.multiprocessors);
  l.parts = parts.count;
  l.vectors = parts.vectors;
  const int64_t floats = a.rows * l.sides * (2 * l.parts + 1);
  l.counters_at = 4 * (floats + a.sequences);
  l.counters = 2 * int64_t{a.sequences} + 1;
  l.bytes = l.counters_at + 4 * l.counters;
  return l;
}

int64_t workspace(const PreferenceArgs& a, const CudaLaunch& where) { return layout_of(a, where).bytes; }

CudaStatus forward(const PreferenceArgs& a, const CudaLaunch& where) {
  OnDevice device(where);
  if (!device.ok()) return device.status();
  const Layout l = layout_of(a, where);
  PreferencePlan plan = {a, {}, kind_of(a.transform, a.inv_temperature != nullptr), l.parts, l.vectors};
  float* floats = static_cast<float*>(a.workspace);
  const int64_t partials = a.rows * l.sides * l.parts;
  plan.at.m = floats;
  plan.at.s = floats + partials;
  plan.at.zt = floats + 2 * partials;
  plan.at.lengths = reinterpret_cast<int32_t*>(floats + 2 * partials + a.rows * l.sides);
  plan.at.counters = reinterpret_cast<uint32_t*>(static_cast<char*>(a.workspace) + l.counters_at);
  device.note(cudaMemsetAsync(plan.at.counters, 0, static_cast<size_t>(4 * l.counters),
                              static_cast<cudaStream_t>(where.stream)),
              "preference_forward (its counters)");
  if (!device.ok()) return device.status();
  // Without rows one block looks after the empty sequences.
  const dim3 grid(static_cast<unsigned>(a.rows > 0 ? a.rows : 1), static_cast<unsigned>(l.parts),
                  static_cast<unsigned>(l.sides));
  const unsigned threads = static_cast<unsigned>(stats_threads(a.dtype, a.cols));
  switch (kHeadKinds[a.head]) {
    case HeadKind::kPair:
      FASTPREF_LAUNCH(preference_forward<HeadKind::kPair>, grid, threads, 0, where.stream, plan);
      break;
    case HeadKind::kSequence:
      FASTPREF_LAUNCH(preference_forward<HeadKind::kSequence>, grid, threads, 0, where.stream, plan);
      break;
    default:
      FASTPREF_LAUNCH(preference_forward<HeadKind::kToken>, grid, threads, 0, where.stream, plan);
  }
  device.launched("preference_forward");
  return device.status();
}

}  // namespace

const CudaPreferenceApi* cuda_preference_api() {
  static const CudaPreferenceApi api = {kHeadNames, kHeadCount, workspace, forward};
  return &api;
}

}  // namespace fastpref
