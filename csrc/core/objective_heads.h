// The objective stage of every loss that has a device form: loss and derivatives of one item.
//
// Made by csrc/generate_heads.py from fastpref/objectives; edit those. One function per form: in, hyper -> out, in the order
// that its comment names; w is the chosen sequence of a pair, l the rejected one. T is float or double.
// clang-format off
#pragma once

#include "scalar.h"

namespace fastpref {

// sigmoid, one pair.
// in: policy_w, policy_l, reference_w, reference_l, length_w, length_l; hyper: beta; out: loss, d policy_w, d policy_l.
template <typename T>
FASTPREF_FN void head_sigmoid(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[2];
  const T v1 = in[1] - in[3];
  const T v2 = v0 - v1;
  const T v3 = hyper[0] * v2;
  const T v4 = -v3;
  const T v5 = scalar_log_sigmoid(v3);
  const T v6 = -v5;
  const T v7 = scalar_sigmoid(v4);
  const T v8 = -v7;
  const T v9 = v8 * hyper[0];
  const T v10 = -v9;
  out[0] = v6;
  out[1] = v9;
  out[2] = v10;
}

// sigmoid_f_divergence_type_forward_kl, one pair.
// in: policy_w, policy_l, reference_w, reference_l, length_w, length_l; hyper: beta; out: loss, d policy_w, d policy_l.
template <typename T>
FASTPREF_FN void head_sigmoid_f_divergence_type_forward_kl(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[2];
  const T v1 = -v0;
  const T v2 = scalar_min(v1, T(80.0));
  const T v3 = scalar_exp(v2);
  const T v4 = T(1.0) - v3;
  const T v5 = in[1] - in[3];
  const T v6 = -v5;
  const T v7 = scalar_min(v6, T(80.0));
  const T v8 = scalar_exp(v7);
  const T v9 = T(1.0) - v8;
  const T v10 = v4 - v9;
  const T v11 = hyper[0] * v10;
  const T v12 = -v11;
  const T v13 = scalar_log_sigmoid(v11);
  const T v14 = -v13;
  const T v15 = scalar_sigmoid(v12);
  const T v16 = -v15;
  const T v17 = v16 * hyper[0];
  const T v18 = -v17;
  const T v19 = v17 * v8;
  const bool v20 = v6 <= T(80.0);
  const T v21 = v20 ? v19 : T(0.0);
  const T v22 = -v21;
  const T v23 = v18 * v3;
  const bool v24 = v1 <= T(80.0);
  const T v25 = v24 ? v23 : T(0.0);
  const T v26 = -v25;
  out[0] = v14;
  out[1] = v26;
  out[2] = v22;
}

// sigmoid_f_divergence_type_js_divergence, one pair.
// in: policy_w, policy_l, reference_w, reference_l, length_w, length_l; hyper: beta; out: loss, d policy_w, d policy_l.
template <typename T>
FASTPREF_FN void head_sigmoid_f_divergence_type_js_divergence(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[2];
  const T v1 = scalar_log_sigmoid(v0);
  const T v2 = v1 + T(0.6931471805599453);
  const T v3 = in[1] - in[3];
  const T v4 = scalar_log_sigmoid(v3);
  const T v5 = v4 + T(0.6931471805599453);
  const T v6 = v2 - v5;
  const T v7 = hyper[0] * v6;
  const T v8 = -v7;
  const T v9 = scalar_log_sigmoid(v7);
  const T v10 = -v9;
  const T v11 = scalar_sigmoid(v8);
  const T v12 = -v11;
  const T v13 = v12 * hyper[0];
  const T v14 = -v13;
  const T v15 = -v3;
  const T v16 = scalar_sigmoid(v15);
  const T v17 = v14 * v16;
  const T v18 = -v0;
  const T v19 = scalar_sigmoid(v18);
  const T v20 = v13 * v19;
  out[0] = v10;
  out[1] = v20;
  out[2] = v17;
}

// sigmoid_f_divergence_type_alpha_divergence, one pair.
// in: policy_w, policy_l, reference_w, reference_l, length_w, length_l; hyper: beta, f_alpha_divergence_coef; out: loss, d policy_w, d policy_l.
template <typename T>
FASTPREF_FN void head_sigmoid_f_divergence_type_alpha_divergence(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[2];
  const T v1 = hyper[1] - T(1.0);
  const T v2 = v1 * v0;
  const T v3 = scalar_min(v2, T(80.0));
  const T v4 = scalar_exp(v3);
  const T v5 = v4 - T(1.0);
  const T v6 = v5 / v1;
  const T v7 = in[1] - in[3];
  const T v8 = v1 * v7;
  const T v9 = scalar_min(v8, T(80.0));
  const T v10 = scalar_exp(v9);
  const T v11 = v10 - T(1.0);
  const T v12 = v11 / v1;
  const T v13 = v6 - v12;
  const T v14 = hyper[0] * v13;
  const T v15 = -v14;
  const T v16 = scalar_log_sigmoid(v14);
  const T v17 = -v16;
  const T v18 = scalar_sigmoid(v15);
  const T v19 = -v18;
  const T v20 = v19 * hyper[0];
  const T v21 = -v20;
  const T v22 = v21 / v1;
  const T v23 = v22 * v10;
  const bool v24 = v8 <= T(80.0);
  const T v25 = v24 ? v23 : T(0.0);
  const T v26 = v25 * v1;
  const T v27 = v20 / v1;
  const T v28 = v27 * v4;
  const bool v29 = v2 <= T(80.0);
  const T v30 = v29 ? v28 : T(0.0);
  const T v31 = v30 * v1;
  out[0] = v17;
  out[1] = v31;
  out[2] = v26;
}

// rpo_bwd_kl, one pair.
// in: policy_w, policy_l, reference_w, reference_l, length_w, length_l, rewards_w, rewards_l; hyper: beta, gt_reward_scale; out: loss, d policy_w, d policy_l.
template <typename T>
FASTPREF_FN void head_rpo_bwd_kl(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[2];
  const T v1 = in[1] - in[3];
  const T v2 = v0 - v1;
  const T v3 = hyper[0] * v2;
  const T v4 = in[6] - in[7];
  const T v5 = hyper[1] * v4;
  const T v6 = scalar_sigmoid(v5);
  const T v7 = scalar_log_sigmoid(v5);
  const T v8 = scalar_log_sigmoid(v3);
  const T v9 = v7 - v8;
  const T v10 = v6 * v9;
  const T v11 = -v5;
  const T v12 = scalar_sigmoid(v11);
  const T v13 = scalar_log_sigmoid(v11);
  const T v14 = -v3;
  const T v15 = scalar_log_sigmoid(v14);
  const T v16 = v13 - v15;
  const T v17 = v12 * v16;
  const T v18 = v10 + v17;
  const T v19 = -v12;
  const T v20 = scalar_sigmoid(v3);
  const T v21 = v19 * v20;
  const T v22 = -v21;
  const T v23 = -v6;
  const T v24 = scalar_sigmoid(v14);
  const T v25 = v23 * v24;
  const T v26 = v22 + v25;
  const T v27 = v26 * hyper[0];
  const T v28 = -v27;
  out[0] = v18;
  out[1] = v27;
  out[2] = v28;
}

// rpo_sq, one pair.
// in: policy_w, policy_l, reference_w, reference_l, length_w, length_l, rewards_w, rewards_l; hyper: beta, gt_reward_scale; out: loss, d policy_w, d policy_l.
template <typename T>
FASTPREF_FN void head_rpo_sq(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[2];
  const T v1 = in[1] - in[3];
  const T v2 = v0 - v1;
  const T v3 = hyper[0] * v2;
  const T v4 = in[6] - in[7];
  const T v5 = hyper[1] * v4;
  const T v6 = v3 - v5;
  const T v7 = v6 * v6;
  const T v8 = v6 * T(2.0);
  const T v9 = v8 * hyper[0];
  const T v10 = -v9;
  out[0] = v7;
  out[1] = v9;
  out[2] = v10;
}

// cdpo, one pair.
// in: policy_w, policy_l, reference_w, reference_l, length_w, length_l; hyper: beta, label_smoothing; out: loss, d policy_w, d policy_l.
template <typename T>
FASTPREF_FN void head_cdpo(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[2];
  const T v1 = in[1] - in[3];
  const T v2 = v0 - v1;
  const T v3 = hyper[0] * v2;
  const T v4 = T(1.0) - hyper[1];
  const T v5 = -v3;
  const T v6 = scalar_log_sigmoid(v3);
  const T v7 = -v6;
  const T v8 = v4 * v7;
  const T v9 = scalar_log_sigmoid(v5);
  const T v10 = -v9;
  const T v11 = hyper[1] * v10;
  const T v12 = v8 + v11;
  const T v13 = -hyper[1];
  const T v14 = scalar_sigmoid(v3);
  const T v15 = v13 * v14;
  const T v16 = -v15;
  const T v17 = -v4;
  const T v18 = scalar_sigmoid(v5);
  const T v19 = v17 * v18;
  const T v21 = v16 + v19;
  const T v22 = v21 * hyper[0];
  const T v23 = -v22;
  out[0] = v12;
  out[1] = v22;
  out[2] = v23;
}

// robust, one pair.
// in: policy_w, policy_l, reference_w, reference_l, length_w, length_l; hyper: beta, label_smoothing; out: loss, d policy_w, d policy_l.
template <typename T>
FASTPREF_FN void head_robust(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[2];
  const T v1 = in[1] - in[3];
  const T v2 = v0 - v1;
  const T v3 = hyper[0] * v2;
  const T v4 = T(1.0) - hyper[1];
  const T v5 = -v3;
  const T v6 = scalar_log_sigmoid(v3);
  const T v7 = -v6;
  const T v8 = v4 * v7;
  const T v9 = scalar_log_sigmoid(v5);
  const T v10 = -v9;
  const T v11 = hyper[1] * v10;
  const T v12 = v8 - v11;
  const T v13 = hyper[1] * T(2.0);
  const T v14 = T(1.0) - v13;
  const T v15 = v12 / v14;
  const T v16 = T(1.0) / v14;
  const T v17 = -v16;
  const T v18 = v17 * hyper[1];
  const T v19 = -v18;
  const T v20 = scalar_sigmoid(v3);
  const T v21 = v19 * v20;
  const T v22 = -v21;
  const T v23 = v16 * v4;
  const T v24 = -v23;
  const T v25 = scalar_sigmoid(v5);
  const T v26 = v24 * v25;
  const T v28 = v22 + v26;
  const T v29 = v28 * hyper[0];
  const T v30 = -v29;
  out[0] = v15;
  out[1] = v29;
  out[2] = v30;
}

// robust_f_divergence_type_forward_kl, one pair.
// in: policy_w, policy_l, reference_w, reference_l, length_w, length_l; hyper: beta, label_smoothing; out: loss, d policy_w, d policy_l.
template <typename T>
FASTPREF_FN void head_robust_f_divergence_type_forward_kl(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[2];
  const T v1 = -v0;
  const T v2 = scalar_min(v1, T(80.0));
  const T v3 = scalar_exp(v2);
  const T v4 = T(1.0) - v3;
  const T v5 = in[1] - in[3];
  const T v6 = -v5;
  const T v7 = scalar_min(v6, T(80.0));
  const T v8 = scalar_exp(v7);
  const T v9 = T(1.0) - v8;
  const T v10 = v4 - v9;
  const T v11 = hyper[0] * v10;
  const T v12 = T(1.0) - hyper[1];
  const T v13 = -v11;
  const T v14 = scalar_log_sigmoid(v11);
  const T v15 = -v14;
  const T v16 = v12 * v15;
  const T v17 = scalar_log_sigmoid(v13);
  const T v18 = -v17;
  const T v19 = hyper[1] * v18;
  const T v20 = v16 - v19;
  const T v21 = hyper[1] * T(2.0);
  const T v22 = T(1.0) - v21;
  const T v23 = v20 / v22;
  const T v24 = T(1.0) / v22;
  const T v25 = -v24;
  const T v26 = v25 * hyper[1];
  const T v27 = -v26;
  const T v28 = scalar_sigmoid(v11);
  const T v29 = v27 * v28;
  const T v30 = -v29;
  const T v31 = v24 * v12;
  const T v32 = -v31;
  const T v33 = scalar_sigmoid(v13);
  const T v34 = v32 * v33;
  const T v36 = v30 + v34;
  const T v37 = v36 * hyper[0];
  const T v38 = -v37;
  const T v39 = v37 * v8;
  const bool v40 = v6 <= T(80.0);
  const T v41 = v40 ? v39 : T(0.0);
  const T v42 = -v41;
  const T v43 = v38 * v3;
  const bool v44 = v1 <= T(80.0);
  const T v45 = v44 ? v43 : T(0.0);
  const T v46 = -v45;
  out[0] = v23;
  out[1] = v46;
  out[2] = v42;
}

// robust_f_divergence_type_js_divergence, one pair.
// in: policy_w, policy_l, reference_w, reference_l, length_w, length_l; hyper: beta, label_smoothing; out: loss, d policy_w, d policy_l.
template <typename T>
FASTPREF_FN void head_robust_f_divergence_type_js_divergence(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[2];
  const T v1 = scalar_log_sigmoid(v0);
  const T v2 = v1 + T(0.6931471805599453);
  const T v3 = in[1] - in[3];
  const T v4 = scalar_log_sigmoid(v3);
  const T v5 = v4 + T(0.6931471805599453);
  const T v6 = v2 - v5;
  const T v7 = hyper[0] * v6;
  const T v8 = T(1.0) - hyper[1];
  const T v9 = -v7;
  const T v10 = scalar_log_sigmoid(v7);
  const T v11 = -v10;
  const T v12 = v8 * v11;
  const T v13 = scalar_log_sigmoid(v9);
  const T v14 = -v13;
  const T v15 = hyper[1] * v14;
  const T v16 = v12 - v15;
  const T v17 = hyper[1] * T(2.0);
  const T v18 = T(1.0) - v17;
  const T v19 = v16 / v18;
  const T v20 = T(1.0) / v18;
  const T v21 = -v20;
  const T v22 = v21 * hyper[1];
  const T v23 = -v22;
  const T v24 = scalar_sigmoid(v7);
  const T v25 = v23 * v24;
  const T v26 = -v25;
  const T v27 = v20 * v8;
  const T v28 = -v27;
  const T v29 = scalar_sigmoid(v9);
  const T v30 = v28 * v29;
  const T v32 = v26 + v30;
  const T v33 = v32 * hyper[0];
  const T v34 = -v33;
  const T v35 = -v3;
  const T v36 = scalar_sigmoid(v35);
  const T v37 = v34 * v36;
  const T v38 = -v0;
  const T v39 = scalar_sigmoid(v38);
  const T v40 = v33 * v39;
  out[0] = v19;
  out[1] = v40;
  out[2] = v37;
}

// robust_f_divergence_type_alpha_divergence, one pair.
// in: policy_w, policy_l, reference_w, reference_l, length_w, length_l; hyper: beta, f_alpha_divergence_coef, label_smoothing; out: loss, d policy_w, d policy_l.
template <typename T>
FASTPREF_FN void head_robust_f_divergence_type_alpha_divergence(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[2];
  const T v1 = hyper[1] - T(1.0);
  const T v2 = v1 * v0;
  const T v3 = scalar_min(v2, T(80.0));
  const T v4 = scalar_exp(v3);
  const T v5 = v4 - T(1.0);
  const T v6 = v5 / v1;
  const T v7 = in[1] - in[3];
  const T v8 = v1 * v7;
  const T v9 = scalar_min(v8, T(80.0));
  const T v10 = scalar_exp(v9);
  const T v11 = v10 - T(1.0);
  const T v12 = v11 / v1;
  const T v13 = v6 - v12;
  const T v14 = hyper[0] * v13;
  const T v15 = T(1.0) - hyper[2];
  const T v16 = -v14;
  const T v17 = scalar_log_sigmoid(v14);
  const T v18 = -v17;
  const T v19 = v15 * v18;
  const T v20 = scalar_log_sigmoid(v16);
  const T v21 = -v20;
  const T v22 = hyper[2] * v21;
  const T v23 = v19 - v22;
  const T v24 = hyper[2] * T(2.0);
  const T v25 = T(1.0) - v24;
  const T v26 = v23 / v25;
  const T v27 = T(1.0) / v25;
  const T v28 = -v27;
  const T v29 = v28 * hyper[2];
  const T v30 = -v29;
  const T v31 = scalar_sigmoid(v14);
  const T v32 = v30 * v31;
  const T v33 = -v32;
  const T v34 = v27 * v15;
  const T v35 = -v34;
  const T v36 = scalar_sigmoid(v16);
  const T v37 = v35 * v36;
  const T v39 = v33 + v37;
  const T v40 = v39 * hyper[0];
  const T v41 = -v40;
  const T v42 = v41 / v1;
  const T v43 = v42 * v10;
  const bool v44 = v8 <= T(80.0);
  const T v45 = v44 ? v43 : T(0.0);
  const T v46 = v45 * v1;
  const T v47 = v40 / v1;
  const T v48 = v47 * v4;
  const bool v49 = v2 <= T(80.0);
  const T v50 = v49 ? v48 : T(0.0);
  const T v51 = v50 * v1;
  out[0] = v26;
  out[1] = v51;
  out[2] = v46;
}

// hinge, one pair.
// in: policy_w, policy_l, reference_w, reference_l, length_w, length_l; hyper: beta; out: loss, d policy_w, d policy_l.
template <typename T>
FASTPREF_FN void head_hinge(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[2];
  const T v1 = in[1] - in[3];
  const T v2 = v0 - v1;
  const T v3 = hyper[0] * v2;
  const T v4 = T(1.0) - v3;
  const T v5 = scalar_max(v4, T(0.0));
  const bool v6 = v5 > T(0.0);
  const T v7 = v6 ? T(1.0) : T(0.0);
  const T v8 = -v7;
  const T v9 = v8 * hyper[0];
  const T v10 = -v9;
  out[0] = v5;
  out[1] = v9;
  out[2] = v10;
}

// hinge_f_divergence_type_forward_kl, one pair.
// in: policy_w, policy_l, reference_w, reference_l, length_w, length_l; hyper: beta; out: loss, d policy_w, d policy_l.
template <typename T>
FASTPREF_FN void head_hinge_f_divergence_type_forward_kl(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[2];
  const T v1 = -v0;
  const T v2 = scalar_min(v1, T(80.0));
  const T v3 = scalar_exp(v2);
  const T v4 = T(1.0) - v3;
  const T v5 = in[1] - in[3];
  const T v6 = -v5;
  const T v7 = scalar_min(v6, T(80.0));
  const T v8 = scalar_exp(v7);
  const T v9 = T(1.0) - v8;
  const T v10 = v4 - v9;
  const T v11 = hyper[0] * v10;
  const T v12 = T(1.0) - v11;
  const T v13 = scalar_max(v12, T(0.0));
  const bool v14 = v13 > T(0.0);
  const T v15 = v14 ? T(1.0) : T(0.0);
  const T v16 = -v15;
  const T v17 = v16 * hyper[0];
  const T v18 = -v17;
  const T v19 = v17 * v8;
  const bool v20 = v6 <= T(80.0);
  const T v21 = v20 ? v19 : T(0.0);
  const T v22 = -v21;
  const T v23 = v18 * v3;
  const bool v24 = v1 <= T(80.0);
  const T v25 = v24 ? v23 : T(0.0);
  const T v26 = -v25;
  out[0] = v13;
  out[1] = v26;
  out[2] = v22;
}

// hinge_f_divergence_type_js_divergence, one pair.
// in: policy_w, policy_l, reference_w, reference_l, length_w, length_l; hyper: beta; out: loss, d policy_w, d policy_l.
template <typename T>
FASTPREF_FN void head_hinge_f_divergence_type_js_divergence(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[2];
  const T v1 = scalar_log_sigmoid(v0);
  const T v2 = v1 + T(0.6931471805599453);
  const T v3 = in[1] - in[3];
  const T v4 = scalar_log_sigmoid(v3);
  const T v5 = v4 + T(0.6931471805599453);
  const T v6 = v2 - v5;
  const T v7 = hyper[0] * v6;
  const T v8 = T(1.0) - v7;
  const T v9 = scalar_max(v8, T(0.0));
  const bool v10 = v9 > T(0.0);
  const T v11 = v10 ? T(1.0) : T(0.0);
  const T v12 = -v11;
  const T v13 = v12 * hyper[0];
  const T v14 = -v13;
  const T v15 = -v3;
  const T v16 = scalar_sigmoid(v15);
  const T v17 = v14 * v16;
  const T v18 = -v0;
  const T v19 = scalar_sigmoid(v18);
  const T v20 = v13 * v19;
  out[0] = v9;
  out[1] = v20;
  out[2] = v17;
}

// hinge_f_divergence_type_alpha_divergence, one pair.
// in: policy_w, policy_l, reference_w, reference_l, length_w, length_l; hyper: beta, f_alpha_divergence_coef; out: loss, d policy_w, d policy_l.
template <typename T>
FASTPREF_FN void head_hinge_f_divergence_type_alpha_divergence(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[2];
  const T v1 = hyper[1] - T(1.0);
  const T v2 = v1 * v0;
  const T v3 = scalar_min(v2, T(80.0));
  const T v4 = scalar_exp(v3);
  const T v5 = v4 - T(1.0);
  const T v6 = v5 / v1;
  const T v7 = in[1] - in[3];
  const T v8 = v1 * v7;
  const T v9 = scalar_min(v8, T(80.0));
  const T v10 = scalar_exp(v9);
  const T v11 = v10 - T(1.0);
  const T v12 = v11 / v1;
  const T v13 = v6 - v12;
  const T v14 = hyper[0] * v13;
  const T v15 = T(1.0) - v14;
  const T v16 = scalar_max(v15, T(0.0));
  const bool v17 = v16 > T(0.0);
  const T v18 = v17 ? T(1.0) : T(0.0);
  const T v19 = -v18;
  const T v20 = v19 * hyper[0];
  const T v21 = -v20;
  const T v22 = v21 / v1;
  const T v23 = v22 * v10;
  const bool v24 = v8 <= T(80.0);
  const T v25 = v24 ? v23 : T(0.0);
  const T v26 = v25 * v1;
  const T v27 = v20 / v1;
  const T v28 = v27 * v4;
  const bool v29 = v2 <= T(80.0);
  const T v30 = v29 ? v28 : T(0.0);
  const T v31 = v30 * v1;
  out[0] = v16;
  out[1] = v31;
  out[2] = v26;
}

// exo_pair, one pair.
// in: policy_w, policy_l, reference_w, reference_l, length_w, length_l; hyper: beta, label_smoothing; out: loss, d policy_w, d policy_l.
template <typename T>
FASTPREF_FN void head_exo_pair(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[2];
  const T v1 = in[1] - in[3];
  const T v2 = v0 - v1;
  const T v3 = hyper[0] * v2;
  const T v4 = scalar_sigmoid(v3);
  const T v5 = scalar_log_sigmoid(v3);
  const T v6 = T(1.0) - hyper[1];
  const T v7 = scalar_log(v6);
  const T v8 = v5 - v7;
  const T v9 = v4 * v8;
  const T v10 = -v3;
  const T v11 = scalar_sigmoid(v10);
  const T v12 = scalar_log_sigmoid(v10);
  const T v13 = scalar_log(hyper[1]);
  const T v14 = v12 - v13;
  const T v15 = v11 * v14;
  const T v16 = v9 + v15;
  const T v17 = v11 * v4;
  const T v18 = -v17;
  const T v19 = T(1.0) - v11;
  const T v20 = v11 * v19;
  const T v21 = v14 * v20;
  const T v22 = -v21;
  const T v23 = v18 + v22;
  const T v24 = v4 * v11;
  const T v25 = v23 + v24;
  const T v26 = T(1.0) - v4;
  const T v27 = v4 * v26;
  const T v28 = v8 * v27;
  const T v29 = v25 + v28;
  const T v30 = v29 * hyper[0];
  const T v31 = -v30;
  out[0] = v16;
  out[1] = v30;
  out[2] = v31;
}

// exo_pair_f_divergence_type_forward_kl, one pair.
// in: policy_w, policy_l, reference_w, reference_l, length_w, length_l; hyper: beta, label_smoothing; out: loss, d policy_w, d policy_l.
template <typename T>
FASTPREF_FN void head_exo_pair_f_divergence_type_forward_kl(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[2];
  const T v1 = -v0;
  const T v2 = scalar_min(v1, T(80.0));
  const T v3 = scalar_exp(v2);
  const T v4 = T(1.0) - v3;
  const T v5 = in[1] - in[3];
  const T v6 = -v5;
  const T v7 = scalar_min(v6, T(80.0));
  const T v8 = scalar_exp(v7);
  const T v9 = T(1.0) - v8;
  const T v10 = v4 - v9;
  const T v11 = hyper[0] * v10;
  const T v12 = scalar_sigmoid(v11);
  const T v13 = scalar_log_sigmoid(v11);
  const T v14 = T(1.0) - hyper[1];
  const T v15 = scalar_log(v14);
  const T v16 = v13 - v15;
  const T v17 = v12 * v16;
  const T v18 = -v11;
  const T v19 = scalar_sigmoid(v18);
  const T v20 = scalar_log_sigmoid(v18);
  const T v21 = scalar_log(hyper[1]);
  const T v22 = v20 - v21;
  const T v23 = v19 * v22;
  const T v24 = v17 + v23;
  const T v25 = v19 * v12;
  const T v26 = -v25;
  const T v27 = T(1.0) - v19;
  const T v28 = v19 * v27;
  const T v29 = v22 * v28;
  const T v30 = -v29;
  const T v31 = v26 + v30;
  const T v32 = v12 * v19;
  const T v33 = v31 + v32;
  const T v34 = T(1.0) - v12;
  const T v35 = v12 * v34;
  const T v36 = v16 * v35;
  const T v37 = v33 + v36;
  const T v38 = v37 * hyper[0];
  const T v39 = -v38;
  const T v40 = v38 * v8;
  const bool v41 = v6 <= T(80.0);
  const T v42 = v41 ? v40 : T(0.0);
  const T v43 = -v42;
  const T v44 = v39 * v3;
  const bool v45 = v1 <= T(80.0);
  const T v46 = v45 ? v44 : T(0.0);
  const T v47 = -v46;
  out[0] = v24;
  out[1] = v47;
  out[2] = v43;
}

// exo_pair_f_divergence_type_js_divergence, one pair.
// in: policy_w, policy_l, reference_w, reference_l, length_w, length_l; hyper: beta, label_smoothing; out: loss, d policy_w, d policy_l.
template <typename T>
FASTPREF_FN void head_exo_pair_f_divergence_type_js_divergence(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[2];
  const T v1 = scalar_log_sigmoid(v0);
  const T v2 = v1 + T(0.6931471805599453);
  const T v3 = in[1] - in[3];
  const T v4 = scalar_log_sigmoid(v3);
  const T v5 = v4 + T(0.6931471805599453);
  const T v6 = v2 - v5;
  const T v7 = hyper[0] * v6;
  const T v8 = scalar_sigmoid(v7);
  const T v9 = scalar_log_sigmoid(v7);
  const T v10 = T(1.0) - hyper[1];
  const T v11 = scalar_log(v10);
  const T v12 = v9 - v11;
  const T v13 = v8 * v12;
  const T v14 = -v7;
  const T v15 = scalar_sigmoid(v14);
  const T v16 = scalar_log_sigmoid(v14);
  const T v17 = scalar_log(hyper[1]);
  const T v18 = v16 - v17;
  const T v19 = v15 * v18;
  const T v20 = v13 + v19;
  const T v21 = v15 * v8;
  const T v22 = -v21;
  const T v23 = T(1.0) - v15;
  const T v24 = v15 * v23;
  const T v25 = v18 * v24;
  const T v26 = -v25;
  const T v27 = v22 + v26;
  const T v28 = v8 * v15;
  const T v29 = v27 + v28;
  const T v30 = T(1.0) - v8;
  const T v31 = v8 * v30;
  const T v32 = v12 * v31;
  const T v33 = v29 + v32;
  const T v34 = v33 * hyper[0];
  const T v35 = -v34;
  const T v36 = -v3;
  const T v37 = scalar_sigmoid(v36);
  const T v38 = v35 * v37;
  const T v39 = -v0;
  const T v40 = scalar_sigmoid(v39);
  const T v41 = v34 * v40;
  out[0] = v20;
  out[1] = v41;
  out[2] = v38;
}

// exo_pair_f_divergence_type_alpha_divergence, one pair.
// in: policy_w, policy_l, reference_w, reference_l, length_w, length_l; hyper: beta, f_alpha_divergence_coef, label_smoothing; out: loss, d policy_w, d policy_l.
template <typename T>
FASTPREF_FN void head_exo_pair_f_divergence_type_alpha_divergence(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[2];
  const T v1 = hyper[1] - T(1.0);
  const T v2 = v1 * v0;
  const T v3 = scalar_min(v2, T(80.0));
  const T v4 = scalar_exp(v3);
  const T v5 = v4 - T(1.0);
  const T v6 = v5 / v1;
  const T v7 = in[1] - in[3];
  const T v8 = v1 * v7;
  const T v9 = scalar_min(v8, T(80.0));
  const T v10 = scalar_exp(v9);
  const T v11 = v10 - T(1.0);
  const T v12 = v11 / v1;
  const T v13 = v6 - v12;
  const T v14 = hyper[0] * v13;
  const T v15 = scalar_sigmoid(v14);
  const T v16 = scalar_log_sigmoid(v14);
  const T v17 = T(1.0) - hyper[2];
  const T v18 = scalar_log(v17);
  const T v19 = v16 - v18;
  const T v20 = v15 * v19;
  const T v21 = -v14;
  const T v22 = scalar_sigmoid(v21);
  const T v23 = scalar_log_sigmoid(v21);
  const T v24 = scalar_log(hyper[2]);
  const T v25 = v23 - v24;
  const T v26 = v22 * v25;
  const T v27 = v20 + v26;
  const T v28 = v22 * v15;
  const T v29 = -v28;
  const T v30 = T(1.0) - v22;
  const T v31 = v22 * v30;
  const T v32 = v25 * v31;
  const T v33 = -v32;
  const T v34 = v29 + v33;
  const T v35 = v15 * v22;
  const T v36 = v34 + v35;
  const T v37 = T(1.0) - v15;
  const T v38 = v15 * v37;
  const T v39 = v19 * v38;
  const T v40 = v36 + v39;
  const T v41 = v40 * hyper[0];
  const T v42 = -v41;
  const T v43 = v42 / v1;
  const T v44 = v43 * v10;
  const bool v45 = v8 <= T(80.0);
  const T v46 = v45 ? v44 : T(0.0);
  const T v47 = v46 * v1;
  const T v48 = v41 / v1;
  const T v49 = v48 * v4;
  const bool v50 = v2 <= T(80.0);
  const T v51 = v50 ? v49 : T(0.0);
  const T v52 = v51 * v1;
  out[0] = v27;
  out[1] = v52;
  out[2] = v47;
}

// discopop, one pair.
// in: policy_w, policy_l, reference_w, reference_l, length_w, length_l; hyper: beta, discopop_tau; out: loss, d policy_w, d policy_l.
template <typename T>
FASTPREF_FN void head_discopop(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[2];
  const T v1 = in[1] - in[3];
  const T v2 = v0 - v1;
  const T v3 = hyper[0] * v2;
  const T v4 = v3 / hyper[1];
  const T v5 = -v4;
  const T v6 = scalar_sigmoid(v5);
  const T v7 = -v3;
  const T v8 = scalar_log_sigmoid(v3);
  const T v9 = -v8;
  const T v10 = v6 * v9;
  const T v11 = scalar_log_sigmoid(v4);
  const T v12 = v11 - v3;
  const T v13 = scalar_min(v12, T(80.0));
  const T v14 = scalar_exp(v13);
  const T v15 = v10 + v14;
  const bool v16 = v12 <= T(80.0);
  const T v17 = v16 ? v14 : T(0.0);
  const T v18 = -v17;
  const T v19 = v17 * v6;
  const T v20 = -v6;
  const T v21 = scalar_sigmoid(v7);
  const T v22 = v20 * v21;
  const T v24 = v18 + v22;
  const T v25 = T(1.0) - v6;
  const T v26 = v6 * v25;
  const T v27 = v9 * v26;
  const T v28 = -v27;
  const T v29 = v19 + v28;
  const T v30 = v29 / hyper[1];
  const T v31 = v24 + v30;
  const T v32 = v31 * hyper[0];
  const T v33 = -v32;
  out[0] = v15;
  out[1] = v32;
  out[2] = v33;
}

// discopop_f_divergence_type_forward_kl, one pair.
// in: policy_w, policy_l, reference_w, reference_l, length_w, length_l; hyper: beta, discopop_tau; out: loss, d policy_w, d policy_l.
template <typename T>
FASTPREF_FN void head_discopop_f_divergence_type_forward_kl(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[2];
  const T v1 = -v0;
  const T v2 = scalar_min(v1, T(80.0));
  const T v3 = scalar_exp(v2);
  const T v4 = T(1.0) - v3;
  const T v5 = in[1] - in[3];
  const T v6 = -v5;
  const T v7 = scalar_min(v6, T(80.0));
  const T v8 = scalar_exp(v7);
  const T v9 = T(1.0) - v8;
  const T v10 = v4 - v9;
  const T v11 = hyper[0] * v10;
  const T v12 = v11 / hyper[1];
  const T v13 = -v12;
  const T v14 = scalar_sigmoid(v13);
  const T v15 = -v11;
  const T v16 = scalar_log_sigmoid(v11);
  const T v17 = -v16;
  const T v18 = v14 * v17;
  const T v19 = scalar_log_sigmoid(v12);
  const T v20 = v19 - v11;
  const T v21 = scalar_min(v20, T(80.0));
  const T v22 = scalar_exp(v21);
  const T v23 = v18 + v22;
  const bool v24 = v20 <= T(80.0);
  const T v25 = v24 ? v22 : T(0.0);
  const T v26 = -v25;
  const T v27 = v25 * v14;
  const T v28 = -v14;
  const T v29 = scalar_sigmoid(v15);
  const T v30 = v28 * v29;
  const T v32 = v26 + v30;
  const T v33 = T(1.0) - v14;
  const T v34 = v14 * v33;
  const T v35 = v17 * v34;
  const T v36 = -v35;
  const T v37 = v27 + v36;
  const T v38 = v37 / hyper[1];
  const T v39 = v32 + v38;
  const T v40 = v39 * hyper[0];
  const T v41 = -v40;
  const T v42 = v40 * v8;
  const bool v43 = v6 <= T(80.0);
  const T v44 = v43 ? v42 : T(0.0);
  const T v45 = -v44;
  const T v46 = v41 * v3;
  const bool v47 = v1 <= T(80.0);
  const T v48 = v47 ? v46 : T(0.0);
  const T v49 = -v48;
  out[0] = v23;
  out[1] = v49;
  out[2] = v45;
}

// discopop_f_divergence_type_js_divergence, one pair.
// in: policy_w, policy_l, reference_w, reference_l, length_w, length_l; hyper: beta, discopop_tau; out: loss, d policy_w, d policy_l.
template <typename T>
FASTPREF_FN void head_discopop_f_divergence_type_js_divergence(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[2];
  const T v1 = scalar_log_sigmoid(v0);
  const T v2 = v1 + T(0.6931471805599453);
  const T v3 = in[1] - in[3];
  const T v4 = scalar_log_sigmoid(v3);
  const T v5 = v4 + T(0.6931471805599453);
  const T v6 = v2 - v5;
  const T v7 = hyper[0] * v6;
  const T v8 = v7 / hyper[1];
  const T v9 = -v8;
  const T v10 = scalar_sigmoid(v9);
  const T v11 = -v7;
  const T v12 = scalar_log_sigmoid(v7);
  const T v13 = -v12;
  const T v14 = v10 * v13;
  const T v15 = scalar_log_sigmoid(v8);
  const T v16 = v15 - v7;
  const T v17 = scalar_min(v16, T(80.0));
  const T v18 = scalar_exp(v17);
  const T v19 = v14 + v18;
  const bool v20 = v16 <= T(80.0);
  const T v21 = v20 ? v18 : T(0.0);
  const T v22 = -v21;
  const T v23 = v21 * v10;
  const T v24 = -v10;
  const T v25 = scalar_sigmoid(v11);
  const T v26 = v24 * v25;
  const T v28 = v22 + v26;
  const T v29 = T(1.0) - v10;
  const T v30 = v10 * v29;
  const T v31 = v13 * v30;
  const T v32 = -v31;
  const T v33 = v23 + v32;
  const T v34 = v33 / hyper[1];
  const T v35 = v28 + v34;
  const T v36 = v35 * hyper[0];
  const T v37 = -v36;
  const T v38 = -v3;
  const T v39 = scalar_sigmoid(v38);
  const T v40 = v37 * v39;
  const T v41 = -v0;
  const T v42 = scalar_sigmoid(v41);
  const T v43 = v36 * v42;
  out[0] = v19;
  out[1] = v43;
  out[2] = v40;
}

// discopop_f_divergence_type_alpha_divergence, one pair.
// in: policy_w, policy_l, reference_w, reference_l, length_w, length_l; hyper: beta, f_alpha_divergence_coef, discopop_tau; out: loss, d policy_w, d policy_l.
template <typename T>
FASTPREF_FN void head_discopop_f_divergence_type_alpha_divergence(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[2];
  const T v1 = hyper[1] - T(1.0);
  const T v2 = v1 * v0;
  const T v3 = scalar_min(v2, T(80.0));
  const T v4 = scalar_exp(v3);
  const T v5 = v4 - T(1.0);
  const T v6 = v5 / v1;
  const T v7 = in[1] - in[3];
  const T v8 = v1 * v7;
  const T v9 = scalar_min(v8, T(80.0));
  const T v10 = scalar_exp(v9);
  const T v11 = v10 - T(1.0);
  const T v12 = v11 / v1;
  const T v13 = v6 - v12;
  const T v14 = hyper[0] * v13;
  const T v15 = v14 / hyper[2];
  const T v16 = -v15;
  const T v17 = scalar_sigmoid(v16);
  const T v18 = -v14;
  const T v19 = scalar_log_sigmoid(v14);
  const T v20 = -v19;
  const T v21 = v17 * v20;
  const T v22 = scalar_log_sigmoid(v15);
  const T v23 = v22 - v14;
  const T v24 = scalar_min(v23, T(80.0));
  const T v25 = scalar_exp(v24);
  const T v26 = v21 + v25;
  const bool v27 = v23 <= T(80.0);
  const T v28 = v27 ? v25 : T(0.0);
  const T v29 = -v28;
  const T v30 = v28 * v17;
  const T v31 = -v17;
  const T v32 = scalar_sigmoid(v18);
  const T v33 = v31 * v32;
  const T v35 = v29 + v33;
  const T v36 = T(1.0) - v17;
  const T v37 = v17 * v36;
  const T v38 = v20 * v37;
  const T v39 = -v38;
  const T v40 = v30 + v39;
  const T v41 = v40 / hyper[2];
  const T v42 = v35 + v41;
  const T v43 = v42 * hyper[0];
  const T v44 = -v43;
  const T v45 = v44 / v1;
  const T v46 = v45 * v10;
  const bool v47 = v8 <= T(80.0);
  const T v48 = v47 ? v46 : T(0.0);
  const T v49 = v48 * v1;
  const T v50 = v43 / v1;
  const T v51 = v50 * v4;
  const bool v52 = v2 <= T(80.0);
  const T v53 = v52 ? v51 : T(0.0);
  const T v54 = v53 * v1;
  out[0] = v26;
  out[1] = v54;
  out[2] = v49;
}

// gpo_exponential, one pair.
// in: policy_w, policy_l, reference_w, reference_l, length_w, length_l; hyper: beta; out: loss, d policy_w, d policy_l.
template <typename T>
FASTPREF_FN void head_gpo_exponential(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[2];
  const T v1 = in[1] - in[3];
  const T v2 = v0 - v1;
  const T v3 = hyper[0] * v2;
  const T v4 = -v3;
  const T v5 = scalar_min(v4, T(80.0));
  const T v6 = scalar_exp(v5);
  const bool v7 = v4 <= T(80.0);
  const T v8 = v7 ? v6 : T(0.0);
  const T v9 = -v8;
  const T v10 = v9 * hyper[0];
  const T v11 = -v10;
  out[0] = v6;
  out[1] = v10;
  out[2] = v11;
}

// gpo_squared, one pair.
// in: policy_w, policy_l, reference_w, reference_l, length_w, length_l; hyper: beta; out: loss, d policy_w, d policy_l.
template <typename T>
FASTPREF_FN void head_gpo_squared(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[2];
  const T v1 = in[1] - in[3];
  const T v2 = v0 - v1;
  const T v3 = hyper[0] * v2;
  const T v4 = v3 - T(1.0);
  const T v5 = v4 * v4;
  const T v6 = v4 * T(2.0);
  const T v7 = v6 * hyper[0];
  const T v8 = -v7;
  out[0] = v5;
  out[1] = v7;
  out[2] = v8;
}

// gpo_truncated_squared, one pair.
// in: policy_w, policy_l, reference_w, reference_l, length_w, length_l; hyper: beta; out: loss, d policy_w, d policy_l.
template <typename T>
FASTPREF_FN void head_gpo_truncated_squared(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[2];
  const T v1 = in[1] - in[3];
  const T v2 = v0 - v1;
  const T v3 = hyper[0] * v2;
  const T v4 = T(1.0) - v3;
  const T v5 = scalar_max(v4, T(0.0));
  const T v6 = v5 * v5;
  const T v7 = v5 * T(2.0);
  const bool v8 = v5 > T(0.0);
  const T v9 = v8 ? v7 : T(0.0);
  const T v10 = -v9;
  const T v11 = v10 * hyper[0];
  const T v12 = -v11;
  out[0] = v6;
  out[1] = v11;
  out[2] = v12;
}

// gpo_savage, one pair.
// in: policy_w, policy_l, reference_w, reference_l, length_w, length_l; hyper: beta; out: loss, d policy_w, d policy_l.
template <typename T>
FASTPREF_FN void head_gpo_savage(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[2];
  const T v1 = in[1] - in[3];
  const T v2 = v0 - v1;
  const T v3 = hyper[0] * v2;
  const T v4 = -v3;
  const T v5 = scalar_sigmoid(v4);
  const T v6 = v5 * v5;
  const T v7 = v5 * T(2.0);
  const T v8 = T(1.0) - v5;
  const T v9 = v5 * v8;
  const T v10 = v7 * v9;
  const T v11 = -v10;
  const T v12 = v11 * hyper[0];
  const T v13 = -v12;
  out[0] = v6;
  out[1] = v12;
  out[2] = v13;
}

// rpo_fwd_kl, one pair.
// in: policy_w, policy_l, reference_w, reference_l, length_w, length_l, rewards_w, rewards_l; hyper: beta, gt_reward_scale; out: loss, d policy_w, d policy_l.
template <typename T>
FASTPREF_FN void head_rpo_fwd_kl(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[2];
  const T v1 = in[1] - in[3];
  const T v2 = v0 - v1;
  const T v3 = hyper[0] * v2;
  const T v4 = in[6] - in[7];
  const T v5 = hyper[1] * v4;
  const T v6 = scalar_sigmoid(v3);
  const T v7 = scalar_log_sigmoid(v3);
  const T v8 = scalar_log_sigmoid(v5);
  const T v9 = v7 - v8;
  const T v10 = v6 * v9;
  const T v11 = -v3;
  const T v12 = scalar_sigmoid(v11);
  const T v13 = scalar_log_sigmoid(v11);
  const T v14 = -v5;
  const T v15 = scalar_log_sigmoid(v14);
  const T v16 = v13 - v15;
  const T v17 = v12 * v16;
  const T v18 = v10 + v17;
  const T v19 = v12 * v6;
  const T v20 = -v19;
  const T v21 = T(1.0) - v12;
  const T v22 = v12 * v21;
  const T v23 = v16 * v22;
  const T v24 = -v23;
  const T v25 = v20 + v24;
  const T v26 = v6 * v12;
  const T v27 = v25 + v26;
  const T v28 = T(1.0) - v6;
  const T v29 = v6 * v28;
  const T v30 = v9 * v29;
  const T v31 = v27 + v30;
  const T v32 = v31 * hyper[0];
  const T v33 = -v32;
  out[0] = v18;
  out[1] = v32;
  out[2] = v33;
}

// r_dpo, one pair.
// in: policy_w, policy_l, reference_w, reference_l, length_w, length_l; hyper: beta, alpha; out: loss, d policy_w, d policy_l.
template <typename T>
FASTPREF_FN void head_r_dpo(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[2];
  const T v1 = in[1] - in[3];
  const T v2 = v0 - v1;
  const T v3 = hyper[0] * v2;
  const T v4 = in[4] - in[5];
  const T v5 = hyper[1] * v4;
  const T v6 = v3 + v5;
  const T v7 = -v6;
  const T v8 = scalar_log_sigmoid(v6);
  const T v9 = -v8;
  const T v10 = scalar_sigmoid(v7);
  const T v11 = -v10;
  const T v12 = v11 * hyper[0];
  const T v13 = -v12;
  out[0] = v9;
  out[1] = v12;
  out[2] = v13;
}

// ipo, one pair.
// in: policy_w, policy_l, reference_w, reference_l, length_w, length_l; hyper: beta; out: loss, d policy_w, d policy_l.
template <typename T>
FASTPREF_FN void head_ipo(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[2];
  const T v1 = v0 / in[4];
  const T v2 = in[1] - in[3];
  const T v3 = v2 / in[5];
  const T v4 = v1 - v3;
  const T v5 = hyper[0] * T(2.0);
  const T v6 = T(1.0) / v5;
  const T v7 = v4 - v6;
  const T v8 = v7 * v7;
  const T v9 = v7 * T(2.0);
  const T v10 = -v9;
  const T v11 = v10 / in[5];
  const T v12 = v9 / in[4];
  out[0] = v8;
  out[1] = v12;
  out[2] = v11;
}

// ipo_f_divergence_type_forward_kl, one pair.
// in: policy_w, policy_l, reference_w, reference_l, length_w, length_l; hyper: beta; out: loss, d policy_w, d policy_l.
template <typename T>
FASTPREF_FN void head_ipo_f_divergence_type_forward_kl(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[2];
  const T v1 = -v0;
  const T v2 = scalar_min(v1, T(80.0));
  const T v3 = scalar_exp(v2);
  const T v4 = T(1.0) - v3;
  const T v5 = v4 / in[4];
  const T v6 = in[1] - in[3];
  const T v7 = -v6;
  const T v8 = scalar_min(v7, T(80.0));
  const T v9 = scalar_exp(v8);
  const T v10 = T(1.0) - v9;
  const T v11 = v10 / in[5];
  const T v12 = v5 - v11;
  const T v13 = hyper[0] * T(2.0);
  const T v14 = T(1.0) / v13;
  const T v15 = v12 - v14;
  const T v16 = v15 * v15;
  const T v17 = v15 * T(2.0);
  const T v18 = -v17;
  const T v19 = v18 / in[5];
  const T v20 = -v19;
  const T v21 = v20 * v9;
  const bool v22 = v7 <= T(80.0);
  const T v23 = v22 ? v21 : T(0.0);
  const T v24 = -v23;
  const T v25 = v17 / in[4];
  const T v26 = -v25;
  const T v27 = v26 * v3;
  const bool v28 = v1 <= T(80.0);
  const T v29 = v28 ? v27 : T(0.0);
  const T v30 = -v29;
  out[0] = v16;
  out[1] = v30;
  out[2] = v24;
}

// ipo_f_divergence_type_js_divergence, one pair.
// in: policy_w, policy_l, reference_w, reference_l, length_w, length_l; hyper: beta; out: loss, d policy_w, d policy_l.
template <typename T>
FASTPREF_FN void head_ipo_f_divergence_type_js_divergence(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[2];
  const T v1 = scalar_log_sigmoid(v0);
  const T v2 = v1 + T(0.6931471805599453);
  const T v3 = v2 / in[4];
  const T v4 = in[1] - in[3];
  const T v5 = scalar_log_sigmoid(v4);
  const T v6 = v5 + T(0.6931471805599453);
  const T v7 = v6 / in[5];
  const T v8 = v3 - v7;
  const T v9 = hyper[0] * T(2.0);
  const T v10 = T(1.0) / v9;
  const T v11 = v8 - v10;
  const T v12 = v11 * v11;
  const T v13 = v11 * T(2.0);
  const T v14 = -v13;
  const T v15 = v14 / in[5];
  const T v16 = -v4;
  const T v17 = scalar_sigmoid(v16);
  const T v18 = v15 * v17;
  const T v19 = v13 / in[4];
  const T v20 = -v0;
  const T v21 = scalar_sigmoid(v20);
  const T v22 = v19 * v21;
  out[0] = v12;
  out[1] = v22;
  out[2] = v18;
}

// ipo_f_divergence_type_alpha_divergence, one pair.
// in: policy_w, policy_l, reference_w, reference_l, length_w, length_l; hyper: beta, f_alpha_divergence_coef; out: loss, d policy_w, d policy_l.
template <typename T>
FASTPREF_FN void head_ipo_f_divergence_type_alpha_divergence(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[2];
  const T v1 = hyper[1] - T(1.0);
  const T v2 = v1 * v0;
  const T v3 = scalar_min(v2, T(80.0));
  const T v4 = scalar_exp(v3);
  const T v5 = v4 - T(1.0);
  const T v6 = v5 / v1;
  const T v7 = v6 / in[4];
  const T v8 = in[1] - in[3];
  const T v9 = v1 * v8;
  const T v10 = scalar_min(v9, T(80.0));
  const T v11 = scalar_exp(v10);
  const T v12 = v11 - T(1.0);
  const T v13 = v12 / v1;
  const T v14 = v13 / in[5];
  const T v15 = v7 - v14;
  const T v16 = hyper[0] * T(2.0);
  const T v17 = T(1.0) / v16;
  const T v18 = v15 - v17;
  const T v19 = v18 * v18;
  const T v20 = v18 * T(2.0);
  const T v21 = -v20;
  const T v22 = v21 / in[5];
  const T v23 = v22 / v1;
  const T v24 = v23 * v11;
  const bool v25 = v9 <= T(80.0);
  const T v26 = v25 ? v24 : T(0.0);
  const T v27 = v26 * v1;
  const T v28 = v20 / in[4];
  const T v29 = v28 / v1;
  const T v30 = v29 * v4;
  const bool v31 = v2 <= T(80.0);
  const T v32 = v31 ? v30 : T(0.0);
  const T v33 = v32 * v1;
  out[0] = v19;
  out[1] = v33;
  out[2] = v27;
}

// ipo_sum, one pair.
// in: policy_w, policy_l, reference_w, reference_l, length_w, length_l; hyper: beta; out: loss, d policy_w, d policy_l.
template <typename T>
FASTPREF_FN void head_ipo_sum(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[2];
  const T v1 = in[1] - in[3];
  const T v2 = v0 - v1;
  const T v3 = hyper[0] * T(2.0);
  const T v4 = T(1.0) / v3;
  const T v5 = v2 - v4;
  const T v6 = v5 * v5;
  const T v7 = v5 * T(2.0);
  const T v8 = -v7;
  out[0] = v6;
  out[1] = v7;
  out[2] = v8;
}

// rebel, one pair.
// in: policy_w, policy_l, reference_w, reference_l, length_w, length_l, rewards_w, rewards_l; hyper: eta; out: loss, d policy_w, d policy_l.
template <typename T>
FASTPREF_FN void head_rebel(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[2];
  const T v1 = in[1] - in[3];
  const T v2 = v0 - v1;
  const T v3 = in[6] - in[7];
  const T v4 = hyper[0] * v3;
  const T v5 = v2 - v4;
  const T v6 = v5 * v5;
  const T v7 = v5 * T(2.0);
  const T v8 = -v7;
  out[0] = v6;
  out[1] = v7;
  out[2] = v8;
}

// sigmoid_norm, one pair.
// in: policy_w, policy_l, reference_w, reference_l, length_w, length_l; hyper: beta; out: loss, d policy_w, d policy_l.
template <typename T>
FASTPREF_FN void head_sigmoid_norm(const T* in, const T* hyper, T* out) {
  const T v0 = -hyper[0];
  const T v1 = in[0] - in[2];
  const T v2 = v1 / in[4];
  const T v3 = in[1] - in[3];
  const T v4 = v3 / in[5];
  const T v5 = v2 - v4;
  const T v6 = v0 * v5;
  const T v7 = -v6;
  const T v8 = scalar_log_sigmoid(v7);
  const T v9 = -v8;
  const T v10 = scalar_sigmoid(v6);
  const T v12 = v10 * v0;
  const T v13 = -v12;
  const T v14 = v13 / in[5];
  const T v15 = v12 / in[4];
  out[0] = v9;
  out[1] = v15;
  out[2] = v14;
}

// sigmoid_norm_f_divergence_type_forward_kl, one pair.
// in: policy_w, policy_l, reference_w, reference_l, length_w, length_l; hyper: beta; out: loss, d policy_w, d policy_l.
template <typename T>
FASTPREF_FN void head_sigmoid_norm_f_divergence_type_forward_kl(const T* in, const T* hyper, T* out) {
  const T v0 = -hyper[0];
  const T v1 = in[0] - in[2];
  const T v2 = -v1;
  const T v3 = scalar_min(v2, T(80.0));
  const T v4 = scalar_exp(v3);
  const T v5 = T(1.0) - v4;
  const T v6 = v5 / in[4];
  const T v7 = in[1] - in[3];
  const T v8 = -v7;
  const T v9 = scalar_min(v8, T(80.0));
  const T v10 = scalar_exp(v9);
  const T v11 = T(1.0) - v10;
  const T v12 = v11 / in[5];
  const T v13 = v6 - v12;
  const T v14 = v0 * v13;
  const T v15 = -v14;
  const T v16 = scalar_log_sigmoid(v15);
  const T v17 = -v16;
  const T v18 = scalar_sigmoid(v14);
  const T v20 = v18 * v0;
  const T v21 = -v20;
  const T v22 = v21 / in[5];
  const T v23 = -v22;
  const T v24 = v23 * v10;
  const bool v25 = v8 <= T(80.0);
  const T v26 = v25 ? v24 : T(0.0);
  const T v27 = -v26;
  const T v28 = v20 / in[4];
  const T v29 = -v28;
  const T v30 = v29 * v4;
  const bool v31 = v2 <= T(80.0);
  const T v32 = v31 ? v30 : T(0.0);
  const T v33 = -v32;
  out[0] = v17;
  out[1] = v33;
  out[2] = v27;
}

// sigmoid_norm_f_divergence_type_js_divergence, one pair.
// in: policy_w, policy_l, reference_w, reference_l, length_w, length_l; hyper: beta; out: loss, d policy_w, d policy_l.
template <typename T>
FASTPREF_FN void head_sigmoid_norm_f_divergence_type_js_divergence(const T* in, const T* hyper, T* out) {
  const T v0 = -hyper[0];
  const T v1 = in[0] - in[2];
  const T v2 = scalar_log_sigmoid(v1);
  const T v3 = v2 + T(0.6931471805599453);
  const T v4 = v3 / in[4];
  const T v5 = in[1] - in[3];
  const T v6 = scalar_log_sigmoid(v5);
  const T v7 = v6 + T(0.6931471805599453);
  const T v8 = v7 / in[5];
  const T v9 = v4 - v8;
  const T v10 = v0 * v9;
  const T v11 = -v10;
  const T v12 = scalar_log_sigmoid(v11);
  const T v13 = -v12;
  const T v14 = scalar_sigmoid(v10);
  const T v16 = v14 * v0;
  const T v17 = -v16;
  const T v18 = v17 / in[5];
  const T v19 = -v5;
  const T v20 = scalar_sigmoid(v19);
  const T v21 = v18 * v20;
  const T v22 = v16 / in[4];
  const T v23 = -v1;
  const T v24 = scalar_sigmoid(v23);
  const T v25 = v22 * v24;
  out[0] = v13;
  out[1] = v25;
  out[2] = v21;
}

// sigmoid_norm_f_divergence_type_alpha_divergence, one pair.
// in: policy_w, policy_l, reference_w, reference_l, length_w, length_l; hyper: beta, f_alpha_divergence_coef; out: loss, d policy_w, d policy_l.
template <typename T>
FASTPREF_FN void head_sigmoid_norm_f_divergence_type_alpha_divergence(const T* in, const T* hyper, T* out) {
  const T v0 = -hyper[0];
  const T v1 = in[0] - in[2];
  const T v2 = hyper[1] - T(1.0);
  const T v3 = v2 * v1;
  const T v4 = scalar_min(v3, T(80.0));
  const T v5 = scalar_exp(v4);
  const T v6 = v5 - T(1.0);
  const T v7 = v6 / v2;
  const T v8 = v7 / in[4];
  const T v9 = in[1] - in[3];
  const T v10 = v2 * v9;
  const T v11 = scalar_min(v10, T(80.0));
  const T v12 = scalar_exp(v11);
  const T v13 = v12 - T(1.0);
  const T v14 = v13 / v2;
  const T v15 = v14 / in[5];
  const T v16 = v8 - v15;
  const T v17 = v0 * v16;
  const T v18 = -v17;
  const T v19 = scalar_log_sigmoid(v18);
  const T v20 = -v19;
  const T v21 = scalar_sigmoid(v17);
  const T v23 = v21 * v0;
  const T v24 = -v23;
  const T v25 = v24 / in[5];
  const T v26 = v25 / v2;
  const T v27 = v26 * v12;
  const bool v28 = v10 <= T(80.0);
  const T v29 = v28 ? v27 : T(0.0);
  const T v30 = v29 * v2;
  const T v31 = v23 / in[4];
  const T v32 = v31 / v2;
  const T v33 = v32 * v5;
  const bool v34 = v3 <= T(80.0);
  const T v35 = v34 ? v33 : T(0.0);
  const T v36 = v35 * v2;
  out[0] = v20;
  out[1] = v36;
  out[2] = v30;
}

// nca_pair, one pair.
// in: policy_w, policy_l, reference_w, reference_l, length_w, length_l; hyper: beta; out: loss, d policy_w, d policy_l.
template <typename T>
FASTPREF_FN void head_nca_pair(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[2];
  const T v1 = hyper[0] * v0;
  const T v2 = in[1] - in[3];
  const T v3 = hyper[0] * v2;
  const T v4 = -v1;
  const T v5 = scalar_log_sigmoid(v1);
  const T v6 = -v5;
  const T v7 = scalar_log_sigmoid(v4);
  const T v8 = -v7;
  const T v9 = v8 * T(0.5);
  const T v10 = v6 + v9;
  const T v11 = -v3;
  const T v12 = scalar_log_sigmoid(v11);
  const T v13 = -v12;
  const T v14 = v13 * T(0.5);
  const T v15 = v10 + v14;
  const T v16 = scalar_sigmoid(v3);
  const T v17 = T(-0.5) * v16;
  const T v18 = -v17;
  const T v19 = scalar_sigmoid(v1);
  const T v20 = T(-0.5) * v19;
  const T v21 = -v20;
  const T v22 = scalar_sigmoid(v4);
  const T v23 = -v22;
  const T v24 = v21 + v23;
  const T v25 = v18 * hyper[0];
  const T v26 = v24 * hyper[0];
  out[0] = v15;
  out[1] = v26;
  out[2] = v25;
}

// bco_pair, one pair.
// in: policy_w, policy_l, reference_w, reference_l, length_w, length_l; hyper: beta; out: loss, d policy_w, d policy_l.
template <typename T>
FASTPREF_FN void head_bco_pair(const T* in, const T* hyper, T* out) {
  const T v0 = -hyper[0];
  const T v1 = in[0] - in[2];
  const T v2 = v0 * v1;
  const T v3 = -v2;
  const T v4 = scalar_log_sigmoid(v3);
  const T v5 = -v4;
  const T v6 = in[1] - in[3];
  const T v7 = hyper[0] * v6;
  const T v8 = -v7;
  const T v9 = scalar_log_sigmoid(v8);
  const T v10 = -v9;
  const T v11 = v5 + v10;
  const T v12 = scalar_sigmoid(v7);
  const T v14 = v12 * hyper[0];
  const T v15 = scalar_sigmoid(v2);
  const T v17 = v15 * v0;
  out[0] = v11;
  out[1] = v17;
  out[2] = v14;
}

// apo_zero, one pair.
// in: policy_w, policy_l, reference_w, reference_l, length_w, length_l; hyper: beta; out: loss, d policy_w, d policy_l.
template <typename T>
FASTPREF_FN void head_apo_zero(const T* in, const T* hyper, T* out) {
  const T v0 = -hyper[0];
  const T v1 = in[0] - in[2];
  const T v2 = v0 * v1;
  const T v3 = scalar_sigmoid(v2);
  const T v4 = in[1] - in[3];
  const T v5 = hyper[0] * v4;
  const T v6 = scalar_sigmoid(v5);
  const T v7 = v3 + v6;
  const T v8 = T(1.0) - v6;
  const T v9 = v6 * v8;
  const T v10 = v9 * hyper[0];
  const T v11 = T(1.0) - v3;
  const T v12 = v3 * v11;
  const T v13 = v12 * v0;
  out[0] = v7;
  out[1] = v13;
  out[2] = v10;
}

// apo_down, one pair.
// in: policy_w, policy_l, reference_w, reference_l, length_w, length_l; hyper: beta; out: loss, d policy_w, d policy_l.
template <typename T>
FASTPREF_FN void head_apo_down(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[2];
  const T v1 = in[1] - in[3];
  const T v2 = hyper[0] * v0;
  const T v3 = scalar_sigmoid(v2);
  const T v4 = -hyper[0];
  const T v5 = v0 - v1;
  const T v6 = v4 * v5;
  const T v7 = scalar_sigmoid(v6);
  const T v8 = v3 + v7;
  const T v9 = T(1.0) - v7;
  const T v10 = v7 * v9;
  const T v11 = v10 * v4;
  const T v12 = -v11;
  const T v13 = T(1.0) - v3;
  const T v14 = v3 * v13;
  const T v15 = v14 * hyper[0];
  const T v16 = v11 + v15;
  out[0] = v8;
  out[1] = v16;
  out[2] = v12;
}

// sppo_hard, one pair.
// in: policy_w, policy_l, reference_w, reference_l, length_w, length_l; hyper: beta; out: loss, d policy_w, d policy_l.
template <typename T>
FASTPREF_FN void head_sppo_hard(const T* in, const T* hyper, T* out) {
  const T v0 = hyper[0] * T(2.0);
  const T v1 = T(1.0) / v0;
  const T v2 = in[0] - in[2];
  const T v3 = v2 - v1;
  const T v4 = v3 * v3;
  const T v5 = in[1] - in[3];
  const T v6 = v5 + v1;
  const T v7 = v6 * v6;
  const T v8 = v4 + v7;
  const T v9 = v6 * T(2.0);
  const T v10 = v3 * T(2.0);
  out[0] = v8;
  out[1] = v10;
  out[2] = v9;
}

// sppo, one pair.
// in: policy_w, policy_l, reference_w, reference_l, length_w, length_l, win_probs_w, win_probs_l; hyper: beta; out: loss, d policy_w, d policy_l.
template <typename T>
FASTPREF_FN void head_sppo(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[2];
  const T v1 = in[6] - T(0.5);
  const T v2 = v1 / hyper[0];
  const T v3 = v0 - v2;
  const T v4 = v3 * v3;
  const T v5 = v4 * T(0.5);
  const T v6 = in[1] - in[3];
  const T v7 = in[7] - T(0.5);
  const T v8 = v7 / hyper[0];
  const T v9 = v6 - v8;
  const T v10 = v9 * v9;
  const T v11 = v10 * T(0.5);
  const T v12 = v5 + v11;
  const T v13 = v9 * T(2.0);
  const T v14 = T(0.5) * v13;
  const T v15 = v3 * T(2.0);
  const T v16 = T(0.5) * v15;
  out[0] = v12;
  out[1] = v16;
  out[2] = v14;
}

// dpop, one pair.
// in: policy_w, policy_l, reference_w, reference_l, length_w, length_l; hyper: beta, dpop_lambda; out: loss, d policy_w, d policy_l.
template <typename T>
FASTPREF_FN void head_dpop(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[2];
  const T v1 = -hyper[0];
  const T v2 = in[1] - in[3];
  const T v3 = v0 - v2;
  const T v4 = -v0;
  const T v5 = scalar_max(v4, T(0.0));
  const T v6 = hyper[1] * v5;
  const T v7 = v3 - v6;
  const T v8 = v1 * v7;
  const T v9 = -v8;
  const T v10 = scalar_log_sigmoid(v9);
  const T v11 = -v10;
  const T v12 = scalar_sigmoid(v8);
  const T v14 = v12 * v1;
  const T v15 = -v14;
  const T v16 = v15 * hyper[1];
  const bool v17 = v5 > T(0.0);
  const T v18 = v17 ? v16 : T(0.0);
  const T v19 = -v18;
  const T v20 = v19 + v14;
  out[0] = v11;
  out[1] = v20;
  out[2] = v15;
}

// cpo, one pair.
// in: policy_w, policy_l, reference_w, reference_l, length_w, length_l; hyper: beta, cpo_alpha, label_smoothing, mean_chosen_length; out: loss, d policy_w, d policy_l.
template <typename T>
FASTPREF_FN void head_cpo(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[1];
  const T v1 = hyper[0] * v0;
  const T v2 = T(1.0) - hyper[2];
  const T v3 = -v1;
  const T v4 = scalar_log_sigmoid(v1);
  const T v5 = -v4;
  const T v6 = v2 * v5;
  const T v7 = scalar_log_sigmoid(v3);
  const T v8 = -v7;
  const T v9 = hyper[2] * v8;
  const T v10 = v6 + v9;
  const T v11 = -in[0];
  const T v12 = v11 / hyper[3];
  const T v13 = hyper[1] * v12;
  const T v14 = v10 + v13;
  const T v15 = hyper[1] / hyper[3];
  const T v16 = -v15;
  const T v17 = -hyper[2];
  const T v18 = scalar_sigmoid(v1);
  const T v19 = v17 * v18;
  const T v20 = -v19;
  const T v21 = -v2;
  const T v22 = scalar_sigmoid(v3);
  const T v23 = v21 * v22;
  const T v25 = v20 + v23;
  const T v26 = v25 * hyper[0];
  const T v27 = -v26;
  const T v28 = v16 + v26;
  out[0] = v14;
  out[1] = v28;
  out[2] = v27;
}

// cpo_loss_type_hinge, one pair.
// in: policy_w, policy_l, reference_w, reference_l, length_w, length_l; hyper: beta, cpo_alpha, mean_chosen_length; out: loss, d policy_w, d policy_l.
template <typename T>
FASTPREF_FN void head_cpo_loss_type_hinge(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[1];
  const T v1 = hyper[0] * v0;
  const T v2 = T(1.0) - v1;
  const T v3 = scalar_max(v2, T(0.0));
  const T v4 = -in[0];
  const T v5 = v4 / hyper[2];
  const T v6 = hyper[1] * v5;
  const T v7 = v3 + v6;
  const T v8 = hyper[1] / hyper[2];
  const T v9 = -v8;
  const bool v10 = v3 > T(0.0);
  const T v11 = v10 ? T(1.0) : T(0.0);
  const T v12 = -v11;
  const T v13 = v12 * hyper[0];
  const T v14 = -v13;
  const T v15 = v9 + v13;
  out[0] = v7;
  out[1] = v15;
  out[2] = v14;
}

// cpo_loss_type_ipo, one pair.
// in: policy_w, policy_l, reference_w, reference_l, length_w, length_l; hyper: beta, cpo_alpha, mean_chosen_length; out: loss, d policy_w, d policy_l.
template <typename T>
FASTPREF_FN void head_cpo_loss_type_ipo(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] / in[4];
  const T v1 = in[1] / in[5];
  const T v2 = v0 - v1;
  const T v3 = hyper[0] * T(2.0);
  const T v4 = T(1.0) / v3;
  const T v5 = v2 - v4;
  const T v6 = v5 * v5;
  const T v7 = -in[0];
  const T v8 = v7 / hyper[2];
  const T v9 = hyper[1] * v8;
  const T v10 = v6 + v9;
  const T v11 = hyper[1] / hyper[2];
  const T v12 = -v11;
  const T v13 = v5 * T(2.0);
  const T v14 = -v13;
  const T v15 = v14 / in[5];
  const T v16 = v13 / in[4];
  const T v17 = v12 + v16;
  out[0] = v10;
  out[1] = v17;
  out[2] = v15;
}

