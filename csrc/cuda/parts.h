// Into how many parts a row is split, so that a GPU with more multiprocessors than rows is full.
#pragma once

#include <stdint.h>

namespace fastpref {

constexpr int kMostParts = 32;  // one per lane of the smallest block
constexpr int kBlocksPerMultiprocessor = 2;

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Parts {
  int64_t count, steps;  // steps of each part but the last
};

// Rows that take a block so many steps stay whole where every multiprocessor has one, or where the number of these is 0: not known. Nothing else goes
// into it, so the same shape on the same kind of device is always summed in the same order.
inline Parts parts_of(int64_t rows, int64_t steps, int multiprocessors) {
  if (rows >= multiprocessors || rows < 1 || steps < 2) return {1, steps};
  int64_t wanted = ceil_div(int64_t{kBlocksPerMultiprocessor} * multiprocessors, rows);
  if (wanted > steps) wanted = steps;
  if (wanted > kMostParts) wanted = kMostParts;
  const int64_t each = ceil_div(steps, wanted);
  return {ceil_div(steps, each), each};
}

}  // namespace fastpref
