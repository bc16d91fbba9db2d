// A linear head on a GPU: statistics with no logit in memory, and what turns a tile of logits into statistics or gradients.
#pragma once

#include "api.h"

namespace fastpref {

struct CudaLinearApi {};

const CudaLinearApi* cuda_linear_api();

}  // namespace fastpref
