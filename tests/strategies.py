"""Strategies: well-formed graphs that hold everything the graph language can say.

`graphs()` draws graphs that `linrec.ir.verify` accepts: several time domains, delayed reads of
earlier and later values, cycles with the recurrences they make, every kind of argument. Their ops
bear made-up kinds: they test what reads, writes and rewrites graphs, not what computes them.
"""

from __future__ import annotations

from dataclasses import replace

import networkx as nx
from hypothesis import strategies as st

from linrec.ir import Arg, Atom, Direction, Graph, Input, Kind, Op, Recurrence, Role, Source, Time, Type, Use, verify
from linrec.sizes import Dim, size

LENGTHS = ("B", "T", "D", "s0", "x.y")
KINDS = ("add", "mul", "tanh", "where", "aten.index_put", "getitem", "my kind")


@st.composite
def dims(draw: st.DrawFn) -> Dim:
    """An int, or a polynomial in a few lengths."""
    total: Dim = draw(st.integers(-3, 1000))
    for _ in range(draw(st.integers(0, 3))):
        term: Dim = draw(st.integers(-4, 4))
        for name in draw(st.lists(st.sampled_from(LENGTHS), max_size=3)):
            term = size(name) * term
        total = total + term
    return total


def words() -> st.SearchStrategy[str]:
    """Names as users give them, and a few that need quotes."""
    odd = st.sampled_from(
        ["<lambda>", "", "a b", 'say "x"', "naïve", "1", "states", "none", "a:b", "//", "back\\slash"]
    )
    return st.from_regex(r"[a-z_][a-z0-9_.]{0,6}", fullmatch=True) | odd


def types() -> st.SearchStrategy[Type]:
    """Element types with shapes."""
    shapes = st.lists(dims(), max_size=3).map(tuple)
    return st.builds(Type, st.sampled_from(["f32", "f64", "i64", "bool", "c64"]), shapes)


def constants() -> st.SearchStrategy[Arg]:
    """Everything an argument may be, apart from reads and tuples; no nan, which equals nothing."""
    atoms = st.sampled_from(["float32", "cuda:0", "torch.strided", "a b", "", "]"]).map(Atom)
    numbers = st.integers(-(10**99), 10**99) | st.floats(allow_nan=False) | st.complex_numbers(allow_nan=False)
    return numbers | dims() | atoms | st.text(max_size=8) | st.booleans() | st.none()


def arguments(reads: list[Use]) -> st.SearchStrategy[Arg]:
    """Constants and reads, in tuples of tuples."""
    leaves = constants() | st.sampled_from(reads) if reads else constants()
    return st.recursive(leaves, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=5)


def sources() -> st.SearchStrategy[Source | None]:
    """Places in users' files."""
    files = st.sampled_from(["/home/me/net.py", "C:\\a b\\net.py", "<stdin>", "a:3", "net.py:", ' "', "", "x\ny"])
    places = st.builds(Source, files, st.integers(0, 10**6))
    exact = st.builds(Source, files, st.integers(0, 10**6), st.integers(1, 99), st.integers(0, 99))
    return st.none() | places | exact


@st.composite
def _ops(draw: st.DrawFn, inputs: list[str], times: list[str]) -> list[Op]:
    names = [f"v{i}" for i in range(draw(st.integers(1, 9)))]
    names[0] = draw(st.sampled_from(["v0", "a.b", "odd name", "0"]))
    domain = {name: draw(st.sampled_from([None, *times])) for name in names}
    order = {name: draw(st.integers(0, 2)) if domain[name] is not None else 0 for name in names}
    ops: list[Op] = []
    for place, name in enumerate(names):
        still = [*inputs, *(n for n in names[:place] if domain[n] is None)]
        moving = [n for n in names[:place] if domain[n] is not None]
        time = domain[name]
        kind, attrs, args = draw(st.sampled_from(KINDS)), dict[str, Arg](), tuple[Arg, ...]()
        if time is None and moving and draw(st.booleans()):
            kind, args = draw(st.sampled_from(["stack", "last", "pick"])), (Use(draw(st.sampled_from(moving))),)
            args += () if kind == "last" else (draw(st.integers(0, 3)),)
        elif time is not None and still and draw(st.integers(0, 3)) == 0:
            kind, args = "signal", (Use(draw(st.sampled_from(still))), 1, draw(dims()), draw(st.integers(1, 2)))
        else:
            reads = [Use(n) for n in still]
            if time is not None:
                reads += [Use(n) for n in moving if domain[n] == time]
                late = [Use(n, d) for n in names if domain[n] == time for d in range(1, order[n] + 1)]
                reads += late * 3
            args = tuple(draw(st.lists(arguments(reads), max_size=3)))
            attrs = draw(st.dictionaries(words(), arguments(reads), max_size=2))
        init = tuple(draw(arguments([Use(n) for n in still])) for _ in range(order[name]))
        made = draw(st.none() | types() | st.lists(types(), max_size=2).map(tuple))
        ops.append(Op(name, kind, args, tuple(attrs.items()), made, time, init, draw(sources())))
    return ops


@st.composite
def _recurrences(draw: st.DrawFn, graph: Graph) -> tuple[Recurrence, ...]:
    found: list[Recurrence] = []
    edges = graph.edges()
    by_name = graph.by_name()
    for names in nx.strongly_connected_components(edges):
        members = tuple(op.result for op in graph.ops if op.result in names)
        time = by_name[members[0]].time if members else None
        if time is None or not any(edges.has_edge(n, n) or len(names) > 1 for n in names):
            continue
        read = {use.name for n in members for use in by_name[n].uses() if use.delay}
        texts = st.text(max_size=6)
        kinds: st.SearchStrategy[Kind] = st.sampled_from(["unknown", "lti", "ltv", "nonlinear"])
        known = Recurrence(
            draw(words()),
            time,
            tuple(n for n in members if n in read),
            members,
            outputs=draw(st.sampled_from([(), members])),
            kind=draw(kinds),
            semiring=draw(st.sampled_from(["sum-product", "max-plus"])),
            structure=draw(texts),
            form=draw(texts),
            code=draw(texts),
            culprit=draw(st.sampled_from(["", *members])),
            reason=draw(texts),
            help=draw(texts),
            notes=tuple(draw(st.lists(texts, max_size=2))),
        )
        found.append(known)
    return tuple(found)


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """A graph that keeps the laws of linrec.ir."""
    roles: st.SearchStrategy[Role] = st.sampled_from(["input", "param", "buffer", "captured"])
    inputs = tuple(
        Input(f"x{i}", draw(types()), draw(roles), draw(st.text(max_size=6))) for i in range(draw(st.integers(0, 3)))
    )
    directions: st.SearchStrategy[Direction] = st.sampled_from(["forward", "backward"])
    times = tuple(Time(n, draw(dims()), draw(directions)) for n in draw(st.lists(words(), max_size=3, unique=True)))
    ops = draw(_ops([i.name for i in inputs], [t.name for t in times]))
    still = [Use(i.name) for i in inputs] + [Use(op.result) for op in ops if op.time is None]
    effects: tuple[tuple[str, Use], ...] = ()
    if still:
        effects = tuple(draw(st.lists(st.tuples(st.text(max_size=4), st.sampled_from(still)), max_size=2)))
    outputs = tuple(draw(st.lists(arguments(still), max_size=3)))
    graph = Graph(draw(words()), inputs, times, tuple(ops), outputs, effects)
    graph = replace(graph, recurrences=draw(_recurrences(graph)))
    verify(graph)
    return graph
