"""Batch first: every tensor of a state has the batch as its first axis, or says by its name that rows have it in common.

    (n, B, d)                    is kept as (B, n, d)
    (B*k, d), (k*B, d), ...      as (B, k, d), if every view that joins the batch with other axes joins them in one way
    (n,), without a batch axis   under a name that ends in `.shared`; a number has no axes, and needs no such name

So rows can be chosen, reset and taken apart without asking what a tensor means.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from linrec.emit.alignment import product
from linrec.emit.folding import VIEWS
from linrec.emit.stateful import Leaf, Stateful
from linrec.ir import Arg, Graph, Op, Type, Use
from linrec.sizes import Dim, names_of, size

B = size("B")
SHARED = ".shared"


@dataclass(frozen=True)
class Layout:
    """Axis `axis` of a leaf is `before` x B x `behind`."""

    axis: int
    before: tuple[Dim, ...] = ()
    behind: tuple[Dim, ...] = ()


def batch_first(program: Stateful) -> Stateful:
    """The same program with such a state; the same object if it has one."""
    joined = _joined_axes(program.onward)
    leaves, layouts = list(program.leaves), {}
    for n, leaf in enumerate(program.leaves):
        found = _layout(leaf.type, joined)
        if found is None:
            leaves[n] = replace(leaf, name=leaf.name + SHARED) if leaf.type.shape else leaf
        elif found != Layout(0):
            layouts[n] = found
            leaves[n] = replace(leaf, type=_first(leaf.type, found))
    if tuple(leaves) == program.leaves:
        return program
    return replace(
        program, leaves=tuple(leaves), onward=_onward(program, leaves, layouts), start=_start(program, layouts)
    )


def _joined_axes(graph: Graph) -> dict[Dim, set[tuple[tuple[Dim, ...], tuple[Dim, ...]]]]:
    """For each length of an axis that a view made of the batch and others: what it has before and behind the batch."""
    types = {i.name: i.type for i in graph.inputs} | {op.result: op.type for op in graph.ops}
    found: dict[Dim, set[tuple[tuple[Dim, ...], tuple[Dim, ...]]]] = {}
    for op in graph.ops:
        source = op.args[0] if op.kind in VIEWS else None
        given = types[source.name] if isinstance(source, Use) else None
        if not isinstance(given, Type) or not isinstance(op.type, Type) or B not in given.shape:
            continue
        at = given.shape.index(B)
        for axis, length in enumerate(op.type.shape):
            if "B" not in names_of(length) or length == B or "T" in names_of(length):
                continue
            ahead, many = product(op.type.shape[:axis]), len(given.shape)
            found.setdefault(length, set()).update(
                (given.shape[first:at], given.shape[at + 1 : last])
                for first in range(at + 1) for last in range(at + 1, many + 1)
                if product(given.shape[:first]) == ahead and product(given.shape[first:last]) == length
            )  # fmt: skip
    return found


def _layout(type_: Type, joined: dict[Dim, set[tuple[tuple[Dim, ...], tuple[Dim, ...]]]]) -> Layout | None:
    """Where a leaf has its rows; None if they have it in common, or if that is not known."""
    axes = [a for a, d in enumerate(type_.shape) if "B" in names_of(d)]
    if len(axes) != 1:
        return None
    (axis,) = axes
    if type_.shape[axis] == B:
        return Layout(axis)
    ways = {
        (tuple(d for d in before if d != 1), tuple(d for d in behind if d != 1))
        for before, behind in joined.get(type_.shape[axis], ())
    }
    return Layout(axis, *next(iter(ways))) if len(ways) == 1 else None


def _apart(type_: Type, layout: Layout) -> tuple[tuple[Dim, ...], tuple[int, ...]]:
    """The shape with the batch as an axis of its own, and the order of axes that puts it first."""
    axis = layout.axis
    shape = (*type_.shape[:axis], *layout.before, B, *layout.behind, *type_.shape[axis + 1 :])
    place = axis + len(layout.before)
    return shape, (place, *(a for a in range(len(shape)) if a != place))


def _first(type_: Type, layout: Layout) -> Type:
    shape, order = _apart(type_, layout)
    return Type(type_.dtype, tuple(shape[a] for a in order))


def _as_kept(value: Use, type_: Type, layout: Layout, result: str) -> list[Op]:
    """A value of the program as the state keeps it."""
    shape, order = _apart(type_, layout)
    apart = Op(f"{result}.apart", "reshape", (value, shape), (), Type(type_.dtype, shape))
    return [apart, Op(result, "permute", (Use(apart.result), order), (), _first(type_, layout))]


def _onward(program: Stateful, leaves: list[Leaf], layouts: dict[int, Layout]) -> Graph:
    """Leaves are put into the program's order of axes before all, their next values into that of the state."""
    graph, ops, given = program.onward, list(program.onward.ops), []
    count, names = len(program.outputs), {}
    outputs = list(graph.outputs)
    for n, layout in layouts.items():
        leaf, old = leaves[n], program.leaves[n].type
        shape, order = _apart(old, layout)
        back = tuple(order.index(a) for a in range(len(shape)))
        apart = Op(f"{leaf.input}.apart", "permute", (Use(leaf.input), back), (), Type(old.dtype, shape))
        plain = Op(f"{leaf.input}.plain", "reshape", (Use(apart.result), old.shape), (), old)
        given += [apart, plain]
        names[leaf.input] = plain.result
        after = outputs[count + n]
        assert isinstance(after, Use)
        ops += _as_kept(after, old, layout, f"{leaf.input}.kept")
        outputs[count + n] = Use(f"{leaf.input}.kept")

    def change(use: Use) -> Arg:
        return Use(names.get(use.name, use.name), use.delay)

    by_input = {leaf.input: leaf for leaf in leaves}
    inputs = tuple(
        replace(i, type=by_input[i.name].type, path=f"state:{by_input[i.name].name}") if i.name in by_input else i
        for i in graph.inputs
    )
    renamed = tuple(change(o) if isinstance(o, Use) else o for o in outputs)
    return replace(graph, inputs=inputs, ops=(*given, *(op.map_uses(change) for op in ops)), outputs=renamed)


def _start(program: Stateful, layouts: dict[int, Layout]) -> Graph:
    """First values in the order of axes of the state; numbers fit any."""
    graph = program.start
    types = {i.name: i.type for i in graph.inputs} | {op.result: op.type for op in graph.ops}
    ops, outputs = list(graph.ops), list(graph.outputs)
    for n, layout in layouts.items():
        leaf = program.leaves[n]
        place = len(outputs) - len(program.leaves) + n
        value = outputs[place]
        if not isinstance(value, Use):
            continue
        if types[value.name] != leaf.type:
            ops.append(Op(f"{leaf.input}.whole", "expand", (value, leaf.type.shape), (), leaf.type))
            value = Use(f"{leaf.input}.whole")
        ops += _as_kept(value, leaf.type, layout, f"{leaf.input}.start")
        outputs[place] = Use(f"{leaf.input}.start")
    return replace(graph, ops=tuple(ops), outputs=tuple(outputs))
