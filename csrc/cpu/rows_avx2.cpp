#define FASTPREF_ISA avx2
#include "vec_avx2.h"

#include "divergence_impl.h"

namespace fastpref {

const RowKernels kAvx2Rows = {avx2::row_stats, avx2::row_grad, avx2::row_kl_stats, avx2::row_kl_grad};

}  // namespace fastpref
