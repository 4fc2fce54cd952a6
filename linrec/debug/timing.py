"""Timing: the loop as written beside each form, call by call in turns, so that a busy machine slows all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from linrec.api import compile as compiled
from linrec.api import explain
from linrec.debug.laws import drawn
from linrec.debug.tracing import trace

FORMS = ("final", "convolution", "chunked", "scan", "associative")


@dataclass(frozen=True)
class Timed:
    """Median seconds of one call of a form at a length; `first` is the call that captures and compiles."""

    steps: int
    form: str
    seconds: float
    first: float

    def times(self, loop: Timed) -> float:
        """How many times as fast as the loop."""
        return loop.seconds / self.seconds


def bench(
    model: Callable[..., Any], inputs: Sequence[Any], *, steps: Sequence[int], train: bool = False, repeats: int = 5
) -> Iterator[Timed]:
    """The loop ("loop"), the compiler's choice ("auto") and every other form that applies, at each length.

    `train` times forward and backward. Raises CaptureError where the call cannot be captured.
    """
    graph = trace(model, *inputs)
    report = explain(model, *inputs)
    found = {c.form for r in report.recurrences for c in (*r.alternatives, *([r.cost] if r.cost else []))}
    forms = ["auto", *(f for f in FORMS if f in found)]
    for n in steps:
        given = drawn(inputs, graph, n, "", 0)
        calls = {"loop": _call(model, train)}
        calls |= {f: _call(compiled(model, verify="off", forms=f), train) for f in forms}
        first = {name: _seconds(call, given) for name, call in calls.items()}
        taken: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(repeats):
            for name, call in calls.items():
                taken[name].append(_seconds(call, given))
        for name, values in taken.items():
            yield Timed(n, name, statistics.median(values), first[name])


def _call(function: Callable[..., Any], train: bool) -> Callable[[list[Any]], None]:
    def run(given: list[Any]) -> None:
        if not train:
            with torch.no_grad():
                function(*given)
            return
        parameters = list(function.parameters()) if isinstance(function, nn.Module) else []
        total: Any = sum(
            (x.abs() if x.is_complex() else x).sum()
            for x in pytree.tree_leaves(function(*given))
            if isinstance(x, Tensor) and x.requires_grad
        )
        leaves = [x for x in (*given, *parameters) if isinstance(x, Tensor) and x.requires_grad]
        if leaves and isinstance(total, Tensor):
            torch.autograd.grad(total, leaves, allow_unused=True)

    def timed(given: list[Any]) -> None:
        wanted = [x.requires_grad_() if train and isinstance(x, Tensor) and x.is_floating_point() else x for x in given]
        run(wanted)

    return timed


def _seconds(call: Callable[[list[Any]], None], given: list[Any]) -> float:
    started = time.perf_counter()
    call(given)
    return time.perf_counter() - started
