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
numpy, `.tolist()` and data pointers take numbers out of a tensor, where the trace cannot follow: the
next call would reuse the numbers of this one.

    for t in range(x.shape[1]):
        h = 0.5 * h + torch.from_numpy(np.tanh(x[:, t].numpy()))

Cure: stay in tensors; torch has operators of the same names.

    for t in range(x.shape[1]):
        h = 0.5 * h + torch.tanh(x[:, t])

A branch or `.item()` is LR0301. Values that are only looked at (a print, a logger) can be taken out after
the loop.
""",
    ),
    "LR0303": Code(
        "the number of steps depends on data",
        """\
A loop over time is recognised when its number of steps is the length of an input (or an expression
in such lengths). One that is computed from values is not known before the call runs.

    def net(x, lengths):
        h = torch.zeros_like(x[:, 0])
        for t in range(int(lengths.max())):
            h = 0.9 * h + x[:, t]
        return h

    inputs = (torch.randn(2, 12, 4), torch.tensor([12, 7]))

Cure: run over the whole axis, and hold the state where a sequence has ended.

    def net(x, lengths):
        h = torch.zeros_like(x[:, 0])
        for t in range(x.shape[1]):
            live = (t < lengths).unsqueeze(-1)
            h = torch.where(live, 0.9 * h + x[:, t], h)
        return h

    inputs = (torch.randn(2, 12, 4), torch.tensor([12, 7]))

`live` does not read the state, so the step stays linear.
""",
    ),
    "LR0401": Code(
        "hooks are registered on a submodule",
        """\
A forward hook runs Python code of its own each time the submodule is called. In a parallel form the
submodule is called once for all steps, so the hook would see other tensors and run fewer times.

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.Linear(4, 4)

        def forward(self, x):
            h = torch.zeros_like(x[:, 0])
            for t in range(x.shape[1]):
                h = 0.9 * h + self.cell(x[:, t])
            return h

    net = Net()
    seen = []
    handle = net.cell.register_forward_hook(lambda module, given, made: seen.append(made))

Cure: remove the hook for compiled calls, or return what it records as an output.

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.Linear(4, 4)

        def forward(self, x):
            h = torch.zeros_like(x[:, 0])
            for t in range(x.shape[1]):
                h = 0.9 * h + self.cell(x[:, t])
            return h

    net = Net()
    seen = []
    handle = net.cell.register_forward_hook(lambda module, given, made: seen.append(made))
    handle.remove()
""",
    ),
    "LR0402": Code(
        "the call changes Python state",
        """\
The call writes to something that is no tensor (a counter, a list of an attribute, a global) in a
way that later steps or later calls may read. A capture runs the Python code once; a compiled call
does not run it at all.

    class Net(nn.Module):
        calls = 0

        def forward(self, x):
            self.calls += 1
            h = torch.zeros_like(x[:, 0])
            for t in range(x.shape[1]):
                h = 0.9 * h + x[:, t]
            return h

Cure: keep what changes in a buffer, or move the bookkeeping out of forward.

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls.add_(1)
            h = torch.zeros_like(x[:, 0])
            for t in range(x.shape[1]):
                h = 0.9 * h + x[:, t]
            return h

    net = Net()
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

Cure: switch around the call, or compute what needs no gradient before it.

    def net(x):
        h = torch.zeros_like(x[:, 0])
        for t in range(x.shape[1]):
            h = 0.9 * h + x[:, t]
        return h

    with torch.no_grad():
        y = linrec.compile(net)(x)
""",
    ),
    "LR0404": Code(
        "random numbers come from Python or numpy",
        """\
The generators of Python and numpy are not part of a graph: a compiled call would repeat the numbers of the
captured one. torch's own random operators are kept, and drawn in the order of the loop.

    for t in range(x.shape[1]):
        h = 0.9 * h + x[:, t] + random.random()

Cure: draw with torch, before the loop if the order does not matter.

    noise = torch.rand(x.shape[1])
    for t in range(x.shape[1]):
        h = 0.9 * h + x[:, t] + noise[t]

For dropout on the state see LR1205.
""",
    ),
    "LR0405": Code(
        "the steps differ in a way that cannot be told in one step",
        """\
