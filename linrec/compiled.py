"""One program, compiled: what it was captured from, what runs, and for which calls it holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from linrec.constants import Cached
from linrec.emit.source import Program
from linrec.frontends.loop import Capture
from linrec.ir import Graph, least_sizes
from linrec.reports import Report
from linrec.sizes import Dim, Size, evaluate
from linrec.transforms import is_wrapped


@dataclass
class Compiled:
    """One captured program and what it was made into."""

    captured: Capture
    graph: Graph  # after all passes
    program: Program
    constants: list[Cached]
    getters: list[Callable[[], Any]]
    metadata: list[tuple[Any, ...]]
    report: Report
    rejected: bool = False
    guards: list[tuple[Callable[[], Any], Tensor]] = field(default_factory=list)  # tensors read as Python numbers
    example: tuple[Any, Any] = ((), None)  # the leaves of the arguments, and how they are nested
    least: tuple[Dim, ...] = field(init=False)  # sizes that must not be negative: steps that are read singly exist
    expected: list[tuple[Any, ...]] = field(init=False)  # shapes of the arguments: numbers, names, other sizes
    writes: bool = field(init=False)  # are arguments written to?
    written: frozenset[int] = field(init=False)  # places of the tensors that the call writes to

    def __post_init__(self) -> None:
        graph = self.captured.graph
        picked = [op.args[1] for op in graph.ops if op.kind == "pick"]
        steps = (*(t.trip - 1 for t in graph.times), *(i for i in picked if isinstance(i, int | Size)))
        self.least = (*steps, *least_sizes(graph))
        self.writes = any(path.startswith("argument:") for path, _ in graph.effects)
        paths = {path for path, _ in graph.effects if path not in self.captured.assigned}
        self.written = frozenset(n for n, i in enumerate(graph.inputs) if i.path in paths or f"argument:{n}" in paths)
        self.expected = [tuple(map(_bare, i.type.shape)) for i in self.graph.inputs]

    def lengths(self, tensors: list[Tensor]) -> dict[str, int] | None:
        """The named lengths of a call, None if its shapes are not ones this program holds for."""
        lengths: dict[str, int] = {}
        late: list[tuple[Size, int]] = []
        for given, wanted in zip(tensors, self.expected, strict=False):
            shape = given.shape
            if len(shape) != len(wanted):
                return None
            for actual, dim in zip(shape, wanted, strict=True):
                if dim.__class__ is str:
                    if lengths.setdefault(dim, actual) != actual:
                        return None
                elif dim.__class__ is int:
                    if dim != actual:
                        return None
                else:
                    late.append((dim, actual))
        for dim, actual in late:
            if len(dim.names) == 1 and not dim.names <= lengths.keys():
                (name,) = dim.names
                lengths[name] = actual - dict(dim.terms).get((), 0)
            if not dim.names <= lengths.keys() or evaluate(dim, lengths) != actual:
                return None
        if any(n <= 1 for name, n in lengths.items() if name != "T"):
            return None  # a size of one broadcasts: it is another program
        if not self.captured.shortest <= lengths.get("T", self.captured.shortest) <= self.captured.longest:
            return None  # some branch does not run, or a list is cut
        if self.captured.remainder is not None and "T" in lengths:
            every, rest = self.captured.remainder
            if lengths["T"] % every != rest:
                return None
        return lengths

    def is_sound_for(self, tensors: list[Tensor], lengths: Mapping[str, int]) -> bool:
        """Are there more steps than the loop treats specially, and no arguments that are written to and overlap?"""
        if self.writes and _share_memory(tensors):
            return False
        return lengths.get("T", 2) > 1 and all(evaluate(n, lengths) >= 0 for n in self.least)

    def fits(self) -> bool:
        """Have the captured tensors the types they had, and those that were read as numbers the same numbers?"""
        return all(metadata_of(get()) == was for get, was in zip(self.getters, self.metadata, strict=True)) and all(
            torch.equal(get(), held) for get, held in self.guards
        )

    def run(self, tensors: list[Tensor]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Outputs and effects."""
        given = [*tensors, *(get() for get in self.getters)]
        if torch.is_grad_enabled():
            for n in self.written:  # what was there before the call is what its gradients are made of
                given[n] = given[n].clone()
        return self.program.run(self.constants, *given)  # type: ignore[no-any-return]


def _bare(dim: Dim) -> Dim | str:
    """A size that is one name is that name."""
    if isinstance(dim, Size) and dim.terms == (((next(iter(dim.names)),), 1),):
        return next(iter(dim.names))
    return dim


def _share_memory(tensors: list[Tensor]) -> bool:
    """Do two arguments share storage? A write to one would be a write to the other."""
    if len(tensors) == 1:
        return False
    places = [x.untyped_storage().data_ptr() for x in tensors if x.layout is torch.strided and not is_wrapped(x)]
    held = [p for p in places if p]
    return len(set(held)) < len(held)


def metadata_of(value: Any) -> tuple[Any, ...]:
    """What must stay the same of a captured value for a program to hold: of a tensor all but its numbers."""
    return (value.dtype, value.device, value.shape) if isinstance(value, Tensor) else (type(value),)
