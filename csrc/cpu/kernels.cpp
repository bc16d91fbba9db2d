#include "kernels.h"

#ifdef FASTPREF_X86
  #include <cpuid.h>
#endif
#ifdef FASTPREF_AMX
  #include <sys/syscall.h>
  #include <unistd.h>
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

  #ifdef FASTPREF_AMX
// The tile registers' state is large: Linux saves it for a process only after it asked.
bool has_amx() {
  unsigned eax, ebx, ecx, edx;
  constexpr unsigned kAmxBf16 = 1u << 22, kAmxTile = 1u << 24, kAvx512Bf16 = 1u << 5;
  if (!has_avx512() || !__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
  if (!(edx & kAmxBf16) || !(edx & kAmxTile)) return false;
  if (!__get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) || !(eax & kAvx512Bf16)) return false;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
  #endif

}  // namespace
#endif

int list_isas(Isa* out) {
  int n = 0;
  out[n++] = {"baseline", &kBaselineRows, nullptr, true};
#ifdef FASTPREF_X86
  __builtin_cpu_init();
  out[n++] = {"avx2", &kAvx2Rows, nullptr, has_avx2()};
  out[n++] = {"avx512", &kAvx512Rows, nullptr, has_avx512()};
  #ifdef FASTPREF_AMX
  out[n++] = {"amx", &kAvx512Rows, &kAmxHead, has_amx()};
  #endif
#endif
  return n;
}

}  // namespace fastpref
