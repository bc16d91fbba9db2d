// The matrix functions of device.h and the stage of an asynchronous copy, for one warp, with a C interface for numpy to look at.
#include "cuda/device.h"

using namespace fastpref;

namespace {

struct Matrices {
  const Vector16* rows;  // 32 of them: 16 bytes for every lane
  uint32_t* out;         // [32, 4]
};

FASTPREF_KERNEL(kWarp, 1)
void load_four(const Matrices m) {
  FASTPREF_SHARED(Vector16, rows, kWarp);
  rows[threadIdx.x] = load16(m.rows + threadIdx.x);
  __syncwarp();
  uint32_t out[4];
  load_matrices(out, &rows[threadIdx.x]);
  for (int i = 0; i < 4; ++i) store(m.out + 4 * threadIdx.x + i, out[i]);
}

struct Product {
  const uint32_t *a, *b;  // [32, 4] and [32, 2]
  float* c;               // [32, 4]
};

template <class T>
FASTPREF_KERNEL(kWarp, 1)
void multiply_once(const Product p) {
  const int lane = static_cast<int>(threadIdx.x);
  uint32_t a[4];
  float c[4];
  for (int i = 0; i < 4; ++i) a[i] = load(p.a + 4 * lane + i);
  for (int i = 0; i < 4; ++i) c[i] = load(p.c + 4 * lane + i);
  multiply_add(c, a, load(p.b + 2 * lane), load(p.b + 2 * lane + 1), T{});
  for (int i = 0; i < 4; ++i) store(p.c + 4 * lane + i, c[i]);
}

struct Copies {
  const Vector16* from;
  Vector16* to;
  int bytes;
};

// What shared memory holds before a copy is waited for, then after it.
FASTPREF_KERNEL(1, 1)
void copy_once(const Copies c) {
  FASTPREF_SHARED(Vector16, stage, 1);
  stage[0] = Vector16{};
  copy16_async(&stage[0], c.from, c.bytes);
  store16(c.to, stage[0]);
  commit_copies();
  commit_copies();
  wait_for_copies<2>();
  store16(c.to + 1, stage[0]);
  wait_for_copies<1>();
  store16(c.to + 2, stage[0]);
  wait_for_copies<0>();
}

FASTPREF_KERNEL(1, 1) void nothing(int) {}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT int run_load_four(const void* rows, uint32_t* out) {
  FASTPREF_LAUNCH(load_four, 1, kWarp, 0, nullptr, Matrices{static_cast<const Vector16*>(rows), out});
  return cudaGetLastError();
}

EXPORT int run_multiply_once(bool half, const uint32_t* a, const uint32_t* b, float* c) {
  if (half) {
    FASTPREF_LAUNCH(multiply_once<Float16>, 1, kWarp, 0, nullptr, Product{a, b, c});
  } else {
    FASTPREF_LAUNCH(multiply_once<BFloat16>, 1, kWarp, 0, nullptr, Product{a, b, c});
  }
  return cudaGetLastError();
}

EXPORT int run_copy_once(const void* from, void* to, int bytes) {
  FASTPREF_LAUNCH(copy_once, 1, 1, 0, nullptr,
                  Copies{static_cast<const Vector16*>(from), static_cast<Vector16*>(to), bytes});
  return cudaGetLastError();
}

// An empty kernel with so much dynamic shared memory, after asking for `asked` bytes (0: without).
EXPORT int run_nothing(unsigned blocks, unsigned threads, size_t shared, int asked) {
  if (asked) {
    const cudaError_t answer = cudaFuncSetAttribute(nothing, cudaFuncAttributeMaxDynamicSharedMemorySize, asked);
    if (answer != cudaSuccess) return answer;
  }
  FASTPREF_LAUNCH(nothing, blocks, threads, shared, nullptr, 0);
  return cudaGetLastError();
}

EXPORT const char* error_text() { return cudaGetErrorString(cudaErrorLaunchFailure); }
