"""The pass manager: a pass is a frozen value that maps a graph to a graph.

Passes live one to a file in `linrec.passes`; each says which it comes `after`, and the order is a
topological sort (`linrec.passes.default_pipeline`), so adding a pass edits no list. After each pass the graph is
verified. Everything that watches a pipeline (printing, timing, verifying, bisecting) is a `Hook`; `watching` sets
hooks for every pipeline that runs in its context, those inside `linrec.compile` too.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import networkx as nx

from linrec.errors import FAILURES, LinrecError
from linrec.ir import Graph, verify

RemarkKind = Literal["passed", "missed", "analysis", "failed"]
# what a pass may raise: linrec's own errors, those of a graph algorithm, those of a computation, a search without a find
BROKEN = (LinrecError, nx.NetworkXException, *FAILURES, StopIteration)


@dataclass(frozen=True)
class Remark:
    """What a pass says it did or could not do, about one value or recurrence."""

    kind: RemarkKind
    where: str
    message: str
    by: str = ""


@dataclass(frozen=True)
class Rewrite:
    """One change of a graph: the how many-th of its pipeline, by which pass, of which value or recurrence."""

    number: int
    by: str
    where: str

    def __str__(self) -> str:
        return f"({self.number}) {self.by} on {self.where}"


@dataclass
class Context:
    """What passes may ask and where they say what they found.

    `lengths` are the named sizes of the call at hand, for costs; `frozen` the inputs whose values do not
    change from call to call; `gradients` says whether a backward pass follows, for costs, and `differentiable` whether
    anybody may take a derivative at all; `forms` overrides the choice of forms, for all or by recurrence.
    """

    lengths: Mapping[str, int] = field(default_factory=dict)
    frozen: frozenset[str] = frozenset()
    forms: str | Mapping[str, str] = "auto"
    costs: dict[str, Sequence[Any]] = field(default_factory=dict)
    gradients: bool = True
    differentiable: bool = True
    machine: Any = None  # rates for the cost model, the shipped ones if None
    superposition: Callable[[Graph, Any], float] | None = None
    remarks: list[Remark] = field(default_factory=list)
    rewrites: list[Rewrite] = field(default_factory=list)
    hooks: Sequence[Hook] = ()
    by: str = ""

    def fresh(self) -> Context:
        """The same question, with nothing found yet."""
        return Context(
            self.lengths, self.frozen, self.forms, gradients=self.gradients, differentiable=self.differentiable,
            machine=self.machine, superposition=self.superposition,
        )  # fmt: skip

    def remark(self, kind: RemarkKind, where: str, message: str) -> None:
        """Say what was done or not done."""
        self.remarks.append(Remark(kind, where, message, self.by))

    def allows(self, where: str) -> bool:
        """May the pass change `where` now? Asked once before each rewrite, and counted."""
        rewrite = Rewrite(len(self.rewrites) + 1, self.by, where)
        self.rewrites.append(rewrite)
        return all([hook.allows(rewrite) for hook in self.hooks])


@dataclass(frozen=True)
class Pass(ABC):
    """A rewrite or an analysis of graphs; nothing to do returns the same graph.

    A pass asks `context.allows` before each of its rewrites; one that never asks counts as one rewrite. A pass
    `reassociates` if it may add in another order: its results are then compared up to rounding, not bit by bit.
    """

    name: ClassVar[str]
    after: ClassVar[tuple[str, ...]] = ()
    reassociates: ClassVar[bool] = False

    @abstractmethod
    def run(self, graph: Graph, context: Context) -> Graph:
        """The graph after this pass, well formed if `graph` is."""


class Hook:
    """Watches pipelines. Every method does nothing unless overridden; hooks are called in their order."""

    def before(self, step: Pass, graph: Graph, context: Context) -> None:
        """`step` is about to run on `graph`."""

    def allows(self, rewrite: Rewrite) -> bool:
        """May this rewrite be done?"""
        return True

    def made(self, step: Pass, old: Graph, new: Graph, context: Context) -> Graph:
        """The graph to go on with, `new` unless this hook stands in for another pass (a seeded bug, say)."""
        return new

    def after(self, step: Pass, old: Graph, new: Graph, context: Context, seconds: float) -> None:
        """`step` made `new`, which is well formed, out of `old`."""

    def failed(self, step: Pass, graph: Graph, context: Context, error: Exception) -> None:
        """`step`, or a hook behind it, raised `error` on `graph`."""


class Stages(Hook):
    """Keeps the graph after each pass, by the pass's name."""

    def __init__(self) -> None:
        self.graphs: dict[str, Graph] = {}

    def after(self, step: Pass, old: Graph, new: Graph, context: Context, seconds: float) -> None:
        """One more stage."""
        self.graphs[step.name] = new


_watching: ContextVar[tuple[Hook, ...]] = ContextVar("linrec_hooks", default=())


@contextmanager
def watching(*hooks: Hook) -> Iterator[None]:
    """Let `hooks` watch every pipeline that runs in this context."""
    token = _watching.set((*_watching.get(), *hooks))
    try:
        yield
    finally:
        _watching.reset(token)


@dataclass(frozen=True)
class Pipeline:
    """Passes in order; `hooks` see each of them."""

    passes: Sequence[Pass]
    hooks: Sequence[Hook] = ()

    def run(self, graph: Graph, context: Context) -> Graph:
        """Run every pass; a pass that breaks the graph is named in the error."""
        context.hooks = (*_watching.get(), *self.hooks)
        for index, step in enumerate(self.passes, 1):
            context.by = step.name
            try:
                graph = self._step(step, graph, context)
            except BROKEN as error:
                error.add_note(f"after pass {index} '{step.name}'")
                for hook in context.hooks:
                    hook.failed(step, graph, context, error)
                raise
        return graph

    def _step(self, step: Pass, graph: Graph, context: Context) -> Graph:
        for hook in context.hooks:
            hook.before(step, graph, context)
        counted, started = len(context.rewrites), time.perf_counter()
        new = step.run(graph, context)
        if new != graph and len(context.rewrites) == counted and not context.allows(graph.name):
            new = graph
        for hook in context.hooks:
            new = hook.made(step, graph, new, context)
        verify(new)
        seconds = time.perf_counter() - started
        for hook in context.hooks:
            hook.after(step, graph, new, context, seconds)
        return new
