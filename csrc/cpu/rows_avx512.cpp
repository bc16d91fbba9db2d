#if defined(__GNUC__) && !defined(__clang__)
  // GCC bug 105593: its own AVX-512 intrinsics pass an undefined register on purpose.
  #pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
  #pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#define FASTPREF_ISA avx512
#include "vec_avx512.h"

#include "divergence_impl.h"

namespace fastpref {

const RowKernels kAvx512Rows = {avx512::row_stats, avx512::row_grad, avx512::row_kl_stats, avx512::row_kl_grad};

}  // namespace fastpref
