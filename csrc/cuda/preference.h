// A preference loss from given logits on a GPU: everything of its forward pass in one launch.
#pragma once

#include "../core/preference.h"
#include "api.h"

namespace fastpref {

struct CudaPreferenceApi {
  const HeadNames* heads;  // by HeadId
  int head_count;
  int64_t (*workspace)(const PreferenceArgs& args, const CudaLaunch& where);  // bytes
  CudaStatus (*forward)(const PreferenceArgs& args, const CudaLaunch& where);
};

const CudaPreferenceApi* cuda_preference_api();

}  // namespace fastpref
