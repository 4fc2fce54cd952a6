"""Running: states that do not fit, forms that do not exist, results that disagree."""

from __future__ import annotations

from linrec.codes.code import Code

CODES: dict[str, Code] = {
    "LR4001": Code(
        "the state was made for another batch size",
        """\
Every leaf of a state starts with the batch axis, and that length must be the one of the input.

    y, state = rnn(x8)                   # a batch of 8
    y, state = rnn(x4, state=state)      # a batch of 4

Cure: start anew with state=None, or keep the rows that go on.

    y, state = rnn(x4)
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
