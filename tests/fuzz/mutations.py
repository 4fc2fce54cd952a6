"""Mutations of sources: rewrites of syntax trees that change neither what a program computes nor what is true of it.

Each takes the tree of one function and rewrites every place that fits. A rewrite may be out of place (a Python number where
the new spelling needs a tensor): whoever applies one runs the result and discards it if it does not do what it did before.
"""

from __future__ import annotations

import ast
import copy
import functools
from collections.abc import Callable, Iterator

Mutation = Callable[[ast.FunctionDef], None]
MUTATIONS: dict[str, Mutation] = {}


def _mutation(mutate: Mutation) -> Mutation:
    MUTATIONS[mutate.__name__] = mutate
    return mutate


def fits(source: str, name: str, mutate: Mutation) -> bool:
    """Does the mutation change the function or class of that name?"""
    old = _found(source, name)
    return old is not None and ast.dump(_rewritten(old, mutate)) != ast.dump(old)


def mutated(source: str, name: str, mutate: Mutation) -> str:
    """The source with the function, or the methods of the class, of that name rewritten; without `program` decorators."""
    old = _found(source, name)
    assert old is not None, f"nothing is called {name}"
    body = [copy.deepcopy(n) if n is not old else _rewritten(old, mutate) for n in _parsed_module(source).body]
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            node.decorator_list = [d for d in node.decorator_list if not _is_call_of(d, "program")]
    return ast.unparse(ast.fix_missing_locations(ast.Module(body, [])))


@functools.cache
def _parsed_module(source: str) -> ast.Module:
    return ast.parse(source)


