"""Capture: what keeps a program from becoming a graph."""

from __future__ import annotations

from linrec.codes.code import Code

CODES: dict[str, Code] = {
    "LR0301": Code(
        "a branch depends on the values of tensors",
        """\
Which way an `if` or `while` goes is known only when the tensors are, so there is no one step
that every call repeats, and nothing to turn into a parallel form.

    for t in range(x.shape[1]):
        if h.sum() > 0:                  # a value of the state
            h = 0.5 * h
        h = h + x[:, t]

Cure: choose between values, not between statements, with a condition that reads the input only.

    for t in range(x.shape[1]):
        a = torch.where(x[:, t] > 0, 0.5, 1.0)
        h = a * h + x[:, t]

A condition on the state itself makes the step nonlinear (LR1207).
""",
    ),
    "LR0302": Code(
        "a value is taken out of the trace",
        """\
`.item()`, `float(tensor)`, `.tolist()` and numpy turn a tensor into a number that the trace cannot
follow: the next call would reuse the number of this one.

    for t in range(x.shape[1]):
        h = h * float(scale.item()) + x[:, t]

Cure: stay in tensors.

    for t in range(x.shape[1]):
        h = h * scale + x[:, t]

Values that are only looked at (a print, a logger) can be taken out after the loop.
""",
    ),
    "LR0303": Code(
        "the number of steps depends on data",
        """\
A loop over time is recognised when its number of steps is the length of an input (or an expression
in such lengths). One that is computed from values is not known before the call runs.

    for t in range(int(lengths.max())):
        h = 0.9 * h + x[:, t]

Cure: run over the whole axis, and hold the state where a sequence has ended.

    for t in range(x.shape[1]):
        live = (t < lengths).unsqueeze(-1)
        h = torch.where(live, 0.9 * h + x[:, t], h)

`live` does not read the state, so the step stays linear.
""",
    ),
    "LR0401": Code(
        "hooks are registered on a submodule",
        """\
A forward hook runs Python code of its own each time the submodule is called. In a parallel form the
submodule is called once for all steps, so the hook would see other tensors and run fewer times.

    net.cell.register_forward_hook(record)
    linrec.compile(net)(x)

Cure: remove the hook for compiled calls, or return what it records as an output.

    handle.remove()
""",
    ),
    "LR0402": Code(
        "the call changes Python state",
        """\
The call writes to something that is no tensor (a counter, a list of an attribute, a global) in a
way that later steps or later calls may read. A capture runs the Python code once; a compiled call
does not run it at all.

    def forward(self, x):
        self.calls += 1
        for t in range(x.shape[1]):
            self.log.append(t)
            h = 0.9 * h + x[:, t]

Cure: keep what changes in a buffer, or move the bookkeeping out of forward.

    self.calls.add_(1)                   # a registered buffer
""",
    ),
    "LR0403": Code(
        "the grad mode is switched inside the call",
        """\
`torch.no_grad()`, `torch.inference_mode()` or `torch.set_grad_enabled` is entered or left inside
the part that would be rewritten. A parallel form has no place where only some steps are without
gradients, so it could only give other gradients.

    for t in range(x.shape[1]):
        with torch.no_grad():
            h = 0.9 * h
        h = h + x[:, t]

Cure: switch around the call, or compute what needs no gradient before the loop.

    with torch.no_grad():
        a = decay(x)
    for t in range(x.shape[1]):
        h = a[:, t] * h + x[:, t]
""",
    ),
    "LR0404": Code(
        "random numbers are drawn inside the loop",
        """\
Drawn once for all steps, random numbers come in another order than drawn step by step, so the result
for a given seed would change.

    for t in range(x.shape[1]):
        h = 0.9 * h + x[:, t] + torch.randn(8)

Cure: draw them before the loop.

    noise = torch.randn(x.shape[1], 8)
    for t in range(x.shape[1]):
        h = 0.9 * h + x[:, t] + noise[t]

For dropout on the state see LR1205.
""",
    ),
    "LR0405": Code(
        "the steps differ in a way that cannot be told in one step",
        """\
The operators of one step and of the next do not match: their kind or number changes, an index does
not advance by a constant, or a constant depends on the step in a way that the code does not show.

    for t in range(x.shape[1]):
        if t in self.special:            # read from a Python set
            h = 0.0 * h
        h = 0.9 * h + x[:, t]

Cure: put what differs in a tensor over time and read it at t.

    keep = torch.tensor([float(t not in self.special) for t in range(x.shape[1])])
    for t in range(x.shape[1]):
        h = 0.9 * keep[t] * h + x[:, t]
""",
    ),
    "LR0406": Code(
        "no loop over time was found",
        """\
The call does not repeat any group of operators along a length of its inputs, so there is nothing to
convert. Either the program has no recurrence, or the recurrence is hidden in one operator that
linrec does not look into.

    y, _ = nn.LSTM(8, 8)(x)              # one operator; its gates are nonlinear in the state

Cure: write the recurrence as a loop over an axis of an input, or with linrec.scan.

    for t in range(x.shape[1]):
        h = a[:, t] * h + x[:, t]
""",
    ),
    "LR0407": Code(
        "too many operators to trace at this length",
        """\
The program cannot be traced at a few short lengths (a table of positions, a layer of a fixed size),
so it was traced at the length of the call, and that took more operators than the limit.

    self.head = nn.Linear(32 * 3, 1)     # fits one length only
    y = self.head(torch.stack(ys, 1).flatten(1))

Cure: compile the part that holds the loop, which then fits any length.

    self.cell = linrec.compile(Cell())
    y = self.head(self.cell(x).flatten(1))
""",
    ),
    "LR0408": Code(
        "a custom autograd function is applied to the state",
        """\
An `autograd.Function` has a gradient of its own, which need not be the derivative of what it computes.
linrec cannot prove anything about it, and tracing into it would lose the gradient.

    for t in range(x.shape[1]):
        h = StraightThrough.apply(h) + x[:, t]

Cure: apply it to the input or to the output of the recurrence, where it is kept as it is.

    for t in range(x.shape[1]):
        h = 0.9 * h + StraightThrough.apply(x[:, t])
""",
    ),
    "LR0409": Code(
        "an argument of this type is not supported",
        """\
Arguments may be tensors, numbers, strings, None, and lists, tuples and dicts of them. Anything else may
hold tensors that the trace cannot find, or change between two calls unseen.

    net(Batch(x, lengths))

Cure: pass the tensors themselves.

    net(x, lengths=lengths)
""",
    ),
}
