"""The objective stage of every loss that has a device form: loss and derivatives of one item, elementwise.

Made by csrc/generate_heads.py from fastpref/objectives; edit those. Inputs, then hyper-parameters, in the order of the arguments;
``w`` is the chosen sequence of a pair, ``l`` the rejected one. Returns the loss, then its derivative with respect to each ``policy``.

``item_*`` is the same with the arguments of every head of its kind: data ``x0`` and up, hyper-parameters ``h0`` and up, and the number of
the whole call. ``HEADS`` has them by name, ``NAMES`` the name of the head of every variant of an objective.
"""

# fmt: off
# ruff: noqa: D103
import triton
import triton.language as tl

from .head import Head
from .scalar import expm1, log1p, log_sigmoid, sigmoid, sign


@triton.jit
def head_sigmoid(policy_w, policy_l, reference_w, reference_l, length_w, length_l, beta):
    v0 = policy_w - reference_w
    v1 = policy_l - reference_l
    v2 = v0 - v1
    v3 = beta * v2
    v4 = -v3
    v5 = log_sigmoid(v3)
    v6 = -v5
    v7 = sigmoid(v4)
    v8 = -v7
    v9 = v8 * beta
    v10 = -v9
    return v6, v9, v10


@triton.jit
def item_sigmoid(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1, h2, h3, h4, number):
    return head_sigmoid(policy_w, policy_l, reference_w, reference_l, length_w, length_l, h0)


@triton.jit
def head_sigmoid_f_divergence_type_forward_kl(policy_w, policy_l, reference_w, reference_l, length_w, length_l, beta):
    v0 = policy_w - reference_w
    v1 = -v0
    v2 = tl.minimum(v1, 80.0)
    v3 = tl.exp(v2)
    v4 = 1.0 - v3
    v5 = policy_l - reference_l
    v6 = -v5
    v7 = tl.minimum(v6, 80.0)
    v8 = tl.exp(v7)
    v9 = 1.0 - v8
    v10 = v4 - v9
    v11 = beta * v10
    v12 = -v11
    v13 = log_sigmoid(v11)
    v14 = -v13
    v15 = sigmoid(v12)
    v16 = -v15
    v17 = v16 * beta
    v18 = -v17
    v19 = v17 * v8
    v20 = v6 <= 80.0
    v21 = tl.where(v20, v19, 0.0)
    v22 = -v21
    v23 = v18 * v3
    v24 = v1 <= 80.0
    v25 = tl.where(v24, v23, 0.0)
    v26 = -v25
    return v14, v26, v22


@triton.jit
def item_sigmoid_f_divergence_type_forward_kl(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1, h2, h3, h4, number):
    return head_sigmoid_f_divergence_type_forward_kl(policy_w, policy_l, reference_w, reference_l, length_w, length_l, h0)


@triton.jit
def head_sigmoid_f_divergence_type_js_divergence(policy_w, policy_l, reference_w, reference_l, length_w, length_l, beta):
    v0 = policy_w - reference_w
    v1 = log_sigmoid(v0)
    v2 = v1 + 0.6931471805599453
    v3 = policy_l - reference_l
    v4 = log_sigmoid(v3)
    v5 = v4 + 0.6931471805599453
    v6 = v2 - v5
    v7 = beta * v6
    v8 = -v7
    v9 = log_sigmoid(v7)
    v10 = -v9
    v11 = sigmoid(v8)
    v12 = -v11
    v13 = v12 * beta
    v14 = -v13
    v15 = -v3
    v16 = sigmoid(v15)
    v17 = v14 * v16
    v18 = -v0
    v19 = sigmoid(v18)
    v20 = v13 * v19
    return v10, v20, v17


@triton.jit
def item_sigmoid_f_divergence_type_js_divergence(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1, h2, h3, h4, number):
    return head_sigmoid_f_divergence_type_js_divergence(policy_w, policy_l, reference_w, reference_l, length_w, length_l, h0)


@triton.jit
def head_sigmoid_f_divergence_type_alpha_divergence(policy_w, policy_l, reference_w, reference_l, length_w, length_l, beta, f_alpha_divergence_coef):
    v0 = policy_w - reference_w
    v1 = f_alpha_divergence_coef - 1.0
    v2 = v1 * v0
    v3 = tl.minimum(v2, 80.0)
    v4 = tl.exp(v3)
    v5 = v4 - 1.0
    v6 = v5 / v1
    v7 = policy_l - reference_l
    v8 = v1 * v7
    v9 = tl.minimum(v8, 80.0)
    v10 = tl.exp(v9)
    v11 = v10 - 1.0
    v12 = v11 / v1
    v13 = v6 - v12
    v14 = beta * v13
    v15 = -v14
    v16 = log_sigmoid(v14)
    v17 = -v16
    v18 = sigmoid(v15)
    v19 = -v18
    v20 = v19 * beta
    v21 = -v20
    v22 = v21 / v1
    v23 = v22 * v10
    v24 = v8 <= 80.0
    v25 = tl.where(v24, v23, 0.0)
    v26 = v25 * v1
    v27 = v20 / v1
    v28 = v27 * v4
    v29 = v2 <= 80.0
    v30 = tl.where(v29, v28, 0.0)
    v31 = v30 * v1
    return v17, v31, v26


@triton.jit
def item_sigmoid_f_divergence_type_alpha_divergence(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1, h2, h3, h4, number):
    return head_sigmoid_f_divergence_type_alpha_divergence(policy_w, policy_l, reference_w, reference_l, length_w, length_l, h0, h1)


@triton.jit
def head_rpo_bwd_kl(policy_w, policy_l, reference_w, reference_l, length_w, length_l, rewards_w, rewards_l, beta, gt_reward_scale):
    v0 = policy_w - reference_w
    v1 = policy_l - reference_l
    v2 = v0 - v1
    v3 = beta * v2
    v4 = rewards_w - rewards_l
    v5 = gt_reward_scale * v4
    v6 = sigmoid(v5)
    v7 = log_sigmoid(v5)
    v8 = log_sigmoid(v3)
    v9 = v7 - v8
    v10 = v6 * v9
    v11 = -v5
    v12 = sigmoid(v11)
    v13 = log_sigmoid(v11)
    v14 = -v3
    v15 = log_sigmoid(v14)
    v16 = v13 - v15
    v17 = v12 * v16
    v18 = v10 + v17
    v19 = -v12
    v20 = sigmoid(v3)
    v21 = v19 * v20
    v22 = -v21
    v23 = -v6
    v24 = sigmoid(v14)
    v25 = v23 * v24
    v26 = v22 + v25
    v27 = v26 * beta
    v28 = -v27
    return v18, v27, v28


@triton.jit
def item_rpo_bwd_kl(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1, h2, h3, h4, number):
    return head_rpo_bwd_kl(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1)


@triton.jit
def head_rpo_sq(policy_w, policy_l, reference_w, reference_l, length_w, length_l, rewards_w, rewards_l, beta, gt_reward_scale):
    v0 = policy_w - reference_w
    v1 = policy_l - reference_l
    v2 = v0 - v1
    v3 = beta * v2
    v4 = rewards_w - rewards_l
    v5 = gt_reward_scale * v4
    v6 = v3 - v5
    v7 = v6 * v6
    v8 = v6 * 2.0
    v9 = v8 * beta
    v10 = -v9
    return v7, v9, v10


@triton.jit
def item_rpo_sq(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1, h2, h3, h4, number):
    return head_rpo_sq(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1)


@triton.jit
def head_cdpo(policy_w, policy_l, reference_w, reference_l, length_w, length_l, beta, label_smoothing):
    v0 = policy_w - reference_w
    v1 = policy_l - reference_l
    v2 = v0 - v1
    v3 = beta * v2
    v4 = 1.0 - label_smoothing
    v5 = -v3
    v6 = log_sigmoid(v3)
    v7 = -v6
    v8 = v4 * v7
    v9 = log_sigmoid(v5)
    v10 = -v9
    v11 = label_smoothing * v10
    v12 = v8 + v11
    v13 = -label_smoothing
    v14 = sigmoid(v3)
    v15 = v13 * v14
    v16 = -v15
    v17 = -v4
    v18 = sigmoid(v5)
    v19 = v17 * v18
    v21 = v16 + v19
    v22 = v21 * beta
    v23 = -v22
    return v12, v22, v23


@triton.jit
def item_cdpo(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1, h2, h3, h4, number):
    return head_cdpo(policy_w, policy_l, reference_w, reference_l, length_w, length_l, h0, h1)


@triton.jit
def head_robust(policy_w, policy_l, reference_w, reference_l, length_w, length_l, beta, label_smoothing):
    v0 = policy_w - reference_w
    v1 = policy_l - reference_l
    v2 = v0 - v1
    v3 = beta * v2
    v4 = 1.0 - label_smoothing
    v5 = -v3
    v6 = log_sigmoid(v3)
    v7 = -v6
    v8 = v4 * v7
    v9 = log_sigmoid(v5)
    v10 = -v9
    v11 = label_smoothing * v10
    v12 = v8 - v11
    v13 = label_smoothing * 2.0
    v14 = 1.0 - v13
    v15 = v12 / v14
    v16 = 1.0 / v14
    v17 = -v16
    v18 = v17 * label_smoothing
    v19 = -v18
    v20 = sigmoid(v3)
    v21 = v19 * v20
    v22 = -v21
    v23 = v16 * v4
    v24 = -v23
    v25 = sigmoid(v5)
    v26 = v24 * v25
    v28 = v22 + v26
    v29 = v28 * beta
    v30 = -v29
    return v15, v29, v30


@triton.jit
def item_robust(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1, h2, h3, h4, number):
    return head_robust(policy_w, policy_l, reference_w, reference_l, length_w, length_l, h0, h1)


@triton.jit
def head_robust_f_divergence_type_forward_kl(policy_w, policy_l, reference_w, reference_l, length_w, length_l, beta, label_smoothing):
    v0 = policy_w - reference_w
    v1 = -v0
    v2 = tl.minimum(v1, 80.0)
    v3 = tl.exp(v2)
    v4 = 1.0 - v3
    v5 = policy_l - reference_l
    v6 = -v5
    v7 = tl.minimum(v6, 80.0)
    v8 = tl.exp(v7)
    v9 = 1.0 - v8
    v10 = v4 - v9
    v11 = beta * v10
    v12 = 1.0 - label_smoothing
    v13 = -v11
    v14 = log_sigmoid(v11)
    v15 = -v14
    v16 = v12 * v15
    v17 = log_sigmoid(v13)
    v18 = -v17
    v19 = label_smoothing * v18
    v20 = v16 - v19
    v21 = label_smoothing * 2.0
    v22 = 1.0 - v21
    v23 = v20 / v22
    v24 = 1.0 / v22
    v25 = -v24
    v26 = v25 * label_smoothing
    v27 = -v26
    v28 = sigmoid(v11)
    v29 = v27 * v28
    v30 = -v29
    v31 = v24 * v12
    v32 = -v31
    v33 = sigmoid(v13)
    v34 = v32 * v33
    v36 = v30 + v34
    v37 = v36 * beta
    v38 = -v37
    v39 = v37 * v8
    v40 = v6 <= 80.0
    v41 = tl.where(v40, v39, 0.0)
    v42 = -v41
    v43 = v38 * v3
    v44 = v1 <= 80.0
    v45 = tl.where(v44, v43, 0.0)
    v46 = -v45
    return v23, v46, v42


@triton.jit
def item_robust_f_divergence_type_forward_kl(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1, h2, h3, h4, number):
    return head_robust_f_divergence_type_forward_kl(policy_w, policy_l, reference_w, reference_l, length_w, length_l, h0, h1)


@triton.jit
def head_robust_f_divergence_type_js_divergence(policy_w, policy_l, reference_w, reference_l, length_w, length_l, beta, label_smoothing):
    v0 = policy_w - reference_w
    v1 = log_sigmoid(v0)
    v2 = v1 + 0.6931471805599453
    v3 = policy_l - reference_l
    v4 = log_sigmoid(v3)
    v5 = v4 + 0.6931471805599453
    v6 = v2 - v5
    v7 = beta * v6
    v8 = 1.0 - label_smoothing
    v9 = -v7
    v10 = log_sigmoid(v7)
    v11 = -v10
    v12 = v8 * v11
    v13 = log_sigmoid(v9)
    v14 = -v13
    v15 = label_smoothing * v14
    v16 = v12 - v15
    v17 = label_smoothing * 2.0
    v18 = 1.0 - v17
    v19 = v16 / v18
    v20 = 1.0 / v18
    v21 = -v20
    v22 = v21 * label_smoothing
    v23 = -v22
    v24 = sigmoid(v7)
    v25 = v23 * v24
    v26 = -v25
    v27 = v20 * v8
    v28 = -v27
    v29 = sigmoid(v9)
    v30 = v28 * v29
    v32 = v26 + v30
    v33 = v32 * beta
    v34 = -v33
    v35 = -v3
    v36 = sigmoid(v35)
    v37 = v34 * v36
    v38 = -v0
    v39 = sigmoid(v38)
    v40 = v33 * v39
    return v19, v40, v37


@triton.jit
def item_robust_f_divergence_type_js_divergence(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1, h2, h3, h4, number):
    return head_robust_f_divergence_type_js_divergence(policy_w, policy_l, reference_w, reference_l, length_w, length_l, h0, h1)


@triton.jit
def head_robust_f_divergence_type_alpha_divergence(policy_w, policy_l, reference_w, reference_l, length_w, length_l, beta, f_alpha_divergence_coef, label_smoothing):
    v0 = policy_w - reference_w
    v1 = f_alpha_divergence_coef - 1.0
    v2 = v1 * v0
    v3 = tl.minimum(v2, 80.0)
    v4 = tl.exp(v3)
    v5 = v4 - 1.0
    v6 = v5 / v1
    v7 = policy_l - reference_l
    v8 = v1 * v7
    v9 = tl.minimum(v8, 80.0)
    v10 = tl.exp(v9)
    v11 = v10 - 1.0
    v12 = v11 / v1
    v13 = v6 - v12
    v14 = beta * v13
    v15 = 1.0 - label_smoothing
    v16 = -v14
    v17 = log_sigmoid(v14)
    v18 = -v17
    v19 = v15 * v18
    v20 = log_sigmoid(v16)
    v21 = -v20
    v22 = label_smoothing * v21
    v23 = v19 - v22
    v24 = label_smoothing * 2.0
    v25 = 1.0 - v24
    v26 = v23 / v25
    v27 = 1.0 / v25
    v28 = -v27
    v29 = v28 * label_smoothing
    v30 = -v29
    v31 = sigmoid(v14)
    v32 = v30 * v31
    v33 = -v32
    v34 = v27 * v15
    v35 = -v34
    v36 = sigmoid(v16)
    v37 = v35 * v36
    v39 = v33 + v37
    v40 = v39 * beta
    v41 = -v40
    v42 = v41 / v1
    v43 = v42 * v10
    v44 = v8 <= 80.0
    v45 = tl.where(v44, v43, 0.0)
    v46 = v45 * v1
    v47 = v40 / v1
    v48 = v47 * v4
    v49 = v2 <= 80.0
    v50 = tl.where(v49, v48, 0.0)
    v51 = v50 * v1
    return v26, v51, v46


@triton.jit
def item_robust_f_divergence_type_alpha_divergence(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1, h2, h3, h4, number):
    return head_robust_f_divergence_type_alpha_divergence(policy_w, policy_l, reference_w, reference_l, length_w, length_l, h0, h1, h2)


@triton.jit
def head_hinge(policy_w, policy_l, reference_w, reference_l, length_w, length_l, beta):
    v0 = policy_w - reference_w
    v1 = policy_l - reference_l
    v2 = v0 - v1
    v3 = beta * v2
    v4 = 1.0 - v3
    v5 = tl.maximum(v4, 0.0)
    v6 = v5 > 0.0
    v7 = tl.where(v6, 1.0, 0.0)
    v8 = -v7
    v9 = v8 * beta
    v10 = -v9
    return v5, v9, v10


@triton.jit
def item_hinge(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1, h2, h3, h4, number):
    return head_hinge(policy_w, policy_l, reference_w, reference_l, length_w, length_l, h0)


@triton.jit
def head_hinge_f_divergence_type_forward_kl(policy_w, policy_l, reference_w, reference_l, length_w, length_l, beta):
    v0 = policy_w - reference_w
    v1 = -v0
    v2 = tl.minimum(v1, 80.0)
    v3 = tl.exp(v2)
    v4 = 1.0 - v3
    v5 = policy_l - reference_l
    v6 = -v5
    v7 = tl.minimum(v6, 80.0)
    v8 = tl.exp(v7)
    v9 = 1.0 - v8
    v10 = v4 - v9
    v11 = beta * v10
    v12 = 1.0 - v11
    v13 = tl.maximum(v12, 0.0)
    v14 = v13 > 0.0
    v15 = tl.where(v14, 1.0, 0.0)
    v16 = -v15
    v17 = v16 * beta
    v18 = -v17
    v19 = v17 * v8
    v20 = v6 <= 80.0
    v21 = tl.where(v20, v19, 0.0)
    v22 = -v21
    v23 = v18 * v3
    v24 = v1 <= 80.0
    v25 = tl.where(v24, v23, 0.0)
    v26 = -v25
    return v13, v26, v22


@triton.jit
def item_hinge_f_divergence_type_forward_kl(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1, h2, h3, h4, number):
    return head_hinge_f_divergence_type_forward_kl(policy_w, policy_l, reference_w, reference_l, length_w, length_l, h0)


@triton.jit
def head_hinge_f_divergence_type_js_divergence(policy_w, policy_l, reference_w, reference_l, length_w, length_l, beta):
    v0 = policy_w - reference_w
    v1 = log_sigmoid(v0)
    v2 = v1 + 0.6931471805599453
    v3 = policy_l - reference_l
    v4 = log_sigmoid(v3)
    v5 = v4 + 0.6931471805599453
    v6 = v2 - v5
    v7 = beta * v6
    v8 = 1.0 - v7
    v9 = tl.maximum(v8, 0.0)
    v10 = v9 > 0.0
    v11 = tl.where(v10, 1.0, 0.0)
    v12 = -v11
    v13 = v12 * beta
    v14 = -v13
    v15 = -v3
    v16 = sigmoid(v15)
    v17 = v14 * v16
    v18 = -v0
    v19 = sigmoid(v18)
    v20 = v13 * v19
    return v9, v20, v17


