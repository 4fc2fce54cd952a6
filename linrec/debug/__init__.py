"""Finding out what the compiler did to a program, and whether it was right: the powers of the command line in Python.

    graph = linrec.debug.trace(net, x)                   the captured graph; print(linrec.text.show(graph))
    linrec.debug.optimize(graph, hooks=[...])            any passes, watched by any hooks (linrec.debug.hooks)
    linrec.debug.validate(graph)                         every pass on bounded lengths, against the step interpreter
    linrec.debug.bisect(graph)                           the first rewrite that breaks validation
    linrec.debug.reduce(graph)                           a smaller graph with the same failure

Names are loaded when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from linrec.debug.bisection import bisect
    from linrec.debug.laws import check_laws
    from linrec.debug.reduction import reduce
    from linrec.debug.run import optimize
    from linrec.debug.tracing import trace
    from linrec.debug.validation import VerifyEach, validate

_HOME = {
    "VerifyEach": "validation",
    "bisect": "bisection",
    "check_laws": "laws",
    "optimize": "run",
    "reduce": "reduction",
    "trace": "tracing",
    "validate": "validation",
}

__all__ = ["VerifyEach", "bisect", "check_laws", "optimize", "reduce", "trace", "validate"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"linrec.debug.{_HOME[name]}"), name)
    raise AttributeError(f"module 'linrec.debug' has no attribute {name!r}")
