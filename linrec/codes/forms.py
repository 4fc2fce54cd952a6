"""Forms: what keeps a linear recurrence from running in parallel."""

from __future__ import annotations

from linrec.codes.code import Code

CODES: dict[str, Code] = {
    "LR2002": Code(
        "linear, and no parallel form for this structure yet",
        """\
The recurrence was proven linear, but none of the parallel forms covers it: its state is made of integers,
which parallel forms would round or overflow otherwise, or its structure has no form yet. It runs as
written, and whatever does not depend on the state was moved out of the loop.

    def net(x):
        h = torch.zeros_like(x[:, 0])
        for t in range(x.shape[1]):
            h = 2 * h + x[:, t]
        return h

    inputs = (torch.randint(0, 2, (2, 12, 4)),)

Cure: make the state floating point.

    def net(x):
        x = x.double()
        h = torch.zeros_like(x[:, 0])
        for t in range(x.shape[1]):
            h = 2 * h + x[:, t]
        return h

    inputs = (torch.randint(0, 2, (2, 12, 4)),)
""",
    ),
}
