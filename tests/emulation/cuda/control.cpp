// What tests may ask of an emulated library: an order of threads and blocks, and what its launches did to memory. control.py calls it.

#include "cuda/device.h"  // which includes the emulator

#define FASTPREF_EXPORT extern "C" __attribute__((visibility("default")))

// 0: threads and blocks in order; anything else shuffles both.
FASTPREF_EXPORT void emulator_seed(unsigned seed) { emulator::seed = seed; }

// Forgets ranges and counts.
FASTPREF_EXPORT void emulator_reset() { emulator::memory = emulator::Memory{}; }

// Announces memory; from then on accesses of global memory outside of all that was announced are errors. Its index.
FASTPREF_EXPORT int emulator_watch(const void* p, size_t bytes) {
  const uintptr_t begin = reinterpret_cast<uintptr_t>(p);
  emulator::memory.ranges.push_back({begin, begin + bytes, {}});
  return static_cast<int>(emulator::memory.ranges.size()) - 1;
}

// Bytes loaded, stored, and of these by 16-byte accesses; of a range, or of everything where nothing was announced (-1).
FASTPREF_EXPORT void emulator_counts(int range, uint64_t* out) {
  const emulator::Memory& memory = emulator::memory;
  const emulator::Counts& counts = range < 0 ? memory.elsewhere : memory.ranges[range].counts;
  out[0] = counts.loads;
  out[1] = counts.stores;
  out[2] = counts.wide_loads;
  out[3] = counts.wide_stores;
}

FASTPREF_EXPORT void emulator_totals(uint64_t* out) {
  const emulator::Totals& totals = emulator::memory.totals;
  out[0] = totals.launches;
  out[1] = totals.blocks;
  out[2] = totals.barriers;
  out[3] = totals.warp_operations;
  out[4] = totals.atomics;
}