@triton.jit
def item_hinge_f_divergence_type_js_divergence(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1, h2, h3, h4, number):
    return head_hinge_f_divergence_type_js_divergence(policy_w, policy_l, reference_w, reference_l, length_w, length_l, h0)


@triton.jit
def head_hinge_f_divergence_type_alpha_divergence(policy_w, policy_l, reference_w, reference_l, length_w, length_l, beta, f_alpha_divergence_coef):
    v0 = policy_w - reference_w
    v1 = f_alpha_divergence_coef - 1.0
    v2 = v1 * v0
    v3 = tl.minimum(v2, 80.0)
    v4 = tl.exp(v3)
    v5 = v4 - 1.0
    v6 = v5 / v1
    v7 = policy_l - reference_l
    v8 = v1 * v7
    v9 = tl.minimum(v8, 80.0)
    v10 = tl.exp(v9)
    v11 = v10 - 1.0
    v12 = v11 / v1
    v13 = v6 - v12
    v14 = beta * v13
    v15 = 1.0 - v14
    v16 = tl.maximum(v15, 0.0)
    v17 = v16 > 0.0
    v18 = tl.where(v17, 1.0, 0.0)
    v19 = -v18
    v20 = v19 * beta
    v21 = -v20
    v22 = v21 / v1
    v23 = v22 * v10
    v24 = v8 <= 80.0
    v25 = tl.where(v24, v23, 0.0)
    v26 = v25 * v1
    v27 = v20 / v1
    v28 = v27 * v4
    v29 = v2 <= 80.0
    v30 = tl.where(v29, v28, 0.0)
    v31 = v30 * v1
    return v16, v31, v26


@triton.jit
def item_hinge_f_divergence_type_alpha_divergence(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1, h2, h3, h4, number):
    return head_hinge_f_divergence_type_alpha_divergence(policy_w, policy_l, reference_w, reference_l, length_w, length_l, h0, h1)


@triton.jit
def head_exo_pair(policy_w, policy_l, reference_w, reference_l, length_w, length_l, beta, label_smoothing):
    v0 = policy_w - reference_w
    v1 = policy_l - reference_l
    v2 = v0 - v1
    v3 = beta * v2
    v4 = sigmoid(v3)
    v5 = log_sigmoid(v3)
    v6 = 1.0 - label_smoothing
    v7 = tl.log(v6)
    v8 = v5 - v7
    v9 = v4 * v8
    v10 = -v3
    v11 = sigmoid(v10)
    v12 = log_sigmoid(v10)
    v13 = tl.log(label_smoothing)
    v14 = v12 - v13
    v15 = v11 * v14
    v16 = v9 + v15
    v17 = v11 * v4
    v18 = -v17
    v19 = 1.0 - v11
    v20 = v11 * v19
    v21 = v14 * v20
    v22 = -v21
    v23 = v18 + v22
    v24 = v4 * v11
    v25 = v23 + v24
    v26 = 1.0 - v4
    v27 = v4 * v26
    v28 = v8 * v27
    v29 = v25 + v28
    v30 = v29 * beta
    v31 = -v30
    return v16, v30, v31


@triton.jit
def item_exo_pair(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1, h2, h3, h4, number):
    return head_exo_pair(policy_w, policy_l, reference_w, reference_l, length_w, length_l, h0, h1)


@triton.jit
def head_exo_pair_f_divergence_type_forward_kl(policy_w, policy_l, reference_w, reference_l, length_w, length_l, beta, label_smoothing):
    v0 = policy_w - reference_w
    v1 = -v0
    v2 = tl.minimum(v1, 80.0)
    v3 = tl.exp(v2)
    v4 = 1.0 - v3
    v5 = policy_l - reference_l
    v6 = -v5
    v7 = tl.minimum(v6, 80.0)
    v8 = tl.exp(v7)
    v9 = 1.0 - v8
    v10 = v4 - v9
    v11 = beta * v10
    v12 = sigmoid(v11)
    v13 = log_sigmoid(v11)
    v14 = 1.0 - label_smoothing
    v15 = tl.log(v14)
    v16 = v13 - v15
    v17 = v12 * v16
    v18 = -v11
    v19 = sigmoid(v18)
    v20 = log_sigmoid(v18)
    v21 = tl.log(label_smoothing)
    v22 = v20 - v21
    v23 = v19 * v22
    v24 = v17 + v23
    v25 = v19 * v12
    v26 = -v25
    v27 = 1.0 - v19
    v28 = v19 * v27
    v29 = v22 * v28
    v30 = -v29
    v31 = v26 + v30
    v32 = v12 * v19
    v33 = v31 + v32
    v34 = 1.0 - v12
    v35 = v12 * v34
    v36 = v16 * v35
    v37 = v33 + v36
    v38 = v37 * beta
    v39 = -v38
    v40 = v38 * v8
    v41 = v6 <= 80.0
    v42 = tl.where(v41, v40, 0.0)
    v43 = -v42
    v44 = v39 * v3
    v45 = v1 <= 80.0
    v46 = tl.where(v45, v44, 0.0)
    v47 = -v46
    return v24, v47, v43


@triton.jit
def item_exo_pair_f_divergence_type_forward_kl(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1, h2, h3, h4, number):
    return head_exo_pair_f_divergence_type_forward_kl(policy_w, policy_l, reference_w, reference_l, length_w, length_l, h0, h1)


@triton.jit
def head_exo_pair_f_divergence_type_js_divergence(policy_w, policy_l, reference_w, reference_l, length_w, length_l, beta, label_smoothing):
    v0 = policy_w - reference_w
    v1 = log_sigmoid(v0)
    v2 = v1 + 0.6931471805599453
    v3 = policy_l - reference_l
    v4 = log_sigmoid(v3)
    v5 = v4 + 0.6931471805599453
    v6 = v2 - v5
    v7 = beta * v6
    v8 = sigmoid(v7)
    v9 = log_sigmoid(v7)
    v10 = 1.0 - label_smoothing
    v11 = tl.log(v10)
    v12 = v9 - v11
    v13 = v8 * v12
    v14 = -v7
    v15 = sigmoid(v14)
    v16 = log_sigmoid(v14)
    v17 = tl.log(label_smoothing)
    v18 = v16 - v17
    v19 = v15 * v18
    v20 = v13 + v19
    v21 = v15 * v8
    v22 = -v21
    v23 = 1.0 - v15
    v24 = v15 * v23
    v25 = v18 * v24
    v26 = -v25
    v27 = v22 + v26
    v28 = v8 * v15
    v29 = v27 + v28
    v30 = 1.0 - v8
    v31 = v8 * v30
    v32 = v12 * v31
    v33 = v29 + v32
    v34 = v33 * beta
    v35 = -v34
    v36 = -v3
    v37 = sigmoid(v36)
    v38 = v35 * v37
    v39 = -v0
    v40 = sigmoid(v39)
    v41 = v34 * v40
    return v20, v41, v38


@triton.jit
def item_exo_pair_f_divergence_type_js_divergence(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1, h2, h3, h4, number):
    return head_exo_pair_f_divergence_type_js_divergence(policy_w, policy_l, reference_w, reference_l, length_w, length_l, h0, h1)


@triton.jit
def head_exo_pair_f_divergence_type_alpha_divergence(policy_w, policy_l, reference_w, reference_l, length_w, length_l, beta, f_alpha_divergence_coef, label_smoothing):
    v0 = policy_w - reference_w
    v1 = f_alpha_divergence_coef - 1.0
    v2 = v1 * v0
    v3 = tl.minimum(v2, 80.0)
    v4 = tl.exp(v3)
    v5 = v4 - 1.0
    v6 = v5 / v1
    v7 = policy_l - reference_l
    v8 = v1 * v7
    v9 = tl.minimum(v8, 80.0)
    v10 = tl.exp(v9)
    v11 = v10 - 1.0
    v12 = v11 / v1
    v13 = v6 - v12
    v14 = beta * v13
    v15 = sigmoid(v14)
    v16 = log_sigmoid(v14)
    v17 = 1.0 - label_smoothing
    v18 = tl.log(v17)
    v19 = v16 - v18
    v20 = v15 * v19
    v21 = -v14
    v22 = sigmoid(v21)
    v23 = log_sigmoid(v21)
    v24 = tl.log(label_smoothing)
    v25 = v23 - v24
    v26 = v22 * v25
    v27 = v20 + v26
    v28 = v22 * v15
    v29 = -v28
    v30 = 1.0 - v22
    v31 = v22 * v30
    v32 = v25 * v31
    v33 = -v32
    v34 = v29 + v33
    v35 = v15 * v22
    v36 = v34 + v35
    v37 = 1.0 - v15
    v38 = v15 * v37
    v39 = v19 * v38
    v40 = v36 + v39
    v41 = v40 * beta
    v42 = -v41
    v43 = v42 / v1
    v44 = v43 * v10
    v45 = v8 <= 80.0
    v46 = tl.where(v45, v44, 0.0)
    v47 = v46 * v1
    v48 = v41 / v1
    v49 = v48 * v4
    v50 = v2 <= 80.0
    v51 = tl.where(v50, v49, 0.0)
    v52 = v51 * v1
    return v27, v52, v47


@triton.jit
def item_exo_pair_f_divergence_type_alpha_divergence(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1, h2, h3, h4, number):
    return head_exo_pair_f_divergence_type_alpha_divergence(policy_w, policy_l, reference_w, reference_l, length_w, length_l, h0, h1, h2)


@triton.jit
def head_discopop(policy_w, policy_l, reference_w, reference_l, length_w, length_l, beta, discopop_tau):
    v0 = policy_w - reference_w
    v1 = policy_l - reference_l
    v2 = v0 - v1
    v3 = beta * v2
    v4 = v3 / discopop_tau
    v5 = -v4
    v6 = sigmoid(v5)
    v7 = -v3
    v8 = log_sigmoid(v3)
    v9 = -v8
    v10 = v6 * v9
    v11 = log_sigmoid(v4)
    v12 = v11 - v3
    v13 = tl.minimum(v12, 80.0)
    v14 = tl.exp(v13)
    v15 = v10 + v14
    v16 = v12 <= 80.0
    v17 = tl.where(v16, v14, 0.0)
    v18 = -v17
    v19 = v17 * v6
    v20 = -v6
    v21 = sigmoid(v7)
    v22 = v20 * v21
    v24 = v18 + v22
    v25 = 1.0 - v6
    v26 = v6 * v25
    v27 = v9 * v26
    v28 = -v27
    v29 = v19 + v28
    v30 = v29 / discopop_tau
    v31 = v24 + v30
    v32 = v31 * beta
    v33 = -v32
    return v15, v32, v33


@triton.jit
def item_discopop(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1, h2, h3, h4, number):
    return head_discopop(policy_w, policy_l, reference_w, reference_l, length_w, length_l, h0, h1)


@triton.jit
def head_discopop_f_divergence_type_forward_kl(policy_w, policy_l, reference_w, reference_l, length_w, length_l, beta, discopop_tau):
    v0 = policy_w - reference_w
    v1 = -v0
    v2 = tl.minimum(v1, 80.0)
    v3 = tl.exp(v2)
    v4 = 1.0 - v3
    v5 = policy_l - reference_l
    v6 = -v5
    v7 = tl.minimum(v6, 80.0)
    v8 = tl.exp(v7)
    v9 = 1.0 - v8
    v10 = v4 - v9
    v11 = beta * v10
    v12 = v11 / discopop_tau
    v13 = -v12
    v14 = sigmoid(v13)
    v15 = -v11
    v16 = log_sigmoid(v11)
    v17 = -v16
    v18 = v14 * v17
    v19 = log_sigmoid(v12)
    v20 = v19 - v11
    v21 = tl.minimum(v20, 80.0)
    v22 = tl.exp(v21)
    v23 = v18 + v22
    v24 = v20 <= 80.0
    v25 = tl.where(v24, v22, 0.0)
    v26 = -v25
    v27 = v25 * v14
    v28 = -v14
    v29 = sigmoid(v15)
    v30 = v28 * v29
    v32 = v26 + v30
    v33 = 1.0 - v14
    v34 = v14 * v33
    v35 = v17 * v34
    v36 = -v35
    v37 = v27 + v36
    v38 = v37 / discopop_tau
    v39 = v32 + v38
    v40 = v39 * beta
    v41 = -v40
    v42 = v40 * v8
    v43 = v6 <= 80.0
    v44 = tl.where(v43, v42, 0.0)
    v45 = -v44
    v46 = v41 * v3
    v47 = v1 <= 80.0
    v48 = tl.where(v47, v46, 0.0)
    v49 = -v48
    return v23, v49, v45


@triton.jit
def item_discopop_f_divergence_type_forward_kl(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1, h2, h3, h4, number):
    return head_discopop_f_divergence_type_forward_kl(policy_w, policy_l, reference_w, reference_l, length_w, length_l, h0, h1)


@triton.jit
def head_discopop_f_divergence_type_js_divergence(policy_w, policy_l, reference_w, reference_l, length_w, length_l, beta, discopop_tau):
    v0 = policy_w - reference_w
    v1 = log_sigmoid(v0)
    v2 = v1 + 0.6931471805599453
    v3 = policy_l - reference_l
    v4 = log_sigmoid(v3)
    v5 = v4 + 0.6931471805599453
    v6 = v2 - v5
    v7 = beta * v6
    v8 = v7 / discopop_tau
    v9 = -v8
    v10 = sigmoid(v9)
    v11 = -v7
    v12 = log_sigmoid(v7)
    v13 = -v12
    v14 = v10 * v13
    v15 = log_sigmoid(v8)
    v16 = v15 - v7
    v17 = tl.minimum(v16, 80.0)
    v18 = tl.exp(v17)
    v19 = v14 + v18
    v20 = v16 <= 80.0
    v21 = tl.where(v20, v18, 0.0)
    v22 = -v21
    v23 = v21 * v10
    v24 = -v10
    v25 = sigmoid(v11)
    v26 = v24 * v25
    v28 = v22 + v26
    v29 = 1.0 - v10
    v30 = v10 * v29
    v31 = v13 * v30
    v32 = -v31
    v33 = v23 + v32
    v34 = v33 / discopop_tau
    v35 = v28 + v34
    v36 = v35 * beta
    v37 = -v36
    v38 = -v3
    v39 = sigmoid(v38)
    v40 = v37 * v39
    v41 = -v0
    v42 = sigmoid(v41)
    v43 = v36 * v42
    return v19, v43, v40


@triton.jit
def item_discopop_f_divergence_type_js_divergence(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1, h2, h3, h4, number):
    return head_discopop_f_divergence_type_js_divergence(policy_w, policy_l, reference_w, reference_l, length_w, length_l, h0, h1)


@triton.jit
def head_discopop_f_divergence_type_alpha_divergence(policy_w, policy_l, reference_w, reference_l, length_w, length_l, beta, f_alpha_divergence_coef, discopop_tau):
    v0 = policy_w - reference_w
    v1 = f_alpha_divergence_coef - 1.0
    v2 = v1 * v0
    v3 = tl.minimum(v2, 80.0)
    v4 = tl.exp(v3)
    v5 = v4 - 1.0
    v6 = v5 / v1
    v7 = policy_l - reference_l
    v8 = v1 * v7
    v9 = tl.minimum(v8, 80.0)
    v10 = tl.exp(v9)
    v11 = v10 - 1.0
    v12 = v11 / v1
    v13 = v6 - v12
    v14 = beta * v13
    v15 = v14 / discopop_tau
    v16 = -v15
    v17 = sigmoid(v16)
    v18 = -v14
    v19 = log_sigmoid(v14)
    v20 = -v19
    v21 = v17 * v20
    v22 = log_sigmoid(v15)
    v23 = v22 - v14
    v24 = tl.minimum(v23, 80.0)
    v25 = tl.exp(v24)
    v26 = v21 + v25
    v27 = v23 <= 80.0
    v28 = tl.where(v27, v25, 0.0)
    v29 = -v28
    v30 = v28 * v17
    v31 = -v17
    v32 = sigmoid(v18)
    v33 = v31 * v32
    v35 = v29 + v33
    v36 = 1.0 - v17
    v37 = v17 * v36
    v38 = v20 * v37
    v39 = -v38
    v40 = v30 + v39
    v41 = v40 / discopop_tau
    v42 = v35 + v41
    v43 = v42 * beta
    v44 = -v43
    v45 = v44 / v1
    v46 = v45 * v10
    v47 = v8 <= 80.0
    v48 = tl.where(v47, v46, 0.0)
    v49 = v48 * v1
    v50 = v43 / v1
    v51 = v50 * v4
    v52 = v2 <= 80.0
    v53 = tl.where(v52, v51, 0.0)
    v54 = v53 * v1
    return v26, v54, v49


@triton.jit
def item_discopop_f_divergence_type_alpha_divergence(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1, h2, h3, h4, number):
    return head_discopop_f_divergence_type_alpha_divergence(policy_w, policy_l, reference_w, reference_l, length_w, length_l, h0, h1, h2)


@triton.jit
def head_gpo_exponential(policy_w, policy_l, reference_w, reference_l, length_w, length_l, beta):
    v0 = policy_w - reference_w
    v1 = policy_l - reference_l
    v2 = v0 - v1
    v3 = beta * v2
    v4 = -v3
    v5 = tl.minimum(v4, 80.0)
    v6 = tl.exp(v5)
    v7 = v4 <= 80.0
    v8 = tl.where(v7, v6, 0.0)
    v9 = -v8
    v10 = v9 * beta
    v11 = -v10
    return v6, v10, v11


@triton.jit
def item_gpo_exponential(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1, h2, h3, h4, number):
    return head_gpo_exponential(policy_w, policy_l, reference_w, reference_l, length_w, length_l, h0)


@triton.jit
def head_gpo_squared(policy_w, policy_l, reference_w, reference_l, length_w, length_l, beta):
    v0 = policy_w - reference_w
    v1 = policy_l - reference_l
    v2 = v0 - v1
    v3 = beta * v2
    v4 = v3 - 1.0
    v5 = v4 * v4
    v6 = v4 * 2.0
    v7 = v6 * beta
    v8 = -v7
    return v5, v7, v8


