"""Counters: is what a program does at step t, or at length T, known from a few short traces?

Short traces prove nothing about later steps: `0.9 if t < 100 else 0.5` and `x[:, min(t, 200)]` look
plain at T = 9. So a trace speaks for every length only if each Python value that changed from step
to step (a loop counter) or from length to length is used, in the user's source, solely

    as an index of a tensor, plus or minus what does not change      x[:, t], y[t - 1], x[:, -t - 1]
    to count                                                         range(n), while t < n, t += 1
    as an index that goes around in a list, for few elements         ring[t % 3]
    to compare with 0, 1 or 2, if the traces pass these              if t > 0:
    as a size                                                        x.new_zeros(n, 4), x / n

Sizes that are compared with each other are read elsewhere (`horizon`). Anything else is unreadable here, and the
program is held to the length it was traced at.
"""

from __future__ import annotations

import ast
import linecache
from collections import Counter, deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType, ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linrec.frontends.loop.trace import Place, Watch, place_of
from linrec.ir import Source

_LARGEST_PEELED = 2
LONGEST_CYCLE = 5  # whole cycles of this many steps lie within the traces
_INDEXING = frozenset({"select", "narrow", "unbind", "size", "index_select"})
_PURE = frozenset({"max", "min", "abs", "float", "int", "sqrt", "exp", "log", "sin", "cos"})
_STATEFUL = frozenset({"next", "len", "random", "randint", "pop", "popleft", "time", "perf_counter"})
_TAKING, _ADDING = frozenset({"pop", "popleft"}), frozenset({"append", "appendleft", "insert"})
_SIZING = frozenset({
    "range", "zeros", "ones", "empty", "full", "new_zeros", "new_ones", "new_full", "new_empty", "randn", "rand",
    "view", "reshape", "expand", "broadcast_to", "tile", "eye", "arange", "enumerate", "reversed", "zip", "repeat",
    "split", "chunk", "size", "print",
})  # fmt: skip


@dataclass(frozen=True)
class Unreadable:
    """A use of a counter that short traces cannot speak for."""

    name: str
    source: Source


def unreadable(watches: Collection[Watch], places: Collection[Place] = ()) -> Unreadable | None:
    """The first use of a Python value that changes with t or T in a way that is not read, or None.

    `places` are the expressions that became functions of time.
    """
    changing = {key for w in watches for key, seen in w.values.items() if len(set(map(repr, seen))) > 1}
    first, *others = watches
    # a counter of time counts further in longer traces; one of a few layers or slots does not
    alike = {key for key in changing if others and all(w.values.get(key) == first.values.get(key) for w in others)}
    stepping = changing - alike
    stepping |= {(code, name) for code, name in alike if _accumulates(code, name, first, stepping)}
    sizing = {
        key for key, seen in first.values.items() if any(w.values.get(key, seen)[-1] != seen[-1] for w in others)
    } - stepping
    sizes = [{key: _sizes_in(held) for key, held in w.objects.items()} for w in watches]
    holding = {key for key, held in sizes[0].items() if any(other.get(key) != held for other in sizes[1:])}
    called = {code.co_name for w in watches for code in w.codes}
    for watch in watches:
        for code in watch.codes:
            found = _Scope(code, watch, stepping, sizing, holding, called, places).first()
            if found is not None:
                return found
    return None


def _accumulates(code: CodeType, name: str, watch: Watch, stepping: Collection[tuple[CodeType, str]]) -> bool:
    """Does `n += 1` in some turns of a loop over time make it another number in calls that are longer than the traces?"""
    function = definition(code)
    for node in () if function is None else ast.walk(function):
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name) and node.target.id == name:
            for loop in _around(parents_in(function), node):
                if isinstance(loop, ast.For | ast.While):
                    if any(isinstance(s, ast.Assign) and _stores(s, name) for s in ast.walk(loop)):
                        break  # every turn begins anew
                    if _is_long(loop, code, watch, stepping):
                        return True
    return False


