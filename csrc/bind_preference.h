// PreferenceArgs as functions of fastpref._C: one definition, for the CPU's function and the GPU's.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <tuple>
#include <utility>
#include <vector>

#include "bind_rows.h"
#include "core/preference.h"

namespace fastpref {

// Address and dtype of numbers; (0, 0) where there are none.
using NumbersAt = std::pair<uintptr_t, int>;

inline Numbers numbers_at(const NumbersAt& given) {
  return {at<const void>(given.first), static_cast<NumberType>(given.second)};
}

// Logits: dtype, rows, columns, address and stride, then of the reference's.
using LogitsAt = std::tuple<int, int64_t, int64_t, uintptr_t, int64_t, uintptr_t, int64_t>;
// Logit scale, softcap and temperature, address of the rows' inverse temperatures.
using TransformAt = std::tuple<double, std::optional<double>, double, uintptr_t>;

inline PreferenceArgs logits_of(const LogitsAt& logits, int sequences) {
  PreferenceArgs a = {};
  int dtype;
  uintptr_t policy, reference;
  std::tie(dtype, a.rows, a.cols, policy, a.logits_stride, reference, a.ref_logits_stride) = logits;
  a.dtype = static_cast<DType>(dtype);
  a.logits = at<const void>(policy);
  a.ref_logits = at<const void>(reference);
  a.sequences = sequences;
  return a;
}

inline pybind11::list names_of(const HeadNames* heads, int count) {
  pybind11::list found;
  for (int i = 0; i < count; ++i) {
    const HeadNames& h = heads[i];
    found.append(pybind11::make_tuple(h.name, h.kind, h.data, h.hyper, h.number, h.variants));
  }
  return found;
}

// Adds a function that takes PreferenceArgs by name on addresses, then what `Where...` are (named by `where`), and returns `run(args, where...)`; the
// library has `heads()` heads.
template <class... Where, class Run, class... Names>
void def_preference_forward(pybind11::module_& m, const char* name, int (*heads)(), Run run, const Names&... where) {
  using pybind11::arg;
  m.def(
      name,
      [run, heads](const LogitsAt& logits, const TransformAt& transform, uintptr_t targets, int64_t ignored,
                   uintptr_t cu_seqlens, int sequences, int reference_form, const NumbersAt& reference,
                   const NumbersAt& weights, int head, const std::vector<NumbersAt>& data, uint32_t by_sequence,
                   int own, const std::vector<double>& hyper, const NumbersAt& number, const NumbersAt& divisors,
                   double reward_scale, uintptr_t loss, uintptr_t losses, uintptr_t sums, uintptr_t rewards,
                   uintptr_t margins, uintptr_t lse, uintptr_t logps, uintptr_t ref_logps, uintptr_t coef,
                   Where... values) {
        PreferenceArgs a = logits_of(logits, sequences);
        const auto& [scale, softcap, temperature, inverse] = transform;
        a.transform = transform_of(scale, softcap, temperature);
        a.inv_temperature = at<const float>(inverse);
        if (head < 0 || head >= heads()) throw std::invalid_argument("head: there is none of this number");
        // One place after the numbers of the loss is for that of the call.
        if (data.size() > kMostData || hyper.size() >= kMostHyper) {
          throw std::invalid_argument("data, hyper: more than a head takes");
        }
        a.targets = at<const int64_t>(targets);
        a.ignored = ignored;
        a.cu_seqlens = at<const int32_t>(cu_seqlens);
        a.reference_form = static_cast<ReferenceForm>(reference_form);
        a.reference = numbers_at(reference);
        a.weights = numbers_at(weights);
        a.head = head;
        for (size_t i = 0; i < data.size(); ++i) a.data[i] = numbers_at(data[i]);
        a.by_sequence = by_sequence;
        a.own = own;
        for (size_t i = 0; i < hyper.size(); ++i) a.hyper[i] = hyper[i];
        a.hyper_count = static_cast<int>(hyper.size());
        a.number = numbers_at(number);
        a.divisors = numbers_at(divisors);
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
        return run(a, values...);
      },
      pybind11::call_guard<pybind11::gil_scoped_release>(), pybind11::kw_only(), arg("logits"), arg("transform"),
      arg("targets"), arg("ignored"), arg("cu_seqlens"), arg("sequences"), arg("reference_form"), arg("reference"),
      arg("weights"), arg("head"), arg("data"), arg("by_sequence"), arg("own"), arg("hyper"), arg("number"),
      arg("divisors"), arg("reward_scale"), arg("loss"), arg("losses"), arg("sums"), arg("rewards"), arg("margins"),
      arg("lse"), arg("logps"), arg("ref_logps"), arg("coef"), where..., "PreferenceArgs on addresses.");
}

}  // namespace fastpref
