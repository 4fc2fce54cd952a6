"""Horizon: up to how many steps, or from how many on, a program is the one that a few short traces show.

`ys[-20:]` of six values is all of them, of a hundred it is not; `x[:, :20]` has as many steps as x, up to twenty. What
operators do to sizes is asked of the operators, far beyond the traces. What Python does to lists torch never sees: it
is read from the source, where numbers beside slices, ranges and the like say where things change.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import math
from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from operator import add, mul, sub
from types import CodeType, FunctionType
from typing import Any

from torch import Tensor, nn

from linrec.frontends.loop.axes import OTHER_TIMES
from linrec.frontends.loop.counters import definition
from linrec.frontends.loop.declared import is_mark
from linrec.frontends.loop.flatten import Flat
from linrec.frontends.loop.trace import Place, Watch, place_of
from linrec.interpret import sizes_made
from linrec.ir import Graph, Op, Type
from linrec.sizes import Size, evaluate

_FAR = 2**20 + 7  # steps
_NEAR = 2048  # steps, up to which numbers are made at every length
_SMALL = 3  # numbers up to this one are passed by every trace
_ENDS = 3  # a list may have so many values more or fewer than there are steps
_CUTTING = frozenset("zip islice slice deque nlargest nsmallest takewhile dropwhile batched sample".split())
_LISTING = frozenset("enumerate reversed sorted list tuple zip range len items keys values".split())
_FAILING = frozenset(
    "IndexError LookupError KeyError StopIteration ValueError RuntimeError AssertionError Exception".split()
)
_AFFINE: dict[type[ast.operator], Callable[[int, int], int]] = {ast.Add: add, ast.Sub: sub, ast.Mult: mul}
_CROPPING = frozenset({"slice", "narrow"})
_ONE = (1.0, 1.0)  # a value for each step
_LEAVING = frozenset({"signal", "stack", "last", "pick", "carry", "alias"})  # what a loop reads and leaves


@dataclass(frozen=True)
class Cut:
    """The program is one for all lengths up to `last`, another from `following` on; none is known where that is None."""

    last: int
    following: int | None


def cuts_of_traces(
    watches: Sequence[Watch], flats: Sequence[Flat], lengths: Sequence[int]
) -> tuple[list[Cut], set[Place]]:
    """Where the program is another than traces of these lengths show, and which comparisons of sizes were read for that."""
    found, places = _cuts_of_code(watches, lengths)
    return [*found, *_cuts_of_slices(watches, lengths), *_cuts_of_splits(flats)], places


def cuts_of_numbers(flats: Sequence[Flat], lengths: Sequence[int]) -> Iterator[Cut]:
    """At which lengths a number that is made of the length has no value: the program would raise what Python does."""
    for first, second, *_ in zip(*(flat.sized.values() for flat in flats), strict=True):
        if first is not None and second is not None:
            pair = lengths[0], lengths[1]
            without = [n for n in range(lengths[0], _NEAR) if first.extended(second, pair, n).number(0) is None]
            if without:
                following = next((n for n in range(without[0], _NEAR) if n not in without), None)
                yield Cut(without[0] - 1, following)


def cut_of_sizes(graph: Graph, lengths: Sequence[Mapping[str, int]], *, tables: bool) -> tuple[Cut | None, int]:
    """Where values first have other sizes than the graph says, beyond the lengths; and from which length on they have these.

    With `tables`, also where tensors without a time axis end, which are read up to the length.
    """
    at, (least, most) = dict(lengths[-1]), (lengths[0]["T"], lengths[-1]["T"])
    types: dict[str, Any] = {i.name: i.type for i in graph.inputs} | {op.result: op.type for op in graph.ops}

    def holds(op: Op, name: str, steps: int) -> bool:
        return _has_sizes(op, types, at | {name: steps})

    for other in at.keys() - {"T"}:
        reading = [op for op in graph.ops if op.kind in _CROPPING or other in OTHER_TIMES]
        several = [op for op in reading if _depends_on(op, types, other, tables)]
        if not all(holds(op, other, n) for op in several for n in (2, _FAR)):
            return Cut(0, None), 0
    growing = [op for op in graph.ops if _depends_on(op, types, "T", tables)]
    wrong = [op for op in growing if not holds(op, "T", _FAR)]
    last = min((_last(partial(holds, op, "T"), most) for op in wrong), default=_FAR)
    shortest = next((n + 1 for n in range(least - 1, 1, -1) if not all(holds(op, "T", n) for op in growing)), 0)
    return (Cut(last, last + 1) if wrong else None), shortest


def _depends_on(op: Op, types: Mapping[str, Any], name: str, tables: bool) -> bool:
    read = [types.get(use.name) for use in op.uses()]
    if op.kind in _LEAVING or is_mark(op) or op.type is None or not all(isinstance(t, Type) for t in read):
        return False
    sizes: list[Any] = [n for t in read if isinstance(t, Type) for n in t.shape]
    if tables or not read:
        sizes += [*_sizes(op.args), *_sizes(tuple(v for _, v in op.attrs))]
    return any(isinstance(n, Size) and name in n.names for n in sizes)


def _sizes(args: Collection[Any]) -> Iterator[Any]:
    for arg in args:
        if isinstance(arg, tuple):
            yield from _sizes(arg)
        else:
            yield arg


def _has_sizes(op: Op, types: Mapping[str, Any], at: Mapping[str, int]) -> bool:
    """Does the operator make, at these lengths, what its type says?"""
    said = [
        tuple(evaluate(n, at) for n in t.shape) for t in (op.type if isinstance(op.type, tuple) else (op.type,)) if t
    ]
    return sizes_made(op, {use.name: types[use.name] for use in op.uses()}, at) == said


def _cuts_of_splits(flats: Sequence[Flat]) -> Iterator[Cut]:
    """Up to which length the parts of values are as many, and as long, as in these traces, and those that are read."""
    for several in zip(*(flat.splits for flat in flats), strict=False):
        kind, number, length, parts = several[0]
        if any(s.number != number for s in several) or all(s.length == length for s in several):
            continue
        if (kind == "chunk" and parts > 1) or kind == "unbind":
            yield Cut(number, None)
        elif kind == "split" and all(s.parts == parts for s in several):
            yield Cut(number * parts, None)


def _cuts_of_slices(watches: Sequence[Watch], lengths: Sequence[int]) -> Iterator[Cut]:
    """Up to which length slices with bounds take all of a tensor, as they do in the traces."""
    for place, (first, size) in watches[0].whole.items():
        second, other = watches[1].whole.get(place, (first, size))
        if (size, first) != (other, second):
            bounds = [(first.start, second.start), (first.stop, second.stop), (size, other)]
            lines = [None if a is None or b is None else _line(a, b, lengths) for a, b in bounds]

            def is_whole(steps: int, lines: Sequence[Callable[[int], int] | None] = lines) -> bool:
                start, stop, size = (line and line(steps) for line in lines)
                return size is None or slice(start, stop).indices(size) == (0, size, 1)

            last = _last(is_whole, lengths[-1])
            if (
                len(watches) > 2
                and place in watches[2].whole
                and watches[2].whole[place][1] != _line(size, other, lengths)(lengths[2])
            ):
                yield Cut(0, None)  # it is along another time axis
            elif last < _FAR:
                yield Cut(last, last + 1)


def _last(holds: Callable[[int], bool], known: int) -> int:
    """The last length, from one for which it is known, at which something holds that does not come back."""
    above = known
    while above < _FAR and holds(above):
        known, above = above, min(above + above // 4 + 1, _FAR)
    if holds(above):
        return _FAR
    while above - known > 1:
        middle = (known + above) // 2
        known, above = (middle, above) if holds(middle) else (known, middle)
    return known


def _line(a: int, b: int, lengths: Sequence[int]) -> Callable[[int], int]:
    return lambda n: a + (b - a) * (n - lengths[0]) // (lengths[1] - lengths[0])


# the code --------------------------------------------------------------------------------------------


def _cuts_of_code(watches: Sequence[Watch], lengths: Sequence[int]) -> tuple[list[Cut], set[Place]]:
    """Where the code does something else than the traces of these lengths show, and which sizes it compares for that."""
    found: list[Cut] = []
    places: set[Place] = set()
    for code in watches[0].codes:
        reader = _Code(code, watches, lengths)
        found += reader.cuts()
        places |= reader.places
    return found, places


class _Code:
    """One of the user's functions that ran."""

    def __init__(self, code: CodeType, watches: Sequence[Watch], lengths: Sequence[int]) -> None:
        self.code, self.watches, self.lengths = code, watches, lengths
        self.node = definition(code)
        self.space = watches[0].codes.get(code, {})
        self.places: set[Place] = set()

    def cuts(self) -> Iterator[Cut]:
        if self.node is None:  # code without source: any of its numbers may be such a bound
            for number in self.code.co_consts:
                if type(number) is int:
                    yield from self._cut(_ONE, abs(number))
        for (code, _), queues in self.watches[0].histories.filling.items():
            for longest in queues if code is self.code else ():
                yield from self._cut(_ONE, longest)
        seen: set[ast.expr] = set()
        for node in ast.walk(self.node) if self.node is not None else ():
            match node:
                case ast.Subscript(value=value, slice=ast.Slice(lower=lower, upper=upper, step=step)):
                    for per_step, fixed, more in self._per_step(value):
                        if not all(map(self._is_known, (lower, upper, step))):
                            yield Cut(0, None)
                        yield from self._of(per_step, lower, upper, fixed=fixed, more=more)
                        yield from self._of(per_step, step, again=False, fixed=fixed)
                case ast.Call(func=ast.Name(id="range"), args=[_, _, step]):
                    yield from self._of(_ONE, step, again=False)
                case ast.Assign(value=ast.Call(func=function) as queue) if _name(function) == "deque":
                    seen.add(queue)  # the traces saw whether it fills
                case ast.Call(func=function, args=args, keywords=named) if (
                    _name(function) in _CUTTING and node not in seen and not self._are_fixed(function, args)
                ):
                    yield from self._of(_ONE, *args, *(k.value for k in named))
                    for held in map(self._evaluate, args):
                        yield from self._end(held)
                case ast.comprehension(iter=source, ifs=tests) if not self._is_fixed(source):
                    yield from self._of(_ONE, *tests, again=False)
                case ast.Try(body=body, handlers=handlers) if any(map(_catches_ends, handlers)):
                    yield from self._of(_ONE, *body)
                case ast.While(test=test):
                    if self._counts(test):
                        yield from self._of(_ONE, test, again=False)
                case ast.Compare(left=left, ops=[ast.In() | ast.NotIn()], comparators=[right]):
                    if isinstance(right, ast.Call) or self._varies(right):
                        yield from self._of(_ONE, left, right, again=False)
                case ast.Compare(left=left, comparators=others):
                    yield from self._crossings(node, [*itertools.pairwise((left, *others))])
                case ast.Call(func=ast.Name(id="min" | "max"), args=[one, other], keywords=[]):
                    yield from self._crossings(node, [(one, other)])

    def _is_known(self, node: ast.expr | None) -> bool:
        """Is every number in it one that stays, or made of the length?"""
        match node:
            case None | ast.Constant() | ast.Name():
                return True
            case ast.UnaryOp(operand=operand):
                return self._is_known(operand)
            case ast.BinOp(left=left, right=right):
                return self._is_known(left) and self._is_known(right)
            case ast.Call(func=function, args=args) if _name(function) in ("len", "size", "min", "max", "int", "abs"):
                return _name(function) in ("len", "size") or all(map(self._is_known, args))
            case ast.Subscript(value=ast.Attribute(attr="shape")):
                return True
        return self._evaluate(node) is not None

    def _are_fixed(self, function: ast.expr, args: Sequence[ast.expr]) -> bool:
        return _name(function) != "slice" and all(map(self._is_fixed, args))

    def _is_fixed(self, node: ast.expr) -> bool:
        """Is it a list that is as long in every trace, or made of such?"""
        match node:
            case ast.Call(func=function, args=args) if _name(function) in _LISTING:
                owner = [function.value] if isinstance(function, ast.Attribute) else []
                return all(map(self._is_fixed, (*owner, *args)))
            case ast.Call(func=ast.Attribute(value=owner)):
                return isinstance(self._evaluate(owner), nn.Module)
            case ast.Name() | ast.Attribute():
                held = [self._evaluate(node, watch) for watch in self.watches]
                sizes = {h if isinstance(h, int) else _length(h) for h in held}
                return len(sizes) == 1 and None not in sizes
            case _:
                return isinstance(node, ast.List | ast.Tuple | ast.Set | ast.Dict | ast.Constant)

    def _end(self, held: object) -> Iterator[Cut]:
        """Where a list that is read along with the steps ends, or has other numbers than at first."""
        yield from self._cut(_ONE, _length(held) or 0)
        if isinstance(held, list | tuple) and held and isinstance(held[0], int | float):
            other = next((i for i, n in enumerate(held) if n != held[0]), len(held))
            if other > self.lengths[-1]:
                yield Cut(other, None)

    def _varies(self, node: ast.expr) -> bool:
        """Does a container have more values the longer time is?"""
        return len({_length(self._evaluate(node, watch)) for watch in self.watches} - {None}) > 1

    def _crossings(self, node: ast.expr, pairs: Sequence[tuple[ast.expr, ast.expr]]) -> Sequence[Cut]:
        """At which lengths the larger of two sizes becomes the smaller, if that is known of all pairs."""
        found = [self._crossing(one, other) for one, other in pairs]
        known = [cut for cuts in found for cut in cuts or ()]
        if None in found or not known:
            return ()
        self.places.add(place_of(self.code, node))
        return [cut for cut in known if cut.last > 0]

    def _crossing(self, one: ast.expr, other: ast.expr) -> list[Cut] | None:
        values = [(self._value(one, watch), self._value(other, watch)) for watch in self.watches]
        apart = [a - b for a, b in values if a is not None and b is not None]
        if len(apart) < len(values):
            return None
        if len(set(apart)) == 1:
            return []
        slope = Fraction(apart[1] - apart[0], self.lengths[1] - self.lengths[0])
        if not slope or any(
            n != apart[0] + slope * (at - self.lengths[0]) for n, at in zip(apart, self.lengths, strict=True)
        ):
            return None
        zero = self.lengths[0] - apart[0] / slope
        return [Cut(math.ceil(zero) - 1, math.floor(zero) + 1)]

    def _value(self, node: ast.expr, watch: Watch) -> int | None:
        """The number that an expression of sizes has, where it stays during the call."""
        match node:
            case ast.Constant(value=int() as number):
                return None if isinstance(number, bool) else number
            case ast.Name(id=name):
                seen = watch.values.get((self.code, name), [self.space.get(name)])
                return seen[0] if len(seen) == 1 and type(seen[0]) is int else None
            case ast.Attribute():
                found = self._evaluate(node, watch)
                return found if type(found) is int else None
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                value = self._value(operand, watch)
                return None if value is None else -value
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _AFFINE:
                a, b = self._value(left, watch), self._value(right, watch)
                return None if a is None or b is None else _AFFINE[type(op)](a, b)
            case ast.Subscript(value=ast.Attribute(value=owner, attr="shape"), slice=axis):
                return self._size(owner, axis, watch)
            case ast.Call(func=ast.Attribute(value=owner, attr="size"), args=[axis]):
                return self._size(owner, axis, watch)
            case ast.Call(func=ast.Name(id="len"), args=[owner]):
                return self._size(owner, ast.Constant(0), watch)
            case ast.Call(func=ast.Name(id="min" | "max" as name), args=[one, other], keywords=[]):
                a, b = self._value(one, watch), self._value(other, watch)
                return None if a is None or b is None else min(a, b) if name == "min" else max(a, b)
        return None

    def _size(self, owner: ast.expr, axis: ast.expr, watch: Watch) -> int | None:
        tensor, at = self._evaluate(owner, watch), self._value(axis, watch)
        return int(tensor.shape[at]) if isinstance(tensor, Tensor) and at is not None and at < tensor.dim() else None

    def _counts(self, test: ast.expr) -> bool:
        """Is a name in it that counts further in longer traces?"""
        names = [(self.code, n.id) for n in ast.walk(test) if isinstance(n, ast.Name)]
        return any(len({repr(w.values.get(name)) for w in self.watches}) > 1 for name in names)

    def _per_step(self, node: ast.expr) -> Iterator[tuple[tuple[float, float], int | None, int]]:
        """At most and at least how many values for each step the container has, how many in all where they do not grow, and
        how many more than steps. Nothing of tensors.
        """
        held = [self._evaluate(node, watch) for watch in self.watches]
        sizes = [len(h) for h in held if isinstance(h, list | tuple | deque)]
        if getattr(node, "attr", "") == "shape" or any(isinstance(h, Tensor | nn.Module | str) for h in held):
            return
        if len(sizes) < len(held):
            yield _ONE if isinstance(node, ast.Call | ast.Name | ast.Attribute) else (2, 0.5), None, 0
        elif len(set(sizes)) == 1:
            yield _ONE, sizes[0], 0
        else:
            shifts = {n - steps for n, steps in zip(sizes, self.lengths, strict=True)}
            ratios = [n / steps for n, steps in zip(sizes, self.lengths, strict=True)]
            if len(shifts) == 1:
                yield _ONE, None, shifts.pop()
            else:
                yield (max(ratios), min(ratios)), None, 0

    def _of(
        self,
        per_step: tuple[float, float],
        *nodes: ast.AST | None,
        again: bool = True,
        fixed: int | None = None,
        more: int = 0,
    ) -> Iterator[Cut]:
        for node in nodes:
            for part in ast.walk(node) if node is not None else ():
                for number in map(abs, self._numbers(part)):
                    # one of another length is no list of all steps; one as long as that may have been cut
                    if fixed is None or abs(fixed - number) <= _ENDS:
                        yield from self._cut(per_step, number - more, again=again)
                if part is not node and isinstance(part, ast.Name | ast.Attribute) and self._is_fixed(part):
                    yield from self._cut(per_step, _length(self._evaluate(part)) or 0, again=False)  # twice that list

    def _numbers(self, node: ast.AST) -> Iterator[int]:
        """A number that stays; how far one that grows with time is from the number of steps."""
        if isinstance(node, ast.Constant) and type(node.value) is int:
            yield node.value
        elif isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
            value = self._evaluate(node)
            if type(value) is int:
                yield value
        elif isinstance(node, ast.Name):
            seen = [w.values.get((self.code, node.id), [self.space.get(node.id)])[-1] for w in self.watches]
            if all(type(n) is int for n in seen):
                apart = {n - steps for n, steps in zip(seen, self.lengths, strict=True)}
                yield apart.pop() if len(apart) == 1 and len(self.lengths) > 1 else seen[0]

    def _cut(self, per_step: tuple[float, float], number: int, *, again: bool = True) -> Iterator[Cut]:
        if number > _SMALL:
            most, least = per_step
            yield Cut(int((number - _ENDS) / most), int((number + _ENDS) / least) + 1 if again else None)

    def _evaluate(self, node: ast.AST, watch: Watch | None = None) -> Any:
        """What an expression holds or gave, without running any code of the user's; None if that is not known."""
        watch = watch or self.watches[-1]
        match node:
            case ast.Constant(value=value):
                return value
            case ast.Name(id=name):
                key = self.code, name
                seen = watch.values.get(key, ())
                return watch.objects[key] if key in watch.objects else seen[-1] if seen else self.space.get(name)
            case ast.Attribute(value=value, attr=name):
                return self._held(self._evaluate(value, watch), name, watch)
            case ast.Subscript(value=value, slice=key) if isinstance(key, ast.Constant | ast.Name | ast.Attribute):
                owner, at = self._evaluate(value, watch), self._evaluate(key, watch)
                is_there = (type(owner) is dict and isinstance(at, Hashable) and at in owner) or (
                    type(owner) in (list, tuple) and type(at) is int and -len(owner) <= at < len(owner)
                )
                return owner[at] if is_there else None
            case ast.Call(func=function):
                called = self._evaluate(function, watch)
                called = getattr(called, "__func__", called)  # of a method
                return watch.returned.get(called.__code__) if isinstance(called, FunctionType) else None
        return None

    def _held(self, owner: Any, name: str, watch: Watch) -> Any:
        """An attribute, a property's as it was given last."""
        found = None if owner is None else inspect.getattr_static(owner, name, None)
        if found is None and isinstance(owner, nn.Module):
            spaces = (owner._modules, owner._parameters, owner._buffers)
            found = next((space[name] for space in spaces if name in space), None)
        if isinstance(found, property) and isinstance(found.fget, FunctionType):
            return watch.returned.get(found.fget.__code__)
        return found


def _length(held: object) -> int | None:
    """How many values a container has, where no code of the user's tells; None of anything else."""
    known = (list, tuple, dict, set, frozenset, deque, range, nn.ModuleList, nn.ModuleDict, nn.ParameterList)
    return len(held) if isinstance(held, known) else None


def _name(function: ast.expr) -> str:
    return getattr(function, "id", getattr(function, "attr", ""))


def _catches_ends(handler: ast.ExceptHandler) -> bool:
    """Does it catch what reading beyond a list's end raises?"""
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(kind is None or _name(kind) in _FAILING for kind in kinds)
