"""The graph: static single assignment over signals, where every read carries a delay.

A *value* is made by one op. It either does not vary (`time is None`) or varies over one time
domain: it is a *signal* and has one tensor for each step k = 0 .. trip-1. The read `%h[-2]` at step
k is `%h` at step k - 2; before step 0 a signal has the values of its `init`. A recurrence is
literally a cycle of reads, and a cycle needs a delay.

Tensors and signals meet in five ops only:
    signal(x, axis, start, stride)   step at position p reads x at start + stride*p along axis
    stack(h, axis)                   the tensor of all steps, by position, along a new axis
    last(h)                          the value of the last step run
    pick(h, index)                   the value at step `index`, counted from the first step run
    carry(h, delay)                  what step `trip` would read as h[-delay]: the state to go on from
A *forward* domain visits positions 0 .. trip-1, a *backward* one trip-1 .. 0. Every other op is
what torch's operator of that name computes, step by step.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import networkx as nx

from linrec.draws import RANDOM
from linrec.errors import VerifyError
from linrec.sizes import Dim, Size, names_of, substitute

Direction = Literal["forward", "backward"]
Kind = Literal["unknown", "lti", "ltv", "nonlinear"]
Role = Literal["input", "param", "buffer", "captured"]


class Atom(str):
    """A name of torch's that is no number: a dtype, a device, a memory format."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"!{self}"


@dataclass(frozen=True)
class Use:
    """A read of `name`, `delay` steps back."""

    name: str
    delay: int = 0


Arg = Use | Size | Atom | str | int | float | complex | bool | None | tuple["Arg", ...]


@dataclass(frozen=True)
class Type:
    """A tensor's element type and shape, without the time axis for a signal."""

    dtype: str
    shape: tuple[Dim, ...]

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Source:
    """Where the user wrote it: file and line, and the columns of the expression where known."""

    file: str
    line: int
    start: int = 0
    end: int = 0

    def __str__(self) -> str:
        return f"{self.file.rpartition('/')[2]}:{self.line}"


@dataclass(frozen=True)
class Input:
    """A tensor that comes from outside; `path` says where a param, buffer or captured tensor lives."""

    name: str
    type: Type
    role: Role = "input"
    path: str = ""


@dataclass(frozen=True)
class Time:
    """A time domain: how many steps, and in which direction positions are visited."""

    name: str
    trip: Dim
    direction: Direction = "forward"


@dataclass(frozen=True)
class Op:
    """One operation; `init[j]` is the value of its result j+1 steps before the first."""

    result: str
    kind: str
    args: tuple[Arg, ...] = ()
    attrs: tuple[tuple[str, Arg], ...] = ()
    type: Type | tuple[Type, ...] | None = None
    time: str | None = None
    init: tuple[Arg, ...] = ()
    source: Source | None = field(default=None, compare=False)

    def uses(self) -> Iterator[Use]:
        """Every read among arguments and attributes; `init` apart."""
        yield from uses_in(self.args)
        for _, value in self.attrs:
            yield from uses_in(value)

    def all_uses(self) -> Iterator[Use]:
        """Every read, those of `init` too."""
        yield from self.uses()
        yield from uses_in(self.init)

    @property
    def leaves_time(self) -> bool:
        """Does this op turn a signal into a tensor? torch's own `stack` has a list as argument."""
        return self.kind in ("last", "pick", "carry") or (self.kind == "stack" and isinstance(self.args[0], Use))

    def map_uses(self, change: Callable[[Use], Arg]) -> Op:
        """The same op with every read replaced."""
        return replace(
            self,
            args=tuple(map_uses(a, change) for a in self.args),
            attrs=tuple((k, map_uses(a, change)) for k, a in self.attrs),
            init=tuple(map_uses(a, change) for a in self.init),
        )


