"""Canonicalize: one way to write one thing.

`alias`, `contiguous` and `clone` of a value that nothing returns are that value; a tensor of one number, or of another
tensor's shape, does not read that tensor; a write where a mask says is a choice; so are values poured into a mask; the
two sides of a linear system have the same number of axes. Costs one walk over the graph.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from linrec.dtypes import LONG
from linrec.ir import Arg, Atom, Graph, Op, Type, Use, map_uses
from linrec.manager import Context, Pass


@dataclass(frozen=True)
class Canonicalize(Pass):
    """Drop copies that nobody can tell from the original."""

    name: ClassVar[str] = "canonicalize"

    def run(self, graph: Graph, context: Context) -> Graph:
        """Replace reads of copies by reads of what they copy."""
        returned = graph.roots()
        same: dict[str, Use] = {}
        kept: list[Op] = []
        made = graph.by_name()
        for op in graph.ops:
            target = op.args[0] if op.kind in _COPIES or _is_idle(op) else _round_trip(op, made, graph)
            fixed = op.kind == "clone" and op.result in returned
            if (
                isinstance(target, Use)
                and target.delay == 0
                and not op.init
                and not fixed
                and context.allows(op.result)
            ):
                same[op.result] = same.get(target.name, target)
            else:
                # what reads a step back is no copy that can be dropped, but nothing else either
                idle = _is_idle(op) or _is_along_nothing(op, made, graph) or (op.kind in _COPIES and not fixed)
                kept.append(replace(op, kind="alias", args=op.args[:1], attrs=()) if idle else op)
        by_name = graph.by_name()
        plain = [_added(_put(_by_shape(_filled(op, graph))), by_name) for op in kept]
        filled = [n if n is not op and context.allows(op.result) else op for n, op in zip(plain, kept, strict=True)]
        for wider in (_level, _chosen, _poured):
            filled = [new for op in filled for new in (wider(op, graph) if context.allows(op.result) else [op])]
        if not same and filled == list(graph.ops):
            return graph
        context.remark("passed", graph.name, f"{len(same)} copies dropped")
        return reading(replace(graph, ops=tuple(filled)), same)


_COPIES = frozenset({"alias", "contiguous", "clone", "lift_fresh", "resolve_conj", "resolve_neg"})


_ALONG = frozenset("sum mean amax amin logsumexp cumsum cumprod logcumsumexp flip roll squeeze transpose".split())


def _is_along_nothing(op: Op, made: Mapping[str, Op], graph: Graph) -> bool:
    """Does it work along axes of one number, of which torch says that it has one or none?"""
    use = op.args[0] if op.kind in _ALONG else None
    if not isinstance(use, Use):
        return False
    types = (made[use.name].type,) if use.name in made else (i.type for i in graph.inputs if i.name == use.name)
    return next(iter(types)) == op.type and isinstance(op.type, Type) and op.type.shape == ()


_VIEWS = frozenset({"view", "reshape", "_unsafe_view", "flatten", "unflatten"})


def _round_trip(op: Op, made: Mapping[str, Op], graph: Graph) -> Use | None:
    """What a view of views has the shape of: a value folded and unfolded again."""
    source, inner = op, op.args[0] if op.args else None
    while (
        source.kind in (_VIEWS if source is op else _VIEWS | _COPIES)
        and isinstance(inner, Use)
        and inner.delay == 0
        and not source.init
    ):
        if inner.name not in made or made[inner.name].time != op.time:
            return None
        if source is not op and made[inner.name].type == op.type:
            return inner
        source = made[inner.name]
        inner = source.args[0] if source.args else None
    return None


_FILLS: dict[str, Arg] = {"zeros_like": 0.0, "ones_like": 1.0, "new_zeros": 0.0, "new_ones": 1.0}


def _filled(op: Op, graph: Graph) -> Op:
    """A tensor of one number does not depend on the tensor whose shape, type or device it takes."""
    given = next((i for i in graph.inputs if i.role == "input"), None)
    if given is None or not op.args or not isinstance(op.args[0], Use) or op.args[0] == Use(given.name):
        return op
    value = _FILLS.get(op.kind, op.args[1] if op.kind == "full_like" else op.args[2] if op.kind == "new_full" else None)
    if value is None or isinstance(value, Use) or not isinstance(op.type, Type):
        return op
    dtype = (("dtype", Atom(LONG[op.type.dtype])),)
    return replace(op, kind="new_full", args=(Use(given.name), op.type.shape, value), attrs=dtype)


def _added(op: Op, by_name: Mapping[str, Op]) -> Op:
    """a - (-b) is a + b."""
    taken = op.args[1] if op.kind == "sub" and len(op.args) == 2 and not op.attrs else None
    minus = by_name.get(taken.name) if isinstance(taken, Use) and taken.delay == 0 else None
    if minus is None or minus.kind != "neg" or minus.init or minus.time != op.time:
        return op
    return replace(op, kind="add", args=(op.args[0], minus.args[0]))


_BY_SHAPE = {"expand_as": "expand", "view_as": "view", "reshape_as": "reshape"}


def _by_shape(op: Op) -> Op:
    """Taking another tensor's shape is no read of it."""
    if op.kind not in _BY_SHAPE or not isinstance(op.type, Type):
        return op
    return replace(op, kind=_BY_SHAPE[op.kind], args=(op.args[0], op.type.shape))


