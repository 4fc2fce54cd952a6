"""Find structure: scalar, diagonal, block-diagonal, companion, diagonal + low rank, dense."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from linrec.ir import Graph, Recurrence
from linrec.linear.structure import structure_of
from linrec.manager import Context, Pass


@dataclass(frozen=True)
class FindStructure(Pass):
    """Name the class of each proven transition (linrec/linear/structure.py)."""

    name: ClassVar[str] = "find-structure"
    after: ClassVar[tuple[str, ...]] = ("prove-linear",)

    def run(self, graph: Graph, context: Context) -> Graph:
        """What is not proven linear has no structure."""
        return replace(graph, recurrences=tuple(self._named(graph, r, context) for r in graph.recurrences))

    def _named(self, graph: Graph, recurrence: Recurrence, context: Context) -> Recurrence:
        if recurrence.kind not in ("lti", "ltv"):
            return recurrence
        structure = structure_of(graph, recurrence)
        context.remark("analysis", recurrence.name, structure)
        return replace(recurrence, structure=structure)
