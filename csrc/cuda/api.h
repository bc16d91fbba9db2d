// The C interface of the CUDA kernels: what the library exports, and what fastpref._C takes from it after loading it.
//
// Arguments are raw pointers and sizes (csrc/core and the headers beside this one); no owner, no torch type. A library holds no state: memory is
// the caller's, the stream and the device are named in every call, nothing waits, and everything can be captured in a CUDA graph.
#pragma once

#include <stdint.h>

#include "../core/rows.h"

namespace fastpref {

// Bump whenever the table below, or the meaning of anything in it, changes.
constexpr int kCudaApiVersion = 2;

// Where a call runs. `device` becomes current for the call and is put back after it.
struct CudaLaunch {
  int device;
  void* stream;         // cudaStream_t
  int multiprocessors;  // of the device; with few rows, blocks are made to fill them
};

// How a call went: `code` 0, or a cudaError_t with its name and text, of the kernel named.
struct CudaStatus {
  int code;
  const char* kernel;
  const char* name;
  const char* text;
};

struct CudaRowsApi;        // rows.h
struct CudaPreferenceApi;  // preference.h
struct CudaLinearApi;      // linear.h

struct CudaApi {
  int version;                // kCudaApiVersion
  bool emulated;              // compiled for the host by the emulator of the tests: pointers are host pointers
  const char* architectures;  // what it was compiled for, e.g. "sm_80 sm_90 compute_120"
  const CudaRowsApi* rows;
  const CudaPreferenceApi* preference;
  const CudaLinearApi* linear;
};

}  // namespace fastpref

extern "C" const fastpref::CudaApi* fastpref_cuda_api();
