"""Fold drive: the maps that make a recurrence's drive from a narrower signal become part of it.

With h = A h + B u the recurrence is driven by u, not by B u: its impulse response has as many columns as u
has channels. Applies to lti recurrences; the narrowest signal of the chain wins.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import networkx as nx

from linrec.ir import Graph, Op, Recurrence, Use
from linrec.linear.analysis import driven_by
from linrec.linear.folding import folds, width
from linrec.manager import Context, Pass


@dataclass(frozen=True)
class FoldDrive(Pass):
    """Absorb each drive's chain of linear maps down to its narrowest signal."""

    name: ClassVar[str] = "fold-drive"
    after: ClassVar[tuple[str, ...]] = ("find-structure",)

    def run(self, graph: Graph, context: Context) -> Graph:
        """Each lti recurrence on its own."""
        return replace(graph, recurrences=tuple(self._folded(graph, r, context) for r in graph.recurrences))

    def _folded(self, graph: Graph, recurrence: Recurrence, context: Context) -> Recurrence:
        if recurrence.kind != "lti" or recurrence.semiring != "sum-product":
            return recurrence
        by_name = graph.by_name()
        for drive in driven_by(graph, recurrence):
            chain: list[str] = []
            best, least = 0, width(graph, drive.name)
            current = drive
            while current.delay == 0:
                op = by_name[current.name]
                sources = {u for u in op.uses() if u.name in by_name and by_name[u.name].time is not None}
                source = next(iter(sources)) if len(sources) == 1 else None
                if source is None or not folds(graph, op, source, set(recurrence.members), offset=False):
                    break
                chain.append(op.result)
                current = source
                # a coefficient that is learned makes the response change: it must at least narrow the drive
                free = least if _is_frozen(graph, op, source, context.frozen) else least - 1
                if width(graph, current.name) <= free:
                    best, least = len(chain), width(graph, current.name)
            if best and context.allows(recurrence.name):
                members = set(chain[:best])
                ordered = tuple(
                    op.result for op in graph.ops if op.result in members or op.result in recurrence.members
                )
                recurrence = replace(recurrence, members=ordered)
                context.remark(
                    "passed", recurrence.name, f"driven by %{_end(graph, chain[best - 1])} instead of %{drive.name}"
                )
        return recurrence


def _is_frozen(graph: Graph, op: Op, source: Use, frozen: frozenset[str]) -> bool:
    """Do the coefficients of a map depend on nothing that changes from call to call?"""
    edges, inputs = graph.edges(), {i.name for i in graph.inputs}
    names = {u.name for u in op.uses() if u != source}
    return all((nx.ancestors(edges, n) | {n}) & inputs <= frozen for n in names)


def _end(graph: Graph, name: str) -> str:
    by_name = graph.by_name()
    return next(
        u.name for u in by_name[name].uses() if isinstance(u, Use) and u.name in by_name and by_name[u.name].time
    )
