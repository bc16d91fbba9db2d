#include "bind_cuda.h"

#include <dlfcn.h>

#include <stdexcept>
#include <string>

namespace py = pybind11;

namespace fastpref {
namespace {

const CudaApi* g_api = nullptr;

py::dict load(const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) throw py::import_error(dlerror());
  const auto found = reinterpret_cast<const CudaApi* (*)()>(dlsym(library, "fastpref_cuda_api"));
  if (!found) throw py::import_error(path + " exports no fastpref_cuda_api");
  const CudaApi* api = found();
  if (api->version != kCudaApiVersion) {
    throw py::import_error(path + " has version " + std::to_string(api->version) + " of the CUDA interface, expected " +
                           std::to_string(kCudaApiVersion));
  }
  g_api = api;
  py::dict about;
  about["emulated"] = api->emulated;
  about["architectures"] = std::string(api->architectures);
  return about;
}

}  // namespace

const CudaApi& cuda_api() {
  if (!g_api) throw std::runtime_error("no library of CUDA kernels was loaded");
  return *g_api;
}

void require_success(const CudaStatus& status) {
  if (status.code == 0) return;
  // cudaErrorInsufficientDriver, which is also what is said where there is no driver, and cudaErrorNoDevice.
  if (status.code == 35 || status.code == 100) {
    throw std::runtime_error(std::string("the CUDA kernels need an NVIDIA GPU and a driver for it; ") + status.kernel +
                             " failed: " + status.name + ": " + status.text);
  }
  throw std::runtime_error(std::string("CUDA kernel ") + status.kernel + ": " + status.name + ": " + status.text);
}

void bind_cuda(py::module_& m) {
  m.def("cuda_load", &load, py::arg("path"),
        "Load a library of CUDA kernels, which needs neither a GPU nor a driver, and use it in the whole process; what "
        "it is.");
  bind_cuda_rows(m);
  bind_cuda_preference(m);
  bind_cuda_linear(m);
}

}  // namespace fastpref
