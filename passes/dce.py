"""Dead code: drop ops, and time domains, that no output depends on at any delay."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import networkx as nx

from linrec.draws import RANDOM
from linrec.ir import Graph
from linrec.manager import Context, Pass


@dataclass(frozen=True)
class DeadCode(Pass):
    """Keep what outputs and effects need, and draws of random numbers, which later draws depend on."""

    name: ClassVar[str] = "dce"
    after: ClassVar[tuple[str, ...]] = ("cse", "hoist")

    def run(self, graph: Graph, context: Context) -> Graph:
        """One search backwards from the outputs."""
        edges = graph.edges()
        roots = graph.roots() | {op.result for op in graph.ops if op.kind in RANDOM}
        live = roots.union(*(nx.ancestors(edges, root) for root in roots))
        ops = tuple(op for op in graph.ops if op.result in live)
        if len(ops) == len(graph.ops):
            return graph
        context.remark("passed", graph.name, f"{len(graph.ops) - len(ops)} ops that nothing reads")
        times = {op.time for op in ops}
        return replace(graph, ops=ops, times=tuple(t for t in graph.times if t.name in times))
