// What every launcher of csrc/cuda does around its launches: make the device current, say what went wrong, put the device back.
#pragma once

#include "api.h"
#include "device.h"

namespace fastpref {

class OnDevice {
 public:
  explicit OnDevice(const CudaLaunch& where) {
    code_ = cudaGetDevice(&before_);
    if (code_ == cudaSuccess && before_ != where.device) {
      code_ = cudaSetDevice(where.device);
      moved_ = code_ == cudaSuccess;
    }
  }
  ~OnDevice() {
    if (moved_) cudaSetDevice(before_);
  }
  OnDevice(const OnDevice&) = delete;

  // Whether the next call may be made.
  bool ok() const { return code_ == cudaSuccess; }

  // Takes the outcome of a runtime call; the first failure stays, with the name of what was being done.
  void note(cudaError_t code, const char* kernel) {
    if (ok() && code != cudaSuccess) {
      code_ = code;
      kernel_ = kernel;
    }
  }

  // Takes the outcome of the launch just made.
  void launched(const char* kernel) { note(cudaGetLastError(), kernel); }

  CudaStatus status() const {
    if (ok()) return {0, "", "", ""};
    return {static_cast<int>(code_), kernel_, cudaGetErrorName(code_), cudaGetErrorString(code_)};
  }

 private:
  cudaError_t code_ = cudaSuccess;
  const char* kernel_ = "the choice of the device";
  int before_ = 0;
  bool moved_ = false;
};

}  // namespace fastpref
