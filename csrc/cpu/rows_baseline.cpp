#define FASTPREF_ISA baseline
#include "vec_baseline.h"

#include "rows_impl.h"

namespace fastpref {

const RowKernels kBaselineRows = {baseline::row_stats, baseline::row_grad};

}  // namespace fastpref