@triton.jit
def item_gpo_squared(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1, h2, h3, h4, number):
    return head_gpo_squared(policy_w, policy_l, reference_w, reference_l, length_w, length_l, h0)


@triton.jit
def head_gpo_truncated_squared(policy_w, policy_l, reference_w, reference_l, length_w, length_l, beta):
    v0 = policy_w - reference_w
    v1 = policy_l - reference_l
    v2 = v0 - v1
    v3 = beta * v2
    v4 = 1.0 - v3
    v5 = tl.maximum(v4, 0.0)
    v6 = v5 * v5
    v7 = v5 * 2.0
    v8 = v5 > 0.0
    v9 = tl.where(v8, v7, 0.0)
    v10 = -v9
    v11 = v10 * beta
    v12 = -v11
    return v6, v11, v12


@triton.jit
def item_gpo_truncated_squared(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1, h2, h3, h4, number):
    return head_gpo_truncated_squared(policy_w, policy_l, reference_w, reference_l, length_w, length_l, h0)


@triton.jit
def head_gpo_savage(policy_w, policy_l, reference_w, reference_l, length_w, length_l, beta):
    v0 = policy_w - reference_w
    v1 = policy_l - reference_l
    v2 = v0 - v1
    v3 = beta * v2
    v4 = -v3
    v5 = sigmoid(v4)
    v6 = v5 * v5
    v7 = v5 * 2.0
    v8 = 1.0 - v5
    v9 = v5 * v8
    v10 = v7 * v9
    v11 = -v10
    v12 = v11 * beta
    v13 = -v12
    return v6, v12, v13


@triton.jit
def item_gpo_savage(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1, h2, h3, h4, number):
    return head_gpo_savage(policy_w, policy_l, reference_w, reference_l, length_w, length_l, h0)


@triton.jit
def head_rpo_fwd_kl(policy_w, policy_l, reference_w, reference_l, length_w, length_l, rewards_w, rewards_l, beta, gt_reward_scale):
    v0 = policy_w - reference_w
    v1 = policy_l - reference_l
    v2 = v0 - v1
    v3 = beta * v2
    v4 = rewards_w - rewards_l
    v5 = gt_reward_scale * v4
    v6 = sigmoid(v3)
    v7 = log_sigmoid(v3)
    v8 = log_sigmoid(v5)
    v9 = v7 - v8
    v10 = v6 * v9
    v11 = -v3
    v12 = sigmoid(v11)
    v13 = log_sigmoid(v11)
    v14 = -v5
    v15 = log_sigmoid(v14)
    v16 = v13 - v15
    v17 = v12 * v16
    v18 = v10 + v17
    v19 = v12 * v6
    v20 = -v19
    v21 = 1.0 - v12
    v22 = v12 * v21
    v23 = v16 * v22
    v24 = -v23
    v25 = v20 + v24
    v26 = v6 * v12
    v27 = v25 + v26
    v28 = 1.0 - v6
    v29 = v6 * v28
    v30 = v9 * v29
    v31 = v27 + v30
    v32 = v31 * beta
    v33 = -v32
    return v18, v32, v33


@triton.jit
def item_rpo_fwd_kl(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1, h2, h3, h4, number):
    return head_rpo_fwd_kl(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1)


@triton.jit
def head_r_dpo(policy_w, policy_l, reference_w, reference_l, length_w, length_l, beta, alpha):
    v0 = policy_w - reference_w
    v1 = policy_l - reference_l
    v2 = v0 - v1
    v3 = beta * v2
    v4 = length_w - length_l
    v5 = alpha * v4
    v6 = v3 + v5
    v7 = -v6
    v8 = log_sigmoid(v6)
    v9 = -v8
    v10 = sigmoid(v7)
    v11 = -v10
    v12 = v11 * beta
    v13 = -v12
    return v9, v12, v13


@triton.jit
def item_r_dpo(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1, h2, h3, h4, number):
    return head_r_dpo(policy_w, policy_l, reference_w, reference_l, length_w, length_l, h0, h1)


@triton.jit
def head_ipo(policy_w, policy_l, reference_w, reference_l, length_w, length_l, beta):
    v0 = policy_w - reference_w
    v1 = v0 / length_w
    v2 = policy_l - reference_l
    v3 = v2 / length_l
    v4 = v1 - v3
    v5 = beta * 2.0
    v6 = 1.0 / v5
    v7 = v4 - v6
    v8 = v7 * v7
    v9 = v7 * 2.0
    v10 = -v9
    v11 = v10 / length_l
    v12 = v9 / length_w
    return v8, v12, v11


@triton.jit
def item_ipo(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1, h2, h3, h4, number):
    return head_ipo(policy_w, policy_l, reference_w, reference_l, length_w, length_l, h0)


@triton.jit
def head_ipo_f_divergence_type_forward_kl(policy_w, policy_l, reference_w, reference_l, length_w, length_l, beta):
    v0 = policy_w - reference_w
    v1 = -v0
    v2 = tl.minimum(v1, 80.0)
    v3 = tl.exp(v2)
    v4 = 1.0 - v3
    v5 = v4 / length_w
    v6 = policy_l - reference_l
    v7 = -v6
    v8 = tl.minimum(v7, 80.0)
    v9 = tl.exp(v8)
    v10 = 1.0 - v9
    v11 = v10 / length_l
    v12 = v5 - v11
    v13 = beta * 2.0
    v14 = 1.0 / v13
    v15 = v12 - v14
    v16 = v15 * v15
    v17 = v15 * 2.0
    v18 = -v17
    v19 = v18 / length_l
    v20 = -v19
    v21 = v20 * v9
    v22 = v7 <= 80.0
    v23 = tl.where(v22, v21, 0.0)
    v24 = -v23
    v25 = v17 / length_w
    v26 = -v25
    v27 = v26 * v3
    v28 = v1 <= 80.0
    v29 = tl.where(v28, v27, 0.0)
    v30 = -v29
    return v16, v30, v24


@triton.jit
def item_ipo_f_divergence_type_forward_kl(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1, h2, h3, h4, number):
    return head_ipo_f_divergence_type_forward_kl(policy_w, policy_l, reference_w, reference_l, length_w, length_l, h0)


@triton.jit
def head_ipo_f_divergence_type_js_divergence(policy_w, policy_l, reference_w, reference_l, length_w, length_l, beta):
    v0 = policy_w - reference_w
    v1 = log_sigmoid(v0)
    v2 = v1 + 0.6931471805599453
    v3 = v2 / length_w
    v4 = policy_l - reference_l
    v5 = log_sigmoid(v4)
    v6 = v5 + 0.6931471805599453
    v7 = v6 / length_l
    v8 = v3 - v7
    v9 = beta * 2.0
    v10 = 1.0 / v9
    v11 = v8 - v10
    v12 = v11 * v11
    v13 = v11 * 2.0
    v14 = -v13
    v15 = v14 / length_l
    v16 = -v4
    v17 = sigmoid(v16)
    v18 = v15 * v17
    v19 = v13 / length_w
    v20 = -v0
    v21 = sigmoid(v20)
    v22 = v19 * v21
    return v12, v22, v18


@triton.jit
def item_ipo_f_divergence_type_js_divergence(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1, h2, h3, h4, number):
    return head_ipo_f_divergence_type_js_divergence(policy_w, policy_l, reference_w, reference_l, length_w, length_l, h0)


@triton.jit
def head_ipo_f_divergence_type_alpha_divergence(policy_w, policy_l, reference_w, reference_l, length_w, length_l, beta, f_alpha_divergence_coef):
    v0 = policy_w - reference_w
    v1 = f_alpha_divergence_coef - 1.0
    v2 = v1 * v0
    v3 = tl.minimum(v2, 80.0)
    v4 = tl.exp(v3)
    v5 = v4 - 1.0
    v6 = v5 / v1
    v7 = v6 / length_w
    v8 = policy_l - reference_l
    v9 = v1 * v8
    v10 = tl.minimum(v9, 80.0)
    v11 = tl.exp(v10)
    v12 = v11 - 1.0
    v13 = v12 / v1
    v14 = v13 / length_l
    v15 = v7 - v14
    v16 = beta * 2.0
    v17 = 1.0 / v16
    v18 = v15 - v17
    v19 = v18 * v18
    v20 = v18 * 2.0
    v21 = -v20
    v22 = v21 / length_l
    v23 = v22 / v1
    v24 = v23 * v11
    v25 = v9 <= 80.0
    v26 = tl.where(v25, v24, 0.0)
    v27 = v26 * v1
    v28 = v20 / length_w
    v29 = v28 / v1
    v30 = v29 * v4
    v31 = v2 <= 80.0
    v32 = tl.where(v31, v30, 0.0)
    v33 = v32 * v1
    return v19, v33, v27


@triton.jit
def item_ipo_f_divergence_type_alpha_divergence(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1, h2, h3, h4, number):
    return head_ipo_f_divergence_type_alpha_divergence(policy_w, policy_l, reference_w, reference_l, length_w, length_l, h0, h1)


@triton.jit
def head_ipo_sum(policy_w, policy_l, reference_w, reference_l, length_w, length_l, beta):
    v0 = policy_w - reference_w
    v1 = policy_l - reference_l
    v2 = v0 - v1
    v3 = beta * 2.0
    v4 = 1.0 / v3
    v5 = v2 - v4
    v6 = v5 * v5
    v7 = v5 * 2.0
    v8 = -v7
    return v6, v7, v8


@triton.jit
def item_ipo_sum(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1, h2, h3, h4, number):
    return head_ipo_sum(policy_w, policy_l, reference_w, reference_l, length_w, length_l, h0)


@triton.jit
def head_rebel(policy_w, policy_l, reference_w, reference_l, length_w, length_l, rewards_w, rewards_l, eta):
    v0 = policy_w - reference_w
    v1 = policy_l - reference_l
    v2 = v0 - v1
    v3 = rewards_w - rewards_l
    v4 = eta * v3
    v5 = v2 - v4
    v6 = v5 * v5
    v7 = v5 * 2.0
    v8 = -v7
    return v6, v7, v8


@triton.jit
def item_rebel(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1, h2, h3, h4, number):
    return head_rebel(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0)


@triton.jit
def head_sigmoid_norm(policy_w, policy_l, reference_w, reference_l, length_w, length_l, beta):
    v0 = -beta
    v1 = policy_w - reference_w
    v2 = v1 / length_w
    v3 = policy_l - reference_l
    v4 = v3 / length_l
    v5 = v2 - v4
    v6 = v0 * v5
    v7 = -v6
    v8 = log_sigmoid(v7)
    v9 = -v8
    v10 = sigmoid(v6)
    v12 = v10 * v0
    v13 = -v12
    v14 = v13 / length_l
    v15 = v12 / length_w
    return v9, v15, v14


@triton.jit
def item_sigmoid_norm(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1, h2, h3, h4, number):
    return head_sigmoid_norm(policy_w, policy_l, reference_w, reference_l, length_w, length_l, h0)


@triton.jit
def head_sigmoid_norm_f_divergence_type_forward_kl(policy_w, policy_l, reference_w, reference_l, length_w, length_l, beta):
    v0 = -beta
    v1 = policy_w - reference_w
    v2 = -v1
    v3 = tl.minimum(v2, 80.0)
    v4 = tl.exp(v3)
    v5 = 1.0 - v4
    v6 = v5 / length_w
    v7 = policy_l - reference_l
    v8 = -v7
    v9 = tl.minimum(v8, 80.0)
    v10 = tl.exp(v9)
    v11 = 1.0 - v10
    v12 = v11 / length_l
    v13 = v6 - v12
    v14 = v0 * v13
    v15 = -v14
    v16 = log_sigmoid(v15)
    v17 = -v16
    v18 = sigmoid(v14)
    v20 = v18 * v0
    v21 = -v20
    v22 = v21 / length_l
    v23 = -v22
    v24 = v23 * v10
    v25 = v8 <= 80.0
    v26 = tl.where(v25, v24, 0.0)
    v27 = -v26
    v28 = v20 / length_w
    v29 = -v28
    v30 = v29 * v4
    v31 = v2 <= 80.0
    v32 = tl.where(v31, v30, 0.0)
    v33 = -v32
    return v17, v33, v27


@triton.jit
def item_sigmoid_norm_f_divergence_type_forward_kl(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1, h2, h3, h4, number):
    return head_sigmoid_norm_f_divergence_type_forward_kl(policy_w, policy_l, reference_w, reference_l, length_w, length_l, h0)


@triton.jit
def head_sigmoid_norm_f_divergence_type_js_divergence(policy_w, policy_l, reference_w, reference_l, length_w, length_l, beta):
    v0 = -beta
    v1 = policy_w - reference_w
    v2 = log_sigmoid(v1)
    v3 = v2 + 0.6931471805599453
    v4 = v3 / length_w
    v5 = policy_l - reference_l
    v6 = log_sigmoid(v5)
    v7 = v6 + 0.6931471805599453
    v8 = v7 / length_l
    v9 = v4 - v8
    v10 = v0 * v9
    v11 = -v10
    v12 = log_sigmoid(v11)
    v13 = -v12
    v14 = sigmoid(v10)
    v16 = v14 * v0
    v17 = -v16
    v18 = v17 / length_l
    v19 = -v5
    v20 = sigmoid(v19)
    v21 = v18 * v20
    v22 = v16 / length_w
    v23 = -v1
    v24 = sigmoid(v23)
    v25 = v22 * v24
    return v13, v25, v21


@triton.jit
def item_sigmoid_norm_f_divergence_type_js_divergence(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1, h2, h3, h4, number):
    return head_sigmoid_norm_f_divergence_type_js_divergence(policy_w, policy_l, reference_w, reference_l, length_w, length_l, h0)


@triton.jit
def head_sigmoid_norm_f_divergence_type_alpha_divergence(policy_w, policy_l, reference_w, reference_l, length_w, length_l, beta, f_alpha_divergence_coef):
    v0 = -beta
    v1 = policy_w - reference_w
    v2 = f_alpha_divergence_coef - 1.0
    v3 = v2 * v1
    v4 = tl.minimum(v3, 80.0)
    v5 = tl.exp(v4)
    v6 = v5 - 1.0
    v7 = v6 / v2
    v8 = v7 / length_w
    v9 = policy_l - reference_l
    v10 = v2 * v9
    v11 = tl.minimum(v10, 80.0)
    v12 = tl.exp(v11)
    v13 = v12 - 1.0
    v14 = v13 / v2
    v15 = v14 / length_l
    v16 = v8 - v15
    v17 = v0 * v16
    v18 = -v17
    v19 = log_sigmoid(v18)
    v20 = -v19
    v21 = sigmoid(v17)
    v23 = v21 * v0
    v24 = -v23
    v25 = v24 / length_l
    v26 = v25 / v2
    v27 = v26 * v12
    v28 = v10 <= 80.0
    v29 = tl.where(v28, v27, 0.0)
    v30 = v29 * v2
    v31 = v23 / length_w
    v32 = v31 / v2
    v33 = v32 * v5
    v34 = v3 <= 80.0
    v35 = tl.where(v34, v33, 0.0)
    v36 = v35 * v2
    return v20, v36, v30


@triton.jit
def item_sigmoid_norm_f_divergence_type_alpha_divergence(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1, h2, h3, h4, number):
    return head_sigmoid_norm_f_divergence_type_alpha_divergence(policy_w, policy_l, reference_w, reference_l, length_w, length_l, h0, h1)


@triton.jit
def head_nca_pair(policy_w, policy_l, reference_w, reference_l, length_w, length_l, beta):
    v0 = policy_w - reference_w
    v1 = beta * v0
    v2 = policy_l - reference_l
    v3 = beta * v2
    v4 = -v1
    v5 = log_sigmoid(v1)
    v6 = -v5
    v7 = log_sigmoid(v4)
    v8 = -v7
    v9 = v8 * 0.5
    v10 = v6 + v9
    v11 = -v3
    v12 = log_sigmoid(v11)
    v13 = -v12
    v14 = v13 * 0.5
    v15 = v10 + v14
    v16 = sigmoid(v3)
    v17 = -0.5 * v16
    v18 = -v17
    v19 = sigmoid(v1)
    v20 = -0.5 * v19
    v21 = -v20
    v22 = sigmoid(v4)
    v23 = -v22
    v24 = v21 + v23
    v25 = v18 * beta
    v26 = v24 * beta
    return v15, v26, v25


@triton.jit
def item_nca_pair(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1, h2, h3, h4, number):
    return head_nca_pair(policy_w, policy_l, reference_w, reference_l, length_w, length_l, h0)


@triton.jit
def head_bco_pair(policy_w, policy_l, reference_w, reference_l, length_w, length_l, beta):
    v0 = -beta
    v1 = policy_w - reference_w
    v2 = v0 * v1
    v3 = -v2
    v4 = log_sigmoid(v3)
    v5 = -v4
    v6 = policy_l - reference_l
    v7 = beta * v6
    v8 = -v7
    v9 = log_sigmoid(v8)
    v10 = -v9
    v11 = v5 + v10
    v12 = sigmoid(v7)
    v14 = v12 * beta
    v15 = sigmoid(v2)
    v17 = v15 * v0
    return v11, v17, v14


@triton.jit
def item_bco_pair(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1, h2, h3, h4, number):
    return head_bco_pair(policy_w, policy_l, reference_w, reference_l, length_w, length_l, h0)


@triton.jit
def head_apo_zero(policy_w, policy_l, reference_w, reference_l, length_w, length_l, beta):
    v0 = -beta
    v1 = policy_w - reference_w
    v2 = v0 * v1
    v3 = sigmoid(v2)
    v4 = policy_l - reference_l
    v5 = beta * v4
    v6 = sigmoid(v5)
    v7 = v3 + v6
    v8 = 1.0 - v6
    v9 = v6 * v8
    v10 = v9 * beta
    v11 = 1.0 - v3
    v12 = v3 * v11
    v13 = v12 * v0
    return v7, v13, v10


@triton.jit
def item_apo_zero(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1, h2, h3, h4, number):
    return head_apo_zero(policy_w, policy_l, reference_w, reference_l, length_w, length_l, h0)


