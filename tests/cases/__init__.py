"""Loops as people write them, each with the inputs it takes: one table for linear time-invariant programs, one for
time-varying and one for nonlinear ones.

`LTI`, `LTV` and `NONLINEAR` map a name to a `Case`. `Case.make()` gives a fresh function or module in float64 with the
same weights each time; `Case.args(batch, steps)` draws its inputs, all leaves that may carry a gradient requiring it.
"""

from cases import layers, nonlinear, states, steps, varying, walks
from cases.case import LTI, LTV, NONLINEAR, Case, zeros

__all__ = [
    "LTI",
    "LTV",
    "NONLINEAR",
    "Case",
    "layers",
    "nonlinear",
    "states",
    "steps",
    "varying",
    "walks",
    "zeros",
]
