"""The pass manager: a pass is a frozen value that maps a graph to a graph.

Passes live one to a file in `linrec.passes`; each says which it comes `after`, and the order is a
topological sort (`linrec.passes.default_pipeline`), so adding a pass edits no list. After each pass the graph is verified. Everything
that watches a pipeline (printing, timing, bisecting) is a hook called around each pass.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from linrec.ir import Graph, verify

RemarkKind = Literal["passed", "missed", "analysis", "failed"]


@dataclass(frozen=True)
class Remark:
    """What a pass says it did or could not do, about one value or recurrence."""

    kind: RemarkKind
    where: str
    message: str
    by: str = ""


@dataclass
class Context:
    """What passes may ask and where they say what they found.

    `lengths` are the named sizes of the call at hand, for costs; `frozen` the inputs whose values do not
    change from call to call; `forms` overrides the choice of forms, for all or by recurrence.
    """

    lengths: Mapping[str, int] = field(default_factory=dict)
    frozen: frozenset[str] = frozenset()
    forms: str | Mapping[str, str] = "auto"
    costs: dict[str, Sequence[Any]] = field(default_factory=dict)
    sizes: dict[str, Mapping[str, int]] = field(default_factory=dict)
    machine: Any = None  # rates for the cost model, the shipped ones if None
    superposition: Callable[[Graph, Any], float] | None = None
    remarks: list[Remark] = field(default_factory=list)
    by: str = ""

    def remark(self, kind: RemarkKind, where: str, message: str) -> None:
        """Say what was done or not done."""
        self.remarks.append(Remark(kind, where, message, self.by))


@dataclass(frozen=True)
class Pass(ABC):
    """A rewrite or an analysis of graphs; nothing to do returns the same graph."""

    name: ClassVar[str]
    after: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def run(self, graph: Graph, context: Context) -> Graph:
        """The graph after this pass, well formed if `graph` is."""


Hook = Callable[[Pass, Graph, Graph, float], None]


@dataclass(frozen=True)
class Pipeline:
    """Passes in order; `hooks` see each of them."""

    passes: Sequence[Pass]
    hooks: Sequence[Hook] = ()

    def run(self, graph: Graph, context: Context) -> Graph:
        """Run every pass; a pass that breaks the graph is named in the error."""
        for index, step in enumerate(self.passes, 1):
            context.by = step.name
            started = time.perf_counter()
            try:
                new = step.run(graph, context)
                verify(new)
            except Exception as error:
                error.add_note(f"after pass {index} '{step.name}'")
                raise
            for hook in self.hooks:
                hook(step, graph, new, time.perf_counter() - started)
            graph = new
        return graph
