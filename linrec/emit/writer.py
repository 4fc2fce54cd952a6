"""Writer: names, lines, literals and calls of an emitted function, and what is known of its values so far."""

from __future__ import annotations

import keyword
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F

from linrec.dtypes import LONG
from linrec.emit.batching import vmap
from linrec.emit.operators import KERNELS, Operator, carried, carried_list, shifted
from linrec.emit.spelling import ATEN, spelled
from linrec.ir import Arg, Atom, Graph, Op, Use
from linrec.sizes import Size


class Writer:
    """Text of one function in the making."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.by_name = graph.by_name()
        self.readers = graph.readers()
        self.lines: list[str] = []
        self.indent = 1
        self.names: dict[str, str] = {}
        self.axis: dict[str, int] = {}  # where the time axis of a materialised signal is
        self.lists: set[str] = set()  # signals that exist as lists of steps
        self.space: dict[str, Any] = {
            "torch": torch, "F": F, "vmap": vmap, "shifted": shifted, "carried": carried,
            "carried_list": carried_list, **KERNELS,
        }  # fmt: skip
        self.taken = set(self.space) | set(graph.sizes()) | {"constants", "range", "zip", "reversed"}

    def name(self, value: str) -> str:
        if value not in self.names:
            base = "".join(c if c.isalnum() or c == "_" else "_" for c in value)
            base = f"v{base}" if not base[:1].isalpha() or keyword.iskeyword(base) else base
            name, number = base, 1
            while name in self.taken:
                number += 1
                name = f"{base}_{number}"
            self.taken.add(name)
            self.names[value] = name
        return self.names[value]

    def line(self, text: str) -> None:
        self.lines.append("    " * self.indent + text)

    def tupled(self, items: Iterable[str]) -> str:
        listed = list(items)
        return "(" + ", ".join(listed) + ("," if len(listed) == 1 else "") + ")"

    def literal(self, arg: Arg) -> str:
        if isinstance(arg, Use):
            return self.value(arg)
        if isinstance(arg, tuple):
            return "[" + ", ".join(map(self.literal, arg)) + "]"
        if isinstance(arg, Atom):
            name = LONG.get(arg, str(arg))
            known = isinstance(getattr(torch, name, None), torch.dtype | torch.layout | torch.memory_format)
            return f"torch.{name}" if known else f"torch.device({name!r})"
        if isinstance(arg, Size):
            return str(arg)
        if isinstance(arg, float) and (arg != arg or arg in (float("inf"), float("-inf"))):
            return f'float("{arg}")'
        return repr(arg)

    def value(self, use: Use) -> str:
        return self.name(use.name)

    def call(self, op: Op, argument: Callable[[Arg], str] | None = None) -> str:
        write = argument or self.literal
        text = spelled(op, write)
        if text is not None:
            return text
        function = self.unique(f"{ATEN}{op.kind}")
        self.space[function] = Operator(op.kind)
        parts = [write(a) for a in op.args] + [f"{k}={write(a)}" for k, a in op.attrs]
        return f"{function}({', '.join(parts)})"

    def unique(self, base: str) -> str:
        number = 0
        while f"{base}_{number}" in self.taken:
            number += 1
        self.taken.add(f"{base}_{number}")
        return f"{base}_{number}"

    def signals(self, op: Op) -> list[Use]:
        """The signals that an op reads, each once."""
        return list(
            dict.fromkeys(u for u in op.uses() if u.name in self.by_name and self.by_name[u.name].time is not None)
        )
