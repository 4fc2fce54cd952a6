"""linrec compiles the linear recurrences of PyTorch programs into parallel form, and back into steps.

    net = linrec.compile(Net())      # same call, same parameters; training runs in parallel form
    print(net.report)                # what was found, and why not where it was not
    rnn = net.recurrent(x)           # the recurrent form: one step at a time

Names are loaded when first used, so that the command line answers without importing torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from linrec.api import compile, explain, export_step, recurrent, report, source, step_source, stream
    from linrec.compiler import disabled
    from linrec.declared import diagram, equations, filter, system
    from linrec.drawing import draw, to_networkx
    from linrec.errors import (
        CaptureError,
        DeclarationError,
        InternalError,
        IRSyntaxError,
        LinrecError,
        NotLinearError,
        NumericsError,
        ShapeError,
        StateError,
        VerificationError,
    )
    from linrec.frontends.step import Recurrent, scan
    from linrec.reports import Recurrence, Report
    from linrec.states import state_index
    from linrec.symbolic import to_sympy

_HOME = {
    **dict.fromkeys(
        ("compile", "explain", "export_step", "recurrent", "report", "source", "step_source", "stream"), "linrec.api"
    ),
    "disabled": "linrec.compiler",
    **dict.fromkeys(("diagram", "equations", "filter", "system"), "linrec.declared"),
    **dict.fromkeys(("draw", "to_networkx"), "linrec.drawing"),
    "to_sympy": "linrec.symbolic",
    **dict.fromkeys(("Recurrent", "scan"), "linrec.frontends.step"),
    "state_index": "linrec.states",
    **dict.fromkeys(("Report", "Recurrence"), "linrec.reports"),
    **dict.fromkeys(
        ("LinrecError", "CaptureError", "DeclarationError", "NotLinearError", "ShapeError", "StateError", "NumericsError",
         "VerificationError", "IRSyntaxError", "InternalError"),
        "linrec.errors",
    ),
}  # fmt: skip

__all__ = [
    "CaptureError",
    "DeclarationError",
    "IRSyntaxError",
    "InternalError",
    "LinrecError",
    "NotLinearError",
    "NumericsError",
    "Recurrence",
    "Recurrent",
    "Report",
    "ShapeError",
    "StateError",
    "VerificationError",
    "compile",
    "diagram",
    "disabled",
    "draw",
    "equations",
    "explain",
    "export_step",
    "filter",
    "recurrent",
    "report",
    "scan",
    "source",
    "state_index",
    "step_source",
    "stream",
    "system",
    "to_networkx",
    "to_sympy",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'linrec' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