@triton.jit
def head_apo_down(policy_w, policy_l, reference_w, reference_l, length_w, length_l, beta):
    v0 = policy_w - reference_w
    v1 = policy_l - reference_l
    v2 = beta * v0
    v3 = sigmoid(v2)
    v4 = -beta
    v5 = v0 - v1
    v6 = v4 * v5
    v7 = sigmoid(v6)
    v8 = v3 + v7
    v9 = 1.0 - v7
    v10 = v7 * v9
    v11 = v10 * v4
    v12 = -v11
    v13 = 1.0 - v3
    v14 = v3 * v13
    v15 = v14 * beta
    v16 = v11 + v15
    return v8, v16, v12


@triton.jit
def item_apo_down(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1, h2, h3, h4, number):
    return head_apo_down(policy_w, policy_l, reference_w, reference_l, length_w, length_l, h0)


@triton.jit
def head_sppo_hard(policy_w, policy_l, reference_w, reference_l, length_w, length_l, beta):
    v0 = beta * 2.0
    v1 = 1.0 / v0
    v2 = policy_w - reference_w
    v3 = v2 - v1
    v4 = v3 * v3
    v5 = policy_l - reference_l
    v6 = v5 + v1
    v7 = v6 * v6
    v8 = v4 + v7
    v9 = v6 * 2.0
    v10 = v3 * 2.0
    return v8, v10, v9


@triton.jit
def item_sppo_hard(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1, h2, h3, h4, number):
    return head_sppo_hard(policy_w, policy_l, reference_w, reference_l, length_w, length_l, h0)


@triton.jit
def head_sppo(policy_w, policy_l, reference_w, reference_l, length_w, length_l, win_probs_w, win_probs_l, beta):
    v0 = policy_w - reference_w
    v1 = win_probs_w - 0.5
    v2 = v1 / beta
    v3 = v0 - v2
    v4 = v3 * v3
    v5 = v4 * 0.5
    v6 = policy_l - reference_l
    v7 = win_probs_l - 0.5
    v8 = v7 / beta
    v9 = v6 - v8
    v10 = v9 * v9
    v11 = v10 * 0.5
    v12 = v5 + v11
    v13 = v9 * 2.0
    v14 = 0.5 * v13
    v15 = v3 * 2.0
    v16 = 0.5 * v15
    return v12, v16, v14


@triton.jit
def item_sppo(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1, h2, h3, h4, number):
    return head_sppo(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0)


@triton.jit
def head_dpop(policy_w, policy_l, reference_w, reference_l, length_w, length_l, beta, dpop_lambda):
    v0 = policy_w - reference_w
    v1 = -beta
    v2 = policy_l - reference_l
    v3 = v0 - v2
    v4 = -v0
    v5 = tl.maximum(v4, 0.0)
    v6 = dpop_lambda * v5
    v7 = v3 - v6
    v8 = v1 * v7
    v9 = -v8
    v10 = log_sigmoid(v9)
    v11 = -v10
    v12 = sigmoid(v8)
    v14 = v12 * v1
    v15 = -v14
    v16 = v15 * dpop_lambda
    v17 = v5 > 0.0
    v18 = tl.where(v17, v16, 0.0)
    v19 = -v18
    v20 = v19 + v14
    return v11, v20, v15


@triton.jit
def item_dpop(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1, h2, h3, h4, number):
    return head_dpop(policy_w, policy_l, reference_w, reference_l, length_w, length_l, h0, h1)


@triton.jit
def head_cpo(policy_w, policy_l, reference_w, reference_l, length_w, length_l, beta, cpo_alpha, label_smoothing, mean_chosen_length):
    v0 = policy_w - policy_l
    v1 = beta * v0
    v2 = 1.0 - label_smoothing
    v3 = -v1
    v4 = log_sigmoid(v1)
    v5 = -v4
    v6 = v2 * v5
    v7 = log_sigmoid(v3)
    v8 = -v7
    v9 = label_smoothing * v8
    v10 = v6 + v9
    v11 = -policy_w
    v12 = v11 / mean_chosen_length
    v13 = cpo_alpha * v12
    v14 = v10 + v13
    v15 = cpo_alpha / mean_chosen_length
    v16 = -v15
    v17 = -label_smoothing
    v18 = sigmoid(v1)
    v19 = v17 * v18
    v20 = -v19
    v21 = -v2
    v22 = sigmoid(v3)
    v23 = v21 * v22
    v25 = v20 + v23
    v26 = v25 * beta
    v27 = -v26
    v28 = v16 + v26
    return v14, v28, v27


@triton.jit
def item_cpo(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1, h2, h3, h4, number):
    return head_cpo(policy_w, policy_l, reference_w, reference_l, length_w, length_l, h0, h1, h2, number)


@triton.jit
def head_cpo_loss_type_hinge(policy_w, policy_l, reference_w, reference_l, length_w, length_l, beta, cpo_alpha, mean_chosen_length):
    v0 = policy_w - policy_l
    v1 = beta * v0
    v2 = 1.0 - v1
    v3 = tl.maximum(v2, 0.0)
    v4 = -policy_w
    v5 = v4 / mean_chosen_length
    v6 = cpo_alpha * v5
    v7 = v3 + v6
    v8 = cpo_alpha / mean_chosen_length
    v9 = -v8
    v10 = v3 > 0.0
    v11 = tl.where(v10, 1.0, 0.0)
    v12 = -v11
    v13 = v12 * beta
    v14 = -v13
    v15 = v9 + v13
    return v7, v15, v14


@triton.jit
def item_cpo_loss_type_hinge(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1, h2, h3, h4, number):
    return head_cpo_loss_type_hinge(policy_w, policy_l, reference_w, reference_l, length_w, length_l, h0, h1, number)


@triton.jit
def head_cpo_loss_type_ipo(policy_w, policy_l, reference_w, reference_l, length_w, length_l, beta, cpo_alpha, mean_chosen_length):
    v0 = policy_w / length_w
    v1 = policy_l / length_l
    v2 = v0 - v1
    v3 = beta * 2.0
    v4 = 1.0 / v3
    v5 = v2 - v4
    v6 = v5 * v5
    v7 = -policy_w
    v8 = v7 / mean_chosen_length
    v9 = cpo_alpha * v8
    v10 = v6 + v9
    v11 = cpo_alpha / mean_chosen_length
    v12 = -v11
    v13 = v5 * 2.0
    v14 = -v13
    v15 = v14 / length_l
    v16 = v13 / length_w
    v17 = v12 + v16
    return v10, v17, v15


@triton.jit
def item_cpo_loss_type_ipo(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1, h2, h3, h4, number):
    return head_cpo_loss_type_ipo(policy_w, policy_l, reference_w, reference_l, length_w, length_l, h0, h1, number)


@triton.jit
def head_simpo(policy_w, policy_l, reference_w, reference_l, length_w, length_l, beta, cpo_alpha, label_smoothing, simpo_gamma, mean_chosen_length):
    v0 = policy_w / length_w
    v1 = policy_l / length_l
    v2 = v0 - v1
    v3 = beta * v2
    v4 = v3 - simpo_gamma
    v5 = 1.0 - label_smoothing
    v6 = -v4
    v7 = log_sigmoid(v4)
    v8 = -v7
    v9 = v5 * v8
    v10 = log_sigmoid(v6)
    v11 = -v10
    v12 = label_smoothing * v11
    v13 = v9 + v12
    v14 = -policy_w
    v15 = v14 / mean_chosen_length
    v16 = cpo_alpha * v15
    v17 = v13 + v16
    v18 = cpo_alpha / mean_chosen_length
    v19 = -v18
    v20 = -label_smoothing
    v21 = sigmoid(v4)
    v22 = v20 * v21
    v23 = -v22
    v24 = -v5
    v25 = sigmoid(v6)
    v26 = v24 * v25
    v28 = v23 + v26
    v29 = v28 * beta
    v30 = -v29
    v31 = v30 / length_l
    v32 = v29 / length_w
    v33 = v19 + v32
    return v17, v33, v31


@triton.jit
def item_simpo(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1, h2, h3, h4, number):
    return head_simpo(policy_w, policy_l, reference_w, reference_l, length_w, length_l, h0, h1, h2, h3, number)


@triton.jit
def head_alphapo(policy_w, policy_l, reference_w, reference_l, length_w, length_l, beta, cpo_alpha, label_smoothing, simpo_gamma, alpha, mean_chosen_length):
    v0 = -alpha
    v1 = policy_w / length_w
    v2 = v0 * v1
    v3 = tl.minimum(v2, 80.0)
    v4 = expm1(v3)
    v5 = -v4
    v6 = v5 / alpha
    v7 = policy_l / length_l
    v8 = v0 * v7
    v9 = tl.minimum(v8, 80.0)
    v10 = expm1(v9)
    v11 = -v10
    v12 = v11 / alpha
    v13 = v6 - v12
    v14 = beta * v13
    v15 = v14 - simpo_gamma
    v16 = 1.0 - label_smoothing
    v17 = -v15
    v18 = log_sigmoid(v15)
    v19 = -v18
    v20 = v16 * v19
    v21 = log_sigmoid(v17)
    v22 = -v21
    v23 = label_smoothing * v22
    v24 = v20 + v23
    v25 = -policy_w
    v26 = v25 / mean_chosen_length
    v27 = cpo_alpha * v26
    v28 = v24 + v27
    v29 = cpo_alpha / mean_chosen_length
    v30 = -v29
    v31 = -label_smoothing
    v32 = sigmoid(v15)
    v33 = v31 * v32
    v34 = -v33
    v35 = -v16
    v36 = sigmoid(v17)
    v37 = v35 * v36
    v39 = v34 + v37
    v40 = v39 * beta
    v41 = -v40
    v42 = v41 / alpha
    v43 = -v42
    v44 = v10 + 1.0
    v45 = v43 * v44
    v46 = v8 <= 80.0
    v47 = tl.where(v46, v45, 0.0)
    v48 = v47 * v0
    v49 = v48 / length_l
    v50 = v40 / alpha
    v51 = -v50
    v52 = v4 + 1.0
    v53 = v51 * v52
    v54 = v2 <= 80.0
    v55 = tl.where(v54, v53, 0.0)
    v56 = v55 * v0
    v57 = v56 / length_w
    v58 = v30 + v57
    return v28, v58, v49


@triton.jit
def item_alphapo(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1, h2, h3, h4, number):
    return head_alphapo(policy_w, policy_l, reference_w, reference_l, length_w, length_l, h0, h1, h2, h3, h4, number)


@triton.jit
def head_orpo(policy_w, policy_l, reference_w, reference_l, length_w, length_l, beta, mean_chosen_length):
    v0 = -policy_w
    v1 = v0 / mean_chosen_length
    v2 = policy_w / length_w
    v3 = policy_l / length_l
    v4 = v2 - v3
    v5 = tl.minimum(v2, -1e-30)
    v6 = v5 > -0.6931471805599453
    v7 = tl.where(v6, v5, -1.0)
    v8 = tl.where(v6, -1.0, v5)
    v9 = expm1(v7)
    v10 = -v9
    v11 = tl.log(v10)
    v12 = tl.exp(v8)
    v13 = -v12
    v14 = log1p(v13)
    v15 = tl.where(v6, v11, v14)
    v16 = tl.minimum(v3, -1e-30)
    v17 = v16 > -0.6931471805599453
    v18 = tl.where(v17, v16, -1.0)
    v19 = tl.where(v17, -1.0, v16)
    v20 = expm1(v18)
    v21 = -v20
    v22 = tl.log(v21)
    v23 = tl.exp(v19)
    v24 = -v23
    v25 = log1p(v24)
    v26 = tl.where(v17, v22, v25)
    v27 = v15 - v26
    v28 = v4 - v27
    v29 = -v28
    v30 = log_sigmoid(v28)
    v31 = -v30
    v32 = beta * v31
    v33 = v1 + v32
    v34 = -beta
    v35 = sigmoid(v29)
    v36 = v34 * v35
    v37 = -v36
    v38 = tl.where(v17, 0.0, v36)
    v39 = tl.where(v17, v36, 0.0)
    v40 = v24 + 1.0
    v41 = v38 / v40
    v42 = -v41
    v43 = v42 * v23
    v44 = v39 / v21
    v45 = -v44
    v46 = v20 + 1.0
    v47 = v45 * v46
    v48 = tl.where(v17, 0.0, v43)
    v49 = tl.where(v17, v47, 0.0)
    v50 = v48 + v49
    v51 = v3 <= -1e-30
    v52 = tl.where(v51, v50, 0.0)
    v53 = tl.where(v6, 0.0, v37)
    v54 = tl.where(v6, v37, 0.0)
    v55 = v13 + 1.0
    v56 = v53 / v55
    v57 = -v56
    v58 = v57 * v12
    v59 = v54 / v10
    v60 = -v59
    v61 = v9 + 1.0
    v62 = v60 * v61
    v63 = tl.where(v6, 0.0, v58)
    v64 = tl.where(v6, v62, 0.0)
    v65 = v63 + v64
    v66 = v2 <= -1e-30
    v67 = tl.where(v66, v65, 0.0)
    v68 = v67 + v36
    v69 = v52 + v37
    v70 = v69 / length_l
    v71 = v68 / length_w
    v72 = 1.0 / mean_chosen_length
    v73 = -v72
    v74 = v71 + v73
    return v33, v74, v70


@triton.jit
def item_orpo(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1, h2, h3, h4, number):
    return head_orpo(policy_w, policy_l, reference_w, reference_l, length_w, length_l, h0, number)


@triton.jit
def head_slic_hf(policy_w, policy_l, reference_w, reference_l, length_w, length_l, sft_logps_w, sft_logps_l, delta, lambda_coef):
    v0 = delta - policy_w
    v1 = v0 + policy_l
    v2 = tl.maximum(v1, 0.0)
    v3 = lambda_coef * sft_logps_w
    v4 = v2 - v3
    v5 = v2 > 0.0
    v6 = tl.where(v5, 1.0, 0.0)
    v7 = -v6
    return v4, v7, v6


@triton.jit
def item_slic_hf(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1, h2, h3, h4, number):
    return head_slic_hf(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1)


@triton.jit
def head_xpo(policy_w, policy_l, reference_w, reference_l, length_w, length_l, from_reference_w, from_reference_l, beta, alpha):
    v0 = from_reference_w > 0.5
    v1 = from_reference_l > 0.5
    v2 = v0 * policy_w
    v3 = v1 * policy_l
    v4 = v2 + v3
    v5 = v4 * alpha
    v6 = -beta
    v7 = policy_w - reference_w
    v8 = policy_l - reference_l
    v9 = v7 - v8
    v10 = v6 * v9
    v11 = -v10
    v12 = log_sigmoid(v11)
    v13 = -v12
    v14 = v13 + v5
    v15 = sigmoid(v10)
    v17 = v15 * v6
    v18 = -v17
    v19 = alpha * v1
    v20 = v18 + v19
    v21 = alpha * v0
    v22 = v17 + v21
    return v14, v22, v20


@triton.jit
def item_xpo(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1, h2, h3, h4, number):
    return head_xpo(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1)


@triton.jit
def head_kto(policy, reference, length, desirable, beta, desirable_weight, undesirable_weight, mean_mismatched_log_ratio):
    v0 = desirable > 0.5
    v1 = policy - reference
    v2 = tl.maximum(mean_mismatched_log_ratio, 0.0)
    v3 = v1 - v2
    v4 = beta * v3
    v5 = -v4
    v6 = sigmoid(v5)
    v7 = desirable_weight * v6
    v8 = sigmoid(v4)
    v9 = undesirable_weight * v8
    v10 = tl.where(v0, v7, v9)
    v11 = tl.where(v0, 0.0, 1.0)
    v12 = tl.where(v0, 1.0, 0.0)
    v13 = v11 * undesirable_weight
    v14 = 1.0 - v8
    v15 = v8 * v14
    v16 = v13 * v15
    v17 = v12 * desirable_weight
    v18 = 1.0 - v6
    v19 = v6 * v18
    v20 = v17 * v19
    v21 = -v20
    v22 = v16 + v21
    v23 = v22 * beta
    return v10, v23


@triton.jit
def item_kto(policy, reference, length, x0, x1, x2, h0, h1, h2, h3, h4, number):
    return head_kto(policy, reference, length, x0, h0, h1, h2, number)


@triton.jit
def head_apo_zero_unpaired(policy, reference, length, desirable, beta, desirable_weight, undesirable_weight):
    v0 = desirable > 0.5
    v1 = policy - reference
    v2 = beta * v1
    v3 = -v2
    v4 = sigmoid(v3)
    v5 = desirable_weight * v4
    v6 = sigmoid(v2)
    v7 = undesirable_weight * v6
    v8 = tl.where(v0, v5, v7)
    v9 = tl.where(v0, 0.0, 1.0)
    v10 = tl.where(v0, 1.0, 0.0)
    v11 = v9 * undesirable_weight
    v12 = 1.0 - v6
    v13 = v6 * v12
    v14 = v11 * v13
    v15 = v10 * desirable_weight
    v16 = 1.0 - v4
    v17 = v4 * v16
    v18 = v15 * v17
    v19 = -v18
    v20 = v14 + v19
    v21 = v20 * beta
    return v8, v21


@triton.jit
def item_apo_zero_unpaired(policy, reference, length, x0, x1, x2, h0, h1, h2, h3, h4, number):
    return head_apo_zero_unpaired(policy, reference, length, x0, h0, h1, h2)


@triton.jit
def head_bda(policy, reference, length, rewards, baseline, old_logps, beta):
    v0 = policy - old_logps
    v1 = tl.maximum(v0, -20.0)
    v2 = tl.minimum(v1, 20.0)
    v3 = tl.exp(v2)
    v4 = rewards / beta
    v5 = policy - reference
    v6 = v4 - v5
    v7 = v6 + baseline
    v8 = -v3
    v9 = v8 * v7
    v10 = v8 * v6
    v11 = policy - policy
    v12 = v9 * v11
    v13 = v10 + v12
    return v13, v9


@triton.jit
def item_bda(policy, reference, length, x0, x1, x2, h0, h1, h2, h3, h4, number):
    return head_bda(policy, reference, length, x0, x1, x2, h0)