def _is_long(
    loop: ast.For | ast.While, code: CodeType, watch: Watch, stepping: Collection[tuple[CodeType, str]]
) -> bool:
    """May a loop take more turns in longer calls?"""
    if isinstance(loop, ast.While):
        return True
    names = {(code, n.id) for n in ast.walk(loop.target) if isinstance(n, ast.Name)}
    if names & watch.values.keys():
        return bool(names & set(stepping))
    held = [watch.objects.get((code, n.id)) for n in ast.walk(loop.iter) if isinstance(n, ast.Name)]
    return not any(isinstance(h, nn.Module) for h in held) or any(isinstance(h, Tensor) for h in held)


class _Scope:
    """One function of the user's that ran."""

    def __init__(
        self,
        code: CodeType,
        watch: Watch,
        stepping: Collection[tuple[CodeType, str]],
        sizing: Collection[tuple[CodeType, str]],
        holding: Collection[tuple[CodeType, str]],
        called: Collection[str],
        places: Collection[Place],
    ) -> None:
        self.code, self.watch, self.called, self.places = code, watch, called, places
        self.stepping = {name for c, name in stepping if c is code}
        self.sizing = {name for c, name in sizing if c is code}
        self.holding = {name for c, name in holding if c is code}

    def first(self) -> Unreadable | None:
        node = definition(self.code)
        if node is None:
            names = self.stepping | self.sizing
            return Unreadable(min(names), Source(self.code.co_filename, self.code.co_firstlineno)) if names else None
        self.parents = parents_in(node)
        for name in self._names(node):
            if not (self._is_read(name) or self._is_coefficient(name) or self._is_dropped(name)):
                return self._unreadable(name, ast.unparse(name))
        for call in self._stateful(node):
            return self._unreadable(call, ast.unparse(call))
        return None

    def _unreadable(self, node: ast.expr, text: str) -> Unreadable:
        return Unreadable(text, Source(self.code.co_filename, node.lineno, node.col_offset, node.end_col_offset or 0))

    def _names(self, node: ast.AST) -> Iterator[ast.expr]:
        for child in ast.walk(node):
            if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Load):
                # a name may hold a tensor here and count elsewhere
                held = self.watch.numbers.get((self.code, child.lineno), self.stepping | self.sizing)
                if child.id in self.stepping | self.sizing and child.id in held:
                    yield child
            elif isinstance(child, ast.Attribute) and child.attr == "shape":
                yield child
            elif isinstance(child, ast.Subscript) and getattr(child.value, "id", "") in self.holding:
                yield child
            elif isinstance(child, ast.Call) and _called_name(child) in ("size", "len", "numel"):
                yield child

    def _is_read(self, node: ast.expr) -> bool:
        """Climb from a counter through affine arithmetic to what uses it."""
        inside: ast.AST = node
        while True:
            parent = self.parents.get(inside)
            if isinstance(parent, ast.BinOp) and isinstance(parent.op, ast.Add | ast.Sub | ast.Mult):
                inside = parent
            elif isinstance(parent, ast.BinOp) and parent.left is inside and self._is_cycle(parent):
                index = self.parents.get(parent)
                return isinstance(index, ast.Subscript) and index.slice is parent and self._holds_tensors(index.value)
            elif isinstance(parent, ast.BinOp) and parent.right is inside and self._is_ratio(parent):
                inside = parent  # what uses the ratio is to be looked at; of a tensor's, the traces compare the numbers
            elif isinstance(parent, ast.UnaryOp) and isinstance(parent.op, ast.USub):
                inside = parent
            elif isinstance(
                parent, ast.Tuple | ast.Slice | ast.List | ast.Dict | ast.Starred | ast.keyword | ast.NamedExpr
            ):
                inside = parent
            elif isinstance(parent, ast.Subscript) and parent.value is inside:
                inside = parent  # x.shape[1]
            else:
                break
        return self._allows(parent, inside, self._is_size(node))

    def _is_ratio(self, node: ast.BinOp) -> bool:
        """Is it a division of what may be a number?"""
        return isinstance(node.op, ast.Div) and not self._is_tensor(node.left)

    def _is_tensor(self, node: ast.expr) -> bool:
        """Is it known to be a tensor?"""
        match node:
            case ast.BinOp(left=left, right=right):
                return self._is_tensor(left) or self._is_tensor(right)
            case ast.UnaryOp(operand=operand):
                return self._is_tensor(operand)
            case ast.Call(func=function):
                return _called_name(node) not in _NUMBERS and (self._is_operator(function) or self._is_module(function))
            case ast.Subscript(value=ast.Name() | ast.Attribute() as container):
                held = self._evaluate(container)
                return isinstance(held, Tensor) or (
                    isinstance(held, list | tuple | deque) and any(isinstance(v, Tensor) for v in held)
                )
            case _:
                return isinstance(self._evaluate(node), Tensor)

    def _is_cycle(self, node: ast.BinOp) -> bool:
        """Is it the remainder by a small number that stays?"""
        if not isinstance(node.op, ast.Mod):
            return False
        period: Any = getattr(node.right, "value", None)
        if isinstance(node.right, ast.Name) and node.right.id not in self.sizing | self.stepping:
            seen = self.watch.values.get((self.code, node.right.id), [])
            period = seen[-1] if seen else self.watch.codes[self.code].get(node.right.id)
        counted = self.watch.values.get((self.code, getattr(node.left, "id", "")), [])
        return isinstance(period, int) and 0 < period <= max(LONGEST_CYCLE, len({*map(repr, counted)}) // 2 - 1)

    def _is_coefficient(self, node: ast.AST) -> bool:
        """Is the counter part of an expression that became a function of time?"""
        return place_of(self.code, node) in self.places

    def _is_dropped(self, node: ast.AST) -> bool:
        """Is the counter part of plain arithmetic whose result has a name that nothing reads?"""
        inside, parent = node, self.parents.get(node)
        while isinstance(parent, ast.BinOp | ast.UnaryOp | ast.IfExp | ast.Compare) or (
            isinstance(parent, ast.Call) and _called_name(parent) in _PURE
        ):
            inside, parent = parent, self.parents.get(parent)
        match parent:
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if value is inside:
                return all(
                    n.id != name or isinstance(n.ctx, ast.Store) for n in self.parents if isinstance(n, ast.Name)
                )
        return False

    def _is_passed(self, node: ast.AST, bound: object, is_size: bool) -> bool:
        """Did the traces see the counter on both sides of a number, and well beyond it?"""
        if not isinstance(bound, int):
            return False
        if is_size:  # a tensor's own; a size of one is another program
            sizes = {n for x in self.watch.objects.values() if isinstance(x, Tensor) for n in x.shape}
            held = self.watch.values.get((self.code, node.id), []) if isinstance(node, ast.Name) else []
            return bound in (0, 1) and not isinstance(node, ast.BinOp | ast.UnaryOp) and {*held} <= sizes
        if not isinstance(node, ast.Name):
            return False
        seen = [v for v in self.watch.values.get((self.code, node.id), []) if isinstance(v, int)]
        return bool(seen) and min(seen) - 1 <= bound <= min(_LARGEST_PEELED, max(seen) - 2)

    def _is_size(self, node: ast.expr) -> bool:
        return not (isinstance(node, ast.Name) and node.id in self.stepping) or has_counted(self.parents, node)

    def _allows(self, parent: ast.AST | None, inside: ast.AST, is_size: bool) -> bool:
        match parent:
            case ast.Subscript(value=value, slice=index) if index is inside:
                return self._holds_tensors(value)
            case ast.Assign(targets=targets) if isinstance(inside, ast.Tuple | ast.List | ast.Dict):
                # a container hides what it holds but for sizes; unpacked at once, each name is looked at
                return is_size or all(isinstance(t, ast.Tuple | ast.List) for t in targets)
            case ast.Assign() | ast.AugAssign() | ast.AnnAssign():
                # the name assigned changes too, and is looked at in its turn; what else takes it hides it
                targets = parent.targets if isinstance(parent, ast.Assign) else [parent.target]
                return all(not isinstance(t, ast.Subscript | ast.Attribute) or self._is_tensor(t) for t in targets)
            case ast.Return():
                return is_size
            case ast.Call():
                name = _called_name(parent)
                return (
                    name in _INDEXING
                    or name in self.called
                    or (is_size and (name in _SIZING or self._is_operator(parent.func)))
                    or self._is_module(parent.func)
                )
            case ast.BinOp():
                is_division = isinstance(parent.op, ast.Div | ast.FloorDiv) and parent.right is inside
                return is_size and is_division and self._is_tensor(parent.left)
            case ast.While() | ast.comprehension() | ast.For() | ast.Expr():
                return True
            case ast.Compare() if place_of(self.code, parent) in self.places:
                return True
            case ast.Compare(left=left, comparators=[right]):
                other = right if inside is left else left
                if isinstance(self.parents.get(parent), ast.While):
                    return True
                return isinstance(other, ast.Constant) and self._is_passed(inside, other.value, is_size)
            case _:
                return False

    def _holds_tensors(self, container: ast.expr) -> bool:
        """May the container be indexed by a counter: a tensor, or a list of tensors?"""
        if isinstance(container, ast.Attribute) and container.attr == "shape":
            return True
        value = self._evaluate(container)
        if isinstance(value, list | tuple | deque):
            return all(isinstance(v, Tensor) for v in value)
        return isinstance(value, Tensor) or (value is None and isinstance(container, ast.Call))

    def _evaluate(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Name):
            found = self.watch.objects.get((self.code, node.id))
            return self.watch.codes[self.code].get(node.id) if found is None else found
        if isinstance(node, ast.Attribute):
            owner = self._evaluate(node.value)
            if isinstance(owner, ModuleType | torch._ops.OpOverloadPacket) or type(owner).__module__ == "torch._ops":
                return getattr(owner, node.attr, None)
            if isinstance(owner, nn.Module):
                spaces = (vars(owner), owner._parameters, owner._buffers, owner._modules)
                return next((space[node.attr] for space in spaces if node.attr in space), None)
            if isinstance(owner, Tensor) and node.attr in ("T", "mT", "data", "real", "imag"):
                return owner
        if isinstance(node, ast.Subscript):
            owner = self._evaluate(node.value)
            if isinstance(owner, Tensor):
                return owner
        return None

    def _is_module(self, function: ast.expr) -> bool:
        value = self._evaluate(function)
        return isinstance(value, nn.Module) and "forward" in self.called

    def _is_operator(self, function: ast.expr) -> bool:
        """Is it one of torch's own, or a tensor's method, whose sizes the traces compare?"""
        value = self._evaluate(function)
        if isinstance(value, torch._ops.OpOverload | torch._ops.OpOverloadPacket):
            return True
        if not isinstance(function, ast.Attribute):
            return False
        owner = self._evaluate(function.value)
        if owner is F:
            return True
        if not callable(getattr(Tensor, function.attr, None)):
            return False
        return owner is None or isinstance(owner, Tensor) or getattr(owner, "__name__", "").startswith("torch")

    def _stateful(self, node: ast.AST) -> Iterator[ast.Call]:
        for loop in ast.walk(node):
            if isinstance(loop, ast.For | ast.While):
                for statement in loop.body:
                    for call in ast.walk(statement):
                        if (
                            isinstance(call, ast.Call)
                            and _called_name(call) in _STATEFUL
                            and not self._is_coefficient(call)
                            and not self._is_queue(call)
                        ):
                            yield call

    def _is_queue(self, call: ast.Call) -> bool:
        """Does it take a tensor from a list to which the same turn adds one, so that it stays as long as it is?"""
        if not isinstance(call.func, ast.Attribute):
            return False
        loop = next((n for n in _around(self.parents, call) if isinstance(n, ast.For | ast.While)), None)
        held = self._evaluate(call.func.value)
        if loop is None or not isinstance(held, list | deque) or not all(isinstance(v, Tensor) for v in held):
            return False
        lines = [s for s in loop.body if isinstance(s, ast.Assign | ast.AugAssign | ast.AnnAssign | ast.Expr)]
        calls = [
            c.func for s in lines for c in ast.walk(s) if isinstance(c, ast.Call) and isinstance(c.func, ast.Attribute)
        ]
        own = [f.attr for f in calls if ast.dump(f.value) == ast.dump(call.func.value)]
        taken, added = (sum(name in names for name in own) for names in (_TAKING, _ADDING))
        return bool(held) and taken == added and any(f is call.func for f in calls)


@lru_cache(maxsize=64)
def parents_in(function: ast.AST) -> dict[ast.AST, ast.AST]:
    """What each node of a function stands in."""
    return {child: parent for parent in ast.walk(function) for child in ast.iter_child_nodes(parent)}


def has_counted(parents: Mapping[ast.AST, ast.AST], node: ast.Name) -> bool:
    """Is a name read after the one loop that counts it, once in every turn? Then it is the number of turns, or so."""
    loops = [n for n in parents if isinstance(n, ast.For | ast.While) and _stores(n, node.id)]
    if len(loops) != 1:
        return False
    (loop,) = loops
    counts = [s for s in loop.body if isinstance(s, ast.AugAssign) and _stores(s, node.id)]
    return (
        loop not in _around(parents, node)
        and not any(isinstance(n, ast.For | ast.While | ast.comprehension) for n in _around(parents, loop))
        and not any(isinstance(n, ast.Break | ast.Continue | ast.Return) for n in ast.walk(loop))
        and all(isinstance(s.op, ast.Add | ast.Sub) and _is_whole(s.value) for s in counts)
        and len(counts) + (_counting(loop) == node.id) == 1 == _stores(loop, node.id)
    )


def is_stepped(function: ast.AST, name: str) -> bool:
    """Does a loop change what a name holds in place, as `n += 1` does?"""
    loops = (n for n in ast.walk(function) if isinstance(n, ast.For | ast.While))
    return any(isinstance(s, ast.AugAssign) and _stores(s.target, name) for loop in loops for s in ast.walk(loop))


def _around(parents: Mapping[ast.AST, ast.AST], node: ast.AST) -> list[ast.AST]:
    """What holds a node, from the inside outwards."""
    found = [node]
    while found[-1] in parents:
        found.append(parents[found[-1]])
    return found[1:]


def _stores(node: ast.AST, name: str) -> int:
    """How many times the code in it gives a name a value."""
    return _stored_in(node)[name]


@lru_cache(maxsize=256)
def _stored_in(node: ast.AST) -> Counter[str]:
    return Counter(n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))


