"""Find recurrences: strongly connected components of the graph of reads.

Every cycle has a delay, so every component is a recurrence; the condensation is acyclic and says in
which order recurrences and the maps between them are computed. Costs one linear search (Tarjan).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import networkx as nx

from linrec.ir import Graph, Recurrence
from linrec.manager import Context, Pass


@dataclass(frozen=True)
class FindRecurrences(Pass):
    """Record each cycle with its states: the values that are read with a delay."""

    name: ClassVar[str] = "find-recurrences"
    after: ClassVar[tuple[str, ...]] = ("dce", "draws")

    def run(self, graph: Graph, context: Context) -> Graph:
        """Components in program order, named r0, r1, ..."""
        edges: nx.DiGraph[str] = nx.DiGraph()
        edges.add_nodes_from(op.result for op in graph.ops)
        edges.add_edges_from((use.name, op.result) for op in graph.ops for use in op.uses())
        place = {op.result: i for i, op in enumerate(graph.ops)}
        by_name = graph.by_name()
        found: list[Recurrence] = []
        components = [
            c for c in nx.strongly_connected_components(edges) if len(c) > 1 or edges.has_edge(*[next(iter(c))] * 2)
        ]
        for component in sorted(components, key=lambda c: min(place.get(n, -1) for n in c)):
            members = tuple(sorted(component, key=place.__getitem__))
            delayed = {u.name for m in members for u in by_name[m].uses() if u.delay and u.name in component}
            states = tuple(m for m in members if m in delayed)
            readers = graph.readers()
            outputs = tuple(
                m for m in members if m in graph.roots() or any(r.result not in component for r in readers.get(m, []))
            )
            time = by_name[members[0]].time
            assert time is not None
            found.append(Recurrence(f"r{len(found)}", time, states, members, outputs))
            context.remark("analysis", f"r{len(found) - 1}", f"state {', '.join('%' + s for s in states)}")
        return replace(graph, recurrences=tuple(found)) if found else graph