// simpo, one pair.
// in: policy_w, policy_l, reference_w, reference_l, length_w, length_l; hyper: beta, cpo_alpha, label_smoothing, simpo_gamma, mean_chosen_length; out: loss, d policy_w, d policy_l.
template <typename T>
FASTPREF_FN void head_simpo(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] / in[4];
  const T v1 = in[1] / in[5];
  const T v2 = v0 - v1;
  const T v3 = hyper[0] * v2;
  const T v4 = v3 - hyper[3];
  const T v5 = T(1.0) - hyper[2];
  const T v6 = -v4;
  const T v7 = scalar_log_sigmoid(v4);
  const T v8 = -v7;
  const T v9 = v5 * v8;
  const T v10 = scalar_log_sigmoid(v6);
  const T v11 = -v10;
  const T v12 = hyper[2] * v11;
  const T v13 = v9 + v12;
  const T v14 = -in[0];
  const T v15 = v14 / hyper[4];
  const T v16 = hyper[1] * v15;
  const T v17 = v13 + v16;
  const T v18 = hyper[1] / hyper[4];
  const T v19 = -v18;
  const T v20 = -hyper[2];
  const T v21 = scalar_sigmoid(v4);
  const T v22 = v20 * v21;
  const T v23 = -v22;
  const T v24 = -v5;
  const T v25 = scalar_sigmoid(v6);
  const T v26 = v24 * v25;
  const T v28 = v23 + v26;
  const T v29 = v28 * hyper[0];
  const T v30 = -v29;
  const T v31 = v30 / in[5];
  const T v32 = v29 / in[4];
  const T v33 = v19 + v32;
  out[0] = v17;
  out[1] = v33;
  out[2] = v31;
}