@triton.jit
def head_bda_kl_k2(policy, reference, length, rewards, baseline, old_logps, beta):
    v0 = policy - old_logps
    v1 = tl.maximum(v0, -20.0)
    v2 = tl.minimum(v1, 20.0)
    v3 = tl.exp(v2)
    v4 = policy - reference
    v5 = -v4
    v6 = v5 * 0.5
    v7 = v6 * v5
    v8 = rewards / beta
    v9 = v8 + baseline
    v10 = -v3
    v11 = v10 * v9
    v12 = v10 * v8
    v13 = policy - policy
    v14 = v11 * v13
    v15 = v12 + v14
    v16 = v3 * v7
    v17 = v15 + v16
    v18 = v3 * v6
    v19 = v3 * v5
    v20 = v19 * 0.5
    v21 = v18 + v20
    v22 = -v21
    v23 = v11 + v22
    return v17, v23


@triton.jit
def item_bda_kl_k2(policy, reference, length, x0, x1, x2, h0, h1, h2, h3, h4, number):
    return head_bda_kl_k2(policy, reference, length, x0, x1, x2, h0)


@triton.jit
def head_bda_kl_k3(policy, reference, length, rewards, baseline, old_logps, beta):
    v0 = policy - old_logps
    v1 = tl.maximum(v0, -20.0)
    v2 = tl.minimum(v1, 20.0)
    v3 = tl.exp(v2)
    v4 = policy - reference
    v5 = -v4
    v6 = tl.minimum(v5, 20.0)
    v7 = expm1(v6)
    v8 = tl.exp(v6)
    v9 = v5 - v6
    v10 = v8 * v9
    v11 = v7 + v10
    v12 = v11 - v5
    v13 = rewards / beta
    v14 = v13 + baseline
    v15 = -v3
    v16 = v15 * v14
    v17 = v15 * v13
    v18 = policy - policy
    v19 = v16 * v18
    v20 = v17 + v19
    v21 = v3 * v12
    v22 = v20 + v21
    v23 = v3 * v8
    v24 = v3 * v9
    v25 = -v23
    v26 = v15 + v23
    v27 = v24 * v8
    v28 = v25 + v27
    v29 = v7 + 1.0
    v30 = v3 * v29
    v31 = v28 + v30
    v32 = v5 <= 20.0
    v33 = tl.where(v32, v31, 0.0)
    v34 = v26 + v33
    v35 = -v34
    v36 = v16 + v35
    return v22, v36


@triton.jit
def item_bda_kl_k3(policy, reference, length, x0, x1, x2, h0, h1, h2, h3, h4, number):
    return head_bda_kl_k3(policy, reference, length, x0, x1, x2, h0)


@triton.jit
def head_bda_epsilon(policy, reference, length, rewards, baseline, old_logps, beta, epsilon):
    v0 = policy - old_logps
    v1 = tl.maximum(v0, -20.0)
    v2 = tl.minimum(v1, 20.0)
    v3 = tl.exp(v2)
    v4 = rewards / beta
    v5 = policy - reference
    v6 = v4 - v5
    v7 = v6 + baseline
    v8 = -v3
    v9 = v8 * v7
    v10 = 1.0 - epsilon
    v11 = v3 < v10
    v12 = v7 < 0.0
    v13 = v11 & v12
    v14 = epsilon + 1.0
    v15 = v3 > v14
    v16 = v7 > 0.0
    v17 = v15 & v16
    v18 = v13 | v17
    v19 = tl.where(v18, 0.0, v9)
    v20 = v8 * v6
    v21 = policy - policy
    v22 = v19 * v21
    v23 = v20 + v22
    return v23, v19


@triton.jit
def item_bda_epsilon(policy, reference, length, x0, x1, x2, h0, h1, h2, h3, h4, number):
    return head_bda_epsilon(policy, reference, length, x0, x1, x2, h0, h1)


@triton.jit
def head_ra(policy, reference, length, rewards, log_z, beta):
    v0 = policy - reference
    v1 = v0 + log_z
    v2 = beta * v1
    v3 = rewards - v2
    v4 = v3 * v3
    v5 = v3 * 2.0
    v6 = -v5
    v7 = v6 * beta
    return v4, v7


@triton.jit
def item_ra(policy, reference, length, x0, x1, x2, h0, h1, h2, h3, h4, number):
    return head_ra(policy, reference, length, x0, x1, h0)


@triton.jit
def head_dro_v(policy, reference, length, rewards, values, beta):
    v0 = policy - reference
    v1 = beta * v0
    v2 = rewards - values
    v3 = v2 - v1
    v4 = v3 * 0.5
    v5 = v4 * v3
    v6 = v4 + v4
    v7 = -v6
    v8 = v7 * beta
    return v5, v8


@triton.jit
def item_dro_v(policy, reference, length, x0, x1, x2, h0, h1, h2, h3, h4, number):
    return head_dro_v(policy, reference, length, x0, x1, h0)


@triton.jit
def head_dro_v_drop_beta(policy, reference, length, rewards, values, beta):
    v0 = policy - reference
    v1 = beta * v0
    v2 = v0 - v0
    v3 = v1 + v2
    v4 = rewards - values
    v5 = v4 - v3
    v6 = v5 * 0.5
    v7 = v6 * v5
    v8 = v6 + v6
    v9 = -v8
    return v7, v9


@triton.jit
def item_dro_v_drop_beta(policy, reference, length, x0, x1, x2, h0, h1, h2, h3, h4, number):
    return head_dro_v_drop_beta(policy, reference, length, x0, x1, h0)


@triton.jit
def head_qrpo(policy, reference, length, quantiles, beta):
    v0 = quantiles - 1.0
    v1 = tl.log(beta)
    v2 = 1.0 / beta
    v3 = -v2
    v4 = tl.minimum(v3, -1e-30)
    v5 = v4 > -0.6931471805599453
    v6 = tl.where(v5, v4, -1.0)
    v7 = tl.where(v5, -1.0, v4)
    v8 = expm1(v6)
    v9 = -v8
    v10 = tl.log(v9)
    v11 = tl.exp(v7)
    v12 = -v11
    v13 = log1p(v12)
    v14 = tl.where(v5, v10, v13)
    v15 = v1 + v14
    v16 = beta * v15
    v17 = v0 - v16
    v18 = policy - reference
    v19 = beta * v18
    v20 = v17 - v19
    v21 = v20 * v20
    v22 = v20 + v20
    v23 = -v22
    v24 = v23 * beta
    return v21, v24


@triton.jit
def item_qrpo(policy, reference, length, x0, x1, x2, h0, h1, h2, h3, h4, number):
    return head_qrpo(policy, reference, length, x0, h0)


@triton.jit
def head_qrpo_loss_abs(policy, reference, length, quantiles, beta):
    v0 = quantiles - 1.0
    v1 = tl.log(beta)
    v2 = 1.0 / beta
    v3 = -v2
    v4 = tl.minimum(v3, -1e-30)
    v5 = v4 > -0.6931471805599453
    v6 = tl.where(v5, v4, -1.0)
    v7 = tl.where(v5, -1.0, v4)
    v8 = expm1(v6)
    v9 = -v8
    v10 = tl.log(v9)
    v11 = tl.exp(v7)
    v12 = -v11
    v13 = log1p(v12)
    v14 = tl.where(v5, v10, v13)
    v15 = v1 + v14
    v16 = beta * v15
    v17 = v0 - v16
    v18 = policy - reference
    v19 = beta * v18
    v20 = v17 - v19
    v21 = tl.abs(v20)
    v22 = sign(v20)
    v23 = -v22
    v24 = v23 * beta
    return v21, v24


@triton.jit
def item_qrpo_loss_abs(policy, reference, length, x0, x1, x2, h0, h1, h2, h3, h4, number):
    return head_qrpo_loss_abs(policy, reference, length, x0, h0)


@triton.jit
def head_astar_po(policy, reference, length, rewards, values, beta2):
    v0 = policy - reference
    v1 = beta2 * v0
    v2 = rewards - values
    v3 = v1 - v2
    v4 = v3 * v3
    v5 = v3 * 2.0
    v6 = v5 * beta2
    return v4, v6


@triton.jit
def item_astar_po(policy, reference, length, x0, x1, x2, h0, h1, h2, h3, h4, number):
    return head_astar_po(policy, reference, length, x0, x1, h0)


@triton.jit
def head_una(policy, reference, length, rewards, beta):
    v0 = policy - reference
    v1 = beta * v0
    v2 = sigmoid(v1)
    v3 = v2 - rewards
    v4 = v3 * v3
    v5 = v3 * 2.0
    v6 = 1.0 - v2
    v7 = v2 * v6
    v8 = v5 * v7
    v9 = v8 * beta
    return v4, v9


@triton.jit
def item_una(policy, reference, length, x0, x1, x2, h0, h1, h2, h3, h4, number):
    return head_una(policy, reference, length, x0, h0)


@triton.jit
def head_una_mode_binary(policy, reference, length, desirable, beta):
    v0 = desirable > 0.5
    v1 = policy - reference
    v2 = beta * v1
    v3 = -v2
    v4 = tl.where(v0, v3, v2)
    v5 = -v4
    v6 = log_sigmoid(v5)
    v7 = -v6
    v8 = sigmoid(v4)
    v10 = tl.where(v0, 0.0, v8)
    v11 = tl.where(v0, v8, 0.0)
    v12 = -v11
    v13 = v10 + v12
    v14 = v13 * beta
    return v7, v14


@triton.jit
def item_una_mode_binary(policy, reference, length, x0, x1, x2, h0, h1, h2, h3, h4, number):
    return head_una_mode_binary(policy, reference, length, x0, h0)


@triton.jit
def head_ppo(policy, reference, advantages, values, old_values, returns, old_logps, cliprange, cliprange_value, vf_coef):
    v0 = policy - old_logps
    v1 = tl.maximum(v0, -20.0)
    v2 = tl.minimum(v1, 20.0)
    v3 = tl.exp(v2)
    v4 = 1.0 - cliprange
    v5 = v3 < v4
    v6 = advantages < 0.0
    v7 = v5 & v6
    v8 = cliprange + 1.0
    v9 = v3 > v8
    v10 = advantages > 0.0
    v11 = v9 & v10
    v12 = tl.where(v7, v4, v3)
    v13 = tl.where(v11, v8, v12)
    v14 = -v13
    v15 = v14 * advantages
    v16 = vf_coef * 0.5
    v17 = old_values - cliprange_value
    v18 = tl.maximum(values, v17)
    v19 = old_values + cliprange_value
    v20 = tl.minimum(v18, v19)
    v21 = v20 - returns
    v22 = v21 * v21
    v23 = values - returns
    v24 = v23 * v23
    v25 = v22 > v24
    v26 = tl.where(v25, v22, v24)
    v27 = v16 * v26
    v28 = v15 + v27
    v29 = -advantages
    v30 = tl.where(v11, 0.0, v29)
    v31 = tl.where(v7, 0.0, v30)
    v32 = v31 * v3
    v33 = v0 >= -20.0
    v34 = v0 <= 20.0
    v35 = v33 & v34
    v36 = tl.where(v35, v32, 0.0)
    return v28, v36


@triton.jit
def item_ppo(policy, reference, x0, x1, x2, x3, x4, h0, h1, h2, h3, h4, number):
    return head_ppo(policy, reference, x0, x1, x2, x3, x4, h0, h1, h2)


@triton.jit
def head_ppo_dual_clip(policy, reference, advantages, values, old_values, returns, old_logps, cliprange, cliprange_value, vf_coef, dual_clip):
    v0 = policy - old_logps
    v1 = tl.maximum(v0, -20.0)
    v2 = tl.minimum(v1, 20.0)
    v3 = tl.exp(v2)
    v4 = 1.0 - cliprange
    v5 = v3 < v4
    v6 = advantages < 0.0
    v7 = v5 & v6
    v8 = cliprange + 1.0
    v9 = v3 > v8
    v10 = advantages > 0.0
    v11 = v9 & v10
    v12 = tl.where(v7, v4, v3)
    v13 = tl.where(v11, v8, v12)
    v14 = v13 > dual_clip
    v15 = v14 & v6
    v16 = tl.where(v15, dual_clip, v13)
    v17 = -v16
    v18 = v17 * advantages
    v19 = vf_coef * 0.5
    v20 = old_values - cliprange_value
    v21 = tl.maximum(values, v20)
    v22 = old_values + cliprange_value
    v23 = tl.minimum(v21, v22)
    v24 = v23 - returns
    v25 = v24 * v24
    v26 = values - returns
    v27 = v26 * v26
    v28 = v25 > v27
    v29 = tl.where(v28, v25, v27)
    v30 = v19 * v29
    v31 = v18 + v30
    v32 = -advantages
    v33 = tl.where(v15, 0.0, v32)
    v34 = tl.where(v11, 0.0, v33)
    v35 = tl.where(v7, 0.0, v34)
    v36 = v35 * v3
    v37 = v0 >= -20.0
    v38 = v0 <= 20.0
    v39 = v37 & v38
    v40 = tl.where(v39, v36, 0.0)
    return v31, v40


@triton.jit
def item_ppo_dual_clip(policy, reference, x0, x1, x2, x3, x4, h0, h1, h2, h3, h4, number):
    return head_ppo_dual_clip(policy, reference, x0, x1, x2, x3, x4, h0, h1, h2, h3)


@triton.jit
def head_rloo(policy, reference, length, advantages, old_logps, epsilon):
    v0 = policy - old_logps
    v1 = tl.maximum(v0, -20.0)
    v2 = tl.minimum(v1, 20.0)
    v3 = tl.exp(v2)
    v4 = 1.0 - epsilon
    v5 = v3 < v4
    v6 = advantages < 0.0
    v7 = v5 & v6
    v8 = epsilon + 1.0
    v9 = v3 > v8
    v10 = advantages > 0.0
    v11 = v9 & v10
    v12 = tl.where(v7, v4, v3)
    v13 = tl.where(v11, v8, v12)
    v14 = -v13
    v15 = v14 * advantages
    v16 = -advantages
    v17 = tl.where(v11, 0.0, v16)
    v18 = tl.where(v7, 0.0, v17)
    v19 = v18 * v3
    v20 = v0 >= -20.0
    v21 = v0 <= 20.0
    v22 = v20 & v21
    v23 = tl.where(v22, v19, 0.0)
    return v15, v23


@triton.jit
def item_rloo(policy, reference, length, x0, x1, x2, h0, h1, h2, h3, h4, number):
    return head_rloo(policy, reference, length, x0, x1, h0)


@triton.jit
def head_rloo_epsilon_high(policy, reference, length, advantages, old_logps, epsilon, epsilon_high):
    v0 = policy - old_logps
    v1 = tl.maximum(v0, -20.0)
    v2 = tl.minimum(v1, 20.0)
    v3 = tl.exp(v2)
    v4 = 1.0 - epsilon
    v5 = v3 < v4
    v6 = advantages < 0.0
    v7 = v5 & v6
    v8 = epsilon_high + 1.0
    v9 = v3 > v8
    v10 = advantages > 0.0
    v11 = v9 & v10
    v12 = tl.where(v7, v4, v3)
    v13 = tl.where(v11, v8, v12)
    v14 = -v13
    v15 = v14 * advantages
    v16 = -advantages
    v17 = tl.where(v11, 0.0, v16)
    v18 = tl.where(v7, 0.0, v17)
    v19 = v18 * v3
    v20 = v0 >= -20.0
    v21 = v0 <= 20.0
    v22 = v20 & v21
    v23 = tl.where(v22, v19, 0.0)
    return v15, v23


@triton.jit
def item_rloo_epsilon_high(policy, reference, length, x0, x1, x2, h0, h1, h2, h3, h4, number):
    return head_rloo_epsilon_high(policy, reference, length, x0, x1, h0, h1)


@triton.jit
def head_grpo(policy, reference, advantages, old_logps, epsilon):
    v0 = policy - old_logps
    v1 = tl.maximum(v0, -20.0)
    v2 = tl.minimum(v1, 20.0)
    v3 = tl.exp(v2)
    v4 = 1.0 - epsilon
    v5 = v3 < v4
    v6 = advantages < 0.0
    v7 = v5 & v6
    v8 = epsilon + 1.0
    v9 = v3 > v8
    v10 = advantages > 0.0
    v11 = v9 & v10
    v12 = tl.where(v7, v4, v3)
    v13 = tl.where(v11, v8, v12)
    v14 = -v13
    v15 = v14 * advantages
    v16 = -advantages
    v17 = tl.where(v11, 0.0, v16)
    v18 = tl.where(v7, 0.0, v17)
    v19 = v18 * v3
    v20 = v0 >= -20.0
    v21 = v0 <= 20.0
    v22 = v20 & v21
    v23 = tl.where(v22, v19, 0.0)
    return v15, v23


@triton.jit
def item_grpo(policy, reference, x0, x1, x2, x3, x4, h0, h1, h2, h3, h4, number):
    return head_grpo(policy, reference, x0, x1, h0)


@triton.jit
def head_grpo_kl(policy, reference, advantages, old_logps, beta, epsilon):
    v0 = policy - old_logps
    v1 = tl.maximum(v0, -20.0)
    v2 = tl.minimum(v1, 20.0)
    v3 = tl.exp(v2)
    v4 = 1.0 - epsilon
    v5 = v3 < v4
    v6 = advantages < 0.0
    v7 = v5 & v6
    v8 = epsilon + 1.0
    v9 = v3 > v8
    v10 = advantages > 0.0
    v11 = v9 & v10
    v12 = tl.where(v7, v4, v3)
    v13 = tl.where(v11, v8, v12)
    v14 = -v13
    v15 = v14 * advantages
    v16 = reference - policy
    v17 = tl.minimum(v16, 20.0)
    v18 = expm1(v17)
    v19 = tl.exp(v17)
    v20 = v16 - v17
    v21 = v19 * v20
    v22 = v18 + v21
    v23 = v22 - v16
    v24 = v23 * v3
    v25 = beta * v24
    v26 = v15 + v25
    v27 = beta * v23
    v28 = beta * v3
    v29 = -v28
    v30 = v28 * v19
    v31 = v28 * v20
    v32 = -v30
    v33 = v29 + v30
    v34 = v31 * v19
    v35 = v32 + v34
    v36 = v18 + 1.0
    v37 = v28 * v36
    v38 = v35 + v37
    v39 = v16 <= 20.0
    v40 = tl.where(v39, v38, 0.0)
    v41 = v33 + v40
    v42 = -v41
    v43 = -advantages
    v44 = tl.where(v11, 0.0, v43)
    v45 = tl.where(v7, 0.0, v44)
    v46 = v27 + v45
    v47 = v46 * v3
    v48 = v0 >= -20.0
    v49 = v0 <= 20.0
    v50 = v48 & v49
    v51 = tl.where(v50, v47, 0.0)
    v52 = v42 + v51
    return v26, v52


