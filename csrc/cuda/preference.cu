#include "preference.h"

#include "launch.h"

namespace fastpref {

const CudaPreferenceApi* cuda_preference_api() {
  static const CudaPreferenceApi api = {};
  return &api;
}

}  // namespace fastpref