// alphapo, one pair.
// in: policy_w, policy_l, reference_w, reference_l, length_w, length_l; hyper: beta, cpo_alpha, label_smoothing, simpo_gamma, alpha, mean_chosen_length; out: loss, d policy_w, d policy_l.
template <typename T>
FASTPREF_FN void head_alphapo(const T* in, const T* hyper, T* out) {
  const T v0 = -hyper[4];
  const T v1 = in[0] / in[4];
  const T v2 = v0 * v1;
  const T v3 = scalar_min(v2, T(80.0));
  const T v4 = scalar_expm1(v3);
  const T v5 = -v4;
  const T v6 = v5 / hyper[4];
  const T v7 = in[1] / in[5];
  const T v8 = v0 * v7;
  const T v9 = scalar_min(v8, T(80.0));
  const T v10 = scalar_expm1(v9);
  const T v11 = -v10;
  const T v12 = v11 / hyper[4];
  const T v13 = v6 - v12;
  const T v14 = hyper[0] * v13;
  const T v15 = v14 - hyper[3];
  const T v16 = T(1.0) - hyper[2];
  const T v17 = -v15;
  const T v18 = scalar_log_sigmoid(v15);
  const T v19 = -v18;
  const T v20 = v16 * v19;
  const T v21 = scalar_log_sigmoid(v17);
  const T v22 = -v21;
  const T v23 = hyper[2] * v22;
  const T v24 = v20 + v23;
  const T v25 = -in[0];
  const T v26 = v25 / hyper[5];
  const T v27 = hyper[1] * v26;
  const T v28 = v24 + v27;
  const T v29 = hyper[1] / hyper[5];
  const T v30 = -v29;
  const T v31 = -hyper[2];
  const T v32 = scalar_sigmoid(v15);
  const T v33 = v31 * v32;
  const T v34 = -v33;
  const T v35 = -v16;
  const T v36 = scalar_sigmoid(v17);
  const T v37 = v35 * v36;
  const T v39 = v34 + v37;
  const T v40 = v39 * hyper[0];
  const T v41 = -v40;
  const T v42 = v41 / hyper[4];
  const T v43 = -v42;
  const T v44 = v10 + T(1.0);
  const T v45 = v43 * v44;
  const bool v46 = v8 <= T(80.0);
  const T v47 = v46 ? v45 : T(0.0);
  const T v48 = v47 * v0;
  const T v49 = v48 / in[5];
  const T v50 = v40 / hyper[4];
  const T v51 = -v50;
  const T v52 = v4 + T(1.0);
  const T v53 = v51 * v52;
  const bool v54 = v2 <= T(80.0);
  const T v55 = v54 ? v53 : T(0.0);
  const T v56 = v55 * v0;
  const T v57 = v56 / in[4];
  const T v58 = v30 + v57;
  out[0] = v28;
  out[1] = v58;
  out[2] = v49;
}