The operators of one step and of the next do not match: their kind or number changes, an index does
not advance by a constant, or what a step reads depends on the step in a way that the code does not show.

    ring = torch.zeros(2, 3, 4)
    for t in range(x.shape[1]):
        ring = ring.clone()
        ring[:, t % 3] = 0.5 * ring[:, (t + 1) % 3] + x[:, t]
        ys.append(ring[:, t % 3])

Cure: let every step do the same: keep the last values in separate variables, the newest first.

    h1 = h2 = torch.zeros(2, 4)
    for t in range(x.shape[1]):
        h1, h2 = 0.5 * h2 + x[:, t], h1
        ys.append(h1)

What differs by step alone goes into a tensor over time that is read at t.
""",
    ),
    "LR0406": Code(
        "no loop over time was found",
        """\
The call does not repeat any group of operators along a length of its inputs, so there is nothing to
convert. Either the program has no recurrence, or the recurrence is inside one operator, which linrec
leaves alone.

    def net(x):
        return torch.relu(x).cumsum(1)

Cure: where a recurrence is meant, write it as a loop over an axis of an input.

    for t in range(x.shape[1]):
        h = a * h + x[:, t]
""",
    ),
    "LR0407": Code(
        "too many operators to trace at this length",
        """\
The program cannot be traced at a few short lengths (a table of positions, a layer of a fixed size),
so it was traced at the length of the call, and that took more operators than the limit of 12,000.

    head = nn.Linear(4 * 2500, 1)                  # fits one length only

    def net(x):
        h = torch.zeros_like(x[:, 0])
        ys = []
        for t in range(x.shape[1]):
            h = 0.9 * h + 0.5 * torch.relu(x[:, t])
            ys.append(h)
        return head(torch.stack(ys, 1).flatten(1))

    inputs = (torch.randn(1, 2500, 4),)

Cure: compile the part that holds the loop, which then fits any length.

    def net(x):
        h = torch.zeros_like(x[:, 0])
        ys = []
        for t in range(x.shape[1]):
            h = 0.9 * h + 0.5 * torch.relu(x[:, t])
            ys.append(h)
        return torch.stack(ys, 1)

    inputs = (torch.randn(1, 2500, 4),)
    head = nn.Linear(4 * 2500, 1)
    y = head(linrec.compile(net)(*inputs).flatten(1))
""",
    ),
    "LR0408": Code(
        "a custom autograd function is applied to the state",
        """\
An `autograd.Function` has a gradient of its own, which need not be the derivative of what it computes.
linrec cannot prove anything about it, and tracing into it would lose the gradient.

    class Rounded(torch.autograd.Function):
        @staticmethod
        def forward(ctx, h):
            return h.round()

        @staticmethod
        def backward(ctx, gradient):
            return gradient

    def net(x):
        h = torch.zeros_like(x[:, 0])
        for t in range(x.shape[1]):
            h = 0.9 * Rounded.apply(h) + x[:, t]
        return h

Cure: apply it outside the compiled part, to the input or to the output of the recurrence.

    class Rounded(torch.autograd.Function):
        @staticmethod
        def forward(ctx, h):
            return h.round()

        @staticmethod
        def backward(ctx, gradient):
            return gradient

    def net(x):
        h = torch.zeros_like(x[:, 0])
        for t in range(x.shape[1]):
            h = 0.9 * h + x[:, t]
        return h

    y = linrec.compile(net)(Rounded.apply(x))
""",
    ),
    "LR0409": Code(
        "something in the program is no tensor",
        """\
Operators take and return tensors, numbers and lists of them. An operator whose argument or result is of
another kind (a generator, a script object) has no place in a graph.

    generator = torch.Generator()

    def net(x):
        h = torch.zeros_like(x[:, 0])
        for t in range(x.shape[1]):
            h = 0.9 * h + x[:, t] + torch.randn(4, generator=generator)
        return h

Cure: leave it out, or keep it outside the compiled part.

    def net(x, noise):
        h = torch.zeros_like(x[:, 0])
        for t in range(x.shape[1]):
            h = 0.9 * h + x[:, t] + noise[:, t]
        return h

    inputs = (torch.randn(2, 12, 4), torch.randn(2, 12, 4, generator=torch.Generator()))
""",
    ),
}