def _put(op: Op) -> Op:
    """A tensor that fills is one that is chosen or put: torch's vmap takes its last value for all, or one after the other."""
    if op.kind not in ("masked_fill", "index_fill") or not isinstance(op.args[-1], Use):
        return op
    value = op.args[-1]
    if op.kind == "masked_fill":
        return replace(op, kind="where", args=(op.args[1], value, op.args[0]))
    into, dim, index = op.args[:3]
    assert isinstance(dim, int) and isinstance(op.type, Type)
    return replace(op, kind="index_put", args=(into, (*(None,) * (dim % len(op.type.shape)), index), value))


def _level(op: Op, graph: Graph) -> list[Op]:
    """A X = B with as many axes in A as in B: under vmap torch takes B for vectors if A has fewer."""
    if op.kind != "linalg_solve" or not all(isinstance(a, Use) for a in op.args[:2]):
        return [op]
    types = {i.name: i.type for i in graph.inputs} | {o.result: o.type for o in graph.ops}
    matrix, right = (types[a.name] for a in op.args[:2] if isinstance(a, Use))
    if not isinstance(matrix, Type) or not isinstance(right, Type) or len(matrix.shape) >= len(right.shape):
        return [op]
    shape = ((1,) * (len(right.shape) - len(matrix.shape)) + matrix.shape,)
    name, type_ = f"{op.result}.matrix", replace(matrix, shape=shape[0])
    (source,) = (a for a in op.args[:1] if isinstance(a, Use))
    time = next((o.time for o in graph.ops if o.result == source.name), None)
    wide = Op(name, "reshape", (source, *shape), (), type_, time, (), op.source)
    return [wide, replace(op, args=(Use(name), *op.args[1:]))]


def _chosen(op: Op, graph: Graph) -> list[Op]:
    """h[m] = v is where(m, v, h) if no entry of v belongs to one true place alone: torch has no vmap for the former."""
    if op.kind != "index_put" or op.args[3:] not in ((), (False,)) or op.attrs or not isinstance(op.args[1], tuple):
        return [op]
    types = {i.name: i.type for i in graph.inputs} | {o.result: o.type for o in graph.ops}
    (*before, mask), value = op.args[1], op.args[2]
    if any(i is not None for i in before) or not isinstance(mask, Use) or not isinstance(value, Use):
        return [op]
    marks, given = types[mask.name], types[value.name]
    if (
        not isinstance(marks, Type)
        or not isinstance(given, Type)
        or not isinstance(op.type, Type)
        or marks.dtype != "bool"
    ):
        return [op]
    behind = len(op.type.shape) - len(before) - len(marks.shape)
    if len(given.shape) > behind:
        return [op]
    choice = replace(op, kind="where", args=(mask, value, op.args[0]))
    if not behind:
        return [choice]
    name, type_ = f"{op.result}.mask", Type("bool", marks.shape + (1,) * behind)
    time = next((o.time for o in graph.ops if o.result == mask.name), None)
    wide = Op(name, "reshape", (mask, type_.shape), (), type_, time, (), op.source)
    return [wide, replace(choice, args=(Use(name), *choice.args[1:]))]


def _poured(op: Op, graph: Graph) -> list[Op]:
    """`masked_scatter` is a choice of elements of its source, each at the count of true places up to it."""
    if op.kind != "masked_scatter":
        return [op]
    into, mask, source = op.args
    types = {i.name: i.type for i in graph.inputs} | {o.result: o.type for o in graph.ops}
    type_, given = op.type, types[source.name] if isinstance(source, Use) else None
    if not isinstance(type_, Type) or not isinstance(given, Type):
        return [op]
    count = Type("i64", (math.prod(type_.shape),))
    made: list[Op] = []

    def add(step: str, kind: str, args: tuple[Arg, ...], type_: Type) -> Use:
        made.append(Op(f"{op.result}.{step}", kind, args, (), type_, op.time, (), op.source))
        return Use(made[-1].result)

    marks = add("mask", "expand", (mask, type_.shape), Type("bool", type_.shape))
    flat = add("marks", "reshape", (marks, count.shape), Type("bool", count.shape))
    last = add("last", "sub", (add("count", "cumsum", (flat, 0), count), 1), count)
    place = add("place", "clamp_min", (last, 0), count)
    numbers = Type(given.dtype, (math.prod(given.shape),))
    row = add("source", "reshape", (source, numbers.shape), numbers)
    taken = add("taken", "index", (row, (place,)), Type(given.dtype, count.shape))
    shaped = add("poured", "reshape", (taken, type_.shape), Type(given.dtype, type_.shape))
    return [*made, replace(op, kind="where", args=(marks, shaped, into))]


def _is_idle(op: Op) -> bool:
    """Dropout that drops nothing."""
    return op.kind in ("dropout", "feature_dropout", "alpha_dropout") and (op.args[1] == 0 or op.args[2] is False)


def reading(graph: Graph, same: Mapping[str, Use]) -> Graph:
    """Read `same[v]` for `v`, whatever the delay."""

    def change(use: Use) -> Arg:
        target = same.get(use.name)
        return use if target is None else Use(target.name, target.delay + use.delay)

    return replace(
        graph,
        ops=tuple(op.map_uses(change) for op in graph.ops),
        outputs=tuple(map_uses(o, change) for o in graph.outputs),
        effects=tuple((path, same.get(u.name, u)) for path, u in graph.effects),
    )