// orpo, one pair.
// in: policy_w, policy_l, reference_w, reference_l, length_w, length_l; hyper: beta, mean_chosen_length; out: loss, d policy_w, d policy_l.
template <typename T>
FASTPREF_FN void head_orpo(const T* in, const T* hyper, T* out) {
  const T v0 = -in[0];
  const T v1 = v0 / hyper[1];
  const T v2 = in[0] / in[4];
  const T v3 = in[1] / in[5];
  const T v4 = v2 - v3;
  const T v5 = scalar_min(v2, T(-1e-30));
  const bool v6 = v5 > T(-0.6931471805599453);
  const T v7 = v6 ? v5 : T(-1.0);
  const T v8 = v6 ? T(-1.0) : v5;
  const T v9 = scalar_expm1(v7);
  const T v10 = -v9;
  const T v11 = scalar_log(v10);
  const T v12 = scalar_exp(v8);
  const T v13 = -v12;
  const T v14 = scalar_log1p(v13);
  const T v15 = v6 ? v11 : v14;
  const T v16 = scalar_min(v3, T(-1e-30));
  const bool v17 = v16 > T(-0.6931471805599453);
  const T v18 = v17 ? v16 : T(-1.0);
  const T v19 = v17 ? T(-1.0) : v16;
  const T v20 = scalar_expm1(v18);
  const T v21 = -v20;
  const T v22 = scalar_log(v21);
  const T v23 = scalar_exp(v19);
  const T v24 = -v23;
  const T v25 = scalar_log1p(v24);
  const T v26 = v17 ? v22 : v25;
  const T v27 = v15 - v26;
  const T v28 = v4 - v27;
  const T v29 = -v28;
  const T v30 = scalar_log_sigmoid(v28);
  const T v31 = -v30;
  const T v32 = hyper[0] * v31;
  const T v33 = v1 + v32;
  const T v34 = -hyper[0];
  const T v35 = scalar_sigmoid(v29);
  const T v36 = v34 * v35;
  const T v37 = -v36;
  const T v38 = v17 ? T(0.0) : v36;
  const T v39 = v17 ? v36 : T(0.0);
  const T v40 = v24 + T(1.0);
  const T v41 = v38 / v40;
  const T v42 = -v41;
  const T v43 = v42 * v23;
  const T v44 = v39 / v21;
  const T v45 = -v44;
  const T v46 = v20 + T(1.0);
  const T v47 = v45 * v46;
  const T v48 = v17 ? T(0.0) : v43;
  const T v49 = v17 ? v47 : T(0.0);
  const T v50 = v48 + v49;
  const bool v51 = v3 <= T(-1e-30);
  const T v52 = v51 ? v50 : T(0.0);
  const T v53 = v6 ? T(0.0) : v37;
  const T v54 = v6 ? v37 : T(0.0);
  const T v55 = v13 + T(1.0);
  const T v56 = v53 / v55;
  const T v57 = -v56;
  const T v58 = v57 * v12;
  const T v59 = v54 / v10;
  const T v60 = -v59;
  const T v61 = v9 + T(1.0);
  const T v62 = v60 * v61;
  const T v63 = v6 ? T(0.0) : v58;
  const T v64 = v6 ? v62 : T(0.0);
  const T v65 = v63 + v64;
  const bool v66 = v2 <= T(-1e-30);
  const T v67 = v66 ? v65 : T(0.0);
  const T v68 = v67 + v36;
  const T v69 = v52 + v37;
  const T v70 = v69 / in[5];
  const T v71 = v68 / in[4];
  const T v72 = T(1.0) / hyper[1];
  const T v73 = -v72;
  const T v74 = v71 + v73;
  out[0] = v33;
  out[1] = v74;
  out[2] = v70;
}

// slic_hf, one pair.
// in: policy_w, policy_l, reference_w, reference_l, length_w, length_l, sft_logps_w, sft_logps_l; hyper: delta, lambda_coef; out: loss, d policy_w, d policy_l.
template <typename T>
FASTPREF_FN void head_slic_hf(const T* in, const T* hyper, T* out) {
  const T v0 = hyper[0] - in[0];
  const T v1 = v0 + in[1];
  const T v2 = scalar_max(v1, T(0.0));
  const T v3 = hyper[1] * in[6];
  const T v4 = v2 - v3;
  const bool v5 = v2 > T(0.0);
  const T v6 = v5 ? T(1.0) : T(0.0);
  const T v7 = -v6;
  out[0] = v4;
  out[1] = v7;
  out[2] = v6;
}

// xpo, one pair.
// in: policy_w, policy_l, reference_w, reference_l, length_w, length_l, from_reference_w, from_reference_l; hyper: beta, alpha; out: loss, d policy_w, d policy_l.
template <typename T>
FASTPREF_FN void head_xpo(const T* in, const T* hyper, T* out) {
  const bool v0 = in[6] > T(0.5);
  const bool v1 = in[7] > T(0.5);
  const T v2 = v0 * in[0];
  const T v3 = v1 * in[1];
  const T v4 = v2 + v3;
  const T v5 = v4 * hyper[1];
  const T v6 = -hyper[0];
  const T v7 = in[0] - in[2];
  const T v8 = in[1] - in[3];
  const T v9 = v7 - v8;
  const T v10 = v6 * v9;
  const T v11 = -v10;
  const T v12 = scalar_log_sigmoid(v11);
  const T v13 = -v12;
  const T v14 = v13 + v5;
  const T v15 = scalar_sigmoid(v10);
  const T v17 = v15 * v6;
  const T v18 = -v17;
  const T v19 = hyper[1] * v1;
  const T v20 = v18 + v19;
  const T v21 = hyper[1] * v0;
  const T v22 = v17 + v21;
  out[0] = v14;
  out[1] = v22;
  out[2] = v20;
}

