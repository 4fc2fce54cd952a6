"""Forms: what keeps a linear recurrence from running in parallel."""

from __future__ import annotations

from linrec.codes.code import Code

CODES: dict[str, Code] = {
    "LR2002": Code(
        "linear, and no parallel form for this structure yet",
        """\
The recurrence was proven linear, but none of the parallel forms covers it: a complex state that meets its
own conjugate (linear over the real numbers only), states of different shapes that are coupled, a boolean
state. It runs as written, and whatever does not depend on the state was moved out of the loop.

    def net(x):
        h = torch.zeros_like(x[:, 0])
        for t in range(x.shape[1]):
            h = 0.5 * h + 0.25 * h.conj() + x[:, t]
        return h

    inputs = (torch.randn(2, 12, 4, dtype=torch.complex64),)

Cure: write it with a state that has a form, here the real and the imaginary part.

    def net(x):
        r = i = torch.zeros_like(x[:, 0].real)
        for t in range(x.shape[1]):
            r = 0.75 * r + x[:, t].real
            i = 0.25 * i + x[:, t].imag
        return torch.complex(r, i)

    inputs = (torch.randn(2, 12, 4, dtype=torch.complex64),)
""",
    ),
}
