#define FASTPREF_ISA baseline
#include "vec_baseline.h"

#include "divergence_impl.h"

namespace fastpref {

const RowKernels kBaselineRows = {baseline::row_stats, baseline::row_grad, baseline::row_kl_stats,
                                  baseline::row_kl_grad};

}  // namespace fastpref
