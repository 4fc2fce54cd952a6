"""Plain source: a program as readable PyTorch that runs without linrec.

The text is a module of its own. `weights` is a mapping with the state_dict's keys; tensors that are not in it (a
closure's, a plain attribute's) stand in the text as literals.

    forward(weights, x)              the parallel form
    first(weights, x)                the state before the first step
    step(weights, x_t, state)        one step: (the original's result, the next state)
"""

from __future__ import annotations

import ast
import inspect
import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from linrec.compiled import Compiled
from linrec.compiler import Engine
from linrec.dtypes import LONG
from linrec.emit.operators import KERNELS, carried, carried_list, shifted
from linrec.emit.source import Program
from linrec.emit.spelling import ATEN
from linrec.errors import StateError
from linrec.ir import Graph
from linrec.program import Form, Recurring
from linrec.sizes import Size

LARGEST_LITERAL = 4096
_IMPORTS = {
    "functools": "import functools",
    "math": "import math",
    "Callable": "from collections.abc import Callable",
    "Sequence": "from collections.abc import Sequence",
    "dataclass": "from dataclasses import dataclass, field, replace",
    "Any": "from typing import Any",
    "torch": "import torch",
    "F": "import torch.nn.functional as F",
    "Tensor": "from torch import Tensor",
    "vmap": "from torch.func import vmap",
}
_HELPERS: dict[str, Any] = {**KERNELS, "shifted": shifted, "carried": carried, "carried_list": carried_list}


def forward_source(engine: Engine, compiled: Compiled) -> str:
    """The parallel form as a module: `forward(weights, *tensors)`."""
    graph = compiled.graph
    count = len([i for i in graph.inputs if i.role == "input"])
    names = [i.name for i in graph.inputs[:count]]
    text = _Text(engine.name, "the parallel form")
    run = text.program(compiled.program, "run")
    values = text.weights(graph, count, [get() for get in compiled.getters], compiled, engine)
    text.function(
        f"forward(weights, {', '.join(map(_word, names))})",
        f"results, _ = {run}({', '.join([text.constants(compiled.program), *map(_word, names), *values])})\n"
        f"return {_nested(compiled.captured.out_spec, 'results')}",
    )
    return text.whole()


def step_source(engine: Engine, program: Recurring) -> str:
    """The recurrent form as a module: `first(weights, *tensors)` and `step(weights, *tensors, state)`.

    Raises StateError (LR4007) for programs whose first steps are special: they have no one step.
    """
    if program.warmup:
        raise StateError(
            "LR4007", f"the first {program.warmup} steps of {engine.name} are special, so one step does not tell all",
            help="start the loop at the first step, from a state before it: h = torch.zeros_like(x[:, 0])",
        )  # fmt: skip
    text = _Text(engine.name, "one step")
    start, step = Form.of(program.start_graph, ()), program.stepping
    first, take = text.program(start.program, "run_first"), text.program(step.program, "run_step")
    values = text.weights(program.graph, program.arity, program.values(), program.compiled, engine)
    names = [_word(n) for n in program.names]
    shown = ", ".join(f"{leaf.name!r}: {leaf.type}" for leaf in program.leaves)
    held = [f"state[{leaf.name!r}]" for leaf in program.leaves]
    count = len(program.results)
    firsts = [
        f"{leaf.name!r}: filled(values[{n}], {_shape(leaf.type.shape)}, torch.{LONG[leaf.type.dtype]}, {names[0]}.device)"
        for n, leaf in enumerate(program.leaves)
    ]
    text.plain(filled)
    sizes = _sizes(program, names)
    text.function(
        f"first(weights, {', '.join(names)})",
        f'"""The state before the first step: {{{shown}}}."""\n'
        f"values, _ = {first}({', '.join([text.constants(start.program), *names, *values])})\n{sizes}"
        f"return {{{', '.join(firsts)}}}",
    )
    nexts = ", ".join(f"{leaf.name!r}: results[{count + n}]" for n, leaf in enumerate(program.leaves))
    text.function(
        f"step(weights, {', '.join(names)}, state)",
        f'"""One step, tensors without their time axis: (result, next state)."""\n'
        f"results, _ = {take}({', '.join([text.constants(step.program), *names, *values, *held])})\n"
        f"return {_nested(program.spec, 'results')}, {{{nexts}}}",
    )
    return text.whole()


