"""Tables: coefficients and positions that are looked up at the number of the step, and end somewhere.

A loop over `A[t]`, or an embedding of positions, holds for as many steps as the table has entries. Steps can go on
for ever, so the last entry is passed at some point: with an error that names the table.
"""

from __future__ import annotations

import networkx as nx

from linrec.errors import StateError
from linrec.ir import Graph, Use, uses_in

_INDEX = {"index_select": 2, "embedding": 1, "gather": 2, "index": 1}  # lookups, and which argument says where


def past_the_end(graph: Graph, clock: str, before: int, steps: int) -> StateError | None:
    """The error for `steps` steps after `before` that read a table past its end; None if no table is that short.

    `graph` is the program from a state, in which `clock` counts the steps so far.
    """
    edges = graph.edges()
    counted = nx.descendants(edges, clock) if clock in edges else set()
    types = {i.name: i.type for i in graph.inputs} | {op.result: op.type for op in graph.ops}
    paths = {i.name: i.path or i.name for i in graph.inputs}
    for op in graph.ops:
        at = _INDEX.get(op.kind)
        if at is None or not any(use.name in counted for use in uses_in(op.args[at])):
            continue
        source, axis = op.args[0], op.args[1] if op.kind in ("index_select", "gather") else 0
        assert isinstance(source, Use) and isinstance(axis, int)
        type_ = types[source.name]
        long = type_.shape[axis] if not isinstance(type_, tuple) and type_ is not None else None
        if isinstance(long, int) and before + steps > long - _start(graph, op.args[at]):
            name = next(
                (paths[n] for n in (source.name, *sorted(nx.ancestors(edges, source.name))) if n in paths), source.name
            )
            reads = f"after {before} steps, {steps} more" if before else f"{steps} steps"
            return StateError(
                "LR4010", f"{name.rpartition(':')[2]} has {long} entries along time, and {reads} read past its end",
                file=op.source.file if op.source else None, line=op.source.line if op.source else None,
                help="start afresh (state=None, stream.reset()), make the table longer, or read it at t % len(table)",
            )  # fmt: skip
    return None


def _start(graph: Graph, index: object) -> int:
    """The entry that step 0 reads: what is added to the count of steps on its way to a lookup."""
    made, start = graph.by_name(), 0
    while isinstance(index, Use) and (op := made.get(index.name)) is not None and op.args:
        if op.kind == "add" and isinstance(op.args[1], int):
            start += op.args[1]
        index = op.args[0]
    return start
