// A preference loss from given logits on a GPU.
#pragma once

#include "api.h"

namespace fastpref {

struct CudaPreferenceApi {};

const CudaPreferenceApi* cuda_preference_api();

}  // namespace fastpref
