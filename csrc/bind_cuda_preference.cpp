#include <pybind11/stl.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bind_cuda.h"
#include "cuda/preference.h"

namespace py = pybind11;

namespace fastpref {
namespace {

template <class T>
T* at(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

// Address and dtype of numbers; (0, 0) where there are none.
using NumbersAt = std::pair<uintptr_t, int>;

Numbers numbers(const NumbersAt& given) { return {at<const void>(given.first), static_cast<NumberType>(given.second)}; }

py::list heads() {
  const CudaPreferenceApi& api = *cuda_api().preference;
  py::list found;
  for (int i = 0; i < api.head_count; ++i) {
    const CudaHead& h = api.heads[i];
    found.append(py::make_tuple(h.name, h.kind, h.data, h.hyper, h.number, h.variants));
  }
  return found;
}

// Logits: dtype, rows, columns, address and stride, then of the reference's.
using Logits = std::tuple<int, int64_t, int64_t, uintptr_t, int64_t, uintptr_t, int64_t>;
// Scale, softcap and temperature, address of the rows' inverse temperatures.
using TransformAt = std::tuple<double, std::optional<double>, double, uintptr_t>;
// Device, stream, multiprocessors.
using Where = std::tuple<int, uintptr_t, int>;

PreferenceArgs args_of(const Logits& logits, const TransformAt& transform, int sequences) {
  PreferenceArgs a = {};
  int dtype;
  uintptr_t policy, reference;
  std::tie(dtype, a.rows, a.cols, policy, a.logits_stride, reference, a.ref_logits_stride) = logits;
  a.dtype = static_cast<DType>(dtype);
  a.logits = at<const void>(policy);
  a.ref_logits = at<const void>(reference);
  const auto& [scale, softcap, temperature, inverse] = transform;
  a.transform = make_transform(scale, softcap.has_value(), softcap.value_or(0.0), temperature);
  a.inv_temperature = at<const float>(inverse);
  a.sequences = sequences;
  return a;
}

CudaLaunch launch_of(const Where& where) {
  const auto& [device, stream, multiprocessors] = where;
  return {device, at<void>(stream), multiprocessors};
}

int64_t workspace(const Logits& logits, int sequences, const Where& where) {
  return cuda_api().preference->workspace(args_of(logits, {1.0, std::nullopt, 1.0, 0}, sequences), launch_of(where));
}

void forward(const Logits& logits, const TransformAt& transform, const Where& where, uintptr_t targets, int64_t ignored,
             uintptr_t cu_seqlens, int sequences, int reference_form, const NumbersAt& reference,
             const NumbersAt& weights, int head, const std::vector<NumbersAt>& data, uint32_t by_sequence, int own,
             const std::vector<double>& hyper, const NumbersAt& number, const NumbersAt& divisors, double reward_scale,
             uintptr_t loss, uintptr_t losses, uintptr_t sums, uintptr_t rewards, uintptr_t margins, uintptr_t lse,
             uintptr_t logps, uintptr_t ref_logps, uintptr_t coef, uintptr_t scratch) {
  const CudaPreferenceApi& api = *cuda_api().preference;
  PreferenceArgs a = args_of(logits, transform, sequences);
  if (head < 0 || head >= api.head_count) throw std::invalid_argument("head: there is none of this number");
  // One place after the numbers of the loss is for that of the call.
  if (data.size() > kMostData || hyper.size() >= kMostHyper)
    throw std::invalid_argument("data, hyper: more than a head takes");
  a.targets = at<const int64_t>(targets);
  a.ignored = ignored;
  a.cu_seqlens = at<const int32_t>(cu_seqlens);
  a.reference_form = static_cast<ReferenceForm>(reference_form);
  a.reference = numbers(reference);
  a.weights = numbers(weights);
  a.head = head;
  for (size_t i = 0; i < data.size(); ++i) a.data[i] = numbers(data[i]);
  a.by_sequence = by_sequence;
  a.own = own;
  for (size_t i = 0; i < hyper.size(); ++i) a.hyper[i] = hyper[i];
  a.hyper_count = static_cast<int>(hyper.size());
  a.number = numbers(number);
  a.divisors = numbers(divisors);
  a.reward_scale = reward_scale;
  a.loss = at<float>(loss);
  a.losses = at<double>(losses);
  a.sums = at<double>(sums);
  a.rewards = at<double>(rewards);
  a.margins = at<double>(margins);
  a.lse = at<float>(lse);
  a.logps = at<float>(logps);
  a.ref_logps = at<float>(ref_logps);
  a.coef = at<float>(coef);
  a.workspace = at<void>(scratch);
  require_success(api.forward(a, launch_of(where)));
}

}  // namespace

void bind_cuda_preference(py::module_& m) {
  const char* types[] = {"float32", "bfloat16", "float16", "float64", "uint8", "int32", "int64"};
  py::dict numbers;
  for (int i = 0; i < 7; ++i) numbers[types[i]] = i;
  m.attr("CUDA_NUMBER_TYPES") = numbers;
  m.def("cuda_heads", &heads, "(name, kind, data, hyper-parameters, number, variants) of every head of the library.");
  m.def("cuda_preference_workspace", &workspace, py::arg("logits"), py::arg("sequences"), py::arg("where"),
        "Bytes of the workspace of cuda_preference_forward.");
  m.def("cuda_preference_forward", &forward, py::kw_only(), py::arg("logits"), py::arg("transform"), py::arg("where"),
        py::arg("targets"), py::arg("ignored"), py::arg("cu_seqlens"), py::arg("sequences"), py::arg("reference_form"),
        py::arg("reference"), py::arg("weights"), py::arg("head"), py::arg("data"), py::arg("by_sequence"),
        py::arg("own"), py::arg("hyper"), py::arg("number"), py::arg("divisors"), py::arg("reward_scale"),
        py::arg("loss"), py::arg("losses"), py::arg("sums"), py::arg("rewards"), py::arg("margins"), py::arg("lse"),
        py::arg("logps"), py::arg("ref_logps"), py::arg("coef"), py::arg("workspace"), "PreferenceArgs on addresses.");
}

}  // namespace fastpref