@triton.jit
def item_grpo_kl(policy, reference, x0, x1, x2, x3, x4, h0, h1, h2, h3, h4, number):
    return head_grpo_kl(policy, reference, x0, x1, h0, h1)


@triton.jit
def head_grpo_epsilon_high(policy, reference, advantages, old_logps, epsilon, epsilon_high):
    v0 = policy - old_logps
    v1 = tl.maximum(v0, -20.0)
    v2 = tl.minimum(v1, 20.0)
    v3 = tl.exp(v2)
    v4 = 1.0 - epsilon
    v5 = v3 < v4
    v6 = advantages < 0.0
    v7 = v5 & v6
    v8 = epsilon_high + 1.0
    v9 = v3 > v8
    v10 = advantages > 0.0
    v11 = v9 & v10
    v12 = tl.where(v7, v4, v3)
    v13 = tl.where(v11, v8, v12)
    v14 = -v13
    v15 = v14 * advantages
    v16 = -advantages
    v17 = tl.where(v11, 0.0, v16)
    v18 = tl.where(v7, 0.0, v17)
    v19 = v18 * v3
    v20 = v0 >= -20.0
    v21 = v0 <= 20.0
    v22 = v20 & v21
    v23 = tl.where(v22, v19, 0.0)
    return v15, v23


@triton.jit
def item_grpo_epsilon_high(policy, reference, x0, x1, x2, x3, x4, h0, h1, h2, h3, h4, number):
    return head_grpo_epsilon_high(policy, reference, x0, x1, h0, h1)


@triton.jit
def head_grpo_delta(policy, reference, advantages, old_logps, epsilon, delta):
    v0 = policy - old_logps
    v1 = tl.maximum(v0, -20.0)
    v2 = tl.minimum(v1, 20.0)
    v3 = tl.exp(v2)
    v4 = 1.0 - epsilon
    v5 = v3 < v4
    v6 = advantages < 0.0
    v7 = v5 & v6
    v8 = epsilon + 1.0
    v9 = v3 > v8
    v10 = advantages > 0.0
    v11 = v9 & v10
    v12 = tl.where(v7, v4, v3)
    v13 = tl.where(v11, v8, v12)
    v14 = v13 > delta
    v15 = v14 & v6
    v16 = tl.where(v15, delta, v13)
    v17 = -v16
    v18 = v17 * advantages
    v19 = -advantages
    v20 = tl.where(v15, 0.0, v19)
    v21 = tl.where(v11, 0.0, v20)
    v22 = tl.where(v7, 0.0, v21)
    v23 = v22 * v3
    v24 = v0 >= -20.0
    v25 = v0 <= 20.0
    v26 = v24 & v25
    v27 = tl.where(v26, v23, 0.0)
    return v18, v27


@triton.jit
def item_grpo_delta(policy, reference, x0, x1, x2, x3, x4, h0, h1, h2, h3, h4, number):
    return head_grpo_delta(policy, reference, x0, x1, h0, h1)


@triton.jit
def head_grpo_dual_clip(policy, reference, advantages, old_logps, epsilon, dual_clip):
    v0 = policy - old_logps
    v1 = tl.maximum(v0, -20.0)
    v2 = tl.minimum(v1, 20.0)
    v3 = tl.exp(v2)
    v4 = 1.0 - epsilon
    v5 = v3 < v4
    v6 = advantages < 0.0
    v7 = v5 & v6
    v8 = epsilon + 1.0
    v9 = v3 > v8
    v10 = advantages > 0.0
    v11 = v9 & v10
    v12 = tl.where(v7, v4, v3)
    v13 = tl.where(v11, v8, v12)
    v14 = v13 > dual_clip
    v15 = v14 & v6
    v16 = tl.where(v15, dual_clip, v13)
    v17 = -v16
    v18 = v17 * advantages
    v19 = -advantages
    v20 = tl.where(v15, 0.0, v19)
    v21 = tl.where(v11, 0.0, v20)
    v22 = tl.where(v7, 0.0, v21)
    v23 = v22 * v3
    v24 = v0 >= -20.0
    v25 = v0 <= 20.0
    v26 = v24 & v25
    v27 = tl.where(v26, v23, 0.0)
    return v18, v27


@triton.jit
def item_grpo_dual_clip(policy, reference, x0, x1, x2, x3, x4, h0, h1, h2, h3, h4, number):
    return head_grpo_dual_clip(policy, reference, x0, x1, h0, h1)


@triton.jit
def head_grpo_kl_kl_estimator_k1(policy, reference, advantages, old_logps, beta, epsilon):
    v0 = policy - old_logps
    v1 = tl.maximum(v0, -20.0)
    v2 = tl.minimum(v1, 20.0)
    v3 = tl.exp(v2)
    v4 = 1.0 - epsilon
    v5 = v3 < v4
    v6 = advantages < 0.0
    v7 = v5 & v6
    v8 = epsilon + 1.0
    v9 = v3 > v8
    v10 = advantages > 0.0
    v11 = v9 & v10
    v12 = tl.where(v7, v4, v3)
    v13 = tl.where(v11, v8, v12)
    v14 = -v13
    v15 = v14 * advantages
    v16 = reference - policy
    v17 = -v16
    v18 = v17 * v3
    v19 = beta * v18
    v20 = v15 + v19
    v21 = beta * v17
    v22 = beta * v3
    v24 = -advantages
    v25 = tl.where(v11, 0.0, v24)
    v26 = tl.where(v7, 0.0, v25)
    v27 = v21 + v26
    v28 = v27 * v3
    v29 = v0 >= -20.0
    v30 = v0 <= 20.0
    v31 = v29 & v30
    v32 = tl.where(v31, v28, 0.0)
    v33 = v22 + v32
    return v20, v33


@triton.jit
def item_grpo_kl_kl_estimator_k1(policy, reference, x0, x1, x2, x3, x4, h0, h1, h2, h3, h4, number):
    return head_grpo_kl_kl_estimator_k1(policy, reference, x0, x1, h0, h1)


@triton.jit
def head_grpo_kl_kl_estimator_k2(policy, reference, advantages, old_logps, beta, epsilon):
    v0 = policy - old_logps
    v1 = tl.maximum(v0, -20.0)
    v2 = tl.minimum(v1, 20.0)
    v3 = tl.exp(v2)
    v4 = 1.0 - epsilon
    v5 = v3 < v4
    v6 = advantages < 0.0
    v7 = v5 & v6
    v8 = epsilon + 1.0
    v9 = v3 > v8
    v10 = advantages > 0.0
    v11 = v9 & v10
    v12 = tl.where(v7, v4, v3)
    v13 = tl.where(v11, v8, v12)
    v14 = -v13
    v15 = v14 * advantages
    v16 = reference - policy
    v17 = v16 * 0.5
    v18 = v17 * v16
    v19 = v18 * v3
    v20 = beta * v19
    v21 = v15 + v20
    v22 = beta * v3
    v23 = v22 * v17
    v24 = v22 * v16
    v25 = v24 * 0.5
    v26 = v23 + v25
    v27 = -v26
    v28 = -advantages
    v29 = tl.where(v11, 0.0, v28)
    v30 = tl.where(v7, 0.0, v29)
    v31 = v30 * v3
    v32 = v0 >= -20.0
    v33 = v0 <= 20.0
    v34 = v32 & v33
    v35 = tl.where(v34, v31, 0.0)
    v36 = v27 + v35
    return v21, v36


@triton.jit
def item_grpo_kl_kl_estimator_k2(policy, reference, x0, x1, x2, x3, x4, h0, h1, h2, h3, h4, number):
    return head_grpo_kl_kl_estimator_k2(policy, reference, x0, x1, h0, h1)


@triton.jit
def head_grpo_kl_use_bias_correction_kl(policy, reference, advantages, old_logps, beta, epsilon):
    v0 = policy - old_logps
    v1 = tl.maximum(v0, -20.0)
    v2 = tl.minimum(v1, 20.0)
    v3 = tl.exp(v2)
    v4 = 1.0 - epsilon
    v5 = v3 < v4
    v6 = advantages < 0.0
    v7 = v5 & v6
    v8 = epsilon + 1.0
    v9 = v3 > v8
    v10 = advantages > 0.0
    v11 = v9 & v10
    v12 = tl.where(v7, v4, v3)
    v13 = tl.where(v11, v8, v12)
    v14 = -v13
    v15 = v14 * advantages
    v16 = reference - policy
    v17 = tl.minimum(v16, 20.0)
    v18 = expm1(v17)
    v19 = tl.exp(v17)
    v20 = v16 - v17
    v21 = v19 * v20
    v22 = v18 + v21
    v23 = v22 - v16
    v24 = beta * v23
    v25 = v15 + v24
    v26 = -beta
    v27 = beta * v19
    v28 = beta * v20
    v29 = -v27
    v30 = v26 + v27
    v31 = v28 * v19
    v32 = v29 + v31
    v33 = v18 + 1.0
    v34 = beta * v33
    v35 = v32 + v34
    v36 = v16 <= 20.0
    v37 = tl.where(v36, v35, 0.0)
    v38 = v30 + v37
    v39 = -v38
    v40 = -advantages
    v41 = tl.where(v11, 0.0, v40)
    v42 = tl.where(v7, 0.0, v41)
    v43 = v42 * v3
    v44 = v0 >= -20.0
    v45 = v0 <= 20.0
    v46 = v44 & v45
    v47 = tl.where(v46, v43, 0.0)
    v48 = v39 + v47
    return v25, v48


@triton.jit
def item_grpo_kl_use_bias_correction_kl(policy, reference, x0, x1, x2, x3, x4, h0, h1, h2, h3, h4, number):
    return head_grpo_kl_use_bias_correction_kl(policy, reference, x0, x1, h0, h1)


@triton.jit
def head_grpo_kl_epsilon_high(policy, reference, advantages, old_logps, beta, epsilon, epsilon_high):
    v0 = policy - old_logps
    v1 = tl.maximum(v0, -20.0)
    v2 = tl.minimum(v1, 20.0)
    v3 = tl.exp(v2)
    v4 = 1.0 - epsilon
    v5 = v3 < v4
    v6 = advantages < 0.0
    v7 = v5 & v6
    v8 = epsilon_high + 1.0
    v9 = v3 > v8
    v10 = advantages > 0.0
    v11 = v9 & v10
    v12 = tl.where(v7, v4, v3)
    v13 = tl.where(v11, v8, v12)
    v14 = -v13
    v15 = v14 * advantages
    v16 = reference - policy
    v17 = tl.minimum(v16, 20.0)
    v18 = expm1(v17)
    v19 = tl.exp(v17)
    v20 = v16 - v17
    v21 = v19 * v20
    v22 = v18 + v21
    v23 = v22 - v16
    v24 = v23 * v3
    v25 = beta * v24
    v26 = v15 + v25
    v27 = beta * v23
    v28 = beta * v3
    v29 = -v28
    v30 = v28 * v19
    v31 = v28 * v20
    v32 = -v30
    v33 = v29 + v30
    v34 = v31 * v19
    v35 = v32 + v34
    v36 = v18 + 1.0
    v37 = v28 * v36
    v38 = v35 + v37
    v39 = v16 <= 20.0
    v40 = tl.where(v39, v38, 0.0)
    v41 = v33 + v40
    v42 = -v41
    v43 = -advantages
    v44 = tl.where(v11, 0.0, v43)
    v45 = tl.where(v7, 0.0, v44)
    v46 = v27 + v45
    v47 = v46 * v3
    v48 = v0 >= -20.0
    v49 = v0 <= 20.0
    v50 = v48 & v49
    v51 = tl.where(v50, v47, 0.0)
    v52 = v42 + v51
    return v26, v52


@triton.jit
def item_grpo_kl_epsilon_high(policy, reference, x0, x1, x2, x3, x4, h0, h1, h2, h3, h4, number):
    return head_grpo_kl_epsilon_high(policy, reference, x0, x1, h0, h1, h2)


@triton.jit
def head_grpo_kl_delta(policy, reference, advantages, old_logps, beta, epsilon, delta):
    v0 = policy - old_logps
    v1 = tl.maximum(v0, -20.0)
    v2 = tl.minimum(v1, 20.0)
    v3 = tl.exp(v2)
    v4 = 1.0 - epsilon
    v5 = v3 < v4
    v6 = advantages < 0.0
    v7 = v5 & v6
    v8 = epsilon + 1.0
    v9 = v3 > v8
    v10 = advantages > 0.0
    v11 = v9 & v10
    v12 = tl.where(v7, v4, v3)
    v13 = tl.where(v11, v8, v12)
    v14 = v13 > delta
    v15 = v14 & v6
    v16 = tl.where(v15, delta, v13)
    v17 = -v16
    v18 = v17 * advantages
    v19 = reference - policy
    v20 = tl.minimum(v19, 20.0)
    v21 = expm1(v20)
    v22 = tl.exp(v20)
    v23 = v19 - v20
    v24 = v22 * v23
    v25 = v21 + v24
    v26 = v25 - v19
    v27 = v26 * v3
    v28 = beta * v27
    v29 = v18 + v28
    v30 = beta * v26
    v31 = beta * v3
    v32 = -v31
    v33 = v31 * v22
    v34 = v31 * v23
    v35 = -v33
    v36 = v32 + v33
    v37 = v34 * v22
    v38 = v35 + v37
    v39 = v21 + 1.0
    v40 = v31 * v39
    v41 = v38 + v40
    v42 = v19 <= 20.0
    v43 = tl.where(v42, v41, 0.0)
    v44 = v36 + v43
    v45 = -v44
    v46 = -advantages
    v47 = tl.where(v15, 0.0, v46)
    v48 = tl.where(v11, 0.0, v47)
    v49 = tl.where(v7, 0.0, v48)
    v50 = v30 + v49
    v51 = v50 * v3
    v52 = v0 >= -20.0
    v53 = v0 <= 20.0
    v54 = v52 & v53
    v55 = tl.where(v54, v51, 0.0)
    v56 = v45 + v55
    return v29, v56


@triton.jit
def item_grpo_kl_delta(policy, reference, x0, x1, x2, x3, x4, h0, h1, h2, h3, h4, number):
    return head_grpo_kl_delta(policy, reference, x0, x1, h0, h1, h2)


@triton.jit
def head_grpo_kl_dual_clip(policy, reference, advantages, old_logps, beta, epsilon, dual_clip):
    v0 = policy - old_logps
    v1 = tl.maximum(v0, -20.0)
    v2 = tl.minimum(v1, 20.0)
    v3 = tl.exp(v2)
    v4 = 1.0 - epsilon
    v5 = v3 < v4
    v6 = advantages < 0.0
    v7 = v5 & v6
    v8 = epsilon + 1.0
    v9 = v3 > v8
    v10 = advantages > 0.0
    v11 = v9 & v10
    v12 = tl.where(v7, v4, v3)
    v13 = tl.where(v11, v8, v12)
    v14 = v13 > dual_clip
    v15 = v14 & v6
    v16 = tl.where(v15, dual_clip, v13)
    v17 = -v16
    v18 = v17 * advantages
    v19 = reference - policy
    v20 = tl.minimum(v19, 20.0)
    v21 = expm1(v20)
    v22 = tl.exp(v20)
    v23 = v19 - v20
    v24 = v22 * v23
    v25 = v21 + v24
    v26 = v25 - v19
    v27 = v26 * v3
    v28 = beta * v27
    v29 = v18 + v28
    v30 = beta * v26
    v31 = beta * v3
    v32 = -v31
    v33 = v31 * v22
    v34 = v31 * v23
    v35 = -v33
    v36 = v32 + v33
    v37 = v34 * v22
    v38 = v35 + v37
    v39 = v21 + 1.0
    v40 = v31 * v39
    v41 = v38 + v40
    v42 = v19 <= 20.0
    v43 = tl.where(v42, v41, 0.0)
    v44 = v36 + v43
    v45 = -v44
    v46 = -advantages
    v47 = tl.where(v15, 0.0, v46)
    v48 = tl.where(v11, 0.0, v47)
    v49 = tl.where(v7, 0.0, v48)
    v50 = v30 + v49
    v51 = v50 * v3
    v52 = v0 >= -20.0
    v53 = v0 <= 20.0
    v54 = v52 & v53
    v55 = tl.where(v54, v51, 0.0)
    v56 = v45 + v55
    return v29, v56


@triton.jit
def item_grpo_kl_dual_clip(policy, reference, x0, x1, x2, x3, x4, h0, h1, h2, h3, h4, number):
    return head_grpo_kl_dual_clip(policy, reference, x0, x1, h0, h1, h2)


@triton.jit
def head_cispo(policy, reference, advantages, old_logps, epsilon_high):
    v0 = policy - old_logps
    v1 = tl.maximum(v0, -20.0)
    v2 = tl.minimum(v1, 20.0)
    v3 = tl.exp(v2)
    v4 = tl.minimum(v3, epsilon_high)
    v5 = -v4
    v6 = v5 * advantages
    v7 = v6 * policy
    return v7, v6


@triton.jit
def item_cispo(policy, reference, x0, x1, x2, x3, x4, h0, h1, h2, h3, h4, number):
    return head_cispo(policy, reference, x0, x1, h0)


@triton.jit
def head_cispo_kl(policy, reference, advantages, old_logps, beta, epsilon_high):
    v0 = policy - old_logps
    v1 = tl.maximum(v0, -20.0)
    v2 = tl.minimum(v1, 20.0)
    v3 = tl.exp(v2)
    v4 = tl.minimum(v3, epsilon_high)
    v5 = -v4
    v6 = v5 * advantages
    v7 = v6 * policy
    v8 = reference - policy
    v9 = tl.minimum(v8, 20.0)
    v10 = expm1(v9)
    v11 = tl.exp(v9)
    v12 = v8 - v9
    v13 = v11 * v12
    v14 = v10 + v13
    v15 = v14 - v8
    v16 = v15 * v3
    v17 = beta * v16
    v18 = v7 + v17
    v19 = beta * v15
    v20 = beta * v3
    v21 = -v20
    v22 = v20 * v11
    v23 = v20 * v12
    v24 = -v22
    v25 = v21 + v22
    v26 = v23 * v11
    v27 = v24 + v26
    v28 = v10 + 1.0
    v29 = v20 * v28
    v30 = v27 + v29
    v31 = v8 <= 20.0
    v32 = tl.where(v31, v30, 0.0)
    v33 = v25 + v32
    v34 = -v33
    v35 = v34 + v6
    v36 = v19 * v3
    v37 = v0 >= -20.0
    v38 = v0 <= 20.0
    v39 = v37 & v38
    v40 = tl.where(v39, v36, 0.0)
    v41 = v35 + v40
    return v18, v41