def _found(source: str, name: str) -> ast.FunctionDef | ast.ClassDef | None:
    for node in _parsed_module(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return node
    return None


def _rewritten(old: ast.FunctionDef | ast.ClassDef, mutate: Mutation) -> ast.FunctionDef | ast.ClassDef:
    node = copy.deepcopy(old)
    for function in [node] if isinstance(node, ast.FunctionDef) else node.body:
        if isinstance(function, ast.FunctionDef) and function.name != "__init__":
            mutate(function)
    return node


def _is_call_of(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name


def _loops(function: ast.FunctionDef) -> list[ast.For]:
    return [node for node in ast.walk(function) if isinstance(node, ast.For)]


def _blocks(function: ast.FunctionDef) -> Iterator[list[ast.stmt]]:
    """Every list of statements."""
    for node in list(ast.walk(function)):
        for field in ("body", "orelse"):
            block = getattr(node, field, None)
            if isinstance(block, list) and block and isinstance(block[0], ast.stmt):
                yield block


def _names(node: ast.AST, context: type[ast.expr_context] = ast.Load) -> list[str]:
    return [n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, context)]


def _parsed(text: str) -> ast.stmt:
    return ast.parse(text).body[0]


def _value(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


def _text(node: ast.AST) -> str:
    return ast.unparse(node)


class _Rewrite(ast.NodeTransformer):
    """Replaces every expression that a function maps to another, insides first."""

    def __init__(self, change: Callable[[ast.expr], ast.expr | None]) -> None:
        self.change = change

    def generic_visit(self, node: ast.AST) -> ast.AST:
        node = super().generic_visit(node)
        if isinstance(node, ast.expr):
            return self.change(node) or node
        return node


def _in_loops(function: ast.FunctionDef, change: Callable[[ast.expr], ast.expr | None]) -> None:
    """Rewrite the expressions of all loop bodies, or of the whole function where there is none (a step)."""
    loops = _loops(function)
    inner = {id(node) for loop in loops for node in ast.walk(loop) if node is not loop}
    for loop in loops:
        if id(loop) not in inner:
            loop.body = [_Rewrite(change).visit(statement) for statement in loop.body]
    if not loops:
        function.body = [_Rewrite(change).visit(statement) for statement in function.body]


def _binary(node: ast.AST, operator: type[ast.operator]) -> tuple[ast.expr, ast.expr] | None:
    if isinstance(node, ast.BinOp) and isinstance(node.op, operator):
        return node.left, node.right
    return None


# ---- names -------------------------------------------------------------------------------------------


@_mutation
def rename(function: ast.FunctionDef) -> None:
    """Other names for local variables."""
    fixed = {a.arg for n in ast.walk(function) if isinstance(n, ast.FunctionDef | ast.Lambda) for a in n.args.args}
    fixed |= {n for node in ast.walk(function) if isinstance(node, ast.Global | ast.Nonlocal) for n in node.names}
    local = dict.fromkeys(n for n in _names(function, ast.Store) if n not in fixed)
    new = {name: f"value_{i}" for i, name in enumerate(local)}
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and node.id in new:
            node.id = new[node.id]


@_mutation
def name_the_parts(function: ast.FunctionDef) -> None:
    """Every operand of an arithmetic assignment gets a name."""
    count = 0
    for block in _blocks(function):
        for statement in list(block):
            if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.BinOp):
                place = block.index(statement)
                for side in ("left", "right"):
                    name = f"part_{count}"
                    count += 1
                    block.insert(place, _parsed(f"{name} = {_text(getattr(statement.value, side))}"))
                    place += 1
                    setattr(statement.value, side, ast.Name(name, ast.Load()))


@_mutation
def inline(function: ast.FunctionDef) -> None:
    """A name that is read once, in the next statement, makes way for what it stands for."""
    for block in _blocks(function):
        for place in range(len(block) - 2, -1, -1):
            first, second = block[place], block[place + 1]
            if not (
                isinstance(first, ast.Assign) and len(first.targets) == 1 and isinstance(first.targets[0], ast.Name)
            ):
                continue
            name, value = first.targets[0].id, first.value
            reads = _names(function).count(name)
            if reads != 1 or _names(function, ast.Store).count(name) != 1 or _names(second).count(name) != 1:
                continue
            if not isinstance(second, ast.Assign | ast.Expr | ast.Return):
                continue
            if any(isinstance(n, ast.Lambda | ast.ListComp | ast.GeneratorExp) for n in ast.walk(second)):
                continue

            def change(node: ast.expr, name: str = name, value: ast.expr = value) -> ast.expr | None:
                return value if isinstance(node, ast.Name) and node.id == name else None

            block[place : place + 2] = [_Rewrite(change).visit(second)]


# ---- loops -------------------------------------------------------------------------------------------


def _counted(loop: ast.For) -> tuple[str, str, int] | None:
    """For `for t in range(x.shape[1])` and its like: t, x and the axis."""
    if not (isinstance(loop.target, ast.Name) and _is_call_of(loop.iter, "range") and not loop.orelse):
        return None
    assert isinstance(loop.iter, ast.Call)
    if len(loop.iter.args) != 1:
        return None
    for axis in (0, 1):
        for node in ast.walk(loop.iter.args[0]):
            if isinstance(node, ast.Name) and _text(loop.iter.args[0]) in (
                f"{node.id}.shape[{axis}]",
                f"{node.id}.size({axis})",
            ):
                return loop.target.id, node.id, axis
    return None


@_mutation
def unbind_for_indexing(function: ast.FunctionDef) -> None:
    """`for t, u in enumerate(x.unbind(1))` for `x[:, t]` in a loop over range."""
    for loop in _loops(function):
        found = _counted(loop)
        if found is None:
            continue
        t, x, axis = found
        step, read = f"{x}_step", f"{x}[:, {t}]" if axis else f"{x}[{t}]"
        reads = [n for s in loop.body for n in ast.walk(s) if isinstance(n, ast.Subscript) and _text(n) == read]
        if (
            not reads
            or any(isinstance(n.ctx, ast.Store) for n in reads)
            or x in [n for s in loop.body for n in _names(s, ast.Store)]
        ):
            continue

        def change(node: ast.expr, read: str = read, step: str = step) -> ast.expr | None:
            return ast.Name(step, ast.Load()) if isinstance(node, ast.Subscript) and _text(node) == read else None

        loop.body = [_Rewrite(change).visit(s) for s in loop.body]
        loop.target = _value(f"({t}, {step})")
        for node in ast.walk(loop.target):
            if isinstance(node, ast.Name | ast.Tuple):
                node.ctx = ast.Store()
        loop.iter = _value(f"enumerate({x}.unbind({axis}))")


@_mutation
def indexing_for_unbind(function: ast.FunctionDef) -> None:
    """`for t in range(...)` and `x[:, t]` for a loop over `x.unbind(1)`, or over several in a zip."""
    for loop in _loops(function):
        many = _is_call_of(loop.iter, "zip")
        sources = loop.iter.args if many and isinstance(loop.iter, ast.Call) else [loop.iter]
        targets = loop.target.elts if many and isinstance(loop.target, ast.Tuple) else [loop.target]
        read: list[tuple[str, str]] = []
        for target, source in zip(targets, sources, strict=False):
            call = source
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "unbind"):
                break
            axis = _text(call.args[0]) if call.args else "0"
            if not isinstance(call.func.value, ast.Name) or axis not in ("0", "1") or not isinstance(target, ast.Name):
                break
            read.append((target.id, f"{call.func.value.id}[{':, ' if axis == '1' else ''}step_number]"))
        else:
            x, axis = _text(sources[0]).partition(".")[0], "1" if ":, " in read[0][1] else "0"
            loop.body = [*(_parsed(f"{name} = {text}") for name, text in read), *loop.body]
            loop.target, loop.iter = ast.Name("step_number", ast.Store()), _value(f"range({x}.shape[{axis}])")


