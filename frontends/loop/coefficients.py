"""Coefficients over time: a number that differs from step to step, read from the expression that makes it.

`h * (t / (t + 1))` shows torch a number at every step. Three traces prove nothing of the steps beyond them, the user's
source does: where the argument is an arithmetic expression of loop counters, which advance evenly, and of numbers
that stay, it becomes the same expression over `arange`, done once for all steps. The numbers of the trace
must be those of the expression, to the last bit; what is not such an expression is not read here.
"""

from __future__ import annotations

import ast
import builtins
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from types import CodeType
from typing import Any

from torch import Tensor, nn

from linrec.dtypes import LONG
from linrec.frontends.loop.counters import definition, has_counted, is_stepped, parents_in
from linrec.frontends.loop.trace import Frame, Place, Watch, place_of
from linrec.ir import Arg, Atom, Source, Type, Use

Number = bool | int | float
Make = Callable[[str, tuple[Arg, ...], tuple[tuple[str, Arg], ...], Type], Use]

_BINARY = {ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div", ast.Mod: "remainder",
           ast.FloorDiv: "floor_divide", ast.Pow: "pow"}  # fmt: skip
_COMPARED = {ast.Gt: "gt", ast.Lt: "lt", ast.GtE: "ge", ast.LtE: "le", ast.Eq: "eq", ast.NotEq: "ne"}
_FUNCTIONS = {name: name for name in ("exp", "sqrt", "cos", "sin", "tan", "tanh", "log", "expm1", "log1p", "atan")}
_CASTS = {"float": "f64", "int": "i64", "bool": "bool"}
_BUILTIN = ("float", "int", "bool", "abs", "min", "max")
_DEEPEST = 6  # assignments between a counter and the number made of it


@dataclass(frozen=True)
class Counter:
    """A name that is start + step*i at step i, or `start` at every step."""

    start: int
    step: int


@lru_cache(maxsize=1024)
def _compiled(expression: ast.expr) -> CodeType:
    return compile(ast.fix_missing_locations(ast.Expression(expression)), "<coefficient>", "eval")


