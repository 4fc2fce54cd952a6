"""Operators that no semiring makes linear: their code, the reason, and the edit that may help."""

from __future__ import annotations

# code -> operators, why, help
REFUSED: dict[str, tuple[str, str, str]] = {
    "LR1204": (
        "tanh sigmoid relu gelu silu exp log log1p expm1 sin cos tan asin acos atan sinh cosh sqrt rsqrt pow "
        "square abs softplus elu selu celu leaky_relu hardtanh hardswish hardsigmoid mish logsigmoid log_sigmoid "
        "erf sign sgn prelu glu logit log2 log10 exp2 threshold relu6 tanhshrink softsign atan2 angle polar sinc "
        "erfinv erfc lgamma digamma hypot copysign xlogy acosh asinh atanh",
        "the state passes through `{}`",
        "if the nonlinearity may act on the output: keep the state linear and apply it to what is read from it",
    ),
    "LR1102": (
        "gru_cell lstm_cell rnn_tanh_cell rnn_relu_cell gru lstm rnn_tanh rnn_relu",
        "the state passes through sigmoid, tanh or relu inside `{}`",
        "gates that read the input only are linear in h: z = torch.sigmoid(gate(x[:, t])); "
        "h = (1 - z) * h + z * drive(x[:, t])  (a different model: retrain)",
    ),
    "LR1205": (
        "dropout native_dropout native_batch_norm _native_batch_norm_legit feature_dropout alpha_dropout "
        "instance_norm",
        "`{}` acts on the state, and differs from call to call",
        "apply it to the input or to the output",
    ),
    "LR1206": (
        "detach",
        "`{}` cuts the gradient through the state, so values would be linear but gradients would not",
        "drop it, or detach what is read from the state",
    ),
    "LR1207": (
        "gt lt ge le eq ne where_state isnan isinf isfinite logical_not logical_and logical_or heaviside",
        "the state is compared with `{}`",
        "compute the condition from the input",
    ),
    "LR1208": (
        "round floor ceil trunc frac clamp clamp_min clamp_max clip maximum minimum fmod remainder fix floor_divide hardshrink "
        "softshrink nan_to_num fmax fmin nansum",
        "the state is rounded or bounded by `{}`",
        "bound what is read from the state instead",
    ),
    "LR1202": (
        "reciprocal linalg_inv inverse linalg_pinv",
        "the state stands in a denominator, in `{}`",
        "divide by something computed from the input",
    ),
    "LR1210": (
        "argmax argmin argsort sort topk one_hot searchsorted bucketize multinomial "
        "nonzero",
        "the state chooses an index in `{}`",
        "compute the index from the input",
    ),
    "LR1209": (
        "softmax log_softmax _softmax layer_norm native_layer_norm group_norm native_group_norm rms_norm norm "
        "linalg_vector_norm normalize std var logsumexp logaddexp amax amin max min cummax cummin cumprod prod "
        "logcumsumexp median scaled_dot_product_attention linalg_matrix_norm linalg_norm linalg_det "
        "cdist cosine_similarity",
        "the state is normalised or reduced by `{}`",
        "normalise the input, or what is read from the state",
    ),
}  # fmt: skip