@dataclass(frozen=True)
class Recurrence:
    """What is known of one strongly connected component: filled in by one pass after another.

    `members` are its ops and those folded into it; `outputs` the members that the rest reads.
    """

    name: str
    time: str
    states: tuple[str, ...]
    members: tuple[str, ...]
    outputs: tuple[str, ...] = ()
    kind: Kind = "unknown"
    semiring: str = "sum-product"
    structure: str = ""
    form: str = ""
    code: str = ""
    culprit: str = ""
    reason: str = ""
    help: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Graph:
    """A program: inputs, time domains, ops in an order in which delay-0 reads come after their op."""

    name: str
    inputs: tuple[Input, ...]
    times: tuple[Time, ...]
    ops: tuple[Op, ...]
    outputs: tuple[Arg, ...]
    effects: tuple[tuple[str, Use], ...] = ()
    recurrences: tuple[Recurrence, ...] = ()

    def op(self, name: str) -> Op:
        """The op that makes `name`; KeyError if an input does."""
        return self.by_name()[name]

    def by_name(self) -> dict[str, Op]:
        """Ops by result."""
        return {op.result: op for op in self.ops}

    def time(self, name: str) -> Time:
        """The time domain of that name."""
        return next(t for t in self.times if t.name == name)

    def roots(self) -> set[str]:
        """Values that outputs and effects read."""
        return {u.name for u in uses_in(self.outputs)} | {u.name for _, u in self.effects}

    def edges(self) -> nx.DiGraph[str]:
        """Value -> reader, at any delay; an `init` is read by the op that declares it."""
        edges: nx.DiGraph[str] = nx.DiGraph()
        edges.add_nodes_from(i.name for i in self.inputs)
        edges.add_nodes_from(op.result for op in self.ops)
        edges.add_edges_from((use.name, op.result) for op in self.ops for use in op.all_uses())
        return edges

    def readers(self) -> dict[str, list[Op]]:
        """Ops that read each value, at any delay."""
        found: dict[str, list[Op]] = {}
        for op in self.ops:
            for name in dict.fromkeys(use.name for use in op.all_uses()):
                found.setdefault(name, []).append(op)
        return found

    def sizes(self) -> frozenset[str]:
        """The named lengths of the program: those of its inputs."""
        return frozenset(n for i in self.inputs for dim in i.type.shape for n in names_of(dim))


def uses_in(arg: Arg) -> Iterator[Use]:
    """Every read inside an argument."""
    if isinstance(arg, Use):
        yield arg
    elif isinstance(arg, tuple):
        for item in arg:
            yield from uses_in(item)


def map_uses(arg: Arg, change: Callable[[Use], Arg]) -> Arg:
    """The argument with every read replaced."""
    if isinstance(arg, Use):
        return change(arg)
    if isinstance(arg, tuple):
        return tuple(map_uses(item, change) for item in arg)
    return arg


def rename(graph: Graph, names: Mapping[str, str]) -> Graph:
    """Read `names[v]` wherever `v` was read; ops keep their results."""

    def change(use: Use) -> Use:
        return Use(names.get(use.name, use.name), use.delay)

    return replace(
        graph,
        ops=tuple(op.map_uses(change) for op in graph.ops),
        outputs=tuple(map_uses(o, change) for o in graph.outputs),
        effects=tuple((path, change(use)) for path, use in graph.effects),
    )


def specialized(graph: Graph, lengths: Mapping[str, int]) -> Graph:
    """The graph for calls in which some named lengths have these values."""

    def fixed_arg(arg: Arg) -> Arg:
        if isinstance(arg, tuple):
            return tuple(map(fixed_arg, arg))
        return substitute(arg, lengths) if isinstance(arg, Size) else arg

    def fixed(type_: Type) -> Type:
        return replace(type_, shape=tuple(substitute(d, lengths) for d in type_.shape))

    def fixed_op(op: Op) -> Op:
        types = tuple(map(fixed, op.type)) if isinstance(op.type, tuple) else op.type and fixed(op.type)
        attrs = tuple((key, fixed_arg(a)) for key, a in op.attrs)
        return replace(op, args=tuple(map(fixed_arg, op.args)), attrs=attrs, type=types)

    return replace(
        graph,
        inputs=tuple(replace(i, type=fixed(i.type)) for i in graph.inputs),
        times=tuple(replace(t, trip=substitute(t.trip, lengths)) for t in graph.times),
        ops=tuple(map(fixed_op, graph.ops)),
    )


