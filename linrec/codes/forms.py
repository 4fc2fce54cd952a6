"""Forms: what keeps a linear recurrence from running in parallel."""

from __future__ import annotations

from linrec.codes.code import Code

CODES: dict[str, Code] = {
    "LR2002": Code(
        "linear, and no parallel form for this structure yet",
        """\
The recurrence was proven linear, but none of the parallel forms covers its structure (for example an
order above that of the forms, or a semiring without a kernel). It runs as written, and
whatever does not depend on the state was moved out of the loop.

Cure: `linrec explain --level 2` names the structure; a simpler one that says the same often exists.

    h = torch.einsum("bij,bj->bi", torch.diag_embed(a[:, t]), h)     # dense
    h = a[:, t] * h                                                  # the same step, diagonal
""",
    ),
}
