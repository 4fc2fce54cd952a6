"""Folding: maps before and after a time-invariant recurrence that can become part of its matrices.

A map folds if it is linear in one signal with coefficients that do not vary, and adds nothing. Along a
chain of such maps the recurrence is cut where the signal is narrowest: with u narrower than B u the
impulse response is A^k B and B u is never stored; with y = C h narrower than h it is C A^k.
"""

from __future__ import annotations

from linrec.draws import RANDOM
from linrec.ir import Graph, Op, Type, Use
from linrec.linear.affine import Refusal
from linrec.linear.analysis import Analysis
from linrec.sizes import Dim, evaluate, names_of

_TYPICAL = 1000  # stands for every named length when widths are compared


def width(graph: Graph, name: str) -> int:
    """How many numbers a step of a signal, or an input, has, named lengths counted as large."""
    type_ = next((i.type for i in graph.inputs if i.name == name), None) or graph.op(name).type
    assert isinstance(type_, Type)
    total = 1
    for dim in type_.shape:
        total *= evaluate(dim, dict.fromkeys(_names(dim), _TYPICAL))
    return total


def _names(dim: Dim) -> frozenset[str]:
    return names_of(dim)


def folds(graph: Graph, op: Op, through: Use, members: set[str], *, offset: bool) -> bool:
    """Is `op` a time-invariant linear map of the signal `through` and of nothing else that varies?"""
    if op.time is None or op.init or op.kind in (*RANDOM, "signal") or op.result in members or op.leaves_time:
        return False
    by_name = graph.by_name()
    varying = {u for u in op.uses() if u.name in by_name and by_name[u.name].time is not None}
    if varying != {through}:
        return False
    analysis = Analysis(graph, {op.result}, [through])
    if isinstance(analysis.refusal, Refusal) or op.result not in analysis.forms:
        return False
    form = analysis.forms[op.result]
    return bool(form.terms) and (offset or form.offset is None)