@_mutation
def while_for_range(function: ast.FunctionDef) -> None:
    """A counter that is moved by hand."""
    for block in _blocks(function):
        for loop in list(block):
            if not isinstance(loop, ast.For) or _counted(loop) is None:
                continue
            if any(
                isinstance(n, ast.Continue | ast.Break | ast.For | ast.While) for s in loop.body for n in ast.walk(s)
            ):
                continue
            assert isinstance(loop.target, ast.Name) and isinstance(loop.iter, ast.Call)
            t = loop.target.id
            turned = ast.While(_value(f"{t} < {_text(loop.iter.args[0])}"), [*loop.body, _parsed(f"{t} += 1")], [])
            place = block.index(loop)
            block[place : place + 1] = [_parsed(f"{t} = 0"), turned]


@_mutation
def split_fused_loops(function: ast.FunctionDef) -> None:
    """What a loop appends at its end is computed in a second loop, from the values kept by the first."""
    for block in _blocks(function):
        for loop in list(block):
            if (
                not isinstance(loop, ast.For)
                or loop.orelse
                or any(isinstance(n, ast.Continue | ast.Break) for n in ast.walk(loop))
            ):
                continue
            last = loop.body[-1]
            if not (
                isinstance(last, ast.Expr)
                and isinstance(last.value, ast.Call)
                and isinstance(last.value.func, ast.Attribute)
            ):
                continue
            if (
                last.value.func.attr != "append"
                or not isinstance(last.value.func.value, ast.Name)
                or len(loop.body) < 2
            ):
                continue
            if any(last.value.func.value.id in _names(s) for s in loop.body[:-1]):
                continue
            stored = {n for s in loop.body for n in _names(s, ast.Store)} | set(_names(loop.target, ast.Store))
            kept = [n for n in dict.fromkeys(_names(last)) if n in stored]
            if not kept:
                continue
            names = ", ".join(kept) + ","
            place = block.index(loop)
            second = _parsed(f"for {names} in kept_{place}:\n    {_text(last)}")
            loop.body[-1] = _parsed(f"kept_{place}.append(({names}))")
            block[place : place + 1] = [_parsed(f"kept_{place} = []"), loop, second]


# ---- operators ---------------------------------------------------------------------------------------


