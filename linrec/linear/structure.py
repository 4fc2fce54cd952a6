"""Structure: the class of a transition, read off its terms without building it.

An axis of the state *mixes* if some path sums over it, is *touched* if coefficients differ along it,
and is batch otherwise. No mixing and no touching: scalar. Touching alone: diagonal. Mixing: dense, or
block-diagonal if an axis of known length besides is touched or several states, or a state and its conjugate, are
coupled elementwise. A path
whose coefficients fall into a part that reads the state and a part that writes it is an outer product: diagonal +
low rank. Reads further back than one step: companion.
"""

from __future__ import annotations

import math

from linrec.ir import Graph, Recurrence
from linrec.linear.affine import Label, Term
from linrec.linear.analysis import Analysis, analysed, state_reads


def structure_of(graph: Graph, recurrence: Recurrence) -> str:
    """The structure of a proven recurrence."""
    analysis = analysed(graph, recurrence)
    terms = [(state, term) for state in recurrence.states for term in analysis.forms[state].terms]
    if max((use.delay for use in state_reads(graph, recurrence)), default=1) > 1:
        return "companion"
    mixed = [term for _, term in terms if _mixed(term)]
    if mixed:
        if all(_is_outer(term) for term in mixed) and len(mixed) < _width(mixed[0], analysis):
            return "diagonal+low-rank"
        return "block-diagonal" if any(_has_blocks(term, analysis) for _, term in terms) else "dense"
    if any(term.state.name != state or term.conjugate for state, term in terms):
        return "block-diagonal"
    return "diagonal" if any(_touched(term) & _passing(term) for _, term in terms) else "scalar"


def _mixed(term: Term) -> bool:
    return term.axes != term.state_axes


def _passing(term: Term) -> set[Label]:
    """Labels of the axes that go straight from the old state to the new one."""
    return {x for new, old in zip(term.axes, term.state_axes, strict=False) if new == old for x in new}


def _width(term: Term, analysis: Analysis) -> int:
    """How many numbers of the state a path mixes; outer products fewer than that are of low rank."""
    sizes = [analysis.labels.size[x] for axis in term.state_axes for x in axis if x not in _passing(term)]
    return math.prod(d for d in sizes if isinstance(d, int))


def _touched(term: Term) -> set[Label]:
    return {label for f in term.factors for axis in f.axes for label in axis}


def _has_blocks(term: Term, analysis: Analysis) -> bool:
    """Do coefficients differ along an axis that passes? One of unknown length is the batch."""
    return any(isinstance(analysis.labels.size[x], int) for x in _touched(term) & _passing(term))


def _is_outer(term: Term) -> bool:
    """Is no factor, nor chain of factors, linked to both the axes that are summed and those that are made?"""
    passing = _passing(term)
    read = {x for axis in term.state_axes for x in axis} - passing
    made = {x for axis in term.axes for x in axis} - passing
    parts: list[set[Label]] = [{x} for x in read | made]
    for f in term.factors:
        linked = {x for axis in f.axes for x in axis} - passing
        joined = [p for p in parts if p & linked]
        parts = [p for p in parts if not p & linked] + [linked.union(*joined)]
    return bool(read and made) and not (read & made) and not any(p & read and p & made for p in parts)
