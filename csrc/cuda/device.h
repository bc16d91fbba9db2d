// The few device operations that the kernels of csrc/cuda are written in: one meaning, two implementations.
//
// nvcc compiles the CUDA ones below. With FASTPREF_EMULATED a host compiler takes those of tests/emulation/cuda/emulator.h
// instead, where every CUDA thread is a fiber; so a kernel may use nothing of CUDA but what is named here and there:
//
//   FASTPREF_KERNEL(threads, blocks)   before `void kernel(Args args)`: at most so many threads, at least so many blocks resident
//   FASTPREF_SHARED(T, name, n)        `T name[n]` in shared memory, undefined at first; n is a constant
//   FASTPREF_DYNAMIC_SHARED(name)      `unsigned char* name`, 16-byte aligned: the launch's dynamic shared memory
//   FASTPREF_LAUNCH(kernel, grid, threads, shared_bytes, stream, args)
//   threadIdx.x, blockIdx.{x,y,z}, gridDim, blockDim.x; __syncthreads(), __syncwarp(), __threadfence(); __shfl_xor_sync, __shfl_sync
//
// Global memory is read and written through the functions below only: that is how the emulator sees every access.
#pragma once

#include <math.h>
#include <stdint.h>

#include "../core/dtype.h"

#if defined(FASTPREF_EMULATED)
  #include "emulator.h"
#else
  #include <cuda_runtime.h>
  #define FASTPREF_DEVICE static __device__ __forceinline__
  #define FASTPREF_KERNEL(threads, blocks) static __global__ __launch_bounds__(threads, blocks)
  #define FASTPREF_SHARED(T, name, n) __shared__ T name[n]
  #define FASTPREF_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
  #define FASTPREF_LAUNCH(kernel, grid, threads, shared_bytes, stream, ...) \
    kernel<<<grid, threads, shared_bytes, static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__)
#endif

namespace fastpref {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

// 16 bytes of global memory, in one instruction.
struct alignas(16) Vector16 {
  uint32_t words[4];
};

#if !defined(FASTPREF_EMULATED)

// threadIdx.x, asked for anew: nothing that follows from it is kept in registers from one call to the next.
FASTPREF_DEVICE int thread_again() {
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread;
}

// blockDim.x, likewise.
FASTPREF_DEVICE int threads_again() {
  int threads;
  asm volatile("mov.u32 %0, %%ntid.x;" : "=r"(threads));
  return threads;
}

// --- global memory ----------------------------------------------------------------------------------------------------

template <class T>
FASTPREF_DEVICE T load(const T* p) {
  return *p;
}

template <class T>
FASTPREF_DEVICE void store(T* p, T value) {
  *p = value;
}

// In one instruction: the compiler stores a struct by its members.
FASTPREF_DEVICE void store(Vector16* p, const Vector16& v) {
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};\n" ::"l"(__cvta_generic_to_global(p)), "r"(v.words[0]),
               "r"(v.words[1]), "r"(v.words[2]), "r"(v.words[3])
               : "memory");
}

// What other blocks of this launch stored: past the first-level cache, which is not coherent.
template <class T>
FASTPREF_DEVICE T load_from_others(const T* p) {
  return __ldcg(p);
}

// 16 aligned bytes that are not needed again soon.
FASTPREF_DEVICE Vector16 load16(const void* p) {
  const uint4 v = __ldcs(static_cast<const uint4*>(p));
  return {{v.x, v.y, v.z, v.w}};
}

FASTPREF_DEVICE void store16(void* p, const Vector16& v) {
  __stcs(static_cast<uint4*>(p), make_uint4(v.words[0], v.words[1], v.words[2], v.words[3]));
}

// Adds 1; the value before.
FASTPREF_DEVICE uint32_t count_up(uint32_t* p) { return atomicAdd(p, 1u); }

// --- asynchronous copies into shared memory -----------------------------------------------------------------------------

// 16 bytes, of which those from `bytes` on are zeros and not read; `bytes` is 0 or 16, or between for the last of a row. Both aligned to 16.
FASTPREF_DEVICE void copy16_async(void* shared, const void* global, int bytes) {
  const uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(to), "l"(global), "r"(bytes) : "memory");
}

FASTPREF_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }

// Waits for all of this thread's committed groups of copies but the newest kPending; other threads' need a barrier after it.
template <int kPending>
FASTPREF_DEVICE void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
}

