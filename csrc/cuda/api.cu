#include "api.h"

#include "linear.h"
#include "preference.h"
#include "rows.h"

#if defined(FASTPREF_EMULATED)
constexpr bool kEmulated = true;
#else
constexpr bool kEmulated = false;
#endif
#define FASTPREF_EXPORT __attribute__((visibility("default")))

#if !defined(FASTPREF_CUDA_ARCHITECTURES)
  #define FASTPREF_CUDA_ARCHITECTURES ""
#endif

extern "C" FASTPREF_EXPORT const fastpref::CudaApi* fastpref_cuda_api() {
  static const fastpref::CudaApi api = {fastpref::kCudaApiVersion,       kEmulated,
                                        FASTPREF_CUDA_ARCHITECTURES,     fastpref::cuda_rows_api(),
                                        fastpref::cuda_preference_api(), fastpref::cuda_linear_api()};
  return &api;
}
