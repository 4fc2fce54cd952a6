"""Capture alone: a call as a graph, before any pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from linrec.frontends.loop import capture, reachable
from linrec.frontends.loop.axes import STEPS
from linrec.ir import Graph


def trace(
    model: Callable[..., Any], *args: Any, steps: Sequence[int] = STEPS, sources: bool = True, **kwargs: Any
) -> Graph:
    """The graph of `model(*args, **kwargs)`, traced at lengths `steps` and generalised over them.

    `sources=False` leaves out the user's files and lines. Raises CaptureError where the call cannot be captured.
    """
    function = model.__wrapped__ if hasattr(model, "_linrec_engine") and hasattr(model, "__wrapped__") else model
    forward = getattr(type(function), "_linrec_forward", None)
    function = forward.__get__(function) if forward is not None else getattr(function, "forward", function)
    name = getattr(model, "__name__", type(model).__name__)
    graph = capture(function, reachable(function), args, kwargs, name, tuple(steps)).graph
    return graph if sources else without_sources(graph)


def without_sources(graph: Graph) -> Graph:
    """The graph without places in the user's files."""
    return replace(graph, ops=tuple(replace(op, source=None) for op in graph.ops))
