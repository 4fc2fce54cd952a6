"""Further codes of capture, forms, state and internal errors."""

from __future__ import annotations

from linrec.codes.code import Code

CODES: dict[str, Code] = {
    "LR0410": Code(
        "an operator is not one of torch's own",
        """\
linrec knows what torch's operators do to a state; an operator of another library may do anything.

    h = other_library.op(h, x[:, t])

Cure: write the step with torch's operators, or call the other one outside the loop.
""",
    ),
    "LR0411": Code(
        "a write in place that linrec cannot follow",
        """\
Writes to tensors become new values; that works through indices, slices, views and transposes of
them, not
through every view there is.

    torch.add(h, x[:, t], out=h)

Cure: write the new value out of place.

    h = h + x[:, t]
""",
    ),
    "LR0412": Code(
        "the program is another one at another length",
        """\
Traces at a few lengths must be one loop with other sizes. Here something else differs: the number
of loops, a
constant, a shape that is no polynomial in the sizes.

    for t in range(0, x.shape[1], 2): ...        # ceil(T / 2) steps

The program is then held to the sizes of the call and captured anew for others.
Cure: loop over x.shape[1], or cut the input before the call.
""",
    ),
    "LR1297": Code(
        "an operator mixes the state along an axis of unknown length",
        """\
Rolling, convolving, padding or summing the state is a matrix along an axis, and the size of that matrix
must be known. Axes of a fixed size are; the batch axis and the time axis differ from call to call.

    h = a * torch.roll(h, 1, dims=0) + x[:, t]      # mixes the rows of the batch

Cure: mix along an axis that belongs to the model.

    h = a * torch.roll(h, 1, dims=-1) + x[:, t]
""",
    ),
    "LR1298": Code(
        "too many paths from one state to the next",
        """\
The affine form keeps one term for each path from a state to the value; this step has more than 64.

    for _ in range(7):
        h = h @ A + h @ B                 # 2^7 paths

Cure: combine the coefficients first.

    M = torch.linalg.matrix_power(A + B, 7)
    h = h @ M
""",
    ),
    "LR2003": Code(
        "linear, but a parallel form would cost more than the loop",
        """\
A dense transition that varies over time is scanned by multiplying n x n matrices, n^3 operations
a step against
n^2 in the loop. Beyond n = 128 that does not pay on a CPU.

    h = torch.einsum("bij,bj->bi", A[:, t], h) + x[:, t]      # n = 512

Cure: give the transition a structure: diagonal, the same at every step, or small blocks.
""",
    ),
    "LR4004": Code(
        "a recurrent form needs a loop over every step",
        """\
The first steps of this loop are special (it starts at 1 or 2, or from None), so one step does not
describe the
program yet.

    y = [x[:, 0]]
    for t in range(1, x.shape[1]):
        y.append(a * y[-1] + x[:, t])

Cure: start from a state before the first step.

    h = torch.zeros_like(x[:, 0])
    for t in range(x.shape[1]):
        h = a * h + x[:, t]
        y.append(h)
""",
    ),
    "LR4005": Code(
        "no program to make a recurrent form of",
        """\
The model was not called yet, or it could not be captured; the report says why.

    rnn = linrec.compile(Net()).recurrent()

Cure: call it first, or give example inputs.

    rnn = linrec.compile(Net()).recurrent(x)
""",
    ),
    "LR9001": Code(
        "a proof and a test disagree",
        """\
The operator table calls this recurrence linear, the numeric superposition test does not. Nothing
was rewritten and
the loop runs as written; this is a defect of linrec.

    linrec explain net.py:Net --input "f32[8,784,1]"

Cure: none on your side; please report the program and what this prints.
""",
    ),
}