// --- tensor cores: fragments as in the PTX manual, m16n8k16 -----------------------------------------------------------------

// Four 8 x 8 matrices of 16-bit numbers: lane l names row l % 8 of matrix l / 8, 16 aligned bytes of shared memory, and gets of each matrix
// the two elements 2 (l % 4) of row l / 4.
FASTPREF_DEVICE void load_matrices(uint32_t (&out)[4], const void* shared_row) {
  const uint32_t from = static_cast<uint32_t>(__cvta_generic_to_shared(shared_row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(from)
               : "memory");
}

// c += a b, with a 16 x 16 by rows, b 16 x 8 by columns; products of T, sums in fp32.
FASTPREF_DEVICE void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, BFloat16) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

FASTPREF_DEVICE void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Float16) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// --- arithmetic ---------------------------------------------------------------------------------------------------------------

// 2^x, relative error 2^-22, results below 2^-126 are 0. exp2f spends four more instructions on those.
FASTPREF_DEVICE float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// a / b, relative error 2^-22, for |b| between 2^-126 and 2^126.
FASTPREF_DEVICE float quotient(float a, float b) { return __fdividef(a, b); }

// a b rounded to fp32, whatever is added to it: the compiler fuses no addition with it.
FASTPREF_DEVICE float product(float a, float b) { return __fmul_rn(a, b); }

FASTPREF_DEVICE float widened(float x) { return x; }
FASTPREF_DEVICE float widened(BFloat16 x) { return to_float(x); }
FASTPREF_DEVICE float widened(Float16 x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
}

FASTPREF_DEVICE void narrowed(float x, float* out) { *out = x; }
FASTPREF_DEVICE void narrowed(float x, BFloat16* out) { asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out->bits) : "f"(x)); }
FASTPREF_DEVICE void narrowed(float x, Float16* out) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out->bits) : "f"(x)); }

#endif

// --- what follows from these -----------------------------------------------------------------------------------------------------

// How many T go into 16 bytes.
template <class T>
constexpr int kPerVector = 16 / static_cast<int>(sizeof(T));

// The elements of a vector in fp32.
template <class T>
FASTPREF_DEVICE void unpack(const Vector16& v, float (&x)[kPerVector<T>]) {
  if constexpr (sizeof(T) == 4) {
#pragma unroll
    for (int i = 0; i < 4; ++i) x[i] = float_from_bits(v.words[i]);
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      T low, high;
      low.bits = static_cast<uint16_t>(v.words[i]);
      high.bits = static_cast<uint16_t>(v.words[i] >> 16);
      x[2 * i] = widened(low);
      x[2 * i + 1] = widened(high);
    }
  }
}

// The same back, each rounded to nearest even.
template <class T>
FASTPREF_DEVICE Vector16 pack(const float (&x)[kPerVector<T>]) {
  Vector16 v;
  if constexpr (sizeof(T) == 4) {
#pragma unroll
    for (int i = 0; i < 4; ++i) v.words[i] = float_bits(x[i]);
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      T low, high;
      narrowed(x[2 * i], &low);
      narrowed(x[2 * i + 1], &high);
      v.words[i] = static_cast<uint32_t>(low.bits) | static_cast<uint32_t>(high.bits) << 16;
    }
  }
  return v;
}

template <class T>
FASTPREF_DEVICE float load_float(const T* p) {
  return widened(load(p));
}

template <class T>
FASTPREF_DEVICE void store_float(T* p, float x) {
  T narrow;
  narrowed(x, &narrow);
  store(p, narrow);
}

// How many elements lie before the first aligned 16 bytes at or after p.
template <class T>
FASTPREF_DEVICE int elements_to_alignment(const T* p) {
  return static_cast<int>((16 - reinterpret_cast<uintptr_t>(p) % 16) % 16 / sizeof(T));
}

// Whether this block is the last of `expected` that come to this counter, which starts at 0. All threads of a block call it together. What any
// thread of those blocks stored before is then visible to every thread of this one, through load_from_others.
FASTPREF_DEVICE bool arrives_last(uint32_t* counter, uint32_t expected) {
  FASTPREF_SHARED(uint32_t, before, 1);
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    before[0] = count_up(counter);
    __threadfence();
  }
  __syncthreads();
  return before[0] + 1 == expected;
}

}  // namespace fastpref
