"""Declared networks: steps, equations, systems and diagrams that cannot be read as they stand."""

from __future__ import annotations

from linrec.codes.code import Code

CODES: dict[str, Code] = {
    "LR0501": Code(
        "a value of one step of a scan is read outside of its step",
        """\
A compiled scan has no single step whose values could be looked at afterwards.

    seen = []
    def step(h, x_t):
        h = a * h + x_t
        seen.append(h)                     # a value of one step leaves through the back door
        return h, h

Cure: return it; outputs and final states come back from the scan.

    final, hs = linrec.scan(step, h0, xs)
""",
    ),
    "LR0502": Code(
        "a scan runs inside the steps of a loop over time",
        """\
A scan becomes a time domain of its own, and time domains do not nest.

    for t in range(x.shape[1]):
        h, _ = linrec.scan(step, h, pieces[t])

Cure: let one scan walk over both, or write the inner one as a loop of fixed length, which a scan inside
of the step of a scan is.

    h, _ = linrec.scan(step, h, pieces.flatten(0, 1))
""",
    ),
    "LR0503": Code(
        "what a scan walks over has no single length",
        """\
Time is axis 0 of every leaf of xs, and all leaves have the same length, of which there must be at
least one.

    linrec.scan(step, h0, (x, 0.5))        # 0.5 has no time axis

Cure: what does not vary is read by the step itself, or expanded.

    linrec.scan(lambda h, x_t: (0.5 * h + x_t, h), h0, x)
""",
    ),
    "LR0504": Code(
        "a step does not return a state like the one it was given",
        """\
A step returns the pair (state, output); its state has the structure, shapes, dtypes and devices of `init`.

    linrec.scan(lambda h, x_t: (h + x_t, h), torch.zeros(()), x)          # x_t has shape (3,)

Cure: start from a state of the full shape.

    linrec.scan(lambda h, x_t: (h + x_t, h), x.new_zeros(x.shape[1:]), x)
""",
    ),
    "LR0511": Code(
        "an equation holds a symbol that is not declared",
        """\
Every symbol is an input, a state (a function of the time of the equations), a parameter, a
constant or the step size.

    linrec.equations([Eq(x(n), a * x(n - 1) + u(n))], inputs=[u], outputs=[x])             # what is a?

Cure: give it a value, learnt (`parameters`) or not (`constants`).

    linrec.equations([Eq(x(n), a * x(n - 1) + u(n))], inputs=[u], outputs=[x], parameters={a: 0.9})
""",
    ),
    "LR0512": Code(
        "an equation that cannot be read as a recurrence",
        """\
A difference equation gives x(n) from values at n and before; a differential equation gives multiples of
x(t).diff(t) from values at t.

    Eq(x(n), x(n + 1) + u(n))              # looks ahead

Cure: shift the equation until its newest value stands alone on the left.

    Eq(x(n), x(n - 1) - u(n - 1))
""",
    ),
    "LR0513": Code(
        "a differential equation that cannot be made discrete as asked",
        """\
A differential equation needs `step` (a number, a symbol or a signal) and a `method`. "zoh" and
"foh" are exact for
linear equations with constant coefficients, "bilinear" and "backward_euler" need linear ones, "euler" any.

    linrec.equations([Eq(x(t).diff(t), -x(t) ** 3 + u(t))], inputs=[u], outputs=[x], step=0.1, method="zoh")

Cure: choose a method that the equation has.

    linrec.equations([Eq(x(t).diff(t), -x(t) ** 3 + u(t))], inputs=[u], outputs=[x], step=0.1, method="euler")
""",
    ),
    "LR0521": Code(
        "coefficients or signals whose shapes do not fit together",
        """\
A is (n, n), B (n, inputs), C (outputs, n) and D (outputs, inputs); sections are (S, 6); signals
have the axes that
the declared function states.

    linrec.system((A, B.T, C, D))          # B is (inputs, n)

Cure: transpose or reshape what is named.

    linrec.system((A, B, C, D))
""",
    ),
    "LR0522": Code(
        "an improper transfer function",
        """\
With more zeros than poles the output would depend on inputs that are yet to come.

    linrec.system(([1.0, 2.0, 3.0], [1.0, 0.5]))

Cure: delay it until it is causal, by poles at 0.

    linrec.system(([1.0, 2.0, 3.0], [1.0, 0.5, 0.0]))
""",
    ),
    "LR0523": Code(
        "a system that cannot be read",
        """\
Systems are scipy.signal objects, tuples and arrays of real coefficients, and objects with A, B, C,
D; a continuous one
needs a step size and a method.

    linrec.system(scipy.signal.lti([1.0], [1.0, 1.0]))

Cure: give what is missing.

    linrec.system(scipy.signal.lti([1.0], [1.0, 1.0]), dt=0.01)
""",
    ),
    "LR0524": Code(
        "an unstable system",
        """\
A remark, no error: some poles are on or outside of the unit circle, so outputs may grow without
bound. The system
computes what its coefficients say; learning them is not kept stable.

    linrec.filter([1.0], [1.0, -1.01])

Cure: where that was not meant, move the named poles inside.

    linrec.filter([1.0], [1.0, -0.99])
""",
    ),
    "LR0531": Code(
        "a block diagram that cannot be read",
        """\
Each node has data "block": "input", "output", "sum", a number, a module, or a system; each edge
may have data
"delay", a whole number of steps.

    graph.add_node("gain")                 # no block

Cure: say what the node does.

    graph.add_node("gain", block=0.5)
""",
    ),
    "LR0532": Code(
        "an algebraic loop without a unique solution",
        """\
Signals that depend on each other within one step are solved for if they do so linearly, through
sums, gains and
systems, and if there is one solution.

    graph.add_edge("y", "y")               # y = y + u: none

Cure: put a delay on an edge of the cycle.

    graph.add_edge("y", "y", delay=1)      # y[t] = y[t-1] + u[t]
""",
    ),
}
