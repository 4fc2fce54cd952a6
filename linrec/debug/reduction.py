"""Reduction: a smaller graph, fewer passes and shorter lengths with the same failure.

Greedy: a change is kept if the result is well formed and fails with the same code after the same pass. Changes, the
largest first: drop passes, outputs and effects; replace a value by a new input, so that all that made it goes; replace it
by another value of its type; read one step back instead of more; shrink sizes. Ends at a fixed point or when the
budget is spent; every change makes the graph strictly smaller.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import networkx as nx

from linrec.debug.draws import LENGTHS, Draw
from linrec.debug.run import passes_named
from linrec.debug.validation import Failure, validate
from linrec.errors import FAILURES, LinrecError
from linrec.ir import Arg, Graph, Input, Op, Type, Use, map_uses, order, specialized, uses_in, verify
from linrec.manager import Context, Hook
from linrec.reproducer import Reproducer, until
from linrec.sizes import Size, names_of


@dataclass(frozen=True)
class Reduction:
    """The smaller program, how it fails, and what it was before; `changes` is 0 where nothing could be left out."""

    reproducer: Reproducer
    failure: Failure
    ops: tuple[int, int]  # before, after
    steps: tuple[int, int]
    changes: int
    seconds: float

    def __str__(self) -> str:
        if not self.changes:
            return f"not reduced: {self.ops[0]} ops, every smaller program fails otherwise or not at all"
        length = f"T {self.steps[0]} -> {self.steps[1]}, " if self.steps[1] else ""
        return f"reduced: {length}ops {self.ops[0]} -> {self.ops[1]}, same failure {self.failure.code}"


def reduce(
    graph: Graph,
    passes: Sequence[str] | None = None,
    *,
    hooks: Sequence[Hook] = (),
    context: Context | None = None,
    steps: Sequence[int] = LENGTHS,
    budget: float = 120.0,
) -> Reduction | None:
    """Shrink a failing program for at most `budget` seconds; None if it does not fail."""
    names = [p.name for p in passes_named(passes)]
    search = _Search(hooks, Context() if context is None else context, time.monotonic() + budget)
    started = time.monotonic()
    failure = validate(graph, names, hooks=hooks, context=search.context.fresh(), steps=steps)
    if failure is None:
        return None
    search.aim(failure)
    before = _live(graph)
    smaller, kept = search.run(graph, list(until(names, failure.step)))
    draw = search.draw
    repro = Reproducer(
        smaller, tuple(kept), search.context.forms if isinstance(search.context.forms, str) else "auto",
        f"{failure.code} after {failure.step}", (draw.steps, draw.kind, draw.seed) if draw else None,
    )  # fmt: skip
    first = failure.draw.steps if failure.draw else 0
    last = draw.steps if draw else 0
    assert search.failure is not None
    return Reduction(
        repro, search.failure, (len(before.ops), len(smaller.ops)), (first, last), search.changes,
        time.monotonic() - started,
    )  # fmt: skip


class _Search:
    def __init__(self, hooks: Sequence[Hook], context: Context, deadline: float) -> None:
        self.hooks, self.context, self.deadline = hooks, context, deadline
        self.failure: Failure | None = None
        self.draw: Draw | None = None
        self.changes = 0

    def aim(self, failure: Failure) -> None:
        """The failure to keep."""
        self.failure, self.draw = failure, failure.draw

    def is_spent(self) -> bool:
        return time.monotonic() > self.deadline

    def fails(self, graph: Graph, passes: Sequence[str], draw: Draw | None = None) -> bool:
        """Is this the same failure, of a program that is right until then?"""
        assert self.failure is not None
        chosen = draw or self.draw
        try:
            verify(graph)
            found = validate(
                graph, passes, hooks=self.hooks, context=self.context.fresh(), chosen=[chosen] if chosen else []
            )  # fmt: skip
        except (LinrecError, *FAILURES):  # no program at all: not what we look for
            return False
        return found is not None and (found.code, found.step) == (self.failure.code, self.failure.step)

    def run(self, graph: Graph, passes: list[str]) -> tuple[Graph, list[str]]:
        passes = self.fewer_passes(graph, passes)
        changed = True
        while changed and not self.is_spent():
            changed = False
            self.shorter(graph, passes)
            tried = 0
            while not self.is_spent():
                # go on behind the last change: what failed before it rarely works after it
                candidates = list(_smaller(graph))
                for number, candidate in enumerate(candidates[tried:], tried):
                    if self.is_spent():
                        break
                    if _weight(candidate) < _weight(graph) and self.fails(candidate, passes):
                        graph, changed, tried = candidate, True, number
                        self.changes += 1
                        break
                else:
                    break
            passes = self.fewer_passes(graph, passes)
        return graph, passes

    def fewer_passes(self, graph: Graph, passes: list[str]) -> list[str]:
        for name in list(passes[:-1]):
            fewer = [p for p in passes if p != name]
            if not self.is_spent() and self.fails(graph, fewer):
                passes = fewer
        return passes

    def shorter(self, graph: Graph, passes: list[str]) -> None:
        """Fewer steps: the least that fail."""
        if self.draw is None:
            return
        low = 0
        while self.draw.steps - low > 1 and not self.is_spent():
            middle = replace(self.draw, steps=(low + self.draw.steps) // 2)
            if middle.steps > 0 and self.fails(graph, passes, middle):
                self.draw = middle
                self.changes += 1
            else:
                low = middle.steps


# ---- smaller graphs ----


def _weight(graph: Graph) -> tuple[int, ...]:
    """What must fall: ops, then outputs, inputs, reads, then sizes."""
    sizes = sum(_extent(i.type) for i in graph.inputs)
    reads = sum(1 + use.delay for op in graph.ops for use in op.all_uses())
    return len(graph.ops), len(graph.outputs) + len(graph.effects), len(graph.inputs), reads, sizes


def _extent(type_: Type) -> int:
    return sum(d if isinstance(d, int) else 100 for d in type_.shape) + len(type_.shape)


def _live(graph: Graph) -> Graph:
    """Without ops, inputs and time domains that no output needs, and without records."""
    edges = graph.edges()
    roots = graph.roots()
    live = roots.union(*(nx.ancestors(edges, r) for r in roots))
    ops = tuple(op for op in graph.ops if op.result in live)
    times = {op.time for op in ops}
    # lengths are read off the shapes of inputs
    needed = {n for op in ops for n in _lengths(op)} | {
        n for t in graph.times if t.name in times for n in names_of(t.trip)
    }
    inputs: list[Input] = []
    for i in sorted(graph.inputs, key=lambda i: i.name not in live):
        names = {n for d in i.type.shape for n in names_of(d)}
        if i.name in live or names & needed:
            inputs.append(i)
            needed -= names
    kept = tuple(i for i in graph.inputs if i in inputs)
    return replace(graph, inputs=kept, ops=ops, times=tuple(t for t in graph.times if t.name in times), recurrences=())


def _lengths(op: Op) -> Iterator[str]:
    def walk(arg: Arg) -> Iterator[str]:
        if isinstance(arg, Size):
            yield from arg.names
        elif isinstance(arg, tuple):
            for item in arg:
                yield from walk(item)

    for arg in (*op.args, *(a for _, a in op.attrs), *op.init):
        yield from walk(arg)


def _smaller(graph: Graph) -> Iterator[Graph]:
    """Graphs that may be smaller, the boldest first."""
    if graph.recurrences:
        yield _live(graph)
    yield from _fewer_outputs(graph)
    for op in reversed(graph.ops):
        yield from _cut(graph, op)
        yield from _replaced(graph, op)
    yield from _nearer(graph)
    yield from _narrower(graph)


def _fewer_outputs(graph: Graph) -> Iterator[Graph]:
    flat = tuple(Use(u.name) for u in uses_in(graph.outputs))
    if graph.effects:
        yield _live(replace(graph, effects=()))
    for use in flat if len(graph.outputs) > 1 or graph.outputs != flat else ():
        yield _live(replace(graph, outputs=(use,)))
    for op in reversed(graph.ops):  # return something earlier
        if op.time is None and isinstance(op.type, Type) and Use(op.result) not in graph.outputs:
            yield _live(replace(graph, outputs=(Use(op.result),), effects=()))


def _cut(graph: Graph, op: Op) -> Iterator[Graph]:
    """The value as a new input: all that made it goes."""
    if not isinstance(op.type, Type) or not any(True for _ in op.all_uses()):
        return
    given = f"{op.result}.given"
    if op.time is None:
        new = Op(op.result, "alias", (Use(given),), (), op.type)
        made = _reading(replace(graph, inputs=(*graph.inputs, Input(given, op.type))), op.result, Use(given))
        if op.result not in graph.roots():
            yield _live(made)
        else:
            yield _with(replace(graph, inputs=(*graph.inputs, Input(given, op.type))), new)
    elif op.kind != "signal":
        whole = Type(op.type.dtype, (graph.time(op.time).trip, *op.type.shape))
        new = replace(op, kind="signal", args=(Use(given), 0, 0, 1), attrs=())
        if not any(use.name == op.result and use.delay for o in graph.ops for use in o.uses()):
            new = replace(new, init=())
        yield _with(replace(graph, inputs=(*graph.inputs, Input(given, whole))), new)


def _replaced(graph: Graph, op: Op) -> Iterator[Graph]:
    """Another value of the same type and time in its place: those it reads first, then any."""
    types = {i.name: (i.type, None) for i in graph.inputs} | {o.result: (o.type, o.time) for o in graph.ops}
    mine = types[op.result]
    own = [u for u in op.uses() if types[u.name] == mine or (u.delay == 0 and types[u.name] == (op.type, None))]
    for use in dict.fromkeys(own):
        if use.name != op.result:
            yield _live(_reading(graph, op.result, use))
    for name, kind in types.items():
        if name != op.result and kind == mine and Use(name) not in own:
            yield _live(_reading(graph, op.result, Use(name)))


def _reading(graph: Graph, old: str, new: Use) -> Graph:
    time = next((o.time for o in graph.ops if o.result == new.name), None)

    def change(use: Use) -> Arg:
        if use.name != old:
            return use
        return Use(new.name, use.delay + new.delay if time is not None else 0)

    ops = tuple(op if op.result == old else op.map_uses(change) for op in graph.ops)
    outputs = tuple(map_uses(o, change) for o in graph.outputs)
    effects = tuple((path, Use(new.name) if u.name == old else u) for path, u in graph.effects)
    return _sorted(replace(graph, ops=ops, outputs=outputs, effects=effects))


def _with(graph: Graph, new: Op) -> Graph:
    ops = tuple(new if op.result == new.result else op for op in graph.ops)
    return _live(_sorted(replace(graph, ops=ops)))


def _sorted(graph: Graph) -> Graph:
    try:
        return replace(graph, ops=order(graph.ops))
    except LinrecError:  # a cycle: the candidate is refused when it is verified
        return graph


def _nearer(graph: Graph) -> Iterator[Graph]:
    """Delays of more than one become one."""
    for op in graph.ops:
        if any(u.delay > 1 for u in op.uses()):
            yield _with(graph, op.map_uses(lambda u: Use(u.name, min(u.delay, 1))))
    for op in graph.ops:
        read = max((u.delay for o in graph.ops for u in o.uses() if u.name == op.result), default=0)
        if len(op.init) > read:
            yield _with(graph, replace(op, init=op.init[:read]))


def _narrower(graph: Graph) -> Iterator[Graph]:
    """Sizes other than T become 1 or 2."""
    for name in sorted(graph.sizes() - {"T"}):
        for length in (1, 2):
            yield specialized(graph, {name: length})
    concrete = {d for i in graph.inputs for d in i.type.shape if isinstance(d, int)}
    for length in sorted((d for d in concrete if d > 1), reverse=True):
        for less in {1, 2, length // 2} - {length}:
            yield _resized(graph, length, less)


def _resized(graph: Graph, old: int, new: int) -> Graph:
    """Every axis of length `old` gets length `new`: in types, and in lists of sizes among arguments."""

    def fixed(type_: Type) -> Type:
        return replace(type_, shape=tuple(new if d == old else d for d in type_.shape))

    def listed(arg: Arg) -> Arg:
        if not isinstance(arg, tuple) or any(isinstance(a, Use) for a in arg):
            return arg
        return tuple(new if a == old and isinstance(a, int) and not isinstance(a, bool) else a for a in arg)

    def resized(op: Op) -> Op:
        types = tuple(map(fixed, op.type)) if isinstance(op.type, tuple) else op.type and fixed(op.type)
        return replace(op, type=types, args=tuple(map(listed, op.args)))

    inputs = tuple(replace(i, type=fixed(i.type)) for i in graph.inputs)
    return replace(graph, inputs=inputs, ops=tuple(map(resized, graph.ops)))