def _product_and_sum(node: ast.expr) -> tuple[str, str, str] | None:
    """For `a * h + b`: the texts of a, h and b."""
    both = _binary(node, ast.Add)
    if both is None:
        return None
    for product, rest in (both, both[::-1]):
        factors = _binary(product, ast.Mult)
        if factors is not None:
            return _text(factors[0]), _text(factors[1]), _text(rest)
    return None


@_mutation
def lerp(function: ast.FunctionDef) -> None:
    """a h + b = b + a ((h + b) - b) = lerp(b, h + b, a)."""

    def change(node: ast.expr) -> ast.expr | None:
        found = _product_and_sum(node)
        return None if found is None else _value(f"torch.lerp({found[2]}, ({found[1]}) + ({found[2]}), {found[0]})")

    _in_loops(function, change)


@_mutation
def addcmul(function: ast.FunctionDef) -> None:
    """One operator for a product and a sum."""

    def change(node: ast.expr) -> ast.expr | None:
        found = _product_and_sum(node)
        return None if found is None else _value(f"torch.addcmul({found[2]}, {found[0]}, {found[1]})")

    _in_loops(function, change)


@_mutation
def swap_operands(function: ast.FunctionDef) -> None:
    """b + a for a + b, b * a for a * b."""

    def change(node: ast.expr) -> ast.expr | None:
        both = _binary(node, ast.Add) or _binary(node, ast.Mult)
        if both is None or not isinstance(node, ast.BinOp):
            return None
        return ast.BinOp(both[1], node.op, both[0])

    _in_loops(function, change)


@_mutation
def subtract(function: ast.FunctionDef) -> None:
    """a - (-b) for a + b, a + (-b) for a - b."""

    def change(node: ast.expr) -> ast.expr | None:
        for have, make in ((ast.Add, ast.Sub), (ast.Sub, ast.Add)):
            both = _binary(node, have)
            if both is not None:
                return ast.BinOp(both[0], make(), ast.UnaryOp(ast.USub(), both[1]))
        return None

    _in_loops(function, change)


@_mutation
def methods(function: ast.FunctionDef) -> None:
    """torch.mul(a, b) for a * b, and so on."""
    known: dict[type[ast.operator], str] = {
        ast.Add: "add",
        ast.Sub: "sub",
        ast.Mult: "mul",
        ast.MatMult: "matmul",
        ast.Div: "div",
    }

    def change(node: ast.expr) -> ast.expr | None:
        if not isinstance(node, ast.BinOp) or type(node.op) not in known:
            return None
        if isinstance(node.left, ast.Constant):
            return None
        return _value(f"torch.{known[type(node.op)]}({_text(node.left)}, {_text(node.right)})")

    _in_loops(function, change)


@_mutation
def in_place(function: ast.FunctionDef) -> None:
    """h = a * h; h += u for h = a * h + u."""
    for loop in _loops(function):
        for block in [loop.body]:
            for statement in list(block):
                if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
                    continue
                both = _binary(statement.value, ast.Add)
                target = statement.targets[0]
                if both is None or not isinstance(target, ast.Name) or not isinstance(both[0], ast.BinOp | ast.Call):
                    continue
                if target.id in _names(both[1]):
                    continue
                place = block.index(statement)
                statement.value = both[0]
                block.insert(place + 1, _parsed(f"{target.id}.add_({_text(both[1])})"))


@_mutation
def double_the_names(function: ast.FunctionDef) -> None:
    """Every assignment of a name in a loop goes through a second name, and through a tuple."""
    for loop in _loops(function):
        for statement in list(loop.body):
            if (
                isinstance(statement, ast.Assign)
                and len(statement.targets) == 1
                and isinstance(statement.targets[0], ast.Name)
            ):
                name = statement.targets[0].id
                place = loop.body.index(statement)
                statement.targets = [ast.Name(f"{name}_next", ast.Store())]
                loop.body.insert(place + 1, _parsed(f"({name}, _) = ({name}_next, None)"))
