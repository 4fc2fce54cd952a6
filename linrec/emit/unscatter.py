"""Unscatter: arrays that a program fills step by step, as pieces joined along an axis.

    y = zeros(B, T); y[:, 0] = x_0; y[:, 1:] = s      is      y = cat([x_0, s])

Every entry of the array is traced to what was written there last; where an array is made of one number, what is left
of it is a smaller array of that number. So results that were written into an array keep their place in time.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace

from linrec.emit.alignment import bounds
from linrec.ir import Arg, Graph, Op, Type, Use, uses_in
from linrec.sizes import Dim, Size

_SHAPE_AT = {"zeros": 0, "ones": 0, "full": 0, "new_zeros": 1, "new_ones": 1, "new_full": 1}
_LIKE = {"zeros_like": "new_zeros", "ones_like": "new_ones", "full_like": "new_full"}


def unscatter(graph: Graph) -> Graph:
    """The graph without writes into arrays whose places are known; the same graph if there are none."""
    if not any(op.kind in ("select_scatter", "slice_scatter") for op in graph.ops):
        return graph
    return _Unscatter(graph).run()


@dataclass
class _Unscatter:
    graph: Graph
    made: dict[str, Op] = field(default_factory=dict)
    ops: list[Op] = field(default_factory=list)
    types: dict[str, Type] = field(default_factory=dict)

    def run(self) -> Graph:
        self.types = {i.name: i.type for i in self.graph.inputs}
        self.types |= {op.result: op.type for op in self.graph.ops if isinstance(op.type, Type)}
        for op in self.graph.ops:
            new = op if op.time is not None or op.init else self.rewritten(op)
            self.made[op.result] = op
            self.ops.append(new)
        return replace(self.graph, ops=tuple(self.ops))

    def rewritten(self, op: Op) -> Op:
        """A write as a join, a read of what was written as a read of that; any other op as it is."""
        source = op.args[0] if op.args else None
        dim = op.args[1] if len(op.args) > 1 else None
        if not isinstance(source, Use) or not isinstance(op.type, Type):
            return op
        if op.kind in ("select_scatter", "slice_scatter"):
            dim = op.args[2]
            if not isinstance(dim, int):
                return op
            dim %= len(op.type.shape)
            self.made[op.result] = op
            return self.joined(op, self.pieces(Use(op.result), dim, 0, op.type.shape[dim]), dim)
        writer = self.made.get(source.name)
        if writer is None or writer.kind not in (*_SHAPE_AT, *_LIKE, "select_scatter", "slice_scatter"):
            return op
        length = self.types[source.name].shape
        if op.kind == "select" and isinstance(dim, int):
            dim %= len(length)
            found = bounds(length[dim], op.args[2], None)
            held = None if found is None else self.pieces(source, dim, found[0], found[0] + 1)
            if held is not None and len(held) == 1:
                inner = self.new_of(held[0])
                if inner is not None and inner.kind == "unsqueeze" and isinstance(inner.args[0], Use):
                    return replace(op, kind="alias", args=(inner.args[0],), attrs=())
                return replace(op, kind="squeeze", args=(held[0], dim), attrs=())
        if op.kind == "slice" and isinstance(dim, int) and op.args[4:] in ((), (1,)):
            dim %= len(length)
            found = bounds(length[dim], *(*op.args[2:4], None, None)[:2])
            return op if found is None else self.joined(op, self.pieces(source, dim, *found), dim)
        return op

    def new_of(self, use: Use) -> Op | None:
        return next((op for op in reversed(self.ops) if op.result == use.name), None)

    def joined(self, op: Op, parts: list[Use] | None, dim: int) -> Op:
        if not parts or Use(op.result) in parts:
            return op
        parts = self.from_the_front(parts, dim)
        if len(parts) == 1:
            return replace(op, kind="alias", args=(parts[0],), attrs=())
        return replace(op, kind="cat", args=(tuple(parts), dim), attrs=())

    def from_the_front(self, parts: list[Use], dim: int) -> list[Use]:
        """h[-1] of every step, then the last h, is the state before the first step, then h of every step."""
        for place, (left, right) in enumerate(itertools.pairwise(parts)):
            stack, behind = self.made.get(left.name), self.made.get(right.name)
            if stack is None or stack.kind != "stack" or behind is None or behind.kind != "unsqueeze":
                continue
            read, last = stack.args[0], self.made.get(next(uses_in(behind.args)).name)
            assert isinstance(read, Use)
            copied = self.made[read.name]
            if copied.kind == "alias" and not copied.init and isinstance(copied.args[0], Use):
                read = replace(copied.args[0], delay=copied.args[0].delay + read.delay)
            init = self.made[read.name].init
            if last is None or last.kind != "last" or last.args[0] != Use(read.name) or read.delay != 1 or not init:
                continue
            type_ = self.types[stack.result]
            front = self.made_piece("unsqueeze", (init[0], dim), type_, dim, 1)
            rest = self.made_piece("stack", (Use(read.name), dim), type_, dim, type_.shape[dim])
            return [*parts[:place], front, rest, *parts[place + 2 :]]
        return parts

    def pieces(self, value: Use, dim: int, low: Dim, high: Dim) -> list[Use] | None:
        """What joined along `dim` gives entries low .. high - 1 of a value; None if their order is not known."""
        if low == high:
            return []
        op, type_ = self.made.get(value.name), self.types[value.name]
        length = type_.shape[dim]
        if op is not None and op.time is None and op.kind == "select_scatter" and op.args[2] == dim:
            base, new, index = op.args[0], op.args[1], op.args[3]
            found = bounds(length, index, None)
            if found is not None and isinstance(base, Use) and isinstance(new, Use):
                return self.split(
                    base,
                    dim,
                    low,
                    high,
                    found[0],
                    found[0] + 1,
                    self.made_piece("unsqueeze", (new, dim), type_, dim, 1),
                )
        if (
            op is not None
            and op.time is None
            and op.kind == "slice_scatter"
            and op.args[2] == dim
            and op.args[5:] in ((), (1,))
        ):
            base, new = op.args[:2]
            found = bounds(length, *(*op.args[3:5], None, None)[:2])
            if found is not None and isinstance(base, Use) and isinstance(new, Use):
                return self.split(base, dim, low, high, *found, new)
        if low == 0 and high == length:
            return [value]
        if op is not None and op.time is None and op.kind in (*_SHAPE_AT, *_LIKE):
            return [self.smaller(op, type_, dim, high - low)]
        return [self.made_piece("slice", (value, dim, low, high), type_, dim, high - low)]

    def split(self, base: Use, dim: int, low: Dim, high: Dim, start: Dim, stop: Dim, new: Use) -> list[Use] | None:
        """Entries low .. high - 1 of `base` after `new` was written to start .. stop - 1."""
        if _before(stop, low) or _before(high, start):
            return self.pieces(base, dim, low, high)
        first, last = _larger(low, start), _smaller(high, stop)
        if first is None or last is None:
            return None
        ahead = self.pieces(base, dim, low, first)
        behind = self.pieces(base, dim, last, high)
        inside = self.pieces(new, dim, first - start, last - start)
        return None if ahead is None or behind is None or inside is None else [*ahead, *inside, *behind]

    def smaller(self, op: Op, type_: Type, dim: int, length: Dim) -> Use:
        """An array of the same number with fewer entries."""
        shape = tuple(length if i == dim else d for i, d in enumerate(type_.shape))
        if op.kind in _LIKE:
            args: tuple[Arg, ...] = (op.args[0], shape, *op.args[1:])
        else:
            at = _SHAPE_AT[op.kind]
            args = (*op.args[:at], shape, *op.args[at + 1 :])
        return self.made_piece(_LIKE.get(op.kind, op.kind), args, type_, dim, length, op.attrs)

    def made_piece(
        self,
        kind: str,
        args: tuple[Arg, ...],
        type_: Type,
        dim: int,
        length: Dim,
        attrs: tuple[tuple[str, Arg], ...] = (),
    ) -> Use:
        shape = tuple(length if i == dim else d for i, d in enumerate(type_.shape))
        name = f"piece{len(self.ops)}"
        while name in self.types:
            name += "_"
        self.types[name] = Type(type_.dtype, shape)
        op = Op(name, kind, args, attrs, self.types[name])
        self.made[name] = op
        self.ops.append(op)
        return Use(name)


def _before(left: Dim, right: Dim) -> bool:
    """Is left <= right for every length that is long enough?"""
    gap = right - left
    return gap >= 0 if isinstance(gap, int) else _grows(gap)


def _grows(gap: Size) -> bool:
    return len(gap.names) == 1 and all(factor > 0 for names, factor in gap.terms if names)


def _larger(left: Dim, right: Dim) -> Dim | None:
    return right if _before(left, right) else left if _before(right, left) else None


def _smaller(left: Dim, right: Dim) -> Dim | None:
    return left if _before(left, right) else right if _before(right, left) else None
