// The row primitives as functions of fastpref._C: one definition of their arguments, for the CPU's functions and the GPU's.
//
// Each def_... adds a function that takes addresses and numbers by name, as in csrc/core/rows.h, then those of `Where...` (named by `where`), and
// calls `run(args, where...)` without the GIL. What a call does not name is zero in `args`.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <optional>

#include "core/rows.h"

namespace fastpref {

template <class T>
T* at(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

inline Transform transform_of(double logit_scale, std::optional<double> softcap, double temperature) {
  return make_transform(logit_scale, softcap.has_value(), softcap.value_or(0.0), temperature);
}

template <class... Where, class Run, class... Names>
void def_row_stats(pybind11::module_& m, const char* name, Run run, const char* text, const Names&... where) {
  using pybind11::arg;
  m.def(
      name,
      [run](int dtype, uintptr_t logits, int64_t logits_stride, int64_t rows, int64_t cols, int64_t col0,
            uintptr_t targets, uintptr_t inv_temperature, double logit_scale, std::optional<double> softcap,
            double temperature, uintptr_t m_, uintptr_t s, uintptr_t zt, uintptr_t s2, uintptr_t sd, uintptr_t total,
            uintptr_t top, uintptr_t argmax, Where... values) {
        RowStatsArgs a = {};
        a.dtype = static_cast<DType>(dtype);
        a.rows = rows;
        a.cols = cols;
        a.col0 = col0;
        a.logits = at<const void>(logits);
        a.logits_stride = logits_stride;
        a.targets = at<const int64_t>(targets);
        a.inv_temperature = at<const float>(inv_temperature);
        a.m = at<float>(m_);
        a.s = at<float>(s);
        a.zt = at<float>(zt);
        a.s2 = at<float>(s2);
        a.sd = at<float>(sd);
        a.total = at<float>(total);
        a.top = at<float>(top);
        a.argmax = at<int64_t>(argmax);
        a.transform = transform_of(logit_scale, softcap, temperature);
        run(a, values...);
      },
      pybind11::call_guard<pybind11::gil_scoped_release>(), pybind11::kw_only(), arg("dtype"), arg("logits"),
      arg("logits_stride"), arg("rows"), arg("cols"), arg("col0"), arg("targets"), arg("inv_temperature"),
      arg("logit_scale"), arg("softcap"), arg("temperature"), arg("m"), arg("s"), arg("zt"), arg("s2"), arg("sd"),
      arg("total"), arg("top"), arg("argmax"), where..., text);
}

template <class... Where, class Run, class... Names>
void def_row_grad(pybind11::module_& m, const char* name, Run run, const char* text, const Names&... where) {
  using pybind11::arg;
  m.def(
      name,
      [run](int dtype, uintptr_t logits, int64_t logits_stride, int64_t rows, int64_t cols, int64_t col0,
            uintptr_t targets, uintptr_t inv_temperature, double logit_scale, std::optional<double> softcap,
            double temperature, uintptr_t lse, uintptr_t onehot_coef, uintptr_t softmax_coef, uintptr_t gain,
            uintptr_t out, int64_t out_stride, Where... values) {
        RowGradArgs a = {};
        a.dtype = a.out_dtype = static_cast<DType>(dtype);
        a.rows = rows;
        a.cols = cols;
        a.col0 = col0;
        a.logits = at<const void>(logits);
        a.logits_stride = logits_stride;
        a.targets = at<const int64_t>(targets);
        a.inv_temperature = at<const float>(inv_temperature);
        a.lse = at<const float>(lse);
        a.onehot_coef = at<const float>(onehot_coef);
        a.softmax_coef = at<const float>(softmax_coef);
        a.gain = at<const float>(gain);
        a.out = at<void>(out);
        a.out_stride = out_stride;
        a.transform = transform_of(logit_scale, softcap, temperature);
        run(a, values...);
      },
      pybind11::call_guard<pybind11::gil_scoped_release>(), pybind11::kw_only(), arg("dtype"), arg("logits"),
      arg("logits_stride"), arg("rows"), arg("cols"), arg("col0"), arg("targets"), arg("inv_temperature"),
      arg("logit_scale"), arg("softcap"), arg("temperature"), arg("lse"), arg("onehot_coef"), arg("softmax_coef"),
      arg("gain"), arg("out"), arg("out_stride"), where..., text);
}

template <class... Where, class Run, class... Names>
void def_row_kl_stats(pybind11::module_& m, const char* name, Run run, const char* text, const Names&... where) {
  using pybind11::arg;
  m.def(
      name,
      [run](int dtype, uintptr_t logits, int64_t logits_stride, uintptr_t ref_logits, int64_t ref_logits_stride,
            int64_t rows, int64_t cols, int64_t col0, uintptr_t targets, uintptr_t inv_temperature, double logit_scale,
            std::optional<double> softcap, double temperature, uintptr_t m_, uintptr_t s, uintptr_t zt, uintptr_t ref_m,
            uintptr_t ref_s, uintptr_t ref_zt, uintptr_t cross, bool forward, Where... values) {
        RowStatsArgs side = {};
        side.dtype = static_cast<DType>(dtype);
        side.rows = rows;
        side.cols = cols;
        side.col0 = col0;
        side.targets = at<const int64_t>(targets);
        side.inv_temperature = at<const float>(inv_temperature);
        side.transform = transform_of(logit_scale, softcap, temperature);
        RowKlStatsArgs a = {rows, cols, side, side, at<float>(cross), forward, 0};
        a.policy.logits = at<const void>(logits);
        a.policy.logits_stride = logits_stride;
        a.policy.m = at<float>(m_);
        a.policy.s = at<float>(s);
        a.policy.zt = at<float>(zt);
        a.reference.logits = at<const void>(ref_logits);
        a.reference.logits_stride = ref_logits_stride;
        a.reference.m = at<float>(ref_m);
        a.reference.s = at<float>(ref_s);
        a.reference.zt = at<float>(ref_zt);
        run(a, values...);
      },
      pybind11::call_guard<pybind11::gil_scoped_release>(), pybind11::kw_only(), arg("dtype"), arg("logits"),
      arg("logits_stride"), arg("ref_logits"), arg("ref_logits_stride"), arg("rows"), arg("cols"), arg("col0"),
      arg("targets"), arg("inv_temperature"), arg("logit_scale"), arg("softcap"), arg("temperature"), arg("m"),
      arg("s"), arg("zt"), arg("ref_m"), arg("ref_s"), arg("ref_zt"), arg("cross"), arg("forward"), where..., text);
}

template <class... Where, class Run, class... Names>
void def_row_kl_grad(pybind11::module_& m, const char* name, Run run, const char* text, const Names&... where) {
  using pybind11::arg;
  m.def(
      name,
      [run](int dtype, uintptr_t logits, int64_t logits_stride, uintptr_t ref_logits, int64_t ref_logits_stride,
            int64_t rows, int64_t cols, int64_t col0, uintptr_t targets, uintptr_t inv_temperature, double logit_scale,
            std::optional<double> softcap, double temperature, uintptr_t lse, uintptr_t ref_lse, uintptr_t kl,
            uintptr_t onehot_coef, uintptr_t softmax_coef, uintptr_t kl_coef, uintptr_t out, int64_t out_stride,
            bool forward, Where... values) {
        RowGradArgs policy = {};
        policy.dtype = policy.out_dtype = static_cast<DType>(dtype);
        policy.rows = rows;
        policy.cols = cols;
        policy.col0 = col0;
        policy.logits = at<const void>(logits);
        policy.logits_stride = logits_stride;
        policy.targets = at<const int64_t>(targets);
        policy.inv_temperature = at<const float>(inv_temperature);
        policy.lse = at<const float>(lse);
        policy.onehot_coef = at<const float>(onehot_coef);
        policy.softmax_coef = at<const float>(softmax_coef);
        policy.out = at<void>(out);
        policy.out_stride = out_stride;
        policy.transform = transform_of(logit_scale, softcap, temperature);
        run(RowKlGradArgs{rows, cols, policy, at<const void>(ref_logits), ref_logits_stride, at<const float>(ref_lse),
                          at<const float>(kl), at<const float>(kl_coef), forward, 0},
            values...);
      },
      pybind11::call_guard<pybind11::gil_scoped_release>(), pybind11::kw_only(), arg("dtype"), arg("logits"),
      arg("logits_stride"), arg("ref_logits"), arg("ref_logits_stride"), arg("rows"), arg("cols"), arg("col0"),
      arg("targets"), arg("inv_temperature"), arg("logit_scale"), arg("softcap"), arg("temperature"), arg("lse"),
      arg("ref_lse"), arg("kl"), arg("onehot_coef"), arg("softmax_coef"), arg("kl_coef"), arg("out"), arg("out_stride"),
      arg("forward"), where..., text);
}

}  // namespace fastpref
