"""Operators that draw random numbers: never merged, never moved, never done for all steps at once."""

RANDOM = frozenset(
    "dropout native_dropout feature_dropout alpha_dropout feature_alpha_dropout bernoulli bernoulli_ rand rand_like randn "
    "randn_like randint randint_like normal uniform randperm multinomial poisson exponential rrelu rrelu_with_noise "
    "_fused_dropout scaled_dot_product_attention random cauchy geometric log_normal binomial _standard_gamma _sample_dirichlet "
    "gru lstm rnn_tanh rnn_relu".split()
)
