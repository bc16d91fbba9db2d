#include "stream.h"

namespace fastpref {
namespace {

constexpr int64_t kLine = 8;             // words of a cache line
constexpr int64_t kPiece = 16384;        // words a thread takes at a time
constexpr int64_t kPrefetchWords = 512;  // a page ahead

uint64_t read_piece(const uint64_t* words, int64_t n) {
  uint64_t sums[2 * kLine] = {};
  int64_t i = 0;
  for (; i + 2 * kLine <= n; i += 2 * kLine) {
    __builtin_prefetch(words + i + kPrefetchWords);
    __builtin_prefetch(words + i + kPrefetchWords + kLine);
    for (int64_t j = 0; j < 2 * kLine; j++) sums[j] += words[i + j];
  }
  for (; i < n; i++) sums[0] += words[i];
  uint64_t sum = 0;
  for (uint64_t s : sums) sum += s;
  return sum;
}

void update_piece(uint64_t* words, int64_t n) {
  int64_t i = 0;
  for (; i + kLine <= n; i += kLine) {
    __builtin_prefetch(words + i + kPrefetchWords);
    for (int64_t j = 0; j < kLine; j++) words[i + j] = ~words[i + j];
  }
  for (; i < n; i++) words[i] = ~words[i];
}

int64_t piece_length(int64_t start, int64_t n) { return n - start < kPiece ? n - start : kPiece; }

}  // namespace

uint64_t stream_read(const uint64_t* words, int64_t n, [[maybe_unused]] int threads) {
  uint64_t sum = 0;
#ifdef _OPENMP
  #pragma omp parallel for schedule(dynamic) num_threads(threads) reduction(+ : sum)
#endif
  for (int64_t start = 0; start < n; start += kPiece) sum += read_piece(words + start, piece_length(start, n));
  return sum;
}

void stream_update(uint64_t* words, int64_t n, [[maybe_unused]] int threads) {
#ifdef _OPENMP
  #pragma omp parallel for schedule(dynamic) num_threads(threads)
#endif
  for (int64_t start = 0; start < n; start += kPiece) update_piece(words + start, piece_length(start, n));
}

}  // namespace fastpref
