#include "kernels.h"

#ifdef FASTPREF_X86
  #include <cpuid.h>
#endif

namespace fastpref {

#ifdef FASTPREF_X86
namespace {

// __builtin_cpu_supports also asks whether the operating system saves the wide registers.
bool has_avx2() {
  unsigned eax, ebx, ecx, edx;
  const bool f16c = __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
  return f16c && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

}  // namespace
#endif

int list_isas(Isa* out) {
  int n = 0;
  out[n++] = {"baseline", &kBaselineRows, true};
#ifdef FASTPREF_X86
  __builtin_cpu_init();
  out[n++] = {"avx2", &kAvx2Rows, has_avx2()};
  out[n++] = {"avx512", &kAvx512Rows, has_avx512()};
#endif
  return n;
}

}  // namespace fastpref
