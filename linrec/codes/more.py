"""Further codes of capture, forms, state and internal errors."""

from __future__ import annotations

from linrec.codes.code import Code

CODES: dict[str, Code] = {
    "LR0410": Code(
        "an operator is not one of torch's own",
        """\
linrec knows what torch's operators do to a state; an operator of another library may do anything.

    from torch import library as custom

    @custom.custom_op("other::halved", mutates_args=())
    def halved(h: torch.Tensor) -> torch.Tensor:
        return h * 0.5

    @halved.register_fake
    def _(h):
        return torch.empty_like(h)

    def net(x):
        h = torch.zeros_like(x[:, 0])
        for t in range(x.shape[1]):
            h = halved(h) + x[:, t]
        return h

Cure: write the step with torch's operators, or call the other one outside the loop.

    for t in range(x.shape[1]):
        h = h * 0.5 + x[:, t]
""",
    ),
    "LR0411": Code(
        "a write in place that linrec cannot follow",
        """\
Writes to tensors become new values; that works through indices, slices, views and transposes of
them, not through every view there is, nor through `out=`.

    for t in range(x.shape[1]):
        torch.add(0.9 * h, x[:, t], out=h)

Cure: write the new value out of place.

    for t in range(x.shape[1]):
        h = 0.9 * h + x[:, t]
""",
    ),
    "LR0412": Code(
        "the program is another one at another length",
        """\
Traces at a few lengths must be one loop with other sizes. Here something else differs: the number
of loops, a constant, a shape that is no polynomial in the sizes. The program is then held to the sizes of the
call and captured anew for others; the code stands in a note.

    for t in range(x.shape[1]):
        h = 0.9 * h + x[:, t] / x.shape[1] ** 0.5

Cure: compute with tensors what is no polynomial in the sizes, or do it outside.

    for t in range(x.shape[1]):
        h = 0.9 * h + x[:, t]
""",
    ),
    "LR1297": Code(
        "an operator mixes the state along an axis of unknown length",
        """\
Rolling, convolving, padding or summing the state is a matrix along an axis, and the size of that matrix
must be known. Axes of a fixed size are, and the batch is once it is that of the call; an axis as long as time
differs from call to call.

    def net(x, a):
        h = torch.zeros_like(x)                           # one number for each step
        for t in range(x.shape[1]):
            h = a * torch.roll(h, 1, dims=1) + x[:, t, None]
        return h

    inputs = (torch.randn(2, 12), torch.tensor(0.5))

Cure: mix along an axis that belongs to the model.

    def net(x, a):
        h = torch.zeros(x.shape[0], 8)
        for t in range(x.shape[1]):
            h = a * torch.roll(h, 1, dims=1) + x[:, t, None]
        return h

    inputs = (torch.randn(2, 12), torch.tensor(0.5))
""",
    ),
    "LR1298": Code(
        "too many paths from one state to the next",
        """\
The affine form keeps one term for each path from a state to the value. More than 64 are added up to one
coefficient, but not where that would have more than 65,536 numbers.

    def net(x, A, B):
        h = torch.zeros_like(x[:, 0])
        for t in range(x.shape[1]):
            for _ in range(7):
                h = h @ A + h @ B                  # 2^7 paths through 300 x 300 matrices
            h = h + x[:, t]
        return h

    inputs = (torch.randn(2, 8, 300), 1e-3 * torch.randn(300, 300), 1e-3 * torch.randn(300, 300))

Cure: combine the coefficients first.

    def net(x, A, B):
        M = torch.linalg.matrix_power(A + B, 7)
        h = torch.zeros_like(x[:, 0])
        for t in range(x.shape[1]):
            h = h @ M + x[:, t]
        return h

    inputs = (torch.randn(2, 8, 300), 1e-3 * torch.randn(300, 300), 1e-3 * torch.randn(300, 300))
""",
    ),
    "LR2003": Code(
        "linear, left a loop by cost",
        """\
The recurrence was proven linear and has a parallel form, which the cost model expects to be slower than
the loop, over long sequences too. A gate times a constant dense matrix is the usual case: the transition of
each step has to be made, n x n numbers for each row of a batch. `linrec explain --level 3` prints both
costs, and `forms="associative"` asks for the scan all the same.

    def net(x, g, W):                              # W: (160, 160)
        h = torch.zeros_like(x[:, 0])
        for t in range(x.shape[1]):
            h = g[:, t] * (h @ W) + x[:, t]
        return h

    inputs = (torch.randn(2, 12, 160), torch.rand(2, 12, 160), 0.01 * torch.randn(160, 160))

Cure: none is needed. A transition with a structure is faster: diagonal, constant, or small blocks.

    def net(x, a):
        h = torch.zeros_like(x[:, 0])
        for t in range(x.shape[1]):
            h = a[:, t] * h + x[:, t]
        return h

    inputs = (torch.randn(2, 12, 160), torch.rand(2, 12, 160))
""",
    ),
    "LR4004": Code(
        "a recurrent form needs a loop over every step",
        """\
A step of the program must be a step of the loop, the same at every length. Here the loop takes every second
step, or a result has more entries than there are steps, or the program holds for the length of one call only.

    def net(x):
        h = torch.zeros_like(x[:, 0])
        y = []
        for t in range(0, x.shape[1], 2):      # which of the steps returns nothing?
            h = 0.5 * h + x[:, t]
            y.append(h)
        return torch.stack(y, 1)

    rnn = linrec.compile(net).recurrent(x)         # raises StateError

Cure: take and return every step, and choose outside.

    def net(x):
        h = torch.zeros_like(x[:, 0])
        y = []
        for t in range(x.shape[1]):
            h = 0.5 * h + x[:, t]
            y.append(h)
        return torch.stack(y, 1)

    rnn = linrec.compile(net).recurrent(x)
""",
    ),
    "LR4005": Code(
        "no program to make a recurrent form of",
        """\
The model was not called yet, or it could not be captured; the report says why.

    rnn = linrec.compile(decay).recurrent()        # raises StateError

Cure: call it first, or give example inputs.

    rnn = linrec.compile(decay).recurrent(x)
""",
    ),
    "LR9001": Code(
        "a proof and a test disagree",
        """\
The operator table calls this recurrence linear, the numeric superposition test does not. Nothing
was rewritten and the loop runs as written; this is a defect of linrec. The program plays it with a test that
always fails.

    made = optimize(trace(decay, x), context=Context(superposition=lambda graph, recurrence: 1.0))
    codes = [r.code for r in made.recurrences]

Cure: none on your side; please report the program and what `linrec explain --level 3` prints. The loop is
right as it is.

    made = optimize(trace(decay, x), context=Context(superposition=superposition))
    codes = [r.code for r in made.recurrences]
""",
    ),
    "LR9002": Code(
        "a pass broke down",
        """\
A pass raised an error that is none of linrec's own. `linrec opt` then exits with 4 and writes a reproducer.

    def wrong(graph):
        raise KeyError("h")

    codes = [validate(leaky, hooks=[Injected("cse", wrong)]).code]

Cure: none on your side; please report the reproducer. Leaving the pass out goes round it.

    codes = [validate(leaky, ["canonicalize", "dce"]) or ""]
""",
    ),
}
