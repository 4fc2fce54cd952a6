"""Linearity: what keeps a step from being linear in its state."""

from __future__ import annotations

from linrec.codes.code import Code

CODES: dict[str, Code] = {
    "LR1102": Code(
        "a recurrent layer of torch is nonlinear in its state",
        """\
nn.LSTM, nn.GRU, nn.RNN and their cells pass the state through sigmoid, tanh or relu, inside one operator.
There is no linear part to take out of it; it runs as it is, and what is around it is compiled.

    rnn = nn.GRU(4, 4, batch_first=True)

    def net(x):
        return rnn(x)[0]

Cure: let the gates read the input only, as minimal gated units do (a different model: retrain).

    gate, drive = nn.Linear(4, 4), nn.Linear(4, 4)

    def net(x):
        h, ys = torch.zeros_like(x[:, 0]), []
        for t in range(x.shape[1]):
            z = torch.sigmoid(gate(x[:, t]))
            h = (1 - z) * h + z * drive(x[:, t])
            ys.append(h)
        return torch.stack(ys, 1)
""",
    ),
    "LR1201": Code(
        "two values of the state are multiplied",
        """\
A product of two values that both depend on the state is quadratic in it. A linear step multiplies the
state only by what does not depend on the state.

    for t in range(x.shape[1]):
        h = h * h + x[:, t]

Cure: let the coefficient depend on the input only (a different model: retrain).

    for t in range(x.shape[1]):
        h = torch.sigmoid(x[:, t]) * h + x[:, t]
""",
    ),
    "LR1202": Code(
        "the state is in a denominator",
        """\
Dividing by a value that depends on the state is not linear in the state. Dividing the state by
something that does not depend on it is.

    for t in range(x.shape[1]):
        h = x[:, t] / (1 + h)

Cure: carry numerator and denominator as two linear states and divide the outputs.

    for t in range(x.shape[1]):
        n = a * n + v[:, t]
        d = a * d + w[:, t]
        ys.append(n / d)
""",
    ),
    "LR1203": Code(
        "the state is in its own coefficient",
        """\
A weight that reads the state and multiplies the state makes the step nonlinear: the step can then not be
composed with the next one before the state is known. (A gate made by sigmoid of the state is LR1204.)

    for t in range(x.shape[1]):
        h = torch.lerp(h, x[:, t], h)

Cure: compute the weight from the input only (a different model: retrain).

    for t in range(x.shape[1]):
        h = torch.lerp(h, x[:, t], torch.sigmoid(x[:, t]))
""",
    ),
    "LR1204": Code(
        "a nonlinear function is applied to the state",
        """\
The state passes through a function such as tanh, relu, sigmoid or exp on its way to the next step.

    for t in range(x.shape[1]):
        h = torch.tanh(U(h) + x[:, t])
        ys.append(h)

Cure: apply it to the output instead of to the state (a different model: retrain).

    for t in range(x.shape[1]):
        h = U(h) + x[:, t]
        ys.append(torch.tanh(h))
""",
    ),
    "LR1205": Code(
        "dropout or batch normalisation acts on the state",
        """\
In training, dropout on the state draws random numbers at every step, and batch normalisation divides the
state by statistics of itself.

    for t in range(x.shape[1]):
        h = F.dropout(0.9 * h, 0.1, True) + x[:, t]

Cure: let it act on the input or on the output. In eval mode both are linear and are converted.

    x = F.dropout(x, 0.1, True)
    for t in range(x.shape[1]):
        h = 0.9 * h + x[:, t]
""",
    ),
    "LR1206": Code(
        "the state is detached",
        """\
`detach` leaves values alone and cuts gradients: the outputs of the step are linear in the state, its
gradients are not those of a linear step. A parallel form would give the full gradients.

    for t in range(x.shape[1]):
        h = 0.9 * h.detach() + x[:, t]

Cure: detach between calls, not between steps, and carry the state.

    net = linrec.compile(decay)
    rnn = net.recurrent(x)
    y, state = rnn(x[:, :6])
    state = tree_map(torch.Tensor.detach, state)   # torch.utils._pytree.tree_map
    y, state = rnn(x[:, 6:], state=state)
""",
    ),
    "LR1207": Code(
        "a comparison or threshold of the state decides",
        """\
The step chooses between two values by a comparison of the state. Each side may be linear; the choice is not.

    for t in range(x.shape[1]):
        h = torch.where(h > 0, 0.5 * h, h) + x[:, t]

Cure: compare the input (a different model: retrain).

    for t in range(x.shape[1]):
        h = torch.where(x[:, t] > 0, 0.5 * h, h) + x[:, t]
""",
    ),
    "LR1208": Code(
        "the state is rounded or clamped",
        """\
Rounding, clamping and quantising are not linear, wide bounds included: clamp(-1e6, 1e6) changes a state
that grows.

    for t in range(x.shape[1]):
        h = (0.9 * h + x[:, t]).clamp(-10, 10)

Cure: bound the step rather than the state: a decay below 1 and a bounded input keep the state bounded.

    for t in range(x.shape[1]):
        h = 0.9 * h + x[:, t].clamp(-1, 1)
""",
    ),
    "LR1209": Code(
        "the state is normalised",
        """\
A norm, a layer normalisation or a softmax divides the state by a function of the state.

    for t in range(x.shape[1]):
        h = F.layer_norm(0.9 * h + x[:, t], (4,))

Cure: normalise what is read from the state (a different model: retrain).

    for t in range(x.shape[1]):
        h = 0.9 * h + x[:, t]
        ys.append(F.layer_norm(h, (4,)))
""",
    ),
    "LR1210": Code(
        "an index is computed from the state",
        """\
Where the step reads or writes depends on the state, as with a pointer that moves. The place is not linear in
the state, even where the values are.

    p = torch.zeros(2, dtype=torch.int64)
    for t in range(x.shape[1]):
        p = torch.index_select(key[:, t, 0] % 2, 0, p)
        ys.append(p)

Cure: compute the index from the input (a different model: retrain).

    for t in range(x.shape[1]):
        h = 0.5 * torch.index_select(h, 1, key[0, t]) + x[:, t]
""",
    ),
    "LR1299": Code(
        "there is no rule for an operator on the state",
        """\
The operator may or may not be linear in the state; linrec has no rule for it, and guesses nothing.

    for t in range(x.shape[1]):
        h = torch.special.entr(h) + x[:, t]

Cure: write the step with operators that have a rule (sums, products with what does not depend on the state,
matmul, einsum, conv, reshapes, permutes, indexing, stack, cat, where with a condition on the input).

    for t in range(x.shape[1]):
        h = 0.5 * h + torch.special.entr(x[:, t])
""",
    ),
}