@dataclass
class Coefficient:
    """An expression of counters that has the numbers of an argument; `places` are the expressions it was read from."""

    expression: ast.expr
    counters: dict[str, Counter]
    numbers: dict[str, Number]
    places: set[Place] = field(default_factory=set)
    code: CodeType = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.code = _compiled(self.expression)

    def number(self, step: int) -> Number | None:
        """Its number at a step; None where it has none."""
        space = {"__builtins__": {}, "math": math, **{n: getattr(builtins, n) for n in _BUILTIN}}
        counted = {n: c.start + c.step * step for n, c in self.counters.items()}
        try:
            result = eval(self.code, space, {**self.numbers, **counted})  # an expression of numbers and nothing else
        except (ArithmeticError, ValueError, TypeError, NameError):
            return None
        return result if isinstance(result, bool | int | float) else None

    def is_as(self, other: Coefficient) -> bool:
        """Has it the same number at every step?"""
        return self.counters == other.counters and self.numbers == other.numbers

    def step_of(self, frame: Frame) -> int | None:
        """The step at which its counters are what they are in that frame; None where there is none."""
        found = set()
        for name, counter in self.counters.items():
            value = frame.values.get(name)
            step, rest = (
                divmod(value - counter.start, counter.step) if isinstance(value, int) and counter.step else (0, 1)
            )
            found.add(None if rest else step)
        return found.pop() if len(found) == 1 else None

    def later(self, steps: int) -> Coefficient:
        """The same, counted from that many steps on."""
        moved = {name: Counter(c.start + c.step * steps, c.step) for name, c in self.counters.items()}
        return Coefficient(self.expression, moved, self.numbers, self.places)

    def extended(self, longer: Coefficient, lengths: tuple[int, int], length: int) -> Coefficient:
        """What it is at another length, if it and `longer` are the same at the first and the second of `lengths`."""

        def between(a: Number, b: Number) -> Number:
            more, apart = (b - a) * (length - lengths[0]), lengths[1] - lengths[0]
            return a + (more // apart if isinstance(more, int) else more / apart) if a != b else a

        counters = {
            n: Counter(int(between(c.start, longer.counters[n].start)), c.step) for n, c in self.counters.items()
        }
        numbers = {n: between(v, longer.numbers[n]) for n, v in self.numbers.items()}
        return replace(self, counters=counters, numbers=numbers)


def condition(test: ast.expr, frames: Sequence[Frame], steps: Sequence[int], watch: Watch) -> Coefficient | None:
    """The condition of a branch, taken at these steps with these frames, as a function of time, or None."""
    function = definition(frames[0].code)
    if function is None:
        return None
    reader = _Reader(function, frames, watch, steps)
    expression = reader.resolved(_truth(test), 0)
    if expression is None or not reader.counters:
        return None
    return Coefficient(expression, reader.counters, reader.numbers, reader.places | {place_of(frames[0].code, test)})


def _truth(test: ast.expr) -> ast.expr:
    """A test as a condition: `if n` is `if n != 0`."""
    match test:
        case ast.BoolOp(op=joint, values=values):
            made: ast.expr = ast.BoolOp(joint, [_truth(v) for v in values])
        case ast.UnaryOp(op=ast.Not() as sign, operand=operand):
            made = ast.UnaryOp(sign, _truth(operand))
        case ast.Compare():
            return test
        case _:
            made = ast.Compare(test, [ast.NotEq()], [ast.copy_location(ast.Constant(0), test)])
    return ast.copy_location(made, test)


def read(
    values: Sequence[Arg], frames: Sequence[Frame | None], source: Source, watch: Watch, steps: Sequence[int]
) -> Coefficient | None:
    """The one function of time at `source` that has these values at these steps, which have these frames, or None."""
    found = _expressions(values, frames, source, watch, steps)
    return found[0] if len(found) == 1 and found[0].counters else None


def read_once(value: Arg, frame: Frame | None, source: Source, watch: Watch) -> Coefficient | None:
    """The one expression at `source` that has this value, of numbers that may be others at other lengths, or None."""
    found = _expressions([value], [frame], source, watch, [0])
    return found[0] if len(found) == 1 and not found[0].counters else None


def _expressions(
    values: Sequence[Arg], frames: Sequence[Frame | None], source: Source, watch: Watch, steps: Sequence[int]
) -> list[Coefficient]:
    if not frames or any(f is None or f.code is not frames[0].code for f in frames if frames[0] is not None):
        return []
    known = [f for f in frames if f is not None]
    if len(known) != len(values) or not all(isinstance(v, bool | int | float) for v in values):
        return []
    function = definition(known[0].code)
    if function is None:
        return []
    found: list[Coefficient] = []
    for operand in _operands(known[0].code, source):
        reader = _Reader(function, known, watch, steps)
        expression = reader.resolved(operand, 0)
        if expression is None:
            continue
        made = Coefficient(expression, reader.counters, reader.numbers, reader.places)
        numbers = [made.number(step) for step in steps]
        if all(type(n) is type(v) and n == v for n, v in zip(numbers, values, strict=True)):
            found.append(made)
    return found


def _operands(code: CodeType, source: Source) -> Iterator[ast.expr]:
    """What the operation at `source` is done with."""
    for node in _placed(code).get((source.line, source.start, source.end), ()):
        match node:
            case ast.BinOp(left=left, right=right):
                yield from (left, right)
            case ast.AugAssign(value=value):
                yield value
            case ast.Subscript(slice=ast.Tuple(elts=indices)):
                yield from indices
            case ast.Subscript(slice=index):
                yield index
            case ast.Compare(left=left, comparators=others):
                yield from (left, *others)
            case ast.Call(args=args, keywords=keywords):
                yield from args
                yield from (k.value for k in keywords)


@lru_cache(maxsize=64)
def _placed(code: CodeType) -> dict[tuple[int, int, int], list[ast.AST]]:
    """The expressions and statements of a function by line and columns."""
    found: dict[tuple[int, int, int], list[ast.AST]] = {}
    function = definition(code)
    for node in () if function is None else ast.walk(function):
        _, line, start, end = place_of(code, node)
        found.setdefault((line, start, end), []).append(node)
    return found


class _Reader:
    """One expression, with what its names stand for."""

    def __init__(self, function: ast.AST, frames: Sequence[Frame], watch: Watch, steps: Sequence[int]) -> None:
        self.function, self.frames, self.watch, self.steps = function, frames, watch, steps
        self.code = frames[0].code
        self.counters: dict[str, Counter] = {}
        self.numbers: dict[str, Number] = {}
        self.places: set[Place] = set()

    def resolved(self, node: ast.expr, depth: int) -> ast.expr | None:
        """The expression with names that are assigned in the loop replaced by what is assigned."""
        if depth > _DEEPEST:
            return None
        self.places.add(place_of(self.code, node))
        if isinstance(node, ast.Constant):
            return node if isinstance(node.value, bool | int | float) else None
        if isinstance(node, ast.Name):
            return self._name(node, depth)
        if isinstance(node, ast.Attribute):
            return self._attribute(node)
        parts: list[ast.expr | None]
        match node:
            case ast.Subscript(
                value=ast.Attribute(value=ast.Name(id=name), attr="shape") as shape,
                slice=ast.Constant(value=int() as axis),
            ):
                self.places.add(place_of(self.code, shape))
                return self._size(node, name, axis)
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id=name), attr="size"), args=[ast.Constant(value=int() as axis)]
            ):
                return self._size(node, name, axis)
            case ast.Call(func=ast.Name(id="len"), args=[ast.Name(id=name)]) if self._outer("len") is len:
                return self._size(node, name, 0)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY and self._is_whole(node, depth):
                parts = [self.resolved(left, depth), self.resolved(right, depth)]
                make: Callable[..., ast.expr] = lambda a, b: ast.BinOp(a, op, b)  # noqa: E731
            case ast.UnaryOp(op=ast.USub() | ast.Not() as sign, operand=operand):
                parts, make = [self.resolved(operand, depth)], lambda a: ast.UnaryOp(sign, a)
            case ast.Compare(left=left, ops=[order], comparators=[right]) if type(order) in _COMPARED:
                parts = [self.resolved(left, depth), self.resolved(right, depth)]
                make = lambda a, b: ast.Compare(a, [order], [b])  # noqa: E731
            case ast.Compare(left=left, comparators=[_, _, *_] as others):  # a < b < c
                pairs = zip((left, *others), node.ops, others, strict=False)
                each: list[ast.expr] = [ast.copy_location(ast.Compare(a, [order], [b]), node) for a, order, b in pairs]
                return self.resolved(ast.copy_location(ast.BoolOp(ast.And(), each), node), depth)
            case ast.BoolOp(op=joint, values=values) if all(map(_is_condition, values)):
                parts, make = [self.resolved(v, depth) for v in values], lambda *a: ast.BoolOp(joint, list(a))
            case ast.IfExp(test=test, body=body, orelse=orelse):
                parts, make = [self.resolved(n, depth) for n in (test, body, orelse)], ast.IfExp
            case ast.Call(func=function, args=args, keywords=[]) if self._function(function, len(args)) is not None:
                parts, make = [self.resolved(a, depth) for a in args], lambda *a: ast.Call(function, list(a), [])
            case _:
                return None
        return None if any(p is None for p in parts) else make(*parts)

    def _size(self, node: ast.expr, name: str, axis: int) -> ast.expr | None:
        """The size of a tensor whose name no loop gives to another."""
        tensor = self.watch.objects.get((self.code, name))
        loops = [n for n in ast.walk(self.function) if isinstance(n, ast.For | ast.While)]
        stored = {
            n.id for loop in loops for n in ast.walk(loop) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
        }
        if not isinstance(tensor, Tensor) or name in stored or not -tensor.dim() <= axis < tensor.dim():
            return None
        text = ast.unparse(node)
        self.numbers[text] = int(tensor.shape[axis])
        return ast.Name(text, ast.Load())

    def _is_whole(self, node: ast.BinOp, depth: int) -> bool:
        """Is the operation defined at every step, within 64 bits? Remainders by a number, and mild powers."""
        if isinstance(node.op, ast.Add | ast.Sub | ast.Mult | ast.Div):
            return True
        right = self._number(node.right)
        if not isinstance(node.op, ast.Pow):
            return right is not None and right != 0
        left = self._number(node.left)
        root = isinstance(left, int) and left > 0 and isinstance(right, float)
        return right in (0, 1, 2, 3) or isinstance(left, float) or left in (-1, 0, 1) or root

    def _number(self, node: ast.expr) -> Number | None:
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            value = self._number(node.operand)
            return None if value is None else -value
        resolved = self.resolved(node, 0) if isinstance(node, ast.Constant | ast.Name | ast.Attribute) else None
        if isinstance(resolved, ast.Name):
            return self.numbers.get(resolved.id)
        if isinstance(resolved, ast.Constant) and isinstance(resolved.value, bool | int | float):
            return resolved.value
        return None

    def _function(self, node: ast.expr, arguments: int) -> str | None:
        """The name of a known function of numbers, where the name means what it says."""
        if arguments != (2 if isinstance(node, ast.Name) and node.id in ("min", "max") else 1):
            return None
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.attr in _FUNCTIONS:
            return node.attr if self._outer(node.value.id) is math else None
        if isinstance(node, ast.Name) and node.id in _BUILTIN:
            return node.id if self._outer(node.id) is getattr(builtins, node.id) else None
        return None

    def _outer(self, name: str) -> Any:
        if name in self.frames[0].values:
            return None
        space = self.watch.codes.get(self.code, {})
        return space.get(name, getattr(builtins, name, None)) if name in space or hasattr(builtins, name) else None

    def _name(self, node: ast.Name, depth: int) -> ast.expr | None:
        values = [f.values[node.id] if node.id in f.values else self._outer(node.id) for f in self.frames]
        if not all(isinstance(v, bool | int | float) for v in values):
            return None
        numbers = [v for v in values if isinstance(v, bool | int | float)]
        assigned = self._assigned(node.id)
        if all(v == numbers[0] and type(v) is type(numbers[0]) for v in numbers) and not assigned:
            if is_stepped(self.function, node.id) and not has_counted(parents_in(self.function), node):
                return None  # it may be another at other lengths
            made = self._of_sizes(node.id, numbers[0], depth)
            if made is None:
                self.numbers[node.id] = numbers[0]
            return made or node
        counts = all(isinstance(v, int) and not isinstance(v, bool) for v in numbers)
        at = list(zip(self.steps, map(int, numbers), strict=True)) if counts else []
        for step in (1, -1):
            start = at[0][1] - step * at[0][0] if at else 0
            if at and all(v == start + step * n for n, v in at) and not assigned:
                self.counters[node.id] = Counter(start, step)
                return node
        made = self.resolved(assigned[0], depth + 1) if len(assigned) == 1 else None
        if made is None:
            return None
        told = Coefficient(made, self.counters, self.numbers)
        # assigned after it is read, it holds the number of a step before
        return made if all(told.number(n) == v for n, v in zip(self.steps, numbers, strict=True)) else None

    def _of_sizes(self, name: str, number: Number, depth: int) -> ast.expr | None:
        """What the one assignment of a number before loops makes it of: another length may make it another number."""
        assigned = self._assigned(name, everywhere=True)
        made = self.resolved(assigned[0], depth + 1) if len(assigned) == 1 else None
        if isinstance(made, None | ast.Name | ast.Constant) or not any(isinstance(n, ast.Name) for n in ast.walk(made)):
            return None
        told = Coefficient(made, {}, self.numbers).number(0)
        return made if type(told) is type(number) and told == number else None

    def _assigned(self, name: str, *, everywhere: bool = False) -> list[ast.expr]:
        """What plain assignments inside of loops, or of a function without any, give the name.

        Two branches of one `if` are one expression.
        """
        loops: list[ast.AST] = [n for n in ast.walk(self.function) if isinstance(n, ast.For | ast.While)]
        blocks = [self.function] if everywhere or not loops else loops
        looped = {id(n): n for block in blocks for n in ast.walk(block)}
        found: list[ast.expr] = []
        inside: set[int] = set()
        for node in looped.values():
            match node:
                case ast.If(test=test, body=[ast.Assign(targets=[ast.Name(id=a)], value=body) as first],
                            orelse=[ast.Assign(targets=[ast.Name(id=b)], value=other) as second]) if a == b == name:  # fmt: skip
                    found.append(ast.copy_location(ast.IfExp(test, body, other), node))
                    inside |= {id(first), id(second)}
        for node in looped.values():
            match node:
                case ast.Assign(targets=[ast.Name(id=a)], value=value) if a == name and id(node) not in inside:
                    counts = any(isinstance(n, ast.Name) and n.id == name for n in ast.walk(value))
                    # t = t + 1 is a counter's own, and so is t = 0 in front of the loop that counts
                    found += [] if counts or self._starts(node, name) else [value]
        return found

    def _starts(self, assignment: ast.Assign, name: str) -> bool:
        """Does a loop that comes after it, in the same block, count up what has this name?"""
        blocks = (getattr(n, "body", None) for n in ast.walk(self.function))
        block = next((b for b in blocks if isinstance(b, list) and assignment in b), [])
        after = block[block.index(assignment) + 1 :] if block else []
        return any(
            isinstance(n, ast.AugAssign) and isinstance(n.target, ast.Name) and n.target.id == name
            for loop in after if isinstance(loop, ast.For | ast.While) for n in ast.walk(loop)
        )  # fmt: skip

    def _attribute(self, node: ast.Attribute) -> ast.expr | None:
        if not isinstance(node.value, ast.Name):
            return None
        owner = self.watch.objects.get((self.code, node.value.id), self._outer(node.value.id))
        if owner is math or isinstance(owner, nn.Module):
            value = getattr(owner, node.attr, None)
            if isinstance(value, bool | int | float):
                return ast.Constant(value)
        return None


