"""Source: a graph as a Python function.

What is emitted is text, executed once, so that a run of the program is straight-line Python without an
interpreter's overhead, and can be read. Values that do not vary are variables; a signal is a tensor with a time
axis, ordered by position; maps run for all steps at once, directly where an operator does not care for one more
axis, under torch.func.vmap elsewhere; a recurrence left sequential is a for loop.

Values that depend on parameters and buffers alone and contain a kernel (an impulse response, say) are *constants*:
a function of their own, whose result is kept as long as its inputs stay as they are.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import networkx as nx
import torch

from linrec.draws import RANDOM
from linrec.emit.loops import Loops
from linrec.emit.operators import KERNELS
from linrec.ir import Arg, Graph, Op, Type, Use, uses_in
from linrec.sizes import Dim, Size, names_of

# what costs more to compute than to compare: order d^3, or d^2 log d
_DERIVED = frozenset(
    "matrix_exp linalg_matrix_exp linalg_matrix_power matrix_power matmul mm bmm einsum linalg_solve "
    "linalg_solve_triangular triangular_solve linalg_inv inverse linalg_cholesky cholesky linalg_qr linalg_eigh "
    "linalg_svd fft_rfft fft_irfft fft_fft fft_ifft tensordot kron".split()
)
_VIEWS = frozenset("reshape view expand permute transpose t numpy_T unsqueeze squeeze alias".split())


@dataclass(frozen=True)
class Constant:
    """A function of parameters and lengths whose result may be kept between calls."""

    function: str
    sources: tuple[str, ...]
    lengths: tuple[str, ...]
    results: tuple[str, ...]


@dataclass
class Program:
    """Emitted text, the function, and the constants it calls."""

    text: str
    run: Callable[..., Any]
    constants: list[Constant]
    namespace: dict[str, Any] = field(repr=False)


def emit(graph: Graph, frozen: Collection[str] = (), *, keep_derived: bool = False) -> Program:
    """The graph as a function of all its inputs in order, returning (outputs, effects).

    `frozen` are the inputs that change rarely and need no gradient: what depends on them alone is kept.
    `keep_derived` keeps products, factorisations and transforms of theirs too, not only what a kernel makes.
    """
    return _Emitter(graph, frozenset(frozen), keep_derived).program()


class _Emitter(Loops):
    def __init__(self, graph: Graph, frozen: frozenset[str], keep_derived: bool = False) -> None:
        super().__init__(graph)
        self.frozen = frozen
        self.costly = frozenset(KERNELS) | (_DERIVED if keep_derived else frozenset())
        self.functions: list[str] = []
        self.constants: list[Constant] = []
        self.drawn: dict[str, str] = {}  # a draw of random numbers, and that which comes before it

    def program(self) -> Program:
        arguments = [self.name(i.name) for i in self.graph.inputs]
        self.lengths()
        components = self.components()
        self.emit_constants()
        live = self.live()
        self.schedule([c for c in components if live & set(c)])
        outs = self.tupled(self.returned(o) for o in self.graph.outputs)
        effects = self.tupled(self.value(u) for _, u in self.graph.effects)
        self.line(f"return {outs}, {effects}")
        text = (
            "\n\n".join([*self.functions, f"def run(constants, {', '.join(arguments)}):\n" + "\n".join(self.lines)])
            + "\n"
        )
        exec(compile(text, f"<linrec {self.graph.name}>", "exec"), self.space)
        return Program(text, self.space["run"], self.constants, self.space)

    def lengths(self) -> None:
        """Bind each named length from the shape of an input."""
        bound: set[str] = set()
        for i in self.graph.inputs:
            for axis, dim in enumerate(i.type.shape):
                if isinstance(dim, Size) and len(dim.terms) <= 2 and len(dim.names) == 1:
                    (length,) = dim.names
                    factor = dict(dim.terms).get((length,), 0)
                    constant = dict(dim.terms).get((), 0)
                    if length not in bound and factor == 1:
                        bound.add(length)
                        self.taken.add(length)
                        self.line(
                            f"{length} = {self.name(i.name)}.shape[{axis}]" + (f" - {constant}" if constant else "")
                        )

    def emit_constants(self) -> None:
        """Split off what depends on frozen inputs alone and is worth keeping."""
        self.done: set[str] = {i.name for i in self.graph.inputs}
        fixed = self.frozen
        still: set[str] = set()
        for op in self.graph.ops:
            if (
                op.time is None
                and not op.leaves_time
                and op.kind not in RANDOM
                and all(u.name in fixed | still for u in op.uses())
            ):
                still.add(op.result)
        edges = self.graph.edges()
        heavy = {op.result for op in self.graph.ops if op.result in still and op.kind in self.costly}
        wanted = {
            n for n in still
            if (n in self.graph.roots() or any(r.result not in still for r in self.readers.get(n, [])))
            and (n in heavy or nx.ancestors(edges, n) & heavy or any(r.kind in KERNELS for r in self.readers.get(n, [])))
            and not self.is_view(n, edges)
        }  # fmt: skip
        groups: dict[tuple[str, ...], list[str]] = {}
        for n in sorted(wanted):
            sources = tuple(i.name for i in self.graph.inputs if i.name in nx.ancestors(edges, n))
            groups.setdefault(sources, []).append(n)
        for number, (sources, results) in enumerate(groups.items()):
            self.constant(number, sources, results, edges)

    def is_view(self, name: str, edges: nx.DiGraph[str]) -> bool:
        """Is a value an input seen in another shape? To look at it costs less than to compare it."""
        sources = nx.ancestors(edges, name) | {name}
        ops = [self.by_name[n] for n in sources if n in self.by_name]
        return len(ops) < len(sources) and all(op.kind in _VIEWS for op in ops)

    def constant(self, number: int, sources: tuple[str, ...], results: list[str], edges: nx.DiGraph[str]) -> None:
        needed = set(results).union(*(nx.ancestors(edges, r) for r in results))
        ops = [op for op in self.graph.ops if op.result in needed]
        lengths = tuple(sorted({n for op in ops for n in _names(op)}))
        outer, self.lines = self.lines, []
        for op in ops:
            self.line(f"{self.name(op.result)} = {self.call(op)}")
        self.line(f"return {self.tupled(map(self.name, results))}")
        arguments = ", ".join([*map(self.name, sources), *lengths])
        self.functions.append(f"def constant_{number}({arguments}):\n" + "\n".join(self.lines))
        self.lines = outer
        self.line(f"{self.tupled(map(self.name, results))} = constants[{number}]({arguments})")
        self.constants.append(Constant(f"constant_{number}", sources, lengths, tuple(results)))
        self.done |= set(results)

    def live(self) -> set[str]:
        """What is still to be computed once the constants are there."""
        found: set[str] = set()
        open_ = [*self.graph.roots(), *(op.result for op in self.graph.ops if op.kind in RANDOM)]
        while open_:
            name = open_.pop()
            if name not in found and name not in self.done and name in self.by_name:
                found.add(name)
                open_ += self.needs([name])
        return found

    def components(self) -> list[list[str]]:
        """Strongly connected components in an order in which they can run."""
        edges: nx.DiGraph[str] = nx.DiGraph()
        edges.add_nodes_from(op.result for op in self.graph.ops)
        for op in self.graph.ops:
            edges.add_edges_from((u.name, op.result) for u in op.all_uses() if u.name in self.by_name)
            for u in op.uses():  # a delayed read needs the inits of what it reads
                if u.delay and u.name in self.by_name:
                    edges.add_edges_from(
                        (i.name, op.result) for i in uses_in(self.by_name[u.name].init) if i.name in self.by_name
                    )
        # the parts of an op with several results belong to the loop that the op is in
        for component in list(nx.strongly_connected_components(edges)):
            if len(component) > 1:
                for reader in (r for n in component for r in self.readers.get(n, []) if r.kind == "getitem"):
                    edges.add_edges_from((reader.result, u.name) for u in reader.uses())
        self.order_draws(edges)
        place = {op.result: i for i, op in enumerate(self.graph.ops)}
        joined = nx.condensation(edges)
        first = {c: min(place[n] for n in joined.nodes[c]["members"]) for c in joined}
        order = nx.lexicographical_topological_sort(joined, key=first.__getitem__)
        return [sorted(joined.nodes[c]["members"], key=place.__getitem__) for c in order]

    def order_draws(self, edges: nx.DiGraph[str]) -> None:
        """Random numbers are drawn in the order of the program: those of one loop step by step, loop after loop."""
        turns: dict[str, list[str]] = {}
        for op in self.graph.ops:
            if op.kind in RANDOM:
                turns.setdefault(op.time or op.result, []).append(op.result)
        for names in turns.values():
            if len(names) > 1:
                edges.add_edges_from(zip(names, [*names[1:], names[0]], strict=True))
        for (before, *_), (after, *_) in itertools.pairwise(turns.values()):
            if not nx.has_path(edges, after, before):
                edges.add_edge(before, after)
                self.drawn[after] = before

    def schedule(self, components: list[list[str]]) -> None:
        """Run what is ready: single ops first, then all ready maps of one time domain together."""
        waiting = components
        while waiting:
            ready = [c for c in waiting if self.is_ready(c)]
            assert ready, "the condensation is acyclic"
            plain = [c for c in ready if not self.is_map(c) and not self.is_loop(c)]
            if plain:
                for c in plain:
                    self.single(self.by_name[c[0]])
                    self.done.add(c[0])
                ran = {n for c in plain for n in c}
            elif maps := [c for c in ready if self.is_map(c)]:
                ran = self.maps(maps, waiting)
            else:
                self.loop(ready[0])
                ran = set(ready[0])
            self.done |= ran
            waiting = [c for c in waiting if not set(c) <= self.done]

    def is_ready(self, component: list[str]) -> bool:
        mine = set(component)
        return all(n in self.done or n in mine for n in self.needs(component))

    def needs(self, component: list[str]) -> set[str]:
        found: set[str] = set()
        for name in component:
            op = self.by_name[name]
            found |= {u.name for u in op.all_uses()}
            if name in self.drawn:
                found.add(self.drawn[name])
            for u in op.uses():
                if u.delay and u.name in self.by_name:
                    found |= {i.name for i in uses_in(self.by_name[u.name].init)}
        return found

    def is_loop(self, component: list[str]) -> bool:
        name = component[0]
        return len(component) > 1 or any(u.name == name for u in self.by_name[name].uses())

    def is_map(self, component: list[str]) -> bool:
        op = self.by_name[component[0]]
        return not self.is_loop(component) and op.time is not None and op.kind != "signal"

    def single(self, op: Op) -> None:
        """An op outside time, or a conversion."""
        result = self.name(op.result)
        if op.kind == "signal":
            return self.signal(op)
        if op.leaves_time:
            self.line(f"{result} = {self.leave(op)}")
        else:
            self.line(f"{result} = {self.call(op)}")

    def signal(self, op: Op) -> None:
        source, axis, start, stride = op.args
        assert isinstance(source, Use) and isinstance(axis, int) and op.time is not None
        time = self.graph.time(op.time)
        type_ = self.by_name[source.name].type if source.name in self.by_name else None
        type_ = type_ or next((i.type for i in self.graph.inputs if i.name == source.name), None)
        text = self.name(source.name)
        whole = isinstance(type_, Type) and axis < len(type_.shape) and type_.shape[axis] == time.trip
        if not (start == 0 and stride == 1 and whole):
            if stride == 1:
                text = f"{text}.narrow({axis}, {self.literal(start)}, {time.trip})"
            else:
                assert isinstance(stride, int)
                first = start if stride > 0 else _plus(start, stride * _minus(time.trip, 1))
                last = _plus(first, abs(stride) * _minus(time.trip, 1))
                self.space["strided"] = torch.ops.aten.slice
                text = f"strided({text}, {axis}, {self.literal(first)}, {self.literal(_plus(last, 1))}, {abs(stride)})"
                if stride < 0:
                    text = f"{text}.flip({axis})"
        self.line(f"{self.name(op.result)} = {text}")
        self.axis[op.result] = axis

    def leave(self, op: Op) -> str:
        use = op.args[0]
        assert isinstance(use, Use)
        source = self.by_name[use.name]
        assert source.time is not None
        time = self.graph.time(source.time)
        backward = time.direction == "backward"
        name = self.name(use.name)
        if use.delay:
            self.shift(use)
            name, axis = self.name(f"{use.name}[-{use.delay}]"), self.axis[f"{use.name}[-{use.delay}]"]
        elif use.name in self.lists:
            return self.leave_list(op, name, backward, source)
        else:
            axis = self.axis[use.name]
        if op.kind == "stack":
            assert isinstance(op.args[1], int)
            text = name if axis == op.args[1] else f"{name}.movedim({axis}, {op.args[1]})"
            return f"{text}.contiguous()" if op.result in self.graph.roots() else text
        if op.kind == "carry":
            return f"carried({name}, {axis}, {op.args[1]}, {self.before(source)}, {backward})"
        index: Arg = _minus(time.trip, 1) if op.kind == "last" else op.args[1]
        if backward:
            index = _plus(_minus(time.trip, 1), _times(index, -1))
        return f"{name}.select({axis}, {self.literal(index)})"

    def leave_list(self, op: Op, name: str, backward: bool, source: Op) -> str:
        if op.kind == "stack":
            return f"torch.stack({name}{'[::-1]' if backward else ''}, {op.args[1]})"
        if op.kind == "carry":
            return f"carried_list({name}, {op.args[1]}, {self.before(source)})"
        return f"{name}[{'-1' if op.kind == 'last' else self.literal(op.args[1])}]"

    def returned(self, arg: Arg) -> str:
        return self.literal(arg)


def _names(op: Op) -> set[str]:
    found: set[str] = set()

    def walk(arg: Arg) -> None:
        if isinstance(arg, Size):
            found.update(names_of(arg))
        elif isinstance(arg, tuple):
            for item in arg:
                walk(item)

    for arg in (*op.args, *(a for _, a in op.attrs)):
        walk(arg)
    return found


def _dim(arg: Arg) -> Dim:
    assert isinstance(arg, int | Size)
    return arg


def _plus(a: Arg, b: Arg) -> Dim:
    return _dim(a) + _dim(b)


def _minus(a: Arg, b: int) -> Dim:
    return _dim(a) - b


def _times(a: Arg, b: int) -> Dim:
    return _dim(a) * b
