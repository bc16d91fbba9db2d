// FASTPREF_FN: how every function of csrc/core is declared.
//
// These headers are compiled several times, for instruction sets that the running CPU may not have and for CUDA
// devices. An `inline` function with external linkage would be merged by the linker, which may keep the AVX-512 copy
// for everyone; so core holds plain structs and functions with internal linkage only, and calls no inline function of
// the C++ library.
#pragma once

#if defined(__CUDACC__)
  #define FASTPREF_FN static __host__ __device__ __forceinline__
#else
  #define FASTPREF_FN static inline __attribute__((always_inline, unused))
#endif
