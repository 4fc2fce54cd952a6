"""Programs: what the grammar writes. Source text, how to draw its inputs, and what is true of it."""

from __future__ import annotations

import ast
import importlib.util
import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from programs import Drawn
from torch import Tensor, nn

_numbers = itertools.count()

HEADER = """\
import math
from collections import deque
from typing import NamedTuple
import torch
import torch.nn.functional as F
from torch import nn
"""


@dataclass(frozen=True)
class Generated:
    """One program.

    Attributes:
        source: the text of a module in which `program` is a function, or an `nn.Module` class built without arguments.
        inputs: how its arguments are drawn.
        linear: how many of its recurrences are linear at most; a running sum of outputs counts too.
        nonlinear: how many are not; zero means that the program must run in parallel form.
        smallest: the least number of steps it can run.
        traits: what the grammar chose, for counting.
    """

    source: str
    inputs: tuple[Drawn, ...]
    linear: int
    nonlinear: int
    smallest: int = 1
    traits: frozenset[str] = frozenset()

    def arguments(self, steps: int, batch: int) -> tuple[Tensor, ...]:
        """Arguments for a number of steps and a batch size; the same each time."""
        generator = torch.Generator().manual_seed(1000 * batch + steps)
        return tuple(d.draw(generator, steps, batch) for d in self.inputs)

    def load(self, folder: Path) -> Callable[[], Callable[..., Any]]:
        """Write the source to a file of its own and import it; gives what makes the program afresh."""
        path = folder / f"program_{next(_numbers)}.py"
        path.write_text(self.source)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        made = module.program

        def build() -> Callable[..., Any]:
            if not isinstance(made, type):
                return made  # type: ignore[no-any-return]
            with torch.random.fork_rng():
                torch.manual_seed(0)
                net: nn.Module = made()
            return net.double().eval()

        return build


def _member(line: str) -> str:
    """The name of the member that a line of a constructor makes."""
    found = re.search(r"register_buffer\('(\w+)'", line) or re.search(r"self\.(\w+)", line)
    assert found is not None
    return found[1]


@dataclass
class Writer:
    """A program being written: its arguments, parameters and globals."""

    is_module: bool
    time_major: bool
    has_batch: bool
    arguments: dict[str, Drawn] = field(default_factory=dict)
    constructor: list[str] = field(default_factory=list)
    globals: list[str] = field(default_factory=list)
    body: list[str] = field(default_factory=list)
    traits: set[str] = field(default_factory=set)
    linear: int = 0
    nonlinear: int = 0
    smallest: int = 1
    shared: dict[Any, str] = field(default_factory=dict)  # values that may be used again, by what they are
    _count: dict[str, int] = field(default_factory=dict)

    def name(self, stem: str) -> str:
        """A new name."""
        number = self._count.get(stem, 0)
        self._count[stem] = number + 1
        return f"{stem}{number or ''}"

    @property
    def time_axis(self) -> int:
        """Where time is in arguments that vary over time."""
        return 1 if self.has_batch and not self.time_major else 0

    def over_time(self, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """The shape of all steps of a value."""
        return (*shape[: self.time_axis], "T", *shape[self.time_axis :])

    def finish(self) -> Generated:
        """The program as written so far, without what it does not use."""
        text = "\n".join(self.body)

        def is_used(name: str) -> bool:
            return re.search(rf"(?<![\w.'])(self\.)?{name}\b", text) is not None

        arguments = {name: drawn for name, drawn in self.arguments.items() if is_used(name)}
        constructor = [line for line in self.constructor if is_used(_member(line))]
        names = ", ".join(["self", *arguments] if self.is_module else arguments)
        lines = [line for line in self.globals if not re.match(r"[A-Z]+\d* = ", line) or is_used(line.split(" ")[0])]
        if self.is_module:
            lines += ["class program(nn.Module):", "    def __init__(self):", "        super().__init__()"]
            lines += [f"        {line}" for line in constructor]
            lines += [f"    def forward({names}):", *(f"        {line}" for line in self.body)]
        else:
            lines += [f"def program({names}):", *(f"    {line}" for line in self.body)]
        text = HEADER + "\n\n" + ast.unparse(ast.parse("\n".join(lines))) + "\n"
        return Generated(
            text, tuple(arguments.values()), self.linear, self.nonlinear, self.smallest, frozenset(self.traits)
        )
