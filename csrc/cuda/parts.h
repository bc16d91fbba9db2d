// Into how many parts a row is split, so that a GPU with more multiprocessors than rows is full.
#pragma once

#include <stdint.h>

namespace fastpref {

constexpr int kMostParts = 32;
constexpr int kBlocksPerMultiprocessor = 2;

struct Parts {
  int count, width;  // columns of each but the last: whole steps
};

// Rows stay whole where every multiprocessor has one, or where their number is 0: not known. Nothing else goes into it, so the same shape on the
// same kind of device is always summed in the same order.
inline Parts parts_of(int64_t rows, int64_t columns, int64_t step, int multiprocessors) {
  const auto ceil_div = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
  const int64_t steps = columns > 0 ? ceil_div(columns, step) : 1;
  if (rows >= multiprocessors || rows == 0) return {1, static_cast<int>(steps * step)};
  int64_t wanted = ceil_div(int64_t{kBlocksPerMultiprocessor} * multiprocessors, rows);
  if (wanted > steps) wanted = steps;
  if (wanted > kMostParts) wanted = kMostParts;
  const int64_t width = ceil_div(steps, wanted) * step;
  return {static_cast<int>(ceil_div(columns, width)), static_cast<int>(width)};
}

}  // namespace fastpref
