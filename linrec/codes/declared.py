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
Time is axis 0 of every leaf of xs, and all leaves have the same length, of which there must be at least one.

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
}
