"""Writes: what a recurrent program leaves behind besides its results.

A program may write to attributes, buffers and arguments. What it writes is one more result of each call: the value of
the last step, of the steps of that call, or one that does not vary; and is written where the original writes it. Then
folding steps, chunks and the whole sequence leave the same behind, provided that no step reads what a call before it
wrote. A first state may: `self.h` that goes on from call to call is the state of a call that is given none.
"""

from __future__ import annotations

from dataclasses import replace

import networkx as nx

from linrec.emit.stateful import Stateful
from linrec.errors import StateError
from linrec.ir import Graph, Op, Use, uses_in

_NORMS = ("batch_norm", "instance_norm")  # input, weight, bias, running_mean, running_var, "are these written"


def with_writes(graph: Graph) -> Graph:
    """What is written as results after those that are returned.

    Raises StateError (LR4009) for running statistics, unless they are those of a state, taken at each step of a loop.
    """
    for op in graph.ops:
        if op.kind in _NORMS and isinstance(op.args[3], Use) and op.args[5] is True and not _is_of_a_state(graph, op):
            raise _refusal(
                graph, op, f"`{op.kind}` updates its running statistics at every call", "call net.eval() first"
            )
    return replace(graph, outputs=(*graph.outputs, *(use for _, use in graph.effects)), effects=())


def first_states(graph: Graph, program: Stateful) -> tuple[str, ...]:
    """The written places that a first state is read from.

    `graph` is the captured program, with its effects, `program` what was made of it `with_writes`. Raises StateError
    (LR4009) if splitting a sequence would change what is read.
    """
    found, count, made = [], len(graph.outputs), graph.by_name()
    onward, start = _needed(program.onward), _needed(program.start)
    for (path, use), axis, offset in zip(graph.effects, program.outputs[count:], program.offsets[count:], strict=True):
        is_argument = path.startswith("argument:")
        place = int(path.partition(":")[2]) if is_argument else None
        name = next(
            (i.name for n, i in enumerate(graph.inputs) if n == place or (not is_argument and i.path == path)), ""
        )
        what = f"its argument {name}" if is_argument else path
        if place is not None and (program.warmup or program.inputs[place] is not None):
            if program.warmup or axis != program.inputs[place] or offset:
                raise _refusal(graph, made.get(use.name), f"it writes to {what}, not one entry at each step", _OUTSIDE)
        elif name in onward or (program.warmup and name in start):
            raise _refusal(
                graph, made.get(use.name), f"it writes to {what} at each call, and every step reads it", _OUTSIDE
            )
        elif name in start:
            found.append(what)
    return tuple(found)


_OUTSIDE = "return the new value and write it where the whole sequence is known; or call net.eval() where that stops it"


def require_afresh(places: tuple[str, ...]) -> None:
    """Refuse to start afresh what starts from a written place. Raises StateError (LR4009)."""
    if places:
        raise StateError(
            "LR4009", f"the first state is {', '.join(places)}, which the program writes: it holds no fresh start",
            help="write the first state there yourself, then set stream.state = None, or call without a state",
        )  # fmt: skip


def _needed(graph: Graph) -> set[str]:
    """Every value that results depend on."""
    edges, roots = graph.edges(), {use.name for use in uses_in(graph.outputs)}
    return roots.union(*(nx.ancestors(edges, name) for name in roots))


def _is_of_a_state(graph: Graph, op: Op) -> bool:
    """Is an op part of a recurrence?"""
    edges: nx.DiGraph[str] = nx.DiGraph((use.name, o.result) for o in graph.ops for use in o.uses())
    return any(len(c) > 1 for c in nx.strongly_connected_components(edges) if op.result in c)


def _refusal(graph: Graph, op: Op | None, why: str, way_out: str) -> StateError:
    source = op.source if op is not None else None
    return StateError(
        "LR4009", f"{graph.name} has no recurrent form: {why}",
        file=source.file if source else None, line=source.line if source else None, help=way_out,
    )  # fmt: skip