def is_affine(coefficient: Coefficient) -> bool:
    """Is it a counter times a number plus a number, which any three steps tell?"""
    plain = ast.Name | ast.Constant | ast.BinOp | ast.UnaryOp | ast.operator | ast.unaryop | ast.expr_context
    nodes = list(ast.walk(coefficient.expression))
    return all(isinstance(n, plain) for n in nodes) and not any(
        isinstance(n, ast.Mod | ast.FloorDiv | ast.Div | ast.Pow | ast.BitAnd) for n in nodes
    )


class Table:
    """Writes a coefficient as operators over all `count` steps: positions run upward, whichever way time runs."""

    def __init__(self, coefficient: Coefficient, count: int, make: Make) -> None:
        self.coefficient, self.count, self.make = coefficient, count, make

    def write(self) -> tuple[Use, str, bool]:
        """The table, its element type, and whether steps read it from its end."""
        backward = all(c.step < 0 for c in self.coefficient.counters.values())
        self.backward = backward
        value, dtype = self.vector(self.coefficient.expression)
        dtype = "i64" if dtype == "bool" else dtype
        return self._lifted(value, dtype), dtype, backward

    def vector_of(self, dtype: str) -> Use:
        """The numbers of all steps, in order, as that type."""
        self.backward = False
        return self._lifted(self.vector(self.coefficient.expression)[0], dtype)

    def _new(self, kind: str, args: tuple[Arg, ...], dtype: str) -> Use:
        made = kind in ("arange", "full")
        attrs = (("dtype", Atom(LONG[dtype])),) if made else ()
        return self.make(kind, args, attrs, Type(dtype, (self.count,)))

    def _counter(self, counter: Counter) -> Use:
        start, step = counter.start, counter.step
        if self.backward:
            start, step = start + step * (self.count - 1), -step
        counted = self._new("arange", (self.count,), "i64")
        if step != 1:
            counted = self._new("mul", (counted, step), "i64")
        return self._new("add", (counted, start), "i64") if start else counted

    def _lifted(self, value: Arg, dtype: str) -> Use:
        """The value as a vector of that type."""
        if not isinstance(value, Use):
            return self._new("full", ((self.count,), value), dtype)
        return self._new("to", (value, Atom(LONG[dtype])), dtype)

    def vector(self, node: ast.expr) -> tuple[Arg, str]:
        """A vector or a number, and its element type."""
        match node:
            case ast.Constant(value=bool() | int() | float() as number):
                return number, _type_of(number)
            case ast.Name(id=name):
                if name in self.coefficient.counters:
                    return self._counter(self.coefficient.counters[name]), "i64"
                known = self.coefficient.numbers[name]
                return known, _type_of(known)
            case ast.BinOp(left=left, op=op, right=right):
                a, b, dtype = self._pair(left, right, "f64" if isinstance(op, ast.Div) else "i64")
                return self._new(_BINARY[type(op)], (a, b), dtype), dtype
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                a, b, _ = self._pair(left, right, "i64")
                return self._new(_COMPARED[type(op)], (a, b), "bool"), "bool"
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                value, dtype = self.vector(operand)
                dtype = "i64" if dtype == "bool" else dtype
                return self._new("neg", (self._lifted(value, dtype),), dtype), dtype
            case ast.UnaryOp(operand=operand):
                return self._new("logical_not", (self._lifted(self.vector(operand)[0], "bool"),), "bool"), "bool"
            case ast.BoolOp(op=joint, values=[first, *rest]):
                whole = self._lifted(self.vector(first)[0], "bool")
                for part in rest:
                    other = self._lifted(self.vector(part)[0], "bool")
                    kind = "logical_and" if isinstance(joint, ast.And) else "logical_or"
                    whole = self._new(kind, (whole, other), "bool")
                return whole, "bool"
            case ast.IfExp(test=test, body=body, orelse=orelse):
                condition = self._lifted(self.vector(test)[0], "bool")
                a, b, dtype = self._pair(body, orelse, "i64")
                return self._new("where", (condition, a, b), dtype), dtype
            case ast.Call(func=function, args=args):
                return self._call(
                    function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", ""), args
                )
        raise AssertionError(f"{ast.dump(node)} was resolved")

    def _call(self, name: str, args: list[ast.expr]) -> tuple[Arg, str]:
        if name in _CASTS:
            dtype = _CASTS[name]
            return self._lifted(self.vector(args[0])[0], dtype), dtype
        if name in ("min", "max"):
            a, b, dtype = self._pair(args[0], args[1], "i64")
            return self._new("minimum" if name == "min" else "maximum", (a, b), dtype), dtype
        value, dtype = self.vector(args[0])
        dtype = ("i64" if dtype == "bool" else dtype) if name == "abs" else "f64"
        return self._new("abs" if name == "abs" else _FUNCTIONS[name], (self._lifted(value, dtype),), dtype), dtype

    def _pair(self, left: ast.expr, right: ast.expr, least: str) -> tuple[Use, Use, str]:
        """Two vectors of the type that Python computes with."""
        (a, one), (b, other) = self.vector(left), self.vector(right)
        dtype = "f64" if "f64" in (one, other, least) else "i64"
        return self._lifted(a, dtype), self._lifted(b, dtype), dtype


def _is_condition(node: ast.expr) -> bool:
    """Is it true or false, so that `and` and `or` give one of these too?"""
    return isinstance(node, ast.Compare | ast.BoolOp) or (
        isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)
    )


def _type_of(value: Number) -> str:
    return "bool" if isinstance(value, bool) else "i64" if isinstance(value, int) else "f64"
