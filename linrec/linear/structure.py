"""Structure: the class of a transition, read off its terms without building it.

An axis of the state *mixes* if some path sums over it, is *touched* if coefficients differ along it,
and is batch otherwise. No mixing and no touching: scalar. Touching alone: diagonal. Mixing: dense, or
block-diagonal if other axes are touched or several states are coupled elementwise. Reads further back
than one step: companion.
"""

from __future__ import annotations

from linrec.ir import Graph, Recurrence
from linrec.linear.analysis import Analysis, state_reads


def structure_of(graph: Graph, recurrence: Recurrence) -> str:
    """The structure of a proven recurrence."""
    reads = state_reads(graph, recurrence)
    analysis = Analysis(graph, recurrence.members, reads)
    mixes = touches = low_rank = False
    for state in recurrence.states:
        for term in analysis.forms[state].terms:
            touched = {label for f in term.factors for axis in f.axes for label in axis}
            mixed = [
                i
                for i in range(max(len(term.axes), len(term.state_axes)))
                if (term.axes[i : i + 1] or None) != (term.state_axes[i : i + 1] or None)
            ]
            mixes |= bool(mixed)
            own = {label for i, axis in enumerate(term.axes) if i not in mixed for label in axis}
            touches |= bool(touched & own)
            low_rank |= bool(mixed) and len(_parts(term.axes, term.state_axes, [f.axes for f in term.factors])) > 1
    if max(use.delay for use in reads) > 1:
        return "companion"
    if mixes:
        return "diagonal+low-rank" if low_rank else "block-diagonal" if touches else "dense"
    if len(recurrence.states) > 1 and any(
        len({t.state for t in analysis.forms[s].terms}) > 1 for s in recurrence.states
    ):
        return "block-diagonal"
    return "diagonal" if touches else "scalar"


def _parts(out: object, state: object, factors: list[object]) -> list[set[int]]:
    """Connected parts of a term's factors: two parts, one at each end, make an outer product."""
    parts: list[set[int]] = []
    for axes in factors:
        labels = {label for axis in axes for label in axis}  # type: ignore[attr-defined]
        joined = [p for p in parts if p & labels]
        parts = [p for p in parts if not p & labels] + [labels.union(*joined)]
    new = {label for axis in out for label in axis}  # type: ignore[attr-defined]
    old = {label for axis in state for label in axis}  # type: ignore[attr-defined]
    ends = [p for p in parts if (p & new - old) or (p & old - new)]
    return ends if not any((p & (new - old)) and (p & (old - new)) for p in ends) else [set()]
