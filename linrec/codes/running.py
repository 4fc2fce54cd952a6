"""Running: states that do not fit, forms that do not exist, results that disagree."""

from __future__ import annotations

from linrec.codes.code import Code

CODES: dict[str, Code] = {
    "LR4001": Code(
        "the state does not fit the input",
        """\
A state belongs to one program, batch size, element type and device. Every leaf starts with the batch axis
where the program has one, and that length must be the one of the input. Nothing is broadcast or cast.

    y, state = rnn(x8)                   # a batch of 8
    y, state = rnn(x4, state=state)      # a batch of 4

Cure: start anew with state=None, or keep the rows that go on.

    y, state = rnn(x4, state=linrec.state_index(state, [0, 2, 5, 7]))
""",
    ),
    "LR4002": Code(
        "step takes one step, and the input has a time axis",
        """\
`step` takes the arguments of the original without their time axis.

    y, state = rnn.step(x)               # x: [8, 784, 1]

Cure: give it one step, or call the module itself to run all steps in parallel.

    y_t, state = rnn.step(x[:, 0])
    y, state = rnn(x)
""",
    ),
    "LR4003": Code(
        "the program looks ahead and has no recurrent form",
        """\
An output needs inputs of later steps: a loop that runs backward, or a sum or mean over all of time
that an earlier step reads. No step with a finite state can compute it.

    for t in reversed(range(x.shape[1])):
        h = 0.9 * h + x[:, t]

Cure: compile it for its parallel form, which looks ahead freely, or separate the part that does not.

    net = linrec.compile(Net())          # works
    rnn = net.recurrent(x)               # raises StateError
""",
    ),
    "LR4006": Code(
        "the first state is made from the first inputs",
        """\
A state before the first step exists without inputs only if it does not come from them.

    h = x[:, 0]                          # the state starts as the first input
    rnn.init_state(8)

Cure: start with state=None, which takes the first input there is, or give the inputs.

    y_t, state = rnn.step(x[:, 0])
    state = rnn.init_state(x)
""",
    ),
    "LR4007": Code(
        "no single step describes the program",
        """\
What is exported or written out as a step must hold for every step, and for every weight. Here the first
steps are special (a state that begins as None, a loop from 1), or a large tensor is not in the state_dict.

    h = None
    for t in range(x.shape[1]):
        h = x[:, t] if h is None else a * h + x[:, t]

Cure: start from a state before the first step; register tensors as buffers. `rnn.step` itself works either way.

    h = torch.zeros_like(x[:, 0])
""",
    ),
    "LR4008": Code(
        "rows of the batch cannot be told apart",
        """\
`lengths`, `reset_mask` and `stream.reset(mask)` treat each row of the batch on its own. That needs a batch
axis, no operator that mixes rows, and a state in which rows have no part in common (such as one count of
steps for all).

    x = (x - x.mean(0)) / x.std(0)       # every row depends on every other
    net(x, lengths=n)

Cure: normalise outside the model, or run the rows apart.
""",
    ),
    "LR5001": Code(
        "the parallel form and the original disagree",
        """\
On the first call the compiled program is compared with the original, on a part of the real input, and the
difference was larger than rounding explains. From then on the original runs, so results stay right.

    net = linrec.compile(Net())
    net(x)                               # warns; net.report.verification says by how much

Cure: this is a defect of linrec. `linrec.compile(net, forms={"r0": "sequential"})` keeps the one
recurrence a loop while the others stay parallel.
""",
    ),
}