def least_sizes(graph: Graph) -> set[Size]:
    """Sizes of values that would be negative where there are too few steps: T - 4 where four stand apart."""
    shapes = (t.shape for op in graph.ops for t in (op.type if isinstance(op.type, tuple) else (op.type,)) if t)
    return {d for shape in shapes for d in shape if isinstance(d, Size) and any(n < 0 for _, n in d.terms)}


def order(ops: tuple[Op, ...]) -> tuple[Op, ...]:
    """Ops so that every read without delay, and every `init`, comes after its op; stable.

    Raises VerifyError for a cycle without delay.
    """
    by_name = {op.result: op for op in ops}
    before: nx.DiGraph[str] = nx.DiGraph()
    before.add_nodes_from(by_name)
    for op in ops:
        for use in op.uses():
            if use.delay == 0 and use.name in by_name:
                before.add_edge(use.name, op.result)
        for use in uses_in(op.init):
            if use.name in by_name:
                before.add_edge(use.name, op.result)
    for one, other in itertools.pairwise(op.result for op in ops if op.kind in RANDOM):
        if not nx.has_path(before, other, one):  # random numbers are drawn in the order of the program
            before.add_edge(one, other)
    place = {op.result: i for i, op in enumerate(ops)}
    try:
        names = list(nx.lexicographical_topological_sort(before, key=place.__getitem__))
    except nx.NetworkXUnfeasible:
        cycle = " -> ".join(a for a, _ in nx.find_cycle(before))
        raise VerifyError(
            "LR6101", f"cycle without delay: {cycle}", help="write %h[-1] to read the previous step"
        ) from None
    return tuple(by_name[name] for name in names)


def verify(graph: Graph) -> None:
    """Raise VerifyError unless the graph keeps the laws stated at the top of this file."""
    inputs = {i.name for i in graph.inputs}
    times = {t.name for t in graph.times}
    by_name = graph.by_name()
    if len(by_name) != len(graph.ops) or inputs & by_name.keys():
        raise VerifyError("LR6102", "a value is defined twice", help="give each result its own name")
    for op in graph.ops:
        if op.time is not None and op.time not in times:
            raise VerifyError("LR6103", f"%{op.result}: no time domain '{op.time}'", help="declare it with `time`")
        for use in op.all_uses():
            if use.name not in by_name and use.name not in inputs:
                raise VerifyError("LR6104", f"%{op.result} reads %{use.name}, which nothing defines", help="define it")
        for use in op.uses():
            _verify_read(op, use, by_name)
    order(graph.ops)
    for use in (*uses_in(graph.outputs), *(u for _, u in graph.effects)):
        if use.name not in by_name and use.name not in inputs:
            raise VerifyError("LR6104", f"return reads %{use.name}, which nothing defines", help="define it")
        if use.name in by_name and by_name[use.name].time is not None:
            raise VerifyError(
                "LR6105", f"return reads the signal %{use.name}", help="convert it with stack, last or pick"
            )


def _verify_read(op: Op, use: Use, by_name: Mapping[str, Op]) -> None:
    read = by_name.get(use.name)
    time = read.time if read is not None else None
    leaves = op.leaves_time
    if leaves and time is None:
        raise VerifyError(
            "LR6106", f"%{op.result}: {op.kind} needs a signal, %{use.name} does not vary", help="drop it"
        )
    if not leaves and time is not None and time != op.time:
        raise VerifyError(
            "LR6107",
            f"%{op.result} reads %{use.name} of another time domain",
            help="go through a tensor: stack and signal",
        )
    if use.delay < 0:
        raise VerifyError("LR6108", f"%{op.result} reads %{use.name} in the future", help="delays are written [-1]")
    if use.delay and (read is None or time is None or len(read.init) < use.delay):
        raise VerifyError(
            "LR6109",
            f"%{use.name}[-{use.delay}] has no value before the first step",
            help=f"give %{use.name} an init(...) of {use.delay} values",
        )