@triton.jit
def item_cispo_kl(policy, reference, x0, x1, x2, x3, x4, h0, h1, h2, h3, h4, number):
    return head_cispo_kl(policy, reference, x0, x1, h0, h1)


@triton.jit
def head_cispo_kl_kl_estimator_k1(policy, reference, advantages, old_logps, beta, epsilon_high):
    v0 = policy - old_logps
    v1 = tl.maximum(v0, -20.0)
    v2 = tl.minimum(v1, 20.0)
    v3 = tl.exp(v2)
    v4 = tl.minimum(v3, epsilon_high)
    v5 = -v4
    v6 = v5 * advantages
    v7 = v6 * policy
    v8 = reference - policy
    v9 = -v8
    v10 = v9 * v3
    v11 = beta * v10
    v12 = v7 + v11
    v13 = beta * v9
    v14 = beta * v3
    v16 = v14 + v6
    v17 = v13 * v3
    v18 = v0 >= -20.0
    v19 = v0 <= 20.0
    v20 = v18 & v19
    v21 = tl.where(v20, v17, 0.0)
    v22 = v16 + v21
    return v12, v22


@triton.jit
def item_cispo_kl_kl_estimator_k1(policy, reference, x0, x1, x2, x3, x4, h0, h1, h2, h3, h4, number):
    return head_cispo_kl_kl_estimator_k1(policy, reference, x0, x1, h0, h1)


@triton.jit
def head_cispo_kl_kl_estimator_k2(policy, reference, advantages, old_logps, beta, epsilon_high):
    v0 = policy - old_logps
    v1 = tl.maximum(v0, -20.0)
    v2 = tl.minimum(v1, 20.0)
    v3 = tl.exp(v2)
    v4 = tl.minimum(v3, epsilon_high)
    v5 = -v4
    v6 = v5 * advantages
    v7 = v6 * policy
    v8 = reference - policy
    v9 = v8 * 0.5
    v10 = v9 * v8
    v11 = v10 * v3
    v12 = beta * v11
    v13 = v7 + v12
    v14 = beta * v3
    v15 = v14 * v9
    v16 = v14 * v8
    v17 = v16 * 0.5
    v18 = v15 + v17
    v19 = -v18
    v20 = v19 + v6
    return v13, v20


@triton.jit
def item_cispo_kl_kl_estimator_k2(policy, reference, x0, x1, x2, x3, x4, h0, h1, h2, h3, h4, number):
    return head_cispo_kl_kl_estimator_k2(policy, reference, x0, x1, h0, h1)


@triton.jit
def head_cispo_kl_use_bias_correction_kl(policy, reference, advantages, old_logps, beta, epsilon_high):
    v0 = policy - old_logps
    v1 = tl.maximum(v0, -20.0)
    v2 = tl.minimum(v1, 20.0)
    v3 = tl.exp(v2)
    v4 = tl.minimum(v3, epsilon_high)
    v5 = -v4
    v6 = v5 * advantages
    v7 = v6 * policy
    v8 = reference - policy
    v9 = tl.minimum(v8, 20.0)
    v10 = expm1(v9)
    v11 = tl.exp(v9)
    v12 = v8 - v9
    v13 = v11 * v12
    v14 = v10 + v13
    v15 = v14 - v8
    v16 = beta * v15
    v17 = v7 + v16
    v18 = -beta
    v19 = beta * v11
    v20 = beta * v12
    v21 = -v19
    v22 = v18 + v19
    v23 = v20 * v11
    v24 = v21 + v23
    v25 = v10 + 1.0
    v26 = beta * v25
    v27 = v24 + v26
    v28 = v8 <= 20.0
    v29 = tl.where(v28, v27, 0.0)
    v30 = v22 + v29
    v31 = -v30
    v32 = v31 + v6
    return v17, v32


@triton.jit
def item_cispo_kl_use_bias_correction_kl(policy, reference, x0, x1, x2, x3, x4, h0, h1, h2, h3, h4, number):
    return head_cispo_kl_use_bias_correction_kl(policy, reference, x0, x1, h0, h1)


@triton.jit
def head_sapo(policy, reference, advantages, old_logps, sapo_temperature_pos, sapo_temperature_neg):
    v0 = policy - old_logps
    v1 = tl.maximum(v0, -20.0)
    v2 = tl.minimum(v1, 20.0)
    v3 = tl.exp(v2)
    v4 = advantages > 0.0
    v5 = tl.where(v4, sapo_temperature_pos, sapo_temperature_neg)
    v6 = -advantages
    v7 = v3 - 1.0
    v8 = v5 * v7
    v9 = sigmoid(v8)
    v10 = v6 * v9
    v11 = v10 * 4.0
    v12 = v11 / v5
    v13 = 1.0 / v5
    v14 = v13 * 4.0
    v15 = v14 * v6
    v16 = 1.0 - v9
    v17 = v9 * v16
    v18 = v15 * v17
    v19 = v18 * v5
    v20 = v19 * v3
    v21 = v0 >= -20.0
    v22 = v0 <= 20.0
    v23 = v21 & v22
    v24 = tl.where(v23, v20, 0.0)
    return v12, v24


@triton.jit
def item_sapo(policy, reference, x0, x1, x2, x3, x4, h0, h1, h2, h3, h4, number):
    return head_sapo(policy, reference, x0, x1, h0, h1)


@triton.jit
def head_sapo_kl(policy, reference, advantages, old_logps, beta, sapo_temperature_pos, sapo_temperature_neg):
    v0 = policy - old_logps
    v1 = tl.maximum(v0, -20.0)
    v2 = tl.minimum(v1, 20.0)
    v3 = tl.exp(v2)
    v4 = advantages > 0.0
    v5 = tl.where(v4, sapo_temperature_pos, sapo_temperature_neg)
    v6 = -advantages
    v7 = v3 - 1.0
    v8 = v5 * v7
    v9 = sigmoid(v8)
    v10 = v6 * v9
    v11 = v10 * 4.0
    v12 = v11 / v5
    v13 = reference - policy
    v14 = tl.minimum(v13, 20.0)
    v15 = expm1(v14)
    v16 = tl.exp(v14)
    v17 = v13 - v14
    v18 = v16 * v17
    v19 = v15 + v18
    v20 = v19 - v13
    v21 = v20 * v3
    v22 = beta * v21
    v23 = v12 + v22
    v24 = beta * v20
    v25 = beta * v3
    v26 = -v25
    v27 = v25 * v16
    v28 = v25 * v17
    v29 = -v27
    v30 = v26 + v27
    v31 = v28 * v16
    v32 = v29 + v31
    v33 = v15 + 1.0
    v34 = v25 * v33
    v35 = v32 + v34
    v36 = v13 <= 20.0
    v37 = tl.where(v36, v35, 0.0)
    v38 = v30 + v37
    v39 = -v38
    v40 = 1.0 / v5
    v41 = v40 * 4.0
    v42 = v41 * v6
    v43 = 1.0 - v9
    v44 = v9 * v43
    v45 = v42 * v44
    v46 = v45 * v5
    v47 = v24 + v46
    v48 = v47 * v3
    v49 = v0 >= -20.0
    v50 = v0 <= 20.0
    v51 = v49 & v50
    v52 = tl.where(v51, v48, 0.0)
    v53 = v39 + v52
    return v23, v53


@triton.jit
def item_sapo_kl(policy, reference, x0, x1, x2, x3, x4, h0, h1, h2, h3, h4, number):
    return head_sapo_kl(policy, reference, x0, x1, h0, h1, h2)


@triton.jit
def head_sapo_kl_kl_estimator_k1(policy, reference, advantages, old_logps, beta, sapo_temperature_pos, sapo_temperature_neg):
    v0 = policy - old_logps
    v1 = tl.maximum(v0, -20.0)
    v2 = tl.minimum(v1, 20.0)
    v3 = tl.exp(v2)
    v4 = advantages > 0.0
    v5 = tl.where(v4, sapo_temperature_pos, sapo_temperature_neg)
    v6 = -advantages
    v7 = v3 - 1.0
    v8 = v5 * v7
    v9 = sigmoid(v8)
    v10 = v6 * v9
    v11 = v10 * 4.0
    v12 = v11 / v5
    v13 = reference - policy
    v14 = -v13
    v15 = v14 * v3
    v16 = beta * v15
    v17 = v12 + v16
    v18 = beta * v14
    v19 = beta * v3
    v21 = 1.0 / v5
    v22 = v21 * 4.0
    v23 = v22 * v6
    v24 = 1.0 - v9
    v25 = v9 * v24
    v26 = v23 * v25
    v27 = v26 * v5
    v28 = v18 + v27
    v29 = v28 * v3
    v30 = v0 >= -20.0
    v31 = v0 <= 20.0
    v32 = v30 & v31
    v33 = tl.where(v32, v29, 0.0)
    v34 = v19 + v33
    return v17, v34


@triton.jit
def item_sapo_kl_kl_estimator_k1(policy, reference, x0, x1, x2, x3, x4, h0, h1, h2, h3, h4, number):
    return head_sapo_kl_kl_estimator_k1(policy, reference, x0, x1, h0, h1, h2)


@triton.jit
def head_sapo_kl_kl_estimator_k2(policy, reference, advantages, old_logps, beta, sapo_temperature_pos, sapo_temperature_neg):
    v0 = policy - old_logps
    v1 = tl.maximum(v0, -20.0)
    v2 = tl.minimum(v1, 20.0)
    v3 = tl.exp(v2)
    v4 = advantages > 0.0
    v5 = tl.where(v4, sapo_temperature_pos, sapo_temperature_neg)
    v6 = -advantages
    v7 = v3 - 1.0
    v8 = v5 * v7
    v9 = sigmoid(v8)
    v10 = v6 * v9
    v11 = v10 * 4.0
    v12 = v11 / v5
    v13 = reference - policy
    v14 = v13 * 0.5
    v15 = v14 * v13
    v16 = v15 * v3
    v17 = beta * v16
    v18 = v12 + v17
    v19 = beta * v3
    v20 = v19 * v14
    v21 = v19 * v13
    v22 = v21 * 0.5
    v23 = v20 + v22
    v24 = -v23
    v25 = 1.0 / v5
    v26 = v25 * 4.0
    v27 = v26 * v6
    v28 = 1.0 - v9
    v29 = v9 * v28
    v30 = v27 * v29
    v31 = v30 * v5
    v32 = v31 * v3
    v33 = v0 >= -20.0
    v34 = v0 <= 20.0
    v35 = v33 & v34
    v36 = tl.where(v35, v32, 0.0)
    v37 = v24 + v36
    return v18, v37


@triton.jit
def item_sapo_kl_kl_estimator_k2(policy, reference, x0, x1, x2, x3, x4, h0, h1, h2, h3, h4, number):
    return head_sapo_kl_kl_estimator_k2(policy, reference, x0, x1, h0, h1, h2)


@triton.jit
def head_sapo_kl_use_bias_correction_kl(policy, reference, advantages, old_logps, beta, sapo_temperature_pos, sapo_temperature_neg):
    v0 = policy - old_logps
    v1 = tl.maximum(v0, -20.0)
    v2 = tl.minimum(v1, 20.0)
    v3 = tl.exp(v2)
    v4 = advantages > 0.0
    v5 = tl.where(v4, sapo_temperature_pos, sapo_temperature_neg)
    v6 = -advantages
    v7 = v3 - 1.0
    v8 = v5 * v7
    v9 = sigmoid(v8)
    v10 = v6 * v9
    v11 = v10 * 4.0
    v12 = v11 / v5
    v13 = reference - policy
    v14 = tl.minimum(v13, 20.0)
    v15 = expm1(v14)
    v16 = tl.exp(v14)
    v17 = v13 - v14
    v18 = v16 * v17
    v19 = v15 + v18
    v20 = v19 - v13
    v21 = beta * v20
    v22 = v12 + v21
    v23 = -beta
    v24 = beta * v16
    v25 = beta * v17
    v26 = -v24
    v27 = v23 + v24
    v28 = v25 * v16
    v29 = v26 + v28
    v30 = v15 + 1.0
    v31 = beta * v30
    v32 = v29 + v31
    v33 = v13 <= 20.0
    v34 = tl.where(v33, v32, 0.0)
    v35 = v27 + v34
    v36 = -v35
    v37 = 1.0 / v5
    v38 = v37 * 4.0
    v39 = v38 * v6
    v40 = 1.0 - v9
    v41 = v9 * v40
    v42 = v39 * v41
    v43 = v42 * v5
    v44 = v43 * v3
    v45 = v0 >= -20.0
    v46 = v0 <= 20.0
    v47 = v45 & v46
    v48 = tl.where(v47, v44, 0.0)
    v49 = v36 + v48
    return v22, v49


@triton.jit
def item_sapo_kl_use_bias_correction_kl(policy, reference, x0, x1, x2, x3, x4, h0, h1, h2, h3, h4, number):
    return head_sapo_kl_use_bias_correction_kl(policy, reference, x0, x1, h0, h1, h2)


@triton.jit
def head_nash_md(policy, reference, win_probs, beta):
    v0 = policy - reference
    v1 = beta * v0
    v2 = win_probs - 0.5
    v3 = v1 - v2
    v4 = v3 * policy
    return v4, v3


@triton.jit
def item_nash_md(policy, reference, x0, x1, x2, x3, x4, h0, h1, h2, h3, h4, number):
    return head_nash_md(policy, reference, x0, h0)


@triton.jit
def head_nll(policy, reference, length, mean_length):
    v0 = -policy
    v1 = v0 / mean_length
    v2 = 1.0 / mean_length
    v3 = -v2
    return v1, v3


@triton.jit
def item_nll(policy, reference, length, x0, x1, x2, h0, h1, h2, h3, h4, number):
    return head_nll(policy, reference, length, number)


@triton.jit
def head_sft(policy_w, policy_l, reference_w, reference_l, length_w, length_l, mean_chosen_length):
    v0 = -policy_w
    v1 = v0 / mean_chosen_length
    v2 = 1.0 / mean_chosen_length
    v3 = -v2
    return v1, v3, 0.0


@triton.jit
def item_sft(policy_w, policy_l, reference_w, reference_l, length_w, length_l, x0_w, x0_l, h0, h1, h2, h3, h4, number):
    return head_sft(policy_w, policy_l, reference_w, reference_l, length_w, length_l, number)