class _Text:
    """A module in the making."""

    def __init__(self, name: str, what: str) -> None:
        self.head = f'"""{name} as plain PyTorch: {what}. Made by linrec."""\n\n'
        self.helpers: dict[str, str] = {}
        self.parts: list[str] = []
        self.literals: list[str] = []
        self.aten: set[str] = set()
        self.numbers: dict[str, str] = {}
        self.prefix: dict[int, str] = {}

    def program(self, program: Program, name: str) -> str:
        """An emitted function with its constants; its name in this text."""
        text = program.text
        for constant in program.constants:
            text = text.replace(f"def {constant.function}(", f"def {name}_{constant.function}(")
        self.prefix[id(program)] = name
        self.parts.append(text.replace("def run(", f"def {name}(").strip())
        words = {n.id for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Name)}
        for word in sorted(words):
            if word in _HELPERS:
                self.plain(_HELPERS[word])
            if word.startswith(ATEN) and word in program.namespace:
                self.aten.add(f"{word} = torch.ops.aten.{program.namespace[word].name}")
        return name

    def constants(self, program: Program) -> str:
        """The functions of constants as an argument."""
        name = self.prefix[id(program)]
        return "(" + "".join(f"{name}_{c.function}, " for c in program.constants) + ")"

    def plain(self, function: Callable[..., Any]) -> None:
        """A function of linrec's with everything of its own module that it needs."""
        name = function.__name__
        if name in self.helpers:
            return
        self.helpers[name] = ""  # its place, and a stop for what calls itself
        source = textwrap.dedent(inspect.getsource(function))
        space = vars(inspect.getmodule(function))
        for node in ast.walk(ast.parse(source)):
            word = node.id if isinstance(node, ast.Name) else ""
            if word not in space:
                continue
            value = inspect.unwrap(space[word]) if callable(space[word]) else space[word]
            ours = str(getattr(value, "__module__", "")).startswith("linrec.")
            if isinstance(value, ModuleType) and value.__name__.startswith("linrec."):
                self.numbers[word] = _LAYOUT if word == "layout" else _WITHOUT.format(word)
            elif ours and (isinstance(value, FunctionType) or (isinstance(value, type) and is_dataclass(value))):
                self.plain(value)
            elif isinstance(value, int | float | str | tuple | dict) and not ours:
                self.numbers[word] = f"{word} = {_literal(value)}"
        self.helpers[name] = source.strip()

    def function(self, signature: str, body: str) -> None:
        """One of the module's functions."""
        self.parts.append(f"def {signature}:\n{textwrap.indent(body, '    ')}")

    def weights(self, graph: Graph, count: int, values: Sequence[Any], compiled: Compiled, engine: Engine) -> list[str]:
        """How each captured tensor is read: from the state_dict, or as a literal."""
        keys = set(engine.module.state_dict()) if engine.module is not None else set()
        found = []
        for i, value in zip(graph.inputs[count:], values, strict=False):
            if i.path in keys:
                found.append(f"weights[{i.path!r}]")
                continue
            if isinstance(value, Tensor) and value.numel() > LARGEST_LITERAL:
                raise StateError(
                    "LR4007", f"{i.path or i.name} has {value.numel()} numbers and is not in the state_dict",
                    help="register it: self.register_buffer(name, tensor)",
                )  # fmt: skip
            name = f"LITERAL_{len(self.literals)}"
            self.literals.append(f"{name} = torch.tensor({value.tolist()!r}, dtype={value.dtype})")
            found.append(name)
        return found

    def whole(self) -> str:
        """The text: imports, helpers, programs, functions."""
        names = [*sorted(self.aten), *self.numbers.values(), *self.literals]
        body = "\n\n\n".join(["\n".join(names)] * bool(names) + [*self.helpers.values(), *self.parts]) + "\n"
        imports = [line for word, line in _IMPORTS.items() if re.search(rf"\b{word}\b", body)]
        return self.head + "from __future__ import annotations\n\n" + "\n".join(imports) + "\n\n" + body


# compiled kernels stay behind: their modules answer that nothing is fit for them
_WITHOUT = """class {}:
    is_safe = is_eager = staticmethod(lambda *tensors: False)"""


_LAYOUT = """class layout:
    loudest = staticmethod(lambda x: torch.linalg.vector_norm(x, math.inf, dim=(0, 2, 3)))"""


def _literal(value: Any) -> str:
    """A constant of a module as text."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_literal(k)}: {_literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, tuple):
        return "(" + "".join(f"{_literal(v)}, " for v in value) + ")"
    if isinstance(value, float) and not math.isfinite(value):
        return f"float({str(value)!r})"
    return f"torch.{value.__name__}" if isinstance(value, BuiltinFunctionType) else repr(value)


def filled(value: Any, shape: list[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A leaf of the state in full."""
    if isinstance(value, torch.Tensor):
        return value.to(dtype).expand(shape)
    return torch.full(shape, value, dtype=dtype, device=device)


def _sizes(program: Recurring, names: Sequence[str]) -> str:
    """Lines that bind the lengths which leaves have."""
    needed = {n for leaf in program.leaves for d in leaf.type.shape if isinstance(d, Size) for n in d.names}
    lines = ""
    for name, type_ in zip(names, program.types, strict=True):
        for axis, dim in enumerate(type_.shape):
            if isinstance(dim, Size) and str(dim) in needed:
                needed.discard(str(dim))
                lines += f"{dim} = {name}.shape[{axis}]\n"
    return lines


def _shape(shape: Sequence[Any]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"


def _word(name: str) -> str:
    return "".join(c if c.isalnum() or c == "_" else "_" for c in name)


def _nested(spec: Any, results: str) -> str:
    """An expression that nests results as the original does."""
    leaves = [f"{results}[{i}]" for i in range(spec.num_leaves)]
    tree = pytree.tree_unflatten([_Expression(text) for text in leaves], spec)
    return _expression(tree)


class _Expression(str):
    __slots__ = ()


def _expression(tree: Any) -> str:
    if isinstance(tree, _Expression):
        return str(tree)
    if isinstance(tree, Mapping):
        return "{" + ", ".join(f"{k!r}: {_expression(v)}" for k, v in tree.items()) + "}"
    if isinstance(tree, tuple):
        return "(" + "".join(f"{_expression(v)}, " for v in tree) + ")"
    if isinstance(tree, list):
        return "[" + ", ".join(map(_expression, tree)) + "]"
    return repr(tree)
