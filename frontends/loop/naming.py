"""Naming: values get the names the user gave them, and domains the direction time runs in."""

from __future__ import annotations

import ast
import linecache
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

from linrec.ir import Arg, Graph, Op, Source, Use, map_uses


def named(graph: Graph) -> Graph:
    """Rename every value: after the variable its expression was assigned to, else after its operator."""
    taken = {i.name for i in graph.inputs}
    names: dict[str, str] = {}
    for op in sorted(graph.ops, key=lambda op: not op.init):  # states first: theirs are the names people look for
        wanted = (_variable(op.source) if op.source else None) or op.kind.strip("_")
        name, number = wanted, 1
        while name in taken:
            number += 1
            name = f"{wanted}_{number}"
        taken.add(name)
        names[op.result] = name
    return _renamed(graph, names)


def _renamed(graph: Graph, names: Mapping[str, str]) -> Graph:
    def change(use: Use) -> Arg:
        return Use(names.get(use.name, use.name), use.delay)

    return replace(
        graph,
        ops=tuple(replace(op.map_uses(change), result=names[op.result]) for op in graph.ops),
        outputs=tuple(map_uses(o, change) for o in graph.outputs),
        effects=tuple((path, Use(names.get(u.name, u.name), u.delay)) for path, u in graph.effects),
    )


def _variable(source: Source) -> str | None:
    """The name that the expression at `source` is assigned to, or the array it is stored in."""
    text = "".join(linecache.getlines(source.file))
    return _assignments(source.file, text).get((source.line, source.start, source.end))


@lru_cache(maxsize=64)
def _assignments(file: str, text: str) -> dict[tuple[int, int, int], str]:
    found: dict[tuple[int, int, int], str] = {}
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return found
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target, place = node.targets[0], node.value
        elif isinstance(node, ast.AugAssign):
            target, place = node.target, node  # type: ignore[assignment]
        else:
            continue
        name = target.id if isinstance(target, ast.Name) else target.attr if isinstance(target, ast.Attribute) else None
        if name is not None:
            found[place.lineno, place.col_offset, place.end_col_offset or 0] = name
    return found


def directed(graph: Graph) -> Graph:
    """Make a domain backward when its signals run backward, so that positions are those of the data."""
    backward = {
        time.name
        for time in graph.times
        if (steps := [op.args[3] for op in graph.ops if op.kind == "signal" and op.time == time.name])
        and all(isinstance(s, int) and s < 0 for s in steps)
    }
    by_name = graph.by_name()
    ops: list[Op] = []
    for op in graph.ops:
        read = by_name.get(op.args[0].name) if op.args and isinstance(op.args[0], Use) else None
        if op.kind == "signal" and op.time in backward:
            # step k is position p = trip - 1 - k, so start + stride*k = start + stride*(trip - 1) - stride*p
            source, axis, start, stride = op.args
            trip = graph.time(op.time).trip
            assert isinstance(start, int) and isinstance(stride, int)
            ops.append(replace(op, args=(source, axis, trip * stride - stride + start, -stride)))
        elif op.leaves_time and op.kind == "stack" and read is not None and read.time in backward:
            # readers expect the order of steps; `flip` of that is the order of positions
            ops.append(replace(op, result=f"{op.result}.positions"))
            ops.append(replace(op, kind="flip", args=(Use(f"{op.result}.positions"), (op.args[1],))))
        elif op.kind == "flip" and read is not None and read.kind == "stack" and read.leaves_time:
            inner = by_name[read.args[0].name] if isinstance(read.args[0], Use) else None
            undone = inner is not None and inner.time in backward and op.args[1] == (read.args[1],)
            ops.append(replace(op, kind="alias", args=(Use(f"{read.result}.positions"),)) if undone else op)
        else:
            ops.append(op)
    times = tuple(replace(t, direction="backward") if t.name in backward else t for t in graph.times)
    return replace(graph, times=times, ops=tuple(ops))
