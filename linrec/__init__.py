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
    from linrec.errors import (
        CaptureError,
        InternalError,
        IRSyntaxError,
        LinrecError,
        NotLinearError,
        NumericsError,
        ShapeError,
        StateError,
        VerificationError,
    )
    from linrec.reports import Recurrence, Report
    from linrec.states import state_index

_HOME = {
    **dict.fromkeys(
        ("compile", "explain", "export_step", "recurrent", "report", "source", "step_source", "stream"), "linrec.api"
    ),
    "disabled": "linrec.compiler",
    "state_index": "linrec.states",
    **dict.fromkeys(("Report", "Recurrence"), "linrec.reports"),
    **dict.fromkeys(
        ("LinrecError", "CaptureError", "NotLinearError", "ShapeError", "StateError", "NumericsError",
         "VerificationError", "IRSyntaxError", "InternalError"),
        "linrec.errors",
    ),
}  # fmt: skip

__all__ = [
    "CaptureError",
    "IRSyntaxError",
    "InternalError",
    "LinrecError",
    "NotLinearError",
    "NumericsError",
    "Recurrence",
    "Report",
    "ShapeError",
    "StateError",
    "VerificationError",
    "compile",
    "disabled",
    "explain",
    "export_step",
    "recurrent",
    "report",
    "source",
    "state_index",
    "step_source",
    "stream",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'linrec' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
