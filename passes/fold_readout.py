"""Fold readout: a state that is only read through a narrower linear map is never stored.

With y = C h the impulse response of the recurrence is C A^k B. Applies to lti recurrences whose one output is
read by one map; an offset (a bias) that the map adds is added to the result.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from linrec.ir import Graph, Recurrence
from linrec.linear.folding import folds, width
from linrec.manager import Context, Pass


@dataclass(frozen=True)
class FoldReadout(Pass):
    """Absorb the chain of linear maps after a state down to its narrowest value."""

    name: ClassVar[str] = "fold-readout"
    after: ClassVar[tuple[str, ...]] = ("fold-drive", "find-structure")

    def run(self, graph: Graph, context: Context) -> Graph:
        """Each lti recurrence on its own."""
        return replace(graph, recurrences=tuple(self._folded(graph, r, context) for r in graph.recurrences))

    def _folded(self, graph: Graph, recurrence: Recurrence, context: Context) -> Recurrence:
        if recurrence.kind != "lti" or len(recurrence.outputs) != 1:
            return recurrence
        readers, roots = graph.readers(), graph.roots()
        members = set(recurrence.members)
        chain: list[str] = []
        best, least = 0, width(graph, recurrence.outputs[0])
        current = recurrence.outputs[0]
        while current not in roots:
            outside = [op for op in readers.get(current, []) if op.result not in members]
            reads = [use for op in outside for use in op.uses() if use.name == current]
            # the state may be read before or after its update, so at a delay
            if (
                len(outside) != 1
                or len(set(reads)) != 1
                or not folds(graph, outside[0], reads[0], members, offset=True)
            ):
                break
            current = outside[0].result
            chain.append(current)
            if width(graph, current) < least:
                best, least = len(chain), width(graph, current)
        if not best:
            return recurrence
        members |= set(chain[:best])
        context.remark(
            "passed", recurrence.name, f"read out as %{chain[best - 1]}; %{recurrence.outputs[0]} is not stored"
        )
        ordered = tuple(op.result for op in graph.ops if op.result in members)
        return replace(recurrence, members=ordered, outputs=(chain[best - 1],))
