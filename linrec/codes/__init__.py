"""Codes: what each LRxxxx means, with the smallest program that gets it and an edit that cures it.

Ranges: LR0 capture, LR1 not linear, LR2 forms and cost, LR3 numerics, LR4 state and step, LR5
verification, LR6 text and command line, LR9 internal. A refusal is a remark: the program then runs
as written and its results are those of the original.
"""

from linrec.codes import capture, declared, forms, language, linearity, more, running
from linrec.codes.code import Code

CODES: dict[str, Code] = {
    **capture.CODES,
    **declared.CODES,
    **linearity.CODES,
    **forms.CODES,
    **running.CODES,
    **language.CODES,
    **more.CODES,
}

__all__ = ["CODES", "Code"]
