"""Declared networks: steps, equations, systems and diagrams that cannot be read as they stand."""

from __future__ import annotations

from linrec.codes.code import Code

CODES: dict[str, Code] = {
    "LR0501": Code(
        "a value of one step of a scan is read outside of its step",
        """\
A compiled scan has no single step whose values could be looked at afterwards.

    def net(x):
        seen = []

        def step(h, x_t):
            h = 0.5 * h + x_t
            seen.append(h)  # a value of one step leaves through the back door
            return h, h

        final, hs = linrec.scan(step, torch.zeros_like(x[0]), x)
        return hs + final + seen[-1]

Cure: return it; outputs and final states come back from the scan.

    def step(h, x_t):
        h = 0.5 * h + x_t
        return h, h

    def net(x):
        final, hs = linrec.scan(step, torch.zeros_like(x[0]), x)
        return hs + final
""",
    ),
    "LR0502": Code(
        "a scan runs inside the steps of a loop over time",
        """\
A scan becomes a time domain of its own, and time domains do not nest: the loop is written out, with one scan
at every step. It is then held to its length at this call and captured anew for others; the code stands in a
note.

    taps = torch.randn(5, 2, 4)

    def net(x):
        h = torch.zeros_like(x[:, 0])
        for t in range(x.shape[1]):
            h, _ = linrec.scan(lambda h, tap: (0.5 * h + tap, h), h, taps)
            h = h + x[:, t]
        return h

Cure: write the inner scan as a loop of fixed length, which is part of the step.

    taps = torch.randn(5, 2, 4)

    def net(x):
        h = torch.zeros_like(x[:, 0])
        for t in range(x.shape[1]):
            for tap in taps:
                h = 0.5 * h + tap
            h = h + x[:, t]
        return h
""",
    ),
    "LR0503": Code(
        "what a scan walks over has no single length",
        """\
Time is axis 0 of every leaf of xs, and all leaves have the same length, of which there must be at
least one.

    final, hs = linrec.scan(lambda h, x_t: (h + x_t[0], h), torch.zeros(12, 4), (x, 0.5))

Cure: what does not vary is read by the step itself, or expanded.

    final, hs = linrec.scan(lambda h, x_t: (0.5 * h + x_t, h), torch.zeros(12, 4), x)
""",
    ),
    "LR0504": Code(
        "a step does not return a state like the one it was given",
        """\
A step returns the pair (state, output); its state has the structure, shapes, dtypes and devices of `init`.

    final, hs = linrec.scan(lambda h, x_t: (h + x_t, h), torch.zeros(()), x)    # a scalar state

Cure: start from a state of the full shape.

    final, hs = linrec.scan(lambda h, x_t: (h + x_t, h), x.new_zeros(x.shape[1:]), x)
""",
    ),
    "LR0511": Code(
        "an equation holds a symbol that is not declared",
        """\
Every symbol is an input, a state (a function of the time of the equations), a parameter, a
constant or the step size.

    n, a = sympy.symbols("n a")
    h, u = sympy.Function("h"), sympy.Function("u")
    net = linrec.equations([Eq(h(n), a * h(n - 1) + u(n))], inputs=[u], outputs=[h])           # what is a?

Cure: give it a value, learnt (`parameters`) or not (`constants`).

    n, a = sympy.symbols("n a")
    h, u = sympy.Function("h"), sympy.Function("u")
    made = linrec.equations([Eq(h(n), a * h(n - 1) + u(n))], inputs=[u], outputs=[h], parameters={a: 0.9})
""",
    ),
    "LR0512": Code(
        "an equation that cannot be read as a recurrence",
        """\
A difference equation gives x(n) from values at n and before; a differential equation gives multiples of
x(t).diff(t) from values at t.

    n, a = sympy.symbols("n a")
    h, u = sympy.Function("h"), sympy.Function("u")
    net = linrec.equations([Eq(h(n), h(n + 1) + u(n))], inputs=[u], outputs=[h])               # looks ahead

Cure: shift the equation until its newest value stands alone on the left.

    n, a = sympy.symbols("n a")
    h, u = sympy.Function("h"), sympy.Function("u")
    made = linrec.equations([Eq(h(n), h(n - 1) - u(n - 1))], inputs=[u], outputs=[h])
""",
    ),
    "LR0513": Code(
        "a differential equation that cannot be made discrete as asked",
        """\
A differential equation needs `step` (a number, a symbol or a signal) and a `method`. "zoh" and
"foh" are exact for linear equations with constant coefficients, "bilinear" and "backward_euler" need
linear ones, "euler" any.

    t = sympy.Symbol("t")
    h, u = sympy.Function("h"), sympy.Function("u")
    cubic = [Eq(h(t).diff(t), -h(t) ** 3 + u(t))]
    net = linrec.equations(cubic, inputs=[u], outputs=[h], step=0.1, method="zoh")

Cure: choose a method that the equation has.

    t = sympy.Symbol("t")
    h, u = sympy.Function("h"), sympy.Function("u")
    cubic = [Eq(h(t).diff(t), -h(t) ** 3 + u(t))]
    made = linrec.equations(cubic, inputs=[u], outputs=[h], step=0.1, method="euler")
""",
    ),
    "LR0521": Code(
        "coefficients or signals whose shapes do not fit together",
        """\
A is (n, n), B (n, inputs), C (outputs, n) and D (outputs, inputs); sections are (S, 6); signals
have the axes that the declared function states.

    A, B, C, D = np.eye(2) * 0.5, np.ones((2, 1)), np.ones((1, 2)), np.zeros((1, 1))
    net = linrec.system((A, B.T, C, D))  # B is (n, inputs)

Cure: transpose or reshape what is named.

    A, B, C, D = np.eye(2) * 0.5, np.ones((2, 1)), np.ones((1, 2)), np.zeros((1, 1))
    made = linrec.system((A, B, C, D))
""",
    ),
    "LR0522": Code(
        "an improper transfer function",
        """\
With more zeros than poles the output would depend on inputs that are yet to come.

    net = linrec.system(([1.0, 2.0, 3.0], [1.0, 0.5]))

Cure: delay it until it is causal, by poles at 0.

    made = linrec.system(([1.0, 2.0, 3.0], [1.0, 0.5, 0.0]))
""",
    ),
    "LR0523": Code(
        "a system that cannot be read",
        """\
Systems are scipy.signal objects, tuples and arrays of real coefficients, and objects with A, B, C,
D; a continuous one needs a step size and a method.

    net = linrec.system(scipy.signal.lti([1.0], [1.0, 1.0]))

Cure: give what is missing.

    made = linrec.system(scipy.signal.lti([1.0], [1.0, 1.0]), dt=0.01)
""",
    ),
    "LR0524": Code(
        "an unstable system",
        """\
A remark, no error: some poles are on or outside of the unit circle, so outputs may grow without
bound. The system computes what its coefficients say; learning them is not kept stable.

    made = linrec.filter([1.0], [1.0, -1.01])

Cure: where that was not meant, move the named poles inside.

    made = linrec.filter([1.0], [1.0, -0.99])
""",
    ),
    "LR0531": Code(
        "a block diagram that cannot be read",
        """\
Each node has data "block": "input", "output", "sum", a number, a module, or a system; each edge
may have data "delay", a whole number of steps.

    graph = nx.DiGraph()
    graph.add_node("u", block="input")
    graph.add_node("s", block="sum")
    graph.add_node("y", block="output")
    graph.add_edges_from([("u", "s"), ("s", "y")])
    graph.add_node("gain")  # no block
    graph.add_edges_from([("s", "gain"), ("gain", "y")])
    net = linrec.diagram(graph, inputs=["u"], outputs=["y"])

Cure: say what the node does.

    graph = nx.DiGraph()
    graph.add_node("u", block="input")
    graph.add_node("s", block="sum")
    graph.add_node("y", block="output")
    graph.add_edges_from([("u", "s"), ("s", "y")])
    graph.add_node("gain", block=0.5)
    graph.remove_edge("s", "y")
    graph.add_edges_from([("s", "gain"), ("gain", "y")])
    made = linrec.diagram(graph, inputs=["u"], outputs=["y"])
""",
    ),
    "LR0532": Code(
        "an algebraic loop without a unique solution",
        """\
Signals that depend on each other within one step are solved for if they do so linearly, through
sums, gains and systems, and if there is one solution.

    graph = nx.DiGraph()
    graph.add_node("u", block="input")
    graph.add_node("s", block="sum")
    graph.add_node("y", block="output")
    graph.add_edges_from([("u", "s"), ("s", "y")])
    graph.add_node("k", block=1.0)
    graph.add_edges_from([("s", "k"), ("k", "s")])  # s = s + u: none
    net = linrec.diagram(graph, inputs=["u"], outputs=["y"])

Cure: put a delay on an edge of the cycle.

    graph = nx.DiGraph()
    graph.add_node("u", block="input")
    graph.add_node("s", block="sum")
    graph.add_node("y", block="output")
    graph.add_edges_from([("u", "s"), ("s", "y")])
    graph.add_node("k", block=1.0)
    graph.add_edge("s", "k", delay=1)              # s[t] = s[t-1] + u[t]
    graph.add_edge("k", "s")
    made = linrec.diagram(graph, inputs=["u"], outputs=["y"])
""",
    ),
}
