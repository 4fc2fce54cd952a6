"""The loop frontend: ordinary Python loops over time, as they are.

A call is traced at a few small lengths, each trace is re-rolled into a loop, and the loops are
generalised over lengths. The axis that time runs along is found: it is the one along which the
number of operators grows. Where short traces cannot speak for long ones (see counters.py), the
program is traced at the length of the call and held to that length.
"""

from linrec.frontends.loop.capture import Capture, capture
from linrec.frontends.loop.environment import Environment, reachable

__all__ = ["Capture", "Environment", "capture", "reachable"]