// kto, one sequence.
// in: policy, reference, length, desirable; hyper: beta, desirable_weight, undesirable_weight, mean_mismatched_log_ratio; out: loss, d policy.
template <typename T>
FASTPREF_FN void head_kto(const T* in, const T* hyper, T* out) {
  const bool v0 = in[3] > T(0.5);
  const T v1 = in[0] - in[1];
  const T v2 = scalar_max(hyper[3], T(0.0));
  const T v3 = v1 - v2;
  const T v4 = hyper[0] * v3;
  const T v5 = -v4;
  const T v6 = scalar_sigmoid(v5);
  const T v7 = hyper[1] * v6;
  const T v8 = scalar_sigmoid(v4);
  const T v9 = hyper[2] * v8;
  const T v10 = v0 ? v7 : v9;
  const T v11 = v0 ? T(0.0) : T(1.0);
  const T v12 = v0 ? T(1.0) : T(0.0);
  const T v13 = v11 * hyper[2];
  const T v14 = T(1.0) - v8;
  const T v15 = v8 * v14;
  const T v16 = v13 * v15;
  const T v17 = v12 * hyper[1];
  const T v18 = T(1.0) - v6;
  const T v19 = v6 * v18;
  const T v20 = v17 * v19;
  const T v21 = -v20;
  const T v22 = v16 + v21;
  const T v23 = v22 * hyper[0];
  out[0] = v10;
  out[1] = v23;
}

// apo_zero_unpaired, one sequence.
// in: policy, reference, length, desirable; hyper: beta, desirable_weight, undesirable_weight; out: loss, d policy.
template <typename T>
FASTPREF_FN void head_apo_zero_unpaired(const T* in, const T* hyper, T* out) {
  const bool v0 = in[3] > T(0.5);
  const T v1 = in[0] - in[1];
  const T v2 = hyper[0] * v1;
  const T v3 = -v2;
  const T v4 = scalar_sigmoid(v3);
  const T v5 = hyper[1] * v4;
  const T v6 = scalar_sigmoid(v2);
  const T v7 = hyper[2] * v6;
  const T v8 = v0 ? v5 : v7;
  const T v9 = v0 ? T(0.0) : T(1.0);
  const T v10 = v0 ? T(1.0) : T(0.0);
  const T v11 = v9 * hyper[2];
  const T v12 = T(1.0) - v6;
  const T v13 = v6 * v12;
  const T v14 = v11 * v13;
  const T v15 = v10 * hyper[1];
  const T v16 = T(1.0) - v4;
  const T v17 = v4 * v16;
  const T v18 = v15 * v17;
  const T v19 = -v18;
  const T v20 = v14 + v19;
  const T v21 = v20 * hyper[0];
  out[0] = v8;
  out[1] = v21;
}

// bda, one sequence.
// in: policy, reference, length, rewards, baseline, old_logps; hyper: beta; out: loss, d policy.
template <typename T>
FASTPREF_FN void head_bda(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[5];
  const T v1 = scalar_max(v0, T(-20.0));
  const T v2 = scalar_min(v1, T(20.0));
  const T v3 = scalar_exp(v2);
  const T v4 = in[3] / hyper[0];
  const T v5 = in[0] - in[1];
  const T v6 = v4 - v5;
  const T v7 = v6 + in[4];
  const T v8 = -v3;
  const T v9 = v8 * v7;
  const T v10 = v8 * v6;
  const T v11 = in[0] - in[0];
  const T v12 = v9 * v11;
  const T v13 = v10 + v12;
  out[0] = v13;
  out[1] = v9;
}

// bda_kl_k2, one sequence.
// in: policy, reference, length, rewards, baseline, old_logps; hyper: beta; out: loss, d policy.
template <typename T>
FASTPREF_FN void head_bda_kl_k2(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[5];
  const T v1 = scalar_max(v0, T(-20.0));
  const T v2 = scalar_min(v1, T(20.0));
  const T v3 = scalar_exp(v2);
  const T v4 = in[0] - in[1];
  const T v5 = -v4;
  const T v6 = v5 * T(0.5);
  const T v7 = v6 * v5;
  const T v8 = in[3] / hyper[0];
  const T v9 = v8 + in[4];
  const T v10 = -v3;
  const T v11 = v10 * v9;
  const T v12 = v10 * v8;
  const T v13 = in[0] - in[0];
  const T v14 = v11 * v13;
  const T v15 = v12 + v14;
  const T v16 = v3 * v7;
  const T v17 = v15 + v16;
  const T v18 = v3 * v6;
  const T v19 = v3 * v5;
  const T v20 = v19 * T(0.5);
  const T v21 = v18 + v20;
  const T v22 = -v21;
  const T v23 = v11 + v22;
  out[0] = v17;
  out[1] = v23;
}

// bda_kl_k3, one sequence.
// in: policy, reference, length, rewards, baseline, old_logps; hyper: beta; out: loss, d policy.
template <typename T>
FASTPREF_FN void head_bda_kl_k3(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[5];
  const T v1 = scalar_max(v0, T(-20.0));
  const T v2 = scalar_min(v1, T(20.0));
  const T v3 = scalar_exp(v2);
  const T v4 = in[0] - in[1];
  const T v5 = -v4;
  const T v6 = scalar_min(v5, T(20.0));
  const T v7 = scalar_expm1(v6);
  const T v8 = scalar_exp(v6);
  const T v9 = v5 - v6;
  const T v10 = v8 * v9;
  const T v11 = v7 + v10;
  const T v12 = v11 - v5;
  const T v13 = in[3] / hyper[0];
  const T v14 = v13 + in[4];
  const T v15 = -v3;
  const T v16 = v15 * v14;
  const T v17 = v15 * v13;
  const T v18 = in[0] - in[0];
  const T v19 = v16 * v18;
  const T v20 = v17 + v19;
  const T v21 = v3 * v12;
  const T v22 = v20 + v21;
  const T v23 = v3 * v8;
  const T v24 = v3 * v9;
  const T v25 = -v23;
  const T v26 = v15 + v23;
  const T v27 = v24 * v8;
  const T v28 = v25 + v27;
  const T v29 = v7 + T(1.0);
  const T v30 = v3 * v29;
  const T v31 = v28 + v30;
  const bool v32 = v5 <= T(20.0);
  const T v33 = v32 ? v31 : T(0.0);
  const T v34 = v26 + v33;
  const T v35 = -v34;
  const T v36 = v16 + v35;
  out[0] = v22;
  out[1] = v36;
}

// bda_epsilon, one sequence.
// in: policy, reference, length, rewards, baseline, old_logps; hyper: beta, epsilon; out: loss, d policy.
template <typename T>
FASTPREF_FN void head_bda_epsilon(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[5];
  const T v1 = scalar_max(v0, T(-20.0));
  const T v2 = scalar_min(v1, T(20.0));
  const T v3 = scalar_exp(v2);
  const T v4 = in[3] / hyper[0];
  const T v5 = in[0] - in[1];
  const T v6 = v4 - v5;
  const T v7 = v6 + in[4];
  const T v8 = -v3;
  const T v9 = v8 * v7;
  const T v10 = T(1.0) - hyper[1];
  const bool v11 = v3 < v10;
  const bool v12 = v7 < T(0.0);
  const bool v13 = v11 && v12;
  const T v14 = hyper[1] + T(1.0);
  const bool v15 = v3 > v14;
  const bool v16 = v7 > T(0.0);
  const bool v17 = v15 && v16;
  const bool v18 = v13 || v17;
  const T v19 = v18 ? T(0.0) : v9;
  const T v20 = v8 * v6;
  const T v21 = in[0] - in[0];
  const T v22 = v19 * v21;
  const T v23 = v20 + v22;
  out[0] = v23;
  out[1] = v19;
}

// ra, one sequence.
// in: policy, reference, length, rewards, log_z; hyper: beta; out: loss, d policy.
template <typename T>
FASTPREF_FN void head_ra(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[1];
  const T v1 = v0 + in[4];
  const T v2 = hyper[0] * v1;
  const T v3 = in[3] - v2;
  const T v4 = v3 * v3;
  const T v5 = v3 * T(2.0);
  const T v6 = -v5;
  const T v7 = v6 * hyper[0];
  out[0] = v4;
  out[1] = v7;
}

// dro_v, one sequence.
// in: policy, reference, length, rewards, values; hyper: beta; out: loss, d policy.
template <typename T>
FASTPREF_FN void head_dro_v(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[1];
  const T v1 = hyper[0] * v0;
  const T v2 = in[3] - in[4];
  const T v3 = v2 - v1;
  const T v4 = v3 * T(0.5);
  const T v5 = v4 * v3;
  const T v6 = v4 + v4;
  const T v7 = -v6;
  const T v8 = v7 * hyper[0];
  out[0] = v5;
  out[1] = v8;
}

// dro_v_drop_beta, one sequence.
// in: policy, reference, length, rewards, values; hyper: beta; out: loss, d policy.
template <typename T>
FASTPREF_FN void head_dro_v_drop_beta(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[1];
  const T v1 = hyper[0] * v0;
  const T v2 = v0 - v0;
  const T v3 = v1 + v2;
  const T v4 = in[3] - in[4];
  const T v5 = v4 - v3;
  const T v6 = v5 * T(0.5);
  const T v7 = v6 * v5;
  const T v8 = v6 + v6;
  const T v9 = -v8;
  out[0] = v7;
  out[1] = v9;
}

// qrpo, one sequence.
// in: policy, reference, length, quantiles; hyper: beta; out: loss, d policy.
template <typename T>
FASTPREF_FN void head_qrpo(const T* in, const T* hyper, T* out) {
  const T v0 = in[3] - T(1.0);
  const T v1 = scalar_log(hyper[0]);
  const T v2 = T(1.0) / hyper[0];
  const T v3 = -v2;
  const T v4 = scalar_min(v3, T(-1e-30));
  const bool v5 = v4 > T(-0.6931471805599453);
  const T v6 = v5 ? v4 : T(-1.0);
  const T v7 = v5 ? T(-1.0) : v4;
  const T v8 = scalar_expm1(v6);
  const T v9 = -v8;
  const T v10 = scalar_log(v9);
  const T v11 = scalar_exp(v7);
  const T v12 = -v11;
  const T v13 = scalar_log1p(v12);
  const T v14 = v5 ? v10 : v13;
  const T v15 = v1 + v14;
  const T v16 = hyper[0] * v15;
  const T v17 = v0 - v16;
  const T v18 = in[0] - in[1];
  const T v19 = hyper[0] * v18;
  const T v20 = v17 - v19;
  const T v21 = v20 * v20;
  const T v22 = v20 + v20;
  const T v23 = -v22;
  const T v24 = v23 * hyper[0];
  out[0] = v21;
  out[1] = v24;
}

// qrpo_loss_abs, one sequence.
// in: policy, reference, length, quantiles; hyper: beta; out: loss, d policy.
template <typename T>
FASTPREF_FN void head_qrpo_loss_abs(const T* in, const T* hyper, T* out) {
  const T v0 = in[3] - T(1.0);
  const T v1 = scalar_log(hyper[0]);
  const T v2 = T(1.0) / hyper[0];
  const T v3 = -v2;
  const T v4 = scalar_min(v3, T(-1e-30));
  const bool v5 = v4 > T(-0.6931471805599453);
  const T v6 = v5 ? v4 : T(-1.0);
  const T v7 = v5 ? T(-1.0) : v4;
  const T v8 = scalar_expm1(v6);
  const T v9 = -v8;
  const T v10 = scalar_log(v9);
  const T v11 = scalar_exp(v7);
  const T v12 = -v11;
  const T v13 = scalar_log1p(v12);
  const T v14 = v5 ? v10 : v13;
  const T v15 = v1 + v14;
  const T v16 = hyper[0] * v15;
  const T v17 = v0 - v16;
  const T v18 = in[0] - in[1];
  const T v19 = hyper[0] * v18;
  const T v20 = v17 - v19;
  const T v21 = scalar_abs(v20);
  const T v22 = scalar_sign(v20);
  const T v23 = -v22;
  const T v24 = v23 * hyper[0];
  out[0] = v21;
  out[1] = v24;
}

// astar_po, one sequence.
// in: policy, reference, length, rewards, values; hyper: beta2; out: loss, d policy.
template <typename T>
FASTPREF_FN void head_astar_po(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[1];
  const T v1 = hyper[0] * v0;
  const T v2 = in[3] - in[4];
  const T v3 = v1 - v2;
  const T v4 = v3 * v3;
  const T v5 = v3 * T(2.0);
  const T v6 = v5 * hyper[0];
  out[0] = v4;
  out[1] = v6;
}

// una, one sequence.
// in: policy, reference, length, rewards; hyper: beta; out: loss, d policy.
template <typename T>
FASTPREF_FN void head_una(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[1];
  const T v1 = hyper[0] * v0;
  const T v2 = scalar_sigmoid(v1);
  const T v3 = v2 - in[3];
  const T v4 = v3 * v3;
  const T v5 = v3 * T(2.0);
  const T v6 = T(1.0) - v2;
  const T v7 = v2 * v6;
  const T v8 = v5 * v7;
  const T v9 = v8 * hyper[0];
  out[0] = v4;
  out[1] = v9;
}

// una_mode_binary, one sequence.
// in: policy, reference, length, desirable; hyper: beta; out: loss, d policy.
template <typename T>
FASTPREF_FN void head_una_mode_binary(const T* in, const T* hyper, T* out) {
  const bool v0 = in[3] > T(0.5);
  const T v1 = in[0] - in[1];
  const T v2 = hyper[0] * v1;
  const T v3 = -v2;
  const T v4 = v0 ? v3 : v2;
  const T v5 = -v4;
  const T v6 = scalar_log_sigmoid(v5);
  const T v7 = -v6;
  const T v8 = scalar_sigmoid(v4);
  const T v10 = v0 ? T(0.0) : v8;
  const T v11 = v0 ? v8 : T(0.0);
  const T v12 = -v11;
  const T v13 = v10 + v12;
  const T v14 = v13 * hyper[0];
  out[0] = v7;
  out[1] = v14;
}

// ppo, one token.
// in: policy, reference, advantages, values, old_values, returns, old_logps; hyper: cliprange, cliprange_value, vf_coef; out: loss, d policy.
template <typename T>
FASTPREF_FN void head_ppo(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[6];
  const T v1 = scalar_max(v0, T(-20.0));
  const T v2 = scalar_min(v1, T(20.0));
  const T v3 = scalar_exp(v2);
  const T v4 = T(1.0) - hyper[0];
  const bool v5 = v3 < v4;
  const bool v6 = in[2] < T(0.0);
  const bool v7 = v5 && v6;
  const T v8 = hyper[0] + T(1.0);
  const bool v9 = v3 > v8;
  const bool v10 = in[2] > T(0.0);
  const bool v11 = v9 && v10;
  const T v12 = v7 ? v4 : v3;
  const T v13 = v11 ? v8 : v12;
  const T v14 = -v13;
  const T v15 = v14 * in[2];
  const T v16 = hyper[2] * T(0.5);
  const T v17 = in[4] - hyper[1];
  const T v18 = scalar_max(in[3], v17);
  const T v19 = in[4] + hyper[1];
  const T v20 = scalar_min(v18, v19);
  const T v21 = v20 - in[5];
  const T v22 = v21 * v21;
  const T v23 = in[3] - in[5];
  const T v24 = v23 * v23;
  const bool v25 = v22 > v24;
  const T v26 = v25 ? v22 : v24;
  const T v27 = v16 * v26;
  const T v28 = v15 + v27;
  const T v29 = -in[2];
  const T v30 = v11 ? T(0.0) : v29;
  const T v31 = v7 ? T(0.0) : v30;
  const T v32 = v31 * v3;
  const bool v33 = v0 >= T(-20.0);
  const bool v34 = v0 <= T(20.0);
  const bool v35 = v33 && v34;
  const T v36 = v35 ? v32 : T(0.0);
  out[0] = v28;
  out[1] = v36;
}

// ppo_dual_clip, one token.
// in: policy, reference, advantages, values, old_values, returns, old_logps; hyper: cliprange, cliprange_value, vf_coef, dual_clip; out: loss, d policy.
template <typename T>
FASTPREF_FN void head_ppo_dual_clip(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[6];
  const T v1 = scalar_max(v0, T(-20.0));
  const T v2 = scalar_min(v1, T(20.0));
  const T v3 = scalar_exp(v2);
  const T v4 = T(1.0) - hyper[0];
  const bool v5 = v3 < v4;
  const bool v6 = in[2] < T(0.0);
  const bool v7 = v5 && v6;
  const T v8 = hyper[0] + T(1.0);
  const bool v9 = v3 > v8;
  const bool v10 = in[2] > T(0.0);
  const bool v11 = v9 && v10;
  const T v12 = v7 ? v4 : v3;
  const T v13 = v11 ? v8 : v12;
  const bool v14 = v13 > hyper[3];
  const bool v15 = v14 && v6;
  const T v16 = v15 ? hyper[3] : v13;
  const T v17 = -v16;
  const T v18 = v17 * in[2];
  const T v19 = hyper[2] * T(0.5);
  const T v20 = in[4] - hyper[1];
  const T v21 = scalar_max(in[3], v20);
  const T v22 = in[4] + hyper[1];
  const T v23 = scalar_min(v21, v22);
  const T v24 = v23 - in[5];
  const T v25 = v24 * v24;
  const T v26 = in[3] - in[5];
  const T v27 = v26 * v26;
  const bool v28 = v25 > v27;
  const T v29 = v28 ? v25 : v27;
  const T v30 = v19 * v29;
  const T v31 = v18 + v30;
  const T v32 = -in[2];
  const T v33 = v15 ? T(0.0) : v32;
  const T v34 = v11 ? T(0.0) : v33;
  const T v35 = v7 ? T(0.0) : v34;
  const T v36 = v35 * v3;
  const bool v37 = v0 >= T(-20.0);
  const bool v38 = v0 <= T(20.0);
  const bool v39 = v37 && v38;
  const T v40 = v39 ? v36 : T(0.0);
  out[0] = v31;
  out[1] = v40;
}

// rloo, one sequence.
// in: policy, reference, length, advantages, old_logps; hyper: epsilon; out: loss, d policy.
template <typename T>
FASTPREF_FN void head_rloo(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[4];
  const T v1 = scalar_max(v0, T(-20.0));
  const T v2 = scalar_min(v1, T(20.0));
  const T v3 = scalar_exp(v2);
  const T v4 = T(1.0) - hyper[0];
  const bool v5 = v3 < v4;
  const bool v6 = in[3] < T(0.0);
  const bool v7 = v5 && v6;
  const T v8 = hyper[0] + T(1.0);
  const bool v9 = v3 > v8;
  const bool v10 = in[3] > T(0.0);
  const bool v11 = v9 && v10;
  const T v12 = v7 ? v4 : v3;
  const T v13 = v11 ? v8 : v12;
  const T v14 = -v13;
  const T v15 = v14 * in[3];
  const T v16 = -in[3];
  const T v17 = v11 ? T(0.0) : v16;
  const T v18 = v7 ? T(0.0) : v17;
  const T v19 = v18 * v3;
  const bool v20 = v0 >= T(-20.0);
  const bool v21 = v0 <= T(20.0);
  const bool v22 = v20 && v21;
  const T v23 = v22 ? v19 : T(0.0);
  out[0] = v15;
  out[1] = v23;
}

// rloo_epsilon_high, one sequence.
// in: policy, reference, length, advantages, old_logps; hyper: epsilon, epsilon_high; out: loss, d policy.
template <typename T>
FASTPREF_FN void head_rloo_epsilon_high(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[4];
  const T v1 = scalar_max(v0, T(-20.0));
  const T v2 = scalar_min(v1, T(20.0));
  const T v3 = scalar_exp(v2);
  const T v4 = T(1.0) - hyper[0];
  const bool v5 = v3 < v4;
  const bool v6 = in[3] < T(0.0);
  const bool v7 = v5 && v6;
  const T v8 = hyper[1] + T(1.0);
  const bool v9 = v3 > v8;
  const bool v10 = in[3] > T(0.0);
  const bool v11 = v9 && v10;
  const T v12 = v7 ? v4 : v3;
  const T v13 = v11 ? v8 : v12;
  const T v14 = -v13;
  const T v15 = v14 * in[3];
  const T v16 = -in[3];
  const T v17 = v11 ? T(0.0) : v16;
  const T v18 = v7 ? T(0.0) : v17;
  const T v19 = v18 * v3;
  const bool v20 = v0 >= T(-20.0);
  const bool v21 = v0 <= T(20.0);
  const bool v22 = v20 && v21;
  const T v23 = v22 ? v19 : T(0.0);
  out[0] = v15;
  out[1] = v23;
}