HEADS = {
    "sigmoid": Head(item_sigmoid, "pair", (), ('beta',), None),
    "sigmoid_f_divergence_type_forward_kl": Head(item_sigmoid_f_divergence_type_forward_kl, "pair", (), ('beta',), None),
    "sigmoid_f_divergence_type_js_divergence": Head(item_sigmoid_f_divergence_type_js_divergence, "pair", (), ('beta',), None),
    "sigmoid_f_divergence_type_alpha_divergence": Head(item_sigmoid_f_divergence_type_alpha_divergence, "pair", (), ('beta', 'f_alpha_divergence_coef'), None),
    "rpo_bwd_kl": Head(item_rpo_bwd_kl, "pair", ('rewards',), ('beta', 'gt_reward_scale'), None),
    "rpo_sq": Head(item_rpo_sq, "pair", ('rewards',), ('beta', 'gt_reward_scale'), None),
    "cdpo": Head(item_cdpo, "pair", (), ('beta', 'label_smoothing'), None),
    "robust": Head(item_robust, "pair", (), ('beta', 'label_smoothing'), None),
    "robust_f_divergence_type_forward_kl": Head(item_robust_f_divergence_type_forward_kl, "pair", (), ('beta', 'label_smoothing'), None),
    "robust_f_divergence_type_js_divergence": Head(item_robust_f_divergence_type_js_divergence, "pair", (), ('beta', 'label_smoothing'), None),
    "robust_f_divergence_type_alpha_divergence": Head(item_robust_f_divergence_type_alpha_divergence, "pair", (), ('beta', 'f_alpha_divergence_coef', 'label_smoothing'), None),
    "hinge": Head(item_hinge, "pair", (), ('beta',), None),
    "hinge_f_divergence_type_forward_kl": Head(item_hinge_f_divergence_type_forward_kl, "pair", (), ('beta',), None),
    "hinge_f_divergence_type_js_divergence": Head(item_hinge_f_divergence_type_js_divergence, "pair", (), ('beta',), None),
    "hinge_f_divergence_type_alpha_divergence": Head(item_hinge_f_divergence_type_alpha_divergence, "pair", (), ('beta', 'f_alpha_divergence_coef'), None),
    "exo_pair": Head(item_exo_pair, "pair", (), ('beta', 'label_smoothing'), None),
    "exo_pair_f_divergence_type_forward_kl": Head(item_exo_pair_f_divergence_type_forward_kl, "pair", (), ('beta', 'label_smoothing'), None),
    "exo_pair_f_divergence_type_js_divergence": Head(item_exo_pair_f_divergence_type_js_divergence, "pair", (), ('beta', 'label_smoothing'), None),
    "exo_pair_f_divergence_type_alpha_divergence": Head(item_exo_pair_f_divergence_type_alpha_divergence, "pair", (), ('beta', 'f_alpha_divergence_coef', 'label_smoothing'), None),
    "discopop": Head(item_discopop, "pair", (), ('beta', 'discopop_tau'), None),
    "discopop_f_divergence_type_forward_kl": Head(item_discopop_f_divergence_type_forward_kl, "pair", (), ('beta', 'discopop_tau'), None),
    "discopop_f_divergence_type_js_divergence": Head(item_discopop_f_divergence_type_js_divergence, "pair", (), ('beta', 'discopop_tau'), None),
    "discopop_f_divergence_type_alpha_divergence": Head(item_discopop_f_divergence_type_alpha_divergence, "pair", (), ('beta', 'f_alpha_divergence_coef', 'discopop_tau'), None),
    "gpo_exponential": Head(item_gpo_exponential, "pair", (), ('beta',), None),
    "gpo_squared": Head(item_gpo_squared, "pair", (), ('beta',), None),
    "gpo_truncated_squared": Head(item_gpo_truncated_squared, "pair", (), ('beta',), None),
    "gpo_savage": Head(item_gpo_savage, "pair", (), ('beta',), None),
    "rpo_fwd_kl": Head(item_rpo_fwd_kl, "pair", ('rewards',), ('beta', 'gt_reward_scale'), None),
    "r_dpo": Head(item_r_dpo, "pair", (), ('beta', 'alpha'), None),
    "ipo": Head(item_ipo, "pair", (), ('beta',), None),
    "ipo_f_divergence_type_forward_kl": Head(item_ipo_f_divergence_type_forward_kl, "pair", (), ('beta',), None),
    "ipo_f_divergence_type_js_divergence": Head(item_ipo_f_divergence_type_js_divergence, "pair", (), ('beta',), None),
    "ipo_f_divergence_type_alpha_divergence": Head(item_ipo_f_divergence_type_alpha_divergence, "pair", (), ('beta', 'f_alpha_divergence_coef'), None),
    "ipo_sum": Head(item_ipo_sum, "pair", (), ('beta',), None),
    "rebel": Head(item_rebel, "pair", ('rewards',), ('eta',), None),
    "sigmoid_norm": Head(item_sigmoid_norm, "pair", (), ('beta',), None),
    "sigmoid_norm_f_divergence_type_forward_kl": Head(item_sigmoid_norm_f_divergence_type_forward_kl, "pair", (), ('beta',), None),
    "sigmoid_norm_f_divergence_type_js_divergence": Head(item_sigmoid_norm_f_divergence_type_js_divergence, "pair", (), ('beta',), None),
    "sigmoid_norm_f_divergence_type_alpha_divergence": Head(item_sigmoid_norm_f_divergence_type_alpha_divergence, "pair", (), ('beta', 'f_alpha_divergence_coef'), None),
    "nca_pair": Head(item_nca_pair, "pair", (), ('beta',), None),
    "bco_pair": Head(item_bco_pair, "pair", (), ('beta',), None),
    "apo_zero": Head(item_apo_zero, "pair", (), ('beta',), None),
    "apo_down": Head(item_apo_down, "pair", (), ('beta',), None),
    "sppo_hard": Head(item_sppo_hard, "pair", (), ('beta',), None),
    "sppo": Head(item_sppo, "pair", ('win_probs',), ('beta',), None),
    "dpop": Head(item_dpop, "pair", (), ('beta', 'dpop_lambda'), None),
    "cpo": Head(item_cpo, "pair", (), ('beta', 'cpo_alpha', 'label_smoothing'), 'mean_chosen_length'),
    "cpo_loss_type_hinge": Head(item_cpo_loss_type_hinge, "pair", (), ('beta', 'cpo_alpha'), 'mean_chosen_length'),
    "cpo_loss_type_ipo": Head(item_cpo_loss_type_ipo, "pair", (), ('beta', 'cpo_alpha'), 'mean_chosen_length'),
    "simpo": Head(item_simpo, "pair", (), ('beta', 'cpo_alpha', 'label_smoothing', 'simpo_gamma'), 'mean_chosen_length'),
    "alphapo": Head(item_alphapo, "pair", (), ('beta', 'cpo_alpha', 'label_smoothing', 'simpo_gamma', 'alpha'), 'mean_chosen_length'),
    "orpo": Head(item_orpo, "pair", (), ('beta',), 'mean_chosen_length'),
    "slic_hf": Head(item_slic_hf, "pair", ('sft_logps',), ('delta', 'lambda_coef'), None),
    "xpo": Head(item_xpo, "pair", ('from_reference',), ('beta', 'alpha'), None),
    "kto": Head(item_kto, "sequence", ('desirable',), ('beta', 'desirable_weight', 'undesirable_weight'), 'mean_mismatched_log_ratio'),
    "apo_zero_unpaired": Head(item_apo_zero_unpaired, "sequence", ('desirable',), ('beta', 'desirable_weight', 'undesirable_weight'), None),
    "bda": Head(item_bda, "sequence", ('rewards', 'baseline', 'old_logps'), ('beta',), None),
    "bda_kl_k2": Head(item_bda_kl_k2, "sequence", ('rewards', 'baseline', 'old_logps'), ('beta',), None),
    "bda_kl_k3": Head(item_bda_kl_k3, "sequence", ('rewards', 'baseline', 'old_logps'), ('beta',), None),
    "bda_epsilon": Head(item_bda_epsilon, "sequence", ('rewards', 'baseline', 'old_logps'), ('beta', 'epsilon'), None),
    "ra": Head(item_ra, "sequence", ('rewards', 'log_z'), ('beta',), None),
    "dro_v": Head(item_dro_v, "sequence", ('rewards', 'values'), ('beta',), None),
    "dro_v_drop_beta": Head(item_dro_v_drop_beta, "sequence", ('rewards', 'values'), ('beta',), None),
    "qrpo": Head(item_qrpo, "sequence", ('quantiles',), ('beta',), None),
    "qrpo_loss_abs": Head(item_qrpo_loss_abs, "sequence", ('quantiles',), ('beta',), None),
    "astar_po": Head(item_astar_po, "sequence", ('rewards', 'values'), ('beta2',), None),
    "una": Head(item_una, "sequence", ('rewards',), ('beta',), None),
    "una_mode_binary": Head(item_una_mode_binary, "sequence", ('desirable',), ('beta',), None),
    "ppo": Head(item_ppo, "token", ('advantages', 'values', 'old_values', 'returns', 'old_logps'), ('cliprange', 'cliprange_value', 'vf_coef'), None),
    "ppo_dual_clip": Head(item_ppo_dual_clip, "token", ('advantages', 'values', 'old_values', 'returns', 'old_logps'), ('cliprange', 'cliprange_value', 'vf_coef', 'dual_clip'), None),
    "rloo": Head(item_rloo, "sequence", ('advantages', 'old_logps'), ('epsilon',), None),
    "rloo_epsilon_high": Head(item_rloo_epsilon_high, "sequence", ('advantages', 'old_logps'), ('epsilon', 'epsilon_high'), None),
    "grpo": Head(item_grpo, "token", ('advantages', 'old_logps'), ('epsilon',), None),
    "grpo_kl": Head(item_grpo_kl, "token", ('advantages', 'old_logps'), ('beta', 'epsilon'), None),
    "grpo_epsilon_high": Head(item_grpo_epsilon_high, "token", ('advantages', 'old_logps'), ('epsilon', 'epsilon_high'), None),
    "grpo_delta": Head(item_grpo_delta, "token", ('advantages', 'old_logps'), ('epsilon', 'delta'), None),
    "grpo_dual_clip": Head(item_grpo_dual_clip, "token", ('advantages', 'old_logps'), ('epsilon', 'dual_clip'), None),
    "grpo_kl_kl_estimator_k1": Head(item_grpo_kl_kl_estimator_k1, "token", ('advantages', 'old_logps'), ('beta', 'epsilon'), None),
    "grpo_kl_kl_estimator_k2": Head(item_grpo_kl_kl_estimator_k2, "token", ('advantages', 'old_logps'), ('beta', 'epsilon'), None),
    "grpo_kl_use_bias_correction_kl": Head(item_grpo_kl_use_bias_correction_kl, "token", ('advantages', 'old_logps'), ('beta', 'epsilon'), None),
    "grpo_kl_epsilon_high": Head(item_grpo_kl_epsilon_high, "token", ('advantages', 'old_logps'), ('beta', 'epsilon', 'epsilon_high'), None),
    "grpo_kl_delta": Head(item_grpo_kl_delta, "token", ('advantages', 'old_logps'), ('beta', 'epsilon', 'delta'), None),
    "grpo_kl_dual_clip": Head(item_grpo_kl_dual_clip, "token", ('advantages', 'old_logps'), ('beta', 'epsilon', 'dual_clip'), None),
    "cispo": Head(item_cispo, "token", ('advantages', 'old_logps'), ('epsilon_high',), None),
    "cispo_kl": Head(item_cispo_kl, "token", ('advantages', 'old_logps'), ('beta', 'epsilon_high'), None),
    "cispo_kl_kl_estimator_k1": Head(item_cispo_kl_kl_estimator_k1, "token", ('advantages', 'old_logps'), ('beta', 'epsilon_high'), None),
    "cispo_kl_kl_estimator_k2": Head(item_cispo_kl_kl_estimator_k2, "token", ('advantages', 'old_logps'), ('beta', 'epsilon_high'), None),
    "cispo_kl_use_bias_correction_kl": Head(item_cispo_kl_use_bias_correction_kl, "token", ('advantages', 'old_logps'), ('beta', 'epsilon_high'), None),
    "sapo": Head(item_sapo, "token", ('advantages', 'old_logps'), ('sapo_temperature_pos', 'sapo_temperature_neg'), None),
    "sapo_kl": Head(item_sapo_kl, "token", ('advantages', 'old_logps'), ('beta', 'sapo_temperature_pos', 'sapo_temperature_neg'), None),
    "sapo_kl_kl_estimator_k1": Head(item_sapo_kl_kl_estimator_k1, "token", ('advantages', 'old_logps'), ('beta', 'sapo_temperature_pos', 'sapo_temperature_neg'), None),
    "sapo_kl_kl_estimator_k2": Head(item_sapo_kl_kl_estimator_k2, "token", ('advantages', 'old_logps'), ('beta', 'sapo_temperature_pos', 'sapo_temperature_neg'), None),
    "sapo_kl_use_bias_correction_kl": Head(item_sapo_kl_use_bias_correction_kl, "token", ('advantages', 'old_logps'), ('beta', 'sapo_temperature_pos', 'sapo_temperature_neg'), None),
    "nash_md": Head(item_nash_md, "token", ('win_probs',), ('beta',), None),
    "nll": Head(item_nll, "sequence", (), (), 'mean_length'),
    "sft": Head(item_sft, "pair", (), (), 'mean_chosen_length'),
}

NAMES = {
    "sigmoid": "sigmoid",
    "sigmoid_ld_alpha": "sigmoid",
    "sigmoid_f_divergence_type_forward_kl": "sigmoid_f_divergence_type_forward_kl",
    "sigmoid_f_divergence_type_js_divergence": "sigmoid_f_divergence_type_js_divergence",
    "sigmoid_f_divergence_type_alpha_divergence": "sigmoid_f_divergence_type_alpha_divergence",
    "rpo_bwd_kl": "rpo_bwd_kl",
    "rpo_bwd_kl_ld_alpha": "rpo_bwd_kl",
    "rpo_sq": "rpo_sq",
    "rpo_sq_ld_alpha": "rpo_sq",
    "cdpo": "cdpo",
    "cdpo_ld_alpha": "cdpo",
    "robust": "robust",
    "robust_ld_alpha": "robust",
    "robust_f_divergence_type_forward_kl": "robust_f_divergence_type_forward_kl",
    "robust_f_divergence_type_js_divergence": "robust_f_divergence_type_js_divergence",
    "robust_f_divergence_type_alpha_divergence": "robust_f_divergence_type_alpha_divergence",
    "hinge": "hinge",
    "hinge_ld_alpha": "hinge",
    "hinge_f_divergence_type_forward_kl": "hinge_f_divergence_type_forward_kl",
    "hinge_f_divergence_type_js_divergence": "hinge_f_divergence_type_js_divergence",
    "hinge_f_divergence_type_alpha_divergence": "hinge_f_divergence_type_alpha_divergence",
    "exo_pair": "exo_pair",
    "exo_pair_ld_alpha": "exo_pair",
    "exo_pair_f_divergence_type_forward_kl": "exo_pair_f_divergence_type_forward_kl",
    "exo_pair_f_divergence_type_js_divergence": "exo_pair_f_divergence_type_js_divergence",
    "exo_pair_f_divergence_type_alpha_divergence": "exo_pair_f_divergence_type_alpha_divergence",
    "discopop": "discopop",
    "discopop_ld_alpha": "discopop",
    "discopop_f_divergence_type_forward_kl": "discopop_f_divergence_type_forward_kl",
    "discopop_f_divergence_type_js_divergence": "discopop_f_divergence_type_js_divergence",
    "discopop_f_divergence_type_alpha_divergence": "discopop_f_divergence_type_alpha_divergence",
    "gpo_exponential": "gpo_exponential",
    "gpo_exponential_ld_alpha": "gpo_exponential",
    "gpo_squared": "gpo_squared",
    "gpo_squared_ld_alpha": "gpo_squared",
    "gpo_truncated_squared": "gpo_truncated_squared",
    "gpo_truncated_squared_ld_alpha": "gpo_truncated_squared",
    "gpo_savage": "gpo_savage",
    "gpo_savage_ld_alpha": "gpo_savage",
    "rpo_fwd_kl": "rpo_fwd_kl",
    "rpo_fwd_kl_ld_alpha": "rpo_fwd_kl",
    "r_dpo": "r_dpo",
    "r_dpo_ld_alpha": "r_dpo",
    "ipo": "ipo",
    "ipo_ld_alpha": "ipo",
    "ipo_f_divergence_type_forward_kl": "ipo_f_divergence_type_forward_kl",
    "ipo_f_divergence_type_js_divergence": "ipo_f_divergence_type_js_divergence",
    "ipo_f_divergence_type_alpha_divergence": "ipo_f_divergence_type_alpha_divergence",
    "ipo_sum": "ipo_sum",
    "ipo_sum_ld_alpha": "ipo_sum",
    "rebel": "rebel",
    "sigmoid_norm": "sigmoid_norm",
    "sigmoid_norm_ld_alpha": "sigmoid_norm",
    "sigmoid_norm_f_divergence_type_forward_kl": "sigmoid_norm_f_divergence_type_forward_kl",
    "sigmoid_norm_f_divergence_type_js_divergence": "sigmoid_norm_f_divergence_type_js_divergence",
    "sigmoid_norm_f_divergence_type_alpha_divergence": "sigmoid_norm_f_divergence_type_alpha_divergence",
    "nca_pair": "nca_pair",
    "nca_pair_ld_alpha": "nca_pair",
    "bco_pair": "bco_pair",
    "bco_pair_ld_alpha": "bco_pair",
    "apo_zero": "apo_zero",
    "apo_zero_ld_alpha": "apo_zero",
    "apo_down": "apo_down",
    "apo_down_ld_alpha": "apo_down",
    "sppo_hard": "sppo_hard",
    "sppo_hard_ld_alpha": "sppo_hard",
    "sppo": "sppo",
    "dpop": "dpop",
    "cpo": "cpo",
    "cpo_loss_type_hinge": "cpo_loss_type_hinge",
    "cpo_loss_type_ipo": "cpo_loss_type_ipo",
    "simpo": "simpo",
    "alphapo": "alphapo",
    "orpo": "orpo",
    "slic_hf": "slic_hf",
    "xpo": "xpo",
    "kto": "kto",
    "apo_zero_unpaired": "apo_zero_unpaired",
    "bda": "bda",
    "bda_kl_k2": "bda_kl_k2",
    "bda_kl_k3": "bda_kl_k3",
    "bda_epsilon": "bda_epsilon",
    "ra": "ra",
    "dro_v": "dro_v",
    "dro_v_drop_beta": "dro_v_drop_beta",
    "qrpo": "qrpo",
    "qrpo_num_reference_samples": "qrpo",
    "qrpo_loss_abs": "qrpo_loss_abs",
    "astar_po": "astar_po",
    "una": "una",
    "una_binary_loss_square": "una",
    "una_mode_binary": "una_mode_binary",
    "ppo": "ppo",
    "ppo_dual_clip": "ppo_dual_clip",
    "rloo": "rloo",
    "rloo_epsilon_high": "rloo_epsilon_high",
    "grpo": "grpo",
    "grpo_kl_estimator_k1": "grpo",
    "grpo_kl_estimator_k2": "grpo",
    "grpo_use_bias_correction_kl": "grpo",
    "grpo_max_completion_length": "grpo",
    "grpo_kl": "grpo_kl",
    "grpo_kl_max_completion_length": "grpo_kl",
    "grpo_epsilon_high": "grpo_epsilon_high",
    "grpo_delta": "grpo_delta",
    "grpo_dual_clip": "grpo_dual_clip",
    "grpo_kl_kl_estimator_k1": "grpo_kl_kl_estimator_k1",
    "grpo_kl_kl_estimator_k2": "grpo_kl_kl_estimator_k2",
    "grpo_kl_use_bias_correction_kl": "grpo_kl_use_bias_correction_kl",
    "grpo_kl_epsilon_high": "grpo_kl_epsilon_high",
    "grpo_kl_delta": "grpo_kl_delta",
    "grpo_kl_dual_clip": "grpo_kl_dual_clip",
    "cispo": "cispo",
    "cispo_kl_estimator_k1": "cispo",
    "cispo_kl_estimator_k2": "cispo",
    "cispo_use_bias_correction_kl": "cispo",
    "cispo_max_completion_length": "cispo",
    "cispo_kl": "cispo_kl",
    "cispo_kl_max_completion_length": "cispo_kl",
    "cispo_kl_kl_estimator_k1": "cispo_kl_kl_estimator_k1",
    "cispo_kl_kl_estimator_k2": "cispo_kl_kl_estimator_k2",
    "cispo_kl_use_bias_correction_kl": "cispo_kl_use_bias_correction_kl",
    "sapo": "sapo",
    "sapo_kl_estimator_k1": "sapo",
    "sapo_kl_estimator_k2": "sapo",
    "sapo_use_bias_correction_kl": "sapo",
    "sapo_max_completion_length": "sapo",
    "sapo_kl": "sapo_kl",
    "sapo_kl_max_completion_length": "sapo_kl",
    "sapo_kl_kl_estimator_k1": "sapo_kl_kl_estimator_k1",
    "sapo_kl_kl_estimator_k2": "sapo_kl_kl_estimator_k2",
    "sapo_kl_use_bias_correction_kl": "sapo_kl_use_bias_correction_kl",
    "nash_md": "nash_md",
    "nll": "nll",
    "sft": "sft",
    "sft_ld_alpha": "sft",
}