def _is_whole(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) is int


def _counting(loop: ast.For | ast.While) -> str | None:
    """The name that counts the turns of `for n in range(...)` or `for n, u in enumerate(...)`."""
    match loop:
        case ast.For(target=ast.Name(id=name), iter=ast.Call(func=ast.Name(id="range"))):
            return name
        case ast.For(target=ast.Tuple(elts=[ast.Name(id=name), _]), iter=ast.Call(func=ast.Name(id="enumerate"))):
            return name
    return None


def _sizes_in(held: object) -> tuple[object, ...]:
    """The numbers that a list or a dictionary holds."""
    inside = held.values() if isinstance(held, dict) else held if isinstance(held, list | tuple) else ()
    return tuple(n for n in inside if isinstance(n, int | float))


def _called_name(call: ast.Call) -> str:
    if isinstance(call.func, ast.Name):
        return call.func.id
    return call.func.attr if isinstance(call.func, ast.Attribute) else ""


_NUMBERS = frozenset("size dim numel nelement ndimension item tolist stride element_size".split())  # no tensors
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_files: dict[tuple[str, int], ast.Module | None] = {}


def definition(code: CodeType) -> ast.AST | None:
    """The syntax tree of the function `code` was made from, or None without source."""
    lines = linecache.getlines(code.co_filename)
    key = (code.co_filename, hash("".join(lines)))
    if key not in _files:
        try:
            _files[key] = ast.parse("".join(lines)) if lines else None
        except SyntaxError:
            _files[key] = None
    tree = _files[key]
    if tree is None:
        return None
    if code.co_name == "<module>":
        return None
    for node in ast.walk(tree):
        if isinstance(node, _SCOPES):
            decorators = getattr(node, "decorator_list", [])
            line = min([node.lineno, *(d.lineno for d in decorators)])
            if line == code.co_firstlineno and getattr(node, "name", code.co_name) == code.co_name:
                return node
    return None