// grpo, one token.
// in: policy, reference, advantages, old_logps; hyper: epsilon; out: loss, d policy.
template <typename T>
FASTPREF_FN void head_grpo(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[3];
  const T v1 = scalar_max(v0, T(-20.0));
  const T v2 = scalar_min(v1, T(20.0));
  const T v3 = scalar_exp(v2);
  const T v4 = T(1.0) - hyper[0];
  const bool v5 = v3 < v4;
  const bool v6 = in[2] < T(0.0);
  const bool v7 = v5 && v6;
  const T v8 = hyper[0] + T(1.0);
  const bool v9 = v3 > v8;
  const bool v10 = in[2] > T(0.0);
  const bool v11 = v9 && v10;
  const T v12 = v7 ? v4 : v3;
  const T v13 = v11 ? v8 : v12;
  const T v14 = -v13;
  const T v15 = v14 * in[2];
  const T v16 = -in[2];
  const T v17 = v11 ? T(0.0) : v16;
  const T v18 = v7 ? T(0.0) : v17;
  const T v19 = v18 * v3;
  const bool v20 = v0 >= T(-20.0);
  const bool v21 = v0 <= T(20.0);
  const bool v22 = v20 && v21;
  const T v23 = v22 ? v19 : T(0.0);
  out[0] = v15;
  out[1] = v23;
}

// grpo_kl, one token.
// in: policy, reference, advantages, old_logps; hyper: beta, epsilon; out: loss, d policy.
template <typename T>
FASTPREF_FN void head_grpo_kl(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[3];
  const T v1 = scalar_max(v0, T(-20.0));
  const T v2 = scalar_min(v1, T(20.0));
  const T v3 = scalar_exp(v2);
  const T v4 = T(1.0) - hyper[1];
  const bool v5 = v3 < v4;
  const bool v6 = in[2] < T(0.0);
  const bool v7 = v5 && v6;
  const T v8 = hyper[1] + T(1.0);
  const bool v9 = v3 > v8;
  const bool v10 = in[2] > T(0.0);
  const bool v11 = v9 && v10;
  const T v12 = v7 ? v4 : v3;
  const T v13 = v11 ? v8 : v12;
  const T v14 = -v13;
  const T v15 = v14 * in[2];
  const T v16 = in[1] - in[0];
  const T v17 = scalar_min(v16, T(20.0));
  const T v18 = scalar_expm1(v17);
  const T v19 = scalar_exp(v17);
  const T v20 = v16 - v17;
  const T v21 = v19 * v20;
  const T v22 = v18 + v21;
  const T v23 = v22 - v16;
  const T v24 = v23 * v3;
  const T v25 = hyper[0] * v24;
  const T v26 = v15 + v25;
  const T v27 = hyper[0] * v23;
  const T v28 = hyper[0] * v3;
  const T v29 = -v28;
  const T v30 = v28 * v19;
  const T v31 = v28 * v20;
  const T v32 = -v30;
  const T v33 = v29 + v30;
  const T v34 = v31 * v19;
  const T v35 = v32 + v34;
  const T v36 = v18 + T(1.0);
  const T v37 = v28 * v36;
  const T v38 = v35 + v37;
  const bool v39 = v16 <= T(20.0);
  const T v40 = v39 ? v38 : T(0.0);
  const T v41 = v33 + v40;
  const T v42 = -v41;
  const T v43 = -in[2];
  const T v44 = v11 ? T(0.0) : v43;
  const T v45 = v7 ? T(0.0) : v44;
  const T v46 = v27 + v45;
  const T v47 = v46 * v3;
  const bool v48 = v0 >= T(-20.0);
  const bool v49 = v0 <= T(20.0);
  const bool v50 = v48 && v49;
  const T v51 = v50 ? v47 : T(0.0);
  const T v52 = v42 + v51;
  out[0] = v26;
  out[1] = v52;
}

// grpo_epsilon_high, one token.
// in: policy, reference, advantages, old_logps; hyper: epsilon, epsilon_high; out: loss, d policy.
template <typename T>
FASTPREF_FN void head_grpo_epsilon_high(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[3];
  const T v1 = scalar_max(v0, T(-20.0));
  const T v2 = scalar_min(v1, T(20.0));
  const T v3 = scalar_exp(v2);
  const T v4 = T(1.0) - hyper[0];
  const bool v5 = v3 < v4;
  const bool v6 = in[2] < T(0.0);
  const bool v7 = v5 && v6;
  const T v8 = hyper[1] + T(1.0);
  const bool v9 = v3 > v8;
  const bool v10 = in[2] > T(0.0);
  const bool v11 = v9 && v10;
  const T v12 = v7 ? v4 : v3;
  const T v13 = v11 ? v8 : v12;
  const T v14 = -v13;
  const T v15 = v14 * in[2];
  const T v16 = -in[2];
  const T v17 = v11 ? T(0.0) : v16;
  const T v18 = v7 ? T(0.0) : v17;
  const T v19 = v18 * v3;
  const bool v20 = v0 >= T(-20.0);
  const bool v21 = v0 <= T(20.0);
  const bool v22 = v20 && v21;
  const T v23 = v22 ? v19 : T(0.0);
  out[0] = v15;
  out[1] = v23;
}

// grpo_delta, one token.
// in: policy, reference, advantages, old_logps; hyper: epsilon, delta; out: loss, d policy.
template <typename T>
FASTPREF_FN void head_grpo_delta(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[3];
  const T v1 = scalar_max(v0, T(-20.0));
  const T v2 = scalar_min(v1, T(20.0));
  const T v3 = scalar_exp(v2);
  const T v4 = T(1.0) - hyper[0];
  const bool v5 = v3 < v4;
  const bool v6 = in[2] < T(0.0);
  const bool v7 = v5 && v6;
  const T v8 = hyper[0] + T(1.0);
  const bool v9 = v3 > v8;
  const bool v10 = in[2] > T(0.0);
  const bool v11 = v9 && v10;
  const T v12 = v7 ? v4 : v3;
  const T v13 = v11 ? v8 : v12;
  const bool v14 = v13 > hyper[1];
  const bool v15 = v14 && v6;
  const T v16 = v15 ? hyper[1] : v13;
  const T v17 = -v16;
  const T v18 = v17 * in[2];
  const T v19 = -in[2];
  const T v20 = v15 ? T(0.0) : v19;
  const T v21 = v11 ? T(0.0) : v20;
  const T v22 = v7 ? T(0.0) : v21;
  const T v23 = v22 * v3;
  const bool v24 = v0 >= T(-20.0);
  const bool v25 = v0 <= T(20.0);
  const bool v26 = v24 && v25;
  const T v27 = v26 ? v23 : T(0.0);
  out[0] = v18;
  out[1] = v27;
}

// grpo_dual_clip, one token.
// in: policy, reference, advantages, old_logps; hyper: epsilon, dual_clip; out: loss, d policy.
template <typename T>
FASTPREF_FN void head_grpo_dual_clip(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[3];
  const T v1 = scalar_max(v0, T(-20.0));
  const T v2 = scalar_min(v1, T(20.0));
  const T v3 = scalar_exp(v2);
  const T v4 = T(1.0) - hyper[0];
  const bool v5 = v3 < v4;
  const bool v6 = in[2] < T(0.0);
  const bool v7 = v5 && v6;
  const T v8 = hyper[0] + T(1.0);
  const bool v9 = v3 > v8;
  const bool v10 = in[2] > T(0.0);
  const bool v11 = v9 && v10;
  const T v12 = v7 ? v4 : v3;
  const T v13 = v11 ? v8 : v12;
  const bool v14 = v13 > hyper[1];
  const bool v15 = v14 && v6;
  const T v16 = v15 ? hyper[1] : v13;
  const T v17 = -v16;
  const T v18 = v17 * in[2];
  const T v19 = -in[2];
  const T v20 = v15 ? T(0.0) : v19;
  const T v21 = v11 ? T(0.0) : v20;
  const T v22 = v7 ? T(0.0) : v21;
  const T v23 = v22 * v3;
  const bool v24 = v0 >= T(-20.0);
  const bool v25 = v0 <= T(20.0);
  const bool v26 = v24 && v25;
  const T v27 = v26 ? v23 : T(0.0);
  out[0] = v18;
  out[1] = v27;
}

// grpo_kl_kl_estimator_k1, one token.
// in: policy, reference, advantages, old_logps; hyper: beta, epsilon; out: loss, d policy.
template <typename T>
FASTPREF_FN void head_grpo_kl_kl_estimator_k1(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[3];
  const T v1 = scalar_max(v0, T(-20.0));
  const T v2 = scalar_min(v1, T(20.0));
  const T v3 = scalar_exp(v2);
  const T v4 = T(1.0) - hyper[1];
  const bool v5 = v3 < v4;
  const bool v6 = in[2] < T(0.0);
  const bool v7 = v5 && v6;
  const T v8 = hyper[1] + T(1.0);
  const bool v9 = v3 > v8;
  const bool v10 = in[2] > T(0.0);
  const bool v11 = v9 && v10;
  const T v12 = v7 ? v4 : v3;
  const T v13 = v11 ? v8 : v12;
  const T v14 = -v13;
  const T v15 = v14 * in[2];
  const T v16 = in[1] - in[0];
  const T v17 = -v16;
  const T v18 = v17 * v3;
  const T v19 = hyper[0] * v18;
  const T v20 = v15 + v19;
  const T v21 = hyper[0] * v17;
  const T v22 = hyper[0] * v3;
  const T v24 = -in[2];
  const T v25 = v11 ? T(0.0) : v24;
  const T v26 = v7 ? T(0.0) : v25;
  const T v27 = v21 + v26;
  const T v28 = v27 * v3;
  const bool v29 = v0 >= T(-20.0);
  const bool v30 = v0 <= T(20.0);
  const bool v31 = v29 && v30;
  const T v32 = v31 ? v28 : T(0.0);
  const T v33 = v22 + v32;
  out[0] = v20;
  out[1] = v33;
}

// grpo_kl_kl_estimator_k2, one token.
// in: policy, reference, advantages, old_logps; hyper: beta, epsilon; out: loss, d policy.
template <typename T>
FASTPREF_FN void head_grpo_kl_kl_estimator_k2(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[3];
  const T v1 = scalar_max(v0, T(-20.0));
  const T v2 = scalar_min(v1, T(20.0));
  const T v3 = scalar_exp(v2);
  const T v4 = T(1.0) - hyper[1];
  const bool v5 = v3 < v4;
  const bool v6 = in[2] < T(0.0);
  const bool v7 = v5 && v6;
  const T v8 = hyper[1] + T(1.0);
  const bool v9 = v3 > v8;
  const bool v10 = in[2] > T(0.0);
  const bool v11 = v9 && v10;
  const T v12 = v7 ? v4 : v3;
  const T v13 = v11 ? v8 : v12;
  const T v14 = -v13;
  const T v15 = v14 * in[2];
  const T v16 = in[1] - in[0];
  const T v17 = v16 * T(0.5);
  const T v18 = v17 * v16;
  const T v19 = v18 * v3;
  const T v20 = hyper[0] * v19;
  const T v21 = v15 + v20;
  const T v22 = hyper[0] * v3;
  const T v23 = v22 * v17;
  const T v24 = v22 * v16;
  const T v25 = v24 * T(0.5);
  const T v26 = v23 + v25;
  const T v27 = -v26;
  const T v28 = -in[2];
  const T v29 = v11 ? T(0.0) : v28;
  const T v30 = v7 ? T(0.0) : v29;
  const T v31 = v30 * v3;
  const bool v32 = v0 >= T(-20.0);
  const bool v33 = v0 <= T(20.0);
  const bool v34 = v32 && v33;
  const T v35 = v34 ? v31 : T(0.0);
  const T v36 = v27 + v35;
  out[0] = v21;
  out[1] = v36;
}

// grpo_kl_use_bias_correction_kl, one token.
// in: policy, reference, advantages, old_logps; hyper: beta, epsilon; out: loss, d policy.
template <typename T>
FASTPREF_FN void head_grpo_kl_use_bias_correction_kl(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[3];
  const T v1 = scalar_max(v0, T(-20.0));
  const T v2 = scalar_min(v1, T(20.0));
  const T v3 = scalar_exp(v2);
  const T v4 = T(1.0) - hyper[1];
  const bool v5 = v3 < v4;
  const bool v6 = in[2] < T(0.0);
  const bool v7 = v5 && v6;
  const T v8 = hyper[1] + T(1.0);
  const bool v9 = v3 > v8;
  const bool v10 = in[2] > T(0.0);
  const bool v11 = v9 && v10;
  const T v12 = v7 ? v4 : v3;
  const T v13 = v11 ? v8 : v12;
  const T v14 = -v13;
  const T v15 = v14 * in[2];
  const T v16 = in[1] - in[0];
  const T v17 = scalar_min(v16, T(20.0));
  const T v18 = scalar_expm1(v17);
  const T v19 = scalar_exp(v17);
  const T v20 = v16 - v17;
  const T v21 = v19 * v20;
  const T v22 = v18 + v21;
  const T v23 = v22 - v16;
  const T v24 = hyper[0] * v23;
  const T v25 = v15 + v24;
  const T v26 = -hyper[0];
  const T v27 = hyper[0] * v19;
  const T v28 = hyper[0] * v20;
  const T v29 = -v27;
  const T v30 = v26 + v27;
  const T v31 = v28 * v19;
  const T v32 = v29 + v31;
  const T v33 = v18 + T(1.0);
  const T v34 = hyper[0] * v33;
  const T v35 = v32 + v34;
  const bool v36 = v16 <= T(20.0);
  const T v37 = v36 ? v35 : T(0.0);
  const T v38 = v30 + v37;
  const T v39 = -v38;
  const T v40 = -in[2];
  const T v41 = v11 ? T(0.0) : v40;
  const T v42 = v7 ? T(0.0) : v41;
  const T v43 = v42 * v3;
  const bool v44 = v0 >= T(-20.0);
  const bool v45 = v0 <= T(20.0);
  const bool v46 = v44 && v45;
  const T v47 = v46 ? v43 : T(0.0);
  const T v48 = v39 + v47;
  out[0] = v25;
  out[1] = v48;
}

// grpo_kl_epsilon_high, one token.
// in: policy, reference, advantages, old_logps; hyper: beta, epsilon, epsilon_high; out: loss, d policy.
template <typename T>
FASTPREF_FN void head_grpo_kl_epsilon_high(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[3];
  const T v1 = scalar_max(v0, T(-20.0));
  const T v2 = scalar_min(v1, T(20.0));
  const T v3 = scalar_exp(v2);
  const T v4 = T(1.0) - hyper[1];
  const bool v5 = v3 < v4;
  const bool v6 = in[2] < T(0.0);
  const bool v7 = v5 && v6;
  const T v8 = hyper[2] + T(1.0);
  const bool v9 = v3 > v8;
  const bool v10 = in[2] > T(0.0);
  const bool v11 = v9 && v10;
  const T v12 = v7 ? v4 : v3;
  const T v13 = v11 ? v8 : v12;
  const T v14 = -v13;
  const T v15 = v14 * in[2];
  const T v16 = in[1] - in[0];
  const T v17 = scalar_min(v16, T(20.0));
  const T v18 = scalar_expm1(v17);
  const T v19 = scalar_exp(v17);
  const T v20 = v16 - v17;
  const T v21 = v19 * v20;
  const T v22 = v18 + v21;
  const T v23 = v22 - v16;
  const T v24 = v23 * v3;
  const T v25 = hyper[0] * v24;
  const T v26 = v15 + v25;
  const T v27 = hyper[0] * v23;
  const T v28 = hyper[0] * v3;
  const T v29 = -v28;
  const T v30 = v28 * v19;
  const T v31 = v28 * v20;
  const T v32 = -v30;
  const T v33 = v29 + v30;
  const T v34 = v31 * v19;
  const T v35 = v32 + v34;
  const T v36 = v18 + T(1.0);
  const T v37 = v28 * v36;
  const T v38 = v35 + v37;
  const bool v39 = v16 <= T(20.0);
  const T v40 = v39 ? v38 : T(0.0);
  const T v41 = v33 + v40;
  const T v42 = -v41;
  const T v43 = -in[2];
  const T v44 = v11 ? T(0.0) : v43;
  const T v45 = v7 ? T(0.0) : v44;
  const T v46 = v27 + v45;
  const T v47 = v46 * v3;
  const bool v48 = v0 >= T(-20.0);
  const bool v49 = v0 <= T(20.0);
  const bool v50 = v48 && v49;
  const T v51 = v50 ? v47 : T(0.0);
  const T v52 = v42 + v51;
  out[0] = v26;
  out[1] = v52;
}

// grpo_kl_delta, one token.
// in: policy, reference, advantages, old_logps; hyper: beta, epsilon, delta; out: loss, d policy.
template <typename T>
FASTPREF_FN void head_grpo_kl_delta(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[3];
  const T v1 = scalar_max(v0, T(-20.0));
  const T v2 = scalar_min(v1, T(20.0));
  const T v3 = scalar_exp(v2);
  const T v4 = T(1.0) - hyper[1];
  const bool v5 = v3 < v4;
  const bool v6 = in[2] < T(0.0);
  const bool v7 = v5 && v6;
  const T v8 = hyper[1] + T(1.0);
  const bool v9 = v3 > v8;
  const bool v10 = in[2] > T(0.0);
  const bool v11 = v9 && v10;
  const T v12 = v7 ? v4 : v3;
  const T v13 = v11 ? v8 : v12;
  const bool v14 = v13 > hyper[2];
  const bool v15 = v14 && v6;
  const T v16 = v15 ? hyper[2] : v13;
  const T v17 = -v16;
  const T v18 = v17 * in[2];
  const T v19 = in[1] - in[0];
  const T v20 = scalar_min(v19, T(20.0));
  const T v21 = scalar_expm1(v20);
  const T v22 = scalar_exp(v20);
  const T v23 = v19 - v20;
  const T v24 = v22 * v23;
  const T v25 = v21 + v24;
  const T v26 = v25 - v19;
  const T v27 = v26 * v3;
  const T v28 = hyper[0] * v27;
  const T v29 = v18 + v28;
  const T v30 = hyper[0] * v26;
  const T v31 = hyper[0] * v3;
  const T v32 = -v31;
  const T v33 = v31 * v22;
  const T v34 = v31 * v23;
  const T v35 = -v33;
  const T v36 = v32 + v33;
  const T v37 = v34 * v22;
  const T v38 = v35 + v37;
  const T v39 = v21 + T(1.0);
  const T v40 = v31 * v39;
  const T v41 = v38 + v40;
  const bool v42 = v19 <= T(20.0);
  const T v43 = v42 ? v41 : T(0.0);
  const T v44 = v36 + v43;
  const T v45 = -v44;
  const T v46 = -in[2];
  const T v47 = v15 ? T(0.0) : v46;
  const T v48 = v11 ? T(0.0) : v47;
  const T v49 = v7 ? T(0.0) : v48;
  const T v50 = v30 + v49;
  const T v51 = v50 * v3;
  const bool v52 = v0 >= T(-20.0);
  const bool v53 = v0 <= T(20.0);
  const bool v54 = v52 && v53;
  const T v55 = v54 ? v51 : T(0.0);
  const T v56 = v45 + v55;
  out[0] = v29;
  out[1] = v56;
}

