"""Forms: what keeps a linear recurrence from running in parallel."""

from __future__ import annotations

from linrec.codes.code import Code

CODES: dict[str, Code] = {
    "LR2002": Code(
        "linear, and no parallel form for this structure yet",
        """\
The recurrence was proven linear, but none of the parallel forms covers it: a boolean state, or an axis that
coefficients mix and whose length is not known. It runs as written, and whatever does not depend on the state
was moved out of the loop.

    def net(x):
        above = x[:, 0] > 0
        for t in range(x.shape[1]):
            above = torch.where(x[:, t].abs() > 1, x[:, t] > 0, above)
        return above

    inputs = (torch.randn(2, 12, 4),)

Cure: write it with a state that has a form, here numbers for the flags.

    def net(x):
        above = (x[:, 0] > 0).to(x.dtype)
        for t in range(x.shape[1]):
            above = torch.where(x[:, t].abs() > 1, (x[:, t] > 0).to(x.dtype), above)
        return above > 0.5

    inputs = (torch.randn(2, 12, 4),)
""",
    ),
}
