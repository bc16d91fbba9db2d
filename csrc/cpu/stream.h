// Yardsticks for the row kernels: how fast this machine reads memory, and how fast it updates it in place, with the
// same threads and the same prefetching but next to no arithmetic.
#pragma once

#include <stdint.h>

namespace fastpref {

// The sum of n 64-bit words, so that each has to be read.
uint64_t stream_read(const uint64_t* words, int64_t n, int threads);

// Inverts each of n 64-bit words in place.
void stream_update(uint64_t* words, int64_t n, int threads);

}  // namespace fastpref