// grpo_kl_dual_clip, one token.
// in: policy, reference, advantages, old_logps; hyper: beta, epsilon, dual_clip; out: loss, d policy.
template <typename T>
FASTPREF_FN void head_grpo_kl_dual_clip(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[3];
  const T v1 = scalar_max(v0, T(-20.0));
  const T v2 = scalar_min(v1, T(20.0));
  const T v3 = scalar_exp(v2);
  const T v4 = T(1.0) - hyper[1];
  const bool v5 = v3 < v4;
  const bool v6 = in[2] < T(0.0);
  const bool v7 = v5 && v6;
  const T v8 = hyper[1] + T(1.0);
  const bool v9 = v3 > v8;
  const bool v10 = in[2] > T(0.0);
  const bool v11 = v9 && v10;
  const T v12 = v7 ? v4 : v3;
  const T v13 = v11 ? v8 : v12;
  const bool v14 = v13 > hyper[2];
  const bool v15 = v14 && v6;
  const T v16 = v15 ? hyper[2] : v13;
  const T v17 = -v16;
  const T v18 = v17 * in[2];
  const T v19 = in[1] - in[0];
  const T v20 = scalar_min(v19, T(20.0));
  const T v21 = scalar_expm1(v20);
  const T v22 = scalar_exp(v20);
  const T v23 = v19 - v20;
  const T v24 = v22 * v23;
  const T v25 = v21 + v24;
  const T v26 = v25 - v19;
  const T v27 = v26 * v3;
  const T v28 = hyper[0] * v27;
  const T v29 = v18 + v28;
  const T v30 = hyper[0] * v26;
  const T v31 = hyper[0] * v3;
  const T v32 = -v31;
  const T v33 = v31 * v22;
  const T v34 = v31 * v23;
  const T v35 = -v33;
  const T v36 = v32 + v33;
  const T v37 = v34 * v22;
  const T v38 = v35 + v37;
  const T v39 = v21 + T(1.0);
  const T v40 = v31 * v39;
  const T v41 = v38 + v40;
  const bool v42 = v19 <= T(20.0);
  const T v43 = v42 ? v41 : T(0.0);
  const T v44 = v36 + v43;
  const T v45 = -v44;
  const T v46 = -in[2];
  const T v47 = v15 ? T(0.0) : v46;
  const T v48 = v11 ? T(0.0) : v47;
  const T v49 = v7 ? T(0.0) : v48;
  const T v50 = v30 + v49;
  const T v51 = v50 * v3;
  const bool v52 = v0 >= T(-20.0);
  const bool v53 = v0 <= T(20.0);
  const bool v54 = v52 && v53;
  const T v55 = v54 ? v51 : T(0.0);
  const T v56 = v45 + v55;
  out[0] = v29;
  out[1] = v56;
}

// cispo, one token.
// in: policy, reference, advantages, old_logps; hyper: epsilon_high; out: loss, d policy.
template <typename T>
FASTPREF_FN void head_cispo(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[3];
  const T v1 = scalar_max(v0, T(-20.0));
  const T v2 = scalar_min(v1, T(20.0));
  const T v3 = scalar_exp(v2);
  const T v4 = scalar_min(v3, hyper[0]);
  const T v5 = -v4;
  const T v6 = v5 * in[2];
  const T v7 = v6 * in[0];
  out[0] = v7;
  out[1] = v6;
}

// cispo_kl, one token.
// in: policy, reference, advantages, old_logps; hyper: beta, epsilon_high; out: loss, d policy.
template <typename T>
FASTPREF_FN void head_cispo_kl(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[3];
  const T v1 = scalar_max(v0, T(-20.0));
  const T v2 = scalar_min(v1, T(20.0));
  const T v3 = scalar_exp(v2);
  const T v4 = scalar_min(v3, hyper[1]);
  const T v5 = -v4;
  const T v6 = v5 * in[2];
  const T v7 = v6 * in[0];
  const T v8 = in[1] - in[0];
  const T v9 = scalar_min(v8, T(20.0));
  const T v10 = scalar_expm1(v9);
  const T v11 = scalar_exp(v9);
  const T v12 = v8 - v9;
  const T v13 = v11 * v12;
  const T v14 = v10 + v13;
  const T v15 = v14 - v8;
  const T v16 = v15 * v3;
  const T v17 = hyper[0] * v16;
  const T v18 = v7 + v17;
  const T v19 = hyper[0] * v15;
  const T v20 = hyper[0] * v3;
  const T v21 = -v20;
  const T v22 = v20 * v11;
  const T v23 = v20 * v12;
  const T v24 = -v22;
  const T v25 = v21 + v22;
  const T v26 = v23 * v11;
  const T v27 = v24 + v26;
  const T v28 = v10 + T(1.0);
  const T v29 = v20 * v28;
  const T v30 = v27 + v29;
  const bool v31 = v8 <= T(20.0);
  const T v32 = v31 ? v30 : T(0.0);
  const T v33 = v25 + v32;
  const T v34 = -v33;
  const T v35 = v34 + v6;
  const T v36 = v19 * v3;
  const bool v37 = v0 >= T(-20.0);
  const bool v38 = v0 <= T(20.0);
  const bool v39 = v37 && v38;
  const T v40 = v39 ? v36 : T(0.0);
  const T v41 = v35 + v40;
  out[0] = v18;
  out[1] = v41;
}

// cispo_kl_kl_estimator_k1, one token.
// in: policy, reference, advantages, old_logps; hyper: beta, epsilon_high; out: loss, d policy.
template <typename T>
FASTPREF_FN void head_cispo_kl_kl_estimator_k1(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[3];
  const T v1 = scalar_max(v0, T(-20.0));
  const T v2 = scalar_min(v1, T(20.0));
  const T v3 = scalar_exp(v2);
  const T v4 = scalar_min(v3, hyper[1]);
  const T v5 = -v4;
  const T v6 = v5 * in[2];
  const T v7 = v6 * in[0];
  const T v8 = in[1] - in[0];
  const T v9 = -v8;
  const T v10 = v9 * v3;
  const T v11 = hyper[0] * v10;
  const T v12 = v7 + v11;
  const T v13 = hyper[0] * v9;
  const T v14 = hyper[0] * v3;
  const T v16 = v14 + v6;
  const T v17 = v13 * v3;
  const bool v18 = v0 >= T(-20.0);
  const bool v19 = v0 <= T(20.0);
  const bool v20 = v18 && v19;
  const T v21 = v20 ? v17 : T(0.0);
  const T v22 = v16 + v21;
  out[0] = v12;
  out[1] = v22;
}

// cispo_kl_kl_estimator_k2, one token.
// in: policy, reference, advantages, old_logps; hyper: beta, epsilon_high; out: loss, d policy.
template <typename T>
FASTPREF_FN void head_cispo_kl_kl_estimator_k2(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[3];
  const T v1 = scalar_max(v0, T(-20.0));
  const T v2 = scalar_min(v1, T(20.0));
  const T v3 = scalar_exp(v2);
  const T v4 = scalar_min(v3, hyper[1]);
  const T v5 = -v4;
  const T v6 = v5 * in[2];
  const T v7 = v6 * in[0];
  const T v8 = in[1] - in[0];
  const T v9 = v8 * T(0.5);
  const T v10 = v9 * v8;
  const T v11 = v10 * v3;
  const T v12 = hyper[0] * v11;
  const T v13 = v7 + v12;
  const T v14 = hyper[0] * v3;
  const T v15 = v14 * v9;
  const T v16 = v14 * v8;
  const T v17 = v16 * T(0.5);
  const T v18 = v15 + v17;
  const T v19 = -v18;
  const T v20 = v19 + v6;
  out[0] = v13;
  out[1] = v20;
}

// cispo_kl_use_bias_correction_kl, one token.
// in: policy, reference, advantages, old_logps; hyper: beta, epsilon_high; out: loss, d policy.
template <typename T>
FASTPREF_FN void head_cispo_kl_use_bias_correction_kl(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[3];
  const T v1 = scalar_max(v0, T(-20.0));
  const T v2 = scalar_min(v1, T(20.0));
  const T v3 = scalar_exp(v2);
  const T v4 = scalar_min(v3, hyper[1]);
  const T v5 = -v4;
  const T v6 = v5 * in[2];
  const T v7 = v6 * in[0];
  const T v8 = in[1] - in[0];
  const T v9 = scalar_min(v8, T(20.0));
  const T v10 = scalar_expm1(v9);
  const T v11 = scalar_exp(v9);
  const T v12 = v8 - v9;
  const T v13 = v11 * v12;
  const T v14 = v10 + v13;
  const T v15 = v14 - v8;
  const T v16 = hyper[0] * v15;
  const T v17 = v7 + v16;
  const T v18 = -hyper[0];
  const T v19 = hyper[0] * v11;
  const T v20 = hyper[0] * v12;
  const T v21 = -v19;
  const T v22 = v18 + v19;
  const T v23 = v20 * v11;
  const T v24 = v21 + v23;
  const T v25 = v10 + T(1.0);
  const T v26 = hyper[0] * v25;
  const T v27 = v24 + v26;
  const bool v28 = v8 <= T(20.0);
  const T v29 = v28 ? v27 : T(0.0);
  const T v30 = v22 + v29;
  const T v31 = -v30;
  const T v32 = v31 + v6;
  out[0] = v17;
  out[1] = v32;
}

// sapo, one token.
// in: policy, reference, advantages, old_logps; hyper: sapo_temperature_pos, sapo_temperature_neg; out: loss, d policy.
template <typename T>
FASTPREF_FN void head_sapo(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[3];
  const T v1 = scalar_max(v0, T(-20.0));
  const T v2 = scalar_min(v1, T(20.0));
  const T v3 = scalar_exp(v2);
  const bool v4 = in[2] > T(0.0);
  const T v5 = v4 ? hyper[0] : hyper[1];
  const T v6 = -in[2];
  const T v7 = v3 - T(1.0);
  const T v8 = v5 * v7;
  const T v9 = scalar_sigmoid(v8);
  const T v10 = v6 * v9;
  const T v11 = v10 * T(4.0);
  const T v12 = v11 / v5;
  const T v13 = T(1.0) / v5;
  const T v14 = v13 * T(4.0);
  const T v15 = v14 * v6;
  const T v16 = T(1.0) - v9;
  const T v17 = v9 * v16;
  const T v18 = v15 * v17;
  const T v19 = v18 * v5;
  const T v20 = v19 * v3;
  const bool v21 = v0 >= T(-20.0);
  const bool v22 = v0 <= T(20.0);
  const bool v23 = v21 && v22;
  const T v24 = v23 ? v20 : T(0.0);
  out[0] = v12;
  out[1] = v24;
}

// sapo_kl, one token.
// in: policy, reference, advantages, old_logps; hyper: beta, sapo_temperature_pos, sapo_temperature_neg; out: loss, d policy.
template <typename T>
FASTPREF_FN void head_sapo_kl(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[3];
  const T v1 = scalar_max(v0, T(-20.0));
  const T v2 = scalar_min(v1, T(20.0));
  const T v3 = scalar_exp(v2);
  const bool v4 = in[2] > T(0.0);
  const T v5 = v4 ? hyper[1] : hyper[2];
  const T v6 = -in[2];
  const T v7 = v3 - T(1.0);
  const T v8 = v5 * v7;
  const T v9 = scalar_sigmoid(v8);
  const T v10 = v6 * v9;
  const T v11 = v10 * T(4.0);
  const T v12 = v11 / v5;
  const T v13 = in[1] - in[0];
  const T v14 = scalar_min(v13, T(20.0));
  const T v15 = scalar_expm1(v14);
  const T v16 = scalar_exp(v14);
  const T v17 = v13 - v14;
  const T v18 = v16 * v17;
  const T v19 = v15 + v18;
  const T v20 = v19 - v13;
  const T v21 = v20 * v3;
  const T v22 = hyper[0] * v21;
  const T v23 = v12 + v22;
  const T v24 = hyper[0] * v20;
  const T v25 = hyper[0] * v3;
  const T v26 = -v25;
  const T v27 = v25 * v16;
  const T v28 = v25 * v17;
  const T v29 = -v27;
  const T v30 = v26 + v27;
  const T v31 = v28 * v16;
  const T v32 = v29 + v31;
  const T v33 = v15 + T(1.0);
  const T v34 = v25 * v33;
  const T v35 = v32 + v34;
  const bool v36 = v13 <= T(20.0);
  const T v37 = v36 ? v35 : T(0.0);
  const T v38 = v30 + v37;
  const T v39 = -v38;
  const T v40 = T(1.0) / v5;
  const T v41 = v40 * T(4.0);
  const T v42 = v41 * v6;
  const T v43 = T(1.0) - v9;
  const T v44 = v9 * v43;
  const T v45 = v42 * v44;
  const T v46 = v45 * v5;
  const T v47 = v24 + v46;
  const T v48 = v47 * v3;
  const bool v49 = v0 >= T(-20.0);
  const bool v50 = v0 <= T(20.0);
  const bool v51 = v49 && v50;
  const T v52 = v51 ? v48 : T(0.0);
  const T v53 = v39 + v52;
  out[0] = v23;
  out[1] = v53;
}

// sapo_kl_kl_estimator_k1, one token.
// in: policy, reference, advantages, old_logps; hyper: beta, sapo_temperature_pos, sapo_temperature_neg; out: loss, d policy.
template <typename T>
FASTPREF_FN void head_sapo_kl_kl_estimator_k1(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[3];
  const T v1 = scalar_max(v0, T(-20.0));
  const T v2 = scalar_min(v1, T(20.0));
  const T v3 = scalar_exp(v2);
  const bool v4 = in[2] > T(0.0);
  const T v5 = v4 ? hyper[1] : hyper[2];
  const T v6 = -in[2];
  const T v7 = v3 - T(1.0);
  const T v8 = v5 * v7;
  const T v9 = scalar_sigmoid(v8);
  const T v10 = v6 * v9;
  const T v11 = v10 * T(4.0);
  const T v12 = v11 / v5;
  const T v13 = in[1] - in[0];
  const T v14 = -v13;
  const T v15 = v14 * v3;
  const T v16 = hyper[0] * v15;
  const T v17 = v12 + v16;
  const T v18 = hyper[0] * v14;
  const T v19 = hyper[0] * v3;
  const T v21 = T(1.0) / v5;
  const T v22 = v21 * T(4.0);
  const T v23 = v22 * v6;
  const T v24 = T(1.0) - v9;
  const T v25 = v9 * v24;
  const T v26 = v23 * v25;
  const T v27 = v26 * v5;
  const T v28 = v18 + v27;
  const T v29 = v28 * v3;
  const bool v30 = v0 >= T(-20.0);
  const bool v31 = v0 <= T(20.0);
  const bool v32 = v30 && v31;
  const T v33 = v32 ? v29 : T(0.0);
  const T v34 = v19 + v33;
  out[0] = v17;
  out[1] = v34;
}

// sapo_kl_kl_estimator_k2, one token.
// in: policy, reference, advantages, old_logps; hyper: beta, sapo_temperature_pos, sapo_temperature_neg; out: loss, d policy.
template <typename T>
FASTPREF_FN void head_sapo_kl_kl_estimator_k2(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[3];
  const T v1 = scalar_max(v0, T(-20.0));
  const T v2 = scalar_min(v1, T(20.0));
  const T v3 = scalar_exp(v2);
  const bool v4 = in[2] > T(0.0);
  const T v5 = v4 ? hyper[1] : hyper[2];
  const T v6 = -in[2];
  const T v7 = v3 - T(1.0);
  const T v8 = v5 * v7;
  const T v9 = scalar_sigmoid(v8);
  const T v10 = v6 * v9;
  const T v11 = v10 * T(4.0);
  const T v12 = v11 / v5;
  const T v13 = in[1] - in[0];
  const T v14 = v13 * T(0.5);
  const T v15 = v14 * v13;
  const T v16 = v15 * v3;
  const T v17 = hyper[0] * v16;
  const T v18 = v12 + v17;
  const T v19 = hyper[0] * v3;
  const T v20 = v19 * v14;
  const T v21 = v19 * v13;
  const T v22 = v21 * T(0.5);
  const T v23 = v20 + v22;
  const T v24 = -v23;
  const T v25 = T(1.0) / v5;
  const T v26 = v25 * T(4.0);
  const T v27 = v26 * v6;
  const T v28 = T(1.0) - v9;
  const T v29 = v9 * v28;
  const T v30 = v27 * v29;
  const T v31 = v30 * v5;
  const T v32 = v31 * v3;
  const bool v33 = v0 >= T(-20.0);
  const bool v34 = v0 <= T(20.0);
  const bool v35 = v33 && v34;
  const T v36 = v35 ? v32 : T(0.0);
  const T v37 = v24 + v36;
  out[0] = v18;
  out[1] = v37;
}

// sapo_kl_use_bias_correction_kl, one token.
// in: policy, reference, advantages, old_logps; hyper: beta, sapo_temperature_pos, sapo_temperature_neg; out: loss, d policy.
template <typename T>
FASTPREF_FN void head_sapo_kl_use_bias_correction_kl(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[3];
  const T v1 = scalar_max(v0, T(-20.0));
  const T v2 = scalar_min(v1, T(20.0));
  const T v3 = scalar_exp(v2);
  const bool v4 = in[2] > T(0.0);
  const T v5 = v4 ? hyper[1] : hyper[2];
  const T v6 = -in[2];
  const T v7 = v3 - T(1.0);
  const T v8 = v5 * v7;
  const T v9 = scalar_sigmoid(v8);
  const T v10 = v6 * v9;
  const T v11 = v10 * T(4.0);
  const T v12 = v11 / v5;
  const T v13 = in[1] - in[0];
  const T v14 = scalar_min(v13, T(20.0));
  const T v15 = scalar_expm1(v14);
  const T v16 = scalar_exp(v14);
  const T v17 = v13 - v14;
  const T v18 = v16 * v17;
  const T v19 = v15 + v18;
  const T v20 = v19 - v13;
  const T v21 = hyper[0] * v20;
  const T v22 = v12 + v21;
  const T v23 = -hyper[0];
  const T v24 = hyper[0] * v16;
  const T v25 = hyper[0] * v17;
  const T v26 = -v24;
  const T v27 = v23 + v24;
  const T v28 = v25 * v16;
  const T v29 = v26 + v28;
  const T v30 = v15 + T(1.0);
  const T v31 = hyper[0] * v30;
  const T v32 = v29 + v31;
  const bool v33 = v13 <= T(20.0);
  const T v34 = v33 ? v32 : T(0.0);
  const T v35 = v27 + v34;
  const T v36 = -v35;
  const T v37 = T(1.0) / v5;
  const T v38 = v37 * T(4.0);
  const T v39 = v38 * v6;
  const T v40 = T(1.0) - v9;
  const T v41 = v9 * v40;
  const T v42 = v39 * v41;
  const T v43 = v42 * v5;
  const T v44 = v43 * v3;
  const bool v45 = v0 >= T(-20.0);
  const bool v46 = v0 <= T(20.0);
  const bool v47 = v45 && v46;
  const T v48 = v47 ? v44 : T(0.0);
  const T v49 = v36 + v48;
  out[0] = v22;
  out[1] = v49;
}

// nash_md, one token.
// in: policy, reference, win_probs; hyper: beta; out: loss, d policy.
template <typename T>
FASTPREF_FN void head_nash_md(const T* in, const T* hyper, T* out) {
  const T v0 = in[0] - in[1];
  const T v1 = hyper[0] * v0;
  const T v2 = in[2] - T(0.5);
  const T v3 = v1 - v2;
  const T v4 = v3 * in[0];
  out[0] = v4;
  out[1] = v3;
}

// nll, one sequence.
// in: policy, reference, length; hyper: mean_length; out: loss, d policy.
template <typename T>
FASTPREF_FN void head_nll(const T* in, const T* hyper, T* out) {
  const T v0 = -in[0];
  const T v1 = v0 / hyper[0];
  const T v2 = T(1.0) / hyper[0];
  const T v3 = -v2;
  out[0] = v1;
  out[1] = v3;
}

// sft, one pair.
// in: policy_w, policy_l, reference_w, reference_l, length_w, length_l; hyper: mean_chosen_length; out: loss, d policy_w, d policy_l.
template <typename T>
FASTPREF_FN void head_sft(const T* in, const T* hyper, T* out) {
  const T v0 = -in[0];
  const T v1 = v0 / hyper[0];
  const T v2 = T(1.0) / hyper[0];
  const T v3 = -v2;
  out[0] = v1;
  out[1] = v3;
  out[2] = T(0.0);
}

// X(name, kind, inputs, hyper-parameters, outputs) for every function above.
#define FASTPREF_HEADS(X) \
  X(sigmoid, pair, 6, 1, 3) \
  X(sigmoid_f_divergence_type_forward_kl, pair, 6, 1, 3) \
  X(sigmoid_f_divergence_type_js_divergence, pair, 6, 1, 3) \
  X(sigmoid_f_divergence_type_alpha_divergence, pair, 6, 2, 3) \
  X(rpo_bwd_kl, pair, 8, 2, 3) \
  X(rpo_sq, pair, 8, 2, 3) \
  X(cdpo, pair, 6, 2, 3) \
  X(robust, pair, 6, 2, 3) \
  X(robust_f_divergence_type_forward_kl, pair, 6, 2, 3) \
  X(robust_f_divergence_type_js_divergence, pair, 6, 2, 3) \
  X(robust_f_divergence_type_alpha_divergence, pair, 6, 3, 3) \
  X(hinge, pair, 6, 1, 3) \
  X(hinge_f_divergence_type_forward_kl, pair, 6, 1, 3) \
  X(hinge_f_divergence_type_js_divergence, pair, 6, 1, 3) \
  X(hinge_f_divergence_type_alpha_divergence, pair, 6, 2, 3) \
  X(exo_pair, pair, 6, 2, 3) \
  X(exo_pair_f_divergence_type_forward_kl, pair, 6, 2, 3) \
  X(exo_pair_f_divergence_type_js_divergence, pair, 6, 2, 3) \
  X(exo_pair_f_divergence_type_alpha_divergence, pair, 6, 3, 3) \
  X(discopop, pair, 6, 2, 3) \
  X(discopop_f_divergence_type_forward_kl, pair, 6, 2, 3) \
  X(discopop_f_divergence_type_js_divergence, pair, 6, 2, 3) \
  X(discopop_f_divergence_type_alpha_divergence, pair, 6, 3, 3) \
  X(gpo_exponential, pair, 6, 1, 3) \
  X(gpo_squared, pair, 6, 1, 3) \
  X(gpo_truncated_squared, pair, 6, 1, 3) \
  X(gpo_savage, pair, 6, 1, 3) \
  X(rpo_fwd_kl, pair, 8, 2, 3) \
  X(r_dpo, pair, 6, 2, 3) \
  X(ipo, pair, 6, 1, 3) \
  X(ipo_f_divergence_type_forward_kl, pair, 6, 1, 3) \
  X(ipo_f_divergence_type_js_divergence, pair, 6, 1, 3) \
  X(ipo_f_divergence_type_alpha_divergence, pair, 6, 2, 3) \
  X(ipo_sum, pair, 6, 1, 3) \
  X(rebel, pair, 8, 1, 3) \
  X(sigmoid_norm, pair, 6, 1, 3) \
  X(sigmoid_norm_f_divergence_type_forward_kl, pair, 6, 1, 3) \
  X(sigmoid_norm_f_divergence_type_js_divergence, pair, 6, 1, 3) \
  X(sigmoid_norm_f_divergence_type_alpha_divergence, pair, 6, 2, 3) \
  X(nca_pair, pair, 6, 1, 3) \
  X(bco_pair, pair, 6, 1, 3) \
  X(apo_zero, pair, 6, 1, 3) \
  X(apo_down, pair, 6, 1, 3) \
  X(sppo_hard, pair, 6, 1, 3) \
  X(sppo, pair, 8, 1, 3) \
  X(dpop, pair, 6, 2, 3) \
  X(cpo, pair, 6, 4, 3) \
  X(cpo_loss_type_hinge, pair, 6, 3, 3) \
  X(cpo_loss_type_ipo, pair, 6, 3, 3) \
  X(simpo, pair, 6, 5, 3) \
  X(alphapo, pair, 6, 6, 3) \
  X(orpo, pair, 6, 2, 3) \
  X(slic_hf, pair, 8, 2, 3) \
  X(xpo, pair, 8, 2, 3) \
  X(kto, sequence, 4, 4, 2) \
  X(apo_zero_unpaired, sequence, 4, 3, 2) \
  X(bda, sequence, 6, 1, 2) \
  X(bda_kl_k2, sequence, 6, 1, 2) \
  X(bda_kl_k3, sequence, 6, 1, 2) \
  X(bda_epsilon, sequence, 6, 2, 2) \
  X(ra, sequence, 5, 1, 2) \
  X(dro_v, sequence, 5, 1, 2) \
  X(dro_v_drop_beta, sequence, 5, 1, 2) \
  X(qrpo, sequence, 4, 1, 2) \
  X(qrpo_loss_abs, sequence, 4, 1, 2) \
  X(astar_po, sequence, 5, 1, 2) \
  X(una, sequence, 4, 1, 2) \
  X(una_mode_binary, sequence, 4, 1, 2) \
  X(ppo, token, 7, 3, 2) \
  X(ppo_dual_clip, token, 7, 4, 2) \
  X(rloo, sequence, 5, 1, 2) \
  X(rloo_epsilon_high, sequence, 5, 2, 2) \
  X(grpo, token, 4, 1, 2) \
  X(grpo_kl, token, 4, 2, 2) \
  X(grpo_epsilon_high, token, 4, 2, 2) \
  X(grpo_delta, token, 4, 2, 2) \
  X(grpo_dual_clip, token, 4, 2, 2) \
  X(grpo_kl_kl_estimator_k1, token, 4, 2, 2) \
  X(grpo_kl_kl_estimator_k2, token, 4, 2, 2) \
  X(grpo_kl_use_bias_correction_kl, token, 4, 2, 2) \
  X(grpo_kl_epsilon_high, token, 4, 3, 2) \
  X(grpo_kl_delta, token, 4, 3, 2) \
  X(grpo_kl_dual_clip, token, 4, 3, 2) \
  X(cispo, token, 4, 1, 2) \
  X(cispo_kl, token, 4, 2, 2) \
  X(cispo_kl_kl_estimator_k1, token, 4, 2, 2) \
  X(cispo_kl_kl_estimator_k2, token, 4, 2, 2) \
  X(cispo_kl_use_bias_correction_kl, token, 4, 2, 2) \
  X(sapo, token, 4, 2, 2) \
  X(sapo_kl, token, 4, 3, 2) \
  X(sapo_kl_kl_estimator_k1, token, 4, 3, 2) \
  X(sapo_kl_kl_estimator_k2, token, 4, 3, 2) \
  X(sapo_kl_use_bias_correction_kl, token, 4, 3, 2) \
  X(nash_md, token, 3, 1, 2) \
  X(nll, sequence, 3, 1, 2) \
  X(sft, pair, 6, 1, 3)

// X(name, kind, data, hyper-parameters, number of the whole call, variants), the last four as strings with commas. `in` holds, of a
// pair for w and l each: policy, reference, length, data; a token has no length. `hyper` ends with the number of the call, if any.
#define FASTPREF_HEAD_NAMES(X) \
  X(sigmoid, pair, "", "beta", "", "sigmoid,sigmoid_ld_alpha") \
  X(sigmoid_f_divergence_type_forward_kl, pair, "", "beta", "", "sigmoid_f_divergence_type_forward_kl") \
  X(sigmoid_f_divergence_type_js_divergence, pair, "", "beta", "", "sigmoid_f_divergence_type_js_divergence") \
  X(sigmoid_f_divergence_type_alpha_divergence, pair, "", "beta,f_alpha_divergence_coef", "", "sigmoid_f_divergence_type_alpha_divergence") \
  X(rpo_bwd_kl, pair, "rewards", "beta,gt_reward_scale", "", "rpo_bwd_kl,rpo_bwd_kl_ld_alpha") \
  X(rpo_sq, pair, "rewards", "beta,gt_reward_scale", "", "rpo_sq,rpo_sq_ld_alpha") \
  X(cdpo, pair, "", "beta,label_smoothing", "", "cdpo,cdpo_ld_alpha") \
  X(robust, pair, "", "beta,label_smoothing", "", "robust,robust_ld_alpha") \
  X(robust_f_divergence_type_forward_kl, pair, "", "beta,label_smoothing", "", "robust_f_divergence_type_forward_kl") \
  X(robust_f_divergence_type_js_divergence, pair, "", "beta,label_smoothing", "", "robust_f_divergence_type_js_divergence") \
  X(robust_f_divergence_type_alpha_divergence, pair, "", "beta,f_alpha_divergence_coef,label_smoothing", "", "robust_f_divergence_type_alpha_divergence") \
  X(hinge, pair, "", "beta", "", "hinge,hinge_ld_alpha") \
  X(hinge_f_divergence_type_forward_kl, pair, "", "beta", "", "hinge_f_divergence_type_forward_kl") \
  X(hinge_f_divergence_type_js_divergence, pair, "", "beta", "", "hinge_f_divergence_type_js_divergence") \
  X(hinge_f_divergence_type_alpha_divergence, pair, "", "beta,f_alpha_divergence_coef", "", "hinge_f_divergence_type_alpha_divergence") \
  X(exo_pair, pair, "", "beta,label_smoothing", "", "exo_pair,exo_pair_ld_alpha") \
  X(exo_pair_f_divergence_type_forward_kl, pair, "", "beta,label_smoothing", "", "exo_pair_f_divergence_type_forward_kl") \
  X(exo_pair_f_divergence_type_js_divergence, pair, "", "beta,label_smoothing", "", "exo_pair_f_divergence_type_js_divergence") \
  X(exo_pair_f_divergence_type_alpha_divergence, pair, "", "beta,f_alpha_divergence_coef,label_smoothing", "", "exo_pair_f_divergence_type_alpha_divergence") \
  X(discopop, pair, "", "beta,discopop_tau", "", "discopop,discopop_ld_alpha") \
  X(discopop_f_divergence_type_forward_kl, pair, "", "beta,discopop_tau", "", "discopop_f_divergence_type_forward_kl") \
  X(discopop_f_divergence_type_js_divergence, pair, "", "beta,discopop_tau", "", "discopop_f_divergence_type_js_divergence") \
  X(discopop_f_divergence_type_alpha_divergence, pair, "", "beta,f_alpha_divergence_coef,discopop_tau", "", "discopop_f_divergence_type_alpha_divergence") \
  X(gpo_exponential, pair, "", "beta", "", "gpo_exponential,gpo_exponential_ld_alpha") \
  X(gpo_squared, pair, "", "beta", "", "gpo_squared,gpo_squared_ld_alpha") \
  X(gpo_truncated_squared, pair, "", "beta", "", "gpo_truncated_squared,gpo_truncated_squared_ld_alpha") \
  X(gpo_savage, pair, "", "beta", "", "gpo_savage,gpo_savage_ld_alpha") \
  X(rpo_fwd_kl, pair, "rewards", "beta,gt_reward_scale", "", "rpo_fwd_kl,rpo_fwd_kl_ld_alpha") \
  X(r_dpo, pair, "", "beta,alpha", "", "r_dpo,r_dpo_ld_alpha") \
  X(ipo, pair, "", "beta", "", "ipo,ipo_ld_alpha") \
  X(ipo_f_divergence_type_forward_kl, pair, "", "beta", "", "ipo_f_divergence_type_forward_kl") \
  X(ipo_f_divergence_type_js_divergence, pair, "", "beta", "", "ipo_f_divergence_type_js_divergence") \
  X(ipo_f_divergence_type_alpha_divergence, pair, "", "beta,f_alpha_divergence_coef", "", "ipo_f_divergence_type_alpha_divergence") \
  X(ipo_sum, pair, "", "beta", "", "ipo_sum,ipo_sum_ld_alpha") \
  X(rebel, pair, "rewards", "eta", "", "rebel") \
  X(sigmoid_norm, pair, "", "beta", "", "sigmoid_norm,sigmoid_norm_ld_alpha") \
  X(sigmoid_norm_f_divergence_type_forward_kl, pair, "", "beta", "", "sigmoid_norm_f_divergence_type_forward_kl") \
  X(sigmoid_norm_f_divergence_type_js_divergence, pair, "", "beta", "", "sigmoid_norm_f_divergence_type_js_divergence") \
  X(sigmoid_norm_f_divergence_type_alpha_divergence, pair, "", "beta,f_alpha_divergence_coef", "", "sigmoid_norm_f_divergence_type_alpha_divergence") \
  X(nca_pair, pair, "", "beta", "", "nca_pair,nca_pair_ld_alpha") \
  X(bco_pair, pair, "", "beta", "", "bco_pair,bco_pair_ld_alpha") \
  X(apo_zero, pair, "", "beta", "", "apo_zero,apo_zero_ld_alpha") \
  X(apo_down, pair, "", "beta", "", "apo_down,apo_down_ld_alpha") \
  X(sppo_hard, pair, "", "beta", "", "sppo_hard,sppo_hard_ld_alpha") \
  X(sppo, pair, "win_probs", "beta", "", "sppo") \
  X(dpop, pair, "", "beta,dpop_lambda", "", "dpop") \
  X(cpo, pair, "", "beta,cpo_alpha,label_smoothing", "mean_chosen_length", "cpo") \
  X(cpo_loss_type_hinge, pair, "", "beta,cpo_alpha", "mean_chosen_length", "cpo_loss_type_hinge") \
  X(cpo_loss_type_ipo, pair, "", "beta,cpo_alpha", "mean_chosen_length", "cpo_loss_type_ipo") \
  X(simpo, pair, "", "beta,cpo_alpha,label_smoothing,simpo_gamma", "mean_chosen_length", "simpo") \
  X(alphapo, pair, "", "beta,cpo_alpha,label_smoothing,simpo_gamma,alpha", "mean_chosen_length", "alphapo") \
  X(orpo, pair, "", "beta", "mean_chosen_length", "orpo") \
  X(slic_hf, pair, "sft_logps", "delta,lambda_coef", "", "slic_hf") \
  X(xpo, pair, "from_reference", "beta,alpha", "", "xpo") \
  X(kto, sequence, "desirable", "beta,desirable_weight,undesirable_weight", "mean_mismatched_log_ratio", "kto") \
  X(apo_zero_unpaired, sequence, "desirable", "beta,desirable_weight,undesirable_weight", "", "apo_zero_unpaired") \
  X(bda, sequence, "rewards,baseline,old_logps", "beta", "", "bda") \
  X(bda_kl_k2, sequence, "rewards,baseline,old_logps", "beta", "", "bda_kl_k2") \
  X(bda_kl_k3, sequence, "rewards,baseline,old_logps", "beta", "", "bda_kl_k3") \
  X(bda_epsilon, sequence, "rewards,baseline,old_logps", "beta,epsilon", "", "bda_epsilon") \
  X(ra, sequence, "rewards,log_z", "beta", "", "ra") \
  X(dro_v, sequence, "rewards,values", "beta", "", "dro_v") \
  X(dro_v_drop_beta, sequence, "rewards,values", "beta", "", "dro_v_drop_beta") \
  X(qrpo, sequence, "quantiles", "beta", "", "qrpo,qrpo_num_reference_samples") \
  X(qrpo_loss_abs, sequence, "quantiles", "beta", "", "qrpo_loss_abs") \
  X(astar_po, sequence, "rewards,values", "beta2", "", "astar_po") \
  X(una, sequence, "rewards", "beta", "", "una,una_binary_loss_square") \
  X(una_mode_binary, sequence, "desirable", "beta", "", "una_mode_binary") \
  X(ppo, token, "advantages,values,old_values,returns,old_logps", "cliprange,cliprange_value,vf_coef", "", "ppo") \
  X(ppo_dual_clip, token, "advantages,values,old_values,returns,old_logps", "cliprange,cliprange_value,vf_coef,dual_clip", "", "ppo_dual_clip") \
  X(rloo, sequence, "advantages,old_logps", "epsilon", "", "rloo") \
  X(rloo_epsilon_high, sequence, "advantages,old_logps", "epsilon,epsilon_high", "", "rloo_epsilon_high") \
  X(grpo, token, "advantages,old_logps", "epsilon", "", "grpo,grpo_kl_estimator_k1,grpo_kl_estimator_k2,grpo_use_bias_correction_kl,grpo_max_completion_length") \
  X(grpo_kl, token, "advantages,old_logps", "beta,epsilon", "", "grpo_kl,grpo_kl_max_completion_length") \
  X(grpo_epsilon_high, token, "advantages,old_logps", "epsilon,epsilon_high", "", "grpo_epsilon_high") \
  X(grpo_delta, token, "advantages,old_logps", "epsilon,delta", "", "grpo_delta") \
  X(grpo_dual_clip, token, "advantages,old_logps", "epsilon,dual_clip", "", "grpo_dual_clip") \
  X(grpo_kl_kl_estimator_k1, token, "advantages,old_logps", "beta,epsilon", "", "grpo_kl_kl_estimator_k1") \
  X(grpo_kl_kl_estimator_k2, token, "advantages,old_logps", "beta,epsilon", "", "grpo_kl_kl_estimator_k2") \
  X(grpo_kl_use_bias_correction_kl, token, "advantages,old_logps", "beta,epsilon", "", "grpo_kl_use_bias_correction_kl") \
  X(grpo_kl_epsilon_high, token, "advantages,old_logps", "beta,epsilon,epsilon_high", "", "grpo_kl_epsilon_high") \
  X(grpo_kl_delta, token, "advantages,old_logps", "beta,epsilon,delta", "", "grpo_kl_delta") \
  X(grpo_kl_dual_clip, token, "advantages,old_logps", "beta,epsilon,dual_clip", "", "grpo_kl_dual_clip") \
  X(cispo, token, "advantages,old_logps", "epsilon_high", "", "cispo,cispo_kl_estimator_k1,cispo_kl_estimator_k2,cispo_use_bias_correction_kl,cispo_max_completion_length") \
  X(cispo_kl, token, "advantages,old_logps", "beta,epsilon_high", "", "cispo_kl,cispo_kl_max_completion_length") \
  X(cispo_kl_kl_estimator_k1, token, "advantages,old_logps", "beta,epsilon_high", "", "cispo_kl_kl_estimator_k1") \
  X(cispo_kl_kl_estimator_k2, token, "advantages,old_logps", "beta,epsilon_high", "", "cispo_kl_kl_estimator_k2") \
  X(cispo_kl_use_bias_correction_kl, token, "advantages,old_logps", "beta,epsilon_high", "", "cispo_kl_use_bias_correction_kl") \
  X(sapo, token, "advantages,old_logps", "sapo_temperature_pos,sapo_temperature_neg", "", "sapo,sapo_kl_estimator_k1,sapo_kl_estimator_k2,sapo_use_bias_correction_kl,sapo_max_completion_length") \
  X(sapo_kl, token, "advantages,old_logps", "beta,sapo_temperature_pos,sapo_temperature_neg", "", "sapo_kl,sapo_kl_max_completion_length") \
  X(sapo_kl_kl_estimator_k1, token, "advantages,old_logps", "beta,sapo_temperature_pos,sapo_temperature_neg", "", "sapo_kl_kl_estimator_k1") \
  X(sapo_kl_kl_estimator_k2, token, "advantages,old_logps", "beta,sapo_temperature_pos,sapo_temperature_neg", "", "sapo_kl_kl_estimator_k2") \
  X(sapo_kl_use_bias_correction_kl, token, "advantages,old_logps", "beta,sapo_temperature_pos,sapo_temperature_neg", "", "sapo_kl_use_bias_correction_kl") \
  X(nash_md, token, "win_probs", "beta", "", "nash_md") \
  X(nll, sequence, "", "", "mean_length", "nll") \
  X(sft, pair, "", "", "mean_chosen_length", "sft,sft_ld_alpha")

}  // namespace fastpref
